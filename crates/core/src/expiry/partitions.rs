//! Partitions that a rule does not keep: they go whole, or stay until they can.

use super::{Contained, Rule};
use crate::finding::Fingerprint;
use crate::plan::PlanItem;
use crate::policy::{Consent, Policy, Situation, permit};
use crate::quantity::{format_bytes, format_seconds};
use crate::remedy::{self, Detach, Step, quoted};
use crate::system::SystemId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The remedy that drops them. No finding asks for it: the rule does.
pub const DROP: &str = "postgres.drop_expired_partition";

/// A partition that lies wholly before what a rule keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpiredPartition {
    pub schema: String,
    pub name: String,
    /// `FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')`
    pub bounds: String,
    /// With its indexes.
    pub bytes: u64,
    pub detach: Detach,
    /// Why it cannot be dropped, as far as the server knows.
    pub hindrance: Option<String>,
}

impl ExpiredPartition {
    /// The step that drops it, by what a rule asks of its table.
    pub fn step(&self, asked: &Step, contained_in: Contained) -> Option<Step> {
        // A partition goes whole, so its rows would not be exported.
        let Step::DeleteExpired { system, database, schema, table, column, before, keep_seconds, export: false } =
            asked
        else {
            return None;
        };
        Some(Step::DropPartition {
            system: system.clone(),
            database: database.clone(),
            schema: schema.clone(),
            table: table.clone(),
            column: column.clone(),
            partition_schema: self.schema.clone(),
            partition: self.name.clone(),
            before: *before,
            keep_seconds: *keep_seconds,
            detach: self.detach,
            contained_in: Box::new(contained_in),
        })
    }
}

/// Whether the rules in force let a partition go as a whole: one of them asks for it, and none keeps any of its rows.
pub fn may_drop(rules: &[(SystemId, Rule)], step: &Step) -> Result<(), String> {
    let Step::DropPartition {
        system, database, schema, table, column, partition_schema, partition, keep_seconds, ..
    } = step
    else {
        return Err("it drops no partition".to_owned());
    };
    let here = rules.iter().filter(|(at, rule)| at == system && rule.database == *database).map(|(_, rule)| rule);
    let of_parent = |rule: &Rule| (&rule.schema, &rule.table) == (schema, table);
    let of_partition = |rule: &Rule| (&rule.schema, &rule.table) == (partition_schema, partition);
    let keeps_more = |rule: &Rule| rule.keep > *keep_seconds as f64;
    let asks = |rule: &Rule| of_parent(rule) && rule.column == *column && !keeps_more(rule);
    if !here.clone().any(asks) {
        return Err(format!("no rule of the configuration asks for that (any more): {}", step.subject()));
    }
    let mut others = here.filter(|rule| of_parent(rule) || of_partition(rule));
    // An approved drop may be older than the rule.
    if let Some(exporting) = others.clone().find(|rule| rule.export) {
        return Err(format!(
            "the rule for {}.{} exports its rows first, and a drop exports nothing",
            exporting.schema, exporting.table
        ));
    }
    match others.find(|rule| rule.column != *column || keeps_more(rule)) {
        None => Ok(()),
        Some(other) => Err(format!(
            "another rule keeps rows of {}.{} for {} by {}",
            other.schema,
            other.table,
            format_seconds(other.keep),
            other.column
        )),
    }
}

/// What a drop means for a plan.
pub fn planned_drop(
    rule: &Rule,
    partition: &ExpiredPartition,
    step: Step,
    policy: &Policy,
    situation: &Situation,
    now: Timestamp,
) -> Option<PlanItem> {
    let remedy = remedy::find(DROP)?;
    let Step::DropPartition { contained_in, .. } = &step else { return None };
    let finding = Fingerprint::of(DROP, step.system(), &step.target());
    let size = format_bytes(partition.bytes as f64);
    Some(PlanItem {
        remedy: remedy.id.to_owned(),
        class: remedy.class,
        statement: step.statement(),
        why: format!(
            "{} ({size}, {}) lies wholly before the {} that {} keeps",
            partition.name,
            partition.bounds,
            format_seconds(rule.keep),
            rule.table
        ),
        expected: format!(
            "its room is free at once and nothing has to be vacuumed; its rows come back only out of the set {}, for as long as \
             [backup.keep] keeps that. Right before, they are compared with what the set holds",
            contained_in.set
        ),
        decision: permit(remedy, &step, &finding, policy, situation, Consent::default(), now),
        step,
        finding,
    })
}

/// Whether it is what `pg_get_expr` says of a range of one key: only such are sent back to a server.
pub fn is_range(bounds: &str) -> bool {
    let edge = |text: &str| {
        let literal = text.strip_prefix('\'').and_then(|text| text.strip_suffix('\''));
        matches!(text, "MINVALUE" | "MAXVALUE")
            || literal.is_some_and(|text| text.chars().all(|c| c.is_ascii_alphanumeric() || "-+:. ".contains(c)))
    };
    let inner = bounds.strip_prefix("FOR VALUES FROM (").and_then(|rest| rest.strip_suffix(')'));
    inner.and_then(|inner| inner.split_once(") TO (")).is_some_and(|(from, to)| edge(from) && edge(to))
}

