//! What a step that did not come to its end left behind is put back, journalled like everything else.

use super::*;
use crate::record::Pause;
use crate::remediation::executor::rest;
use groundskeeper_core::observation::Owner;
use groundskeeper_core::tuning::postgres::{Advice, Way, Weight, planned};
use jiff::SignedDuration;

fn invalid_index() -> Finding {
    invalid_indexes(&["chunks_word"])
}

fn invalid_indexes(names: &[&str]) -> Finding {
    let offenders = names.iter().map(|name| {
        let (database, schema, table) = ("docrag".into(), "public".into(), "chunks".into());
        let target = Target::Index { database, schema, table, name: (*name).into() };
        Offender { target, weight: 5.0, note: "left unfinished".into() }
    });
    let draft = Draft::new(Severity::Warning, "indexes").offenders(offenders.collect());
    Finding::from_draft("postgres.index_invalid", &system(), draft)
}

/// What the journal says was done, oldest first: the step, how it ended, and whether it put another one back.
async fn journal(bench: &Bench) -> Vec<(&'static str, Outcome, bool)> {
    let entries = bench.record.with(|store| store.entries(10)).await.unwrap();
    let told = entries.iter().rev().map(|entry| {
        let what = match entry.step {
            Step::Reindex { .. } => "reindex",
            Step::DropLeftovers { .. } => "sweep",
            _ => "other",
        };
        (what, entry.outcome, entry.undoes.is_some())
    });
    told.collect()
}

#[tokio::test(start_paused = true)]
async fn a_build_that_helped_leaves_nothing_to_put_back() {
    let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::None)));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[invalid_index()]).await;
    executor.apply(&plan, &by_itself()).await.unwrap();
    assert_eq!(journal(&bench).await, [("reindex", Outcome::Helped, false)]);
    let id = bench.record.with(|store| store.entries(1)).await.unwrap()[0].id;
    // A person who asks for it is told that nothing is there.
    let (undo, done) = executor.undo(id, "ada").await.unwrap();
    assert!(matches!(undo, groundskeeper_core::remedy::Undo::NotNeeded(_)) && done.is_none(), "{undo:?} {done:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_failed_build_left_is_swept_up_at_once() {
    let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::Fail(1))));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[invalid_index()]).await;
    executor.apply(&plan, &by_itself()).await.unwrap();
    assert_eq!(journal(&bench).await, [("reindex", Outcome::Failed, false), ("sweep", Outcome::Helped, true)]);
    assert!(!world.state.lock().unwrap().leftovers);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_keeper_left_is_swept_up_by_the_next_start() {
    let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::Hang(1))));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[invalid_index()]).await;
    let permission = by_itself();
    let dies = executor.apply(&plan, &permission);
    assert!(tokio::time::timeout(Duration::from_secs(5), dies).await.is_err());
    drop(executor);
    assert!(world.state.lock().unwrap().leftovers);

    let bench = bench.restart();
    let executor = bench.executor(&world);
    executor.recover().await.unwrap();
    assert_eq!(journal(&bench).await, [("reindex", Outcome::Abandoned, false), ("sweep", Outcome::Helped, true)]);
    assert!(!world.state.lock().unwrap().leftovers);
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_met_a_lock_is_tried_again_after_a_pause_and_counts_for_nothing_until_then() {
    let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::Fail(1))));
    world.state.lock().unwrap().locked = 1;
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[invalid_index()]).await;
    executor.apply(&plan, &by_itself()).await.unwrap();
    let failed = [("reindex", Outcome::Failed, false), ("sweep", Outcome::Failed, true)];
    assert_eq!(journal(&bench).await, failed);
    let id = bench.record.with(|store| store.entries(2)).await.unwrap()[1].id;
    assert_eq!(bench.record.with(move |store| store.undone_by(id)).await.unwrap(), None);
    executor.recover().await.unwrap();
    assert_eq!(journal(&bench).await, failed, "not in a loop");
    drop(executor);

    let bench = bench.restart();
    tokio::time::advance(Duration::from_mins(11)).await;
    let executor = bench.executor(&world);
    executor.recover().await.unwrap();
    assert_eq!(journal(&bench).await[1..], [("sweep", Outcome::Failed, true), ("sweep", Outcome::Helped, true)]);
    assert!(!world.state.lock().unwrap().leftovers);
    assert!(bench.record.with(move |store| store.undone_by(id)).await.unwrap().is_some());
    world.state.lock().unwrap().leftovers = true;
    tokio::time::advance(Duration::from_hours(1)).await;
    executor.recover().await.unwrap();
    assert_eq!(journal(&bench).await.len(), 3, "what is put back is not put back again");
}

