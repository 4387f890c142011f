//! Does autovacuum get to work? Its workers may all be busy, and each may sleep most of the time.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Postgres, Table, Vacuuming, Worker};
use crate::quantity::{Unit, Value, format_count, format_number, format_seconds};
use crate::severity::Severity;

const WORKERS: &str = "pg_stat_activity (backend_type 'autovacuum worker'), pg_stat_progress_vacuum";

pub static AUTOVACUUM_WORKERS_SATURATED: Check = Check {
    id: "postgres.autovacuum_workers_saturated",
    title: "All workers of autovacuum are busy, and tables wait",
    runbook: Runbook {
        means: "Every worker is at a table, and others that are past their trigger wait until one is free. Small busy tables \
                that want a vacuum each minute wait for hours behind a large one: they grow, and plans get wrong.",
        confirm: "SELECT pid, datname, xact_start, wait_event, query FROM pg_stat_activity WHERE backend_type = 'autovacuum \
                  worker'; SHOW autovacuum_max_workers; SELECT pid, relid::regclass, phase, heap_blks_scanned, \
                  heap_blks_total FROM pg_stat_progress_vacuum;",
        act: "All workers share one cost limit: more of them alone make each slower. First raise \
              autovacuum_vacuum_cost_limit (a reload is enough), as far as the disk allows. Then autovacuum_max_workers; before \
              18 that needs a restart. Vacuum the small tables that wait by hand: that takes no worker.",
    },
    source: WORKERS,
    thresholds: &[Threshold {
        name: "waiting",
        default: 1.0,
        unit: Unit::Count,
        why: "tables of the connected database that are past their trigger and have no worker",
    }],
    // A worker is free again after each small table.
    hold: Hold::minutes(15.0, 5.0),
    judge: Judge::Postgres(autovacuum_workers_saturated),
};

fn autovacuum_workers_saturated(sight: &Sight<'_, Postgres>) -> Judged {
    let Some(vacuuming) = at_work(sight)? else { return Ok(Vec::new()) };
    if vacuuming.max_workers == 0 || vacuuming.workers.len() < vacuuming.max_workers as usize {
        return Ok(Vec::new());
    }
    let tables = sight.seen.tables.as_ref()?;
    let is_served = |table: &Table| {
        let is_its = |worker: &Worker| {
            worker.table.as_ref().is_some_and(|at| at.schema == table.schema && at.name == table.name)
        };
        vacuuming.workers.iter().any(is_its)
    };
    let waiting: Vec<&Table> =
        tables.iter().filter(|table| table.autovacuum && times(table) > 1.0 && !is_served(table)).collect();
    let limit = sight.limit("waiting");
    let Some(worst) = waiting.iter().copied().max_by(|a, b| times(a).total_cmp(&times(b))) else {
        return Ok(Vec::new());
    };
    if (waiting.len() as f64) < limit {
        return Ok(Vec::new());
    }
    let database = &sight.seen.server.database;
    let offenders = waiting.iter().map(|table| Offender {
        target: Target::Table { database: database.clone(), schema: table.schema.clone(), name: table.name.clone() },
        weight: times(table),
        note: format!("{:.1} times past its trigger, {} dead rows", times(table), format_count(table.dead_rows as f64)),
    });
    let count = if waiting.len() == 1 { "1 table waits".into() } else { format!("{} tables wait", waiting.len()) };
    let longest = vacuuming.workers.first().map_or_else(String::new, described);
    let draft = Draft::new(
        Severity::Warning,
        format!(
            "{} of autovacuum {} busy and {count} in {database}, {}.{} among them",
            if vacuuming.max_workers == 1 {
                "the one worker".into()
            } else {
                format!("all {} workers", vacuuming.max_workers)
            },
            if vacuuming.max_workers == 1 { "is" } else { "are" },
            worst.schema,
            worst.name
        ),
    )
    .against("tables that wait", Value::count(waiting.len() as f64), Value::count(limit), WORKERS)
    .saw("the longest at work", Value::text(longest), WORKERS)
    .saw("cost limit that they share", Value::text(limits(vacuuming)), "pg_settings")
    .offenders(offenders.collect())
    .fix(format!(
        "{} If the tables that wait are small: VACUUM (ANALYZE) {}.{}; needs no worker.",
        faster(vacuuming),
        crate::remedy::quoted(&worst.schema),
        crate::remedy::quoted(&worst.name)
    ));
    Ok(vec![draft])
}

