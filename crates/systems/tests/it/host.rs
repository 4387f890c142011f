//! The host adapter on this very machine.

use groundskeeper_core::check::{Tuning, judge_all};
use groundskeeper_core::observation::{FailureKind, Host, Observation, Reading};
use groundskeeper_core::{Status, SystemId, SystemKind};
use groundskeeper_systems::host::{Scope, observe};
use groundskeeper_testing::SmallDisk;
use jiff::Timestamp;
use std::time::{Duration, Instant};

async fn read(scope: &Scope) -> Reading<Host> {
    observe(scope, Timestamp::now(), Duration::from_secs(5)).await
}

#[tokio::test]
async fn this_machine_is_read_whole() {
    let reading = read(&Scope::default()).await;
    assert!(reading.took > 0.0 && reading.took < 5.0);
    let host = reading.outcome.unwrap();
    assert!(host.cores > 0 && host.uptime > 0.0 && !host.name.is_empty());
    assert!(host.memory.available > 0 && host.memory.available <= host.memory.total);
    let root = host.mounts.iter().find(|mount| mount.path == "/").unwrap();
    assert!(root.total > 0 && root.available <= root.total && !root.read_only);
    for pseudo in ["/proc", "/sys", "/dev/shm"] {
        assert!(!host.mounts.iter().any(|mount| mount.path == pseudo), "{pseudo}");
    }
}

#[tokio::test]
async fn the_numbers_are_those_of_df() {
    let host = read(&Scope::of(vec!["/".into()])).await.outcome.unwrap();
    let output = std::process::Command::new("df")
        .args(["--block-size=1", "--output=size,avail,itotal,iavail", "/"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let df: Vec<f64> = text.lines().nth(1).unwrap().split_whitespace().map(|word| word.parse().unwrap()).collect();
    let root = &host.mounts[0];
    assert_eq!((root.total as f64, root.inodes as f64), (df[0], df[2]));
    // Others write to this disk at the same time.
    assert!((root.available as f64 - df[1]).abs() < 0.05 * df[0]);
    assert!((root.inodes_free as f64 - df[3]).abs() < 0.05 * df[2]);
}

#[tokio::test]
async fn named_mounts_are_shown_whatever_they_are_and_missing_ones_are_told() {
    let host = read(&Scope::of(vec!["/dev/shm".into(), "/no/such/mount".into()])).await.outcome.unwrap();
    assert_eq!(host.mounts.iter().map(|mount| mount.path.as_str()).collect::<Vec<_>>(), ["/dev/shm"]);
    assert_eq!(host.unreadable, ["/no/such/mount: nothing is mounted there"]);
}

#[tokio::test]
async fn a_disk_that_fills_up_is_exactly_one_finding() {
    let disk = SmallDisk::mount(16).unwrap();
    let scope = Scope::of(vec![disk.path().display().to_string()]);
    assert_eq!(of_disks(read(&scope).await), [""; 0]);
    disk.fill_to(97).unwrap();
    assert_eq!(of_disks(read(&scope).await), ["host.disk_nearly_full"]);
}

/// What else goes on on this machine is not the test's affair.
fn of_disks(reading: Reading<Host>) -> Vec<String> {
    let (system, at) = (SystemId::new(SystemKind::Host, "self"), reading.at);
    judge_all(&system, &Observation::Host(reading), None, &Tuning::default(), at)
        .into_iter()
        .filter(|judgement| matches!(judgement.status, Status::Failing { .. }))
        .map(|judgement| judgement.check)
        .filter(|check| ["disk", "inodes", "mount"].iter().any(|word| check.contains(word)))
        .collect()
}

#[tokio::test]
async fn the_deadline_holds() {
    let started = Instant::now();
    let reading = observe(&Scope::default(), Timestamp::now(), Duration::ZERO).await;
    assert!(started.elapsed() < Duration::from_millis(300));
    // Too short for anything: either nothing was read, or what was read is told apart from what was not.
    if let Err(failure) = reading.outcome {
        assert_eq!(failure.kind, FailureKind::Timeout);
    }
}

#[tokio::test]
async fn the_clock_is_known_or_the_reason_is() {
    match read(&Scope::default()).await.outcome.unwrap().clock {
        Ok(clock) => assert!(clock.max_error.is_none_or(|error| error >= 0.0)),
        Err(gap) => assert!(gap.reason.contains("chronyd"), "{}", gap.reason),
    }
}
