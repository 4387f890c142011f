//! The executor under guards, failures and death: every step run twice, a failure at every call, a stop between any two.

mod turns;
mod undoing;

use super::*;
use crate::clock::Clock;
use crate::record::{Record, Store};
use crate::scheduler::BoxFuture;
use groundskeeper_core::finding::{Draft, Finding, Offender, Target};
use groundskeeper_core::plan::{Plan, plan};
use groundskeeper_core::policy::{Autonomy, Outcome, Policy};
use groundskeeper_core::remedy::setting::Change;
use groundskeeper_core::remedy::{JournalledStep, Step, StepState};
use groundskeeper_core::{Severity, SystemId, SystemKind, Value};
use jiff::Timestamp;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn start() -> Timestamp {
    "2026-11-22T02:30:00Z".parse().unwrap()
}

/// What the scripted hands do at their n-th call, counted from zero over captures and applies together.
#[derive(Clone, Copy, PartialEq)]
enum Mishap {
    None,
    /// The call fails.
    Fail(usize),
    /// The call never returns: the process dies there.
    Hang(usize),
    /// The first call fails, and the process dies in the second one.
    FailAndHang(usize, usize),
    /// The calls from one to before the other fail.
    FailFrom(usize, usize),
    /// The call finds that the world is not as the step needs it.
    Refuse(usize),
    /// Somebody drops the database in the middle of the call.
    Drop(usize),
}

/// A database with one table and one session, held in memory.
struct World {
    calls: AtomicUsize,
    mishap: Mishap,
    /// `pg_terminate_backend` says yes and the session stays.
    stubborn: bool,
    state: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    dead_rows: u64,
    vacuumed: Option<Timestamp>,
    session_alive: bool,
    applied: Vec<Step>,
    /// A backend still works on the table.
    under_way: bool,
    /// A vacuum takes until it is told to end.
    slow: bool,
    /// A build of an index was begun and did not come to its end.
    leftovers: bool,
    /// So often the sweeping up meets a lock.
    locked: usize,
    /// The number of the index, and how long it takes to build one.
    index: u32,
    build: Duration,
    /// What `postgresql.auto.conf` says of the setting. Every step of it is read at once.
    line: Option<String>,
    /// The time that the last step was given.
    within: Duration,
}

impl World {
    fn new(mishap: Mishap) -> Self {
        let inside = Inside { dead_rows: 5000, vacuumed: None, session_alive: true, ..Inside::default() };
        Self { calls: AtomicUsize::new(0), mishap, stubborn: false, state: Mutex::new(inside) }
    }

    async fn mishap(&self) -> Result<(), Trouble> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        match self.mishap {
            Mishap::Fail(at) if at == call => Err(Trouble::Failed("injected".into())),
            Mishap::Refuse(at) if at == call => Err(Trouble::Precondition("it is gone from here".into())),
            Mishap::FailAndHang(at, _) if at == call => Err(Trouble::Failed("injected".into())),
            Mishap::FailFrom(from, to) if (from..to).contains(&call) => Err(Trouble::Failed("injected".into())),
            Mishap::FailAndHang(_, at) if at == call => std::future::pending().await,
            Mishap::Hang(at) if at == call => std::future::pending().await,
            Mishap::Drop(at) if at == call => Err(Trouble::Failed("the session was ended".into())),
            Mishap::Drop(at) if at < call => Err(Trouble::Gone("its database is gone".into())),
            _ => Ok(()),
        }
    }

    fn applied(&self) -> usize {
        self.state.lock().unwrap().applied.len()
    }
}

impl Actuator for World {
    fn capture<'a>(&'a self, step: &'a Step) -> BoxFuture<'a, Result<StepState, Trouble>> {
        Box::pin(async move {
            self.mishap().await?;
            let inside = self.state.lock().unwrap();
            Ok(match step {
                Step::DropLeftovers { .. } if !inside.leftovers => StepState::Gone,
                Step::DropLeftovers { .. } => StepState::Leftovers { names: vec!["chunks_word_ccnew".into()] },
                Step::Reindex { .. } => {
                    let (oid, size) = (inside.index, 1 << 30 >> inside.index);
                    StepState::Index { oid, size, is_valid: true, relation: Some(1) }
                }
                Step::AlterSystem { .. } => StepState::Setting {
                    value: inside.line.clone().unwrap_or("4".into()),
                    unit: None,
                    owner: if inside.line.is_some() { "ALTER SYSTEM" } else { "default" }.into(),
                    line: inside.line.clone(),
                    pending_restart: false,
                },
                Step::EndIdleSession { .. } if !inside.session_alive => StepState::Gone,
                Step::EndIdleSession { .. } => StepState::Session {
                    user: "app".into(),
                    application: "app".into(),
                    idle_seconds: 900.0,
                    query: String::new(),
                },
                _ => StepState::Table {
                    live_rows: 10_000,
                    dead_rows: inside.dead_rows,
                    modified_since_analyze: 0,
                    vacuumed: inside.vacuumed,
                    analyzed: None,
                },
            })
        })
    }

