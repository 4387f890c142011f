//! The tools, each at the settings that its own documentation recommends for this machine, and what it stores.

use super::cluster::{Cluster, size_of};
use super::meter::{self, Cost};
use crate::bench::keeper;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Not a secret: the repositories are gone with the bench.
const KEY: &str = "the key of a bench";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tool {
    Groundskeeper,
    PgBackRest,
    PgBackRestPlain,
    Barman,
    Restic,
    PgDump,
    Gzip,
}

impl Tool {
    pub(super) const ALL: [Self; 7] = [
        Self::Groundskeeper,
        Self::PgBackRest,
        Self::PgBackRestPlain,
        Self::Barman,
        Self::Restic,
        Self::PgDump,
        Self::Gzip,
    ];
    /// Those whose next backup builds on the one before.
    pub(super) const INCREMENTAL: [Self; 3] = [Self::Groundskeeper, Self::PgBackRest, Self::Restic];
    pub(super) const RESTORED: [Self; 2] = [Self::Groundskeeper, Self::PgBackRest];

    /// As the table names it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Groundskeeper => "Groundskeeper (encrypted)",
            Self::PgBackRest => "pgBackRest, zst 1, 2 processes, bundles (encrypted)",
            Self::PgBackRestPlain => "pgBackRest, the same, not encrypted",
            Self::Barman => "Barman, `postgres` method, zstd 1, 2 workers (not encrypted)",
            Self::Restic => "`pg_basebackup` to `restic --stdin` (encrypted)",
            Self::PgDump => "`pg_dump -Fc` (not encrypted)",
            Self::Gzip => "`pg_basebackup` to `gzip` (not encrypted)",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Groundskeeper => "groundskeeper",
            Self::PgBackRest => "pgbackrest",
            Self::PgBackRestPlain => "pgbackrest-plain",
            Self::Barman => "barman",
            Self::Restic => "restic",
            Self::PgDump => "pg_dump",
            Self::Gzip => "gzip",
        }
    }
}

/// `NAME VERSION` of every program.
pub(super) async fn versions(cluster: &Cluster) -> Result<String> {
    let groundskeeper = keeper::binary()?.display().to_string();
    let dump = cluster.programs.join("pg_dump").display().to_string();
    let mut said = vec![format!("Postgres {}", cluster.version)];
    for (program, argument) in [
        (groundskeeper.as_str(), "--version"),
        ("pgbackrest", "version"),
        ("barman", "--version"),
        ("restic", "version"),
        (dump.as_str(), "--version"),
        ("gzip", "--version"),
    ] {
        said.push(keeper::version(program, argument).await?);
    }
    Ok(said.join("; "))
}

/// One tool with a repository of its own.
pub(super) struct Store {
    pub(super) tool: Tool,
    folder: PathBuf,
}

impl Store {
    /// Makes the repository, which is not measured.
    pub(super) async fn prepare(tool: Tool, parent: &Path, cluster: &Cluster) -> Result<Self> {
        let store = Self { tool, folder: parent.join(tool.folder()) };
        fs::create_dir_all(store.repository())?;
        give_to_postgres(&store.folder).await?;
        match tool {
            Tool::Groundskeeper => {
                store.write("key", KEY)?;
                store.write("groundskeeper.toml", &store.groundskeeper_toml(cluster))?;
                fs::remove_dir(store.repository())?;
                store.quietly(store.groundskeeper(&["init"])?).await?;
            }
            Tool::PgBackRest | Tool::PgBackRestPlain => {
                store.write("pgbackrest.conf", &store.pgbackrest_conf(cluster))?;
                store.quietly(store.pgbackrest(cluster, &["stanza-create"])).await?;
            }
            Tool::Barman => {
                fs::create_dir_all(store.incoming())?;
                fs::create_dir_all(store.folder.join("conf.d"))?;
                give_to_postgres(&store.folder).await?;
                store.write("barman.conf", &store.barman_conf(cluster))?;
                store.archive(cluster).await?;
                cluster.execute("SELECT pg_reload_conf()").await?;
                store.quietly(store.barman(cluster, &["switch-wal", "--force", "--archive", "bench"])).await?;
            }
            Tool::Restic => {
                store.quietly(store.shell(cluster, "restic init --repository-version 2")).await?;
            }
            Tool::PgDump | Tool::Gzip => {}
        }
        Ok(store)
    }

