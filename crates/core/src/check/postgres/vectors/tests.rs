//! Each rule of pgvector's README by itself, and indexes that keep to all of them.

use super::*;
use crate::check::postgres::fixtures::{ago, change, finding, found_in, statement, status, table_name};
use crate::check::{Status, UnknownKind};
use crate::finding::Finding;
use crate::observation::{Gap, IndexUsage, IndexUse, VectorSetting, Worker};

const ID: &str = "postgres.vector_index_unsuited";

fn of_kind(kind: VectorIndexKind) -> VectorIndex {
    VectorIndex {
        table: table_name("chunks"),
        name: "chunks_embedding".into(),
        kind,
        size: 100 << 20,
        scans: 10,
        column: Some("embedding".into()),
        operators: "vector_cosine_ops".into(),
        rows: Some(100_000.0),
        dead_rows: 5_000,
        vacuum_seconds: None,
    }
}

/// Made with the defaults, of 100,000 rows.
fn hnsw() -> VectorIndex {
    of_kind(VectorIndexKind::Hnsw { m: 16, ef_construction: 64 })
}

fn ivfflat(lists: u32, rows: f64) -> VectorIndex {
    VectorIndex { rows: Some(rows), ..of_kind(VectorIndexKind::IvfFlat { lists }) }
}

fn given(name: &str, value: &str) -> VectorSetting {
    VectorSetting { name: name.into(), value: value.into(), of: "database docrag".into() }
}

fn seen(indexes: Vec<VectorIndex>, settings: Vec<VectorSetting>) -> Postgres {
    change(|seen| seen.vectors = Ok(Some(Box::new(Vectors { indexes, settings, unindexed: Vec::new() }))))
}

#[track_caller]
fn only(indexes: Vec<VectorIndex>, settings: Vec<VectorSetting>) -> Finding {
    let found = finding(ID, found_in(seen(indexes, settings)));
    assert_eq!(found.offenders.len(), 1, "{found:#?}");
    found
}

#[test]
fn indexes_that_keep_to_the_rules_are_well() {
    let probes = || vec![given("ivfflat.probes", "10")];
    assert_eq!(found_in(seen(vec![hnsw(), ivfflat(100, 100_000.0)], probes())), []);
    assert_eq!(found_in(seen(vec![ivfflat(1_000, 1_000_000.0)], vec![given("ivfflat.probes", "32")])), []);
    assert_eq!(found_in(seen(vec![ivfflat(2_000, 4_000_000.0)], vec![given("ivfflat.probes", "45")])), []);
    assert_eq!(found_in(seen(vec![ivfflat(100, 9_999.0)], Vec::new())), [], "few rows are fast anyway");
}

#[test]
fn lists_that_fit_another_number_of_rows_are_told_with_those_that_fit() {
    let probes = || vec![given("ivfflat.probes", "50")];
    let found = only(vec![ivfflat(100, 400_000.0)], probes());
    assert!(found.summary.contains("has 100 lists for 400,000 rows, about 400 would fit"), "{}", found.summary);
    assert!(
        found.fix.ends_with(
            "SET lock_timeout = '2s'; ALTER INDEX \"public\".\"chunks_embedding\" SET (lists = 400); REINDEX INDEX \
             CONCURRENTLY \"public\".\"chunks_embedding\";"
        ),
        "{}",
        found.fix
    );
    assert_eq!(found_in(seen(vec![ivfflat(100, 399_000.0)], probes())), []);
    assert!(only(vec![ivfflat(400, 100_000.0)], probes()).summary.contains("about 100 would fit"), "too many as well");
    assert!(only(vec![ivfflat(100, 4_000_000.0)], probes()).summary.contains("about 2,000 would fit"), "the root");
}

#[test]
fn a_search_that_reads_one_list_of_many_is_told_until_somebody_sets_more() {
    let found = only(vec![ivfflat(100, 100_000.0)], Vec::new());
    assert!(found.summary.contains("a search reads 1 of them"), "{}", found.summary);
    assert!(found.fix.contains("ALTER DATABASE \"docrag\" SET ivfflat.probes = 10;"), "{}", found.fix);
    assert_eq!(found.severity, Severity::Info);
    assert_eq!(found_in(seen(vec![ivfflat(100, 100_000.0)], vec![given("ivfflat.probes", "5")])), []);
}

