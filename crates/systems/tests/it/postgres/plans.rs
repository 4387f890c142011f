//! How statements are planned, read from a live server, and a plan that lost its index.

use super::queries::{found, reading};
use super::statements::server;
use super::{DEADLINE, endpoint, now, role};
use groundskeeper_core::advice::Advice;
use groundskeeper_core::observation::{Earlier, NotPlanned, Observation, Planned, Plans, TableName};
use groundskeeper_core::severity::Severity;
use groundskeeper_systems::postgres::advise::advise;
use groundskeeper_systems::postgres::deep;
use groundskeeper_testing::PostgresServer;
use tokio_postgres::Client;

const CHECK: &str = "postgres.plan_regressed";
const QUESTION: &str = "SELECT count(body) FROM notes WHERE tenant = 7";

/// Each tenant has 60 notes in as many of 5,000 pages.
async fn with_notes() -> (PostgresServer, Client) {
    let (server, client) = server().await;
    let sql = "CREATE TABLE notes AS SELECT g AS id, g % 2000 AS tenant, repeat('x', 300) AS body
                 FROM generate_series(1, 120000) g";
    client.batch_execute(sql).await.unwrap();
    client.batch_execute("VACUUM ANALYZE notes").await.unwrap();
    (server, client)
}

async fn looked(url: &str) -> Plans {
    deep::look(&endpoint(url), DEADLINE * 2).await.unwrap().plans.unwrap().expect("the extension is there")
}

fn of<'p>(plans: &'p Plans, part: &str) -> &'p Planned {
    let found = plans.seen.iter().find(|planned| planned.query.contains(part));
    found.unwrap_or_else(|| panic!("{part} is missing: {plans:#?}"))
}

/// A reading as the daily round has it, with what the record would have put beside it.
async fn compared(server: &PostgresServer, before: &Plans) -> Observation {
    let mut seen = reading(server).await;
    let mut plans = looked(&server.url()).await;
    for planned in &mut plans.seen {
        let earlier = before.seen.iter().find(|earlier| earlier.query_id == planned.query_id);
        planned.is_known = earlier.is_some();
        let changed = earlier.filter(|earlier| !earlier.plan.is_like(&planned.plan));
        planned.earlier =
            changed.map(|earlier| Earlier { plan: earlier.plan.clone(), changed: now() }).into_iter().collect();
    }
    let Observation::Postgres(read) = &mut seen else { unreachable!() };
    let mut deep = deep::look(&endpoint(&server.url()), DEADLINE * 2).await.unwrap();
    deep.plans = Ok(Some(plans));
    read.outcome.as_mut().unwrap().deep = Some(Box::new(deep));
    seen
}

