//! Dropping partitions that a rule does not keep, and putting them back: on a live server, with everything that can come in
//! between.

mod between;

use super::{DEADLINE, detaches_concurrently, endpoint, now, role};
use groundskeeper_core::expiry::{Contained, ExpiredPartition, Sample};
use groundskeeper_core::receipt::SetId;
use groundskeeper_core::remedy::{Detach, JournalledStep, Step, StepState, Undo, Verification};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::act::{ActError, apply, capture};
use groundskeeper_systems::postgres::contents::hold;
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::{SignedDuration, Timestamp};
use std::future::pending;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const PATIENCE: Duration = Duration::from_mins(2);
const KEPT_HOURS: i64 = 24 * 30;

fn before() -> Timestamp {
    now() - SignedDuration::from_hours(KEPT_HOURS)
}

fn rule() -> Step {
    Step::DeleteExpired {
        system: SystemId::new(SystemKind::Postgres, "main"),
        database: "postgres".into(),
        schema: "public".into(),
        table: "Audit".into(),
        column: "at".into(),
        before: before(),
        keep_seconds: KEPT_HOURS.unsigned_abs() * 3600,
        export: false,
    }
}

/// What a set that was made and proven just now would say of a partition.
pub(super) async fn proven(at: &Endpoint, server: &Client, partition: &str) -> Contained {
    let contents = hold(at).await.unwrap().read(PATIENCE).await;
    let of_database = contents.databases.iter().find(|database| database.name == "postgres").unwrap();
    let name = format!("public.{partition}");
    let held = of_database.tables.iter().find(|table| table.name == name).unwrap();
    let identifier = "SELECT system_identifier::text FROM pg_control_system()";
    Contained {
        set: SetId::new(now(), 7),
        system_identifier: server.query_one(identifier, &[]).await.unwrap().get(0),
        timeline: 1,
        rows: held.rows,
        fingerprint: held.fingerprint.clone(),
        hashed: held.hashed,
        finished_below: contents.finished_below.unwrap(),
        sample: held.sample.map(|percent| Sample { hundredths: (percent * 100.0).round() as u32 }),
    }
}

async fn run(at: &Endpoint, step: &Step) -> Result<(), ActError> {
    Box::pin(apply(at, &JournalledStep::recorded(1, step.clone()), PATIENCE, pending())).await
}

async fn state(at: &Endpoint, step: &Step) -> StepState {
    capture(at, step, DEADLINE).await.unwrap()
}

async fn due(at: &Endpoint) -> (Vec<ExpiredPartition>, Vec<String>) {
    let StepState::Partitions { due, notes } = state(at, &rule()).await else { panic!("it is not partitioned") };
    (due, notes)
}

/// The step that drops a partition which is due.
pub(super) async fn dropping(at: &Endpoint, partition: &str, contained: &Contained) -> Step {
    let (due, _) = due(at).await;
    let found = due.iter().find(|due| due.name == partition).unwrap_or_else(|| panic!("{due:?}"));
    assert_eq!(found.hindrance, None);
    found.step(&rule(), contained.clone()).unwrap()
}

/// `Audit` with a partition for each month around the cut-off: `old_1` and `old_2` before it, `partly` around it, `young`.
pub(super) async fn audit() -> (PostgresServer, Client) {
    let options = PostgresOptions::default().set("autovacuum", "off").set("wal_level", "logical");
    let server = PostgresServer::start_with(options).await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE \"Audit\" (id int CHECK (id > -100000), at timestamptz, what text) PARTITION BY RANGE (at);
             CREATE INDEX ON \"Audit\" (at);
             DO $$ DECLARE today timestamptz := date_trunc('hour', now()); BEGIN
               EXECUTE format('CREATE TABLE old_1 PARTITION OF \"Audit\" FOR VALUES FROM (MINVALUE) TO (%L)', today - interval '90 days');
               EXECUTE format('CREATE TABLE old_2 PARTITION OF \"Audit\" FOR VALUES FROM (%L) TO (%L)',
                              today - interval '90 days', today - interval '40 days');
               EXECUTE format('CREATE TABLE partly PARTITION OF \"Audit\" FOR VALUES FROM (%L) TO (%L)',
                              today - interval '40 days', today - interval '20 days');
               EXECUTE format('CREATE TABLE young PARTITION OF \"Audit\" FOR VALUES FROM (%L) TO (MAXVALUE)', today - interval '20 days');
             END $$;
             INSERT INTO \"Audit\" SELECT n, now() - n * interval '1 hour', md5(n::text) FROM generate_series(1, 2500) n",
        )
        .await
        .unwrap();
    (server, client)
}

