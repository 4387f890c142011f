//! Who does the weekly maintenance, and how.

use super::peer;
use super::worn::{APP, KEEPER, LIVE_DAYS, TABLE, Worn};
use crate::bench::{copy_folder, keeper};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Nobody,
    Groundskeeper,
    Guide,
    PgRepack,
}

impl Who {
    pub(super) const ALL: [Self; 4] = [Self::Nobody, Self::Groundskeeper, Self::Guide, Self::PgRepack];

    /// As the table names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody (the baseline)",
            Self::Groundskeeper => "`groundskeeper task run database-maintenance`",
            Self::Guide => "the guide's script: `ANALYZE`, `VACUUM`, `REINDEX TABLE`, one `DELETE`",
            Self::PgRepack => "`pg_repack --table` (deletes nothing)",
        }
    }
}

/// The tools, ready to be run.
pub(super) struct Jobs {
    folder: PathBuf,
    binary: PathBuf,
}

impl Jobs {
    /// Says which package is missing.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        Ok(Self { folder: folder.to_owned(), binary: keeper::binary()? })
    }

    pub(super) async fn versions(&self, worn: &Worn) -> Result<String> {
        let ours = keeper::version(&self.binary.display().to_string(), "--version").await?;
        let repack = peer(&worn.programs.join("pg_repack"), "postgresql-15-repack").await?;
        Ok(format!("Postgres {}; {ours}; {repack}", worn.version))
    }

    /// A first run, before the table is worn: the keeper rebuilds no index whose better days it has not seen. No rule of
    /// retention yet, so that it deletes nothing.
    pub(super) async fn acquaint(&self, worn: &Worn) -> Result<()> {
        let state = self.folder.join("acquainted");
        let output = self.groundskeeper(worn, &state, "")?.output().await?;
        let code = output.status.code();
        ensure!(code == Some(0), "the first run ended with {code:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Does it. A tool that fails is a result, too: the end of what it said.
    pub(super) async fn run(&self, who: Who, worn: &Worn) -> Result<Option<String>> {
        let mut command = match who {
            Who::Nobody => return Ok(None),
            Who::Groundskeeper => {
                let state = self.folder.join("state");
                if state.exists() {
                    fs::remove_dir_all(&state)?;
                }
                copy_folder(&self.folder.join("acquainted"), &state).await?;
                self.groundskeeper(worn, &state, &retention())?
            }
            Who::Guide => self.guide(worn)?,
            Who::PgRepack => {
                let mut command = Command::new(worn.programs.join("pg_repack"));
                command.args(["--table", TABLE]).envs(worn.environment(("postgres", worn.server.password())));
                command
            }
        };
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
        let output = output.with_context(|| format!("cannot start {}", who.name()))?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        if who == Who::Groundskeeper {
            println!("maintenance: groundskeeper: {}", said.trim());
        }
        Ok((!output.status.success()).then(|| said.trim().lines().last().unwrap_or("without a word").to_owned()))
    }

    /// The keeper with a state of its own, which may do all that it can do.
    fn groundskeeper(&self, worn: &Worn, state: &Path, more: &str) -> Result<Command> {
        let text = format!(
            r#"state_dir = "{}"
autonomy = "auto"

[maintenance]
windows = ["daily 00:00-24:00"]

[postgres.main]
url = "{}"
{more}"#,
            state.display(),
            worn.url(KEEPER)
        );
        let file = self.folder.join("groundskeeper.toml");
        fs::write(&file, text)?;
        let mut command = keeper::command(&self.binary, &file);
        command.args(["task", "run", "database-maintenance"]);
        Ok(command)
    }

    /// What the guide runs once a week with psql, in its order: statistics, vacuum, all indexes of the table with the lock that
    /// this takes, and all expired rows in one transaction.
    fn guide(&self, worn: &Worn) -> Result<Command> {
        let file = self.folder.join("weekly.sql");
        fs::write(
            &file,
            format!(
                "ANALYZE;\nVACUUM (VERBOSE, ANALYZE);\nREINDEX TABLE {TABLE};\n\
                 DELETE FROM {TABLE} WHERE created_at < now() - interval '{LIVE_DAYS} days';\n"
            ),
        )?;
        let mut command = Command::new(worn.programs.join("psql"));
        command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file).envs(worn.environment(APP));
        Ok(command)
    }
}

/// The rule of retention as `groundskeeper.toml` has it: what the guide deletes with one statement.
fn retention() -> String {
    format!("[[postgres.main.retention]]\ntable = \"{TABLE}\"\ncolumn = \"created_at\"\nkeep = \"30d\"\n")
}
