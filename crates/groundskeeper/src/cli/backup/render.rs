//! How backups are written for a person who may be tired: what is wrong first, then what is there, then what to do.

use super::super::findings::finding_lines;
use super::super::paint::Paint;
use super::super::{counted, table};
use crate::app::api::{
    BackupInitView, BackupListView, BackupStatusView, BackupTryView, BackupView, KeyInfo, MeasuredView, RestorePlan,
    RestoreView, Target, TaskRunView,
};
use crate::app::backup::KEEPER;
use crate::app::measured;
use groundskeeper_core::observation::WalStream;
use groundskeeper_core::quantity::{format_bytes, format_count, format_seconds, seconds_between};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Receipt, Rung};
use groundskeeper_core::{Finding, Status};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::fmt::Write as _;

/// Of a long list so many wrongs are told before it.
const WRONGS: usize = 10;

fn at(moment: Timestamp, zone: &TimeZone) -> String {
    moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string()
}

fn name(zone: &TimeZone) -> String {
    zone.iana_name().unwrap_or("local").to_owned()
}

fn age(of: Timestamp, now: Timestamp) -> String {
    format_seconds(seconds_between(of, now).max(0.0).round())
}

/// Writing to a String cannot fail.
fn line(out: &mut String, text: &str) {
    let _ = writeln!(out, "{text}");
}

pub(super) fn init(view: &BackupInitView, paint: Paint) -> String {
    if !view.made {
        return format!("{} {} is there already, and the key opens it.\n", paint.good("✓"), view.repository);
    }
    format!(
        "{} Made the repository {}.\n  Keep a copy of its key in another place, now: nobody can read the backups without \
         it.\n  Next: `groundskeeper backup run` makes the first set, `groundskeeper backup drill` proves it.\n",
        paint.good("✓"),
        view.repository
    )
}

pub(super) fn run(run: &TaskRunView, paint: Paint) -> String {
    let mark = if run.ok { paint.good("✓") } else { paint.critical("✗") };
    let mut out = format!("{mark} {}\n", run.summary);
    for detail in &run.details {
        line(&mut out, &format!("  {} {detail}", paint.critical("!")));
    }
    if run.receipt.is_some() {
        line(&mut out, &paint.dim("  `groundskeeper backup drill` shows that it restores."));
    }
    out
}

/// Everything that is wrong with a set, a sentence each.
fn wrongs(receipt: &Receipt) -> impl Iterator<Item = String> {
    let missing = receipt.missing.iter().map(|missing| format!("{} is missing: {}", missing.system, missing.why));
    let failed = receipt.failed().map(|(rung, why)| format!("rung {} ({rung}) failed: {why}", rung.number()));
    missing.chain(receipt.gaps()).chain(failed).map(|wrong| format!("{}: {wrong}", receipt.set))
}

pub(super) fn list(view: &BackupListView, zone: &TimeZone, paint: Paint) -> String {
    if view.sets.is_empty() {
        return format!("There is no set in {} yet; `groundskeeper backup run` makes one.\n", view.repository);
    }
    let mut out = String::new();
    let wrong: Vec<String> = view.sets.iter().flat_map(wrongs).collect();
    for text in wrong.iter().take(WRONGS) {
        line(&mut out, &format!("{} {text}", paint.critical("!")));
    }
    if wrong.len() > WRONGS {
        line(&mut out, &format!("  and {} more; the table shows where", wrong.len() - WRONGS));
    }
    if !wrong.is_empty() {
        out.push('\n');
    }
    let made = format!("MADE ({})", name(zone));
    let mut rows = vec![["SET", &made, "AGE", "SYSTEMS", "SIZE", "ADDED", "PROVEN"].map(str::to_owned).to_vec()];
    rows.extend(view.sets.iter().map(|receipt| row(receipt, view.now, zone)));
    out.push_str(&table::columns(&rows, "", |number, column, cell| {
        let Some(receipt) = number.checked_sub(1).and_then(|at| view.sets.get(at)) else { return paint.bold(&cell) };
        match column {
            0 => paint.bold(&cell),
            3 if !receipt.is_whole() => paint.critical(&cell),
            6 if receipt.failed().next().is_some() => paint.critical(&cell),
            6 if receipt.proven() >= Some(Rung::Alive) => paint.good(&cell),
            _ => cell,
        }
    }));
    let stored: u64 = view.sets.iter().map(|receipt| receipt.added).sum();
    let total = format!("{} in {}, {} added in all", counted(view.sets.len(), "set"), view.repository, bytes(stored));
    line(&mut out, &format!("\n{total}"));
    out
}

