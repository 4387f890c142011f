//! What a real Postgres takes and grew by, as the record has it.

use crate::scene::{Database, GRANTS, Place};
use groundskeeper::clock::Clock;

const HOUR: i64 = 3_600;

/// Two weeks of a database that grows by a petabyte each day, and its disk with it, so that none is large enough.
fn remember(place: &Place) {
    let mut store = place.store();
    let now = Clock::wall().now().as_second();
    let change = store.transaction().unwrap();
    let series = "INSERT INTO series (system, metric, subject, unit) \
                  VALUES ('postgres.main', 'database_size', 'archive', 'bytes') RETURNING id";
    let id: i64 = change.query_row(series, (), |row| row.get(0)).unwrap();
    for ago in 0..14 * 24 {
        let (slot, size) = (now - now % HOUR - ago * HOUR, 1e15 * (20.0 - ago as f64 / 24.0));
        let point = "INSERT INTO sample VALUES (3600, ?1, ?2, ?3, ?3, ?3, 1, ?3)";
        change.execute(point, (id, slot, size)).unwrap();
    }
    // Back from what the first watch saw of the disk.
    let latest =
        "SELECT series, latest FROM sample JOIN series ON series.id = series WHERE metric = ?1 AND resolution = 3600";
    for (metric, grows) in [("disk_total", 0.0), ("disk_available", 1e15)] {
        let (id, last): (i64, f64) = change.query_row(latest, [metric], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        for ago in 1..14 * 24 {
            let (slot, value) = (now - now % HOUR - ago * HOUR, last + grows * ago as f64 / 24.0);
            let point = "INSERT OR REPLACE INTO sample VALUES (3600, ?1, ?2, ?3, ?3, ?3, 1, ?3)";
            change.execute(point, (id, slot, value)).unwrap();
        }
    }
    change.commit().unwrap();
}

#[tokio::test]
async fn a_disk_that_is_full_soon_by_the_record_is_a_finding_and_the_maintenance_tells_sizes() {
    let database = Database::start(GRANTS).await;
    database.worn_table("documents").await;
    // How much this machine's disk has free is not what is tried here.
    let tuning = "[checks.\"postgres.disk_filling\"]\nfor = \"0s\"\nminimum_free = 0\n";
    let place = Place::new(&database.config("", tuning));
    let keeper = place.app().await;
    assert!(keeper.task_run("watch", false, "ann").await.unwrap().ok);
    let open =
        || place.count("SELECT count(*) FROM finding WHERE ended IS NULL AND check_id = 'postgres.disk_filling'");
    assert_eq!(open(), 0, "the record has an hour");
    let of_disk = "SELECT count(*) FROM series WHERE metric IN ('disk_available', 'disk_total', 'wal_size')";
    assert_eq!(place.count(of_disk), 3);
    remember(&place);
    assert!(keeper.task_run("watch", false, "ann").await.unwrap().ok);
    assert_eq!(open(), 1);

    let run = keeper.task_run("database-maintenance", false, "ann").await.unwrap();
    let line = run.details.iter().find(|line| line.starts_with("sizes of postgres.main, and growth since "));
    let line = line.unwrap_or_else(|| panic!("{run:#?}"));
    assert!(line.contains("docrag ") && line.contains("; its largest tables: public.documents "), "{line}");
    assert!(line.contains("archive 17") && line.contains("; pg_wal "), "{line}");
}
