//! A program of the user's on a scratch server.
//!
//! It is his own and may do what its user may: nothing here fences it in. What we see to is that it is told of the scratch
//! server and of nothing else, and that nothing which it started stays. Most of that is in its process group; what left
//! the group is known by its environment, which every process has from the one that started it.

use super::server::{POLL, dies_with_us, last_lines, spawn};
use super::{ScratchServer, Setback, User, config};
use crate::programs::PATH;
use rustix::fs::{Access, access};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// By this a program sees that it runs in a drill, and we see that a process comes from one.
const MARK: &str = "GROUNDSKEEPER_DRILL";
const MARKED: &[u8] = b"GROUNDSKEEPER_DRILL=1";
/// How long it has to end by itself, and then what it started by force.
const GOODBYE: Duration = Duration::from_secs(5);
const LOG: &str = "log";
const HOME: &str = "home";

/// What is started, and on which part of the server.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<String>,
    pub(crate) role: &'a str,
    pub(crate) database: &'a str,
    /// Where it is to listen.
    pub(crate) port: u16,
}

/// It goes with this value, and with us if there is `setpriv`; when we are killed, the next scratch place ends the rest.
#[derive(Debug)]
pub(crate) struct ScratchCommand {
    child: Child,
    /// Its thread stays until this is gone.
    _stay: mpsc::Sender<()>,
    folder: PathBuf,
    place: PathBuf,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit status {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => f.write_str("an unknown status"),
        }
    }
}

impl ScratchCommand {
    /// Starts it in a folder of its own in the scratch place, as the user of the server.
    pub(crate) fn start(server: &ScratchServer<'_>, launch: &Launch<'_>) -> Result<Self, Setback> {
        let place = server.data().place();
        let user = place.user();
        must_be_there(launch.program, user).map_err(Setback::NotTried)?;
        let cannot = |error: io::Error| Setback::NotTried(format!("could not be started: {error}"));
        let folder = own_folder(place.path()).map_err(cannot)?;
        if let Some(user) = user {
            user.give(&folder)?;
            user.give(&folder.join(HOME))?;
        }
        let command = command(server, launch, &folder, user).map_err(cannot)?;
        let (child, stay) = spawn(command).map_err(cannot)?;
        Ok(Self { child, _stay: stay, folder, place: place.path().to_owned() })
    }

    /// None while it runs. It is not reaped by this, so that its number stays its own until its group was ended.
    pub(crate) fn ended(&self) -> Option<Ended> {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::Pid(Pid::from_child(&self.child)), look).ok()??;
        Some(Ended { code: status.exit_status(), signal: status.terminating_signal() })
    }

    /// The last lines of what it and those that it started have printed.
    pub(crate) fn output(&self) -> String {
        last_lines(&self.folder.join(LOG))
    }

    /// Asks it to end, and ends by force what is still there after a while.
    pub(crate) async fn stop(self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::TERM);
        let asked = Instant::now();
        while self.ended().is_none() && asked.elapsed() < GOODBYE {
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for ScratchCommand {
    #[expect(
        clippy::disallowed_methods,
        reason = "drop cannot await, and the server must not go before what works with it"
    )]
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let asked = Instant::now();
        loop {
            let left = started_in(&self.place);
            if left.is_empty() || asked.elapsed() > GOODBYE {
                break;
            }
            for process in left {
                let _ = kill_process(process, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.wait();
    }
}

/// The processes that come from a program of a drill in this place, which must be absolute and without links. None where
/// there is no `/proc`.
pub(super) fn started_in(place: &Path) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let ours = processes.flatten().filter_map(|process| {
        let id = Pid::from_raw(process.file_name().to_str()?.parse().ok()?)?;
        // That of one that has ended, and waits to be reaped, is empty.
        let environment = fs::read(process.path().join("environ")).ok()?;
        is_of(&environment, place).then_some(id)
    });
    ours.collect()
}

/// Whether an environment is one of a drill in this place: it has the mark, and names something in there.
fn is_of(environment: &[u8], place: &Path) -> bool {
    let mut inside = place.as_os_str().as_bytes().to_vec();
    inside.push(b'/');
    let entries = || environment.split(|byte| *byte == 0);
    let names_it = |entry: &[u8]| entry.windows(inside.len()).any(|part| part == inside);
    entries().any(|entry| entry == MARKED) && entries().any(names_it)
}

/// That a program cannot be run here is no fault of a set.
fn must_be_there(program: &Path, user: Option<&User>) -> Result<(), String> {
    let wrong = |error: io::Error| format!("could not be tried: {}: {error}", program.display());
    let real = program.canonicalize().map_err(wrong)?;
    if !real.is_file() {
        return Err(format!("could not be tried: {} is no file", program.display()));
    }
    let Some(user) = user else { return access(&real, Access::EXEC_OK).map_err(|error| wrong(error.into())) };
    for path in program.ancestors().skip(1).chain(real.ancestors()) {
        if !user.may_enter(path).map_err(wrong)? {
            return Err(format!(
                "could not be tried: the user {}, whom it would run as, may not run {} ({} is closed to him)",
                user.name,
                program.display(),
                path.display()
            ));
        }
    }
    Ok(())
}

