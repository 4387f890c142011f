//! Rows that a rule of retention has deleted from a Postgres, as they were: beside the sets, sealed as the WAL is.
//!
//! | module | what it holds |
//! |---|---|
//! | `name` | what a piece is called, by which it is listed |
//! | `exporter` | how a deletion puts its rows here first |
//!
//! A piece is one object, written once: a line of JSON that says what it is, then CSV with a header. No lock is needed,
//! because no name is written twice, and nothing of ours ever removes one: neither a prune of sets nor one of WAL looks here.

mod exporter;
mod name;

pub use exporter::Exporter;
pub use name::Export;

use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::source::qdrant::hexadecimal;
use crate::vault::Vault;
use crate::wal::seal::Seal;
use groundskeeper_core::SystemId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The folder of all exports in a repository.
pub(crate) const FOLDER: &str = "exports";
/// What one piece may hold: whoever opens it has it in memory.
const LARGEST: u64 = 1 << 30;
/// Of the form of a piece. Another number is another form.
const FORMAT: u32 = 1;

/// The first line of a piece: all that is needed to understand the rest, also without us.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub system: SystemId,
    pub database: String,
    pub schema: String,
    pub table: String,
    /// The rule: rows whose column was further back than `before`, which is so many seconds before the deletion.
    pub column: String,
    pub before: Timestamp,
    pub keep_seconds: u64,
    /// When the deletion began, and its number in the journal.
    pub begun: Timestamp,
    pub entry: i64,
    /// From 1 on.
    pub piece: u32,
    pub rows: u64,
    /// Of the CSV, with its header.
    pub bytes: u64,
    pub sha256: String,
    pub columns: Vec<Column>,
    /// Columns that are not in it, because the server makes them from the others.
    #[serde(default)]
    pub generated: Vec<String>,
    /// The settings of Postgres that the values were written with.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// The version of the server.
    pub server: String,
    pub written_by: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub r#type: String,
}

/// A piece that was opened, and whose sum is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub manifest: Manifest,
    pub csv: Vec<u8>,
}

impl Opened {
    /// The CSV without its header, for whoever has written that already.
    pub fn rows(&self) -> &[u8] {
        self.csv.get(header_of(&self.csv)..).unwrap_or_default()
    }
}

/// Bytes of the first record: a name may have line feeds in it, between quotes.
fn header_of(csv: &[u8]) -> usize {
    let mut is_quoted = false;
    let end = csv.iter().position(|byte| {
        is_quoted ^= *byte == b'"';
        *byte == b'\n' && !is_quoted
    });
    end.map_or(csv.len(), |at| at + 1)
}

impl Vault {
    /// Every piece by its name, the newest deletion first, its pieces in their order.
    pub async fn exports(&self) -> Result<Vec<Export>> {
        self.opened(|_, repository| {
            let listed = repository.list_beside(FOLDER)?;
            let mut found: Vec<Export> = listed.into_iter().filter_map(name::read).collect();
            found.sort_by(|one, other| {
                other.begun.cmp(&one.begun).then_with(|| one.run().cmp(&other.run())).then(one.piece.cmp(&other.piece))
            });
            Ok(found)
        })
        .await
    }

    /// Opens a piece and checks its sum.
    pub async fn read_export(&self, export: &Export) -> Result<Opened> {
        let export = export.clone();
        self.opened(move |_, repository| {
            let missing = || Error::NoExport(export.id());
            let stored = repository.get_beside(&export.file)?.ok_or_else(missing)?;
            let damaged = |why: &str| Error::Damaged {
                place: repository.place().to_owned(),
                why: format!("{}: {why}", export.file),
            };
            let seal = Seal::find(repository)?.ok_or_else(|| damaged("wal/identity, which opens it, is not there"))?;
            let content = seal.unlock(&stored, LARGEST).map_err(|why| damaged(&why))?;
            opened(&content).map_err(|why| damaged(&why))
        })
        .await
    }

