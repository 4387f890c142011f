//! Settings and grants without which the server, or our view of it, cannot be right.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight};
use crate::finding::Draft;
use crate::observation::Postgres;
use crate::quantity::Value;
use crate::remedy::quoted;
use crate::severity::Severity;

pub static AUTOVACUUM_OFF: Check = Check {
    id: "postgres.autovacuum_off",
    title: "Autovacuum is switched off",
    runbook: Runbook {
        means: "Nobody removes dead rows, refreshes the planner's statistics or freezes old rows, except in the \
                emergency before the transaction ids run out. Tables grow and plans get worse every day.",
        confirm: "SHOW autovacuum; SHOW track_counts;",
        act: "Switch it on again: ALTER SYSTEM SET autovacuum = on; SELECT pg_reload_conf(); no restart is needed. If it \
              was switched off for a bulk load, finish with VACUUM (ANALYZE). If it was in the way, slow it down \
              (autovacuum_vacuum_cost_delay) instead.",
    },
    source: "autovacuum and track_counts in pg_settings",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(autovacuum_off),
};

fn autovacuum_off(sight: &Sight<'_, Postgres>) -> Judged {
    // On a standby nothing is vacuumed, whatever the setting says.
    if sight.seen.server.autovacuum || sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let draft = Draft::new(Severity::Warning, "autovacuum is switched off for the whole server")
        .saw("autovacuum", Value::text("off"), AUTOVACUUM_OFF.source)
        .fix("ALTER SYSTEM SET autovacuum = on; ALTER SYSTEM SET track_counts = on; SELECT pg_reload_conf();");
    Ok(vec![draft])
}

pub static STATEMENTS_MISSING: Check = Check {
    id: "postgres.statements_missing",
    title: "pg_stat_statements cannot be used",
    runbook: Runbook {
        means: "Nobody can say which statements take the time. Slow queries, and queries that became slower, stay \
                unseen until users complain.",
        confirm: "SHOW shared_preload_libraries; SELECT extversion FROM pg_extension WHERE extname = \
                  'pg_stat_statements';",
        act: "Add pg_stat_statements to shared_preload_libraries (this needs a restart, so do it in a maintenance \
              window), then CREATE EXTENSION pg_stat_statements in the database. It comes with the server's contrib \
              modules and costs a few percent at most.",
    },
    source: "shared_preload_libraries, pg_extension and pg_available_extensions",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(statements_missing),
};

fn statements_missing(sight: &Sight<'_, Postgres>) -> Judged {
    let statements = &sight.seen.statements;
    let database = &sight.seen.server.database;
    let preload = "ALTER SYSTEM SET shared_preload_libraries = OTHERS, pg_stat_statements; (OTHERS: each library of SHOW \
                   shared_preload_libraries, in quotes of its own; one pair of quotes around all of them is one library, and the \
                   server does not start) and restart in a maintenance window";
    // What a standby has in its databases comes from there.
    let place = if sight.seen.server.in_recovery { " of the primary" } else { "" };
    let create = format!("in database {database}{place}: CREATE EXTENSION pg_stat_statements;");
    let (summary, fix) = match (statements.preloaded, &statements.extension) {
        (Some(false), _) if !statements.available => (
            "pg_stat_statements is not installed on the server".to_owned(),
            format!("Install the server's contrib modules (postgresql-contrib), then {preload}, then {create}"),
        ),
        (Some(false), Some(_)) => {
            ("pg_stat_statements is created but its library is not preloaded".to_owned(), format!("{preload}."))
        }
        (Some(false), None) => {
            ("pg_stat_statements is neither preloaded nor created".to_owned(), format!("{preload}, then {create}"))
        }
        (_, None) => {
            (format!("pg_stat_statements is not created in database {database}"), format!("I{}", &create[1..]))
        }
        (_, Some(_)) => return Ok(Vec::new()),
    };
    let preloaded = match statements.preloaded {
        Some(true) => "yes",
        Some(false) => "no",
        None => "hidden from us",
    };
    let draft = Draft::new(Severity::Info, summary)
        .saw("preloaded", Value::text(preloaded), "shared_preload_libraries")
        .saw("extension", Value::text(statements.extension.clone().unwrap_or_else(|| "none".into())), "pg_extension")
        .fix(fix);
    Ok(vec![draft])
}

