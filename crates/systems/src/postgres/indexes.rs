//! Reads the indexes of the connected database, what each is made of and how often it was used, and of which cluster this
//! server is a part.

use super::observe::{Asking, count, get, unsigned};
use super::structure::{OURS, table};
use groundskeeper_core::observation::{Gap, Index, IndexUsage, IndexUse, Part};
use std::cmp::Reverse;
use tokio_postgres::Row;

const MOST: usize = 5_000;
/// What is invalid is never cut off, and then the largest are taken.
const SORTED: &str = "ORDER BY i.indisvalid, x.relpages DESC, 1, 3";

/// After a crash all counters begin again, and with them those of the background writer. A receiver of WAL replays
/// nothing, and a logical subscriber is no copy of this server. A slot that nobody streams from waits for its standby, which
/// may be away for a moment only; our own receiver of WAL is none.
const CLUSTER: &str = "
SELECT (SELECT system_identifier::text FROM pg_control_system()) AS cluster,
       (SELECT greatest(d.stats_reset, b.stats_reset) FROM pg_stat_database d, pg_stat_bgwriter b
         WHERE d.datname = current_database()) AS since,
       ((SELECT count(*) FROM pg_stat_replication r
         WHERE r.replay_lsn IS NOT NULL AND r.state <> 'backup'
           AND NOT EXISTS (SELECT 1 FROM pg_replication_slots s
                            WHERE s.active_pid = r.pid AND s.slot_type = 'logical'))
        + (SELECT count(*) FROM pg_replication_slots
            WHERE slot_type = 'physical' AND NOT active AND NOT temporary AND slot_name <> 'groundskeeper_wal'))::int8 AS attached,
       EXISTS (SELECT 1 FROM pg_stat_replication r WHERE r.state IS NULL) AS hidden";

/// A build of somebody whose progress is hidden from us may be that of any index. Expressions are compared as the catalogue
/// stores them, without the places in the statement that they came from: to write them as SQL the server would lock the
/// table. Which indexes a foreign key is looked up by is asked once for all of them.
///
/// An order is given where there are more than can be taken; to sort what is taken anyway would be a quarter of the work.
fn indexes(version_num: u32, order: &str) -> String {
    let nulls = if version_num >= 150_000 { "i.indnullsnotdistinct" } else { "false" };
    format!(
        "SELECT n.nspname::text AS schema, t.relname::text AS table_name, x.relname::text AS name, am.amname::text AS method,
       current_setting('block_size')::int8 * x.relpages AS size,
       coalesce(pg_stat_get_numscans(x.oid), 0)::int8 AS scans, age(i.xmin)::int8 AS age,
       i.indisvalid AS valid,
       CASE WHEN i.indisvalid THEN false ELSE EXISTS (
         SELECT 1 FROM pg_stat_progress_create_index p
          WHERE p.datname = current_database() AND (p.relid = t.oid OR p.relid IS NULL)) END AS being_built,
       i.indisunique AS is_unique,
       i.indisprimary OR i.indisexclusion OR i.indisreplident
         OR x.oid IN (SELECT conindid FROM pg_constraint WHERE conindid <> 0) AS needed,
       x.oid IN (
         SELECT k.indexrelid FROM pg_constraint c JOIN pg_index k ON k.indrelid = c.conrelid
          WHERE c.contype = 'f' AND cardinality(c.conkey) <= k.indnkeyatts
            AND (k.indkey::int2[])[0:cardinality(c.conkey) - 1] @> c.conkey) AS serves_key,
       x.relispartition AS partition,
       i.indnkeyatts::int4 AS searchable, i.indkey::text AS columns, i.indclass::text AS classes,
       i.indcollation::text AS collations, i.indoption::text AS options,
       CASE WHEN i.indisexclusion THEN x.oid::text
            ELSE concat_ws(' ', i.indisunique, i.indimmediate, {nulls}) END AS rule,
       coalesce(md5(regexp_replace(i.indexprs::text, ':location -?[0-9]+', '', 'g')), '') AS expressions,
       coalesce(md5(regexp_replace(i.indpred::text, ':location -?[0-9]+', '', 'g')), '') AS predicate
  FROM pg_index i
  JOIN pg_class x ON x.oid = i.indexrelid
  JOIN pg_am am ON am.oid = x.relam
  JOIN pg_class t ON t.oid = i.indrelid
  JOIN pg_namespace n ON n.oid = t.relnamespace
 WHERE x.relkind = 'i' AND {OURS}
 {order} LIMIT {}",
        MOST + 1
    )
}

