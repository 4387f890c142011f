//! Do applications hold more connections than they use?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::Draft;
use crate::observation::Postgres;
use crate::quantity::{Unit, Value};
use crate::severity::Severity;
use crate::tuning::postgres::{Pool, pools};

pub static POOLS_OVERSIZED: Check = Check {
    id: "postgres.pools_oversized",
    title: "Pools hold many more connections than they use",
    runbook: Runbook {
        means: "Each idle connection takes memory and one of the places for clients. When all pools get busy at once, more \
                sessions work than the machine can serve: they wait for each other, and everything gets slower together.",
        confirm: "SELECT application_name, usename, state, count(*) FROM pg_stat_activity WHERE backend_type = 'client \
                  backend' GROUP BY 1, 2, 3 ORDER BY 4 DESC;",
        act: "Make the pools smaller, the largest first: all of them together about twice the cores and one, and a little \
              for sessions that wait for their client. A queue in front of the pool is faster than one in the server. \
              Many instances of one application: put PgBouncer in transaction mode between.",
    },
    source: "pg_stat_activity; max_connections less the reserved slots; the machine's cores",
    thresholds: &[Threshold {
        name: "idle",
        default: 50.0,
        unit: Unit::Percent,
        why: "idle connections of those that may be open: half of the places are taken by nobody at work, and doubling the \
              applications would fill the server",
    }],
    hold: Hold::minutes(30.0, 30.0),
    judge: Judge::Postgres(pools_oversized),
};

fn pools_oversized(sight: &Sight<'_, Postgres>) -> Judged {
    let activity = sight.seen.activity.as_ref()?;
    if activity.hidden > 0 && activity.idle == 0 {
        return super::activity::all_seen(activity, Vec::new());
    }
    let Some(pools) = pools(sight.seen) else { return Ok(Vec::new()) };
    let share = f64::from(activity.idle) * 100.0 / f64::from(pools.usable.max(1));
    let limit = sight.limit("idle");
    // From there on it is `postgres.connections_near_limit`, which names who holds them, too.
    let is_nearly_full = f64::from(activity.total) >= 0.8 * f64::from(pools.usable);
    if share < limit || pools.open <= pools.together || is_nearly_full {
        return super::activity::all_seen(activity, Vec::new());
    }
    let (value, threshold) = measured(share, limit, Unit::Percent);
    let told = |pool: &Pool| format!("{}: {} open, {} advised", pool.application, pool.open, pool.advised);
    let shares: Vec<String> = pools.by_application.iter().map(told).collect();
    let draft = Draft::new(
        Severity::Info,
        format!(
            "{} of {} connections are idle and {} at work; {} are enough for all pools together",
            activity.idle, pools.usable, activity.active, pools.together
        ),
    )
    .against("idle connections", value, threshold, "pg_stat_activity")
    .saw("by application", Value::text(shares.join("; ")), "pg_stat_activity.application_name")
    .saw(
        "enough",
        Value::text(format!("{}: {}", pools.together, pools.reason)),
        crate::tuning::postgres::SOURCE_OF_POOLS,
    )
    .fix(match pools.by_application.first() {
        Some(Pool { application, open, advised }) if advised < open => {
            format!("Begin with {application}: all of its pools together {advised} instead of {open}.")
        }
        _ => "Make the pools smaller; SELECT application_name, state, count(*) FROM pg_stat_activity GROUP BY 1, 2;"
            .to_owned(),
    });
    Ok(vec![draft])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, status};
    use crate::observation::Gap;

    fn idle(idle: u32) -> Postgres {
        change(|seen| {
            let activity = seen.activity.as_mut().unwrap();
            (activity.total, activity.idle) = (idle + 2, idle);
            activity.by_application =
                vec![("docrag-api".into(), idle - 5), ("worker".into(), 6), ("groundskeeper".into(), 1)];
        })
    }

    #[test]
    fn idle_connections_are_told_with_a_size_for_each_application() {
        // 97 may be open.
        assert_eq!(found_in(idle(48)), []);
        let found = finding("postgres.pools_oversized", found_in(idle(49)));
        assert_eq!(found.severity, Severity::Info);
        assert!(found.summary.contains("49 of 97") && found.summary.contains("17 are enough"), "{}", found.summary);
        // 17 shared out as 44 and 6 are.
        assert_eq!(found.fix, "Begin with docrag-api: all of its pools together 14 instead of 44.");
    }

    #[test]
    fn a_server_with_few_places_and_pools_that_fit_it_is_well() {
        let seen = change(|seen| {
            seen.server.max_connections = 20;
            seen.server.reserved_connections = 3;
            let activity = seen.activity.as_mut().unwrap();
            (activity.total, activity.idle) = (11, 9);
        });
        assert_eq!(found_in(seen), []);
    }

    #[test]
    fn sessions_that_are_hidden_or_unread_are_unknown() {
        let seen = change(|seen| seen.activity = Err(Gap::new("no")));
        assert!(matches!(status("postgres.pools_oversized", seen, None), Status::Unknown(_)));
        let seen = change(|seen| {
            let activity = seen.activity.as_mut().unwrap();
            (activity.hidden, activity.idle) = (11, 0);
        });
        assert!(matches!(status("postgres.pools_oversized", seen, None), Status::Unknown(_)));
    }
}