    /// Safe when it returns, and read back.
    pub(crate) async fn keep_export(&self, manifest: Manifest, csv: Vec<u8>) -> Result<()> {
        self.opened(move |settings, repository| {
            let seal = match Seal::find(repository)? {
                Some(seal) => seal,
                None => Seal::find_or_make(repository, &settings.key.read()?)?,
            };
            keep(repository, &seal, &manifest, &csv)
        })
        .await
    }
}

fn keep(repository: &Repository, seal: &Seal, manifest: &Manifest, csv: &[u8]) -> Result<()> {
    let name = name::of(manifest);
    let mut content = serde_json::to_vec(manifest).map_err(|error| Error::Worker(error.to_string()))?;
    content.push(b'\n');
    content.extend_from_slice(csv);
    // The mount point of a disk that is gone is an empty folder, which would take anything.
    repository.must_be_there()?;
    let sealed = seal.lock(&content)?;
    // Whether it is ours that has the name, also after an answer that was lost, is seen by what is read back.
    repository.put_first_beside(&name, sealed)?;
    let damaged = |why: String| Error::Damaged { place: repository.place().to_owned(), why: format!("{name}: {why}") };
    let stored =
        repository.get_beside(&name)?.ok_or_else(|| damaged("it is not there after it was written".to_owned()))?;
    let back = seal.unlock(&stored, content.len() as u64).map_err(damaged)?;
    if back == content { Ok(()) } else { Err(damaged("it is not what was written".to_owned())) }
}

/// What a piece holds; the error says what is wrong with it.
fn opened(content: &[u8]) -> std::result::Result<Opened, String> {
    let at = content.iter().position(|byte| *byte == b'\n').ok_or("its first line has no end")?;
    let manifest: Manifest =
        serde_json::from_slice(&content[..at]).map_err(|error| format!("its first line cannot be read: {error}"))?;
    let csv = &content[at + 1..];
    if manifest.format != FORMAT {
        return Err(format!("it is of the form {}; a newer version reads it", manifest.format));
    }
    if csv.len() as u64 != manifest.bytes {
        return Err(format!("it holds {} bytes instead of {}", csv.len(), manifest.bytes));
    }
    if sum(csv) != manifest.sha256 {
        return Err("its rows are not those that were written: the SHA-256 is another one".to_owned());
    }
    Ok(Opened { manifest, csv: csv.to_vec() })
}

fn sum(csv: &[u8]) -> String {
    hexadecimal(&Sha256::digest(csv))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(csv: &[u8]) -> Manifest {
        let at = "2026-11-23T04:30:15Z".parse().unwrap();
        Manifest {
            format: FORMAT,
            system: "postgres.main".parse().unwrap(),
            database: "docrag".into(),
            schema: "public".into(),
            table: "user_sessions".into(),
            column: "expires_at".into(),
            before: at,
            keep_seconds: 60,
            begun: at,
            entry: 17,
            piece: 1,
            rows: 1,
            bytes: csv.len() as u64,
            sha256: sum(csv),
            columns: vec![Column { name: "line\nfeed".into(), r#type: "text".into() }],
            generated: Vec::new(),
            settings: BTreeMap::new(),
            server: "15.8".into(),
            written_by: "a test".into(),
        }
    }

    #[test]
    fn a_piece_is_a_line_and_then_csv_and_its_sum_is_checked() {
        let csv = b"\"line\nfeed\"\n\"a\n\"\"b\"\n";
        let content =
            |manifest: &Manifest, csv: &[u8]| [&serde_json::to_vec(manifest).unwrap(), &b"\n"[..], csv].concat();
        let whole = opened(&content(&manifest(csv), csv)).unwrap();
        assert_eq!((whole.csv.as_slice(), whole.rows()), (&csv[..], &b"\"a\n\"\"b\"\n"[..]));
        let other = b"\"line\nfeed\"\n\"a\n\"\"c\"\n";
        assert!(opened(&content(&manifest(csv), other)).unwrap_err().contains("SHA-256"));
        assert!(opened(&content(&manifest(csv), &csv[1..])).unwrap_err().contains("bytes instead of"));
        let newer = Manifest { format: 2, ..manifest(csv) };
        assert!(opened(&content(&newer, csv)).unwrap_err().contains("newer version"));
        assert!(opened(b"no line").unwrap_err().contains("no end"));
    }
}
