//! Where secrets come from: `${NAME}` and `${NAME:-default}` inside a value, and `password_file`.
//!
//! The environment is a value, so that a test needs no process-wide changes and so that its contents never show in a
//! `Debug`. An error names the variable or the file, never what is in it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The variables that `${NAME}` may refer to.
#[derive(Clone, Default)]
pub struct Environment {
    values: BTreeMap<String, String>,
}

impl Environment {
    /// Variables that are not UTF-8 are left out: no setting could use them.
    pub fn of_process() -> Self {
        let pairs = std::env::vars_os();
        Self {
            values: pairs
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .collect(),
        }
    }

    pub fn of<const N: usize>(pairs: [(&str, &str); N]) -> Self {
        Self { values: pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect() }
    }

    /// An empty variable counts as unset, as in `${NAME:-default}` of a shell.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// Replaces every `${NAME}`. `$${` stands for a literal `${`.
pub(super) fn interpolate(text: &str, environment: &Environment) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            out.push_str(&rest[..start - 1]);
            out.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        out.push_str(&rest[..start]);
        let inside = &rest[start + 2..];
        let end = inside.find('}').ok_or("a `${` has no closing `}`; write `$${` for a literal `${`")?;
        out.push_str(&looked_up(&inside[..end], environment)?);
        rest = &inside[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

fn looked_up(reference: &str, environment: &Environment) -> Result<String, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let valid = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty();
    if !valid {
        return Err("a `${…}` must hold the name of an environment variable, such as `${DATABASE_URL}`".to_owned());
    }
    environment
        .get(name)
        .or(default)
        .map(str::to_owned)
        .ok_or_else(|| format!("the environment variable {name} is not set; set it, or write `${{{name}:-default}}`"))
}

/// The first line of the file, without its end: what editors and secret mounts leave there.
pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read the password file {}: {}", path.display(), plain(&error)))?;
    let secret = text.lines().next().unwrap_or_default();
    if secret.is_empty() {
        return Err(format!("the password file {} is empty; its first line must be the password", path.display()));
    }
    Ok(secret.to_owned())
}

/// An operating system's error in a few words, without its number.
pub(super) fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "it is a folder".to_owned(),
        std::io::ErrorKind::InvalidData => "it is not UTF-8 text".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_defaults_used() {
        let environment = Environment::of([("USER", "ann"), ("EMPTY", "")]);
        let of = |text| interpolate(text, &environment);
        assert_eq!(of("x://${USER}@${HOST:-local}/${USER}"), Ok("x://ann@local/ann".into()));
        assert_eq!(of("${EMPTY:-none}"), Ok("none".into()));
        assert_eq!(of("a$${USER}b$c"), Ok("a${USER}b$c".into()));
        assert_eq!(of("${A:-}"), Ok(String::new()));
    }

    #[test]
    fn what_cannot_be_replaced_is_named() {
        let environment = Environment::default();
        assert_eq!(
            interpolate("${PASS}", &environment),
            Err("the environment variable PASS is not set; set it, or write `${PASS:-default}`".into())
        );
        assert!(interpolate("${PASS", &environment).unwrap_err().contains("no closing"));
        assert!(interpolate("${pa ss}", &environment).unwrap_err().contains("name of an environment variable"));
    }

    #[test]
    fn an_environment_shows_no_values() {
        assert_eq!(format!("{:?}", Environment::of([("PASS", "hunter2")])), r#"{"PASS"}"#);
    }
}
