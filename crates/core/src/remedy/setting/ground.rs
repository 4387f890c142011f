//! What a server says about a setting right before it is changed, and every reason not to.

use super::value::{Number, unit};
use super::{Change, Parameter, SettingValue, is_same};
use crate::observation::{Owner, Setting};
use crate::remedy::StepState;
use crate::tuning::postgres::is_as_made;

/// What a server says about one setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Ground {
    /// Its row of `pg_settings`.
    pub setting: Setting,
    pub limits: Limits,
    /// Every line of its files that sets it, in the order in which they are read: the last one wins.
    pub lines: Vec<Line>,
    /// What else our reload would take up, or what stands in its way: lines and files that somebody changed.
    pub by_reload: Vec<String>,
    /// Changes of other settings that no reload takes up: they wait for a restart, or for somebody who mends their line.
    pub by_restart: Vec<String>,
    /// Where the server's own `postgresql.conf` is; none where that is hidden from us.
    pub data_directory: Option<String>,
    /// Who keeps all of the server's settings (an operator), where somebody does.
    pub keeper: Option<String>,
}

/// A line of a file of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub file: String,
    pub line: Option<u32>,
    pub value: String,
    /// What the server has against it.
    pub error: Option<String>,
}

/// What the server takes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Limits {
    /// `bool`, `enum`, `integer`, `real`.
    pub kind: String,
    /// In the setting's own unit.
    pub least: Option<String>,
    pub most: Option<String>,
    pub words: Vec<String>,
}

impl Ground {
    /// What `postgresql.auto.conf` says, whether the server has read it or not.
    pub fn line(&self) -> Option<&str> {
        let own = |line: &&Line| line.file.ends_with("/postgresql.auto.conf");
        self.lines.iter().rfind(own).map(|line| line.value.as_str())
    }

    pub fn state(&self) -> StepState {
        StepState::Setting {
            value: self.setting.shown(),
            unit: self.setting.unit.clone(),
            owner: self.setting.owner().to_string(),
            line: self.line().map(str::to_owned),
            pending_restart: self.setting.pending_restart,
        }
    }

    /// Why the change is not to be made now; none when everything is as it must be.
    pub fn refusal(&self, parameter: Parameter, from: &SettingValue, change: &Change) -> Option<String> {
        match change {
            Change::Set { value } => self
                .foreign_owner()
                .or_else(|| self.moved(from))
                .or_else(|| self.half_done())
                .or_else(|| self.waiting_for_others())
                .or_else(|| self.unfit(parameter, value)),
            Change::PutBack { .. } => self.not_ours(from, change),
        }
    }

    /// Each setting has one owner. What somebody keeps elsewhere is changed there, or it is changed back.
    fn foreign_owner(&self) -> Option<String> {
        if let Some(keeper) = &self.keeper {
            return Some(format!("{keeper} keeps the settings of this server: change it there"));
        }
        let place = match self.setting.owner() {
            Owner::Nobody | Owner::AlterSystem => return None,
            Owner::File { .. } if is_as_made(&self.setting, self.data_directory.as_deref()) => return None,
            Owner::File { path, line: Some(line) } => format!("{path}, line {line}, keeps it"),
            Owner::File { path, line: None } => format!("{path} keeps it"),
            Owner::SomeFile => "a file that is hidden from us keeps it".to_owned(),
            Owner::CommandLine => "the server's command line keeps it".to_owned(),
            Owner::Environment => "the server's environment keeps it".to_owned(),
            Owner::Session => {
                let source = &self.setting.source;
                return Some(format!("our session has a value of its own ({source}), which covers the server's"));
            }
        };
        Some(format!("{place}: change it there"))
    }

    fn moved(&self, from: &SettingValue) -> Option<String> {
        let now = self.setting.shown();
        let is_as_planned = is_same(from.as_str(), &now, self.setting.unit.as_deref());
        (!is_as_planned).then(|| format!("it is {now} by now, and was {from} when this was planned"))
    }

    /// Somebody has written a value that the server does not run with yet, or has taken its line away.
    fn half_done(&self) -> Option<String> {
        if self.lines.is_empty() && self.setting.source == "configuration file" {
            return Some("its line is gone, and the server has not taken that up yet".to_owned());
        }
        let is_in_force = |line: &Line| is_same(&line.value, &self.setting.value, self.setting.unit.as_deref());
        let line = self.lines.last().filter(|line| self.setting.pending_restart || !is_in_force(line))?;
        Some(format!("{} sets it to {}, and the server has not taken that up yet", line.file, line.value))
    }

    fn waiting_for_others(&self) -> Option<String> {
        let mut waiting = self.by_reload.iter().chain(&self.by_restart);
        let first = waiting.next()?;
        let more = waiting.count();
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        Some(format!(
            "another change of settings is not finished: {first}{more}; finish it or take it back, then SELECT pg_reload_conf() \
             (or restart the server), and plan again"
        ))
    }

    fn unfit(&self, parameter: Parameter, value: &SettingValue) -> Option<String> {
        if (self.setting.context == "postmaster") != parameter.needs_restart() {
            return Some(format!("this server takes it up in another way than we know ({})", self.setting.context));
        }
        if let Some(line) = self.line().filter(|line| SettingValue::try_from(*line).is_err()) {
            return Some(format!("its line in postgresql.auto.conf ({line}) is none that we could put back"));
        }
        if is_same(value.as_str(), &self.setting.value, self.setting.unit.as_deref()) {
            return Some(format!("it is {value} already"));
        }
        self.limits.against(value, self.setting.unit.as_deref())
    }

    /// Only our own line is put back.
    fn not_ours(&self, wrote: &SettingValue, change: &Change) -> Option<String> {
        let line = self.line();
        if line == Some(wrote.as_str()) || change.is_written(line) {
            return None;
        }
        let says = line.map_or_else(|| "has no line for it".to_owned(), |line| format!("says {line}"));
        Some(format!("somebody has changed it since: postgresql.auto.conf {says}, and we wrote {wrote}"))
    }
}

impl Limits {
    /// What the server would have against the value. `own` is the setting's unit.
    fn against(&self, value: &SettingValue, own: Option<&str>) -> Option<String> {
        let text = value.as_str();
        match self.kind.as_str() {
            "bool" => (!matches!(text, "on" | "off")).then(|| format!("{text} is neither on nor off")),
            "enum" => {
                let is_known = self.words.iter().any(|word| word == text);
                (!is_known).then(|| format!("{text} is none of {}", self.words.join(", ")))
            }
            "integer" | "real" => self.outside(text, own),
            kind => Some(format!("values of the type {kind} are not changed")),
        }
    }

    fn outside(&self, text: &str, own: Option<&str>) -> Option<String> {
        let Some(number) = Number::read(text) else { return Some(format!("{text} is no number")) };
        let dimension = |of: Option<&str>| of.and_then(unit).map(|(dimension, _)| dimension);
        if number.unit.is_some_and(|(what, _)| dimension(own) != Some(what)) {
            return Some(format!("{text} has a unit that the setting has not"));
        }
        let bound = |text: &Option<String>| text.as_deref().and_then(Number::bare).map(|number| number.amount(own));
        let (Some(least), Some(most)) = (bound(&self.least), bound(&self.most)) else {
            return Some("the server does not tell its bounds".to_owned());
        };
        let amount = number.amount(own);
        let told =
            |bound: &Option<String>| format!("{}{}", bound.as_deref().unwrap_or_default(), own.unwrap_or_default());
        (!(least..=most).contains(&amount))
            .then(|| format!("{text} is not between {} and {}", told(&self.least), told(&self.most)))
    }
}
