//! Does a client open connections and forget them?
//!
//! A pool opens a new connection when none of its own is idle. Who opens one after the other although dozens lie there
//! unused, and closes none of those, has lost them. Two things look alike and are not: a large pool in a quiet night (opens
//! none), and a pool that renews its connections by their age (closes the old ones).

use super::activity::all_seen;
use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown};
use crate::finding::{Draft, Offender, Target};
use crate::observation::{Activity, Opened, Postgres, SessionGroup};
use crate::quantity::{Unit, Value, format_count, format_seconds};
use crate::severity::Severity;
use std::collections::BTreeSet;

const OPENED: &str = "pg_stat_activity: state, backend_start and state_change of the client backends";

/// A rollout opens many at once. A leak goes on: in at least this many of the window's parts.
const PARTS: f64 = 5.0;
const PARTS_WITH_OPENINGS: usize = 3;

pub static CONNECTION_LEAK: Check = Check {
    id: "postgres.connection_leak",
    title: "A client opens connections and forgets them",
    runbook: Runbook {
        means: "A client opens one connection after the other although dozens of its own are idle, and uses those never \
                again. When the last free slot is taken, nobody gets in any more. A restart of the client hides it for a \
                while. Leaks of fewer than three connections in ten minutes are not told from a pool that renews its own.",
        confirm: "SELECT application_name, usename, datname, client_addr, count(*), count(*) FILTER (WHERE state = 'idle' AND \
                  state_change < now() - interval '5 min') AS unused, count(*) FILTER (WHERE backend_start > now() - \
                  interval '10 min') AS opened_lately, min(backend_start) FROM pg_stat_activity WHERE backend_type = \
                  'client backend' GROUP BY 1, 2, 3, 4 ORDER BY 6 DESC;",
        act: "Look at the last statement of the forgotten sessions (SELECT query, count(*) FROM pg_stat_activity WHERE state \
              = 'idle' AND application_name = 'NAME' GROUP BY 1 ORDER BY 2 DESC): it names the code that does not give its \
              connection back, mostly on a path that ends with an error, or that makes a pool for each request. Until \
              that is mended, restart that client alone, one replica after the other. From 14 on ALTER ROLE … SET \
              idle_session_timeout closes what is forgotten; set it only for a role whose pool stands it when a \
              connection ends.",
    },
    source: OPENED,
    thresholds: &[
        Threshold {
            name: "sessions",
            default: 40.0,
            unit: Unit::Count,
            why: "the guide's limit: more than 40 of the default of 100; below it there is time",
        },
        Threshold {
            name: "unused",
            default: 300.0,
            unit: Unit::Seconds,
            why: "idle for as long counts as forgotten: the guide's 10 samples, 30 seconds apart",
        },
        Threshold {
            name: "window",
            default: 600.0,
            unit: Unit::Seconds,
            why: "in how much of the past new ones must have been opened, in at least three fifths of it: a rollout is shorter",
        },
        Threshold {
            name: "time_left",
            default: 3_600.0,
            unit: Unit::Seconds,
            why: "critical when at this rate the last connection is taken within an hour",
        },
    ],
    // With readings 30 seconds apart, all of ten must agree.
    hold: Hold::minutes(5.0, 5.0),
    judge: Judge::Postgres(connection_leak),
};

/// A group that leaks.
struct Leak<'a> {
    group: &'a SessionGroup,
    forgotten: usize,
    /// Opened within the window although many lay unused.
    opened: usize,
}

fn connection_leak(sight: &Sight<'_, Postgres>) -> Judged {
    let activity = sight.seen.activity.as_ref()?;
    let mut leaks: Vec<Leak<'_>> = activity.groups.iter().filter_map(|group| suspected(sight, group)).collect();
    if leaks.is_empty() {
        return all_seen(activity, Vec::new());
    }
    let (earlier, _) = sight.since("whether a client closes the connections that it does not use")?;
    let earlier = earlier.activity.as_ref().map_err(|_| Unknown::needs_history("what a client closes"))?;
    leaks.retain(|leak| keeps_all(earlier, leak.group, sight.limit("unused")));
    leaks.sort_by_key(|leak| std::cmp::Reverse((leak.opened, leak.forgotten)));
    Ok(leaks.first().map(|worst| told(sight, activity, worst, &leaks)).into_iter().collect())
}

