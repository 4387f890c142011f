//! Rows that are kept elsewhere before they are deleted.
//!
//! A piece of what is due is read with the place (`ctid`) and the writer (`xmin`) of each row and handed to the sink while no
//! transaction is open. Once the sink has it for good those very rows are deleted: at the same place, by the same writer,
//! still due, in the same file of the table. A row that was changed meanwhile stays, and is in a later piece. Whoever dies in
//! between has exported rows twice, and deleted none that are not exported.

mod statement;

use self::statement::{SETTINGS, begin, copy, delete_kept, version};
use super::expired::{Aging, Batch};
use super::referrers::Referrers;
use super::{ActError, Work};
use futures_util::StreamExt;
use std::pin::{Pin, pin};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// A piece is of so many rows and bytes at most: all of it is in memory, and a dead process exports no more than that twice.
const MOST_ROWS: u32 = 50_000;
const MOST_BYTES: usize = 32 << 20;
/// How large the next one should be by what rows took so far: below the most, where reading is broken off.
const AIM_BYTES: usize = 24 << 20;
const FIRST_ROWS: u32 = 2_000;
/// How much larger than the last one.
const GROWTH: u32 = 8;
/// A single row is in memory several times.
const LARGEST_ROW: usize = 256 << 20;

/// Rows on their way out, as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// From 1 on, within one step.
    pub number: u32,
    pub rows: u64,
    /// As `COPY … (FORMAT csv, HEADER)` writes it: UTF-8, a NULL is nothing, an empty text is `""`.
    pub csv: Vec<u8>,
    /// Those of the CSV, in its order.
    pub columns: Vec<Column>,
    /// Columns that the server makes from the others.
    pub generated: Vec<String>,
    /// The settings that the text was written with.
    pub settings: Vec<(String, String)>,
    /// `15.8 (Debian 15.8-0+deb12u1)`
    pub server: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// As SQL writes it, with its schema where that is not `pg_catalog`.
    pub r#type: String,
}

/// Why a sink did not take a piece is in words for a person.
pub type Kept<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// Where rows go before they are deleted.
pub trait Sink: Send + Sync {
    /// Ok means: the piece is on a disk and was read back.
    fn keep(&self, piece: Piece) -> Kept<'_>;
}

/// What is exported and not deleted yet, and where the next piece begins.
pub(super) struct Exporting<'s> {
    sink: &'s dyn Sink,
    /// Not the rows that others refer to, as the end of a condition.
    unless: String,
    pieces: u32,
    /// Rows of the next piece, at most.
    limit: u32,
    after: Option<After>,
    /// Nothing is due behind the last piece.
    is_last: bool,
    kept: Vec<Row>,
    /// Of `kept`, how many were tried and how many are gone.
    tried: usize,
    gone: usize,
    /// The file of the table that `kept` was read from.
    file: u32,
}

/// Where in the order of the rule's column.
struct After {
    value: String,
    /// Not once more the rows that have this very value.
    beyond: bool,
}

/// One version of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    place: String,
    writer: String,
}

/// What the server sent for a piece, but for its text.
struct Read {
    rows: Vec<Row>,
    bytes: usize,
    /// The last value of the rule's column.
    last: String,
    is_last: bool,
    file: u32,
}

impl Exporting<'_> {
    pub(super) fn has_exported(&self) -> bool {
        self.pieces > 0
    }

    /// Begins with the oldest once more.
    pub(super) fn begin_pass(&mut self) {
        (self.after, self.is_last) = (None, false);
    }

    fn took(&mut self, read: Read) {
        let each = read.bytes / read.rows.len().max(1);
        let aim = u32::try_from(AIM_BYTES / each.max(1)).unwrap_or(MOST_ROWS);
        self.limit = aim.clamp(1, MOST_ROWS).min(self.limit.saturating_mul(GROWTH));
        (self.kept, self.tried, self.gone) = (read.rows, 0, 0);
        (self.file, self.is_last) = (read.file, read.is_last);
        // Where less than half of a piece could be deleted, to begin at its last value would export much of it again.
        self.after = Some(After { value: read.last, beyond: false });
    }

    fn tried(&mut self, rows: usize, gone: usize) {
        self.tried += rows;
        self.gone += gone;
        if self.tried == self.kept.len() {
            let beyond = self.gone * 2 < self.kept.len();
            self.after = self.after.take().map(|after| After { beyond, ..after });
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.kept.clear();
        self.tried = 0;
    }
}

