//! When is the server's disk full, and what fills it?
//!
//! Two questions, one finding: how much is free now, and when is nothing left at the pace of the last two weeks, or of this one
//! where that is more. A pace is only believed after days of history, and one bulk load or one vacuum makes none (see
//! [`crate::trend`]). Where the disk is seen, the pace is that of the disk itself: databases and WAL may lie elsewhere, and others
//! may fill it.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Disk, Postgres, SizeOf, Slot, Table};
use crate::quantity::{Unit, Value, format_bytes, format_number, format_seconds, seconds_between};
use crate::severity::Severity;
use crate::trend::{self, Point};
use jiff::Timestamp;

const DAY: f64 = 86_400.0;
const GIB: f64 = 1_073_741_824.0;
const OFFENDERS: usize = 10;
/// As long as the record can tell: it is asked for 14 days.
const LONGEST_HISTORY: f64 = 13.0 * DAY;
/// What grows by less in a day, of the free bytes, fills nothing within months.
const MATTERS: f64 = 0.01;
const TREND: &str = "the least of each of the last 14 days, and of the latest where they grew by more; median of the slopes of \
                     all pairs (Theil–Sen)";

pub static DISK_FILLING: Check = Check {
    id: "postgres.disk_filling",
    title: "The server's disk fills up",
    runbook: Runbook {
        means: "When the disk of the data directory is full, statements fail; when there is no room for WAL, the server stops and \
                does not start again before there is some. Where the disk is seen from here, it is that of the data \
                directory, whoever fills it; tablespaces, and a pg_wal that lies on another disk, have room of their own, \
                which is not looked at. Where only `disk` in the configuration tells its size, all databases with their \
                tablespaces and pg_wal count as if they were on it.",
        confirm: "df -h DATA_DIRECTORY DATA_DIRECTORY/pg_wal; SELECT spcname, pg_tablespace_location(oid) FROM pg_tablespace; \
                  SELECT datname, pg_size_pretty(pg_database_size(oid)) FROM pg_database ORDER BY \
                  pg_database_size(oid) DESC; SELECT oid::regclass, pg_size_pretty(pg_total_relation_size(oid)) FROM pg_class \
                  WHERE relkind IN ('r', 'm') ORDER BY pg_total_relation_size(oid) DESC LIMIT 20; SELECT \
                  pg_size_pretty(sum(size)) FROM pg_ls_waldir(); SELECT slot_name, active, wal_status, \
                  pg_size_pretty(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)) FROM pg_replication_slots;",
        act: "If pg_wal grows: start the consumer of the slot that keeps it, or mend archiving; never delete a file in pg_wal. \
              If a table grows: enlarge the volume first, then decide what is kept how long ([[postgres.NAME.retention]]). \
              Deleted rows make room inside of the table for new ones, and hardly ever on the disk. Dropping partitions gives \
              it back at once; so does DROP INDEX CONCURRENTLY of indexes that nobody uses. Not VACUUM FULL: it needs the room of a \
              second copy. In a hurry, free what is no file of the server's: logs, dumps, packages.",
    },
    source: "statvfs of data_directory, or the configured size less the databases and pg_wal; the record's samples",
    thresholds: &[
        Threshold {
            name: "critical",
            default: 2.0 * DAY,
            unit: Unit::Seconds,
            why: "until it is full: a weekend; who hears it on Friday still has to act before Monday",
        },
        Threshold {
            name: "warning",
            default: 14.0 * DAY,
            unit: Unit::Seconds,
            why: "until it is full: as far as the record looks back, and time to plan a larger volume or what may go",
        },
        Threshold {
            name: "critical_free",
            default: 5.0,
            unit: Unit::Percent,
            why: "of the disk free: check_postgres disk_space is critical at 95 % used; one sort or index build takes that",
        },
        Threshold {
            name: "warning_free",
            default: 10.0,
            unit: Unit::Percent,
            why: "of the disk free: check_postgres disk_space warns at 90 % used",
        },
        Threshold {
            name: "minimum_free",
            default: 50.0 * GIB,
            unit: Unit::Bytes,
            why: "with this much free the share says nothing: a tenth of 10 TB lasts for long; the pace is judged anyway",
        },
        Threshold {
            name: "history",
            default: 5.0 * DAY,
            unit: Unit::Seconds,
            why: "how long the record must look back: over a weekend and days of work, past any single load or vacuum; more \
                  than 13 days count as 13, which is all that is asked of the record",
        },
    ],
    hold: Hold::minutes(10.0, 10.0),
    judge: Judge::Postgres(disk_filling),
};

