//! File trees: regular files, folders and links, with their modes, owners and times.
//!
//! Nobody holds still for this. A file that changes while it is read is read once more, and named if that did not help; one
//! that is gone or cannot be read is named and not in the set. What is no file (sockets, pipes, devices) is left out and
//! named, and so are other file systems, unless they are asked for, and the folders of the backups themselves. Files with
//! several names are stored under each; extended attributes and access lists are not kept.

use crate::error::{Error, Result};
use crate::repository::{SetWriter, feed::Feed};
use crate::vault::{FileSource, Settings};
use groundskeeper_core::receipt::{FileTree, Part};
use jiff::Timestamp;
use rustic_core::repofile::Metadata as Meta;
use rustix::fs::OFlags;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that is larger is not read a second time.
const READ_AGAIN: u64 = 64 << 20;

/// Stores one tree.
pub(crate) fn add(writer: &mut SetWriter<'_>, source: &FileSource, settings: &Settings) -> Result<Part> {
    let name = source.name.clone();
    let failed = |why: String| Error::Source { system: name.clone(), why, retryable: true };
    let broken = |error: io::Error| failed(format!("{}: {error}", source.path.display()));
    let top = source.path.canonicalize().map_err(broken)?;
    let meta = top.metadata().map_err(broken)?;
    if !meta.is_dir() {
        return Err(failed(format!("{} is no folder", source.path.display())));
    }
    let ours = [
        (settings.place.folder(), "the repository of the backups"),
        (Some(settings.scratch.as_path()), "the scratch folder of drills"),
    ];
    let ours: Vec<(PathBuf, &str)> =
        ours.into_iter().filter_map(|(path, what)| Some((path?.canonicalize().ok()?, what))).collect();
    if let Some((_, what)) = ours.iter().find(|(path, _)| top.starts_with(path)) {
        return Err(failed(format!("{} lies in {what}; take it out of `files` of [backup]", top.display())));
    }
    let tree = FileTree {
        path: source.path.display().to_string(),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        ..FileTree::default()
    };
    let walk = Walk { top, device: meta.dev(), everywhere: source.other_filesystems, ours, tree };
    let stored = writer.add(&name, |feed| walk.send(feed).map_err(|error| failed(error.to_string())))?;
    Ok(Part { name, entries: stored.entries, bytes: stored.bytes, files: Some(stored.told), ..Part::default() })
}

struct Walk {
    top: PathBuf,
    device: u64,
    /// Other file systems are entered.
    everywhere: bool,
    /// Folders that are left out, and what they are.
    ours: Vec<(PathBuf, &'static str)>,
    tree: FileTree,
}

/// What came of a file.
enum Came {
    Kept,
    /// It is kept as it was read.
    Changed,
    Gone,
    Unreadable(io::Error),
    /// It is no regular file any more.
    Special,
}

impl Walk {
    /// An error is one of the repository; what is wrong with a file is in the tree.
    fn send(mut self, feed: &mut Feed) -> io::Result<FileTree> {
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for path in self.children(&folder) {
                self.entry(feed, &path, &mut folders)?;
            }
        }
        Ok(self.tree)
    }

