//! The RDB file of Redis and Valkey: its checksum, and what is in it.
//!
//! Redis computes CRC64 (Jones' polynomial, reflected, nothing before or after) over everything before the last 8 bytes,
//! which hold it with the lowest byte first. A server with `rdbchecksum no` writes zero there, which says nothing.

mod walk;

pub(crate) use walk::{Holding, Trouble, walk};

use crc::{CRC_64_REDIS, Crc, Digest, Table};
use std::io::{self, Read};

/// `REDIS0011`, `VALKEY080`
const MAGIC: usize = 9;
/// The last byte before the checksum.
const END: u8 = 0xFF;
/// That byte, and the checksum.
const HELD: usize = 9;
/// From this version of the format on there is a checksum.
const SUMMED: u32 = 5;

static CRC: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// Passes an RDB file on and looks at it on the way: the end of what it reads is an error unless it is that of a whole file
/// with the right checksum.
pub(crate) struct Checked<R> {
    from: R,
    digest: Digest<'static, u64, Table<16>>,
    head: Vec<u8>,
    /// The last bytes, which are not summed yet: the end mark and the checksum, once everything was read.
    held: Vec<u8>,
    seal: Option<Seal>,
}

/// How a file begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Of the file's format.
    pub(crate) version: u32,
    /// None when the server made none.
    pub(crate) checksum: Option<u64>,
}

impl<R: Read> Checked<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, digest: CRC.digest(), head: Vec::new(), held: Vec::new(), seal: None }
    }

    /// Once it was read to its end.
    pub(crate) fn seal(&self) -> Option<Seal> {
        self.seal
    }

    pub(crate) fn into_inner(self) -> R {
        self.from
    }

    fn take_in(&mut self, bytes: &[u8]) {
        let wanted = MAGIC - self.head.len();
        self.head.extend_from_slice(&bytes[..wanted.min(bytes.len())]);
        let summed = (self.held.len() + bytes.len()).saturating_sub(HELD);
        let (old, new) = (summed.min(self.held.len()), summed.saturating_sub(self.held.len()));
        self.digest.update(&self.held[..old]);
        self.held.drain(..old);
        self.digest.update(&bytes[..new]);
        self.held.extend_from_slice(&bytes[new..]);
    }

    fn verdict(&self) -> Result<Seal, String> {
        let version = version(&self.head).ok_or("it is no RDB file: it does not begin like one")?;
        let cut = "it is no whole RDB file: its end is missing";
        if version < SUMMED {
            let whole = self.held.last() == Some(&END);
            return if whole { Ok(Seal { version, checksum: None }) } else { Err(cut.to_owned()) };
        }
        let [END, written @ ..] = self.held.as_slice() else { return Err(cut.to_owned()) };
        let written = u64::from_le_bytes(written.try_into().map_err(|_| cut.to_owned())?);
        let mut digest = self.digest.clone();
        digest.update(&[END]);
        let summed = digest.finalize();
        match written {
            0 => Ok(Seal { version, checksum: None }),
            written if written == summed => Ok(Seal { version, checksum: Some(written) }),
            written => Err(format!("its CRC64 is {summed:016x}, and the server wrote {written:016x}")),
        }
    }
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.take_in(&buffer[..read]);
        if read == 0 && !buffer.is_empty() {
            self.seal = Some(self.verdict().map_err(io::Error::other)?);
        }
        Ok(read)
    }
}

/// 11 of `REDIS0011`. Valkey writes its name from its version 9 on, and 80 for the format.
fn version(head: &[u8]) -> Option<u32> {
    let digits = head.strip_prefix(b"REDIS").or_else(|| head.strip_prefix(b"VALKEY"))?;
    let whole = head.len() == MAGIC && digits.iter().all(u8::is_ascii_digit);
    whole.then(|| std::str::from_utf8(digits).ok()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty file of format 11, as a server ends it.
    fn empty(checksum: Option<u64>) -> Vec<u8> {
        let mut file = b"REDIS0011\xFF".to_vec();
        let right = CRC.checksum(&file);
        file.extend(checksum.unwrap_or(right).to_le_bytes());
        file
    }

    /// Gives a few bytes at once, as a connection may.
    struct Drops<'a>(&'a [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let taken = self.1.min(buffer.len()).min(self.0.len());
            buffer[..taken].copy_from_slice(&self.0[..taken]);
            self.0 = &self.0[taken..];
            Ok(taken)
        }
    }

    fn seal(file: &[u8], at_once: usize) -> Result<Seal, String> {
        let mut checked = Checked::new(Drops(file, at_once));
        let mut passed = Vec::new();
        checked.read_to_end(&mut passed).map_err(|error| error.to_string())?;
        assert_eq!(passed, file);
        Ok(checked.seal().unwrap())
    }

    #[test]
    fn the_checksum_is_the_one_of_redis() {
        // From the comment in Redis's own crc64.c.
        assert_eq!(CRC.checksum(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn a_whole_file_passes_in_pieces_of_any_size() {
        let file = empty(None);
        for at_once in 1..=file.len() {
            let seal = seal(&file, at_once).unwrap();
            assert!(seal.version == 11 && seal.checksum.is_some(), "{seal:?}");
        }
        assert_eq!(seal(&empty(Some(0)), 4).unwrap().checksum, None);
        assert_eq!(seal(b"REDIS0003\xFF", 3).unwrap(), Seal { version: 3, checksum: None });
    }

    #[test]
    fn no_bit_may_differ_and_no_byte_may_be_missing() {
        let file = empty(None);
        for bit in 0..file.len() * 8 {
            let mut harmed = file.clone();
            harmed[bit / 8] ^= 1 << (bit % 8);
            // The version is a digit that may become another one, and is summed like the rest.
            assert!(seal(&harmed, 5).is_err(), "bit {bit}");
        }
        for length in 0..file.len() {
            assert!(seal(&file[..length], 5).is_err(), "{length} bytes");
        }
        assert!(seal(&empty(Some(1)), 5).unwrap_err().contains("the server wrote 0000000000000001"));
    }
}
