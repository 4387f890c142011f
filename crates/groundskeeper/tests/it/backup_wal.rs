//! WAL streams while the keeper runs.

use crate::backup::Scene;
use crate::scene::{Keeper, Said, eventually};
use groundskeeper::app::api::BackupStatusView;
use groundskeeper_core::observation::WalStream;
use groundskeeper_core::receipt::Lsn;
use groundskeeper_testing::PostgresServer;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// A stream that fails is begun again after up to a minute.
const PATIENCE: Duration = Duration::from_mins(3);

async fn stands(scene: &Scene) -> Option<WalStream> {
    let view: BackupStatusView = scene.place.json(&["backup", "status"]).await;
    view.backup.wal.into_iter().next()
}

/// Waits until what was written so far is safe, as `backup status` tells it.
async fn caught_up(scene: &Scene) -> WalStream {
    let written: Lsn = scene.ask("SELECT pg_current_wal_flush_lsn()::text").await.parse().unwrap();
    eventually("all WAL is in the repository", async || {
        stands(scene).await.filter(|stream| stream.durable >= Some(written))
    })
    .await
}

/// The same for what may take as long as the keeper's own pauses.
async fn at_last<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "within {PATIENCE:?} it did not happen that {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A table that says what was committed, and when.
struct Told {
    client: Client,
}

impl Told {
    async fn begin(scene: &Scene) -> Self {
        let client = scene.database.server.client().await;
        client.batch_execute("CREATE TABLE told (n int, at timestamptz DEFAULT clock_timestamp())").await.unwrap();
        Self { client }
    }

