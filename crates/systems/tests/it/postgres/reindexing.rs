//! Building indexes anew, and what is left alone or swept up: on a live server, with everything that can come in between.

use super::{DEADLINE, endpoint, role};
use groundskeeper_core::remedy::{JournalledStep, Reindexing, Step, StepState, Undo, Verification};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::act::{ActError, apply, capture, is_under_way};
use groundskeeper_testing::postgres::counted;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::future::pending;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// Long enough for builds that wait and try again.
const PATIENCE: Duration = Duration::from_mins(2);

/// What the indexes of the tests are past.
const BLOATED: Reindexing = Reindexing::Bloated { percent: 200, wasted: 500_000 };

fn reindex(index: &str, because: Reindexing) -> Step {
    Step::Reindex {
        system: SystemId::new(SystemKind::Postgres, "main"),
        database: "postgres".into(),
        schema: "public".into(),
        table: "Notes".into(),
        index: index.into(),
        because,
    }
}

async fn run(at: &Endpoint, step: &Step) -> Result<(), ActError> {
    Box::pin(apply(at, &JournalledStep::recorded(1, step.clone()), PATIENCE, pending())).await
}

/// Carries out what puts the step back.
async fn put_back(at: &Endpoint, step: &Step) {
    let before = capture(at, step, DEADLINE).await.unwrap();
    let Undo::By(undo) = step.undo(&before) else { panic!("nothing puts {step:?} back") };
    let left = capture(at, &undo, DEADLINE).await.unwrap();
    if left != StepState::Gone {
        run(at, &undo).await.unwrap();
        let after = capture(at, &undo, DEADLINE).await.unwrap();
        assert!(matches!(undo.verify(&left, &after), Verification::Helped(_)), "{after:?}");
    }
}

/// A server with a table of 2,000 rows whose indexes have room for 60,000. To evaluate that of `notes_slow` takes a while.
async fn bloated(options: PostgresOptions) -> (PostgresServer, Client) {
    let server = PostgresServer::start_with(options.set("autovacuum", "off")).await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE \"Notes\" (id int PRIMARY KEY, word text);
             INSERT INTO \"Notes\" SELECT n, md5(n::text) FROM generate_series(1, 60000) n;
             CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
             CREATE INDEX notes_word ON \"Notes\" (word);
             CREATE INDEX notes_slow ON \"Notes\" (slow(id));
             DELETE FROM \"Notes\" WHERE id % 30 > 0",
        )
        .await
        .unwrap();
    // What is counted later than that would make its statistics look stale.
    counted(&client).await;
    client.batch_execute("VACUUM ANALYZE \"Notes\"").await.unwrap();
    counted(&client).await;
    (server, client)
}

async fn indexes(client: &Client) -> Vec<(String, bool)> {
    let sql =
        "SELECT indexrelid::regclass::text, indisvalid FROM pg_index WHERE indrelid = '\"Notes\"'::regclass ORDER BY 1";
    client.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Those that belong there, all valid, and no other one.
async fn assert_tidy(client: &Client) {
    let names = ["\"Notes_pkey\"", "notes_slow", "notes_word"];
    assert_eq!(indexes(client).await, names.map(|name| (name.to_owned(), true)));
}

fn refused(outcome: Result<(), ActError>, word: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains(word)), "{word}: {error}");
}

#[tokio::test]
async fn a_bloated_index_is_built_anew_while_its_table_is_read_and_written() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    let (at, step) = (endpoint(&server.url()), reindex("notes_word", BLOATED));
    let before = capture(&at, &step, DEADLINE).await.unwrap();
    run(&at, &step).await.unwrap();
    let after = capture(&at, &step, DEADLINE).await.unwrap();
    let Verification::Helped(gain) = step.verify(&before, &after) else { panic!("{before:?} {after:?}") };
    assert!(gain.contains(" -> "), "{gain}");
    assert_tidy(&client).await;
    // Once more does nothing.
    refused(run(&at, &step).await, "it is no large B-tree (any more)");
    assert_eq!(capture(&at, &step, DEADLINE).await.unwrap(), after);
    assert_eq!(capture(&at, &reindex("gone", BLOATED), DEADLINE).await.unwrap(), StepState::Gone);
    refused(run(&at, &reindex("gone", BLOATED)).await, "the index is gone");
}

