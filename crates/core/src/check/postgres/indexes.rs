//! Indexes that cost and give nothing back, and the one that is missing.

use super::schema::seen_on_primary;
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{ForeignKey, Index, Postgres, TableName};
use crate::quantity::{Unit, Value, format_bytes, format_count};
use crate::remedy::{is_rest_of_reindex, quoted};
use crate::severity::Severity;
use std::collections::BTreeMap;

const INDEXES: &str = "pg_index and pg_class of the connected database";
const SMALL: &str = "below 1 MiB an index costs next to nothing, on disk and at each write";
const MINIMUM_SIZE: Threshold = Threshold { name: "minimum_size", default: 1_048_576.0, unit: Unit::Bytes, why: SMALL };

pub static INDEX_INVALID: Check = Check {
    id: "postgres.index_invalid",
    title: "An index is invalid: it costs every write and helps no query",
    runbook: Runbook {
        means: "CREATE INDEX CONCURRENTLY or REINDEX CONCURRENTLY was interrupted or failed (a deadlock, a value that \
                is not unique) and left its index behind. Queries do not use it, writes may still maintain it, and the \
                query that it was made for is as slow as before.",
        confirm: "SELECT indexrelid::regclass, indrelid::regclass FROM pg_index WHERE NOT indisvalid; and, to see that \
                  none of them is being built: SELECT * FROM pg_stat_progress_create_index;",
        act: "An index whose name ends in _ccnew or _ccold (or with a number after that) is what a REINDEX left: DROP \
              INDEX CONCURRENTLY it. Any other one: REINDEX INDEX CONCURRENTLY, after the cause is mended; for a unique \
              index those are the rows that are there twice.",
    },
    source: "pg_index.indisvalid, without those in pg_stat_progress_create_index",
    thresholds: &[],
    hold: Hold::minutes(10.0, 0.0),
    judge: Judge::Postgres(index_invalid),
};

fn index_invalid(sight: &Sight<'_, Postgres>) -> Judged {
    let indexes = seen_on_primary(sight, |structure| &structure.indexes)?;
    let left: Vec<&Index> =
        indexes.into_iter().flatten().filter(|index| !index.is_valid && !index.is_being_built).collect();
    let Some(first) = left.first() else { return Ok(Vec::new()) };
    let (count, verb) = counted(left.len(), "index", "indexes");
    let fix = if is_rest_of_reindex(&first.name) {
        format!("In database {}: DROP INDEX CONCURRENTLY {};", sight.seen.server.database, whole_name(first))
    } else {
        format!(
            "In database {}: REINDEX INDEX CONCURRENTLY {index}; or, if nobody needs it, DROP INDEX CONCURRENTLY {index};",
            sight.seen.server.database,
            index = whole_name(first)
        )
    };
    let offenders = left.iter().map(|index| {
        let kind = if is_rest_of_reindex(&index.name) { "left by a REINDEX" } else { "left unfinished" };
        of_index(sight, index, format!("{}, {kind}, {}", index.name, bytes(index)))
    });
    let draft = Draft::new(
        Severity::Warning,
        format!(
            "{count} of {} {verb} invalid and not being built, {} among them",
            sight.seen.server.database, first.name
        ),
    )
    .about(Target::Database { name: sight.seen.server.database.clone() })
    .saw("invalid", Value::count(left.len() as f64), INDEX_INVALID.source)
    .offenders(offenders.collect())
    .fix(fix);
    Ok(vec![draft])
}

pub static INDEX_DUPLICATE: Check = Check {
    id: "postgres.index_duplicate",
    title: "Two indexes are the same",
    runbook: Runbook {
        means: "Two indexes of a table have the same columns in the same order with the same options. Every write \
                maintains both, both fill memory and disk, and no query gains anything by the second.",
        confirm: "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'TABLE';",
        act: "DROP INDEX CONCURRENTLY the one that no constraint rests on. Look first whether a migration or an ORM \
              would make it again.",
    },
    source: INDEXES,
    thresholds: &[MINIMUM_SIZE],
    hold: Hold::NONE,
    judge: Judge::Postgres(index_duplicate),
};