pub static AUTOVACUUM_THROTTLED: Check = Check {
    id: "postgres.autovacuum_throttled",
    title: "A vacuum takes hours because it sleeps most of the time",
    runbook: Runbook {
        means: "Autovacuum rests each time it has done as much as its cost limit allows. On a large table the default makes \
                one vacuum last for hours or days; meanwhile rows die faster than they are removed, and a worker is taken.",
        confirm: "SELECT a.pid, now() - a.xact_start AS running, a.wait_event, p.phase, p.heap_blks_scanned, \
                  p.heap_blks_total FROM pg_stat_activity a JOIN pg_stat_progress_vacuum p USING (pid) WHERE a.backend_type \
                  = 'autovacuum worker'; a wait_event of VacuumDelay, asked several times, is such a rest.",
        act: "Raise autovacuum_vacuum_cost_limit step by step (200 to 1000 or 2000) and reload; before 16 it \
              counts from a worker's next table on, from 16 on at once. Watch the disk's latency. For one table alone: ALTER TABLE … SET (autovacuum_vacuum_cost_limit = 2000). \
              From 18 on track_cost_delay_timing shows how long each has slept.",
    },
    source: "pg_stat_activity.wait_event (VacuumDelay); from 18 on pg_stat_progress_vacuum.delay_time",
    thresholds: &[
        Threshold {
            name: "running",
            default: 7_200.0,
            unit: Unit::Seconds,
            why: "two hours at one table: at the default limit of 18 that is some 50 GB of reading, and much less of writing",
        },
        Threshold {
            name: "slept",
            default: 50.0,
            unit: Unit::Percent,
            why: "where the server measures it: half of the time at rest means that twice the speed is to be had",
        },
    ],
    hold: Hold::minutes(0.0, 15.0),
    judge: Judge::Postgres(autovacuum_throttled),
};

fn autovacuum_throttled(sight: &Sight<'_, Postgres>) -> Judged {
    let Some(vacuuming) = at_work(sight)? else { return Ok(Vec::new()) };
    let running = sight.limit("running");
    let is_slow = |worker: &&Worker| worker.running >= running && !worker.phase.is_empty();
    let mut throttled = Vec::new();
    for worker in vacuuming.workers.iter().filter(is_slow).filter(|_| vacuuming.cost_delay > 0.0) {
        if is_throttled(sight, worker)? {
            throttled.push(worker);
        }
    }
    let Some(longest) = throttled.first() else { return Ok(Vec::new()) };
    let offenders = throttled.iter().map(|worker| Offender {
        target: worker.table.as_ref().map_or(Target::Database { name: worker.database.clone() }, |table| {
            Target::Table { database: worker.database.clone(), schema: table.schema.clone(), name: table.name.clone() }
        }),
        weight: worker.running,
        note: described(worker),
    });
    let draft = Draft::new(
        Severity::Warning,
        format!("autovacuum is {}, and rests most of the time: its cost limit slows it down", described(longest)),
    )
    .against("at one table", Value::seconds(longest.running), Value::seconds(running), WORKERS)
    .saw("cost limit", Value::text(limits(vacuuming)), "pg_settings")
    .offenders(offenders.collect())
    .fix(faster(vacuuming));
    Ok(vec![draft])
}

/// Without the server's own measure, at rest in two readings one after the other.
fn is_throttled(sight: &Sight<'_, Postgres>, worker: &Worker) -> Result<bool, Unknown> {
    if let Some(slept) = worker.slept {
        return Ok(slept / worker.running.max(1e-9) * 100.0 >= sight.limit("slept"));
    }
    if !worker.is_sleeping {
        return Ok(false);
    }
    let (earlier, _) = sight.since("how much of its time a vacuum rests")?;
    let earlier = earlier.vacuuming.as_ref()?;
    Ok(earlier.workers.iter().any(|before| before.pid == worker.pid && before.is_sleeping))
}

/// None where autovacuum does not run: on a standby, or switched off, which is a finding of its own.
fn at_work<'s>(sight: &Sight<'s, Postgres>) -> Result<Option<&'s Vacuuming>, Unknown> {
    let server = &sight.seen.server;
    if server.in_recovery || !server.autovacuum {
        return Ok(None);
    }
    Ok(Some(sight.seen.vacuuming.as_ref()?))
}

/// How far past the nearer of its triggers.
fn times(table: &Table) -> f64 {
    let dead = table.dead_rows as f64 / table.vacuum_trigger.max(1.0);
    dead.max(table.modified_since_analyze as f64 / table.analyze_trigger.max(1.0))
}

fn described(worker: &Worker) -> String {
    let table = worker.table.as_ref().map_or_else(|| format!("a table of {}", worker.database), ToString::to_string);
    let part = worker.scanned.map_or_else(String::new, |scanned| {
        format!(" ({}, {} read)", worker.phase, format_number((scanned * 100.0).round(), Unit::Percent))
    });
    let why = if worker.is_against_wraparound { ", against wraparound" } else { "" };
    format!("at {table} for {}{part}{why}", format_seconds(worker.running))
}

