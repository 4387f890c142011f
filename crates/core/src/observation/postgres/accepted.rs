//! The configuration that somebody accepted: what later readings are compared with.

use super::{DIGEST, Owner, Setting, Settings};
use crate::remedy::setting::{Change, is_same};
use crate::remedy::{Step, StepState};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    pub at: Timestamp,
    /// A person, or the first reading.
    pub by: String,
    /// Whether we could see all settings then; with other rights there would be others.
    pub sees_all: bool,
    /// By name, those that were not at their default.
    pub settings: BTreeMap<String, AcceptedSetting>,
    /// By name, those that we changed ourselves, where a second value is right for a while.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub changed: BTreeMap<String, OwnChange>,
}

/// A change of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnChange {
    /// Its number in the journal.
    pub action: i64,
    /// The value besides the accepted one that is no drift: the old one to a reading that was under way, the new one while it
    /// waits for a restart. None while an action puts it back: any.
    pub value: Option<String>,
    /// Only for readings up to here; none while it waits for a restart.
    pub until: Option<Timestamp>,
    /// When the action was over; none in an older record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedSetting {
    /// As one writes it in a configuration; of what may hold a secret, a hash.
    pub value: String,
    pub owner: String,
}

/// One setting that is not what was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    pub setting: String,
    /// None where it was at its default.
    pub accepted: Option<String>,
    /// None where it is at its default again, and that is not known.
    pub now: Option<String>,
    pub owner: String,
}

/// What a tool for failover (Patroni, repmgr, `CloudNativePG`) writes anew whenever the roles of the servers change.
const OF_FAILOVER: [&str; 4] =
    ["primary_conninfo", "primary_slot_name", "recovery_target_timeline", "synchronous_standby_names"];

fn is_of_failover(name: &str) -> bool {
    OF_FAILOVER.contains(&name)
}

/// What somebody decided: not a default, not what the server works out for itself, not our session's.
fn is_decided(setting: &Setting) -> bool {
    setting.is_of_server()
        && !is_of_failover(&setting.name)
        && setting.context != "internal"
        && !matches!(setting.source.as_str(), "default" | "dynamic default" | "override")
}

impl Accepted {
    pub fn of(settings: &Settings, sees_all: bool, at: Timestamp, by: &str) -> Self {
        let told = settings.list.iter().filter(|setting| is_decided(setting)).map(|setting| {
            let accepted = AcceptedSetting { value: setting.shown(), owner: setting.owner().to_string() };
            (setting.name.clone(), accepted)
        });
        Self { at, by: by.to_owned(), sees_all, settings: told.collect(), changed: BTreeMap::new() }
    }

    /// Puts keyed hashes in place of the bare ones of older versions. Whether there was one. A secret that is not the accepted
    /// one any more is told as drift without its old hash. What this reading was not shown waits for one that is.
    pub fn reseal(&mut self, settings: &Settings, sees_all: bool) -> bool {
        let mut is_resealed = false;
        let has_same_rights = self.sees_all == sees_all;
        for (name, accepted) in self.settings.iter_mut().filter(|(_, accepted)| accepted.value.starts_with(DIGEST)) {
            if !has_same_rights && settings.get(name).is_none() {
                continue;
            }
            let is_same = settings.bare.get(name) == Some(&accepted.value);
            let now = settings.value(name).filter(|_| is_same);
            now.unwrap_or("another value").clone_into(&mut accepted.value);
            is_resealed = true;
        }
        is_resealed
    }

    /// What an action of ours, which is done and verified, made of one setting is accepted; all else stays as it was.
    pub fn take(&mut self, action: i64, step: &Step, before: &StepState, after: &StepState, now: Timestamp) -> bool {
        let Step::AlterSystem { setting, to, .. } = step else { return false };
        let (StepState::Setting { value: was, .. }, StepState::Setting { value, owner, pending_restart, .. }) =
            (before, after)
        else {
            return false;
        };
        let name = setting.to_string();
        if *owner == Owner::Nobody.to_string() {
            self.settings.remove(&name);
        } else {
            let accepted = AcceptedSetting { value: value.clone(), owner: owner.clone() };
            self.settings.insert(name.clone(), accepted);
        }
        let other = match to {
            Change::Set { value } if *pending_restart => {
                OwnChange { action, value: Some(value.to_string()), until: None, since: Some(now) }
            }
            _ => OwnChange { action, value: Some(was.clone()), until: Some(now), since: Some(now) },
        };
        self.changed.insert(name, other);
        true
    }

