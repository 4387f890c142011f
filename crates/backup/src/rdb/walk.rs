//! The structure of an RDB file: every entry is stepped over and counted, none is looked into.
//!
//! The format is that of Redis up to 8.0 (`rdb.h`, `rdb.c`) and of Valkey up to 8. What a newer server writes is not called
//! broken but unknown.

use super::{Checked, Seal, version};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holding {
    pub(crate) seal: Seal,
    /// The keys of each database that has any.
    pub(crate) keys: BTreeMap<u32, u64>,
    /// Of these so many have a time at which they go.
    pub(crate) expiring: u64,
    /// Those whose time is not after the moment that was asked for, by database.
    pub(crate) gone: BTreeMap<u32, u64>,
}

impl Holding {
    pub(crate) fn total(&self) -> u64 {
        self.keys.values().sum()
    }
}

/// Why it was not walked to its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The file is not what a server writes.
    Broken(String),
    /// It has something that this version of ours does not know.
    Unknown(String),
}

type Walked<T> = Result<T, Trouble>;

/// Reads a file from its first byte to its checksum. `moment` is in milliseconds since 1970.
pub(crate) fn walk(path: &Path, moment: i64) -> Walked<Holding> {
    let file = File::open(path).map_err(|error| Trouble::Broken(error.to_string()))?;
    Walk::over(file, moment)
}

struct Walk<R: Read> {
    from: BufReader<Checked<R>>,
    at: u64,
    database: u32,
    keys: BTreeMap<u32, u64>,
    gone: BTreeMap<u32, u64>,
    expiring: u64,
}

impl<R: Read> Walk<R> {
    fn over(file: R, moment: i64) -> Walked<Holding> {
        let from = BufReader::with_capacity(256 * 1024, Checked::new(file));
        let mut walk = Self { from, at: 0, database: 0, keys: BTreeMap::new(), gone: BTreeMap::new(), expiring: 0 };
        let head: [u8; super::MAGIC] = walk.bytes()?;
        version(&head).ok_or_else(|| walk.broken("no RDB file: it does not begin like one"))?;
        walk.entries(moment)?;
        let mut rest = Vec::new();
        let read = walk.from.read_to_end(&mut rest);
        read.map_err(|error| Trouble::Broken(error.to_string()))?;
        let whole = walk.from.get_ref().seal().filter(|seal| rest.len() == seal.after_the_end());
        let seal = whole.ok_or_else(|| walk.broken("more after its end"))?;
        Ok(Holding { seal, keys: walk.keys, expiring: walk.expiring, gone: walk.gone })
    }

    fn entries(&mut self, moment: i64) -> Walked<()> {
        let mut expires: Option<i64> = None;
        loop {
            match self.byte()? {
                0xFF => return Ok(()),
                0xFE => {
                    let number = self.length()?;
                    self.database =
                        u32::try_from(number).map_err(|_| self.broken(&format!("a database of number {number}")))?;
                }
                0xFD => expires = Some(i64::from(i32::from_le_bytes(self.bytes()?)).saturating_mul(1000)),
                0xFC => expires = Some(i64::from_le_bytes(self.bytes()?)),
                // Two sizes of hash tables; the fields of the server; how often and when a key was last used.
                0xFB => self.lengths(2)?,
                0xFA => self.strings(2)?,
                0xF9 => self.skip(1)?,
                0xF8 => self.lengths(1)?,
                0xF7 => {
                    self.lengths(1)?;
                    self.module()?;
                }
                0xF5 => self.strings(1)?,
                0xF4 => self.lengths(3)?,
                kind => {
                    self.strings(1)?;
                    self.value(kind)?;
                    *self.keys.entry(self.database).or_default() += 1;
                    if let Some(time) = expires.take() {
                        self.expiring += 1;
                        *self.gone.entry(self.database).or_default() += u64::from(time <= moment);
                    }
                }
            }
        }
    }

    /// A value of one of the types, by the numbers of `rdb.h`.
    fn value(&mut self, kind: u8) -> Walked<()> {
        match kind {
            // A string, and what is packed into one.
            0 | 9..=13 | 16 | 17 | 20 => self.strings(1),
            // Lists and sets; quick lists.
            1 | 2 | 14 => self.each(|walk| walk.strings(1)),
            3 => self.each(|walk| {
                walk.strings(1)?;
                // 253 to 255 stand for what is no finite number.
                let length = walk.byte()?;
                if length < 253 { walk.skip(u64::from(length)) } else { Ok(()) }
            }),
            4 => self.each(|walk| walk.strings(2)),
            5 => self.each(|walk| {
                walk.strings(1)?;
                walk.skip(8)
            }),
            7 => {
                self.lengths(1)?;
                self.module()
            }
            18 => self.each(|walk| {
                walk.lengths(1)?;
                walk.strings(1)
            }),
            15 | 19 | 21 => self.stream(kind),
            // Hashes whose fields expire.
            24 => {
                self.skip(8)?;
                self.each(|walk| {
                    walk.lengths(1)?;
                    walk.strings(2)
                })
            }
            25 => {
                self.skip(8)?;
                self.strings(1)
            }
            _ => Err(Trouble::Unknown(format!("a value of type {kind} at byte {}", self.at))),
        }
    }

    fn stream(&mut self, kind: u8) -> Walked<()> {
        self.each(|walk| walk.strings(2))?;
        // Its length and last id; from the second form on also the first id, the largest deleted one and a count.
        self.lengths(if kind == 15 { 3 } else { 8 })?;
        self.each(|walk| {
            walk.strings(1)?;
            walk.lengths(if kind == 15 { 2 } else { 3 })?;
            // What was delivered and not confirmed: an id, a time, a count.
            walk.each(|walk| {
                walk.skip(16 + 8)?;
                walk.lengths(1)
            })?;
            walk.each(|walk| {
                walk.strings(1)?;
                walk.skip(if kind == 21 { 16 } else { 8 })?;
                walk.each(|walk| walk.skip(16))
            })
        })
    }

