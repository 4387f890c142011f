//! Reading the machine.
//!
//! A filesystem whose server is gone hangs whoever asks it, for ever and beyond any timeout. So mounts are asked on a
//! thread of their own, the remote ones last, and each answer is sent on at once: a hung mount costs itself and no more.
//! One that has not returned is not asked again until it does, so that threads do not pile up.

use super::{
    clock,
    mounts::{self, Candidate},
};
use crate::deadline::{aside, timed_out};
use groundskeeper_core::observation::{Clock, Failure, FailureKind, Gap, Host, Memory, Mount, Part, Reading};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const ADDRESS: &str = "this machine";

/// Which mounts are looked at. Keep it from reading to reading: it remembers which mounts hang.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    mounts: Vec<String>,
    asked: Asked,
}

impl Scope {
    /// No mounts: all that keep data. Otherwise exactly these, whatever kind they are.
    pub fn of(mounts: Vec<String>) -> Self {
        Self { mounts, asked: Asked::default() }
    }
}

/// Mounts that were asked and have not answered, and since when.
#[derive(Debug, Clone, Default)]
struct Asked(Arc<Mutex<BTreeMap<String, Instant>>>);

impl Asked {
    fn open(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Never an error, never later than the deadline (but for the time to put the answer together).
pub async fn observe(scope: &Scope, now: Timestamp, deadline: Duration) -> Reading<Host> {
    let started = Instant::now();
    let outcome = read(scope, started, deadline).await;
    let took = started.elapsed().as_secs_f64();
    Reading { at: now, latency: took, took, outcome }
}

enum News {
    /// Everything but mounts and clock, and how many mounts will be asked.
    Machine(Result<(Box<Host>, Vec<String>), Failure>),
    Mount(Option<Mount>, String),
    Unreadable(String, String),
}

async fn read(scope: &Scope, started: Instant, deadline: Duration) -> Result<Host, Failure> {
    let (sender, news) = unbounded_channel();
    let ours = scope.clone();
    // The receiver of its end is not needed: the news end when the thread does.
    aside("host-reading", move || ask(&ours, deadline, &sender)).map_err(|error| Failure {
        kind: FailureKind::Exhausted,
        message: format!("no thread can be started: {error}"),
        address: ADDRESS.into(),
    })?;
    // The clock has its own short patience; the two run side by side.
    let (clock, machine) = tokio::join!(clock_within(deadline), collect(news, started, deadline));
    let mut host = machine?;
    host.clock = clock;
    Ok(host)
}

async fn clock_within(deadline: Duration) -> Part<Clock> {
    tokio::time::timeout(deadline, clock::read())
        .await
        .unwrap_or_else(|_| Err(Gap::new("the time service did not answer in time")))
}

/// Everything that arrives before the deadline; mounts that were announced and did not arrive are unreadable.
async fn collect(mut news: UnboundedReceiver<News>, started: Instant, deadline: Duration) -> Result<Host, Failure> {
    let mut host = None;
    let mut missing: Vec<String> = Vec::new();
    let end = tokio::time::Instant::from_std(started + deadline);
    while let Ok(Some(message)) = tokio::time::timeout_at(end, news.recv()).await {
        match (message, host.as_mut()) {
            (News::Machine(machine), _) => {
                let (machine, announced) = machine?;
                host = Some(machine);
                missing = announced;
            }
            (News::Mount(mount, path), Some(host)) => {
                missing.retain(|announced| *announced != path);
                host.mounts.extend(mount);
            }
            (News::Unreadable(path, reason), Some(host)) => {
                missing.retain(|announced| *announced != path);
                host.unreadable.push(reason);
            }
            (_, None) => {}
        }
    }
    let mut host = *host.ok_or_else(|| timed_out(deadline, ADDRESS))?;
    let waited = deadline.as_secs_f64();
    host.unreadable.extend(missing.into_iter().map(|path| format!("{path}: no answer within {waited:.1} s")));
    Ok(host)
}

fn ask(scope: &Scope, deadline: Duration, news: &UnboundedSender<News>) {
    let mountinfo = match std::fs::read("/proc/self/mountinfo") {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            let message = format!("/proc/self/mountinfo: {error}");
            let failure = Failure { kind: FailureKind::Missing, message, address: ADDRESS.into() };
            let _ = news.send(News::Machine(Err(failure)));
            return;
        }
    };
    let (mut candidates, unreadable) = mounts::select(&mountinfo, &scope.mounts);
    candidates.sort_by_key(Candidate::remote);
    let announced = candidates.iter().map(|candidate| candidate.path.clone()).collect();
    let machine = machine(unreadable).map(|host| (Box::new(host), announced));
    let _ = news.send(News::Machine(machine));
    for candidate in candidates {
        // A send fails when the deadline is over: then nobody wants the rest.
        if news.send(ask_mount(&candidate, &scope.asked, deadline)).is_err() {
            return;
        }
    }
}

fn ask_mount(candidate: &Candidate, asked: &Asked, deadline: Duration) -> News {
    let path = candidate.path.clone();
    // Another reading of the same moment may be asking as well; only an old question is a hung one.
    let since = asked.open().get(&path).map(Instant::elapsed).filter(|waited| *waited >= deadline);
    if let Some(waited) = since {
        let reason = format!("{path}: has not answered for {} s", waited.as_secs());
        return News::Unreadable(path, reason);
    }
    asked.open().insert(path.clone(), Instant::now());
    let answer = rustix::fs::statvfs(path.as_str());
    let folder = candidate.named || std::path::Path::new(&path).is_dir();
    asked.open().remove(&path);
    match answer {
        Ok(_) if !folder => News::Mount(None, path),
        Ok(size) => {
            let mount = Mount {
                path: path.clone(),
                filesystem: candidate.filesystem.clone(),
                total: size.f_blocks.saturating_mul(size.f_frsize),
                available: size.f_bavail.saturating_mul(size.f_frsize),
                inodes: size.f_files,
                inodes_free: size.f_favail,
                read_only: candidate.read_only,
            };
            News::Mount(Some(mount), path)
        }
        Err(error) => {
            let reason = format!("{path}: {error}");
            News::Unreadable(path, reason)
        }
    }
}

fn machine(unreadable: Vec<String>) -> Result<Host, Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure {
        kind: FailureKind::Missing,
        message: format!("{what} cannot be read: {error}"),
        address: ADDRESS.into(),
    };
    let wanted =
        RefreshKind::nothing().with_memory(MemoryRefreshKind::everything()).with_cpu(CpuRefreshKind::nothing());
    let system = System::new_with_specifics(wanted).map_err(|error| failed("memory", &error))?;
    let load = System::load_average().map_err(|error| failed("load", &error))?;
    let uptime = System::uptime().map_err(|error| failed("uptime", &error))?;
    Ok(Host {
        name: System::host_name().unwrap_or_default(),
        cores: u32::try_from(system.cpus().len()).unwrap_or(u32::MAX),
        load: [load.one, load.five, load.fifteen],
        memory: Memory {
            total: system.total_memory(),
            available: system.available_memory(),
            swap_total: system.total_swap(),
            swap_used: system.used_swap(),
        },
        mounts: Vec::new(),
        unreadable,
        clock: Err(Gap::new("not asked yet")),
        uptime: uptime as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Candidate {
        Candidate { path: "/".into(), filesystem: "ext4".into(), read_only: false, named: false }
    }

    #[test]
    fn a_mount_that_hangs_is_not_asked_again_until_it_answered() {
        let asked = Asked::default();
        let patience = Duration::from_secs(5);
        asked.open().insert("/".into(), Instant::now());
        assert!(matches!(ask_mount(&root(), &asked, patience), News::Mount(Some(_), _)));
        assert!(asked.open().is_empty());
        asked.open().insert("/".into(), Instant::now());
        let News::Unreadable(_, reason) = ask_mount(&root(), &asked, Duration::ZERO) else { panic!("asked again") };
        assert!(reason.contains("has not answered"), "{reason}");
        assert_eq!(asked.open().len(), 1);
    }

    #[tokio::test]
    async fn a_mount_that_does_not_answer_costs_itself_and_no_more() {
        let (sender, news) = unbounded_channel();
        let announced = vec!["/".to_owned(), "/mnt/dead".to_owned()];
        let machine = machine(Vec::new()).map(|host| (Box::new(host), announced));
        assert!(sender.send(News::Machine(machine)).is_ok());
        assert!(sender.send(ask_mount(&root(), &Asked::default(), Duration::from_secs(5))).is_ok());
        let host = collect(news, Instant::now(), Duration::from_millis(50)).await.unwrap();
        assert_eq!(host.mounts.len(), 1);
        assert_eq!(host.unreadable, ["/mnt/dead: no answer within 0.1 s"]);
        drop(sender);
    }
}
