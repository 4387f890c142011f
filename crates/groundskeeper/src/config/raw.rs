//! The file as written: tables whose values know their line, read key by key.
//!
//! Rejected: serde structs with `deny_unknown_fields`. They stop at the first problem and know neither the line of each
//! value nor the nearest key. Here the keys that are asked for *are* the schema: whatever a section was not asked for is
//! unknown, so that the two cannot drift apart.

use super::duration;
use super::error::Problem;
use super::nearest::did_you_mean;
use super::secrets::{self, Environment};
use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What all sections of one file share.
#[derive(Debug)]
pub(super) struct Source<'t> {
    pub(super) file: &'t Path,
    pub(super) text: &'t str,
    pub(super) environment: &'t Environment,
    problems: RefCell<Vec<Problem>>,
}

impl<'t> Source<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str, environment: &'t Environment) -> Self {
        Self { file, text, environment, problems: RefCell::default() }
    }

    /// Notes a problem at a byte of the text.
    pub(super) fn problem(&self, at: usize, message: impl Into<String>) {
        let line = self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1;
        let problem = Problem { file: Some(self.file.to_owned()), line: Some(line), message: message.into() };
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems.into_inner()
    }
}

/// A value and the byte where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: usize,
}

/// One table, `[postgres.main]` or the whole file. Reading a key that has the wrong type notes the problem and gives
/// none, so that the caller goes on with the default and finds the next problem.
#[derive(Debug)]
pub(super) struct Section<'t> {
    pub(super) source: &'t Source<'t>,
    /// Empty for the file itself.
    pub(super) name: String,
    pub(super) at: usize,
    table: &'t DeTable<'t>,
    asked: RefCell<Vec<String>>,
}

impl<'t> Section<'t> {
    pub(super) fn whole(source: &'t Source<'t>, table: &'t DeTable<'t>) -> Self {
        Self { source, name: String::new(), at: 0, table, asked: RefCell::default() }
    }

