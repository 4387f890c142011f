//! Where the rows of one deletion go.

use super::{Column, FORMAT, Manifest, sum};
use crate::vault::Vault;
use groundskeeper_core::SystemId;
use groundskeeper_core::remedy::{JournalledStep, Step};
use groundskeeper_systems::postgres::act::{Kept, Piece, Sink};
use jiff::Timestamp;

/// Puts what one step deletes into the repository.
#[derive(Debug, Clone)]
pub struct Exporter {
    vault: Vault,
    system: SystemId,
    database: String,
    schema: String,
    table: String,
    column: String,
    before: Timestamp,
    keep_seconds: u64,
    begun: Timestamp,
    entry: i64,
}

impl Exporter {
    /// None for a step that exports nothing.
    pub fn of(vault: &Vault, step: &JournalledStep, begun: Timestamp) -> Option<Self> {
        let Step::DeleteExpired { system, database, schema, table, column, before, keep_seconds, export: true, .. } =
            step.step()
        else {
            return None;
        };
        Some(Self {
            vault: vault.clone(),
            system: system.clone(),
            database: database.clone(),
            schema: schema.clone(),
            table: table.clone(),
            column: column.clone(),
            before: *before,
            keep_seconds: *keep_seconds,
            begun,
            entry: step.entry(),
        })
    }

    /// All but the rows.
    fn manifest(&self, piece: &Piece) -> Manifest {
        let columns = piece.columns.iter();
        Manifest {
            format: FORMAT,
            system: self.system.clone(),
            database: self.database.clone(),
            schema: self.schema.clone(),
            table: self.table.clone(),
            column: self.column.clone(),
            before: self.before,
            keep_seconds: self.keep_seconds,
            begun: self.begun,
            entry: self.entry,
            piece: piece.number,
            rows: piece.rows,
            bytes: piece.csv.len() as u64,
            sha256: sum(&piece.csv),
            columns: columns
                .map(|column| Column { name: column.name.clone(), r#type: column.r#type.clone() })
                .collect(),
            generated: piece.generated.clone(),
            settings: piece.settings.iter().cloned().collect(),
            server: piece.server.clone(),
            written_by: concat!("groundskeeper ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

impl Sink for Exporter {
    fn keep(&self, piece: Piece) -> Kept<'_> {
        Box::pin(async move {
            let manifest = self.manifest(&piece);
            self.vault.keep_export(manifest, piece.csv).await.map_err(|error| error.to_string())
        })
    }
}
