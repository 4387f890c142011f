//! Is an index used at all, on the primary or on any standby?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{IndexUsage, IndexUse, Postgres};
use crate::quantity::{Unit, Value, format_bytes, format_number, seconds_between};
use crate::remedy::quoted;
use crate::severity::Severity;
use jiff::Timestamp;

const SCANS: &str = "pg_stat_user_indexes.idx_scan since pg_stat_database.stats_reset, here and on each standby";

pub static INDEX_UNUSED: Check = Check {
    id: "postgres.index_unused",
    title: "An index is used by no query",
    runbook: Runbook {
        means: "Since the statistics began no query used this index, neither here nor on any standby. Every write maintains \
                it, and it fills memory, disk and backups. Indexes that enforce something, and those that a foreign key is \
                looked up by, are not counted.",
        confirm: "Here and on every standby: SELECT indexrelid::regclass, idx_scan, pg_size_pretty(pg_relation_size(indexrelid)) \
                  FROM pg_stat_user_indexes WHERE idx_scan = 0 ORDER BY pg_relation_size(indexrelid) DESC; and since when: \
                  SELECT stats_reset FROM pg_stat_database WHERE datname = current_database();",
        act: "Ask whether something runs more seldom than the statistics reach back (the end of the year, an export), and \
              keep its definition: SELECT pg_get_indexdef('INDEX'::regclass). Then DROP INDEX CONCURRENTLY, one at a time, \
              and watch the queries of that table for a day.",
    },
    source: SCANS,
    thresholds: &[
        Threshold {
            name: "days",
            default: 30.0,
            unit: Unit::Days,
            why: "of statistics on every server: the reports of a month's end are among them",
        },
        Threshold {
            name: "minimum_size",
            default: 10_485_760.0,
            unit: Unit::Bytes,
            why: "below 10 MiB an index that nobody uses costs little",
        },
        Threshold {
            name: "minimum_age",
            default: 100_000.0,
            unit: Unit::Count,
            why: "transactions that wrote since it was made: when that was, Postgres does not keep, and a new index has had no \
                  chance to be used",
        },
    ],
    // A standby that is away for a moment, and streams without a slot, is not seen: nothing is dropped on one reading.
    hold: Hold::minutes(60.0, 0.0),
    judge: Judge::Postgres(index_unused),
};

fn index_unused(sight: &Sight<'_, Postgres>) -> Judged {
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let usage = sight.seen.usage.as_ref()?;
    let (size, age) = (sight.limit("minimum_size"), sight.limit("minimum_age"));
    let is_unused =
        |index: &&IndexUse| index.is_spare && index.scans == 0 && index.size as f64 >= size && index.age as f64 >= age;
    let mut unused: Vec<&IndexUse> = usage.indexes.iter().filter(is_unused).collect();
    if unused.is_empty() {
        return all_listed(usage, size);
    }
    let days = counted_days(sight, usage)?;
    for standby in &usage.standbys {
        let is_used_there = |index: &IndexUse| {
            let is_it = |other: &&IndexUse| other.name == index.name && other.table.schema == index.table.schema;
            standby.indexes.iter().find(is_it).is_none_or(|other| other.scans > 0)
        };
        unused.retain(|index| !is_used_there(index));
    }
    unused.sort_by_key(|index| std::cmp::Reverse(index.size));
    let Some(largest) = unused.first() else { return all_listed(usage, size) };
    Ok(vec![told(sight, usage, days, largest, &unused)])
}