/// The statement that puts it back after a restore, for a person.
pub(crate) fn restored_by(step: &Step) -> Option<String> {
    let Step::DropPartition { system, partition_schema, partition, contained_in, .. } = step else { return None };
    let set = &contained_in.set;
    Some(format!(
        "its rows are in the set {set}: groundskeeper backup restore --set {set} --only {system} --into FOLDER, start that, \
         copy the table with pg_dump -t '{}.{}', and attach it again",
        quoted(partition_schema),
        quoted(partition)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Autonomy, Decision};
    use crate::receipt::{Hashed, SetId};
    use crate::system::SystemKind;

    fn main_database() -> SystemId {
        SystemId::new(SystemKind::Postgres, "main")
    }

    fn now() -> Timestamp {
        "2026-11-22T02:34:56Z".parse().unwrap()
    }

    fn rule() -> Rule {
        let (database, schema, table) = ("docrag".into(), "public".into(), "audit".into());
        Rule { database, schema, table, column: "at".into(), keep: 90.0 * 86_400.0, export: false }
    }

    fn partition() -> ExpiredPartition {
        ExpiredPartition {
            schema: "public".into(),
            name: "audit_2026_01".into(),
            bounds: "FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')".into(),
            bytes: 3 << 20,
            detach: Detach::Concurrently,
            hindrance: None,
        }
    }

    fn step() -> Step {
        let contained = Contained {
            set: SetId::new(now(), 7),
            system_identifier: "7421".into(),
            timeline: 1,
            rows: 12,
            fingerprint: "7".into(),
            hashed: Hashed::Record,
            finished_below: 4_242,
            sample: None,
        };
        partition().step(&rule().step(&main_database(), now()), contained).unwrap()
    }

    #[test]
    fn a_partition_goes_by_a_rule_that_asks_for_it_and_stays_by_one_that_does_not() {
        let may = |rules: &[Rule]| {
            let rules: Vec<_> = rules.iter().map(|rule| (main_database(), rule.clone())).collect();
            may_drop(&rules, &step())
        };
        assert_eq!(may(&[rule()]), Ok(()));
        assert!(may(&[]).unwrap_err().contains("no rule of the configuration"));
        let longer = Rule { keep: 365.0 * 86_400.0, ..rule() };
        assert!(may(std::slice::from_ref(&longer)).unwrap_err().contains("no rule of the configuration"));
        assert!(may(&[rule(), longer]).unwrap_err().contains("another rule keeps rows of public.audit for"));
        let of_partition = Rule { table: "audit_2026_01".into(), keep: 365.0 * 86_400.0, ..rule() };
        assert!(may(&[rule(), of_partition]).unwrap_err().contains("public.audit_2026_01"));
        let by_another = Rule { column: "seen".into(), keep: 60.0, ..rule() };
        assert!(may(&[rule(), by_another]).unwrap_err().contains("by seen"));
        let exports = Rule { export: true, ..rule() };
        assert!(may(&[exports]).unwrap_err().contains("exports its rows first"));
        let of_partition = Rule { table: "audit_2026_01".into(), export: true, ..rule() };
        assert!(may(&[rule(), of_partition]).unwrap_err().contains("public.audit_2026_01 exports"));
        let elsewhere = Rule { table: "sessions".into(), keep: 1e9, ..rule() };
        assert_eq!(may(&[rule(), elsewhere]), Ok(()));
    }

    #[test]
    fn a_drop_is_planned_with_the_set_that_it_relies_on() {
        let policy = Policy { autonomy: Autonomy::Observe, ..Policy::default() };
        let item = planned_drop(&rule(), &partition(), step(), &policy, &Situation::default(), now()).unwrap();
        assert_eq!(
            item.statement,
            "ALTER TABLE \"public\".\"audit\" DETACH PARTITION \"public\".\"audit_2026_01\" CONCURRENTLY; \
             DROP TABLE \"public\".\"audit_2026_01\" -- wholly before '2026-08-24T02:00:00Z', and in the set \
             20261122T023456Z-00000007"
        );
        assert!(item.why.starts_with("audit_2026_01 (3 MiB, FOR VALUES FROM"), "{}", item.why);
        assert!(item.expected.contains("20261122T023456Z-00000007"));
        assert!(matches!(item.decision, Decision::NeedsApproval { .. }), "{item:?}");
    }

    #[test]
    fn only_a_range_of_one_key_is_sent_back() {
        assert!(is_range("FOR VALUES FROM ('2026-01-01 00:00:00+00') TO ('2026-02-01 00:00:00+00')"));
        assert!(is_range("FOR VALUES FROM (MINVALUE) TO ('2026-02-01')"));
        for other in [
            "DEFAULT",
            "FOR VALUES IN ('a')",
            "FOR VALUES FROM ('a', 'b') TO ('c', 'd')",
            "FOR VALUES FROM ('2026-01-01') TO ('2026-02-01'); DROP TABLE a; --')",
            "FOR VALUES FROM (now()) TO ('2026-02-01')",
        ] {
            assert!(!is_range(other), "{other}");
        }
    }
}
