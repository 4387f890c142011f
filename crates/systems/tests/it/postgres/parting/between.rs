//! What others do while a partition is taken out, and whoever kills the keeper meanwhile.

use super::super::{DEADLINE, detaches_concurrently, endpoint};
use super::{AT_WORK, audit, bounds, count, dropping, due, proven, put_back, refused, run, state, tables, until};
use groundskeeper_core::remedy::{Step, StepState, Undo};
use groundskeeper_systems::postgres::act::{ActError, is_under_way};
use groundskeeper_testing::PostgresServer;
use tokio_postgres::Client;

const PENDING: &str = "SELECT EXISTS (SELECT 1 FROM pg_inherits WHERE inhdetachpending)";

/// Lets the first detach of the keeper wait for a reader, and does something else meanwhile.
async fn while_it_waits(
    server: &PostgresServer,
    client: &Client,
    step: &Step,
    meanwhile: &str,
) -> Result<(), ActError> {
    let reader = server.client().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM \"Audit\"").await.unwrap();
    let working = tokio::spawn({
        let (at, step) = (endpoint(&server.url()), step.clone());
        async move { run(&at, &step).await }
    });
    // Plainly, it waits for the reader's lock, gives up and pauses.
    let sql = format!("SELECT EXISTS (SELECT 1 {AT_WORK} AND wait_event_type = 'Lock')");
    until("the detach waits", client, &sql).await;
    until("it pauses", client, &format!("SELECT NOT EXISTS (SELECT 1 {AT_WORK} AND state <> 'idle')")).await;
    reader.batch_execute("COMMIT").await.unwrap();
    client.batch_execute(meanwhile).await.unwrap();
    working.await.unwrap()
}

#[tokio::test]
async fn what_somebody_detaches_renames_or_swaps_meanwhile_is_kept() {
    let (server, client) = audit().await;
    let at = endpoint(&server.url());
    client.batch_execute("CREATE TABLE others PARTITION OF \"Audit\" DEFAULT").await.unwrap();
    let contained = proven(&at, &client, "old_1").await;
    let rows = i64::try_from(contained.rows).unwrap();
    let step = dropping(&at, "old_1", &contained).await;
    let was = state(&at, &step).await;
    let first = bounds(&client, "old_1").await.unwrap();
    for (meanwhile, back) in [
        ("ALTER TABLE \"Audit\" DETACH PARTITION old_1".to_owned(), format!("ALTER TABLE \"Audit\" ATTACH PARTITION old_1 {first}")),
        (
            "ALTER TABLE \"Audit\" RENAME TO kept; CREATE TABLE \"Audit\" (LIKE kept) PARTITION BY RANGE (at)".to_owned(),
            "DROP TABLE \"Audit\"; ALTER TABLE kept RENAME TO \"Audit\"".to_owned(),
        ),
        (
            format!(
                "CREATE TABLE kept (LIKE \"Audit\") PARTITION BY RANGE (at); ALTER TABLE \"Audit\" DETACH PARTITION old_1;
                 ALTER TABLE kept ATTACH PARTITION old_1 {first}"
            ),
            format!("ALTER TABLE kept DETACH PARTITION old_1; ALTER TABLE \"Audit\" ATTACH PARTITION old_1 {first}"),
        ),
    ] {
        let done = while_it_waits(&server, &client, &step, &meanwhile).await;
        assert!(matches!(done, Err(ActError::Precondition { .. })), "{meanwhile}: {done:?}");
        assert_eq!(count(&client, "old_1").await, rows, "{meanwhile}");
        client.batch_execute(&back).await.unwrap();
    }
    // What is put back is put back to the very table that it was detached from.
    let Undo::By(undo) = step.undo(&was) else { panic!() };
    client
        .batch_execute(
            "ALTER TABLE \"Audit\" DETACH PARTITION old_1; ALTER TABLE \"Audit\" RENAME TO before;
             CREATE TABLE \"Audit\" (LIKE before) PARTITION BY RANGE (at)",
        )
        .await
        .unwrap();
    refused(run(&at, &undo).await, "another one has its name");
    client.batch_execute(&format!("ALTER TABLE before ATTACH PARTITION old_1 {first}")).await.unwrap();
    assert_eq!(state(&at, &undo).await, StepState::Gone);
}

