//! Every step, with its connection killed at each of its messages, and while it waits for somebody.
//!
//! Whatever the moment: the step says so and does not panic, no session and no lock of ours is left, and the world is as it
//! was, or as the step was to make it. Where it is neither, what the journal would do then makes it so.

mod partitions;
mod sessions;
mod tables;

use super::{DEADLINE, detaches_concurrently, endpoint, tells_waits};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState, Undo, Verification};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::act::{ActError, apply, capture};
use groundskeeper_testing::{PostgresServer, Severer, Severing};
use std::collections::BTreeMap;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_mins(1);
/// No step says as much.
const MOST_MESSAGES: usize = 200;
/// To prove a password takes long in a build for tests, and here thousands of connections are opened.
const WITHOUT_PASSWORD: &str = "--auth=trust";

/// What a look past the step's own eyes shows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum World {
    /// As before the step.
    Old,
    /// As the step is to make it.
    Done,
    /// Neither, with what is wrong.
    Torn(String),
}

/// A world in which a step has something to do, again and again.
trait Scene {
    fn server(&self) -> &PostgresServer;

    /// A superuser's connection, which is none of the step's.
    fn client(&self) -> &Client;

    /// Makes the world old, whatever it is by now, and gives the step for it.
    async fn prepare(&mut self) -> Step;

    async fn look(&self) -> World;

    /// A statement that fails where somebody holds any lock on what the step works on.
    fn touches_all(&self) -> &'static str {
        ""
    }

    /// The step puts another one back: when it fails, the journal tries it again.
    fn is_undo(&self) -> bool {
        false
    }
}

/// A world in which the step can be made to wait.
trait Hindered: Scene {
    async fn hinder(&mut self);

    async fn free(&mut self);
}

/// How often a step was killed, how often it said so, and how often something had to be put back.
#[derive(Debug, Default)]
struct Tally {
    cuts: usize,
    errors: BTreeMap<&'static str, usize>,
    put_right: usize,
}

async fn run(at: &Endpoint, step: &Step) -> Result<(), ActError> {
    Box::pin(apply(at, &JournalledStep::recorded(1, step.clone()), PATIENCE, pending())).await
}

async fn state(at: &Endpoint, step: &Step) -> StepState {
    capture(at, step, DEADLINE).await.unwrap()
}

/// The server's address by way of another one.
fn by_way_of(server: &PostgresServer, address: SocketAddr) -> Endpoint {
    let own = SocketAddr::from(([127, 0, 0, 1], server.port()));
    endpoint(&format!("{}?sslmode=disable", server.url().replace(&own.to_string(), &address.to_string())))
}

/// Kills the connection at its first, second, third message and so on, until the step needs no more of them; each time before
/// the message, at it, behind it, and by an administrator.
async fn killed_at_each_message(scene: &mut impl Scene) -> Tally {
    let mut tally = Tally::default();
    for (name, when) in [
        ("before", Severing::BeforeIt),
        ("at", Severing::AtIt),
        ("behind", Severing::BehindIt),
        ("ended", Severing::Held),
    ] {
        let mut nth = 1;
        while let Some(error) = killed_once(scene, nth, when, &mut tally).await {
            *tally.errors.entry(name).or_default() += usize::from(error);
            nth += 1;
            assert!(nth < MOST_MESSAGES, "it says ever more");
        }
    }
    tally
}

/// None when the step was done before its connection could be killed; whether it was an error, otherwise.
async fn killed_once(scene: &mut impl Scene, nth: usize, when: Severing, tally: &mut Tally) -> Option<bool> {
    let step = scene.prepare().await;
    assert_eq!(scene.look().await, World::Old);
    let at = endpoint(&scene.server().url());
    let before = state(&at, &step).await;
    let to = SocketAddr::from(([127, 0, 0, 1], scene.server().port()));
    let severer = Severer::start(to, nth, when).await.unwrap();
    let through = by_way_of(scene.server(), severer.address());
    let done = {
        let mut running = pin!(run(&through, &step));
        tokio::select! {
            done = &mut running => done,
            () = end_at(&severer, when, scene.client()) => running.await,
        }
    };
    severer.release();
    let Some(message) = severer.severed() else {
        // Nobody was in the way.
        done.unwrap_or_else(|error| panic!("{}: {error}", step.statement()));
        assert_eq!(scene.look().await, World::Done);
        return None;
    };
    let moment = format!("{}, {when:?} message {nth}: {message}", step.subject());
    nobody_is_left(scene.client(), &moment).await;
    scene.client().batch_execute(scene.touches_all()).await.unwrap_or_else(|error| panic!("{moment}: {error}"));
    tally.cuts += 1;
    match done {
        Ok(()) => {
            let after = state(&at, &step).await;
            assert!(matches!(step.verify(&before, &after), Verification::Helped(_)), "{moment}: {before:?} {after:?}");
            assert_eq!(scene.look().await, World::Done, "{moment}");
            Some(false)
        }
        Err(error) => {
            // The same may work a moment later, and the message names the place.
            assert!(error.retryable() && error.to_string().contains("127.0.0.1:"), "{moment}: {error:?}");
            tally.put_right += usize::from(put_right(scene, &step, &before, &moment).await);
            Some(true)
        }
    }
}

