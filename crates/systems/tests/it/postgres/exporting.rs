//! Rows that are kept elsewhere before they are deleted, and what may happen in between: on a live server.

use super::{DEADLINE, endpoint, now};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::act::{ActError, Kept, Piece, Sink, apply, apply_with, capture};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::SignedDuration;
use std::collections::BTreeSet;
use std::future::pending;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_mins(2);
const ENDED: &str =
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'groundskeeper'";

fn expire(table: &str, column: &str) -> Step {
    Step::DeleteExpired {
        system: SystemId::new(SystemKind::Postgres, "main"),
        database: "postgres".into(),
        schema: "public".into(),
        table: table.into(),
        column: column.into(),
        before: now() - SignedDuration::from_hours(24 * 30),
        keep_seconds: 24 * 30 * 3600,
        export: true,
    }
}

/// Keeps what it gets, and lets something happen before it does.
struct Shelf {
    client: Client,
    pieces: Mutex<Vec<Piece>>,
    /// Statements of somebody else, the first of them during the first piece.
    meanwhile: Mutex<Vec<String>>,
    /// The pieces from this number on are refused.
    refuses: u32,
}

impl Shelf {
    async fn at(server: &PostgresServer) -> Self {
        Self { client: server.client().await, pieces: Mutex::default(), meanwhile: Mutex::default(), refuses: u32::MAX }
    }

    fn meanwhile(self, statements: &str) -> Self {
        self.meanwhile.lock().unwrap().push(statements.to_owned());
        self
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Piece>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rows(&self) -> u64 {
        self.kept().iter().map(|piece| piece.rows).sum()
    }

    /// The first fields of all rows, where those are numbers.
    fn ids(&self) -> BTreeSet<i64> {
        let kept = self.kept();
        let lines = kept.iter().flat_map(|piece| std::str::from_utf8(&piece.csv).unwrap().lines().skip(1));
        lines.map(|line| line.split(',').next().unwrap().parse().unwrap()).collect()
    }
}

impl Sink for Shelf {
    fn keep(&self, piece: Piece) -> Kept<'_> {
        Box::pin(async move {
            let statements = self.meanwhile.lock().unwrap().pop();
            if let Some(statements) = statements {
                self.client.batch_execute(&statements).await.unwrap();
            }
            if piece.number >= self.refuses {
                return Err("No space left on device".to_owned());
            }
            self.kept().push(piece);
            Ok(())
        })
    }
}

async fn run(at: &Endpoint, step: &Step, shelf: &Shelf) -> Result<(), ActError> {
    let journalled = JournalledStep::recorded(1, step.clone());
    Box::pin(apply_with(at, &journalled, PATIENCE, pending(), Some(shelf))).await
}

async fn due(at: &Endpoint, step: &Step) -> u64 {
    let state = capture(at, step, DEADLINE).await.unwrap();
    let StepState::Expired { rows, .. } = state else { panic!("{state:?}") };
    rows
}

async fn server() -> (PostgresServer, Client) {
    let options = PostgresOptions::default().set("autovacuum", "off");
    let server = PostgresServer::start_with(options).await.unwrap();
    let client = server.client().await;
    (server, client)
}

/// 5,000 old rows in the order of their age, written by one transaction, and 100 young ones.
async fn sessions(client: &Client) {
    client
        .batch_execute(
            "CREATE TABLE sessions (id bigint, ends timestamptz, note text);
             INSERT INTO sessions SELECT n, now() - interval '90 days' + n * interval '1 second', 'old'
               FROM generate_series(1, 5000) n;
             INSERT INTO sessions SELECT n, now(), 'young' FROM generate_series(10001, 10100) n;
             CREATE INDEX ON sessions (ends); ANALYZE sessions",
        )
        .await
        .unwrap();
}

async fn ids(client: &Client) -> BTreeSet<i64> {
    client.query("SELECT id FROM sessions", &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

fn refused(outcome: Result<(), ActError>, word: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains(word)), "{word}: {error}");
}

