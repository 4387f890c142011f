//! Can the folder be read?

use crate::check::{Check, Hold, Judge, Runbook};
use crate::finding::Draft;
use crate::observation::{Failure, FailureKind};
use crate::quantity::Value;
use crate::severity::Severity;
use crate::system::SystemKind;

pub static UNREACHABLE: Check = Check {
    id: "logs.unreachable",
    title: "The log folder cannot be read",
    runbook: Runbook {
        means: "Nobody watches the size of these logs, and perhaps nobody writes them.",
        confirm: "ls -ld FOLDER; ls FOLDER | head",
        act: "Follow the fix of the finding. If the application moved its logs, correct the path in groundskeeper.toml.",
    },
    source: "reading the folder",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Reach(SystemKind::Logs, unreachable),
};

fn unreachable(failure: &Failure) -> Draft {
    // A folder that cannot be read harms nobody by itself, unlike a server that does not answer.
    let (what, fix) = match failure.kind {
        FailureKind::Timeout => (
            "does not answer in time",
            "the filesystem hangs or is very slow: look at its mount (df FOLDER; dmesg | tail), and at dead network \
             filesystems",
        ),
        FailureKind::Denied => (
            "may not be read",
            "give groundskeeper's user read access: setfacl -R -m u:groundskeeper:rX FOLDER, or add it to group adm",
        ),
        _ => ("cannot be read", "create the folder, mount it, or correct its path in groundskeeper.toml"),
    };
    Draft::new(Severity::Warning, format!("The log folder {} {what}: {}", failure.address, failure.message))
        .saw("failure", Value::text(failure.message.clone()), format!("reading {}", failure.address))
        .fix(fix)
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{failing, one, unreached};
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_read_is_one_finding_and_all_else_is_unknown() {
        for kind in [FailureKind::Missing, FailureKind::Denied, FailureKind::Timeout] {
            let judgements = unreached(kind);
            assert_eq!(failing(&judgements), one("logs.unreachable", Severity::Warning));
            assert!(judgements.iter().skip(1).all(|judgement| judgement.status.as_str() == "unknown"));
        }
    }
}
