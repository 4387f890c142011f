//! The one writer to standard output, and the reasons to stop.
//!
//! A reader that has seen enough (`| head -1`) closes the pipe. That is no error and must not end in a panic, which is
//! why nothing here uses `println!`.

use crate::app::CallError;
use crate::config::ConfigError;
use serde::Serialize;
use std::io::{self, BufWriter, ErrorKind, Stdout, Write};

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

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        Ok(self.writer.write_all(bytes)?)
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
        Self::Said { message: message.into(), exit: ConfigError::EXIT }
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

impl From<CallError> for Stop {
    fn from(error: CallError) -> Self {
        Self::Said { message: error.message, exit: error.exit }
    }
}

impl From<ConfigError> for Stop {
    fn from(error: ConfigError) -> Self {
        // Each problem of a file names its place; on a line of its own an editor can jump there.
        let separator = if error.problems().len() > 1 { "the configuration has mistakes\n" } else { "" };
        Self::usage(format!("{separator}{error}"))
    }
}
