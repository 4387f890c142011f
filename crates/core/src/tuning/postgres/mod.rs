//! Which settings of a Postgres do not suit its machine or its work, what would, and why.
//!
//! Rules of thumb have bands: what is good enough is left alone, and a setting is only called too small or too large
//! where a formula that the field uses, or a counter of this server, says so. What cannot be known (the machine's memory, a
//! setting that is hidden from us) is said, not guessed.

mod change;
mod memory;
mod planner;
mod pools;
mod upkeep;
mod wal;

pub use change::{CHANGE, WRITE, planned};
pub use pools::{Pool, Pools, SOURCE as SOURCE_OF_POOLS, pools};

use crate::observation::{Gap, Machine, Owner, Postgres, Setting, Settings, bytes_written, seconds_written};
use serde::{Deserialize, Serialize};

/// All that can be said about one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advised {
    pub machine: Option<Machine>,
    /// What matters most first.
    pub advice: Vec<Advice>,
    /// Looked at, and good enough.
    pub suited: Vec<String>,
    pub unknown: Vec<Unsure>,
    pub pools: Option<Pools>,
    /// What a reload takes up besides settings and we may not look at: see [`Settings::hidden_files`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hidden_files: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    pub setting: String,
    pub current: String,
    pub advised: String,
    /// One or two sentences, with the figures that it rests on.
    pub reason: String,
    /// Where the rule comes from.
    pub source: String,
    pub weight: Weight,
    pub needs_restart: bool,
    /// Who set the present value, and so who has to change it.
    pub owner: Owner,
    pub way: Way,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weight {
    /// Speed or safety suffers noticeably.
    Matters,
    /// Worth having: mostly what makes the next trouble easier to understand.
    Useful,
}

/// How the value is changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum Way {
    /// With this statement.
    Statement { sql: String },
    /// Where its owner has it: a file that somebody keeps, a command line, an environment.
    Elsewhere { place: String, line: String },
    /// Not at all now: a change of it is written and waits for a restart.
    Written,
}

/// A setting about which nothing can be said, and what would change that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unsure {
    pub setting: String,
    pub why: String,
}

/// The advice for a server as it was seen; its machine is part of what was seen.
pub fn advise(seen: &Postgres) -> Result<Advised, Gap> {
    let settings = seen.settings.as_ref().map_err(Clone::clone)?;
    let machine = seen.machine.as_deref().cloned().unwrap_or_default();
    let mut desk = Desk { seen, settings, machine, advice: Vec::new(), suited: Vec::new(), unknown: Vec::new() };
    memory::look(&mut desk);
    wal::look(&mut desk);
    planner::look(&mut desk);
    upkeep::look(&mut desk);
    let Desk { mut advice, suited, unknown, .. } = desk;
    advice.sort_by_key(|one| one.weight);
    let (machine, hidden_files) = (seen.machine.as_deref().cloned(), settings.hidden_files.clone());
    Ok(Advised { machine, advice, suited, unknown, pools: pools(seen), hidden_files })
}

/// What the topics write into.
struct Desk<'a> {
    seen: &'a Postgres,
    settings: &'a Settings,
    machine: Machine,
    advice: Vec<Advice>,
    suited: Vec<String>,
    unknown: Vec<Unsure>,
}

/// A value as a configuration has it.
enum Amount {
    Bytes(f64),
    Seconds(f64),
    Number(f64),
    Word(&'static str),
}

impl Amount {
    fn written(&self) -> String {
        match self {
            Self::Bytes(bytes) => bytes_written(*bytes),
            Self::Seconds(seconds) => seconds_written(*seconds),
            Self::Number(number) => format!("{number}"),
            Self::Word(word) => (*word).to_owned(),
        }
    }
}

/// Why something else is advised.
struct Because {
    reason: String,
    source: &'static str,
    weight: Weight,
}

fn matters(reason: String, source: &'static str) -> Because {
    Because { reason, source, weight: Weight::Matters }
}

fn useful(reason: &str, source: &'static str) -> Because {
    Because { reason: reason.to_owned(), source, weight: Weight::Useful }
}

impl Desk<'_> {
    /// The server's own value in bytes, seconds or as it is. Where it cannot be told, that is noted.
    fn number(&mut self, name: &str) -> Option<f64> {
        let number = self.settings.number(name);
        if number.is_none() {
            let why = match self.settings.get(name) {
                Some(setting) if !setting.is_of_server() => {
                    format!("our session has a value of its own ({}), which covers the server's", setting.owner())
                }
                _ => "the server does not tell its value; grant pg_monitor".to_owned(),
            };
            self.cannot(name, &why);
        }
        number
    }

