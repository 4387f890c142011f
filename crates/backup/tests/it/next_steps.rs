//! What a person is told to do after a restore can be done, word by word.

use crate::scene::{Scene, make_space};
use groundskeeper_testing::port;
use groundskeeper_testing::postgres::BIN_VARIABLE;
use std::path::Path;
use std::process::Command;

/// A command as a person types it.
fn shell(command: &str) {
    let ran = Command::new("sh").args(["-c", command]).current_dir("/").output().unwrap();
    let said = [ran.stdout, ran.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(ran.status.success(), "{command}: {said}");
}

/// Ends the server of a data directory, however the test ends.
struct Stopped<'a>(&'a Path);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        let file = std::fs::read_to_string(self.0.join("postmaster.pid")).unwrap_or_default();
        let Some(pid) = file.lines().next().and_then(|pid| pid.parse().ok()) else { return };
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::QUIT);
        while self.0.join("postmaster.pid").exists() && Path::new(&format!("/proc/{pid}")).exists() {
            std::thread::yield_now();
        }
    }
}

/// A set with a tablespace in it, and the server that it is of.
async fn scene_with_a_tablespace() -> Scene {
    let scene = Scene::new().await;
    let space = scene.server.data_dir().parent().unwrap().join("space");
    make_space(&space, &scene.server.data_dir());
    let client = scene.server.client().await;
    client.batch_execute(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display())).await.unwrap();
    let fill = "CREATE TABLE placed (id int PRIMARY KEY) TABLESPACE fast; INSERT INTO placed VALUES (1), (2)";
    client.batch_execute(fill).await.unwrap();
    scene.make().await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn the_printed_steps_lead_to_a_server_that_answers() {
    let scene = scene_with_a_tablespace().await;
    let into = scene.folder.path().join("not there/yet");
    let restored = scene.vault.restore(None, Some("postgres.main"), &into).await.unwrap();
    let data = into.join("postgres.main/data");
    let port = port::free().unwrap().to_string();
    let _stopped = Stopped(&data);
    let mut commands = 0;
    for step in &restored.parts[0].next {
        let Some((_, command)) = step.split_once(": ") else { continue };
        let program = command.split(' ').next().unwrap();
        if ["chown", "chmod", "runuser"].contains(&program) || program.ends_with("pg_ctl") {
            shell(&command.replace("5433", &port));
            commands += 1;
        }
    }
    let wanted = if rustix::process::geteuid().is_root() { 3 } else { 1 };
    assert_eq!(commands, wanted, "{:?}", restored.parts[0].next);
    let live = format!(":{}/", scene.server.port());
    let client = scene.server.client_at(&scene.server.url().replace(&live, &format!(":{port}/"))).await;
    let row = client.query_one("SELECT current_setting('data_directory'), count(*) FROM placed", &[]).await.unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, i64>(1)), (data.display().to_string(), 2));
}

/// The document's own lines, for whoever has nothing but restic.
#[tokio::test(flavor = "multi_thread")]
async fn the_documented_steps_with_plain_restic_lead_to_a_checked_cluster() {
    let document = include_str!("../../../../docs/backup.md");
    let scene = scene_with_a_tablespace().await;
    let target = scene.folder.path().join("restored");
    let restored = scene.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    let (_, steps) = document.split_once("3. Give the cluster").unwrap();
    let (_, steps) = steps.split_once("```console\n").unwrap();
    let (steps, after) = steps.split_once("```").unwrap();
    let (_, linking) = after.split_once("```console\n").unwrap();
    let (linking, _) = linking.split_once("```").unwrap();
    let lines: Vec<&str> = steps.lines().filter_map(|line| line.trim().strip_prefix("# ")).collect();
    let (verify, prepare) = lines.split_last().unwrap();
    assert!(verify.contains("pg_verifybackup") && prepare.len() == 2, "{lines:?}");
    let linking: Vec<&str> = linking.lines().filter_map(|line| line.trim().strip_prefix("# ")).collect();
    let programs = std::env::var(BIN_VARIABLE).unwrap_or_else(|_| "/usr/lib/postgresql/15/bin".to_owned());
    let here = |line: &str| {
        line.replace("/srv/restored", target.to_str().unwrap()).replace("/usr/lib/postgresql/15/bin", &programs)
    };
    let mut verify = here(verify).replace("pg_verifybackup", "pg_verifybackup -i tablespace_map");
    if rustix::process::geteuid().is_root() {
        for line in prepare {
            shell(&here(line));
        }
        // The same, where there is no sudo.
        verify = verify.replace("sudo -u postgres", "runuser -u postgres --");
    } else {
        verify = verify.replace("sudo -u postgres", "");
    }
    shell(&here(&linking.join(" && ")));
    shell(&verify);
}
