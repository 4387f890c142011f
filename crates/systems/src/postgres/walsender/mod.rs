//! Postgres's replication protocol, as far as backups need it: over it a role without any right to read a table copies a
//! whole cluster, and then its WAL as it is written.
//!
//! | module | what it holds |
//! |---|---|
//! | `login` | which server, TLS, and being let in |
//! | `wire` | messages, each awaited with a deadline |
//! | `backup` | the stream of a base backup |
//! | `stream` | WAL through a slot, and what belongs to it: slots, timelines |
//! | `error` | what went wrong and what to do |
//!
//! The driver (`tokio-postgres`) cannot ask for a replication connection. `pg_basebackup` as a child process can, but what
//! it says when it fails is text for people, it must be installed in the server's version, and in the format that can be
//! piped it leaves the WAL to `wal_keep_size`.

mod backup;
mod error;
mod login;
mod stream;
mod wire;

pub use backup::{BaseBackup, Chunk, Tablespace};
pub use error::WalSenderError;
pub use stream::{History, NextTimeline, Piece, Slot, WalStream};

use super::client::Endpoint;
use groundskeeper_core::receipt::Lsn;
use groundskeeper_core::remedy::quoted;
use std::fmt;
use std::time::Duration;
use wire::{Result, Row, Wire};

/// How long a server may be silent before it counts as one that hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Between two messages.
    pub answer: Duration,
    /// Until a backup begins: it waits for a checkpoint, and then for the size of every file.
    pub start: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { answer: Duration::from_mins(1), start: Duration::from_mins(10) }
    }
}

/// A replication connection. Dropping it closes the socket at once; [`WalSender::close`] says goodbye first.
pub struct WalSender {
    wire: Wire,
    pid: i32,
    version: u32,
    patience: Patience,
}

/// What a server is and how far its WAL has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's own, given by `initdb`: copies of it have the same.
    pub system_identifier: String,
    pub timeline: u32,
    /// Up to here its WAL is on its disk.
    pub flushed: Lsn,
}

impl fmt::Debug for WalSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalSender")
            .field("address", &self.wire.address)
            .field("pid", &self.pid)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Logs in as a replication connection within `deadline`.
    pub async fn replicate(&self, deadline: Duration) -> Result<WalSender> {
        // Boxed: the handshake's state is large, and gone once the connection is open.
        let login::Entered { mut wire, pid } = Box::pin(login::enter(self, deadline)).await?;
        let told = wire.version.take().unwrap_or_default();
        let version = version_num(&told).ok_or_else(|| wire.nonsense(format!("its version is `{told}`")))?;
        wire.doing = "between two commands";
        Ok(WalSender { wire, pid, version, patience: Patience::default() }.with_patience(Patience::default()))
    }
}

impl WalSender {
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self.wire.within = patience.answer;
        self
    }

    /// As `server_version_num` has it: 150014.
    pub fn server_version(&self) -> u32 {
        self.version
    }

    pub async fn identify(&mut self) -> Result<Identity> {
        let rows = self.wire.ask("IDENTIFY_SYSTEM").await?;
        let read = |row: &Row| {
            Some(Identity {
                system_identifier: column(row, 0)?.to_owned(),
                timeline: column(row, 1)?.parse().ok()?,
                flushed: column(row, 2)?.parse().ok()?,
            })
        };
        rows.first().and_then(read).ok_or_else(|| self.wire.nonsense("it does not say which cluster it is".to_owned()))
    }

    /// A setting, as `SHOW` gives it: with its unit.
    pub async fn show(&mut self, name: &str) -> Result<String> {
        let rows = self.wire.ask(&format!("SHOW {}", quoted(name))).await?;
        let value = rows.into_iter().next().and_then(|row| row.into_iter().next()?);
        value.ok_or_else(|| self.wire.nonsense(format!("`{name}` has no value")))
    }

    /// Keeps the WAL from the last checkpoint on by a temporary slot, which goes with this connection; gives its name.
    pub async fn hold_wal(&mut self) -> Result<String> {
        backup::slot(&mut self.wire, self.pid).await
    }

    /// Begins a base backup with the WAL that it needs; `label` is what the server calls it.
    pub async fn base_backup(self, label: &str) -> Result<BaseBackup> {
        BaseBackup::begin(self, label).await
    }

    /// Ends the session properly, so that the server logs no broken connection.
    pub async fn close(mut self) {
        self.wire.goodbye().await;
    }
}

fn column(row: &Row, index: usize) -> Option<&str> {
    row.get(index)?.as_deref()
}

/// `15.14 (Debian 15.14-0+deb12u1)` is 150014, `9.6.24` is 90624, `16beta1` is 160000.
fn version_num(text: &str) -> Option<u32> {
    let numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut parts = numbers.split('.').map(|part| part.parse::<u16>().ok().map(u32::from));
    let major = parts.next()??;
    let mut minor = || parts.next().unwrap_or(Some(0));
    let rest = if major >= 10 { minor()? } else { minor()? * 100 + minor()? };
    (major < 1_000 && rest < 10_000).then_some(major * 10_000 + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_server_counts_them() {
        for (text, number) in [
            ("15.14 (Debian 15.14-0+deb12u1)", Some(150_014)),
            ("9.6.24", Some(90_624)),
            ("10.0", Some(100_000)),
            ("16beta1", Some(160_000)),
            ("18devel", Some(180_000)),
            ("17.2.3-enterprise", Some(170_002)),
            ("", None),
            ("PgBouncer 1.23", None),
            ("99999999999", None),
            ("15.4294967295", None),
            ("9.99999999.1", None),
        ] {
            assert_eq!(version_num(text), number, "{text}");
        }
    }
}
