//! What tables hold at one position of the WAL.

use super::{endpoint, is_at_least, role};
use groundskeeper_core::receipt::{Contents, Hashed, Moment, TableContents};
use groundskeeper_systems::postgres::contents::{Unread, fingerprint, hold, prepare};
use groundskeeper_systems::postgres::grants::{Wish, grants};
use groundskeeper_testing::PostgresServer;
use std::time::Duration;
use tokio::task::JoinHandle;

const BUDGET: Duration = Duration::from_mins(1);

fn table<'c>(contents: &'c Contents, name: &str) -> Option<&'c TableContents> {
    contents.tables().map(|(_, table)| table).find(|table| table.name == name)
}

async fn held(url: &str) -> Contents {
    hold(&endpoint(url)).await.unwrap().read(BUDGET).await
}

/// Somebody who never stops writing.
async fn busy(server: &PostgresServer) -> Vec<JoinHandle<()>> {
    let mut writers = Vec::new();
    for _ in 0..4 {
        let writer = server.client().await;
        // A write that takes its time: however slow the machine is, one of them is always under way.
        let write = "INSERT INTO log DEFAULT VALUES; SELECT pg_sleep(0.02)";
        writers.push(tokio::spawn(async move { while writer.batch_execute(write).await.is_ok() {} }));
    }
    writers
}

/// How a row is hashed whose types can be. Before 14 a record had no hash function.
fn usually(server: &PostgresServer) -> Hashed {
    if server.major() >= 14 { Hashed::Record } else { Hashed::Text }
}

