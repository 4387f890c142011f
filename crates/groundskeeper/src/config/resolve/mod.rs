//! From the file as written to [`Settings`]: defaults filled in, names checked against what exists, nothing left to
//! doubt. One file a group of sections.

mod backup;
mod checks;
mod expiry;
mod keep;
mod notify;
mod storage;
mod systems;
mod tasks;

pub(super) use systems::for_url;

use super::error::ConfigError;
use super::nearest::did_you_mean;
use super::raw::{Section, Source};
use super::secrets::Environment;
use super::{HeartbeatSettings, Settings, WebSettings};
use groundskeeper_core::check::Tuning;
use groundskeeper_core::policy::{Autonomy, Policy};
use groundskeeper_core::window::Window;
use jiff::tz::TimeZone;
use secrecy::SecretString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::de::DeTable;

const WINDOW: &str = "Sun 02:00-05:00";
const PAGE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);
const REPEAT: Duration = Duration::from_hours(4);
const HEARTBEAT: Duration = Duration::from_mins(1);

/// Sections of the plan that this build does not have, so that the answer is better than "unknown".
const NOT_YET: [&str; 3] = ["kubernetes", "prometheus", "ai"];

/// Reads the text of a file. `file` is for messages and for relative paths in it.
pub(super) fn settings(text: &str, file: &Path, environment: &Environment) -> Result<Settings, ConfigError> {
    let source = Source::new(file, text, environment);
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        // The first error only: what a parser says after it is about its own recovery.
        Err(error) => {
            source.problem(error.span().map_or(0, |span| span.start), format!("this is not TOML: {}", syntax(&error)));
            return Err(failed(source));
        }
    };
    let settings = whole(Section::whole(&source, table.get_ref()), environment);
    ConfigError::from_problems(source.into_problems()).map_or(Ok(settings), Err)
}

fn failed(source: Source<'_>) -> ConfigError {
    ConfigError::from_problems(source.into_problems())
        .unwrap_or_else(|| ConfigError::general("the configuration could not be read"))
}

fn syntax(error: &toml::de::Error) -> String {
    error.message().lines().collect::<Vec<_>>().join("; ")
}

/// What holds without any file.
pub(super) fn defaults(environment: &Environment) -> Settings {
    Settings {
        file: None,
        state_dir: default_state_dir(environment),
        zone: TimeZone::UTC,
        zone_name: "UTC".to_owned(),
        systems: Vec::new(),
        backup: None,
        keep: super::KeepSettings::default(),
        expiry: Vec::new(),
        policy: Policy { windows: default_windows(), ..Policy::default() },
        tuning: Tuning::default(),
        tasks: std::collections::BTreeMap::default(),
        notify: notify::defaults(),
        heartbeat: None,
        web: WebSettings { listen: Some(PAGE), probes: None },
    }
}

fn whole(top: Section<'_>, environment: &Environment) -> Settings {
    let mut settings = defaults(environment);
    settings.file = Some(top.source.file.to_owned());
    if let Some((zone, name)) = zone(&top, "timezone") {
        settings.zone = zone;
        settings.zone_name = name;
    }
    if let Some(folder) = top.secret("state_dir") {
        let folder = PathBuf::from(folder.value);
        settings.state_dir = top.source.file.parent().map_or(folder.clone(), |base| base.join(folder));
    }
    settings.policy = policy(&top, settings.zone.clone());
    (settings.systems, settings.expiry) = systems::all(&top, &settings.policy.never_end);
    settings.backup = backup::settings(&top, &settings);
    settings.keep = keep::settings(&top, &settings.zone);
    let repository = settings.backup.clone().map(|backup| backup::system(backup, &settings.keep));
    settings.systems.extend(repository);
    settings.tuning = checks::tuning(&top);
    settings.tasks = tasks::all(&top);
    settings.notify = notify::all(&top);
    settings.heartbeat = heartbeat(&top);
    settings.web = web(&top);
    for kind in NOT_YET.into_iter().filter(|kind| top.has(kind)) {
        if let Some(section) = top.section(kind) {
            section.problem(section.at, format!("[{kind}] is not available in this version yet; remove this section"));
        }
    }
    top.finish();
    settings
}

/// A time zone by its IANA name.
fn zone(section: &Section<'_>, key: &str) -> Option<(TimeZone, String)> {
    section.parsed(key, "the name of a time zone, such as \"Europe/Berlin\"", |name| {
        let found = TimeZone::get(name).map_err(|_| {
            let known: Vec<String> = jiff::tz::db().available().map(|known| known.to_string()).collect();
            let hint = did_you_mean(name, known.iter().map(String::as_str));
            let hint = if hint.is_empty() { "; use an IANA name such as Europe/Berlin".to_owned() } else { hint };
            format!("there is no time zone `{name}`{hint}")
        })?;
        // The database writes names its own way: `europe/berlin` is shown as `Europe/Berlin`.
        let name = found.iana_name().unwrap_or(name).to_owned();
        Ok((found, name))
    })
}

