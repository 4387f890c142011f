//! Do queries spill to the disk?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::{Draft, Offender, Target};
use crate::observation::Postgres;
use crate::quantity::{Unit, Value, format_bytes};

const MIB: f64 = 1_048_576.0;

pub static TEMPORARY_FILES_LARGE: Check = Check {
    id: "postgres.temporary_files_large",
    title: "Queries write large temporary files",
    runbook: Runbook {
        means: "A sort, a hash or an index build that does not fit into work_mem goes on in files. Such a query is many times \
                slower, takes the disk from everybody else, and with enough of them the disk is full.",
        confirm: "SELECT datname, temp_files, pg_size_pretty(temp_bytes) FROM pg_stat_database ORDER BY temp_bytes DESC; \
                  twice, a minute apart. With log_temp_files = '10MB' the log names each statement.",
        act: "Find the statement: ALTER SYSTEM SET log_temp_files = '10MB' and a reload; or temp_blks_written of \
              pg_stat_statements. An index in the order of the sort, or fewer columns, may be all it needs. Then work_mem for \
              that role alone: ALTER ROLE … SET work_mem = '64MB'; each sort of each query may take as much.",
    },
    source: "pg_stat_database.temp_bytes between two readings",
    thresholds: &[Threshold {
        name: "warning",
        default: 10.0 * MIB,
        unit: Unit::Bytes,
        why: "in a second, for ten minutes: 6 GB; an index build or a nightly report does so for less time",
    }],
    hold: Hold::minutes(10.0, 10.0),
    judge: Judge::Postgres(temporary_files_large),
};

fn temporary_files_large(sight: &Sight<'_, Postgres>) -> Judged {
    let databases = sight.seen.databases.as_ref()?;
    let (earlier, seconds) = sight.since("what is written to temporary files")?;
    let earlier = earlier.databases.as_ref()?;
    let mut rates: Vec<(&str, f64)> = databases
        .iter()
        .filter_map(|database| {
            let before = earlier.iter().find(|before| before.name == database.name)?;
            // Statistics that were reset start from zero again.
            let written = database.temporary_bytes.checked_sub(before.temporary_bytes)?;
            Some((database.name.as_str(), written as f64 / seconds))
        })
        .filter(|(_, rate)| *rate > 0.0)
        .collect();
    rates.sort_by(|a, b| b.1.total_cmp(&a.1));
    let all: f64 = rates.iter().map(|(_, rate)| rate).sum();
    let Some(((severity, limit), (largest, rate))) = sight.graded(all).zip(rates.first().copied()) else {
        return Ok(Vec::new());
    };
    let (value, threshold) = measured(all, limit, Unit::Bytes);
    let offenders = rates.iter().map(|(name, rate)| Offender {
        target: Target::Database { name: (*name).to_owned() },
        weight: *rate,
        note: format!("{} in a second", format_bytes(*rate)),
    });
    let draft = Draft::new(
        severity,
        format!(
            "queries write {} of temporary files in a second, {} of it in database {largest}",
            format_bytes(all),
            format_bytes(rate)
        ),
    )
    .against("written in a second", value, threshold, TEMPORARY_FILES_LARGE.source)
    .saw("over", Value::seconds(seconds), "the two readings")
    .offenders(offenders.collect())
    .fix(
        "ALTER SYSTEM SET log_temp_files = '10MB'; SELECT pg_reload_conf(); the log then names each statement that spills. \
         An index for its order, or work_mem for its role alone, mends it.",
    );
    Ok(vec![draft])
}

#[cfg(test)]
mod tests {
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, healthy, status};
    use crate::observation::{Gap, Postgres};

    const ID: &str = "postgres.temporary_files_large";

    fn written(bytes: u64) -> Postgres {
        change(|seen| seen.databases.as_mut().unwrap()[0].temporary_bytes = bytes)
    }

    #[test]
    fn ten_mebibytes_a_second_are_found_in_the_database_that_writes_them() {
        assert_eq!(found_in(written((600 << 20) - 1)), []);
        let finding = finding(ID, found_in(written(600 << 20)));
        assert!(finding.summary.ends_with("10 MiB of it in database docrag"), "{}", finding.summary);
    }

    #[test]
    fn a_first_reading_and_an_unread_one_are_unknown_and_a_reset_is_nothing() {
        assert!(matches!(status(ID, healthy(), None), Status::Unknown(_)));
        let unread = change(|seen| seen.databases = Err(Gap::new("gone")));
        assert!(matches!(status(ID, unread, Some(healthy())), Status::Unknown(_)));
        assert_eq!(status(ID, written(5), Some(written(900 << 20))), Status::Ok);
    }
}
