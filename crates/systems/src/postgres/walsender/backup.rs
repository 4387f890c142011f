//! A base backup: the data directory and the tablespaces as tar archives, one after the other, then the manifest.
//!
//! Asked for as `pg_basebackup --wal-method=fetch` does: the WAL from start to stop is at the end of the data directory's
//! archive. The server would remove WAL that is older than its last checkpoints, so a temporary replication slot of this
//! very session holds it back; it goes with the session, however that ends. (`--wal-method=stream` needs a second
//! connection that must keep up.) `WAIT false`: the server would otherwise wait until its own archive has the WAL, and
//! ours does not depend on that.
//!
//! A backup is whole when [`Chunk::End`] has come, and only then: the server reports damaged pages after everything else.

use super::error::WalSenderError;
use super::wire::{Result, Row, Wire};
use super::{WalSender, column};
use bytes::{Buf, Bytes};
use groundskeeper_core::receipt::Lsn;
use postgres_protocol::message::backend::Message;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};

/// The oldest that sends everything in one stream.
const OLDEST: u32 = 150_000;

/// A backup that is under way. Dropping it closes the socket at once, and the server ends the backup.
pub struct BaseBackup {
    wire: Wire,
    stage: Stage,
    /// Archives that were begun, the data directory's among them.
    archives: usize,
    inside: Inside,
    pub start: Lsn,
    pub timeline: u32,
    /// Besides the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// The size of everything but the WAL, as the server estimated it; for progress.
    pub total_kib: u64,
    /// Whether a slot keeps the WAL of the backup from being removed meanwhile. Without one, `warnings` says why.
    pub kept_by_slot: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    pub oid: u32,
    /// The folder on the server.
    pub location: String,
    pub kib: u64,
}

/// What comes next in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// A tar archive begins.
    Archive {
        name: String,
        /// None is the data directory.
        tablespace: Option<u32>,
    },
    /// The manifest begins.
    Manifest,
    /// The next bytes of what began last.
    Data(Bytes),
    /// Bytes done so far, as the server counts them.
    Progress(u64),
    /// It is whole, and needs the WAL up to here.
    End { stop: Lsn, timeline: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Copying,
    /// All data are here; whether they are good is still to be said.
    Verdict(Option<(Lsn, u32)>),
    Goodbye(Lsn, u32),
    Over,
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    Archive,
    Manifest,
}

impl fmt::Debug for BaseBackup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BaseBackup")
            .field("address", &self.wire.address)
            .field("stage", &self.stage)
            .field("start", &self.start)
            .field("timeline", &self.timeline)
            .field("tablespaces", &self.tablespaces)
            .finish_non_exhaustive()
    }
}

impl BaseBackup {
    pub(super) async fn begin(sender: WalSender, label: &str) -> Result<Self> {
        let WalSender { mut wire, pid, version, patience } = sender;
        if version < OLDEST {
            return Err(WalSenderError::TooOld { address: wire.address, major: version / 10_000 });
        }
        wire.doing = "while the backup was being prepared";
        let kept_by_slot = hold_wal(&mut wire, pid).await?;
        wire.doing = "while the backup was being started (a checkpoint, and the sizes of all files)";
        wire.within = patience.start;
        let begun = match announced(&mut wire, label).await {
            Ok(begun) => begun,
            Err(error) => return Err(error.in_backup(kept_by_slot, &wire.warnings)),
        };
        let Some((start, timeline, tablespaces, total_kib)) = read_announcement(&begun) else {
            return Err(wire.nonsense("it does not say what the backup consists of".to_owned()));
        };
        wire.doing = "in the middle of the backup";
        wire.within = patience.answer;
        let (stage, inside) = (Stage::Copying, Inside::Nothing);
        Ok(Self { wire, stage, archives: 0, inside, start, timeline, tablespaces, total_kib, kept_by_slot })
    }

