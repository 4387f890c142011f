//! Worlds of the steps that take partitions out and put them back.

use super::super::{endpoint, parting};
use super::{Hindered, Scene, World, state};
use groundskeeper_core::remedy::{Step, Undo};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_testing::PostgresServer;
use tokio_postgres::Client;

/// `Audit`, of which `old_1` goes, beside a copy of it.
struct Family {
    server: PostgresServer,
    client: Client,
    other: Client,
    at: Endpoint,
    bounds: String,
    rows: i64,
}

/// What becomes of `old_1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Attached,
    Pending,
    Detached,
    Gone,
    /// Rows or bounds are others.
    Wrong,
}

const ALL: i64 = 2_500;

impl Family {
    async fn new(beside_default: bool) -> Self {
        let (server, client) = parting::audit().await;
        if beside_default {
            client.batch_execute("CREATE TABLE others PARTITION OF \"Audit\" DEFAULT").await.unwrap();
        }
        let trust = "host all all 127.0.0.1/32 trust\n";
        std::fs::write(server.data_dir().join("pg_hba.conf"), trust).unwrap();
        client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        client.batch_execute("CREATE TABLE kept AS SELECT * FROM old_1").await.unwrap();
        let sql =
            "SELECT pg_get_expr(relpartbound, oid), (SELECT count(*) FROM kept) FROM pg_class WHERE relname = 'old_1'";
        let row = client.query_one(sql, &[]).await.unwrap();
        let (bounds, rows) = (row.get(0), row.get(1));
        let (other, at) = (server.client().await, endpoint(&server.url()));
        Self { server, client, other, at, bounds, rows }
    }

    async fn tell(&self, script: &str) {
        self.client.batch_execute(script).await.unwrap_or_else(|error| panic!("{script}: {error:?}"));
    }

    async fn standing(&self) -> Standing {
        let sql = "SELECT (SELECT count(*) FROM \"Audit\"), to_regclass('old_1') IS NULL,
                          coalesce(pg_get_expr(c.relpartbound, c.oid), ''), coalesce((to_jsonb(h) ->> 'inhdetachpending')::bool, false)
                     FROM (SELECT) AS one LEFT JOIN pg_class c ON c.relname = 'old_1' LEFT JOIN pg_inherits h ON h.inhrelid = c.oid";
        let row = self.client.query_one(sql, &[]).await.unwrap();
        let (all, is_gone, is_pending): (i64, bool, bool) = (row.get(0), row.get(1), row.get(3));
        let bounds: String = row.get(2);
        if is_gone {
            return if all == ALL - self.rows { Standing::Gone } else { Standing::Wrong };
        }
        let own: i64 = self.client.query_one("SELECT count(*) FROM old_1", &[]).await.unwrap().get(0);
        match (own == self.rows, is_pending) {
            (true, false) if bounds == self.bounds && all == ALL => Standing::Attached,
            (true, false) if bounds.is_empty() && all == ALL - self.rows => Standing::Detached,
            (true, true) if all == ALL - self.rows => Standing::Pending,
            _ => Standing::Wrong,
        }
    }

    /// As a set that was made just now would have it dropped.
    async fn dropping(&self) -> Step {
        let contained = parting::proven(&self.at, &self.client, "old_1").await;
        parting::dropping(&self.at, "old_1", &contained).await
    }

    async fn attach(&self) {
        if self.standing().await == Standing::Pending {
            self.tell("ALTER TABLE \"Audit\" DETACH PARTITION old_1 FINALIZE").await;
        }
        self.tell(&format!("ALTER TABLE \"Audit\" ATTACH PARTITION old_1 {}", self.bounds)).await;
    }

    /// Begins a detach and gives it up.
    async fn leave_pending(&self) {
        self.other.batch_execute("BEGIN; SELECT count(*) FROM \"Audit\"").await.unwrap();
        self.tell("SET lock_timeout = '100ms'").await;
        let detach = "ALTER TABLE \"Audit\" DETACH PARTITION old_1 CONCURRENTLY";
        assert!(self.client.batch_execute(detach).await.is_err(), "a reader is in the way");
        self.tell("RESET lock_timeout").await;
        self.other.batch_execute("COMMIT").await.unwrap();
    }
}

