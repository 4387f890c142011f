//! Does a time service keep the clock?
//!
//! The kernel knows (`adjtimex`), but asking it needs unsafe code here and is forbidden in many containers. So the two
//! services that keep nearly every Linux clock are asked: systemd-timesyncd by the file that it leaves, chronyd by its
//! own protocol on the loopback. No child process is started for that twice a minute.

use super::chrony;
use groundskeeper_core::observation::{Clock, Gap, Part};
use std::path::Path;

pub(super) async fn read() -> Part<Clock> {
    match timesyncd(Path::new("/run/systemd/timesync")) {
        // It may be another service that runs while timesyncd has only left its folder behind: ask chronyd as well.
        Some(Clock { synchronised: true, max_error }) => Ok(Clock { synchronised: true, max_error }),
        found => match chrony::ask(chrony::ADDRESS).await.or(found) {
            Some(clock) => Ok(clock),
            None => Err(Gap::new(
                "neither systemd-timesyncd nor chronyd answers here; in a container the clock is the host's",
            )),
        },
    }
}

/// None when it does not run. The file appears with the first answer of a time server.
fn timesyncd(folder: &Path) -> Option<Clock> {
    if !folder.is_dir() {
        return None;
    }
    Some(Clock { synchronised: folder.join("synchronized").exists(), max_error: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timesyncd_tells_by_a_file() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(timesyncd(&folder.path().join("none")), None);
        assert!(!timesyncd(folder.path()).unwrap().synchronised);
        std::fs::write(folder.path().join("synchronized"), "").unwrap();
        assert!(timesyncd(folder.path()).unwrap().synchronised);
    }
}
