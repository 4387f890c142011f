//! `kill -9` in the middle of a backup.

use crate::backup::{KEY, Scene};
use groundskeeper_core::receipt::Rung;
use std::process::Command;
use std::time::{Duration, Instant};

/// At 20 moments over the time that a whole backup takes: afterwards every set that is listed is whole and proven, what
/// the dead ones left disturbs nothing, and plain restic finds nothing wrong.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_there_is_no_half_a_set() {
    const MOMENTS: u32 = 20;
    let scene = Scene::with_repository().await;
    scene.fill("documents", 100_000).await;
    let began = Instant::now();
    scene.fine(&["backup", "run"]).await;
    let whole = began.elapsed();
    let mut killed = 0;
    for moment in 0..MOMENTS {
        scene.fill(&format!("more_{moment}"), 2_000).await;
        let after = whole * moment / MOMENTS + Duration::from_millis(u64::from(moment) * 7 % 40);
        killed += u32::from(scene.place.killed_after(&["backup", "run"], after).await);
        for set in scene.list().await.sets {
            assert!(set.is_whole() && set.proven() >= Some(Rung::Stored), "after {after:?}: {set:?}");
        }
    }
    assert!(killed > 0, "every backup was over before it was killed");
    scene.fine(&["backup", "run"]).await;
    let verified = scene.fine(&["backup", "verify"]).await;
    assert!(verified.contains("✓ 2 intact"), "{verified}");
    let check = Command::new("restic")
        .args(["--no-cache", "check", "--read-data", "--repo"])
        .arg(scene.repository())
        .env("RESTIC_PASSWORD", KEY)
        .output()
        .expect("restic is missing; run `cargo xtask setup`");
    assert!(check.status.success(), "{check:?}");
}
