//! A base backup whose files somebody else copies: the server is told where it begins and where it ends, and keeps the WAL
//! of the time between.
//!
//! Two connections hold it. `pg_backup_start` is good as long as its session, and the server ends the backup when that goes; a
//! replication connection has a temporary slot, without which the server would remove WAL that the copy needs
//! ([`OnlineBackup::holds_wal`] says whether it is still there). The slot also shows that a folder is this server's own: a
//! folder with its name appears in there.

use super::client::{APPLICATION_NAME, Endpoint, Session};
use super::contents::{client, told};
use super::walsender::{Identity, WalSender};
use groundskeeper_core::receipt::Lsn;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// From the oldest that names the two functions so, to the newest whose data directory is known here.
pub const VERSIONS: RangeInclusive<u32> = 150_000..=189_999;
/// To connect, and for one question.
const SHORT: Duration = Duration::from_secs(30);
/// A fast checkpoint comes first.
const STARTING: Duration = Duration::from_mins(10);
/// For the record that ends it, and the switch to the next segment.
const STOPPING: Duration = Duration::from_mins(2);

/// The session does nothing while the files are copied.
const SETTINGS: [(&str, &str); 3] =
    [("search_path", "pg_catalog"), ("statement_timeout", "0"), ("idle_session_timeout", "0")];

const ALLOWED: &str = "
SELECT pg_is_in_recovery(),
       has_function_privilege('pg_catalog.pg_backup_start(text, boolean)', 'EXECUTE')
       AND has_function_privilege('pg_catalog.pg_backup_stop(boolean)', 'EXECUTE')";

/// A server that keeps its WAL for a backup which has not begun.
#[derive(Debug)]
pub struct Prepared {
    session: Session,
    keeper: WalSender,
    slot: String,
    pub identity: Identity,
}

/// A backup that has begun. Dropping it ends it at the server, and whatever was copied is worth nothing.
#[derive(Debug)]
pub struct OnlineBackup {
    session: Session,
    keeper: WalSender,
    slot: String,
    pub start: Lsn,
}

/// What makes a copy of the files a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The copy needs the WAL up to here.
    pub stop: Lsn,
    /// What `backup_label` of the copy must hold: without it a start would take the copy for the live files.
    pub label: String,
    /// What `tablespace_map` must hold; empty when there is none.
    pub tablespace_map: String,
}

/// Why a backup does not begin so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is not to be done so here, and nobody needs to mend that.
    Unfit(String),
    /// Something went wrong.
    Failed(String),
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl Prepared {
    /// Connects to a server of one of [`VERSIONS`].
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, Refused> {
        let settings: Vec<(&str, String)> = SETTINGS.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let opened = endpoint.connect(APPLICATION_NAME, &settings, SHORT).await;
        let session = opened.map_err(|failure| format!("{}: {}", failure.address, failure.message))?;
        if !session.is_settled() {
            return Err(Refused::Unfit("it does not take the settings of a session; is it a pooler?".to_owned()));
        }
        let row = ask(&session, ALLOWED, &[], SHORT).await?;
        if row.get(0) {
            return Err(Refused::Unfit("it is a standby, and only a primary is read in its folder".to_owned()));
        }
        if !row.get::<_, bool>(1) {
            let why = "the role may not run pg_backup_start and pg_backup_stop; `groundskeeper grants --for backup` has the \
                       statement";
            return Err(Refused::Unfit(why.to_owned()));
        }
        let mut keeper = patient(endpoint).replicate(SHORT).await.map_err(|error| error.to_string())?;
        let slot = keeper.hold_wal().await.map_err(|error| error.to_string())?;
        let identity = keeper.identify().await.map_err(|error| error.to_string())?;
        let prepared = Self { session, keeper, slot, identity };
        if prepared.is_held().await? {
            return Ok(prepared);
        }
        prepared.close().await;
        Err(Refused::Failed("its two connections lead to different servers".to_owned()))
    }

    async fn is_held(&self) -> Result<bool, String> {
        is_held(&self.session, &self.slot).await
    }

    /// Where a server shows that a data directory is its own, relative to that.
    pub fn mark(&self) -> PathBuf {
        Path::new("pg_replslot").join(&self.slot)
    }

    /// Begins the backup with a checkpoint. `label` becomes a line of `backup_label`.
    pub async fn start(self, label: &str) -> Result<OnlineBackup, String> {
        let label: String = label.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let row = ask(&self.session, "SELECT pg_backup_start($1::text, true)::text", &[&label], STARTING).await?;
        let start = position(row.get(0))?;
        Ok(OnlineBackup { session: self.session, keeper: self.keeper, slot: self.slot, start })
    }

    /// Lets go of what the server holds. Dropping does the same, a little later.
    pub async fn close(self) {
        self.keeper.close().await;
        self.session.close(SHORT).await;
    }
}

/// The same server for a connection that says nothing for hours.
fn patient(endpoint: &Endpoint) -> Endpoint {
    let mut patient = endpoint.clone();
    let options = format!("{} -c idle_session_timeout=0", patient.config.get_options().unwrap_or_default());
    patient.config.options(options.trim_start());
    patient
}

/// Whether the slot is there and the server has removed nothing that it needs.
async fn is_held(session: &Session, slot: &str) -> Result<bool, String> {
    let sql = "SELECT count(*) = 1 FROM pg_replication_slots
                WHERE slot_name = $1::text AND wal_status IN ('reserved', 'extended')";
    Ok(ask(session, sql, &[&slot], SHORT).await?.get(0))
}

impl OnlineBackup {
    /// Ends the backup, after the last file was copied. The WAL is kept until [`Self::close`].
    pub async fn stop(&self) -> Result<Ended, String> {
        let sql = "SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)";
        let row = ask(&self.session, sql, &[], STOPPING).await?;
        let stop = position(row.get(0))?;
        if stop < self.start {
            return Err(format!("the backup began at {} and the server says that it ended at {stop}", self.start));
        }
        let tablespace_map: Option<String> = row.get(2);
        Ok(Ended { stop, label: row.get(1), tablespace_map: tablespace_map.unwrap_or_default() })
    }

    /// Whether all WAL since the start was kept until now. To be asked after the last of it was read: a segment that the
    /// server uses again has other content by then.
    pub async fn holds_wal(&self) -> Result<bool, String> {
        is_held(&self.session, &self.slot).await
    }

    pub async fn close(self) {
        self.keeper.close().await;
        self.session.close(SHORT).await;
    }
}

async fn ask(session: &Session, sql: &str, values: &[&(dyn ToSql + Sync)], within: Duration) -> Result<Row, String> {
    let asked = timeout(within, client(session)?.query_one(sql, values)).await;
    let late = |_| format!("the server did not answer `{sql}` within {} s", within.as_secs());
    asked.map_err(late)?.map_err(|error| told(&error))
}

fn position(text: &str) -> Result<Lsn, String> {
    text.parse().map_err(|_| format!("the server names `{text}` as a position"))
}
