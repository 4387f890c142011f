//! What has to be known of each kind of part to restore it, Postgres apart.

use super::Tie;
use crate::quantity::format_count;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a part of Postgres has of a configuration that lies outside of the data directory, in its folder `configuration`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// Where each file was: `/etc/postgresql/15/main/pg_hba.conf`.
    pub files: Vec<String>,
    /// What could not be read, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<String>,
}

/// The data of a Redis or Valkey: one RDB file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyspace {
    /// `7.0.15`, `8.1.0 (Valkey)`. An older server may not be able to read the file.
    pub version: String,
    /// Of the file's format: 10 for Redis 7.0.
    pub rdb_version: u32,
    /// Keys of all databases, as the server said right before it made the file.
    pub keys: u64,
    /// Bytes that they took in the server's memory; loading the file takes about as much.
    pub memory: u64,
    /// The CRC64 at the end of the file, as 16 hexadecimal digits. None when the server makes none (`rdbchecksum no`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Where in the stream of changes the file stands: the replication id, and the offset in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<(String, u64)>,
    /// Modules that were loaded, without which a server cannot read the file when it has data of theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub modules: Vec<String>,
}

/// A folder and all below it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTree {
    /// Where it was.
    pub path: String,
    /// Mode (the bits of `chmod`) and owner of the folder itself.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Regular files.
    pub files: u64,
    /// What does not belong into a backup: sockets, pipes, devices, other file systems, the backups themselves.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub left_out: Named,
    /// What changed or went while it was read. A file that changed is as it was read.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub changed: Named,
    /// What could not be read, and is not there.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub unreadable: Named,
}

/// Some of many things, named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub count: u64,
    /// The first of them.
    pub first: Vec<String>,
}

impl Named {
    const MOST: usize = 20;

    pub fn add(&mut self, one: String) {
        self.count += 1;
        if self.first.len() < Self::MOST {
            self.first.push(one);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// `a: Permission denied, b: a socket and 12 more`
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first.join(", "))?;
        match self.count.saturating_sub(self.first.len() as u64) {
            0 => Ok(()),
            more => write!(f, " and {} more", format_count(more as f64)),
        }
    }
}

/// The collections of a Qdrant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vectors {
    /// `1.16.3`. A snapshot is for this version or a newer one.
    pub version: String,
    /// The nodes that it was taken from, by their addresses: the first is `node-1`.
    pub nodes: Vec<String>,
    /// Nodes that the cluster has besides: what lies on them only is not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_covered: Vec<String>,
    pub aliases: u64,
    pub collections: Vec<Collection>,
    /// What ties the points to the chunks of a Postgres, when that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tie: Option<Tie>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collection {
    pub name: String,
    /// As Qdrant counted them right before; it calls that an estimate.
    pub points: u64,
    pub snapshots: Vec<SnapshotFile>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotFile {
    /// In the folder of the part.
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
    /// Whether the server gave a checksum, and this is it.
    pub compared: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::Part;

    #[test]
    fn some_of_many_are_named_and_all_are_counted() {
        let mut named = Named::default();
        (0..1_300).for_each(|number| named.add(format!("file-{number}")));
        assert_eq!((named.count, named.first.len()), (1_300, 20));
        assert!(named.to_string().ends_with("file-19 and 1,280 more"), "{named}");
    }

    #[test]
    fn receipts_of_before_are_read() {
        let part: Part = serde_json::from_str(r#"{"name":"groundskeeper","entries":3,"bytes":9}"#).unwrap();
        assert_eq!(part, Part { name: "groundskeeper".into(), entries: 3, bytes: 9, ..Part::default() });
    }
}
