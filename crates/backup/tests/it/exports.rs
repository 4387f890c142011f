//! Rows that retention deletes, in the repository: put there for good, read back, opened by others, and never removed.

use crate::scene::{Scene, now, settings};
use groundskeeper_backup::exports::Exporter;
use groundskeeper_backup::{Error, Retention, Vault};
use groundskeeper_core::receipt::Rung;
use groundskeeper_core::remedy::{JournalledStep, Step};
use groundskeeper_core::retention::Keep;
use groundskeeper_systems::postgres::act::{Column, Piece, Sink};
use groundskeeper_testing::SmallDisk;
use jiff::{SignedDuration, Timestamp};
use std::path::PathBuf;
use std::process::Command;

pub(crate) const CSV: &[u8] = b"id,note\n1,\"line\nfeed\"\n2,\n3,\"\"\n";

pub(crate) fn day(number: i64) -> Timestamp {
    now().checked_add(SignedDuration::from_hours(24 * number)).unwrap()
}

pub(crate) fn exporter(vault: &Vault, table: &str, entry: i64) -> Exporter {
    let step = Step::DeleteExpired {
        system: "postgres.main".parse().unwrap(),
        database: "postgres".into(),
        schema: "public".into(),
        table: table.into(),
        column: "made".into(),
        before: day(-30),
        keep_seconds: 24 * 30 * 3600,
        export: true,
    };
    Exporter::of(vault, &JournalledStep::recorded(entry, step), now()).unwrap()
}

pub(crate) fn piece(number: u32, csv: &[u8]) -> Piece {
    let column = |name: &str, r#type: &str| Column { name: name.into(), r#type: r#type.into() };
    Piece {
        number,
        rows: 3,
        csv: csv.to_vec(),
        columns: vec![column("id", "bigint"), column("note", "text")],
        generated: vec!["loud".into()],
        settings: vec![("TimeZone".into(), "UTC".into())],
        server: "15.8".into(),
    }
}

/// Kilobytes that do not compress.
pub(crate) fn noise(kilobytes: u32) -> Vec<u8> {
    let mut state = 1_u64;
    let mut out = b"id\n".to_vec();
    for _ in 0..kilobytes * 64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(format!("{state:015x}\n").as_bytes());
    }
    out
}

