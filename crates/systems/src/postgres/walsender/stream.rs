//! WAL as the server writes it: a physical replication stream through a slot that keeps it until we have it.
//!
//! A slot forgets WAL by what its reader *reports*, and by nothing else. So [`WalStream::report`] takes a flushed position
//! of its own, apart from what was received: whoever reports what is not yet safe loses it.
//!
//! A timeline may end in the middle of a stream (the server was promoted). Then [`Piece::End`] says where the next one
//! begins, and the session takes commands again.

use super::error::WalSenderError;
use super::wire::{Result, Wire};
use super::{Patience, WalSender, column};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use groundskeeper_core::receipt::Lsn;
use groundskeeper_core::remedy::quoted;
use jiff::Timestamp;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::{self, CopyData};
use std::fmt;

/// The oldest that tells where a slot stands over this protocol.
const OLDEST: u32 = 150_000;
/// Postgres counts microseconds from 2000-01-01.
const EPOCH: i64 = 946_684_800;

/// A physical slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// From here on WAL is kept. None: nothing is kept, because it never was, or because the server gave the slot up
    /// (`max_slot_wal_keep_size`).
    pub kept_from: Option<Lsn>,
}

/// A timeline's history, as its file says: where each timeline before it was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    pub file: String,
    pub content: Vec<u8>,
}

/// A stream that is under way. Dropping it closes the socket at once.
pub struct WalStream {
    wire: Wire,
    pid: i32,
    version: u32,
    patience: Patience,
    /// False once the server has sent all of the timeline.
    copying: bool,
    next: Option<NextTimeline>,
}

/// What comes next in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// WAL from `start` on. `end` is where the server's own WAL ends.
    Data { start: Lsn, bytes: Bytes, end: Lsn },
    /// A sign of life. `reply`: it wants one of ours, soon.
    Keepalive { end: Lsn, reply: bool },
    /// The timeline ends here; None: nobody knows of a next one.
    End(Option<NextTimeline>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextTimeline {
    pub timeline: u32,
    /// Where the old one was left.
    pub start: Lsn,
}

impl fmt::Debug for WalStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalStream")
            .field("address", &self.wire.address)
            .field("copying", &self.copying)
            .finish_non_exhaustive()
    }
}

impl WalSender {
    /// Where a slot stands; None when there is none of this name.
    pub async fn slot(&mut self, name: &str) -> Result<Option<Slot>> {
        if self.version < OLDEST {
            return Err(WalSenderError::TooOld { address: self.wire.address.clone(), major: self.version / 10_000 });
        }
        let rows = self.wire.ask(&format!("READ_REPLICATION_SLOT {}", quoted(name))).await?;
        // One row in any case, of nothing where there is no such slot.
        let Some(row) = rows.first().filter(|row| column(row, 0).is_some()) else { return Ok(None) };
        let kept_from = column(row, 1).map(str::parse).transpose();
        let kept_from = kept_from.map_err(|why: String| self.wire.nonsense(why))?;
        Ok(Some(Slot { kept_from }))
    }

    /// Makes a slot that keeps WAL from the last checkpoint on, and outlives this session.
    pub async fn create_slot(&mut self, name: &str) -> Result<()> {
        let command = format!("CREATE_REPLICATION_SLOT {} PHYSICAL (RESERVE_WAL)", quoted(name));
        self.wire.ask(&command).await.map(drop).map_err(WalSenderError::in_stream)
    }

    /// Takes a slot away, and with it the server's duty to keep WAL for us. Waits for its reader to be gone.
    pub async fn drop_slot(&mut self, name: &str) -> Result<()> {
        let command = format!("DROP_REPLICATION_SLOT {} WAIT", quoted(name));
        self.wire.ask(&command).await.map(drop).map_err(WalSenderError::in_stream)
    }

    /// The history of a timeline; the first has none.
    pub async fn history(&mut self, timeline: u32) -> Result<History> {
        let rows = self.wire.ask(&format!("TIMELINE_HISTORY {timeline}")).await.map_err(WalSenderError::in_stream)?;
        let read = |row: &super::Row| {
            Some(History { file: column(row, 0)?.to_owned(), content: column(row, 1)?.as_bytes().to_vec() })
        };
        rows.first().and_then(read).ok_or_else(|| self.wire.nonsense("a history without content".to_owned()))
    }

    /// Asks for the WAL of a timeline from `start` on.
    pub async fn stream(self, slot: &str, start: Lsn, timeline: u32) -> Result<WalStream> {
        let command = format!("START_REPLICATION SLOT {} PHYSICAL {start} TIMELINE {timeline}", quoted(slot));
        self.start(command).await
    }

