//! Which pages of a data folder have changed between two looks at it, and what they are worth compressed.
//!
//! By reading the files of the stopped server: so the yardstick comes from the source, not from a backup tool.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const PAGE: usize = 8 << 10;
/// What Groundskeeper's repository cuts files into.
const CHUNK: usize = 512 << 10;
/// What Groundskeeper's repository compresses with.
const LEVEL: i32 = 1;
/// What is not in a base backup of the running server, and the WAL, of which it has its own part.
const LEFT_OUT: [&str; 13] = [
    "pg_wal",
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_internal.init",
    "postmaster.opts",
    "postmaster.pid",
    "current_logfiles",
];

/// A hash of every page of every file.
pub(super) struct Pages {
    files: BTreeMap<PathBuf, Vec<u64>>,
    /// Of all files together.
    pub(super) bytes: u64,
}

/// The difference between two looks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Changed {
    pub(super) pages: u64,
    /// Pages that there are.
    pub(super) of: u64,
    /// Chunks with at least one changed page, and their bytes after compression.
    pub(super) chunks: u64,
    pub(super) compressed: u64,
}

impl Pages {
    /// Reads the data folder of a server that is stopped.
    pub(super) fn read(data: &Path) -> Result<Self> {
        let mut pages = Self { files: BTreeMap::new(), bytes: 0 };
        pages.folder(data, data)?;
        Ok(pages)
    }

    fn folder(&mut self, data: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let name = path.strip_prefix(data).unwrap_or(&path).to_owned();
            if LEFT_OUT.iter().any(|left_out| path.file_name().is_some_and(|last| last == *left_out)) {
                continue;
            }
            if path.is_dir() {
                self.folder(data, &path)?;
            } else {
                let (hashes, bytes) = hashes(&path)?;
                self.files.insert(name, hashes);
                self.bytes += bytes;
            }
        }
        Ok(())
    }

    /// What has changed since `before`; reads the changed chunks again, of a server that is still stopped.
    pub(super) fn changed(&self, before: &Self, data: &Path) -> Result<Changed> {
        const PAGES: usize = CHUNK / PAGE;
        let mut changed = Changed::default();
        let none = Vec::new();
        for (name, now) in &self.files {
            let then = before.files.get(name).unwrap_or(&none);
            changed.of += now.len() as u64;
            for (index, pages) in now.chunks(PAGES).enumerate() {
                let first = index * PAGES;
                let differ = (first..).zip(pages).filter(|(number, page)| then.get(*number) != Some(*page)).count();
                if differ > 0 {
                    changed.pages += differ as u64;
                    changed.chunks += 1;
                    changed.compressed += compressed(&data.join(name), index as u64)?;
                }
            }
        }
        Ok(changed)
    }
}

fn hashes(path: &Path) -> Result<(Vec<u64>, u64)> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (mut hashes, mut bytes, mut chunk) = (Vec::new(), 0, vec![0; CHUNK]);
    loop {
        let length = fill(&mut file, &mut chunk)?;
        if length == 0 {
            return Ok((hashes, bytes));
        }
        bytes += length as u64;
        hashes.extend(chunk[..length].chunks(PAGE).map(|page| {
            let mut hasher = DefaultHasher::new();
            hasher.write(page);
            hasher.finish()
        }));
    }
}

/// Reads until the buffer is full or the file has ended.
fn fill(file: &mut File, buffer: &mut [u8]) -> Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..])? {
            0 => break,
            read => length += read,
        }
    }
    Ok(length)
}

fn compressed(path: &Path, chunk: u64) -> Result<u64> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.seek(SeekFrom::Start(chunk * CHUNK as u64))?;
    let mut text = vec![0; CHUNK];
    let length = fill(&mut file, &mut text)?;
    Ok(zstd::bulk::compress(&text[..length], LEVEL)?.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_page_is_one_page_and_one_chunk() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("base/1/2");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::create_dir(data.path().join("pg_wal")).unwrap();
        fs::write(data.path().join("pg_wal/1"), "not looked at").unwrap();
        let mut content = vec![7; 3 * CHUNK + PAGE];
        fs::write(&file, &content).unwrap();
        let before = Pages::read(data.path()).unwrap();
        assert_eq!(before.bytes, content.len() as u64);
        content[CHUNK + 3 * PAGE + 5] = 8;
        fs::write(&file, &content).unwrap();
        let changed = Pages::read(data.path()).unwrap().changed(&before, data.path()).unwrap();
        assert_eq!((changed.pages, changed.of, changed.chunks), (1, 3 * 64 + 1, 1));
        assert!((1..1_000).contains(&changed.compressed), "{changed:?}");
    }
}