/// Ends all of our sessions once the message is held back, and lets it go on then.
async fn end_at(severer: &Severer, when: Severing, client: &Client) {
    if when != Severing::Held {
        return pending().await;
    }
    severer.reached().await;
    client.execute(&format!("SELECT pg_terminate_backend(pid) {OURS}"), &[]).await.unwrap();
    nobody_is_left(client, "they were ended").await;
    severer.release();
}

/// Does what the journal would do now. Gives whether there was something to be done.
async fn put_right(scene: &impl Scene, step: &Step, before: &StepState, moment: &str) -> bool {
    let at = endpoint(&scene.server().url());
    let right = match step.undo(before) {
        _ if scene.is_undo() => Some(step.clone()),
        Undo::By(undo) => Some(*undo),
        Undo::NotNeeded(_) | Undo::Impossible(_) => None,
    };
    if let Some(right) = right {
        let left = state(&at, &right).await;
        if !right.has_nothing_to_undo(&left) {
            let was = scene.look().await;
            match run(&at, &right).await {
                Ok(()) => {
                    let after = state(&at, &right).await;
                    let verdict = right.verify(&left, &after);
                    assert!(matches!(verdict, Verification::Helped(_)), "{moment}: {left:?} {after:?}");
                    let wanted = if scene.is_undo() { World::Done } else { World::Old };
                    assert_eq!(scene.look().await, wanted, "{moment}, put right");
                    return true;
                }
                // It had not begun.
                Err(ActError::Precondition { .. }) if was == World::Old && !scene.is_undo() => {}
                Err(error) => panic!("{moment}: {error}"),
            }
        }
    }
    let world = scene.look().await;
    assert!(matches!(world, World::Old | World::Done), "{moment}: {world:?}");
    false
}

