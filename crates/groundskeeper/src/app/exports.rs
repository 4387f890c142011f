//! Rows that retention has deleted: which there are, and how they are read.

use super::CallError;
use super::api::{Export, ExportsView};
use super::backup::Backups;
use groundskeeper_backup::exports::Column;
use groundskeeper_backup::{Error, Vault};
use std::collections::VecDeque;

/// The rows of one deletion, piece by piece, as one CSV.
#[derive(Debug)]
pub struct Reading {
    vault: Vault,
    pieces: VecDeque<Export>,
    is_begun: bool,
}

impl Backups {
    pub async fn exports(&self) -> Result<ExportsView, CallError> {
        let exports = self.vault.exports().await?;
        let stored = exports.iter().map(|export| export.stored).sum();
        Ok(ExportsView { now: self.clock.now(), repository: self.repository(), exports, stored })
    }

    /// Those of a deletion, or one of its pieces, by its name or the first letters of it. Every piece is opened and its sum is
    /// checked before the first is given: whoever reads from a pipe takes a broken end for the end.
    pub async fn read_exports(&self, name: &str) -> Result<Reading, CallError> {
        let pieces = chosen(self.vault.exports().await?, name)?;
        let mut columns: Option<Vec<Column>> = None;
        for piece in &pieces {
            let found = self.vault.read_export(piece).await?.manifest.columns;
            if *columns.get_or_insert_with(|| found.clone()) != found {
                return Err(CallError::usage(format!(
                    "the table had other columns from {} on; read its pieces one by one",
                    piece.id()
                )));
            }
        }
        Ok(Reading { vault: self.vault.clone(), pieces: pieces.into(), is_begun: false })
    }
}

impl Reading {
    /// The next piece; only the first has a header.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, CallError> {
        let Some(piece) = self.pieces.pop_front() else { return Ok(None) };
        let opened = self.vault.read_export(&piece).await?;
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        Ok(Some(if is_first { opened.csv } else { opened.rows().to_vec() }))
    }
}

/// The pieces that are meant, all of one deletion.
fn chosen(exports: Vec<Export>, name: &str) -> Result<Vec<Export>, CallError> {
    let is_named = |export: &Export| export.id() == name || export.run() == name || export.file == name;
    let (named, others): (Vec<Export>, Vec<Export>) = exports.into_iter().partition(is_named);
    let begins = |export: &Export| !name.is_empty() && export.id().starts_with(name);
    let found = if named.is_empty() { others.into_iter().filter(begins).collect() } else { named };
    let Some(first) = found.first() else { return Err(Error::NoExport(format!("`{name}`")).into()) };
    let of = |export: &Export| (export.run(), export.system.clone(), export.relation());
    if found.iter().any(|export| of(export) != of(first)) {
        let why = format!("several deletions begin with `{name}`; give more letters, or the FILE of one piece");
        return Err(CallError::usage(why));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(entry: i64, piece: u32, table: &str) -> Export {
        let begun = "2026-11-23T04:30:15Z".parse().unwrap();
        Export {
            system: "postgres.main".parse().unwrap(),
            database: "docrag".into(),
            schema: "public".into(),
            table: table.into(),
            begun,
            entry,
            piece,
            rows: 1,
            before: begun,
            stored: 1,
            file: format!("exports/{table}/{entry}-{piece}"),
        }
    }

    #[test]
    fn a_deletion_is_named_by_all_its_pieces_or_one_and_never_by_another_one_that_begins_alike() {
        let all = || vec![export(1, 1, "a"), export(17, 1, "a"), export(17, 2, "a"), export(17, 10, "a")];
        let pieces = |name: &str| {
            chosen(all(), name).map(|found| found.iter().map(|export| (export.entry, export.piece)).collect::<Vec<_>>())
        };
        assert_eq!(pieces("20261123T043015Z-1").unwrap(), [(1, 1)]);
        assert_eq!(pieces("20261123T043015Z-17").unwrap(), [(17, 1), (17, 2), (17, 10)]);
        assert_eq!(pieces("20261123T043015Z-17-0002").unwrap(), [(17, 2)]);
        assert_eq!(pieces("20261123T043015Z-17-000").unwrap(), [(17, 1), (17, 2)]);
        assert!(pieces("20261123").unwrap_err().message.contains("several deletions"));
        assert!(pieces("").unwrap_err().message.contains("there is no export"));
        assert_eq!(pieces("2025").unwrap_err().exit, 2);
        let two = vec![export(1, 1, "a"), export(1, 1, "b")];
        assert!(chosen(two.clone(), "20261123T043015Z-1").is_err());
        assert_eq!(chosen(two, "exports/b/1-1").unwrap()[0].table, "b");
    }
}
