//! `/metrics`: the recorded families in their order, with what is known here.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::fs;

use crate::stand_in::VERSION;
use crate::stand_in::engine::store::Store;
use crate::stand_in::traffic::{BUCKETS, Endpoint, Tally};

/// The text as it grows.
#[derive(Debug, Default)]
struct Page {
    text: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels {
            "" => writeln!(self.text, "{name} {value}"),
            labels => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, "", value);
    }

    /// One value for each label set; without any, the family is not there.
    fn family_of(&mut self, name: &str, kind: &str, help: &str, samples: &[(String, f64)]) {
        if !samples.is_empty() {
            self.family(name, kind, help);
            for (labels, value) in samples {
                self.sample(name, labels, *value);
            }
        }
    }
}

pub(super) fn metrics(store: &Store, traffic: &BTreeMap<Endpoint, Tally>) -> String {
    let mut page = Page::default();
    page.family("app_info", "gauge", "information about qdrant server");
    page.sample("app_info", &format!("name=\"qdrant\",version=\"{VERSION}\""), 1);
    page.gauge("app_status_recovery_mode", "features enabled in qdrant server", 0);
    collections(&mut page, store);
    page.gauge("cluster_enabled", "is cluster support enabled", 0);
    requests(&mut page, traffic);
    process(&mut page);
    page.text
}

fn collections(page: &mut Page, store: &Store) {
    let all = store.all();
    let info: Vec<_> = all.iter().map(|collection| (collection.name().to_owned(), collection.info())).collect();
    let by_id = |value: &dyn Fn(usize) -> f64| -> Vec<(String, f64)> {
        info.iter().enumerate().map(|(at, (name, _))| (format!("id=\"{name}\""), value(at))).collect()
    };
    let vectors = |label: &str, value: &dyn Fn(usize) -> f64| -> Vec<(String, f64)> {
        let named = info.iter().enumerate().flat_map(|(at, (name, info))| {
            let vectors = info.config.dense().into_iter().map(|(vector, _)| vector.to_owned()).collect::<Vec<_>>();
            vectors.into_iter().map(move |vector| (format!("{label}=\"{name}\",vector=\"{vector}\""), value(at)))
        });
        named.collect()
    };
    let points = |at: usize| info[at].1.shard.points_count as f64;
    let running = |at: usize| all[at].optimizer.runs().iter().filter(|run| run.ended.is_none()).count() as f64;
    let made = |at: usize| all[at].snapshots_made() as f64;
    let none = |_: usize| 0.0;
    let replicas = usize::from(!info.is_empty());
    page.gauge("collections_total", "number of collections", info.len());
    let total: usize = info.iter().map(|(_, info)| info.shard.points_count * info.config.dense().len()).sum();
    page.gauge("collections_vector_total", "total number of vectors in all collections", total);
    let help = "amount of vectors grouped by vector name";
    page.family_of("collection_vectors", "gauge", help, &vectors("collection", &points));
    let help = "amount of points excluded in indexed_only requests";
    page.family_of("collection_indexed_only_excluded_points", "gauge", help, &vectors("id", &none));
    let help = "minimum number of active replicas across all shards";
    page.gauge("collection_active_replicas_min", help, replicas);
    let help = "maximum number of active replicas across all shards";
    page.gauge("collection_active_replicas_max", help, replicas);
    let help = "number of currently running optimization tasks per collection";
    page.family_of("collection_running_optimizations", "gauge", help, &by_id(&running));
    page.family_of("collection_points", "gauge", "approximate amount of points per collection", &by_id(&points));
    page.gauge("collection_dead_replicas", "total amount of shard replicas in non-active state", 0);
    let help = "amount of snapshot creations that are currently running";
    page.family_of("snapshot_creation_running", "gauge", help, &by_id(&none));
    let help = "amount of snapshot recovery operations currently running";
    page.family_of("snapshot_recovery_running", "gauge", help, &by_id(&none));
    page.family_of("snapshot_created_total", "counter", "total amount of snapshots created", &by_id(&made));
    let help = "incoming shard transfers currently running";
    page.family_of("collection_shard_transfer_incoming", "gauge", help, &by_id(&none));
    let help = "outgoing shard transfers currently running";
    page.family_of("collection_shard_transfer_outgoing", "gauge", help, &by_id(&none));
}

