//! Sets are made, climb, and come back.

use crate::scene::{BUDGET, KEY, Scene, files, make_space, now};
use groundskeeper_backup::Error;
use groundskeeper_backup::programs::Programs;
use groundskeeper_backup::scratch::{DataFolder, Room, ScratchPlace, ScratchServer};
use groundskeeper_backup::vault::{Content, Own};
use groundskeeper_core::receipt::{ClimbOutcome, Receipt, Rung, SetId};
use groundskeeper_testing::PostgresOptions;
use groundskeeper_testing::scratch::Scratch;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[tokio::test(flavor = "multi_thread")]
async fn a_set_climbs_to_alive_and_leaves_nothing_behind() {
    let scene = Scene::new().await;
    let made = scene.make().await;
    assert_eq!(made.proven(), Some(Rung::Stored), "{made:?}");
    assert!(made.is_whole() && made.added > 0 && made.added < made.bytes(), "{made:?}");
    let verified = scene.vault.verify(None, now()).await.unwrap();
    assert_eq!(verified.proven(), Some(Rung::Intact), "{verified:?}");
    let drilled = scene.vault.drill(Some(&made.set), BUDGET, now()).await.unwrap();
    assert_eq!(drilled.proven(), Some(Rung::Faithful), "{:?}", drilled.climbs);
    assert!(drilled.recovery_time().unwrap() > 0.0);
    assert_eq!(scene.vault.receipts().await.unwrap(), [drilled], "also what was measured");
    assert_eq!(std::fs::read_dir(scene.scratch()).unwrap().count(), 0, "the drill takes its place away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_set_answers_with_what_was_in_it() {
    let scene = Scene::new().await;
    let made = scene.make().await;
    scene.server.client().await.batch_execute("DELETE FROM documents").await.unwrap();

    let programs = Programs::find(15, &scene.vault.settings().programs).unwrap();
    let place =
        ScratchPlace::make(&scene.scratch(), "postgres", &[], Room { needed: 1 << 20, left_free: 0 }).await.unwrap();
    let into = place.path().join("restored");
    let restored = scene.vault.restore(None, None, &into).await.unwrap();
    let names: Vec<&str> = restored.parts.iter().map(|part| part.name.as_str()).collect();
    assert_eq!((restored.set, names), (made.set, vec!["groundskeeper", "postgres.main"]));
    let cluster = made.parts[0].postgres.as_ref().unwrap();
    let data = DataFolder::take_over(&place, &into.join("postgres.main/data")).await.unwrap();
    let server = ScratchServer::start(&programs, &data, cluster, BUDGET).await.unwrap();
    let client = server.connect("postgres").await.unwrap();
    let row = client.query_one("SELECT count(*), sum(length(body)) FROM public.documents", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (5000, 5000 * 640));
    drop(client);
    server.stop().await.unwrap();

    let again = scene.vault.restore(None, None, &into).await.unwrap_err();
    assert!(matches!(&again, Error::Target { why, .. } if why.contains("not empty")), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_restic_reads_what_was_written() {
    let scene = Scene::new().await;
    let own = vec![Own { name: "audit-head.json".into(), content: Content::Text("{}".into()) }];
    let made = scene.vault.make(own, now()).await.unwrap();
    let check = scene.restic(&["check", "--read-data"]);
    assert!(check.status.success(), "{check:?}");
    let listed = scene.restic(&["snapshots", "--json"]);
    let snapshots: Vec<serde_json::Value> = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(snapshots.len(), 1, "what a set was made of is gone: {snapshots:?}");
    assert!(snapshots[0]["tags"].as_array().unwrap().contains(&made.set.to_string().into()));

    let (theirs, ours) = (Scratch::new("restic").unwrap(), Scratch::new("ours").unwrap());
    let target = theirs.path().join("out");
    let restored = scene.restic(&["restore", "latest", "--target", target.to_str().unwrap()]);
    assert!(restored.status.success(), "{restored:?}");
    scene.vault.restore(None, None, &ours.path().join("out")).await.unwrap();
    let (theirs, ours) = (contents(&target), contents(&ours.path().join("out")));
    assert_eq!(theirs.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>());
    assert!(theirs == ours, "the bytes are the same");
    let dumped = scene.restic(&["dump", "latest", "/groundskeeper/set.json"]);
    assert!(String::from_utf8_lossy(&dumped.stdout).contains(made.set.as_str()), "{dumped:?}");
    let one = scene.restic(&["dump", "latest", "/postgres.main/data/PG_VERSION"]);
    assert_eq!(String::from_utf8_lossy(&one.stdout).trim(), "15");
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files(folder)
        .into_iter()
        .map(|file| (file.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&file).unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_set_adds_only_what_changed_and_each_comes_back_by_its_name() {
    let scene = Scene::new().await;
    let first = scene.make().await;
    scene.server.client().await.batch_execute("UPDATE documents SET body = 'changed' WHERE id <= 10").await.unwrap();
    let second = scene.make().await;
    assert!(second.set > first.set, "also when the clock stood still");
    assert!(second.added < first.added / 2, "{} and {}", first.added, second.added);
    let sets: Vec<SetId> = scene.vault.receipts().await.unwrap().into_iter().map(|receipt| receipt.set).collect();
    assert_eq!(sets, [second.set.clone(), first.set.clone()]);
    scene.vault.verify(Some(&first.set), now()).await.unwrap();
    let again = scene.vault.verify(Some(&second.set), now()).await.unwrap();
    let ClimbOutcome::Proven { shown, .. } = &again.last(Rung::Intact).unwrap().outcome else { panic!("{again:?}") };
    assert!(shown.starts_with("0 packs"), "nothing is read twice: {shown}");
    let unknown: SetId = "20200101T000000Z-00000000".parse().unwrap();
    assert!(matches!(scene.vault.verify(Some(&unknown), now()).await, Err(Error::NoSet(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_made_after_the_clock_went_back_is_still_the_newest() {
    let scene = Scene::new().await;
    let first = scene.make().await;
    let earlier: Timestamp = "2026-11-21T01:00:00Z".parse().unwrap();
    let second = scene.vault.make(Vec::new(), earlier).await.unwrap();
    assert!(second.set > first.set && second.made == earlier, "{first:?} {second:?}");
    assert_eq!(scene.vault.receipts().await.unwrap()[0].set, second.set);
}

#[tokio::test(flavor = "multi_thread")]
async fn tablespaces_come_along_and_the_live_ones_are_left_alone() {
    let scene = Scene::new().await;
    let space = scene.server.data_dir().parent().unwrap().join("space");
    make_space(&space, &scene.server.data_dir());
    let client = scene.server.client().await;
    client.batch_execute(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display())).await.unwrap();
    client
        .batch_execute("CREATE TABLE placed (id int PRIMARY KEY) TABLESPACE fast; INSERT INTO placed VALUES (1)")
        .await
        .unwrap();
    let made = scene.make().await;
    assert_eq!(made.parts[0].postgres.as_ref().unwrap().tablespaces.len(), 1);
    let before = contents(&space);
    scene.vault.verify(None, now()).await.unwrap();
    let drilled = scene.vault.drill(None, BUDGET, now()).await.unwrap();
    assert_eq!(drilled.proven(), Some(Rung::Faithful), "{:?}", drilled.climbs);
    assert!(before == contents(&space));
    let into = scene.folder.path().join("restored");
    scene.vault.restore(None, Some("postgres.main"), &into).await.unwrap();
    let map = std::fs::read_to_string(into.join("postgres.main/data/tablespace_map")).unwrap();
    assert!(map.contains("restored/postgres.main/tablespaces/"), "{map}");
    assert!(!into.join("groundskeeper").exists());
}

/// Without it nobody knows that there is a Postgres in the set, and its tablespaces must not lead to the live ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_set_without_its_receipt_is_not_whole_and_comes_back_away_from_the_live_tablespaces() {
    let scene = Scene::new().await;
    let space = scene.server.data_dir().parent().unwrap().join("space");
    make_space(&space, &scene.server.data_dir());
    let client = scene.server.client().await;
    client.batch_execute(&format!("CREATE TABLESPACE fast LOCATION '{}'", space.display())).await.unwrap();
    client.batch_execute("CREATE TABLE placed (id int) TABLESPACE fast").await.unwrap();
    let made = scene.make().await;
    std::fs::remove_file(scene.repository().join(format!("receipts/{}.json", made.set))).unwrap();
    assert!(!scene.vault.receipts().await.unwrap()[0].is_whole());
    let into = scene.folder.path().join("restored");
    let restored = scene.vault.restore(None, None, &into).await.unwrap();
    let data = into.join("postgres.main/data");
    let map = std::fs::read_to_string(data.join("tablespace_map")).unwrap();
    assert!(map.contains("restored/postgres.main/tablespaces/") && !map.contains(space.to_str().unwrap()), "{map}");
    let link = std::fs::read_dir(data.join("pg_tblspc")).unwrap().next().unwrap().unwrap().path();
    assert!(std::fs::read_link(link).unwrap().starts_with(into));
    assert!(restored.parts.iter().any(|part| !part.next.is_empty()), "{restored:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_of_a_set_that_nobody_verified_climbs_the_lower_rungs_first() {
    let scene = Scene::new().await;
    scene.make().await;
    let drilled = scene.vault.drill(None, BUDGET, now()).await.unwrap();
    assert_eq!(drilled.proven(), Some(Rung::Faithful), "{:?}", drilled.climbs);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_keys_open_it_and_a_removed_one_does_not() {
    let scene = Scene::with(PostgresOptions::default()).await;
    assert!(!scene.vault.init().await.unwrap(), "it is there already");
    let added = scene.vault.add_key(&"another one".into()).await.unwrap();
    let keys = scene.vault.keys().await.unwrap();
    assert_eq!((keys.len(), keys.iter().filter(|key| key.in_use).count()), (2, 1));
    let in_use = keys.iter().find(|key| key.in_use).unwrap();
    assert!(matches!(scene.vault.remove_key(&in_use.id).await, Err(Error::Key(why)) if why.contains("in use")));

    let mut settings = scene.vault.settings().clone();
    let file = scene.folder.path().join("key");
    std::fs::write(&file, "another one\nand a second line\n").unwrap();
    settings.key = groundskeeper_backup::vault::KeySource::File(file.clone());
    let other = groundskeeper_backup::Vault::new(settings.clone());
    other.try_key().await.unwrap();
    scene.vault.remove_key(&added.id[..8]).await.unwrap();
    assert!(matches!(other.try_key().await, Err(Error::WrongKey { .. })));
    settings.key = groundskeeper_backup::vault::KeySource::Command(format!("echo '{KEY}'"));
    groundskeeper_backup::Vault::new(settings.clone()).try_key().await.unwrap();
    settings.key = groundskeeper_backup::vault::KeySource::Command("echo no >&2; false".into());
    let refused = groundskeeper_backup::Vault::new(settings).try_key().await.unwrap_err();
    assert!(matches!(&refused, Error::Key(why) if why.contains("no")), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_around_the_live_data_directory_is_not_tried() {
    let scene = Scene::new().await;
    let made = scene.make().await;
    let data = scene.server.data_dir();
    let cluster = made.parts[0].postgres.as_ref().unwrap();
    assert_eq!(cluster.settings["data_directory"], data.display().to_string());
    let mut settings = scene.vault.settings().clone();
    settings.scratch = data.parent().unwrap().to_owned();
    let before = std::fs::read_dir(&settings.scratch).unwrap().count();
    let around = settings.scratch.clone();
    let drilled = groundskeeper_backup::Vault::new(settings).drill(None, BUDGET, now()).await.unwrap();
    for climb in &drilled.climbs[drilled.climbs.len() - 2..] {
        let ClimbOutcome::NotTried { why } = &climb.outcome else { panic!("{climb:?}") };
        assert!(why.contains("a folder of a live Postgres, in it; set `scratch`"), "{why}");
    }
    assert_eq!(std::fs::read_dir(around).unwrap().count(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_hidden_from_the_role_is_named_with_the_proof() {
    let scene = Scene::with(PostgresOptions::default().set("max_replication_slots", "23")).await;
    let client = scene.server.client().await;
    client.batch_execute("CREATE ROLE bare LOGIN REPLICATION PASSWORD 'CHANGE-ME'").await.unwrap();
    let url = scene.server.url_for("bare", "CHANGE-ME", "postgres");
    let vault = groundskeeper_backup::Vault::new(crate::scene::settings(&url, scene.folder.path()));
    let made = vault.make(Vec::new(), now()).await.unwrap();
    let settings = &made.parts[0].postgres.as_ref().unwrap().settings;
    assert_eq!(settings["max_replication_slots"], "23");
    assert!(!settings.contains_key("data_directory"), "else this shows nothing: {settings:?}");
    let drilled = vault.drill(None, BUDGET, now()).await.unwrap();
    let ClimbOutcome::Proven { not_covered, .. } = &drilled.last(Rung::Alive).unwrap().outcome else {
        panic!("{drilled:?}")
    };
    for hidden in ["the libraries of `shared_preload_libraries`", "not around the live data directory"] {
        assert!(not_covered.iter().any(|line| line.contains(hidden)), "{not_covered:?}");
    }
}

/// A vault without a server, over a folder that is not there yet.
fn bare_vault(folder: &Path) -> groundskeeper_backup::Vault {
    groundskeeper_backup::Vault::new(crate::scene::settings("postgres://a:b@127.0.0.1:1/x", folder))
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_make_the_repository_at_once_one_does() {
    let folder = Scratch::new("init").unwrap();
    let vaults: Vec<_> = (0..4).map(|_| bare_vault(folder.path())).collect();
    let made = vaults.into_iter().map(|vault| tokio::spawn(async move { vault.init().await }));
    let (mut made_by, mut others) = (0, 0);
    for ended in made.collect::<Vec<_>>() {
        match ended.await.unwrap() {
            Ok(true) => made_by += 1,
            Ok(false) | Err(Error::Busy(_)) => others += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((made_by, others), (1, 3));
    assert_eq!(files(&folder.path().join("repository/keys")).len(), 1, "each key opens it");
    bare_vault(folder.path()).try_key().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_was_half_made_is_made_again_and_a_strangers_folder_is_left_alone() {
    let folder = Scratch::new("init").unwrap();
    let (vault, repository) = (bare_vault(folder.path()), folder.path().join("repository"));
    vault.init().await.unwrap();
    let old_key = files(&repository.join("keys")).remove(0);
    // As an end by force between the key and the configuration leaves it, on a disk of its own.
    std::fs::rename(repository.join("config"), repository.join("config#1")).unwrap();
    std::fs::copy(&old_key, repository.join(format!("keys/{}#1", "0".repeat(64)))).unwrap();
    std::fs::create_dir(repository.join("lost+found")).unwrap();
    assert!(vault.init().await.unwrap());
    let keys = files(&repository.join("keys"));
    assert!(keys.len() == 1 && keys[0] != old_key, "the old one is a key of nothing: {keys:?}");
    assert!(repository.join("lost+found").exists() && !repository.join("config#1").exists());
    vault.try_key().await.unwrap();

    for strange in ["notes.txt", "keys/id_ed25519"] {
        let other = Scratch::new("strange").unwrap();
        let file = other.path().join("repository").join(strange);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "mine").unwrap();
        let refused = bare_vault(other.path()).init().await.unwrap_err();
        assert!(matches!(&refused, Error::Place { why, .. } if why.contains("is not empty")), "{refused}");
        assert_eq!(files(other.path()).iter().filter(|file| !file.ends_with("in-use")).count(), 1, "not even our lock");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_read_back_in_time_is_not_tried_and_read_the_next_time() {
    let scene = Scene::new().await;
    scene.make().await;
    let packs = scene.files("data").len();
    let intact =
        |receipt: &Receipt| receipt.climbs.iter().rfind(|climb| climb.rung == Rung::Intact).unwrap().outcome.clone();
    let late = scene.vault.verify_within(None, std::time::Duration::ZERO, now()).await.unwrap();
    assert_eq!(late.proven(), Some(Rung::Stored));
    let ClimbOutcome::NotTried { why } = intact(&late) else { panic!("{late:?}") };
    assert!(why.starts_with(&format!("{packs} of {packs} packs were not read back")), "{why}");
    let whole = scene.vault.verify(None, now()).await.unwrap();
    let ClimbOutcome::Proven { shown, .. } = intact(&whole) else { panic!("{whole:?}") };
    assert!(shown.starts_with(&format!("{packs} packs")), "{shown}");

    // Only what is new is left over, and a pack that is gone is noticed without reading.
    scene.server.client().await.batch_execute("UPDATE documents SET body = 'changed' WHERE id <= 10").await.unwrap();
    scene.make().await;
    let late = scene.vault.verify_within(None, std::time::Duration::ZERO, now()).await.unwrap();
    let ClimbOutcome::NotTried { why } = intact(&late) else { panic!("{late:?}") };
    assert!(!why.starts_with(&format!("{} of", scene.files("data").len())), "{why}");
    let largest = scene.files("data").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    std::fs::remove_file(largest).unwrap();
    let harmed = scene.vault.verify_within(None, std::time::Duration::ZERO, now()).await.unwrap();
    assert!(matches!(intact(&harmed), ClimbOutcome::Failed { .. }), "{harmed:?}");
}