/// For how many days every server has counted; unknown where one of them has not for long enough, or was not asked.
fn counted_days(sight: &Sight<'_, Postgres>, usage: &IndexUsage) -> Result<f64, Unknown> {
    // Standbys of standbys are attached to those.
    let attached = usage.attached + usage.standbys.iter().map(|standby| standby.attached).sum::<u32>();
    if (usage.standbys.len() as u32) < attached {
        return Err(Unknown {
            kind: UnknownKind::NotRead,
            reason: format!(
                "no query on the primary uses some large indexes, but {} of its {attached} standbys (those that stream, and \
                 replication slots that wait for one) were not read in this round: queries there are counted there; each \
                 needs a [postgres.NAME] with database {} that answers, and a slot without a standby is to be dropped",
                attached - usage.standbys.len() as u32,
                sight.seen.server.database
            ),
        });
    }
    let limit = sight.limit("days");
    let days = |since: Option<Timestamp>| since.map(|since| seconds_between(since, sight.now) / 86_400.0);
    let servers = std::iter::once(("the primary", days(usage.since)))
        .chain(usage.standbys.iter().map(|standby| (standby.name.as_str(), days(standby.since))));
    let mut least = f64::INFINITY;
    for (name, days) in servers {
        let days = days.unwrap_or(0.0);
        if days < limit {
            return Err(Unknown {
                kind: UnknownKind::NeedsHistory,
                reason: format!(
                    "scans are counted on {name} for {} only, and {} are asked for",
                    format_number(days, Unit::Days),
                    format_number(limit, Unit::Days)
                ),
            });
        }
        least = least.min(days);
    }
    Ok(least)
}

pub(super) fn all_listed(usage: &IndexUsage, size: f64) -> Judged {
    let smallest = usage.indexes.last().map_or(0, |index| index.size);
    if usage.is_cut_off && smallest as f64 >= size {
        return Err(Unknown {
            kind: UnknownKind::NotRead,
            reason: format!("only the largest {} indexes were read, and there are more", usage.indexes.len()),
        });
    }
    Ok(Vec::new())
}