pub(super) struct Dropping {
    family: Family,
    step: Option<Step>,
}

impl Dropping {
    /// Beside a default partition it is one transaction.
    pub(super) async fn new(beside_default: bool) -> Self {
        Self { family: Family::new(beside_default).await, step: None }
    }
}

impl Scene for Dropping {
    fn server(&self) -> &PostgresServer {
        &self.family.server
    }

    fn client(&self) -> &Client {
        &self.family.client
    }

    async fn prepare(&mut self) -> Step {
        let family = &self.family;
        if family.standing().await == Standing::Gone {
            let create = format!("CREATE TABLE old_1 PARTITION OF \"Audit\" {}", family.bounds);
            family.tell(&format!("{create}; INSERT INTO old_1 SELECT * FROM kept")).await;
            self.step = None;
        }
        let step = match self.step.take() {
            Some(step) => step,
            None => self.family.dropping().await,
        };
        self.step.insert(step).clone()
    }

    async fn look(&self) -> World {
        match self.family.standing().await {
            Standing::Attached => World::Old,
            Standing::Gone => World::Done,
            other => World::Torn(format!("{other:?}")),
        }
    }

    fn touches_all(&self) -> &'static str {
        "BEGIN; LOCK TABLE \"Audit\" IN ACCESS EXCLUSIVE MODE NOWAIT; ROLLBACK"
    }
}

impl Hindered for Dropping {
    async fn hinder(&mut self) {
        self.family.other.batch_execute("BEGIN; SELECT count(*) FROM \"Audit\"").await.unwrap();
    }

    async fn free(&mut self) {
        self.family.other.batch_execute("ROLLBACK").await.unwrap();
    }
}

pub(super) struct Attaching {
    family: Family,
    step: Step,
    /// From a detach that was begun and is not finished.
    from_pending: bool,
}

impl Attaching {
    pub(super) async fn new(from_pending: bool) -> Self {
        let family = Family::new(false).await;
        let step = family.dropping().await;
        let Undo::By(step) = step.undo(&state(&family.at, &step).await) else { panic!("nothing attaches it again") };
        Self { family, step: *step, from_pending }
    }
}

impl Scene for Attaching {
    fn server(&self) -> &PostgresServer {
        &self.family.server
    }

    fn client(&self) -> &Client {
        &self.family.client
    }

    async fn prepare(&mut self) -> Step {
        let first = if self.from_pending { Standing::Pending } else { Standing::Detached };
        let now = self.family.standing().await;
        if now != first {
            if now != Standing::Attached {
                self.family.attach().await;
            }
            if self.from_pending {
                self.family.leave_pending().await;
            } else {
                self.family.tell("ALTER TABLE \"Audit\" DETACH PARTITION old_1").await;
            }
            assert_eq!(self.family.standing().await, first);
        }
        self.step.clone()
    }

    /// A detach that is finished is on the way.
    async fn look(&self) -> World {
        match self.family.standing().await {
            Standing::Pending | Standing::Detached => World::Old,
            Standing::Attached => World::Done,
            other => World::Torn(format!("{other:?}")),
        }
    }

    fn touches_all(&self) -> &'static str {
        "BEGIN; LOCK TABLE \"Audit\", old_1 IN ACCESS EXCLUSIVE MODE NOWAIT; ROLLBACK"
    }

    fn is_undo(&self) -> bool {
        true
    }
}

impl Hindered for Attaching {
    async fn hinder(&mut self) {
        self.family.other.batch_execute("BEGIN; SELECT count(*) FROM old_1").await.unwrap();
    }

    async fn free(&mut self) {
        self.family.other.batch_execute("ROLLBACK").await.unwrap();
    }
}
