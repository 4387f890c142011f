//! A role with what `grants` prints, and no more, can do the work that it was printed for.

use super::parting::{audit, dropping, proven};
use super::{DEADLINE, endpoint, now};
use groundskeeper_core::remedy::{JournalledStep, Reindexing, Step, StepState};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::act::{ActError, apply, capture};
use groundskeeper_systems::postgres::grants::{Ruled, Wish, grants};
use groundskeeper_testing::PostgresServer;
use jiff::SignedDuration;
use std::future::pending;
use std::time::Duration;
use tokio_postgres::Client;

async fn run(at: &Endpoint, step: &Step) -> Result<(), ActError> {
    Box::pin(apply(at, &JournalledStep::recorded(1, step.clone()), Duration::from_mins(2), pending())).await
}

/// Runs what is printed, as a superuser would with psql.
async fn granted(server: &PostgresServer, client: &Client, wish: Wish) -> Endpoint {
    let script = grants("keeper", "postgres", &[wish]);
    client.batch_execute(&script).await.unwrap_or_else(|error| panic!("{error:?}: {script}"));
    client.batch_execute("ALTER ROLE keeper PASSWORD 'keeper'").await.unwrap();
    endpoint(&server.url_for("keeper", "keeper", "postgres"))
}

fn retain(table: &str, column: &str) -> Wish {
    let ruled = Ruled { schema: "public".into(), table: table.into(), column: column.into() };
    Wish::Retain { database: "postgres".into(), tables: vec![ruled] }
}

fn main_database() -> SystemId {
    SystemId::new(SystemKind::Postgres, "main")
}

#[tokio::test]
async fn the_grants_of_a_rule_let_its_rows_be_deleted_and_nothing_else() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE \"User Sessions\" (id int PRIMARY KEY, \"ends at\" timestamptz, secret text);
             INSERT INTO \"User Sessions\" SELECT n, now() - n * interval '1 day' FROM generate_series(1, 100) n;
             CREATE INDEX ON \"User Sessions\" (\"ends at\");
             CREATE TABLE orders (session int REFERENCES \"User Sessions\", total int); CREATE INDEX ON orders (session);
             INSERT INTO orders VALUES (90, 1)",
        )
        .await
        .unwrap();
    let at = granted(&server, &client, retain("User Sessions", "ends at")).await;
    let step = Step::DeleteExpired {
        system: main_database(),
        database: "postgres".into(),
        schema: "public".into(),
        table: "User Sessions".into(),
        column: "ends at".into(),
        before: now() - SignedDuration::from_hours(24 * 50),
        keep_seconds: 24 * 50 * 3600,
        export: false,
    };
    run(&at, &step).await.unwrap();
    let left = capture(&at, &step, DEADLINE).await.unwrap();
    assert!(matches!(left, StepState::Expired { rows: 0, referred: 1, .. }), "{left:?}");
    let keeper = server.client_at(&server.url_for("keeper", "keeper", "postgres")).await;
    for sql in ["SELECT total FROM orders", "UPDATE \"User Sessions\" SET secret = ''", "DELETE FROM orders"] {
        keeper.batch_execute(sql).await.unwrap_err();
    }
}

#[tokio::test]
async fn the_grants_of_a_partitioned_table_let_its_partitions_be_dropped() {
    let (server, client) = audit().await;
    client.batch_execute("CREATE ROLE owner; CREATE ROLE other; ALTER TABLE \"Audit\" OWNER TO owner").await.unwrap();
    for partition in ["old_1", "old_2", "partly", "young"] {
        let owner = if partition == "old_2" { "other" } else { "owner" };
        client.batch_execute(&format!("ALTER TABLE {partition} OWNER TO {owner}")).await.unwrap();
    }
    let at = granted(&server, &client, retain("Audit", "at")).await;
    for partition in ["old_1", "old_2"] {
        let contained = proven(&endpoint(&server.url()), &client, partition).await;
        let step = dropping(&at, partition, &contained).await;
        run(&at, &step).await.unwrap();
        assert_eq!(capture(&at, &step, DEADLINE).await.unwrap(), StepState::Gone);
    }
}

#[tokio::test]
async fn the_grants_for_reindex_let_every_index_be_built_anew_but_those_of_a_superuser() {
    let server = PostgresServer::start().await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE ROLE owner; CREATE TABLE notes (word text); CREATE INDEX notes_word ON notes (word);
             ALTER TABLE notes OWNER TO owner; CREATE TABLE roots (word text); CREATE INDEX roots_word ON roots (word);
             CREATE ROLE admins SUPERUSER; CREATE ROLE deputy IN ROLE admins; CREATE TABLE leaves (word text);
             CREATE INDEX leaves_word ON leaves (word); ALTER TABLE leaves OWNER TO deputy;
             UPDATE pg_index SET indisvalid = false
              WHERE indexrelid IN ('notes_word'::regclass, 'roots_word'::regclass, 'leaves_word'::regclass)",
        )
        .await
        .unwrap();
    let at = granted(&server, &client, Wish::Reindex).await;
    client.batch_execute("GRANT pg_monitor TO keeper").await.unwrap();
    let reindex = |table: &str| Step::Reindex {
        system: main_database(),
        database: "postgres".into(),
        schema: "public".into(),
        table: table.into(),
        index: format!("{table}_word"),
        because: Reindexing::Invalid,
    };
    run(&at, &reindex("notes")).await.unwrap();
    for table in ["roots", "leaves"] {
        let done = run(&at, &reindex(table)).await;
        assert!(matches!(done, Err(ActError::Denied { .. })), "nobody is made a superuser: {done:?}");
    }
}
