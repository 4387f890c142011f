//! Every check of a Postgres with 500 tables and 2,000 indexes, against `check_postgres`, one process an action.
//!
//! Both are members of `pg_monitor`, run as whole processes, in turn, after a round that is not counted. Connections are
//! counted in the server's log. `check_postgres` is given the path of psql itself: Debian's `psql` is a script around it.

use super::actions::{Action, SHARED};
use super::tables::{self, DATABASE, INDEXES, PASSWORD, ROLE, TABLES};
use super::{peer, programs};
use crate::bar::{Bar, Wanted};
use crate::bench::{keeper, median};
use anyhow::{Context, Result, bail, ensure};
use groundskeeper_testing::PostgresServer;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;
use tokio::process::Command;

const PEER: &str = "check_postgres";
const PACKAGE: &str = "check-postgres";

#[derive(Debug, Default)]
struct Figures {
    /// Seconds of the whole process, and of its reading, one for each round.
    ours: Vec<f64>,
    reading: Vec<f64>,
    /// Seconds of all actions together.
    theirs: Vec<f64>,
    by_action: BTreeMap<&'static str, Vec<f64>>,
    /// The most connections of one round to one database, by us and by them.
    our_connections: usize,
    their_connections: usize,
    checks: usize,
    /// Checks that could not be answered, with the reason.
    unknown: BTreeMap<String, String>,
}

pub(super) async fn measure(rounds: u32, quick: bool) -> Result<(Vec<Bar>, String)> {
    let check_postgres = PathBuf::from(PEER);
    let their_version = peer(&check_postgres, PACKAGE).await?;
    let binary = keeper::binary()?;
    let our_version = keeper::version(&binary.display().to_string(), "--version").await?;
    println!("sweep: making {TABLES} tables with {INDEXES} indexes …");
    let server = tables::server(quick).await?;
    let client = server.client_at(&server.url_for("postgres", server.password(), DATABASE)).await;
    let (folder, version) = programs(&client).await?;
    has_all(&client).await?;
    let peer = Peer { server: &server, programs: &folder };
    let mut figures = Figures::default();
    for round in 0..=rounds {
        let counted = round > 0;
        // In turn, so that neither is always the second.
        for ours in [round.is_multiple_of(2), !round.is_multiple_of(2)] {
            if ours {
                our_turn(&binary, &server, &mut figures, counted).await?;
            } else {
                peer.turn(&mut figures, counted).await?;
            }
        }
        if counted {
            let (ours, theirs) = (figures.ours.last().unwrap_or(&0.0), figures.theirs.last().unwrap_or(&0.0));
            println!("sweep: round {round}: check {ours:.3} s, {} actions {theirs:.3} s", SHARED.len());
        }
    }
    for (check, reason) in &figures.unknown {
        println!("sweep: {check} had no answer: {reason}");
    }
    let versions = format!("Postgres {version}; {our_version}; {their_version}");
    Ok((bars(&figures), told(&figures, rounds, &versions)))
}

/// What is measured is what was promised.
async fn has_all(client: &tokio_postgres::Client) -> Result<()> {
    let sql = "SELECT count(*) FILTER (WHERE relkind = 'r'), count(*) FILTER (WHERE relkind = 'i')
               FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    let row = client.query_one(sql, &[]).await?;
    let (tables, indexes): (i64, i64) = (row.get(0), row.get(1));
    ensure!(
        (tables, indexes) == (i64::from(TABLES), i64::from(INDEXES)),
        "the database has {tables} tables and {indexes} indexes"
    );
    Ok(())
}

async fn our_turn(binary: &Path, server: &PostgresServer, figures: &mut Figures, counted: bool) -> Result<()> {
    let before = connections(server)?;
    let url = server.url_for(ROLE, PASSWORD, DATABASE);
    let started = Instant::now();
    let output = Command::new(binary).args(["check", &url, "--output", "json"]).kill_on_drop(true).output().await?;
    let wall = started.elapsed().as_secs_f64();
    let (code, said) = (output.status.code(), String::from_utf8_lossy(&output.stderr));
    ensure!(code.is_some_and(|code| code <= 1), "check ended with {code:?}: {said}");
    let view: serde_json::Value = serde_json::from_slice(&output.stdout).context("check printed no JSON")?;
    let system = &view["systems"][0];
    (figures.checks, figures.unknown) = answered(system).context("check did not answer for one Postgres")?;
    let mut shared = SHARED.iter().flat_map(|action| action.checks);
    if let Some((check, reason)) = shared.find_map(|id| figures.unknown.get_key_value(*id)) {
        bail!("{check} had no answer ({reason}), so it cannot be compared");
    }
    figures.our_connections = figures.our_connections.max(most(&before, &connections(server)?));
    if counted {
        figures.ours.push(wall);
        figures.reading.push(system["took"].as_f64().context("check does not say how long its reading took")?);
    }
    Ok(())
}

