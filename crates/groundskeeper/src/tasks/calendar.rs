//! The calendar of the design: every task with its time and what it is for, also those that this build does not have.
//!
//! A task that is not built yet is listed as such and never as done.

/// A line of the calendar.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    pub name: &'static str,
    pub what: &'static str,
    pub when: When,
    pub built: bool,
}

/// The default time, in the configured zone.
#[derive(Debug, Clone, Copy)]
pub enum When {
    Seconds(u64),
    Cron(&'static str),
    Always,
}

const fn line(name: &'static str, when: When, built: bool, what: &'static str) -> Line {
    Line { name, what, when, built }
}

pub static LINES: &[Line] = &[
    line("watch", When::Seconds(30), true, "the cheap checks of every system; opens and resolves findings"),
    line("wal", When::Always, true, "streams WAL into the repository"),
    line("backup", When::Cron("0 1 * * *"), true, "one backup set: every system of [backup], and the keeper itself"),
    line(
        "retention",
        When::Cron("0 4 * * *"),
        true,
        "which backup sets no rule keeps; removes them in the window when [backup.keep] says so",
    ),
    line("daily-health", When::Cron("0 9 * * *"), true, "the full sweep and the day's report"),
    line("logs", When::Cron("0 12 * * *"), false, "rotation, compression, retention and error patterns of logs"),
    line("security", When::Cron("0 18 * * *"), false, "certificates, failed logins, rate limits, scan results"),
    line(
        "backup-verification",
        When::Cron("0 22 * * *"),
        true,
        "reads the newest set back; restores and boots it on Sundays and when that was not proven for 6 days",
    ),
    line(
        "database-maintenance",
        When::Cron("15 2 * * SUN"),
        true,
        "deletes what rules do not keep, vacuums and analyzes, builds indexes anew, mends sequences; in the window",
    ),
    line(
        "performance-review",
        When::Cron("0 6 * * SUN"),
        true,
        "slow statements, cache hit rates, latency and growth of the last 7 days",
    ),
    line("capacity-plan", When::Cron("0 7 * * SUN"), false, "forecasts and saturation dates"),
    line("updates", When::Cron("0 8 * * SUN"), false, "pending security updates and their age"),
    line("security-audit", When::Cron("0 5 1 * *"), false, "roles, grants, the age of secrets"),
    line("disaster-recovery-drill", When::Cron("0 3 1 * *"), false, "restores the whole set on a scratch place"),
    line("cost-review", When::Cron("0 10 1 * *"), false, "idle and over-requested resources"),
    line("documentation", When::Cron("0 11 1 * *"), false, "runbooks, inventory, recovery plan"),
    line("benchmark", When::Cron("0 4 5 1,4,7,10 *"), false, "a load test against the baseline"),
    line("infrastructure-review", When::Cron("0 5 6 1,4,7,10 *"), false, "versions and end-of-life dates"),
    line("scaling-evaluation", When::Cron("0 6 7 1,4,7,10 *"), false, "autoscalers against the load of the quarter"),
    line("game-day", When::Cron("0 10 8 1,4,7,10 *"), false, "faults on a staging stack, to train whoever is on call"),
];

/// Every name that a `[tasks.NAME]` table may have.
pub static NAMES: &[&str] = &[
    "watch",
    "wal",
    "backup",
    "retention",
    "daily-health",
    "logs",
    "security",
    "backup-verification",
    "database-maintenance",
    "performance-review",
    "capacity-plan",
    "updates",
    "security-audit",
    "disaster-recovery-drill",
    "cost-review",
    "documentation",
    "benchmark",
    "infrastructure-review",
    "scaling-evaluation",
    "game-day",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_lines_and_every_cron_line_is_one() {
        assert_eq!(LINES.iter().map(|line| line.name).collect::<Vec<_>>(), NAMES);
        for line in LINES {
            if let When::Cron(cron) = line.when {
                crate::scheduler::Schedule::cron(cron, jiff::tz::TimeZone::UTC).unwrap();
            }
        }
    }
}
