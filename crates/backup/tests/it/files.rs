//! Folders in sets: what is in them comes back as it was, and what is not is named.

use crate::scene::{BUDGET, KEY, now};
use groundskeeper_backup::vault::{FileSource, KeySource};
use groundskeeper_backup::{Error, Place, Settings, Vault};
use groundskeeper_core::receipt::{ClimbOutcome, FileTree, Receipt, Rung};
use groundskeeper_testing::SmallDisk;
use groundskeeper_testing::scratch::Scratch;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

struct Scene {
    vault: Vault,
    folder: Scratch,
}

impl Scene {
    /// Of the folder `docs`, which is empty.
    async fn new() -> Self {
        let folder = Scratch::new("files").unwrap();
        fs::create_dir(folder.path().join("docs")).unwrap();
        let vault = Vault::new(settings(folder.path(), &folder.path().join("docs"), false));
        assert!(vault.init().await.unwrap());
        Self { vault, folder }
    }

    fn docs(&self) -> PathBuf {
        self.folder.path().join("docs")
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.docs().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    async fn make(&self) -> Receipt {
        self.vault.make(Vec::new(), now()).await.unwrap()
    }

    async fn restored(&self) -> PathBuf {
        let into = self.folder.path().join("restored");
        self.vault.restore(None, Some("files.docs"), &into).await.unwrap();
        into.join("files.docs")
    }
}

fn settings(folder: &Path, path: &Path, other_filesystems: bool) -> Settings {
    Settings {
        place: Place::of_folder(folder.join("repository")),
        key: KeySource::Given(KEY.into()),
        postgres: Vec::new(),
        redis: Vec::new(),
        files: vec![FileSource { name: "files.docs".into(), path: path.to_owned(), other_filesystems }],
        qdrant: Vec::new(),
        scratch: folder.join("scratch"),
        leave_free: 0,
        programs: Vec::new(),
        run_as: "postgres".to_owned(),
        wal: None,
        probes: Vec::new(),
    }
}

fn tree(receipt: &Receipt) -> &FileTree {
    receipt.parts[0].files.as_ref().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_comes_back_with_contents_modes_owners_times_and_links() {
    let scene = Scene::new().await;
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let big = scene.write("deep/er/big.bin", &large);
    // A name that means something in the part of a Postgres.
    scene.write("tablespaces/1/a", b"a");
    let empty = scene.write("empty", b"");
    let odd = scene.docs().join(OsStr::from_bytes(b"latin-\xE9"));
    fs::write(&odd, "one").unwrap();
    fs::write(scene.docs().join(OsStr::from_bytes(b"latin-\xE8")), "two").unwrap();
    fs::set_permissions(&big, Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(scene.docs().join("deep"), Permissions::from_mode(0o1777)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    File::options().write(true).open(&empty).unwrap().set_modified(old).unwrap();
    symlink("../nowhere", scene.docs().join("link")).unwrap();
    let root = rustix::process::geteuid().is_root();
    if root {
        std::os::unix::fs::chown(&empty, Some(12_345), Some(54_321)).unwrap();
    }
    let made = scene.make().await;
    assert!(made.is_whole() && made.gaps().is_empty(), "{made:?}");
    let known = tree(&made);
    assert!(known.files == 5 && known.changed.is_empty() && known.left_out.is_empty(), "{known:?}");

    scene.vault.verify(None, now()).await.unwrap();
    let drilled = scene.vault.drill(None, BUDGET, now()).await.unwrap();
    assert_eq!(drilled.proven(), Some(Rung::Restored), "{:?}", drilled.climbs);

    let restored = scene.restored().await;
    assert!(fs::read(restored.join("deep/er/big.bin")).unwrap() == large);
    assert_eq!(fs::read(restored.join(odd.file_name().unwrap())).unwrap(), b"one");
    assert_eq!(fs::read_link(restored.join("link")).unwrap(), Path::new("../nowhere"));
    let meta = |name: &str| restored.join(name).metadata().unwrap();
    assert_eq!(meta("deep/er/big.bin").mode() & 0o7777, 0o4751);
    assert_eq!(meta("deep").mode() & 0o7777, 0o1777);
    assert_eq!(meta("empty").modified().unwrap(), old);
    if root {
        assert_eq!((meta("empty").uid(), meta("empty").gid()), (12_345, 54_321));
    }
    // And to restic they are what they are to us.
    let into = scene.folder.path().join("theirs");
    let restic = Command::new("restic")
        .args(["--no-cache", "--repo"])
        .arg(scene.folder.path().join("repository"))
        .args(["restore", "latest", "--target"])
        .arg(&into)
        .env("RESTIC_PASSWORD", KEY)
        .output();
    assert!(restic.expect("restic is missing; run `cargo xtask setup`").status.success());
    let same =
        Command::new("diff").arg("-r").arg("--no-dereference").arg(&restored).arg(into.join("files.docs")).output();
    assert!(same.as_ref().unwrap().status.success(), "{same:?}");
    assert_eq!(into.join("files.docs/deep/er/big.bin").metadata().unwrap().mode() & 0o7777, 0o4751);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_file_and_what_is_mounted_is_left_out_and_named() {
    let scene = Scene::new().await;
    scene.write("a", b"a");
    let _socket = UnixListener::bind(scene.docs().join("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(scene.docs().join("pipe")).status().unwrap().success());
    let disk = SmallDisk::mount(2).unwrap();
    fs::write(disk.path().join("inside"), "b").unwrap();
    let mounted = scene.docs().join("mounted");
    fs::create_dir(&mounted).unwrap();
    assert!(Command::new("mount").arg("--bind").args([disk.path(), mounted.as_path()]).status().unwrap().success());
    let left_out = scene.make().await;
    let everything = Vault::new(settings(scene.folder.path(), &scene.docs(), true)).make(Vec::new(), now()).await;
    assert!(Command::new("umount").arg(&mounted).status().unwrap().success());
    let known = tree(&left_out);
    assert_eq!(known.files, 1);
    assert_eq!(known.left_out.first, ["mounted: another file system", "pipe: a pipe", "socket: a socket"]);
    assert!(left_out.gaps().is_empty(), "that is as it should be: {left_out:?}");
    assert!(tree(&everything.unwrap()).files >= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backups_are_not_in_the_backups() {
    let scene = Scene::new().await;
    scene.write("a", b"a");
    let all = Vault::new(settings(scene.folder.path(), scene.folder.path(), false));
    fs::create_dir(scene.folder.path().join("scratch")).unwrap();
    let made = all.make(Vec::new(), now()).await.unwrap();
    let left_out = &tree(&made).left_out.first;
    assert_eq!(left_out, &["repository: the repository of the backups", "scratch: the scratch folder of drills"]);
    let inside = settings(scene.folder.path(), &scene.folder.path().join("repository/keys"), false);
    let error = Vault::new(inside).make(Vec::new(), now()).await.unwrap_err();
    assert!(error.to_string().contains("lies in the repository"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_motion_is_named_and_the_others_are_kept() {
    let scene = Scene::new().await;
    scene.write("still", b"still");
    let restless = scene.write("restless", &vec![7; 40 << 20]);
    let done = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&done);
    let writing = std::thread::spawn(move || {
        let mut file = File::options().append(true).open(restless).unwrap();
        while !told.load(Ordering::Relaxed) {
            file.write_all(b"more").unwrap();
        }
    });
    let made = scene.make().await;
    done.store(true, Ordering::Relaxed);
    writing.join().unwrap();
    assert_eq!(tree(&made).changed.first, ["restless: it changed while it was read"]);
    assert!(made.is_whole() && tree(&made).files == 2, "{made:?}");
    scene.vault.verify(None, now()).await.unwrap();
    let drilled = scene.vault.drill(None, BUDGET, now()).await.unwrap();
    let ClimbOutcome::Proven { not_covered, .. } = &drilled.last(Rung::Restored).unwrap().outcome else {
        panic!("{drilled:?}")
    };
    assert!(not_covered[0].contains("restless"), "{not_covered:?}");
    assert!(fs::metadata(scene.restored().await.join("restless")).unwrap().len() >= 40 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_named_and_the_rest_is_kept() {
    let scene = Scene::new().await;
    // Root reads everything else; these can be written to and not read.
    let settings = settings(scene.folder.path(), Path::new("/proc/sys/vm"), false);
    let made = Vault::new(settings).make(Vec::new(), now()).await.unwrap();
    let known = tree(&made);
    assert!(known.files > 10, "{known:?}");
    assert!(known.unreadable.first.contains(&"drop_caches: Permission denied (os error 13)".to_owned()), "{known:?}");
    let told = made.gaps();
    assert!(told[0].starts_with("files.docs: could not be read, and not stored: ") && told.len() == 1, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_there_is_missing() {
    let scene = Scene::new().await;
    let gone = Vault::new(settings(scene.folder.path(), &scene.folder.path().join("gone"), false));
    let error = gone.make(Vec::new(), now()).await.unwrap_err();
    assert!(matches!(&error, Error::Source { system, .. } if system == "files.docs"), "{error:?}");
    assert!(error.to_string().contains("gone: No such file"), "{error}");
}
