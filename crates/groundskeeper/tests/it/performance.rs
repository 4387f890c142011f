//! Statements of a real Postgres beside their own past: the weekly review, and the check that opens at once.

use crate::scene::{Database, GRANTS, Place, eventually};
use groundskeeper::app::api::TaskRunView;
use groundskeeper::clock::Clock;
use tokio_postgres::Client;

const HOUR: i64 = 3_600;

/// The hours of a statement as a keeper of five weeks would have them: a call a second of `mean` seconds.
fn remember(place: &Place, query_id: i64, mean: impl Fn(i64) -> f64) {
    let mut store = place.store();
    let now = Clock::wall().now().as_second();
    let change = store.transaction().unwrap();
    for (metric, per_call) in [("statement_load", None), ("statement_calls", Some(1.0)), ("statement_rows", Some(1.0))]
    {
        let subject = query_id.to_string();
        let series = "INSERT INTO series (system, metric, subject, unit) VALUES ('postgres.main', ?1, ?2, 'ratio') \
                      ON CONFLICT DO UPDATE SET unit = unit RETURNING id";
        let id: i64 = change.query_row(series, (metric, &subject), |row| row.get(0)).unwrap();
        for ago in 0..35 * 24 {
            let value = per_call.unwrap_or_else(|| mean(ago));
            let slot = now - now % HOUR - ago * HOUR;
            let point = "INSERT OR REPLACE INTO sample VALUES (3600, ?1, ?2, ?3, ?3, ?3, 1, ?3)";
            change.execute(point, (id, slot, value)).unwrap();
        }
    }
    change.commit().unwrap();
}

#[tokio::test]
async fn the_review_names_the_statements_that_lead_and_those_that_became_slower() {
    let database = Database::start(GRANTS).await;
    let server = &database.server;
    let admin = server.client_at(&server.url_for("postgres", server.password(), "docrag")).await;
    admin.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    let app = database.app("docrag-api").await;
    for _ in 0..101 {
        app.query("SELECT pg_sleep(0.001), 'secret'", &[]).await.unwrap();
    }
    app.batch_execute("SELECT pg_sleep(0.2), 1, 2").await.unwrap();
    let place = Place::new(&database.config("", "[checks.\"postgres.query_regressed\"]\nfor = \"0s\"\n"));
    let keeper = place.app().await;
    let run = keeper.task_run("performance-review", false, "ann").await.unwrap();
    let text = run.details.join("\n");
    assert!(run.ok && text.contains("long enough to be compared with its own past"), "{text}");
    let by_mean = text.split_once("by mean, more than 100 calls\n").unwrap().1;
    let first = by_mean.lines().next().unwrap();
    assert!(first.contains("101 calls, 1 rows a call") && first.contains("pg_sleep($1), $2"), "{text}");
    assert!(!text.contains("secret"), "{text}");

    let sql = "SELECT queryid FROM pg_stat_statements WHERE query = 'SELECT pg_sleep($1), $2'";
    let query_id: i64 = admin.query_one(sql, &[]).await.unwrap().get(0);
    remember(&place, query_id, |ago| if ago < 7 * 24 { 0.040 } else { 0.010 });
    let run = keeper.task_run("performance-review", false, "ann").await.unwrap();
    let line = run.details.iter().find(|line| line.contains("a call takes")).unwrap_or_else(|| panic!("{run:#?}"));
    assert!(line.contains("40 ms instead of 10 ms (4 times as long), at about as many calls"), "{line}");
    assert!(line.ends_with(&format!("SELECT pg_sleep($1), $2 [{query_id}]")), "{line}");

    // Slower for a week: to the check that is how it is by now. Slower since yesterday is news.
    assert!(keeper.task_run("watch", false, "ann").await.unwrap().ok);
    let open =
        || place.count("SELECT count(*) FROM finding WHERE ended IS NULL AND check_id = 'postgres.query_regressed'");
    assert_eq!(open(), 0);
    remember(&place, query_id, |ago| if ago < 20 { 0.040 } else { 0.010 });
    assert!(keeper.task_run("watch", false, "ann").await.unwrap().ok);
    assert_eq!(open(), 1);
    drop(keeper);
    let shown: TaskRunView = place.json(&["task", "run", "performance-review"]).await;
    assert!(shown.ok && shown.details.iter().any(|line| line.contains("by time in all")), "{shown:#?}");
}