/// Bytes in a second.
struct Pace {
    /// What the date follows from: the disk's own where it is seen, and otherwise that of the two below.
    all: f64,
    databases: Option<f64>,
    wal: Option<f64>,
    source: &'static str,
}

fn disk_filling(sight: &Sight<'_, Postgres>) -> Judged {
    let Some(disk) = sight.seen.room.disk.as_ref()?.filter(|disk| disk.total > 0) else {
        return Err(Unknown {
            kind: UnknownKind::NotHere,
            reason: "the server's disk cannot be seen from here; say how large the disk of its data directory is with `disk = \
                     \"100 GiB\"` in its table of the configuration"
                .to_owned(),
        });
    };
    let pace = pace(sight, &disk);
    let (by_share, by_date) = (by_share(sight, &disk), pace.as_ref().and_then(|pace| by_date(sight, &disk, pace)));
    let worst = [&by_share, &by_date].into_iter().flatten().max_by_key(|found| found.severity);
    let Some(worst) = worst else {
        return match pace {
            Some(_) => Ok(Vec::new()),
            None => Err(Unknown {
                kind: UnknownKind::NeedsHistory,
                reason: format!(
                    "{}; how fast it fills is known after {} of the record",
                    room(&disk),
                    format_seconds(history(sight))
                ),
            }),
        };
    };
    let growers = growers(sight, &disk, pace.as_ref().filter(|_| by_date.is_some()));
    let mut draft = Draft::new(worst.severity, format!("{}{}", worst.said, growers.said()));
    for found in [&by_date, &by_share].into_iter().flatten() {
        draft = draft.against(found.what, found.value.clone(), found.limit.clone(), found.source);
    }
    draft = draft.saw("free", Value::bytes(disk.free), source(&disk));
    if let Some(pace) = &pace {
        for (what, part) in [("databases, more each day", pace.databases), ("pg_wal, more each day", pace.wal)] {
            if let Some(bytes) = part {
                draft = draft.saw(what, Value::bytes((bytes * DAY) as u64), TREND);
            }
        }
    }
    let fix = growers.fix(sight);
    Ok(vec![draft.offenders(growers.list.into_iter().map(|grower| grower.offender).collect()).fix(fix)])
}

/// One of the two reasons.
struct Found {
    severity: Severity,
    said: String,
    what: &'static str,
    value: Value,
    limit: Value,
    source: &'static str,
}

fn by_share(sight: &Sight<'_, Postgres>, disk: &Disk) -> Option<Found> {
    if disk.free as f64 >= sight.limit("minimum_free") {
        return None;
    }
    let share = disk.free as f64 * 100.0 / disk.total as f64;
    let (severity, limit) = [("critical_free", Severity::Critical), ("warning_free", Severity::Warning)]
        .into_iter()
        .map(|(name, severity)| (severity, sight.limit(name)))
        .find(|(_, limit)| share < *limit)?;
    Some(Found {
        severity,
        said: format!("{} ({})", room(disk), format_number(share, Unit::Percent)),
        what: "free share",
        value: Value::percent(share),
        limit: Value::percent(limit),
        source: source(disk),
    })
}

fn by_date(sight: &Sight<'_, Postgres>, disk: &Disk, pace: &Pace) -> Option<Found> {
    let full = trend::used_up(sight.now, disk.free as f64, pace.all)?;
    let left = seconds_between(sight.now, full);
    let (severity, limit) = sight.graded_below(left)?;
    Some(Found {
        severity,
        said: format!(
            "{}, and each day takes {} more: full in {}, on {}",
            room(disk),
            format_bytes(pace.all * DAY),
            format_seconds(left),
            full.strftime("%Y-%m-%d")
        ),
        what: "full in",
        value: Value::seconds(left),
        limit: Value::seconds(limit),
        source: pace.source,
    })
}

fn room(disk: &Disk) -> String {
    let (free, total) = (format_bytes(disk.free as f64), format_bytes(disk.total as f64));
    let counted = match disk.tablespaces {
        0 => String::new(),
        1 => " (1 tablespace counts as on it)".to_owned(),
        many => format!(" ({many} tablespaces count as on it)"),
    };
    format!("the disk of the data directory has {free} free of {total}{counted}")
}

