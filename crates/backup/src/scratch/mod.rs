//! Where drills restore to and what they boot there.
//!
//! | module | what it holds |
//! |---|---|
//! | `marked` | folders of our own that are removed, also when we were killed |
//! | `guard` | where they may not be |
//! | `folder` | a restored data directory in one: its links checked, given to the user that Postgres runs as |
//! | `wal` | whether replaying the WAL would leave the scratch place |
//! | `config`, `server` | a Postgres on it that nobody but us reaches, and that reaches nobody |
//! | `redis`, `qdrant` | a Redis and a Qdrant of the same kind |
//! | `command` | a program of the user's that works with such a Postgres |
//!
//! A drill can never touch live data, and each way in which it could has its own bolt. A scratch place is a new folder
//! of ours outside of every live one. A server is started on a [`DataFolder`] only, and there is none without a scratch
//! place around it, nor with a link that leads out of it. Nor does it replay WAL that would. The cluster's own
//! configuration is not read: no TCP, no archiving, no replication, and no background worker, because the schedules and
//! subscriptions that a restored cluster brings along would act on the live world.

mod command;
mod config;
mod folder;
mod guard;
mod marked;
mod qdrant;
mod redis;
mod server;
mod user;
mod wal;

pub(crate) use command::{Ended, Launch, ScratchCommand};
pub(crate) use config::PRELOADED;
pub use folder::{DataFolder, Replay, Until};
pub use guard::Room;
pub(crate) use guard::{DATA_DIRECTORY, keep_out_of};
pub(crate) use marked::started as process_start;
pub(crate) use qdrant::ScratchQdrant;
pub(crate) use redis::ScratchRedis;
pub(crate) use server::said;
pub use server::{ScratchServer, Setback};
pub use user::User;

use crate::error::{Error, Result};
use groundskeeper_core::receipt::Cluster;
use marked::Marked;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A new folder inside the configured scratch folder, removed with this value, and by the next [`ScratchPlace::make`]
/// when we do not get to it.
#[derive(Debug)]
pub struct ScratchPlace {
    folder: Marked,
    user: Option<User>,
}

impl ScratchPlace {
    /// Makes one in `scratch`, when there is room for it. `clusters` are those whose live folders it must stay away
    /// from; `run_as` is whom servers run as when we are root.
    pub async fn make(scratch: &Path, run_as: &str, clusters: &[&Cluster], room: Room) -> Result<Self> {
        let scratch = guard::resolved(scratch)?;
        guard::keep_clear(&scratch, clusters)?;
        let user = User::to_run_as(run_as)?;
        // Others may walk through it, not look around in it: the server's user has to reach the place.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(&scratch);
        made.map_err(|error| Error::Scratch(format!("the scratch folder {}: {error}", scratch.display())))?;
        marked::sweep(&scratch).await;
        guard::must_have_room(&scratch, room)?;
        if let Some(user) = &user {
            user.must_reach(&scratch)?;
        }
        Ok(Self { folder: Marked::make_in(&scratch, user.as_ref())?, user })
    }

    /// Where to restore to. Absolute and without links.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Whom servers in it run as; None is ourselves.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// The same as dropping it, which may take long for a large folder, on a thread where that disturbs nobody.
    pub async fn remove(self) -> Result<()> {
        let path: PathBuf = self.path().to_owned();
        let gone = tokio::task::spawn_blocking(move || drop(self)).await;
        gone.map_err(|error| Error::Worker(error.to_string()))?;
        if path.exists() {
            return Err(Error::Scratch(format!("{} could not be removed; remove it by hand", path.display())));
        }
        Ok(())
    }
}
