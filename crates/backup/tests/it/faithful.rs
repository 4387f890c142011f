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

/// Write until they are stopped, with a pause after each commit.
async fn writers(server: &PostgresServer, number: u32, pause: Duration) -> Vec<JoinHandle<()>> {
    let mut writers = Vec::new();
    for _ in 0..number {
        let client = server.client().await;
        // In one transaction, which takes its time: of several writers one is always under way.
        let write = "INSERT INTO log (what) VALUES ('late'); UPDATE log SET what = 'later' WHERE id % 7 = 0; SELECT \
                     pg_sleep(0.01)";
        writers.push(tokio::spawn(async move {
            while client.batch_execute(write).await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        }));
    }
    writers
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
    let log = "CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY, what text)";
    scene.server.client().await.batch_execute(log).await.unwrap();
    let rare = Duration::from_millis(30);
    for (number, pause, moment) in [(4, Duration::ZERO, Some(Moment::Locked)), (1, rare, None)] {
        let writers = writers(&scene.server, number, pause).await;
        let made = scene.make().await;
        for writer in writers {
            writer.abort();
            let _ = writer.await;
        }
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
