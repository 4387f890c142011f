//! What the server runs with: its settings, each with where it came from.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Every setting that is not at its default, and those that a check or an advice asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub list: Vec<Setting>,
    /// By name, the bare hashes that older versions kept, for what they accepted; never written down.
    #[serde(skip)]
    pub bare: BTreeMap<String, String>,
    /// By name, what `postgresql.auto.conf` says of those that wait for a restart, as far as we may see it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub written: BTreeMap<String, String>,
    /// Settings that name a file (of access, of certificates) which a reload takes up and at which we may not look.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden_files: Vec<String>,
}

/// A row of `pg_settings`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    pub name: String,
    /// As the server keeps it, in `unit`. Of what may hold a secret, a hash: see [`Settings::seal`].
    pub value: String,
    /// `8kB`, `MB`, `ms`, `s` …; none where it has none.
    pub unit: Option<String>,
    /// `default`, `configuration file`, `command line`, `environment variable`, `database`, `user` …
    pub source: String,
    /// What it takes to change it: `postmaster` is a restart, `sighup` a reload.
    pub context: String,
    /// The value that the server would start with if nobody set it.
    pub boot: Option<String>,
    /// The file that set it; none where it is hidden from us, or where no file did.
    pub file: Option<String>,
    pub line: Option<u32>,
    /// The file says something else by now, and only a restart takes it up.
    pub pending_restart: bool,
}

impl Settings {
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.list.iter().find(|setting| setting.name == name)
    }

    /// None for a setting that this server does not have, or that is hidden from us.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.get(name).map(|setting| setting.value.as_str())
    }

    pub fn is_on(&self, name: &str) -> Option<bool> {
        self.value(name).map(|value| value == "on")
    }

    /// A number in its base unit (bytes, seconds) or as it is; none also where it is not the server's but our session's.
    pub fn number(&self, name: &str) -> Option<f64> {
        let setting = self.get(name).filter(|setting| setting.is_of_server())?;
        Some(setting.value.parse::<f64>().ok()? * setting.scale())
    }
}

impl Setting {
    /// As one writes it in a configuration: `128MB`, `15min`, `on`.
    pub fn shown(&self) -> String {
        let Some(unit) = self.unit.as_deref() else { return self.value.clone() };
        match self.value.parse::<f64>() {
            Ok(number) if number > 0.0 && unit.ends_with('B') => bytes_written(number * self.scale()),
            Ok(number) if number > 0.0 => seconds_written(number * self.scale()),
            _ => self.value.clone(),
        }
    }

    /// Not of our session, our role or our database only.
    pub fn is_of_server(&self) -> bool {
        !matches!(self.source.as_str(), "client" | "session" | "interactive" | "user" | "database" | "database user")
    }

    /// What one of its unit is in bytes or seconds. A value below zero is a word of its own (-1: off) and has no unit.
    fn scale(&self) -> f64 {
        const KIB: f64 = 1024.0;
        if self.value.starts_with('-') {
            return 1.0;
        }
        match self.unit.as_deref().unwrap_or_default() {
            "ms" => 0.001,
            "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            bytes => {
                let digits = bytes.trim_end_matches(|last: char| last.is_ascii_alphabetic());
                let factor = digits.parse::<f64>().unwrap_or(1.0);
                match &bytes[digits.len()..] {
                    "kB" => factor * KIB,
                    "MB" => factor * KIB * KIB,
                    "GB" => factor * KIB * KIB * KIB,
                    _ => 1.0,
                }
            }
        }
    }

    /// Whoever gave it its value, and so has to change it.
    pub fn owner(&self) -> Owner {
        match (self.source.as_str(), self.file.as_deref()) {
            ("default" | "dynamic default" | "override", _) => Owner::Nobody,
            ("command line", _) => Owner::CommandLine,
            ("environment variable", _) => Owner::Environment,
            ("configuration file", Some(file)) if file.ends_with("postgresql.auto.conf") => Owner::AlterSystem,
            ("configuration file", Some(file)) => Owner::File { path: file.to_owned(), line: self.line },
            ("configuration file", None) => Owner::SomeFile,
            _ => Owner::Session,
        }
    }
}

/// `128MB`: in the largest of Postgres's units that gives a whole number.
pub fn bytes_written(bytes: f64) -> String {
    let units = [("TB", 4), ("GB", 3), ("MB", 2), ("kB", 1)];
    written(bytes, units.map(|(name, power)| (name, 1024_f64.powi(power))).as_slice())
        .unwrap_or_else(|| format!("{bytes:.0}B"))
}

