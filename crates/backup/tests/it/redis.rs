//! Redis in sets: copied as a replica gets it, proven by a Redis that loads it, brought back.

mod faults;

use crate::scene::{BUDGET, KEY, now};
use groundskeeper_backup::vault::{KeySource, RedisSource};
use groundskeeper_backup::{Place, Settings, Vault};
use groundskeeper_core::receipt::{ClimbOutcome, Keyspace, Receipt, Rung};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::redis::Endpoint;
use groundskeeper_testing::scratch::Scratch;
use groundskeeper_testing::{PostgresServer, RedisServer, port};
use redis::aio::MultiplexedConnection;
use redis::cmd;
use rstest::rstest;
use std::path::Path;
use std::process::Command;

/// Without the delay in which Redis waits for more replicas.
const AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

/// A Redis and a repository for it.
struct Scene {
    server: RedisServer,
    vault: Vault,
    folder: Scratch,
}

impl Scene {
    async fn new(arguments: &[&str]) -> Self {
        let server = RedisServer::start_with(&[&AT_ONCE[..], arguments].concat()).await.unwrap();
        let folder = Scratch::new("backup").unwrap();
        let vault = Vault::new(settings(Endpoint::parse(&server.url(), None).unwrap(), folder.path()));
        assert!(vault.init().await.unwrap());
        Self { server, vault, folder }
    }

    /// The same repository, and the Redis by another way.
    fn by(&self, url: &str) -> Vault {
        Vault::new(settings(Endpoint::parse(url, None).unwrap(), self.folder.path()))
    }

    async fn make(&self) -> Receipt {
        self.vault.make(Vec::new(), now()).await.unwrap()
    }

    async fn nothing_is_half_made(&self) {
        assert_eq!(self.vault.receipts().await.unwrap(), [], "no set came of it");
        self.make().await;
        let verified = self.vault.verify(None, now()).await.unwrap();
        assert_eq!(verified.proven(), Some(Rung::Intact), "{verified:?}");
    }

    fn restic(&self, arguments: &[&str]) -> std::process::Output {
        let mut restic = Command::new("restic");
        restic.args(["--no-cache", "--repo"]).arg(self.folder.path().join("repository"));
        let ran = restic.args(arguments).env("RESTIC_PASSWORD", KEY).output();
        ran.expect("restic is missing; run `cargo xtask setup`")
    }
}

fn settings(endpoint: Endpoint, folder: &Path) -> Settings {
    Settings {
        place: Place::of_folder(folder.join("repository")),
        key: KeySource::Given(KEY.into()),
        postgres: Vec::new(),
        redis: vec![RedisSource { system: SystemId::new(SystemKind::Redis, "cache"), endpoint }],
        files: Vec::new(),
        qdrant: Vec::new(),
        scratch: folder.join("scratch"),
        leave_free: 0,
        programs: Vec::new(),
        run_as: "postgres".to_owned(),
        wal: None,
        probes: Vec::new(),
    }
}

async fn run(connection: &mut MultiplexedConnection, words: &str) {
    let mut words = words.split(' ');
    let mut command = cmd(words.next().unwrap());
    command.arg(words.collect::<Vec<_>>());
    command.query_async::<()>(connection).await.unwrap();
}

/// Every kind of value, in two databases; some packed and some too large for it.
async fn fill(server: &RedisServer) {
    let mut connection = server.connection().await;
    for words in [
        "SET text hello",
        "SET number 12345",
        "SET leaves later EX 100000",
        "RPUSH list a b 3",
        "SADD numbers 1 2 3",
        "SADD words a b c",
        "ZADD scores 1.5 a 2 b",
        "HSET hash one 1 two 2",
        "XADD stream * field value",
        "XGROUP CREATE stream readers 0",
        "XREADGROUP GROUP readers me STREAMS stream >",
        "PFADD guess a b c",
        "GEOADD places 13.4 52.5 here",
        "SETBIT bits 70000 1",
    ] {
        run(&mut connection, words).await;
    }
    let many: Vec<String> = (0..1000).map(|number| format!("{number} member-of-some-length-{number}")).collect();
    run(&mut connection, &format!("ZADD many-scores {}", many.join(" "))).await;
    run(&mut connection, &format!("HSET many-fields {}", many.join(" "))).await;
    run(&mut connection, &format!("RPUSH long-list {}", many.join(" "))).await;
    let function = "#!lua name=f\nredis.register_function('f', function() return 1 end)";
    cmd("FUNCTION").arg("LOAD").arg(function).query_async::<()>(&mut connection).await.unwrap();
    run(&mut connection, "SELECT 9").await;
    for number in 0..100 {
        run(&mut connection, &format!("SET key:{number} {number}")).await;
    }
}

