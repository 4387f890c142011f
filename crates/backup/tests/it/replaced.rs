//! Restores over what is there.

use crate::scene::{Scene, now};
use groundskeeper_backup::Error;
use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;

fn later() -> Timestamp {
    now().checked_add(SignedDuration::from_hours(24)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_moved_aside_and_only_the_parts_that_are_restored() {
    let scene = Scene::new().await;
    scene.make().await;
    let into = scene.folder.path().join("restored");
    scene.vault.restore(None, None, &into).await.unwrap();
    std::fs::write(into.join("postgres.main/of-mine"), "mine").unwrap();
    let names = ["postgres.main", "groundskeeper", "nothing"].map(str::to_owned);
    let taken = scene.vault.taken(&names, &into).await.unwrap();
    assert_eq!(taken, [into.join("postgres.main"), into.join("groundskeeper")]);

    let refused = scene.vault.restore(None, Some("postgres.main"), &into).await.unwrap_err();
    assert!(matches!(&refused, Error::Target { why, .. } if why.contains("not empty")), "{refused}");
    let over = scene.vault.restore_over(None, Some("postgres.main"), &into, later()).await.unwrap();
    let old: PathBuf = into.join("postgres.main.replaced-20261123T010000Z");
    assert_eq!(over.parts[0].replaced.as_ref(), Some(&old));
    assert_eq!(std::fs::read_to_string(old.join("of-mine")).unwrap(), "mine");
    assert!(into.join("postgres.main/data/PG_VERSION").exists() && !into.join("postgres.main/of-mine").exists());
    assert_eq!(std::fs::read_dir(&into).unwrap().count(), 3, "the other part was left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_a_live_postgres_is_never_replaced() {
    let scene = Scene::new().await;
    scene.make().await;
    let data = scene.server.data_dir();
    // As if it had been restored there: the live server's folder under the name of its part.
    let into = scene.folder.path().join("live");
    std::fs::create_dir(&into).unwrap();
    std::fs::rename(data.parent().unwrap(), into.join("postgres.main")).unwrap();
    let refused = scene.vault.restore_over(None, None, &into, later()).await;
    std::fs::rename(into.join("postgres.main"), data.parent().unwrap()).unwrap();
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("a Postgres runs on it"), "{refused}");
    assert_eq!(std::fs::read_dir(&into).unwrap().count(), 0, "nothing was begun");
    let row = scene.server.client().await.query_one("SELECT count(*) FROM documents", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 5000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_fails_leaves_the_old_data_where_they_are() {
    let scene = Scene::new().await;
    scene.make().await;
    let into = scene.folder.path().join("restored");
    scene.vault.restore(None, None, &into).await.unwrap();
    std::fs::write(into.join("postgres.main/of-mine"), "mine").unwrap();
    let largest = scene.files("data").into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
    std::fs::remove_file(largest).unwrap();
    scene.vault.restore_over(None, Some("postgres.main"), &into, later()).await.unwrap_err();
    assert!(into.join("postgres.main/of-mine").exists() && into.join("postgres.main/data/PG_VERSION").exists());
    assert!(!into.join("postgres.main.replaced-20261123T010000Z").exists());
}
