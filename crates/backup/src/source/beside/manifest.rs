//! `backup_manifest` as Postgres writes it: a line for each file with its CRC-32C, the WAL that is needed, and the SHA-256 of
//! all lines before the last.

use crate::source::qdrant::hexadecimal;
use groundskeeper_core::receipt::Lsn;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{self, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tempfile::SpooledTempFile;

/// Bytes that wait in memory: those of some ten thousand files.
const IN_MEMORY: usize = 1 << 20;
/// The first version whose manifest has the form 2, which names the cluster.
const FORM_2: u32 = 17;

/// One on its way. It waits on the disk: a cluster of millions of files has hundreds of megabytes of it.
pub(super) struct Manifest {
    lines: SpooledTempFile,
    sum: Sha256,
    size: u64,
    /// What comes before the first file.
    head: String,
    is_first: bool,
}

impl Manifest {
    pub(super) fn begin(major: u32, system_identifier: &str) -> Self {
        let head = if major >= FORM_2 {
            format!(
                "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {system_identifier},\n\"Files\": ["
            )
        } else {
            "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [".to_owned()
        };
        let lines = tempfile::spooled_tempfile(IN_MEMORY);
        Self { lines, sum: Sha256::new(), size: 0, head, is_first: true }
    }

    fn put(&mut self, text: &str) -> io::Result<()> {
        self.sum.update(text);
        self.size += text.len() as u64;
        self.lines.write_all(text.as_bytes())
    }

    /// A file; `path` is relative to the data directory.
    pub(super) fn file(&mut self, path: &Path, size: u64, changed: Option<Timestamp>, sum: u32) -> io::Result<()> {
        let mut line = std::mem::take(&mut self.head);
        line.push_str(if self.is_first { "\n{ " } else { ",\n{ " });
        self.is_first = false;
        match path.to_str().map(serde_json::to_string) {
            Some(Ok(path)) => {
                let _ = write!(line, "\"Path\": {path}");
            }
            _ => {
                let _ = write!(line, "\"Encoded-Path\": \"{}\"", hexadecimal(path.as_os_str().as_bytes()));
            }
        }
        let changed = changed.unwrap_or_default().strftime("%Y-%m-%d %H:%M:%S GMT");
        let sum = hexadecimal(&sum.to_le_bytes());
        let _ = write!(
            line,
            ", \"Size\": {size}, \"Last-Modified\": \"{changed}\", \"Checksum-Algorithm\": \"CRC32C\", \
             \"Checksum\": \"{sum}\" }}"
        );
        self.put(&line)
    }

    /// The whole of it, from its start, with its length.
    pub(super) fn end(mut self, timeline: u32, start: Lsn, stop: Lsn) -> io::Result<(SpooledTempFile, u64)> {
        let range = format!(
            "\n],\n\"WAL-Ranges\": [\n{{ \"Timeline\": {timeline}, \"Start-LSN\": \"{start}\", \"End-LSN\": \"{stop}\" \
             }}\n],\n"
        );
        self.put(&range)?;
        let sum = hexadecimal(&self.sum.finalize_reset());
        self.put(&format!("\"Manifest-Checksum\": \"{sum}\"}}\n"))?;
        self.lines.rewind()?;
        Ok((self.lines, self.size))
    }
}