    /// What an action of ours that is not over yet may make of one setting.
    pub fn expect(&mut self, action: i64, step: &Step) {
        if let Step::AlterSystem { setting, to, .. } = step {
            let value = match to {
                Change::Set { value } => Some(value.to_string()),
                Change::PutBack { .. } => None,
            };
            let change = OwnChange { action, value, until: None, since: None };
            self.changed.insert(setting.to_string(), change);
        }
    }

    /// For a reading of that moment: forgets second values of before.
    pub fn at_reading(&mut self, at: Timestamp) {
        self.changed.retain(|_, change| change.until.is_none_or(|until| at <= until));
    }

    /// For a reading of that moment: what waited for a restart and does not any more is over. The server runs with our
    /// value, which is accepted then, or somebody has taken our line away. Whether anything was over.
    pub fn at_restart(&mut self, settings: &Settings, at: Timestamp) -> bool {
        let over = self.changed.iter().filter_map(|(name, change)| {
            let is_read_since = change.since.is_none_or(|since| since < at);
            let setting = settings.get(name).filter(|one| one.is_of_server() && !one.pending_restart)?;
            if change.until.is_some() || !is_read_since {
                return None;
            }
            let is_ours = |value: &String| is_same(value, &setting.shown(), setting.unit.as_deref());
            let accepted = AcceptedSetting { value: setting.shown(), owner: setting.owner().to_string() };
            Some((name.clone(), change.value.as_ref().is_some_and(is_ours).then_some(accepted)))
        });
        let over: Vec<(String, Option<AcceptedSetting>)> = over.collect();
        for (name, accepted) in &over {
            self.changed.remove(name);
            if let Some(accepted) = accepted {
                self.settings.insert(name.clone(), accepted.clone());
            }
        }
        !over.is_empty()
    }

    /// Our action that wrote what waits for a restart, as long as the line is ours.
    pub fn waits_by(&self, setting: &Setting, settings: &Settings) -> Option<i64> {
        let change = self.changed.get(&setting.name).filter(|change| change.until.is_none())?;
        let line = settings.written.get(&setting.name)?;
        let is_ours = change.value.as_ref().is_some_and(|value| is_same(value, line, setting.unit.as_deref()));
        is_ours.then_some(change.action)
    }

    fn is_of_ours(&self, setting: &Setting, now: &str) -> bool {
        let Some(change) = self.changed.get(&setting.name) else { return false };
        change.value.as_ref().is_none_or(|value| is_same(value, now, setting.unit.as_deref()))
    }

    /// By name. A change that only a restart takes up is no drift yet.
    pub fn drift(&self, settings: &Settings) -> Vec<Drift> {
        let mut found = Vec::new();
        for setting in settings.list.iter().filter(|setting| is_decided(setting)) {
            let accepted = self.settings.get(&setting.name).map(|accepted| accepted.value.clone());
            let now = setting.shown();
            // initdb and packages write down defaults, too: to write one down later changes nothing.
            let is_default = setting.boot.as_ref().is_some_and(|boot| *boot == setting.value);
            let is_right = accepted.as_ref() == Some(&now) || (accepted.is_none() && is_default);
            if !is_right && !self.is_of_ours(setting, &now) {
                let owner = setting.owner().to_string();
                found.push(Drift { setting: setting.name.clone(), accepted, now: Some(now), owner });
            }
        }
        // An older record may have them.
        for (name, accepted) in self.settings.iter().filter(|(name, _)| !is_of_failover(name)) {
            let present = settings.get(name);
            // One that our role or session covers cannot be told.
            if present.is_some_and(|setting| is_decided(setting) || !setting.is_of_server()) {
                continue;
            }
            let now = present.map(Setting::shown);
            let is_of_ours = present.zip(now.as_ref()).is_some_and(|(setting, now)| self.is_of_ours(setting, now));
            if now.as_ref() != Some(&accepted.value) && !is_of_ours {
                let accepted = Some(accepted.value.clone());
                found.push(Drift { setting: name.clone(), accepted, now, owner: "default".to_owned() });
            }
        }
        found.sort_by(|a, b| a.setting.cmp(&b.setting));
        found
    }
}