    /// What comes next; None after the end. After an error nothing comes any more but errors.
    pub async fn next(&mut self) -> Result<Option<Chunk>> {
        let next = self.advance().await;
        if next.is_err() {
            self.stage = Stage::Failed;
        }
        next.map_err(|error| error.in_backup(self.kept_by_slot, &self.wire.warnings))
    }

    /// What the server warned of so far, damaged pages among it.
    pub fn warnings(&self) -> &[String] {
        &self.wire.warnings
    }

    /// May be dropped while it waits, and called again: nothing is lost.
    async fn advance(&mut self) -> Result<Option<Chunk>> {
        loop {
            match self.stage {
                Stage::Copying => {
                    if let Some(chunk) = self.copied().await? {
                        return Ok(Some(chunk));
                    }
                }
                Stage::Verdict(end) => self.judged(end).await?,
                Stage::Goodbye(stop, timeline) => {
                    self.wire.goodbye().await;
                    self.stage = Stage::Over;
                    return Ok(Some(Chunk::End { stop, timeline }));
                }
                Stage::Over => return Ok(None),
                Stage::Failed => return Err(self.wire.cut("it failed before".to_owned())),
            }
        }
    }

    /// The next chunk; None at the end of the data.
    async fn copied(&mut self) -> Result<Option<Chunk>> {
        let mut data = match self.wire.receive().await? {
            Message::CopyData(body) => body.into_bytes(),
            Message::CopyDone => {
                if self.inside != Inside::Manifest || self.archives != self.tablespaces.len() + 1 {
                    return Err(self.wire.nonsense("the data ended before all of them were sent".to_owned()));
                }
                self.stage = Stage::Verdict(None);
                return Ok(None);
            }
            _ => return Err(self.wire.out_of_place()),
        };
        let kind = if data.has_remaining() { data.get_u8() } else { 0 };
        match kind {
            b'd' if self.inside != Inside::Nothing => return Ok(Some(Chunk::Data(data))),
            b'n' if self.inside != Inside::Manifest => {
                if let Some((name, tablespace)) = self.archive(&data) {
                    self.archives += 1;
                    self.inside = Inside::Archive;
                    return Ok(Some(Chunk::Archive { name, tablespace }));
                }
            }
            b'm' if self.inside == Inside::Archive => {
                self.inside = Inside::Manifest;
                return Ok(Some(Chunk::Manifest));
            }
            b'p' if data.len() == size_of::<u64>() => return Ok(Some(Chunk::Progress(data.get_u64()))),
            _ => {}
        }
        Err(self.wire.out_of_place())
    }

    /// An archive's name and tablespace, out of `16385.tar\0/mnt/fast\0`; the data directory has no location.
    fn archive(&self, data: &[u8]) -> Option<(String, Option<u32>)> {
        let mut texts = data.split(|byte| *byte == 0).map(std::str::from_utf8);
        let (name, location) = (texts.next()?.ok()?, texts.next()?.ok()?);
        if location.is_empty() {
            return Some((name.to_owned(), None));
        }
        let oid = name.strip_suffix(".tar")?.parse().ok()?;
        self.tablespaces.iter().any(|known| known.oid == oid).then(|| (name.to_owned(), Some(oid)))
    }

    /// One step towards the end: first where the WAL ends, then whether all went well.
    async fn judged(&mut self, end: Option<(Lsn, u32)>) -> Result<()> {
        match (self.wire.receive().await?, end) {
            (Message::DataRow(row), None) => {
                let end = position(&self.wire.columns(&row)?);
                let Some(end) = end.filter(|(stop, _)| *stop >= self.start) else {
                    return Err(self.wire.nonsense("it does not say where the backup ended".to_owned()));
                };
                self.stage = Stage::Verdict(Some(end));
                Ok(())
            }
            (Message::RowDescription(_) | Message::CommandComplete(_), _) => Ok(()),
            (Message::ReadyForQuery(_), Some((stop, timeline))) => {
                self.stage = Stage::Goodbye(stop, timeline);
                Ok(())
            }
            _ => Err(self.wire.out_of_place()),
        }
    }
}

