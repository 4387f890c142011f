//! A script in, the plan out; and what the hash stands for.

use super::*;
use crate::finding::{Draft, Offender, Target};
use crate::policy::{Autonomy, Guard};
use crate::quantity::{Value, after};
use crate::remedy::{StepState, Undo};
use crate::severity::Severity;
use crate::system::{SystemId, SystemKind};

fn main_database() -> SystemId {
    SystemId::new(SystemKind::Postgres, "main")
}

/// The present as a script tells it, one fact a line:
///
/// ```text
/// now 2026-11-22T03:00:00Z
/// autonomy assist
/// window Sun 02:00-05:00
/// dead chunks 41000         a table with so many dead rows
/// stale chunks 12000        a table with so many rows modified since analyze
/// idle 4242 900             a session idle in a transaction for so many seconds
/// ran postgres.vacuum_table chunks 600     that remedy helped that table so many seconds ago
/// ```
struct Script {
    now: Timestamp,
    policy: Policy,
    situation: Situation,
    dead: Vec<Offender>,
    stale: Vec<Offender>,
    idle: Vec<Offender>,
}

impl Script {
    fn read(text: &str) -> Self {
        let mut script = Self {
            now: "2026-11-21T12:00:00Z".parse().unwrap(),
            policy: Policy::default(),
            situation: Situation { systems: 5, ..Situation::default() },
            dead: Vec::new(),
            stale: Vec::new(),
            idle: Vec::new(),
        };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (verb, rest) = line.split_once(' ').unwrap();
            script.line(verb, rest);
        }
        script
    }

    fn line(&mut self, verb: &str, rest: &str) {
        let words: Vec<&str> = rest.split_whitespace().collect();
        match (verb, words.as_slice()) {
            ("now", [at]) => self.now = at.parse().unwrap(),
            ("autonomy", ["observe"]) => self.policy.autonomy = Autonomy::Observe,
            ("autonomy", ["assist"]) => self.policy.autonomy = Autonomy::Assist,
            ("autonomy", ["auto"]) => self.policy.autonomy = Autonomy::Auto,
            ("window", _) => self.policy.windows.push(rest.parse().unwrap()),
            ("cap", ["routine", number]) => self.policy.routine_per_hour = number.parse().unwrap(),
            ("cap", ["corrective", number]) => self.policy.corrective_per_hour = number.parse().unwrap(),
            ("dead", [table, rows]) => self.dead.push(of_table(table, rows, "dead rows")),
            ("stale", [table, rows]) => self.stale.push(of_table(table, rows, "rows modified since the last analyze")),
            ("idle", [pid, seconds]) => {
                let weight: f64 = seconds.parse().unwrap();
                let backend_start = after(self.now, -weight - 60.0);
                self.idle.push(Offender {
                    target: Target::Session { pid: pid.parse().unwrap(), backend_start },
                    weight,
                    note: format!("docrag-api, idle in transaction for {seconds} s"),
                });
            }
            ("ran", [remedy, table, seconds]) => {
                let remedy = crate::remedy::find(remedy).unwrap();
                self.situation.history.push(PastAction {
                    remedy: remedy.id.into(),
                    class: remedy.class,
                    subject: vacuum(table).subject(),
                    at: after(self.now, -seconds.parse::<f64>().unwrap()),
                    outcome: Outcome::Helped,
                });
            }
            _ => panic!("no such line: {verb} {rest}"),
        }
    }

    fn findings(&self) -> Vec<Finding> {
        let of = |check: &str, summary: &str, offenders: &[Offender]| {
            let draft = Draft::new(Severity::Warning, summary)
                .against("the worst", Value::seconds(900.0), Value::seconds(600.0), "the script")
                .offenders(offenders.to_vec());
            (!offenders.is_empty()).then(|| Finding::from_draft(check, &main_database(), draft))
        };
        [
            of("postgres.statistics_stale", "stale statistics", &self.stale),
            of("postgres.dead_rows_past_trigger", "dead rows", &self.dead),
            of("postgres.idle_in_transaction", "idle sessions", &self.idle),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn plan(&self) -> Plan {
        plan(&self.findings(), &self.policy, &self.situation, self.now)
    }
}

fn of_table(table: &str, rows: &str, what: &str) -> Offender {
    Offender {
        target: Target::Table { database: "docrag".into(), schema: "public".into(), name: table.into() },
        weight: rows.parse().unwrap(),
        note: format!("{table}: {rows} {what}"),
    }
}

fn vacuum(table: &str) -> Step {
    Step::Vacuum { system: main_database(), database: "docrag".into(), schema: "public".into(), table: table.into() }
}

fn played(script: &str) -> Plan {
    Script::read(script).plan()
}

/// The plan as the snapshots keep it: each decision, statement, reason and expectation.
fn text(plan: &Plan) -> String {
    let mut out = format!("plan {} of {}, {} items\n", plan.short_hash(), plan.made, plan.items.len());
    for item in &plan.items {
        let decision = match &item.decision {
            Decision::Do => "DO".to_owned(),
            Decision::NeedsApproval { reason } => format!("NEEDS APPROVAL: {reason}"),
            Decision::Skip { guard, reason } => format!("SKIP ({guard:?}): {reason}"),
        };
        let _ = write!(out, "\n{} ({})\n  {}\n", item.remedy, item.class, item.statement);
        let _ = write!(out, "  why: {}\n  expected: {}\n  {decision}\n", item.why, item.expected);
    }
    out
}

macro_rules! golden {
    ($script:expr) => {
        let script = String::from($script);
        insta::with_settings!({ description => &script, omit_expression => true }, {
            insta::assert_snapshot!(text(&played(&script)));
        });
    };
}

/// Three tables and two sessions; one of the tables is both bloated and stale.
const TROUBLE: &str = "
dead chunks 41000
dead documents 23000
stale chunks 12000
stale users 900
idle 4242 900
idle 4711 4000
";

#[test]
fn a_healthy_server_asks_for_nothing() {
    golden!("autonomy auto");
}

#[test]
fn at_observe_everything_needs_a_person() {
    golden!(format!("autonomy observe{TROUBLE}"));
}

#[test]
fn at_assist_inside_the_window_upkeep_is_done() {
    golden!(format!("now 2026-11-22T03:00:00Z\nautonomy assist\nwindow Sun 02:00-05:00{TROUBLE}"));
}

#[test]
fn at_assist_outside_the_window_upkeep_waits() {
    golden!(format!("now 2026-11-22T05:00:00Z\nautonomy assist\nwindow Sun 02:00-05:00{TROUBLE}"));
}

#[test]
fn at_auto_sessions_are_ended_first() {
    golden!(format!("now 2026-11-22T03:00:00Z\nautonomy auto\nwindow Sun 02:00-05:00{TROUBLE}"));
}

#[test]
fn caps_cut_a_long_list_after_the_worst() {
    golden!(
        "now 2026-11-22T03:00:00Z
        autonomy auto
        window Sun 02:00-05:00
        cap routine 3
        cap corrective 1
        dead a 100
        dead b 500
        dead c 400
        dead d 200
        stale e 300
        idle 1 700
        idle 2 9000"
    );
}

#[test]
fn what_was_just_done_cools_down_and_the_rest_goes_on() {
    golden!(
        "now 2026-11-22T03:00:00Z
        autonomy assist
        window Sun 02:00-05:00
        ran postgres.vacuum_table chunks 600
        dead chunks 41000
        dead documents 23000"
    );
}

#[test]
fn a_table_is_vacuumed_and_analyzed_in_one_step() {
    let plan = played("stale chunks 12000\ndead chunks 41000");
    let remedies: Vec<_> = plan.items.iter().map(|item| item.remedy.as_str()).collect();
    assert_eq!(remedies, ["postgres.vacuum_table"]);
    assert!(plan.items[0].statement.contains("VACUUM (ANALYZE"));
}

#[test]
fn a_finding_without_a_remedy_plans_nothing() {
    let finding = Finding::from_draft("postgres.unreachable", &main_database(), Draft::new(Severity::Critical, "down"));
    let script = Script::read("autonomy auto");
    assert_eq!(plan(&[finding], &script.policy, &script.situation, script.now).items, []);
}

#[test]
fn the_hash_is_of_the_steps_not_of_the_hour_or_the_decisions() {
    let before = played(TROUBLE);
    // The sessions are told relative to `now`, so that only their steps' start times need to be held.
    let mut later = Script::read(TROUBLE);
    later.now = after(later.now, 7.0 * 86_400.0);
    later.policy.autonomy = Autonomy::Auto;
    later.situation.paused = Some(("migration".into(), None));
    let later = later.plan();
    assert_ne!(before.items[0].decision, later.items[0].decision);
    assert_ne!(before.made, later.made);
    assert_eq!(before.hash, later.hash);
    assert_eq!(before.hash.len(), 64);
    assert!(before.hash.starts_with(before.short_hash()));
}

#[test]
fn the_hash_is_another_after_any_change_of_the_steps() {
    let original = "dead chunks 41000\ndead documents 23000\nidle 4242 900";
    let mut seen = BTreeSet::from([played(original).hash]);
    let changed = [
        ("one less", "dead chunks 41000\nidle 4242 900"),
        ("one more", "dead chunks 41000\ndead documents 23000\ndead users 1\nidle 4242 900"),
        ("another table", "dead chunks 41000\ndead document 23000\nidle 4242 900"),
        ("another order", "dead chunks 41000\ndead documents 53000\nidle 4242 900"),
        ("another remedy", "dead chunks 41000\nstale documents 23000\nidle 4242 900"),
        ("another pid", "dead chunks 41000\ndead documents 23000\nidle 4243 900"),
        ("another backend of that pid", "dead chunks 41000\ndead documents 23000\nidle 4242 901"),
        ("nothing", ""),
    ];
    for (change, script) in changed {
        assert!(seen.insert(played(script).hash), "{change}");
    }
    let mut elsewhere = Script::read(original).findings();
    elsewhere[0].system = SystemId::new(SystemKind::Postgres, "reporting");
    let plan = plan(&elsewhere, &Policy::default(), &Situation::default(), Script::read("").now);
    assert!(seen.insert(plan.hash), "another system");
}

#[test]
fn plans_steps_states_undos_and_decisions_survive_being_written_down() {
    fn round_trip<T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
        let text = serde_json::to_string(value).unwrap();
        assert_eq!(serde_json::from_str::<T>(&text).unwrap(), *value, "{text}");
    }
    let at: Timestamp = "2026-11-21T08:10:11.123456Z".parse().unwrap();
    let plan = played(&format!("autonomy assist{TROUBLE}"));
    for item in &plan.items {
        round_trip(&item.step);
    }
    round_trip(&plan);
    for state in [
        StepState::Table {
            live_rows: 1,
            dead_rows: u64::MAX,
            modified_since_analyze: 3,
            vacuumed: Some(at),
            analyzed: None,
        },
        StepState::Session {
            user: "docrag".into(),
            application: "häßlich \"api\"\n".into(),
            idle_seconds: 900.25,
            query: String::new(),
        },
        StepState::Gone,
    ] {
        round_trip(&state);
    }
    for undo in [Undo::By(Box::new(vacuum("chunks"))), Undo::NotNeeded("x".into()), Undo::Impossible("y".into())] {
        round_trip(&undo);
    }
    for decision in [
        Decision::Do,
        Decision::NeedsApproval { reason: "ask".into() },
        Decision::Skip { guard: Guard::Window, reason: "later".into() },
    ] {
        round_trip(&decision);
    }
}