    fn cannot(&mut self, name: &str, why: &str) {
        self.unknown.push(Unsure { setting: name.to_owned(), why: why.to_owned() });
    }

    /// For what follows from the machine. `what` is the key of `machine` in the configuration.
    fn machine_unknown(&mut self, what: &str, settings: &[&str]) {
        let example = match what {
            "memory" => "memory = \"8 GiB\"",
            "storage" => "storage = \"ssd\"",
            _ => "cores = 4",
        };
        for name in settings {
            self.cannot(
                name,
                &format!("the {what} of its machine is not known; put machine = {{ {example} }} into its table of the configuration"),
            );
        }
    }

    fn suits(&mut self, name: &str) {
        self.suited.push(name.to_owned());
    }

    fn advise(&mut self, name: &str, amount: &Amount, because: Because) {
        let Some(setting) = self.settings.get(name) else { return };
        let advised = amount.written();
        self.advice.push(Advice {
            setting: name.to_owned(),
            current: setting.shown(),
            reason: because.reason,
            source: because.source.to_owned(),
            weight: because.weight,
            needs_restart: setting.context == "postmaster",
            owner: setting.owner(),
            way: way(setting, self.settings.value("data_directory"), &advised),
            advised,
        });
    }
}

/// `ALTER SYSTEM` for what nobody keeps elsewhere. initdb writes some settings into `postgresql.conf`; what it wrote is
/// nobody's decision.
fn way(setting: &Setting, data_directory: Option<&str>, advised: &str) -> Way {
    let name = &setting.name;
    let line = format!("{name} = {advised}");
    let elsewhere = |place: String| Way::Elsewhere { place, line: line.clone() };
    match setting.owner() {
        Owner::CommandLine => elsewhere("the server's command line (-c), which wins over every file".to_owned()),
        Owner::Environment => elsewhere("the server's environment".to_owned()),
        Owner::File { path, line } if !is_as_made(setting, data_directory) => {
            elsewhere(line.map_or_else(|| path.clone(), |line| format!("{path}, line {line}")))
        }
        _ if setting.pending_restart => Way::Written,
        _ => Way::Statement { sql: format!("ALTER SYSTEM SET {name} = '{advised}';") },
    }
}

/// Whether initdb wrote it: into the data directory, or where Debian's packages have it. Any other file, and one that is
/// included, is somebody's, whatever it says: a `ConfigMap` that is mounted elsewhere may say the same as initdb.
pub(crate) fn is_as_made(setting: &Setting, data_directory: Option<&str>) -> bool {
    let Some(folder) = setting.file.as_deref().and_then(|file| file.strip_suffix("/postgresql.conf")) else {
        return false;
    };
    let is_own = data_directory.is_some_and(|data| data.trim_end_matches('/') == folder);
    if !is_own && !is_of_debian(folder) {
        return false;
    }
    let made = match setting.name.as_str() {
        "shared_buffers" => "128MB",
        "max_wal_size" => "1GB",
        "min_wal_size" => "80MB",
        _ => return false,
    };
    setting.shown() == made
}

/// `/etc/postgresql/MAJOR/CLUSTER`, as `pg_createcluster` makes it.
fn is_of_debian(folder: &str) -> bool {
    let Some((major, cluster)) = folder.strip_prefix("/etc/postgresql/").and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let is_number = !major.is_empty() && major.bytes().all(|byte| byte.is_ascii_digit());
    is_number && !cluster.is_empty() && !cluster.contains('/')
}

/// Down to a figure that a person would write: an eighth of the next power of two.
fn rounded(bytes: f64) -> f64 {
    let step = (bytes.log2().floor() - 2.0).exp2();
    (bytes / step).floor() * step
}

const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * KIB;
const GIB: f64 = 1024.0 * MIB;

#[cfg(test)]
mod tests;
