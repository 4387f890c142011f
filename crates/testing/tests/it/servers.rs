//! Postgres and Redis: they start, stop, come back, and leave nothing behind.

use std::path::{Path, PathBuf};

use groundskeeper_testing::{PostgresOptions, PostgresServer, RedisServer};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

fn runs(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn postgres_comes_back_with_its_data_and_its_port() {
    let mut server = PostgresServer::start().await.unwrap();
    let port = server.port();
    let client = server.client().await;
    client.batch_execute("CREATE TABLE kept (id int); INSERT INTO kept VALUES (7)").await.unwrap();

    server.stop().await.unwrap();
    let refused = tokio_postgres::connect(&server.url(), NoTls).await.err().unwrap();
    assert!(refused.code().is_none(), "nothing may answer while it is stopped: {refused:?}");

    server.start_again().await.unwrap();
    assert_eq!(server.port(), port);
    let row = server.client().await.query_one("SELECT id FROM kept", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
}

#[tokio::test]
async fn postgres_recovers_from_an_immediate_stop() {
    let mut server = PostgresServer::start().await.unwrap();
    server.client().await.batch_execute("CREATE TABLE kept (id int)").await.unwrap();
    server.stop_immediate().await.unwrap();
    server.start_again().await.unwrap();
    server.client().await.query("SELECT id FROM kept", &[]).await.unwrap();
}

#[tokio::test]
async fn postgres_takes_settings_and_checks_passwords() {
    let options = PostgresOptions::default().set("work_mem", "7MB").set("application_name", "it's");
    let server = PostgresServer::start_with(options).await.unwrap();
    let client = server.client().await;
    for (name, value) in [("work_mem", "7MB"), ("fsync", "off"), ("shared_preload_libraries", "pg_stat_statements")] {
        let row = client.query_one(&format!("SHOW {name}"), &[]).await.unwrap();
        assert_eq!(row.get::<_, &str>(0), value);
    }
    client
        .batch_execute("CREATE EXTENSION pg_stat_statements; CREATE ROLE \"o'd@d\" LOGIN PASSWORD 'p:/?'")
        .await
        .unwrap();

    server.client_at(&server.url_for("o'd@d", "p:/?", "postgres")).await;
    let wrong = tokio_postgres::connect(&server.url_for("postgres", "wrong", "postgres"), NoTls).await.err().unwrap();
    assert_eq!(wrong.code(), Some(&SqlState::INVALID_PASSWORD));
}

#[tokio::test]
async fn a_postgres_that_cannot_start_shows_its_log() {
    let options = PostgresOptions::default().set("shared_buffers", "plenty");
    let error = PostgresServer::start_with(options).await.unwrap_err();
    assert!(error.to_string().contains("invalid value for parameter \"shared_buffers\""), "{error:#}");
}

#[tokio::test]
async fn a_dropped_postgres_leaves_no_process_and_no_folder() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    let backend: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let (pid, folder) = (server.pid().unwrap(), server.data_dir().parent().map(PathBuf::from).unwrap());
    assert!(runs(pid) && runs(backend as u32) && folder.is_dir());
    drop(server);
    assert!(!runs(pid), "the postmaster still runs");
    assert!(!runs(backend as u32), "a backend still runs");
    assert!(!folder.exists(), "{} is still there", folder.display());
}

#[tokio::test]
async fn a_frozen_postgres_is_cleaned_up_as_well() {
    let server = PostgresServer::start().await.unwrap();
    let pid = server.pid().unwrap();
    server.freeze().unwrap();
    drop(server);
    assert!(!runs(pid));
}

#[tokio::test]
async fn redis_stops_comes_back_and_is_cleaned_up() {
    let mut server = RedisServer::start_with(&["--maxmemory", "8mb", "--requirepass", "s3cret"]).await.unwrap();
    let mut connection = server.connection().await;
    let (_, limit): (String, u64) =
        redis::cmd("CONFIG").arg("GET").arg("maxmemory").query_async(&mut connection).await.unwrap();
    assert_eq!(limit, 8 * 1024 * 1024);

    let port = server.port();
    server.stop().await.unwrap();
    assert!(tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err());
    server.start_again().await.unwrap();
    assert_eq!(server.port(), port);
    server.connection().await;

    let (pid, folder) = (server.pid().unwrap(), server.dir().to_owned());
    drop(server);
    assert!(!runs(pid) && !folder.exists());
}

#[tokio::test]
async fn servers_started_at_the_same_time_do_not_meet() {
    let (one, two, three) = tokio::try_join!(RedisServer::start(), RedisServer::start(), RedisServer::start()).unwrap();
    let mut pids = [one.pid(), two.pid(), three.pid()];
    pids.sort_unstable();
    assert!(pids.windows(2).all(|pair| pair[0] != pair[1]));
    assert!(one.port() != two.port() && two.port() != three.port() && one.port() != three.port());
}

#[test]
fn starting_can_be_spawned() {
    fn spawnable<F: Future + Send>(_: F) {}
    spawnable(PostgresServer::start());
    spawnable(RedisServer::start());
    spawnable(groundskeeper_testing::HttpTarget::start());
}
