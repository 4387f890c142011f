//! What the keeper may change, on a real Postgres: nothing unless told so, and then what it was told, once, on the record.

use crate::scene::{Database, GRANTS, Place, eventually};
use groundskeeper::app::api::{ActionResult, ActionView, AuditView, PlanView, StatusView};
use groundskeeper::clock::Clock;

use groundskeeper_core::policy::{Decision, Outcome};
use groundskeeper_core::remedy::Undo;
use groundskeeper_testing::postgres::counted;
use std::time::Duration;

/// The whole day, every day.
const OPEN: &str = "[maintenance]\nwindows = [\"daily 00:00-24:00\"]\n";

/// A window that is not now.
fn shut() -> String {
    let today = Clock::wall().now().to_zoned(jiff::tz::TimeZone::UTC).weekday();
    format!("[maintenance]\nwindows = [\"{:?} 02:00-03:00\"]\n", today.wrapping_add(3))
}

/// A threshold of a second has to pass before a session counts as idle.
async fn idle_long_enough() {
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

fn outcomes(actions: &[ActionView]) -> Vec<Outcome> {
    let outcome = |action: &ActionView| match &action.result {
        ActionResult::Ended { outcome, .. } => Some(*outcome),
        ActionResult::Skipped { .. } => None,
    };
    actions.iter().filter_map(outcome).collect()
}

#[tokio::test]
async fn at_autonomy_observe_nothing_changes_and_the_report_says_what_would() {
    let database = Database::start(GRANTS).await;
    database.worn_table("documents").await;
    let victim = database.idle("docrag-api").await;
    idle_long_enough().await;
    let place = Place::new(&database.config("autonomy = \"observe\"", OPEN));
    let app = place.app().await;
    for _ in 0..3 {
        let run = app.task_run("watch", false, "ann").await.unwrap();
        assert!(run.ok && run.actions.is_empty(), "{run:?}");
    }
    let run = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert_eq!(
        run.summary,
        "1 due, 0 done, 0 helped, 1 held back: routine actions need a person at autonomy \"observe\"; \
         `autonomy = \"assist\"` would do it in the maintenance window"
    );
    assert!(run.details[0].contains("; held back: routine actions need a person"), "{:?}", run.details);
    assert!(
        matches!(&run.actions[0].result, ActionResult::Skipped { reason } if reason.contains("autonomy \"observe\""))
    );
    let planned = app.report(None).await.unwrap().plan.unwrap();
    let decided: Vec<&str> = planned.items.iter().map(|item| item.remedy.as_str()).collect();
    assert_eq!(decided, ["postgres.end_idle_in_transaction", "postgres.vacuum_table"]);
    drop(app);
    let report = place.run(&["report"]).await.out;
    for part in [
        "pg_terminate_backend",
        "VACUUM (ANALYZE, SKIP_LOCKED, TRUNCATE false, PARALLEL 0) \"public\".\"documents\"",
        "`autonomy = \"assist\"` would do it in the maintenance window",
        "`autonomy = \"auto\"` would do it",
    ] {
        assert!(report.contains(part), "{part:?} is missing in {report}");
    }
    assert!(victim.lives().await && !database.is_vacuumed("documents").await);
    assert_eq!(place.count("SELECT count(*) FROM journal"), 0);
}

#[tokio::test]
async fn a_plan_is_applied_as_approved_and_not_otherwise() {
    let database = Database::start(GRANTS).await;
    database.worn_table("documents").await;
    let place = Place::new(&database.config("autonomy = \"observe\"", &shut()));
    let plan = place.json::<PlanView>(&["plan"]).await.plan;
    let hash = plan.short_hash();
    assert_eq!(plan.items.len(), 1);
    assert!(matches!(plan.items[0].decision, Decision::NeedsApproval { .. }), "{plan:?}");

    let refused = place.run(&["apply", hash]).await;
    assert!(refused.code == 1 && refused.out.contains("routine actions need a person"), "{refused:?}");
    assert_eq!(place.run(&["approve", hash]).await.code, 0);
    let outside = place.run(&["apply", hash]).await;
    assert!(outside.code == 1 && outside.out.contains("not done: outside the maintenance window"), "{outside:?}");
    assert!(outside.out.contains("--any-time"), "the way is named: {outside:?}");

    // Another table wears out: another plan, for which nobody has approved anything.
    database.worn_table("sessions").await;
    let changed = place.json::<PlanView>(&["plan"]).await.plan;
    assert_ne!(changed.hash, plan.hash);
    assert!(place.run(&["apply", changed.short_hash()]).await.out.contains("need a person"));
    assert!(!database.is_vacuumed("documents").await && !database.is_vacuumed("sessions").await);

    let approval = place.run(&["approve", "--any-time", hash]).await;
    assert!(approval.code == 0 && approval.out.contains("at any time"), "{approval:?}");
    let applied = place.run(&["apply", hash]).await;
    assert!(applied.code == 0 && applied.out.contains("helped: dead rows 2000 -> 0"), "{applied:?}");
    assert!(database.is_vacuumed("documents").await, "exactly what was approved");
    assert!(!database.is_vacuumed("sessions").await, "and nothing else");
}

#[tokio::test]
async fn an_approval_expires() {
    let database = Database::start(GRANTS).await;
    database.worn_table("documents").await;
    let place =
        Place::new(&database.config("autonomy = \"observe\"", &format!("{OPEN}[policy]\napproval_for = \"1s\"\n")));
    let app = place.app().await;
    let plan = app.plan().await.unwrap().plan;
    app.approve(&plan.hash, true, "ann").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1050)).await;
    let late = app.apply(&plan.hash, "ann").await.unwrap();
    assert!(matches!(&late[0].result, ActionResult::Skipped { .. }), "{late:?}");
    assert!(!database.is_vacuumed("documents").await);
    app.approve(&plan.hash, true, "ann").await.unwrap();
    assert_eq!(outcomes(&app.apply(&plan.hash, "ann").await.unwrap()), [Outcome::Helped]);
}

