//! Worlds of the steps that work on a table.

use super::super::{now, sequences};
use super::{Hindered, Scene, WITHOUT_PASSWORD, World};
use groundskeeper_core::remedy::{Reindexing, Step};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_testing::postgres::counted;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::SignedDuration;
use tokio_postgres::Client;

fn system() -> SystemId {
    SystemId::new(SystemKind::Postgres, "main")
}

/// A server, a connection of somebody who watches, and one of somebody who is in the way.
struct Place {
    server: PostgresServer,
    client: Client,
    other: Client,
}

impl Place {
    async fn new(options: PostgresOptions, script: &str) -> Self {
        let mut options = options.set("autovacuum", "off");
        options.initdb.push(WITHOUT_PASSWORD.to_owned());
        let server = PostgresServer::start_with(options).await.unwrap();
        let (client, other) = (server.client().await, server.client().await);
        let place = Self { server, client, other };
        place.tell(script).await;
        place
    }

    async fn tell(&self, script: &str) {
        self.client.batch_execute(script).await.unwrap_or_else(|error| panic!("{script}: {error:?}"));
    }

    async fn count(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// What every scene of a table has in common.
macro_rules! place {
    ($touched:literal) => {
        fn server(&self) -> &PostgresServer {
            &self.place.server
        }

        fn client(&self) -> &Client {
            &self.place.client
        }

        fn touches_all(&self) -> &'static str {
            concat!("BEGIN; LOCK TABLE ", $touched, " IN ACCESS EXCLUSIVE MODE NOWAIT; ROLLBACK")
        }
    };
}

macro_rules! hindered {
    ($scene:ty, $begin:literal) => {
        impl Hindered for $scene {
            async fn hinder(&mut self) {
                self.place.other.batch_execute(concat!("BEGIN; ", $begin)).await.unwrap();
            }

            async fn free(&mut self) {
                self.place.other.batch_execute("ROLLBACK").await.unwrap();
            }
        }
    };
}

/// A table with dead rows and an index of an expression that can be made slow.
pub(super) struct Upkeep {
    place: Place,
    is_vacuum: bool,
    /// When it was last done.
    last: String,
}

impl Upkeep {
    pub(super) async fn new(is_vacuum: bool) -> Self {
        let script = "CREATE TABLE \"Notes\" (id int);
             INSERT INTO \"Notes\" SELECT generate_series(1, 1000); DELETE FROM \"Notes\" WHERE id <= 400;
             CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
             CREATE INDEX ON \"Notes\" (slow(id))";
        Self { place: Place::new(PostgresOptions::default(), script).await, is_vacuum, last: String::new() }
    }

    async fn rows_and_last(&self) -> (i64, String) {
        let sql =
            "SELECT (SELECT count(*) FROM \"Notes\"), coalesce(last_vacuum::text, ''), coalesce(last_analyze::text, '')
                     FROM pg_stat_user_tables WHERE relname = 'Notes'";
        let row = self.place.client.query_one(sql, &[]).await.unwrap();
        (row.get(0), row.get(if self.is_vacuum { 1 } else { 2 }))
    }
}

impl Scene for Upkeep {
    place!("\"Notes\"");

    async fn prepare(&mut self) -> Step {
        self.last = self.rows_and_last().await.1;
        let (system, database, schema, table) = (system(), "postgres".into(), "public".into(), "Notes".into());
        if self.is_vacuum {
            Step::Vacuum { system, database, schema, table }
        } else {
            Step::Analyze { system, database, schema, table }
        }
    }

    async fn look(&self) -> World {
        match self.rows_and_last().await {
            (600, last) if last == self.last => World::Old,
            (600, _) => World::Done,
            (rows, _) => World::Torn(format!("{rows} rows")),
        }
    }
}

impl Hindered for Upkeep {
    async fn hinder(&mut self) {
        let slow = "CREATE OR REPLACE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
                    AS 'BEGIN PERFORM pg_sleep(1); RETURN $1; END'";
        self.place.tell(slow).await;
    }

    async fn free(&mut self) {
        let quick = "CREATE OR REPLACE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
                     AS 'BEGIN RETURN $1; END'";
        self.place.tell(quick).await;
    }
}

/// A table of which most rows are gone, with an index that has room for all of them.
pub(super) struct Bloated {
    place: Place,
    /// The index as it is before.
    oid: u32,
}

impl Bloated {
    pub(super) async fn new() -> Self {
        let script =
            "CREATE TABLE \"Notes\" (id int PRIMARY KEY, word text); CREATE INDEX notes_word ON \"Notes\" (word)";
        let mut scene = Self { place: Place::new(PostgresOptions::default(), script).await, oid: 0 };
        scene.fill().await;
        scene
    }