    /// Commits one row, and gives a time after which it was.
    async fn tell(&self, n: i32) -> String {
        self.client.execute("INSERT INTO told (n) VALUES ($1)", &[&n]).await.unwrap();
        let sql = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// What follows is in the next segment.
    async fn switch(&self) {
        self.client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
}

/// Lets whoever owns the data of the test's server into a folder, and gives it to them.
fn give(scene: &Scene, folder: &Path) {
    let owner = std::fs::metadata(scene.database.server.data_dir()).unwrap();
    if owner.uid() == std::fs::metadata(folder).unwrap().uid() {
        return;
    }
    for above in folder.ancestors().skip(1).take(3) {
        let mode = std::fs::metadata(above).unwrap().permissions().mode();
        std::fs::set_permissions(above, std::fs::Permissions::from_mode(mode | 0o011)).unwrap();
    }
    let mut folders = vec![folder.to_owned()];
    while let Some(path) = folders.pop() {
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        if path.is_dir() {
            folders.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

/// Restores as a person does, and starts a server on it. What was told there.
async fn restored(scene: &Scene, name: &str, target: &[&str]) -> Vec<i32> {
    let into = scene.place.path().join(name);
    scene
        .fine(&[&["backup", "restore", "--only", "postgres.main", "--into", into.to_str().unwrap()], target].concat())
        .await;
    let folder = into.join("postgres.main");
    give(scene, &folder.join("wal"));
    let server: PostgresServer = scene.database.server.bring_up(&folder.join("data")).await.unwrap();
    let client = server.client().await;
    at_last("it has recovered", async || {
        let recovers: bool = client.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap().get(0);
        (!recovers).then_some(())
    })
    .await;
    let rows = client.query("SELECT n FROM told ORDER BY n", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The folder of whole and partial segments.
fn segments(scene: &Scene) -> PathBuf {
    let wal = scene.repository().join("wal");
    let clusters = std::fs::read_dir(wal).unwrap().map(|entry| entry.unwrap().path());
    let mut clusters = clusters.filter(|path| path.is_dir() && path.file_name().unwrap() != "keys");
    clusters.next().unwrap().join("00000001")
}

async fn drilled(scene: &Scene, target: &[&str]) -> Said {
    scene.place.run(&[&["backup", "drill"], target].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_the_keeper_goes_on_without_a_gap() {
    const ROUNDS: u32 = 8;
    let scene = Scene::with_repository().await;
    scene.configure("wal = true\n");
    scene.fine(&["backup", "run"]).await;
    for round in 0..ROUNDS {
        let keeper: Keeper = scene.place.keeper().await;
        scene.fill(&format!("more_{round}"), 20_000).await;
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 331 % 2_300)).await;
        keeper.kill().await;
    }
    let keeper = scene.place.keeper().await;
    scene.fill("last", 10).await;
    let stream = caught_up(&scene).await;
    assert_eq!(stream.gaps, [], "{stream:?}");
    assert!(stream.worst_seconds.is_some() && stream.trouble.is_none(), "{stream:?}");
    let status = scene.place.run(&["backup", "status"]).await;
    assert!(status.out.contains("WAL: postgres.main is safe until"), "{status:?}");

    let to_latest = drilled(&scene, &["--to-latest"]).await;
    assert!(to_latest.code == 0 && to_latest.out.contains("with its last transaction of"), "{to_latest:?}");
    let future = drilled(&scene, &["--to-time", "2999-01-01 00:00"]).await;
    assert!(future.code == 2 && future.err.contains("in the future"), "{future:?}");
    let nonsense = drilled(&scene, &["--to-time", "yesterday"]).await;
    assert!(nonsense.code == 2 && nonsense.err.contains("2026-11-22 14:05"), "{nonsense:?}");

    let asked = Instant::now();
    assert!(keeper.terminate().await.success());
    assert!(asked.elapsed() < Duration::from_secs(15), "it stops soon: {:?}", asked.elapsed());
    let into = scene.place.path().join("restored");
    let restored = scene.fine(&["backup", "restore", "--to-latest", "--into", into.to_str().unwrap()]).await;
    assert!(restored.contains("all that is in the repository") && restored.contains("segments of WAL"), "{restored}");
    assert!(into.join("postgres.main/data/recovery.signal").is_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_being_asked_no_slot_is_made_and_no_time_can_be_restored() {
    let scene = Scene::with_repository().await;
    scene.fine(&["backup", "run"]).await;
    let keeper = scene.place.keeper().await;
    assert_eq!(stands(&scene).await, None);
    assert_eq!(scene.ask("SELECT count(*)::text FROM pg_replication_slots").await, "0");
    let refused = drilled(&scene, &["--to-latest"]).await;
    assert!(refused.code == 1 && refused.err.contains("`wal = true`"), "{refused:?}");
    keeper.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_time_is_restored_with_exactly_what_was_committed_by_then() {
    let scene = Scene::with_repository().await;
    scene.configure("wal = true\n");
    let keeper = scene.place.keeper().await;
    let told = Told::begin(&scene).await;
    told.tell(0).await;
    caught_up(&scene).await;
    scene.fine(&["backup", "run"]).await;
    let mut times = Vec::new();
    for n in 1..=6 {
        times.push(told.tell(n).await);
        if n == 3 {
            told.switch().await;
        }
    }
    caught_up(&scene).await;
    for (name, n) in [("two", 2), ("five", 5)] {
        let to = ["--to-time", &times[n - 1]];
        assert_eq!(restored(&scene, name, &to).await, (0..=n as i32).collect::<Vec<_>>());
    }
    let all: Vec<i32> = (0..=6).collect();
    assert_eq!(restored(&scene, "latest", &["--to-latest"]).await, all);
    let early = scene.place.run(&["backup", "restore", "--to-time", "2001-01-01 00:00", "--into", "early"]).await;
    assert!(early.code == 2 && early.err.contains("no set"), "{early:?}");

    // Without the keeper, and without its configuration: the repository and its key are enough.
    assert!(keeper.terminate().await.success());
    let (repository, key) = (scene.repository(), scene.place.path().join("backup.key"));
    let bare = ["--repository", repository.to_str().unwrap(), "--key-file", key.to_str().unwrap(), "--to-latest"];
    assert_eq!(restored(&scene, "bare", &bare).await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_segment_is_a_finding_and_ends_what_would_need_it() {
    let scene = Scene::with_repository().await;
    scene.configure("wal = true\n");
    let keeper = scene.place.keeper().await;
    let told = Told::begin(&scene).await;
    caught_up(&scene).await;
    scene.fine(&["backup", "run"]).await;
    let before = told.tell(1).await;
    for n in 2..=5 {
        told.tell(n).await;
        told.switch().await;
    }
    told.tell(6).await;
    caught_up(&scene).await;
    assert!(keeper.terminate().await.success());
    let mut whole: Vec<PathBuf> =
        std::fs::read_dir(segments(&scene)).unwrap().map(|entry| entry.unwrap().path()).collect();
    whole.retain(|path| !path.to_str().unwrap().contains("partial"));
    whole.sort();
    let lost = &whole[whole.len() - 2];
    let name = lost.file_name().unwrap().to_str().unwrap()[..24].to_owned();
    std::fs::remove_file(lost).unwrap();

    let status = scene.place.run(&["backup", "status"]).await;
    assert!(status.code == 1 && status.out.contains(&name), "{status:?}");
    assert_eq!(scene.failing().await, ["backup.wal_gap"]);
    let drilled = drilled(&scene, &["--to-latest"]).await;
    assert!(drilled.code == 1 && drilled.err.contains(&name), "{drilled:?}");
    let into = scene.place.path().join("over");
    let refused = scene.place.run(&["backup", "restore", "--to-latest", "--into", into.to_str().unwrap()]).await;
    assert!(refused.code == 1 && refused.err.contains(&name), "{refused:?}");
    assert!(!into.join("postgres.main").exists(), "nothing was restored");
    assert_eq!(restored(&scene, "before", &["--to-time", &before]).await, [1]);
    scene.fine(&["backup", "run"]).await;
    assert_eq!(scene.failing().await, Vec::<String>::new(), "the next set closes the gap");
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_piles_up_is_told_then_let_go_and_the_gap_is_closed_by_the_next_set() {
    let scene = Scene::with_repository().await;
    scene.configure("wal = true\nwal_keep = \"64 MiB\"\n");
    let keeper = scene.place.keeper().await;
    let told = Told::begin(&scene).await;
    caught_up(&scene).await;
    scene.fine(&["backup", "run"]).await;
    // The repository takes sets, and no WAL; what there is of it is still seen.
    let folder = segments(&scene);
    let aside = folder.with_file_name("aside");
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::write(&folder, "in the way").unwrap();
    // Only the slot keeps what was written before a checkpoint: once it is given up, that is lost.
    let write = ["INSERT INTO told SELECT 0 FROM generate_series(1, 100000)", "CHECKPOINT"];
    let piled = async |bytes: u64| {
        let mut written = 0;
        let start: Lsn = scene.ask("SELECT pg_current_wal_flush_lsn()::text").await.parse().unwrap();
        while written < bytes {
            for sql in write {
                told.client.batch_execute(sql).await.unwrap();
            }
            let now: Lsn = scene.ask("SELECT pg_current_wal_flush_lsn()::text").await.parse().unwrap();
            written = now.0 - start.0;
        }
    };
    let failing = async |check: &str| scene.failing().await.iter().any(|failing| failing == check).then_some(());
    piled(40 << 20).await;
    at_last("it is told that a server keeps much", async || failing("backup.slot_retention").await).await;
    let slots = "SELECT count(*)::text FROM pg_replication_slots";
    let status = scene.place.run(&["backup", "status"]).await;
    assert!(status.code == 1 && status.out.contains("of at most 64 MiB"), "{status:?}");
    assert_eq!(scene.ask(slots).await, "1", "it is not given up yet");

    piled(40 << 20).await;
    at_last("the slot is given up", async || (scene.ask(slots).await == "0").then_some(())).await;
    let status = at_last("it is told", async || {
        let status = scene.place.run(&["backup", "status"]).await;
        status.out.contains("was given up").then_some(status)
    })
    .await;
    assert_eq!(status.code, 1, "{status:?}");

    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    at_last("the gap is told", async || failing("backup.wal_gap").await).await;
    scene.fine(&["backup", "run"]).await;
    told.tell(7).await;
    at_last("nothing is wrong any more", async || scene.failing().await.is_empty().then_some(())).await;
    caught_up(&scene).await;
    assert_eq!(restored(&scene, "latest", &["--to-latest"]).await.last(), Some(&7));
    assert!(keeper.terminate().await.success());
}