#[tokio::test]
async fn the_same_content_has_the_same_fingerprint_in_any_order_and_another_one_has_not() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    let filled = "CREATE TABLE docs (id int, body text, vector real[], at timestamptz);
         INSERT INTO docs SELECT n, md5(n::text), ARRAY[n / 3.0, 0.1]::real[], to_timestamp(n) FROM generate_series(1, 500) n;
         CREATE TABLE notes (id int, what json);
         INSERT INTO notes SELECT n, json_build_object('n', n) FROM generate_series(1, 9) n;
         CREATE SCHEMA \"Odd name\"; CREATE TABLE \"Odd name\".\"a\"\"b\" (held int); CREATE UNLOGGED TABLE gone (id int);
         CREATE DATABASE other";
    for statement in filled.split(';') {
        admin.batch_execute(statement).await.unwrap();
    }
    let first = held(&server.url()).await;
    assert_eq!((first.moment, table(&first, "public.docs").unwrap().rows), (Moment::Quiet, 500));
    assert_eq!(table(&first, r#""Odd name"."a""b""#).unwrap().rows, 0);
    assert!(table(&first, "public.gone").is_none(), "a recovery empties what is not logged");
    assert!(first.databases.iter().any(|database| database.name == "other"), "{first:?}");
    assert!(first.not_covered.is_empty(), "{first:?}");

    let of = |contents: &Contents| table(contents, "public.docs").unwrap().fingerprint.clone();
    admin.batch_execute("UPDATE docs SET vector[2] = 0.2 WHERE id = 77").await.unwrap();
    let changed = held(&server.url()).await;
    assert_ne!(of(&changed), of(&first), "one float of 1,000");
    assert!(changed.at > first.at);
    // Written anew, the row lies elsewhere in the table.
    admin.batch_execute("UPDATE docs SET vector[2] = 0.1 WHERE id = 77").await.unwrap();
    assert_eq!(of(&held(&server.url()).await), of(&first));

    // Another session's settings are not ours.
    let other = server.client().await;
    other
        .batch_execute("SET timezone = 'Asia/Tokyo'; SET extra_float_digits = 0; SET datestyle = 'German'")
        .await
        .unwrap();
    prepare(&other).await.unwrap();
    // Where a type has no hash function, as `json` has none, its text has one.
    for (name, hashed) in [("public.docs", usually(&server)), ("public.notes", Hashed::Text)] {
        let before = table(&first, name).unwrap();
        assert_eq!(before.hashed, hashed, "{name}");
        let again = fingerprint(&other, name, hashed, None, BUDGET).await.unwrap();
        assert_eq!(again, (before.rows, before.fingerprint.clone()), "{name}");
    }
    let as_record = fingerprint(&other, "public.notes", Hashed::Record, None, BUDGET).await;
    assert_eq!(as_record, Err(Unread::NotHashed));
}

#[tokio::test]
async fn where_writing_never_stops_the_tables_are_locked_for_an_instant_or_it_is_said_that_they_cannot_be() {
    let server = PostgresServer::start().await.unwrap();
    if !is_at_least(&server, 15, "the protocol of backups") {
        return;
    }
    let admin = server.client().await;
    admin
        .batch_execute("CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY); CREATE TABLE still (id int)")
        .await
        .unwrap();
    admin.batch_execute("CREATE MATERIALIZED VIEW seen AS SELECT count(*) FROM still").await.unwrap();
    admin.batch_execute(&grants("keeper", "postgres", &[Wish::BackUp])).await.unwrap();
    admin.batch_execute("ALTER ROLE keeper PASSWORD 'right'").await.unwrap();
    let keeper = server.url_for("keeper", "right", "postgres");
    let writers = busy(&server).await;

    let contents = held(&server.url()).await;
    assert_eq!(contents.moment, Moment::Locked);
    assert!(table(&contents, "public.log").is_some() && table(&contents, "public.still").unwrap().rows == 0);
    assert_eq!(contents.not_covered, ["database postgres: nobody can lock public.seen"]);

    let why = hold(&endpoint(&keeper)).await.unwrap_err();
    assert!(why.contains("always somebody who writes") && why.contains("pg_maintain"), "{why}");
    // Once nobody writes, the rights that backups have anyway are enough.
    for writer in writers {
        writer.abort();
        let _ = writer.await;
    }
    let contents = held(&keeper).await;
    assert_eq!(contents.moment, Moment::Quiet);
    assert!(table(&contents, "public.log").unwrap().rows > 0);
}

#[tokio::test]
async fn what_is_not_looked_at_is_named() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    admin
        .batch_execute(
            "CREATE TABLE shown (id int); CREATE TABLE hidden (id int); CREATE TABLE filtered (id int);
             ALTER TABLE filtered ENABLE ROW LEVEL SECURITY; CREATE POLICY none ON filtered USING (false);
             INSERT INTO filtered VALUES (1)",
        )
        .await
        .unwrap();
    let bare = role(&server, "bare", "IN ROLE pg_monitor").await;
    admin.batch_execute("GRANT SELECT ON shown, filtered TO bare").await.unwrap();
    let contents = held(&bare).await;
    assert!(table(&contents, "public.shown").is_some() && contents.tables().count() == 1, "{contents:?}");
    let told = contents.not_covered.join("\n");
    assert!(told.contains("the role may not read public.hidden"), "{told}");
    assert!(told.contains("row-level security") && told.contains("public.filtered"), "{told}");

    let late = hold(&endpoint(&server.url())).await.unwrap().read(Duration::ZERO).await;
    assert!(late.tables().next().is_none() && late.not_covered[0].contains("no time was left for public."));

    // An open transaction that has written is not a quiet moment, and holds no lock that keeps us out of other tables.
    admin.batch_execute("BEGIN; INSERT INTO hidden VALUES (2)").await.unwrap();
    let why = hold(&endpoint(&server.url())).await.unwrap_err();
    assert!(why.contains("could not be locked for an instant"), "{why}");
    admin.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(hold(&endpoint(&server.url())).await.unwrap().read(BUDGET).await.moment, Moment::Quiet);
}

#[tokio::test]
async fn of_a_large_table_the_same_pages_are_read_again() {
    let server = PostgresServer::start().await.unwrap();
    let admin = server.client().await;
    admin
        .batch_execute("CREATE TABLE large AS SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n")
        .await
        .unwrap();
    prepare(&admin).await.unwrap();
    let hashed = usually(&server);
    let once = fingerprint(&admin, "public.large", hashed, Some(10.0), BUDGET).await.unwrap();
    let other = server.client().await;
    prepare(&other).await.unwrap();
    assert_eq!(fingerprint(&other, "public.large", hashed, Some(10.0), BUDGET).await.unwrap(), once);
    assert!(once.0 > 0 && once.0 < 20_000, "{once:?}");
}
