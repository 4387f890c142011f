//! Being let in, and why not.

use super::{BOUND, address, endpoint, replicate, take, text};
use crate::postgres::role;
use groundskeeper_core::observation::FailureKind;
use groundskeeper_core::receipt::Lsn;
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::walsender::{WalSender, WalSenderError};
use groundskeeper_testing::{BlackHole, Closer, Garbage, PacketDropper, PostgresOptions, PostgresServer};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

#[tokio::test]
async fn a_server_says_who_it_is_and_what_its_settings_are() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    let url = role(&server, "keeper", "REPLICATION").await;
    let mut sender = replicate(&url).await.unwrap();
    assert_eq!(sender.server_version().to_string(), text(&admin, "current_setting('server_version_num')").await);
    let identity = sender.identify().await.unwrap();
    assert_eq!(identity.system_identifier, text(&admin, "SELECT system_identifier FROM pg_control_system()").await);
    assert_eq!(identity.timeline, 1);
    let flushed: Lsn = text(&admin, "pg_current_wal_flush_lsn()").await.parse().unwrap();
    assert!(identity.flushed > Lsn(0) && identity.flushed <= flushed, "{identity:?}");
    assert_eq!(sender.show("wal_segment_size").await.unwrap(), "16MB");

    let unknown = sender.show("no_such_setting").await.unwrap_err();
    assert!(matches!(&unknown, WalSenderError::Server { sqlstate, .. } if sqlstate == "42704"), "{unknown}");
    assert_eq!(sender.show("wal_level").await.unwrap(), "replica", "an error does not end the session");
    let seen = text(&admin, "SELECT application_name FROM pg_stat_replication").await;
    assert_eq!(seen, "groundskeeper");
    assert!(!format!("{sender:?}").contains("pw-keeper"));
    sender.close().await;
}

#[tokio::test]
async fn a_unix_socket_works() {
    let server = PostgresServer::start().await.unwrap();
    let folder = server.socket_dir().display().to_string();
    let dsn = format!("host={folder} port={} user=postgres dbname=postgres", server.port());
    let endpoint = Endpoint::parse(&dsn, Some(server.password().to_owned().into())).unwrap();
    assert_eq!(endpoint.replicate(BOUND).await.unwrap().identify().await.unwrap().timeline, 1);
}

