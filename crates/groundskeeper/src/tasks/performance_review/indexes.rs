//! Tables that are read whole, and the indexes that the planner would use instead.

use crate::tasks::Shop;
use groundskeeper_core::SystemId;
use groundskeeper_core::advice::{Advice, Verified};
use groundskeeper_core::check::postgres::scans::{INDEX_MISSING, is_large, is_whole};
use groundskeeper_core::observation::{Postgres, Table, TableName};
use groundskeeper_core::quantity::{format_bytes, format_count};
use std::time::Duration;

/// To plan some hundred times takes a second or two; a busy server may take longer.
const WITHIN: Duration = Duration::from_secs(30);
const TABLES: usize = 10;
const UNEXPLAINED: usize = 5;

/// Lines for a person. Scans are counted since the statistics began.
pub(super) async fn lines(shop: &Shop, system: &SystemId, seen: &Postgres) -> Vec<String> {
    let Ok(tables) = &seen.tables else { return Vec::new() };
    let minimum_rows = shop.settings.tuning.limits(&INDEX_MISSING).get("minimum_rows");
    let mut scanned: Vec<&Table> = tables
        .iter()
        .filter(|table| is_large(table, minimum_rows) && is_whole(seen, table, table.whole_scans, table.rows_scanned))
        .collect();
    scanned.sort_by_key(|table| std::cmp::Reverse(table.rows_scanned));
    scanned.truncate(TABLES);
    if scanned.is_empty() {
        return vec!["  no large table is read whole".to_owned()];
    }
    let mut lines = vec!["  read whole, by rows read so since the statistics began".to_owned()];
    lines.extend(scanned.iter().map(|table| {
        format!(
            "    {}.{}: {} scans of {} rows, {}",
            table.schema,
            table.name,
            format_count(table.whole_scans as f64),
            format_count(table.rows_estimated.unwrap_or(0.0).round()),
            format_bytes(table.size as f64)
        )
    }));
    let names: Vec<TableName> =
        scanned.iter().map(|table| TableName { schema: table.schema.clone(), name: table.name.clone() }).collect();
    match shop.stack.advise(system, &names, WITHIN).await {
        Ok(advice) => lines.extend(told(&advice, seen.server.major())),
        Err(failure) => lines.push(format!("  indexes could not be tried: {}", failure.message)),
    }
    lines
}

fn told(advice: &Advice, major: u32) -> Vec<String> {
    let (verified, asked, unexplained) = match advice {
        Advice::NoHypopg => {
            return vec![format!(
                "  which index would help is not known without hypopg: CREATE EXTENSION hypopg; (package \
                 postgresql-{major}-hypopg) makes nothing real and lets the planner say what it would use"
            )];
        }
        Advice::KeptFrom(why) => return vec![format!("  no index is tried: {why}")],
        Advice::NoStatements => return vec!["  without pg_stat_statements no index can be tried".to_owned()],
        Advice::Looked { verified, asked, unexplained } => (verified, asked, unexplained),
    };
    let mut lines = Vec::new();
    if verified.is_empty() {
        lines.push(format!("  no index that was tried makes one of {asked} statements half as costly"));
    } else {
        lines.push("  indexes that the planner would use, at half of the cost or less".to_owned());
    }
    for one in verified {
        lines.extend(proposal(one, verified));
    }
    lines.extend(
        unexplained.iter().take(UNEXPLAINED).map(|(query_id, why)| format!("    not tried: [{query_id}]: {why}")),
    );
    if unexplained.len() > UNEXPLAINED {
        lines.push(format!("    and {} more were not tried", unexplained.len() - UNEXPLAINED));
    }
    lines
}

fn proposal(one: &Verified, all: &[Verified]) -> Vec<String> {
    let begins = |other: &&Verified| {
        let (short, long) = (&one.candidate, &other.candidate);
        short.table == long.table
            && short.columns.len() < long.columns.len()
            && long.columns.starts_with(&short.columns)
    };
    let longer = match all.iter().find(begins) {
        Some(other) => {
            format!(
                "; the one on ({}) begins with it: make that one only, and look again",
                other.candidate.columns.join(", ")
            )
        }
        None => String::new(),
    };
    let head = format!(
        "    CREATE INDEX CONCURRENTLY {}; about {}{longer}",
        one.candidate.place(),
        format_bytes(one.size as f64)
    );
    let helped = one.helped.iter().map(|helped| {
        format!(
            "      cost {} instead of {}: {} [{}]",
            format_count(helped.after.round()),
            format_count(helped.before.round()),
            helped.query,
            helped.query_id
        )
    });
    std::iter::once(head).chain(helped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::advice::{Candidate, Helped};

    fn verified(columns: &[&str]) -> Verified {
        let table = TableName { schema: "public".into(), name: "chunks".into() };
        let columns = columns.iter().map(|column| (*column).to_owned()).collect();
        let helped = Helped { query_id: 7, query: "SELECT 1".into(), before: 6_503.2, after: 20.1 };
        Verified { candidate: Candidate { table, columns }, size: 3 << 20, helped: vec![helped] }
    }

    #[test]
    fn an_index_is_told_with_what_it_saves_and_with_the_longer_one_that_makes_it_superfluous() {
        let verified = vec![verified(&["tenant"]), verified(&["tenant", "id"])];
        let unexplained = (0..7).map(|id| (id, "permission denied".to_owned())).collect();
        let lines = told(&Advice::Looked { verified, asked: 4, unexplained }, 15);
        assert_eq!(
            lines[1],
            "    CREATE INDEX CONCURRENTLY ON \"public\".\"chunks\" (\"tenant\"); about 3 MiB; the one on (tenant, id) begins \
             with it: make that one only, and look again"
        );
        assert_eq!(lines[2], "      cost 20 instead of 6,503: SELECT 1 [7]");
        assert!(lines[3].ends_with("(\"tenant\", \"id\"); about 3 MiB"), "{lines:#?}");
        assert_eq!(lines.last().unwrap(), "    and 2 more were not tried");
    }

    #[test]
    fn without_hypopg_the_package_is_named() {
        assert!(told(&Advice::NoHypopg, 15)[0].contains("postgresql-15-hypopg"));
        let none = Advice::Looked { verified: Vec::new(), asked: 2, unexplained: Vec::new() };
        assert_eq!(told(&none, 15), ["  no index that was tried makes one of 2 statements half as costly"]);
    }
}
