//! Somebody without Groundskeeper follows the recovery plan, word by word.

use crate::scene::{BUDGET, KEY, Scene, make_space, now};
use groundskeeper_backup::Vault;
use groundskeeper_backup::plan::{INTO, PORT};
use groundskeeper_backup::vault::KeySource;
use groundskeeper_testing::port;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The commands of the way without us, in their order.
fn commands(plan: &str) -> String {
    let (_, without) = plan.split_once("## Without Groundskeeper").unwrap();
    let mut commands = String::new();
    let mut inside = false;
    for line in without.lines() {
        match line.trim_start() {
            "```sh" => inside = true,
            "```" => inside = false,
            _ if inside => commands.extend([line, "\n"]),
            _ => {}
        }
    }
    commands
}

/// A vault whose key is in a file, as a person has it.
pub(crate) fn with_key_file(vault: &Vault, folder: &Path) -> Vault {
    let key = folder.join("backup.key");
    fs::write(&key, KEY).unwrap();
    Vault::new(groundskeeper_backup::Settings { key: KeySource::File(key), ..vault.settings().clone() })
}

/// The plan as somebody follows it who has the folder, the port and the programs in another place than it says.
pub(crate) struct Followed {
    pub(crate) script: String,
    pub(crate) into: TempDir,
    data: PathBuf,
    port: u16,
}

impl Followed {
    pub(crate) fn new(vault: &Vault, plan: &str, part: &str) -> Self {
        let into = tempfile::Builder::new().prefix("restored-").tempdir().unwrap();
        let port = port::free().unwrap();
        let mut script = commands(plan).replace(INTO, &into.path().display().to_string());
        script = script.replace(&format!("-p {PORT}"), &format!("-p {port}"));
        if let Some(programs) = vault.settings().programs.first() {
            script = format!("export PATH={}:$PATH\n{script}", programs.display());
        }
        let data = into.path().join(part).join("data");
        Self { script, into, data, port }
    }

    /// All that was said up to the answer of the restored server, which is stopped after that.
    pub(crate) fn ask(&self, password: &str, sql: &str) -> String {
        let ended = "pg_ctl_stop() { runuser -u postgres -- \"$(command -v pg_ctl)\" -D \"$DATA\" -m immediate stop; }; trap \
                     pg_ctl_stop EXIT";
        let script = format!(
            "set -euo pipefail\nexport PGPASSWORD={password} DATA={}\n{ended}\n{}\nrunuser -u postgres -- \
             \"$(command -v psql)\" -h /tmp -p {} -d postgres -Atc \"{sql}\"\n",
            self.data.display(),
            self.script,
            self.port
        );
        let ran = Command::new("bash").arg("-c").arg(&script).current_dir("/").output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        let log = fs::read_to_string(self.data.with_file_name("server.log")).unwrap_or_default();
        assert!(ran.status.success(), "{script}\n--- out\n{out}\n--- err\n{err}\n--- log\n{log}");
        format!("{out}\n--- err\n{err}\n--- log\n{log}")
    }
}

#[tokio::test]
async fn a_person_with_restic_and_postgres_gets_everything_back_by_the_plan() {
    let scene = Scene::new().await;
    let client = scene.server.client().await;
    let space = scene.folder.path().join("space");
    make_space(&space, &scene.server.data_dir());
    client.batch_execute(&format!("CREATE TABLESPACE side LOCATION '{}'", space.display())).await.unwrap();
    client.batch_execute("CREATE TABLE beside TABLESPACE side AS SELECT generate_series(1, 70) AS id").await.unwrap();
    scene.make().await;
    scene.vault.drill(None, BUDGET, now()).await.unwrap();
    let vault = with_key_file(&scene.vault, scene.folder.path());
    vault.keep_plan(now()).await.unwrap();
    let plan = fs::read_to_string(scene.repository().join("recovery.md")).unwrap();
    assert!(plan.contains("From the start of the restore to the first answer it took **"), "{plan}");
    assert!(!plan.contains(KEY), "a plan holds no secret");
    drop(client);

    let followed = Followed::new(&vault, &plan, "postgres.main");
    let asked = "SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM beside), (SELECT pg_tablespace_location(oid) \
                 FROM pg_tablespace WHERE spcname = 'side')";
    let said = followed.ask(scene.server.password(), asked);
    let restored = followed.into.path().join("postgres.main/tablespaces");
    assert!(said.contains(&format!("5000|70|{}", restored.display())), "{said}");
    assert!(!plan.contains("age -d"), "no WAL leads on from here");
}
