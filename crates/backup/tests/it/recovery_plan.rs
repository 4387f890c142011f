//! Somebody without Groundskeeper follows the recovery plan, word by word.

use crate::scene::{BUDGET, KEY, Scene, make_space, now};
use groundskeeper_backup::Vault;
use groundskeeper_backup::plan::{INTO, PORT};
use groundskeeper_backup::vault::KeySource;
use groundskeeper_testing::port;
use std::fs;
use std::process::Command;

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
    let key = scene.folder.path().join("backup.key");
    fs::write(&key, KEY).unwrap();
    let settings = groundskeeper_backup::Settings { key: KeySource::File(key), ..scene.vault.settings().clone() };
    let vault = Vault::new(settings);
    vault.keep_plan(now()).await.unwrap();
    let plan = fs::read_to_string(scene.repository().join("recovery.md")).unwrap();
    assert!(plan.contains("From the start of the restore to the first answer it took **"), "{plan}");
    assert!(!plan.contains(KEY), "a plan holds no secret");
    drop(client);

    // What a reader would have in another place: the folder, the port, the programs of this test's server.
    let into = tempfile::Builder::new().prefix("restored-").tempdir().unwrap();
    let port = port::free().unwrap();
    let mut script = commands(&plan).replace(INTO, &into.path().display().to_string());
    script = script.replace(&PORT.to_string(), &port.to_string());
    if let Some(programs) = vault.settings().programs.first() {
        script = format!("export PATH={}:$PATH\n{script}", programs.display());
    }
    let ended = "pg_ctl_stop() { runuser -u postgres -- \"$(command -v pg_ctl)\" -D \"$DATA\" -m immediate stop; }; trap \
                 pg_ctl_stop EXIT";
    let data = into.path().join("postgres.main/data");
    let asked = format!(
        "runuser -u postgres -- \"$(command -v psql)\" -h /tmp -p {port} -d postgres -Atc \"SELECT (SELECT count(*) FROM \
         documents), (SELECT count(*) FROM beside), (SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = \
         'side')\""
    );
    let script = format!(
        "set -euo pipefail\nexport PGPASSWORD={} DATA={}\n{ended}\n{script}\n{asked}\n",
        scene.server.password(),
        data.display()
    );
    let ran = Command::new("bash").arg("-c").arg(&script).current_dir("/").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{script}\n--- out\n{out}\n--- err\n{err}");
    let restored = into.path().join("postgres.main/tablespaces");
    assert!(out.contains(&format!("5000|70|{}", restored.display())), "{out}\n{err}");
}