fn index_duplicate(sight: &Sight<'_, Postgres>) -> Judged {
    let indexes = seen_on_primary(sight, |structure| &structure.indexes)?;
    let minimum = sight.limit("minimum_size");
    let mut same: BTreeMap<(&TableName, Shape<'_>), Vec<&Index>> = BTreeMap::new();
    for index in indexes.into_iter().flatten().filter(|index| index.is_valid && !index.is_partition) {
        same.entry((&index.table, Shape::of(index))).or_default().push(index);
    }
    let mut spare: Vec<(&Index, &Index)> = Vec::new();
    for mut group in same.into_values() {
        group.sort_by_key(|index| (!index.is_needed, !index.is_unique, index.name.as_str()));
        let Some((kept, others)) = group.split_first() else { continue };
        let is_spare = |index: &&&Index| {
            index.size as f64 >= minimum && ((!index.is_unique && !index.is_needed) || index.rule == kept.rule)
        };
        spare.extend(others.iter().filter(is_spare).map(|index| (*index, *kept)));
    }
    let told = |index: &Index, kept: &Index| format!("{} is the same as {}, {}", index.name, kept.name, bytes(index));
    all_listed(sight, superfluous(sight, &spare, Severity::Warning, &INDEX_DUPLICATE, &told))
}

pub static INDEX_OVERLAPPING: Check = Check {
    id: "postgres.index_overlapping",
    title: "An index is the beginning of another one",
    runbook: Runbook {
        means: "All columns of one index are the first columns of another one of the same table. Queries that use the \
                shorter one can use the longer one as well; every write maintains both.",
        confirm: "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'TABLE';",
        act: "If the longer one is not much larger, DROP INDEX CONCURRENTLY the shorter one, and watch the queries of \
              that table for a day. A short index on a very busy table may be wanted: then switch this check off for it.",
    },
    source: INDEXES,
    thresholds: &[MINIMUM_SIZE],
    hold: Hold::NONE,
    judge: Judge::Postgres(index_overlapping),
};

fn index_overlapping(sight: &Sight<'_, Postgres>) -> Judged {
    let indexes = seen_on_primary(sight, |structure| &structure.indexes)?;
    let minimum = sight.limit("minimum_size");
    let mut of_table: BTreeMap<&TableName, Vec<&Index>> = BTreeMap::new();
    for index in indexes.into_iter().flatten().filter(|index| index.is_valid && !index.is_partition) {
        of_table.entry(&index.table).or_default().push(index);
    }
    let mut spare = Vec::new();
    for indexes in of_table.values() {
        for short in indexes.iter().filter(|index| index.size as f64 >= minimum) {
            if let Some(long) = indexes.iter().find(|long| begins(short, long)) {
                spare.push((*short, *long));
            }
        }
    }
    let told =
        |index: &Index, long: &Index| format!("{} is the beginning of {}, {}", index.name, long.name, bytes(index));
    all_listed(sight, superfluous(sight, &spare, Severity::Info, &INDEX_OVERLAPPING, &told))
}

/// Whether a query that uses `short` could use `long`. Only B-trees are ordered by their first columns.
fn begins(short: &Index, long: &Index) -> bool {
    let is_plain = |index: &Index| index.method == "btree" && index.expressions.is_empty();
    let has_column = |column: &i32| {
        let of_key = |key: &String| key.split(' ').next().and_then(|number| number.parse().ok()) == Some(*column);
        long.included.contains(column) || long.keys.iter().any(of_key)
    };
    is_plain(short)
        && is_plain(long)
        && !short.is_unique
        && !short.is_needed
        && short.predicate == long.predicate
        && short.keys.len() < long.keys.len()
        && long.keys.starts_with(&short.keys)
        && short.included.iter().all(has_column)
}

/// Both readings of indexes end at the largest 5,000; finding nothing among those proves nothing about the others.
fn all_listed(sight: &Sight<'_, Postgres>, drafts: Vec<Draft>) -> Judged {
    match &sight.seen.usage {
        Ok(usage) if drafts.is_empty() && !sight.seen.server.in_recovery => {
            super::usage::all_listed(usage, sight.limit("minimum_size"))
        }
        _ => Ok(drafts),
    }
}

/// What two indexes have in common that do the same.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Shape<'i> {
    method: &'i str,
    keys: &'i [String],
    included: &'i [i32],
    expressions: &'i str,
    predicate: &'i str,
}

impl<'i> Shape<'i> {
    fn of(index: &'i Index) -> Self {
        Self {
            method: &index.method,
            keys: &index.keys,
            included: &index.included,
            expressions: &index.expressions,
            predicate: &index.predicate,
        }
    }
}

