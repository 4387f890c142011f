//! Operations that the engine may not have on disk yet.
//!
//! The engine writes a log of its own and never reads it back: what is not flushed when the process is killed is lost,
//! and while segments are being rebuilt nothing that was deleted is flushed. So every operation is written here first
//! (one `write`, which a `kill -9` cannot take back) and replayed on the next start, as the real server does with its
//! write-ahead log. It is emptied when everything has been flushed.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

use qdrant_edge::UpdateOperation;

use crate::stand_in::error::{Error, Result};

/// The first line: the number that the next operation gets when the rest is empty.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    next: u64,
    empty: bool,
}

impl Journal {
    /// Opens the journal, and reads what has to be replayed. A last line that is not whole was never acknowledged.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<UpdateOperation>)> {
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut lines = BufReader::new(&file).lines();
        let next = lines.next().transpose()?.and_then(|line| line.parse().ok()).unwrap_or(1);
        let mut pending = Vec::new();
        for line in lines {
            match serde_json::from_str(&line?) {
                Ok(operation) => pending.push(operation),
                Err(_) => break,
            }
        }
        file.seek(SeekFrom::End(0))?;
        let mut journal = Self { file, next: next + pending.len() as u64, empty: pending.is_empty() };
        if journal.empty {
            journal.restart()?;
        }
        Ok((journal, pending))
    }

    /// Writes `operation` down and gives its number.
    pub(crate) fn append(&mut self, operation: &UpdateOperation) -> Result<u64> {
        let mut line = serde_json::to_vec(operation).map_err(Error::internal)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.empty = false;
        self.next += 1;
        Ok(self.next - 1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.empty
    }

    /// Forgets all operations: they have been flushed.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        writeln!(self.file, "{}", self.next)?;
        self.file.sync_data()?;
        self.empty = true;
        Ok(())
    }
}
