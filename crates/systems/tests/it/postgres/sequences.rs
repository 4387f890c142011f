//! Sequences that are really behind their columns, what only looks so, and moving them on while rows are inserted.

use super::{DEADLINE, endpoint, now, read, role};
use groundskeeper_core::check::{Judgement, Status, Tuning, judge_all};
use groundskeeper_core::observation::{Deep, NotCompared, Observation, Sequences, TableName};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState, Verification, find};
use groundskeeper_core::{Finding, SystemId, SystemKind};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::act::{ActError, apply, capture, is_under_way};
use groundskeeper_systems::postgres::deep;
use groundskeeper_systems::postgres::grants::{Wish, grants};
use groundskeeper_testing::PostgresServer;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const CHECK: &str = "postgres.sequence_behind";
/// Long enough for attempts that wait and try again.
const PATIENCE: Duration = Duration::from_mins(1);

fn of_public(name: &str) -> TableName {
    TableName { schema: "public".into(), name: name.into() }
}

async fn looked(url: &str) -> Deep {
    deep::look(&endpoint(url), DEADLINE * 2).await.unwrap()
}

async fn sequences(url: &str) -> Sequences {
    looked(url).await.sequences.unwrap()
}

/// The names of those that are behind.
async fn behind(url: &str) -> Vec<String> {
    let mut names: Vec<String> = sequences(url).await.behind.iter().map(|one| one.sequence.name.clone()).collect();
    names.sort();
    names
}

async fn judged(url: &str, is_deep: bool) -> Option<Judgement> {
    let mut reading = read(url).await;
    if is_deep {
        reading.outcome.as_mut().unwrap().deep = Some(Box::new(looked(url).await));
    }
    let system = SystemId::new(SystemKind::Postgres, "main");
    let judged = judge_all(&system, &Observation::Postgres(reading), None, &Tuning::default(), now());
    judged.into_iter().find(|judgement| judgement.check == CHECK)
}

async fn found(url: &str) -> Finding {
    match judged(url, true).await.unwrap().status {
        Status::Failing { mut findings } if findings.len() == 1 => findings.remove(0),
        other => panic!("{other:?}"),
    }
}

/// What the finding's remedy proposes.
async fn steps(url: &str) -> Vec<Step> {
    let proposals = (find("postgres.advance_sequence").unwrap().propose)(&found(url).await);
    proposals.into_iter().map(|proposal| proposal.step).collect()
}

async fn run(at: &Endpoint, step: &Step) -> Result<(), ActError> {
    Box::pin(apply(at, &JournalledStep::recorded(1, step.clone()), PATIENCE, pending())).await
}

async fn state(at: &Endpoint, step: &Step) -> StepState {
    capture(at, step, DEADLINE).await.unwrap()
}

fn refused(outcome: Result<(), ActError>, word: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains(word)), "{word}: {error}");
}

async fn last_value(client: &Client, sequence: &str) -> (i64, bool) {
    let row = client.query_one(&format!("SELECT last_value, is_called FROM {sequence}"), &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_sequence_that_was_set_back_is_found_by_the_deeper_look_only_and_its_fix_helps() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE \"It's\" (id serial PRIMARY KEY, word text);
             INSERT INTO \"It's\" (word) SELECT 'a' FROM generate_series(1, 1000)",
        )
        .await
        .unwrap();
    assert_eq!(judged(&server.url(), true).await.unwrap().status, Status::Ok);
    client.batch_execute("SELECT setval('\"It''s_id_seq\"', 500)").await.unwrap();
    assert!(client.batch_execute("INSERT INTO \"It's\" (word) VALUES ('b')").await.is_err());
    assert!(judged(&server.url(), false).await.is_none(), "the watch does not look into tables, and says nothing");
    let finding = found(&server.url()).await;
    assert_eq!(
        finding.summary,
        "public.It's_id_seq gives 502 next, which public.It's.id has already; the furthest there is 1,000"
    );
    // What the finding says is what helps.
    let (_, statements) = finding.fix.split_once(": ").unwrap();
    client.batch_execute(statements).await.unwrap();
    assert_eq!(last_value(&client, "\"It's_id_seq\"").await, (1000, true));
    assert_eq!(judged(&server.url(), true).await.unwrap().status, Status::Ok);
    client.batch_execute(statements).await.unwrap();
    assert_eq!(last_value(&client, "\"It's_id_seq\"").await, (1000, true), "and does nothing twice");
}

