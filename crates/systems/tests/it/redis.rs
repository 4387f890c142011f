//! The Redis adapter, and its checks, against a real server.

use groundskeeper_core::check::judge_all;
use groundskeeper_core::observation::{Failure, FailureKind, Observation, Reading, Redis};
use groundskeeper_core::{Status, SystemId, SystemKind, check::Tuning};
use groundskeeper_systems::redis::{Endpoint, observe};
use groundskeeper_testing::{BlackHole, Closer, Garbage, PacketDropper, RedisServer};
use jiff::Timestamp;
use redis::{AsyncCommands, RedisResult};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(5);

async fn read(url: &str) -> Reading<Redis> {
    observe(&Endpoint::parse(url, None).unwrap(), Timestamp::now(), DEADLINE).await
}

async fn seen(server: &RedisServer) -> Redis {
    read(&server.url()).await.outcome.unwrap()
}

async fn failure(url: &str) -> Failure {
    read(url).await.outcome.unwrap_err()
}

/// The checks that fail, an hour of readings apart.
fn failing(before: Option<Reading<Redis>>, now: Reading<Redis>) -> Vec<String> {
    let system = SystemId::new(SystemKind::Redis, "cache");
    let at = now.at;
    let before = before.map(Observation::Redis);
    judge_all(&system, &Observation::Redis(now), before.as_ref(), &Tuning::default(), at)
        .into_iter()
        .filter(|judgement| matches!(judgement.status, Status::Failing { .. }))
        .map(|judgement| judgement.check)
        .collect()
}

async fn fill(server: &RedisServer, keys: usize) -> usize {
    let mut connection = server.connection().await;
    let value = "x".repeat(1_000);
    let mut refused = 0;
    for key in 0..keys {
        let answer: RedisResult<()> = connection.set(format!("key:{key}"), &value).await;
        refused += usize::from(answer.is_err());
    }
    refused
}

#[tokio::test]
async fn a_new_server_is_read_whole_and_raises_nothing() {
    let server = RedisServer::start().await.unwrap();
    let reading = read(&server.url()).await;
    assert!(reading.latency > 0.0 && reading.latency <= reading.took && reading.took < 5.0);
    let redis = reading.outcome.clone().unwrap();
    assert!(redis.version.contains('.'), "{}", redis.version);
    let memory = redis.memory.unwrap();
    assert!(memory.used > 0 && memory.resident > 0 && memory.system > memory.used);
    assert_eq!((memory.max, memory.policy.as_str()), (0, "noeviction"));
    assert_eq!(redis.keys.unwrap().total, 0);
    assert!(redis.replication.unwrap().primary);
    assert_eq!(redis.persistence.unwrap().saves_configured, Some(false));
    assert!(redis.clients.unwrap().max.unwrap() > 0);
    assert_eq!(failing(None, reading), [""; 0]);
}

#[tokio::test]
async fn counters_and_keys_are_those_of_the_server() {
    let server = RedisServer::start_with(&["--save", "3600 1"]).await.unwrap();
    let mut connection = server.connection().await;
    let () = connection.set_ex("a", 1, 1_000).await.unwrap();
    let () = connection.set("b", 2).await.unwrap();
    let _: Option<String> = connection.get("a").await.unwrap();
    let _: Option<String> = connection.get("missing").await.unwrap();
    let wrong: RedisResult<i64> = redis::cmd("LLEN").arg("a").query_async(&mut connection).await;
    assert!(wrong.is_err());
    let redis = seen(&server).await;
    let (stats, keys) = (redis.stats.unwrap(), redis.keys.unwrap());
    // The wrong command found its key as well.
    assert_eq!((stats.hits, stats.misses), (2, 1));
    assert_eq!((keys.total, keys.expiring), (2, 1));
    assert!(stats.errors.contains(&("WRONGTYPE".to_owned(), 1)), "{:?}", stats.errors);
    let persistence = redis.persistence.unwrap();
    assert_eq!((persistence.saves_configured, persistence.changes_since_save), (Some(true), 2));
}

#[tokio::test]
async fn a_full_server_without_eviction_is_exactly_one_finding() {
    let server = RedisServer::start_with(&["--maxmemory", "4mb"]).await.unwrap();
    let before = read(&server.url()).await;
    assert!(fill(&server, 6_000).await > 0);
    assert_eq!(failing(Some(before), read(&server.url()).await), ["redis.memory_near_limit"]);
}

#[tokio::test]
async fn a_full_cache_that_evicts_is_exactly_one_finding() {
    let server = RedisServer::start_with(&["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"]).await.unwrap();
    let before = read(&server.url()).await;
    assert_eq!(fill(&server, 6_000).await, 0);
    assert_eq!(failing(Some(before), read(&server.url()).await), ["redis.evictions_high"]);
}

#[tokio::test]
async fn a_password_opens_the_door_and_never_shows() {
    let server = RedisServer::start_with(&["--requirepass", "hunter2"]).await.unwrap();
    assert!(read(&server.url()).await.outcome.is_ok());
    let bare = format!("redis://127.0.0.1:{}", server.port());
    for url in [bare.clone(), format!("redis://:hunter3@127.0.0.1:{}", server.port())] {
        let failure = failure(&url).await;
        assert_eq!(failure.kind, FailureKind::Denied, "{failure:?}");
        assert!(!format!("{failure:?}").contains("hunter"));
    }
    let endpoint = Endpoint::parse(&bare, Some("hunter2".into())).unwrap();
    assert!(observe(&endpoint, Timestamp::now(), DEADLINE).await.outcome.is_ok());
}

