//! Our own work leaves the server to others for most of the time.

use super::{PATIENCE, endpoint, expiring, run, until_so};
use groundskeeper_core::remedy::{JournalledStep, Step};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::act::{ActError, apply};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use jiff::Timestamp;

/// A server with a table of some 6,000 pages, where a vacuum that rests at all rests after each page: it takes most of a
/// minute, and one that does not rest takes a moment.
pub(super) async fn server_with_much_to_vacuum() -> PostgresServer {
    let options = PostgresOptions::default().set("autovacuum", "off").set("vacuum_cost_limit", "1");
    let server = PostgresServer::start_with(options).await.unwrap();
    run(
        &server,
        &[
            "CREATE TABLE notes AS SELECT n AS id, repeat('x', 200) AS body FROM generate_series(1, 200000) n",
            "DELETE FROM notes WHERE id % 2 = 0",
        ],
    )
    .await;
    server
}

pub(super) fn vacuum() -> Step {
    let system = SystemId::new(SystemKind::Postgres, "main");
    Step::Vacuum { system, database: "postgres".into(), schema: "public".into(), table: "notes".into() }
}

#[tokio::test]
async fn a_vacuum_of_ours_rests_between_its_pages() {
    let server = server_with_much_to_vacuum().await;
    until_so(&server, "SELECT current_setting('vacuum_cost_delay') = '0'").await;
    let rests = until_so(
        &server,
        "SELECT EXISTS (SELECT FROM pg_stat_activity a JOIN pg_stat_progress_vacuum v ON v.pid = a.pid
                         WHERE a.application_name = 'groundskeeper' AND a.wait_event = 'VacuumDelay')",
    );
    let step = JournalledStep::recorded(1, vacuum());
    let error = Box::pin(apply(&endpoint(&server.url()), &step, PATIENCE, rests)).await.unwrap_err();
    assert!(matches!(error, ActError::Interrupted(_)), "{error}");
}

/// When a batch had ended, and how many seconds it had taken, by a line of the server's log:
/// `2026-11-23 09:00:00.123 UTC [4242] LOG:  duration: 1.234 ms  execute <unnamed>: WITH chosen AS …`.
fn batch(line: &str) -> Option<(f64, f64)> {
    let (head, statement) = line.split_once(" ms  execute ")?;
    if !statement.contains("WITH chosen AS") {
        return None;
    }
    let (at, took) = (head.get(..23)?.replace(' ', "T"), head.split_once("duration: ")?.1);
    let at: Timestamp = format!("{at}Z").parse().unwrap();
    Some((at.as_millisecond() as f64 / 1_000.0, took.parse::<f64>().unwrap() / 1_000.0))
}

#[tokio::test]
async fn after_each_batch_of_a_deletion_seven_times_its_time_is_left_to_others() {
    let (server, _client) = expiring::sessions().await;
    let step = expiring::expire("User Sessions", "ends at");
    expiring::run(&endpoint(&server.url()), &step).await.unwrap();
    let log = std::fs::read_to_string(server.log_file()).unwrap();
    let batches: Vec<_> = log.lines().filter_map(batch).collect();
    // The last but one found nothing left, and the last one looked again for what somebody had locked.
    let rests = batches.len().saturating_sub(2);
    assert!(rests >= 3, "{batches:?}");
    for pair in batches.windows(2).take(rests) {
        let ((ended, took), (next_ended, next_took)) = (pair[0], pair[1]);
        let rest = next_ended - next_took - ended;
        // The log's times are whole milliseconds.
        assert!(rest + 0.002 >= (7.0 * took).max(0.01), "{rest} s after {took} s: {batches:?}");
    }
}
