//! What is wrong with a configuration: one clear sentence a problem, with the place, the cause and the next step.
//!
//! All problems of a file are reported together, so that a person corrects it once. A sentence never contains a value
//! that came from the environment, from a password file or from a key that may hold a secret.

use std::fmt;
use std::path::{Path, PathBuf};

/// One or more problems; never none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

/// One sentence, and where it applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: Option<PathBuf>,
    /// From 1.
    pub line: Option<usize>,
    pub message: String,
}

impl ConfigError {
    /// Usage and configuration share this exit code.
    pub const EXIT: u8 = 2;

    /// A problem that belongs to no place in a file.
    pub fn general(message: impl Into<String>) -> Self {
        Self { problems: vec![Problem { file: None, line: None, message: message.into() }] }
    }

    /// A problem with a file as a whole.
    pub fn about(file: &Path, message: impl Into<String>) -> Self {
        Self { problems: vec![Problem { file: Some(file.to_owned()), line: None, message: message.into() }] }
    }

    /// None without problems; otherwise in the order of the file.
    pub(super) fn from_problems(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by_key(|problem| problem.line);
        (!problems.is_empty()).then_some(Self { problems })
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(f, "{}:{line}: {}", file.display(), self.message),
            (Some(file), None) => write!(f, "{}: {}", file.display(), self.message),
            (None, _) => f.write_str(&self.message),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}
