//! Backups in an object store as their users meet them: a real S3 server, a proxy that refuses, the built program.

use crate::scene::{Database, Place, Said};
use groundskeeper::app::api::{BackupListView, CheckView};
use groundskeeper_core::Status;
use groundskeeper_core::receipt::Rung;
use groundskeeper_testing::{Fault, FaultProxy, S3Server};
use std::fs;
use std::path::Path;

const SECRET: &str = "hunter2-of-the-test";

/// The findings of `check backup`, and the checks that could not be judged.
async fn checked(place: &Place) -> (Vec<String>, Vec<String>) {
    let view: CheckView = place.json(&["check", "backup"]).await;
    let (mut failing, mut unknown) = (Vec::new(), Vec::new());
    for judgement in view.systems.into_iter().flat_map(|system| system.judgements) {
        match judgement.status {
            Status::Failing { .. } => failing.push(judgement.check),
            Status::Unknown(_) => unknown.push(judgement.check),
            Status::Ok => {}
        }
    }
    (failing, unknown)
}

/// A keeper whose backups go through a proxy into a bucket.
struct Store {
    database: Database,
    server: S3Server,
    proxy: FaultProxy,
    place: Place,
}

impl Store {
    /// With a repository that was just made.
    async fn new() -> Self {
        let database = Database::start("ALTER ROLE keeper REPLICATION; GRANT pg_monitor TO keeper").await;
        let server = S3Server::start().await.unwrap();
        let proxy = FaultProxy::start(&server).await.unwrap();
        let store = Self { database, server, proxy, place: Place::new("") };
        store.configure(&store.place, "");
        let made = store.place.run(&["backup", "init"]).await;
        assert!(made.code == 0 && made.out.contains("s3://backups/keeper"), "{made:?}");
        store
    }

    /// `more` stands at the end of `[backup.storage]`, and may open other tables.
    fn configure(&self, place: &Place, more: &str) {
        fs::write(place.path().join("backup.key"), "a key that nobody guesses\n").unwrap();
        fs::write(place.path().join("s3.secret"), format!("{SECRET}\n")).unwrap();
        let backup = format!(
            "[backup]\nrepository = \"s3://backups/keeper\"\nkey_file = \"backup.key\"\nleave_free = \"0 B\"\n\
             scratch = \"{}\"\nconnections = 2\nupload_limit = \"1 GB/s\"\n[backup.storage]\nendpoint = \"{}\"\n\
             access_key_id = \"key-of-the-test\"\nsecret_access_key_file = \"s3.secret\"\nretry_for = \"2s\"\n{more}",
            place.path().join("scratch").display(),
            self.proxy.url()
        );
        place.configure(&self.database.config("", &backup));
    }

    async fn fine(&self, arguments: &[&str]) {
        let said = self.place.run(arguments).await;
        assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
    }

    /// Why the last run made no set, as the finding tells it.
    async fn told(&self, place: &Place) -> Option<String> {
        let watched = place.run(&["task", "run", "watch"]).await;
        assert_eq!(watched.code, 0, "{watched:?}");
        let findings = place.findings().await;
        let missing = findings.into_iter().find(|view| view.finding.check == "backup.set_missing")?;
        let why =
            missing.finding.evidence.into_iter().find(|evidence| evidence.what == "why the last run made none")?;
        Some(format!("{:?}", why.value))
    }
}