/// Sequences that are not behind, although some of their columns hold larger numbers.
const LOOKS_SO: &str = "CREATE TABLE fine (id bigserial PRIMARY KEY); INSERT INTO fine SELECT FROM generate_series(1, 10);
             CREATE TABLE unused (id serial PRIMARY KEY);
             CREATE TABLE negative (id serial PRIMARY KEY); INSERT INTO negative VALUES (-5), (0);
             CREATE TABLE marked (id serial PRIMARY KEY);
             INSERT INTO marked VALUES (2147483647); INSERT INTO marked SELECT FROM generate_series(1, 10);
             CREATE SEQUENCE turning MAXVALUE 100 CYCLE;
             CREATE TABLE turned (id int PRIMARY KEY DEFAULT nextval('turning')); INSERT INTO turned VALUES (50);
             CREATE SEQUENCE odd INCREMENT 2;
             CREATE TABLE shared (id int PRIMARY KEY DEFAULT nextval('odd')); INSERT INTO shared SELECT 2 * n FROM generate_series(1, 500) n;
             CREATE SEQUENCE parts; CREATE TABLE derived (id bigint PRIMARY KEY DEFAULT nextval('parts') * 1000 + 7);
             INSERT INTO derived SELECT FROM generate_series(1, 10);
             CREATE SEQUENCE full_up MAXVALUE 20; CREATE TABLE ended (id int PRIMARY KEY DEFAULT nextval('full_up'));
             INSERT INTO ended SELECT FROM generate_series(1, 20);
             CREATE TABLE loose (id serial, word text); INSERT INTO loose VALUES (700);
             CREATE TEMP TABLE passing (id serial PRIMARY KEY); INSERT INTO passing VALUES (9);
             CREATE SEQUENCE stocked CACHE 50; CREATE TABLE stock (id int PRIMARY KEY DEFAULT nextval('stocked'));
             INSERT INTO stock SELECT FROM generate_series(1, 7);
             CREATE TABLE late (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, day int);
             INSERT INTO late (day) SELECT 1 FROM generate_series(1, 10); ALTER TABLE late ALTER id RESTART WITH 11";

