//! The systems under care: `[postgres.NAME]`, `[redis.NAME]`, `[http.NAME]`, `[host.NAME]`, `[logs.NAME]`.

use super::expiry;
use super::notify::headers;
use crate::config::nearest::did_you_mean;
use crate::config::raw::{Section, integer};
use crate::config::secrets::plain;
use crate::config::size;
use crate::config::{ConfigError, Endpoint, SystemSettings};
use groundskeeper_core::expiry::Rule;
use groundskeeper_core::observation::{Expected, Machine, Storage};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems as systems;
use groundskeeper_systems::http::Options;
use secrecy::SecretString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For one whole reading.
pub(super) fn default_deadline(kind: SystemKind) -> Duration {
    match kind {
        SystemKind::Redis => Duration::from_secs(5),
        _ => Duration::from_secs(10),
    }
}

/// In the order of the kinds, then of the names. `never_end` are applications and roles whose sessions are left alone.
/// The repository of backups has a table of another form, and is added by who reads that.
/// With the rules of how long rows are kept.
pub(super) fn all(top: &Section<'_>, never_end: &[String]) -> (Vec<SystemSettings>, Vec<(SystemId, Rule)>) {
    let (mut found, mut rules) = (Vec::new(), Vec::new());
    for kind in SystemKind::ALL.into_iter().filter(|kind| *kind != SystemKind::Backup) {
        let example = if kind == SystemKind::Host { "local" } else { "main" };
        for (name, section) in top.named_sections(kind.as_str(), example) {
            let deadline = section.duration("deadline").unwrap_or(default_deadline(kind));
            let endpoint = match kind {
                SystemKind::Postgres => {
                    let endpoint = postgres(&section, never_end);
                    let database = endpoint.as_ref().and_then(|endpoint| endpoint.database().map(str::to_owned));
                    let id = SystemId::new(kind, &name);
                    let found = expiry::rules(&section, database.as_deref(), top.has("backup"));
                    rules.extend(found.into_iter().map(|rule| (id.clone(), rule)));
                    endpoint.map(Endpoint::Postgres)
                }
                SystemKind::Redis => redis(&section),
                SystemKind::Http => http(&section),
                SystemKind::Host => Some(host(&section)),
                SystemKind::Logs => logs(&section),
                SystemKind::Backup => None,
            };
            let machine = if kind == SystemKind::Postgres { machine(&section) } else { None };
            section.finish();
            let id = SystemId::new(kind, name);
            found.extend(endpoint.map(|endpoint| SystemSettings { id, deadline, endpoint, machine }));
        }
    }
    (found, rules)
}

fn postgres(section: &Section<'_>, never_end: &[String]) -> Option<systems::postgres::Endpoint> {
    let url = section.required_secret("url", "postgres://groundskeeper@localhost/app");
    let password = section.password().map(SecretString::from);
    let disk = section.parsed("disk", "an amount in quotes, such as \"100 GiB\"", size::parse);
    let mut trusted = Vec::new();
    for name in section.texts("trusted_owners").unwrap_or_default() {
        if name.value.trim().is_empty() {
            let place = section.place();
            section
                .problem(name.at, format!("`trusted_owners`{place} holds an empty name; write a role of the server"));
        } else {
            trusted.push(name.value);
        }
    }
    let url = url?;
    systems::postgres::Endpoint::parse(&without_driver(&url.value), password)
        .map(|endpoint| endpoint.with_protected(never_end).with_trusted(&trusted).with_disk(disk))
        .map_err(|why| section.problem(url.at, format!("`url`{}: {why}", section.place())))
        .ok()
}

/// `machine = { memory = "8 GiB", cores = 4, storage = "ssd" }`: what the server runs on, for the advice.
fn machine(section: &Section<'_>) -> Option<Machine> {
    let table = section.section("machine")?;
    let machine = Machine {
        memory: table.parsed("memory", "an amount of memory such as \"8 GiB\"", size::parse),
        cores: table.count("cores"),
        storage: table.parsed("storage", "\"ssd\" or \"hdd\"", |word| match word {
            "ssd" => Ok(Storage::Ssd),
            "hdd" => Ok(Storage::Hdd),
            other => Err(format!("`{other}` is no kind of storage; write \"ssd\" or \"hdd\"")),
        }),
        told_by: "the configuration".to_owned(),
    };
    table.finish();
    Some(machine)
}

/// `SQLAlchemy` puts its driver into the scheme: `postgresql+asyncpg://` means a plain `postgresql://` to everyone else.
fn without_driver(url: &str) -> std::borrow::Cow<'_, str> {
    match url.split_once("://") {
        Some((scheme, rest)) if scheme.starts_with("postgres") && scheme.contains('+') => {
            format!("postgresql://{rest}").into()
        }
        _ => url.into(),
    }
}

