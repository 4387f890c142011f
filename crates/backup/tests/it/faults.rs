//! Bad days: each is really caused, is an error or a rung that fails, and leaves no set behind that is not whole.

use crate::scene::{BUDGET, KEY, Scene, make_space, now, settings};
use groundskeeper_backup::{Error, Place, Vault};
use groundskeeper_core::receipt::{ClimbOutcome, Receipt, Rung};
use groundskeeper_testing::{PostgresOptions, SmallDisk};
use rstest::rstest;
use std::path::{Path, PathBuf};

/// No set, nothing that restic calls wrong, and the next backup is a good one.
async fn nothing_is_half_made(scene: &Scene) {
    assert_eq!(scene.vault.receipts().await.unwrap(), [], "no set came of it");
    let made = scene.make().await;
    assert!(made.is_whole(), "{made:?}");
    let verified = scene.vault.verify(None, now()).await.unwrap();
    assert_eq!(verified.proven(), Some(Rung::Intact), "{verified:?}");
    let check = scene.restic(&["check", "--read-data"]);
    assert!(check.status.success(), "{check:?}");
}

/// Rows that do not compress: 40 MiB of them.
pub(crate) async fn fill(scene: &Scene) {
    let client = scene.server.client().await;
    let fill = "CREATE UNLOGGED TABLE much AS SELECT n, (SELECT string_agg(md5(random()::text || n || m), '') \
                FROM generate_series(1, 60) m) FROM generate_series(1, 20000) n; ALTER TABLE much SET LOGGED";
    client.batch_execute(fill).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_the_backup_leaves_no_set() {
    let scene = Scene::new().await;
    fill(&scene).await;
    let client = scene.server.client().await;
    let ended = tokio::spawn(async move {
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication WHERE state = 'backup'";
        while client.query_one(end, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    });
    let error = scene.vault.make(Vec::new(), now()).await.unwrap_err();
    ended.await.unwrap();
    assert!(matches!(&error, Error::Source { system, .. } if system == "postgres.main"), "{error}");
    nothing_is_half_made(&scene).await;
}

/// Its files are in no archive, and replaying the WAL would make it anew over the live one.
#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_that_is_made_during_the_backup_leaves_no_set() {
    let scene = Scene::new().await;
    fill(&scene).await;
    let space = scene.server.data_dir().parent().unwrap().join("space");
    make_space(&space, &scene.server.data_dir());
    let client = scene.server.client().await;
    let made = tokio::spawn(async move {
        // From here on the list of tablespaces is made.
        let runs = "SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase LIKE 'streaming%'";
        while client.query_one(runs, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        client.batch_execute(&format!("CREATE TABLESPACE late LOCATION '{}'", space.display())).await.unwrap();
    });
    let error = scene.vault.make(Vec::new(), now()).await.unwrap_err();
    made.await.unwrap();
    assert!(error.to_string().contains("was made while the backup ran; run the backup again"), "{error}");
    nothing_is_half_made(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_replication_is_told_which_grant_it_needs() {
    let scene = Scene::new().await;
    scene.server.client().await.batch_execute("CREATE ROLE app LOGIN PASSWORD 'secret'").await.unwrap();
    let vault = Vault::new(settings(&scene.server.url_for("app", "secret", "postgres"), scene.folder.path()));
    let error = vault.make(Vec::new(), now()).await.unwrap_err();
    assert!(matches!(&error, Error::Source { retryable: false, .. }), "{error:?}");
    assert!(error.to_string().contains("REPLICATION"), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    nothing_is_half_made(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_for_a_backup_says_which_setting_is_too_low() {
    let options = PostgresOptions::default().set("max_wal_senders", "0").set("wal_level", "minimal");
    let scene = Scene::with(options).await;
    let error = scene.vault.make(Vec::new(), now()).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("wal_level") || said.contains("max_wal_senders"), "{said}");
    assert_eq!(scene.vault.receipts().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_system_that_cannot_be_read_is_named_and_the_other_is_kept() {
    let scene = Scene::new().await;
    let mut settings = scene.vault.settings().clone();
    let mut gone = settings.postgres[0].clone();
    gone.system.name = "gone".into();
    gone.endpoint = groundskeeper_systems::postgres::Endpoint::parse("postgres://a:b@127.0.0.1:1/x", None).unwrap();
    settings.postgres.push(gone);
    let made = Vault::new(settings).make(Vec::new(), now()).await.unwrap();
    assert!(!made.is_whole());
    assert_eq!(made.missing[0].system, "postgres.gone");
    assert!(made.missing[0].why.contains("127.0.0.1:1"), "{made:?}");
    assert_eq!(made.parts.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_never_yields_a_set() {
    let disk = SmallDisk::mount(12).unwrap();
    let scene = Scene::new().await;
    fill(&scene).await;
    let vault = Vault::new(settings(&scene.server.url(), disk.path()));
    vault.init().await.unwrap();
    let error = vault.make(Vec::new(), now()).await.unwrap_err();
    assert!(matches!(&error, Error::Place { .. }) && error.retryable(), "{error:?}");
    assert!(error.to_string().contains("No space left"), "{error}");
    assert_eq!(vault.receipts().await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_opens_nothing_and_a_folder_without_a_repository_is_named() {
    let scene = Scene::new().await;
    let mut wrong = settings(&scene.server.url(), scene.folder.path());
    wrong.key = groundskeeper_backup::vault::KeySource::Given("wrong".into());
    let vault = Vault::new(wrong.clone());
    for error in [
        vault.make(Vec::new(), now()).await.unwrap_err(),
        vault.receipts().await.unwrap_err(),
        vault.init().await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::WrongKey { .. }), "{error}");
        assert!(!error.to_string().contains(KEY));
    }
    wrong.place = Place::of_folder(scene.folder.path().join("nowhere"));
    assert!(matches!(Vault::new(wrong).receipts().await, Err(Error::NoRepository { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_backups_at_once_are_one_backup() {
    let scene = Scene::new().await;
    fill(&scene).await;
    let (one, other) = tokio::join!(scene.vault.make(Vec::new(), now()), scene.vault.make(Vec::new(), now()));
    let (good, bad): (Vec<_>, Vec<_>) = [one, other].into_iter().partition(Result::is_ok);
    let busy = bad.into_iter().map(Result::unwrap_err).all(|error| matches!(error, Error::Busy(_)));
    assert!(good.len() == 1 && busy);
    assert_eq!(scene.vault.receipts().await.unwrap().len(), 1);
}

/// Changes one bit in the middle of a file.
fn flip(file: &Path) {
    let mut content = std::fs::read(file).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(file, content).unwrap();
}

fn truncate(file: &Path) {
    let content = std::fs::read(file).unwrap();
    std::fs::write(file, &content[..content.len() - content.len() / 3]).unwrap();
}

fn remove(file: &Path) {
    std::fs::remove_file(file).unwrap();
}

/// Whether the repository still passes for one that holds this set unharmed.
async fn passes(scene: &Scene) -> Result<Receipt, String> {
    let verified = scene.vault.verify(None, now()).await.map_err(|error| error.to_string())?;
    let failed = verified.failed().next().map(|(_, why)| why.to_owned());
    failed.map_or(Ok(verified), Err)
}

#[rstest]
#[case::config("config", flip)]
#[case::the_only_key("keys", flip)]
#[case::an_index("index", flip)]
#[case::a_lost_index("index", remove)]
#[case::the_snapshot("snapshots", flip)]
#[tokio::test(flavor = "multi_thread")]
async fn one_bit_in_a_file_that_leads_to_the_data_is_noticed(#[case] kind: &str, #[case] harm: fn(&Path)) {
    let scene = Scene::new().await;
    scene.make().await;
    passes(&scene).await.unwrap();
    let file = if kind == "config" { scene.repository().join(kind) } else { scene.files(kind).remove(0) };
    harm(&file);
    let noticed = passes(&scene).await.unwrap_err();
    assert!(!noticed.is_empty());
}

/// What was proven before does not count any more: the receipt says so, and not only the command.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_takes_the_proof_away() {
    let scene = Scene::new().await;
    scene.make().await;
    assert!(scene.vault.drill(None, BUDGET, now()).await.unwrap().proven() >= Some(Rung::Alive));
    flip(&scene.files("index")[0]);
    let verified = scene.vault.verify(None, now()).await.unwrap();
    assert!(verified.failed().count() > 0 && verified.proven() < Some(Rung::Intact), "{verified:?}");
    assert!(verified.failed().all(|(_, why)| why.lines().count() == 1), "a person reads it: {verified:?}");
    assert_eq!(scene.vault.receipts().await.unwrap()[0].proven(), verified.proven());
    let error = scene.vault.restore(None, None, &scene.folder.path().join("out")).await.unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_harms_its_own_set_and_no_other() {
    let scene = Scene::new().await;
    let first = scene.make().await;
    let of_first = scene.files("snapshots");
    let second = scene.make().await;
    let of_second = scene.files("snapshots").into_iter().find(|file| !of_first.contains(file)).unwrap();
    flip(&of_second);
    let known = scene.vault.receipts().await.unwrap();
    assert_eq!((&known[0].set, &known[1].set), (&second.set, &first.set));
    assert!(known[0].failed().next().unwrap().1.contains("is damaged"), "{:?}", known[0]);
    scene.vault.verify(Some(&first.set), now()).await.unwrap();
    let out = scene.folder.path().join("out");
    assert_eq!(scene.vault.restore(None, None, &out).await.unwrap().set, first.set, "the newest that is there");
    let third = scene.make().await;
    assert_eq!(scene.vault.verify(None, now()).await.unwrap().proven(), Some(Rung::Intact), "{third:?}");
}

/// A backup that deduplicates against a pack that is gone must not say that everything is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_over_a_lost_pack_is_no_set() {
    let scene = Scene::new().await;
    scene.make().await;
    let largest = scene.files("data").into_iter().max_by_key(|file| std::fs::metadata(file).unwrap().len()).unwrap();
    remove(&largest);
    let error = scene.vault.make(Vec::new(), now()).await.unwrap_err();
    assert!(matches!(&error, Error::Damaged { why, .. } if why.contains("in no pack")), "{error:?}");
    assert_eq!(scene.vault.receipts().await.unwrap().len(), 1);
}

/// The folder is at fault and not the set; and what was written does not look like a whole one.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_onto_a_disk_that_fills_up_blames_the_disk() {
    let scene = Scene::new().await;
    scene.make().await;
    let disk = SmallDisk::mount(12).unwrap();
    let into = disk.path().join("restored");
    let error = scene.vault.restore(None, Some("postgres.main"), &into).await.unwrap_err();
    assert!(matches!(&error, Error::Target { .. }), "{error:?}");
    assert!(error.to_string().contains("No space left"), "{error}");
    assert!(!into.join("postgres.main").exists());
}

#[rstest]
#[case::a_flipped_bit(flip, "is not what was written")]
#[case::a_truncated_pack(truncate, "bytes instead of")]
#[case::a_lost_pack(remove, "is gone")]
#[tokio::test(flavor = "multi_thread")]
async fn harm_to_any_pack_is_noticed_and_named(#[case] harm: fn(&Path), #[case] told: &str) {
    let scene = Scene::new().await;
    scene.make().await;
    for pack in scene.files("data") {
        let name = pack.file_name().unwrap().to_string_lossy()[..8].to_owned();
        let whole = std::fs::read(&pack).unwrap();
        // What was read back once is not read again.
        let _ = std::fs::remove_file(scene.repository().join("receipts/verified-packs.json"));
        harm(&pack);
        let noticed = passes(&scene).await;
        std::fs::write(&pack, whole).unwrap();
        match noticed {
            Err(why) => assert!(why.contains(told) || why.contains(&name), "{why}"),
            // What the set was made of had folders of its own, which nothing needs any more.
            Ok(_) => assert!(is_needless(&scene, &pack), "{name} was harmed and nobody noticed"),
        }
    }
    passes(&scene).await.unwrap();
}

/// Whether restic finds the repository whole without this pack's folders, which is so for those of pending snapshots.
fn is_needless(scene: &Scene, pack: &Path) -> bool {
    let aside: PathBuf = scene.folder.path().join("aside");
    std::fs::rename(pack, &aside).unwrap();
    let into = scene.folder.path().join("needless");
    let restored = scene.restic(&["restore", "latest", "--target", into.to_str().unwrap()]);
    std::fs::rename(&aside, pack).unwrap();
    std::fs::remove_dir_all(&into).unwrap();
    restored.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_shares_a_harmed_pack_loses_its_proof_too() {
    let scene = Scene::new().await;
    let first = scene.make().await;
    scene.vault.verify(None, now()).await.unwrap();
    let second = scene.make().await;
    let largest = scene.files("data").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    flip(&largest);
    // It was read back before, so its bytes are believed; a drill reads them all.
    let drilled = scene.vault.drill(Some(&first.set), BUDGET, now()).await.unwrap();
    assert!(drilled.failed().any(|(rung, _)| rung == Rung::Restored), "{:?}", drilled.climbs);
    truncate(&largest);
    scene.vault.verify(Some(&second.set), now()).await.unwrap();
    for receipt in scene.vault.receipts().await.unwrap() {
        assert!(receipt.proven() < Some(Rung::Intact), "{receipt:?}");
        let last = receipt.last(Rung::Intact).unwrap();
        assert!(matches!(last.outcome, ClimbOutcome::Failed { .. }), "{receipt:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_receipt_leaves_the_set_and_takes_its_proof() {
    let scene = Scene::new().await;
    let made = scene.make().await;
    remove(&scene.repository().join(format!("receipts/{}.json", made.set)));
    let listed = scene.vault.receipts().await.unwrap();
    assert_eq!((listed[0].set.clone(), listed[0].proven()), (made.set, None));
    let into = scene.folder.path().join("restored");
    assert_eq!(scene.vault.restore(None, None, &into).await.unwrap().parts.len(), 2);
}
