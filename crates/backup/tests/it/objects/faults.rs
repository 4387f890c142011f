//! Bad days of an object store: each is an error with a sentence that helps, or is got over, and leaves no half a set.

use super::{PREFIX, Remote, SECRET, place};
use crate::faults::fill;
use crate::scene::{BUDGET, now};
use groundskeeper_backup::place::{Bucket, Place, Storage};
use groundskeeper_backup::{Error, Lookout, Vault, observe};
use groundskeeper_core::receipt::{ClimbOutcome, Rung};
use groundskeeper_testing::{Fault, port};
use rstest::rstest;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Tries again for as long as it takes.
fn patient(remote: &Remote) -> Vault {
    remote.vault_of(place(Storage { retry_for: Duration::from_mins(2), ..remote.storage() }))
}

#[track_caller]
fn tells(error: &Error, said: &str) {
    let text = error.to_string();
    assert!(text.contains(said), "`{said}` is not in: {text}");
    assert!(text.contains("s3://backups/keeper/main"), "{text}");
    assert!(!text.contains(SECRET) && !text.contains("key-of-the-test") && !text.contains("AWS4-HMAC"), "{text}");
}

/// No set, nothing that restic calls wrong, no lock, and the next backup is a good one.
async fn nothing_is_half_made(remote: &Remote) {
    remote.proxy.behave();
    assert_eq!(remote.vault.receipts().await.unwrap(), [], "no set came of it");
    let made = remote.vault.make(Vec::new(), now()).await.unwrap();
    assert!(made.is_whole(), "{made:?}");
    let verified = remote.vault.verify(None, now()).await.unwrap();
    assert_eq!(verified.proven(), Some(Rung::Intact), "{verified:?}");
    let check = remote.restic(&["check", "--read-data"]);
    assert!(check.status.success(), "{check:?}");
}