/// What each is made of, and how it is used. `there_are` so many in all.
pub(super) async fn read(
    asking: &Asking<'_>,
    version_num: u32,
    there_are: u64,
) -> (Part<Vec<Index>>, Part<Box<IndexUsage>>) {
    // One that came since is one more in an order of its own, at worst.
    let sql = indexes(version_num, if there_are > MOST as u64 { SORTED } else { "" });
    let (cluster, read) = tokio::join!(
        asking.one(CLUSTER, |row| Ok((cluster(row)?, get(row, "hidden")?))),
        asking.many(&sql, |row| {
            let index = index(row)?;
            Ok((usage(row, &index)?, index))
        }),
    );
    let (uses, indexes): (Vec<IndexUse>, Vec<Index>) = match read {
        Ok(mut read) => {
            read.sort_by_cached_key(|(_, index)| place(index));
            read.into_iter().unzip()
        }
        Err(gap) => return (Err(gap.clone()), Err(gap)),
    };
    let is_cut_off = indexes.len() > MOST;
    let used = cluster.and_then(|(cluster, is_hidden)| used(cluster, is_hidden, uses, is_cut_off));
    (Ok(indexes.into_iter().take(MOST).collect()), used)
}

/// As [`SORTED`].
fn place(index: &Index) -> (bool, Reverse<u64>, String, String) {
    (index.is_valid, Reverse(index.size), index.table.schema.clone(), index.name.clone())
}

/// The largest come first.
fn used(cluster: IndexUsage, is_hidden: bool, mut uses: Vec<IndexUse>, is_cut_off: bool) -> Part<Box<IndexUsage>> {
    if is_hidden {
        return Err(Gap::permission("the standbys are hidden from us; grant pg_monitor"));
    }
    uses.truncate(MOST);
    uses.sort_by_key(|one| Reverse(one.size));
    Ok(Box::new(IndexUsage { indexes: uses, is_cut_off, ..cluster }))
}

fn cluster(row: &Row) -> Result<IndexUsage, String> {
    Ok(IndexUsage {
        cluster: get::<Option<String>>(row, "cluster")?.unwrap_or_default(),
        since: get(row, "since")?,
        attached: count(row, "attached")? as u32,
        ..IndexUsage::default()
    })
}

fn usage(row: &Row, index: &Index) -> Result<IndexUse, String> {
    let is_bound = index.is_unique || index.is_needed || index.is_partition || get(row, "serves_key")?;
    Ok(IndexUse {
        table: index.table.clone(),
        name: index.name.clone(),
        size: index.size,
        scans: index.scans,
        age: unsigned(get(row, "age")?),
        is_spare: index.is_valid && !is_bound,
    })
}

fn index(row: &Row) -> Result<Index, String> {
    let (keys, included) = columns(row)?;
    Ok(Index {
        table: table(row)?,
        name: get(row, "name")?,
        method: get(row, "method")?,
        size: count(row, "size")?,
        scans: count(row, "scans")?,
        is_valid: get(row, "valid")?,
        is_being_built: get(row, "being_built")?,
        is_unique: get(row, "is_unique")?,
        is_needed: get(row, "needed")?,
        is_partition: get(row, "partition")?,
        keys,
        included,
        rule: get(row, "rule")?,
        expressions: get(row, "expressions")?,
        predicate: get(row, "predicate")?,
    })
}

/// The key of an index, each column with its class, collation and order, and what it carries besides. The catalogue's vectors
/// are taken apart here: in SQL that would be a question for each index.
fn columns(row: &Row) -> Result<(Vec<String>, Vec<i32>), String> {
    let [columns, classes, collations, options]: [String; 4] =
        [get(row, "columns")?, get(row, "classes")?, get(row, "collations")?, get(row, "options")?];
    let searchable = get::<i32>(row, "searchable")?.unsigned_abs() as usize;
    let parts = columns.split(' ').zip(classes.split(' ')).zip(collations.split(' ')).zip(options.split(' '));
    let keys = parts
        .take(searchable)
        .map(|(((column, class), collation), option)| format!("{column} {class} {collation} {option}"));
    let included = columns.split(' ').skip(searchable).map(str::parse).collect::<Result<_, _>>();
    Ok((keys.collect(), included.map_err(|error| format!("a column of an index has no number: {error}"))?))
}