fn suspected<'a>(sight: &Sight<'_, Postgres>, group: &'a SessionGroup) -> Option<Leak<'a>> {
    let (most, unused, window) = (sight.limit("sessions"), sight.limit("unused"), sight.limit("window"));
    let forgotten = forgotten(group, unused).count();
    if forgotten as f64 <= most {
        return None;
    }
    // Nobody needed this one: half as many as are one too many lay unused when it was opened, and still do.
    let is_needless = |new: &&Opened| {
        let lay_unused = |other: &&Opened| other.unused.is_some_and(|age| age >= new.age + unused);
        new.age < window && group.sessions.iter().filter(lay_unused).count() as f64 >= (most / 2.0).max(1.0)
    };
    let opened: Vec<&Opened> = group.sessions.iter().filter(is_needless).collect();
    let parts: BTreeSet<u64> = opened.iter().map(|new| (new.age / window * PARTS) as u64).collect();
    (parts.len() >= PARTS_WITH_OPENINGS).then_some(Leak { group, forgotten, opened: opened.len() })
}

fn forgotten(group: &SessionGroup, unused: f64) -> impl Iterator<Item = &Opened> {
    group.sessions.iter().filter(move |session| session.unused.is_some_and(|age| age >= unused))
}

/// None of the sessions that were forgotten at the earlier reading has ended since: nobody knows them any more.
fn keeps_all(earlier: &Activity, group: &SessionGroup, unused: f64) -> bool {
    let is_same = |other: &&SessionGroup| {
        (&other.application, &other.user) == (&group.application, &group.user)
            && (&other.database, &other.client) == (&group.database, &group.client)
    };
    let Some(then) = earlier.groups.iter().find(is_same) else { return false };
    let is_complete = group.sessions.len() >= group.total as usize;
    let oldest_listed = group.sessions.iter().map(|session| session.start).min();
    let is_there = |start| group.sessions.iter().any(|session| session.start == start);
    let is_listed = |start| is_complete || oldest_listed.is_some_and(|oldest| start >= oldest);
    group.total >= then.total
        && forgotten(then, unused).all(|session| is_there(session.start) || !is_listed(session.start))
}