/// Only the paths of points and indexes are shown, and durations only of what went well.
fn requests(page: &mut Page, traffic: &BTreeMap<Endpoint, Tally>) {
    let shown: Vec<_> = traffic
        .iter()
        .filter(|((_, path, _), _)| {
            path.starts_with("/collections/{name}/points") || path == "/collections/{name}/index"
        })
        .map(|((method, path, status), tally)| {
            (format!("method=\"{method}\",endpoint=\"{path}\",status=\"{status}\""), *status, tally)
        })
        .collect();
    let each = |well: bool, value: &dyn Fn(&Tally) -> f64| -> Vec<(String, f64)> {
        let wanted = shown.iter().filter(|(_, status, _)| !well || *status == 200);
        wanted.map(|(labels, _, tally)| (labels.clone(), value(tally))).collect()
    };
    page.family_of(
        "rest_responses_total",
        "counter",
        "total number of responses",
        &each(false, &|one| one.count as f64),
    );
    let failed: Vec<_> = shown
        .iter()
        .map(|(labels, status, tally)| (labels.clone(), if *status >= 500 { tally.count as f64 } else { 0.0 }))
        .collect();
    page.family_of("rest_responses_fail_total", "counter", "total number of failed responses", &failed);
    let average = each(true, &|one| one.total.as_secs_f64() / one.count as f64);
    page.family_of("rest_responses_avg_duration_seconds", "gauge", "average response duration", &average);
    let min = each(true, &|one| one.min.as_secs_f64());
    page.family_of("rest_responses_min_duration_seconds", "gauge", "minimum response duration", &min);
    let max = each(true, &|one| one.max.as_secs_f64());
    page.family_of("rest_responses_max_duration_seconds", "gauge", "maximum response duration", &max);
    let name = "rest_responses_duration_seconds";
    let well: Vec<_> = shown.iter().filter(|(_, status, _)| *status == 200).collect();
    if !well.is_empty() {
        page.family(name, "histogram", "response duration histogram");
    }
    for (labels, _, tally) in well {
        let mut within = 0;
        for (bound, count) in BUCKETS.iter().zip(tally.buckets) {
            within += count;
            page.sample(&format!("{name}_bucket"), &format!("{labels},le=\"{bound}\""), within);
        }
        page.sample(&format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), tally.count);
        page.sample(&format!("{name}_sum"), labels, tally.total.as_secs_f64());
        page.sample(&format!("{name}_count"), labels, tally.count);
    }
}

/// Bytes of memory that the process holds; the allocator's own figures are not to be had here.
pub(super) fn resident_bytes() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn entries(folder: &str) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

fn process(page: &mut Page) {
    let resident = resident_bytes();
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default().lines().count();
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    page.gauge("memory_active_bytes", "Total number of bytes in active pages allocated by the application", resident);
    page.gauge("memory_allocated_bytes", "Total number of bytes allocated by the application", resident);
    page.gauge("memory_metadata_bytes", "Total number of bytes dedicated to metadata", 0);
    let help = "Maximum number of bytes in physically resident data pages mapped";
    page.gauge("memory_resident_bytes", help, resident);
    page.gauge("memory_retained_bytes", "Total number of bytes in virtual memory mappings", 0);
    page.gauge("process_threads", "count of active threads", entries("/proc/self/task"));
    page.gauge("process_open_mmaps", "count of open mmaps", maps);
    page.gauge("system_max_mmaps", "system wide limit of open mmaps", limit.trim().parse().unwrap_or(0));
    page.gauge("process_open_fds", "count of currently open file descriptors", entries("/proc/self/fd"));
    page.gauge("process_max_fds", "limit for open file descriptors", 20_000);
    for (name, help) in [
        ("process_minor_page_faults_total", "count of minor page faults which didn't cause a disk access"),
        ("process_major_page_faults_total", "count of disk accesses caused by a mmap page fault"),
    ] {
        page.family(name, "counter", help);
        page.sample(name, "", 0);
    }
}