fn history(sight: &Sight<'_, Postgres>) -> f64 {
    sight.limit("history").min(LONGEST_HISTORY)
}

fn source(disk: &Disk) -> &'static str {
    if disk.is_told { "disk in the configuration, less pg_database_size and pg_ls_waldir" } else { "statvfs" }
}

/// None without enough history, or where the record ends days ago.
fn pace(sight: &Sight<'_, Postgres>, disk: &Disk) -> Option<Pace> {
    let (known, history) = (&sight.seen.room, history(sight));
    let growth = |days: &[Point]| {
        let is_fresh = seconds_between(days.last()?.at, sight.now) <= 2.0 * DAY;
        trend::present_growth(days, history, history + DAY).filter(|_| is_fresh).map(|growth| growth.max(0.0))
    };
    let databases = growth(&trend::sum(known.all_past(SizeOf::Database).map(|sizes| sizes.days.as_slice())));
    let wal = known.past_of(SizeOf::Wal, "").and_then(growth);
    let (all, source) = if disk.is_told {
        (databases? + wal.unwrap_or(0.0), "pg_database_size and pg_ls_waldir by the record")
    } else {
        (growth(known.past_of(SizeOf::Disk, "")?)?, "statvfs of data_directory by the record")
    };
    Some(Pace { all, databases, wal, source })
}

/// What takes the room: what grew most where that matters, and the largest otherwise.
struct Growers<'a> {
    list: Vec<Grower<'a>>,
    /// Most of the growth that the date follows from is neither a database's nor that of `pg_wal`.
    is_other: bool,
}

struct Grower<'a> {
    offender: Offender,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Table(&'a Table),
    Database(&'a str),
    /// With the slot that keeps most of it.
    Wal(Option<(&'a Slot, u64)>),
}

/// Something that takes room: bytes now, and bytes more in a day where the record knows it.
struct Taking<'a> {
    kind: Kind<'a>,
    size: u64,
    per_day: Option<f64>,
}

/// `pace` where a date follows from it.
fn growers<'a>(sight: &Sight<'a, Postgres>, disk: &Disk, pace: Option<&Pace>) -> Growers<'a> {
    let mut all = takers(sight);
    let together: f64 = all.iter().filter_map(|taking| taking.per_day).map(|bytes| bytes.max(0.0)).sum();
    // Of a full disk nothing is free, and then the same share of a hundredth of it.
    let grows = together >= (disk.free as f64).max(disk.total as f64 * 0.01) * MATTERS
        || pace.is_some_and(|pace| together * 2.0 >= pace.all * DAY);
    let of_server = pace.map(|pace| pace.databases.unwrap_or(0.0) + pace.wal.unwrap_or(0.0));
    let is_other = pace.zip(of_server).is_some_and(|(pace, of_server)| of_server * 2.0 < pace.all);
    let weight = |taking: &Taking<'_>| if grows { taking.per_day.unwrap_or(0.0) } else { taking.size as f64 };
    all.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
    all.retain(|taking| weight(taking) > 0.0);
    let list = all.into_iter().take(OFFENDERS).map(|taking| {
        let (weight, note) = (weight(&taking), note(&taking));
        let target = target(sight, &taking.kind);
        Grower { offender: Offender { target, weight, note }, kind: taking.kind }
    });
    Growers { list: list.collect(), is_other }
}

fn takers<'a>(sight: &Sight<'a, Postgres>) -> Vec<Taking<'a>> {
    let (seen, known) = (sight.seen, &sight.seen.room);
    let per_day = |of, name: &str| known.past_of(of, name).and_then(|days| daily(days, sight.now));
    let mut all = Vec::new();
    for table in seen.tables.iter().flatten() {
        let name = format!("{}.{}", table.schema, table.name);
        all.push(Taking { kind: Kind::Table(table), size: table.size, per_day: per_day(SizeOf::Table, &name) });
    }
    // The connected one is told by its tables.
    for other in seen.databases.iter().flatten().filter(|other| other.name != seen.server.database) {
        let (name, size) = (other.name.as_str(), other.size.unwrap_or(0));
        all.push(Taking { kind: Kind::Database(name), size, per_day: per_day(SizeOf::Database, name) });
    }
    if let Ok(size) = known.wal {
        let slots = seen.horizon.iter().flat_map(|horizon| &horizon.slots);
        let keeping = slots.filter_map(|slot| Some((slot, slot.retained?))).max_by_key(|(_, kept)| *kept);
        // Less than half of it is no reason why it is there.
        let keeping = keeping.filter(|(_, kept)| *kept * 2 > size);
        all.push(Taking { kind: Kind::Wal(keeping), size, per_day: per_day(SizeOf::Wal, "") });
    }
    all
}

