//! The configuration as the program uses it: validated, defaulted, secrets wrapped. Made once, at the edge.

use groundskeeper_backup as backup;
use groundskeeper_core::check::Tuning;
use groundskeeper_core::expiry::Rule;
use groundskeeper_core::observation::Machine;
use groundskeeper_core::policy::Policy;
use groundskeeper_core::{Severity, SystemId};
use groundskeeper_systems as systems;
use jiff::tz::TimeZone;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Settings {
    /// The file that it came from; none when it was made from a URL on the command line.
    pub file: Option<PathBuf>,
    /// The store, its lock and the daemon's socket live here.
    pub state_dir: PathBuf,
    pub zone: TimeZone,
    /// The zone's IANA name.
    pub zone_name: String,
    /// With the repository of backups, when there is one.
    pub systems: Vec<SystemSettings>,
    pub backup: Option<backup::Settings>,
    pub keep: KeepSettings,
    /// The rows that are not kept for ever, by the database that they are in.
    pub expiry: Vec<(SystemId, Rule)>,
    pub policy: Policy,
    pub tuning: Tuning,
    /// By task name; only names that the calendar knows.
    pub tasks: BTreeMap<String, TaskSettings>,
    pub notify: NotifySettings,
    pub heartbeat: Option<HeartbeatSettings>,
    pub web: WebSettings,
}

#[derive(Debug, Clone)]
pub struct SystemSettings {
    pub id: SystemId,
    /// For one whole reading.
    pub deadline: Duration,
    pub endpoint: Endpoint,
    /// What a Postgres runs on, where the configuration says so.
    pub machine: Option<Machine>,
}

/// Where a system is and how to reach it.
#[derive(Debug, Clone)]
pub enum Endpoint {
    Postgres(systems::postgres::Endpoint),
    Redis(systems::redis::Endpoint),
    Http(systems::http::Endpoint),
    Host(systems::host::Scope),
    Logs(systems::logs::Folder),
    Backup(backup::Lookout),
}

/// `[backup.keep]`: which sets stay, and whether the task `retention` removes the others or only tells of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeepSettings {
    pub retention: backup::Retention,
    pub apply: bool,
}

/// What a `[tasks.NAME]` table may change; none keeps the calendar's default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskSettings {
    pub enabled: Option<bool>,
    pub every: Option<Duration>,
    /// A cron line, already parsed once to be sure.
    pub cron: Option<String>,
    pub zone: Option<TimeZone>,
}

#[derive(Debug, Clone)]
pub struct NotifySettings {
    pub webhooks: Vec<WebhookSettings>,
    pub emails: Vec<EmailSettings>,
    /// An open critical finding is announced again after so long; zero: never.
    pub repeat: Duration,
}

#[derive(Debug, Clone)]
pub struct WebhookSettings {
    pub name: String,
    pub url: SecretString,
    pub form: WebhookForm,
    /// Extra headers; values are secret.
    pub headers: Vec<(String, SecretString)>,
    pub minimum: Severity,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookForm {
    /// Our own JSON.
    Json,
    /// Slack's incoming-webhook JSON (Mattermost and others take it too).
    Slack,
}

#[derive(Debug, Clone)]
pub struct EmailSettings {
    pub name: String,
    /// `smtp://host:25`, `smtps://host:465`, `smtp://host:587?tls=required`.
    pub server: String,
    pub user: Option<String>,
    pub password: Option<SecretString>,
    pub from: String,
    pub to: Vec<String>,
    pub minimum: Severity,
}

/// A dead man's switch: someone else alarms when this stops arriving.
#[derive(Debug, Clone)]
pub struct HeartbeatSettings {
    pub url: SecretString,
    pub every: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSettings {
    /// The page; loopback only until authentication exists. None: no page.
    pub listen: Option<SocketAddr>,
    /// Only `/livez`, `/readyz` and `/metrics`; may bind anywhere.
    pub probes: Option<SocketAddr>,
}
