//! From the runtime, where a system is read, to the thread that puts it into the feed.
//!
//! A channel of a few messages lies between the two, so that neither is far ahead. A sender that goes away before it has
//! said that this is the end was lost, and that is an error.

use crate::error::Error;
use bytes::Bytes;
use std::io::{self, Read};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Messages under way: 64 of at most 64 KiB.
const AHEAD: usize = 64;

#[derive(Debug)]
pub(crate) enum Message {
    Data(Bytes),
    End,
    /// What went wrong, and whether the same may succeed later.
    Failed(String, bool),
}

/// The bytes of one file of a system.
#[derive(Debug)]
pub(crate) struct Incoming {
    messages: Receiver<Message>,
    piece: Bytes,
    over: bool,
    failure: Option<(String, bool)>,
}

impl Incoming {
    pub(crate) fn new() -> (Sender<Message>, Self) {
        let (sender, messages) = channel(AHEAD);
        (sender, Self { messages, piece: Bytes::new(), over: false, failure: None })
    }

    /// What was wrong with the system, or else with the reading of it.
    pub(crate) fn failure(self, system: &str, error: &io::Error) -> Error {
        let (why, retryable) = self.failure.unwrap_or_else(|| (error.to_string(), true));
        Error::Source { system: system.to_owned(), why, retryable }
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            if self.over {
                return Ok(0);
            }
            match self.messages.blocking_recv() {
                Some(Message::Data(piece)) => self.piece = piece,
                Some(Message::End) => self.over = true,
                Some(Message::Failed(why, retryable)) => {
                    self.failure = Some((why.clone(), retryable));
                    return Err(io::Error::other(why));
                }
                None => return Err(io::Error::other("what it sends ended before it was whole")),
            }
        }
        let taken = self.piece.split_to(buffer.len().min(self.piece.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}