    fn is_under_way<'a>(&'a self, _step: &'a Step) -> BoxFuture<'a, Result<bool, Trouble>> {
        Box::pin(async move { Ok(self.state.lock().unwrap().under_way) })
    }

    fn apply<'a>(&'a self, step: &'a JournalledStep, limits: Limits) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(async move {
            if let Step::Reindex { .. } = step.step() {
                let build = {
                    let mut inside = self.state.lock().unwrap();
                    inside.leftovers = true;
                    inside.build
                };
                tokio::time::sleep(build).await;
            }
            self.mishap().await?;
            self.state.lock().unwrap().within = limits.within;
            if self.state.lock().unwrap().slow && !matches!(step.step(), Step::EndIdleSession { .. }) {
                limits.halt().await;
                return Err(Trouble::Interrupted("it took too long".into()));
            }
            let mut inside = self.state.lock().unwrap();
            if matches!(step.step(), Step::DropLeftovers { .. }) && inside.locked > 0 {
                inside.locked -= 1;
                return Err(Trouble::Failed("a lock did not go away in time".into()));
            }
            inside.applied.push(step.step().clone());
            match step.step() {
                Step::EndIdleSession { .. } => inside.session_alive = self.stubborn,
                Step::Reindex { .. } => (inside.leftovers, inside.index) = (false, inside.index + 1),
                Step::DropLeftovers { .. } => inside.leftovers = self.stubborn,
                Step::AlterSystem { to: Change::Set { value }, .. } => inside.line = Some(value.to_string()),
                Step::AlterSystem { to: Change::PutBack { .. }, .. } => inside.line = None,
                _ => (inside.dead_rows, inside.vacuumed) = (0, Some(start())),
            }
            Ok(())
        })
    }
}

struct Bench {
    folder: tempfile::TempDir,
    record: Record,
    clock: Clock,
    policy: Policy,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let record = Record::new(Store::open(folder.path(), start()).unwrap());
        let policy =
            Policy { autonomy: Autonomy::Auto, windows: vec!["Sun 02:00-05:00".parse().unwrap()], ..Policy::default() };
        Self { folder, record, clock: Clock::compressed(start(), 1.0), policy }
    }

    fn executor(&self, world: &Arc<World>) -> Executor {
        Executor::new(self.record.clone(), self.clock.clone(), self.policy.clone(), Arc::clone(world) as _, 2)
    }

    /// Opens the store again, as a new process would.
    fn restart(self) -> Self {
        let Self { folder, record, clock, policy } = self;
        drop(record);
        let record = Record::new(Store::open(folder.path(), start()).unwrap());
        Self { folder, record, clock, policy }
    }

    async fn plan(&self, executor: &Executor, findings: &[Finding]) -> Plan {
        let situation = executor.situation().await.unwrap();
        plan(findings, &self.policy, &situation, self.clock.now())
    }
}

fn system() -> SystemId {
    SystemId::new(SystemKind::Postgres, "main")
}

fn bloated_table() -> Finding {
    let target = Target::Table { database: "docrag".into(), schema: "public".into(), name: "chunks".into() };
    let offender = Offender { target, weight: 5.0, note: "5,000 dead rows".into() };
    let draft = Draft::new(Severity::Warning, "1 table").offenders(vec![offender]);
    Finding::from_draft("postgres.dead_rows_past_trigger", &system(), draft)
}

fn idle_session() -> Finding {
    let target = Target::Session { pid: 42, backend_start: start() };
    let offender = Offender { target, weight: 900.0, note: "app, idle for 15 min".into() };
    let draft = Draft::new(Severity::Warning, "1 session")
        .against("oldest", Value::seconds(900.0), Value::seconds(600.0), "pg_stat_activity")
        .offenders(vec![offender]);
    Finding::from_draft("postgres.idle_in_transaction", &system(), draft)
}

