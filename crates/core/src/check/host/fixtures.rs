//! A healthy machine, and what the checks say about it.

pub(super) use crate::check::verdicts::{failing, one, status};
use crate::check::{Judgement, Status, Tuning, judge_all};
use crate::observation::{Clock, Host, Memory, Mount, Observation, Reading};
use crate::quantity::after;
use crate::system::{SystemId, SystemKind};

pub(super) fn healthy() -> Host {
    let mount = |path: &str, gib: u64| Mount {
        path: path.into(),
        filesystem: "ext4".into(),
        total: gib << 30,
        available: (gib << 30) / 2,
        inodes: 6_000_000,
        inodes_free: 5_000_000,
        read_only: false,
    };
    Host {
        name: "app-1".into(),
        cores: 4,
        load: [0.7, 0.6, 0.5],
        memory: Memory { total: 16 << 30, available: 9 << 30, swap_total: 0, swap_used: 0 },
        mounts: vec![mount("/", 40), mount("/data", 80)],
        unreadable: Vec::new(),
        clock: Ok(Clock { synchronised: true, max_error: Some(0.02) }),
        uptime: 900_000.0,
    }
}

/// What all checks say of `seen`, half a minute after a healthy reading.
pub(super) fn judged(seen: Host) -> Vec<Judgement> {
    let now = "2026-03-02T09:00:00Z".parse().unwrap();
    let read = |at, host| Observation::Host(Reading { at, latency: 0.001, took: 0.01, outcome: Ok(host) });
    let before = read(after(now, -30.0), healthy());
    let system = SystemId::new(SystemKind::Host, "self");
    judge_all(&system, &read(now, seen), Some(&before), &Tuning::default(), now)
}

#[test]
fn a_healthy_machine_is_ok_in_every_check() {
    for judgement in judged(healthy()) {
        assert_eq!(judgement.status, Status::Ok, "{}", judgement.check);
    }
}
