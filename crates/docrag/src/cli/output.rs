//! The one writer to standard output, columns that line up, and the reasons to stop.
//!
//! A reader that has seen enough (`| head -1`) closes the pipe. That is no error and must not end in a panic, which is
//! why nothing here uses `println!`.

use crate::embed::EmbedError;
use crate::service::ServiceError;
use crate::settings::SettingsError;
use crate::store::StoreError;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, BufWriter, ErrorKind, Stdout, Write};
use std::time::Duration;

pub(super) struct Out {
    writer: BufWriter<Stdout>,
}

/// Why a verb ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The other end of the pipe is closed.
    ReaderGone,
    Said {
        message: String,
        exit: u8,
    },
}

impl Out {
    pub(super) fn stdout() -> Self {
        Self { writer: BufWriter::new(io::stdout()) }
    }

    pub(super) fn text(&mut self, text: &str) -> Result<(), Stop> {
        Ok(self.writer.write_all(text.as_bytes())?)
    }

    pub(super) fn line(&mut self, text: &str) -> Result<(), Stop> {
        Ok(writeln!(self.writer, "{text}")?)
    }

    /// Indented, because people read it as well.
    pub(super) fn json<T: Serialize>(&mut self, value: &T) -> Result<(), Stop> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Stop::unknown(error.to_string()))?;
        self.line(&text)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Stop {
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::Said { message: message.into(), exit: super::USAGE }
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::Said { message: message.into(), exit: super::FAILED }
    }

    pub(super) fn unknown(message: impl Into<String>) -> Self {
        Self::Said { message: message.into(), exit: super::UNKNOWN }
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::BrokenPipe {
            Self::ReaderGone
        } else {
            Self::unknown(format!("the output cannot be written: {error}"))
        }
    }
}

impl From<SettingsError> for Stop {
    fn from(error: SettingsError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<ServiceError> for Stop {
    fn from(error: ServiceError) -> Self {
        let (exit, next) = match &error {
            ServiceError::Invalid(_) | ServiceError::Store(StoreError::NotConfigured) => (super::USAGE, ""),
            ServiceError::NotFound(_) | ServiceError::Forbidden(_) | ServiceError::TooLarge { .. } => {
                (super::FAILED, "")
            }
            ServiceError::Store(StoreError::Unreachable(_)) => {
                (super::UNKNOWN, "; start Postgres, or correct DATABASE_URL")
            }
            ServiceError::Store(StoreError::Migration(_)) => {
                (super::UNKNOWN, "; is this docrag older than the one that made the schema? then install the newer one")
            }
            ServiceError::Embed(EmbedError::Model(_)) => (super::UNKNOWN, "; run `docrag model install`"),
            ServiceError::Embed(_) => (super::UNKNOWN, "; is embedding.endpoint right, and does it answer?"),
            _ => (super::UNKNOWN, ""),
        };
        let text = error.to_string();
        // Whoever made the error may have said it already.
        let next = if text.contains("docrag model install") || text.contains("DATABASE_URL") { "" } else { next };
        Self::Said { message: format!("{text}{next}"), exit }
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        ServiceError::from(error).into()
    }
}

/// Cells padded to the widest of their column; numbers (cells of digits) stand right, the last column is left ragged.
pub(super) fn columns(rows: &[Vec<String>], indent: &str) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    // A column is one of numbers when all its cells below the head are.
    let is_number = |cell: &String| !cell.is_empty() && cell.chars().all(|c| c.is_ascii_digit() || ".,".contains(c));
    let numeric: Vec<bool> = (0..count)
        .map(|column| {
            let mut cells = rows.iter().skip(1).filter_map(|row| row.get(column)).peekable();
            cells.peek().is_some() && cells.all(is_number)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut line = indent.to_owned();
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column] - cell.chars().count());
            let (before, after) = if numeric[column] { (padding.as_str(), "") } else { ("", padding.as_str()) };
            let gap = if column == 0 { "" } else { "  " };
            let _ = write!(line, "{gap}{before}{cell}{after}");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A bar on standard error, where a person looks; elsewhere it draws nothing.
pub(super) fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Seconds as people say them.
pub(super) fn ago(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0} h", s / 3_600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

/// Text of a document or an error on one line of a terminal: no control characters, and not endless.
pub(super) fn one_line(text: &str, longest: usize) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let clean: String = words.chars().filter(|c| !c.is_control()).collect();
    if clean.chars().count() <= longest {
        return clean;
    }
    clean.chars().take(longest.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_numbers_right_and_lines_end_without_blanks() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["corpus", "indexed", "note"]), row(["a", "12", "x"]), row(["long name", "7", ""])];
        assert_eq!(columns(&rows, " "), " corpus     indexed  note\n a               12  x\n long name        7\n");
    }

    #[test]
    fn an_error_names_the_next_step_and_its_exit_code() {
        let said = |error: ServiceError| match Stop::from(error) {
            Stop::Said { message, exit } => (message, exit),
            Stop::ReaderGone => panic!("an error is not a closed pipe"),
        };
        let (message, exit) = said(StoreError::Unreachable("refused".into()).into());
        assert!(message.contains("DATABASE_URL") && exit == 3, "{message}");
        let (message, exit) = said(EmbedError::Model("no such file".into()).into());
        assert!(message.contains("docrag model install") && exit == 3, "{message}");
        assert_eq!(said(StoreError::NotConfigured.into()).1, 2);
    }

    #[test]
    fn a_documents_text_cannot_steer_the_terminal() {
        assert_eq!(one_line("a\x1b[2Jb\n c", 20), "a[2Jb c");
        assert_eq!(one_line("abcdef", 4), "abc…");
    }
}
