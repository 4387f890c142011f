//! Servers that cannot be reached, and why.

use super::{DEADLINE, endpoint, now, read, seen};
use groundskeeper_core::observation::FailureKind;
use groundskeeper_systems::postgres::{Endpoint, observe};
use groundskeeper_testing::{BlackHole, Closer, Garbage, PacketDropper, PostgresOptions, PostgresServer};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn kind_of(url: &str) -> FailureKind {
    read(url).await.outcome.unwrap_err().kind
}

#[tokio::test]
async fn a_wrong_password_role_or_database_is_denied() {
    let server = PostgresServer::start().await.unwrap();
    for url in [
        server.url_for("postgres", "wrong-horse", "postgres"),
        server.url_for("nobody", "wrong-horse", "postgres"),
        server.url_for("postgres", server.password(), "no_such_database"),
        format!("postgres://postgres@127.0.0.1:{}/postgres", server.port()),
    ] {
        let failure = read(&url).await.outcome.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Denied, "{failure:?}");
        assert!(!format!("{failure:?}").contains("wrong-horse"), "{failure:?}");
        assert!(failure.address.starts_with("127.0.0.1:"), "{failure:?}");
    }
}

#[tokio::test]
async fn a_stopped_server_refuses_and_one_that_came_back_is_read() {
    let mut server = PostgresServer::start().await.unwrap();
    server.stop().await.unwrap();
    assert_eq!(kind_of(&server.url()).await, FailureKind::Refused);
    server.start_again().await.unwrap();
    seen(&server.url()).await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_and_a_socket_that_is_not_there_are_told_apart() {
    assert_eq!(kind_of("postgres://u@no-such-host.invalid/d").await, FailureKind::UnknownHost);
    assert_eq!(kind_of("postgres:///d?host=/nowhere&user=u").await, FailureKind::Missing);
}

#[tokio::test]
async fn the_deadline_is_kept_whatever_the_other_side_does() {
    let (hole, dropper) = (BlackHole::start().await.unwrap(), PacketDropper::start().await.unwrap());
    for address in [hole.address(), dropper.address()] {
        let deadline = Duration::from_millis(400);
        let started = Instant::now();
        let reading = observe(&endpoint(&format!("postgres://u:p@{address}/d")), now(), deadline).await;
        assert!(started.elapsed() < deadline + Duration::from_millis(200), "{:?}", started.elapsed());
        assert_eq!(reading.outcome.unwrap_err().kind, FailureKind::Timeout);
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_a_timeout() {
    let server = PostgresServer::start().await.unwrap();
    server.freeze().unwrap();
    let reading = observe(&endpoint(&server.url()), now(), Duration::from_millis(400)).await;
    server.thaw().unwrap();
    assert_eq!(reading.outcome.unwrap_err().kind, FailureKind::Timeout);
}

#[tokio::test]
async fn other_protocols_and_hang_ups_are_failures_and_no_panic() {
    let closer = Closer::start().await.unwrap();
    assert_eq!(kind_of(&format!("postgres://u:p@{}/d", closer.address())).await, FailureKind::Interrupted);
    let garbage = Garbage::start().await.unwrap();
    let url = format!("postgres://u:p@{}/d", garbage.address());
    let reading = observe(&endpoint(&url), now(), Duration::from_millis(500)).await;
    let kind = reading.outcome.unwrap_err().kind;
    assert!(matches!(kind, FailureKind::Protocol | FailureKind::Timeout), "{kind:?}");
}

#[tokio::test]
async fn a_full_server_is_exhausted() {
    let options = PostgresOptions::default().set("max_connections", "6").set("max_wal_senders", "0");
    let server = PostgresServer::start_with(options).await.unwrap();
    let url = super::role(&server, "app", "").await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(server.client_at(&url).await);
    }
    // The administrator's own connection, which made the role, may still be on its way out.
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        match read(&url).await.outcome {
            Err(failure) => {
                assert_eq!(failure.kind, FailureKind::Exhausted, "{failure:?}");
                break;
            }
            Ok(_) => assert!(Instant::now() < until),
        }
    }
    let seen = seen(&server.url()).await;
    assert!(seen.activity.unwrap().total >= 4, "a superuser still gets in, and counts");
}

/// Passes bytes on until the server has sent `limit` of them, then hangs up on both.
async fn cutting_proxy(to: SocketAddr, limit: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(to).await.unwrap();
            tokio::spawn(pass(client, server, limit));
        }
    });
    address
}