    /// ` in [postgres.main]`, or nothing at the top.
    pub(super) fn place(&self) -> String {
        if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) }
    }

    pub(super) fn problem(&self, at: usize, message: impl Into<String>) {
        self.source.problem(at, message);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(super) fn text(&self, key: &str) -> Option<At<String>> {
        self.read(key, "text in quotes", |value| value.as_str().map(str::to_owned))
    }

    /// Text in which `${NAME}` is replaced.
    pub(super) fn secret(&self, key: &str) -> Option<At<String>> {
        let found = self.text(key)?;
        match secrets::interpolate(&found.value, self.source.environment) {
            Ok(value) => Some(At { value, at: found.at }),
            Err(why) => {
                self.problem(found.at, format!("`{key}`{}: {why}", self.place()));
                None
            }
        }
    }

    /// The same for a key that must be there.
    pub(super) fn required_secret(&self, key: &str, example: &str) -> Option<At<String>> {
        if !self.has(key) {
            self.asked.borrow_mut().push(key.to_owned());
            self.problem(self.at, format!("[{}] needs `{key}`, such as {key} = \"{example}\"", self.name));
        }
        self.secret(key)
    }

    /// `password`, or the first line of `password_file`; a relative path starts at the folder of the configuration.
    pub(super) fn password(&self) -> Option<String> {
        let (direct, file) = (self.secret("password"), self.text("password_file"));
        // `${NAME:-}` gives an empty text where there is no password.
        let Some(file) = file else { return direct.map(|found| found.value).filter(|password| !password.is_empty()) };
        if self.has("password") {
            self.problem(file.at, format!("[{}] has both `password` and `password_file`; keep one", self.name));
            return None;
        }
        let folder = self.source.file.parent().unwrap_or_else(|| Path::new("."));
        secrets::read_file(&folder.join(&file.value))
            .map_err(|why| self.problem(file.at, format!("`password_file`{}: {why}", self.place())))
            .ok()
    }

    /// A duration above zero.
    pub(super) fn duration(&self, key: &str) -> Option<Duration> {
        self.parsed(key, "a duration in quotes, such as \"30s\"", duration::parse_positive)
    }

    /// A duration; zero is allowed.
    pub(super) fn duration_or_zero(&self, key: &str) -> Option<Duration> {
        self.parsed(key, "a duration in quotes, such as \"30s\"", duration::parse)
    }

    /// Text that is parsed into a value.
    pub(super) fn parsed<T>(&self, key: &str, expected: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let found = self.read(key, expected, |value| value.as_str().map(str::to_owned))?;
        parse(&found.value).map_err(|why| self.problem(found.at, format!("`{key}`{}: {why}", self.place()))).ok()
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        let read = |value: &DeValue<'_>| if let DeValue::Boolean(flag) = value { Some(*flag) } else { None };
        self.read(key, "true or false", read).map(|found| found.value)
    }

    /// A whole number from 1 up.
    pub(super) fn count(&self, key: &str) -> Option<u32> {
        let read = |value: &DeValue<'_>| integer(value).and_then(|number| u32::try_from(number).ok());
        self.read(key, "a whole number above zero", |value| read(value).filter(|number| *number > 0))
            .map(|found| found.value)
    }

    /// A whole number; zero is allowed.
    pub(super) fn count_or_zero(&self, key: &str) -> Option<u32> {
        let read = |value: &DeValue<'_>| integer(value).and_then(|number| u32::try_from(number).ok());
        self.read(key, "a whole number from zero up", read).map(|found| found.value)
    }

    /// Somebody else reads this key.
    pub(super) fn leave(&self, key: &str) {
        self.asked.borrow_mut().push(key.to_owned());
    }

    /// A number, or a duration in quotes where the number means seconds.
    pub(super) fn number(&self, key: &str, in_seconds: bool) -> Option<At<f64>> {
        let expected =
            if in_seconds { "a number of seconds or a duration such as \"10m\"" } else { "a number from zero up" };
        self.read(key, expected, |value| {
            let written = value.as_str().filter(|_| in_seconds).and_then(|text| duration::parse(text).ok());
            number(value).or_else(|| written.map(|amount| amount.as_secs_f64())).filter(|n| n.is_finite() && *n >= 0.0)
        })
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Option<Vec<At<String>>> {
        self.list(key, "a list of texts, such as [\"a\", \"b\"]", |value| value.as_str().map(str::to_owned))
    }

    /// A list whose items `read` understands.
    pub(super) fn list<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&DeValue<'_>) -> Option<T>,
    ) -> Option<Vec<At<T>>> {
        self.read(key, expected, |value| {
            let items = value.as_array()?.iter();
            items.map(|item| Some(At { value: read(item.get_ref())?, at: item.span().start })).collect()
        })
        .map(|found| found.value)
    }

    /// The table under a key.
    pub(super) fn section(&self, key: &str) -> Option<Section<'t>> {
        self.asked.borrow_mut().push(key.to_owned());
        let (key_span, value) = self.entry(key)?;
        self.opened(key, key_span, value)
    }

    /// All tables under a key, by name: `[postgres.main]`, `[postgres.reporting]`. `example` is a name to suggest.
    pub(super) fn named_sections(&self, key: &str, example: &str) -> Vec<(String, Section<'t>)> {
        let Some(parent) = self.section(key) else { return Vec::new() };
        let mut found = Vec::new();
        for (name, value) in parent.table {
            let text = name.get_ref().as_ref();
            if !matches!(value.get_ref(), DeValue::Table(_)) {
                let message = format!("[{}] needs a name of its own; write [{}.{example}]", parent.name, parent.name);
                parent.problem(name.span().start, message);
            } else if !is_name(text) {
                let message = format!(
                    "`{text}` cannot be a name in [{}]; use letters, digits, `-` and `_`, such as [{}.{example}]",
                    parent.name, parent.name
                );
                parent.problem(name.span().start, message);
            } else if let Some(section) = parent.opened(text, name.span().start, value) {
                found.push((text.to_owned(), section));
            }
        }
        found
    }

    /// The tables of a list, each written `[[backup.probe]]`.
    pub(super) fn sections(&self, key: &str) -> Vec<Section<'t>> {
        self.asked.borrow_mut().push(key.to_owned());
        let Some((at, value)) = self.entry(key) else { return Vec::new() };
        let items = value.get_ref().as_array();
        let Some(items) = items.filter(|items| items.iter().all(|item| item.get_ref().is_table())) else {
            let place = self.place();
            self.problem(at, format!("`{key}`{place} must be a list of tables; write [[{}.{key}]]", self.name));
            return Vec::new();
        };
        items.iter().filter_map(|item| self.opened(key, item.span().start, item)).collect()
    }

    /// All entries of this table; the caller answers for their names.
    pub(super) fn entries(&self) -> impl Iterator<Item = (At<&'t str>, &'t Spanned<DeValue<'t>>)> {
        self.table.iter().map(|(key, value)| (At { value: key.get_ref().as_ref(), at: key.span().start }, value))
    }

    /// An entry of [`Self::entries`] as a section; a problem is noted when it is none.
    pub(super) fn opened(&self, key: &str, at: usize, value: &'t Spanned<DeValue<'t>>) -> Option<Section<'t>> {
        let quoted = if is_name(key) { key.to_owned() } else { format!("\"{key}\"") };
        let name = if self.name.is_empty() { quoted } else { format!("{}.{quoted}", self.name) };
        let Some(table) = value.get_ref().as_table() else {
            self.problem(at, format!("`{key}`{} must be a table; write [{name}]", self.place()));
            return None;
        };
        Some(Section { source: self.source, name, at, table, asked: RefCell::default() })
    }

    /// To be called last: whatever was not asked for is unknown.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for (key, value) in self.table {
            let text = key.get_ref().as_ref();
            if asked.iter().any(|known| known == text) {
                continue;
            }
            let hint = did_you_mean(text, asked.iter().map(String::as_str));
            let hint = if hint.is_empty() { format!("; known here: {}", asked.join(", ")) } else { hint };
            let what = if value.get_ref().is_table() && self.name.is_empty() {
                format!("unknown section [{text}]")
            } else {
                format!("unknown key `{text}`{}", self.place())
            };
            self.problem(key.span().start, format!("{what}{hint}"));
        }
    }

    fn entry(&self, key: &str) -> Option<(usize, &'t Spanned<DeValue<'t>>)> {
        self.table.get_key_value(key).map(|(key, value)| (key.span().start, value))
    }

    fn read<T>(&self, key: &str, expected: &str, read: impl Fn(&DeValue<'_>) -> Option<T>) -> Option<At<T>> {
        self.asked.borrow_mut().push(key.to_owned());
        let (_, value) = self.entry(key)?;
        let at = value.span().start;
        let found = read(value.get_ref());
        if found.is_none() {
            let message = format!("`{key}`{} must be {expected}, not {}", self.place(), described(value.get_ref()));
            self.problem(at, message);
        }
        found.map(|value| At { value, at })
    }
}

/// The entries of a table of texts, with `${NAME}` replaced.
pub(super) fn string_entries<'t>(section: &Section<'t>) -> Vec<(At<&'t str>, String)> {
    let mut found = Vec::new();
    for (name, value) in section.entries() {
        let Some(text) = value.get_ref().as_str() else {
            let what = described(value.get_ref());
            section.problem(name.at, format!("`{}`{} must be text in quotes, not {what}", name.value, section.place()));
            continue;
        };
        match secrets::interpolate(text, section.source.environment) {
            Ok(text) => found.push((name, text)),
            Err(why) => section.problem(value.span().start, format!("`{}`{}: {why}", name.value, section.place())),
        }
    }
    found
}

pub(super) fn integer(value: &DeValue<'_>) -> Option<i64> {
    value.as_integer().and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok())
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    let float = value.as_float().and_then(|number| number.as_str().parse().ok());
    float.or_else(|| integer(value).map(|number| number as f64))
}

/// The kind of a value, and the value itself only where it cannot be a secret.
fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "text".to_owned(),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}
