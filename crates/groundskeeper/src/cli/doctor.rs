//! `doctor`: is the installation itself sound?

use super::{Desk, FINE, Outcome, OutputForm, Stop, UNKNOWN, counted, moment, progress};
use crate::app::api::{CheckView, Request, StatusView};
use crate::app::{self, Backups, Session};
use crate::config::{ConfigError, Settings};
use groundskeeper_core::{Status, UnknownKind};
use rustix::fs::{Access, access};
use serde::Serialize;

/// One thing looked at.
#[derive(Serialize)]
struct Sign {
    ok: bool,
    what: &'static str,
    detail: String,
}

fn sign(ok: bool, what: &'static str, detail: impl Into<String>) -> Sign {
    Sign { ok, what, detail: detail.into() }
}

pub(super) async fn run(desk: &mut Desk) -> Outcome {
    let settings = match desk.settings() {
        Ok(settings) => settings,
        Err(Stop::Said { message, exit }) => {
            show(desk, &[sign(false, "configuration", message)])?;
            return Ok(exit);
        }
        Err(gone) => return Err(gone),
    };
    let file = settings.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
    let systems = counted(settings.systems.len(), "system");
    let mut signs = vec![sign(true, "configuration", format!("{file}, {systems}"))];
    let folder = state_folder(&settings);
    let folder_ok = folder.ok;
    signs.push(folder);
    if folder_ok {
        signs.extend(store(&settings).await);
    }
    if settings.backup.is_some() {
        signs.push(repository(&settings).await);
    }
    match progress::shown("reading every system", app::check_now(&settings, &[])).await {
        Ok(view) => signs.extend(reached(&view)),
        Err(error) => signs.push(sign(false, "systems", error.message)),
    }
    show(desk, &signs)?;
    let fine = signs.iter().all(|sign| sign.ok);
    Ok(match (fine, folder_ok) {
        (true, _) => FINE,
        (false, false) => ConfigError::EXIT,
        (false, true) => UNKNOWN,
    })
}

/// Looks, and makes nothing: the folder that will be made is judged by the one that holds it.
fn state_folder(settings: &Settings) -> Sign {
    let folder = &settings.state_dir;
    let existing = folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(folder);
    let shown = folder.display();
    match access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if existing == folder => sign(true, "state folder", format!("{shown} can be written")),
        Ok(()) => sign(true, "state folder", format!("{shown} will be made when it is needed")),
        Err(error) => {
            let next = "run as its owner, or set `state_dir`";
            sign(false, "state folder", format!("{shown} cannot be written: {error}; {next}"))
        }
    }
}

async fn store(settings: &Settings) -> Vec<Sign> {
    let mut session = match Session::connect(settings).await {
        Ok(session) => session,
        Err(error) => return vec![sign(false, "store", error.message)],
    };
    let through_daemon = session.is_daemon();
    match session.call::<StatusView>(Request::Status).await {
        Err(error) => vec![sign(false, if through_daemon { "daemon" } else { "store" }, error.message)],
        Ok(status) if through_daemon => {
            let watched = status
                .watched
                .map_or_else(|| "not watched yet".into(), |at| format!("watched {}", moment(at, settings)));
            let own = env!("CARGO_PKG_VERSION");
            let same = status.version == own;
            let other = if same { String::new() } else { format!("; this program is {own}: restart the daemon") };
            vec![sign(same, "daemon", format!("answers, version {}, {watched}{other}", status.version))]
        }
        Ok(_) => {
            vec![sign(true, "store", "opens"), sign(true, "daemon", "does not run; `groundskeeper run` starts it")]
        }
    }
}

/// Opens it with the key, which a look at the folder does not show.
async fn repository(settings: &Settings) -> Sign {
    let tried = async { Backups::of(settings)?.try_out().await };
    match progress::shown("opening the backup repository", tried).await {
        Ok(detail) => sign(true, "backup", detail),
        Err(error) => sign(false, "backup", error.message),
    }
}

fn reached(view: &CheckView) -> Vec<Sign> {
    let each = view.systems.iter().map(|system| {
        let statuses = || system.judgements.iter().map(|judgement| &judgement.status);
        let silent = statuses().find_map(|status| match status {
            Status::Unknown(unknown) if unknown.kind == UnknownKind::NoAnswer => Some(unknown.reason.clone()),
            _ => None,
        });
        let blind = statuses()
            .filter(|status| matches!(status, Status::Unknown(unknown) if unknown.kind == UnknownKind::NotRead));
        let blind = match blind.count() {
            0 => String::new(),
            count => format!(
                ", but {} could not read what they need (`groundskeeper check` names it)",
                counted(count, "check")
            ),
        };
        let ok = silent.is_none();
        let detail = silent.unwrap_or_else(|| format!("answers at {}{blind}", system.address));
        sign(ok, "system", format!("{}: {detail}", system.system))
    });
    each.collect()
}

fn show(desk: &mut Desk, signs: &[Sign]) -> Result<(), Stop> {
    if desk.form == OutputForm::Json {
        return desk.out.json(&signs);
    }
    for sign in signs {
        let mark = if sign.ok { desk.paint.good("✓") } else { desk.paint.critical("✗") };
        desk.out.line(&format!("{mark} {}: {}", desk.paint.bold(sign.what), sign.detail))?;
    }
    Ok(())
}