/// Every way in which one can be behind.
const IS_AHEAD: &str = "ALTER TABLE late ALTER id RESTART WITH 5;
             INSERT INTO unused VALUES (1);
             INSERT INTO shared VALUES (33);
             CREATE UNLOGGED TABLE fast (id smallserial PRIMARY KEY); INSERT INTO fast VALUES (3);
             CREATE SEQUENCE down INCREMENT -1; CREATE TABLE depth (id int PRIMARY KEY DEFAULT nextval('down'));
             INSERT INTO depth VALUES (-3), (5);
             CREATE SEQUENCE couple; CREATE TABLE one (id int PRIMARY KEY DEFAULT nextval('couple'));
             CREATE TABLE two (id int PRIMARY KEY DEFAULT nextval('couple'), other int);
             INSERT INTO one VALUES (4); INSERT INTO two VALUES (90);
             CREATE TABLE days (id serial, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
             CREATE TABLE days_1 PARTITION OF days FOR VALUES IN (1); CREATE TABLE days_2 PARTITION OF days FOR VALUES IN (2);
             INSERT INTO days VALUES (8, 1), (9, 2);
             CREATE TABLE heirs (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE heirs_all PARTITION OF heirs FOR VALUES FROM (MINVALUE) TO (MAXVALUE); INSERT INTO heirs VALUES (6);
             SELECT setval('marked_id_seq', 3)";

#[tokio::test]
async fn what_is_ahead_is_told_from_what_only_looks_so() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client.batch_execute(LOOKS_SO).await.unwrap();
    let all = sequences(&server.url()).await;
    assert_eq!((&all.behind, &all.not_compared), (&vec![], &vec![]), "{all:#?}");
    assert_eq!(
        all.compared, 8,
        "all but those that turn, count in parts, are temporary, or that nothing forbids twice"
    );

    client.batch_execute(IS_AHEAD).await.unwrap();
    let names = [
        "couple",
        "days_id_seq",
        "down",
        "fast_id_seq",
        "heirs_id_seq",
        "late_id_seq",
        "marked_id_seq",
        "odd",
        "unused_id_seq",
    ];
    assert_eq!(behind(&server.url()).await, names);

    // Each is moved to its own furthest, and no further.
    let at = endpoint(&server.url());
    let all = steps(&server.url()).await;
    assert_eq!(all.len(), names.len());
    for step in &all {
        let before = state(&at, step).await;
        run(&at, step).await.unwrap_or_else(|error| panic!("{}: {error}", step.statement()));
        let after = state(&at, step).await;
        assert!(matches!(step.verify(&before, &after), Verification::Helped(_)), "{before:?} {after:?}");
        refused(run(&at, step).await, "it is not behind");
        assert_eq!(state(&at, step).await, after, "once more does nothing");
    }
    assert_eq!(behind(&server.url()).await, [""; 0]);
    for (sequence, last) in [
        ("couple", 90),
        ("days_id_seq", 9),
        ("down", -3),
        ("marked_id_seq", 10),
        ("odd", 33),
        ("unused_id_seq", 1),
        ("late_id_seq", 10),
    ] {
        assert_eq!(last_value(&client, sequence).await, (last, true), "{sequence}");
    }
}

#[tokio::test]
async fn a_sequence_is_repaired_while_rows_are_inserted_and_none_fails_afterwards() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE events (id bigserial PRIMARY KEY, made timestamptz DEFAULT now());
             INSERT INTO events SELECT FROM generate_series(1, 200000); SELECT setval('events_id_seq', 1000)",
        )
        .await
        .unwrap();
    assert!(client.batch_execute("INSERT INTO events DEFAULT VALUES").await.is_err());
    let step = steps(&server.url()).await.remove(0);
    let (repaired, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (failed_before, failed_after, done_after) =
        (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut inserting = Vec::new();
    for _ in 0..4 {
        let (writer, repaired, stop) = (server.client().await, Arc::clone(&repaired), Arc::clone(&stop));
        let counts = (Arc::clone(&failed_before), Arc::clone(&failed_after), Arc::clone(&done_after));
        inserting.push(tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let is_after = repaired.load(Ordering::SeqCst);
                match (writer.batch_execute("INSERT INTO events DEFAULT VALUES").await, is_after) {
                    (Ok(()), true) => counts.2.fetch_add(1, Ordering::SeqCst),
                    (Ok(()), false) => 0,
                    (Err(_), true) => counts.1.fetch_add(1, Ordering::SeqCst),
                    (Err(_), false) => counts.0.fetch_add(1, Ordering::SeqCst),
                };
            }
        }));
    }
    let until = Instant::now() + PATIENCE;
    while failed_before.load(Ordering::SeqCst) < 20 {
        assert!(Instant::now() < until, "inserts do not fail");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    run(&endpoint(&server.url()), &step).await.unwrap();
    repaired.store(true, Ordering::SeqCst);
    while done_after.load(Ordering::SeqCst) < 200 && failed_after.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < until, "inserts do not go on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::SeqCst);
    for one in inserting {
        one.await.unwrap();
    }
    assert_eq!(failed_after.load(Ordering::SeqCst), 0);
    assert_eq!(behind(&server.url()).await, [""; 0]);
}