/// One finding for all: what could be dropped, and for the sake of which other index.
fn superfluous(
    sight: &Sight<'_, Postgres>,
    spare: &[(&Index, &Index)],
    severity: Severity,
    check: &'static Check,
    told: &dyn Fn(&Index, &Index) -> String,
) -> Vec<Draft> {
    let mut spare = spare.to_vec();
    spare.sort_by_key(|(index, _)| std::cmp::Reverse(index.size));
    let Some((largest, other)) = spare.first().copied() else { return Vec::new() };
    let all: u64 = spare.iter().map(|(index, _)| index.size).sum();
    let database = &sight.seen.server.database;
    let (count, verb) = counted(spare.len(), "index", "indexes");
    let offenders = spare.iter().map(|(index, kept)| of_index(sight, index, told(index, kept)));
    let fix = if largest.is_needed {
        format!(
            "Something rests on both {} and {} (a constraint, a foreign key or the replica identity): look which one can \
             move to the other before either is dropped.",
            largest.name, other.name
        )
    } else {
        format!("In database {database}: DROP INDEX CONCURRENTLY {}; {} stays.", whole_name(largest), other.name)
    };
    let draft = Draft::new(
        severity,
        format!(
            "{count} of {database} {verb} superfluous and {} {}: {}",
            if spare.len() == 1 { "takes" } else { "take" },
            format_bytes(all as f64),
            told(largest, other)
        ),
    )
    .about(Target::Database { name: database.clone() })
    .against(
        "size of the largest",
        Value::bytes(largest.size),
        Value::bytes(sight.limit("minimum_size") as u64),
        check.source,
    )
    .saw("all together", Value::bytes(all), check.source)
    .offenders(offenders.collect())
    .fix(fix);
    vec![draft]
}

pub static FOREIGN_KEY_WITHOUT_INDEX: Check = Check {
    id: "postgres.foreign_key_without_index",
    title: "A foreign key has no index",
    runbook: Runbook {
        means: "Each time a row of the table that is referred to is deleted or its key changes, Postgres looks for rows \
                that refer to it. Without an index it reads the whole table each time, with locks held: deletes that \
                should take a millisecond take seconds.",
        confirm: "SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f';",
        act: "CREATE INDEX CONCURRENTLY on the columns of the key. Where rows of the other table are never deleted and \
              their keys never change, switch the check off.",
    },
    source: "pg_constraint (contype f) against pg_index",
    thresholds: &[Threshold {
        name: "minimum_rows",
        default: 10_000.0,
        unit: Unit::Count,
        why: "a table of fewer rows is read in a millisecond or two",
    }],
    hold: Hold::NONE,
    judge: Judge::Postgres(foreign_key_without_index),
};

fn foreign_key_without_index(sight: &Sight<'_, Postgres>) -> Judged {
    let keys = seen_on_primary(sight, |structure| &structure.foreign_keys)?;
    let minimum = sight.limit("minimum_rows");
    let rows = |key: &ForeignKey| key.rows.unwrap_or(0.0);
    let mut late: Vec<&ForeignKey> =
        keys.into_iter().flat_map(|keys| &keys.unindexed).filter(|key| rows(key) >= minimum).collect();
    late.sort_by(|a, b| rows(b).total_cmp(&rows(a)));
    let Some(worst) = late.first() else { return Ok(Vec::new()) };
    let database = &sight.seen.server.database;
    let (count, verb) = if late.len() == 1 {
        ("1 foreign key".to_owned(), "has")
    } else {
        (format!("{} foreign keys", late.len()), "have")
    };
    let offenders = late.iter().map(|key| {
        let note = format!(
            "{} ({}) to {}, {} rows",
            key.name,
            key.columns.join(", "),
            key.referenced,
            format_count(rows(key))
        );
        offender(sight, &key.table, rows(key), note)
    });
    let columns: Vec<String> = worst.columns.iter().map(|column| quoted(column)).collect();
    let on = format!("{}.{} ({})", quoted(&worst.table.schema), quoted(&worst.table.name), columns.join(", "));
    let fix = if worst.is_partitioned {
        format!(
            "In database {database}: CREATE INDEX CONCURRENTLY on each partition, then CREATE INDEX ON ONLY {on}; and ALTER \
             INDEX … ATTACH PARTITION for each."
        )
    } else {
        format!("In database {database}: CREATE INDEX CONCURRENTLY ON {on};")
    };
    let draft = Draft::new(
        Severity::Warning,
        format!(
            "{count} of {database} {verb} no index: each delete from {} reads all {} rows of {}",
            worst.referenced,
            format_count(rows(worst)),
            worst.table
        ),
    )
    .about(Target::Database { name: database.clone() })
    .against(
        "rows of the table that is read",
        Value::count(rows(worst)),
        Value::count(minimum),
        FOREIGN_KEY_WITHOUT_INDEX.source,
    )
    .offenders(offenders.collect())
    .fix(fix);
    Ok(vec![draft])
}

