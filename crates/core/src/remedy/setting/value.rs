//! Values of settings, and what they amount to.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A number with or without a unit, or one of a few words: nothing that could be a path, a command or a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SettingValue(String);

const WORDS: [&str; 9] = ["on", "off", "true", "false", "yes", "no", "pglz", "lz4", "zstd"];
const LONGEST: usize = 32;

impl SettingValue {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SettingValue {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_number = text.len() <= LONGEST && Number::read(&text).is_some();
        if is_number || WORDS.contains(&text.as_str()) {
            Ok(Self(text))
        } else {
            Err(format!("`{text}` is no number with a unit and no word that a setting of ours may have"))
        }
    }
}

impl TryFrom<&str> for SettingValue {
    type Error = String;

    fn try_from(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

impl From<SettingValue> for String {
    fn from(value: SettingValue) -> Self {
        value.0
    }
}

impl fmt::Display for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What a unit measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dimension {
    Bytes,
    Seconds,
}

/// What one of a unit is in bytes or seconds. `8kB` is one, too: `pg_settings` has it.
pub(super) fn unit(text: &str) -> Option<(Dimension, f64)> {
    const KIB: f64 = 1024.0;
    let name = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let times = &text[..text.len() - name.len()];
    let times: f64 = if times.is_empty() { 1.0 } else { times.parse().ok()? };
    let (dimension, one) = match name {
        "B" => (Dimension::Bytes, 1.0),
        "kB" => (Dimension::Bytes, KIB),
        "MB" => (Dimension::Bytes, KIB * KIB),
        "GB" => (Dimension::Bytes, KIB * KIB * KIB),
        "TB" => (Dimension::Bytes, KIB * KIB * KIB * KIB),
        "us" => (Dimension::Seconds, 1e-6),
        "ms" => (Dimension::Seconds, 1e-3),
        "s" => (Dimension::Seconds, 1.0),
        "min" => (Dimension::Seconds, 60.0),
        "h" => (Dimension::Seconds, 3_600.0),
        "d" => (Dimension::Seconds, 86_400.0),
        _ => return None,
    };
    Some((dimension, times * one))
}

/// A value that is a number, as it was written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Number {
    value: f64,
    pub(super) unit: Option<(Dimension, f64)>,
}

impl Number {
    pub(super) fn read(text: &str) -> Option<Self> {
        let is_of_number = |c: char| c.is_ascii_digit() || c == '.' || c == '-';
        let end = text.find(|c| !is_of_number(c)).unwrap_or(text.len());
        let (digits, name) = text.split_at(end);
        let value = digits.parse::<f64>().ok().filter(|value| value.is_finite())?;
        let unit = if name.is_empty() { None } else { Some(unit(name)?) };
        Some(Self { value, unit })
    }

    /// A bound as the server tells it: it may have an exponent, and is in the setting's own unit.
    pub(super) fn bare(text: &str) -> Option<Self> {
        Some(Self { value: text.parse().ok()?, unit: None })
    }

    /// In bytes or seconds, or as it is. `own` is the setting's unit, which a bare number is in; one below zero is a word of
    /// its own (-1: off) and has none.
    pub(super) fn amount(self, own: Option<&str>) -> f64 {
        match self.unit.or_else(|| own.and_then(unit).filter(|_| self.value > 0.0)) {
            Some((_, one)) => self.value * one,
            None => self.value,
        }
    }
}

/// Whether two ways to write a value of a setting in that unit mean the same. The server rounds to whole units; zero and
/// what is below it are words of their own (0: at once, -1: off), which no rounding may bring together.
pub fn is_same(one: &str, other: &str, own: Option<&str>) -> bool {
    let bare = |text: &str| text.replace(char::is_whitespace, "");
    if let (Some(a), Some(b)) = (Number::read(&bare(one)), Number::read(&bare(other))) {
        let is_word = a.value <= 0.0 || b.value <= 0.0;
        let (a, b) = (a.amount(own), b.amount(own));
        if is_word {
            return a.total_cmp(&b).is_eq();
        }
        let rounding = own.and_then(unit).map_or(0.0, |(_, one)| one / 2.0);
        return (a - b).abs() <= rounding.max(a.abs() * 1e-9);
    }
    plain(one) == plain(other)
}

/// Postgres has several words for yes and no, and `on` of `wal_compression` is pglz from 15 on.
fn plain(word: &str) -> String {
    let word = word.to_ascii_lowercase();
    match word.as_str() {
        "true" | "yes" | "1" | "pglz" => "on".to_owned(),
        "false" | "no" | "0" => "off".to_owned(),
        _ => word,
    }
}
