//! Starting while something does not answer, and being told to stop meanwhile.

use crate::scene::{Scene, WITHIN, eventually};
use docrag::service::{ModelState, Service};
use docrag::store::Store;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn configured(scene: &Scene, embedding: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("[database]\nurl = \"{}\"\n[embedding]\n{embedding}\n", scene.postgres.url());
    fs::write(folder.path().join("docrag.toml"), text).unwrap();
    folder
}

fn docrag(folder: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_docrag"));
    command.arg("--config").arg(folder.path().join("docrag.toml")).env_remove("DATABASE_URL").env_remove("REDIS_URL");
    command.stdin(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_hangs_is_not_waited_for_and_is_asked_again() {
    let scene = Scene::start().await;
    scene.endpoint.set_delay(Duration::from_mins(1));
    let since = Instant::now();
    let service = Service::open(scene.settings()).await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    let state = service.model_state();
    assert!(matches!(&state, ModelState::Unavailable { reason } if reason.contains("3s")), "{state:?}");
    scene.endpoint.set_delay(Duration::ZERO);
    let background = service.start();
    eventually("the model serves", async || matches!(service.model_state(), ModelState::Serving { .. })).await;
    background.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_while_it_still_opens_it_stops() {
    let scene = Scene::start().await;
    Store::open(&scene.settings().database).await.unwrap().migrate().await.unwrap();
    let client = scene.postgres.client().await;
    client.batch_execute("BEGIN; LOCK TABLE models IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let folder = configured(&scene, &format!("endpoint = \"{}\"\ndimension = 32", scene.endpoint.url()));
    let mut command = docrag(&folder);
    command.args(["serve", "--listen", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    eventually("it waits for Postgres", async || scene.number(waits).await > 0).await;
    let since = Instant::now();
    kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        if since.elapsed() > WITHIN / 3 {
            process.kill().unwrap();
            process.wait().unwrap();
            panic!("it goes on opening");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_is_shown_without_a_model() {
    let scene = Scene::start().await;
    let folder = configured(&scene, "model_dir = \"/nowhere\"");
    let shown = tokio::task::spawn_blocking(move || docrag(&folder).arg("status").output().unwrap()).await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    assert!(shown.status.success(), "{out}{err}");
    assert!(out.contains("no embedding model serves yet"), "{out}");
}
