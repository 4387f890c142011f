//! Running cargo: always at the root of the workspace, always with the shared build folder.
//!
//! The build folder is outside of the tree, so that a clone, a second worktree and CI's cache share it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::Failure;

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

pub(crate) fn target_dir() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = set("CARGO_TARGET_DIR") {
        return root().join(folder);
    }
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    cache.map_or_else(|| root().join("target"), |cache| cache.join("groundskeeper").join("target"))
}

/// `cargo …`, ready to run.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(arguments).env("CARGO_TARGET_DIR", target_dir()).current_dir(root());
    command
}

/// Runs `cargo …`; a failure carries cargo's exit code.
pub(crate) fn run(arguments: &[&str]) -> Result<(), Failure> {
    check(&format!("cargo {}", arguments.join(" ")), &mut command(arguments))
}

/// Runs `command`; a failure carries its exit code.
pub(crate) fn check(name: &str, command: &mut Command) -> Result<(), Failure> {
    let status = command.status().map_err(|error| Failure::new(format!("cannot run `{name}`: {error}")))?;
    if status.success() {
        return Ok(());
    }
    Err(Failure { message: format!("`{name}` failed ({status})"), code: exit_code(status) })
}

fn exit_code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1)
}
