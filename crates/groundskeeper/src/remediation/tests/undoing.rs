//! What a step that did not come to its end left behind is put back, journalled like everything else.

use super::*;

fn invalid_index() -> Finding {
    let target = Target::Index {
        database: "docrag".into(),
        schema: "public".into(),
        table: "chunks".into(),
        name: "chunks_word".into(),
    };
    let offender = Offender { target, weight: 5.0, note: "left unfinished".into() };
    let draft = Draft::new(Severity::Warning, "1 index").offenders(vec![offender]);
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

fn unsuited_setting() -> Finding {
    let target = Target::Setting { name: "random_page_cost".into() };
    let draft = Draft::new(Severity::Info, "1 setting")
        .against("random_page_cost", Value::text("4"), Value::text("1.1"), "a manual")
        .offenders(vec![Offender { target, weight: 1.0, note: "flash".into() }]);
    Finding::from_draft("postgres.settings_unsuited", &system(), draft)
}

/// A connection that was lost in the middle may leave a session on the server that writes afterwards.
#[tokio::test(start_paused = true)]
async fn a_change_of_settings_is_put_back_unseen_while_somebody_may_still_write_it() {
    let (failed, undone) = (("other", Outcome::Failed, false), ("other", Outcome::Helped, true));
    for (under_way, told) in [(false, vec![failed]), (true, vec![failed, undone])] {
        let (bench, world) = (Bench::new(), Arc::new(World::new(Mishap::Fail(1))));
        let executor = bench.executor(&world);
        let plan = bench.plan(&executor, &[unsuited_setting()]).await;
        world.state.lock().unwrap().under_way = under_way;
        executor.apply(&plan, &by_itself()).await.unwrap();
        assert_eq!(journal(&bench).await, told, "{under_way}");
    }
}