#[tokio::test]
async fn at_autonomy_auto_an_idle_session_is_ended_and_protected_ones_are_not() {
    let database = Database::start(GRANTS).await;
    let place = Place::new(&database.config("autonomy = \"auto\"", ""));
    let keeper = place.keeper().await;
    let (dump, superuser) = (database.idle("pg_dump").await, database.server.client().await);
    superuser.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let victim = database.idle("docrag-api").await;
    eventually("the session is ended", async || victim.client.is_closed().then_some(())).await;
    let actions: Vec<ActionView> = eventually("it is settled", async || {
        let actions: Vec<ActionView> = place.json(&["actions"]).await;
        (outcomes(&actions) == [Outcome::Helped]).then_some(actions)
    })
    .await;
    assert!(actions[0].subject.contains(&victim.pid.to_string()), "{actions:?}");
    assert!(actions[0].why.contains("docrag-api"), "{actions:?}");
    let mut backends = superuser
        .query_one(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {}", victim.pid), &[])
        .await
        .unwrap()
        .get::<_, i64>(0);
    assert_eq!(backends, 0, "the server knows nothing of it any more");
    idle_long_enough().await;
    assert!(dump.lives().await && !superuser.is_closed());
    backends = place.count("SELECT count(*) FROM journal");
    assert_eq!(backends, 1);
    let found = place.findings().await;
    let left_alone = found.iter().find(|view| view.finding.check == "postgres.idle_in_transaction").unwrap();
    let said =
        left_alone.finding.evidence.iter().map(|evidence| evidence.value.to_string()).collect::<Vec<_>>().join(" ");
    assert!(left_alone.finding.offenders.is_empty() && said.contains("pg_dump"), "{said}");
    keeper.terminate().await;
}

#[tokio::test]
async fn without_the_grant_an_action_fails_by_its_name_and_three_failures_rest() {
    let database = Database::start("GRANT pg_monitor TO keeper").await;
    let mut victims = Vec::new();
    for _ in 0..4 {
        victims.push(database.idle("docrag-api").await);
    }
    idle_long_enough().await;
    let place = Place::new(&database.config("autonomy = \"auto\"", ""));
    let app = place.app().await;
    let run = app.task_run("watch", false, "ann").await.unwrap();
    assert_eq!(outcomes(&run.actions), [Outcome::Failed; 3], "{run:?}");
    for action in &run.actions[..3] {
        let ActionResult::Ended { detail, .. } = &action.result else { panic!("{action:?}") };
        assert!(detail.contains("grant pg_signal_backend to keeper"), "{detail}");
        assert!(!detail.contains("permission denied: permission denied"), "{detail}");
    }
    assert!(
        matches!(&run.actions[3].result, ActionResult::Skipped { reason }
            if reason.starts_with("3 failures in a row of postgres.end_idle_in_transaction; it rests until")),
        "{run:?}"
    );
    let again = app.task_run("watch", false, "ann").await.unwrap();
    assert!(outcomes(&again.actions).is_empty(), "{again:?}");
    assert_eq!(place.count("SELECT count(*) FROM journal WHERE outcome = 'failed'"), 3);
    for victim in &victims {
        assert!(victim.lives().await);
    }
}

#[tokio::test]
async fn an_action_that_takes_long_delays_no_look() {
    let database = Database::start(GRANTS).await;
    let place = Place::new(&database.config("autonomy = \"auto\"", ""));
    let victim = database.idle("docrag-api").await;
    // A backend that is not scheduled does not hear that it is to end.
    let backend = rustix::process::Pid::from_raw(victim.pid).unwrap();
    rustix::process::kill_process(backend, rustix::process::Signal::STOP).unwrap();
    let keeper = place.keeper().await;
    let unsettled = || place.count("SELECT count(*) FROM journal WHERE ended IS NULL");
    let rounds = || place.count("SELECT count(*) FROM run WHERE outcome = 'ok'");
    eventually("the action is under way", async || (unsettled() == 1).then_some(())).await;
    let before = rounds();
    eventually("the watch goes on", async || (rounds() >= before + 2).then_some(())).await;
    assert_eq!(unsettled(), 1, "and so does the action");
    let stop = keeper.terminate();
    let wake = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        rustix::process::kill_process(backend, rustix::process::Signal::CONT).unwrap();
    };
    assert_eq!(tokio::join!(stop, wake).0.code(), Some(0));
    assert_eq!(place.count("SELECT count(*) FROM journal WHERE outcome = 'helped'"), 1, "the stop waited for its end");
    assert!(victim.client.is_closed());
}