    /// The paths in a folder, relative to the top and in order.
    fn children(&mut self, folder: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        match fs::read_dir(self.top.join(folder)) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => found.push(folder.join(entry.file_name())),
                        Err(error) => self.tree.unreadable.add(said(folder, &error)),
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.tree.changed.add(gone(folder)),
            Err(error) => self.tree.unreadable.add(said(folder, &error)),
        }
        found.sort();
        found
    }

    fn entry(&mut self, feed: &mut Feed, path: &Path, folders: &mut Vec<PathBuf>) -> io::Result<()> {
        let whole = self.top.join(path);
        let meta = match whole.symlink_metadata() {
            Ok(meta) => meta,
            Err(error) => {
                self.refused(path, &error);
                return Ok(());
            }
        };
        let kind = meta.file_type();
        if kind.is_dir() {
            if let Some((_, what)) = self.ours.iter().find(|(ours, _)| *ours == whole) {
                self.tree.left_out.add(format!("{}: {what}", path.display()));
                return Ok(());
            }
            feed.folder(path, described(&meta));
            if meta.dev() == self.device || self.everywhere {
                folders.push(path.to_owned());
            } else {
                self.tree.left_out.add(format!("{}: another file system", path.display()));
            }
        } else if kind.is_symlink() {
            match fs::read_link(&whole) {
                Ok(target) => feed.link(path, target, described(&meta)),
                Err(error) => self.refused(path, &error),
            }
        } else if kind.is_file() {
            match read(feed, &whole, path)? {
                Came::Kept => self.tree.files += 1,
                Came::Changed => {
                    self.tree.files += 1;
                    self.tree.changed.add(format!("{}: it changed while it was read", path.display()));
                }
                Came::Gone => self.tree.changed.add(gone(path)),
                Came::Unreadable(error) => self.tree.unreadable.add(said(path, &error)),
                Came::Special => self.tree.changed.add(format!("{}: it became no file", path.display())),
            }
        } else {
            let what = if kind.is_socket() {
                "a socket"
            } else if kind.is_fifo() {
                "a pipe"
            } else {
                "a device"
            };
            self.tree.left_out.add(format!("{}: {what}", path.display()));
        }
        Ok(())
    }

    fn refused(&mut self, path: &Path, error: &io::Error) {
        if error.kind() == io::ErrorKind::NotFound {
            self.tree.changed.add(gone(path));
        } else {
            self.tree.unreadable.add(said(path, error));
        }
    }
}

fn said(path: &Path, error: &io::Error) -> String {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    format!("{}: {error}", path.display())
}

fn gone(path: &Path) -> String {
    format!("{}: it was gone when it was to be read", path.display())
}

/// Sends a regular file. What it was replaced by in the meantime is not followed, nor waited for.
fn read(feed: &mut Feed, whole: &Path, path: &Path) -> io::Result<Came> {
    let flags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();
    let mut again = true;
    loop {
        let opened = File::options().read(true).custom_flags(flags).open(whole);
        let opened = opened.and_then(|file| file.metadata().map(|meta| (file, meta)));
        let (mut file, before) = match opened {
            Ok((_, meta)) if !meta.is_file() => return Ok(Came::Special),
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Came::Gone),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Ok(Came::Special);
            }
            Err(error) => return Ok(Came::Unreadable(error)),
        };
        // One that grows without end would be read without end.
        let taken = feed.take(described(&before).mtime, &mut (&mut file).take(before.len()))?;
        if let Some(error) = taken.failure {
            return Ok(Came::Unreadable(error));
        }
        let same = file.metadata().is_ok_and(|after| stamp(&after) == stamp(&before)) && taken.size == before.len();
        if same || !again || before.len() > READ_AGAIN {
            feed.keep(path, described(&before), &taken);
            return Ok(if same { Came::Kept } else { Came::Changed });
        }
        again = false;
    }
}

/// What changes with the contents of a file.
fn stamp(meta: &Metadata) -> (u64, i64, i64, i64, i64) {
    (meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
}

fn described(meta: &Metadata) -> Meta {
    let nanoseconds = i32::try_from(meta.mtime_nsec()).unwrap_or(0);
    Meta {
        mode: Some(mode(meta)),
        mtime: Timestamp::new(meta.mtime(), nanoseconds).ok(),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
        ..Meta::default()
    }
}

/// In the bits of Go, in which restic writes modes.
fn mode(meta: &Metadata) -> u32 {
    const FOLDER: u32 = 1 << 31;
    const LINK: u32 = 1 << 27;
    let kind = if meta.is_dir() {
        FOLDER
    } else if meta.is_symlink() {
        LINK
    } else {
        0
    };
    let special = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let special = special.iter().filter(|(bit, _)| meta.mode() & bit != 0).map(|(_, go)| go).sum::<u32>();
    kind | special | (meta.mode() & 0o777)
}
