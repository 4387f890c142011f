//! Does anything keep the clock?

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Unknown, UnknownKind};
use crate::finding::Draft;
use crate::observation::Host;
use crate::quantity::Value;
use crate::severity::Severity;

pub static CLOCK_UNSYNCHRONISED: Check = Check {
    id: "host.clock_unsynchronised",
    title: "Nothing keeps the clock",
    runbook: Runbook {
        means: "The clock drifts, about a second a day and more: tokens and certificates are refused, logs of two \
                machines cannot be put in order, point-in-time recovery stops at the wrong moment.",
        confirm: "timedatectl (System clock synchronized), or chronyc tracking (Leap status)",
        act: "Start a time service: systemctl enable --now systemd-timesyncd (or chrony). If it runs, see whether it \
              reaches its servers: UDP port 123 outwards; timedatectl timesync-status, chronyc sources.",
    },
    source: "state of systemd-timesyncd under /run/systemd/timesync, or chronyd's answer to `tracking`",
    thresholds: &[],
    hold: Hold::minutes(10.0, 1.0),
    judge: Judge::Host(clock_unsynchronised),
};

fn clock_unsynchronised(sight: &Sight<'_, Host>) -> Judged {
    let clock = sight.seen.clock.as_ref().map_err(|gap| {
        // Containers and many virtual machines have their clock kept from outside.
        let kind = if gap.permission { UnknownKind::NotRead } else { UnknownKind::NotHere };
        Unknown { kind, reason: gap.reason.clone() }
    })?;
    if clock.synchronised {
        return Ok(Vec::new());
    }
    let mut draft = Draft::new(Severity::Warning, "The time service of this machine has not synchronised its clock")
        .saw("synchronised", Value::text("no"), "the time service");
    if let Some(error) = clock.max_error {
        draft = draft.saw("largest error", Value::seconds(error), "the time service");
    }
    Ok(vec![draft.fix("timedatectl timesync-status, or chronyc sources: see whether it reaches a time server")])
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, healthy, judged, one, status};
    use super::*;
    use crate::observation::{Clock, Gap};

    #[test]
    fn a_clock_that_nobody_keeps_is_one_finding_and_one_that_cannot_be_asked_is_unknown() {
        let mut seen = healthy();
        seen.clock = Ok(Clock { synchronised: false, max_error: Some(16.0) });
        assert_eq!(failing(&judged(seen.clone())), one("host.clock_unsynchronised", Severity::Warning));
        seen.clock = Err(Gap::new("no time service here"));
        let judgements = judged(seen);
        assert_eq!(failing(&judgements), []);
        assert_eq!(status(&judgements, "host.clock_unsynchronised"), "unknown");
    }
}