fn by_itself() -> Permission {
    Permission::by_itself()
}

fn reason(applied: &Applied) -> &str {
    match applied {
        Applied::Skipped { reason, .. } => reason,
        Applied::Done(entry) => panic!("was done: {entry:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_is_carried_out_verified_and_journalled_and_a_second_time_it_cools_down() {
    let bench = Bench::new();
    let world = Arc::new(World::new(Mishap::None));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[bloated_table(), idle_session()]).await;
    assert_eq!(plan.to_do().count(), 2);
    for applied in executor.apply(&plan, &by_itself()).await.unwrap() {
        let Applied::Done(entry) = applied else { panic!("{applied:?}") };
        assert_eq!(entry.outcome, Outcome::Helped, "{}", entry.detail);
    }
    assert_eq!(world.applied(), 2);

    let again = executor.apply(&plan, &by_itself()).await.unwrap();
    assert!(again.iter().all(|applied| reason(applied).contains("not again before")), "{again:?}");
    assert_eq!(world.applied(), 2, "applying a plan twice does nothing twice");

    let audit = bench.record.with(|store| store.audit_entries(10)).await.unwrap();
    let what: Vec<&str> = audit.iter().rev().map(|entry| entry.what.as_str()).collect();
    assert_eq!(what, ["intent", "outcome", "intent", "outcome"]);
    assert_eq!(bench.record.with(|store| store.verify_audit()).await.unwrap().1, None);
}

#[tokio::test(start_paused = true)]
async fn at_autonomy_observe_nothing_happens_without_an_approval() {
    let mut bench = Bench::new();
    bench.policy.autonomy = Autonomy::Observe;
    let world = Arc::new(World::new(Mishap::None));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[bloated_table(), idle_session()]).await;
    assert_eq!(plan.needing_approval(), 2);
    let held = executor.apply(&plan, &by_itself()).await.unwrap();
    assert!(held.iter().all(|applied| reason(applied).contains("need a person")), "{held:?}");
    assert_eq!(world.applied(), 0);

    let approved = Permission::of("ada").approved(false, "2026-11-22T02:45:00Z".parse().unwrap());
    let done = executor.apply(&plan, &approved).await.unwrap();
    assert!(done.iter().all(|applied| matches!(applied, Applied::Done(entry) if entry.who == "ada")));
}

#[tokio::test(start_paused = true)]
async fn the_pause_and_the_window_are_asked_again_at_the_moment_of_execution() {
    let mut bench = Bench::new();
    let world = Arc::new(World::new(Mishap::None));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[bloated_table(), idle_session()]).await;
    let pause = crate::record::Pause {
        task: None,
        reason: "release".into(),
        who: "ada".into(),
        since: start(),
        until: Some("2026-11-22T03:00:00Z".parse().unwrap()),
    };
    bench.record.with(move |store| store.pause(&pause)).await.unwrap();
    let held = executor.apply(&plan, &by_itself()).await.unwrap();
    assert!(held.iter().all(|applied| reason(applied).contains("paused until")), "{held:?}");

    tokio::time::advance(Duration::from_hours(3)).await;
    let late = executor.apply(&plan, &by_itself()).await.unwrap();
    assert!(matches!(&late[0], Applied::Done(_)), "a corrective step needs no window: {late:?}");
    assert!(reason(&late[1]).contains("outside the maintenance window"), "{late:?}");
    assert_eq!(world.applied(), 1);
    bench.policy.windows.clear();
    let none = bench.executor(&world).apply(&plan, &by_itself()).await.unwrap();
    assert!(reason(&none[1]).contains("no maintenance window is configured"), "{none:?}");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_help_three_times_in_four_hours_calls_a_human() {
    let bench = Bench::new();
    let mut world = World::new(Mishap::None);
    world.stubborn = true;
    let world = Arc::new(world);
    let executor = bench.executor(&world);
    for _ in 0..3 {
        let plan = bench.plan(&executor, &[idle_session()]).await;
        let applied = executor.apply(&plan, &by_itself()).await.unwrap();
        assert!(matches!(&applied[0], Applied::Done(entry) if entry.outcome == Outcome::DidNotHelp), "{applied:?}");
        tokio::time::advance(Duration::from_mins(10)).await;
    }
    let plan = bench.plan(&executor, &[idle_session()]).await;
    let stopped = executor.apply(&plan, &by_itself()).await.unwrap();
    assert!(reason(&stopped[0]).contains("a person should look"), "{stopped:?}");
}