/// A value that does not compress, of this many bytes.
async fn fill_much(server: &RedisServer, bytes: usize) {
    let mut connection = server.connection().await;
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let value: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    })
    .take(bytes)
    .collect();
    cmd("SET").arg("much").arg(value).query_async::<()>(&mut connection).await.unwrap();
}

fn keyspace(receipt: &Receipt) -> &Keyspace {
    receipt.parts[0].redis.as_ref().unwrap()
}

fn shown(receipt: &Receipt, rung: Rung) -> (String, String) {
    let ClimbOutcome::Proven { shown, not_covered } = &receipt.last(rung).unwrap().outcome else {
        panic!("{receipt:?}")
    };
    (shown.clone(), not_covered.join("; "))
}

#[rstest]
#[case::without_a_length(&["--repl-diskless-sync", "yes"])]
#[case::without_a_length_and_after_a_while(&["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "2"])]
#[case::from_the_servers_disk(&["--repl-diskless-sync", "no"])]
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_climbs_to_alive(#[case] arguments: &[&str]) {
    let scene = Scene::new(arguments).await;
    fill(&scene.server).await;
    let made = scene.make().await;
    assert!(made.is_whole(), "{made:?}");
    assert_eq!(made.parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["redis.cache", "groundskeeper"]);
    let known = keyspace(&made);
    assert!(known.keys == 115 && known.checksum.is_some() && known.position.is_some(), "{known:?}");
    assert_eq!(scene.vault.verify(None, now()).await.unwrap().proven(), Some(Rung::Intact));
    let drilled = scene.vault.drill(None, BUDGET, now()).await.unwrap();
    assert_eq!(drilled.proven(), Some(Rung::Alive), "{:?}", drilled.climbs);
    let (restored, left_out) = shown(&drilled, Rung::Restored);
    assert!(restored.contains(known.checksum.as_ref().unwrap()) && restored.contains("115 keys"), "{restored}");
    assert!(restored.contains("redis-check-rdb found nothing wrong") && left_out.is_empty(), "{restored} {left_out}");
    assert!(shown(&drilled, Rung::Alive).0.contains("DBSIZE gives 115 of its 115 keys"), "{drilled:?}");
    assert_eq!(std::fs::read_dir(scene.folder.path().join("scratch")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_redis_is_backed_up_as_well() {
    let scene = Scene::new(&[]).await;
    scene.make().await;
    scene.vault.verify(None, now()).await.unwrap();
    let drilled = scene.vault.drill(None, BUDGET, now()).await.unwrap();
    assert_eq!(drilled.proven(), Some(Rung::Alive), "{:?}", drilled.climbs);
    assert!(shown(&drilled, Rung::Alive).0.contains("0 of its 0 keys"), "{drilled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_before_the_drill_is_no_loss() {
    let scene = Scene::new(&["--enable-debug-command", "yes"]).await;
    let mut connection = scene.server.connection().await;
    // The server keeps what has expired until somebody asks for it, and nobody does.
    run(&mut connection, "DEBUG SET-ACTIVE-EXPIRE 0").await;
    run(&mut connection, "SET stays 1").await;
    run(&mut connection, "SET goes 1 PX 1").await;
    let made = scene.make().await;
    assert_eq!(keyspace(&made).keys, 2);
    scene.vault.verify(None, now()).await.unwrap();
    let drilled = scene.vault.drill(None, BUDGET, now()).await.unwrap();
    assert_eq!(drilled.proven(), Some(Rung::Alive), "{:?}", drilled.climbs);
    assert!(shown(&drilled, Rung::Alive).0.ends_with("1 of its 2 keys; 1 had expired by now"), "{drilled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_restic_gives_a_file_that_a_redis_loads() {
    let scene = Scene::new(&["--requirepass", "hunter2"]).await;
    fill(&scene.server).await;
    scene.make().await;
    let dumped = scene.restic(&["dump", "latest", "/redis.cache/dump.rdb"]);
    assert!(dumped.status.success(), "{dumped:?}");
    let told = scene.restic(&["dump", "latest", "/redis.cache/redis.json"]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(told.contains("maxmemory-policy") && !told.contains("hunter2"), "{told}");

    let folder = Scratch::new("restored").unwrap();
    std::fs::write(folder.path().join("dump.rdb"), dumped.stdout).unwrap();
    let other = RedisServer::start_with(&["--dir", folder.path().to_str().unwrap()]).await.unwrap();
    let mut connection = other.connection().await;
    let fields: u64 = cmd("HLEN").arg("many-fields").query_async(&mut connection).await.unwrap();
    let size: u64 = cmd("DBSIZE").query_async(&mut connection).await.unwrap();
    assert_eq!((fields, size), (1000, 15));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_redis_comes_with_what_to_do_next() {
    let scene = Scene::new(&[]).await;
    fill(&scene.server).await;
    scene.make().await;
    let into = scene.folder.path().join("restored");
    let restored = scene.vault.restore(None, Some("redis.cache"), &into).await.unwrap();
    let next = restored.parts[0].next.join(" ");
    assert!(next.contains("dbfilename") && next.contains("appendonly"), "{next}");
    let check = Command::new("redis-check-rdb").arg(into.join("redis.cache/dump.rdb")).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_behind_tls_is_copied() {
    let folder = Scratch::new("tls").unwrap();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let port = port::free().unwrap().to_string();
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let tls = ["--tls-port", &port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"];
    let scene = Scene::new(&tls).await;
    fill_much(&scene.server, 300_000).await;
    let url = format!("rediss://localhost:{port}");
    let endpoint = Endpoint::parse_trusting(&url, None, Some(made.cert.pem().as_bytes())).unwrap();
    let vault = Vault::new(settings(endpoint, scene.folder.path()));
    let receipt = vault.make(Vec::new(), now()).await.unwrap();
    assert!(receipt.is_whole() && receipt.parts[0].bytes > 300_000, "{receipt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_makes_no_checksum_is_told_in_the_proof() {
    let scene = Scene::new(&["--rdbchecksum", "no"]).await;
    fill(&scene.server).await;
    assert_eq!(keyspace(&scene.make().await).checksum, None);
    scene.vault.verify(None, now()).await.unwrap();
    let drilled = scene.vault.drill(None, BUDGET, now()).await.unwrap();
    assert!(shown(&drilled, Rung::Restored).1.contains("rdbchecksum no"), "{drilled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_of_two_systems_is_as_good_as_the_worse_of_them() {
    let postgres = PostgresServer::start().await.unwrap();
    let scene = Scene::new(&[]).await;
    fill(&scene.server).await;
    let mut both = crate::scene::settings(&postgres.url(), scene.folder.path());
    both.redis.clone_from(&scene.vault.settings().redis);
    let vault = Vault::new(both.clone());
    let made = vault.make(Vec::new(), now()).await.unwrap();
    let names: Vec<&str> = made.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!(names, ["postgres.main", "redis.cache", "groundskeeper"]);
    vault.verify(None, now()).await.unwrap();
    let drilled = vault.drill(None, BUDGET, now()).await.unwrap();
    assert_eq!(drilled.proven(), Some(Rung::Faithful), "{:?}", drilled.climbs);
    let (all, _) = shown(&drilled, Rung::Alive);
    assert!(all.contains("postgres.main: Postgres") && all.contains("redis.cache: Redis"), "{all}");
    // One of them is gone: the other is kept, and the set is not whole.
    both.redis[0].endpoint = Endpoint::parse("redis://127.0.0.1:1", None).unwrap();
    let partly = Vault::new(both).make(Vec::new(), now()).await.unwrap();
    assert!(!partly.is_whole() && partly.missing[0].system == "redis.cache", "{partly:?}");
}