fn default_windows() -> Vec<Window> {
    WINDOW.parse().into_iter().collect()
}

fn windows(top: &Section<'_>) -> Vec<Window> {
    let Some(section) = top.section("maintenance") else { return default_windows() };
    let written = section.texts("windows");
    let found = written.map_or_else(default_windows, |texts| {
        let parse = |text: &super::raw::At<String>| {
            text.value.parse().map_err(|why: String| section.problem(text.at, why)).ok()
        };
        texts.iter().filter_map(parse).collect()
    });
    section.finish();
    found
}

fn policy(top: &Section<'_>, zone: TimeZone) -> Policy {
    let defaults = Policy::default();
    let autonomy = top.parsed("autonomy", "\"observe\", \"assist\" or \"auto\"", |text| {
        let known = [Autonomy::Observe, Autonomy::Assist, Autonomy::Auto];
        known.into_iter().find(|autonomy| autonomy.as_str() == text).ok_or_else(|| {
            let hint = did_you_mean(text, known.map(Autonomy::as_str));
            format!("`{text}` is not one of \"observe\", \"assist\", \"auto\"{hint}")
        })
    });
    let mut policy =
        Policy { autonomy: autonomy.unwrap_or(defaults.autonomy), windows: windows(top), zone, ..defaults };
    let Some(section) = top.section("policy") else { return policy };
    for (key, number) in [
        ("routine_per_hour", &mut policy.routine_per_hour),
        ("corrective_per_hour", &mut policy.corrective_per_hour),
        ("disruptive_per_hour", &mut policy.disruptive_per_hour),
        ("breaker_failures", &mut policy.breaker_failures),
        ("ineffective_times", &mut policy.ineffective_times),
    ] {
        *number = section.count(key).unwrap_or(*number);
    }
    if let Some(systems) = section.count("storm_systems") {
        policy.storm_systems = systems as usize;
    }
    for name in section.texts("never_end").unwrap_or_default() {
        if name.value.trim().is_empty() {
            section.problem(name.at, "`never_end` in [policy] holds an empty name; write an application or a role");
        } else {
            policy.never_end.push(name.value);
        }
    }
    for (key, seconds) in [
        ("breaker_for", &mut policy.breaker_seconds),
        ("ineffective_within", &mut policy.ineffective_seconds),
        ("approval_for", &mut policy.approval_seconds),
    ] {
        *seconds = section.duration(key).map_or(*seconds, |amount| amount.as_secs_f64());
    }
    section.finish();
    policy
}

fn heartbeat(top: &Section<'_>) -> Option<HeartbeatSettings> {
    let section = top.section("heartbeat")?;
    let url = section.required_secret("url", "https://hc-ping.com/${HEARTBEAT_ID}");
    let every = section.duration("every").unwrap_or(HEARTBEAT);
    let url = url.filter(|url| notify::is_web_address(&section, "url", url));
    section.finish();
    Some(HeartbeatSettings { url: SecretString::from(url?.value), every })
}

fn web(top: &Section<'_>) -> WebSettings {
    let Some(section) = top.section("web") else { return WebSettings { listen: Some(PAGE), probes: None } };
    let listen = section.parsed("listen", "an address such as \"127.0.0.1:7070\", or \"off\"", |text| {
        let address = socket(text)?;
        match address {
            Some(address) if !address.ip().is_loopback() => Err(format!(
                "`{text}` could be reached from other machines, and that is refused until authentication exists; \
                 listen on 127.0.0.1 and reach the page through an SSH tunnel (`ssh -L 7070:127.0.0.1:7070 HOST`)"
            )),
            other => Ok(other),
        }
    });
    let probes = section.parsed("probes", "an address such as \"0.0.0.0:7071\", or \"off\"", socket);
    section.finish();
    WebSettings { listen: listen.unwrap_or(Some(PAGE)), probes: probes.flatten() }
}

/// An address with a port; none for `off`.
fn socket(text: &str) -> Result<Option<SocketAddr>, String> {
    if text == "off" {
        return Ok(None);
    }
    let numeric = text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    numeric
        .parse()
        .map(Some)
        .map_err(|_| format!("`{text}` is no address with a port; write for example \"127.0.0.1:7070\", or \"off\""))
}

/// Root keeps its state where services do; everyone else in their own folder.
fn default_state_dir(environment: &Environment) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/groundskeeper");
    }
    let base = environment.get("XDG_STATE_HOME").map(PathBuf::from).or_else(|| {
        let home = environment.get("HOME")?;
        Some(Path::new(home).join(".local/state"))
    });
    // Without a home there is still the working folder, which at least can be seen.
    base.unwrap_or_else(|| PathBuf::from(".")).join("groundskeeper")
}
