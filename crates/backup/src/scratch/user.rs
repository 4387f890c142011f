//! Whom scratch servers run as. Postgres refuses root, so root needs somebody else; anybody else is himself.

use crate::error::{Error, Result};
use std::io;
use std::os::unix::fs::{MetadataExt, lchown};
use std::path::Path;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// The user of this name when we are root. None when we are not: then servers run as we do.
    pub(crate) fn to_run_as(name: &str) -> Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let user = std::fs::read_to_string("/etc/passwd").ok().and_then(|passwd| Self::among(&passwd, name));
        let user = user.or_else(|| Self::among(&entry_of(name)?, name)).ok_or_else(|| {
            Error::Scratch(format!(
                "there is no user {name} for scratch servers to run as; make one, or set `run_as` of [backup]"
            ))
        })?;
        if user.uid == 0 {
            let why = format!("scratch servers cannot run as {name}: Postgres refuses root; set `run_as` of [backup]");
            return Err(Error::Scratch(why));
        }
        Ok(Some(user))
    }

    fn among(passwd: &str, wanted: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else { return None };
            let named = name == wanted;
            named.then(|| Some(Self { name: name.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? }))?
        })
    }

    /// Makes `path` itself his, never what it links to.
    pub(crate) fn give(&self, path: &Path) -> Result<()> {
        lchown(path, Some(self.uid), Some(self.gid)).map_err(|error| {
            Error::Scratch(format!("{} cannot be given to the user {}: {error}", path.display(), self.name))
        })
    }

    /// Refuses a folder that he could not reach: Postgres would be the one to fail, and the set would be blamed. Access
    /// lists are not looked at.
    pub(super) fn must_reach(&self, folder: &Path) -> Result<()> {
        for folder in folder.ancestors() {
            let enters = self.may_enter(folder);
            if !enters.map_err(|error| Error::Scratch(format!("{}: {error}", folder.display())))? {
                return Err(Error::Scratch(format!(
                    "the user {}, whom scratch servers run as, may not enter {}; open it to him (`chmod o+x`), or set \
                     `scratch` of [backup] to another folder",
                    self.name,
                    folder.display()
                )));
            }
        }
        Ok(())
    }

    /// By the owner and the mode of this one folder.
    pub(crate) fn may_enter(&self, folder: &Path) -> io::Result<bool> {
        let meta = folder.metadata()?;
        let bit = if meta.uid() == self.uid {
            0o100
        } else if meta.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        Ok(meta.mode() & bit != 0)
    }
}

/// What else but the file knows users, where the system has such a thing (LDAP, systemd).
fn entry_of(name: &str) -> Option<String> {
    let output = std::process::Command::new("getent").args(["passwd", "--", name]).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_the_whole_of_his_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\npostgres2:x:8:9::/:/x\npostgres:x:106:113:,,,:/var/lib:/bin/bash\n";
        let user = User { name: "postgres".to_owned(), uid: 106, gid: 113 };
        assert_eq!(User::among(passwd, "postgres"), Some(user));
        assert_eq!(User::among(passwd, "post"), None);
    }
}