    async fn fill(&mut self) {
        self.place
            .tell(
                "TRUNCATE \"Notes\"; INSERT INTO \"Notes\" SELECT n, md5(n::text) FROM generate_series(1, 30000) n;
                 DELETE FROM \"Notes\" WHERE id % 30 > 0",
            )
            .await;
        counted(&self.place.client).await;
        self.place.tell("VACUUM ANALYZE \"Notes\"").await;
        counted(&self.place.client).await;
        self.oid = self.place.client.query_one("SELECT 'notes_word'::regclass::oid", &[]).await.unwrap().get(0);
    }
}

impl Scene for Bloated {
    place!("\"Notes\"");

    async fn prepare(&mut self) -> Step {
        if self.look().await != World::Old {
            self.fill().await;
        }
        Step::Reindex {
            system: system(),
            database: "postgres".into(),
            schema: "public".into(),
            table: "Notes".into(),
            index: "notes_word".into(),
            because: Reindexing::Bloated { percent: 200, wasted: 500_000 },
        }
    }

    async fn look(&self) -> World {
        let sql = "SELECT indexrelid, indexrelid::regclass::text, indisvalid FROM pg_index
                    WHERE indrelid = '\"Notes\"'::regclass ORDER BY 2";
        let rows = self.place.client.query(sql, &[]).await.unwrap();
        let indexes: Vec<(u32, &str, bool)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        match indexes.as_slice() {
            [(_, "\"Notes_pkey\"", true), (oid, "notes_word", true)] if *oid == self.oid => World::Old,
            [(_, "\"Notes_pkey\"", true), (_, "notes_word", true)] => World::Done,
            others => World::Torn(format!("{others:?}")),
        }
    }
}

// The build waits for whoever writes.
hindered!(Bloated, "INSERT INTO \"Notes\" VALUES (-1, 'late')");

/// A table with what failed builds have left on it.
pub(super) struct LeftOver {
    place: Place,
}

const LEFT: &str = "SELECT count(*) FROM pg_class WHERE relname ~ '^notes_unique_ccnew'";

impl LeftOver {
    pub(super) async fn new() -> Self {
        let script = "CREATE TABLE \"Notes\" (id int PRIMARY KEY, word text);
                      INSERT INTO \"Notes\" VALUES (1, 'twice'), (2, 'twice')";
        let place = Place::new(PostgresOptions::default(), script).await;
        let create = "CREATE UNIQUE INDEX CONCURRENTLY notes_unique ON \"Notes\" (word)";
        assert!(place.client.batch_execute(create).await.is_err());
        Self { place }
    }
}

impl Scene for LeftOver {
    place!("\"Notes\"");

    async fn prepare(&mut self) -> Step {
        while self.place.count(LEFT).await < 2 {
            let build = self.place.client.batch_execute("REINDEX INDEX CONCURRENTLY notes_unique").await;
            assert!(build.is_err(), "a word is there twice");
        }
        Step::DropLeftovers {
            system: system(),
            database: "postgres".into(),
            schema: "public".into(),
            table: "Notes".into(),
            relation: None,
        }
    }

    /// What was dropped so far stays dropped.
    async fn look(&self) -> World {
        let others =
            "SELECT count(*) FROM pg_index WHERE indexrelid IN ('\"Notes_pkey\"'::regclass, 'notes_unique'::regclass)";
        match (self.place.count(others).await, self.place.count(LEFT).await) {
            (2, 0) => World::Done,
            (2, 1..) => World::Old,
            (others, _) => World::Torn(format!("{others} of 2 indexes that are none of ours")),
        }
    }

    fn is_undo(&self) -> bool {
        true
    }
}

hindered!(LeftOver, "SELECT count(*) FROM \"Notes\"");

/// 1,200 rows that are due, the oldest first, and 100 that are not; others go along with some of them.
pub(super) struct Expired {
    place: Place,
}

const DUE: i64 = 1_200;

impl Expired {
    pub(super) async fn new() -> Self {
        let script = "CREATE TABLE \"Sessions\" (id int PRIMARY KEY, made timestamptz);
             CREATE INDEX ON \"Sessions\" (made);
             CREATE TABLE marks (session int REFERENCES \"Sessions\" ON DELETE CASCADE); CREATE INDEX ON marks (session)";
        Self { place: Place::new(PostgresOptions::default(), script).await }
    }

    /// How many are due, the oldest of them, how many are young, and how many marks do not fit.
    async fn counts(&self) -> [i64; 4] {
        let sql =
            "SELECT count(*) FILTER (WHERE id <= 1200), coalesce(min(id), 0)::int8, count(*) FILTER (WHERE id > 1200),
                          abs((SELECT count(*) FROM marks) - count(*) FILTER (WHERE id % 10 = 0))
                     FROM \"Sessions\"";
        let row = self.place.client.query_one(sql, &[]).await.unwrap();
        [0, 1, 2, 3].map(|column| row.get(column))
    }
}

impl Scene for Expired {
    place!("\"Sessions\", marks");

