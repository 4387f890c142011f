//! Who decides, and what stops an action: autonomy, windows, cool-downs, caps, breakers, the pause.
//!
//! [`permit`] is asked twice: when a plan is made, and again by the executor right before the step. All guards fail
//! closed. The order of the guards is the order of the reasons a person should hear first.

use crate::finding::{Fingerprint, Target};
use crate::quantity::{after, format_seconds, seconds_between};
use crate::remedy::{REMEDIES, Remedy, RiskClass, Step};
use crate::severity::Severity;
use crate::system::SystemId;
use crate::window::Window;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// How much the keeper does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Autonomy {
    /// Looks and tells; changes nothing without an approval.
    #[default]
    Observe,
    /// Also routine upkeep, inside its window.
    Assist,
    /// Also corrective remedies.
    Auto,
}

impl Autonomy {
    fn allows(self, class: RiskClass) -> bool {
        match class {
            RiskClass::Observe | RiskClass::Protect => true,
            RiskClass::Routine => self >= Self::Assist,
            RiskClass::Corrective => self >= Self::Auto,
            RiskClass::Disruptive => false,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Assist => "assist",
            Self::Auto => "auto",
        }
    }
}

impl fmt::Display for Autonomy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The rules in force. Numbers come from the tools named in the comments; each can be configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub autonomy: Autonomy,
    pub windows: Vec<Window>,
    pub zone: TimeZone,
    /// Executions per hour of one risk class, over all remedies.
    pub routine_per_hour: u32,
    pub corrective_per_hour: u32,
    pub disruptive_per_hour: u32,
    /// So many failures in a row of one remedy stop it (Kubernaut: three, for an hour).
    pub breaker_failures: u32,
    pub breaker_seconds: f64,
    /// The same remedy on the same subject that did not help so often within the time calls a human (Kubernaut: 3, 4 h).
    pub ineffective_times: u32,
    pub ineffective_seconds: f64,
    /// At least so many systems with a critical finding, and half of all: fix the cause, not the symptoms.
    pub storm_systems: usize,
    /// How long an approval is good for, seconds.
    pub approval_seconds: f64,
    /// Applications and roles whose sessions are never ended, besides those that are protected anyway.
    pub never_end: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            autonomy: Autonomy::Observe,
            windows: Vec::new(),
            zone: TimeZone::UTC,
            routine_per_hour: 200,
            corrective_per_hour: 20,
            disruptive_per_hour: 2,
            breaker_failures: 3,
            breaker_seconds: 3600.0,
            ineffective_times: 3,
            ineffective_seconds: 4.0 * 3600.0,
            storm_systems: 3,
            approval_seconds: 15.0 * 60.0,
            never_end: Vec::new(),
        }
    }
}

/// What begins with less time than this left in its window would only be interrupted.
const LEAST_SECONDS: f64 = 60.0;
/// So many windows in a row count as one; more would be for ever.
const WINDOWS_IN_A_ROW: usize = 32;

impl Policy {
    /// Within how many seconds runs that did not help count. A remedy that rests for long cannot run often enough within
    /// the time that suits the others.
    pub fn ineffective_within(&self, remedy: &Remedy) -> f64 {
        self.ineffective_seconds.max(f64::from(self.ineffective_times) * remedy.cooldown + 3600.0)
    }

    /// How far back the guards look, seconds.
    pub fn memory(&self) -> f64 {
        let remedies = REMEDIES.iter().map(|remedy| self.ineffective_within(remedy).max(remedy.cooldown));
        remedies.fold(self.breaker_seconds.max(24.0 * 3600.0), f64::max)
    }

    /// When an action of that class has to be over; none where no window binds it, or the window never closes.
    pub fn window_closes(&self, class: RiskClass, consent: Consent, now: Timestamp) -> Option<Timestamp> {
        if !class.waits_for_window() || (consent.approved && consent.any_time) {
            return None;
        }
        let mut closes = now;
        for _ in 0..WINDOWS_IN_A_ROW {
            let open = || self.windows.iter().filter(|window| window.contains(closes, &self.zone));
            if open().next().is_none() {
                return Some(closes);
            }
            let ends: Option<Vec<Timestamp>> = open().map(|window| window.closes_at(closes, &self.zone)).collect();
            closes = ends?.into_iter().max()?;
        }
        None
    }
}

/// How an execution ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done, and the verification saw that it helped.
    Helped,
    /// Done, but it did not help.
    DidNotHelp,
    /// The step failed or was refused by the server.
    Failed,
    /// It did not happen: the world was not as the step needed it, or the keeper died in between, or nobody can say any
    /// more.
    Abandoned,
    /// In progress.
    Running,
}

