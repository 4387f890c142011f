//! Space that is really wasted is found by two estimators, and what is full is not.

use super::{DEADLINE, endpoint, now, read, role};
use groundskeeper_core::bloat::{Agreement, Basis, agree};
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::{Footprint, Footprints, NoEstimate, Observation, Postgres, Reading};
use groundskeeper_core::{Severity, SystemId, SystemKind};
use groundskeeper_systems::postgres::bloat::{confirm, read_pages};
use groundskeeper_testing::postgres::counted;
use groundskeeper_testing::{PostgresOptions, PostgresServer};

const MIB: f64 = 1_048_576.0;

async fn server() -> PostgresServer {
    let server = PostgresServer::start_with(PostgresOptions::default().set("autovacuum", "off")).await.unwrap();
    let client = server.client().await;
    client
        .batch_execute(
            "CREATE TABLE notes (id bigint PRIMARY KEY, tenant int, small smallint, score numeric, made timestamptz,
               body text, odd text);
             INSERT INTO notes SELECT n, n % 50, n % 7, n * 1.5, now(), repeat('x', 20 + n % 60),
               CASE WHEN n % 3 = 0 THEN md5(n::text) END FROM generate_series(1, 200000) n;
             CREATE INDEX notes_tenant ON notes (tenant);
             CREATE INDEX notes_tenant_made ON notes (tenant, id);
             CREATE INDEX notes_score ON notes (score);
             CREATE INDEX notes_lower ON notes (lower(body));
             CREATE INDEX notes_odd ON notes (odd) WHERE odd IS NOT NULL;
             CREATE INDEX notes_included ON notes (made) INCLUDE (tenant)",
        )
        .await
        .unwrap();
    counted(&client).await;
    client.batch_execute("VACUUM ANALYZE notes").await.unwrap();
    counted(&client).await;
    server
}

async fn footprints(url: &str) -> Footprints {
    *read(url).await.outcome.unwrap().footprints.unwrap()
}

fn find<'a>(all: &'a [Footprint], index: Option<&str>) -> &'a Footprint {
    all.iter().find(|one| one.index.as_deref() == index).unwrap_or_else(|| panic!("{index:?}: {all:#?}"))
}

#[tokio::test]
async fn what_is_full_is_estimated_as_full_whatever_it_is_made_of() {
    let server = server().await;
    let seen = footprints(&server.url()).await;
    assert_eq!(seen.indexes.len(), 7, "{:#?}", seen.indexes);
    for one in seen.tables.iter().chain(&seen.indexes) {
        let estimate = one.estimate.as_ref().unwrap_or_else(|why| panic!("{}: {why:?}", one.name()));
        let share = estimate.expected as f64 / estimate.size as f64;
        assert!(share > 0.8, "{} is full and estimated to need {share} of it", one.name());
    }
}

#[tokio::test]
async fn a_table_and_its_indexes_that_were_emptied_are_bloated_by_both_estimators() {
    let server = server().await;
    let client = server.client().await;
    client.batch_execute("CREATE EXTENSION pgstattuple; DELETE FROM notes WHERE id % 5 <> 0").await.unwrap();
    counted(&client).await;
    assert_eq!(find(&footprints(&server.url()).await.tables, None).estimate, Err(NoEstimate::Stale));
    client.batch_execute("VACUUM ANALYZE notes").await.unwrap();
    counted(&client).await;

    let mut seen = footprints(&server.url()).await;
    let gaps = confirm(&endpoint(&server.url()), &mut seen, 2.0, MIB, DEADLINE).await.unwrap();
    assert_eq!(gaps, []);
    for one in [find(&seen.tables, None), find(&seen.indexes, Some("notes_pkey"))] {
        let (first, second) = (one.estimate.as_ref().unwrap(), one.second.as_ref().unwrap());
        assert_eq!(second.basis, Basis::Pages);
        let together = agree(first, second, 2.0, MIB);
        assert!(matches!(together, Agreement::Bloated { ratio, .. } if ratio > 3.0), "{one:#?} {together:?}");
    }
    let mut reading = read(&server.url()).await;
    reading.outcome.as_mut().unwrap().footprints = Ok(Box::new(seen));
    let index = judged(&reading, "postgres.index_bloated");
    assert_eq!(index.severity, Severity::Warning, "{index:#?}");

    // What the finding says is what helps.
    for statement in index.fix.split_once(": ").unwrap().1.split_inclusive(';') {
        client.batch_execute(statement).await.unwrap();
    }
    client.batch_execute("VACUUM ANALYZE notes").await.unwrap();
    counted(&client).await;
    let after = footprints(&server.url()).await;
    let rebuilt = index.summary.split(' ').nth(1).unwrap().rsplit('.').next().unwrap().to_owned();
    assert!(find(&after.indexes, Some(&rebuilt)).estimate.as_ref().unwrap().ratio() < 1.25, "{rebuilt}: {after:#?}");
}

fn judged(reading: &Reading<Postgres>, check: &str) -> groundskeeper_core::Finding {
    let tuning = Tuning::default().with_threshold(check, "wasted", MIB);
    let system = SystemId::new(SystemKind::Postgres, "main");
    let judged = judge_all(&system, &Observation::Postgres(reading.clone()), None, &tuning, now());
    match judged.into_iter().find(|judgement| judgement.check == check).unwrap().status {
        Status::Failing { mut findings } => findings.remove(0),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_role_that_may_not_select_estimates_nothing_and_may_still_ask_the_pages() {
    let server = server().await;
    let monitor = role(&server, "watcher", "").await;
    let client = server.client().await;
    client.batch_execute("GRANT pg_monitor TO watcher").await.unwrap();
    let seen = footprints(&monitor).await;
    let hidden = [find(&seen.tables, None).clone(), find(&seen.indexes, Some("notes_pkey")).clone()];
    assert!(hidden.iter().all(|one| one.estimate == Err(NoEstimate::Hidden)), "{hidden:#?}");
    let answers = read_pages(&endpoint(&monitor), &hidden, DEADLINE).await.unwrap();
    let reason = &answers[0].as_ref().unwrap_err().reason;
    assert!(reason.contains("CREATE EXTENSION pgstattuple"), "{reason}");

    client.batch_execute("CREATE EXTENSION pgstattuple").await.unwrap();
    let answers = read_pages(&endpoint(&monitor), &hidden, DEADLINE).await.unwrap();
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().ratio() < 1.2), "{answers:#?}");

    // Whoever holds the table is not waited for.
    let holder = server.client().await;
    holder.batch_execute("BEGIN; LOCK TABLE notes IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let answers = read_pages(&endpoint(&monitor), &hidden[..1], DEADLINE).await.unwrap();
    assert!(answers[0].as_ref().unwrap_err().reason.contains("lock timeout"), "{answers:#?}");
    assert!(footprints(&server.url()).await.tables.len() == 1, "and the everyday reading needs no lock");
}
