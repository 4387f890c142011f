//! The guards one by one, their edges, and their order.

mod properties;

use super::*;
use crate::finding::Target;
use crate::system::SystemKind;
use rstest::rstest;

/// A Saturday, at noon.
fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn ago(seconds: f64) -> Timestamp {
    after(now(), -seconds)
}

fn system(name: &str) -> SystemId {
    SystemId::new(SystemKind::Postgres, name)
}

fn vacuum(table: &str) -> Step {
    Step::Vacuum { system: system("main"), database: "docrag".into(), schema: "public".into(), table: table.into() }
}

/// The finding that the step answers.
fn about() -> Fingerprint {
    Fingerprint::of("postgres.dead_rows_past_trigger", &system("main"), &Target::System)
}

fn other_finding(name: &str) -> Fingerprint {
    Fingerprint::of("postgres.unreachable", &system(name), &Target::System)
}

/// A remedy with a cool-down of ten minutes and at most five runs an hour.
fn remedy(class: RiskClass) -> Remedy {
    Remedy {
        id: "postgres.mend",
        title: "Mend a table",
        check: Some("postgres.dead_rows_past_trigger"),
        eases: &[],
        class,
        preconditions: "none",
        verification: "none",
        cooldown: 600.0,
        hourly_cap: 5,
        propose: |_| Vec::new(),
    }
}

/// The step `vacuum chunks` on a day on which nothing stands in its way.
struct Scene {
    remedy: Remedy,
    policy: Policy,
    situation: Situation,
    consent: Consent,
}

impl Scene {
    fn new(class: RiskClass) -> Self {
        Self {
            remedy: remedy(class),
            policy: Policy {
                autonomy: Autonomy::Auto,
                windows: vec!["daily 00:00-24:00".parse().unwrap()],
                ..Policy::default()
            },
            situation: Situation { systems: 5, ..Situation::default() },
            consent: Consent::default(),
        }
    }

    /// An earlier run of the same remedy on the given table.
    fn ran(mut self, table: &str, seconds_ago: f64, outcome: Outcome) -> Self {
        let (remedy, class) = (self.remedy.id.to_owned(), self.remedy.class);
        let subject = vacuum(table).subject();
        self.situation.history.push(PastAction { remedy, class, subject, at: ago(seconds_ago), outcome });
        self
    }

    /// An earlier run of another remedy.
    fn other_ran(mut self, class: RiskClass, table: &str, seconds_ago: f64, outcome: Outcome) -> Self {
        let subject = vacuum(table).subject();
        let remedy = "postgres.other".to_owned();
        self.situation.history.push(PastAction { remedy, class, subject, at: ago(seconds_ago), outcome });
        self
    }

    fn firing(mut self, finding: Fingerprint, name: &str, severity: Severity) -> Self {
        self.situation.open.push((finding, system(name), severity));
        self
    }

    /// A critical finding on each of `sick` systems out of `all`.
    fn sick(mut self, sick: usize, all: usize) -> Self {
        self.situation.systems = all;
        (0..sick).map(|n| format!("db{n}")).fold(self, |scene, name| {
            let finding = other_finding(&name);
            scene.firing(finding, &name, Severity::Critical)
        })
    }

    fn paused(mut self, until: Option<f64>) -> Self {
        self.situation.paused = Some(("migration".into(), until.map(|seconds| after(now(), seconds))));
        self
    }

    fn windows(mut self, windows: &[&str]) -> Self {
        self.policy.windows = windows.iter().map(|text| text.parse().unwrap()).collect();
        self
    }

    fn autonomy(mut self, autonomy: Autonomy) -> Self {
        self.policy.autonomy = autonomy;
        self
    }

    fn consent(mut self, approved: bool, any_time: bool) -> Self {
        self.consent = Consent { approved, any_time };
        self
    }

    fn decide(&self) -> Decision {
        permit(&self.remedy, &vacuum("chunks"), &about(), &self.policy, &self.situation, self.consent, now())
    }

    fn guard(&self) -> Option<Guard> {
        if let Decision::Skip { guard, .. } = self.decide() { Some(guard) } else { None }
    }

    fn reason(&self) -> String {
        match self.decide() {
            Decision::Do => "do".into(),
            Decision::NeedsApproval { reason } | Decision::Skip { reason, .. } => reason,
        }
    }
}

fn routine() -> Scene {
    Scene::new(RiskClass::Routine)
}