fn told(sight: &Sight<'_, Postgres>, usage: &IndexUsage, days: f64, largest: &IndexUse, unused: &[&IndexUse]) -> Draft {
    let database = &sight.seen.server.database;
    let all: u64 = unused.iter().map(|index| index.size).sum();
    let (count, verb) =
        if unused.len() == 1 { ("1 index".to_owned(), "was") } else { (format!("{} indexes", unused.len()), "were") };
    let names: Vec<&str> = usage.standbys.iter().map(|standby| standby.name.as_str()).collect();
    let (beside, asked) = if names.is_empty() {
        (String::new(), "none; no standby streams from it".to_owned())
    } else {
        (format!(" or on {}", names.join(", ")), names.join(", "))
    };
    let offenders = unused.iter().map(|index| Offender {
        target: Target::Table {
            database: database.clone(),
            schema: index.table.schema.clone(),
            name: index.table.name.clone(),
        },
        weight: index.size as f64,
        note: format!("{} on {}, {}", index.name, index.table, format_bytes(index.size as f64)),
    });
    let whole = format!("{}.{}", quoted(&largest.table.schema), quoted(&largest.name));
    Draft::new(
        Severity::Info,
        format!(
            "{count} of {database}, {} in all, {verb} used by no query here{beside} for {}: {} of {} is the largest",
            format_bytes(all as f64),
            format_number(days.floor(), Unit::Days),
            largest.name,
            largest.table
        ),
    )
    .about(Target::Database { name: database.clone() })
    .against("scans are counted for", Value::number(days, Unit::Days), Value::number(sight.limit("days"), Unit::Days), SCANS)
    .saw("all together", Value::bytes(all), "pg_class.relpages")
    .saw("standbys that were asked", Value::text(asked), "pg_stat_replication, pg_control_system()")
    .offenders(offenders.collect())
    .fix(format!(
        "Keep its definition: SELECT pg_get_indexdef({}::regclass); then, if no yearly job needs it, in database {database}: \
         DROP INDEX CONCURRENTLY {whole};",
        super::horizon::literal(&whole)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{ago, change, finding, found_in, status, table_name};
    use crate::observation::Gap;

    const ID: &str = "postgres.index_unused";

    fn index(name: &str, scans: u64) -> IndexUse {
        IndexUse {
            table: table_name("chunks"),
            name: name.into(),
            size: 20 << 20,
            scans,
            age: 5_000_000,
            is_spare: true,
        }
    }

    fn server(indexes: Vec<IndexUse>, days: f64) -> Postgres {
        change(|seen| {
            seen.usage = Ok(Box::new(IndexUsage {
                cluster: "7301".into(),
                since: Some(ago(days * 86_400.0)),
                indexes,
                ..IndexUsage::default()
            }));
        })
    }

    /// A primary with one standby attached, and what that one has counted.
    fn pair(here: u64, there: u64, days: f64) -> Postgres {
        let mut primary = server(vec![index("chunks_old", here)], 90.0);
        primary.usage.as_mut().unwrap().attached = 1;
        let mut standby = server(vec![index("chunks_old", there)], days);
        standby.server.in_recovery = true;
        primary.count_in("replica", &standby);
        primary
    }

    #[test]
    fn an_index_that_nobody_uses_is_found_and_one_that_was_used_once_is_not() {
        let seen = server(vec![index("chunks_old", 0), index("chunks_new", 1)], 31.0);
        let finding = finding(ID, found_in(seen));
        assert_eq!((finding.severity, finding.offenders.len()), (Severity::Info, 1));
        assert!(finding.fix.ends_with("DROP INDEX CONCURRENTLY \"public\".\"chunks_old\";"), "{}", finding.fix);
    }

    #[test]
    fn what_is_needed_small_or_new_is_no_offender() {
        for other in [
            IndexUse { is_spare: false, ..index("a", 0) },
            IndexUse { size: 10 << 19, ..index("a", 0) },
            IndexUse { age: 99_999, ..index("a", 0) },
        ] {
            assert_eq!(found_in(server(vec![other.clone()], 90.0)), [], "{other:?}");
        }
    }

    #[test]
    fn an_index_that_only_a_standby_uses_stays() {
        assert_eq!(found_in(pair(0, 7, 90.0)), []);
        let finding = finding(ID, found_in(pair(0, 0, 40.0)));
        assert!(finding.summary.contains("used by no query here or on replica for 40 days"), "{}", finding.summary);
    }

    #[test]
    fn a_standby_that_was_not_asked_or_has_counted_for_too_short_makes_it_unknown() {
        let mut unasked = pair(0, 0, 90.0);
        unasked.usage.as_mut().unwrap().standbys.clear();
        let Status::Unknown(unknown) = status(ID, unasked, None) else { panic!("who knows what runs there") };
        assert!(unknown.reason.contains("1 of its 1 standbys"), "{unknown:?}");
        let Status::Unknown(unknown) = status(ID, pair(0, 0, 3.0), None) else { panic!("three days are too few") };
        assert!(unknown.reason.contains("on replica for 3 days only"), "{unknown:?}");
        let young = server(vec![index("a", 0)], 29.0);
        assert!(matches!(status(ID, young, None), Status::Unknown(_)));
        assert_eq!(status(ID, server(vec![index("a", 1)], 29.0), None), Status::Ok, "all are used, however young");
        let unread = change(|seen| seen.usage = Err(Gap::new("no")));
        assert!(matches!(status(ID, unread.clone(), None), Status::Unknown(_)));
        let mut standby = unread;
        standby.server.in_recovery = true;
        assert_eq!(status(ID, standby, None), Status::Ok, "the primary tells it");
        let mut cascading = pair(0, 0, 90.0);
        cascading.usage.as_mut().unwrap().standbys[0].attached = 1;
        assert!(matches!(status(ID, cascading, None), Status::Unknown(_)));
    }

    #[test]
    fn only_a_standby_of_the_same_cluster_and_database_is_counted_in() {
        let standby = || {
            let mut other = server(vec![index("chunks_old", 7)], 90.0);
            other.server.in_recovery = true;
            other
        };
        let counted = |other: Postgres| {
            let mut primary = server(vec![index("chunks_old", 0)], 90.0);
            primary.count_in("other", &other);
            primary.usage.unwrap().standbys.len()
        };
        assert_eq!(counted(standby()), 1);
        let mut foreign = standby();
        foreign.usage.as_mut().unwrap().cluster = "9".into();
        let mut elsewhere = standby();
        elsewhere.server.database = "reports".into();
        let mut primary = standby();
        primary.server.in_recovery = false;
        for other in [foreign, elsewhere, primary] {
            assert_eq!(counted(other), 0);
        }
    }

    #[test]
    fn more_indexes_than_were_read_are_unknown_unless_all_the_others_are_small() {
        let cut_off = |size| {
            let mut seen = server(vec![IndexUse { size, ..index("a", 5) }], 90.0);
            seen.usage.as_mut().unwrap().is_cut_off = true;
            status(ID, seen, None)
        };
        assert!(matches!(cut_off(20 << 20), Status::Unknown(_)));
        assert_eq!(cut_off(8_192), Status::Ok);
    }
}