#[tokio::test]
async fn a_table_that_is_in_use_is_waited_for_and_no_lock_is_left_behind() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client.batch_execute("CREATE TABLE events (id serial PRIMARY KEY); INSERT INTO events VALUES (7)").await.unwrap();
    let (at, step) = (endpoint(&server.url()), steps(&server.url()).await.remove(0));
    let writer = server.client().await;
    writer.batch_execute("BEGIN; INSERT INTO events VALUES (8)").await.unwrap();
    let working = tokio::spawn({
        let (at, step) = (at.clone(), step.clone());
        async move { run(&at, &step).await }
    });
    // The first attempt gives up before anybody could notice; those who insert meanwhile do not wait for it.
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                  WHERE a.application_name = 'groundskeeper' AND l.mode = 'ShareRowExclusiveLock'";
    let until = Instant::now() + PATIENCE;
    while client.query_one(locks, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(Instant::now() < until, "it does not begin");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.batch_execute("SET lock_timeout = '5s'; INSERT INTO events VALUES (9)").await.unwrap();
    writer.batch_execute("COMMIT").await.unwrap();
    working.await.unwrap().unwrap();
    assert_eq!(last_value(&client, "events_id_seq").await, (9, true), "what came in meanwhile is counted in");
    assert!(!is_under_way(&at, &step, DEADLINE).await.unwrap());
    assert_eq!(client.query_one(locks, &[]).await.unwrap().get::<_, i64>(0), 0);

    // Another keeper's session is seen for as long as it has the lock.
    client.batch_execute("SELECT setval('events_id_seq', 1)").await.unwrap();
    let orphan = server.client().await;
    orphan
        .batch_execute("SET application_name = 'groundskeeper'; BEGIN; LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
        .await
        .unwrap();
    assert!(is_under_way(&at, &step, DEADLINE).await.unwrap(), "who holds the lock is at work");
    drop(orphan);
    let until = Instant::now() + PATIENCE;
    while is_under_way(&at, &step, DEADLINE).await.unwrap() {
        assert!(Instant::now() < until, "its lock is left behind");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.batch_execute("ALTER TABLE events RENAME TO other").await.unwrap();
    let error = run(&at, &step).await.unwrap_err();
    assert!(matches!(error, ActError::Precondition { .. }), "{error}");
    assert_eq!(last_value(&client, "events_id_seq").await, (1, true));
    client.batch_execute("DROP TABLE other").await.unwrap();
    assert_eq!(state(&at, &step).await, StepState::Gone);
}

#[tokio::test]
async fn rows_that_go_on_beyond_half_of_the_range_are_not_passed_by() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE codes (id smallserial PRIMARY KEY);
             INSERT INTO codes SELECT generate_series(1, 30000)",
        )
        .await
        .unwrap();
    let finding = found(&server.url()).await;
    assert!(finding.fix.contains("use up more than half of what is left of its range"), "{}", finding.fix);
    assert_eq!(steps(&server.url()).await, []);
    assert_eq!(sequences(&server.url()).await.behind[0].beyond, Some(16_385));
    // Asked for nevertheless, it is refused under the lock as well.
    let step = asked_for(&server.url(), "codes_id_seq").await;
    refused(run(&endpoint(&server.url()), &step).await, "more than half");
    assert_eq!(last_value(&client, "codes_id_seq").await, (1, false));
}