fn corrective() -> Scene {
    Scene::new(RiskClass::Corrective)
}

fn disruptive() -> Scene {
    Scene::new(RiskClass::Disruptive)
}

use Outcome::{Abandoned, DidNotHelp, Failed, Helped, Running};

#[rstest]
#[case::never(routine(), None)]
#[case::without_end(routine().paused(None), Some(Guard::Paused))]
#[case::ends_in_a_second(routine().paused(Some(1.0)), Some(Guard::Paused))]
#[case::ends_now(routine().paused(Some(0.0)), None)]
#[case::has_ended(routine().paused(Some(-60.0)), None)]
#[case::an_approval_does_not_lift_it(routine().paused(None).consent(true, true), Some(Guard::Paused))]
fn a_pause_stops_everything_until_it_ends(#[case] scene: Scene, #[case] guard: Option<Guard>) {
    assert_eq!(scene.guard(), guard);
}

#[rstest]
#[case::same_table(routine().other_ran(RiskClass::Corrective, "chunks", 7_200.0, Running), Some(Guard::Busy))]
#[case::other_table(routine().other_ran(RiskClass::Corrective, "documents", 5.0, Running), None)]
#[case::ended(routine().other_ran(RiskClass::Corrective, "chunks", 5.0, Helped), None)]
fn one_action_at_a_time_on_one_subject(#[case] scene: Scene, #[case] guard: Option<Guard>) {
    assert_eq!(scene.guard(), guard);
}

/// Failures of the remedy on other tables, so that neither cool-down nor busyness has a say; the last one so long ago.
fn failures(number: u32, last: f64) -> Scene {
    (0..number).fold(routine(), |scene, n| scene.ran(&format!("t{n}"), last + f64::from(n) * 60.0, Failed))
}

#[rstest]
#[case::two(failures(2, 5.0), None)]
#[case::three(failures(3, 5.0), Some(Guard::Breaker))]
#[case::almost_an_hour_later(failures(3, 3_599.0), Some(Guard::Breaker))]
#[case::an_hour_later_it_may_try(failures(3, 3_600.0), None)]
#[case::the_trial_fails(failures(3, 4_000.0).ran("t", 10.0, Failed), Some(Guard::Breaker))]
#[case::the_trial_helps(failures(3, 4_000.0).ran("t", 10.0, Helped), None)]
#[case::not_in_a_row(failures(2, 5.0).ran("t", 90.0, DidNotHelp).ran("u", 400.0, Failed), None)]
#[case::one_is_under_way(failures(3, 5.0).ran("t", 1.0, Running), Some(Guard::Breaker))]
#[case::an_abandoned_run_is_no_success(failures(3, 5.0).ran("t", 1.0, Abandoned), Some(Guard::Breaker))]
#[case::of_another_remedy(
    routine()
        .other_ran(RiskClass::Routine, "a", 5.0, Failed)
        .other_ran(RiskClass::Routine, "b", 6.0, Failed)
        .other_ran(RiskClass::Routine, "c", 7.0, Failed),
    None
)]
fn three_failures_in_a_row_open_the_breaker_for_an_hour(#[case] scene: Scene, #[case] guard: Option<Guard>) {
    assert_eq!(scene.guard(), guard);
}

/// Three runs on the same table that did not help, the first of them so long ago.
fn in_vain(first: f64) -> Scene {
    [first, 7_200.0, 1_000.0].into_iter().fold(routine(), |scene, at| scene.ran("chunks", at, DidNotHelp))
}

#[rstest]
#[case::within_four_hours(in_vain(14_399.0), Some(Guard::Ineffective))]
#[case::four_hours_ago(in_vain(14_400.0), None)]
#[case::a_success_between_does_not_hide_it(in_vain(14_000.0).ran("chunks", 2_000.0, Helped), Some(Guard::Ineffective))]
#[case::twice(routine().ran("chunks", 7_200.0, DidNotHelp).ran("chunks", 1_000.0, DidNotHelp), None)]
#[case::on_other_tables(
    routine().ran("a", 900.0, DidNotHelp).ran("b", 900.0, DidNotHelp).ran("c", 900.0, DidNotHelp),
    None
)]
fn what_did_not_help_three_times_in_four_hours_stops(#[case] scene: Scene, #[case] guard: Option<Guard>) {
    assert_eq!(scene.guard(), guard);
}

