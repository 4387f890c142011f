//! Which minor version is the newest, and until when a major version gets any.
//!
//! A table that ships with the program: it works without the network and grows old with the program, so every message
//! says "known to this build". Source: <https://www.postgresql.org/support/versioning/>; minors come out on the second
//! Thursday of February, May, August and November, and in between when a release broke something.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold, Unknown, UnknownKind, measured};
use crate::finding::Draft;
use crate::observation::Postgres;
use crate::quantity::{Unit, Value};
use crate::severity::Severity;
use jiff::Timestamp;
use jiff::civil::{Date, date};
use jiff::tz::TimeZone;

/// What is known of a major version.
struct Major {
    number: u32,
    newest_minor: u32,
    /// When that minor came out.
    released: Date,
    /// The day of its last minor release; after it, nothing is mended any more.
    ends: Date,
    /// Minors that were numbered but never released.
    skipped: &'static [u32],
}

/// As known on 2026-11-21. How each entry was found:
/// - 13.23 is the branch's last release, announced with 18.1 on 2025-11-13.
/// - 14.24, 16.15, 17.11 and 18.6 are the releases of 2026-08-13, as downstream projects took them up that week (18.5 was
///   numbered and never released).
/// - 15.20 is what Debian's security archive offers on 2026-11-20; that it belongs to the release day of 2026-11-12 is
///   inferred from the calendar. The other branches surely got a minor on that day too; it is not listed until seen, for
///   we name no version that nobody has found. This can make us one release too lenient, never too strict.
const MAJORS: [Major; 6] = [
    Major { number: 13, newest_minor: 23, released: date(2025, 11, 13), ends: date(2025, 11, 13), skipped: &[] },
    Major { number: 14, newest_minor: 24, released: date(2026, 8, 13), ends: date(2026, 11, 12), skipped: &[] },
    Major { number: 15, newest_minor: 20, released: date(2026, 11, 12), ends: date(2027, 11, 11), skipped: &[] },
    Major { number: 16, newest_minor: 15, released: date(2026, 8, 13), ends: date(2028, 11, 9), skipped: &[] },
    Major { number: 17, newest_minor: 11, released: date(2026, 8, 13), ends: date(2029, 11, 8), skipped: &[] },
    Major { number: 18, newest_minor: 6, released: date(2026, 8, 13), ends: date(2030, 11, 14), skipped: &[5] },
];

const POLICY: &str = "https://www.postgresql.org/support/versioning/";

pub static MINOR_VERSION_BEHIND: Check = Check {
    id: "postgres.minor_version_behind",
    title: "Postgres misses a year of corrections",
    runbook: Runbook {
        means: "Known faults, among them security holes and causes of data loss, are mended in newer minor versions, and \
                this server does not have them. After the end of a major version nothing is mended at all.",
        confirm: "SELECT version(); and compare with https://www.postgresql.org/support/versioning/",
        act: "A minor update replaces the programs and restarts the server; the data stays as it is. Read the release \
              notes for steps after the update (some ask for a REINDEX), take a backup, then update in a maintenance \
              window. For an ended major version plan an upgrade with pg_upgrade and rehearse it on a restored backup.",
    },
    source: "server_version_num against the table of known versions in this build",
    thresholds: &[
        Threshold {
            name: "behind",
            default: 4.0,
            unit: Unit::Count,
            why: "four minors a year: the versioning policy promises one each quarter. To be a release or two behind \
                  is what a distribution's rhythm gives; pending security updates are judged by the updates task, not \
                  here",
        },
        Threshold {
            name: "warning_behind",
            default: 6.0,
            unit: Unit::Count,
            why: "a year and a half of corrections: faults with published exploits are among them",
        },
    ],
    hold: Hold::NONE,
    judge: Judge::Postgres(minor_version_behind),
};