/// Ends the step's session while it waits for somebody or works on its statement, and does it once more afterwards. Gives
/// whether something had to be put back.
async fn killed_while_it_waits(scene: &mut impl Hindered) -> bool {
    let step = scene.prepare().await;
    let at = endpoint(&scene.server().url());
    let before = state(&at, &step).await;
    scene.hinder().await;
    let working = tokio::spawn({
        let (at, step) = (at.clone(), step.clone());
        async move { run(&at, &step).await }
    });
    let end =
        format!("SELECT pg_terminate_backend(pid) {OURS} AND (wait_event_type = 'Lock' OR wait_event = 'PgSleep')");
    let until = Instant::now() + PATIENCE;
    while scene.client().query(&end, &[]).await.unwrap().is_empty() {
        assert!(Instant::now() < until && !working.is_finished(), "{} does not wait", step.subject());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = working.await.unwrap().unwrap_err();
    assert!(error.retryable(), "{error:?}");
    let moment = format!("{}, while it waits", step.subject());
    nobody_is_left(scene.client(), &moment).await;
    scene.free().await;
    scene.client().batch_execute(scene.touches_all()).await.unwrap_or_else(|error| panic!("{moment}: {error}"));
    let was_begun = put_right(scene, &step, &before, &moment).await;

    let step = scene.prepare().await;
    run(&at, &step).await.unwrap_or_else(|error| panic!("{moment}, once more: {error}"));
    assert_eq!(scene.look().await, World::Done, "{moment}, once more");
    was_begun
}

/// Sessions that are ours, also before the server knows who they are.
const OURS: &str = "FROM pg_stat_activity
 WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
   AND (lower(application_name) LIKE 'groundskeeper%' OR usesysid IS NULL)";

/// Waits until none of our sessions is there, and none of their locks.
async fn nobody_is_left(client: &Client, moment: &str) {
    let sql = format!(
        "SELECT coalesce((SELECT string_agg(format('%s: %s', state, left(query, 80)), '; ') {OURS}), ''),
                (SELECT count(*) FROM pg_locks l WHERE l.locktype = 'advisory'
                     OR (l.pid IS NOT NULL AND NOT EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.pid = l.pid)))"
    );
    let until = Instant::now() + PATIENCE;
    loop {
        let row = client.query_one(&sql, &[]).await.unwrap();
        let (sessions, locks): (String, i64) = (row.get(0), row.get(1));
        if sessions.is_empty() && locks == 0 {
            return;
        }
        assert!(Instant::now() < until, "{moment}: {locks} locks are left, and {sessions}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Tally {
    fn has_met(&self, something_to_put_right: bool) {
        self.has_killed();
        assert_eq!(self.put_right > 0, something_to_put_right, "{self:?}");
    }

    /// A test whose kills never meet anything tests nothing.
    fn has_killed(&self) {
        for name in ["before", "at", "behind"] {
            assert!(self.errors.get(name).is_some_and(|errors| *errors >= 3), "{self:?}");
        }
        assert!(self.errors.get("ended").is_some_and(|errors| *errors >= 2), "{self:?}");
    }
}

/// Kills it at each of its messages and while it waits. Gives whether something was left to be put back, of the one and of the
/// other.
async fn killed_anywhere(mut scene: impl Hindered) -> (Tally, bool) {
    let tally = killed_at_each_message(&mut scene).await;
    let was_begun = killed_while_it_waits(&mut scene).await;
    (tally, was_begun)
}

#[tokio::test]
async fn an_analyze_that_is_killed_anywhere_harms_nothing() {
    let (tally, was_begun) = killed_anywhere(tables::Upkeep::new(false).await).await;
    tally.has_met(false);
    assert!(!was_begun);
}

#[tokio::test]
async fn a_vacuum_that_is_killed_anywhere_harms_nothing() {
    let (tally, was_begun) = killed_anywhere(tables::Upkeep::new(true).await).await;
    tally.has_met(false);
    assert!(!was_begun);
}

#[tokio::test]
async fn a_reindex_that_is_killed_anywhere_leaves_an_index_that_works_and_nothing_beside_it() {
    let (tally, was_begun) = killed_anywhere(tables::Bloated::new().await).await;
    // A build is one statement: whether the server notices in the middle of it that nobody is there is a matter of moments.
    tally.has_killed();
    assert!(was_begun, "the build had begun when it was killed");
}

#[tokio::test]
async fn a_sweep_that_is_killed_anywhere_is_done_again_and_drops_only_what_was_left() {
    let (tally, was_begun) = killed_anywhere(tables::LeftOver::new().await).await;
    tally.has_met(true);
    assert!(was_begun);
}

#[tokio::test]
async fn a_deletion_that_is_killed_anywhere_has_deleted_whole_batches_with_what_goes_along() {
    let (tally, was_begun) = killed_anywhere(tables::Expired::new().await).await;
    tally.has_met(false);
    assert!(!was_begun);
}

#[tokio::test]
async fn a_statistics_target_whose_setting_is_killed_anywhere_is_put_back() {
    let (tally, was_begun) = killed_anywhere(tables::Coarse::new().await).await;
    // Set, and not analyzed.
    tally.has_met(true);
    assert!(!was_begun, "it waited for the lock");
}

#[tokio::test]
async fn a_sequence_whose_move_is_killed_anywhere_is_where_it_was_or_where_it_belongs() {
    let (tally, was_begun) = killed_anywhere(tables::Behind::new().await).await;
    tally.has_met(false);
    assert!(!was_begun);
}

#[tokio::test]
async fn a_drop_of_a_partition_that_is_killed_anywhere_drops_it_or_attaches_it_again() {
    let scene = partitions::Dropping::new(false).await;
    let in_two_steps = detaches_concurrently(scene.server());
    let (tally, was_begun) = killed_anywhere(scene).await;
    // Between the detach and the drop.
    tally.has_met(in_two_steps);
    assert_eq!(was_begun, in_two_steps, "the detach had begun when it was killed");
}

#[tokio::test]
async fn a_drop_beside_a_default_partition_that_is_killed_anywhere_is_all_or_nothing() {
    let (tally, was_begun) = killed_anywhere(partitions::Dropping::new(true).await).await;
    tally.has_met(false);
    assert!(!was_begun);
}

#[tokio::test]
async fn an_attach_that_is_killed_anywhere_is_done_again() {
    let (tally, was_begun) = killed_anywhere(partitions::Attaching::new(false).await).await;
    tally.has_met(true);
    assert!(was_begun);
}

#[tokio::test]
async fn an_attach_after_a_detach_that_was_given_up_and_is_killed_anywhere_is_done_again() {
    let scene = partitions::Attaching::new(true).await;
    if !detaches_concurrently(scene.server()) {
        return;
    }
    let (tally, was_begun) = killed_anywhere(scene).await;
    tally.has_met(true);
    assert!(was_begun);
}

#[tokio::test]
async fn the_end_of_an_idle_session_that_is_killed_anywhere_ends_it_or_leaves_it() {
    killed_at_each_message(&mut sessions::Holding::new(false).await).await.has_met(false);
}

#[tokio::test]
async fn the_end_of_a_blocker_that_is_killed_anywhere_ends_it_or_leaves_it() {
    let mut scene = sessions::Holding::new(true).await;
    if tells_waits(scene.server()) {
        killed_at_each_message(&mut scene).await.has_met(false);
    }
}

#[tokio::test]
async fn a_setting_whose_change_is_killed_anywhere_is_changed_or_put_back() {
    killed_at_each_message(&mut sessions::Settings::new(false).await).await.has_met(true);
}

#[tokio::test]
async fn a_setting_that_is_put_back_and_killed_anywhere_is_put_back_again() {
    killed_at_each_message(&mut sessions::Settings::new(true).await).await.has_met(true);
}