    async fn prepare(&mut self) -> Step {
        if self.counts().await[0] < DUE {
            self.place
                .tell(
                    "TRUNCATE \"Sessions\", marks;
                     INSERT INTO \"Sessions\" SELECT n, now() - interval '90 days' + n * interval '1 second'
                       FROM generate_series(1, 1200) n;
                     INSERT INTO \"Sessions\" SELECT n, now() FROM generate_series(1201, 1300) n;
                     INSERT INTO marks SELECT n FROM generate_series(10, 1300, 10) n; ANALYZE \"Sessions\", marks",
                )
                .await;
        }
        Step::DeleteExpired {
            system: system(),
            database: "postgres".into(),
            schema: "public".into(),
            table: "Sessions".into(),
            column: "made".into(),
            before: now() - SignedDuration::from_hours(24 * 30),
            keep_seconds: 24 * 30 * 3600,
            export: false,
        }
    }

    /// Whole batches are gone, the oldest rows first, with all that goes along.
    async fn look(&self) -> World {
        match self.counts().await {
            [0, _, 100, 0] => World::Done,
            [due, oldest, 100, 0] if due == DUE - oldest + 1 => World::Old,
            counts => World::Torn(format!("{counts:?}")),
        }
    }
}

hindered!(Expired, "SELECT * FROM marks WHERE session = 700 FOR UPDATE");

/// A column of which the planner knows too few values.
pub(super) struct Coarse {
    place: Place,
}

impl Coarse {
    pub(super) async fn new() -> Self {
        let options = PostgresOptions::default().set("default_statistics_target", "20");
        let script = "CREATE TABLE \"Chunks\" (tenant int);
             INSERT INTO \"Chunks\" SELECT CASE WHEN n % 5 < 3 THEN (n / 5) % 30 ELSE 1000 + n END FROM generate_series(1, 12000) n;
             ANALYZE \"Chunks\"";
        Self { place: Place::new(options, script).await }
    }
}

impl Scene for Coarse {
    place!("\"Chunks\"");

    async fn prepare(&mut self) -> Step {
        if self.look().await != World::Old {
            self.place.tell("ALTER TABLE \"Chunks\" ALTER tenant SET STATISTICS -1; ANALYZE \"Chunks\"").await;
        }
        Step::SetStatistics {
            system: system(),
            database: "postgres".into(),
            schema: "public".into(),
            table: "Chunks".into(),
            column: "tenant".into(),
            target: Some(40),
            seen: None,
            relation: None,
        }
    }

    async fn look(&self) -> World {
        let sql = "SELECT coalesce(attstattarget, -1)::int8 FROM pg_attribute
                    WHERE attrelid = '\"Chunks\"'::regclass AND attname = 'tenant'";
        match self.place.count(sql).await {
            -1 => World::Old,
            40 => World::Done,
            other => World::Torn(format!("the target is {other}")),
        }
    }
}

hindered!(Coarse, "LOCK TABLE \"Chunks\" IN SHARE UPDATE EXCLUSIVE MODE");

/// A sequence that gives 2 next, while 7 is there.
pub(super) struct Behind {
    place: Place,
    step: Step,
}

impl Behind {
    pub(super) async fn new() -> Self {
        let script = "CREATE TABLE events (id serial PRIMARY KEY); INSERT INTO events VALUES (7);
                      SELECT setval('events_id_seq', 1)";
        let place = Place::new(PostgresOptions::default(), script).await;
        let step = sequences::asked_for(&place.server.url(), "events_id_seq").await;
        Self { place, step }
    }
}

impl Scene for Behind {
    place!("events");

    async fn prepare(&mut self) -> Step {
        self.place.tell("SELECT setval('events_id_seq', 1)").await;
        self.step.clone()
    }

    /// What was drawn stays drawn.
    async fn look(&self) -> World {
        match self.place.count("SELECT last_value FROM events_id_seq").await {
            1..7 => World::Old,
            7 => World::Done,
            beyond => World::Torn(format!("it is at {beyond}")),
        }
    }
}

hindered!(Behind, "INSERT INTO events VALUES (8)");
