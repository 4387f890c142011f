//! How the planner would answer the leading statements, beside how it did before.
//!
//! Postgres keeps no plans of past calls. What is compared are generic plans, which need no values: the same question is asked
//! once a day, and the record keeps the answers.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The plans of the statements that take the most time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Plans {
    pub seen: Vec<Planned>,
    /// Statements that could not be explained.
    pub unexplained: Vec<Unplanned>,
    /// Why none was explained at all: to plan could have run functions of others with our rights.
    #[serde(default)]
    pub kept_from: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unplanned {
    pub query_id: i64,
    pub kind: NotPlanned,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotPlanned {
    /// We may not read its tables.
    Denied,
    /// Somebody held a lock, or the time was over: the next round may do better.
    Late,
    /// It has no plan without its values, or not for us: names that we do not find.
    Refused,
}

/// A statement and the plan that it has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    pub query_id: i64,
    /// The first 200 characters, literals replaced by `?`.
    pub query: String,
    pub plan: PlanShape,
    /// Whether the keeper's record has a plan of it.
    #[serde(default)]
    pub is_known: bool,
    /// The plans that it had before this one, from that record, the latest last.
    #[serde(default)]
    pub earlier: Vec<Earlier>,
}

/// A plan that a statement had until another took its place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Earlier {
    pub plan: PlanShape,
    /// When the next one was seen first.
    pub changed: Timestamp,
}

/// What of a plan stays the same while its tables merely grow: its nodes, without estimates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanShape {
    /// Each node with the depth at which it stands, such as `1 Index Scan of chunks by chunks_pkey`, from the top.
    pub nodes: Vec<String>,
    /// The planner's estimate for the whole. It has no unit.
    pub cost: f64,
}

impl PlanShape {
    /// Of what `EXPLAIN (FORMAT JSON)` gives; none where that is something else.
    pub fn read(explained: &Value) -> Option<Self> {
        let top = &explained.get(0)?["Plan"];
        let cost = top["Total Cost"].as_f64()?;
        let mut nodes = Vec::new();
        collect(top, 0, false, &mut nodes);
        Some(Self { nodes, cost })
    }

    /// Whether it goes about it in the same way.
    pub fn is_like(&self, other: &Self) -> bool {
        self.nodes == other.nodes
    }

    /// The indexes that it goes by.
    pub fn indexes(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().filter_map(|node| Some(node.split_once(" by ")?.1))
    }

    /// What this plan does that the other does not, or does less often: `Seq Scan of chunks`.
    pub fn beyond(&self, other: &Self) -> Vec<String> {
        let counted = |plan: &Self| -> BTreeMap<String, usize> {
            let mut counts = BTreeMap::new();
            for node in &plan.nodes {
                *counts.entry(without_depth(node).to_owned()).or_default() += 1;
            }
            counts
        };
        let theirs = counted(other);
        let more = |(node, count): &(String, usize)| *count > theirs.get(node).copied().unwrap_or_default();
        counted(self).into_iter().filter(more).map(|(node, _)| node).collect()
    }
}

fn without_depth(node: &str) -> &str {
    node.split_once(' ').map_or(node, |(_, node)| node)
}

/// `of_parts`: below an Append of partitions, which come and go by themselves; only the kinds of its nodes count, each once.
fn collect(node: &Value, depth: usize, of_parts: bool, nodes: &mut Vec<String>) {
    let text = |name: &str| node[name].as_str();
    let kind = text("Node Type").unwrap_or("?");
    let mut told = match text("Join Type") {
        Some(join) if join != "Inner" => format!("{depth} {kind} ({join})"),
        _ => format!("{depth} {kind}"),
    };
    if !of_parts {
        if let Some(relation) = text("Relation Name").or_else(|| text("Function Name")) {
            told.extend([" of ", relation]);
        }
        if let Some(index) = text("Index Name") {
            told.extend([" by ", index]);
        }
    }
    if !of_parts || !nodes.contains(&told) {
        nodes.push(told);
    }
    let children = || node["Plans"].as_array().into_iter().flatten();
    let of_parts = of_parts || (matches!(kind, "Append" | "Merge Append") && are_parts(children()));
    for child in children() {
        collect(child, depth + 1, of_parts, nodes);
    }
}

