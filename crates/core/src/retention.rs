//! Which sets a repository keeps, and why.
//!
//! The rules are restic's: the newest set of each hour, day, week, month and year, so many of each, counted over the
//! periods that have a set; the newest few; and all within a span before the newest. None of them asks how old a set is
//! by the clock, so a clock that jumps ahead removes nothing that it would not have removed anyway.
//!
//! What nobody may lose stays whatever the rules say: the newest set of all, the newest that is whole, the newest that
//! was shown to be alive, one that is being restored, one whose receipt is lost. While a set is from the future of the
//! clock, nothing is removed at all.
//!
//! Only whole sets count. One that lacks a system, or failed a proof, never takes the place of a whole one; it stands in
//! for an hour, a day, … that has no whole set, beside the whole ones that are counted.

use crate::receipt::{Receipt, Rung, SetId};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;

/// How many sets to keep. Zero switches a rule off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keep {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
    /// Everything that is at most so much older than the newest whole set.
    pub within: SignedDuration,
}

impl Keep {
    pub const NOTHING: Self =
        Self { last: 0, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0, within: SignedDuration::ZERO };

    fn of(&self, period: Period) -> u32 {
        match period {
            Period::Hour => self.hourly,
            Period::Day => self.daily,
            Period::Week => self.weekly,
            Period::Month => self.monthly,
            Period::Year => self.yearly,
        }
    }
}

/// A week of days, a month of weeks, half a year of months, and three sets that were made by hand in between.
impl Default for Keep {
    fn default() -> Self {
        Self { last: 3, daily: 7, weekly: 4, monthly: 6, ..Self::NOTHING }
    }
}

/// `the last 3, 7 daily, 4 weekly, 6 monthly`
impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rules = Vec::new();
        if self.last > 0 {
            rules.push(format!("the last {}", self.last));
        }
        let counted = Period::ALL.into_iter().filter(|period| self.of(*period) > 0);
        rules.extend(counted.map(|period| format!("{} {}", self.of(period), period.adverb())));
        if self.within > SignedDuration::ZERO {
            rules.push(format!("all within {:#}", self.within));
        }
        if rules.is_empty() {
            rules.push("nothing but the newest".to_owned());
        }
        f.pad(&rules.join(", "))
    }
}

/// A stretch of the calendar of which one set is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    Hour,
    Day,
    /// Monday to Sunday (ISO 8601).
    Week,
    Month,
    Year,
}

impl Period {
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    fn adverb(self) -> &'static str {
        match self {
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }

    /// `2026-03-02`, `2026-W10`. The hour has its offset: when the clocks go back there are two of the same number.
    fn name(self, at: &Zoned) -> String {
        match self {
            Self::Hour => at.strftime("%Y-%m-%d %H:00%:z").to_string(),
            Self::Day => at.strftime("%Y-%m-%d").to_string(),
            Self::Week => {
                let week = at.date().iso_week_date();
                format!("{}-W{:02}", week.year(), week.week())
            }
            Self::Month => at.strftime("%Y-%m").to_string(),
            Self::Year => at.strftime("%Y").to_string(),
        }
    }
}

/// What is known of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub set: SetId,
    pub made: Timestamp,
    pub standing: Standing,
    /// It was shown to be alive (rung 4).
    pub alive: bool,
    /// Somebody restores it, or drills with it, now.
    pub in_use: bool,
}

/// Whether a set is worth what a rule counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Whole,
    /// A system is missing in it.
    Lacking,
    /// Its last try at a rung failed.
    Failed,
    /// Its receipt is lost, so nobody knows.
    Unknown,
}

impl Known {
    /// `receipt` is none when it was lost. A proof that was tried since wrote a new one, which knows of no parts.
    pub fn of(set: &SetId, made: Timestamp, receipt: Option<&Receipt>, in_use: bool) -> Self {
        let standing = match receipt.filter(|receipt| !receipt.parts.is_empty()) {
            None => Standing::Unknown,
            Some(receipt) if receipt.failed().next().is_some() => Standing::Failed,
            Some(receipt) if receipt.is_whole() => Standing::Whole,
            Some(_) => Standing::Lacking,
        };
        let alive = receipt.is_some_and(|receipt| receipt.proven() >= Some(Rung::Alive));
        Self { set: set.clone(), made, standing, alive, in_use }
    }
}

/// Why a set stays. A set may have several reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
pub enum Reason {
    Newest,
    NewestWhole,
    NewestAlive,
    InUse,
    ReceiptLost,
    /// There is a set from the future of the clock.
    ClockBehind,
    /// The so many last ones.
    Last,
    /// The newest of its period.
    NewestOf {
        period: Period,
        name: String,
    },
    /// Not whole, and its period has no set that is.
    StandsInFor {
        period: Period,
        name: String,
    },
    Within,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Newest => "the newest set".to_owned(),
            Self::NewestWhole => "the newest whole set".to_owned(),
            Self::NewestAlive => "the newest set that was shown to restore and boot".to_owned(),
            Self::InUse => "it is being restored".to_owned(),
            Self::ReceiptLost => "its receipt is lost, so nobody knows what is in it".to_owned(),
            Self::ClockBehind => "the clock is behind the newest set".to_owned(),
            Self::Last => "one of the last".to_owned(),
            Self::NewestOf { period, name } => format!("{} {name}", period.adverb()),
            Self::StandsInFor { period, name } => format!("{} {name}, which has no whole set", period.adverb()),
            Self::Within => "within the span".to_owned(),
        };
        f.pad(&text)
    }
}

