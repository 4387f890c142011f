//! `backup`: make, look at, prove and restore sets.

mod exports;
mod key;
mod prune;
mod render;

use super::args::{BackupArgs, BackupVerb, PlaceArgs, RestoreArgs, TargetArgs};
use super::{Desk, FINDINGS, FINE, Outcome, Stop, UNKNOWN, person, progress};
use crate::app::api::{
    BackupInitView, BackupListView, BackupStatusView, BackupTryView, RecoveryPlanView, Request, RestoreView, Target,
    TaskRunView,
};
use crate::app::{Backups, backup};
use crate::config::Settings;
use groundskeeper_core::receipt::{Climb, ClimbOutcome};
use groundskeeper_core::{Severity, Status};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::io;
use std::path::Path;

pub(super) async fn run(desk: &mut Desk, args: BackupArgs) -> Outcome {
    match args.verb {
        BackupVerb::Init => init(desk).await,
        BackupVerb::Run => make(desk).await,
        BackupVerb::List(place) => list(desk, &place).await,
        BackupVerb::Status => status(desk).await,
        BackupVerb::Plan(place) => plan(desk, &place).await,
        BackupVerb::Verify(args) => {
            let request = Request::BackupVerify { set: args.set, by: person::name() };
            prove(desk, "reading the set back", request).await
        }
        BackupVerb::Drill(args) => {
            let target = target(&args.target, &desk.settings()?.zone)?;
            let request = Request::BackupDrill { set: args.set.set, target, by: person::name() };
            prove(desk, "restoring the set into the scratch place", request).await
        }
        BackupVerb::Restore(args) => restore(desk, args).await,
        BackupVerb::Prune { apply } => prune::run(desk, apply).await,
        BackupVerb::Exports(args) => exports::run(desk, args).await,
        BackupVerb::Key { verb } => key::run(desk, verb).await,
    }
}

/// The settings, which must have backups: asking the keeper would say the same later and in other words.
fn settings(desk: &Desk) -> Result<Settings, Stop> {
    let settings = desk.settings()?;
    Backups::of(&settings)?;
    Ok(settings)
}

/// The repository that is meant, and the zone to show times in.
fn place(desk: &Desk, place: &PlaceArgs) -> Result<(Backups, TimeZone), Stop> {
    if let (Some(folder), Some(key)) = (&place.repository, &place.key_file) {
        return Ok((Backups::at(folder, key)?, TimeZone::system()));
    }
    let settings = desk.settings()?;
    Ok((Backups::of(&settings)?, settings.zone))
}

/// A time without a zone is meant in that of the configuration.
fn target(args: &TargetArgs, zone: &TimeZone) -> Result<Option<Target>, Stop> {
    let Some(written) = &args.to_time else { return Ok(args.to_latest.then_some(Target::Latest)) };
    let local = || written.parse::<DateTime>().ok()?.to_zoned(zone.clone()).ok().map(|zoned| zoned.timestamp());
    let at = written.parse().ok().or_else(local);
    let wrong = || {
        Stop::usage(format!("`{written}` is no time; write for example \"2026-11-22 14:05\" or 2026-11-22T13:05:00Z"))
    };
    Ok(Some(Target::Time(at.ok_or_else(wrong)?)))
}

async fn init(desk: &mut Desk) -> Outcome {
    let backups = Backups::of(&desk.settings()?)?;
    let view: BackupInitView = progress::shown("making the repository", backups.init()).await?;
    desk.show(&view, |paint| render::init(&view, *paint))?;
    Ok(FINE)
}

/// The task itself, so that the calendar knows of it.
async fn make(desk: &mut Desk) -> Outcome {
    let settings = settings(desk)?;
    let request = Request::TaskRun { name: "backup".to_owned(), dry_run: false, by: person::name() };
    let run: TaskRunView = desk.ask_counting(&settings, "making a set", request).await?;
    desk.show(&run, |paint| render::run(&run, *paint))?;
    Ok(if run.ok { FINE } else { FINDINGS })
}

async fn list(desk: &mut Desk, args: &PlaceArgs) -> Outcome {
    let (backups, zone) = place(desk, args)?;
    let view: BackupListView = progress::shown("reading the repository", backups.list()).await?;
    desk.show(&view, |paint| render::list(&view, &zone, *paint))?;
    Ok(FINE)
}

async fn plan(desk: &mut Desk, args: &PlaceArgs) -> Outcome {
    let (backups, _) = place(desk, args)?;
    let view: RecoveryPlanView = progress::shown("reading the repository", backups.plan()).await?;
    desk.show(&view, |_| view.plan.clone())?;
    Ok(FINE)
}

