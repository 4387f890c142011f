//! A repository in an object store: a real S3 server, and a proxy before it that counts and misbehaves.

mod exports;
mod faults;
mod harm;
mod prune;

use crate::scene::{BUDGET, KEY, Scene, now, settings};
use groundskeeper_backup::place::{Bucket, Limits, Place, Secret, Storage};
use groundskeeper_backup::{Error, Lookout, Vault, observe};
use groundskeeper_core::observation::FailureKind;
use groundskeeper_core::receipt::Rung;
use groundskeeper_testing::objects::BUCKET;
use groundskeeper_testing::{FaultProxy, S3Server};
use std::process::{Command, Output};
use std::time::Duration;

const SECRET: &str = "hunter2-of-the-test";
const PREFIX: &str = "keeper/main";

struct Remote {
    scene: Scene,
    server: S3Server,
    proxy: FaultProxy,
    vault: Vault,
}

impl Remote {
    /// With a repository that was just made.
    async fn new() -> Self {
        let (server, scene) = (S3Server::start().await.unwrap(), Scene::new().await);
        let proxy = FaultProxy::start(&server).await.unwrap();
        let remote = Self { vault: scene.vault.clone(), scene, server, proxy };
        let vault = remote.vault_of(place(remote.storage()));
        assert!(vault.init().await.unwrap());
        Self { vault, ..remote }
    }

    /// One request may take long, because a busy machine is no fault; what fails is not tried again for long.
    fn storage(&self) -> Storage {
        Storage {
            endpoint: Some(self.proxy.url()),
            access_key_id: Some("key-of-the-test".to_owned()),
            secret_access_key: Some(Secret::Given(SECRET.into())),
            timeout: Duration::from_mins(1),
            retry_for: Duration::from_secs(2),
            ..Storage::default()
        }
    }

    /// Another machine, as it were: nothing is shared, and no proxy is in between.
    fn elsewhere(&self) -> Vault {
        self.vault_of(place(Storage { endpoint: Some(self.server.url()), ..self.storage() }))
    }

    /// The objects of the repository below a folder of it.
    async fn objects(&self, folder: &str) -> Vec<String> {
        self.server.names(&format!("{PREFIX}/{folder}")).await.unwrap()
    }

    fn vault_of(&self, place: Place) -> Vault {
        Vault::new(groundskeeper_backup::Settings {
            place,
            ..settings(&self.scene.server.url(), self.scene.folder.path())
        })
    }

    /// Debian's restic on this repository, past the proxy.
    fn restic(&self, arguments: &[&str]) -> Output {
        let ran = Command::new("restic")
            .args(["--no-cache", "--repo", &format!("s3:{}/{BUCKET}/{PREFIX}", self.server.url())])
            .args(arguments)
            .envs([
                ("RESTIC_PASSWORD", KEY),
                ("AWS_ACCESS_KEY_ID", "key-of-the-test"),
                ("AWS_SECRET_ACCESS_KEY", SECRET),
            ])
            .output();
        ran.expect("restic is missing; run `cargo xtask setup`")
    }
}