/// Why a set goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dismissal {
    NoRule,
    Lacking,
    Failed,
}

impl fmt::Display for Dismissal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NoRule => "no rule keeps it: newer sets fill every one",
            Self::Lacking => "a system is missing in it, and whole sets fill every rule",
            Self::Failed => "it failed a proof, and whole sets fill every rule",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
pub enum Verdict {
    Kept { because: Vec<Reason> },
    Removed { because: Dismissal },
}

impl Verdict {
    pub fn is_removed(&self) -> bool {
        matches!(self, Self::Removed { .. })
    }

    /// The reasons as one sentence.
    pub fn why(&self) -> String {
        match self {
            Self::Kept { because } => because.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            Self::Removed { because } => because.to_string(),
        }
    }
}

/// A set and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    pub set: SetId,
    pub made: Timestamp,
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// Judges every set, in any order; gives the newest first. Periods are those of `zone`.
pub fn judge(keep: &Keep, zone: &TimeZone, sets: &[Known], now: Timestamp) -> Vec<Judged> {
    let mut sets: Vec<&Known> = sets.iter().collect();
    sets.sort_by(|one, other| (other.made, &other.set).cmp(&(one.made, &one.set)));
    let mut reasons: Vec<Vec<Reason>> = sets.iter().map(|_| Vec::new()).collect();
    by_worth(&sets, &mut reasons, now);
    let whole = |at: &usize| sets[*at].standing == Standing::Whole;
    for at in (0..sets.len()).filter(whole).take(keep.last as usize) {
        reasons[at].push(Reason::Last);
    }
    for period in Period::ALL {
        by_period(period, keep.of(period), zone, &sets, &mut reasons);
    }
    if let Some(newest) = (0..sets.len()).find(whole).filter(|_| keep.within > SignedDuration::ZERO) {
        let since = sets[newest].made.checked_sub(keep.within).unwrap_or(Timestamp::MIN);
        for at in (0..sets.len()).filter(|at| sets[*at].made >= since) {
            reasons[at].push(Reason::Within);
        }
    }
    let verdict = |known: &Known, because: Vec<Reason>| match known.standing {
        _ if !because.is_empty() => Verdict::Kept { because },
        Standing::Lacking => Verdict::Removed { because: Dismissal::Lacking },
        Standing::Failed => Verdict::Removed { because: Dismissal::Failed },
        Standing::Whole | Standing::Unknown => Verdict::Removed { because: Dismissal::NoRule },
    };
    let judged = sets.into_iter().zip(reasons);
    judged
        .map(|(known, because)| Judged { set: known.set.clone(), made: known.made, verdict: verdict(known, because) })
        .collect()
}

/// What no rule may give away. `sets` is newest first.
fn by_worth(sets: &[&Known], reasons: &mut [Vec<Reason>], now: Timestamp) {
    let newest = |of: fn(&Known) -> bool| sets.iter().position(|known| of(known));
    let worth = [
        (newest(|_| true), Reason::Newest),
        (newest(|known| known.standing == Standing::Whole), Reason::NewestWhole),
        (newest(|known| known.alive), Reason::NewestAlive),
    ];
    for (at, reason) in worth {
        if let Some(at) = at {
            reasons[at].push(reason);
        }
    }
    let behind = sets.first().is_some_and(|newest| newest.made > now);
    for (known, reasons) in sets.iter().zip(reasons) {
        if known.in_use {
            reasons.push(Reason::InUse);
        }
        if known.standing == Standing::Unknown {
            reasons.push(Reason::ReceiptLost);
        }
        if behind {
            reasons.push(Reason::ClockBehind);
        }
    }
}

/// The newest whole set of each of the `count` newest periods that have one; and of at most as many periods in between
/// that have none, the newest set that is there.
fn by_period(period: Period, count: u32, zone: &TimeZone, sets: &[&Known], reasons: &mut [Vec<Reason>]) {
    let names: Vec<String> = sets.iter().map(|known| period.name(&known.made.to_zoned(zone.clone()))).collect();
    let standing = |at: usize| sets[at].standing;
    let with_whole: BTreeSet<&String> =
        (0..sets.len()).filter(|at| standing(*at) == Standing::Whole).map(|at| &names[at]).collect();
    let (mut counted, mut stand_ins) = (0, 0);
    let mut seen: BTreeSet<&String> = BTreeSet::new();
    for (at, name) in names.iter().enumerate() {
        if counted == count {
            break;
        }
        match standing(at) {
            Standing::Whole if seen.insert(name) => {
                counted += 1;
                reasons[at].push(Reason::NewestOf { period, name: name.clone() });
            }
            Standing::Lacking | Standing::Failed
                if stand_ins < count && !with_whole.contains(name) && seen.insert(name) =>
            {
                stand_ins += 1;
                reasons[at].push(Reason::StandsInFor { period, name: name.clone() });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