#[tokio::test(start_paused = true)]
async fn an_undo_is_not_tried_for_ever() {
    let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::Fail(1))));
    world.state.lock().unwrap().locked = usize::MAX;
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[invalid_index()]).await;
    executor.apply(&plan, &by_itself()).await.unwrap();
    for _ in 0..(5 * 24 * 6) {
        tokio::time::advance(Duration::from_mins(10)).await;
        executor.recover().await.unwrap();
    }
    let tries = bench.record.with(|store| store.entries(50)).await.unwrap().len() - 1;
    assert!((5..15).contains(&tries), "{tries}");
}

/// Whoever is killed right after a step was settled: no other call came in between.
#[tokio::test(start_paused = true)]
async fn death_after_a_failure_leaves_the_undo_in_the_journal() {
    for call in 2..5 {
        // The build fails (1); its state is read (2), that of the undo (3), and the undo is carried out (4).
        let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::FailAndHang(1, call))));
        let executor = bench.executor(&world);
        let plan = bench.plan(&executor, &[invalid_index()]).await;
        let permission = by_itself();
        let dies = executor.apply(&plan, &permission);
        assert!(tokio::time::timeout(Duration::from_secs(5), dies).await.is_err());
        drop(executor);
        let entries = bench.record.with(|store| store.entries(10)).await.unwrap();
        let settled = entries.iter().filter(|entry| entry.ended.is_some()).count();
        assert_eq!(settled, entries.len() - 1, "either the step or its undo is still to be settled");

        let bench = bench.restart();
        let executor = bench.executor(&world);
        executor.recover().await.unwrap();
        tokio::time::advance(Duration::from_mins(11)).await;
        executor.recover().await.unwrap();
        assert!(!world.state.lock().unwrap().leftovers, "killed at call {call}");
        assert_eq!(journal(&bench).await.last().unwrap(), &("sweep", Outcome::Helped, true), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_read_is_put_back_once_it_can() {
    // The build fails, and then the server does not answer.
    let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::FailFrom(1, 4))));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[invalid_index()]).await;
    executor.apply(&plan, &by_itself()).await.unwrap();
    assert_eq!(journal(&bench).await, [("reindex", Outcome::Failed, false)]);
    executor.recover().await.unwrap();
    assert!(world.state.lock().unwrap().leftovers);
    tokio::time::advance(Duration::from_mins(11)).await;
    executor.recover().await.unwrap();
    assert_eq!(journal(&bench).await.last().unwrap(), &("sweep", Outcome::Helped, true));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_owed_for_a_database_that_is_gone_and_the_journal_says_so() {
    let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::Drop(1))));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[invalid_index()]).await;
    executor.apply(&plan, &by_itself()).await.unwrap();
    assert_eq!(journal(&bench).await, [("reindex", Outcome::Failed, false)]);
    let entry = bench.record.with(|store| store.entries(1)).await.unwrap().remove(0);
    assert_eq!(entry.detail, "the session was ended; its database is gone");
    let (asked, late) = (world.calls.load(Ordering::SeqCst), start() + SignedDuration::from_hours(71));
    assert!(bench.record.with(move |store| store.owing(late, start())).await.unwrap().is_empty());
    tokio::time::advance(Duration::from_hours(1)).await;
    executor.recover().await.unwrap();
    assert_eq!(world.calls.load(Ordering::SeqCst), asked, "nobody asks for it again");
    // Before anything is begun it is no more than a reason not to begin.
    tokio::time::advance(Duration::from_hours(24 * 7) - Duration::from_hours(1)).await;
    let plan = bench.plan(&executor, &[invalid_index()]).await;
    let applied = executor.apply(&plan, &by_itself()).await.unwrap();
    assert!(
        matches!(&applied[..], [Applied::Skipped { reason, amiss: false, .. }] if reason == "its database is gone")
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_owed_ends_once_the_database_is_gone() {
    // The build fails, its undo meets a lock, and by the next try somebody has dropped the database.
    let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::Fail(1))));
    world.state.lock().unwrap().locked = 1;
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[invalid_index()]).await;
    executor.apply(&plan, &by_itself()).await.unwrap();
    let owing = async || {
        let late = bench.clock.now() + SignedDuration::from_hours(24);
        bench.record.with(move |store| store.owing(late, start())).await.unwrap().len()
    };
    assert_eq!(owing().await, 1);
    drop(executor);
    let executor = bench.executor(&Arc::new(World::new(Mishap::Drop(0))));
    // Its own first call is the one in which it goes.
    executor.recover().await.unwrap();
    tokio::time::advance(Duration::from_mins(11)).await;
    executor.recover().await.unwrap();
    assert_eq!(owing().await, 1, "that it cannot be read is no reason to give it up");
    tokio::time::advance(Duration::from_hours(1)).await;
    executor.recover().await.unwrap();
    assert_eq!(owing().await, 0);
}

