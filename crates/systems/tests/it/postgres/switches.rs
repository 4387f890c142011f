//! What somebody has switched off, or never switched on: found, and gone once the words of the fix were followed.

use super::{findings, found, mended, only, run, until_so};
use groundskeeper_core::finding::Target;
use groundskeeper_testing::postgres::counted;
use groundskeeper_testing::{PostgresOptions, PostgresServer};

#[tokio::test]
async fn autovacuum_that_is_switched_off_is_found_and_the_fix_switches_it_on() {
    let server = PostgresServer::start().await.unwrap();
    let check = "postgres.autovacuum_off";
    assert_eq!(findings(&server, check, &[]).await, []);
    // Without counts it has nothing to go by.
    for setting in ["autovacuum", "track_counts"] {
        run(&server, &[&format!("ALTER SYSTEM SET {setting} = off"), "SELECT pg_reload_conf()"]).await;
        let off = found(&server, check, &[]).await;
        assert_eq!(off.summary, "autovacuum is switched off for the whole server");
        run(&server, &off.fix.split("; ").collect::<Vec<_>>()).await;
        mended(&server, check, &[]).await;
    }
}

#[tokio::test]
async fn a_table_for_which_autovacuum_is_off_is_found_by_its_dead_rows_and_others_are_not() {
    let server = PostgresServer::start_with(PostgresOptions::default().set("autovacuum_naptime", "1s")).await.unwrap();
    let check = "postgres.dead_rows_past_trigger";
    run(
        &server,
        &[
            "CREATE TABLE kept (id int)",
            "CREATE TABLE forgotten (id int) WITH (autovacuum_enabled = false)",
            "INSERT INTO kept SELECT generate_series(1, 5000)",
            "INSERT INTO forgotten SELECT generate_series(1, 5000)",
        ],
    )
    .await;
    assert_eq!(findings(&server, check, &[]).await, []);
    let client = server.client().await;
    let delete = "DELETE FROM kept WHERE id <= 3000; DELETE FROM forgotten WHERE id <= 3000";
    client.batch_execute(delete).await.unwrap();
    counted(&client).await;
    let dead = |table: &str, rows: u32| {
        format!("SELECT n_tup_del = 3000 AND n_dead_tup = {rows} FROM pg_stat_user_tables WHERE relname = '{table}'")
    };
    until_so(&server, &dead("kept", 0)).await;
    until_so(&server, &dead("forgotten", 3_000)).await;

    let late = only(&server, check, &[]).await;
    let (database, schema, name) = ("postgres".to_owned(), "public".to_owned(), "forgotten".to_owned());
    assert_eq!(late.offenders.len(), 1, "{late:#?}");
    assert_eq!(late.offenders[0].target, Target::Table { database, schema, name });
    let note = &late.offenders[0].note;
    assert!(note.ends_with("; autovacuum is switched off for it"), "{note}");
    assert_eq!(findings(&server, "postgres.autovacuum_off", &[]).await, [], "for one table only");

    run(&server, &["ALTER TABLE forgotten RESET (autovacuum_enabled)"]).await;
    mended(&server, check, &[]).await;
}

#[tokio::test]
async fn statistics_of_statements_that_are_missing_are_told_with_the_next_step_until_they_are_there() {
    let options = PostgresOptions::default().set("shared_preload_libraries", "");
    let mut server = PostgresServer::start_with(options).await.unwrap();
    let check = "postgres.statements_missing";
    let neither = only(&server, check, &[]).await;
    assert_eq!(neither.summary, "pg_stat_statements is neither preloaded nor created");
    let create = "CREATE EXTENSION pg_stat_statements;";
    assert!(neither.fix.contains("restart") && neither.fix.ends_with(create), "{}", neither.fix);

    run(&server, &[create]).await;
    let unloaded = only(&server, check, &[]).await;
    assert_eq!(unloaded.summary, "pg_stat_statements is created but its library is not preloaded");
    run(
        &server,
        &["DROP EXTENSION pg_stat_statements", "ALTER SYSTEM SET shared_preload_libraries = pg_stat_statements"],
    )
    .await;
    server.stop().await.unwrap();
    server.start_again().await.unwrap();
    let uncreated = only(&server, check, &[]).await;
    assert_eq!(uncreated.summary, "pg_stat_statements is not created in database postgres");
    let (place, statement) = uncreated.fix.split_once(": ").unwrap();
    assert_eq!(place, "In database postgres");
    run(&server, &[statement]).await;
    assert_eq!(findings(&server, check, &[]).await, []);
}