fn bytes(amount: u64) -> String {
    format_bytes(amount as f64)
}

fn row(receipt: &Receipt, now: Timestamp, zone: &TimeZone) -> Vec<String> {
    vec![
        receipt.set.to_string(),
        at(receipt.made, zone),
        age(receipt.made, now),
        systems(receipt),
        bytes(receipt.bytes()),
        bytes(receipt.added),
        ladder(receipt),
    ]
}

/// `postgres.main`, `postgres.main, without postgres.reports`
fn systems(receipt: &Receipt) -> String {
    let there: Vec<&str> = receipt.parts.iter().map(|part| part.name.as_str()).filter(|name| *name != KEEPER).collect();
    let there = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
    let missing: Vec<&str> = receipt.missing.iter().map(|missing| missing.system.as_str()).collect();
    if missing.is_empty() { there } else { format!("{there}, without {}", missing.join(", ")) }
}

/// `4 alive`, `1 stored; 2 intact failed`, `not yet`
fn ladder(receipt: &Receipt) -> String {
    let proven = receipt.proven().map(|rung| format!("{} {rung}", rung.number()));
    let failed: Vec<String> = receipt.failed().map(|(rung, _)| format!("{} {rung} failed", rung.number())).collect();
    match (proven, failed.is_empty()) {
        (Some(proven), true) => proven,
        (Some(proven), false) => format!("{proven}; {}", failed.join(", ")),
        (None, true) => "not yet".to_owned(),
        (None, false) => failed.join(", "),
    }
}

pub(super) fn status(view: &BackupStatusView, zone: &TimeZone, paint: Paint, verbose: bool) -> String {
    let mut out = String::new();
    let mut found: Vec<&Finding> = view
        .judgements
        .iter()
        .filter_map(|judgement| match &judgement.status {
            Status::Failing { findings } => Some(findings),
            _ => None,
        })
        .flatten()
        .collect();
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    for finding in &found {
        finding_lines(&mut out, finding, paint, verbose);
        out.push('\n');
    }
    for judgement in &view.judgements {
        if let Status::Unknown(unknown) = &judgement.status
            && unknown.kind.is_trouble()
            && found.is_empty()
        {
            line(&mut out, &format!("? {}: {}", judgement.check, unknown.reason));
        }
    }
    glance(&mut out, &view.backup, view.now, zone, paint);
    if found.is_empty() && view.judgements.iter().all(|judgement| judgement.status == Status::Ok) {
        line(&mut out, &format!("\n{}", paint.good("Nothing is wrong.")));
    }
    out
}

fn glance(out: &mut String, view: &BackupView, now: Timestamp, zone: &TimeZone, paint: Paint) {
    let space = view.space.map(|space| format!(", {} free of {}", bytes(space.free), bytes(space.total)));
    line(out, &format!("{} {}{}", paint.bold("Repository:"), view.repository, space.unwrap_or_default()));
    if let Some(newest) = view.sets.first() {
        let made = format!("made {} ({} ago)", at(newest.made, zone), age(newest.made, now));
        line(out, &format!("{} {} {made}", paint.bold("Newest set:"), newest.set));
        let sizes = format!("{} at the source, {} added", bytes(newest.bytes()), bytes(newest.added));
        line(out, &format!("  {}; {sizes} in {}", systems(newest), format_seconds(newest.took)));
        for rung in newest.ladder() {
            line(out, &format!("  {}", rung_line(newest, rung, zone, paint)));
        }
    }
    for stream in &view.wal {
        line(out, &format!("{} {}", paint.bold("WAL:"), wal(stream, now, zone)));
    }
    match &view.last_proof {
        Some(proof) => {
            let recovery = proof.recovery_seconds.map(|took| format!("; recovery took {}", format_seconds(took)));
            let proven = format!("{} by {} ({} ago)", at(proof.at, zone), proof.set, age(proof.at, now));
            line(out, &format!("{} {proven}{}", paint.bold("Shown to restore:"), recovery.unwrap_or_default()));
        }
        None if view.sets.is_empty() => {}
        None => line(out, &format!("{} never yet", paint.bold("Shown to restore:"))),
    }
    measured(out, &view.measured, paint);
}