fn of_index(sight: &Sight<'_, Postgres>, index: &Index, note: String) -> Offender {
    let target = Target::Index {
        database: sight.seen.server.database.clone(),
        schema: index.table.schema.clone(),
        table: index.table.name.clone(),
        name: index.name.clone(),
    };
    Offender { target, weight: index.size as f64, note }
}

fn offender(sight: &Sight<'_, Postgres>, table: &TableName, weight: f64, note: String) -> Offender {
    let target = Target::Table {
        database: sight.seen.server.database.clone(),
        schema: table.schema.clone(),
        name: table.name.clone(),
    };
    Offender { target, weight, note }
}

fn counted(count: usize, one: &str, many: &str) -> (String, &'static str) {
    if count == 1 { (format!("1 {one}"), "is") } else { (format!("{count} {many}"), "are") }
}

fn bytes(index: &Index) -> String {
    format_bytes(index.size as f64)
}

fn whole_name(index: &Index) -> String {
    format!("{}.{}", quoted(&index.table.schema), quoted(&index.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, index, status, table_name};

    fn with_indexes(indexes: Vec<Index>) -> Postgres {
        change(|seen| seen.structure.indexes = Ok(indexes))
    }

    fn invalid(name: &str) -> Index {
        Index { is_valid: false, ..index(name, &[2]) }
    }

    #[test]
    fn an_invalid_index_is_found_unless_somebody_builds_it() {
        let building = Index { is_being_built: true, ..invalid("chunks_new") };
        assert_eq!(found_in(with_indexes(vec![building.clone()])), []);
        let finding = finding("postgres.index_invalid", found_in(with_indexes(vec![building, invalid("chunks_old")])));
        assert!(finding.summary.starts_with("1 index of docrag is invalid"), "{}", finding.summary);
        assert!(finding.fix.contains("REINDEX INDEX CONCURRENTLY \"public\".\"chunks_old\""), "{}", finding.fix);
    }

    #[test]
    fn what_a_reindex_left_is_dropped_and_not_built_again() {
        for name in ["chunks_body_ccnew", "chunks_body_ccold3"] {
            let finding = finding("postgres.index_invalid", found_in(with_indexes(vec![invalid(name)])));
            assert!(
                finding.fix.contains("DROP INDEX CONCURRENTLY") && !finding.fix.contains("REINDEX"),
                "{}",
                finding.fix
            );
        }
    }

    #[test]
    fn of_two_that_are_the_same_the_one_without_a_constraint_can_go() {
        let needed = Index { is_needed: true, is_unique: true, ..index("z_pkey", &[1]) };
        let seen = with_indexes(vec![index("a_id", &[1]), needed]);
        let finding = finding("postgres.index_duplicate", found_in(seen));
        assert!(finding.fix.contains("DROP INDEX CONCURRENTLY \"public\".\"a_id\""), "{}", finding.fix);
        assert!(finding.offenders[0].note.contains("is the same as z_pkey"), "{:?}", finding.offenders);
    }

    #[test]
    fn two_constraints_on_the_same_columns_are_told_as_such() {
        let needed = |name: &str| Index { is_needed: true, is_unique: true, ..index(name, &[1]) };
        let finding = finding("postgres.index_duplicate", found_in(with_indexes(vec![needed("a"), needed("b")])));
        assert!(finding.fix.contains("Something rests on both b and a"), "{}", finding.fix);
    }

    #[test]
    fn a_unique_index_that_treats_nulls_otherwise_is_no_duplicate() {
        let kept = Index { is_needed: true, is_unique: true, rule: "t t f".into(), ..index("a", &[1]) };
        let stricter = Index { is_unique: true, rule: "t t t".into(), ..index("b", &[1]) };
        assert_eq!(found_in(with_indexes(vec![kept.clone(), stricter])), []);
        assert_eq!(found_in(with_indexes(vec![kept, index("plain", &[1])])).len(), 1);
    }

    #[test]
    fn nothing_found_among_a_part_of_the_indexes_is_unknown() {
        let mut seen = with_indexes(vec![index("a", &[1])]);
        seen.usage.as_mut().unwrap().is_cut_off = true;
        assert_eq!(status("postgres.index_duplicate", seen.clone(), None), Status::Ok, "the others are small");
        seen.usage.as_mut().unwrap().indexes = vec![crate::observation::IndexUse {
            table: table_name("chunks"),
            name: "a".into(),
            size: 2 << 20,
            scans: 1,
            age: 1,
            is_spare: true,
        }];
        for check in ["postgres.index_duplicate", "postgres.index_overlapping"] {
            assert!(matches!(status(check, seen.clone(), None), Status::Unknown(_)), "{check}");
        }
    }

    #[test]
    fn a_standby_shows_what_its_primary_builds_and_is_not_judged() {
        let mut seen = with_indexes(vec![invalid("chunks_new")]);
        seen.server.in_recovery = true;
        assert!(matches!(status("postgres.index_invalid", seen, None), Status::Ok));
    }

    #[test]
    fn what_differs_in_anything_is_no_duplicate() {
        let base = index("a", &[1, 2]);
        for other in [
            Index { table: table_name("documents"), ..base.clone() },
            Index { method: "hash".into(), ..base.clone() },
            Index { keys: vec!["1 1978 0 0".into(), "2 1978 0 3".into()], ..base.clone() },
            Index { included: vec![5], ..base.clone() },
            Index { expressions: "lower(body)".into(), ..base.clone() },
            Index { predicate: "(deleted_at IS NULL)".into(), ..base.clone() },
            Index { is_valid: false, is_being_built: true, ..base.clone() },
            Index { is_partition: true, ..base.clone() },
            Index { size: 1_048_575, ..base.clone() },
        ] {
            let other = Index { name: "b".into(), ..other };
            assert_eq!(found_in(with_indexes(vec![base.clone(), other.clone()])), [], "{other:?}");
        }
    }

    #[test]
    fn the_beginning_of_a_longer_index_is_superfluous() {
        let seen = with_indexes(vec![index("long", &[1, 2]), index("short", &[1])]);
        let finding = finding("postgres.index_overlapping", found_in(seen));
        assert_eq!(finding.severity, Severity::Info);
        assert!(finding.fix.contains("\"short\"; long stays"), "{}", finding.fix);
        let included = Index { included: vec![2], ..index("short", &[1]) };
        assert_eq!(found_in(with_indexes(vec![index("long", &[1, 2]), included])).len(), 1);
    }

    #[test]
    fn an_index_that_does_more_than_begin_another_stays() {
        let short = index("short", &[1]);
        for other in [
            Index { is_unique: true, ..short.clone() },
            Index { is_needed: true, ..short.clone() },
            Index { method: "hnsw".into(), ..short.clone() },
            Index { predicate: "(id > 5)".into(), ..short.clone() },
            Index { included: vec![9], ..short.clone() },
            Index { keys: vec!["2 1978 0 0".into()], ..short.clone() },
        ] {
            assert_eq!(found_in(with_indexes(vec![index("long", &[1, 2]), other.clone()])), [], "{other:?}");
        }
    }

    fn key(rows: Option<f64>) -> ForeignKey {
        ForeignKey {
            table: table_name("chunks"),
            name: "chunks_document_fkey".into(),
            columns: vec!["tenant".into(), "document".into()],
            referenced: table_name("documents"),
            is_partitioned: false,
            rows,
        }
    }

    #[test]
    fn a_foreign_key_needs_an_index_once_its_table_is_large() {
        let seen = |rows| change(|seen| seen.structure.foreign_keys.as_mut().unwrap().unindexed = vec![key(rows)]);
        assert_eq!(found_in(seen(Some(9_999.0))), []);
        assert_eq!(found_in(seen(None)), []);
        let finding = finding("postgres.foreign_key_without_index", found_in(seen(Some(10_000.0))));
        assert!(
            finding.fix.ends_with("CREATE INDEX CONCURRENTLY ON \"public\".\"chunks\" (\"tenant\", \"document\");"),
            "{}",
            finding.fix
        );
    }
}
