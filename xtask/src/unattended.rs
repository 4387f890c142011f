//! Installing server packages without getting servers: Debian starts services and makes a Postgres cluster unless told
//! not to. Both guards undo what they did when dropped, and recognise by a mark what a killed run left behind.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const MARK: &str = "# written by `cargo xtask setup` for the time of an installation; safe to remove";
const POLICY: &str = "/usr/sbin/policy-rc.d";
const CLUSTER: &str = "/etc/postgresql-common/createcluster.conf";

/// While it lives, packages do not start their services (`invoke-rc.d` asks `policy-rc.d`, and 101 forbids).
#[derive(Debug)]
pub(crate) struct NoServiceStarts {
    written: Option<PathBuf>,
}

impl NoServiceStarts {
    pub(crate) fn hold() -> io::Result<Self> {
        Self::hold_at(Path::new(POLICY))
    }

    fn hold_at(path: &Path) -> io::Result<Self> {
        let foreign = fs::read_to_string(path).is_ok_and(|text| !text.contains(MARK));
        if foreign {
            // Somebody has decided already; containers usually forbid starts as well.
            return Ok(Self { written: None });
        }
        fs::write(path, format!("#!/bin/sh\n{MARK}\nexit 101\n"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        Ok(Self { written: Some(path.to_owned()) })
    }
}

impl Drop for NoServiceStarts {
    fn drop(&mut self) {
        if let Some(path) = &self.written {
            report(path, fs::remove_file(path));
        }
    }
}

/// While it lives, installing a Postgres server makes no cluster.
#[derive(Debug)]
pub(crate) struct NoMainCluster {
    path: PathBuf,
}

impl NoMainCluster {
    /// The file comes with postgresql-common, which must be installed before.
    pub(crate) fn hold() -> io::Result<Self> {
        Self::hold_at(Path::new(CLUSTER))
    }

    fn hold_at(path: &Path) -> io::Result<Self> {
        let text = without_marked(&fs::read_to_string(path)?);
        // In the last place, because the last value of a setting counts.
        fs::write(path, format!("{text}create_main_cluster = false {MARK}\n"))?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for NoMainCluster {
    fn drop(&mut self) {
        let restored = fs::read_to_string(&self.path).and_then(|text| fs::write(&self.path, without_marked(&text)));
        report(&self.path, restored);
    }
}

/// The file as its package wrote it, so that an upgrade does not ask about a changed configuration file.
fn without_marked(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.contains(MARK)).collect()
}

fn report(path: &Path, undone: io::Result<()>) {
    if let Err(error) = undone {
        eprintln!("setup: cannot restore {}: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn the_policy_is_there_only_meanwhile() {
        let path = folder("policy").join("policy-rc.d");
        let guard = NoServiceStarts::hold_at(&path).unwrap();
        assert!(fs::read_to_string(&path).unwrap().contains("exit 101"));
        drop(guard);
        assert!(!path.exists());
    }

    #[test]
    fn the_policy_of_somebody_else_is_left_alone() {
        let path = folder("foreign").join("policy-rc.d");
        fs::write(&path, "#!/bin/sh\nexit 0\n").unwrap();
        drop(NoServiceStarts::hold_at(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 0\n");
    }

    #[test]
    fn the_cluster_setting_is_restored_also_after_a_killed_run() {
        let path = folder("cluster").join("createcluster.conf");
        let packaged = "# comment\nssl = on\n";
        fs::write(&path, packaged).unwrap();
        std::mem::forget(NoMainCluster::hold_at(&path).unwrap());
        let guard = NoMainCluster::hold_at(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().matches("create_main_cluster = false").count(), 1);
        drop(guard);
        assert_eq!(fs::read_to_string(&path).unwrap(), packaged);
    }
}
