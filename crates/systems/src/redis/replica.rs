//! The whole data of a Redis, as a replica gets them when it comes new: one RDB file.
//!
//! We ask as a replica would and hang up when the file is whole; the server then forgets us. `PSYNC` also says where in the
//! stream of changes the file stands. `redis-cli --rdb` does the same, and would be a program that has to be installed.
//!
//! The file comes in one of two ways: with its length before it (the server wrote it to its disk first), or between two
//! copies of a mark of 40 bytes (`repl-diskless-sync`, the default from 7.0 on). While the server forks and writes, it sends
//! empty lines, so silence is always a fault.

use super::connection::{Connection, Stream, failure, io_failure};
use super::endpoint::Endpoint;
use crate::deadline::within;
use bytes::{Bytes, BytesMut};
use groundskeeper_core::observation::{Failure, FailureKind};
use redis::{Value, cmd};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Taken from the connection at once.
const PIECE: usize = 64 * 1024;
/// A line of the protocol has less than a hundred bytes; an error may quote something.
const LONGEST_LINE: usize = 16 * 1024;
const MARK: usize = 40;

/// Where in a server's stream of changes a file stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub id: String,
    /// Bytes of that stream before the file.
    pub offset: u64,
}

/// An RDB file on its way. Dropped, it hangs up, and the server gives the file up.
pub struct Dump {
    wire: Wire,
    transfer: Transfer,
    position: Option<Position>,
}

enum Transfer {
    Counted {
        left: u64,
    },
    Marked {
        mark: [u8; MARK],
    },
    /// Everything was given.
    Over,
}

/// Asks for the file and waits until it begins; before that the server may write all of it to its disk. `deadline` is for
/// connecting, `silence` for each wait of the transfer.
pub async fn dump(endpoint: &Endpoint, deadline: Duration, silence: Duration) -> Result<Dump, Failure> {
    let address = endpoint.address();
    let opened = async {
        let mut connection = Connection::open(endpoint, &mut "").await?;
        connection.login(endpoint).await?;
        // We take the form without a length, and no changes after the file. Who does not know or allow that sends the file
        // in the other form and changes after it, and both are fine.
        let mut refused = false;
        for (option, value) in [("capa", "eof"), ("rdb-only", "1")] {
            let answer = connection.ask(cmd("REPLCONF").arg(option).arg(value)).await?;
            refused |= matches!(&answer, Value::ServerError(error) if error.code() == "NOPERM");
        }
        Ok((connection.into_stream(), refused))
    };
    let (stream, refused) = within(deadline, address, opened).await?;
    let mut wire = Wire { stream, buffer: BytesMut::new(), address: address.to_owned(), silence };
    let user = endpoint.user.as_deref().unwrap_or("default");
    let position = wire.begin(user, refused).await?;
    let header = wire.line().await?;
    let transfer = transfer(&header).ok_or_else(|| match header.strip_prefix('-') {
        Some(error) => wire.failure(FailureKind::NotReady, error),
        None => wire.failure(FailureKind::Protocol, format!("`{header}` is no beginning of an RDB file")),
    })?;
    Ok(Dump { wire, transfer, position })
}

impl Dump {
    /// None when the server does not say (before 2.8).
    pub fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// The next bytes of the file; none when it is whole. A connection that ends before that is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let buffer = &mut self.wire.buffer;
            match &mut self.transfer {
                Transfer::Over | Transfer::Counted { left: 0 } => return Ok(None),
                Transfer::Counted { left } if !buffer.is_empty() => {
                    let taken = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= taken as u64;
                    return Ok(Some(buffer.split_to(taken).freeze()));
                }
                // The server sends nothing after the mark until a replica has answered, and we never do.
                Transfer::Marked { mark } if buffer.ends_with(mark) => {
                    let last = buffer.split_to(buffer.len() - MARK).freeze();
                    self.transfer = Transfer::Over;
                    return Ok(Some(last).filter(|last| !last.is_empty()));
                }
                // What is at the end may be the beginning of the mark.
                Transfer::Marked { .. } if buffer.len() > MARK => {
                    return Ok(Some(buffer.split_to(buffer.len() - MARK).freeze()));
                }
                Transfer::Counted { .. } | Transfer::Marked { .. } => self.wire.more().await?,
            }
        }
    }
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dump")
            .field("address", &self.wire.address)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

/// `$1234`, or `$EOF:` and the mark.
fn transfer(header: &str) -> Option<Transfer> {
    let form = header.strip_prefix('$')?;
    match form.strip_prefix("EOF:") {
        Some(mark) => Some(Transfer::Marked { mark: mark.as_bytes().try_into().ok()? }),
        None => Some(Transfer::Counted { left: form.parse().ok()? }),
    }
}

struct Wire {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    address: String,
    silence: Duration,
}