fn minor_version_behind(sight: &Sight<'_, Postgres>) -> Judged {
    let server = &sight.seen.server;
    let (major, minor) = (server.major(), server.minor());
    let running = format!("{major}.{minor}");
    let Some(known) = MAJORS.iter().find(|known| known.number == major) else {
        if major < MAJORS[0].number {
            return Ok(vec![ended(&running, None, &server.version)]);
        }
        return Err(Unknown {
            kind: UnknownKind::NotRead,
            reason: format!("this build of Groundskeeper knows no minor versions of Postgres {major}"),
        });
    };
    if is_after(sight.now, known.ends) {
        return Ok(vec![ended(&running, Some(known), &server.version)]);
    }
    let skipped = known.skipped.iter().filter(|skipped| **skipped > minor).count() as u32;
    let behind = known.newest_minor.saturating_sub(minor).saturating_sub(skipped);
    let limits = [("warning_behind", Severity::Warning), ("behind", Severity::Info)];
    let crossed = limits.into_iter().map(|(name, severity)| (severity, sight.limit(name)));
    let Some((severity, limit)) = crossed.into_iter().find(|(_, limit)| f64::from(behind) >= *limit) else {
        return Ok(Vec::new());
    };
    let newest = format!("{major}.{}", known.newest_minor);
    let (value, threshold) = measured(f64::from(behind), limit, Unit::Count);
    let draft = Draft::new(severity, format!("Postgres {running} is {behind} minor releases behind {newest}"))
        .against("minor releases behind", value, threshold, POLICY)
        .saw("running", Value::text(server.version.clone()), "server_version")
        .saw("newest known to this build", Value::text(format!("{newest} of {}", known.released)), POLICY)
        .saw("corrections for this major version end", Value::text(known.ends.to_string()), POLICY)
        .fix(format!(
            "Read https://www.postgresql.org/docs/release/{newest}/, then update the package (apt-get install --only-upgrade \
             postgresql-{major}, or a newer image) and restart in a maintenance window."
        ));
    Ok(vec![draft])
}

fn ended(running: &str, known: Option<&Major>, version: &str) -> Draft {
    let when = known.map_or_else(|| "years ago".to_owned(), |known| format!("on {}", known.ends));
    let newest = MAJORS[MAJORS.len() - 1].number;
    Draft::new(Severity::Warning, format!("Postgres {running} gets no corrections any more: they ended {when}"))
        .saw("running", Value::text(version.to_owned()), "server_version")
        .saw("corrections ended", Value::text(when), POLICY)
        .fix(format!(
            "Plan an upgrade to a supported major version, up to {newest}: rehearse pg_upgrade on a restored backup, then \
             do it in a maintenance window."
        ))
}

fn is_after(now: Timestamp, day: Date) -> bool {
    now.to_zoned(TimeZone::UTC).date() > day
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, status};

    fn running(version_num: u32) -> Postgres {
        change(|seen| seen.server.version_num = version_num)
    }

    #[test]
    fn a_year_of_missed_releases_is_told_and_longer_is_a_warning() {
        for (version, severity) in
            [(150_016, Severity::Info), (150_014, Severity::Warning), (150_000, Severity::Warning)]
        {
            let finding = finding("postgres.minor_version_behind", found_in(running(version)));
            assert_eq!(finding.severity, severity, "{version}");
            assert!(finding.fix.contains("15.20"), "{}", finding.fix);
        }
    }

    #[test]
    fn a_few_releases_behind_or_newer_than_this_build_is_fine() {
        for version in [150_020, 150_018, 150_017, 150_021, 160_015, 170_012, 180_006] {
            assert_eq!(found_in(running(version)), [], "{version}");
        }
    }

    #[test]
    fn a_number_that_was_never_released_does_not_count() {
        assert_eq!(found_in(running(180_002)), [], "18.3, 18.4 and 18.6 are three releases");
        finding("postgres.minor_version_behind", found_in(running(180_001)));
    }

    #[test]
    fn an_ended_major_version_is_a_warning_whatever_its_minor() {
        for version in [120_022, 130_023, 140_024] {
            let finding = finding("postgres.minor_version_behind", found_in(running(version)));
            assert_eq!(finding.severity, Severity::Warning, "{version}");
        }
    }

    #[test]
    fn a_major_version_that_this_build_does_not_know_is_unknown() {
        assert!(matches!(status("postgres.minor_version_behind", running(190_001), None), Status::Unknown(_)));
    }

    #[test]
    fn the_last_day_of_support_still_counts_as_supported() {
        assert!(!is_after("2026-11-12T23:00:00Z".parse().unwrap(), date(2026, 11, 12)));
        assert!(is_after("2026-11-13T00:00:00Z".parse().unwrap(), date(2026, 11, 12)));
    }
}