/// How many checks there were, and which of them had no answer.
fn answered(system: &serde_json::Value) -> Option<(usize, BTreeMap<String, String>)> {
    let judgements = system["judgements"].as_array()?;
    let unknown = judgements.iter().filter(|judgement| judgement["status"]["status"] == "unknown");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let said = |judgement: &serde_json::Value| (text(&judgement["check"]), text(&judgement["status"]["reason"]));
    Some((judgements.len(), unknown.map(said).collect()))
}

struct Peer<'s> {
    server: &'s PostgresServer,
    programs: &'s Path,
}

impl Peer<'_> {
    /// All actions, one after the other.
    async fn turn(&self, figures: &mut Figures, counted: bool) -> Result<()> {
        let before = connections(self.server)?;
        let mut all = 0.0;
        for action in &SHARED {
            let took = self.act(action).await?;
            all += took;
            if counted {
                figures.by_action.entry(action.name).or_default().push(took);
            }
        }
        figures.their_connections = figures.their_connections.max(most(&before, &connections(self.server)?));
        if counted {
            figures.theirs.push(all);
        }
        Ok(())
    }

    /// psql itself comes before Debian's script of that name.
    fn path(&self) -> Result<OsString> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = [self.programs.to_owned()].into_iter().chain(std::env::split_paths(&path));
        std::env::join_paths(folders).context("PATH has an odd name")
    }

    async fn act(&self, action: &Action) -> Result<f64> {
        let mut command = Command::new(PEER);
        command
            .arg(format!("--action={}", action.name))
            .args(action.arguments)
            .args(["--host=127.0.0.1", &format!("--port={}", self.server.port())])
            .args([format!("--dbname={DATABASE}"), format!("--dbuser={ROLE}")])
            .env("PATH", self.path()?)
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let started = Instant::now();
        let output = command.output().await.with_context(|| format!("cannot start {PEER}"))?;
        let took = started.elapsed().as_secs_f64();
        // 0, 1 and 2 are answers; 3 is that it could not find out.
        ensure!(
            output.status.code().is_some_and(|code| code <= 2),
            "{PEER} --action={} ended with {}: {}{}",
            action.name,
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(took)
    }
}

/// Connections of the role that the server has logged so far, by database.
fn connections(server: &PostgresServer) -> Result<BTreeMap<String, usize>> {
    let log = std::fs::read_to_string(server.log_file()).context("reading the server's log")?;
    let mut found = BTreeMap::new();
    for line in log.lines() {
        let Some((_, rest)) = line.split_once(&format!("connection authorized: user={ROLE} database=")) else {
            continue;
        };
        let database = rest.split_whitespace().next().unwrap_or_default();
        *found.entry(database.to_owned()).or_default() += 1;
    }
    Ok(found)
}

/// The most new ones to one database.
fn most(before: &BTreeMap<String, usize>, after: &BTreeMap<String, usize>) -> usize {
    let new = after.iter().map(|(database, count)| count - before.get(database).copied().unwrap_or_default());
    new.max().unwrap_or_default()
}

fn bars(figures: &Figures) -> Vec<Bar> {
    let ratios: Vec<f64> = figures.ours.iter().zip(&figures.theirs).map(|(ours, theirs)| theirs / ours).collect();
    vec![
        Bar::new("postgres.sweep_wall", median(&figures.ours), "s", Wanted::Below, 1.0),
        Bar::new("postgres.sweep_connections", figures.our_connections as f64, "connections", Wanted::Exactly, 1.0),
        Bar::new("postgres.sweep_ratio", median(&ratios), "x", Wanted::AtLeast, 20.0),
    ]
}

fn told(figures: &Figures, rounds: u32, versions: &str) -> String {
    let mut text = "| | processes | connections | seconds |\n|---|---|---|---|\n".to_owned();
    let _ = writeln!(
        text,
        "| `groundskeeper check URL`: {} checks, {} of them without an answer | 1 | {} | {:.3}, of which the reading {:.3} |",
        figures.checks,
        figures.unknown.len(),
        figures.our_connections,
        median(&figures.ours),
        median(&figures.reading)
    );
    let _ = writeln!(
        text,
        "| `check_postgres`: {} actions that we share | {} | {} | {:.3} |",
        SHARED.len(),
        SHARED.len(),
        figures.their_connections,
        median(&figures.theirs)
    );
    text.push_str("\n| action of `check_postgres` | our check | seconds |\n|---|---|---|\n");
    for action in &SHARED {
        let took = figures.by_action.get(action.name).map_or(f64::NAN, |took| median(took));
        let _ = writeln!(text, "| {} | {} | {took:.3} |", action.name, action.checks.join(", "));
    }
    let _ = writeln!(text, "\nRounds: {rounds}, medians; {TABLES} tables, {INDEXES} indexes. {versions}.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_for_each_database() {
        let counts = |pairs: &[(&str, usize)]| pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        let (before, after): (BTreeMap<_, _>, _) = (counts(&[("a", 3)]), counts(&[("a", 4), ("b", 2)]));
        assert_eq!(most(&before, &after), 2);
        assert_eq!(most(&after, &after), 0);
    }
}
