//! Snapshots: tar files of what lies on disk, made while nothing changes it.
//!
//! The parts of a shard are laid out as in the real server's "streamable" format (`segments/<id>/files/…`), so that
//! [`EdgeShard::unpack_snapshot`] takes ours and the real ones alike. A collection's snapshot holds its `config.json` and
//! its only shard under `0/`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use qdrant_edge::EdgeShard;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::clock;
use super::collection::{CONFIG, Collection, SHARD};
use super::store::Store;
use crate::stand_in::error::{Error, Result};

const EXTENSION: &str = "snapshot";

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Snapshot {
    pub(crate) name: String,
    /// UTC, without a zone: `2026-11-21T18:13:03`.
    pub(crate) creation_time: String,
    pub(crate) size: u64,
    pub(crate) checksum: String,
}

/// Whose snapshots are meant. Each has a folder of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of<'a> {
    Collection(&'a Collection),
    Shard(&'a Collection),
    Everything,
}

impl Store {
    fn snapshots_of(&self, of: Of<'_>) -> PathBuf {
        match of {
            Of::Collection(collection) => self.snapshots().join(collection.name()),
            Of::Shard(collection) => self.snapshots().join(collection.name()).join("shards/0"),
            Of::Everything => self.snapshots(),
        }
    }

    pub(crate) fn create_snapshot(&self, of: Of<'_>) -> Result<Snapshot> {
        let time = clock::now().to_zoned(TimeZone::UTC).strftime("%Y-%m-%d-%H-%M-%S").to_string();
        let name = match of {
            Of::Collection(collection) => format!("{}-{}-{time}.{EXTENSION}", collection.name(), self.peer),
            Of::Shard(collection) => format!("{}-shard-0-{time}.{EXTENSION}", collection.name()),
            Of::Everything => format!("full-snapshot-{time}.{EXTENSION}"),
        };
        let folder = self.snapshots_of(of);
        fs::create_dir_all(&folder)?;
        let path = folder.join(&name);
        self.write_snapshot(of, &path)?;
        if let Of::Collection(collection) = of {
            collection.count_snapshot();
        }
        describe(&path)
    }

    /// A shard's snapshot as bytes, without keeping it.
    pub(crate) fn stream_shard(&self, collection: &Collection) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir_in(self.snapshots().parent().unwrap_or(Path::new(".")))?;
        let path = folder.path().join("stream");
        self.write_snapshot(Of::Shard(collection), &path)?;
        Ok(fs::read(path)?)
    }

    fn write_snapshot(&self, of: Of<'_>, path: &Path) -> Result<()> {
        let partial = path.with_extension("partial");
        let mut archive = tar::Builder::new(File::create(&partial)?);
        archive.follow_symlinks(false);
        match of {
            Of::Shard(collection) => collection.while_flushed(|folder| add_shard(&mut archive, folder, ""))?,
            Of::Collection(collection) => collection.while_flushed(|folder| {
                archive.append_path_with_name(folder.join(CONFIG), CONFIG)?;
                add_shard(&mut archive, folder, "0/")
            })?,
            Of::Everything => {
                for collection in self.all() {
                    // Under the name it would have alone, and gone afterwards: as the real server does.
                    let snapshot = self.create_snapshot(Of::Collection(&collection))?;
                    let path = self.snapshots_of(Of::Collection(&collection)).join(&snapshot.name);
                    archive.append_path_with_name(&path, &snapshot.name)?;
                    fs::remove_file(path)?;
                }
            }
        }
        archive.into_inner()?.sync_all()?;
        fs::rename(partial, path)?;
        Ok(())
    }

    pub(crate) fn list_snapshots(&self, of: Of<'_>) -> Result<Vec<Snapshot>> {
        let Ok(entries) = fs::read_dir(self.snapshots_of(of)) else { return Ok(Vec::new()) };
        let paths = entries.flatten().map(|entry| entry.path());
        paths
            .filter(|path| path.extension().is_some_and(|found| found == EXTENSION))
            .map(|path| describe(&path))
            .collect()
    }

    pub(crate) fn snapshot_path(&self, of: Of<'_>, name: &str) -> Result<PathBuf> {
        let path = self.snapshots_of(of).join(name);
        if name.contains(['/', '\\']) || !path.is_file() {
            return Err(Error::no_snapshot(name));
        }
        Ok(path)
    }

    pub(crate) fn delete_snapshot(&self, of: Of<'_>, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.snapshot_path(of, name)?)?)
    }

    /// Puts a collection's snapshot in the place of the collection, whether there is one or not.
    pub(crate) fn recover(&self, name: &str, snapshot: &Path) -> Result<()> {
        if !snapshot.is_file() {
            return Err(Error::BadRequest(format!("Snapshot file \"{}\" does not exist", snapshot.display())));
        }
        let unpacked = tempfile::tempdir_in(self.snapshots().parent().unwrap_or(Path::new(".")))?;
        unpack(snapshot, unpacked.path())?;
        self.replace(name, |folder| Ok(fs::rename(unpacked.path(), folder)?))
    }
}

fn unpack(snapshot: &Path, folder: &Path) -> Result<()> {
    let broken = |what: String| Error::BadRequest(format!("Failed to unpack snapshot: {what}"));
    tar::Archive::new(File::open(snapshot)?).unpack(folder).map_err(|error| broken(error.to_string()))?;
    if !folder.join(CONFIG).is_file() || !folder.join("0/segments").is_dir() {
        return Err(broken("it is not a snapshot of a collection with one shard".to_owned()));
    }
    // The engine restores shards from a tar of their own.
    let shard = folder.join("shard.tar");
    let mut archive = tar::Builder::new(File::create(&shard)?);
    archive.append_dir_all(".", folder.join("0"))?;
    archive.finish()?;
    EdgeShard::unpack_snapshot(&shard, &folder.join(SHARD)).map_err(|error| broken(error.to_string()))?;
    fs::remove_file(shard)?;
    fs::remove_dir_all(folder.join("0"))?;
    Ok(())
}

fn add_shard(archive: &mut tar::Builder<File>, collection: &Path, prefix: &str) -> Result<()> {
    let shard = collection.join(SHARD);
    for entry in fs::read_dir(&shard)?.flatten().filter(|entry| entry.path().is_file()) {
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        archive.append_path_with_name(entry.path(), name)?;
    }
    for segment in fs::read_dir(shard.join("segments"))?.flatten().filter(|entry| entry.path().is_dir()) {
        let name = format!("{prefix}segments/{}/files", segment.file_name().to_string_lossy());
        archive.append_dir_all(name, segment.path())?;
    }
    Ok(())
}

fn describe(path: &Path) -> Result<Snapshot> {
    let meta = fs::metadata(path)?;
    let created = Timestamp::try_from(meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)).map_err(Error::internal)?;
    Ok(Snapshot {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        creation_time: created.to_zoned(TimeZone::UTC).strftime("%Y-%m-%dT%H:%M:%S").to_string(),
        size: meta.len(),
        checksum: checksum(path)?,
    })
}

fn checksum(path: &Path) -> Result<String> {
    use std::fmt::Write as _;

    let (mut file, mut hash, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    Ok(hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
