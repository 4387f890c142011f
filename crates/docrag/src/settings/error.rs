//! What is wrong with a configuration. Nothing of what stands in the file is repeated but names: values may be secrets.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("{path}: {cause}")]
    Unreadable { path: PathBuf, cause: std::io::Error },
    /// Without the line itself, which may hold a secret.
    #[error("{path}, line {line}: {what}")]
    Wrong { path: PathBuf, line: usize, what: String },
    #[error("{key}: {what}")]
    Value { key: &'static str, what: String },
}

impl SettingsError {
    /// What cannot be read of the file's text.
    pub(super) fn wrong(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let before = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.get(..before).unwrap_or_default().matches('\n').count() + 1;
        Self::Wrong { path: path.to_owned(), line, what: without_text(error.message()) }
    }
}

/// `invalid type: string "…", expected …` without the string.
fn without_text(message: &str) -> String {
    match (message.find("string \""), message.rfind("\", expected")) {
        (Some(start), Some(end)) if start < end => {
            format!("{}string{}", &message[..start], &message[end + 1..])
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;

    #[test]
    fn a_mistake_is_named_with_its_line_and_without_what_stands_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("docrag.toml");
        for (text, line, named) in [
            ("# mine\n[database]\nulr = \"postgres://u:hunter2@db/x\"\n", 3, "ulr"),
            ("[database]\nurl = \"postgres://u:hunter2@db/x\n", 2, ""),
            ("[database]\nmax_connections = \"postgres://u:hunter2@db/x\"\n", 2, "u32"),
            ("redis = \"redis://:hunter2@cache, expected\"\n", 1, "RedisSettings"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = Settings::load(Some(&file)).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains(&format!("line {line}: ")) && error.contains(named), "{error}");
        }
    }
}
