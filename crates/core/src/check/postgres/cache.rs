//! Do reads come from memory?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::Draft;
use crate::observation::{Database, Postgres};
use crate::quantity::{Unit, Value, format_number};

pub static CACHE_HIT_LOW: Check = Check {
    id: "postgres.cache_hit_low",
    title: "Postgres reads much from outside its cache",
    runbook: Runbook {
        means: "Many of the pages that queries need are not in shared_buffers. They come from the operating system's \
                cache at best, from the disk at worst: answers take longer, and the disk is busy.",
        confirm: "SELECT datname, blks_hit, blks_read FROM pg_stat_database ORDER BY blks_read DESC; twice, a minute \
                  apart, and compare.",
        act: "Look for the query that reads so much (shared_blks_read in pg_stat_statements): a missing index or one \
              large report are the usual causes. Only then raise shared_buffers, up to about a quarter of the memory; \
              that needs a restart. A low rate right after a restart or during a backup is normal.",
    },
    source: "blks_hit / (blks_hit + blks_read) of pg_stat_database, between two readings",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 90.0,
            unit: Unit::Percent,
            why: "serving workloads are near 99 % (pgHero); below 90 % for ten minutes the working set does not fit",
        },
        Threshold {
            name: "minimum_blocks",
            default: 10_000.0,
            unit: Unit::Count,
            why: "80 MB of page accesses in the interval; with fewer, one cold query decides the figure",
        },
    ],
    hold: Hold::minutes(10.0, 10.0),
    judge: Judge::Postgres(cache_hit_low),
};

fn cache_hit_low(sight: &Sight<'_, Postgres>) -> Judged {
    let databases = sight.seen.databases.as_ref()?;
    let (earlier, seconds) = sight.since("the cache's hit rate")?;
    let (hit, read) = accesses(databases, earlier.databases.as_ref()?);
    let total = hit + read;
    if total < sight.limit("minimum_blocks").max(1.0) {
        return Ok(Vec::new());
    }
    let percent = hit / total * 100.0;
    let Some((severity, limit)) = sight.graded_below(percent) else { return Ok(Vec::new()) };
    let (value, threshold) = measured(percent, limit, Unit::Percent);
    let draft = Draft::new(
        severity,
        format!(
            "only {} of the pages were found in the cache during the last {}",
            format_number(percent, Unit::Percent),
            format_number(seconds, Unit::Seconds)
        ),
    )
    .against("cache hit rate", value, threshold, CACHE_HIT_LOW.source)
    .saw("pages accessed", Value::count(total), "pg_stat_database")
    .saw("pages read from outside", Value::count(read), "pg_stat_database.blks_read")
    .fix(
        "Find what reads so much: SELECT queryid, calls, shared_blks_read, query FROM pg_stat_statements ORDER BY \
         shared_blks_read DESC LIMIT 10; and EXPLAIN (ANALYZE, BUFFERS) the first ones.",
    );
    Ok(vec![draft])
}

/// Hits and reads since the earlier reading. A database whose counters went back (its statistics were reset) or that is
/// new is left out: its difference means nothing.
fn accesses(now: &[Database], before: &[Database]) -> (f64, f64) {
    let mut sum = (0.0, 0.0);
    for database in now {
        let Some(earlier) = before.iter().find(|earlier| earlier.name == database.name) else { continue };
        let hit = database.blocks_hit.checked_sub(earlier.blocks_hit);
        let read = database.blocks_read.checked_sub(earlier.blocks_read);
        if let (Some(hit), Some(read)) = (hit, read) {
            sum = (sum.0 + hit as f64, sum.1 + read as f64);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use crate::check::postgres::fixtures::{change, finding, found_in, healthy, status};
    use crate::check::{Status, UnknownKind};
    use crate::observation::Postgres;

    fn after(hit: u64, read: u64) -> Postgres {
        change(|seen| {
            let database = &mut seen.databases.as_mut().unwrap()[0];
            database.blocks_hit += hit;
            database.blocks_read += read;
        })
    }

    #[test]
    fn the_rate_is_that_of_the_interval_and_not_of_all_time() {
        let finding = finding("postgres.cache_hit_low", found_in(after(8_000, 2_000)));
        assert!(finding.summary.contains("80 %") && finding.summary.contains("1 min"), "{}", finding.summary);
        assert_eq!(found_in(after(9_000, 1_000)), []);
    }

    #[test]
    fn too_few_accesses_prove_nothing() {
        assert_eq!(found_in(after(0, 9_999)), []);
        assert_eq!(found_in(after(0, 0)), []);
    }

    #[test]
    fn the_first_reading_needs_history() {
        let Status::Unknown(unknown) = status("postgres.cache_hit_low", healthy(), None) else { panic!() };
        assert_eq!(unknown.kind, UnknownKind::NeedsHistory);
    }

    #[test]
    fn counters_that_went_back_are_left_out() {
        let reset = change(|seen| {
            let database = &mut seen.databases.as_mut().unwrap()[0];
            database.blocks_hit = 10;
            database.blocks_read += 50_000;
        });
        assert_eq!(found_in(reset), []);
    }
}