/// What a person gets who asks for a setting.
async fn change_of_setting(bench: &Bench, executor: &Executor) -> Plan {
    let advice = Advice {
        setting: "random_page_cost".into(),
        current: "4".into(),
        advised: "1.1".into(),
        reason: "flash".into(),
        source: "a manual".into(),
        weight: Weight::Matters,
        needs_restart: false,
        owner: Owner::Nobody,
        way: Way::Statement { sql: String::new() },
    };
    let (situation, now) = (executor.situation().await.unwrap(), bench.clock.now());
    let item = planned(&advice, &[], &system(), &bench.policy, &situation, now).unwrap();
    let plan = Plan::new(now, vec![item]);
    let kept = plan.clone();
    bench.record.with(move |store| store.keep_plan(&kept)).await.unwrap();
    plan
}

/// A connection that was lost in the middle may leave a session on the server that writes afterwards.
#[tokio::test(start_paused = true)]
async fn a_change_of_settings_is_put_back_unseen_while_somebody_may_still_write_it() {
    let (failed, undone) = (("other", Outcome::Failed, false), ("other", Outcome::Helped, true));
    for (under_way, told) in [(false, vec![failed]), (true, vec![failed, undone])] {
        let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::Fail(1))));
        let executor = bench.executor(&world);
        let plan = change_of_setting(&bench, &executor).await;
        world.state.lock().unwrap().under_way = under_way;
        let applied = executor.apply(&plan, &by_itself()).await.unwrap();
        assert_eq!(journal(&bench).await, told, "{under_way}: {applied:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_undo_that_is_owed_does_not_take_back_a_later_change_of_the_same_setting() {
    // The change fails, and then the server does not answer.
    let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::FailFrom(1, 4))));
    let executor = bench.executor(&world);
    let plan = change_of_setting(&bench, &executor).await;
    executor.apply(&plan, &by_itself()).await.unwrap();
    let later = change_of_setting(&bench, &executor).await;
    tokio::time::advance(Duration::from_mins(1)).await;
    executor.apply(&later, &by_itself()).await.unwrap();
    let told = [("other", Outcome::Failed, false), ("other", Outcome::Helped, false)];
    assert_eq!(journal(&bench).await, told);
    tokio::time::advance(Duration::from_mins(20)).await;
    executor.recover().await.unwrap();
    assert_eq!(journal(&bench).await, told);
    assert_eq!(world.state.lock().unwrap().line.as_deref(), Some("1.1"));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_put_back_while_a_person_has_paused_everything() {
    let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::FailFrom(1, 4))));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[invalid_index()]).await;
    executor.apply(&plan, &by_itself()).await.unwrap();
    let since = bench.clock.now();
    let pause = Pause { task: None, reason: "a migration".into(), who: "ann".into(), since, until: None };
    bench.record.with(move |store| store.pause(&pause)).await.unwrap();
    tokio::time::advance(Duration::from_mins(11)).await;
    executor.recover().await.unwrap();
    assert!(world.state.lock().unwrap().leftovers);
    let now = bench.clock.now();
    bench.record.with(move |store| store.resume(None, "ann", now)).await.unwrap();
    executor.recover().await.unwrap();
    assert!(!world.state.lock().unwrap().leftovers);
}

#[tokio::test(start_paused = true)]
async fn after_a_build_others_have_the_server_to_themselves_for_a_while() {
    // Two builds, and 60 times the first one in between, at most twelve minutes; nothing is waited for at the end.
    let seconds = two_builds(Duration::from_secs(10)).await;
    assert!((620..630).contains(&seconds), "{seconds} s");
    let seconds = two_builds(Duration::from_secs(20)).await;
    assert!((760..770).contains(&seconds), "{seconds} s");
}

#[test]
fn builds_share_what_is_left_of_their_window() {
    let (seconds, minutes) = (Duration::from_secs, Duration::from_mins);
    // Took, more to come, left of the window, rest.
    for (took, builds, left, expected) in [
        (seconds(20), 1, None, minutes(12)),
        (seconds(4), 1, None, minutes(4)),
        (seconds(20), 1, Some(minutes(120)), minutes(12)),
        (seconds(20), 9, Some(minutes(100)), seconds(580)),
        (seconds(20), 30, Some(minutes(100)), minutes(5)),
        (seconds(20), 1, Some(Duration::ZERO), minutes(5)),
        (seconds(2), 100, Some(minutes(10)), seconds(50)),
    ] {
        assert_eq!(rest(took, builds, left), expected, "{took:?} {builds} {left:?}");
    }
}

async fn two_builds(each: Duration) -> u64 {
    let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::None)));
    world.state.lock().unwrap().build = each;
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[invalid_indexes(&["chunks_word", "chunks_other"])]).await;
    assert_eq!(plan.items.len(), 2);
    let began = tokio::time::Instant::now();
    executor.apply(&plan, &by_itself()).await.unwrap();
    assert_eq!(journal(&bench).await, [("reindex", Outcome::Helped, false); 2]);
    began.elapsed().as_secs()
}
