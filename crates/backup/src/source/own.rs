//! The keeper's own part of a set: its store, the head of its audit chain, and what the set is.

use crate::error::{Error, Result};
use crate::repository::feed::Feed;
use crate::vault::{Content, Own};
use rustic_core::repofile::Metadata;
use std::fs::File;
use std::path::Path;

/// The part's name.
pub(crate) const PART: &str = "groundskeeper";
/// What the set is, for whoever has nothing but restic.
pub(crate) const MANIFEST: &str = "set.json";

/// What opens the WAL beside the sets, for `age -i`.
pub(crate) const WAL_IDENTITY: &str = "wal-identity.txt";

pub(crate) fn send(feed: &mut Feed, own: &[Own]) -> Result<()> {
    for item in own {
        let broken = |error: std::io::Error| Error::Source {
            system: PART.to_owned(),
            why: format!("{}: {error}", item.name),
            retryable: false,
        };
        let meta = Metadata { mode: Some(0o600), ..Metadata::default() };
        let path = Path::new(&item.name);
        match &item.content {
            Content::Text(text) => feed.file(path, text.len() as u64, meta, &mut text.as_bytes()).map_err(broken)?,
            Content::File(file) => {
                let mut file = File::open(file).map_err(broken)?;
                let size = file.metadata().map_err(broken)?.len();
                feed.file(path, size, meta, &mut file).map_err(broken)?;
            }
        }
    }
    Ok(())
}
