//! WAL streams while the keeper runs.

use crate::backup::Scene;
use crate::scene::{Keeper, Said, eventually};
use groundskeeper::app::api::BackupStatusView;
use groundskeeper_core::observation::WalStream;
use groundskeeper_core::receipt::Lsn;
use std::time::{Duration, Instant};

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
