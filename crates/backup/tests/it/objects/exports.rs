//! Rows that retention deletes, in an object store: there for good, or refused, and out of everybody's way.

use super::{PREFIX, Remote};
use crate::exports::{CSV, day, exporter, noise, piece};
use groundskeeper_backup::Retention;
use groundskeeper_core::receipt::Rung;
use groundskeeper_core::retention::Keep;
use groundskeeper_systems::postgres::act::Sink;
use groundskeeper_testing::Fault;
use jiff::SignedDuration;
use rstest::rstest;

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_is_kept_in_a_bucket_and_read_elsewhere_and_no_prune_takes_it() {
    let remote = Remote::new().await;
    let large = noise(6 << 10);
    let exporter = exporter(&remote.vault, "größe", 3);
    exporter.keep(piece(1, CSV)).await.unwrap();
    exporter.keep(piece(2, &large)).await.unwrap();
    let mut sets = Vec::new();
    for number in 0..2 {
        sets.push(remote.vault.make(Vec::new(), day(number)).await.unwrap().set);
    }
    let keeping =
        Retention { keep: Keep { last: 1, ..Keep::NOTHING }, grace: SignedDuration::ZERO, ..Retention::default() };
    let vault = remote.vault.clone().keeping(keeping);
    assert_eq!(vault.prune(&sets, day(3)).await.unwrap().removed.len(), 1);
    vault.prune(&[], day(4)).await.unwrap();
    let verified = remote.elsewhere().verify(None, day(4)).await.unwrap();
    assert_eq!(verified.proven(), Some(Rung::Intact), "{verified:?}");
    let check = remote.restic(&["check", "--read-data"]);
    assert!(check.status.success(), "{check:?}");

    let listed = remote.elsewhere().exports().await.unwrap();
    let told: Vec<(String, u32)> = listed.iter().map(|export| (export.relation(), export.piece)).collect();
    assert_eq!(told, [("postgres.public.größe".to_owned(), 1), ("postgres.public.größe".to_owned(), 2)]);
    assert_eq!(remote.elsewhere().read_export(&listed[0]).await.unwrap().csv, CSV);
    assert_eq!(remote.elsewhere().read_export(&listed[1]).await.unwrap().csv, large);
    let named = format!("{PREFIX}/{}", listed[0].file);
    assert!(remote.objects("exports").await.contains(&named), "{named}");
}

#[rstest]
#[case::a_full_store("PUT", Fault::Answer(507, "XMinioStorageFull"), "the store is full")]
#[case::a_policy_that_forbids_it("PUT", Fault::Answer(403, "AccessDenied"), "permission denied (AccessDenied)")]
#[case::one_that_cannot_be_read_back("GET", Fault::Answer(403, "AccessDenied"), "permission denied (AccessDenied)")]
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_has_not_taken_it(#[case] method: &'static str, #[case] fault: Fault, #[case] said: &str) {
    let remote = Remote::new().await;
    let exporter = exporter(&remote.vault, "sessions", 3);
    exporter.keep(piece(1, CSV)).await.unwrap();
    remote.proxy.misbehave(move |asked| (asked.method == method && asked.path.contains("/exports/")).then_some(fault));
    let refused = exporter.keep(piece(2, CSV)).await.unwrap_err();
    assert!(refused.contains(said), "{refused}");
    remote.proxy.behave();
    // Where only reading back failed it may be there: the next one is of another deletion.
    crate::exports::exporter(&remote.vault, "sessions", 4).keep(piece(1, CSV)).await.unwrap();
    let listed = remote.elsewhere().exports().await.unwrap();
    assert!(listed.iter().any(|export| export.entry == 4), "{listed:?}");
    assert_eq!(listed.iter().any(|export| export.piece == 2), method == "GET", "{listed:?}");
}