/// What a recovery would take, and what it would lack.
fn measured(out: &mut String, view: &MeasuredView, paint: Paint) {
    if let Some(took) = measured::took(&view.recovery_times) {
        line(out, &format!("{} {took}", paint.bold("Recovery took")));
    }
    for points in &view.recovery_points {
        let Some(worst) = measured::worst(&points.days) else { continue };
        let of = points.system.as_ref().map_or_else(|| "what is only in sets".to_owned(), ToString::to_string);
        line(out, &format!("{} the last {worst}", paint.bold(&format!("At risk in {of}:"))));
    }
}

/// `postgres.main is safe until 2 s ago (0/3000060); the worst in the last hour was 2.4 s; the server keeps 1 MiB`
fn wal(stream: &WalStream, now: Timestamp, zone: &TimeZone) -> String {
    let Some(until) = stream.safe_until else {
        let why = stream.trouble.as_deref().unwrap_or("the keeper that streams it has not told yet");
        return format!("{} has not been streamed yet: {why}", stream.system);
    };
    let position = stream.durable.map_or_else(String::new, |durable| format!(", {durable}"));
    let worst = stream.worst_seconds.map(|worst| format!("; the worst in the last hour was {}", format_seconds(worst)));
    let kept = stream.retained.map(|kept| format!("; the server keeps {}", bytes(kept)));
    let trouble = stream.trouble.as_deref().map(|why| format!("; it does not stream now: {why}"));
    let more = [worst, kept, trouble].into_iter().flatten().collect::<String>();
    format!("{} is safe until {} ({} ago{position}){more}", stream.system, at(until, zone), age(until, now))
}

/// The last attempt at a rung of a set.
fn rung_line(receipt: &Receipt, rung: Rung, zone: &TimeZone, paint: Paint) -> String {
    let last = receipt.climbs.iter().rev().find(|climb| climb.rung == rung);
    last.map_or_else(
        || paint.dim(&format!("– {} {rung:<10}  not tried yet", rung.number())),
        |climb| climb_line(climb, zone, paint),
    )
}

fn climb_line(climb: &Climb, zone: &TimeZone, paint: Paint) -> String {
    let (mark, said) = match &climb.outcome {
        ClimbOutcome::Proven { shown, not_covered } => {
            let rest = if not_covered.is_empty() {
                String::new()
            } else {
                paint.dim(&format!(" (not covered: {})", not_covered.join(", ")))
            };
            (paint.good("✓"), format!("{shown}{rest}"))
        }
        ClimbOutcome::Failed { why } => (paint.critical("✗"), format!("failed: {why}")),
        ClimbOutcome::NotTried { why } => (paint.bold("?"), format!("could not be tried: {why}")),
    };
    let when = format!("{}, {}", at(climb.at, zone), format_seconds(climb.took));
    format!("{mark} {} {:<10}  {}  {said}", climb.rung.number(), climb.rung, paint.dim(&when))
}