impl Wire {
    /// Asks for the file; gives where it stands.
    async fn begin(&mut self, user: &str, refused: bool) -> Result<Option<Position>, Failure> {
        self.send("PSYNC ? -1\r\n").await?;
        let answer = self.line().await?;
        if let Some(words) = answer.strip_prefix("+FULLRESYNC ") {
            let position = words
                .split_once(' ')
                .and_then(|(id, offset)| Some(Position { id: id.to_owned(), offset: offset.trim().parse().ok()? }));
            return Ok(position);
        }
        let Some(error) = answer.strip_prefix('-') else {
            return Err(self.failure(FailureKind::Protocol, format!("`{answer}` is no answer to PSYNC")));
        };
        if error.contains("unknown command") {
            return self.begin_the_old_way(error).await;
        }
        Err(self.refusal(error, user, refused))
    }

    /// Before 2.8 there is no PSYNC, and the answer to SYNC is the file. Managed services know neither.
    async fn begin_the_old_way(&mut self, error: &str) -> Result<Option<Position>, Failure> {
        self.send("SYNC\r\n").await?;
        let answer = self.line().await?;
        if answer.starts_with('-') {
            let why = format!(
                "it gives its data to no replica of ours ({error}); a managed service has backups of its own: leave this \
                 Redis out of `systems` of [backup]"
            );
            return Err(self.failure(FailureKind::Denied, why));
        }
        // The line is the header of the file, which whoever called reads next.
        let rest = self.buffer.split();
        self.buffer.extend_from_slice(answer.as_bytes());
        self.buffer.extend_from_slice(b"\r\n");
        self.buffer.extend_from_slice(&rest);
        Ok(None)
    }

    fn refusal(&self, error: &str, user: &str, refused: bool) -> Failure {
        match error.split(' ').next().unwrap_or_default() {
            "NOPERM" => {
                let also = if refused { " +replconf" } else { "" };
                let why = format!("the user {user} may not copy its data; allow it: ACL SETUSER {user} +psync{also}");
                self.failure(FailureKind::Denied, why)
            }
            "NOAUTH" | "DENIED" => self.failure(FailureKind::Denied, error),
            "NOMASTERLINK" => {
                let why = format!("it is a replica that has lost its primary ({error}); mend that link first");
                self.failure(FailureKind::NotReady, why)
            }
            _ => self.failure(FailureKind::NotReady, error),
        }
    }

    fn failure(&self, kind: FailureKind, message: impl Into<String>) -> Failure {
        failure(kind, message, &self.address)
    }

    async fn send(&mut self, command: &str) -> Result<(), Failure> {
        let sending = async {
            self.stream.write_all(command.as_bytes()).await?;
            self.stream.flush().await
        };
        let sent = tokio::time::timeout(self.silence, sending).await;
        sent.map_err(|_| self.silent())?.map_err(|error| io_failure(&error, &self.address))
    }

    fn silent(&self) -> Failure {
        self.failure(FailureKind::Timeout, format!("it said nothing for {:.0} s", self.silence.as_secs_f64()))
    }

    /// Reads what there is, at least one byte.
    async fn more(&mut self) -> Result<(), Failure> {
        self.buffer.reserve(PIECE);
        let read = tokio::time::timeout(self.silence, self.stream.read_buf(&mut self.buffer)).await;
        match read {
            Err(_) => Err(self.silent()),
            Ok(Err(error)) => Err(io_failure(&error, &self.address)),
            Ok(Ok(0)) => {
                Err(self.failure(FailureKind::Interrupted, "the server hung up before the RDB file was whole"))
            }
            Ok(Ok(_)) => Ok(()),
        }
    }

    /// The next line that is not empty: empty ones keep the connection alive.
    async fn line(&mut self) -> Result<String, Failure> {
        loop {
            while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let line = line.trim_ascii();
                if !line.is_empty() {
                    return Ok(String::from_utf8_lossy(line).into_owned());
                }
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(self.failure(FailureKind::Protocol, "the answer is not in Redis's protocol"));
            }
            self.more().await?;
        }
    }
}

/// What a refusal of INFO means for a backup: which rights its user needs in all.
impl Endpoint {
    pub fn rights_for_a_copy(&self) -> String {
        format!("ACL SETUSER {} +info +config|get +psync +replconf", self.user.as_deref().unwrap_or("default"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_transfer_are_understood_and_nothing_else() {
        assert!(matches!(transfer("$1234"), Some(Transfer::Counted { left: 1234 })));
        let mark = "0123456789012345678901234567890123456789";
        assert!(matches!(transfer(&format!("$EOF:{mark}")), Some(Transfer::Marked { .. })));
        for wrong in ["$", "$-1", "$EOF:short", "+OK", "", "1234"] {
            assert!(transfer(wrong).is_none(), "{wrong}");
        }
    }
}