#[tokio::test]
async fn what_could_not_be_settled_at_the_start_is_settled_when_the_server_is_back() {
    let mut database = Database::start(GRANTS).await;
    let place = Place::new(&database.config("autonomy = \"auto\"", ""));
    let victim = database.idle("docrag-api").await;
    let backend = rustix::process::Pid::from_raw(victim.pid).unwrap();
    rustix::process::kill_process(backend, rustix::process::Signal::STOP).unwrap();
    let keeper = place.keeper().await;
    let unsettled = || place.count("SELECT count(*) FROM journal WHERE ended IS NULL");
    eventually("the action is under way", async || (unsettled() == 1).then_some(())).await;
    keeper.kill().await;
    rustix::process::kill_process(backend, rustix::process::Signal::CONT).unwrap();
    database.server.stop().await.unwrap();
    let keeper = place.keeper().await;
    assert_eq!(unsettled(), 1, "nobody could be asked");
    database.server.start_again().await.unwrap();
    eventually("it is settled", async || (unsettled() == 0).then_some(())).await;
    keeper.terminate().await;
}

/// A vacuum of the table takes minutes from now on: its analyze works out an index's expression for each row.
async fn make_slow(database: &Database, table: &str) {
    let function = |body: &str| {
        format!("CREATE OR REPLACE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$BEGIN {body} END$$")
    };
    let app = database.app("docrag").await;
    let index = format!("CREATE INDEX ON {table} (slow(id))");
    for sql in [function("RETURN $1;"), index, function("PERFORM pg_sleep(1); RETURN $1;")] {
        app.batch_execute(&sql).await.unwrap();
    }
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_a_vacuum_that_lives_on_keeps_its_table_busy() {
    let database = Database::start(GRANTS).await;
    database.worn_table("documents").await;
    make_slow(&database, "documents").await;
    let place = Place::new(&database.config("autonomy = \"auto\"", OPEN));
    let mut keeper = place.keeper().await;
    let unsettled = || place.count("SELECT count(*) FROM journal WHERE ended IS NULL");
    eventually("the vacuum is under way", async || (unsettled() == 1).then_some(())).await;
    keeper.signal_term();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(keeper.runs(), "the first signal lets it go on for a while");
    assert_eq!(keeper.terminate().await.code(), Some(3));

    // A backend under that name works on the table, as ours may for as long as it does not notice.
    let orphan = database.app("groundskeeper").await;
    orphan.batch_execute("BEGIN; LOCK TABLE documents IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    let keeper = place.keeper().await;
    assert!(keeper.log().contains("stopped by a second signal before everything had ended"), "{}", keeper.log());
    assert_eq!(unsettled(), 1, "its vacuum is not over");
    orphan.batch_execute("COMMIT").await.unwrap();
    // Our own backend notices within ten seconds that nobody listens any more.
    eventually("the first one is settled", async || {
        (place.count("SELECT count(*) FROM journal WHERE id = 1 AND ended IS NOT NULL") == 1).then_some(())
    })
    .await;
    keeper.kill().await;
}

#[tokio::test]
async fn weekly_maintenance_leaves_ignored_findings_alone_and_says_what_is_wrong() {
    let database = Database::start(GRANTS).await;
    database.worn_table("documents").await;
    let place = Place::new(&database.config("autonomy = \"auto\"", OPEN));
    let app = place.app().await;
    app.pause(None, "release".into(), None, "ann".into()).await.unwrap();
    app.task_run("watch", false, "ann").await.unwrap();
    let held = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert!(held.ok && held.summary.contains("1 held back: paused until"), "{held:?}");
    app.resume(None, "ann".into()).await.unwrap();
    let found = app.findings(false).await.unwrap();
    let worn = found.iter().find(|view| view.finding.check == "postgres.dead_rows_past_trigger").unwrap();
    let until = Clock::wall().now() + jiff::SignedDuration::from_hours(1);
    app.ignore(worn.finding.fingerprint.0.clone(), "known".into(), until, "ann".into()).await.unwrap();
    let run = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert_eq!(
        run.summary,
        "no table is past its trigger, no index is invalid or bloated, no sequence is behind, no statistics target is too \
         small, and no row has expired"
    );
    assert!(!database.is_vacuumed("documents").await);
}

#[tokio::test]
async fn a_pause_holds_every_action_until_it_is_resumed() {
    let database = Database::start(GRANTS).await;
    let place = Place::new(&database.config("autonomy = \"auto\"", ""));
    let keeper = place.keeper().await;
    assert_eq!(place.run(&["pause", "--reason", "release"]).await.code, 0);
    let victim = database.idle("docrag-api").await;
    let watched = async || place.json::<StatusView>(&["status"]).await;
    let status = eventually("the session is found", async || {
        let status = watched().await;
        status.findings.iter().any(|view| view.finding.check == "postgres.idle_in_transaction").then_some(status)
    })
    .await;
    assert!(status.actions.is_empty() && status.pauses[0].reason == "release", "{status:?}");
    let run = place.run(&["task", "run", "watch"]).await;
    assert!(run.out.contains("not now: paused until `groundskeeper resume`: release"), "{run:?}");
    assert!(!victim.client.is_closed());
    assert_eq!(place.run(&["resume"]).await.code, 0);
    eventually("the session is ended", async || victim.client.is_closed().then_some(())).await;
    keeper.terminate().await;
}

#[tokio::test]
async fn the_journal_and_the_audit_tell_what_happened_and_a_changed_row_shows() {
    let database = Database::start(GRANTS).await;
    database.worn_table("documents").await;
    let victim = database.idle("docrag-api").await;
    idle_long_enough().await;
    let place = Place::new(&database.config("autonomy = \"auto\"", OPEN));
    assert_eq!(place.run(&["task", "run", "watch"]).await.code, 0);
    assert!(victim.client.is_closed() && database.is_vacuumed("documents").await);

    let shown = place.run(&["actions"]).await.out;
    for part in ["✓ #1 ", "✓ #2 ", "VACUUM", "pg_terminate_backend", "by groundskeeper", "dead rows 2000 -> 0"] {
        assert!(shown.contains(part), "{part:?} is missing in {shown}");
    }
    let actions: Vec<ActionView> = place.json(&["actions"]).await;
    assert_eq!(outcomes(&actions), [Outcome::Helped; 2]);
    let ended = place.run(&["undo", "1"]).await;
    assert!(ended.code == 1 && ended.out.contains("#1 cannot be undone: an ended session"), "{ended:?}");
    let vacuumed = place.run(&["undo", "2"]).await;
    assert!(vacuumed.code == 0 && vacuumed.out.contains("#2 needs no undoing"), "{vacuumed:?}");
    let nothing = place.run(&["undo", "77"]).await;
    assert!(nothing.code == 2 && nothing.err.contains("there is no action 77"), "{nothing:?}");
    let undone: groundskeeper::app::api::UndoView = place.json(&["undo", "1"]).await;
    assert!(matches!(undone.undo, Undo::Impossible(_)));

    let audit: AuditView = place.json(&["audit"]).await;
    assert_eq!(audit.broken, None);
    let what: Vec<&str> = audit.entries.iter().rev().map(|entry| entry.what.as_str()).collect();
    assert_eq!(what, ["task run", "accept configuration", "intent", "outcome", "intent", "outcome"]);

    let changed = "UPDATE audit SET who = 'nobody' WHERE seq = 2";
    assert_eq!(place.store().execute(changed, []).unwrap(), 1);
    let status = place.run(&["status"]).await;
    assert!(status.out.contains("! The audit chain is broken: entry 2: its content was changed"), "{status:?}");
    let audit = place.run(&["audit"]).await;
    assert!(audit.code == 1 && audit.out.contains("The chain is broken: entry 2"), "{audit:?}");
}

#[tokio::test]
async fn expired_rows_are_deleted_by_their_rule_in_the_window_and_a_dry_run_only_tells() {
    let database = Database::start(GRANTS).await;
    let app_owner = database.app("docrag").await;
    app_owner
        .batch_execute(
            "CREATE TABLE user_sessions (id int PRIMARY KEY, expires_at timestamptz);
             INSERT INTO user_sessions SELECT n, now() - n * interval '1 day' FROM generate_series(1, 90) n;
             CREATE INDEX ON user_sessions (expires_at)",
        )
        .await
        .unwrap();
    let left = async || -> i64 { app_owner.query_one("SELECT count(*) FROM user_sessions", &[]).await.unwrap().get(0) };
    let rule = "[[postgres.main.retention]]\ntable = \"user_sessions\"\ncolumn = \"expires_at\"\nkeep = \"30d\"\n";
    let place = Place::new(&database.config("autonomy = \"assist\"", &format!("{OPEN}{rule}")));
    let app = place.app().await;
    let told = app.task_run("database-maintenance", true, "ann").await.unwrap();
    let rows =
        |line: &String| line.starts_with("DELETE FROM \"public\".\"user_sessions\"") && line.contains("would do");
    assert!(told.details.iter().any(rows), "{told:?}");
    let due = app.plan().await.unwrap().plan;
    assert_eq!(due.items.iter().map(|item| item.remedy.as_str()).collect::<Vec<_>>(), ["postgres.delete_expired_rows"]);
    assert_eq!(left().await, 90);

    let run = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert!(run.ok && outcomes(&run.actions).contains(&Outcome::Helped), "{run:?}");
    assert!((29..=30).contains(&left().await), "{}", left().await);
    let again = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert!(again.ok && !again.summary.contains("1 done"), "{again:?}");

    // A rule that cannot be carried out is told every time.
    app_owner.batch_execute("DROP INDEX user_sessions_expires_at_idx").await.unwrap();
    let refused = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert!(!refused.ok && refused.details[0].contains("no index begins with expires_at"), "{refused:?}");
}

#[tokio::test]
async fn a_bloated_index_is_built_anew_once_it_was_seen_before_and_two_estimators_agree() {
    let database = Database::start(GRANTS).await;
    let owner = database.app("docrag").await;
    owner
        .batch_execute(
            "CREATE TABLE notes (id int, word text); CREATE INDEX notes_word ON notes (word);
             CREATE TABLE new (id int, word text); CREATE INDEX new_word ON new (word);
             INSERT INTO notes SELECT n, md5(n::text) FROM generate_series(1, 60000) n",
        )
        .await
        .unwrap();
    let vacuum = async |table: &str| owner.batch_execute(&format!("VACUUM ANALYZE {table}")).await.unwrap();
    vacuum("notes").await;
    let limits = "[checks.\"postgres.index_bloated\"]\nwasted = 500000\n";
    let place = Place::new(&database.config("autonomy = \"assist\"", &format!("{OPEN}{limits}")));
    let app = place.app().await;
    let size = async |index: &str| -> i64 {
        let sql = format!("SELECT pg_relation_size('{index}')");
        owner.query_one(&sql, &[]).await.unwrap().get(0)
    };
    let first = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert!(first.ok && first.actions.is_empty(), "{first:?}");

    // Both are bloated now; one of them nobody has seen before.
    owner.batch_execute("INSERT INTO new SELECT n, md5(n::text) FROM generate_series(1, 60000) n").await.unwrap();
    owner.batch_execute("DELETE FROM notes WHERE id % 20 > 0; DELETE FROM new WHERE id % 30 > 0").await.unwrap();
    // What is counted later than the vacuum would make its statistics look stale.
    counted(&owner).await;
    vacuum("notes").await;
    vacuum("new").await;
    owner.batch_execute("UPDATE notes SET id = id WHERE id <= 24000").await.unwrap();
    counted(&owner).await;
    owner.batch_execute("ANALYZE notes").await.unwrap();
    let (before, other) = (size("notes_word").await, size("new_word").await);
    let planned = app.plan().await.unwrap().plan;
    let statements: Vec<&str> = planned.items.iter().map(|item| item.statement.as_str()).collect();
    let build = "REINDEX INDEX CONCURRENTLY \"public\".\"notes_word\"";
    assert!(
        matches!(statements[..], [vacuum, second] if vacuum.starts_with("VACUUM") && second == build),
        "a plan remembers nothing: {statements:?}"
    );
    let foreseen = app.task_run("database-maintenance", true, "ann").await.unwrap().plan.unwrap();
    let foreseen: Vec<&str> = foreseen.items.iter().map(|item| item.statement.as_str()).collect();
    let run = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert!(run.ok && outcomes(&run.actions) == [Outcome::Helped, Outcome::Helped], "{run:?}");
    let done: Vec<&str> = run.actions.iter().map(|action| action.statement.as_str()).collect();
    assert_eq!(done, [build, statements[0]], "what is new has no dead rows for the vacuum");
    assert_eq!(foreseen, done);
    assert!(size("notes_word").await * 10 < before, "{} {before}", size("notes_word").await);
    assert_eq!(size("new_word").await, other, "a first impression is no reason");
}

#[tokio::test]
async fn rows_that_expired_are_deleted_and_their_table_and_its_indexes_mended_in_the_same_run() {
    let database = Database::start(GRANTS).await;
    let owner = database.app("docrag").await;
    owner
        .batch_execute(
            "CREATE TABLE notes (id int, word text, made timestamptz DEFAULT now());
             INSERT INTO notes SELECT n, md5(n::text) FROM generate_series(1, 20000) n;
             CREATE INDEX notes_word ON notes (word); CREATE INDEX notes_made ON notes (made)",
        )
        .await
        .unwrap();
    owner.batch_execute("VACUUM ANALYZE notes").await.unwrap();
    let rest = "[[postgres.main.retention]]\ntable = \"notes\"\ncolumn = \"made\"\nkeep = \"30d\"\n\
                [checks.\"postgres.index_bloated\"]\nwasted = 500000\n";
    let place = Place::new(&database.config("autonomy = \"assist\"", &format!("{OPEN}{rest}")));
    let app = place.app().await;
    let stranger = Place::new(&database.config("autonomy = \"assist\"", &format!("{OPEN}{rest}")));
    assert!(app.task_run("database-maintenance", false, "ann").await.unwrap().ok);

    // After this the table's statistics are those of another table: of its indexes they can tell nothing yet.
    owner.batch_execute("UPDATE notes SET made = now() - interval '60 days' WHERE id % 30 > 0").await.unwrap();
    let run = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert!(run.ok, "{run:?}");
    let done: Vec<&str> = run.actions.iter().map(|action| action.statement.as_str()).collect();
    assert!(done[0].starts_with("DELETE FROM \"public\".\"notes\""), "{done:?}");
    assert!(done.contains(&"REINDEX INDEX CONCURRENTLY \"public\".\"notes_word\""), "{done:?}");

    // A keeper that sees them for the first time builds none anew, however often it looks in that run.
    owner.batch_execute("INSERT INTO notes SELECT n, md5(n::text) FROM generate_series(1, 20000) n").await.unwrap();
    owner.batch_execute("UPDATE notes SET made = now() - interval '60 days' WHERE id % 30 > 0").await.unwrap();
    let first = stranger.app().await.task_run("database-maintenance", false, "ann").await.unwrap();
    assert!(first.ok && outcomes(&first.actions).len() >= 2, "{first:?}");
    assert!(first.actions.iter().all(|action| !action.statement.starts_with("REINDEX")), "{first:?}");
}

#[tokio::test]
async fn a_sequence_that_is_behind_is_found_once_a_day_and_moved_on_by_the_weekly_maintenance() {
    const CHECK: &str = "postgres.sequence_behind";
    let database = Database::start(GRANTS).await;
    let owner = database.app("docrag").await;
    owner
        .batch_execute(
            "CREATE TABLE events (id serial PRIMARY KEY, word text);
             INSERT INTO events (word) SELECT 'a' FROM generate_series(1, 100); ANALYZE events;
             SELECT setval('events_id_seq', 50)",
        )
        .await
        .unwrap();
    let place = Place::new(&database.config("autonomy = \"assist\"", OPEN));
    let app = place.app().await;
    let open = async |app: &groundskeeper::app::App| {
        let found = app.findings(false).await.unwrap();
        found.iter().any(|view| view.finding.check == CHECK)
    };
    assert!(app.task_run("watch", false, "ann").await.unwrap().ok);
    assert!(!open(&app).await, "the watch does not look into tables");
    let daily = app.task_run("daily-health", false, "ann").await.unwrap();
    assert!(daily.ok && open(&app).await, "{daily:?}");
    assert!(
        matches!(&daily.actions[..], [] | [ActionView { result: ActionResult::Skipped { .. }, .. }]),
        "corrective: {daily:?}"
    );
    assert!(app.task_run("watch", false, "ann").await.unwrap().ok);
    assert!(open(&app).await, "and does not close what it cannot see");
    drop(app);

    place.configure(&database.config("autonomy = \"auto\"", OPEN));
    let app = place.app().await;
    let told = app.task_run("database-maintenance", true, "ann").await.unwrap();
    let exact = |line: &String| {
        line.starts_with(
            "BEGIN; SET LOCAL lock_timeout = '200ms'; LOCK TABLE \"public\".\"events\" IN SHARE ROW EXCLUSIVE MODE;",
        ) && line.contains("public.events_id_seq gives 51 next")
            && line.ends_with("would do")
    };
    assert!(told.details.iter().any(exact), "{told:?}");
    let planned = app.plan().await.unwrap().plan;
    let remedies: Vec<&str> = planned.items.iter().map(|item| item.remedy.as_str()).collect();
    assert_eq!(remedies, ["postgres.advance_sequence"]);
    assert!(owner.batch_execute("INSERT INTO events (word) VALUES ('b')").await.is_err(), "nothing was done yet");

    let run = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert!(run.ok && outcomes(&run.actions) == [Outcome::Helped], "{run:?}");
    assert!(run.details.iter().any(|line| line.contains("the next value is 101, and is free")), "{run:?}");
    owner.batch_execute("INSERT INTO events (word) VALUES ('b')").await.unwrap();
    assert!(matches!(app.undo(1, "ann").await.unwrap().undo, Undo::NotNeeded(_)));
    assert_eq!(place.count("SELECT count(*) FROM journal WHERE outcome = 'helped'"), 1);
    assert!(app.task_run("daily-health", false, "ann").await.unwrap().ok);
    assert!(!open(&app).await, "the next deeper look sees that it is mended");
}

#[tokio::test]
async fn a_coarse_column_is_looked_at_closer_by_one_step_a_week_and_a_person_can_put_it_back() {
    const STEP: &str = "ALTER TABLE \"public\".\"chunks\" ALTER COLUMN \"tenant\" SET STATISTICS 40; ANALYZE \"public\".\"chunks\" (\"tenant\")";
    let database = Database::start(GRANTS).await;
    let (owner, admin) = (database.app("docrag").await, database.server.client().await);
    admin.batch_execute("ALTER DATABASE docrag SET default_statistics_target = 20").await.unwrap();
    owner
        .batch_execute(
            "SET default_statistics_target = 20; CREATE TABLE chunks (id int PRIMARY KEY, tenant int);
             INSERT INTO chunks SELECT n, CASE WHEN n % 5 < 3 THEN (n / 5) % 30 ELSE 1000 + n END FROM generate_series(1, 120000) n;
             CREATE INDEX ON chunks (tenant)",
        )
        .await
        .unwrap();
    counted(&owner).await;
    owner.batch_execute("ANALYZE chunks").await.unwrap();
    counted(&owner).await;
    let target = async || -> Option<i32> {
        let sql = "SELECT nullif(attstattarget::int4, -1) FROM pg_attribute WHERE attrelid = 'chunks'::regclass AND attname = 'tenant'";
        owner.query_one(sql, &[]).await.unwrap().get(0)
    };
    let place = Place::new(&database.config("autonomy = \"assist\"", OPEN));
    let app = place.app().await;
    let planned = app.plan().await.unwrap().plan;
    assert_eq!(planned.items.iter().map(|item| item.statement.as_str()).collect::<Vec<_>>(), [STEP]);
    let run = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert!(run.ok && outcomes(&run.actions) == [Outcome::Helped], "{run:?}");
    assert!(run.details.iter().any(|line| line.contains("20 -> 30 common values")), "{run:?}");
    assert_eq!(target().await, Some(40));
    assert!(app.plan().await.unwrap().plan.items.is_empty());

    let undone = app.undo(1, "ann").await.unwrap();
    assert!(
        matches!(undone.undo, Undo::By(_)) && outcomes(undone.action.as_slice()) == [Outcome::Helped],
        "{undone:?}"
    );
    assert_eq!(target().await, None);
    let again = app.task_run("database-maintenance", false, "ann").await.unwrap();
    assert!(again.ok && again.summary.contains("1 held back: done at"), "one step a week: {again:?}");
    assert_eq!(target().await, None);
}
