//! Is a table or an index mostly air?
//!
//! One estimate alone is a hint and no reason to act: it is told as information, with the question that confirms it. Only
//! where a second one of another kind says the same is it a warning.

use crate::bloat::{Agreement, Estimate, agree};
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Footprint, Footprints, NoEstimate, Postgres, suspects};
use crate::quantity::{Unit, Value, format_bytes, format_number};
use crate::remedy::quoted;
use crate::severity::Severity;

const BY_STATISTICS: &str = "pg_class.relpages against reltuples and the widths of pg_stats";
const RATIO: Threshold = Threshold {
    name: "ratio",
    default: 2.0,
    unit: Unit::Ratio,
    why: "half of it is air: pg_index_watch rebuilds from there on",
};

pub static TABLE_BLOATED: Check = Check {
    id: "postgres.table_bloated",
    title: "A table is mostly empty space",
    runbook: Runbook {
        means: "Vacuum makes room for new rows inside of the table, and hardly ever gives it back. After a large delete, \
                or while something kept vacuum from its work, a table is left that is twice as large as its rows: scans \
                read the air as well, and it fills memory and backups.",
        confirm: "CREATE EXTENSION IF NOT EXISTS pgstattuple; SELECT * FROM pgstattuple_approx('TABLE');",
        act: "First the cause: dead rows past the trigger, something that holds vacuum back. If as many rows will come again, \
              leave it: they fill the space. Otherwise pg_repack or pg_squeeze rewrite it while it is used; they need \
              room for a second copy. Not VACUUM FULL on a table in use: it shuts everybody out until it is done.",
    },
    source: BY_STATISTICS,
    thresholds: &[
        RATIO,
        Threshold {
            name: "wasted",
            default: 104_857_600.0,
            unit: Unit::Bytes,
            why: "below 100 MiB there is little to gain by rewriting a table",
        },
    ],
    // Figures of the catalogue change with a vacuum or analyze only.
    hold: Hold::NONE,
    judge: Judge::Postgres(table_bloated),
};

fn table_bloated(sight: &Sight<'_, Postgres>) -> Judged {
    judge(sight, &TABLE_BLOATED, |seen| &seen.tables, "table")
}