pub(super) fn tried(view: &BackupTryView, zone: &TimeZone, paint: Paint) -> String {
    let receipt = &view.receipt;
    let mut out =
        format!("{} made {}: {}\n", paint.bold(receipt.set.as_str()), at(receipt.made, zone), systems(receipt));
    for climb in &view.tried {
        line(&mut out, &format!("  {}", climb_line(climb, zone, paint)));
    }
    let proven = receipt.proven().map_or_else(
        || "This set is not proven at all.".to_owned(),
        |rung| format!("This set is proven up to rung {} ({rung}).", rung.number()),
    );
    let recovery = receipt
        .recovery_time()
        .map(|took| format!(" From the start of the restore to the first answer: {}.", format_seconds(took)));
    line(&mut out, &format!("{proven}{}", recovery.unwrap_or_default()));
    out
}

pub(super) fn restore_plan(plan: &RestorePlan, zone: &TimeZone, paint: Paint) -> String {
    let mut out = String::new();
    for warning in &plan.warnings {
        line(&mut out, &format!("{} {warning}", paint.critical("!")));
    }
    let systems: Vec<String> = plan.systems.iter().map(|(name, size)| format!("{name} ({})", bytes(*size))).collect();
    let free = plan.free.map_or_else(|| "it is not known how much".to_owned(), bytes);
    let old = format_seconds(plan.age_seconds.round());
    let rows = [
        ("set", format!("{}, made {} {} ({old} ago)", plan.set, at(plan.made, zone), name(zone))),
        ("systems", systems.join(", ")),
        ("into", format!("{} ({free} free, {} needed)", plan.into.display(), bytes(plan.bytes()))),
    ];
    for taken in &plan.replaces {
        let taken = taken.display();
        line(
            &mut out,
            &format!("{} {taken} is there; it is moved aside to {taken}.replaced-TIME", paint.critical("!")),
        );
    }
    let over = if plan.replaces.is_empty() { "; nothing that exists is overwritten" } else { "" };
    line(&mut out, &format!("This will be restored{over}."));
    let rows = rows.map(|(what, value)| vec![what.to_owned(), value]).into_iter().chain(replay(plan, zone));
    out.push_str(&table::plain(&rows.collect::<Vec<_>>(), "  "));
    out.push('\n');
    out
}

fn replay(plan: &RestorePlan, zone: &TimeZone) -> Option<Vec<String>> {
    let how = match plan.target? {
        Target::Latest => "all that is in the repository".to_owned(),
        Target::Time(to) => {
            let to = to.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.f");
            format!("up to {to} {}", name(zone))
        }
    };
    let has_others = plan.systems.iter().any(|(system, _)| !system.starts_with("postgres.") && system != KEEPER);
    let others =
        if has_others { "; only Postgres goes on, the other systems stay as they were in the set" } else { "" };
    Some(vec!["WAL".to_owned(), format!("{how}, about {}{others}", bytes(plan.wal))])
}

pub(super) fn restored(view: &RestoreView, paint: Paint) -> String {
    let mut out = String::new();
    for part in &view.restored.parts {
        let amount = format!("{} files, {}", format_count(part.entries as f64), bytes(part.bytes));
        line(&mut out, &format!("{} {} in {}: {amount}", paint.good("✓"), part.name, part.folder.display()));
        if let Some(old) = &part.replaced {
            let old = old.display();
            line(
                &mut out,
                &format!("  what was there is in {old}; give it its name back before you start anything on it"),
            );
        }
        for next in &part.next {
            line(&mut out, &format!("  next: {next}"));
        }
    }
    line(&mut out, &format!("Restored in {}.", format_seconds(view.restored.took)));
    out
}

pub(super) fn keys(keys: &[KeyInfo], zone: &TimeZone, paint: Paint) -> String {
    let made = format!("MADE ({})", name(zone));
    let mut rows = vec![["KEY", &made, "HOST", ""].map(str::to_owned).to_vec()];
    rows.extend(keys.iter().map(|key| {
        vec![
            key.id.clone(),
            key.made.map_or_else(|| "–".to_owned(), |made| at(made, zone)),
            key.host.clone().unwrap_or_else(|| "–".to_owned()),
            if key.in_use { "in use".to_owned() } else { String::new() },
        ]
    }));
    table::columns(&rows, "", |line, _, cell| if line == 0 { paint.bold(&cell) } else { cell })
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