pub static GRANTS_MISSING: Check = Check {
    id: "postgres.grants_missing",
    title: "We may not see everything we should watch",
    runbook: Runbook {
        means: "Our role is not a member of pg_monitor. The sessions of other roles, some settings and some sizes are \
                hidden from it, so checks that need them are unknown, and trouble there goes unseen.",
        confirm: "SELECT pg_has_role(current_user, 'pg_monitor', 'USAGE');",
        act: "As a superuser: GRANT pg_monitor TO our role. It allows reading statistics and settings, and nothing else: \
              no table's content, no change. `groundskeeper grants` prints the exact statements.",
    },
    source: "pg_has_role(current_user, 'pg_monitor', 'USAGE')",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(grants_missing),
};

fn grants_missing(sight: &Sight<'_, Postgres>) -> Judged {
    let access = &sight.seen.access;
    if access.superuser || access.monitor {
        return Ok(Vec::new());
    }
    let hidden = sight.seen.activity.as_ref().map_or(0, |activity| activity.hidden);
    let (severity, loss) = match hidden {
        0 => (Severity::Info, "nothing is hidden at the moment".to_owned()),
        1 => (Severity::Warning, "1 session is hidden from us".to_owned()),
        _ => (Severity::Warning, format!("{hidden} sessions are hidden from us")),
    };
    let draft = Draft::new(severity, format!("role {} is not a member of pg_monitor: {loss}", access.user))
        .saw("sessions hidden", Value::count(hidden), "pg_stat_activity")
        .fix(format!("As a superuser: GRANT pg_monitor TO {};", quoted(&access.user)));
    Ok(vec![draft])
}

#[cfg(test)]
mod tests {
    use crate::check::postgres::fixtures::{change, finding, found_in};
    use crate::observation::Statements;
    use crate::severity::Severity;

    #[test]
    fn autovacuum_that_is_off_is_found() {
        let finding = finding("postgres.autovacuum_off", found_in(change(|seen| seen.server.autovacuum = false)));
        assert_eq!(finding.severity, Severity::Warning);
        let standby = change(|seen| (seen.server.autovacuum, seen.server.in_recovery) = (false, true));
        assert_eq!(found_in(standby), []);
    }

    #[test]
    fn an_extension_comes_to_a_standby_from_its_primary() {
        let seen = change(|seen| {
            seen.server.in_recovery = true;
            seen.statements.extension = None;
        });
        let finding = finding("postgres.statements_missing", found_in(seen));
        assert_eq!(finding.fix, "In database docrag of the primary: CREATE EXTENSION pg_stat_statements;");
    }

    #[test]
    fn each_missing_part_of_pg_stat_statements_has_its_own_next_step() {
        let version = Some("1.10".to_owned());
        for (preloaded, extension, available, word) in [
            (Some(false), None, false, "postgresql-contrib"),
            (Some(false), None, true, "then in database docrag: CREATE EXTENSION"),
            (Some(false), version.clone(), true, "restart"),
            (Some(true), None, true, "In database docrag: CREATE EXTENSION"),
            (None, None, true, "In database docrag: CREATE EXTENSION"),
        ] {
            let statements = Statements { preloaded, extension, available, leaders: None, past: Vec::new() };
            let finding =
                finding("postgres.statements_missing", found_in(change(|seen| *seen.statements = statements)));
            assert_eq!(finding.severity, Severity::Info);
            assert!(finding.fix.contains(word), "{}", finding.fix);
        }
        let hidden =
            Statements { preloaded: None, extension: version, available: true, leaders: None, past: Vec::new() };
        assert_eq!(found_in(change(|seen| *seen.statements = hidden)), []);
    }

    #[test]
    fn a_role_without_pg_monitor_is_told_the_exact_grant() {
        for (hidden, severity) in [(0, Severity::Info), (1, Severity::Warning), (7, Severity::Warning)] {
            let seen = change(|seen| {
                seen.access.monitor = false;
                seen.access.user = "Watch\"er".into();
                seen.activity.as_mut().unwrap().hidden = hidden;
            });
            let finding = finding("postgres.grants_missing", found_in(seen));
            assert_eq!(finding.severity, severity);
            assert!(finding.fix.ends_with("GRANT pg_monitor TO \"Watch\"\"er\";"), "{}", finding.fix);
        }
    }

    #[test]
    fn a_superuser_needs_no_grant() {
        let seen = change(|seen| {
            seen.access.monitor = false;
            seen.access.superuser = true;
        });
        finding("postgres.grants_excessive", found_in(seen));
    }
}