/// Partitions of one table, which the server calls `table_1`, `table_2` and so on. What `UNION ALL` puts together has names of its
/// own.
fn are_parts<'p>(children: impl Iterator<Item = &'p Value>) -> bool {
    let tables: BTreeSet<Option<&str>> = children.map(parent).collect();
    tables.len() == 1 && !tables.contains(&None)
}

fn parent(node: &Value) -> Option<&str> {
    match node["Alias"].as_str() {
        Some(alias) => {
            alias.rsplit_once('_').filter(|(_, number)| number.parse::<u32>().is_ok()).map(|(table, _)| table)
        }
        None => parent(node["Plans"].as_array()?.first()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scan(relation: &str, index: &str) -> Value {
        json!({"Node Type": "Index Scan", "Relation Name": relation, "Index Name": index, "Total Cost": 8.4})
    }

    fn plan(top: &Value) -> PlanShape {
        PlanShape::read(&json!([{ "Plan": top }])).unwrap()
    }

    #[test]
    fn the_shape_has_nodes_tables_and_indexes_and_no_estimates() {
        let join = |rows: u32| {
            plan(&json!({"Node Type": "Nested Loop", "Join Type": "Left", "Total Cost": 16.5, "Plan Rows": rows,
                        "Plans": [scan("documents", "documents_pkey"), scan("chunks", "chunks_document")]}))
        };
        assert_eq!(
            join(1).nodes,
            [
                "0 Nested Loop (Left)",
                "1 Index Scan of documents by documents_pkey",
                "1 Index Scan of chunks by chunks_document"
            ]
        );
        assert!(join(1).is_like(&join(900)));
        let other = plan(&json!({"Node Type": "Hash Join", "Join Type": "Left", "Total Cost": 900.0, "Plans": [
            scan("documents", "documents_pkey"), {"Node Type": "Seq Scan", "Relation Name": "chunks"}]}));
        assert!(!other.is_like(&join(1)));
        assert_eq!(other.beyond(&join(1)), ["Hash Join (Left)", "Seq Scan of chunks"]);
        assert_eq!(join(1).beyond(&other), ["Index Scan of chunks by chunks_document", "Nested Loop (Left)"]);
    }

    #[test]
    fn a_new_partition_is_no_other_plan_and_another_way_to_read_them_is() {
        let append = |parts: Vec<Value>| plan(&json!({"Node Type": "Append", "Total Cost": 9.0, "Plans": parts}));
        let part = |month: &str, number: u32| {
            json!({"Node Type": "Index Scan", "Relation Name": format!("log_{month}"), "Alias": format!("log_{number}"),
                   "Index Name": format!("log_{month}_at")})
        };
        let two = append(vec![part("may", 1), part("june", 2)]);
        assert_eq!(two.nodes, ["0 Append", "1 Index Scan"]);
        assert!(append(vec![part("june", 1), part("july", 2), part("august", 3)]).is_like(&two));
        let whole = json!({"Node Type": "Seq Scan", "Relation Name": "log_july", "Alias": "log_2"});
        assert!(!append(vec![part("june", 1), whole]).is_like(&two));
    }

    #[test]
    fn what_union_all_puts_together_keeps_its_names() {
        let branch = |relation: &str, index: &str| json!({"Node Type": "Index Scan", "Relation Name": relation, "Alias": relation, "Index Name": index});
        let union = |parts: Vec<Value>| plan(&json!({"Node Type": "Append", "Total Cost": 9.0, "Plans": parts}));
        let both = union(vec![branch("chunks", "chunks_words"), branch("titles", "titles_words")]);
        assert_eq!(both.nodes[2], "1 Index Scan of titles by titles_words");
        let whole = json!({"Node Type": "Seq Scan", "Relation Name": "titles", "Alias": "titles"});
        assert_eq!(union(vec![branch("chunks", "chunks_words"), whole]).beyond(&both), ["Seq Scan of titles"]);
    }

    #[test]
    fn what_is_no_plan_has_no_shape() {
        assert_eq!(PlanShape::read(&json!([])), None);
        assert_eq!(PlanShape::read(&json!([{"Plan": {"Node Type": "Result"}}])), None);
    }
}
