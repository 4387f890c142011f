//! Where a scratch place may not be. A drill that writes into live data is worse than no drill.

use crate::error::{Error, Result};
use groundskeeper_core::quantity::format_bytes;
use groundskeeper_core::receipt::Cluster;
use std::path::{Path, PathBuf};

/// The setting of a receipt by which it is known where the live cluster lies.
pub(crate) const DATA_DIRECTORY: &str = "data_directory";

/// What a drill writes, and what it leaves of the disk: others write to it, too. Both in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    pub needed: u64,
    pub left_free: u64,
}

/// Where `scratch` really is: absolute, and without links. A link as its last part is refused, because whoever may
/// change it decides where we write.
pub(super) fn resolved(scratch: &Path) -> Result<PathBuf> {
    let wrong = |error: std::io::Error| Error::Scratch(format!("the scratch folder {}: {error}", scratch.display()));
    // Collected anew, it has no slash at its end, which would follow a link.
    let path: PathBuf = std::path::absolute(scratch).map_err(wrong)?.components().collect();
    if path.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
        return Err(Error::Scratch(format!(
            "the scratch folder {} is a link; set `scratch` of [backup] to the folder that it leads to",
            scratch.display()
        )));
    }
    canonical(&path).map_err(wrong)
}

/// Also of what does not exist (yet, or on this machine): then the part of it that does counts.
fn canonical(path: &Path) -> std::io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => Ok(canonical(parent)?.join(name)),
            _ => Err(error),
        },
        other => other,
    }
}

/// Refuses a place that is in a live data directory or tablespace, or has one in it. `scratch` must be resolved.
pub(super) fn keep_clear(scratch: &Path, clusters: &[&Cluster]) -> Result<()> {
    let refusal = |why: String| {
        let scratch = scratch.display();
        Error::Scratch(format!("the scratch folder {scratch} {why}; set `scratch` of [backup] to another one"))
    };
    // Also of a Postgres that nobody told us of.
    if let Some(data) = scratch.ancestors().find(|folder| folder.join("PG_VERSION").exists()) {
        return Err(refusal(format!("is in {}, the data directory of a Postgres", data.display())));
    }
    for live in clusters.iter().flat_map(|cluster| live_folders(cluster)) {
        if scratch.starts_with(&live) {
            return Err(refusal(format!("is in {}, a folder of a live Postgres", live.display())));
        }
        if live.starts_with(scratch) {
            return Err(refusal(format!("has {}, a folder of a live Postgres, in it", live.display())));
        }
    }
    Ok(())
}

/// Refuses a place in the folder of the repository: what a drill makes and removes there would be in its way.
pub(crate) fn keep_out_of(scratch: &Path, repository: &Path) -> Result<()> {
    let scratch = resolved(scratch)?;
    let repository = canonical(repository).unwrap_or_else(|_| repository.to_owned());
    if !scratch.starts_with(&repository) {
        return Ok(());
    }
    Err(Error::Scratch(format!(
        "the scratch folder {} is in the repository {}; set `scratch` of [backup] to another one",
        scratch.display(),
        repository.display()
    )))
}

/// The data directory, where its WAL really is, and the tablespaces. Of a Postgres on another machine the paths are
/// compared as well: they may be mounted here.
fn live_folders(cluster: &Cluster) -> Vec<PathBuf> {
    let data = cluster.settings.get(DATA_DIRECTORY).map(PathBuf::from);
    let wal = data.as_ref().map(|data| data.join("pg_wal"));
    let tablespaces = cluster.tablespaces.iter().map(|tablespace| PathBuf::from(&tablespace.location));
    let folders = data.into_iter().chain(wal).chain(tablespaces).filter(|folder| folder.is_absolute());
    // What we may not look into, we may not resolve; its name still counts.
    folders.map(|folder| canonical(&folder).unwrap_or(folder)).collect()
}