fn stored(scene: &Scene) -> Vec<PathBuf> {
    if scene.repository().join("exports").exists() { scene.files("exports") } else { Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_is_listed_by_its_name_and_read_back_and_programs_that_everybody_has_open_it() {
    let scene = Scene::new().await;
    assert_eq!(scene.vault.exports().await.unwrap(), []);
    let first = exporter(&scene.vault, "User Sessions", 17);
    first.keep(piece(2, CSV)).await.unwrap();
    first.keep(piece(1, CSV)).await.unwrap();
    let listed = scene.vault.exports().await.unwrap();
    assert_eq!(listed.iter().map(|export| export.piece).collect::<Vec<_>>(), [1, 2]);
    let export = &listed[0];
    assert_eq!((export.relation().as_str(), export.rows), ("postgres.public.User Sessions", 3));
    assert_eq!((export.begun, export.before, export.entry), (now(), day(-30), 17));
    assert_eq!(export.stored, scene.repository().join(&export.file).metadata().unwrap().len());
    let opened = scene.vault.read_export(export).await.unwrap();
    assert_eq!((opened.csv.as_slice(), opened.rows()), (CSV, &CSV[8..]));
    let manifest = opened.manifest;
    assert_eq!((manifest.keep_seconds, manifest.column.as_str(), manifest.rows), (2_592_000, "made", 3));
    assert!(
        manifest.columns[1].r#type == "text"
            && manifest.generated == ["loud"]
            && manifest.settings["TimeZone"] == "UTC"
    );

    // With what is in each set, and Debian's programs, as docs/backup.md has it.
    scene.make().await;
    let identity = scene.restic(&["dump", "latest", "/groundskeeper/wal-identity.txt"]);
    assert!(identity.status.success(), "each set has what opens them: {identity:?}");
    let file = scene.folder.path().join("identity.txt");
    std::fs::write(&file, identity.stdout).unwrap();
    let by_hand = format!(
        "age -d -i {} '{}' | zstd -dq | tail -n +2",
        file.display(),
        scene.repository().join(&export.file).display()
    );
    let ran = Command::new("sh").args(["-c", &by_hand]).output().unwrap();
    assert!(ran.stdout == CSV, "{ran:?}");
}

/// Sets come and go, WAL is looked through, receipts and proofs are made: exports stay, and nobody complains.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_in_the_repository_touches_exports_or_minds_them() {
    let scene = Scene::new().await;
    exporter(&scene.vault, "sessions", 1).keep(piece(1, CSV)).await.unwrap();
    let before: Vec<Vec<u8>> = stored(&scene).iter().map(|file| std::fs::read(file).unwrap()).collect();
    let mut sets = Vec::new();
    for number in 0..2 {
        sets.push(scene.vault.make(Vec::new(), day(number)).await.unwrap().set);
    }
    let keeping =
        Retention { keep: Keep { last: 1, ..Keep::NOTHING }, grace: SignedDuration::ZERO, ..Retention::default() };
    let vault = scene.vault.clone().keeping(keeping);
    let plan = vault.plan_prune(day(3)).await.unwrap();
    assert_eq!((plan.removed().count(), plan.freed.wal), (1, 0));
    assert_eq!(vault.prune(&sets, day(3)).await.unwrap().removed.len(), 1);
    vault.prune(&[], day(4)).await.unwrap();
    assert_eq!(vault.wal_gaps(day(4)).await.unwrap(), []);
    let verified = vault.verify(None, day(4)).await.unwrap();
    assert_eq!(verified.proven(), Some(Rung::Intact), "{verified:?}");
    let check = scene.restic(&["check", "--read-data"]);
    assert!(check.status.success(), "{check:?}");
    assert!(!scene.vault.init().await.unwrap());
    let after: Vec<Vec<u8>> = stored(&scene).iter().map(|file| std::fs::read(file).unwrap()).collect();
    assert!(before == after && before.len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_waits_for_nobody_who_works_on_the_repository() {
    let scene = Scene::new().await;
    let lock = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(scene.repository().join("groundskeeper.lock"));
    let lock = lock.unwrap();
    lock.lock().unwrap();
    assert!(matches!(scene.vault.make(Vec::new(), now()).await, Err(Error::Busy(_))));
    exporter(&scene.vault, "sessions", 1).keep(piece(1, CSV)).await.unwrap();
    assert_eq!(scene.vault.exports().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_never_written_twice_and_what_is_there_stays() {
    let scene = Scene::new().await;
    let exporter = exporter(&scene.vault, "sessions", 1);
    exporter.keep(piece(1, CSV)).await.unwrap();
    let before = std::fs::read(&stored(&scene)[0]).unwrap();
    let refused = exporter.keep(piece(1, b"id,note\n4,\n")).await.unwrap_err();
    assert!(refused.contains("it is not what was written") || refused.contains("more than"), "{refused}");
    assert_eq!(std::fs::read(&stored(&scene)[0]).unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_or_gone_takes_nothing_and_says_so() {
    let disk = SmallDisk::mount(4).unwrap();
    let scene = Scene::new().await;
    let vault = Vault::new(settings(&scene.server.url(), disk.path()));
    vault.init().await.unwrap();
    let exporter = exporter(&vault, "sessions", 1);
    let refused = exporter.keep(piece(1, &noise(8 << 10))).await.unwrap_err();
    assert!(refused.contains("No space left"), "{refused}");
    assert_eq!(vault.exports().await.unwrap(), []);
    exporter.keep(piece(2, CSV)).await.unwrap();
    // An unmounted disk is an empty folder.
    let (there, aside) = (disk.path().join("repository"), disk.path().join("aside"));
    std::fs::rename(&there, &aside).unwrap();
    std::fs::create_dir(&there).unwrap();
    let refused = exporter.keep(piece(3, CSV)).await.unwrap_err();
    assert!(refused.contains("there is no repository"), "{refused}");
    assert_eq!(std::fs::read_dir(&there).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_that_was_harmed_is_named_and_not_given() {
    let scene = Scene::new().await;
    exporter(&scene.vault, "sessions", 1).keep(piece(1, CSV)).await.unwrap();
    let export = scene.vault.exports().await.unwrap().remove(0);
    let file = scene.repository().join(&export.file);
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for harmed in [flipped, whole[..whole.len() / 2].to_vec(), Vec::new()] {
        std::fs::write(&file, harmed).unwrap();
        let error = scene.vault.read_export(&export).await.unwrap_err();
        assert!(matches!(&error, Error::Damaged { why, .. } if why.contains(&export.file)), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    let error = scene.vault.read_export(&export).await.unwrap_err();
    assert!(matches!(&error, Error::NoExport(name) if *name == export.id()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_that_opens_the_repository_opens_the_exports() {
    let scene = Scene::new().await;
    exporter(&scene.vault, "sessions", 1).keep(piece(1, CSV)).await.unwrap();
    scene.vault.add_key(&"another key".into()).await.unwrap();
    let mut settings = scene.vault.settings().clone();
    settings.key = groundskeeper_backup::vault::KeySource::Given("another key".into());
    let vault = Vault::new(settings);
    let export = vault.exports().await.unwrap().remove(0);
    assert_eq!(vault.read_export(&export).await.unwrap().csv, CSV);
}