/// An execution in the recent past, as the journal has it.
#[derive(Debug, Clone, PartialEq)]
pub struct PastAction {
    pub remedy: String,
    pub class: RiskClass,
    pub subject: String,
    /// When it ended; while it runs, when it began.
    pub at: Timestamp,
    pub outcome: Outcome,
}

/// What the guards need to know about the present.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Situation {
    /// The reason given with `pause`, and until when (none: until `resume`).
    pub paused: Option<(String, Option<Timestamp>)>,
    /// Executions of at least the last 24 hours, any order.
    pub history: Vec<PastAction>,
    /// Open findings that are not ignored.
    pub open: Vec<(Fingerprint, SystemId, Severity)>,
    pub systems: usize,
}

/// The guard that stopped an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    Paused,
    Busy,
    Breaker,
    Ineffective,
    Cooldown,
    Cap,
    Storm,
    Alert,
    Window,
}

/// What may be done with a step now, and why not more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "decision")]
pub enum Decision {
    Do,
    NeedsApproval { reason: String },
    Skip { guard: Guard, reason: String },
}

/// What a person allowed for this very step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Consent {
    pub approved: bool,
    /// The approval also covers times outside the maintenance window.
    pub any_time: bool,
}

/// Decides about one step of one remedy. `about` is the finding that it answers: an alert does not block its own cure.
pub fn permit(
    remedy: &Remedy,
    step: &Step,
    about: &Fingerprint,
    policy: &Policy,
    situation: &Situation,
    consent: Consent,
    now: Timestamp,
) -> Decision {
    let blocked = paused(situation, now)
        .or_else(|| busy(step, situation))
        .or_else(|| breaker(remedy, policy, situation, now))
        .or_else(|| ineffective(remedy, step, policy, situation, now))
        .or_else(|| cooldown(remedy, step, situation, now))
        .or_else(|| cap(remedy, policy, situation, now))
        .or_else(|| storm(policy, situation))
        .or_else(|| alert(remedy, about, situation));
    if let Some((guard, reason)) = blocked {
        return Decision::Skip { guard, reason };
    }
    if !consent.approved && !policy.autonomy.allows(remedy.class) {
        return Decision::NeedsApproval { reason: wants_approval(remedy.class, policy.autonomy) };
    }
    if !(consent.approved && consent.any_time)
        && let Some((guard, reason)) = window(remedy.class, policy, now)
    {
        let way = if consent.approved { "; `groundskeeper approve --any-time` allows it now" } else { "" };
        return Decision::Skip { guard, reason: reason + way };
    }
    Decision::Do
}

type Blocked = Option<(Guard, String)>;

fn wants_approval(class: RiskClass, autonomy: Autonomy) -> String {
    let enough = match class {
        RiskClass::Routine => "; `autonomy = \"assist\"` would do it in the maintenance window",
        RiskClass::Corrective => "; `autonomy = \"auto\"` would do it",
        _ => "",
    };
    format!("{class} actions need a person at autonomy \"{autonomy}\"{enough}")
}

fn paused(situation: &Situation, now: Timestamp) -> Blocked {
    let (reason, until) = situation.paused.as_ref()?;
    match until {
        Some(until) if *until <= now => None,
        Some(until) => Some((Guard::Paused, format!("paused until {until:.0}: {reason}"))),
        None => Some((Guard::Paused, format!("paused until `groundskeeper resume`: {reason}"))),
    }
}

fn busy(step: &Step, situation: &Situation) -> Blocked {
    let subject = step.subject();
    situation
        .history
        .iter()
        .any(|action| action.outcome == Outcome::Running && action.subject == subject)
        .then(|| (Guard::Busy, format!("another action on {subject} is under way")))
}

fn breaker(remedy: &Remedy, policy: &Policy, situation: &Situation, now: Timestamp) -> Blocked {
    // An abandoned run never happened: it neither fails nor ends a row of failures.
    let ended = |action: &&PastAction| !matches!(action.outcome, Outcome::Running | Outcome::Abandoned);
    let mut ended: Vec<&PastAction> =
        situation.history.iter().filter(|action| action.remedy == remedy.id).filter(ended).collect();
    ended.sort_by_key(|action| std::cmp::Reverse(action.at));
    let failures = ended.iter().take_while(|action| action.outcome == Outcome::Failed).count();
    let opened = ended.first()?.at;
    let closes = after(opened, policy.breaker_seconds);
    (failures >= policy.breaker_failures as usize && now < closes)
        .then(|| (Guard::Breaker, format!("{failures} failures in a row of {}; it rests until {closes:.0}", remedy.id)))
}

