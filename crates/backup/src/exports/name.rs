//! What a piece is called: all that a list shows.
//!
//! ```text
//! exports/postgres.main/docrag/public/user_sessions/20261123T043015Z-17-0001.50000-rows.before-20261024T040000Z.csv.zst.age
//!         system        database schema table       begun, entry, piece
//! ```
//!
//! Of names, what is no letter, digit, `_` or `-` of ASCII is written `=2E`, byte by byte.

use super::{FOLDER, Manifest};
use crate::repository::Listed;
use groundskeeper_core::SystemId;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

const END: &str = ".csv.zst.age";
const TIME: &str = "%Y%m%dT%H%M%SZ";

/// A piece as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    pub system: SystemId,
    pub database: String,
    pub schema: String,
    pub table: String,
    /// When the deletion began, and its number in the journal.
    pub begun: Timestamp,
    pub entry: i64,
    /// From 1 on.
    pub piece: u32,
    pub rows: u64,
    /// Rows whose column was further back than this.
    pub before: Timestamp,
    /// Bytes in the repository.
    pub stored: u64,
    /// From the top of the repository.
    pub file: String,
}

impl Export {
    /// Of one deletion: `20261123T043015Z-17`
    pub fn run(&self) -> String {
        run(self.begun, self.entry)
    }

    /// `20261123T043015Z-17-0001`
    pub fn id(&self) -> String {
        id(self.begun, self.entry, self.piece)
    }

    /// `docrag.public.user_sessions`
    pub fn relation(&self) -> String {
        format!("{}.{}.{}", self.database, self.schema, self.table)
    }
}

fn run(begun: Timestamp, entry: i64) -> String {
    format!("{}-{entry}", begun.strftime(TIME))
}

fn id(begun: Timestamp, entry: i64, piece: u32) -> String {
    format!("{}-{piece:04}", run(begun, entry))
}

pub(super) fn of(manifest: &Manifest) -> String {
    let Manifest { system, database, schema, table, begun, entry, piece, rows, before, .. } = manifest;
    let (database, schema, table) = (escaped(database), escaped(schema), escaped(table));
    let (id, before) = (id(*begun, *entry, *piece), before.strftime(TIME));
    format!("{FOLDER}/{system}/{database}/{schema}/{table}/{id}.{rows}-rows.before-{before}{END}")
}

/// None for what is none of ours.
pub(super) fn read(listed: Listed) -> Option<Export> {
    let mut parts = listed.name.strip_prefix(FOLDER)?.strip_prefix('/')?.split('/');
    let (system, database, schema, table) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let file = parts.next().filter(|_| parts.next().is_none())?;
    let (id, rest) = file.strip_suffix(END)?.split_once('.')?;
    let (rows, before) = rest.split_once("-rows.before-")?;
    let (begun, rest) = id.split_once('-')?;
    let (entry, piece) = rest.rsplit_once('-')?;
    Some(Export {
        system: system.parse().ok()?,
        database: unescaped(database)?,
        schema: unescaped(schema)?,
        table: unescaped(table)?,
        begun: time(begun)?,
        entry: entry.parse().ok()?,
        piece: piece.parse().ok()?,
        rows: rows.parse().ok()?,
        before: time(before)?,
        stored: listed.size,
        file: listed.name,
    })
}

fn time(text: &str) -> Option<Timestamp> {
    let time = DateTime::strptime(TIME, text).ok()?;
    time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "={byte:02X}");
        }
    }
    out
}

fn unescaped(written: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(written.len());
    let mut rest = written;
    while let Some((plain, escape)) = rest.split_once('=') {
        bytes.extend_from_slice(plain.as_bytes());
        bytes.push(u8::from_str_radix(escape.get(..2)?, 16).ok()?);
        rest = escape.get(2..)?;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_of_a_table_can_be_a_folder_and_is_read_back() {
        for name in ["user_sessions", "..", "a/b", "User Sessions", "größe=1", "line\nfeed", "%2F", "-x"] {
            let written = escaped(name);
            assert_eq!(unescaped(&written).as_deref(), Some(name));
            assert!(written.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-=".contains(&byte)), "{written}");
        }
        for other in ["", "=", "=4", "=ZZ", "=FF", "a=ß"] {
            assert_eq!(unescaped(other), None, "{other}");
        }
    }

    #[test]
    fn what_a_piece_is_can_be_read_off_its_name_and_nothing_else_is_one() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let file = "exports/postgres.main/doc=2Erag/public/User=20Sessions/20261123T043015Z-17-0001.50000-rows.before-20261024T040000Z.csv.zst.age";
        let listed = |name: &str| Listed { name: name.to_owned(), size: 7, at: at("2026-11-23T05:00:00Z") };
        let export = read(listed(file)).unwrap();
        assert_eq!(
            (export.relation().as_str(), export.rows, export.stored),
            ("doc.rag.public.User Sessions", 50_000, 7)
        );
        assert_eq!((export.begun, export.before), (at("2026-11-23T04:30:15Z"), at("2026-10-24T04:00:00Z")));
        assert_eq!((export.run(), export.id()), ("20261123T043015Z-17".into(), "20261123T043015Z-17-0001".into()));
        for other in [
            "exports/notes.txt",
            "exports/postgres.main/a/b/c/d/20261123T043015Z-17-0001.5-rows.before-20261024T040000Z.csv.zst.age",
            "exports/postgres.main/a/b/c/20261123T043015Z-17-0001.5-rows.before-20261024T040000Z.csv.zst.age#1",
            "exports/postgres.main/a/b/c/20261123T043015Z-17.5-rows.before-20261024T040000Z.csv.zst.age",
            "wal/keys/a.age",
        ] {
            assert_eq!(read(listed(other)), None, "{other}");
        }
    }
}