#[test]
fn a_remedy_that_rests_for_long_can_be_found_out_as_well() {
    // Every seven hours, as its cool-down lets it: never three times within four hours.
    let mut scene =
        [14.5, 7.5, 0.5].into_iter().fold(routine(), |scene, hours| scene.ran("chunks", hours * 3_600.0, DidNotHelp));
    scene.remedy.cooldown = 6.0 * 3_600.0;
    assert_eq!(scene.guard(), Some(Guard::Ineffective));
    assert!(scene.reason().contains("3 times in 19 h"), "{}", scene.reason());
    assert!(scene.policy.memory() >= 24.0 * 3_600.0);
    scene.policy.ineffective_times = 5;
    assert!(scene.policy.memory() >= 31.0 * 3_600.0, "the history must reach back as far as the guards look");
}

#[rstest]
#[case::inside(&["Sat 11:00-13:00"], Some(3_600.0))]
#[case::outside(&["Sun 02:00-05:00"], Some(0.0))]
#[case::none(&[], Some(0.0))]
#[case::the_longer_of_two(&["Sat 11:00-12:30", "daily 10:00-15:00"], Some(3.0 * 3_600.0))]
#[case::one_behind_the_other(&["Sat 11:00-13:00", "Sat 13:00-14:00"], Some(2.0 * 3_600.0))]
#[case::over_midnight(&["Sat 11:00-01:00"], Some(13.0 * 3_600.0))]
#[case::always_open(&["daily 00:00-24:00"], None)]
fn an_action_is_over_when_its_window_closes(#[case] windows: &[&str], #[case] seconds: Option<f64>) {
    let scene = routine().windows(windows);
    let closes = |class, consent| scene.policy.window_closes(class, consent, now());
    assert_eq!(closes(RiskClass::Routine, Consent::default()), seconds.map(|seconds| after(now(), seconds)));
    assert_eq!(closes(RiskClass::Corrective, Consent::default()), None);
    assert_eq!(closes(RiskClass::Disruptive, Consent { approved: true, any_time: true }), None);
}

#[test]
fn nothing_begins_in_the_last_minute_of_a_window() {
    let almost_over = |second: i64| {
        let scene = routine().windows(&["Sat 11:00-12:01"]);
        let now = Timestamp::from_second(now().as_second() + second).unwrap();
        permit(&scene.remedy, &vacuum("chunks"), &about(), &scene.policy, &scene.situation, Consent::default(), now)
    };
    assert_eq!(almost_over(0), Decision::Do);
    let Decision::Skip { guard: Guard::Window, reason } = almost_over(1) else { panic!() };
    assert_eq!(reason, "the maintenance window closes in 59 s, too soon to begin anything");
}

#[rstest]
#[case::just_before_its_end(routine().ran("chunks", 599.999, Helped), Some(Guard::Cooldown))]
#[case::at_its_end(routine().ran("chunks", 600.0, Helped), None)]
#[case::after_a_failure(routine().ran("chunks", 10.0, Failed), Some(Guard::Cooldown))]
#[case::what_never_happened_needs_no_rest(routine().ran("chunks", 10.0, Abandoned), None)]
#[case::another_table(routine().ran("documents", 10.0, Helped), None)]
#[case::another_remedy(routine().other_ran(RiskClass::Routine, "chunks", 10.0, Helped), None)]
#[case::the_clock_was_put_back(routine().ran("chunks", -30.0, Helped), Some(Guard::Cooldown))]
#[case::the_last_one_counts(
    routine().ran("chunks", 10.0, Helped).ran("chunks", 9_000.0, Helped),
    Some(Guard::Cooldown)
)]
fn a_subject_rests_between_two_runs(#[case] scene: Scene, #[case] guard: Option<Guard>) {
    assert_eq!(scene.guard(), guard);
}

fn runs(number: u32, class: RiskClass) -> Scene {
    (0..number).fold(Scene::new(class), |scene, n| scene.ran(&format!("t{n}"), f64::from(n) * 600.0, Helped))
}

/// The class may run twice an hour, and another remedy of that class has run.
fn of_class(class: RiskClass, ran: RiskClass, last: f64) -> Scene {
    let mut scene = Scene::new(class).other_ran(ran, "a", 3_599.0, Helped).other_ran(ran, "b", last, Helped);
    scene.policy.routine_per_hour = 2;
    scene.policy.corrective_per_hour = 2;
    scene
}

