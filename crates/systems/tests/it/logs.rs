//! The log folder adapter on real folders.

use groundskeeper_core::observation::{FailureKind, Logs};
use groundskeeper_systems::logs::{Folder, observe};
use jiff::Timestamp;
use std::fs;
use std::path::Path;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(5);

async fn read(folder: &Folder) -> Logs {
    observe(folder, Timestamp::now(), DEADLINE).await.outcome.unwrap()
}

fn write(folder: &Path, name: &str, size: usize) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![b'x'; size]).unwrap();
}

#[tokio::test]
async fn sizes_are_summed_and_the_largest_come_first() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "app.log", 3_000);
    write(folder.path(), "app.log.1", 5_000);
    write(folder.path(), "app.log.2.gz", 700);
    write(folder.path(), "nginx/access.log", 10_000);
    for index in 0..20 {
        write(folder.path(), &format!("small/{index}.log"), index);
    }
    let seen = read(&Folder::new(folder.path())).await;
    assert_eq!((seen.files, seen.bytes, seen.rotated_bytes), (24, 18_700 + 190, 5_700));
    assert_eq!(seen.largest.len(), 10);
    let names: Vec<&str> = seen.largest.iter().map(|file| file.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(&names[..4], ["access.log", "app.log.1", "app.log", "app.log.2.gz"]);
    assert_eq!(seen.largest.iter().take(4).map(|file| file.rotated).collect::<Vec<_>>(), [false, true, false, true]);
    assert!(seen.largest[0].modified.is_some() && !seen.truncated && seen.unreadable.is_empty());
}

#[tokio::test]
async fn links_are_not_followed() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(other.path(), "large.log", 50_000);
    write(folder.path(), "app.log", 10);
    std::os::unix::fs::symlink(other.path(), folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(other.path().join("large.log"), folder.path().join("large.log")).unwrap();
    std::os::unix::fs::symlink(folder.path(), folder.path().join("loop")).unwrap();
    assert_eq!(read(&Folder::new(folder.path())).await.bytes, 10);
    let linked = other.path().join("as-link");
    std::os::unix::fs::symlink(folder.path(), &linked).unwrap();
    assert_eq!(read(&Folder::new(linked)).await.bytes, 10);
}

#[tokio::test]
async fn the_walk_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..20 {
        write(folder.path(), &format!("{index}.log"), 1);
    }
    let bounded = Folder::new(folder.path()).with_max_files(12);
    let seen = read(&bounded).await;
    assert_eq!((seen.files, seen.truncated), (12, true));
    assert!(!read(&Folder::new(folder.path()).with_max_files(20)).await.truncated);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "file", 1);
    for path in [folder.path().join("none"), folder.path().join("file")] {
        let failure = observe(&Folder::new(&path), Timestamp::now(), DEADLINE).await.outcome.unwrap_err();
        assert_eq!((failure.kind, failure.address), (FailureKind::Missing, path.display().to_string()));
    }
}

#[tokio::test]
async fn a_walk_that_takes_too_long_ends_at_the_deadline_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..500 {
        write(folder.path(), &format!("{}/{index}.log", index % 100), 1);
    }
    let slow = Folder::new(folder.path());
    let reading = observe(&slow, Timestamp::now(), Duration::from_micros(1)).await;
    assert_eq!(reading.outcome.unwrap_err().kind, FailureKind::Timeout);
    // The walk was told to stop: soon the folder can be read again.
    for _ in 0..100 {
        if observe(&slow, Timestamp::now(), DEADLINE).await.outcome.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the walk never ended");
}
