//! Rung 5 on real servers: what tables hold in a restored copy is what they held at that position.

use crate::scene::{BUDGET, Scene, now};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Contents, Fingerprints, Moment, Receipt, Rung};
use groundskeeper_testing::PostgresServer;
use std::time::Duration;
use tokio::task::JoinHandle;

fn contents(receipt: &Receipt) -> &Contents {
    match &receipt.parts[0].contents {
        Some(Fingerprints::Taken(contents)) => contents,
        other => panic!("{other:?}"),
    }
}

fn last(receipt: &Receipt) -> &Climb {
    receipt.climbs.last().unwrap()
}

/// Writes until it is stopped, with a pause after each commit.
async fn writer(server: &PostgresServer, pause: Duration) -> JoinHandle<()> {
    let client = server.client().await;
    tokio::spawn(async move {
        let write = "INSERT INTO documents SELECT max(id) + 1, 'late' FROM documents; DELETE FROM documents WHERE id = \
                     (SELECT min(id) FROM documents WHERE body = 'late')";
        while client.batch_execute(write).await.is_ok() {
            tokio::time::sleep(pause).await;
        }
    })
}

async fn drilled(scene: &Scene) -> Receipt {
    scene.vault.drill(None, BUDGET, now()).await.unwrap()
}

#[tokio::test]
async fn a_quiet_server_is_compared_and_a_copy_that_differs_fails() {
    let scene = Scene::new().await;
    let made = scene.make().await;
    assert_eq!(contents(&made).moment, Moment::Quiet);
    let receipt = drilled(&scene).await;
    assert_eq!(receipt.proven(), Some(Rung::Faithful), "{:?}", receipt.climbs);
    let ClimbOutcome::Proven { shown, .. } = &last(&receipt).outcome else { panic!("{receipt:?}") };
    assert!(shown.contains("5,000 rows") && shown.contains(&contents(&made).at.to_string()), "{shown}");

    // As if a row had been lost since, or a byte of one.
    let file = scene.files("receipts").into_iter().find(|file| file.ends_with(format!("{}.json", made.set))).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"rows\": 5000", "\"rows\": 5001")).unwrap();
    let receipt = drilled(&scene).await;
    let ClimbOutcome::Failed { why } = &last(&receipt).outcome else { panic!("{receipt:?}") };
    assert!(why.contains("public.documents has 5,000 rows") || why.contains("public.documents has 5000 rows"), "{why}");
    assert_eq!(receipt.proven(), Some(Rung::Alive));
    let fingerprint = &contents(&made).tables().next().unwrap().1.fingerprint;
    std::fs::write(&file, text.replace(fingerprint.as_str(), "1")).unwrap();
    let receipt = drilled(&scene).await;
    let ClimbOutcome::Failed { why } = &last(&receipt).outcome else { panic!("it differs") };
    assert!(why.contains("other content"), "{why}");
}

#[tokio::test]
async fn the_position_is_exact_while_others_write_all_the_time_or_now_and_then() {
    let scene = Scene::new().await;
    for (pause, moment) in [(Duration::ZERO, Some(Moment::Locked)), (Duration::from_millis(30), None)] {
        let writer = writer(&scene.server, pause).await;
        let made = scene.make().await;
        writer.abort();
        let _ = writer.await;
        assert!(moment.is_none_or(|moment| contents(&made).moment == moment), "{:?}", contents(&made).moment);
        let receipt = drilled(&scene).await;
        assert_eq!(receipt.proven(), Some(Rung::Faithful), "{:?}", last(&receipt));
    }
}

#[tokio::test]
async fn a_set_that_could_not_be_compared_says_why_and_is_alive_all_the_same() {
    let scene = Scene::new().await;
    // A transaction that has written, and never ends.
    let open = scene.server.client().await;
    open.batch_execute("BEGIN; INSERT INTO documents VALUES (-1, 'open')").await.unwrap();
    let made = scene.make().await;
    let Some(Fingerprints::NotTaken { why }) = &made.parts[0].contents else { panic!("{made:?}") };
    assert!(why.contains("could not be locked"), "{why}");
    let receipt = drilled(&scene).await;
    assert_eq!(receipt.proven(), Some(Rung::Alive), "{:?}", receipt.climbs);
    let last = last(&receipt);
    assert!(last.rung == Rung::Faithful && matches!(last.outcome, ClimbOutcome::NotTried { .. }), "{last:?}");
    assert!(!last.leaves_open());
}
