//! What waits for what, what is left over and what is not, and the stop.

use super::*;

/// Carries the plan out in the background.
fn applying(
    executor: &Executor,
    plan: &Plan,
    permission: &Permission,
) -> tokio::task::JoinHandle<crate::record::Result<Vec<Applied>>> {
    let (executor, plan, permission) = (executor.clone(), plan.clone(), permission.clone());
    tokio::spawn(async move { executor.apply(&plan, &permission).await })
}

async fn under_way(bench: &Bench) {
    while bench.record.with(|store| store.unsettled()).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn slow_world() -> Arc<World> {
    let world = World::new(Mishap::None);
    world.state.lock().unwrap().slow = true;
    Arc::new(world)
}

#[tokio::test(start_paused = true)]
async fn what_mends_a_single_thing_does_not_wait_for_a_vacuum_and_another_vacuum_is_sent_away() {
    let bench = Bench::new();
    let world = slow_world();
    let executor = bench.executor(&world);
    let long = bench.plan(&executor, &[bloated_table()]).await;
    let hanging = applying(&executor, &long, &by_itself());
    under_way(&bench).await;

    let both = bench.plan(&executor, &[idle_session(), other_table()]).await;
    let applied = executor.try_apply(&both, &by_itself()).await.unwrap();
    assert!(matches!(&applied[0], Applied::Done(entry) if entry.outcome == Outcome::Helped), "{applied:?}");
    assert_eq!(reason(&applied[1]), "another routine action is under way");
    let unsettled = bench.record.with(|store| store.unsettled()).await.unwrap();
    assert_eq!(unsettled.len(), 1, "what is under way is not left over");
    hanging.abort();
    let _ = hanging.await;
    executor.idle().await;
    world.state.lock().unwrap().slow = false;
    // The hand that hung is gone; what it left over is settled before anything else is done.
    executor.try_apply(&both, &by_itself()).await.unwrap();
    assert!(bench.record.with(|store| store.unsettled()).await.unwrap().is_empty());
}

fn other_table() -> Finding {
    let target = Target::Table { database: "docrag".into(), schema: "public".into(), name: "documents".into() };
    let offender = Offender { target, weight: 5.0, note: "5,000 dead rows".into() };
    let draft = Draft::new(Severity::Warning, "1 table").offenders(vec![offender]);
    Finding::from_draft("postgres.dead_rows_past_trigger", &system(), draft)
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_what_takes_too_long_and_begins_nothing_new() {
    let bench = Bench::new();
    let world = slow_world();
    let executor = bench.executor(&world);
    let mut plan = bench.plan(&executor, &[bloated_table()]).await;
    plan.items.extend(bench.plan(&executor, &[other_table()]).await.items);
    let running = applying(&executor, &plan, &by_itself());
    under_way(&bench).await;
    let asked = tokio::time::Instant::now();
    executor.stop(Duration::from_secs(20)).await;
    assert!(asked.elapsed() >= Duration::from_secs(20) && asked.elapsed() < Duration::from_secs(21));
    let applied = running.await.unwrap().unwrap();
    let Applied::Done(entry) = &applied[0] else { panic!("{applied:?}") };
    assert_eq!(entry.outcome, Outcome::Failed);
    assert!(entry.detail.starts_with("interrupted by the stop of groundskeeper"), "{}", entry.detail);
    assert_eq!(reason(&applied[1]), "groundskeeper is stopping");
    assert!(bench.record.with(|store| store.unsettled()).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_with_nothing_under_way_takes_no_time() {
    let bench = Bench::new();
    let executor = bench.executor(&Arc::new(World::new(Mishap::None)));
    let asked = tokio::time::Instant::now();
    executor.stop(Duration::from_secs(20)).await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
}

/// An executor that died in the middle of a vacuum, and the next one.
async fn after_a_death(world: &Arc<World>) -> (Bench, Executor) {
    let bench = Bench::new();
    let executor = bench.executor(world);
    let plan = bench.plan(&executor, &[bloated_table()]).await;
    let hanging = applying(&executor, &plan, &by_itself());
    under_way(&bench).await;
    hanging.abort();
    let _ = hanging.await;
    drop(executor);
    let bench = bench.restart();
    let executor = bench.executor(world);
    (bench, executor)
}

#[tokio::test(start_paused = true)]
async fn what_the_server_still_works_on_stays_open_and_keeps_its_table_busy() {
    let world = Arc::new(World::new(Mishap::Hang(1)));
    let (bench, executor) = after_a_death(&world).await;
    world.state.lock().unwrap().under_way = true;
    assert!(executor.recover().await.unwrap().is_empty());
    let plan = bench.plan(&executor, &[bloated_table()]).await;
    let held = executor.apply(&plan, &by_itself()).await.unwrap();
    assert!(reason(&held[0]).contains("is under way"), "{held:?}");
    world.state.lock().unwrap().under_way = false;
    let recovered = executor.recover().await.unwrap();
    assert_eq!(recovered[0].outcome, Outcome::Abandoned);
    assert_eq!(bench.plan(&executor, &[bloated_table()]).await.to_do().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_verified_is_abandoned_with_the_reason() {
    let (bench, _) = after_a_death(&Arc::new(World::new(Mishap::Hang(1)))).await;
    let gone = bench.executor(&Arc::new(World::new(Mishap::Refuse(0))));
    let recovered = gone.recover().await.unwrap();
    assert_eq!(recovered[0].outcome, Outcome::Abandoned);
    assert_eq!(recovered[0].detail, "it cannot be verified any more: it is gone from here");
    assert!(gone.recover().await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_precondition_stopped_is_no_failure() {
    let bench = Bench::new();
    let executor = bench.executor(&Arc::new(World::new(Mishap::Refuse(1))));
    let plan = bench.plan(&executor, &[idle_session()]).await;
    let applied = executor.apply(&plan, &by_itself()).await.unwrap();
    let Applied::Done(entry) = &applied[0] else { panic!("{applied:?}") };
    assert_eq!((entry.outcome, entry.detail.as_str()), (Outcome::Abandoned, "it is gone from here"));
}

#[tokio::test(start_paused = true)]
async fn an_approval_ends_in_the_middle_of_a_plan() {
    let mut bench = Bench::new();
    bench.policy.autonomy = Autonomy::Observe;
    let world = Arc::new(World::new(Mishap::None));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[idle_session(), bloated_table()]).await;
    let approved = Permission::of("ada").approved(true, "2026-11-22T02:45:00Z".parse().unwrap());
    // Another action has the turn until the approval is over.
    let turn = executor.turns.take(plan.items[1].class, true).await;
    let running = applying(&executor, &plan, &approved);
    tokio::time::sleep(Duration::from_mins(20)).await;
    drop(turn);
    let applied = running.await.unwrap().unwrap();
    assert!(matches!(&applied[0], Applied::Done(_)), "{applied:?}");
    let late = reason(&applied[1]);
    assert!(late.starts_with("the approval ended at 2026-11-22T02:45:00Z; routine actions need"), "{late}");
    assert_eq!(world.applied(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_step_ends_with_its_window_unless_any_time_was_approved() {
    let bench = Bench::new();
    let world = Arc::new(World::new(Mishap::None));
    let executor = bench.executor(&world);
    // It is 04:00, and the window closes at 05:00.
    tokio::time::advance(Duration::from_mins(90)).await;
    let plan = bench.plan(&executor, &[bloated_table()]).await;
    executor.apply(&plan, &by_itself()).await.unwrap();
    assert_eq!(world.state.lock().unwrap().within, Duration::from_hours(1));

    let plan = bench.plan(&executor, &[other_table()]).await;
    let any_time = Permission::of("ada").approved(true, "2026-11-22T06:00:00Z".parse().unwrap());
    executor.apply(&plan, &any_time).await.unwrap();
    assert_eq!(world.state.lock().unwrap().within, Duration::from_hours(2));
}

#[tokio::test(start_paused = true)]
async fn a_cool_down_begins_at_the_end_of_a_long_action() {
    let bench = Bench::new();
    let world = slow_world();
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[bloated_table()]).await;
    let running = applying(&executor, &plan, &by_itself());
    under_way(&bench).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    executor.stop(Duration::ZERO).await;
    running.await.unwrap().unwrap();
    let history = bench.executor(&world).situation().await.unwrap().history;
    assert!(history[0].at >= "2026-11-22T03:30:00Z".parse().unwrap(), "{history:?}");
}