#[test]
fn parameters_that_no_build_accepts_are_a_warning() {
    let found = only(vec![of_kind(VectorIndexKind::Hnsw { m: 48, ef_construction: 64 })], Vec::new());
    assert_eq!(found.severity, Severity::Warning);
    assert!(found.fix.contains("SET (ef_construction = 96)"), "{}", found.fix);
    assert_eq!(found_in(seen(vec![of_kind(VectorIndexKind::Hnsw { m: 32, ef_construction: 64 })], Vec::new())), []);
}

#[test]
fn a_graph_that_does_not_fit_is_told_until_its_builder_has_the_memory() {
    // maintenance_work_mem is 1 GiB, the machine has 16.
    let large = |gib: u64| VectorIndex { size: gib << 30, ..hnsw() };
    assert_eq!(found_in(seen(vec![large(1)], Vec::new())), []);
    let found = only(vec![large(3)], Vec::new());
    let build = "SET maintenance_work_mem = '3072MB'; REINDEX INDEX CONCURRENTLY \"public\".\"chunks_embedding\";";
    assert!(found.fix.ends_with(build) && !found.fix.contains("ALTER"), "{}", found.fix);
    let mut unknown = seen(vec![large(3)], Vec::new());
    unknown.machine = None;
    let found = finding(ID, found_in(unknown));
    assert!(found.fix.contains("machine = { memory = \"8 GiB\" }") && !found.fix.contains("SET"), "{}", found.fix);
    assert_eq!(found_in(seen(vec![large(3)], vec![given("maintenance_work_mem", "3GB")])), []);
    let found = only(vec![large(5)], vec![given("maintenance_work_mem", "3GB")]);
    assert!(found.fix.contains("more than a quarter of the machine's memory"), "{}", found.fix);
    assert_eq!(
        ["64MB", "1GB", "4096", "x", "1XB"].map(bytes),
        [Some(64.0 * MIB), Some(1_024.0 * MIB), Some(4.0 * MIB), None, None]
    );
}

#[test]
fn many_dead_rows_of_a_graph_are_told_with_the_time_where_it_is_known() {
    let worn = VectorIndex { dead_rows: 20_000, ..hnsw() };
    let found = only(vec![worn.clone()], Vec::new());
    assert!(found.summary.ends_with("for 20,000 dead rows, which is slow"), "{}", found.summary);
    assert!(
        found.fix.contains(
            "REINDEX INDEX CONCURRENTLY \"public\".\"chunks_embedding\"; and then VACUUM \"public\".\"chunks\";"
        ),
        "{}",
        found.fix
    );
    let timed = only(vec![VectorIndex { vacuum_seconds: Some(1_800.0), ..worn.clone() }], Vec::new());
    assert!(timed.summary.ends_with("one took 30 min on average"), "{}", timed.summary);
    let mut running = seen(vec![worn], Vec::new());
    running.vacuuming.as_mut().unwrap().workers = vec![Worker {
        pid: 1,
        database: "docrag".into(),
        table: Some(table_name("chunks")),
        running: 120.0,
        phase: "vacuuming indexes".into(),
        scanned: None,
        is_against_wraparound: false,
        is_sleeping: false,
        slept: None,
    }];
    assert!(finding(ID, found_in(running)).summary.ends_with("one has run for 2 min"));
    let of_lists = VectorIndex { dead_rows: 90_000, ..ivfflat(100, 100_000.0) };
    assert_eq!(found_in(seen(vec![of_lists], vec![given("ivfflat.probes", "10")])), [], "lists are cheap to vacuum");
}

#[test]
fn a_search_that_ends_at_ef_search_each_time_is_told() {
    let with = |rows: u64, settings: Vec<VectorSetting>| {
        let mut seen = seen(vec![hnsw()], settings);
        let Some(Ok(leaders)) = &mut seen.statements.leaders else { panic!() };
        let mut search = statement(9, 1_000, 10.0);
        search.query = "SELECT id FROM chunks ORDER BY embedding <=> $1 LIMIT $2".into();
        search.rows = rows;
        leaders.statements.push(search);
        found_in(seen)
    };
    let found = finding(ID, with(40_000, Vec::new()));
    assert!(found.summary.contains("returns 40 rows in each of 1,000 calls"), "{}", found.summary);
    assert!(found.fix.contains("ALTER DATABASE \"docrag\" SET hnsw.ef_search = 100"), "{}", found.fix);
    assert_eq!(with(10_000, Vec::new()), [], "a LIMIT of 10");
    assert_eq!(with(40_000, vec![given("hnsw.ef_search", "40")]), [], "somebody chose that");
}