    /// What a module wrote, which says of each of its values what it is.
    fn module(&mut self) -> Walked<()> {
        loop {
            match self.length()? {
                0 => return Ok(()),
                1 | 2 => self.lengths(1)?,
                3 => self.skip(4)?,
                4 => self.skip(8)?,
                5 => self.strings(1)?,
                other => return Err(self.broken(&format!("a module's value of kind {other}"))),
            }
        }
    }

    fn each(&mut self, step: impl Fn(&mut Self) -> Walked<()>) -> Walked<()> {
        for _ in 0..self.length()? {
            step(self)?;
        }
        Ok(())
    }

    fn lengths(&mut self, count: usize) -> Walked<()> {
        (0..count).try_for_each(|_| self.length().map(drop))
    }

    fn strings(&mut self, count: usize) -> Walked<()> {
        (0..count).try_for_each(|_| self.string())
    }

    fn length(&mut self) -> Walked<u64> {
        let first = self.byte()?;
        match (first >> 6, first) {
            (0, _) => Ok(u64::from(first)),
            (1, _) => Ok(u64::from(first & 0x3F) << 8 | u64::from(self.byte()?)),
            (_, 0x80) => Ok(u64::from(u32::from_be_bytes(self.bytes()?))),
            (_, 0x81) => Ok(u64::from_be_bytes(self.bytes()?)),
            _ => Err(self.broken(&format!("a length that begins with {first:#04x}"))),
        }
    }

    fn string(&mut self) -> Walked<()> {
        // A number in the place of a text, or a compressed text: its two lengths, of which the first is in the file.
        match self.peek()? {
            0xC0 => self.skip(1 + 1),
            0xC1 => self.skip(1 + 2),
            0xC2 => self.skip(1 + 4),
            0xC3 => {
                self.skip(1)?;
                let packed = self.length()?;
                self.lengths(1)?;
                self.skip(packed)
            }
            _ => {
                let length = self.length()?;
                self.skip(length)
            }
        }
    }

    fn peek(&mut self) -> Walked<u8> {
        match self.from.fill_buf() {
            Ok([first, ..]) => Ok(*first),
            Ok([]) => Err(self.broken("an end in the middle")),
            Err(error) => Err(Trouble::Broken(error.to_string())),
        }
    }

    fn byte(&mut self) -> Walked<u8> {
        let byte = self.peek()?;
        self.from.consume(1);
        self.at += 1;
        Ok(byte)
    }

    fn bytes<const N: usize>(&mut self) -> Walked<[u8; N]> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = self.byte()?;
        }
        Ok(bytes)
    }

    fn skip(&mut self, count: u64) -> Walked<()> {
        let mut left = count;
        while left > 0 {
            self.peek()?;
            let there = self.from.buffer().len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.from.consume(there);
            self.at += there as u64;
            left -= there as u64;
        }
        Ok(())
    }

    fn broken(&self, what: &str) -> Trouble {
        Trouble::Broken(format!("it has {what} at byte {}", self.at))
    }
}

impl Seal {
    /// How many bytes come after the end mark.
    fn after_the_end(self) -> usize {
        if self.version < super::SUMMED { 0 } else { super::HELD - 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of these entries with the right checksum.
    fn file(entries: &[u8]) -> Vec<u8> {
        let mut file = b"REDIS0011".to_vec();
        file.extend_from_slice(entries);
        file.push(super::super::END);
        file.extend(super::super::CRC.checksum(&file).to_le_bytes());
        file
    }

    fn held(entries: &[u8]) -> Walked<Holding> {
        Walk::over(&file(entries)[..], 2_000)
    }

    #[test]
    fn keys_are_counted_by_database_and_so_are_those_whose_time_is_over() {
        let mut entries = b"\xFA\x02ab\xC0\x07\xFE\x00\xFB\x03\x02\x00\x01a\x01x".to_vec();
        entries.extend(b"\xFC\xD0\x07\0\0\0\0\0\0\x00\x01b\x01x");
        entries.extend(b"\xFC\xD1\x07\0\0\0\0\0\0\x00\x01c\x01x\xFE\x09\x00\x01a\xC3\x01\x05x");
        let holding = held(&entries).unwrap();
        assert_eq!(holding.keys, BTreeMap::from([(0, 3), (9, 1)]));
        assert_eq!((holding.total(), holding.expiring, holding.gone[&0]), (4, 2, 1));
        assert_eq!(held(b"").unwrap().total(), 0);
    }

    #[test]
    fn what_is_cut_or_makes_no_sense_is_broken_and_what_is_new_is_unknown() {
        for entries in [&b"\x00\x05a"[..], b"\x00\x01a\xBF", b"\xFE\x81\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF", b"\x00"] {
            assert!(matches!(held(entries), Err(Trouble::Broken(_))), "{entries:?}");
        }
        assert!(matches!(held(b"\x3C\x01a\x01x"), Err(Trouble::Unknown(why)) if why.contains("type 60 at byte 12")));
        let mut wrong = file(b"\x00\x01a\x01x");
        wrong[13] ^= 1;
        let Err(Trouble::Broken(why)) = Walk::over(&wrong[..], 0) else { panic!("a bit was flipped") };
        assert!(why.contains("CRC64"), "{why}");
    }
}