#[tokio::test]
async fn a_transaction_that_ends_soon_is_waited_for_and_what_the_first_attempt_left_is_gone() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    let at = endpoint(&server.url());
    let reader = server.client().await;
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class").await.unwrap();
    let (step, watched) = (reindex("notes_word", BLOATED), server.client().await);
    let building = tokio::spawn(async move { run(&at, &step).await });
    // Once a first attempt has left its index, the second one must begin without it.
    let until = Instant::now() + Duration::from_mins(1);
    while !indexes(&watched).await.iter().any(|(name, is_valid)| name.ends_with("_ccnew") && !is_valid) {
        assert!(Instant::now() < until, "no attempt begins");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    reader.batch_execute("ROLLBACK").await.unwrap();
    building.await.unwrap().unwrap();
    assert_tidy(&client).await;
}

#[tokio::test]
async fn old_and_prepared_transactions_hold_a_build_back_before_it_begins() {
    let (server, client) = bloated(PostgresOptions::default().set("max_prepared_transactions", "2")).await;
    let (at, step) = (endpoint(&server.url()), reindex("notes_word", BLOATED));
    client.batch_execute("BEGIN; INSERT INTO \"Notes\" VALUES (1); PREPARE TRANSACTION 'forgotten'").await.unwrap();
    refused(run(&at, &step).await, "the prepared transaction forgotten is open");
    client.batch_execute("ROLLBACK PREPARED 'forgotten'").await.unwrap();

    let reader = server.client().await;
    reader.batch_execute("SET application_name = 'report'; BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    reader.query("SELECT 1", &[]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(31)).await;
    refused(run(&at, &step).await, "(postgres, report) has had a transaction open");
    reader.batch_execute("ROLLBACK").await.unwrap();
    assert_tidy(&client).await;
    run(&at, &step).await.unwrap();
}

/// From now on `notes_slow` takes some seconds to build.
async fn make_slow(client: &Client) {
    let slow = "CREATE OR REPLACE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
                AS 'BEGIN PERFORM pg_sleep(0.0015); RETURN $1; END'";
    client.batch_execute(slow).await.unwrap();
}

/// Until the build itself runs, and not only what comes before it.
async fn until_building(client: &Client) {
    let until = Instant::now() + Duration::from_secs(30);
    let building = "SELECT EXISTS (SELECT 1 FROM pg_stat_progress_create_index)";
    while !client.query_one(building, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < until, "it does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn whoever_waits_for_a_build_goes_first() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    make_slow(&client).await;
    let (at, step) = (endpoint(&server.url()), reindex("notes_slow", BLOATED));
    let building = tokio::spawn({
        let (at, step) = (at.clone(), step.clone());
        async move { run(&at, &step).await }
    });
    until_building(&client).await;
    assert!(is_under_way(&at, &step, DEADLINE).await.unwrap());
    // A build of all rows takes more than three seconds. With a timeout the migration would fail if it had to wait so long.
    client.batch_execute("SET lock_timeout = '2500ms'").await.unwrap();
    client.batch_execute("ALTER TABLE \"Notes\" ADD COLUMN made timestamptz").await.unwrap();
    building.await.unwrap().unwrap();
    assert_tidy(&client).await;
}

#[tokio::test]
async fn a_build_that_is_killed_or_told_to_end_leaves_the_old_index_and_what_it_left_is_dropped() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    make_slow(&client).await;
    let (at, step) = (endpoint(&server.url()), reindex("notes_slow", BLOATED));
    let building = tokio::spawn({
        let (at, step) = (at.clone(), step.clone());
        async move { run(&at, &step).await }
    });
    until_building(&client).await;
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'REINDEX INDEX%' AND pid <> pg_backend_pid()";
    assert_eq!(client.query(kill, &[]).await.unwrap().len(), 1);
    let error = building.await.unwrap().unwrap_err();
    assert!(error.retryable(), "{error}");
    assert_eq!(indexes(&client).await.len(), 4, "it leaves an invalid index");
    put_back(&at, &step).await;
    assert_tidy(&client).await;

    let watched = server.client().await;
    let halt = async {
        until_building(&watched).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let journalled = JournalledStep::recorded(2, step.clone());
    let error = Box::pin(apply(&at, &journalled, PATIENCE, halt)).await.unwrap_err();
    assert!(matches!(error, ActError::Interrupted(_)), "{error}");
    put_back(&at, &step).await;
    assert_tidy(&client).await;
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'groundskeeper'";
    let until = Instant::now() + Duration::from_secs(20);
    while client.query_one(locks, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Instant::now() < until, "a lock is left behind");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A reader of other tables whose snapshot holds up each build before its end, and a build that waits for him.
async fn held_up(server: &PostgresServer, step: &Step) -> (Client, JoinHandle<Result<(), ActError>>) {
    let reader = server.client().await;
    reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class").await.unwrap();
    let (at, step) = (endpoint(&server.url()), step.clone());
    (reader, tokio::spawn(async move { run(&at, &step).await }))
}

/// Waits until the build does, and does that with its session in the same moment.
async fn once_it_waits(client: &Client, building: &JoinHandle<Result<(), ActError>>, then: &str) {
    let sql = format!(
        "SELECT {then} FROM pg_stat_activity WHERE query LIKE 'REINDEX INDEX%' AND state = 'active' AND wait_event_type = 'Lock'
            AND EXISTS (SELECT 1 FROM pg_class x JOIN pg_index i ON i.indexrelid = x.oid
                         WHERE x.relname LIKE '%\\_ccnew' AND NOT i.indisvalid)"
    );
    let until = Instant::now() + Duration::from_mins(1);
    while client.query(&sql, &[]).await.unwrap().is_empty() {
        assert!(!building.is_finished(), "the build ended");
        assert!(Instant::now() < until, "no build waits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What is invalid in any schema of the users.
async fn left_anywhere(client: &Client) -> Vec<String> {
    let sql = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn what_a_build_left_is_found_whatever_name_its_table_has_by_then() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    let (at, step) = (endpoint(&server.url()), reindex("notes_word", BLOATED));
    let before = capture(&at, &step, DEADLINE).await.unwrap();
    let (reader, building) = held_up(&server, &step).await;
    once_it_waits(&client, &building, "pg_terminate_backend(pid)").await;
    let error = building.await.unwrap().unwrap_err();
    assert!(!matches!(error, ActError::Precondition { .. }), "it was begun: {error}");
    reader.batch_execute("ROLLBACK").await.unwrap();
    client
        .batch_execute(
            "CREATE SCHEMA \"Old\"; ALTER TABLE \"Notes\" RENAME TO \"Old Notes\"; ALTER TABLE \"Old Notes\" SET SCHEMA \"Old\";
             CREATE TABLE \"Notes\" (id int PRIMARY KEY)",
        )
        .await
        .unwrap();
    assert_eq!(left_anywhere(&client).await, ["\"Old\".notes_word_ccnew"]);
    let Undo::By(undo) = step.undo(&before) else { panic!("nothing puts it back") };
    let left = capture(&at, &undo, DEADLINE).await.unwrap();
    assert_eq!(left, StepState::Leftovers { names: vec!["notes_word_ccnew".into()] });
    run(&at, &undo).await.unwrap();
    let after = capture(&at, &undo, DEADLINE).await.unwrap();
    assert_eq!(undo.verify(&left, &after), Verification::Helped("1 leftover dropped".into()));
    assert!(left_anywhere(&client).await.is_empty());

    // Where no number is known, or that table is gone, it goes by the name.
    let Undo::By(by_name) = step.undo(&StepState::Gone) else { panic!("nothing puts it back") };
    for sweep in [&by_name, &undo] {
        assert_eq!(capture(&at, sweep, DEADLINE).await.unwrap(), StepState::Gone);
        run(&at, sweep).await.unwrap();
    }
    client.batch_execute("DROP TABLE \"Old\".\"Old Notes\"").await.unwrap();
    run(&at, &undo).await.unwrap();
    client.batch_execute("DROP TABLE \"Notes\"").await.unwrap();
    assert_eq!(capture(&at, &undo, DEADLINE).await.unwrap(), StepState::Gone);
    refused(run(&at, &undo).await, "the table is gone");
}

#[tokio::test]
async fn a_table_that_is_renamed_during_a_build_goes_first_and_keeps_nothing_of_it() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    let (at, step) = (endpoint(&server.url()), reindex("notes_word", BLOATED));
    let before = capture(&at, &step, DEADLINE).await.unwrap();
    let (reader, building) = held_up(&server, &step).await;
    once_it_waits(&client, &building, "1").await;
    client.batch_execute("ALTER TABLE \"Notes\" RENAME TO \"Old Notes\"").await.unwrap();
    let error = building.await.unwrap().unwrap_err();
    assert!(matches!(error, ActError::Failed { .. }), "it was begun, so that what is left is put back: {error}");
    reader.batch_execute("ROLLBACK").await.unwrap();
    let Undo::By(undo) = step.undo(&before) else { panic!("nothing puts it back") };
    if capture(&at, &undo, DEADLINE).await.unwrap() != StepState::Gone {
        run(&at, &undo).await.unwrap();
    }
    assert!(left_anywhere(&client).await.is_empty());
}

#[tokio::test]
async fn while_another_keeper_builds_in_the_database_nothing_is_begun() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    let (at, step) = (endpoint(&server.url()), reindex("notes_word", BLOATED));
    let other = server.client().await;
    // `GRKI`: keepers of different versions have to agree on it.
    let key = 0x4752_4b49_i64;
    other.batch_execute(&format!("SELECT pg_advisory_lock({key})")).await.unwrap();
    refused(run(&at, &step).await, "another keeper builds an index in this database");
    assert_tidy(&client).await;
    other.batch_execute(&format!("SELECT pg_advisory_unlock({key})")).await.unwrap();
    run(&at, &step).await.unwrap();
    // It does not outlive the build.
    let until = Instant::now() + Duration::from_secs(30);
    while !client.query_one(&format!("SELECT pg_try_advisory_lock({key})"), &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < until, "the lock is left behind");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_a_failed_build_left_is_built_anew_once_its_cause_is_mended() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    let at = endpoint(&server.url());
    client.batch_execute("UPDATE \"Notes\" SET word = 'twice' WHERE id IN (30, 60)").await.unwrap();
    let create = "CREATE UNIQUE INDEX CONCURRENTLY notes_unique ON \"Notes\" (word)";
    assert!(client.batch_execute(create).await.is_err());
    let step = reindex("notes_unique", Reindexing::Invalid);
    refused(run(&at, &reindex("notes_unique", BLOATED)).await, "it is invalid by now");
    let error = run(&at, &step).await.unwrap_err();
    assert!(matches!(error, ActError::Failed { retryable: false, .. }), "{error}");
    put_back(&at, &step).await;
    assert_eq!(indexes(&client).await.len(), 4, "only what the second build left is gone");

    client.batch_execute("UPDATE \"Notes\" SET word = 'once' WHERE id = 30").await.unwrap();
    let before = capture(&at, &step, DEADLINE).await.unwrap();
    run(&at, &step).await.unwrap();
    let after = capture(&at, &step, DEADLINE).await.unwrap();
    assert!(matches!(step.verify(&before, &after), Verification::Helped(_)), "{after:?}");
    refused(run(&at, &step).await, "it is valid by now");
}

#[tokio::test]
async fn leftovers_of_a_table_where_somebody_builds_are_left_alone() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    let at = endpoint(&server.url());
    let writer = server.client().await;
    writer.batch_execute("BEGIN; INSERT INTO \"Notes\" VALUES (3, 'c')").await.unwrap();
    let builder = server.client().await;
    let building = tokio::spawn(async move { builder.batch_execute("REINDEX INDEX CONCURRENTLY notes_word").await });
    let until = Instant::now() + Duration::from_secs(30);
    while indexes(&client).await.len() < 4 {
        assert!(Instant::now() < until, "the build does not begin");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let Undo::By(sweep) = reindex("notes_word", BLOATED).undo(&StepState::Gone) else { panic!() };
    refused(run(&at, &sweep).await, "somebody builds an index");
    refused(run(&at, &reindex("notes_word", BLOATED)).await, "somebody builds an index");
    writer.batch_execute("ROLLBACK").await.unwrap();
    building.await.unwrap().unwrap();
    assert_tidy(&client).await;
}

#[tokio::test]
async fn without_ownership_room_or_a_plain_index_nothing_is_begun() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    let step = reindex("notes_word", BLOATED);
    let keeper = endpoint(&role(&server, "keeper", "").await);
    let error = run(&keeper, &step).await.unwrap_err();
    assert!(
        matches!(error, ActError::Denied { .. }) && error.to_string().contains("member of the table's owner"),
        "{error}"
    );
    client
        .batch_execute(
            "CREATE ROLE owner; GRANT CREATE ON SCHEMA public TO owner; ALTER TABLE \"Notes\" OWNER TO owner; GRANT owner TO keeper",
        )
        .await
        .unwrap();
    refused(run(&keeper, &step).await, "hidden from us; grant pg_monitor");
    client.batch_execute("GRANT pg_read_all_stats TO keeper").await.unwrap();
    refused(run(&keeper, &step).await, "say how large that disk is with `disk");
    client.batch_execute("GRANT pg_monitor TO keeper").await.unwrap();
    run(&keeper, &step).await.unwrap();

    client
        .batch_execute(
            "CREATE EXTENSION btree_gist; ALTER TABLE \"Notes\" ADD CONSTRAINT alone EXCLUDE USING gist (id WITH =);
             CREATE TABLE parts (id int) PARTITION BY RANGE (id); CREATE INDEX parts_id ON parts (id)",
        )
        .await
        .unwrap();
    let at = endpoint(&server.url());
    refused(run(&at, &reindex("alone", BLOATED)).await, "exclusion constraint");
    let (Step::Reindex { system, database, schema, because, .. }, table) = (step, "parts".to_owned()) else { panic!() };
    let parts = Step::Reindex { system, database, schema, table, index: "parts_id".into(), because };
    refused(run(&at, &parts).await, "that of a partitioned table");
}

#[tokio::test]
async fn the_disk_of_a_server_that_cannot_be_seen_is_reckoned_from_its_size() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    // Where the data directory is, is hidden from it.
    let plain = endpoint(&role(&server, "plain", "IN ROLE pg_read_all_stats").await);
    client.batch_execute("ALTER TABLE \"Notes\" OWNER TO plain; GRANT CREATE ON SCHEMA public TO plain").await.unwrap();
    client.batch_execute("GRANT EXECUTE ON FUNCTION pg_ls_waldir() TO plain").await.unwrap();
    let step = reindex("notes_word", BLOATED);
    refused(run(&plain.clone().with_disk(Some(1 << 20)), &step).await, "wants twice its size");
    run(&plain.with_disk(Some(1 << 40)), &step).await.unwrap();
}

#[tokio::test]
async fn a_slot_that_keeps_all_the_wal_it_may_holds_a_build_back() {
    let options = PostgresOptions::default().set("wal_level", "replica").set("max_slot_wal_keep_size", "1MB");
    let (server, client) = bloated(options).await;
    let (at, step) = (endpoint(&server.url()), reindex("notes_word", BLOATED));
    client.batch_execute("SELECT pg_create_physical_replication_slot('replica', true)").await.unwrap();
    client.batch_execute("CREATE TABLE much AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)").await.unwrap();
    refused(run(&at, &step).await, "the slot replica keeps");
    client.batch_execute("SELECT pg_drop_replication_slot('replica')").await.unwrap();
    run(&at, &step).await.unwrap();
}

#[tokio::test]
async fn an_idle_reader_of_the_table_holds_a_build_back() {
    let (server, client) = bloated(PostgresOptions::default()).await;
    let (at, step) = (endpoint(&server.url()), reindex("notes_word", BLOATED));
    // It holds no snapshot, and a lock of its table.
    let reader = server.client().await;
    reader.batch_execute("SET application_name = 'forgetful'; BEGIN; SELECT count(*) FROM \"Notes\"").await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    refused(run(&at, &step).await, "(postgres, forgetful) has had a transaction open");
    // Nobody knows since when, and so it may be long.
    reader.batch_execute("COMMIT; SET track_activities = off; BEGIN; SELECT count(*) FROM \"Notes\"").await.unwrap();
    refused(run(&at, &step).await, "(postgres, forgetful) does not tell what it does (track_activities is off there)");
    assert_tidy(&client).await;
}