    /// Makes the server archive where this tool wants it, from its next start on.
    pub(super) async fn archive(&self, cluster: &Cluster) -> Result<()> {
        let command = match self.tool {
            Tool::PgBackRest | Tool::PgBackRestPlain => {
                let config = self.folder.join("pgbackrest.conf");
                Some(format!("pgbackrest --config={} --stanza=bench archive-push %p", config.display()))
            }
            Tool::Barman => Some(format!("cp %p {}/%f", self.incoming().display())),
            _ => None,
        };
        cluster.archive_with(command.as_deref()).await
    }

    /// Makes a backup. The second and later ones build on those before where the tool can.
    pub(super) async fn backup(&self, cluster: &Cluster, is_first: bool) -> Result<Cost> {
        let output = self.repository().join(if is_first { "1" } else { "2" });
        let command = match self.tool {
            Tool::Groundskeeper => self.groundskeeper(&["run"])?,
            Tool::PgBackRest | Tool::PgBackRestPlain => {
                self.pgbackrest(cluster, &[if is_first { "--type=full" } else { "--type=incr" }, "backup"])
            }
            Tool::Barman => self.barman(cluster, &["backup", "bench"]),
            Tool::Restic => self.shell(
                cluster,
                "pg_basebackup -D - -Ft -X fetch -c fast | restic backup --quiet --stdin --stdin-filename base.tar",
            ),
            Tool::PgDump => self.shell(cluster, &format!("pg_dump -Fc -f {} postgres", output.display())),
            Tool::Gzip => {
                self.shell(cluster, &format!("pg_basebackup -D - -Ft -X fetch -c fast | gzip > {}", output.display()))
            }
        };
        self.measured(command, cluster.server.pid()).await
    }

    /// Restores the newest backup; gives where the data folder is, that the server's user can start. `more` is told to
    /// Groundskeeper.
    pub(super) async fn restore(&self, cluster: &Cluster, more: &[&str]) -> Result<PathBuf> {
        let into = self.restored();
        fs::create_dir(&into)?;
        give_to_postgres(&into).await?;
        if self.tool == Tool::Groundskeeper {
            let place = into.display().to_string();
            let mut command = self.groundskeeper(&["restore", "--only", "postgres.main", "--into", &place])?;
            command.args(more);
            self.measured(command, None).await?;
            give_to_postgres(&into).await?;
            return Ok(into.join("postgres.main/data"));
        }
        let place = format!("--pg1-path={}", into.display());
        // To where the backup itself is consistent, as ours.
        let command = self.pgbackrest(cluster, &[&place, "--type=immediate", "--target-action=promote", "restore"]);
        self.measured(command, None).await?;
        Ok(into)
    }

    /// Bytes of all files in the repository, the WAL that the tool archived among them.
    pub(super) fn stored(&self) -> Result<u64> {
        size_of(&self.repository())
    }