#[tokio::test]
async fn what_somebody_detaches_while_a_concurrent_detach_is_tried_is_kept() {
    let (server, client) = audit().await;
    if !detaches_concurrently(&server) {
        return;
    }
    let at = endpoint(&server.url());
    let step = dropping(&at, "old_1", &proven(&at, &client, "old_1").await).await;
    // The keeper's own statement is held up before it has begun anything.
    let blocker = server.client().await;
    blocker.batch_execute("BEGIN; LOCK TABLE ONLY \"Audit\" IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    let working = tokio::spawn({
        let (at, step) = (at.clone(), step.clone());
        async move { run(&at, &step).await }
    });
    until("it waits", &client, &format!("SELECT EXISTS (SELECT 1 {AT_WORK} AND wait_event_type = 'Lock')")).await;
    until("it pauses", &client, &format!("SELECT NOT EXISTS (SELECT 1 {AT_WORK} AND state <> 'idle')")).await;
    blocker.batch_execute("COMMIT; ALTER TABLE \"Audit\" DETACH PARTITION old_1").await.unwrap();
    let error = working.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("somebody else has detached"), "{error}");
    assert!(count(&client, "old_1").await > 0, "it is not dropped");
}

#[tokio::test]
async fn rows_that_are_equal_and_not_the_same_are_told_apart() {
    let (server, client) = audit().await;
    let at = endpoint(&server.url());
    client
        .batch_execute(
            "ALTER TABLE \"Audit\" ADD price numeric; UPDATE old_2 SET price = 1.0; UPDATE old_2 SET what = ''",
        )
        .await
        .unwrap();
    let step = dropping(&at, "old_2", &proven(&at, &client, "old_2").await).await;
    client.batch_execute("UPDATE old_2 SET price = 1.00").await.unwrap();
    // Before 14 its text is compared, which has the digits.
    let told = if server.major() >= 14 { "somebody has written to it since" } else { "its rows are not those" };
    refused(run(&at, &step).await, told);
    assert_eq!(tables(&client).await.len(), 4);
}

#[tokio::test]
async fn whoever_reads_is_waited_for_and_a_detach_that_is_killed_is_put_back_or_finished() {
    let (server, client) = audit().await;
    if !detaches_concurrently(&server) {
        return;
    }
    let at = endpoint(&server.url());
    let contained = proven(&at, &client, "old_2").await;
    let step = dropping(&at, "old_2", &contained).await;
    let (was, bounds_before) = (state(&at, &step).await, bounds(&client, "old_2").await);
    for _ in 0..2 {
        let reader = server.client().await;
        reader.batch_execute("BEGIN; SELECT count(*) FROM \"Audit\"").await.unwrap();
        let working = tokio::spawn({
            let (at, step) = (at.clone(), step.clone());
            async move { run(&at, &step).await }
        });
        until("the detach is under way", &client, PENDING).await;
        assert!(is_under_way(&at, &step, DEADLINE).await.unwrap());
        client.batch_execute(&format!("SELECT pg_terminate_backend(pid) {AT_WORK}")).await.unwrap();
        working.await.unwrap().unwrap_err();
        let left = state(&at, &step).await;
        assert!(matches!(left, StepState::Partition { is_pending: true, .. }), "{left:?}");
        until("its backend is gone", &client, &format!("SELECT count(*) = 0 {AT_WORK}")).await;
        assert!(!is_under_way(&at, &step, DEADLINE).await.unwrap());
        reader.batch_execute("COMMIT").await.unwrap();
        put_back(&at, &step, &was).await;
        assert_eq!(bounds(&client, "old_2").await, bounds_before);
        assert_eq!(count(&client, "\"Audit\"").await, 2_500);
    }
    // What somebody else has begun is theirs: nobody knows whether they want to keep it.
    let reader = server.client().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM \"Audit\"").await.unwrap();
    let _ = client.batch_execute("SET lock_timeout = '100ms'; ").await;
    client.batch_execute("ALTER TABLE \"Audit\" DETACH PARTITION old_2 CONCURRENTLY").await.unwrap_err();
    reader.batch_execute("COMMIT").await.unwrap();
    let (found, _) = due(&at).await;
    let told = found.iter().find(|due| due.name == "old_2").unwrap();
    assert!(told.hindrance.as_deref().unwrap().contains("a detach of it was begun"), "{told:?}");
    let other = found.iter().find(|due| due.name == "old_1").unwrap();
    assert!(other.hindrance.as_deref().unwrap().contains("the detach of old_2"), "{other:?}");
    refused(run(&at, &step).await, "a detach of it was begun and is not finished");
    client.batch_execute("ALTER TABLE \"Audit\" DETACH PARTITION old_2 FINALIZE").await.unwrap();
    refused(run(&at, &step).await, "it is no partition of that table (any more)");
    assert_eq!(count(&client, "old_2").await, i64::try_from(contained.rows).unwrap());
}