fn limits(vacuuming: &Vacuuming) -> String {
    if vacuuming.cost_delay == 0.0 {
        return "none: autovacuum_vacuum_cost_delay is 0".to_owned();
    }
    format!("{} and then {} of rest", vacuuming.cost_limit, format_seconds(vacuuming.cost_delay))
}

fn faster(vacuuming: &Vacuuming) -> String {
    if vacuuming.cost_delay == 0.0 {
        return format!(
            "Nothing throttles them: ALTER SYSTEM SET autovacuum_max_workers = {}; SELECT pg_reload_conf(); before 18 it \
             takes a restart instead.",
            vacuuming.max_workers + 2
        );
    }
    format!(
        "ALTER SYSTEM SET autovacuum_vacuum_cost_limit = {}; SELECT pg_reload_conf(); then watch the disk, and go on if it \
         has room.",
        (vacuuming.cost_limit.max(100) * 2).min(10_000)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{
        change, finding, found, found_in, minute_before, reading, status, table_name,
    };
    use crate::observation::{Gap, Observation};

    const SATURATED: &str = "postgres.autovacuum_workers_saturated";
    const THROTTLED: &str = "postgres.autovacuum_throttled";

    fn worker(pid: i32, name: &str) -> Worker {
        Worker {
            pid,
            database: "docrag".into(),
            table: Some(table_name(name)),
            running: 600.0,
            phase: "scanning heap".into(),
            scanned: Some(0.25),
            is_against_wraparound: false,
            is_sleeping: true,
            slept: None,
        }
    }

    fn with(workers: Vec<Worker>) -> Postgres {
        change(|seen| seen.vacuuming.as_mut().unwrap().workers = workers)
    }

    fn busy(dead: u64) -> Postgres {
        let mut seen = with(vec![worker(1, "events"), worker(2, "sessions"), worker(3, "documents")]);
        for table in seen.tables.as_mut().unwrap() {
            table.dead_rows = dead;
        }
        seen
    }

    #[test]
    fn a_table_that_waits_while_all_workers_are_busy_is_found_and_one_with_a_worker_is_not() {
        let finding = finding(SATURATED, found_in(busy(25_000)));
        assert_eq!(finding.offenders.len(), 1, "documents has a worker: {finding:#?}");
        assert!(finding.summary.ends_with("1 table waits in docrag, public.chunks among them"), "{}", finding.summary);
        assert!(finding.fix.contains("cost_limit = 400; SELECT pg_reload_conf();"), "{}", finding.fix);
    }

    #[test]
    fn busy_workers_without_a_queue_and_a_queue_with_a_free_worker_are_fine() {
        assert_eq!(found_in(busy(5_000)), []);
        let mut seen = busy(25_000);
        seen.vacuuming.as_mut().unwrap().workers.pop();
        assert_eq!(found_in(seen), []);
        let mut seen = busy(25_000);
        seen.server.autovacuum = false;
        assert_eq!(status(SATURATED, seen, None), Status::Ok, "that is another check's affair");
    }

    #[test]
    fn without_a_delay_more_workers_are_the_way_out() {
        let mut seen = busy(25_000);
        seen.vacuuming.as_mut().unwrap().cost_delay = 0.0;
        let finding = finding(SATURATED, found_in(seen));
        assert!(finding.fix.contains("autovacuum_max_workers = 5"), "{}", finding.fix);
    }

    #[test]
    fn a_vacuum_of_hours_that_rests_at_two_readings_is_throttled() {
        let slow = |is_sleeping| with(vec![Worker { running: 9_000.0, is_sleeping, ..worker(1, "chunks") }]);
        let current = Observation::Postgres(reading(slow(true)));
        let found_after = |before| found(&current, Some(&minute_before(before)));
        let finding = finding(THROTTLED, found_after(slow(true)));
        assert!(finding.summary.contains("at public.chunks for 2 h 30 min (scanning heap, 25 % read)"), "{finding:#?}");
        assert_eq!(found_after(slow(false)), []);
        assert!(matches!(status(THROTTLED, slow(true), None), Status::Unknown(_)));
        assert_eq!(found_in(with(vec![worker(1, "chunks")])), [], "ten minutes are nothing");
    }

    #[test]
    fn where_the_server_measures_its_rest_the_measure_counts() {
        let slow = |slept| {
            with(vec![Worker { running: 9_000.0, is_sleeping: true, slept: Some(slept), ..worker(1, "chunks") }])
        };
        assert_eq!(found_in(slow(4_499.0)), []);
        finding(THROTTLED, found_in(slow(4_500.0)));
    }

    #[test]
    fn hidden_workers_are_unknown() {
        let seen = || change(|seen| seen.vacuuming = Err(Gap::permission("grant pg_monitor")));
        assert!(matches!(status(SATURATED, seen(), None), Status::Unknown(_)));
        assert!(matches!(status(THROTTLED, seen(), None), Status::Unknown(_)));
    }
}