    /// The same without a slot: the server may have thrown away what it does not need itself.
    pub async fn stream_what_is_there(self, start: Lsn, timeline: u32) -> Result<WalStream> {
        self.start(format!("START_REPLICATION PHYSICAL {start} TIMELINE {timeline}")).await
    }

    async fn start(mut self, command: String) -> Result<WalStream> {
        self.wire.doing = "while WAL was asked for";
        self.wire.command(&command).await?;
        let Self { wire, pid, version, patience } = self;
        let mut stream = WalStream { wire, pid, version, patience, copying: false, next: None };
        // Of a timeline that was left exactly at `start` there is nothing to copy.
        stream.copying = !stream.settled().await.map_err(WalSenderError::in_stream)?;
        stream.wire.doing = "in the middle of its WAL";
        Ok(stream)
    }
}

impl WalStream {
    /// What comes next. May be dropped while it waits, and called again: nothing is lost. After [`Piece::End`] there is
    /// no more.
    pub async fn next(&mut self) -> Result<Piece> {
        self.advance().await.map_err(WalSenderError::in_stream)
    }

    async fn advance(&mut self) -> Result<Piece> {
        if !self.copying {
            return Ok(Piece::End(self.next));
        }
        let mut data = match self.wire.receive().await? {
            Message::CopyData(body) => body.into_bytes(),
            Message::CopyDone => {
                self.wire
                    .compose(|message| {
                        frontend::copy_done(message);
                        Ok(())
                    })
                    .await?;
                self.settled().await?;
                self.copying = false;
                return Ok(Piece::End(self.next));
            }
            _ => return Err(self.wire.out_of_place()),
        };
        let kind = if data.has_remaining() { data.get_u8() } else { 0 };
        match kind {
            b'w' if data.len() >= 24 => {
                let (start, end) = (Lsn(data.get_u64()), Lsn(data.get_u64()));
                data.advance(8);
                Ok(Piece::Data { start, bytes: data, end })
            }
            b'k' if data.len() == 17 => {
                let end = Lsn(data.get_u64());
                data.advance(8);
                Ok(Piece::Keepalive { end, reply: data.get_u8() != 0 })
            }
            _ => Err(self.wire.out_of_place()),
        }
    }

    /// Tells the server what has arrived and what of it is safe, and asks for a sign of life. Only `flushed` lets it
    /// forget WAL. Must not be dropped while it waits.
    pub async fn report(&mut self, received: Lsn, flushed: Lsn, now: Timestamp) -> Result<()> {
        let micros = now.as_microsecond().saturating_sub(EPOCH * 1_000_000);
        let mut update = BytesMut::with_capacity(34);
        update.put_u8(b'r');
        update.put_u64(received.0);
        update.put_u64(flushed.0);
        // Nothing is applied anywhere.
        update.put_u64(0);
        update.put_i64(micros);
        // A server with nothing to write would otherwise say nothing for as long as we do.
        update.put_u8(1);
        self.wire
            .compose(|message| {
                CopyData::new(update.freeze())?.write(message);
                Ok(())
            })
            .await
            .map_err(WalSenderError::in_stream)
    }

    /// The session, for other commands. Only after [`Piece::End`].
    pub fn into_sender(self) -> WalSender {
        let Self { mut wire, pid, version, patience, .. } = self;
        wire.doing = "between two commands";
        WalSender { wire, pid, version, patience }
    }

    /// Ends the session properly.
    pub async fn close(mut self) {
        self.wire.goodbye().await;
    }

    /// Reads on until the copying begins (false) or the command is over (true), and notes the next timeline.
    async fn settled(&mut self) -> Result<bool> {
        loop {
            match self.wire.receive().await? {
                Message::CopyOutResponse(_) => return Ok(false),
                Message::DataRow(row) => {
                    let row = self.wire.columns(&row)?;
                    let read = || {
                        Some(NextTimeline {
                            timeline: column(&row, 0)?.parse().ok()?,
                            start: column(&row, 1)?.parse().ok()?,
                        })
                    };
                    self.next = Some(read().ok_or_else(|| self.wire.nonsense("no next timeline".to_owned()))?);
                }
                // What was under way when the timeline ended.
                Message::CopyData(_) | Message::RowDescription(_) | Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => return Ok(true),
                _ => return Err(self.wire.out_of_place()),
            }
        }
    }
}
