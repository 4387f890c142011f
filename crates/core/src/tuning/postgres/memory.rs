//! How the machine's memory is shared out.

use super::{Amount, Desk, GIB, MIB, matters, rounded, useful};
use crate::quantity::format_bytes;

const OF_MEMORY: [&str; 4] = ["shared_buffers", "effective_cache_size", "work_mem", "maintenance_work_mem"];
const MANUAL: &str = "https://www.postgresql.org/docs/current/runtime-config-resource.html";
const PGTUNE: &str = "https://github.com/le0pard/pgtune";
const PLANNER: &str = "https://www.postgresql.org/docs/current/runtime-config-query.html";

pub(super) fn look(desk: &mut Desk<'_>) {
    let Some(memory) = desk.machine.memory.map(|bytes| bytes as f64) else {
        return desk.machine_unknown("memory", &OF_MEMORY);
    };
    let databases = desk.seen.databases.as_ref().ok();
    let data = databases.and_then(|all| all.iter().map(|one| one.size.map(|size| size as f64)).sum());
    let shared = shared_buffers(desk, memory, data);
    cache(desk, memory, data);
    work(desk, (memory - shared).max(0.0));
    maintenance(desk, memory, data);
}

/// Gives what it will be, for the others reckon with the rest.
fn shared_buffers(desk: &mut Desk<'_>, memory: f64, data: Option<f64>) -> f64 {
    let Some(current) = desk.number("shared_buffers") else { return memory / 4.0 };
    let target = rounded((memory / 4.0).max(128.0 * MIB));
    let is_all_data_inside = data.is_some_and(|data| data <= current);
    let share = current / memory;
    if share > 0.4 && current > 128.0 * MIB {
        let reason = format!(
            "{:.0} % of {}: above 40 % the operating system's cache and the sessions have too little left",
            share * 100.0,
            format_bytes(memory)
        );
        return advise_buffers(desk, target, current, reason);
    }
    if share < 0.15 && !is_all_data_inside && target > current {
        let data = data.map_or_else(String::new, |data| format!(", and the databases have {}", format_bytes(data)));
        let reason = format!("{:.0} % of {}{data}; a quarter is the usual start", share * 100.0, format_bytes(memory));
        return advise_buffers(desk, target, current, reason);
    }
    desk.suits("shared_buffers");
    current
}

/// With `huge_pages = on` the server starts only where the machine has as many reserved.
fn advise_buffers(desk: &mut Desk<'_>, target: f64, current: f64, reason: String) -> f64 {
    if desk.settings.value("huge_pages") == Some("on") {
        let why = format!(
            "{reason}. But huge_pages is on: {} of them have to be reserved on the machine (vm.nr_hugepages) before it is \
             changed, or the server does not start",
            format_bytes(target)
        );
        desk.cannot("shared_buffers", &why);
        return current;
    }
    desk.advise("shared_buffers", &Amount::Bytes(target), matters(reason, MANUAL));
    target
}

/// Nothing is allocated by it: the planner reckons with it.
fn cache(desk: &mut Desk<'_>, memory: f64, data: Option<f64>) {
    let Some(current) = desk.number("effective_cache_size") else { return };
    let share = current / memory;
    // Data that is smaller than what the planner takes for cached is all cached to it, whatever the machine has.
    let is_all_cached = share <= 0.9 && data.is_some_and(|data| data <= current);
    if (0.45..=0.9).contains(&share) || is_all_cached {
        return desk.suits("effective_cache_size");
    }
    let (percent, wrong) = (share * 100.0, if share < 0.45 { "indexes look dearer" } else { "indexes look cheaper" });
    let reason = format!(
        "{percent:.0} % of {}: the planner takes it for what is cached in all, so {wrong} than they are. Nothing is allocated \
         by it",
        format_bytes(memory)
    );
    desk.advise("effective_cache_size", &Amount::Bytes(rounded(memory * 0.75)), matters(reason, PLANNER));
}

/// Each sort or hash of each session may take it. `rest` is what the shared buffers leave.
fn work(desk: &mut Desk<'_>, rest: f64) {
    let Some(current) = desk.number("work_mem") else { return };
    let server = &desk.seen.server;
    let allowed = f64::from(server.max_connections.saturating_sub(server.reserved_connections).max(1));
    let (open, temporary) = (
        desk.seen.activity.as_ref().map_or(allowed, |activity| f64::from(activity.total).max(allowed / 10.0)),
        desk.seen.databases.as_ref().map_or(0, |all| all.iter().map(|one| one.temporary_bytes).sum()) as f64,
    );
    // pgtune's share: three sorts of each connection that may come.
    let safe = rounded((rest / (allowed * 3.0)).clamp(4.0 * MIB, 64.0 * MIB));
    if current * allowed > rest && current > safe {
        let reason = format!(
            "one sort in each of {allowed:.0} connections would take {}, and shared_buffers leaves {}: the kernel would end the \
             server. Give more to the role or the query that needs it: ALTER ROLE … SET work_mem",
            format_bytes(current * allowed),
            format_bytes(rest)
        );
        return desk.advise("work_mem", &Amount::Bytes(safe), matters(reason, PGTUNE));
    }
    // With the connections that are really open there may be room for more, where sorts do go to disk. Should all come that
    // may, one sort in each leaves half of the rest.
    let roomy = rounded((rest / 2.0 / (open * 3.0)).clamp(safe, 64.0 * MIB)).min(rounded(rest / 2.0 / allowed));
    if temporary >= GIB && roomy >= current * 1.5 {
        let reason = format!(
            "{} of temporary files were written since the statistics began: sorts and hashes that did not fit. {open:.0} \
             connections in use leave room for more",
            format_bytes(temporary)
        );
        // The counter never comes down, whatever was done about it since: nobody is to be told for ever.
        return desk.advise("work_mem", &Amount::Bytes(roomy), useful(&reason, PGTUNE));
    }
    desk.suits("work_mem");
}

/// Every autovacuum worker may take it, unless `autovacuum_work_mem` bounds that.
fn maintenance(desk: &mut Desk<'_>, memory: f64, data: Option<f64>) {
    let Some(current) = desk.number("maintenance_work_mem") else { return };
    let workers = desk.settings.number("autovacuum_max_workers").unwrap_or(3.0);
    let of_worker = desk.settings.number("autovacuum_work_mem").filter(|own| *own > 0.0);
    // Vacuum could not use more than 1 GB before 17.
    let most = if desk.seen.server.major() >= 17 { 2.0 * GIB } else { GIB };
    let target = rounded((memory / 16.0).clamp(64.0 * MIB, most));
    let together = of_worker.unwrap_or(current) * workers;
    if together > memory / 4.0 && of_worker.is_none() && current > target {
        let reason = format!(
            "{workers:.0} autovacuum workers may take it at once: {} of {}",
            format_bytes(together),
            format_bytes(memory)
        );
        return desk.advise("maintenance_work_mem", &Amount::Bytes(target), matters(reason, MANUAL));
    }
    // The indexes of small data fit into little.
    let is_small = data.is_some_and(|data| data <= current * 16.0);
    if current * 2.0 <= target * 0.99 && !is_small {
        let reason = format!(
            "a sixteenth of {}: CREATE INDEX sorts in it, and vacuum goes over the indexes once more whenever its list of \
             dead rows does not fit",
            format_bytes(memory)
        );
        return desk.advise("maintenance_work_mem", &Amount::Bytes(target), matters(reason, PGTUNE));
    }
    desk.suits("maintenance_work_mem");
}
