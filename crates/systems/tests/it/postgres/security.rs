//! What a reading sees of settings, access rules and rights, and what is found about them: each caused for real.

use super::{now, read, role, seen};
use groundskeeper_core::check::{Status, Tuning, catalogue, judge, judge_all};
use groundskeeper_core::observation::{Accepted, Observation, Owner};
use groundskeeper_core::{Finding, Severity, SystemId, SystemKind};
use groundskeeper_systems::postgres::grants::{Wish, grants};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::time::{Duration, Instant};

async fn status(url: &str, check: &str) -> Status {
    let reading = Observation::Postgres(read(url).await);
    let system = SystemId::new(SystemKind::Postgres, "main");
    let judged = judge_all(&system, &reading, None, &Tuning::default(), now());
    judged.into_iter().find(|judgement| judgement.check == check).unwrap().status
}

async fn only(url: &str, check: &str) -> Finding {
    match status(url, check).await {
        Status::Failing { mut findings } if findings.len() == 1 => findings.remove(0),
        other => panic!("{check}: {other:#?}"),
    }
}

/// Waits for a reload to arrive.
async fn until(url: &str, check: &str, wanted: impl Fn(&Status) -> bool) {
    let given_up = Instant::now() + Duration::from_secs(20);
    loop {
        let status = status(url, check).await;
        if wanted(&status) {
            return;
        }
        assert!(Instant::now() < given_up, "{check}: {status:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn run(server: &PostgresServer, statements: &str) {
    let client = server.client().await;
    for statement in statements.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// A role with the rights of the printed script and no more.
async fn keeper(server: &PostgresServer) -> String {
    let client = server.client().await;
    client.batch_execute(&grants("keeper", "postgres", &[Wish::Watch])).await.unwrap();
    client.batch_execute("ALTER ROLE keeper PASSWORD 'right'").await.unwrap();
    server.url_for("keeper", "right", "postgres")
}

#[tokio::test]
async fn settings_are_read_with_their_owners_and_without_their_secrets() {
    let server = PostgresServer::start().await.unwrap();
    run(&server, "ALTER SYSTEM SET work_mem = '8MB'; ALTER SYSTEM SET archive_command = 'copy --password hunter2'")
        .await;
    run(&server, "ALTER SYSTEM SET primary_conninfo = 'host=a password=hunter2'").await;
    // Texts of extensions: one that nobody has loaded, and one that every session loads. Its name does not tell a secret.
    for name in ["vectorize.openai_key", "anon.salt", "app.encryption_key"] {
        // Up to 16 a session has to know the name first.
        run(&server, &format!("SET {name} = 'hunter2'; ALTER SYSTEM SET {name} = 'hunter2'")).await;
    }
    run(&server, "ALTER SYSTEM SET session_preload_libraries = 'plpgsql'").await;
    run(&server, "LOAD 'plpgsql'; ALTER SYSTEM SET plpgsql.extra_warnings = 'strict_multi_assignment'").await;
    run(&server, "SELECT pg_reload_conf()").await;
    let url = keeper(&server).await;
    until(&url, "postgres.crash_unsafe", |status| matches!(status, Status::Failing { .. })).await;
    let given_up = Instant::now() + Duration::from_secs(20);
    let settings = loop {
        let settings = seen(&url).await.settings.unwrap();
        if settings.value("work_mem") == Some("8192") {
            break settings;
        }
        assert!(Instant::now() < given_up, "the reload does not arrive");
    };
    assert_eq!(settings.number("work_mem"), Some(8_388_608.0));
    assert_eq!(settings.get("work_mem").unwrap().owner(), Owner::AlterSystem);
    assert_eq!(settings.number("shared_buffers"), Some(16_777_216.0));
    assert!(matches!(settings.get("shared_buffers").unwrap().owner(), Owner::File { line: Some(_), .. }));
    assert_eq!(settings.get("port").unwrap().owner(), Owner::CommandLine);
    assert_eq!(settings.get("effective_cache_size").unwrap().owner(), Owner::Nobody);
    assert!(settings.value("primary_conninfo").unwrap().starts_with("sha256:"), "{settings:#?}");
    assert!(settings.value("plpgsql.extra_warnings").unwrap().starts_with("sha256:"), "{settings:#?}");
    assert!(settings.get("plpgsql.extra_warnings").unwrap().boot.as_deref().unwrap().starts_with("sha256:"));
    let told = format!("{settings:?}");
    assert!(!told.contains("hunter2") && !told.contains("strict_multi_assignment"), "{settings:#?}");
    assert!(settings.get("statement_timeout").is_none(), "that one is our session's");
}

#[tokio::test]
async fn data_that_a_power_cut_would_destroy_is_critical_and_the_fix_mends_it() {
    let server =
        PostgresServer::start_with(PostgresOptions::default().set("fsync", "on").set("full_page_writes", "on"))
            .await
            .unwrap();
    let url = keeper(&server).await;
    assert_eq!(status(&url, "postgres.crash_unsafe").await, Status::Ok);
    run(&server, "ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()").await;
    until(&url, "postgres.crash_unsafe", |status| matches!(status, Status::Failing { .. })).await;
    let found = only(&url, "postgres.crash_unsafe").await;
    assert_eq!(found.severity, Severity::Critical);
    let (fix, _) = found.fix.split_once("Then").unwrap();
    run(&server, &format!("{fix} SELECT pg_reload_conf()")).await;
    until(&url, "postgres.crash_unsafe", |status| *status == Status::Ok).await;
}

#[tokio::test]
async fn a_setting_that_waits_for_a_restart_is_found_until_it_is_taken_back() {
    let server = PostgresServer::start().await.unwrap();
    let url = keeper(&server).await;
    assert_eq!(status(&url, "postgres.restart_pending").await, Status::Ok);
    run(&server, "ALTER SYSTEM SET max_connections = 150; SELECT pg_reload_conf()").await;
    until(&url, "postgres.restart_pending", |status| matches!(status, Status::Failing { .. })).await;
    let found = only(&url, "postgres.restart_pending").await;
    assert!(found.summary.contains("max_connections"), "{}", found.summary);
    run(&server, "ALTER SYSTEM RESET max_connections; SELECT pg_reload_conf()").await;
    until(&url, "postgres.restart_pending", |status| *status == Status::Ok).await;
}

#[tokio::test]
async fn checksums_are_seen_where_they_are() {
    for (flag, is_on) in [("--data-checksums", true), ("--no-data-checksums", false)] {
        // 18 has them by default, and the flag against it; 15 does not know that flag.
        let mut options = PostgresOptions { initdb: vec![flag.to_owned()], ..PostgresOptions::default() };
        let server = match PostgresServer::start_with(options.clone()).await {
            Ok(server) => server,
            Err(_) if !is_on => {
                options.initdb.clear();
                PostgresServer::start_with(options).await.unwrap()
            }
            Err(error) => panic!("{error:#}"),
        };
        let found = status(&keeper(&server).await, "postgres.checksums_off").await;
        assert_eq!(found == Status::Ok, is_on, "{flag}: {found:#?}");
    }
}

/// Puts a line at the top of `pg_hba.conf`, so that none hides it, and has the file read.
async fn prepend_rule(server: &PostgresServer, line: &str) {
    let path = server.data_dir().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&path).unwrap();
    // Written in place: the file belongs to the server's user.
    std::fs::write(&path, format!("{line}\n{rules}")).unwrap();
    run(server, "SELECT pg_reload_conf()").await;
}

#[tokio::test]
async fn access_without_a_password_is_found_by_a_role_with_the_printed_grants() {
    let server = PostgresServer::start_with(PostgresOptions::default().set("listen_addresses", "*")).await.unwrap();
    let bare = role(&server, "watcher", "").await;
    run(&server, "GRANT pg_monitor TO watcher").await;
    match status(&bare, "postgres.hba_trust").await {
        Status::Unknown(unknown) => {
            assert!(!unknown.kind.is_trouble(), "on a managed server nobody can mend it");
            let (_, fix) = unknown.reason.split_once("in this database: ").unwrap();
            run(&server, fix).await;
        }
        other => panic!("pg_monitor shows them: {other:#?}"),
    }
    assert_eq!(status(&bare, "postgres.hba_trust").await, Status::Ok, "the grant that is named is enough");
    let url = keeper(&server).await;
    assert_eq!(status(&url, "postgres.hba_trust").await, Status::Ok);
    prepend_rule(&server, "host docrag docrag samenet scram-sha-256").await;
    assert_eq!(status(&url, "postgres.hba_trust").await, Status::Ok);
    for (line, severity, words) in [
        ("local app app trust", Severity::Info, "the server's own machine"),
        ("host all all 10.0.0.0/8 trust", Severity::Warning, "host all all 10.0.0.0/8 trust"),
        ("hostssl all all all trust clientcert=verify-full", Severity::Warning, "10.0.0.0/8"),
        ("host app app 0.0.0.0/0 trust", Severity::Critical, "host app app 0.0.0.0/0 trust"),
    ] {
        prepend_rule(&server, line).await;
        let found = only(&url, "postgres.hba_trust").await;
        assert_eq!(found.severity, severity, "{line}: {}", found.summary);
        assert!(found.summary.contains(words), "{}", found.summary);
    }
    assert_eq!(status(&url, "postgres.hba_invalid").await, Status::Ok);
    prepend_rule(&server, "host all all 10.0.0.0/8 scrum").await;
    let found = only(&url, "postgres.hba_invalid").await;
    assert!(found.summary.contains("scrum"), "{}", found.summary);
}

#[tokio::test]
async fn a_server_that_listens_without_tls_is_told_and_one_for_itself_is_not() {
    let server = PostgresServer::start_with(PostgresOptions::default().set("listen_addresses", "*")).await.unwrap();
    let found = only(&keeper(&server).await, "postgres.tls_off").await;
    assert_eq!(found.severity, Severity::Info);
    let server = PostgresServer::start().await.unwrap();
    let url = keeper(&server).await;
    assert_eq!(status(&url, "postgres.tls_off").await, Status::Ok);
    let clients = seen(&url).await.security.plain_clients.unwrap();
    assert!(clients.iter().any(|client| client.user == "keeper" && client.address.is_loopback()), "{clients:#?}");
    // Without pg_monitor others' connections are hidden.
    let others = server.client().await;
    let bare = role(&server, "bare", "").await;
    assert!(seen(&bare).await.security.plain_clients.unwrap_err().permission);
    drop(others);
}

#[tokio::test]
async fn roles_schemas_and_routines_that_allow_too_much_are_found_and_the_fixes_mend_them() {
    let server = PostgresServer::start().await.unwrap();
    let url = keeper(&server).await;
    for check in ["postgres.superusers_many", "postgres.schema_public_create", "postgres.search_path_open"] {
        let found = status(&url, check).await;
        let is_old = seen(&url).await.server.version_num < 150_000 && check == "postgres.schema_public_create";
        assert!(found == Status::Ok || is_old, "{check}: {found:#?}");
    }
    assert_eq!(status(&url, "postgres.grants_excessive").await, Status::Ok);
    assert_eq!(only(&server.url(), "postgres.grants_excessive").await.severity, Severity::Info);

    for name in ["a", "b", "c"] {
        run(&server, &format!("CREATE ROLE {name} LOGIN SUPERUSER")).await;
    }
    run(&server, "CREATE ROLE d SUPERUSER").await;
    let found = only(&url, "postgres.superusers_many").await;
    assert!(found.summary.ends_with("superusers: a, b, c"), "{}", found.summary);
    run(&server, found.fix.split_once("need: ").unwrap().1).await;
    assert_eq!(status(&url, "postgres.superusers_many").await, Status::Ok);

    run(&server, "CREATE ROLE app; GRANT CREATE ON SCHEMA public TO PUBLIC; SET ROLE app; CREATE TABLE mine (id int)")
        .await;
    run(&server, "CREATE ROLE typist; SET ROLE typist; CREATE TYPE mood AS ENUM ('fine')").await;
    for name in 0..11 {
        let body = "RETURNS int LANGUAGE sql AS 'SELECT 1'";
        run(&server, &format!("CREATE ROLE maker{name}; SET ROLE maker{name}; CREATE FUNCTION made{name}() {body}"))
            .await;
    }
    let found = only(&url, "postgres.schema_public_create").await;
    run(&server, found.fix.split_once("In database postgres: ").unwrap().1).await;
    assert_eq!(status(&url, "postgres.schema_public_create").await, Status::Ok);
    run(&server, "SET ROLE app; CREATE TABLE another (id int)").await;
    run(&server, "SET ROLE typist; CREATE TABLE typed (id int)").await;
    for name in 0..11 {
        run(&server, &format!("SET ROLE maker{name}; CREATE TABLE of{name} (id int)")).await;
    }

    let body = "LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'";
    run(&server, &format!("CREATE FUNCTION safe() RETURNS int SET search_path = pg_catalog {body}")).await;
    run(&server, &format!("CREATE FUNCTION \"Un safe\"(a int, b text) RETURNS int {body}")).await;
    let found = only(&url, "postgres.search_path_open").await;
    assert_eq!(found.severity, Severity::Warning);
    run(&server, found.fix.split_once("it uses: ").unwrap().1).await;
    assert_eq!(status(&url, "postgres.search_path_open").await, Status::Ok);
}

#[tokio::test]
async fn an_extension_behind_its_files_is_found_and_the_fix_updates_it() {
    let server = PostgresServer::start().await.unwrap();
    let url = keeper(&server).await;
    run(&server, "CREATE EXTENSION pg_stat_statements VERSION '1.7'").await;
    let found = only(&url, "postgres.extension_outdated").await;
    assert!(found.summary.starts_with("extension pg_stat_statements is 1.7 and its files are 1."), "{}", found.summary);
    run(&server, found.fix.split_once("In database postgres: ").unwrap().1).await;
    assert_eq!(status(&url, "postgres.extension_outdated").await, Status::Ok);
}

/// The record is not here: what the first reading saw stands for what was accepted.
#[tokio::test]
async fn a_setting_that_was_changed_is_told_with_both_values_and_where_it_came_from() {
    let server = PostgresServer::start().await.unwrap();
    let url = keeper(&server).await;
    let first = seen(&url).await;
    let accepted = Accepted::of(first.settings.as_ref().unwrap(), first.access.sees_all(), now(), "ann");
    let judged = async || {
        let mut reading = read(&url).await;
        reading.outcome.as_mut().unwrap().accepted = Some(Box::new(accepted.clone()));
        let system = SystemId::new(SystemKind::Postgres, "main");
        let check = catalogue::find("postgres.settings_drifted").unwrap();
        match judge(check, &system, &Observation::Postgres(reading), None, &Tuning::default(), now()).status {
            Status::Failing { mut findings } => Some(findings.remove(0)),
            Status::Ok => None,
            Status::Unknown(unknown) => panic!("{unknown:?}"),
        }
    };
    assert_eq!(judged().await, None);
    run(&server, "ALTER SYSTEM SET work_mem = '7MB'; SELECT pg_reload_conf()").await;
    let given_up = Instant::now() + Duration::from_secs(20);
    let found = loop {
        if let Some(found) = judged().await {
            break found;
        }
        assert!(Instant::now() < given_up, "the reload does not arrive");
    };
    assert_eq!(found.summary, "work_mem is 7MB and was accepted as its default: set by ALTER SYSTEM");
    let path = server.data_dir().join("postgresql.conf");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\nmax_wal_size = '2GB'\n")).unwrap();
    run(&server, "ALTER SYSTEM RESET work_mem; SELECT pg_reload_conf()").await;
    let line = text.lines().count() + 2;
    let wanted = format!("max_wal_size is 2GB and was accepted as 1GB: set by {}:{line}", path.display());
    let given_up = Instant::now() + Duration::from_secs(20);
    loop {
        let told = judged().await.map(|found| found.summary);
        if told.as_ref() == Some(&wanted) {
            break;
        }
        assert!(Instant::now() < given_up, "{told:?} and not {wanted}");
    }
}