#[rstest]
#[case::four_of_five(runs(4, RiskClass::Routine), None)]
#[case::five_of_five(runs(5, RiskClass::Routine), Some(Guard::Cap))]
#[case::the_fifth_an_hour_ago(runs(4, RiskClass::Routine).ran("t", 3_600.0, Helped), None)]
#[case::protection_has_the_remedy_cap(runs(5, RiskClass::Protect), Some(Guard::Cap))]
#[case::class_is_full(of_class(RiskClass::Routine, RiskClass::Routine, 5.0), Some(Guard::Cap))]
#[case::class_has_room_again(of_class(RiskClass::Routine, RiskClass::Routine, 3_600.0), None)]
#[case::corrective_is_full(of_class(RiskClass::Corrective, RiskClass::Corrective, 5.0), Some(Guard::Cap))]
#[case::classes_do_not_share(of_class(RiskClass::Corrective, RiskClass::Routine, 5.0), None)]
#[case::disruptive_twice_by_default(
    disruptive().consent(true, false).other_ran(RiskClass::Disruptive, "a", 5.0, Helped)
        .other_ran(RiskClass::Disruptive, "b", 5.0, Helped),
    Some(Guard::Cap)
)]
fn caps_count_the_last_hour_by_remedy_and_by_class(#[case] scene: Scene, #[case] guard: Option<Guard>) {
    assert_eq!(scene.guard(), guard);
}

#[rstest]
#[case::both_of_two(corrective().sick(2, 2), None)]
#[case::three_of_three(corrective().sick(3, 3), Some(Guard::Storm))]
#[case::two_of_five(corrective().sick(2, 5), None)]
#[case::three_of_five(corrective().sick(3, 5), Some(Guard::Storm))]
#[case::three_of_six(corrective().sick(3, 6), Some(Guard::Storm))]
#[case::three_of_seven(corrective().sick(3, 7), None)]
#[case::approved(corrective().sick(5, 5).consent(true, true), Some(Guard::Storm))]
#[case::three_findings_of_one_system(
    corrective()
        .firing(other_finding("a"), "main", Severity::Critical)
        .firing(other_finding("b"), "main", Severity::Critical)
        .firing(other_finding("c"), "main", Severity::Critical),
    None
)]
#[case::warnings_are_no_storm(
    corrective()
        .firing(other_finding("a"), "a", Severity::Warning)
        .firing(other_finding("b"), "b", Severity::Warning)
        .firing(other_finding("c"), "c", Severity::Warning),
    None
)]
fn many_sick_systems_brake_every_action(#[case] scene: Scene, #[case] guard: Option<Guard>) {
    assert_eq!(scene.guard(), guard);
}

#[rstest]
#[case::elsewhere(routine().firing(other_finding("b"), "b", Severity::Critical), Some(Guard::Alert))]
#[case::its_own(routine().firing(about(), "main", Severity::Critical), None)]
#[case::its_own_and_another(
    routine().firing(about(), "main", Severity::Critical).firing(other_finding("main"), "main", Severity::Critical),
    Some(Guard::Alert)
)]
#[case::a_warning(routine().firing(other_finding("b"), "b", Severity::Warning), None)]
#[case::corrective(corrective().firing(other_finding("b"), "b", Severity::Critical), None)]
#[case::disruptive(disruptive().consent(true, false).firing(other_finding("b"), "b", Severity::Critical), None)]
#[case::approved(
    routine().consent(true, true).firing(other_finding("b"), "b", Severity::Critical),
    Some(Guard::Alert)
)]
fn an_alert_blocks_routine_work_but_neither_mending_nor_its_own_cure(
    #[case] scene: Scene,
    #[case] guard: Option<Guard>,
) {
    assert_eq!(scene.guard(), guard);
}

#[test]
fn a_full_repository_is_pruned_although_no_set_can_be_made_and_not_when_its_data_are_damaged() {
    let remedy = crate::remedy::find("backup.prune_repository").unwrap();
    let repository = SystemId::new(SystemKind::Backup, "main");
    let step = Step::PruneRepository { system: repository.clone(), sets: Vec::new() };
    let fingerprint = |check: &str| Fingerprint::of(check, &repository, &Target::System);
    let decided = |check: &str| {
        let open = vec![(fingerprint(check), repository.clone(), Severity::Critical)];
        let situation = Situation { open, systems: 5, ..Situation::default() };
        let consent = Consent { approved: true, any_time: true };
        permit(remedy, &step, &fingerprint(remedy.check.unwrap()), &Policy::default(), &situation, consent, now())
    };
    assert_eq!(decided("backup.repository_nearly_full"), Decision::Do);
    assert_eq!(decided("backup.set_missing"), Decision::Do);
    assert!(matches!(decided("backup.rung_failed"), Decision::Skip { guard: Guard::Alert, .. }));
}

