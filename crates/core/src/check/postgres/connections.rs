//! Are there connections left?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, measured};
use crate::finding::Draft;
use crate::observation::Postgres;
use crate::quantity::{Unit, Value, format_number};

pub static CONNECTIONS_NEAR_LIMIT: Check = Check {
    id: "postgres.connections_near_limit",
    title: "Postgres is running out of connections",
    runbook: Runbook {
        means: "When the last ordinary slot is taken, every new client gets \"too many clients already\" and fails, \
                although the database itself is well. Slots reserved for superusers do not help applications.",
        confirm: "SELECT count(*), current_setting('max_connections') FROM pg_stat_activity \
                  WHERE backend_type = 'client backend';",
        act: "Find who holds the connections (usename, application_name, state). Many idle ones of one application: its \
              pool is too large or it leaks; make the pool smaller or restart that client. Many active ones: the \
              queries are slow, look at those first. A pooler such as PgBouncer is the lasting answer. Raising \
              max_connections needs a restart and memory for each connection.",
    },
    source: "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'; max_connections less the \
             reserved slots",
    thresholds: &[
        Threshold {
            name: "warning",
            default: 80.0,
            unit: Unit::Percent,
            why: "leaves time to act during the day; check_postgres and Coroot warn between 80 and 90 %",
        },
        Threshold {
            name: "critical",
            default: 95.0,
            unit: Unit::Percent,
            why: "at the default of 100 connections this leaves five: one deployment or retry storm takes them",
        },
    ],
    hold: Hold::minutes(1.0, 2.0),
    judge: Judge::Postgres(connections_near_limit),
};

fn connections_near_limit(sight: &Sight<'_, Postgres>) -> Judged {
    let activity = sight.seen.activity.as_ref()?;
    let server = &sight.seen.server;
    let usable = server.max_connections.saturating_sub(server.reserved_connections).max(1);
    let percent = f64::from(activity.total) / f64::from(usable) * 100.0;
    let Some((severity, limit)) = sight.graded(percent) else { return Ok(Vec::new()) };

    let (value, threshold) = measured(percent, limit, Unit::Percent);
    let holders: Vec<_> = activity.by_application.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let largest = activity.by_application.first().map_or("the largest holder", |(name, _)| name.as_str());
    let draft = Draft::new(
        severity,
        format!(
            "{} of {usable} usable connections are taken ({})",
            activity.total,
            format_number(percent, Unit::Percent)
        ),
    )
    .against("connections used", value, threshold, CONNECTIONS_NEAR_LIMIT.source)
    .saw("connections", Value::count(activity.total), "pg_stat_activity")
    .saw("max_connections", Value::count(server.max_connections), "pg_settings")
    .saw(
        "reserved",
        Value::count(server.reserved_connections),
        "superuser_reserved_connections and reserved_connections",
    )
    .saw(
        "state",
        Value::text(format!(
            "{} active, {} idle, {} idle in transaction",
            activity.active, activity.idle, activity.idle_in_transaction
        )),
        "pg_stat_activity.state",
    )
    .saw("held by", Value::text(holders.join(", ")), "pg_stat_activity.application_name")
    .fix(format!(
        "Look at {largest} first: SELECT usename, application_name, client_addr, state, count(*) FROM pg_stat_activity \
         WHERE backend_type = 'client backend' GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC; then make its pool smaller or \
         restart the client that leaks."
    ));
    Ok(vec![draft])
}

#[cfg(test)]
mod tests {
    use crate::check::postgres::fixtures::{change, finding, found_in, healthy};
    use crate::severity::Severity;

    #[test]
    fn ninety_five_percent_of_the_usable_connections_is_critical() {
        // 100 less 3 reserved leaves 97.
        for (total, severity) in [(78, Severity::Warning), (92, Severity::Warning), (93, Severity::Critical)] {
            let finding = finding(
                "postgres.connections_near_limit",
                found_in(change(|seen| seen.activity.as_mut().unwrap().total = total)),
            );
            assert_eq!(finding.severity, severity, "{total}: {}", finding.summary);
        }
        assert_eq!(found_in(change(|seen| seen.activity.as_mut().unwrap().total = 77)), []);
    }

    #[test]
    fn the_message_names_who_holds_the_connections() {
        let finding = finding(
            "postgres.connections_near_limit",
            found_in(change(|seen| seen.activity.as_mut().unwrap().total = 97)),
        );
        assert!(finding.summary.contains("97 of 97"), "{}", finding.summary);
        assert!(finding.fix.contains("docrag-api"), "{}", finding.fix);
    }

    #[test]
    fn a_server_with_every_slot_reserved_does_not_divide_by_zero() {
        let mut seen = healthy();
        seen.server.reserved_connections = 200;
        let finding = finding("postgres.connections_near_limit", found_in(seen));
        assert_eq!(finding.severity, Severity::Critical);
    }
}
