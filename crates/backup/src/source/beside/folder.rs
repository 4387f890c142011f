//! A data directory, opened once. Whoever owns the files of a server could put a link in the way of a keeper that runs as
//! root: nothing is reached by a link or outside of it, and only what the owner of the folder owns is read.

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, openat2};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(Debug)]
pub(super) struct Folder {
    top: OwnedFd,
    owner: u32,
    pub(super) path: PathBuf,
}

/// What is there under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Folder,
    File,
    Other,
}

impl Folder {
    /// `path` itself may lead over links: that is where the server says that it lies.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let owner = file.metadata()?.uid();
        Ok(Self { top: file.into(), owner, path: path.to_owned() })
    }

    fn reach(&self, inside: &Path, flags: OFlags) -> io::Result<File> {
        let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(File::from(openat2(&self.top, inside, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?))
    }

    fn owned(&self, file: File) -> io::Result<(File, Metadata)> {
        let meta = file.metadata()?;
        if meta.uid() == self.owner { Ok((file, meta)) } else { Err(io::Error::other("it is not the server's own")) }
    }

    /// What is under a name, without opening it. A link is something else, wherever it leads.
    pub(super) fn look(&self, inside: &Path) -> io::Result<(What, Metadata)> {
        let found = self.reach(inside, OFlags::PATH | OFlags::NOFOLLOW);
        let meta = match found {
            Ok(file) => file.metadata()?,
            // The name itself is a link, which may not be passed.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Ok((What::Other, self.path.symlink_metadata()?));
            }
            Err(error) => return Err(error),
        };
        let what = match (meta.is_dir(), meta.is_file()) {
            (true, _) => What::Folder,
            (_, true) => What::File,
            _ => What::Other,
        };
        Ok((what, meta))
    }

    /// A regular file.
    pub(super) fn file(&self, inside: &Path) -> io::Result<(File, Metadata)> {
        let (file, meta) = self.owned(self.reach(inside, OFlags::RDONLY | OFlags::NONBLOCK)?)?;
        if meta.is_file() { Ok((file, meta)) } else { Err(io::Error::other("it is no regular file")) }
    }

    /// The names in a folder, in order. Postgres gives nothing a name that is no text.
    pub(super) fn names(&self, inside: &Path) -> io::Result<Vec<String>> {
        let (folder, _) = self.owned(self.reach(inside, OFlags::RDONLY | OFlags::DIRECTORY)?)?;
        let mut found = Vec::new();
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            match entry.file_name().to_str() {
                Ok("." | "..") => {}
                Ok(name) => found.push(name.to_owned()),
                Err(_) => return Err(io::Error::other(format!("{:?} is no name of Postgres's", entry.file_name()))),
            }
        }
        found.sort();
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_is_reached_over_a_link_or_outside() {
        let scratch = tempfile::tempdir().unwrap();
        let (data, secret) = (scratch.path().join("data"), scratch.path().join("secret"));
        fs::create_dir_all(data.join("base/1")).unwrap();
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("key"), "k").unwrap();
        fs::write(data.join("base/1/16384"), "rows").unwrap();
        symlink(&secret, data.join("base/2")).unwrap();
        symlink(secret.join("key"), data.join("base/1/16385")).unwrap();
        let folder = Folder::open(&data).unwrap();
        assert_eq!(folder.names(Path::new("")).unwrap(), ["base"]);
        assert_eq!(folder.names(Path::new("base/1")).unwrap(), ["16384", "16385"]);
        assert_eq!(folder.file(Path::new("base/1/16384")).unwrap().1.len(), 4);
        assert_eq!(folder.look(Path::new("base/1")).unwrap().0, What::Folder);
        for link in ["base/2", "base/1/16385"] {
            assert_eq!(folder.look(Path::new(link)).unwrap().0, What::Other, "{link}");
        }
        for outside in ["base/2/key", "base/1/16385", "../secret/key"] {
            assert!(folder.file(Path::new(outside)).is_err(), "{outside}");
        }
        assert!(folder.names(Path::new("base/2")).is_err());
        assert_eq!(folder.file(Path::new("base/3")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_somebody_else_owns_is_not_read() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        fs::write(scratch.path().join("ours"), "").unwrap();
        fs::write(scratch.path().join("theirs"), "").unwrap();
        std::os::unix::fs::chown(scratch.path().join("theirs"), Some(65_534), None).unwrap();
        let folder = Folder::open(scratch.path()).unwrap();
        assert!(folder.file(Path::new("ours")).is_ok());
        assert!(folder.file(Path::new("theirs")).unwrap_err().to_string().contains("not the server's own"));
    }
}
