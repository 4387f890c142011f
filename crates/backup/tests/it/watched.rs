//! How far work is while it is under way.

use crate::scene::{Scene, now};
use groundskeeper_backup::Done;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Everything that was seen of the progress while `work` was under way.
async fn seen<T>(scene: &Scene, work: impl Future<Output = T>) -> (Vec<Done>, T) {
    let (ended, progress) = (Arc::new(AtomicBool::new(false)), scene.vault.progress().clone());
    let looking = {
        let ended = Arc::clone(&ended);
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                seen.extend(progress.now());
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            seen
        })
    };
    let done = work.await;
    ended.store(true, Ordering::Relaxed);
    (looking.await.unwrap(), done)
}

#[tokio::test(flavor = "multi_thread")]
async fn work_tells_how_far_it_is_and_how_much_is_expected() {
    let scene = Scene::new().await;
    let (making, first) = seen(&scene, scene.make()).await;
    assert!(making.iter().all(|done| done.what == "making a set" && done.total.is_none()), "{making:?}");
    assert!(making.iter().any(|done| done.bytes > 0 && done.files > 0));
    let (making, second) = seen(&scene, scene.make()).await;
    assert!(making.iter().any(|done| done.total == Some(first.bytes())), "{making:?}");
    assert!(making.is_sorted_by_key(|done| done.bytes), "{making:?}");
    let (reading, _) = seen(&scene, scene.vault.verify(None, now())).await;
    let reading: Vec<_> = reading.into_iter().filter(|done| done.what == "reading back").collect();
    assert!(reading.iter().any(|done| done.bytes > 0 && done.total >= Some(done.bytes)), "{reading:?}");
    let into = scene.folder.path().join("restored");
    let (restoring, _) = seen(&scene, scene.vault.restore(None, Some("postgres.main"), &into)).await;
    let last = restoring.last().unwrap();
    assert_eq!(last.what, "restoring postgres.main");
    assert!(last.bytes > 0 && last.total <= Some(second.bytes()) && last.total >= Some(last.bytes), "{last:?}");
    assert_eq!(scene.vault.progress().now(), None);
}