/// Refuses a disk that would be fuller than we leave one.
pub(super) fn must_have_room(scratch: &Path, room: Room) -> Result<()> {
    let disk = rustix::fs::statvfs(scratch)
        .map_err(|error| Error::Scratch(format!("the scratch folder {}: {error}", scratch.display())))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free.saturating_sub(room.left_free) >= room.needed {
        return Ok(());
    }
    Err(Error::Scratch(format!(
        "the scratch folder {} has {} free, of which {} stay free (`leave_free` of [backup]), and {} are needed; make \
         room, or set `scratch` of [backup] to a folder on a larger disk",
        scratch.display(),
        format_bytes(free as f64),
        format_bytes(room.left_free as f64),
        format_bytes(room.needed as f64)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::{Lsn, Tablespace};
    use std::collections::BTreeMap;

    fn cluster(data: &str, tablespace: &str) -> Cluster {
        Cluster {
            version: 150_020,
            system_identifier: "1".to_owned(),
            timeline: 1,
            start: Lsn(1),
            stop: Lsn(2),
            tablespaces: vec![Tablespace { oid: 16_400, location: tablespace.to_owned() }],
            superuser: "postgres".to_owned(),
            settings: BTreeMap::from([(DATA_DIRECTORY.to_owned(), data.to_owned())]),
            read_in_place: false,
        }
    }

    #[test]
    fn a_scratch_folder_in_or_around_a_live_folder_is_refused() {
        let cluster = cluster("/nowhere/pg/main", "/nowhere/fast/ts");
        let clear = |scratch: &str| keep_clear(Path::new(scratch), &[&cluster]).is_ok();
        assert!(clear("/nowhere/scratch") && clear("/nowhere/pg/main2") && clear("/nowhere/fast/ts2"));
        assert!(!clear("/nowhere/pg/main") && !clear("/nowhere/pg/main/scratch") && !clear("/nowhere/pg"));
        assert!(!clear("/nowhere/fast/ts/drill") && !clear("/nowhere/fast") && !clear("/"));
    }

    #[test]
    fn a_live_folder_is_recognised_through_links_and_a_strangers_by_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("disk/main/scratch")).unwrap();
        std::os::unix::fs::symlink(base.join("disk"), base.join("link")).unwrap();
        let cluster = cluster(&base.join("link/main").display().to_string(), "/nowhere");
        let why = keep_clear(&base.join("disk/main/scratch"), &[&cluster]).unwrap_err().to_string();
        assert!(why.contains("disk/main, a folder of a live Postgres"), "{why}");
        assert!(resolved(&base.join("link/")).unwrap_err().to_string().contains("is a link"));
        assert_eq!(resolved(&base.join("link/new")).unwrap(), base.join("disk/new"));
        std::fs::write(base.join("disk/main/PG_VERSION"), "15\n").unwrap();
        let why = keep_clear(&base.join("disk/main/scratch"), &[]).unwrap_err().to_string();
        assert!(why.contains("the data directory of a Postgres"), "{why}");
    }

    #[test]
    fn a_scratch_folder_in_the_repository_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (repository, link) = (folder.path().join("repository"), folder.path().join("link"));
        std::fs::create_dir(&repository).unwrap();
        std::os::unix::fs::symlink(&repository, &link).unwrap();
        for scratch in [repository.clone(), repository.join("data/x"), link.join("x")] {
            let why = keep_out_of(&scratch, &repository).unwrap_err().to_string();
            assert!(why.contains("is in the repository"), "{why}");
        }
        assert!(keep_out_of(folder.path(), &repository).is_ok());
        assert!(keep_out_of(&folder.path().join("repository2"), &repository).is_ok());
    }

    #[test]
    fn a_disk_without_room_is_refused_with_what_is_there_and_what_is_needed() {
        let folder = tempfile::tempdir().unwrap();
        let room = |needed, left_free| must_have_room(folder.path(), Room { needed, left_free });
        assert!(room(0, 0).is_ok() && room(0, u64::MAX).is_ok());
        let why = room(u64::MAX, 5 << 30).unwrap_err().to_string();
        assert!(why.contains("of which 5 GiB stay free (`leave_free` of [backup])"), "{why}");
        assert!(why.contains("are needed; make room"), "{why}");
        assert!(room(1, u64::MAX).is_err());
    }
}
