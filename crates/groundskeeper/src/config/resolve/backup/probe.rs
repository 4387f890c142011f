//! `[[backup.probe]]`: what a drill asks a restored Postgres, in SQL or over HTTP.

use super::whole_path;
use crate::config::nearest::did_you_mean;
use crate::config::raw::{At, Section, is_name};
use crate::config::{Endpoint, Settings};
use groundskeeper_backup::proof::Probe;
use groundskeeper_backup::proof::probe::{PORT, Question, Service, Wanted};
use groundskeeper_backup::vault::PostgresSource;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;
use url::{Host, Url};

const SQL_TIMEOUT: Duration = Duration::from_secs(30);
/// Of a service, from its start to its answer.
const SERVICE_TIMEOUT: Duration = Duration::from_mins(1);
const OK: u16 = 200;
const EXAMPLE: &str = "SELECT count(*) > 0 FROM documents";
const OF_SQL: [&str; 2] = ["expect", "at_least"];
const OF_A_COMMAND: [&str; 3] = ["url", "status", "contains"];

/// What a probe has of its own, and when it is late if nothing else is said.
type Kind = (Question, Duration);

pub(super) fn all(
    top: &Section<'_>,
    section: &Section<'_>,
    so_far: &Settings,
    sources: &[PostgresSource],
) -> Vec<Probe> {
    let (mut names, mut found): (Vec<String>, Vec<Probe>) = (Vec::new(), Vec::new());
    for table in section.sections("probe") {
        let name = name(&table, &names);
        names.extend(name.clone());
        let source = source(&table, top, so_far, sources);
        let database = text(&table, "database").or_else(|| source?.endpoint.database().map(str::to_owned));
        let user = text(&table, "user");
        let kind = kind(&table);
        let timeout = table.duration("timeout");
        if let (Some(_), None) = (source, &database)
            && !table.has("database")
        {
            table.problem(table.at, format!("[{}] needs `database`, such as database = \"docrag\"", table.name));
        }
        table.finish();
        if let (Some(name), Some(source), Some(database), Some((question, usual))) = (name, source, database, kind) {
            let (system, timeout) = (source.system.to_string(), timeout.unwrap_or(usual));
            found.push(Probe { name, system, database, user, question, timeout });
        }
    }
    found
}

/// Text with something in it.
fn text(table: &Section<'_>, key: &str) -> Option<String> {
    let written = table.text(key)?;
    if written.value.trim().is_empty() {
        table.problem(written.at, format!("`{key}`{} is empty", table.place()));
        return None;
    }
    Some(written.value)
}

fn name(table: &Section<'_>, known: &[String]) -> Option<String> {
    if !table.has("name") {
        table.problem(table.at, format!("[{}] needs `name`, such as name = \"documents\"", table.name));
    }
    let name = table.text("name")?;
    let wrong = if !is_name(&name.value) {
        format!("`{}` cannot be a name; use letters, digits, `-` and `_`", name.value)
    } else if known.contains(&name.value) {
        format!("there is another probe `{}`; give each its own name", name.value)
    } else {
        return Some(name.value);
    };
    table.problem(name.at, format!("`name`{}: {wrong}", table.place()));
    None
}

/// The Postgres that is meant; it has to be in the sets.
fn source<'s>(
    table: &Section<'_>,
    top: &Section<'_>,
    so_far: &Settings,
    sources: &'s [PostgresSource],
) -> Option<&'s PostgresSource> {
    let names = || sources.iter().map(|source| source.system.name.as_str());
    let Some(wanted) = table.text("postgres") else {
        return match sources {
            // One of the wrong type was already reported.
            _ if table.has("postgres") => None,
            [one] => Some(one),
            // So was a Postgres that is there and has a mistake.
            [] if top.has("postgres") && postgres(so_far).next().is_none() => None,
            [] => {
                let message = format!("[{}] has no Postgres to ask: there is none in the sets", table.name);
                table.problem(table.at, message);
                None
            }
            several => {
                let all = names().collect::<Vec<_>>().join(", ");
                let message = format!(
                    "[{}] needs `postgres`, such as postgres = \"{}\": the sets have several ({all})",
                    table.name, several[0].system.name
                );
                table.problem(table.at, message);
                None
            }
        };
    };
    let written = wanted.value.strip_prefix("postgres.").unwrap_or(&wanted.value);
    let found = sources.iter().find(|source| source.system.name == written);
    if found.is_none() {
        let why = if postgres(so_far).any(|name| name == written) {
            format!("postgres.{written} is left out of `systems`, and so in no set")
        } else if top.section("postgres").is_some_and(|tables| tables.has(written)) {
            return None;
        } else {
            format!("there is no `postgres.{written}`{}", did_you_mean(written, names()))
        };
        table.problem(wanted.at, format!("`postgres`{}: {why}", table.place()));
    }
    found
}