fn usual_detach(server: &PostgresServer) -> Detach {
    if detaches_concurrently(server) { Detach::Concurrently } else { Detach::Plainly }
}

async fn tables(client: &Client) -> Vec<String> {
    let sql = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = '\"Audit\"'::regclass ORDER BY 1";
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

async fn bounds(client: &Client, partition: &str) -> Option<String> {
    let sql = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = $1";
    client.query_one(sql, &[&partition]).await.unwrap().get(0)
}

fn refused(outcome: Result<(), ActError>, word: &str) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains(word)), "{word}: {error}");
}

async fn until(what: &str, client: &Client, sql: &str) {
    let give_up = Instant::now() + Duration::from_mins(1);
    while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(Instant::now() < give_up, "within a minute it did not happen that {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Carries out what puts the step back, as the journal does it.
async fn put_back(at: &Endpoint, step: &Step, before: &StepState) -> Step {
    let Undo::By(undo) = step.undo(before) else { panic!("nothing puts {step:?} back") };
    let left = state(at, &undo).await;
    assert_ne!(left, StepState::Gone, "there is something to be put back");
    run(at, &undo).await.unwrap();
    let after = state(at, &undo).await;
    assert!(matches!(undo.verify(&left, &after), Verification::Helped(_)), "{after:?}");
    *undo
}

/// The backend that works on a step.
const AT_WORK: &str = "FROM pg_stat_activity WHERE application_name LIKE 'groundskeeper%' AND pid <> pg_backend_pid()";

#[tokio::test]
async fn a_partition_goes_whole_when_all_of_it_is_expired_and_a_proven_set_has_its_rows() {
    let (server, client) = audit().await;
    client.batch_execute("CREATE ROLE owner; ALTER TABLE \"Audit\" OWNER TO owner").await.unwrap();
    for partition in ["old_1", "old_2"] {
        client.batch_execute(&format!("ALTER TABLE {partition} OWNER TO owner")).await.unwrap();
    }
    let keeper = endpoint(&role(&server, "keeper", "IN ROLE owner, pg_monitor").await);
    let (found, notes) = due(&keeper).await;
    let named: Vec<(&str, Detach)> = found.iter().map(|due| (due.name.as_str(), due.detach)).collect();
    let usual = usual_detach(&server);
    assert_eq!(named, [("old_1", usual), ("old_2", usual)]);
    let [note] = notes.as_slice() else { panic!("{notes:?}") };
    assert!(note.starts_with("partly (FROM (") && note.ends_with("its rows stay until all of it is"), "{note}");

    let contained = proven(&endpoint(&server.url()), &client, "old_1").await;
    assert!(contained.rows > 300 && contained.sample.is_none(), "{contained:?}");
    let step = dropping(&keeper, "old_1", &contained).await;
    let was = state(&keeper, &step).await;
    assert!(matches!(&was, StepState::Partition { bounds: Some(_), is_pending: false, .. }), "{was:?}");
    let all = count(&client, "\"Audit\"").await;
    run(&keeper, &step).await.unwrap();
    let after = state(&keeper, &step).await;
    assert_eq!(after, StepState::Gone);
    assert!(matches!(step.verify(&was, &after), Verification::Helped(_)));
    assert_eq!(tables(&client).await, ["old_2", "partly", "young"]);
    assert_eq!(count(&client, "\"Audit\"").await, all - i64::try_from(contained.rows).unwrap());
    let Undo::Impossible(way) = step.undo_after(&was, Some(&after)) else { panic!() };
    assert!(way.contains(contained.set.as_str()), "{way}");
    refused(run(&keeper, &step).await, "it is no partition of that table (any more)");
}

#[tokio::test]
async fn a_partition_that_somebody_wrote_to_since_the_set_stays_until_another_one_has_its_rows() {
    let (server, client) = audit().await;
    let at = endpoint(&server.url());
    let step = dropping(&at, "old_2", &proven(&at, &client, "old_2").await).await;
    client.batch_execute("INSERT INTO old_2 SELECT 0, at, 'late' FROM old_2 LIMIT 1").await.unwrap();
    refused(run(&at, &step).await, "make a set and prove it");
    client
        .batch_execute("DELETE FROM old_2 WHERE what = 'late'; UPDATE old_2 SET what = 'forged' WHERE id = 1000")
        .await
        .unwrap();
    refused(run(&at, &step).await, "its rows are not those");
    assert_eq!(tables(&client).await.len(), 4, "nothing was begun");
    let Undo::By(undo) = step.undo(&state(&at, &step).await) else { panic!() };
    assert_eq!(state(&at, &undo).await, StepState::Gone, "nothing is to be put back");
    let step = dropping(&at, "old_2", &proven(&at, &client, "old_2").await).await;
    run(&at, &step).await.unwrap();
    assert_eq!(tables(&client).await, ["old_1", "partly", "young"]);
}

#[tokio::test]
async fn of_a_large_partition_any_row_that_is_younger_than_the_set_is_found() {
    let (server, client) = audit().await;
    let at = endpoint(&server.url());
    let fill = "INSERT INTO old_1 SELECT -n, now() - interval '200 days', repeat(md5(n::text), 120) || 'old'
                  FROM generate_series(1, 10000) n";
    for statement in ["ALTER TABLE old_1 ALTER what SET STORAGE PLAIN", fill] {
        client.batch_execute(statement).await.unwrap();
    }
    let contained = proven(&at, &client, "old_1").await;
    let percent = contained.sample.unwrap_or_else(|| panic!("{contained:?}")).percent();
    let step = dropping(&at, "old_1", &contained).await;
    // Into pages that the sample leaves out: the number of its transaction gives a row away, also when it is frozen.
    let late = "INSERT INTO old_1 SELECT 0, now() - interval '200 days', repeat(md5(n::text), 120) || 'late'
                  FROM generate_series(1, 100) n";
    let unseen = format!(
        "DELETE FROM old_1 WHERE what LIKE '%late' AND ctid IN
           (SELECT ctid FROM old_1 TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1))"
    );
    for statement in [late, &unseen, "VACUUM FREEZE old_1"] {
        client.batch_execute(statement).await.unwrap();
    }
    assert!(count(&client, "old_1 WHERE what LIKE '%late'").await > 0, "every page is in the sample");
    refused(run(&at, &step).await, "somebody has written to it since");
    // To delete them again leaves nothing that the set has not.
    client.batch_execute("DELETE FROM old_1 WHERE what LIKE '%late'").await.unwrap();
    run(&at, &step).await.unwrap();
    assert_eq!(tables(&client).await, ["old_2", "partly", "young"]);
}

#[tokio::test]
async fn a_default_partition_stays_and_is_no_reason_to_wait() {
    let (server, client) = audit().await;
    client.batch_execute("CREATE TABLE others PARTITION OF \"Audit\" DEFAULT").await.unwrap();
    let at = endpoint(&server.url());
    let (found, notes) = due(&at).await;
    assert!(found.iter().all(|due| due.detach == Detach::Plainly && due.name != "others"), "{found:?}");
    assert!(notes.iter().any(|note| note.starts_with("the default partition others")), "{notes:?}");
    // A reader holds the plain detach up, and is held up by it for an instant only.
    let reader = server.client().await;
    reader.batch_execute("BEGIN; SELECT count(*) FROM \"Audit\"").await.unwrap();
    let step = dropping(&at, "old_1", &proven(&at, &client, "old_1").await).await;
    assert!(!step.statement().contains("CONCURRENTLY"), "{}", step.statement());
    let working = tokio::spawn({
        let (at, step) = (at.clone(), step.clone());
        async move { run(&at, &step).await }
    });
    tokio::time::sleep(Duration::from_millis(600)).await;
    let asked = Instant::now();
    assert!(count(&client, "\"Audit\"").await > 0);
    assert!(asked.elapsed() < Duration::from_secs(1), "nobody queues behind us: {:?}", asked.elapsed());
    reader.batch_execute("COMMIT").await.unwrap();
    working.await.unwrap().unwrap();
    assert_eq!(tables(&client).await, ["old_2", "others", "partly", "young"]);

    let concurrently = match dropping(&at, "old_2", &proven(&at, &client, "old_2").await).await {
        Step::DropPartition {
            system,
            database,
            schema,
            table,
            column,
            partition_schema,
            partition,
            before,
            keep_seconds,
            contained_in,
            ..
        } => {
            let detach = Detach::Concurrently;
            Step::DropPartition {
                system,
                database,
                schema,
                table,
                column,
                partition_schema,
                partition,
                before,
                keep_seconds,
                contained_in,
                detach,
            }
        }
        other => panic!("{other:?}"),
    };
    refused(run(&at, &concurrently).await, "a default partition, or a foreign key of its own, is there by now");
}

#[tokio::test]
async fn beside_a_default_partition_or_with_a_key_of_its_own_nothing_is_ever_half_done() {
    let (server, client) = audit().await;
    client
        .batch_execute(
            "CREATE TABLE kinds (what text PRIMARY KEY); INSERT INTO kinds SELECT what FROM old_2;
             ALTER TABLE old_2 ADD FOREIGN KEY (what) REFERENCES kinds; CREATE TABLE seen (setting text)",
        )
        .await
        .unwrap();
    let at = endpoint(&server.url());
    let (found, _) = due(&at).await;
    let named: Vec<(&str, Detach)> = found.iter().map(|due| (due.name.as_str(), due.detach)).collect();
    assert_eq!(named, [("old_1", usual_detach(&server)), ("old_2", Detach::Plainly)]);
    let step = dropping(&at, "old_2", &proven(&at, &client, "old_2").await).await;
    let (was, bounds_before) = (state(&at, &step).await, bounds(&client, "old_2").await);
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
    let Undo::By(undo) = step.undo(&was) else { panic!() };
    assert_eq!(state(&at, &undo).await, StepState::Gone, "nothing is to be put back");
    assert_eq!((count(&client, "\"Audit\"").await, bounds(&client, "old_2").await), (2_500, bounds_before));
    // We are gone, if in its midst we say nothing.
    client
        .batch_execute(
            "DROP EVENT TRIGGER slowly;
             CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS
               'BEGIN INSERT INTO public.seen SELECT current_setting(''idle_in_transaction_session_timeout''); END';
             CREATE EVENT TRIGGER look ON sql_drop WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION look()",
        )
        .await
        .unwrap();
    run(&at, &step).await.unwrap();
    assert_eq!(tables(&client).await, ["old_1", "partly", "young"]);
    assert_eq!(count(&client, "seen WHERE setting = '10s'").await, 1);
}

#[tokio::test]
async fn what_stands_in_the_way_of_a_drop_is_told_before_anything_is_begun() {
    let (server, client) = audit().await;
    let at = endpoint(&server.url());
    let contained = proven(&at, &client, "old_2").await;
    let step = dropping(&at, "old_2", &contained).await;
    for (sql, undo, word) in [
        ("CREATE VIEW seen AS SELECT * FROM old_2", "DROP VIEW seen", "view public.seen depends on it"),
        (
            "CREATE PUBLICATION told FOR TABLE \"Audit\"",
            "DROP PUBLICATION told",
            "the publication told tells others of each row",
        ),
        ("CREATE PUBLICATION told FOR ALL TABLES", "DROP PUBLICATION told", "the publication told tells others"),
        (
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END';
             CREATE TRIGGER note AFTER DELETE ON \"Audit\" FOR EACH ROW EXECUTE FUNCTION note()",
            "DROP TRIGGER note ON \"Audit\"",
            "the trigger note acts on each row",
        ),
        (
            "ALTER TABLE \"Audit\" ADD UNIQUE (id, at);
             CREATE TABLE marks (id int, at timestamptz, FOREIGN KEY (id, at) REFERENCES \"Audit\" (id, at))",
            "DROP TABLE marks",
            "the foreign key marks_id_at_fkey",
        ),
        ("ALTER TABLE old_2 SET UNLOGGED", "ALTER TABLE old_2 SET LOGGED", "it is not logged"),
    ] {
        client.batch_execute(sql).await.unwrap();
        refused(run(&at, &step).await, word);
        let (found, _) = due(&at).await;
        let told = found.iter().find(|due| due.name == "old_2").unwrap();
        assert!(told.hindrance.as_deref().is_some_and(|why| why.contains(word)), "{told:?}");
        client.batch_execute(undo).await.unwrap();
    }
    let other = |change: fn(&mut Contained)| {
        let mut contained = contained.clone();
        change(&mut contained);
        contained
    };
    let of = async |contained: Contained| run(&at, &dropping(&at, "old_2", &contained).await).await;
    refused(of(other(|held| held.system_identifier = "1".into())).await, "was made of another server");
    refused(of(other(|held| held.timeline = 2)).await, "was made before the server was recovered");
    let stranger = endpoint(&role(&server, "stranger", "IN ROLE pg_monitor").await);
    let error = run(&stranger, &step).await.unwrap_err();
    assert!(
        matches!(error, ActError::Denied { .. }) && error.to_string().contains("make stranger a member of postgres"),
        "{error}"
    );
    assert_eq!(tables(&client).await.len(), 4);
}

#[tokio::test]
async fn only_a_table_partitioned_by_a_range_of_the_rules_column_alone_has_partitions_to_drop() {
    let (server, client) = audit().await;
    let at = endpoint(&server.url());
    let asked = async |definition: &str| {
        client.batch_execute("DROP TABLE \"Audit\"").await.unwrap();
        client.batch_execute(definition).await.unwrap();
        capture(&at, &rule(), DEADLINE).await
    };
    for definition in [
        "CREATE TABLE \"Audit\" (id int, at timestamptz) PARTITION BY RANGE (id)",
        "CREATE TABLE \"Audit\" (id int, at timestamptz) PARTITION BY RANGE (at, id)",
        "CREATE TABLE \"Audit\" (id int, at timestamptz) PARTITION BY LIST (at)",
        "CREATE TABLE \"Audit\" (id int, at timestamptz) PARTITION BY RANGE (date_trunc('day', at AT TIME ZONE 'UTC'))",
    ] {
        let error = asked(definition).await.unwrap_err().to_string();
        assert!(error.contains("not by a RANGE of at alone"), "{definition}: {error}");
    }
    let whole = asked(
        "CREATE TABLE \"Audit\" (id int, at date) PARTITION BY RANGE (at);
         CREATE TABLE a PARTITION OF \"Audit\" FOR VALUES FROM ('2019-01-01') TO ('2020-01-01');
         CREATE TABLE b PARTITION OF \"Audit\" FOR VALUES FROM ('2020-01-01') TO ('2021-01-01') PARTITION BY LIST (id)",
    );
    let StepState::Partitions { due, .. } = whole.await.unwrap() else { panic!() };
    assert_eq!((due[0].name.as_str(), &due[0].hindrance), ("a", &None));
    assert!(due[1].hindrance.as_deref().unwrap().contains("partitioned in turn"), "{due:?}");
}