/// For what it prints, and in it one that it works in.
fn own_folder(place: &Path) -> io::Result<PathBuf> {
    let mut builder = tempfile::Builder::new();
    let folder = builder.prefix("probe-").permissions(Permissions::from_mode(0o700)).tempdir_in(place)?.keep();
    fs::DirBuilder::new().mode(0o700).create(folder.join(HOME))?;
    Ok(folder)
}

fn command(server: &ScratchServer<'_>, launch: &Launch<'_>, folder: &Path, user: Option<&User>) -> io::Result<Command> {
    let mut command = match dies_with_us() {
        Some((setpriv, option)) => {
            let mut command = Command::new(setpriv);
            command.arg(option).arg("--").arg(launch.program);
            command
        }
        None => Command::new(launch.program),
    };
    let home = folder.join(HOME);
    let log = File::options().create(true).append(true).open(folder.join(LOG))?;
    command.args(&launch.arguments).current_dir(&home).env_clear();
    command.env("PATH", PATH).env("HOME", &home).env("LANG", "C").env(MARK, "1");
    command.env("PORT", launch.port.to_string());
    command.envs(environment(server.socket(), launch.role, launch.database));
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.process_group(0);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    Ok(command)
}

/// How programs find a server: by the variables of libpq, or by an address.
fn environment(socket: &Path, role: &str, database: &str) -> [(&'static str, OsString); 5] {
    let port = config::PORT.to_string();
    let socket = socket.as_os_str();
    let url = format!(
        "postgresql:///{}?host={}&port={port}&user={}",
        encoded(OsStr::new(database)),
        encoded(socket),
        encoded(OsStr::new(role))
    );
    [
        ("PGHOST", socket.to_owned()),
        ("PGPORT", port.into()),
        ("PGUSER", role.into()),
        ("PGDATABASE", database.into()),
        ("DATABASE_URL", url.into()),
    ]
}

/// For any part of a URL that may hold slashes.
fn encoded(text: &OsStr) -> String {
    text.as_bytes().iter().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            encoded.push(char::from(*byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_finds_the_server_by_an_address_that_a_driver_understands() {
        let variables = environment(Path::new("/var/tmp/drill/server-1"), "the owner", "a?b");
        let value = |name: &str| variables.iter().find(|(known, _)| *known == name).unwrap().1.to_str().unwrap();
        assert_eq!((value("PGHOST"), value("PGUSER")), ("/var/tmp/drill/server-1", "the owner"));
        let url = value("DATABASE_URL");
        assert_eq!(url, "postgresql:///a%3Fb?host=/var/tmp/drill/server-1&port=5432&user=the%20owner");
        let config: tokio_postgres::Config = url.parse().unwrap();
        assert_eq!((config.get_dbname(), config.get_user()), (Some("a?b"), Some("the owner")));
        let host = tokio_postgres::config::Host::Unix("/var/tmp/drill/server-1".into());
        assert_eq!((config.get_hosts(), config.get_ports()), (&[host][..], &[5432][..]));
    }

    #[test]
    fn a_process_of_a_drill_is_known_by_its_mark_and_its_place() {
        let place = Path::new("/tmp/drill-a");
        assert!(is_of(b"PATH=/bin\0HOME=/tmp/drill-a/probe-1/home\0GROUNDSKEEPER_DRILL=1\0", place));
        for other in [
            &b"HOME=/tmp/drill-a/probe-1/home\0GROUNDSKEEPER_DRILL=10\0"[..],
            b"HOME=/tmp/drill-ab/home\0GROUNDSKEEPER_DRILL=1\0",
            b"HOME=/tmp/drill-a/probe-1/home\0",
            b"",
        ] {
            assert!(!is_of(other, place), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn a_program_that_cannot_be_run_is_named_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("service");
        let why = must_be_there(&program, None).unwrap_err();
        assert!(why.contains("service") && why.contains("No such file"), "{why}");
        assert!(must_be_there(folder.path(), None).unwrap_err().contains("is no file"));
        fs::write(&program, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o644)).unwrap();
        assert!(must_be_there(&program, None).is_err());
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
        must_be_there(&program, None).unwrap();
        // Whoever this is, a folder that is closed to everyone keeps him out.
        let stranger = User { name: "stranger".to_owned(), uid: 4_000_000, gid: 4_000_000 };
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        let why = must_be_there(&program, Some(&stranger)).unwrap_err();
        assert!(why.contains("stranger") && why.contains("is closed to him"), "{why}");
    }
}