/// Bytes more in a day over the whole of the history, one load included: it is told what grew, not what will. None where the
/// history is shorter than a day or long past.
fn daily(days: &[Point], now: Timestamp) -> Option<f64> {
    let is_fresh = days.last().is_some_and(|last| seconds_between(last.at, now) < 2.0 * DAY);
    let span = trend::span(days);
    (is_fresh && span >= DAY).then(|| trend::difference(days) / span * DAY)
}

fn note(taking: &Taking<'_>) -> String {
    let name = match &taking.kind {
        Kind::Table(table) => format!("{}.{} with its indexes", table.schema, table.name),
        Kind::Database(name) => format!("database {name}"),
        Kind::Wal(None) => "pg_wal".to_owned(),
        Kind::Wal(Some((slot, kept))) => {
            format!("pg_wal, of which the slot {} keeps {}", slot.name, format_bytes(*kept as f64))
        }
    };
    let growth = match taking.per_day {
        Some(bytes) if bytes > 0.0 => format!(", {} more a day", format_bytes(bytes)),
        _ => String::new(),
    };
    format!("{name}: {}{growth}", format_bytes(taking.size as f64))
}

fn target(sight: &Sight<'_, Postgres>, kind: &Kind<'_>) -> Target {
    let database = sight.seen.server.database.clone();
    match kind {
        Kind::Table(table) => Target::Table { database, schema: table.schema.clone(), name: table.name.clone() },
        Kind::Database(name) => Target::Database { name: (*name).to_owned() },
        Kind::Wal(_) => Target::System,
    }
}

impl Growers<'_> {
    /// Behind the summary.
    fn said(&self) -> String {
        if self.is_other {
            return "; most of that is neither a database nor pg_wal".to_owned();
        }
        self.list.first().map(|first| format!("; first {}", first.offender.note)).unwrap_or_default()
    }

    fn fix(&self, sight: &Sight<'_, Postgres>) -> String {
        match self.list.first().map(|first| &first.kind).filter(|_| !self.is_other) {
            Some(Kind::Wal(Some((slot, _)))) => format!(
                "Start the consumer of the slot {} or find out why it is slow; only if it is gone for good: SELECT \
                 pg_drop_replication_slot({}); Delete no file in pg_wal.",
                slot.name,
                super::horizon::literal(&slot.name)
            ),
            Some(Kind::Wal(None)) => "See whether archiving fails, which keeps WAL: SELECT * FROM pg_stat_archiver; and what \
                                      SHOW wal_keep_size and SHOW max_wal_size say. Delete no file in pg_wal."
                .to_owned(),
            Some(Kind::Table(table)) => format!(
                "Enlarge the volume, and decide how long the rows of {}.{} are kept ([[postgres.NAME.retention]]); its parts, in \
                 database {}: SELECT pg_size_pretty(pg_table_size({name})), pg_size_pretty(pg_indexes_size({name}));",
                table.schema,
                table.name,
                sight.seen.server.database,
                name = super::horizon::literal(&written(table))
            ),
            Some(Kind::Database(name)) => format!(
                "Enlarge the volume; the largest of database {name}, asked there: SELECT oid::regclass, \
                 pg_size_pretty(pg_total_relation_size(oid)) FROM pg_class WHERE relkind IN ('r', 'm') ORDER BY \
                 pg_total_relation_size(oid) DESC LIMIT 20;"
            ),
            None => "Enlarge the volume; look for what is no file of the server's: du -xh --max-depth=2 / | sort -rh | head -20."
                .to_owned(),
        }
    }
}

fn written(table: &Table) -> String {
    use crate::remedy::quoted;
    format!("{}.{}", quoted(&table.schema), quoted(&table.name))
}

#[cfg(test)]
mod tests;
