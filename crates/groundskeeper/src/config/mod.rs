//! Configuration: one `groundskeeper.toml`, every value with a default, every unknown key an error.
//!
//! Raw text becomes [`Settings`] here and nowhere else. `raw` knows lines and keys, `resolve` knows what they mean,
//! `secrets` where passwords come from, [`init`] how a first file is written.

mod duration;
mod error;
mod grants;
pub mod init;
mod nearest;
mod raw;
mod resolve;
mod secrets;
mod settings;
mod size;

pub use duration::parse_positive as parse_duration;
pub use error::{ConfigError, Problem};
pub use grants::{Purpose, grants};
pub use nearest::{did_you_mean, nearest};
pub use secrets::Environment;
pub use settings::*;

use std::path::{Path, PathBuf};

/// The variable that names the file.
pub const FILE_VARIABLE: &str = "GROUNDSKEEPER_CONFIG";
pub const FILE_NAME: &str = "groundskeeper.toml";

/// Finds and reads the configuration: the given file, else the first of `$GROUNDSKEEPER_CONFIG`,
/// `./groundskeeper.toml`, `$XDG_CONFIG_HOME/groundskeeper/groundskeeper.toml` and
/// `/etc/groundskeeper/groundskeeper.toml`.
pub fn load(path: Option<&Path>) -> Result<Settings, ConfigError> {
    let environment = Environment::of_process();
    let file = find(path, &environment)?;
    let text = std::fs::read_to_string(&file).map_err(|error| {
        let why = secrets::plain(&error);
        ConfigError::about(&file, format!("the configuration cannot be read: {why}; `groundskeeper init` writes one"))
    })?;
    parse(&text, &file, &environment)
}

/// The text of a configuration with an environment of one's own. `file` is for messages and relative paths.
pub fn parse(text: &str, file: &Path, environment: &Environment) -> Result<Settings, ConfigError> {
    resolve::settings(text, file, environment)
}

/// One system by its address, all else by default: `groundskeeper check postgres://…` needs no file.
pub fn for_url(url: &str) -> Result<Settings, ConfigError> {
    for_urls(&[url])
}

/// The same for several.
pub fn for_urls(urls: &[&str]) -> Result<Settings, ConfigError> {
    let mut settings = resolve::defaults(&Environment::of_process());
    for url in urls {
        let mut system = resolve::for_url(url)?;
        let alike = settings.systems.iter().filter(|known| known.id.kind == system.id.kind).count();
        if alike > 0 {
            system.id.name = format!("{}-{}", system.id.name, alike + 1);
        }
        settings.systems.push(system);
    }
    Ok(settings)
}

/// Whether a word on the command line is an address rather than a name.
pub fn is_url(word: &str) -> bool {
    word.contains("://") || word == "host:" || word.starts_with(['/', '.'])
}

/// A file that was named must be used, even when it is not there: taking another one silently would be worse.
fn find(path: Option<&Path>, environment: &Environment) -> Result<PathBuf, ConfigError> {
    if let Some(named) = path {
        return Ok(named.to_owned());
    }
    if let Some(named) = environment.get(FILE_VARIABLE) {
        return Ok(PathBuf::from(named));
    }
    let places = places(environment);
    if let Some(found) = places.iter().find(|place| place.exists()) {
        return Ok(found.clone());
    }
    let looked = places.iter().map(|place| place.display().to_string()).collect::<Vec<_>>().join(", ");
    Err(ConfigError::general(format!(
        "there is no configuration (looked for {looked}); write one with `groundskeeper init`, or look at one system \
         with `groundskeeper check postgres://…`"
    )))
}

fn places(environment: &Environment) -> Vec<PathBuf> {
    let home = environment.get("HOME").map(|home| Path::new(home).join(".config"));
    let user = environment.get("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    let mut places = vec![PathBuf::from(FILE_NAME)];
    places.extend(user.map(|folder| folder.join("groundskeeper").join(FILE_NAME)));
    places.push(Path::new("/etc/groundskeeper").join(FILE_NAME));
    places
}
