//! The demo's backups: a repository beside its stack, and whether what is in it comes back.

use crate::stack::Stack;
use anyhow::{Context, Result, ensure};
use groundskeeper::app::{Backups, CallError};
use groundskeeper::config::Settings;
use groundskeeper_core::receipt::{Receipt, Rung};
use std::fmt::Write as _;
use std::path::PathBuf;

/// The highest rung that this version can climb.
const HIGHEST: Rung = Rung::Faithful;

fn folder(stack: &Stack) -> PathBuf {
    stack.folder().join("backups")
}

/// `[backup]` for the stack; its key is made.
pub(crate) fn configure(stack: &Stack) -> Result<String> {
    let key = stack.folder().join("backup.key");
    std::fs::write(&key, uuid::Uuid::new_v4().to_string())?;
    Ok(format!(
        r#"
[backup]
repository = "{repository}"
key_file = "{key}"
scratch = "{scratch}"

# Yours runs at 22:00, which leaves too little of a compressed day.
[tasks.backup-verification]
cron = "0 8 * * *"

# How full this machine's disk is, is not a part of the stack either.
[checks."backup.repository_nearly_full"]
enabled = false
"#,
        repository = folder(stack).display(),
        key = key.display(),
        scratch = stack.folder().join("scratch").display(),
    ))
}

/// What a person does once.
pub(crate) async fn init(settings: &Settings) -> Result<()> {
    Backups::of(settings).map_err(said)?.init().await.map_err(said)?;
    Ok(())
}

/// Restores the newest set into an empty folder, starts a Postgres on it and asks it for its documents. Gives the set, and
/// what the day left undone.
pub(crate) async fn bring_back(settings: &Settings, stack: &Stack) -> Result<(String, Vec<String>)> {
    let backups = Backups::of(settings).map_err(said)?;
    let sets = backups.list().await.map_err(said)?.sets;
    let newest = sets.first().context("the day made no backup set")?;
    let into = stack.folder().join("restored");
    let plan = backups.plan_restore(None, None, None, &into, false).await.map_err(said)?;
    let restored = backups.restore(plan).await.map_err(said)?.restored;
    ensure!(restored.set == newest.set, "{} was restored, and {} is the newest", restored.set, newest.set);
    let server = stack.postgres.bring_up(&into.join("postgres.main/data")).await?;
    let url = server.url_for("postgres", server.password(), "docrag");
    let row = server.client_at(&url).await.query_one("SELECT count(*) FROM documents", &[]).await?;
    let documents: i64 = row.get(0);
    Ok((told(newest, documents), shortcomings(newest, documents)))
}

fn told(set: &Receipt, documents: i64) -> String {
    let mut text = format!("set {}", set.set);
    if let Some(rung) = set.proven() {
        let _ = write!(text, ", proven up to rung {} ({rung})", rung.number());
    }
    let _ = write!(text, ": a Postgres on what was restored holds {documents} documents");
    text
}

fn shortcomings(set: &Receipt, documents: i64) -> Vec<String> {
    let mut wrong = Vec::new();
    if set.proven() != Some(HIGHEST) {
        wrong.push(format!("the backup set {} did not climb to rung {}: {:?}", set.set, HIGHEST.number(), set.climbs));
    }
    if !set.is_whole() {
        wrong.push(format!("the backup set {} lacks {:?}", set.set, set.missing));
    }
    if documents == 0 {
        wrong.push(format!("the restored copy of the set {} has no documents", set.set));
    }
    wrong
}

fn said(error: CallError) -> anyhow::Error {
    anyhow::anyhow!(error.message)
}