#[tokio::test]
async fn what_is_hidden_locked_or_elsewhere_is_named_and_the_granted_lines_are_enough() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE events (id serial PRIMARY KEY); INSERT INTO events VALUES (7);
             CREATE TABLE secured (id serial PRIMARY KEY); ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
             CREATE TABLE composed (tenant int, id serial, PRIMARY KEY (tenant, id))",
        )
        .await
        .unwrap();
    let keeper = role(&server, "keeper", "").await;
    client.batch_execute("GRANT pg_monitor TO keeper").await.unwrap();
    let why = async |name: &str| {
        let all = sequences(&keeper).await.not_compared;
        all.into_iter().find(|(sequence, _)| sequence.name == name).map(|(_, why)| why)
    };
    assert_eq!(why("events_id_seq").await, Some(NotCompared::HiddenSequence));
    client.batch_execute(&grants("keeper", "postgres", &[Wish::Watch])).await.unwrap();
    assert!(matches!(why("events_id_seq").await, Some(NotCompared::HiddenTable(_))));
    let Status::Unknown(unknown) = judged(&keeper, true).await.unwrap().status else { panic!("hidden is not ok") };
    assert!(unknown.reason.contains("GRANT SELECT ON \"public\".\""), "{unknown:?}");
    client.batch_execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO keeper").await.unwrap();
    assert!(matches!(why("secured_id_seq").await, Some(NotCompared::HiddenTable(_))), "row security hides rows");
    assert!(matches!(why("composed_id_seq").await, Some(NotCompared::WithoutIndex(_))));
    assert_eq!(why("events_id_seq").await, None);

    let (at, step) = (endpoint(&keeper), steps(&keeper).await.remove(0));
    let error = run(&at, &step).await.unwrap_err();
    assert!(matches!(&error, ActError::Denied { fix, .. } if fix.contains("grants --for maintain")), "{error}");
    // The script's lines for it are comments: somebody has to want them.
    let script = grants("keeper", "postgres", &[Wish::Maintain { tables: vec![("public".into(), "events".into())] }]);
    for line in script.lines().filter_map(|line| line.strip_prefix("-- ")).filter(|line| line.starts_with("GRANT ")) {
        client.batch_execute(line).await.unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    client.batch_execute(&script).await.unwrap();
    let version: i32 =
        client.query_one("SELECT current_setting('server_version_num')::int4", &[]).await.unwrap().get(0);
    if version < 170_000 {
        client.batch_execute("GRANT UPDATE ON events TO keeper").await.unwrap();
    }
    run(&at, &step).await.unwrap();
    assert_eq!(last_value(&client, "events_id_seq").await, (7, true));

    // A migration holds the table: the look at it is given up, and the others are not.
    client.batch_execute("SELECT setval('events_id_seq', 1); CREATE TABLE more (id serial PRIMARY KEY)").await.unwrap();
    let migration = server.client().await;
    migration.batch_execute("BEGIN; LOCK TABLE more").await.unwrap();
    let all = sequences(&server.url()).await;
    let is_given_up =
        |(name, why): &(_, NotCompared)| matches!(why, NotCompared::Failed(_)) && name == &of_public("more_id_seq");
    assert!(all.not_compared.iter().any(is_given_up), "{all:?}");
    assert_eq!(all.behind.len(), 1);
}

/// Waits until that many sessions wait for a lock.
async fn until_waiting(client: &Client, count: i64) {
    const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    let until = Instant::now() + PATIENCE;
    while client.query_one(WAITING, &[]).await.unwrap().get::<_, i64>(0) < count {
        assert!(Instant::now() < until, "nobody waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn numbers_that_are_drawn_in_the_middle_are_never_given_again() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE events (id bigserial PRIMARY KEY); INSERT INTO events SELECT FROM generate_series(1, 10);
             SELECT setval('events_id_seq', 5)",
        )
        .await
        .unwrap();
    let Step::AdvanceSequence { advance, .. } = steps(&server.url()).await.remove(0) else { panic!("another step") };
    let catch_up = advance.catch_up("public", "events_id_seq");
    // Somebody draws past the furthest between the moment in which the position was read and that in which it is moved.
    let drawer = server.client().await;
    drawer.batch_execute("BEGIN; ALTER SEQUENCE events_id_seq OWNED BY events.id").await.unwrap();
    let mover = server.client().await;
    let moving = tokio::spawn(async move { mover.batch_execute(&catch_up).await });
    until_waiting(&client, 1).await;
    drawer.batch_execute("SELECT nextval('events_id_seq') FROM generate_series(1, 20); COMMIT").await.unwrap();
    moving.await.unwrap().unwrap();
    let (last, _) = last_value(&client, "events_id_seq").await;
    assert!(last >= 25, "{last}: 25 was given already");

    // A way that is too long to draw, while others draw: none of theirs is given twice, and the furthest is passed.
    client
        .batch_execute(
            "INSERT INTO events SELECT generate_series(100, 250000); SELECT setval('events_id_seq', 99, true)",
        )
        .await
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut drawing = Vec::new();
    for _ in 0..3 {
        let (drawer, stop) = (server.client().await, Arc::clone(&stop));
        drawing.push(tokio::spawn(async move {
            let mut drawn: Vec<i64> = Vec::new();
            while !stop.load(Ordering::SeqCst) || drawn.len() < 100 {
                drawn.push(drawer.query_one("SELECT nextval('events_id_seq')", &[]).await.unwrap().get(0));
            }
            drawn
        }));
    }
    let step = steps(&server.url()).await.remove(0);
    run(&endpoint(&server.url()), &step).await.unwrap();
    assert!(last_value(&client, "events_id_seq").await.0 >= 250_000);
    stop.store(true, Ordering::SeqCst);
    let mut all = Vec::new();
    for one in drawing {
        all.extend(one.await.unwrap());
    }
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "a number was given twice");
}