/// Nothing of ours is left open.
async fn is_quiet(client: &Client) {
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                  WHERE a.application_name = 'groundskeeper' AND l.locktype = 'relation'";
    for _ in 0..200 {
        if client.query_one(locks, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("a lock was left behind");
}

async fn put_back(client: &Client, table: &str, piece: &Piece) {
    let columns: Vec<String> =
        piece.columns.iter().map(|column| format!("\"{}\"", column.name.replace('"', "\"\""))).collect();
    let copy = format!("COPY {table} ({}) FROM STDIN (FORMAT csv, HEADER)", columns.join(", "));
    let mut sink = pin!(client.copy_in::<_, bytes::Bytes>(&copy).await.unwrap());
    futures_util::SinkExt::send(&mut sink, piece.csv.clone().into()).await.unwrap();
    sink.finish().await.unwrap();
}

#[tokio::test]
async fn rows_of_every_kind_come_back_as_they_were() {
    let (server, client) = server().await;
    client
        .batch_execute(
            r#"SET timezone = 'Asia/Kolkata';
             CREATE TYPE mood AS ENUM ('fine', 'so, so', '"quoted"'); CREATE TYPE pair AS (a int, b text);
             CREATE TABLE things (
               id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gone int, made timestamptz, doc jsonb, raw bytea, tags text[],
               note text, amount numeric, ratio float8, small float4, span interval, day date, clock timetz, "odd ""name, here" text,
               during tstzrange, price money, kind mood, pair pair, grid int[][], key uuid, address inet, words tsvector,
               loud text GENERATED ALWAYS AS (upper(note)) STORED);
             ALTER TABLE things DROP COLUMN gone;
             CREATE INDEX ON things (made);
             INSERT INTO things (made, doc, raw, tags, note, amount, ratio, small, span, day, clock, "odd ""name, here", during, price,
                                 kind, pair, grid, key, address, words) VALUES
               ('2020-01-01 00:00:00.123456+05:45', '{"a": [1, null, "x\ny"], "b": 1.10}', '\x00ff0a22', '{a,NULL,"","b,c"}', '', 1.10,
                0.1, 0.1, '1 year -2 days +03:04:05.6', '0044-03-15 BC', '12:00:00.5+02', 'a"b,c', '[2020-01-01,2021-01-01)', '-1234.56',
                'so, so', ROW(1, 'x, "y"'), '{{1,2},{3,4}}', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '10.0.0.0/8', 'a:1 b:2'),
               ('2020-01-02', 'null', '', '{}', NULL, 'NaN', '-Infinity', 'NaN', '00:00', 'infinity', NULL, '', 'empty', NULL,
                '"quoted"', NULL, NULL, NULL, NULL, NULL),
               ('2020-01-03', '""', NULL, NULL, E'line\nfeed\r\nand \\N and NULL, "quoted"', 0, 1e-300, 3.4e38, NULL, NULL, NULL, E'\\.',
                NULL, 0, NULL, ROW(NULL, ''), '{}', NULL, NULL, NULL),
               ('2020-01-04', NULL, NULL, NULL, E'a\n\\.\nb', 12345678901234567890.123456789, 1.7976931348623157e308, 1, NULL, NULL, NULL,
                'größe 🦀', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
               ('-infinity', NULL, NULL, NULL, ' blanks ', NULL, 0.30000000000000004, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                NULL, NULL, NULL, NULL, NULL, NULL);
             CREATE TABLE before AS SELECT * FROM things"#,
        )
        .await
        .unwrap();
    let (at, step, shelf) = (endpoint(&server.url()), expire("things", "made"), Shelf::at(&server).await);
    run(&at, &step, &shelf).await.unwrap();
    assert_eq!((due(&at, &step).await, shelf.rows()), (0, 5));
    let pieces = shelf.kept().clone();
    let [piece] = pieces.as_slice() else { panic!() };
    assert_eq!((piece.number, piece.generated.as_slice()), (1, &["loud".to_owned()][..]));
    let types: Vec<&str> = piece.columns.iter().map(|column| column.r#type.as_str()).collect();
    assert!(
        types[..4] == ["bigint", "timestamp with time zone", "jsonb", "bytea"] && types.contains(&"public.mood"),
        "{types:?}"
    );
    put_back(&client, "things", piece).await;
    let differ = "SELECT count(*) FROM (
        (SELECT t::text FROM things t EXCEPT ALL SELECT b::text FROM before b)
        UNION ALL (SELECT b::text FROM before b EXCEPT ALL SELECT t::text FROM things t)) AS different";
    let row = client.query_one(&format!("SELECT (SELECT count(*) FROM things), ({differ})"), &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (5, 0));
}

#[tokio::test]
async fn each_row_is_kept_once_in_pieces_and_young_ones_stay() {
    let (server, client) = server().await;
    sessions(&client).await;
    client
        .batch_execute(
            "INSERT INTO sessions VALUES (20001, '-infinity', 'old'), (20002, 'infinity', ''), (20003, NULL, '')",
        )
        .await
        .unwrap();
    let (at, step, shelf) = (endpoint(&server.url()), expire("sessions", "ends"), Shelf::at(&server).await);
    assert_eq!(due(&at, &step).await, 5_001);
    run(&at, &step, &shelf).await.unwrap();
    let pieces: Vec<(u32, u64)> = shelf.kept().iter().map(|piece| (piece.number, piece.rows)).collect();
    assert_eq!(pieces, [(1, 2_000), (2, 3_001)]);
    let expected: BTreeSet<i64> = (1..=5000).chain([20_001]).collect();
    assert_eq!(shelf.ids(), expected);
    assert_eq!(ids(&client).await, (10_001..=10_100).chain([20_002, 20_003]).collect());
    run(&at, &step, &shelf).await.unwrap();
    assert_eq!(shelf.kept().len(), 2, "nothing is due, and nothing is exported");
}

#[tokio::test]
async fn what_the_sink_does_not_take_is_not_deleted() {
    let (server, client) = server().await;
    sessions(&client).await;
    let (at, step) = (endpoint(&server.url()), expire("sessions", "ends"));
    let shelf = Shelf { refuses: 1, ..Shelf::at(&server).await };
    let error = run(&at, &step, &shelf).await.unwrap_err();
    assert!(error.to_string().contains("none of them was deleted: No space left on device"), "{error}");
    assert_eq!((ids(&client).await.len(), shelf.rows()), (5_100, 0));
    let shelf = Shelf { refuses: 2, ..Shelf::at(&server).await };
    assert!(run(&at, &step, &shelf).await.is_err());
    assert_eq!((ids(&client).await.len(), shelf.rows()), (3_100, 2_000), "those of the first piece, and no other");
    is_quiet(&client).await;
}

#[tokio::test]
async fn without_a_sink_or_where_not_all_would_be_exported_it_is_refused_with_the_reason() {
    let (server, client) = server().await;
    sessions(&client).await;
    let (at, step, shelf) = (endpoint(&server.url()), expire("sessions", "ends"), Shelf::at(&server).await);
    let journalled = JournalledStep::recorded(1, step.clone());
    refused(Box::pin(apply(&at, &journalled, PATIENCE, pending())).await, "no repository of backups");
    client
        .batch_execute(
            "CREATE TABLE parted (made date) PARTITION BY RANGE (made); CREATE INDEX ON parted (made);
             ALTER TABLE sessions ADD PRIMARY KEY (id);
             CREATE TABLE events (session bigint REFERENCES sessions ON DELETE CASCADE); CREATE INDEX ON events (session);
             ANALYZE events",
        )
        .await
        .unwrap();
    refused(run(&at, &expire("parted", "made"), &shelf).await, "partitions are not exported");
    refused(run(&at, &step, &shelf).await, "events_session_fkey of events deletes rows of that table along");
    let told = capture(&at, &step, DEADLINE).await.unwrap_err();
    assert!(told.to_string().contains("would not be exported"), "a dry run tells: {told}");
    assert_eq!((ids(&client).await.len(), shelf.kept().len()), (5_100, 0));

    client.batch_execute("DROP TABLE events").await.unwrap();
    let cascade = "CREATE TABLE events (session bigint REFERENCES sessions ON DELETE CASCADE);
                   INSERT INTO events SELECT id FROM sessions";
    let shelf = shelf.meanwhile(cascade);
    let error = run(&at, &step, &shelf).await.unwrap_err();
    let told = "by now; no row was deleted, and what was exported stays in the repository";
    assert!(matches!(&error, ActError::Failed { message, .. } if message.ends_with(told)), "it was begun: {error}");
    let left: i64 = client.query_one("SELECT count(*) FROM events", &[]).await.unwrap().get(0);
    assert_eq!((left, ids(&client).await.len()), (5_100, 5_100), "what began to be deleted along meanwhile stays");
}

#[tokio::test]
async fn no_transaction_and_no_lock_is_open_while_the_sink_works() {
    let (server, client) = server().await;
    sessions(&client).await;
    let (at, step, shelf) = (endpoint(&server.url()), expire("sessions", "ends"), Shelf::at(&server).await);
    // It needs the strongest lock, and fails at once where anybody has another.
    let shelf = shelf.meanwhile(
        "BEGIN; LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE NOWAIT; COMMIT;
         DO $$ BEGIN IF EXISTS (SELECT 1 FROM pg_stat_activity WHERE application_name = 'groundskeeper'
           AND (state <> 'idle' OR xact_start IS NOT NULL OR backend_xmin IS NOT NULL)) THEN RAISE 'it is not idle'; END IF; END $$",
    );
    run(&at, &step, &shelf).await.unwrap();
    assert_eq!(shelf.rows(), 5_000);
}

#[tokio::test]
async fn a_row_that_is_changed_meanwhile_stays_until_it_is_exported_anew() {
    let (server, client) = server().await;
    sessions(&client).await;
    let (at, step, shelf) = (endpoint(&server.url()), expire("sessions", "ends"), Shelf::at(&server).await);
    let shelf = shelf.meanwhile(
        "UPDATE sessions SET note = 'changed' WHERE id = 7; UPDATE sessions SET ends = now() WHERE id = 8;
         DELETE FROM sessions WHERE id = 9",
    );
    run(&at, &step, &shelf).await.unwrap();
    assert_eq!(ids(&client).await, (10_001..=10_100).chain([8]).collect());
    let text: Vec<String> = shelf.kept().iter().map(|piece| String::from_utf8(piece.csv.clone()).unwrap()).collect();
    let versions: Vec<&str> = text.iter().flat_map(|csv| csv.lines()).filter(|line| line.starts_with("7,")).collect();
    assert!(versions.len() == 2 && versions[0].ends_with(",old") && versions[1].ends_with(",changed"), "{versions:?}");
    assert_eq!(shelf.ids().len(), 5_000);
}

#[tokio::test]
async fn a_row_that_somebody_has_locked_is_left() {
    let (server, client) = server().await;
    sessions(&client).await;
    let (at, step, shelf) = (endpoint(&server.url()), expire("sessions", "ends"), Shelf::at(&server).await);
    client.batch_execute("BEGIN; SELECT 1 FROM sessions WHERE id IN (3, 3000) FOR UPDATE").await.unwrap();
    run(&at, &step, &shelf).await.unwrap();
    assert_eq!((due(&at, &step).await, shelf.ids().len()), (2, 5_000));
    client.batch_execute("COMMIT").await.unwrap();
    run(&at, &step, &shelf).await.unwrap();
    assert_eq!(due(&at, &step).await, 0);
}

/// A table that is written anew gives the places of rows to others, which may have the same writer.
#[tokio::test]
async fn a_table_that_is_rewritten_meanwhile_loses_no_row_that_is_not_exported() {
    let (server, client) = server().await;
    client
        .batch_execute(
            "CREATE TABLE sessions (id bigint, ends timestamptz, note text);
             INSERT INTO sessions SELECT n, CASE WHEN n <= 1000 THEN now() ELSE now() - interval '90 days' + n * interval '1 second' END,
               'x' FROM generate_series(1, 6000) n;
             CREATE INDEX ON sessions (ends); DELETE FROM sessions WHERE id <= 1000",
        )
        .await
        .unwrap();
    let (at, step) = (endpoint(&server.url()), expire("sessions", "ends"));
    // Only what is in the first piece may be gone, and it went to other places.
    let shelf = Shelf { refuses: 2, ..Shelf::at(&server).await }.meanwhile("VACUUM FULL sessions");
    assert!(run(&at, &step, &shelf).await.is_err());
    let (left, kept) = (ids(&client).await, shelf.ids());
    let lost: Vec<i64> = (1_001..=6_000).filter(|id| !left.contains(id) && !kept.contains(id)).collect();
    assert!(lost.is_empty(), "{} rows are lost", lost.len());
    let shelf = Shelf::at(&server).await.meanwhile("VACUUM FULL sessions");
    run(&at, &step, &shelf).await.unwrap();
    assert_eq!(ids(&client).await.len(), 0);
    assert!(shelf.ids().is_superset(&left));
}

#[tokio::test]
async fn a_connection_that_is_killed_before_the_deletion_deletes_nothing() {
    let (server, client) = server().await;
    sessions(&client).await;
    let (at, step) = (endpoint(&server.url()), expire("sessions", "ends"));
    let shelf = Shelf::at(&server).await.meanwhile(ENDED);
    let error = run(&at, &step, &shelf).await.unwrap_err();
    assert!(matches!(error, ActError::Unreachable(_)) || error.retryable(), "{error}");
    assert_eq!((ids(&client).await.len(), shelf.rows()), (5_100, 2_000));
    is_quiet(&client).await;
    run(&at, &step, &shelf).await.unwrap();
    assert_eq!((ids(&client).await.len(), shelf.rows()), (100, 7_000), "exported twice, and that is all");
}

#[tokio::test]
async fn killed_at_any_moment_no_row_is_gone_that_is_not_kept() {
    let (server, client) = server().await;
    sessions(&client).await;
    let (at, step, shelf) = (endpoint(&server.url()), expire("sessions", "ends"), Shelf::at(&server).await);
    let killer = server.client().await;
    let mut killed = 0;
    for moment in 0..40_u64 {
        let killing = async {
            tokio::time::sleep(Duration::from_millis(moment * 5)).await;
            killer.execute(ENDED, &[]).await.unwrap();
        };
        let (done, ()) = tokio::join!(run(&at, &step, &shelf), killing);
        killed += u32::from(done.is_err());
        let (left, kept) = (ids(&client).await, shelf.ids());
        assert!((1..=5_000).all(|id| left.contains(&id) || kept.contains(&id)), "after {moment}");
        is_quiet(&client).await;
    }
    assert!(killed > 0, "nobody was killed at work");
    run(&at, &step, &shelf).await.unwrap();
    assert_eq!(ids(&client).await, (10_001..=10_100).collect());
}

#[tokio::test]
async fn it_ends_at_once_when_it_is_told_to_and_deletes_nothing_of_what_is_on_its_way() {
    struct Never;
    impl Sink for Never {
        fn keep(&self, _: Piece) -> Kept<'_> {
            Box::pin(pending())
        }
    }
    let (server, client) = server().await;
    sessions(&client).await;
    let (at, journalled) = (endpoint(&server.url()), JournalledStep::recorded(1, expire("sessions", "ends")));
    let halt = tokio::time::sleep(Duration::from_millis(300));
    let error = Box::pin(apply_with(&at, &journalled, PATIENCE, halt, Some(&Never))).await.unwrap_err();
    assert!(matches!(error, ActError::Interrupted(_)), "{error}");
    let error =
        Box::pin(apply_with(&at, &journalled, Duration::from_secs(2), pending(), Some(&Never))).await.unwrap_err();
    assert!(matches!(error, ActError::Timeout { .. }), "{error}");
    assert_eq!(ids(&client).await.len(), 5_100);
}

#[tokio::test]
async fn wide_rows_make_small_pieces() {
    let (server, client) = server().await;
    client
        .batch_execute(
            "CREATE TABLE wide (id bigint, made date, body text);
             INSERT INTO wide SELECT n, '2020-01-01', repeat('x', 60000) FROM generate_series(1, 1500) n;
             INSERT INTO wide SELECT n, '2020-01-02', repeat('x', 40000000) FROM generate_series(1501, 1502) n;
             CREATE INDEX ON wide (made)",
        )
        .await
        .unwrap();
    let (at, step, shelf) = (endpoint(&server.url()), expire("wide", "made"), Shelf::at(&server).await);
    run(&at, &step, &shelf).await.unwrap();
    let sizes: Vec<(u64, usize)> = shelf.kept().iter().map(|piece| (piece.rows, piece.csv.len())).collect();
    assert!(sizes.iter().all(|(rows, bytes)| *bytes <= 32 << 20 || *rows == 1), "{sizes:?}");
    assert_eq!((shelf.rows(), shelf.ids().len(), due(&at, &step).await), (1_502, 1_502, 0));
}