async fn status(desk: &mut Desk) -> Outcome {
    let settings = settings(desk)?;
    let view = progress::shown("reading the repository", backup::status_now(&settings)).await?;
    let verbose = desk.verbose;
    desk.show(&view, |paint| render::status(&view, &settings.zone, *paint, verbose))?;
    Ok(judged(&view))
}

/// As `check` has it: a warning or worse is 1, and no answer at all is 3.
fn judged(view: &BackupStatusView) -> u8 {
    let statuses = || view.judgements.iter().map(|judgement| &judgement.status);
    let wrong = statuses().any(|status| match status {
        Status::Failing { findings } => findings.iter().any(|finding| finding.severity >= Severity::Warning),
        _ => false,
    });
    let blind = statuses().any(|status| matches!(status, Status::Unknown(unknown) if unknown.kind.is_trouble()));
    match (wrong, blind) {
        (true, _) => FINDINGS,
        (false, true) => UNKNOWN,
        (false, false) => FINE,
    }
}

async fn prove(desk: &mut Desk, doing: &str, request: Request) -> Outcome {
    let settings = settings(desk)?;
    let view: BackupTryView = desk.ask_counting(&settings, doing, request).await?;
    desk.show(&view, |paint| render::tried(&view, &settings.zone, *paint))?;
    Ok(verdict(&view.tried))
}

fn verdict(tried: &[Climb]) -> u8 {
    if tried.iter().any(|climb| matches!(climb.outcome, ClimbOutcome::Failed { .. })) {
        FINDINGS
    } else if tried.is_empty() || tried.iter().any(Climb::leaves_open) {
        UNKNOWN
    } else {
        FINE
    }
}

/// Says what it will do before it begins: a restore takes long, and a wrong one costs the time twice.
async fn restore(desk: &mut Desk, args: RestoreArgs) -> Outcome {
    let (backups, zone) = place(desk, &args.place)?;
    let (set, target) = (args.set.set.as_deref(), target(&args.target, &zone)?);
    let planning = backups.plan_restore(set, args.only.as_deref(), target, &args.into, args.replace);
    let plan = progress::shown("reading the repository", planning).await?;
    if args.replace && args.confirm.is_none() && !person::is_there() && !plan.replaces.is_empty() {
        return Err(Stop::usage("--replace is confirmed on a terminal; without one give --confirm NAME"));
    }
    if desk.form == super::OutputForm::Text {
        let paint = desk.paint;
        desk.out.text(&render::restore_plan(&plan, &zone, paint))?;
        desk.out.flush()?;
    }
    if !plan.replaces.is_empty() {
        confirm(&plan.into, args.confirm)?;
    }
    let doing = format!("restoring into {}", plan.into.display());
    let look = backups.progress().clone();
    let view: RestoreView = progress::counted(&doing, async || look.now(), backups.restore(plan)).await?;
    desk.show(&view, |paint| render::restored(&view, *paint))?;
    Ok(FINE)
}

/// A folder is replaced by who knows its name, not by who repeats a line of the shell's history.
fn confirm(into: &Path, given: Option<String>) -> Result<(), Stop> {
    let name = into.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let unreadable = |error: io::Error| Stop::usage(format!("the name cannot be read from the terminal: {error}"));
    let typed = if let Some(given) = given {
        given
    } else {
        let terminal = console::Term::stderr();
        terminal.write_str(&format!("Type `{name}` to replace what is there: ")).map_err(unreadable)?;
        terminal.read_line().map_err(unreadable)?
    };
    if name.is_empty() || typed.trim() != name {
        return Err(Stop::usage(format!("`{}` is not `{name}`; nothing was changed", typed.trim())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::Rung;
    use jiff::Timestamp;

    #[test]
    fn a_failed_rung_is_1_and_one_that_could_not_be_tried_is_3() {
        let climb = |outcome| Climb { rung: Rung::Alive, at: Timestamp::UNIX_EPOCH, took: 1.0, outcome };
        let proven = || climb(ClimbOutcome::Proven { shown: String::new(), not_covered: Vec::new() });
        let failed = || climb(ClimbOutcome::Failed { why: String::new() });
        let not_tried = || climb(ClimbOutcome::NotTried { why: String::new() });
        assert_eq!(verdict(&[proven(), proven()]), FINE);
        assert_eq!(verdict(&[proven(), failed()]), FINDINGS);
        assert_eq!(verdict(&[not_tried(), failed()]), FINDINGS);
        assert_eq!(verdict(&[proven(), not_tried()]), UNKNOWN);
        assert_eq!(verdict(&[]), UNKNOWN, "nothing was shown");
        let not_compared = Climb { rung: Rung::Faithful, ..not_tried() };
        assert_eq!(verdict(&[proven(), not_compared]), FINE, "it restores, and a server may forbid to compare");
    }
}
