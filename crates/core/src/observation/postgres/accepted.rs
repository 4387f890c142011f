//! The configuration that somebody accepted: what later readings are compared with.

use super::{Setting, Settings};
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
        Self { at, by: by.to_owned(), sees_all, settings: told.collect() }
    }

    /// By name. A change that only a restart takes up is no drift yet.
    pub fn drift(&self, settings: &Settings) -> Vec<Drift> {
        let mut found = Vec::new();
        for setting in settings.list.iter().filter(|setting| is_decided(setting)) {
            let accepted = self.settings.get(&setting.name).map(|accepted| accepted.value.clone());
            let now = setting.shown();
            // initdb and packages write down defaults, too: to write one down later changes nothing.
            let is_default = setting.boot.as_ref().is_some_and(|boot| *boot == setting.value);
            if accepted.as_ref() != Some(&now) && !(accepted.is_none() && is_default) {
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
            if now.as_ref() != Some(&accepted.value) {
                let accepted = Some(accepted.value.clone());
                found.push(Drift { setting: name.clone(), accepted, now, owner: "default".to_owned() });
            }
        }
        found.sort_by(|a, b| a.setting.cmp(&b.setting));
        found
    }
}