fn both(said: &Said) -> String {
    format!("{}{}", said.out, said.err)
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_go_into_a_bucket_and_a_store_that_refuses_is_a_failed_run_and_a_finding() {
    let store = Store::new().await;
    let (place, proxy) = (&store.place, &store.proxy);
    assert_eq!(place.run(&["backup", "run"]).await.code, 0);
    assert_eq!(place.run(&["backup", "verify"]).await.code, 0);
    let listed: BackupListView = place.json(&["backup", "list"]).await;
    assert_eq!(listed.sets[0].proven(), Some(Rung::Intact), "{listed:?}");
    let (failing, unknown) = checked(place).await;
    assert_eq!(unknown, ["backup.repository_nearly_full"]);
    assert_eq!(failing, Vec::<String>::new());

    proxy.misbehave(|_| Some(Fault::Answer(403, "InvalidAccessKeyId")));
    let refused = place.run(&["backup", "run"]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    let told = both(&refused);
    assert!(told.contains("permission denied") || told.contains("the credentials are wrong"), "{told}");
    let list = place.run(&["backup", "list"]).await;
    assert_eq!(list.code, 3, "{list:?}");
    let (failing, _) = checked(place).await;
    assert_eq!(failing, ["backup.unreachable"]);
    let all = format!("{told}{}{}{:?}", list.out, list.err, place.run(&["doctor"]).await);
    assert!(!all.contains(SECRET) && !all.contains("AWS4-HMAC"), "{all}");

    proxy.behave();
    let listed: BackupListView = place.json(&["backup", "list"]).await;
    assert_eq!(listed.sets.len(), 1, "nothing came of the run that failed");
    fs::remove_file(place.path().join("s3.secret")).unwrap();
    let gone = place.run(&["backup", "list"]).await;
    assert!(gone.code == 3 && gone.err.contains("s3.secret"), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_the_store_breaks_off_fails_and_is_a_finding_until_the_next_good_one() {
    let store = Store::new().await;
    for (fault, more, said) in [
        (Fault::Answer(500, "InternalError"), "", "an error of its own (500 InternalError)"),
        (Fault::Answer(503, "SlowDown"), "", "the store is overloaded (SlowDown)"),
        (Fault::Answer(400, "ExpiredToken"), "", "the credentials have expired (ExpiredToken)"),
        (Fault::Silence, "timeout = \"3s\"\n", "no answer in time"),
    ] {
        store.configure(&store.place, more);
        store.proxy.misbehave(move |asked| (asked.method == "PUT" && asked.path.contains("/data/")).then_some(fault));
        let broken = store.place.run(&["backup", "run"]).await;
        assert!(broken.code == 1 && both(&broken).contains(said), "{fault:?}: {broken:?}");
        store.proxy.behave();
        store.configure(&store.place, "");
        let told = store.told(&store.place).await.unwrap();
        assert!(told.contains(said), "{fault:?}: {told}");
        store.fine(&["backup", "run"]).await;
        assert_eq!(store.told(&store.place).await, None, "{fault:?}");
    }
    let listed: BackupListView = store.place.json(&["backup", "list"]).await;
    assert!(listed.sets.len() == 4 && listed.sets.iter().all(groundskeeper_core::receipt::Receipt::is_whole));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_and_a_truncated_pack_fail_the_verification_and_are_findings() {
    let store = Store::new().await;
    store.fine(&["backup", "run"]).await;
    let mut largest = (0, String::new());
    for name in store.server.names("keeper/data/").await.unwrap() {
        largest = largest.max((store.server.get(&name).await.unwrap().len(), name));
    }
    let (length, pack) = largest;
    let whole = store.server.get(&pack).await.unwrap();
    let mut flipped = whole.to_vec();
    flipped[length / 2] ^= 1;
    for (harmed, said) in [(flipped, "is not what was written"), (whole[..length / 2].to_vec(), "bytes instead of")] {
        store.server.put(&pack, harmed).await.unwrap();
        let verified = store.place.run(&["backup", "verify"]).await;
        assert!(verified.code == 1 && both(&verified).contains(said), "{verified:?}");
        let (failing, _) = checked(&store.place).await;
        assert_eq!(failing, ["backup.rung_failed"]);
    }
    store.server.put(&pack, whole).await.unwrap();
    store.fine(&["backup", "verify"]).await;
    assert_eq!(checked(&store.place).await.0, Vec::<String>::new());
}

/// The one keeper stands still in the middle of a backup while the other tries.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_and_a_prune_of_another_keeper_while_a_backup_runs_fail_and_harm_nothing() {
    const ONE: &str = "[backup.keep]\nlast = 1\ndaily = 0\nweekly = 0\nmonthly = 0\n";
    let store = Store::new().await;
    let other = Place::new("");
    store.configure(&other, ONE);
    store.fine(&["backup", "run"]).await;
    store.fine(&["backup", "run"]).await;
    let standing = |path: &str| Path::new(path).parent().is_some_and(|folder| folder.ends_with("snapshots"));
    store.proxy.misbehave(move |asked| (asked.method == "PUT" && standing(&asked.path)).then_some(Fault::Gate));
    let mut making = store.place.start(&["backup", "run"]);
    store.proxy.somebody_waits().await;
    let second = other.run(&["backup", "run"]).await;
    assert!(second.code == 1 && both(&second).contains("works on this repository"), "{second:?}");
    assert!(store.told(&other).await.unwrap().contains("works on this repository"));
    let pruned = other.run(&["backup", "prune", "--apply"]).await;
    assert!(pruned.code == 1 && both(&pruned).contains("works on this repository"), "{pruned:?}");
    assert!(making.try_wait().unwrap().is_none(), "it stands");
    store.proxy.open_gate();
    assert!(making.wait().await.unwrap().success());
    store.fine(&["backup", "verify"]).await;
    let listed: BackupListView = store.place.json(&["backup", "list"]).await;
    assert_eq!(listed.sets.len(), 3, "{listed:?}");
    let pruned = other.run(&["backup", "prune", "--apply"]).await;
    assert!(pruned.code == 0 && both(&pruned).contains("2 sets removed"), "{pruned:?}");
    store.fine(&["backup", "verify"]).await;
}