fn redis(section: &Section<'_>) -> Option<Endpoint> {
    let url = section.required_secret("url", "redis://localhost:6379");
    let password = section.password().map(SecretString::from);
    let authorities = authorities(section);
    let url = url?;
    systems::redis::Endpoint::parse_trusting(&url.value, password, authorities.as_deref())
        .map(Endpoint::Redis)
        .map_err(|why| section.problem(url.at, format!("`url`{}: {why}", section.place())))
        .ok()
}

fn http(section: &Section<'_>) -> Option<Endpoint> {
    let url = section.required_secret("url", "https://api.example.com/health/ready");
    let statuses = section.list("expect_status", "a list of HTTP status codes, such as [200]", |value| {
        integer(value).and_then(|code| u16::try_from(code).ok()).filter(|code| (100..600).contains(code))
    });
    let statuses = statuses.map_or_else(|| vec![200], |codes| codes.into_iter().map(|code| code.value).collect());
    let body = section.text("expect_body").map(|found| found.value);
    let options = Options { headers: headers(section), authorities: authorities(section) };
    let url = url?;
    systems::http::Endpoint::with(&url.value, Expected { statuses, body_contains: body }, &options)
        .map(Endpoint::Http)
        .map_err(|why| section.problem(url.at, format!("`url`{}: {why}", section.place())))
        .ok()
}

/// `ca_file`: PEM of private authorities, trusted besides those of the machine.
fn authorities(section: &Section<'_>) -> Option<Vec<u8>> {
    let file = section.text("ca_file")?;
    std::fs::read(&file.value)
        .map_err(|error| {
            section.problem(
                file.at,
                format!("`ca_file`{}: cannot read {}: {}", section.place(), file.value, plain(&error)),
            );
        })
        .ok()
}

fn host(section: &Section<'_>) -> Endpoint {
    let mounts = section.texts("mounts").unwrap_or_default();
    for mount in mounts.iter().filter(|mount| !Path::new(&mount.value).is_absolute()) {
        let message = format!("`mounts`{}: `{}` must be a whole path such as \"/var\"", section.place(), mount.value);
        section.problem(mount.at, message);
    }
    Endpoint::Host(systems::host::Scope::of(mounts.into_iter().map(|mount| mount.value).collect()))
}

fn logs(section: &Section<'_>) -> Option<Endpoint> {
    if !section.has("folder") {
        section.problem(section.at, format!("[{}] needs `folder`, such as folder = \"/var/log/nginx\"", section.name));
    }
    let folder = section.text("folder")?;
    let path = PathBuf::from(&folder.value);
    if !path.is_absolute() {
        let message =
            format!("`folder`{}: `{}` must be a whole path such as \"/var/log/nginx\"", section.place(), folder.value);
        section.problem(folder.at, message);
    }
    Some(Endpoint::Logs(systems::logs::Folder::new(path)))
}

const FORMS: &str = "write postgres://…, redis://…, http://…, https://…, `host:` or the path of a log folder";

/// One system from the command line, without a file.
pub(in crate::config) fn for_url(url: &str) -> Result<SystemSettings, ConfigError> {
    let wrong = |why: &dyn std::fmt::Display| ConfigError::general(format!("this address cannot be used: {why}"));
    let url = &*without_driver(url);
    let (kind, endpoint) = match scheme(url) {
        Some("postgres" | "postgresql") => {
            let endpoint = systems::postgres::Endpoint::parse(url, None).map_err(|why| wrong(&why))?;
            (SystemKind::Postgres, Endpoint::Postgres(endpoint))
        }
        Some("redis" | "rediss") => {
            let endpoint = systems::redis::Endpoint::parse(url, None).map_err(|why| wrong(&why))?;
            (SystemKind::Redis, Endpoint::Redis(endpoint))
        }
        Some("http" | "https") => {
            let endpoint = systems::http::Endpoint::new(url, Expected { statuses: Vec::new(), body_contains: None })
                .map_err(|why| wrong(&why))?;
            (SystemKind::Http, Endpoint::Http(endpoint))
        }
        // Only the scheme is repeated: the rest may hold a password.
        Some(other) => {
            let known = ["postgres", "postgresql", "redis", "rediss", "http", "https"];
            let hint = did_you_mean(other, known);
            return Err(wrong(&format!("`{other}://` is not known{hint}; {FORMS}")));
        }
        None if url == "host:" => (SystemKind::Host, Endpoint::Host(systems::host::Scope::of(Vec::new()))),
        None => {
            let path = std::fs::canonicalize(url)
                .ok()
                .filter(|path| path.is_dir())
                .ok_or_else(|| wrong(&format!("there is no folder `{url}`; {FORMS}")))?;
            (SystemKind::Logs, Endpoint::Logs(systems::logs::Folder::new(path)))
        }
    };
    // The whole command is promised within ten seconds, so one reading gets a little less.
    let deadline = default_deadline(kind).min(Duration::from_secs(9));
    Ok(SystemSettings { id: SystemId::new(kind, "url"), deadline, endpoint, machine: None })
}

fn scheme(url: &str) -> Option<&str> {
    url.split_once("://").map(|(scheme, _)| scheme)
}