#[tokio::test]
async fn a_few_far_rows_use_up_no_range_and_many_rows_are_passed() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE lone (id serial PRIMARY KEY); INSERT INTO lone SELECT FROM generate_series(1, 1000);
             INSERT INTO lone VALUES (1000000000);
             CREATE TABLE sparse (id serial PRIMARY KEY); INSERT INTO sparse SELECT generate_series(1, 3000);
             INSERT INTO sparse SELECT generate_series(1000000000, 1000002000);
             CREATE TABLE dense (id smallserial, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
             CREATE TABLE dense_1 PARTITION OF dense FOR VALUES IN (1); CREATE TABLE dense_2 PARTITION OF dense FOR VALUES IN (2);
             INSERT INTO dense SELECT 5 * n, 1 + n % 2 FROM generate_series(1, 1000) n;
             CREATE SEQUENCE down AS int INCREMENT -1; CREATE TABLE depth (id int PRIMARY KEY DEFAULT nextval('down'));
             INSERT INTO depth VALUES (-3), (-1000000000)",
        )
        .await
        .unwrap();
    assert_eq!(behind(&server.url()).await, ["dense_id_seq", "down", "lone_id_seq", "sparse_id_seq"]);
    let moved = steps(&server.url()).await;
    let names: Vec<String> = moved.iter().map(Step::subject).collect();
    assert_eq!(names, ["postgres.main sequence postgres.public.dense_id_seq"], "the others are told");
    let at = endpoint(&server.url());
    run(&at, &moved[0]).await.unwrap();
    assert_eq!(last_value(&client, "dense_id_seq").await, (5_000, true));
    for (name, word) in
        [("lone_id_seq", "more than 1,000 away"), ("sparse_id_seq", "a few far rows"), ("down", "a few far rows")]
    {
        refused(run(&at, &asked_for(&server.url(), name).await).await, word);
    }
    assert_eq!(last_value(&client, "lone_id_seq").await, (1_000, true));
}

/// The step of one that is behind, whether it is proposed or not.
pub(super) async fn asked_for(url: &str, name: &str) -> Step {
    let all = sequences(url).await.behind;
    let one = all.into_iter().find(|one| one.sequence.name == name).unwrap();
    Step::AdvanceSequence {
        system: SystemId::new(SystemKind::Postgres, "main"),
        database: "postgres".into(),
        schema: "public".into(),
        sequence: name.into(),
        advance: one.advance,
    }
}

#[tokio::test]
async fn blocks_of_numbers_are_compared_as_a_whole_and_left_to_a_person() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    // As Hibernate's pooled allocation does: 1, 51, 101 are drawn, and all numbers up to the next of them are used.
    client
        .batch_execute(
            "CREATE TABLE pooled (id bigint PRIMARY KEY); CREATE SEQUENCE pooled_seq INCREMENT 50 OWNED BY pooled.id;
             SELECT nextval('pooled_seq'), nextval('pooled_seq'); INSERT INTO pooled SELECT generate_series(1, 100)",
        )
        .await
        .unwrap();
    assert_eq!(behind(&server.url()).await, [""; 0]);
    client.batch_execute("INSERT INTO pooled SELECT generate_series(101, 230)").await.unwrap();
    let finding = found(&server.url()).await;
    assert!(finding.summary.contains("the furthest there is 230"), "{}", finding.summary);
    assert!(finding.fix.starts_with("The program uses 50 numbers for each that it takes"), "{}", finding.fix);
    assert_eq!(steps(&server.url()).await, []);
    let step = asked_for(&server.url(), "pooled_seq").await;
    refused(run(&endpoint(&server.url()), &step).await, "whole blocks");
    assert_eq!(last_value(&client, "pooled_seq").await, (51, true));
}