#[tokio::test]
async fn a_password_that_nobody_asked_for_does_no_harm() {
    let server = RedisServer::start().await.unwrap();
    assert!(read(&format!("redis://:any@127.0.0.1:{}", server.port())).await.outcome.is_ok());
}

#[tokio::test]
async fn the_least_rights_are_enough() {
    let server = RedisServer::start().await.unwrap();
    let mut connection = server.connection().await;
    let add = |rights: &[&str]| {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg("keeper").arg("reset").arg("on").arg(">pw").arg(rights);
        command
    };
    let (info_only, nothing) = (add(&["+info"]), add(&[]));
    let url = format!("redis://keeper:pw@127.0.0.1:{}", server.port());
    let () = info_only.query_async(&mut connection).await.unwrap();
    let redis = read(&url).await.outcome.unwrap();
    assert_eq!(redis.persistence.unwrap().saves_configured, None);
    let () = nothing.query_async(&mut connection).await.unwrap();
    assert_eq!(failure(&url).await.kind, FailureKind::Denied);
}

#[tokio::test]
async fn a_server_without_a_free_connection_says_so() {
    let server = RedisServer::start_with(&["--maxclients", "1"]).await.unwrap();
    // Connecting once more shows whether the only place is free again after the start's own connection.
    let held = loop {
        let client = redis::Client::open(server.url()).unwrap();
        let Ok(mut connection) = client.get_multiplexed_async_connection().await else { continue };
        if redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok() {
            break connection;
        }
    };
    for url in [server.url(), format!("redis://:pw@127.0.0.1:{}", server.port())] {
        let failure = failure(&url).await;
        assert_eq!(failure.kind, FailureKind::Exhausted, "{failure:?}");
    }
    drop(held);
}

#[tokio::test]
async fn a_stopped_server_is_refused_and_comes_back() {
    let mut server = RedisServer::start().await.unwrap();
    server.stop().await.unwrap();
    assert_eq!(failure(&server.url()).await.kind, FailureKind::Refused);
    server.start_again().await.unwrap();
    assert!(read(&server.url()).await.outcome.is_ok());
}

#[tokio::test]
async fn the_deadline_holds_against_whoever_is_there() {
    let server = RedisServer::start().await.unwrap();
    server.freeze().unwrap();
    let (hole, dropper) = (BlackHole::start().await.unwrap(), PacketDropper::start().await.unwrap());
    for address in [hole.address(), dropper.address(), ([127, 0, 0, 1], server.port()).into()] {
        let endpoint = Endpoint::parse(&format!("redis://{address}"), None).unwrap();
        let started = Instant::now();
        let reading = observe(&endpoint, Timestamp::now(), Duration::from_millis(300)).await;
        assert!(started.elapsed() < Duration::from_millis(600), "{:?}", started.elapsed());
        assert_eq!(reading.outcome.unwrap_err().kind, FailureKind::Timeout);
    }
    server.thaw().unwrap();
}

#[tokio::test]
async fn what_is_no_redis_is_told_apart() {
    let closer = Closer::start().await.unwrap();
    assert_eq!(failure(&format!("redis://{}", closer.address())).await.kind, FailureKind::Interrupted);
    let garbage = Garbage::start().await.unwrap();
    let babble = failure(&format!("redis://{}", garbage.address())).await;
    assert_eq!(babble.kind, FailureKind::Protocol, "{babble:?}");
    assert!(!babble.message.contains(char::is_control));
    assert_eq!(failure("redis://no-such-host.invalid").await.kind, FailureKind::UnknownHost);
    assert_eq!(failure("/run/no-such.sock").await.kind, FailureKind::Missing);
    let plain = RedisServer::start().await.unwrap();
    let endpoint = Endpoint::parse(&format!("rediss://127.0.0.1:{}", plain.port()), None).unwrap();
    let silence = observe(&endpoint, Timestamp::now(), Duration::from_millis(300)).await.outcome.unwrap_err();
    assert!(silence.message.contains("TLS"), "{silence:?}");
}

#[tokio::test]
async fn a_socket_of_the_file_system_is_read_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    let _server = RedisServer::start_with(&["--unixsocket", socket.to_str().unwrap()]).await.unwrap();
    assert!(read(socket.to_str().unwrap()).await.outcome.is_ok());
    assert!(read(&format!("unix://{}", socket.display())).await.outcome.is_ok());
}

#[tokio::test]
async fn a_replica_that_lost_its_primary_is_seen() {
    let mut primary = RedisServer::start().await.unwrap();
    let port = primary.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {port}")]).await.unwrap();
    primary.stop().await.unwrap();
    let patience = Instant::now() + Duration::from_secs(10);
    loop {
        let replication = seen(&replica).await.replication.unwrap();
        assert!(!replication.primary);
        assert_eq!(replication.upstream, Some(format!("127.0.0.1:{port}")));
        if replication.link_up == Some(false) {
            break;
        }
        assert!(Instant::now() < patience, "the link never went down");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