#[rstest]
#[case::errors_of_its_own(Fault::Answer(500, "InternalError"), "an error of its own (500 InternalError)")]
#[case::overload(Fault::Answer(503, "SlowDown"), "the store is overloaded (SlowDown)")]
#[case::credentials_that_expired(Fault::Answer(400, "ExpiredToken"), "the credentials have expired (ExpiredToken)")]
#[case::credentials_that_are_wrong(Fault::Answer(403, "SignatureDoesNotMatch"), "the credentials are wrong")]
#[case::a_policy_that_forbids_it(Fault::Answer(403, "AccessDenied"), "permission denied (AccessDenied)")]
#[case::a_full_store(Fault::Answer(507, "XMinioStorageFull"), "the store is full")]
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_in_the_middle_leaves_no_set(#[case] fault: Fault, #[case] said: &str) {
    let remote = Remote::new().await;
    // After the first pack: some of it is stored, and the rest never will be.
    let packs = AtomicU32::new(0);
    remote.proxy.misbehave(move |asked| {
        let pack = asked.method == "PUT" && asked.path.contains("/data/");
        (pack && packs.fetch_add(1, Ordering::Relaxed) > 0).then_some(fault)
    });
    let error = remote.vault.make(Vec::new(), now()).await.unwrap_err();
    assert!(matches!(&error, Error::Place { .. }) && error.retryable(), "{error:?}");
    tells(&error, said);
    nothing_is_half_made(&remote).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_expire_at_any_request_leave_no_set() {
    let remote = Remote::new().await;
    let expired = Fault::Answer(400, "ExpiredToken");
    // Up to the one that would make it a set.
    for after in [1, 2, 3, 4, 5, 7, 9, 11, 14, 19] {
        remote.proxy.misbehave(move |asked| (asked.number > after).then_some(expired));
        let error = remote.vault.make(Vec::new(), now()).await.unwrap_err();
        tells(&error, "the credentials have expired");
        remote.proxy.behave();
        assert_eq!(remote.vault.receipts().await.unwrap(), [], "after {after} requests");
    }
    let refused = Fault::Answer(400, "ExpiredToken");
    remote.proxy.misbehave(move |asked| asked.path.contains("/snapshots/").then_some(refused));
    let error = remote.vault.make(Vec::new(), now()).await.unwrap_err();
    tells(&error, "the credentials have expired");
    nothing_is_half_made(&remote).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_falls_silent_is_given_up_and_leaves_no_set() {
    let remote = Remote::new().await;
    remote.proxy.misbehave(|asked| asked.path.contains("/data/").then_some(Fault::Silence));
    let storage = Storage { timeout: Duration::from_secs(5), ..remote.storage() };
    let error = remote.vault_of(place(storage)).make(Vec::new(), now()).await.unwrap_err();
    tells(&error, "no answer in time");
    nothing_is_half_made(&remote).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_there_is_named_with_what_to_look_at() {
    let remote = Remote::new().await;
    let free = port::free().unwrap();
    let _held = port::Reservation::hold(free).unwrap();
    let storage = Storage { endpoint: Some(format!("http://127.0.0.1:{free}")), ..remote.storage() };
    let vault = remote.vault_of(place(storage));
    for error in [
        vault.make(Vec::new(), now()).await.unwrap_err(),
        vault.receipts().await.unwrap_err(),
        vault.init().await.unwrap_err(),
    ] {
        tells(&error, "look at");
    }
    let failure = observe(&Lookout::new(vault), now(), Duration::from_mins(2)).await.outcome.unwrap_err();
    assert!(failure.message.contains("look at"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_stumbles_now_and_then_is_got_over() {
    let remote = Remote::new().await;
    remote.proxy.misbehave(|asked| match asked.number % 7 {
        2 => Some(Fault::Answer(500, "InternalError")),
        4 => Some(Fault::Answer(503, "SlowDown")),
        5 => Some(Fault::Late(Duration::from_millis(300))),
        _ => None,
    });
    let vault = patient(&remote);
    let made = vault.make(Vec::new(), now()).await.unwrap();
    assert!(made.is_whole(), "{made:?}");
    let drilled = vault.drill(None, BUDGET, now()).await.unwrap();
    let alive = drilled.last(Rung::Alive).map(|climb| &climb.outcome);
    assert!(matches!(alive, Some(ClimbOutcome::Proven { .. })), "{drilled:?}");
    remote.proxy.behave();
    let verified = remote.vault.verify(None, now()).await.unwrap();
    assert_eq!(verified.failed().count(), 0, "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_end_in_the_middle_are_read_on() {
    let remote = Remote::new().await;
    remote.vault.make(Vec::new(), now()).await.unwrap();
    remote.proxy.misbehave(|asked| (asked.path.contains("/data/") && asked.number % 2 == 0).then_some(Fault::Cut));
    let verified = patient(&remote).verify(None, now()).await.unwrap();
    assert_eq!(verified.proven(), Some(Rung::Intact), "{verified:?}");
}

/// A set is not to blame for the store.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_fails_no_rung() {
    let remote = Remote::new().await;
    remote.vault.make(Vec::new(), now()).await.unwrap();
    let vault = &remote.vault;
    let before = vault.receipts().await.unwrap();
    for part in ["/data/", "/index/"] {
        remote.proxy.misbehave(move |asked| {
            (asked.path.contains(part) && asked.method == "GET").then_some(Fault::Answer(500, "InternalError"))
        });
        tells(&vault.verify(None, now()).await.unwrap_err(), "an error of its own");
        tells(&vault.drill(None, BUDGET, now()).await.unwrap_err(), "an error of its own");
        let into = remote.scene.folder.path().join("restored").join(part.trim_matches('/'));
        tells(&vault.restore(None, None, &into).await.unwrap_err(), "an error of its own");
        remote.proxy.behave();
        assert_eq!(vault.receipts().await.unwrap(), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_at_once_make_one_set_and_a_dead_ones_lock_is_no_obstacle() {
    let remote = Remote::new().await;
    fill(&remote.scene).await;
    let other = remote.vault_of(place(remote.storage()));
    let (one, two) = tokio::join!(remote.vault.make(Vec::new(), now()), other.make(Vec::new(), now()));
    let (good, bad): (Vec<_>, Vec<_>) = [one, two].into_iter().partition(Result::is_ok);
    assert!(good.len() == 1 && matches!(&bad[0], Err(Error::Busy(who)) if who.contains(" on ")), "{bad:?}");

    let name = format!("{PREFIX}/groundskeeper.lock");
    remote.server.put(&name, foreign("\"since\": \"2026-11-21T23:00:00Z\", \"renewals\": 3")).await.unwrap();
    let busy = remote.vault.make(Vec::new(), now()).await.unwrap_err().to_string();
    assert!(busy.contains("4711 on db2 since 2026-11-21T23:00:00Z"), "{busy}");
    // By its own clock, and not by ours.
    remote.proxy.misbehave(|asked| asked.path.ends_with("/groundskeeper.lock").then_some(Fault::OfLongAgo));
    assert!(remote.vault.make(Vec::new(), now()).await.unwrap().is_whole());
    assert_eq!(remote.vault.receipts().await.unwrap().len(), 2);
    assert_eq!(remote.objects("groundskeeper.lock").await, Vec::<String>::new());
}

/// What a process of another machine writes.
pub(super) fn foreign(more: &str) -> String {
    let owner = "\"id\": \"1\", \"host\": \"db2\", \"process\": 4711, \"started\": 1, \"machine\": \"another\"";
    if more.is_empty() { format!("{{{owner}}}") } else { format!("{{{owner}, {more}}}") }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_make_the_repository_at_once_make_one_and_what_a_killed_one_left_is_no_obstacle() {
    let remote = Remote::new().await;
    let of = || {
        let bucket = Bucket::parse("s3://backups/another", remote.storage()).unwrap();
        remote.vault_of(Place::of_bucket(bucket))
    };
    let key = format!("another/keys/{}", "0a".repeat(32));
    remote.server.put(&key, "{}").await.unwrap();
    remote.server.put("another/of-mine", "mine").await.unwrap();
    assert!(of().init().await.unwrap_err().to_string().contains("it is not empty"));
    remote.server.delete("another/of-mine").await.unwrap();
    let (vault, other) = (of(), of());
    let (one, two) = tokio::join!(vault.init(), other.init());
    let made = [&one, &two].iter().filter(|made| matches!(made, Ok(true))).count();
    // The other one came too late, or stood before the lock.
    assert_eq!(made, 1, "{one:?} {two:?}");
    assert_eq!(vault.keys().await.unwrap().len(), 1);
    assert_eq!(remote.server.names("another/keys/").await.unwrap().len(), 1);
    assert!(vault.make(Vec::new(), now()).await.unwrap().is_whole());
}
