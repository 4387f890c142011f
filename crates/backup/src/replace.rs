//! Making room for a restore where something is: it is moved aside, never deleted, and not under anybody's feet.

use crate::error::{Error, Result};
use jiff::Timestamp;
use rustix::process::{Pid, test_kill_process};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Whether there is anything that a restore would have to replace.
pub(crate) fn is_taken(folder: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(folder) {
        Ok(found) if found.is_dir() => Ok(fs::read_dir(folder)?.next().is_some()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Refuses what must not be moved: a disk, a link, the data of a Postgres that runs.
pub(crate) fn may_go(folder: &Path) -> Result<()> {
    let refused = |why: String| Error::Target { path: folder.to_owned(), why };
    let wrong = |error: io::Error| refused(error.to_string());
    let found = fs::symlink_metadata(folder).map_err(wrong)?;
    if found.is_symlink() {
        return Err(refused("it is a link; name the folder that it leads to".to_owned()));
    }
    if let Some(mount) = mounted(folder, &found).map_err(wrong)? {
        let mount = mount.display();
        return Err(refused(format!("{mount} is a mount point, which cannot be moved aside; restore beside it")));
    }
    if let Some(server) = server_in(folder).map_err(wrong)? {
        return Err(refused(format!("a Postgres runs on it (process {server}); stop it first")));
    }
    Ok(())
}

/// Moves a folder aside, to a name beside it that is free. Gives where it is now.
pub(crate) fn aside(folder: &Path, now: Timestamp) -> Result<PathBuf> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stamp = now.strftime("%Y%m%dT%H%M%SZ");
    let refused = |error: io::Error| Error::Target { path: folder.to_owned(), why: error.to_string() };
    for attempt in 0_u32.. {
        let more = if attempt == 0 { String::new() } else { format!("-{attempt}") };
        let to = folder.with_file_name(format!("{name}.replaced-{stamp}{more}"));
        if fs::symlink_metadata(&to).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            fs::rename(folder, &to).map_err(refused)?;
            return Ok(to);
        }
    }
    Err(refused(io::Error::other("no name for it is free")))
}

/// A mount point at the folder or below it: by the device, and by the kernel's list, which knows bind mounts.
fn mounted(folder: &Path, found: &fs::Metadata) -> io::Result<Option<PathBuf>> {
    let absolute = folder.canonicalize()?;
    let Some(parent) = absolute.parent() else { return Ok(Some(absolute)) };
    if fs::metadata(parent)?.dev() != found.dev() {
        return Ok(Some(absolute));
    }
    let list = fs::read_to_string("/proc/self/mountinfo")?;
    let places = list.lines().filter_map(|line| line.split(' ').nth(4)).map(|place| PathBuf::from(unescaped(place)));
    Ok(places.into_iter().find(|place| place.starts_with(&absolute)))
}

/// The list writes a blank as `\040`.
fn unescaped(place: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(place.to_owned(), |place, (written, meant)| place.replace(written, meant))
}

/// The process of a Postgres that has its data in the folder: by its `postmaster.pid`, and by where processes work.
fn server_in(folder: &Path) -> io::Result<Option<i32>> {
    let absolute = folder.canonicalize()?;
    for data in [absolute.clone(), absolute.join("data")] {
        let written = match fs::read_to_string(data.join("postmaster.pid")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let process = written.lines().next().and_then(|line| line.trim().parse().ok()).and_then(Pid::from_raw);
        // One that we may not signal is alive as well.
        if let Some(process) = process.filter(|process| test_kill_process(*process) != Err(rustix::io::Errno::SRCH)) {
            return Ok(Some(process.as_raw_nonzero().get()));
        }
    }
    let works_there = |process: &fs::DirEntry| {
        let program = fs::read_link(process.path().join("exe")).ok()?;
        let program = program.file_name()?.to_string_lossy().into_owned();
        let folder = fs::read_link(process.path().join("cwd")).ok()?;
        (program.trim_end_matches(" (deleted)") == "postgres" && folder.starts_with(&absolute)).then_some(())
    };
    let mut processes = fs::read_dir("/proc")?.flatten().filter(|process| works_there(process).is_some());
    Ok(processes.find_map(|process| process.file_name().to_str()?.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_moved_beside_itself_and_never_over_anything() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("postgres.main");
        assert!(!is_taken(&folder).unwrap());
        let now: Timestamp = "2026-03-02T09:00:00Z".parse().unwrap();
        for name in ["postgres.main.replaced-20260302T090000Z", "postgres.main.replaced-20260302T090000Z-1"] {
            fs::create_dir(&folder).unwrap();
            assert!(!is_taken(&folder).unwrap(), "an empty folder is free");
            fs::write(folder.join("old"), "old").unwrap();
            assert!(is_taken(&folder).unwrap());
            may_go(&folder).unwrap();
            assert_eq!(aside(&folder, now).unwrap(), place.path().join(name));
            assert!(!folder.exists() && place.path().join(name).join("old").exists());
        }
    }

    #[test]
    fn a_link_a_mount_point_and_the_folder_of_a_live_process_stay() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("main");
        fs::create_dir_all(folder.join("data")).unwrap();
        let why = |folder: &Path| may_go(folder).unwrap_err().to_string();
        std::os::unix::fs::symlink(&folder, place.path().join("link")).unwrap();
        assert!(why(&place.path().join("link")).contains("is a link"));
        assert!(why(Path::new("/proc")).contains("mount point") && why(Path::new("/")).contains("mount point"));
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        fs::write(folder.join("data/postmaster.pid"), format!("{}\n/nowhere\n", child.id())).unwrap();
        assert!(why(&folder).contains(&format!("a Postgres runs on it (process {})", child.id())));
        child.kill().unwrap();
        child.wait().unwrap();
        may_go(&folder).unwrap();
    }

    #[test]
    fn a_postgres_that_works_in_it_is_found_without_its_pid_file() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("main");
        fs::create_dir_all(folder.join("data")).unwrap();
        fs::copy("/bin/sleep", place.path().join("postgres")).unwrap();
        let server = std::process::Command::new(place.path().join("postgres"))
            .arg("600")
            .current_dir(folder.join("data"))
            .spawn();
        let mut server = server.unwrap();
        let refused = may_go(&folder);
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(refused.unwrap_err().to_string().contains("a Postgres runs on it"));
        may_go(&folder).unwrap();
    }
}