/// A temporary slot that keeps the WAL from the last checkpoint on, and so that of a backup which begins with the next.
async fn hold_wal(wire: &mut Wire, pid: i32) -> Result<bool> {
    match slot(wire, pid).await {
        Ok(_) => Ok(true),
        // All slots are taken, or there is none: a backup that may fail is better than none.
        Err(WalSenderError::Server { message, .. }) => {
            wire.warnings.push(format!("no replication slot keeps the WAL of this backup: {message}"));
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Makes that slot and gives its name, which no other had before: a process number comes again.
pub(super) async fn slot(wire: &mut Wire, pid: i32) -> Result<String> {
    let unique = RandomState::new().build_hasher().finish();
    let name = format!("groundskeeper_backup_{pid}_{unique:016x}");
    wire.ask(&format!("CREATE_REPLICATION_SLOT {name} TEMPORARY PHYSICAL (RESERVE_WAL)")).await?;
    Ok(name)
}

/// Asks for the backup and gives the rows of the two results that come before its data.
async fn announced(wire: &mut Wire, label: &str) -> Result<Vec<Vec<Row>>> {
    wire.command(&command(label)).await?;
    let mut results: Vec<Vec<Row>> = Vec::new();
    loop {
        match (wire.receive().await?, results.last_mut()) {
            (Message::RowDescription(_), _) => results.push(Vec::new()),
            (Message::DataRow(row), Some(rows)) => rows.push(wire.columns(&row)?),
            (Message::CommandComplete(_), _) => {}
            (Message::CopyOutResponse(_), _) => return Ok(results),
            _ => return Err(wire.out_of_place()),
        }
    }
}

fn command(label: &str) -> String {
    // It becomes a line of a file in the backup.
    let label: String = label.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!(
        "BASE_BACKUP (LABEL '{}', CHECKPOINT 'fast', WAL true, WAIT false, MANIFEST 'yes', TABLESPACE_MAP true, \
         PROGRESS true)",
        label.replace('\'', "''")
    )
}

fn read_announcement(results: &[Vec<Row>]) -> Option<(Lsn, u32, Vec<Tablespace>, u64)> {
    let [start, places] = results else { return None };
    let (start, timeline) = position(start.first()?)?;
    let mut tablespaces = Vec::new();
    let mut total_kib = 0;
    for row in places {
        let kib: u64 = column(row, 2)?.parse().ok()?;
        total_kib = kib.saturating_add(total_kib);
        // The data directory has neither number nor location.
        if let Some(oid) = column(row, 0) {
            let location = column(row, 1)?.to_owned();
            tablespaces.push(Tablespace { oid: oid.parse().ok()?, location, kib });
        }
    }
    (places.len() == tablespaces.len() + 1).then_some((start, timeline, tablespaces, total_kib))
}

fn position(row: &Row) -> Option<(Lsn, u32)> {
    Some((column(row, 0)?.parse().ok()?, column(row, 1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_leave_its_quotes_or_its_line() {
        let command = command("it's\nmine");
        assert!(command.contains("LABEL 'it''s mine',"), "{command}");
    }

    #[test]
    fn an_announcement_names_the_start_and_every_tablespace() {
        let text = |columns: &[&str]| -> Row {
            columns.iter().map(|column| (!column.is_empty()).then(|| (*column).to_owned())).collect()
        };
        let start = vec![text(&["0/3000028", "2"])];
        let places = vec![text(&["16385", "/mnt/fast", "12"]), text(&["", "", "30"])];
        let (lsn, timeline, tablespaces, total) = read_announcement(&[start.clone(), places]).unwrap();
        assert_eq!((lsn.to_string().as_str(), timeline, total), ("0/3000028", 2, 42));
        assert_eq!(tablespaces, [Tablespace { oid: 16385, location: "/mnt/fast".to_owned(), kib: 12 }]);
        assert!(read_announcement(std::slice::from_ref(&start)).is_none());
        let without_data_directory = vec![text(&["16385", "/mnt/fast", "12"])];
        assert!(read_announcement(&[start, without_data_directory]).is_none());
    }
}