#[tokio::test]
async fn a_drop_that_is_killed_leaves_a_table_that_is_attached_again_with_its_old_bounds() {
    let (server, client) = audit().await;
    if !detaches_concurrently(&server) {
        return;
    }
    let at = endpoint(&server.url());
    let step = dropping(&at, "old_1", &proven(&at, &client, "old_1").await).await;
    let (was, bounds_before) = (state(&at, &step).await, bounds(&client, "old_1").await);
    client
        .batch_execute(
            "CREATE FUNCTION slowly() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); END';
             CREATE EVENT TRIGGER slowly ON sql_drop WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION slowly()",
        )
        .await
        .unwrap();
    let working = tokio::spawn({
        let (at, step) = (at.clone(), step.clone());
        async move { run(&at, &step).await }
    });
    let dropping_now = format!("SELECT count(*) > 0 {AT_WORK} AND query LIKE 'DROP TABLE%' AND wait_event = 'PgSleep'");
    until("the drop is under way", &client, &dropping_now).await;
    client.batch_execute(&format!("SELECT pg_terminate_backend(pid) {AT_WORK}")).await.unwrap();
    working.await.unwrap().unwrap_err();
    let left = state(&at, &step).await;
    assert!(matches!(left, StepState::Partition { bounds: None, .. }), "{left:?}");
    let undo = put_back(&at, &step, &was).await;
    assert_eq!((tables(&client).await.len(), bounds(&client, "old_1").await), (4, bounds_before));
    assert_eq!(count(&client, "\"Audit\"").await, 2_500);
    let held = "SELECT count(*) = 0 FROM pg_locks WHERE relation IN ('old_1'::regclass, '\"Audit\"'::regclass) AND pid <> pg_backend_pid()";
    until("no lock is left", &client, held).await;
    // Another table of that name is not ours to attach.
    client.batch_execute("DROP EVENT TRIGGER slowly; ALTER TABLE \"Audit\" DETACH PARTITION old_1; ALTER TABLE old_1 RENAME TO elsewhere; CREATE TABLE old_1 (LIKE \"Audit\")").await.unwrap();
    assert_eq!(state(&at, &undo).await, StepState::Gone);
    refused(run(&at, &undo).await, "the table that was detached is gone");
}

#[tokio::test]
async fn a_row_that_comes_between_detach_and_drop_is_not_lost() {
    let (server, client) = audit().await;
    if !detaches_concurrently(&server) {
        return;
    }
    let at = endpoint(&server.url());
    let step = dropping(&at, "old_1", &proven(&at, &client, "old_1").await).await;
    let was = state(&at, &step).await;
    // It writes as soon as the detach is done; the drop waits for its lock.
    client
        .batch_execute(
            "CREATE FUNCTION late() RETURNS event_trigger LANGUAGE plpgsql AS
               'BEGIN IF NOT EXISTS (SELECT 1 FROM pg_inherits WHERE inhrelid = to_regclass(''public.old_1''))
                 THEN INSERT INTO public.old_1 VALUES (0, now() - interval ''200 days'', ''late''); END IF; END';
             CREATE EVENT TRIGGER late ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION late()",
        )
        .await
        .unwrap();
    let error = run(&at, &step).await.unwrap_err();
    assert!(
        matches!(error, ActError::Failed { .. }) && error.to_string().contains("make a set and prove it"),
        "{error}"
    );
    client.batch_execute("DROP EVENT TRIGGER late").await.unwrap();
    put_back(&at, &step, &was).await;
    assert_eq!(count(&client, "\"Audit\" WHERE what = 'late'").await, 1);
}
