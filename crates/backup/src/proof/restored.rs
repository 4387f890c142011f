//! Rung 3: what was restored is what the server sent.

use super::shortened;
use crate::programs::Programs;
use crate::scratch::DataFolder;
use groundskeeper_core::quantity::format_count;
use groundskeeper_core::receipt::ClimbOutcome;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

/// What the manifest speaks of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Manifest {
    files: u64,
    /// Files of which it knows the size only (`manifest_checksums = none`).
    unsummed: u64,
}

/// Compares every file with the manifest (the server's; ours where the files were read in place), tablespaces included, and
/// parses the WAL that the backup needs. Reads only. The folder must be as it was restored: what booting takes out of it would be missed.
pub async fn restored(programs: &Programs, data: &DataFolder<'_>, within: Duration) -> ClimbOutcome {
    if let Some(why) = programs.missing(&["pg_verifybackup", "pg_waldump"]) {
        return ClimbOutcome::NotTried { why };
    }
    let path = data.path().to_owned();
    let counting = tokio::task::spawn_blocking(move || manifest(&path));
    let arguments = vec!["--quiet".into(), data.path().into()];
    let said = programs.run("pg_verifybackup", arguments, "", data.place().user(), within).await;
    let said = match said {
        Ok(said) => said,
        Err(error) => return ClimbOutcome::NotTried { why: format!("pg_verifybackup cannot be run: {error}") },
    };
    if said.status.is_none() {
        let why = "pg_verifybackup was not through when the time for it was over".to_owned();
        return ClimbOutcome::NotTried { why };
    }
    if !said.is_success() {
        return ClimbOutcome::Failed { why: format!("pg_verifybackup: {}", shortened(&said.text)) };
    }
    match counting.await {
        Ok(Ok(manifest)) => ClimbOutcome::Proven {
            shown: format!(
                "pg_verifybackup of Postgres {} found all {} files as the manifest has them, and the WAL of the backup \
                 readable",
                programs.major(),
                format_count(manifest.files as f64)
            ),
            not_covered: not_covered(&manifest),
        },
        Ok(Err(error)) => ClimbOutcome::Failed { why: format!("backup_manifest cannot be read: {error}") },
        Err(error) => ClimbOutcome::NotTried { why: error.to_string() },
    }
}

fn not_covered(manifest: &Manifest) -> Vec<String> {
    let mut not_covered = vec!["the contents of postgresql.auto.conf, which pg_verifybackup leaves out".to_owned()];
    if manifest.unsummed > 0 {
        let unsummed = format_count(manifest.unsummed as f64);
        not_covered
            .push(format!("the contents of {unsummed} files: the manifest has no checksums for them, only sizes"));
    }
    not_covered
}

/// Line by line, as the server writes one for each file: as a whole it is hundreds of megabytes for a large cluster.
fn manifest(data: &Path) -> io::Result<Manifest> {
    let mut manifest = Manifest::default();
    let mut lines = BufReader::new(File::open(data.join("backup_manifest"))?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        if text.starts_with("{ \"Path\":") || text.starts_with("{ \"Encoded-Path\":") {
            manifest.files += 1;
            manifest.unsummed += u64::from(!text.contains("\"Checksum-Algorithm\":"));
        }
        line.clear();
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_counted_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let text = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n\
            { \"Path\": \"backup_label\", \"Size\": 2, \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"d0\" },\n\
            { \"Encoded-Path\": \"62\", \"Size\": 3, \"Last-Modified\": \"2026-11-22 04:25:19 GMT\" }\n],\n";
        std::fs::write(folder.path().join("backup_manifest"), text).unwrap();
        let manifest = manifest(folder.path()).unwrap();
        assert_eq!(manifest, Manifest { files: 2, unsummed: 1 });
        assert_eq!(not_covered(&manifest).len(), 2);
    }
}