/// A server whose statements are counted and may be explained by the keeper, and an administrator of it.
async fn explainable() -> (Database, Client) {
    let database = Database::start(&format!("{GRANTS}; GRANT pg_read_all_data TO keeper")).await;
    let server = &database.server;
    let admin = server.client_at(&server.url_for("postgres", server.password(), "docrag")).await;
    admin.batch_execute("CREATE EXTENSION pg_stat_statements").await.unwrap();
    (database, admin)
}

#[tokio::test]
async fn the_review_tells_which_index_the_planner_would_use() {
    let (database, admin) = explainable().await;
    let app = database.app("docrag-api").await;
    for statement in [
        "CREATE TABLE chunks AS SELECT g AS id, g % 500 AS tenant, repeat('x', 300) AS body FROM generate_series(1, 50000) g",
        "ANALYZE chunks",
        "SELECT body FROM chunks WHERE tenant = 7",
    ] {
        app.batch_execute(statement).await.unwrap();
    }
    drop(app);
    let place = Place::new(&database.config("", ""));
    let keeper = place.app().await;
    let review = async || keeper.task_run("performance-review", false, "ann").await.unwrap().details.join("\n");
    let text = eventually("the scan is in the statistics", async || {
        let text = review().await;
        text.contains("public.chunks: ").then_some(text)
    })
    .await;
    assert!(text.contains("scans of 50,000 rows") && text.contains("CREATE EXTENSION hypopg"), "{text}");
    if admin.batch_execute("CREATE EXTENSION hypopg").await.is_err() {
        // It is packaged for the server that the tests install, and for no other.
        assert!(std::env::var_os("GROUNDSKEEPER_TEST_PG_BIN").is_some(), "hypopg is missing; run `cargo xtask setup`");
        return;
    }
    let text = review().await;
    let proposed =
        text.split_once("CREATE INDEX CONCURRENTLY ON \"public\".\"chunks\" (\"tenant\"); about ").unwrap().1;
    assert!(proposed.lines().nth(1).unwrap().contains(": SELECT body FROM chunks WHERE tenant = $1 ["), "{text}");
    let indexes = "SELECT count(*) FROM pg_indexes WHERE tablename = 'chunks'";
    assert_eq!(admin.query_one(indexes, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn a_statement_that_lost_its_index_is_news_of_the_daily_health_check_for_a_week() {
    let (database, _admin) = explainable().await;
    let app = database.app("docrag-api").await;
    for statement in [
        "CREATE TABLE notes AS SELECT g AS id, g % 2000 AS tenant, repeat('x', 300) AS body FROM generate_series(1, 60000) g",
        "CREATE INDEX notes_of_tenant ON notes (tenant)",
        "VACUUM ANALYZE notes",
        "SELECT body FROM notes WHERE tenant = 7",
    ] {
        app.batch_execute(statement).await.unwrap();
    }
    let place = Place::new(&database.config("", ""));
    let keeper = place.app().await;
    let daily = async || {
        let run = keeper.task_run("daily-health", false, "ann").await.unwrap();
        assert!(run.ok, "{run:#?}");
        place.count("SELECT count(*) FROM finding WHERE ended IS NULL AND check_id = 'postgres.plan_regressed'")
    };
    assert_eq!(daily().await, 0);
    assert_eq!(daily().await, 0);
    app.batch_execute("DROP INDEX notes_of_tenant").await.unwrap();
    assert_eq!(daily().await, 1);
    let body: String = place
        .store()
        .query_row("SELECT body FROM finding WHERE check_id = 'postgres.plan_regressed'", (), |row| row.get(0))
        .unwrap();
    assert!(body.contains("has Seq Scan of notes in place of ") && body.contains("by notes_of_tenant"), "{body}");
    assert_eq!(daily().await, 1, "a second look does not make it the usual plan");
    place.store().execute("UPDATE plan_run SET first = first - 691200000, last = last - 691200000", ()).unwrap();
    assert_eq!(daily().await, 0, "after eight days it is");
}
