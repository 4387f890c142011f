//! Advice for the settings of a real server, as its users meet it.

use groundskeeper::app::api::TuneView;
use groundskeeper_core::tuning::postgres::{Way, Weight};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A configuration with this server on a machine of 8 GiB.
fn place(server: &PostgresServer) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "state_dir = \"{}\"\n[postgres.main]\nurl = \"{}\"\nmachine = {{ memory = \"8 GiB\", cores = 2, storage = \"ssd\" }}\n",
        folder.path().join("state").display(),
        server.url()
    );
    std::fs::write(folder.path().join("groundskeeper.toml"), text).unwrap();
    folder
}

/// The exit code, what was said, and what was complained about.
async fn tune(folder: &TempDir, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_groundskeeper"));
    command
        .args(["tune", "postgres"])
        .args(arguments)
        .current_dir(folder.path())
        .env_clear()
        .env("HOME", folder.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

async fn view(folder: &TempDir) -> TuneView {
    let (code, out, err) = tune(folder, &["main", "--output", "json"]).await;
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_advised_can_be_copied_and_is_not_advised_again() {
    let options = PostgresOptions::default().set("work_mem", "256MB").set("random_page_cost", "4");
    let server = PostgresServer::start_with(options).await.unwrap();
    let folder = place(&server);
    let before = view(&folder).await;
    let weighty: Vec<_> = before
        .advised
        .advice
        .iter()
        .filter(|one| one.weight == Weight::Matters)
        .map(|one| one.setting.as_str())
        .collect();
    assert!(weighty.contains(&"shared_buffers") && weighty.contains(&"work_mem"), "{weighty:?}");
    // The test's own file owns these two, and nobody else may overrule it.
    for name in ["shared_buffers", "work_mem", "random_page_cost"] {
        let one = before.advised.advice.iter().find(|one| one.setting == name).unwrap();
        assert!(
            matches!(&one.way, Way::Elsewhere { place, .. } if place.contains("postgresql.conf, line ")),
            "{one:#?}"
        );
        assert_eq!(one.needs_restart, name == "shared_buffers");
    }

    let (code, out, err) = tune(&folder, &[]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("8 GiB of memory, 2 cores, ssd: told by the configuration"), "{out}");
    assert!(out.contains("postgresql.conf, line ") && out.contains("Nothing was changed."), "{out}");
    assert!(!out.contains(server.password()), "{out}");
    let statements: Vec<&str> = out
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("ALTER SYSTEM SET ") || line.starts_with("SELECT pg_"))
        .collect();
    assert!(statements.len() > 4, "{out}");
    let client = server.client().await;
    for statement in &statements {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    // A reload arrives in its own time.
    let given_up = Instant::now() + Duration::from_secs(20);
    loop {
        let after = view(&folder).await;
        let again: Vec<_> =
            after.advised.advice.iter().filter(|one| matches!(one.way, Way::Statement { .. })).collect();
        if again.is_empty() {
            break;
        }
        assert!(Instant::now() < given_up, "{again:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_needs_no_configuration_and_a_wrong_name_names_the_nearest() {
    let server = PostgresServer::start().await.unwrap();
    let folder = place(&server);
    // Behind a port of this machine may be a tunnel to another one.
    let (code, out, err) = tune(&folder, &[&server.url()]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("its machine is not known") && out.contains("machine = { memory = \"8 GiB\" }"), "{out}");
    let socket = server.socket_dir().display().to_string().replace('/', "%2F");
    let url = format!("postgres://postgres:{}@{socket}:{}/postgres", server.password(), server.port());
    let (code, out, err) = tune(&folder, &[&url]).await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("told by this machine") && out.contains("machine = { storage = \"ssd\" }"), "{out}");
    let (code, _, err) = tune(&folder, &["mian"]).await;
    assert!(code == 2 && err.contains("there is no Postgres `mian`"), "{err}");
    let (code, _, err) = tune(&folder, &["postgres://me@127.0.0.1:1/app"]).await;
    assert!(code == 3 && err.contains("does not answer"), "{code} {err}");
    let empty = tempfile::tempdir().unwrap();
    std::fs::write(empty.path().join("groundskeeper.toml"), "[redis.cache]\nurl = \"redis://127.0.0.1:1\"\n").unwrap();
    let (code, _, err) = tune(&empty, &[]).await;
    assert!(code == 2 && err.contains("no Postgres is configured"), "{err}");
}
