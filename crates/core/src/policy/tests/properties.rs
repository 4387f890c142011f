//! What no history, no policy and no moment can bring about.

use super::*;
use crate::finding::{Draft, Finding, Offender};
use crate::plan::plan;
use crate::quantity::Value;
use proptest::prelude::*;

fn class() -> impl Strategy<Value = RiskClass> {
    prop::sample::select(vec![
        RiskClass::Observe,
        RiskClass::Protect,
        RiskClass::Routine,
        RiskClass::Corrective,
        RiskClass::Disruptive,
    ])
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop::sample::select(vec![Helped, DidNotHelp, Failed, Abandoned, Running])
}

fn severity() -> impl Strategy<Value = Severity> {
    prop::sample::select(Severity::ALL.to_vec())
}

/// Mostly near the present; sometimes the year -9999 or 9999.
fn moment() -> impl Strategy<Value = Timestamp> {
    let near = (-20_000_i64..20_000).prop_map(|seconds| after(now(), seconds as f64));
    let any = (Timestamp::MIN.as_second()..=Timestamp::MAX.as_second())
        .prop_map(|second| Timestamp::from_second(second).unwrap());
    prop_oneof![6 => near, 2 => any, 1 => Just(Timestamp::MIN), 1 => Just(Timestamp::MAX)]
}

fn table() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["chunks".to_owned(), "documents".to_owned(), "users".to_owned()])
}

fn past_action() -> impl Strategy<Value = PastAction> {
    let remedy = prop::sample::select(vec!["postgres.mend", "postgres.vacuum_table", "postgres.other"]);
    (remedy, class(), table(), moment(), outcome()).prop_map(|(remedy, class, table, at, outcome)| PastAction {
        remedy: remedy.to_owned(),
        class,
        subject: vacuum(&table).subject(),
        at,
        outcome,
    })
}

fn situation() -> impl Strategy<Value = Situation> {
    let open = (prop_oneof![Just("main"), Just("a"), Just("b"), Just("c")], severity())
        .prop_map(|(name, severity)| (other_finding(name), system(name), severity));
    (
        prop::option::weighted(0.2, prop::option::of(moment())),
        prop::collection::vec(past_action(), 0..12),
        prop::collection::vec(open, 0..4),
        0_usize..6,
    )
        .prop_map(|(paused, history, open, systems)| Situation {
            paused: paused.map(|until| ("because".to_owned(), until)),
            history,
            open,
            systems,
        })
}

fn policy() -> impl Strategy<Value = Policy> {
    let autonomy = prop::sample::select(vec![Autonomy::Observe, Autonomy::Assist, Autonomy::Auto]);
    let windows = prop::sample::subsequence(vec!["daily 00:00-24:00", "Sat 11:00-13:00", "Mon-Fri 22:00-02:00"], 0..=3);
    let zone = prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Pacific/Kiritimati"]);
    let seconds = prop_oneof![3 => 0.0..20_000.0, 1 => prop::num::f64::ANY];
    (autonomy, windows, zone, 0_u32..6, 0_u32..5, seconds.clone(), seconds, 0_usize..4).prop_map(
        |(autonomy, windows, zone, cap, times, breaker_seconds, ineffective_seconds, storm_systems)| Policy {
            autonomy,
            windows: windows.into_iter().map(|text| text.parse().unwrap()).collect(),
            zone: TimeZone::get(zone).unwrap(),
            routine_per_hour: cap,
            corrective_per_hour: cap,
            disruptive_per_hour: cap,
            breaker_failures: times,
            breaker_seconds,
            ineffective_times: times,
            ineffective_seconds,
            storm_systems,
            approval_seconds: 900.0,
            never_end: Vec::new(),
        },
    )
}

/// Tables to vacuum and to analyze, and idle sessions.
fn findings() -> impl Strategy<Value = Vec<Finding>> {
    let tables = |check: &'static str| {
        prop::collection::vec(table(), 0..5).prop_map(move |names| {
            let offenders = names.into_iter().map(|name| Offender {
                target: Target::Table { database: "docrag".into(), schema: "public".into(), name },
                weight: 1.0,
                note: "over its trigger".into(),
            });
            let draft = Draft::new(Severity::Warning, "tables").offenders(offenders.collect());
            Finding::from_draft(check, &system("main"), draft)
        })
    };
    let sessions = prop::collection::vec((1_i32..9, 0.0..9_999.0), 0..5).prop_map(|list| {
        let offenders = list.into_iter().map(|(pid, weight)| Offender {
            target: Target::Session { pid, backend_start: ago(9_999.0) },
            weight,
            note: "idle".into(),
        });
        let draft = Draft::new(Severity::Warning, "sessions")
            .against("idle", Value::seconds(700.0), Value::seconds(600.0), "pg_stat_activity")
            .offenders(offenders.collect());
        Finding::from_draft("postgres.idle_in_transaction", &system("main"), draft)
    });
    (tables("postgres.dead_rows_past_trigger"), tables("postgres.statistics_stale"), sessions)
        .prop_map(|(dead, stale, idle)| vec![dead, stale, idle])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Also: it never panics, whatever the times.
    #[test]
    fn nothing_above_the_autonomy_is_done_without_an_approval(
        class in class(), policy in policy(), situation in situation(), any_time: bool, now in moment(),
    ) {
        let consent = Consent { approved: false, any_time };
        let decision = permit(&remedy(class), &vacuum("chunks"), &about(), &policy, &situation, consent, now);
        if decision == Decision::Do {
            prop_assert!(policy.autonomy.allows(class));
            prop_assert_ne!(class, RiskClass::Disruptive);
        }
    }

    #[test]
    fn not_even_an_approval_passes_a_pause_a_busy_subject_or_the_window(
        class in class(), policy in policy(), situation in situation(), any_time: bool, now in moment(),
    ) {
        let consent = Consent { approved: true, any_time };
        let step = vacuum("chunks");
        if permit(&remedy(class), &step, &about(), &policy, &situation, consent, now) == Decision::Do {
            let is_paused = situation.paused.as_ref().is_some_and(|(_, until)| until.is_none_or(|until| until > now));
            prop_assert!(!is_paused);
            let running = |action: &PastAction| action.outcome == Running && action.subject == step.subject();
            prop_assert!(!situation.history.iter().any(running));
            let waits = matches!(class, RiskClass::Routine | RiskClass::Disruptive) && !any_time;
            prop_assert!(!waits || policy.windows.iter().any(|window| window.contains(now, &policy.zone)));
        }
    }

    #[test]
    fn a_plan_does_nothing_above_the_autonomy_and_nothing_twice(
        findings in findings(), policy in policy(), situation in situation(), now in moment(),
    ) {
        let plan = plan(&findings, &policy, &situation, now);
        for item in plan.to_do() {
            prop_assert!(policy.autonomy.allows(item.class), "{:?}", item);
        }
        let subjects: BTreeSet<String> = plan.items.iter().map(|item| item.step.subject()).collect();
        prop_assert_eq!(subjects.len(), plan.items.len());
        let of_class = |class| plan.to_do().filter(|item| item.class == class).count();
        prop_assert!(of_class(RiskClass::Routine) <= policy.routine_per_hour as usize);
        prop_assert!(of_class(RiskClass::Corrective) <= policy.corrective_per_hour as usize);
    }
}
