use super::super::aged::Aged;
use super::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const NOW: &str = "2026-11-22T01:00:00Z";

fn claim() -> Claim {
    Claim::new(Some(NOW.parse().unwrap())).unwrap()
}

fn store() -> (Arc<Aged>, Store) {
    let aged = Arc::new(Aged::default());
    (Arc::clone(&aged), Store::of(aged, "s3://backups"))
}

/// Of another machine.
fn other() -> Claim {
    let claim = claim();
    Claim { owner: Owner { host: "db2".into(), machine: "another".into(), ..claim.owner }, ..claim }
}

async fn blocking<T: Send + 'static>(store: &Store, work: impl FnOnce(&Store) -> T + Send + 'static) -> T {
    let store = store.clone();
    tokio::task::spawn_blocking(move || work(&store)).await.unwrap()
}

#[tokio::test]
async fn a_lock_of_another_machine_is_respected_and_named_until_it_falls_silent_by_the_clock_of_the_store() {
    let (aged, store) = store();
    // Its own clock may say what it likes.
    let theirs = Claim { since: Some("1970-01-01T00:00:00Z".parse().unwrap()), ..other() };
    acquire(&store, &theirs).await.unwrap();
    aged.set_minutes(29);
    let busy = acquire(&store, &claim()).await.unwrap_err();
    assert!(matches!(&busy, Error::Busy(who) if who.contains(" on db2 since 1970-01-01T00:00:00Z")), "{busy}");
    aged.set_minutes(31);
    acquire(&store, &claim()).await.unwrap();
    aged.set_minutes(-600);
    let busy = acquire(&store, &other()).await.unwrap_err();
    assert!(matches!(busy, Error::Busy(_)), "{busy}");
}

#[tokio::test]
async fn a_lock_whose_process_on_this_machine_is_gone_is_taken_over_at_once() {
    let (_, store) = store();
    let mut gone = claim();
    gone.owner.started += 1;
    acquire(&store, &gone).await.unwrap();
    acquire(&store, &claim()).await.unwrap();
    let busy = acquire(&store, &claim()).await.unwrap_err();
    assert!(matches!(busy, Error::Busy(_)), "the same process twice: {busy}");
}

#[tokio::test]
async fn of_many_at_once_one_gets_it() {
    let (_, store) = store();
    let claims: Vec<Claim> = (0..20).map(|_| claim()).collect();
    let taken = futures_util::future::join_all(claims.iter().map(|claim| acquire(&store, claim))).await;
    assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 1);
}

#[tokio::test]
async fn what_nobody_can_read_is_not_taken_over() {
    let (aged, store) = store();
    store.put_mode(NAME, b"?".to_vec(), PutMode::Create).await.unwrap();
    aged.set_minutes(6_000);
    let busy = acquire(&store, &other()).await.unwrap_err();
    assert!(busy.to_string().contains("remove it if nothing runs"), "{busy}");
}

#[tokio::test]
async fn a_renewal_keeps_it_and_finds_out_that_another_one_has_it() {
    let (aged, store) = store();
    let mine = claim();
    let version = acquire(&store, &mine).await.unwrap();
    let renewed = Claim { renewals: 1, ..mine.clone() };
    aged.set_minutes(20);
    let next = again(&store, &renewed, &version).await.unwrap().unwrap();
    aged.set_minutes(45);
    assert!(matches!(acquire(&store, &other()).await, Err(Error::Busy(_))));
    // The answer to a renewal was lost: the version is not the one that we know.
    assert!(again(&store, &renewed, &version).await.unwrap().is_some());
    aged.set_minutes(90);
    acquire(&store, &other()).await.unwrap();
    assert_eq!(again(&store, &renewed, &next).await.unwrap(), None);
}

/// Who judged a lock to be nobody's, and is slow, must not take over what was renewed meanwhile.
#[tokio::test]
async fn a_renewal_is_another_object_than_the_one_before() {
    let (_, store) = store();
    let mine = claim();
    acquire(&store, &mine).await.unwrap();
    let (_, judged) = look(&store).await.unwrap().unwrap();
    again(&store, &Claim { renewals: 1, ..mine }, &judged.version).await.unwrap().unwrap();
    let late = write(&store, &other(), PutMode::Update(judged.version)).await;
    assert!(matches!(late, Err(StoreError::Precondition { .. })), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_lock_writes_nothing_any_more_and_leaves_the_others_alone() {
    let (aged, store) = store();
    let held = blocking(&store, |store| Held::take(store, None).unwrap()).await;
    blocking(&store, confirm).await.unwrap();
    aged.set_minutes(60);
    let theirs = Store::of(aged, "s3://backups");
    acquire(&theirs, &other()).await.unwrap();
    assert!(blocking(&store, confirm).await.is_err());
    let error = store.put_mode("snapshots/1", Vec::new(), PutMode::Overwrite).await.unwrap_err();
    assert!(store.told(&error).contains("has taken its lock over"), "{error}");
    assert!(blocking(&store, |store| store.erase("data/1")).await.is_err());
    tokio::task::spawn_blocking(move || drop(held)).await.unwrap();
    assert_eq!(look(&store).await.unwrap().unwrap().0.unwrap().owner.host, "db2");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_could_not_renew_in_time_writes_nothing_any_more_although_nobody_took_it() {
    let (aged, store) = store();
    let held = blocking(&store, |store| Held::take(store, None).unwrap()).await;
    store.put_mode("snapshots/1", Vec::new(), PutMode::Overwrite).await.unwrap();
    store.lease().unwrap().prolong(Duration::ZERO);
    let error = store.put_mode("snapshots/2", Vec::new(), PutMode::Overwrite).await.unwrap_err();
    assert!(store.told(&error).contains("could not be renewed in time"), "{error}");
    assert!(blocking(&store, confirm).await.is_err());
    tokio::task::spawn_blocking(move || drop(held)).await.unwrap();
    // It stays, because it may be another one's at any moment. We know that it is nobody's.
    assert!(look(&store).await.unwrap().is_some());
    acquire(&store.again(), &claim()).await.unwrap();
    drop(aged);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_goes_with_its_value() {
    let (_, store) = store();
    blocking(&store, |store| drop(Held::take(store, None).unwrap())).await;
    assert!(look(&store).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_obeys_no_conditions_is_told_from_one_that_does() {
    for disobedient in [false, true] {
        let (aged, store) = store();
        aged.disobedient.store(disobedient, Ordering::Relaxed);
        let outcome = blocking(&store, |store| {
            let held = Held::take(store, None).unwrap();
            let outcome = must_be_obeyed(store);
            drop(held);
            outcome
        })
        .await;
        assert_eq!(outcome.is_err(), disobedient, "{outcome:?}");
        let why = outcome.err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(why.contains("no set is removed from it"), disobedient, "{why}");
    }
}