pub static INDEX_BLOATED: Check = Check {
    id: "postgres.index_bloated",
    title: "An index is mostly empty space",
    runbook: Runbook {
        means: "Pages of an index are filled again only by keys that belong there. After many updates and deletes an \
                index is left that is several times as large as a new one: it takes memory from the tables, and each \
                search reads more pages.",
        confirm: "CREATE EXTENSION IF NOT EXISTS pgstattuple; SELECT avg_leaf_density, * FROM pgstatindex('INDEX');",
        act: "ANALYZE its table and look again. Then REINDEX INDEX CONCURRENTLY, one at a time, with lock_timeout set, when no \
              long transaction runs, and with twice the size of the index free on the disk. Not in 14.0 to 14.3, where it \
              may lose entries. If it fails, drop what it left (name_ccnew).",
    },
    source: BY_STATISTICS,
    thresholds: &[
        RATIO,
        Threshold {
            name: "wasted",
            default: 10_485_760.0,
            unit: Unit::Bytes,
            why: "below 10 MiB a rebuild gains nothing: pg_index_watch's limit",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Postgres(index_bloated),
};

fn index_bloated(sight: &Sight<'_, Postgres>) -> Judged {
    judge(sight, &INDEX_BLOATED, |seen| &seen.indexes, "index")
}

/// A suspect with what is known of it.
struct Suspect<'a> {
    footprint: &'a Footprint,
    first: &'a Estimate,
    /// Bytes that are to be gained, by the more careful of the estimates.
    wasted: u64,
    is_confirmed: bool,
}

fn judge(
    sight: &Sight<'_, Postgres>,
    check: &'static Check,
    all: impl Fn(&Footprints) -> &[Footprint],
    kind: &str,
) -> Judged {
    // A standby shows the primary's figures a second time.
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let all = all(sight.seen.footprints.as_ref()?);
    let (ratio, wasted) = (sight.limit("ratio"), sight.limit("wasted"));
    let mut found: Vec<Suspect<'_>> = suspects(all, ratio, wasted)
        .into_iter()
        .filter_map(|(footprint, first)| {
            let alone = Suspect { footprint, first, wasted: first.wasted(), is_confirmed: false };
            let Some(second) = &footprint.second else { return Some(alone) };
            match agree(first, second, ratio, wasted) {
                Agreement::Bloated { wasted, .. } => Some(Suspect { wasted, is_confirmed: true, ..alone }),
                Agreement::Sound => None,
                Agreement::Unproven => Some(alone),
            }
        })
        .collect();
    found.sort_by_key(|one| std::cmp::Reverse((one.is_confirmed, one.wasted)));
    // Beside what is proven, what is only guessed would look like it was proven too.
    if found.first().is_some_and(|worst| worst.is_confirmed) {
        found.retain(|one| one.is_confirmed);
    }
    match found.first() {
        Some(worst) => Ok(vec![told(sight, check, kind, worst, &found)]),
        None => all_estimated(sight, all, wasted, kind),
    }
}

/// What was not estimated and is large enough to hide so much waste is unknown.
fn all_estimated(sight: &Sight<'_, Postgres>, all: &[Footprint], wasted: f64, kind: &str) -> Judged {
    let hidden: Vec<&Footprint> = all
        .iter()
        .filter(|one| one.estimate == Err(NoEstimate::Hidden) && one.second.is_none() && one.size as f64 > wasted)
        .collect();
    let Some(largest) = hidden.first() else { return Ok(Vec::new()) };
    Err(Unknown {
        // A watcher that may not read the rows is a fair choice, and nothing that has to be mended.
        kind: UnknownKind::NotHere,
        reason: format!(
            "pg_stats shows {} nothing of {}; a right to select shows it, at the price of the rows themselves: \
             GRANT SELECT ON {}.{} TO {}; ({} in all, the largest {})",
            sight.seen.access.user,
            largest.name(),
            quoted(&largest.table.schema),
            quoted(&largest.table.name),
            quoted(&sight.seen.access.user),
            if hidden.len() == 1 { format!("1 {kind}") } else { format!("{} of that kind", hidden.len()) },
            format_bytes(largest.size as f64)
        ),
    })
}

fn told(
    sight: &Sight<'_, Postgres>,
    check: &'static Check,
    kind: &str,
    worst: &Suspect<'_>,
    found: &[Suspect<'_>],
) -> Draft {
    let database = &sight.seen.server.database;
    let all: u64 = found.iter().map(|one| one.wasted).sum();
    let name = worst.footprint.name();
    let more = if found.len() > 1 { format!(", and {} more", found.len() - 1) } else { String::new() };
    let (severity, how) = if worst.is_confirmed {
        (Severity::Warning, "is")
    } else {
        (Severity::Info, "seems to be, by its statistics alone,")
    };
    let offenders = found.iter().map(|one| Offender {
        target: target(database, one.footprint),
        weight: one.wasted as f64,
        note: figures(one),
    });
    let fix = match (worst.is_confirmed, &worst.footprint.index) {
        (false, index) => format!(
            "Nothing is to be done on one estimate alone. In database {database}: {}",
            confirming(worst.footprint, index.is_some())
        ),
        (true, Some(index)) => format!(
            "In database {database}, when no long transaction runs: SET lock_timeout = '2s'; REINDEX INDEX CONCURRENTLY {}.{};",
            quoted(&worst.footprint.table.schema),
            quoted(index)
        ),
        (true, None) => format!(
            "If so many rows will not come again: pg_repack --table={name} --dbname={database}; it needs {} of free disk.",
            format_bytes(worst.first.expected as f64 * 2.0)
        ),
    };
    Draft::new(
        severity,
        format!(
            "{kind} {name} {how} {} times as large as it need be: {} to gain{more}",
            format_number(worst.first.ratio(), Unit::Ratio),
            format_bytes(worst.wasted as f64)
        ),
    )
    .about(Target::Database { name: database.clone() })
    .against(
        "size against what its rows need",
        Value::number(worst.first.ratio(), Unit::Ratio),
        Value::number(sight.limit("ratio"), Unit::Ratio),
        check.source,
    )
    .against("to gain", Value::bytes(worst.wasted), Value::number(sight.limit("wasted"), Unit::Bytes), check.source)
    .saw("all together", Value::bytes(all), check.source)
    .offenders(offenders.collect())
    .fix(fix)
}

fn target(database: &str, footprint: &Footprint) -> Target {
    let (database, schema) = (database.to_owned(), footprint.table.schema.clone());
    let table = footprint.table.name.clone();
    match &footprint.index {
        Some(index) => Target::Index { database, schema, table, name: index.clone() },
        None => Target::Table { database, schema, name: table },
    }
}

fn figures(one: &Suspect<'_>) -> String {
    let by = |estimate: &Estimate| format!("{} by {}", format_bytes(estimate.expected as f64), estimate.basis.as_str());
    let second = one.footprint.second.as_ref().map_or_else(|| "not confirmed".to_owned(), by);
    format!("{}: {}, needs {} ({second})", one.footprint.name(), format_bytes(one.footprint.size as f64), by(one.first))
}

fn confirming(footprint: &Footprint, is_index: bool) -> String {
    let name = footprint.index.as_ref().unwrap_or(&footprint.table.name);
    let whole = super::horizon::literal(&format!("{}.{}", quoted(&footprint.table.schema), quoted(name)));
    if is_index {
        format!("SELECT avg_leaf_density FROM pgstatindex({whole}); below 45 is confirmed (extension pgstattuple).")
    } else {
        format!(
            "SELECT approx_free_percent + dead_tuple_percent FROM pgstattuple_approx({whole}); above 50 is confirmed \
             (extension pgstattuple)."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bloat::Basis;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, status, table_name};
    use crate::observation::Gap;

    const MIB: u64 = 1 << 20;

    fn footprint(size: u64, expected: u64, index: Option<&str>) -> Footprint {
        Footprint {
            table: table_name("chunks"),
            index: index.map(Into::into),
            size: size * MIB,
            rows: 1e6,
            fillfactor: 90.0,
            estimate: Ok(estimate(Basis::Statistics, size, expected)),
            second: None,
        }
    }

    fn estimate(basis: Basis, size: u64, expected: u64) -> Estimate {
        Estimate::new(basis, size * MIB, (expected * MIB) as f64)
    }

    fn with(footprints: Vec<Footprint>) -> Postgres {
        let (indexes, tables) = footprints.into_iter().partition(|one: &Footprint| one.index.is_some());
        change(|seen| {
            let seen = seen.footprints.as_mut().unwrap();
            (seen.indexes, seen.tables) = (indexes, tables);
        })
    }

    #[test]
    fn one_estimate_is_a_hint_and_two_that_agree_are_a_warning() {
        let alone = footprint(100, 30, Some("chunks_body"));
        let hint = finding("postgres.index_bloated", found_in(with(vec![alone.clone()])));
        assert_eq!(hint.severity, Severity::Info);
        assert!(hint.fix.contains("pgstatindex('\"public\".\"chunks_body\"')"), "{}", hint.fix);
        assert!(!hint.fix.contains("REINDEX"), "{}", hint.fix);

        let second = |basis, expected| Some(estimate(basis, 100, expected));
        let sure = Footprint { second: second(Basis::Pages, 45), ..alone.clone() };
        let sure = finding("postgres.index_bloated", found_in(with(vec![sure, alone.clone()])));
        assert_eq!(sure.severity, Severity::Warning);
        assert!(sure.fix.contains("REINDEX INDEX CONCURRENTLY \"public\".\"chunks_body\""), "{}", sure.fix);
        assert!(sure.summary.ends_with("55 MiB to gain"), "the smaller gain: {}", sure.summary);
        assert_eq!(sure.offenders.len(), 1, "what is not confirmed is not told beside what is");
        assert!(sure.offenders.iter().any(|one| one.note.contains("30 MiB by the statistics (45 MiB by its pages)")));

        let refuted = Footprint { second: second(Basis::Pages, 80), ..alone.clone() };
        assert_eq!(found_in(with(vec![refuted])), []);
        let same = Footprint { second: second(Basis::Statistics, 30), ..alone };
        assert_eq!(found_in(with(vec![same]))[0].severity, Severity::Info, "the same facts prove nothing");
    }

    #[test]
    fn a_table_must_waste_more_than_an_index_and_its_way_out_blocks_nobody() {
        assert_eq!(found_in(with(vec![footprint(150, 60, None), footprint(16, 7, Some("small"))])), []);
        let mut large = footprint(400, 100, None);
        large.second = Some(estimate(Basis::Pages, 400, 120));
        let finding = finding("postgres.table_bloated", found_in(with(vec![large])));
        assert!(
            finding.fix.contains("pg_repack --table=public.chunks") && !finding.fix.contains("FULL"),
            "{finding:#?}"
        );
    }

    #[test]
    fn what_is_hidden_is_unknown_and_says_what_would_show_it() {
        let hidden = |size| Footprint { estimate: Err(NoEstimate::Hidden), ..footprint(size, size, None) };
        assert_eq!(status("postgres.table_bloated", with(vec![hidden(50)]), None), Status::Ok, "too small to matter");
        let Status::Unknown(unknown) = status("postgres.table_bloated", with(vec![hidden(500)]), None) else {
            panic!("hidden is not ok")
        };
        assert!(unknown.reason.contains("GRANT SELECT ON \"public\".\"chunks\" TO \"groundskeeper\""), "{unknown:?}");
        let gap = change(|seen| seen.footprints = Err(Gap::new("took too long")));
        for check in ["postgres.index_bloated", "postgres.table_bloated"] {
            assert!(matches!(status(check, gap.clone(), None), Status::Unknown(_)));
            let mut standby = gap.clone();
            standby.server.in_recovery = true;
            assert_eq!(status(check, standby, None), Status::Ok, "the primary tells it");
        }
    }
}