#[rstest]
#[case::none_configured(routine().windows(&[]), Some(Guard::Window))]
#[case::inside(routine().windows(&["Sat 11:00-13:00"]), None)]
#[case::at_its_start(routine().windows(&["Sat 12:00-13:00"]), None)]
#[case::at_its_end(routine().windows(&["Sat 11:00-12:00"]), Some(Guard::Window))]
#[case::in_one_of_two(routine().windows(&["Sun 02:00-05:00", "Sat 11:00-13:00"]), None)]
#[case::corrective_waits_for_none(corrective().windows(&[]), None)]
#[case::protection_waits_for_none(Scene::new(RiskClass::Protect).windows(&[]), None)]
#[case::approved(routine().windows(&["Sun 02:00-05:00"]).consent(true, false), Some(Guard::Window))]
#[case::approved_for_any_time(routine().windows(&["Sun 02:00-05:00"]).consent(true, true), None)]
#[case::any_time_is_worth_nothing_without_an_approval(routine().windows(&[]).consent(false, true), Some(Guard::Window))]
#[case::disruptive(disruptive().windows(&["Sun 02:00-05:00"]).consent(true, false), Some(Guard::Window))]
#[case::disruptive_for_any_time(disruptive().windows(&[]).consent(true, true), None)]
fn routine_and_disruptive_work_keeps_to_the_window(#[case] scene: Scene, #[case] guard: Option<Guard>) {
    assert_eq!(scene.guard(), guard);
}

#[test]
fn autonomy_decides_by_class_and_an_approval_lifts_any_class() {
    use RiskClass::{Corrective, Disruptive, Observe, Protect, Routine};
    let by_itself = [
        (Autonomy::Observe, [true, true, false, false, false]),
        (Autonomy::Assist, [true, true, true, false, false]),
        (Autonomy::Auto, [true, true, true, true, false]),
    ];
    for (autonomy, allowed) in by_itself {
        for (class, allowed) in [Observe, Protect, Routine, Corrective, Disruptive].into_iter().zip(allowed) {
            let scene = Scene::new(class).autonomy(autonomy);
            let decision = scene.decide();
            assert_eq!(decision == Decision::Do, allowed, "{class} at {autonomy}: {decision:?}");
            assert!(allowed || matches!(decision, Decision::NeedsApproval { .. }), "{class} at {autonomy}");
            assert_eq!(scene.consent(true, false).decide(), Decision::Do, "approved {class} at {autonomy}");
        }
    }
}

#[test]
fn the_first_reason_is_the_one_that_a_person_should_hear_first() {
    let mut scene = in_vain(9_000.0)
        .ran("a", 30.0, Failed)
        .ran("b", 20.0, Failed)
        .ran("c", 10.0, Failed)
        .other_ran(RiskClass::Routine, "chunks", 5.0, Running)
        .ran("chunks", 40.0, Failed)
        .sick(3, 5)
        .paused(None)
        .windows(&["Sun 02:00-05:00"])
        .autonomy(Autonomy::Observe);
    let mut heard = Vec::new();
    let mends: [fn(&mut Scene); 10] = [
        |scene| scene.situation.paused = None,
        |scene| scene.situation.history.retain(|action| action.outcome != Running),
        |scene| scene.policy.breaker_failures = 99,
        |scene| scene.policy.ineffective_times = 99,
        |scene| scene.remedy.cooldown = 0.0,
        |scene| scene.situation.history.clear(),
        |scene| scene.policy.storm_systems = 99,
        |scene| scene.situation.open.clear(),
        |scene| scene.policy.autonomy = Autonomy::Assist,
        |scene| scene.policy.windows = vec!["daily 00:00-24:00".parse().unwrap()],
    ];
    scene.remedy.hourly_cap = 4;
    for mend in mends {
        heard.push(scene.reason());
        mend(&mut scene);
    }
    heard.push(scene.reason());
    insta::assert_snapshot!(heard.join("\n"));
}