/// `15min`: the same for times.
pub fn seconds_written(seconds: f64) -> String {
    let units = [("d", 86_400.0), ("h", 3_600.0), ("min", 60.0), ("s", 1.0), ("ms", 0.001)];
    written(seconds, &units).unwrap_or_else(|| format!("{:.0}us", seconds * 1e6))
}

fn written(amount: f64, units: &[(&str, f64)]) -> Option<String> {
    units.iter().find_map(|(name, size)| {
        let number = amount / size;
        (number >= 0.999 && (number - number.round()).abs() < 1e-6).then(|| format!("{number:.0}{name}"))
    })
}

/// Each setting has one owner; who else changes it is overruled, or overrules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "owner")]
pub enum Owner {
    /// It is at its default.
    Nobody,
    /// `postgresql.auto.conf`, which wins over every other file.
    AlterSystem,
    File {
        path: String,
        line: Option<u32>,
    },
    /// A file that is hidden from us.
    SomeFile,
    /// It wins over every file: a container's command, an operator, a Helm chart.
    CommandLine,
    Environment,
    /// Set for our role, our database or our session: the server's own value is covered by it.
    Session,
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nobody => f.write_str("default"),
            Self::AlterSystem => f.write_str("ALTER SYSTEM"),
            Self::File { path, line: Some(line) } => write!(f, "{path}:{line}"),
            Self::File { path, line: None } => f.write_str(path),
            Self::SomeFile => f.write_str("a configuration file"),
            Self::CommandLine => f.write_str("command line"),
            Self::Environment => f.write_str("environment"),
            Self::Session => f.write_str("our role or database"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(value: &str, unit: &str) -> Settings {
        let setting = Setting {
            name: "x".into(),
            value: value.into(),
            unit: Some(unit.to_owned()).filter(|unit| !unit.is_empty()),
            source: "default".into(),
            context: "sighup".into(),
            boot: None,
            file: None,
            line: None,
            pending_restart: false,
        };
        Settings { list: vec![setting], ..Settings::default() }
    }

    #[test]
    fn numbers_come_in_bytes_and_seconds() {
        for (value, unit, expected) in [
            ("16384", "8kB", 134_217_728.0),
            ("4096", "kB", 4_194_304.0),
            ("1024", "MB", 1_073_741_824.0),
            ("1", "16MB", 16_777_216.0),
            ("250", "ms", 0.25),
            ("5", "min", 300.0),
            ("30", "s", 30.0),
            ("0.9", "", 0.9),
            ("-1", "kB", -1.0),
        ] {
            let read = setting(value, unit).number("x").unwrap();
            assert!((read - expected).abs() < 1e-9, "{value} {unit}: {read}");
        }
        assert_eq!(setting("on", "").number("x"), None);
    }

    #[test]
    fn values_are_written_as_in_a_configuration() {
        for (value, unit, expected) in [
            ("16384", "8kB", "128MB"),
            ("4100", "kB", "4100kB"),
            ("2048", "MB", "2GB"),
            ("900", "s", "15min"),
            ("250", "ms", "250ms"),
            ("1000", "ms", "1s"),
            ("-1", "kB", "-1"),
            ("0", "ms", "0"),
            ("1.1", "", "1.1"),
        ] {
            assert_eq!(setting(value, unit).list[0].shown(), expected);
        }
    }

    #[test]
    fn what_is_set_for_our_role_is_not_the_servers() {
        let mut settings = setting("4096", "kB");
        settings.list[0].source = "user".into();
        assert_eq!(settings.number("x"), None);
        assert_eq!(settings.list[0].owner(), Owner::Session);
    }

    #[test]
    fn each_setting_has_one_owner() {
        let owned = |source: &str, file: Option<&str>| {
            let mut settings = setting("1", "");
            settings.list[0].source = source.into();
            settings.list[0].file = file.map(Into::into);
            settings.list[0].line = file.map(|_| 7);
            settings.list[0].owner().to_string()
        };
        assert_eq!(owned("default", None), "default");
        assert_eq!(owned("configuration file", Some("/pg/postgresql.auto.conf")), "ALTER SYSTEM");
        assert_eq!(owned("configuration file", Some("/pg/postgresql.conf")), "/pg/postgresql.conf:7");
        assert_eq!(owned("configuration file", None), "a configuration file");
        assert_eq!(owned("command line", None), "command line");
    }
}