fn ineffective(remedy: &Remedy, step: &Step, policy: &Policy, situation: &Situation, now: Timestamp) -> Blocked {
    let (subject, within) = (step.subject(), policy.ineffective_within(remedy));
    let times = situation
        .history
        .iter()
        .filter(|action| action.remedy == remedy.id && action.subject == subject)
        .filter(|action| action.outcome == Outcome::DidNotHelp)
        .filter(|action| seconds_between(action.at, now) < within)
        .count();
    (times >= policy.ineffective_times as usize).then(|| {
        let span = format_seconds(within);
        (Guard::Ineffective, format!("it did not help {times} times in {span}; a person should look"))
    })
}

fn cooldown(remedy: &Remedy, step: &Step, situation: &Situation, now: Timestamp) -> Blocked {
    let subject = step.subject();
    let last = situation
        .history
        .iter()
        .filter(|action| action.remedy == remedy.id && action.subject == subject)
        .filter(|action| action.outcome != Outcome::Abandoned)
        .map(|action| action.at)
        .max()?;
    let until = after(last, remedy.cooldown);
    (now < until).then(|| (Guard::Cooldown, format!("done at {last:.0}; not again before {until:.0}")))
}

fn cap(remedy: &Remedy, policy: &Policy, situation: &Situation, now: Timestamp) -> Blocked {
    let recent = |action: &&PastAction| seconds_between(action.at, now) < 3600.0;
    let of_remedy = situation.history.iter().filter(recent).filter(|a| a.remedy == remedy.id).count();
    if of_remedy >= remedy.hourly_cap as usize {
        let cap = remedy.hourly_cap;
        return Some((Guard::Cap, format!("{} has reached its cap of {cap} in an hour", remedy.id)));
    }
    let class_cap = match remedy.class {
        RiskClass::Observe | RiskClass::Protect => return None,
        RiskClass::Routine => policy.routine_per_hour,
        RiskClass::Corrective => policy.corrective_per_hour,
        RiskClass::Disruptive => policy.disruptive_per_hour,
    };
    let of_class = situation.history.iter().filter(recent).filter(|a| a.class == remedy.class).count();
    (of_class >= class_cap as usize)
        .then(|| (Guard::Cap, format!("the cap of {class_cap} {} actions in an hour is reached", remedy.class)))
}

fn storm(policy: &Policy, situation: &Situation) -> Blocked {
    let sick: BTreeSet<&SystemId> = situation
        .open
        .iter()
        .filter(|(_, _, severity)| *severity == Severity::Critical)
        .map(|(_, system, _)| system)
        .collect();
    (sick.len() >= policy.storm_systems && sick.len() * 2 >= situation.systems).then(|| {
        let message = format!(
            "{} of {} systems are in trouble at once: find the common cause before mending symptoms",
            sick.len(),
            situation.systems
        );
        (Guard::Storm, message)
    })
}

fn alert(remedy: &Remedy, about: &Fingerprint, situation: &Situation) -> Blocked {
    if remedy.class != RiskClass::Routine {
        return None;
    }
    let is_eased = |fingerprint: &Fingerprint, system: &SystemId| {
        remedy.eases.iter().any(|check| *fingerprint == Fingerprint::of(check, system, &Target::System))
    };
    let firing = situation.open.iter().find(|(fingerprint, system, severity)| {
        *severity == Severity::Critical && fingerprint != about && !is_eased(fingerprint, system)
    })?;
    Some((Guard::Alert, format!("routine work waits while {} has a critical finding ({})", firing.1, firing.0.short())))
}

fn window(class: RiskClass, policy: &Policy, now: Timestamp) -> Blocked {
    if !class.waits_for_window() {
        return None;
    }
    if policy.windows.is_empty() {
        return Some((Guard::Window, "no maintenance window is configured".into()));
    }
    if policy.windows.iter().any(|window| window.contains(now, &policy.zone)) {
        let closes = policy.window_closes(class, Consent::default(), now)?;
        let left = seconds_between(now, closes);
        return (left < LEAST_SECONDS).then(|| {
            (Guard::Window, format!("the maintenance window closes in {left:.0} s, too soon to begin anything"))
        });
    }
    let next = policy.windows.iter().filter_map(|window| window.next_open(now, &policy.zone)).min();
    let next = next.map_or_else(String::new, |at| format!("; the next one opens at {at:.0}"));
    Some((Guard::Window, format!("outside the maintenance window{next}")))
}

#[cfg(test)]
mod tests;