fn told(sight: &Sight<'_, Postgres>, activity: &Activity, worst: &Leak<'_>, leaks: &[Leak<'_>]) -> Draft {
    let (window, server) = (sight.limit("window"), &sight.seen.server);
    let per_second = leaks.iter().map(|leak| leak.opened).sum::<usize>() as f64 / window;
    let usable = server.max_connections.saturating_sub(server.reserved_connections);
    let left = f64::from(usable.saturating_sub(activity.total)) / per_second;
    let severity = if left < sight.limit("time_left") { Severity::Critical } else { Severity::Warning };
    let name = who(worst.group);
    let offenders = leaks.iter().map(|leak| Offender {
        target: Target::System,
        weight: leak.forgotten as f64,
        note: format!(
            "{}: {} connections, {} of them unused, {}",
            who(leak.group),
            leak.group.total,
            leak.forgotten,
            history(leak.group)
        ),
    });
    Draft::new(
        severity,
        format!(
            "{name} has forgotten {} of its {} connections and opens about {} an hour: the last of {usable} is taken in {}",
            worst.forgotten,
            worst.group.total,
            format_count((worst.opened as f64 / window * 3_600.0).round()),
            format_seconds(left)
        ),
    )
    .against(
        "idle and unused connections of the worst",
        Value::count(worst.forgotten as f64),
        Value::count(sight.limit("sessions")),
        OPENED,
    )
    .saw("its connections that are still open", Value::text(history(worst.group)), "backend_start")
    .saw("connections", Value::count(activity.total), "pg_stat_activity")
    .saw("until none is left, at this rate", Value::seconds(left), "max_connections less the reserved slots")
    .offenders(offenders.collect())
    .fix(format!(
        "See which code forgets them: SELECT query, count(*), min(backend_start) FROM pg_stat_activity WHERE state = 'idle' \
         AND application_name = {} AND usename = {} AND datname = {} GROUP BY 1 ORDER BY 2 DESC; mend it there, and restart that client \
         until then.",
        super::horizon::literal(&worst.group.application),
        super::horizon::literal(&worst.group.user),
        super::horizon::literal(&worst.group.database)
    ))
}

/// `opened 3 in the last 10 min, 18 in the last hour, 60 in the last day`: what is left of them.
fn history(group: &SessionGroup) -> String {
    let since = |seconds: f64| group.sessions.iter().filter(|session| session.age < seconds).count();
    format!(
        "opened {} in the last 10 min, {} in the last hour, {} in the last day",
        since(600.0),
        since(3_600.0),
        since(86_400.0)
    )
}

fn who(group: &SessionGroup) -> String {
    let application = if group.application.is_empty() { "a client without a name" } else { &group.application };
    let client = if group.client.is_empty() { "this machine" } else { &group.client };
    format!("{application} (user {} in {} from {client})", group.user, group.database)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::postgres::fixtures::{ago, change, finding, found, healthy, minute_before, reading, status};
    use crate::check::{Status, UnknownKind};
    use crate::finding::Finding;
    use crate::observation::{Gap, Observation};

    const ID: &str = "postgres.connection_leak";

    /// A session that was opened so many seconds ago, and was last used so long ago.
    fn opened(age: f64, unused: f64) -> Opened {
        Opened { start: ago(age), age, unused: Some(unused) }
    }

    /// One a minute for so many minutes, each used for a second.
    fn leaked(minutes: u32) -> Vec<Opened> {
        (0..minutes).map(|n| opened(f64::from(n) * 60.0 + 10.0, f64::from(n) * 60.0 + 9.0)).collect()
    }

    fn with(sessions: Vec<Opened>) -> Postgres {
        let total = u32::try_from(sessions.len()).unwrap();
        let group = SessionGroup {
            application: "docrag-worker".into(),
            user: "docrag".into(),
            database: "docrag".into(),
            client: "10.0.0.4".into(),
            total,
            idle: total,
            sessions,
        };
        change(|seen| {
            let activity = seen.activity.as_mut().unwrap();
            activity.total = total + 2;
            activity.groups = vec![group];
        })
    }

    fn found_with(now: Vec<Opened>, before: Vec<Opened>) -> Vec<Finding> {
        found(&Observation::Postgres(reading(with(now))), Some(&minute_before(with(before))))
    }

    #[test]
    fn who_opens_one_after_the_other_and_uses_none_again_is_named_with_the_time_that_is_left() {
        let finding = finding(ID, found_with(leaked(60), leaked(60)[1..].to_vec()));
        assert!(
            finding
                .summary
                .starts_with("docrag-worker (user docrag in docrag from 10.0.0.4) has forgotten 55 of its 60")
        );
        // 35 of 97 are left, at ten in ten minutes.
        assert!(finding.summary.ends_with("opens about 60 an hour: the last of 97 is taken in 35 min"), "{finding:#?}");
        assert_eq!(finding.severity, Severity::Critical);
        assert!(
            finding.offenders[0]
                .note
                .ends_with("opened 10 in the last 10 min, 60 in the last hour, 60 in the last day")
        );
        assert!(finding.fix.contains("usename = 'docrag' AND datname = 'docrag'"), "{}", finding.fix);
    }

    #[test]
    fn forty_is_enough_and_not_too_many() {
        assert_eq!(found_with(leaked(45), leaked(45)), [], "40 of them are older than five minutes");
        assert_eq!(found_with(leaked(46), leaked(46)).len(), 1);
    }

    #[test]
    fn sessions_of_another_database_are_another_client() {
        let mut other = with(leaked(60));
        other.activity.as_mut().unwrap().groups[0].database = "reports".into();
        let found = found(&Observation::Postgres(reading(with(leaked(60)))), Some(&minute_before(other)));
        assert_eq!(found, [], "what it has forgotten there says nothing of it here");
    }

    #[test]
    fn a_large_pool_in_a_quiet_night_is_no_leak() {
        let quiet: Vec<_> = (0..70).map(|n| opened(30_000.0 + f64::from(n), 20_000.0)).collect();
        assert_eq!(found_with(quiet.clone(), quiet), []);
    }

    #[test]
    fn a_busy_pool_that_reuses_its_connections_is_no_leak() {
        let busy: Vec<_> = leaked(70).into_iter().map(|session| opened(session.age, 2.0)).collect();
        assert_eq!(found_with(busy.clone(), busy), []);
    }

    #[test]
    fn a_pool_that_renews_its_connections_by_age_is_no_leak() {
        let now = leaked(60);
        let mut before = now.clone();
        before.push(opened(3_610.0, 3_609.0));
        assert_eq!(found_with(now, before), [], "the oldest was closed between the readings");
    }

    #[test]
    fn a_rollout_that_opens_many_at_once_is_no_leak() {
        let rollout = |age: f64| (0..35).map(move |n| opened(age + f64::from(n) / 10.0, age - 5.0));
        let new: Vec<_> = rollout(400.0).chain(rollout(350.0)).collect();
        assert_eq!(found_with(new.clone(), new), []);
        let beside_old: Vec<_> = rollout(5_000.0).chain(rollout(400.0)).collect();
        assert_eq!(found_with(beside_old.clone(), beside_old), []);
    }

    #[test]
    fn what_is_not_seen_is_unknown() {
        let reason = |seen, before| match status(ID, seen, before) {
            Status::Unknown(unknown) => unknown.kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(with(leaked(60)), None), UnknownKind::NeedsHistory);
        let hidden = change(|seen| seen.activity.as_mut().unwrap().hidden = 9);
        assert_eq!(reason(hidden, Some(healthy())), UnknownKind::NotRead);
        let unread = change(|seen| seen.activity = Err(Gap::new("no answer")));
        assert_eq!(reason(unread, None), UnknownKind::NotRead);
        assert_eq!(status(ID, with(Vec::new()), None), Status::Ok, "the first reading of a healthy server is enough");
    }
}
