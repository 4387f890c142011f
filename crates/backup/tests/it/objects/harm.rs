//! Harm to what an object store holds: the set is at fault then and not the store, and it says so.

use super::{PREFIX, Remote};
use crate::scene::{BUDGET, now};
use groundskeeper_backup::Error;
use groundskeeper_core::receipt::{Receipt, Rung};
use rstest::rstest;

type Harm = fn(&[u8]) -> Vec<u8>;

fn flipped(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    content
}

fn truncated(content: &[u8]) -> Vec<u8> {
    content[..content.len() - content.len() / 3].to_vec()
}

/// What is wrong, if the repository does not pass any more for one that holds its set unharmed.
async fn wrong(remote: &Remote) -> Option<String> {
    match remote.vault.verify(None, now()).await {
        Err(error) => Some(error.to_string()),
        Ok(verified) => verified.failed().next().map(|(_, why)| why.to_owned()),
    }
}

async fn largest_pack(remote: &Remote) -> String {
    let mut largest = (0, String::new());
    for name in remote.objects("data/").await {
        largest = largest.max((remote.server.get(&name).await.unwrap().len(), name));
    }
    largest.1
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bit_in_any_kind_of_object_that_leads_to_the_data_is_noticed() {
    let remote = Remote::new().await;
    remote.vault.make(Vec::new(), now()).await.unwrap();
    for kind in ["config", "keys/", "index/", "snapshots/"] {
        let name = remote.objects(kind).await.remove(0);
        let whole = remote.server.get(&name).await.unwrap();
        remote.server.put(&name, flipped(&whole)).await.unwrap();
        let why = wrong(&remote).await;
        assert!(why.is_some_and(|why| !why.is_empty()), "{kind}");
        remote.server.put(&name, whole).await.unwrap();
        assert_eq!(wrong(&remote).await, None, "{kind} is whole again");
    }
}

#[rstest]
#[case::a_flipped_bit(Some(flipped as Harm), "is not what was written")]
#[case::a_truncated_pack(Some(truncated as Harm), "bytes instead of")]
#[case::a_lost_pack(None, "is gone")]
#[tokio::test(flavor = "multi_thread")]
async fn a_harmed_pack_fails_the_rungs_of_its_set(#[case] harm: Option<Harm>, #[case] told: &str) {
    let remote = Remote::new().await;
    remote.vault.make(Vec::new(), now()).await.unwrap();
    let name = largest_pack(&remote).await;
    match harm {
        Some(harm) => remote.server.put(&name, harm(&remote.server.get(&name).await.unwrap())).await.unwrap(),
        None => remote.server.delete(&name).await.unwrap(),
    }
    let verified = remote.vault.verify(None, now()).await.unwrap();
    let failed: Vec<(Rung, &str)> = verified.failed().collect();
    assert!(failed.iter().any(|(rung, why)| *rung == Rung::Intact && why.contains(told)), "{verified:?}");
    assert!(verified.proven() < Some(Rung::Intact));
    let kept: Vec<Receipt> = remote.vault.receipts().await.unwrap();
    assert_eq!(kept[0].proven(), verified.proven(), "the receipt says so, too");
}

/// What was read back once is believed, so it is the drill and the restore that meet the harm.
#[rstest]
#[case::a_flipped_bit(flipped)]
#[case::a_truncated_pack(truncated)]
#[tokio::test(flavor = "multi_thread")]
async fn harm_after_the_proof_fails_the_drill_and_the_restore(#[case] harm: Harm) {
    let remote = Remote::new().await;
    remote.vault.make(Vec::new(), now()).await.unwrap();
    assert_eq!(wrong(&remote).await, None);
    let name = largest_pack(&remote).await;
    remote.server.put(&name, harm(&remote.server.get(&name).await.unwrap())).await.unwrap();
    let drilled = remote.vault.drill(None, BUDGET, now()).await.unwrap();
    assert!(drilled.failed().any(|(rung, _)| rung == Rung::Restored), "{:?}", drilled.climbs);
    let into = remote.scene.folder.path().join("restored");
    let error = remote.vault.restore(None, None, &into).await.unwrap_err();
    assert!(matches!(&error, Error::Damaged { place, .. } if place.ends_with(PREFIX)), "{error:?}");
    assert!(!into.join("postgres.main").exists(), "nothing passes for a restored cluster");
}