    /// The folder that [`Self::restore`] makes.
    pub(super) fn restored(&self) -> PathBuf {
        self.folder.join("restored")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    fn incoming(&self) -> PathBuf {
        self.repository().join("bench/incoming")
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    async fn measured(&self, command: Command, server: Option<u32>) -> Result<Cost> {
        meter::run(command, &self.log(), server).await
    }

    async fn quietly(&self, command: Command) -> Result<()> {
        self.measured(command, None).await.map(|_| ())
    }

    /// Lets Groundskeeper stream WAL when its keeper runs.
    pub(super) fn stream_wal(&self) -> Result<()> {
        let path = self.folder.join("groundskeeper.toml");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        self.write("groundskeeper.toml", &format!("{text}wal = true\n[web]\nlisten = \"off\"\n"))
    }

    /// `groundskeeper run`.
    pub(super) fn keeper(&self) -> Result<Command> {
        let mut command = keeper::command(&keeper::binary()?, &self.folder.join("groundskeeper.toml"));
        command.arg("run");
        Ok(command)
    }

    fn groundskeeper(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = keeper::command(&keeper::binary()?, &self.folder.join("groundskeeper.toml"));
        command.arg("backup").args(arguments);
        Ok(command)
    }

    fn groundskeeper_toml(&self, cluster: &Cluster) -> String {
        let (folder, repository, url) = (self.folder.display(), self.repository(), cluster.url());
        format!(
            "state_dir = \"{folder}/state\"\n[postgres.main]\nurl = \"{url}\"\n[backup]\nrepository = \"{}\"\n\
             key_file = \"{folder}/key\"\nscratch = \"{folder}/scratch\"\n",
            repository.display()
        )
    }

    fn pgbackrest(&self, cluster: &Cluster, arguments: &[&str]) -> Command {
        let mut command = as_postgres("pgbackrest");
        command.arg(format!("--config={}", self.folder.join("pgbackrest.conf").display())).arg("--stanza=bench");
        command.args(arguments).envs(cluster.environment());
        command
    }

    fn pgbackrest_conf(&self, cluster: &Cluster) -> String {
        let (folder, repository) = (self.folder.display(), self.repository());
        let cipher = match self.tool {
            Tool::PgBackRest => format!("repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass={KEY}\n"),
            _ => String::new(),
        };
        format!(
            "[global]\nrepo1-path={}\n{cipher}repo1-bundle=y\nrepo1-retention-full=9\ncompress-type=zst\n\
             compress-level=1\nprocess-max=2\nstart-fast=y\nlog-path={folder}\nlock-path={folder}/lock\n\
             spool-path={folder}/spool\nlog-level-console=warn\nlog-level-file=off\n\
             [bench]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
            repository.display(),
            cluster.server.data_dir().display(),
            cluster.server.port(),
            cluster.server.socket_dir().display()
        )
    }

    fn barman(&self, cluster: &Cluster, arguments: &[&str]) -> Command {
        let mut command = as_postgres("barman");
        command.arg("-c").arg(self.folder.join("barman.conf")).args(arguments).envs(cluster.environment());
        command
    }

    fn barman_conf(&self, cluster: &Cluster) -> String {
        let environment = cluster.environment();
        let connection = format!("host={} port={} user=postgres", environment[0].1, environment[1].1);
        let password = cluster.server.password();
        let user = if is_root() { "postgres".to_owned() } else { std::env::var("USER").unwrap_or_default() };
        let folder = self.folder.display();
        format!(
            "[barman]\nbarman_home={}\nbarman_user={user}\nlog_file={folder}/barman.log\n\
             configuration_files_directory={folder}/conf.d\n\
             [bench]\ndescription=bench\nconninfo={connection} dbname=postgres password={password}\n\
             streaming_conninfo={connection} dbname=postgres password={password}\nbackup_method=postgres\narchiver=on\n\
             immediate_checkpoint=true\nbackup_compression=zstd\nbackup_compression_level=1\n\
             backup_compression_workers=2\nbackup_compression_location=client\npath_prefix={}\n",
            self.repository().display(),
            cluster.programs.display()
        )
    }

    /// A pipeline, of which every part must go well.
    fn shell(&self, cluster: &Cluster, script: &str) -> Command {
        let mut command = as_postgres("bash");
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", cluster.programs.display());
        command.args(["-o", "pipefail", "-c", script]).envs(cluster.environment()).env("PATH", path);
        command.env("RESTIC_REPOSITORY", self.repository()).env("RESTIC_PASSWORD", KEY);
        command.env("RESTIC_CACHE_DIR", self.folder.join("cache"));
        command
    }
}

pub(super) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// The server runs as `postgres` when we are root, and who reads its files must be that user as well.
fn as_postgres(program: &str) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--", program]).current_dir("/");
    command
}

async fn give_to_postgres(folder: &Path) -> Result<()> {
    if is_root() {
        let given = Command::new("chown").args(["-R", "postgres:postgres"]).arg(folder).status().await?;
        ensure!(given.success(), "chown {} ended with {given}", folder.display());
    }
    Ok(())
}