/// Puts lines above all others of `pg_hba.conf`.
async fn allow(server: &PostgresServer, lines: &str) {
    let path = server.data_dir().join("pg_hba.conf");
    let old = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{lines}\n{old}")).unwrap();
    server.client().await.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

/// Tries until the server has read its configuration again.
async fn once<T>(url: &str, expected: impl Fn(Result<WalSender, WalSenderError>) -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = expected(replicate(url).await) {
            return found;
        }
        assert!(started.elapsed() < BOUND, "{:?}", replicate(url).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_refusal_says_what_is_missing_and_never_the_password() {
    let server = PostgresServer::start().await.unwrap();
    let plain = role(&server, "plain", "").await;
    let shut = role(&server, "shut", "REPLICATION").await;
    for (url, expected) in [
        (server.url_for("postgres", "wrong-horse", "postgres"), "correct the role or its password"),
        (format!("postgres://postgres@{}/postgres", address(&server)), "none is configured"),
        (plain, "ALTER ROLE \"plain\" REPLICATION;"),
    ] {
        let error = replicate(&url).await.unwrap_err();
        assert!(matches!(error, WalSenderError::Denied { .. }) && !error.retryable(), "{error:?}");
        let message = format!("{error} {error:?}");
        assert!(message.contains(expected) && message.contains(&address(&server).to_string()), "{message}");
        assert!(!message.contains("wrong-horse") && !message.contains("pw-"), "{message}");
    }
    allow(&server, "host replication shut all reject").await;
    let error = once(&shut, Result::err).await.to_string();
    assert!(error.contains("`host replication \"shut\" 127.0.0.1/32 scram-sha-256`"), "{error}");
}

#[tokio::test]
async fn older_ways_to_give_the_password_work() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    admin
        .batch_execute("SET password_encryption = 'md5'; CREATE ROLE old REPLICATION LOGIN PASSWORD 'pw'")
        .await
        .unwrap();
    allow(&server, "host replication old all md5\nhost replication postgres all password").await;
    for url in [server.url_for("old", "pw", "postgres"), server.url()] {
        once(&url, Result::ok).await.identify().await.unwrap();
    }
    let error = replicate(&server.url_for("old", "wrong", "postgres")).await.unwrap_err();
    assert!(matches!(error, WalSenderError::Denied { .. }), "{error:?}");
}

#[tokio::test]
async fn a_place_that_is_taken_may_be_free_later() {
    let server = PostgresServer::start_with(PostgresOptions::default().set("max_wal_senders", "1")).await.unwrap();
    let first = replicate(&server.url()).await.unwrap();
    let error = replicate(&server.url()).await.unwrap_err();
    assert!(matches!(error, WalSenderError::NoSenderLeft { senders: Some(1), .. }) && error.retryable(), "{error:?}");
    assert!(error.to_string().contains("raise max_wal_senders"), "{error}");
    drop(first);
    once(&server.url(), Result::ok).await;
}

#[tokio::test]
async fn a_server_that_cannot_be_backed_up_says_which_setting_it_takes() {
    let none = PostgresOptions::default().set("max_wal_senders", "0");
    let server = PostgresServer::start_with(none.clone().set("wal_level", "minimal")).await.unwrap();
    let error = replicate(&server.url()).await.unwrap_err();
    assert!(matches!(error, WalSenderError::WalLevelTooLow { .. }) && !error.retryable(), "{error:?}");
    assert!(error.to_string().contains("wal_level = replica"), "{error}");
    let server = PostgresServer::start_with(none).await.unwrap();
    let error = replicate(&server.url()).await.unwrap_err();
    assert!(matches!(error, WalSenderError::NoSenderLeft { senders: Some(0), .. }) && !error.retryable(), "{error:?}");
}

#[tokio::test]
async fn the_deadline_is_kept_whatever_the_other_side_does() {
    let (hole, dropper) = (BlackHole::start().await.unwrap(), PacketDropper::start().await.unwrap());
    let server = PostgresServer::start().await.unwrap();
    server.freeze().unwrap();
    for (address, ssl) in [
        (hole.address(), "prefer"),
        (hole.address(), "disable"),
        (dropper.address(), "prefer"),
        (address(&server), "prefer"),
    ] {
        let endpoint = endpoint(&format!("postgres://u:p@{address}/d?sslmode={ssl}"));
        let (deadline, started) = (Duration::from_millis(400), Instant::now());
        let error = endpoint.replicate(deadline).await.unwrap_err();
        assert!(started.elapsed() < deadline + Duration::from_secs(2), "{:?}", started.elapsed());
        assert!(matches!(error, WalSenderError::Timeout { .. }) && error.retryable(), "{error:?}");
    }
    server.thaw().unwrap();
}

#[tokio::test]
async fn what_is_no_postgres_is_told_apart_from_one_that_is_away() {
    let (closer, garbage) = (Closer::start().await.unwrap(), Garbage::start().await.unwrap());
    for ssl in ["prefer", "disable"] {
        let closed = replicate(&format!("postgres://u:p@{}/d?sslmode={ssl}", closer.address())).await.unwrap_err();
        assert!(closed.retryable(), "{closed:?}");
        let nonsense = replicate(&format!("postgres://u:p@{}/d?sslmode={ssl}", garbage.address())).await.unwrap_err();
        assert!(matches!(nonsense, WalSenderError::Protocol { .. }) && !nonsense.retryable(), "{nonsense:?}");
    }
    let mut server = PostgresServer::start().await.unwrap();
    server.stop().await.unwrap();
    let away = replicate(&server.url()).await.unwrap_err();
    assert!(away.retryable(), "{away:?}");
    assert!(matches!(away, WalSenderError::Unreachable(failure) if failure.kind == FailureKind::Refused));
    let nowhere = replicate("postgres://u@no-such-host.invalid/d").await.unwrap_err();
    assert!(!nowhere.retryable(), "{nowhere:?}");
}

#[tokio::test]
async fn of_several_servers_the_first_that_is_wanted_is_taken() {
    let server = PostgresServer::start().await.unwrap();
    let (closer, hole) = (Closer::start().await.unwrap(), BlackHole::start().await.unwrap());
    let own = address(&server);
    let several = format!("{},{},{own}", closer.address(), hole.address());
    let url = server.url().replace(&own.to_string(), &several);
    // The silent one takes its share of the time, and no more.
    let several = endpoint(&url).replicate(Duration::from_secs(8)).await.unwrap().identify().await.unwrap();
    assert_eq!(several, replicate(&server.url()).await.unwrap().identify().await.unwrap());
    let writable = format!("{}?target_session_attrs=read-write", server.url());
    replicate(&writable).await.unwrap();
    let standby = replicate(&format!("{}?target_session_attrs=read-only", server.url())).await.unwrap_err();
    assert!(standby.to_string().contains("target_session_attrs"), "{standby}");
}

#[tokio::test]
async fn tls_is_verified_as_asked_for_and_bound_to_the_password() {
    let server = PostgresServer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("ca.pem");
    std::fs::write(&root, with_certificate(&server)).unwrap();
    let (url, root) = (server.url(), root.display());
    let without = replicate(&format!("{url}?sslmode=require")).await.unwrap_err();
    assert!(
        matches!(&without, WalSenderError::Unreachable(failure) if failure.kind == FailureKind::Tls),
        "{without:?}"
    );
    let unbound = replicate(&format!("{url}?channel_binding=require")).await.unwrap_err();
    assert!(unbound.to_string().contains("channel binding"), "{unbound}");

    server.client().await.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    server.client().await.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    once(&format!("{url}?sslmode=require"), Result::ok).await;
    let by_name = url.replace("127.0.0.1", "localhost");
    for good in [
        format!("{url}?sslmode=disable"),
        format!("{url}?sslmode=prefer&channel_binding=disable"),
        format!("{url}?sslmode=verify-ca&sslrootcert={root}"),
    ] {
        replicate(&good).await.unwrap().identify().await.unwrap();
    }
    for bad in [format!("{url}?sslmode=verify-full&sslrootcert={root}"), format!("{by_name}?sslmode=verify-ca")] {
        let Ok(endpoint) = Endpoint::parse(&bad, None) else { continue };
        let error = endpoint.replicate(BOUND).await.unwrap_err();
        assert!(
            matches!(&error, WalSenderError::Unreachable(failure) if failure.kind == FailureKind::Tls),
            "{error:?}"
        );
        assert!(!error.retryable());
    }
    let best = format!("{by_name}?sslmode=verify-full&sslrootcert={root}&channel_binding=require");
    let mut backup = replicate(&best).await.unwrap().base_backup("encrypted").await.unwrap();
    let taken = take(&mut backup).await;
    assert!(taken.archives[0].entries().contains_key("backup_label"));
}

/// Gives the server a certificate for `localhost`; answers with the authority's.
fn with_certificate(server: &PostgresServer) -> String {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let owner = std::fs::metadata(server.data_dir()).unwrap();
    for (name, text) in [("server.crt", leaf.pem()), ("server.key", key.serialize_pem())] {
        let path = server.data_dir().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    authority.pem()
}
