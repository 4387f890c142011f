//! The keeper as a user runs it: the built binary, as a process of its own.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The `groundskeeper` binary that was built beside this one.
pub(super) fn binary() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let binary = own.with_file_name("groundskeeper");
    anyhow::ensure!(
        binary.exists(),
        "{} is not built; run this through `cargo xtask bench`, which builds it",
        binary.display()
    );
    Ok(binary)
}

pub(super) fn command(binary: &Path, config: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg("--config").arg(config).kill_on_drop(true);
    command
}

/// `NAME VERSION` as the program says it, for the table's foot.
pub(super) async fn version(program: &str, argument: &str) -> Result<String> {
    let output =
        Command::new(program).arg(argument).output().await.with_context(|| {
            format!("{program} is not installed; `cargo xtask setup` installs what the benches need")
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
