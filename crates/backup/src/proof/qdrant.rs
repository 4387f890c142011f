//! The rung of a Qdrant: each snapshot that was restored has the SHA-256 under which it was stored, and is a whole archive.

use crate::source::qdrant::hexadecimal;
use groundskeeper_core::quantity::{format_bytes, format_count};
use groundskeeper_core::receipt::{Climb, ClimbOutcome, Rung, SnapshotFile, Vectors};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What was restored to `folder`. Only a Qdrant could say more of it.
pub(crate) fn climb(folder: &Path, vectors: &Vectors, at: Timestamp) -> Climb {
    let snapshots = || vectors.collections.iter().flat_map(|collection| &collection.snapshots);
    let wrong: Vec<String> = snapshots().filter_map(|snapshot| wrong(folder, snapshot)).collect();
    let outcome = if wrong.is_empty() {
        let bytes = format_bytes(snapshots().map(|snapshot| snapshot.bytes).sum::<u64>() as f64);
        let count = format_count(snapshots().count() as f64);
        let uncompared = snapshots().filter(|snapshot| !snapshot.compared).count();
        let mut not_covered = vectors.not_covered.iter().map(|node| format!("the node {node}")).collect::<Vec<_>>();
        if uncompared > 0 {
            not_covered.push(format!("{uncompared} snapshots for which the server gave no checksum"));
        }
        let shown =
            format!("{count} snapshots with {bytes} have the SHA-256 under which they came, and are whole archives");
        ClimbOutcome::Proven { shown, not_covered }
    } else {
        ClimbOutcome::Failed { why: wrong.join("; ") }
    };
    Climb { rung: Rung::Restored, at, took: 0.0, outcome }
}

fn wrong(folder: &Path, snapshot: &SnapshotFile) -> Option<String> {
    let path = folder.join(&snapshot.path);
    let read = || -> io::Result<String> {
        let sum = hash(&mut File::open(&path)?)?;
        let mut archive = tar::Archive::new(File::open(&path)?);
        for entry in archive.entries()? {
            entry?;
        }
        Ok(sum)
    };
    match read() {
        Ok(sum) if sum == snapshot.sha256 => None,
        Ok(sum) => Some(format!("{} has the SHA-256 {sum}, and the set {}", snapshot.path, snapshot.sha256)),
        Err(error) => Some(format!("{}: {error}", snapshot.path)),
    }
}

fn hash(file: &mut File) -> io::Result<String> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 * 1024]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            read => hash.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::Collection;

    #[test]
    fn a_snapshot_that_differs_or_is_no_archive_fails() {
        let folder = tempfile::tempdir().unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        archive.append_data(&mut header, "config.json", io::empty()).unwrap();
        let whole = archive.into_inner().unwrap();
        let climbed = |content: &[u8], of: &[u8]| {
            std::fs::write(folder.path().join("node-1.snapshot"), content).unwrap();
            let sha256 = hexadecimal(&Sha256::digest(of));
            let bytes = of.len() as u64;
            let snapshot = SnapshotFile { path: "node-1.snapshot".into(), bytes, sha256, compared: false };
            let collections = vec![Collection { name: "docs".into(), points: 1, snapshots: vec![snapshot] }];
            let vectors = Vectors { collections, ..Vectors::default() };
            climb(folder.path(), &vectors, Timestamp::UNIX_EPOCH).outcome
        };
        let ClimbOutcome::Proven { not_covered, .. } = climbed(&whole, &whole) else { panic!("it is whole") };
        assert!(not_covered[0].contains("no checksum"), "{not_covered:?}");
        let why = |outcome: ClimbOutcome| {
            if let ClimbOutcome::Failed { why } = outcome { why } else { panic!("{outcome:?}") }
        };
        assert!(why(climbed(&whole, b"other")).contains("SHA-256"));
        let torn = vec![b'x'; 1024];
        assert!(why(climbed(&torn, &torn)).starts_with("node-1.snapshot: "));
    }
}