impl Work<'_> {
    /// None where the rule does not export. Without a sink nothing may be deleted.
    pub(super) fn begin_export<'s>(
        &self,
        of: Aging<'_>,
        sink: Option<&'s dyn Sink>,
        referrers: &Referrers,
    ) -> Result<Option<Exporting<'s>>, ActError> {
        if !of.export {
            return Ok(None);
        }
        let sink = sink.ok_or_else(|| self.precondition("there is no repository of backups to export its rows to"))?;
        Ok(Some(Exporting {
            sink,
            unless: referrers.unless_held(),
            pieces: 0,
            limit: FIRST_ROWS,
            after: None,
            is_last: false,
            kept: Vec::new(),
            tried: 0,
            gone: 0,
            file: 0,
        }))
    }

    /// Whether all that would be deleted would be exported.
    pub(super) async fn fit_to_export(&self, client: &Client, of: Aging<'_>) -> Result<(), ActError> {
        const FIT: &str = "
SELECT t.relkind = 'p',
       (SELECT c.conname || ' of ' || r.relname FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid
         WHERE c.confrelid = t.oid AND c.contype = 'f' AND c.confdeltype = 'c' ORDER BY 1 LIMIT 1)
  FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace WHERE n.nspname = $1 AND t.relname = $2";
        let names: [(&(dyn ToSql + Sync), Type); 2] = [(&of.schema, Type::TEXT), (&of.table, Type::TEXT)];
        let rows = self.wait(client.query_typed(FIT, &names)).await?;
        let Some(row) = rows.first() else { return Ok(()) };
        let why = if row.get(0) {
            "it is partitioned, and partitions are not exported; leave `export` out, or archive them yourself"
                .to_owned()
        } else if let Some(key) = row.get::<_, Option<String>>(1) {
            format!("the foreign key {key} deletes rows of that table along, and those would not be exported")
        } else {
            return Ok(());
        };
        Err(self.precondition(why))
    }

    /// Deletes up to `size` rows that were exported; exports the next piece first where none are left.
    pub(super) async fn delete_exported(
        &self,
        client: &Client,
        of: Aging<'_>,
        oid: u32,
        exporting: &mut Exporting<'_>,
        size: u32,
        halt: impl Future<Output = ()>,
    ) -> Result<Batch, ActError> {
        if exporting.kept.is_empty() && !self.export(client, of, oid, exporting, halt).await? {
            return Ok(Batch { is_last: true, ..Batch::default() });
        }
        let began = Instant::now();
        let rows: Vec<&Row> = exporting.kept.iter().skip(exporting.tried).take(size as usize).collect();
        let (places, writers): (Vec<&str>, Vec<&str>) =
            rows.iter().map(|row| (row.place.as_str(), row.writer.as_str())).unzip();
        let values: [(&(dyn ToSql + Sync), Type); 5] = [
            (&places, Type::TEXT_ARRAY),
            (&writers, Type::TEXT_ARRAY),
            (&oid, Type::OID),
            (&exporting.file, Type::OID),
            (&of.before, Type::TIMESTAMPTZ),
        ];
        let row = self.wait(client.query_typed_one(&delete_kept(of, &exporting.unless), &values)).await?;
        let (deleted, is_same_file, takes_others): (i64, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if takes_others {
            return Err(self.precondition("a foreign key deletes rows of another table along by now"));
        }
        let (count, deleted) = (rows.len(), u64::try_from(deleted).unwrap_or(0));
        if is_same_file {
            exporting.tried(count, deleted as usize);
        } else {
            // A VACUUM FULL has given the places to other rows. They are read anew.
            exporting.forget();
            exporting.begin_pass();
        }
        Ok(Batch { deleted, took: began.elapsed(), ..Batch::default() })
    }

    /// Reads the next piece and waits until the sink has it. False when nothing is due any more.
    async fn export(
        &self,
        client: &Client,
        of: Aging<'_>,
        oid: u32,
        exporting: &mut Exporting<'_>,
        halt: impl Future<Output = ()>,
    ) -> Result<bool, ActError> {
        if exporting.is_last {
            return Ok(false);
        }
        let Some((piece, read)) = self.read_piece(client, of, oid, exporting).await? else { return Ok(false) };
        exporting.pieces += 1;
        let piece = Piece { number: exporting.pieces, ..piece };
        let keeping = pin!(timeout_at(self.until, exporting.sink.keep(piece)));
        tokio::select! {
            biased;
            kept = keeping => match kept {
                Ok(Ok(())) => {}
                Ok(Err(why)) => {
                    let why = format!("its rows could not be exported, and none of them was deleted: {why}");
                    return Err(self.failed(why, false));
                }
                Err(_) => return Err(self.timeout()),
            },
            () = halt => return Err(ActError::Interrupted(self.what())),
        }
        tracing::debug!(piece = exporting.pieces, rows = read.rows.len(), bytes = read.bytes, "rows are exported");
        exporting.took(read);
        Ok(true)
    }

    /// None when nothing is due. Leaves no transaction open.
    async fn read_piece(
        &self,
        client: &Client,
        of: Aging<'_>,
        oid: u32,
        exporting: &mut Exporting<'_>,
    ) -> Result<Option<(Piece, Read)>, ActError> {
        let read = self.read_in_transaction(client, of, oid, exporting).await;
        if matches!(read, Err(ActError::Timeout { .. })) {
            exporting.limit = (exporting.limit / 4).max(1);
        }
        let mut ended = self.wait(client.batch_execute("ROLLBACK")).await;
        if ended.is_err() {
            // What broke the reading off may come late and meet this.
            ended = self.wait(client.batch_execute("ROLLBACK")).await;
        }
        let read = read?;
        ended.map(|()| read)
    }

    async fn read_in_transaction(
        &self,
        client: &Client,
        of: Aging<'_>,
        oid: u32,
        exporting: &Exporting<'_>,
    ) -> Result<Option<(Piece, Read)>, ActError> {
        const LOOK: &str = "
SELECT coalesce(to_regclass($1)::oid, 0), pg_relation_filenode($2::oid::regclass), current_setting('server_version')";
        const COLUMNS: &str = "
SELECT attname::text, format_type(atttypid, atttypmod), attgenerated <> '' FROM pg_attribute
 WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum";
        // The lock keeps the table's name, columns and file as they are while it is read. Nobody but its owner waits.
        self.wait(client.batch_execute(&begin(of))).await?;
        let relation = of.relation();
        let names: [(&(dyn ToSql + Sync), Type); 2] = [(&relation, Type::TEXT), (&oid, Type::OID)];
        let row = self.wait(client.query_typed_one(LOOK, &names)).await?;
        let (found, file, server): (u32, Option<u32>, String) = (row.get(0), row.get(1), row.get(2));
        let Some(file) = file.filter(|_| found == oid) else {
            return Err(self.failed("the table has become another one meanwhile".to_owned(), false));
        };
        let (mut columns, mut generated) = (Vec::new(), Vec::new());
        for row in self.wait(client.query_typed(COLUMNS, &[(&oid, Type::OID)])).await? {
            let (name, r#type, is_generated): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
            if is_generated { generated.push(name) } else { columns.push(Column { name, r#type }) }
        }
        let statement = copy(of, &columns, exporting);
        let copied = self.copy(client, &statement, exporting.limit).await?;
        let settings = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Ok(copied.map(|(csv, read)| {
            let rows = read.rows.len() as u64;
            (Piece { number: 0, rows, csv, columns, generated, settings, server }, Read { file, ..read })
        }))
    }

    /// The CSV, and what of its rows is needed to delete them. None without a row.
    async fn copy(&self, client: &Client, statement: &str, limit: u32) -> Result<Option<(Vec<u8>, Read)>, ActError> {
        let unreadable = || self.failed("the server did not send a row for each message of a COPY".to_owned(), false);
        let mut stream = pin!(self.wait(client.copy_out(statement)).await?);
        let (mut csv, mut rows, mut last) = (Vec::new(), Vec::new(), String::new());
        let mut is_cut = false;
        while let Some(message) = timeout_at(self.until, stream.next()).await.map_err(|_| self.timeout())? {
            let message = message.map_err(|error| self.error(&error))?;
            let at = message.iter().position(|byte| *byte == b',').ok_or_else(unreadable)?;
            let (head, row) = (&message[..at], &message[at + 1..]);
            if csv.is_empty() {
                csv.extend_from_slice(row);
                continue;
            }
            if row.len() > LARGEST_ROW {
                let why = format!(
                    "one of its rows takes {} MiB as text, and more than 256 are not exported",
                    row.len() >> 20
                );
                return Err(self.failed(why, false));
            }
            if !rows.is_empty() && csv.len() + row.len() > MOST_BYTES {
                is_cut = true;
                break;
            }
            let (found, value) = version(head).ok_or_else(unreadable)?;
            rows.push(found);
            value.clone_into(&mut last);
            csv.extend_from_slice(row);
        }
        if is_cut && let Err(error) = self.endpoint.cancel(client).await {
            tracing::debug!(%error, "the rest of a COPY is read and thrown away");
        }
        let is_last = !is_cut && rows.len() < limit as usize;
        let bytes = csv.len();
        Ok((!rows.is_empty()).then_some((csv, Read { rows, bytes, last, is_last, file: 0 })))
    }
}
