//! WAL on its way beside a restored data directory.
//!
//! It is fetched before anything else, so that a restore that cannot reach its target ends before it has cost hours.

use super::Target;
use super::name::Segment;
use super::replay::{Laid, lay, prepare};
use super::tablespaces::{self, Seen, Span, Start, path_of};
use crate::error::{Error, Result};
use crate::programs::Programs;
use crate::repository::{Repository, make_private};
use crate::restore::refused;
use crate::source::postgres::DATA;
use crate::vault::Settings;
use groundskeeper_core::receipt::Cluster;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Handle;

/// Where the WAL after a set is, beside its data directory.
pub(crate) const WAL: &str = "wal";
/// To look through it: a person waits, and knows how to stop it.
const WHOLE_DAY: Duration = Duration::from_hours(24);

/// WAL in a folder that goes unless it is put somewhere.
#[derive(Debug)]
pub(crate) struct ToReplay {
    staged: Option<TempDir>,
    pub(crate) laid: Laid,
    pub(crate) target: Target,
    /// Where it makes tablespaces; there is nothing at these paths here.
    pub(crate) spaces: Vec<PathBuf>,
}

impl ToReplay {
    pub(crate) fn fetch(
        settings: &Settings,
        repository: &Arc<Repository>,
        cluster: &Cluster,
        target: Target,
        into: &Path,
    ) -> Result<Self> {
        let found = Programs::find(cluster.major(), &settings.programs);
        let programs =
            found.and_then(|found| found.missing(&["pg_waldump"]).map_or(Ok(found), Err)).map_err(|why| {
                Error::Wal(format!(
                    "WAL is looked through with pg_waldump before it is replayed, for it may lead to folders of a live \
                 server: {why}"
                ))
            })?;
        make_private(into).map_err(|error| refused(into, &error))?;
        let staged = tempfile::Builder::new().prefix(".wal-").tempdir_in(into);
        let staged = staged.map_err(|error| refused(into, &error))?;
        let laid = lay(repository, cluster, target, staged.path(), &programs)?;
        let spaces = spaces(&programs, staged.path(), cluster, &laid)?;
        Ok(Self { staged: Some(staged), laid, target, spaces })
    }

    /// Puts it into `folder`, which will be `at`, and lets the data directory there replay it.
    pub(crate) fn put(&mut self, folder: &Path, at: &Path) -> Result<()> {
        let Some(staged) = self.staged.take() else { return Ok(()) };
        let (data, wal) = (folder.join(DATA), folder.join(WAL));
        fs::rename(staged.keep(), &wal).map_err(|error| refused(&wal, &error))?;
        prepare(&data, &at.join(WAL), &self.laid).map_err(|error| refused(&data, &error))
    }
}

/// Where the WAL makes tablespaces. Refused where something is: it may be a live one, over which the replay would write.
fn spaces(programs: &Programs, folder: &Path, cluster: &Cluster, laid: &Laid) -> Result<Vec<PathBuf>> {
    let at = Segment::at(cluster.timeline, cluster.stop, laid.size).start(laid.size);
    let from = Start { at, timeline: cluster.timeline };
    let span = Span { from, stops: laid.stops, size: laid.size };
    let looking = tablespaces::look(programs, folder, span, None, WHOLE_DAY);
    let made = match Handle::current().block_on(looking) {
        Seen::Made(made) => made,
        Seen::OutOfTime => return Err(Error::Wal("the WAL could not be looked through in a day".to_owned())),
        Seen::NotAll(why) => return Err(Error::Wal(format!("the WAL could not be looked through: {why}"))),
    };
    let mut spaces = Vec::new();
    for made in made {
        let path = path_of(&made).map(Path::to_owned).unwrap_or_default();
        if !is_free(&path) {
            return Err(Error::Wal(format!(
                "a tablespace was made after the set ({made}), and there is something at that path here: replaying would \
                 write over it. Choose an earlier time, or a set that was made after it, or restore on another machine"
            )));
        }
        spaces.push(path);
    }
    Ok(spaces)
}

/// Nothing, or an empty folder that somebody made for it.
fn is_free(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound && path.is_absolute(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_free_when_nothing_is_there_or_in_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_free(folder.path()) && is_free(&folder.path().join("new")));
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(!is_free(folder.path()) && !is_free(&folder.path().join("file")) && !is_free(Path::new("")));
    }
}