#[test]
fn an_operator_class_that_no_query_uses_is_told_beside_one_that_is_used() {
    let other = |scans| VectorIndex { name: "chunks_l2".into(), operators: "vector_l2_ops".into(), scans, ..hnsw() };
    let with = |indexes: Vec<VectorIndex>, days: f64, age: u64, standbys: u32| {
        let mut seen = seen(indexes.clone(), Vec::new());
        let of = |index: VectorIndex| IndexUse {
            table: index.table,
            name: index.name,
            size: index.size,
            scans: index.scans,
            age,
            is_spare: true,
        };
        seen.usage = Ok(Box::new(IndexUsage {
            since: Some(ago(days * 86_400.0)),
            indexes: indexes.into_iter().map(of).collect(),
            attached: standbys,
            ..IndexUsage::default()
        }));
        found_in(seen).into_iter().find(|found| found.check == ID)
    };
    let found = with(vec![hnsw(), other(0)], 31.0, 5_000_000, 0).unwrap();
    assert!(found.fix.ends_with("DROP INDEX CONCURRENTLY \"public\".\"chunks_l2\";"), "{}", found.fix);
    assert_eq!(with(vec![hnsw(), other(1)], 31.0, 5_000_000, 0), None, "both are used");
    let unused = VectorIndex { scans: 0, ..hnsw() };
    assert_eq!(with(vec![unused, other(0)], 31.0, 5_000_000, 0), None, "nobody knows yet");
    assert_eq!(with(vec![hnsw(), other(0)], 29.0, 5_000_000, 0), None, "counted for too short");
    assert_eq!(with(vec![hnsw(), other(0)], 31.0, 50, 0), None, "just made");
    assert_eq!(with(vec![hnsw(), other(0)], 31.0, 5_000_000, 1), None, "a standby was not asked");
}

#[test]
fn a_column_that_each_search_reads_whole_is_told_with_an_index_that_can_be_made() {
    let column = |kind: &str, dimensions, rows| VectorColumn {
        table: table_name("chunks"),
        name: "embedding".into(),
        kind: kind.into(),
        dimensions,
        rows,
    };
    let with = |column| {
        let vectors = Vectors { unindexed: vec![column], ..Vectors::default() };
        found_in(change(|seen| seen.vectors = Ok(Some(Box::new(vectors)))))
    };
    assert_eq!(with(column("vector", Some(384), 49_999.0)), []);
    for (kind, dimensions, expected) in [
        ("vector", Some(1_536), "USING hnsw (\"embedding\" vector_cosine_ops);"),
        ("vector", Some(3_072), "USING hnsw ((\"embedding\"::halfvec(3072)) halfvec_cosine_ops);"),
        ("halfvec", Some(3_072), "USING hnsw (\"embedding\" halfvec_cosine_ops);"),
        ("vector", Some(8_000), "USING hnsw ((binary_quantize(\"embedding\")::bit(8000)) bit_hamming_ops);"),
        ("vector", None, "USING hnsw ((\"embedding\"::vector(DIMENSIONS)) vector_cosine_ops);"),
        ("sparsevec", Some(30_000), "USING hnsw (\"embedding\" sparsevec_cosine_ops);"),
    ] {
        let found = finding(ID, with(column(kind, dimensions, 50_000.0)));
        assert!(found.fix.ends_with(expected), "{}", found.fix);
    }
}

#[test]
fn several_things_are_one_finding_and_what_was_not_read_is_unknown() {
    let broken = of_kind(VectorIndexKind::Hnsw { m: 48, ef_construction: 64 });
    let found = finding(ID, found_in(seen(vec![ivfflat(100, 100_000.0), broken], Vec::new())));
    assert_eq!((found.severity, found.offenders.len()), (Severity::Warning, 2));
    assert!(found.summary.ends_with("; 1 more"), "{}", found.summary);
    let Status::Unknown(unknown) = status(ID, change(|seen| seen.vectors = Err(Gap::new("no"))), None) else {
        panic!()
    };
    assert_eq!(unknown.kind, UnknownKind::NotRead);
    assert_eq!(status(ID, change(|seen| seen.vectors = Ok(None)), None), Status::Ok, "no pgvector, no trouble");
    let mut standby = seen(vec![ivfflat(100, 100_000.0)], Vec::new());
    standby.server.in_recovery = true;
    assert_eq!(status(ID, standby, None), Status::Ok);
}