async fn ask(client: &Client) {
    client.query(QUESTION, &[]).await.unwrap();
    client.batch_execute("UPDATE notes SET body = 'y' WHERE tenant = 200").await.unwrap();
    client
        .query("SELECT id FROM notes WHERE tenant = 3 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED", &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn a_statement_that_lost_its_index_is_found_with_both_ways() {
    let (server, client) = with_notes().await;
    client.batch_execute("CREATE INDEX notes_of_tenant ON notes (tenant)").await.unwrap();
    ask(&client).await;
    let before = looked(&server.url()).await;
    for part in ["SELECT count(body)", "UPDATE notes", "FOR UPDATE SKIP LOCKED"] {
        let nodes = of(&before, part).plan.nodes.join("; ");
        assert!(nodes.contains("by notes_of_tenant"), "{part}: {nodes}");
    }
    let same = compared(&server, &before).await;
    assert_eq!(found(CHECK, &same, &same, &[]), []);

    client.batch_execute("DROP INDEX notes_of_tenant").await.unwrap();
    let after = compared(&server, &before).await;
    let lost = found(CHECK, &after, &after, &[]);
    assert_eq!(lost.len(), 1, "{lost:#?}");
    assert_eq!(lost[0].severity, Severity::Warning, "{lost:#?}");
    for part in ["SELECT count(body)", "UPDATE notes", "FOR UPDATE SKIP LOCKED"] {
        let note = lost[0].offenders.iter().find(|one| one.note.contains(part)).map(|one| one.note.as_str());
        let note = note.unwrap_or_else(|| panic!("{part} is missing: {lost:#?}"));
        assert!(note.contains("Seq Scan of notes in place of ") && note.contains("by notes_of_tenant"), "{note}");
        assert!(note.contains("notes_of_tenant is gone or invalid"), "{note}");
    }

    client.batch_execute("CREATE INDEX notes_of_tenant ON notes (tenant)").await.unwrap();
    let back = compared(&server, &before).await;
    assert_eq!(found(CHECK, &back, &back, &[]), [], "it is built again");
}

#[tokio::test]
async fn what_may_not_be_explained_is_told_and_nothing_waits_for_a_lock() {
    let (server, client) = with_notes().await;
    ask(&client).await;
    let url = role(&server, "watcher", "").await;
    client.batch_execute("GRANT pg_monitor TO watcher").await.unwrap();
    let plans = looked(&url).await;
    let denied = plans.unexplained.iter().find(|one| one.kind == NotPlanned::Denied);
    let denied = denied.unwrap_or_else(|| panic!("{plans:#?}"));
    assert!(denied.reason.contains("must be allowed to SELECT"), "{denied:?}");
    client.batch_execute("GRANT SELECT ON notes TO watcher").await.unwrap();
    let plans = looked(&url).await;
    assert!(!plans.unexplained.iter().any(|one| one.kind == NotPlanned::Denied), "{plans:#?}");
    of(&plans, "UPDATE notes");
    of(&plans, "FOR UPDATE SKIP LOCKED");
    assert!(!plans.seen.iter().any(|planned| planned.query.contains("pg_catalog")), "what it reads itself: {plans:#?}");

    client.batch_execute("BEGIN; LOCK TABLE notes IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let plans = looked(&url).await;
    let late = plans.unexplained.iter().find(|one| one.kind == NotPlanned::Late);
    assert!(late.is_some_and(|one| one.reason.contains("lock timeout")), "{plans:#?}");
    client.batch_execute("ROLLBACK").await.unwrap();
    let open = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'watcher' AND state LIKE '%transaction%'";
    assert_eq!(client.query_one(open, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_table_that_grew_and_is_read_by_its_index_since_is_no_news() {
    let (server, client) = server().await;
    client
        .batch_execute("CREATE TABLE notes AS SELECT g AS id, g AS tenant, 'x' AS body FROM generate_series(1, 90) g")
        .await
        .unwrap();
    client.batch_execute("CREATE INDEX notes_of_tenant ON notes (tenant)").await.unwrap();
    client.batch_execute("ANALYZE notes").await.unwrap();
    client.query(QUESTION, &[]).await.unwrap();
    let before = looked(&server.url()).await;
    assert_eq!(of(&before, "SELECT count(body)").plan.nodes[1], "1 Seq Scan of notes");
    client.batch_execute("INSERT INTO notes SELECT g, g % 2000, 'x' FROM generate_series(1, 60000) g").await.unwrap();
    client.batch_execute("ANALYZE notes").await.unwrap();
    let grown = compared(&server, &before).await;
    let Observation::Postgres(read) = &grown else { unreachable!() };
    let plans = read.outcome.as_ref().unwrap().deep.as_ref().unwrap().plans.as_ref().unwrap().as_ref().unwrap();
    assert_eq!(of(plans, "SELECT count(body)").earlier.len(), 1, "{plans:#?}");
    assert_eq!(found(CHECK, &grown, &grown, &[]), []);
}

#[tokio::test]
async fn partitions_are_planned_whole_and_a_lost_index_of_one_is_another_plan() {
    let (server, client) = server().await;
    for statement in [
        "CREATE TABLE log (at date, what int) PARTITION BY RANGE (at)",
        "CREATE TABLE log_may PARTITION OF log FOR VALUES FROM ('2026-05-01') TO ('2026-06-01')",
        "CREATE TABLE log_june PARTITION OF log FOR VALUES FROM ('2026-06-01') TO ('2026-07-01')",
        "INSERT INTO log SELECT date '2026-05-01' + g % 60, g FROM generate_series(1, 60000) g",
        "CREATE INDEX log_may_what ON log_may (what)",
        "CREATE INDEX log_june_what ON log_june (what)",
        "ANALYZE log",
        "SELECT count(*) FROM log WHERE at > date '2026-05-07' AND what = 7",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let before = looked(&server.url()).await;
    let whole = &of(&before, "FROM log WHERE").plan;
    assert!(whole.nodes.iter().any(|node| node.ends_with("Append")), "{whole:?}");
    assert!(whole.nodes.iter().any(|node| node.contains("Index")) && whole.nodes.len() >= 3, "{whole:?}");
    client.batch_execute("DROP INDEX log_june_what").await.unwrap();
    let after = looked(&server.url()).await;
    assert_eq!(of(&after, "FROM log WHERE").plan.beyond(whole), ["Seq Scan"]);
}

#[tokio::test]
async fn where_planning_could_run_functions_of_others_with_our_rights_nothing_is_explained_until_somebody_says_so() {
    let (server, client) = with_notes().await;
    for statement in [
        "CREATE ROLE app",
        "CREATE SCHEMA app AUTHORIZATION app",
        "CREATE FUNCTION ours() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 7'",
        "SELECT count(*) FROM notes WHERE tenant = ours()",
        "SET ROLE app",
        "CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE FUNCTION app.count() RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
        "RESET ROLE",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let harmless = looked(&server.url()).await;
    of(&harmless, "tenant = ours()");
    assert_eq!(harmless.kept_from, None, "nothing that the planner evaluates");

    for statement in [
        "SET ROLE app",
        "CREATE FUNCTION app.trap() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 7; END $$",
        "RESET ROLE",
        "SELECT count(*) FROM notes WHERE tenant = app.trap()",
        "CREATE OR REPLACE FUNCTION app.trap() RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE 'it ran'; END $$",
    ] {
        client.batch_execute(statement).await.unwrap();
    }
    let kept = looked(&server.url()).await;
    let why = kept.kept_from.unwrap();
    assert!(
        why.contains("could run app.trap() with our rights") && why.contains("trusted_owners = [\"app\"]"),
        "{why}"
    );
    assert!(kept.seen.is_empty() && kept.unexplained.is_empty());
    if client.batch_execute("CREATE EXTENSION hypopg").await.is_ok() {
        let tables = [TableName { schema: "public".into(), name: "notes".into() }];
        let advice = advise(&endpoint(&server.url()), &tables, DEADLINE).await.unwrap();
        assert!(matches!(&advice, Advice::KeptFrom(why) if why.contains("app.trap()")), "{advice:?}");
    }

    let trusting = endpoint(&server.url()).with_trusted(&["app".to_owned()]);
    let plans = deep::look(&trusting, DEADLINE * 2).await.unwrap().plans.unwrap().unwrap();
    of(&plans, "tenant = ours()");
    assert!(plans.unexplained.iter().any(|one| one.reason.contains("it ran")), "{plans:#?}");
}