async fn pass(mut client: TcpStream, mut server: TcpStream, limit: usize) {
    let (mut up, mut down) = ([0; 4096], [0; 256]);
    let mut sent = 0;
    while sent < limit {
        tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(count) if count > 0 => if server.write_all(&up[..count]).await.is_err() { return },
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(count) if count > 0 => {
                    sent += count;
                    if client.write_all(&down[..count]).await.is_err() { return }
                }
                _ => return,
            },
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_anywhere_is_a_failure_within_the_deadline() {
    let server = PostgresServer::start().await.unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], server.port()));
    for limit in [1, 60, 500, 1_000, 1_500, 2_500, 4_000] {
        let proxy = cutting_proxy(to, limit).await;
        let url = server.url().replace(&to.to_string(), &proxy.to_string());
        let started = Instant::now();
        let failure = read(&url).await.outcome.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Interrupted, "after {limit} bytes: {failure:?}");
        assert!(started.elapsed() < DEADLINE);
    }
}

/// Refuses start-up options as a pooler does, and passes everything else on.
pub(super) async fn pooler(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut startup = [0; 1024];
            let count = client.read(&mut startup).await.unwrap();
            if startup[..count].windows(8).any(|part| part == b"options\0") {
                let fields = b"SFATAL\0VFATAL\0C08P01\0Munsupported startup parameter: options\0\0";
                let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
                client.write_all(&[b"E", &length[..], &fields[..]].concat()).await.unwrap();
                continue;
            }
            let mut server = TcpStream::connect(to).await.unwrap();
            server.write_all(&startup[..count]).await.unwrap();
            tokio::spawn(pass(client, server, usize::MAX));
        }
    });
    address
}

#[tokio::test]
async fn behind_a_pooler_that_takes_no_options_a_reading_still_works_and_sets_nothing() {
    let server = PostgresServer::start().await.unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], server.port()));
    let pooler = pooler(to).await;
    let url = format!("{}?sslmode=disable", server.url().replace(&to.to_string(), &pooler.to_string()));
    let seen = seen(&url).await;
    assert!(seen.activity.is_ok() && seen.tables.is_ok());
}

#[tokio::test]
async fn a_unix_socket_works() {
    let server = PostgresServer::start().await.unwrap();
    let folder = server.socket_dir().display().to_string();
    let text = format!("host={folder} port={} user=postgres dbname=postgres sslmode=require", server.port());
    let endpoint = Endpoint::parse(&text, Some(server.password().to_owned().into())).unwrap();
    assert_eq!(endpoint.address(), format!("{folder}:{}/postgres", server.port()));
    observe(&endpoint, now(), DEADLINE).await.outcome.unwrap();
}

#[tokio::test]
async fn tls_certificates_are_verified_exactly_when_asked_for() {
    let server = PostgresServer::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    // The certificate names localhost; 127.0.0.1 is another name.
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = parameters.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(parameters, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let root = folder.path().join("ca.pem");
    std::fs::write(&root, authority.pem()).unwrap();
    let owner = std::fs::metadata(server.data_dir()).unwrap();
    for (name, text) in [("server.crt", leaf.pem()), ("server.key", key.serialize_pem())] {
        let path = server.data_dir().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let admin = server.client().await;
    assert_eq!(kind_of(&format!("{}?sslmode=require", server.url())).await, FailureKind::Tls, "it has no TLS yet");
    admin.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let (url, root) = (server.url(), root.display());
    let by_name = url.replace("127.0.0.1", "localhost");
    let until = Instant::now() + Duration::from_secs(5);
    while read(&format!("{url}?sslmode=require")).await.outcome.is_err() {
        assert!(Instant::now() < until, "the server did not load its certificate");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for good in [
        format!("{url}?sslmode=prefer"),
        format!("{url}?sslmode=disable"),
        format!("{url}?sslmode=verify-ca&sslrootcert={root}"),
        format!("{by_name}?sslmode=verify-full&sslrootcert={root}"),
    ] {
        read(&good).await.outcome.unwrap();
    }
    for bad in [
        format!("{url}?sslmode=verify-full&sslrootcert={root}"),
        format!("{by_name}?sslmode=verify-full"),
        format!("{by_name}?sslmode=verify-ca"),
    ] {
        let Ok(endpoint) = Endpoint::parse(&bad, None) else { continue };
        let failure = observe(&endpoint, now(), DEADLINE).await.outcome.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Tls, "{failure:?}");
    }
}
