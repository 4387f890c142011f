//! The programs of Redis or Valkey.

use crate::scratch::Setback;
use std::path::{Path, PathBuf};

/// Where packages put them, besides `$PATH`.
const PACKAGED: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

/// What is installed of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RedisPrograms {
    server: Option<PathBuf>,
    check: Option<PathBuf>,
    makers: [&'static str; 2],
}

impl RedisPrograms {
    /// Looks in `extra` first, then in `$PATH`, then where packages put them. What was copied from a Valkey is read by
    /// Valkey's programs if they are there: from its version 8 on the two go different ways.
    pub(crate) fn find(version: &str, extra: &[PathBuf]) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = extra.to_vec();
        folders.extend(std::env::split_paths(&path));
        folders.extend(PACKAGED.map(PathBuf::from));
        let makers = if version.contains("Valkey") { ["valkey", "redis"] } else { ["redis", "valkey"] };
        let find = |what: &str| {
            let names = makers.iter().map(|maker| format!("{maker}-{what}"));
            let found = names.flat_map(|name| folders.iter().map(move |folder| folder.join(&name)));
            found.into_iter().find(|program| program.is_absolute() && program.is_file())
        };
        Self { server: find("server"), check: find("check-rdb"), makers }
    }

    pub(crate) fn server(&self) -> Result<&Path, Setback> {
        self.server.as_deref().ok_or_else(|| {
            let maker = self.makers[0];
            Setback::NotTried(format!(
                "there is no {maker}-server in $PATH; install {maker}-server (so it is called in Debian), or name its \
                 folder in `programs` of [backup]; it need not run as a service"
            ))
        })
    }

    /// `redis-check-rdb`, when it is there.
    pub(crate) fn check(&self) -> Option<&Path> {
        self.check.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_folder_comes_first_and_a_server_that_is_nowhere_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["valkey-server", "redis-server"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let extra = [folder.path().to_owned()];
        let server = |version| RedisPrograms::find(version, &extra).server().unwrap().to_owned();
        assert_eq!(server("7.0.15"), folder.path().join("redis-server"));
        assert_eq!(server("8.1.0 (Valkey)"), folder.path().join("valkey-server"));
        let nothing = RedisPrograms { server: None, check: None, makers: ["redis", "valkey"] };
        let Err(Setback::NotTried(why)) = nothing.server() else { panic!("there is none") };
        assert!(why.contains("install redis-server") && nothing.check().is_none(), "{why}");
    }
}