fn place(storage: Storage) -> Place {
    Place::of_bucket(Bucket::parse(&format!("s3://{BUCKET}/{PREFIX}"), storage).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_made_proven_and_restored_and_plain_restic_reads_it() {
    let remote = Remote::new().await;
    assert!(!remote.vault.init().await.unwrap(), "it is there already");
    let made = remote.vault.make(Vec::new(), now()).await.unwrap();
    assert!(made.is_whole() && made.added > 1 << 20, "{made:?}");
    let verified = remote.vault.verify(None, now()).await.unwrap();
    assert_eq!(verified.proven(), Some(Rung::Intact), "{verified:?}");
    let drilled = remote.vault.drill(None, BUDGET, now()).await.unwrap();
    assert_eq!(drilled.proven(), Some(Rung::Faithful), "{:?}", drilled.climbs);
    let receipts = remote.vault.receipts().await.unwrap();
    assert_eq!((receipts.len(), &receipts[0].set, receipts[0].proven()), (1, &drilled.set, Some(Rung::Faithful)));

    // Where objects are locked for a while, each has to come with its checksum.
    let checked = remote.vault_of(place(Storage { checksums: true, ..remote.storage() }));
    assert!(checked.make(Vec::new(), now()).await.unwrap().is_whole());

    let into = remote.scene.folder.path().join("restored");
    let restored = remote.vault.restore(None, None, &into).await.unwrap();
    assert_eq!(restored.parts.len(), 2);
    let by_restic = remote.scene.folder.path().join("by-restic");
    let check = remote.restic(&["check", "--read-data"]);
    assert!(check.status.success(), "{check:?}");
    let ran = remote.restic(&["restore", "latest", "--target", by_restic.to_str().unwrap()]);
    assert!(ran.status.success(), "{ran:?}");
    let version = "postgres.main/data/backup_manifest";
    assert_eq!(std::fs::read(into.join(version)).unwrap(), std::fs::read(by_restic.join(version)).unwrap());

    // Whoever is done leaves no lock, and what is stored already is not sent again.
    let second = remote.vault.make(Vec::new(), now()).await.unwrap();
    assert!(second.added < made.added / 2, "{} after {}", second.added, made.added);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_bucket_with_something_in_it_is_refused_and_its_neighbours_are_not_seen() {
    let remote = Remote::new().await;
    let of = |prefix: &str| {
        let bucket = Bucket::parse(&format!("s3://{BUCKET}/{prefix}"), remote.storage()).unwrap();
        remote.vault_of(Place::of_bucket(bucket))
    };
    let error = of("keeper").init().await.unwrap_err();
    assert!(error.to_string().contains("s3://backups/keeper: it is not empty"), "{error}");
    assert!(matches!(of("keeper/mai").receipts().await, Err(Error::NoRepository { .. })));
    assert!(of("keeper/mai").init().await.unwrap());
    assert_eq!(of("keeper/mai").receipts().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_and_every_request_is_counted_and_no_more_than_allowed_are_under_way() {
    let remote = Remote::new().await;
    let before = remote.proxy.put_bytes();
    let limits = Limits { upload: Some(1 << 40), download: Some(1 << 40), connections: Some(2) };
    let place = place(remote.storage()).limited(limits);
    remote.proxy.take_asked();
    let vault = remote.vault_of(place.clone());
    vault.make(Vec::new(), now()).await.unwrap();
    let traffic = place.traffic();
    assert_eq!(traffic.uploaded, remote.proxy.put_bytes() - before);
    assert_eq!(traffic.requests, remote.proxy.take_asked().len() as u64);
    let down = traffic.downloaded;
    vault.verify(None, now()).await.unwrap();
    // Every pack was read back through the same limits.
    assert!(place.traffic().downloaded - down > traffic.uploaded / 2, "{:?}", place.traffic());
    assert!(place.traffic().at_once <= 2 && remote.proxy.most_at_once() <= 4, "{:?}", place.traffic());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watch_sees_the_sets_and_no_room_and_asks_for_lists_only_now_and_then() {
    let remote = Remote::new().await;
    remote.vault.make(Vec::new(), now()).await.unwrap();
    let lookout = Lookout::new(remote.vault.clone());
    let deadline = Duration::from_mins(1);
    let seen = observe(&lookout, now(), deadline).await.outcome.unwrap();
    assert_eq!(seen.repository, "s3://backups/keeper/main");
    assert_eq!((seen.receipts.unwrap().len(), seen.key), (1, Ok(())));
    assert!(seen.space.unwrap_err().reason.contains("does not tell how much room is left"));

    remote.proxy.take_asked();
    assert!(observe(&lookout, now(), deadline).await.outcome.is_ok());
    assert_eq!(remote.proxy.take_asked().len(), 1, "one look at `config`");
    let five_minutes = groundskeeper_core::quantity::after(now(), 301.0);
    assert!(observe(&lookout, five_minutes, deadline).await.outcome.is_ok());
    assert_eq!(remote.proxy.take_asked().len(), 4, "and three lists");
    remote.vault.make(Vec::new(), five_minutes).await.unwrap();
    let later = groundskeeper_core::quantity::after(now(), 700.0);
    assert_eq!(observe(&lookout, later, deadline).await.outcome.unwrap().receipts.unwrap().len(), 2);

    let elsewhere = remote.vault_of(Place::of_bucket(Bucket::parse("s3://backups/other", remote.storage()).unwrap()));
    let failure = observe(&Lookout::new(elsewhere), now(), deadline).await.outcome.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Missing);
    assert!(failure.message.contains("`groundskeeper backup init`"), "{failure:?}");
}