#[tokio::test(start_paused = true)]
async fn three_failures_in_a_row_open_the_breaker_for_an_hour() {
    let bench = Bench::new();
    // Each try makes three calls (capture, apply, capture); the second of each fails.
    for _ in 0..3 {
        let world = Arc::new(World::new(Mishap::Fail(1)));
        let executor = bench.executor(&world);
        let plan = bench.plan(&executor, &[idle_session()]).await;
        let applied = executor.apply(&plan, &by_itself()).await.unwrap();
        assert!(matches!(&applied[0], Applied::Done(entry) if entry.outcome == Outcome::Failed), "{applied:?}");
        tokio::time::advance(Duration::from_secs(301)).await;
    }
    let world = Arc::new(World::new(Mishap::None));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[idle_session()]).await;
    assert!(reason(&executor.apply(&plan, &by_itself()).await.unwrap()[0]).contains("failures in a row"));
    tokio::time::advance(Duration::from_hours(1)).await;
    let after_the_rest = bench.plan(&executor, &[idle_session()]).await;
    assert_eq!(after_the_rest.to_do().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_at_any_call_is_recorded_and_never_a_success() {
    for call in 0..3 {
        let bench = Bench::new();
        let world = Arc::new(World::new(Mishap::Fail(call)));
        let executor = bench.executor(&world);
        let plan = bench.plan(&executor, &[bloated_table()]).await;
        let applied = executor.apply(&plan, &by_itself()).await.unwrap();
        match (call, &applied[0]) {
            (0, skipped) => assert!(reason(skipped).contains("could not be read: injected")),
            (1, Applied::Done(entry)) => assert_eq!((entry.outcome, world.applied()), (Outcome::Failed, 0)),
            (2, Applied::Done(entry)) => assert_eq!((entry.outcome, world.applied()), (Outcome::DidNotHelp, 1)),
            (_, other) => panic!("{other:?}"),
        }
        assert!(bench.record.with(|store| store.unsettled()).await.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn death_between_any_two_calls_is_settled_by_the_next_start() {
    for call in 0..3 {
        let bench = Bench::new();
        let world = Arc::new(World::new(Mishap::Hang(call)));
        let executor = bench.executor(&world);
        let plan = bench.plan(&executor, &[bloated_table()]).await;
        let permission = by_itself();
        let dies = executor.apply(&plan, &permission);
        assert!(tokio::time::timeout(Duration::from_secs(5), dies).await.is_err(), "it hangs at call {call}");
        let intended = bench.record.with(|store| store.unsettled()).await.unwrap().len();
        assert_eq!(intended, usize::from(call > 0), "the intent is durable before the step");
        drop(executor);

        let bench = bench.restart();
        let executor = bench.executor(&world);
        let recovered = executor.recover().await.unwrap();
        match call {
            0 => assert!(recovered.is_empty()),
            1 => assert_eq!((recovered[0].outcome, world.applied()), (Outcome::Abandoned, 0)),
            _ => assert_eq!((recovered[0].outcome, world.applied()), (Outcome::Helped, 1)),
        }
        assert!(bench.record.with(|store| store.unsettled()).await.unwrap().is_empty());
        assert!(executor.recover().await.unwrap().is_empty(), "settling twice does nothing twice");
        assert_eq!(bench.record.with(|store| store.verify_audit()).await.unwrap().1, None);
        if call == 1 {
            let plan = bench.plan(&executor, &[bloated_table()]).await;
            assert_eq!(plan.to_do().count(), 1, "what did not happen is planned again");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn undoing_says_what_can_be_put_back() {
    let bench = Bench::new();
    let world = Arc::new(World::new(Mishap::None));
    let executor = bench.executor(&world);
    let plan = bench.plan(&executor, &[idle_session()]).await;
    let applied = executor.apply(&plan, &by_itself()).await.unwrap();
    let Applied::Done(entry) = &applied[0] else { panic!() };
    // What needs no step waits for nobody.
    let _turn = executor.turns.take(entry.class, true).await;
    let (undo, done) = executor.undo(entry.id, "ada").await.unwrap();
    assert!(matches!(undo, groundskeeper_core::remedy::Undo::Impossible(_)));
    assert_eq!(done, None);
    assert!(executor.undo(999, "ada").await.unwrap_err().to_string().contains("there is no action 999"));
}