/// Those that are configured without a mistake.
fn postgres(settings: &Settings) -> impl Iterator<Item = &str> {
    let all = settings.systems.iter().filter(|system| matches!(system.endpoint, Endpoint::Postgres(_)));
    all.map(|system| system.id.name.as_str())
}

/// Every key of both kinds is read, so that none is unknown.
fn kind(table: &Section<'_>) -> Option<Kind> {
    let (sql, command) = (text(table, "sql"), command(table));
    let (wanted, service) = (wanted(table), service(table));
    let strangers: &[&str] = match (table.has("sql"), table.has("command")) {
        (true, true) => {
            table.problem(table.at, format!("[{}] has both `sql` and `command`; keep one", table.name));
            return None;
        }
        (false, false) => {
            let message = format!("[{}] needs `sql`, such as sql = \"{EXAMPLE}\", or `command` and `url`", table.name);
            table.problem(table.at, message);
            return None;
        }
        (true, false) => &OF_A_COMMAND,
        (false, true) => &OF_SQL,
    };
    if let Some(key) = strangers.iter().find(|key| table.has(key)) {
        let (own, other) = if table.has("sql") { ("sql", "command") } else { ("command", "sql") };
        let message = format!("[{}] has `{own}`, and `{key}` belongs to `{other}`; remove one of them", table.name);
        table.problem(table.at, message);
        return None;
    }
    if table.has("sql") {
        return Some((Question::Sql { sql: sql?, wanted: wanted? }, SQL_TIMEOUT));
    }
    if !table.has("url") {
        table.problem(table.at, format!("[{}] needs `url`, such as url = \"/health\"", table.name));
    }
    let ((program, arguments), (url, status, contains)) = (command?, service?);
    Some((Question::Service(Service { program, arguments, url: url?, status, contains }), SERVICE_TIMEOUT))
}

/// None for a mistake.
fn wanted(table: &Section<'_>) -> Option<Wanted> {
    let (expect, at_least) = (table.text("expect"), table.number("at_least", false));
    match (table.has("expect"), table.has("at_least")) {
        (true, true) => {
            table.problem(table.at, format!("[{}] has both `expect` and `at_least`; keep one", table.name));
            None
        }
        (true, false) => expect.map(|expect| Wanted::Equal(expect.value)),
        (false, true) => at_least.map(|least| Wanted::AtLeast(least.value)),
        (false, false) => Some(Wanted::Something),
    }
}

fn command(table: &Section<'_>) -> Option<(PathBuf, Vec<String>)> {
    let words = table.texts("command")?;
    let Some((program, arguments)) = words.split_first() else {
        let message = format!("[{}] has an empty `command`; write the program and its arguments", table.name);
        table.problem(table.at, message);
        return None;
    };
    let program = whole_path(table, "command", program, "/usr/bin/python3")?;
    Some((program, arguments.iter().map(|argument| argument.value.clone()).collect()))
}

/// Where and what a service answers; None for a mistake. It may have no URL, because it may be none.
fn service(table: &Section<'_>) -> Option<(Option<String>, u16, Option<String>)> {
    let url = table.text("url");
    let status = table.number("status", false);
    let contains = text(table, "contains");
    let url = match url {
        Some(url) => Some(on_this_machine(table, url)?),
        None => None,
    };
    let status = match status {
        Some(status) if !(status.value.fract() == 0.0 && (100.0..600.0).contains(&status.value)) => {
            table.problem(status.at, format!("`status`{} must be an HTTP status code, such as 200", table.place()));
            return None;
        }
        Some(status) => status.value as u16,
        None if table.has("status") => return None,
        None => OK,
    };
    if table.has("contains") && contains.is_none() {
        return None;
    }
    Some((url, status, contains))
}

/// A probe that asked a service which is live would prove nothing of the backup.
fn on_this_machine(table: &Section<'_>, url: At<String>) -> Option<String> {
    let is_here = |url: &str| {
        let Ok(asked) = Url::parse(&url.replace(PORT, "1")) else { return false };
        let host = match asked.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address == Ipv4Addr::LOCALHOST,
            _ => false,
        };
        asked.scheme() == "http" && host && asked.port() == Some(1) && url.contains(PORT)
    };
    if url.value.starts_with('/') || is_here(&url.value) {
        return Some(url.value);
    }
    let message = format!(
        "`url`{} must be a path such as \"/health\", or an address on this machine such as \
         \"http://127.0.0.1:{PORT}/health\"",
        table.place()
    );
    table.problem(url.at, message);
    None
}
