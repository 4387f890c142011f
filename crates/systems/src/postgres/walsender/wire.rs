//! Messages over one connection, with a deadline on every wait.
//!
//! A backup's data are parts of the buffer that they were read into, handed on without a copy. When they have been dropped
//! by the time that the buffer is full, it is used again: then reading allocates nothing.

use super::error::WalSenderError;
use bytes::BytesMut;
use postgres_protocol::message::backend::{COPY_OUT_RESPONSE_TAG, DataRowBody, ErrorFields, Header, Message};
use postgres_protocol::message::frontend;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_postgres::fallible_iterator::FallibleIterator;

/// The server sends a backup's data in messages of 32 KiB, and a busy socket holds several of them.
const BUFFER: usize = 256 << 10;
/// With less room than this a read would be cut short: start over at the front, or in a new buffer.
const ROOM: usize = 64 << 10;
/// What announces more than this is no Postgres.
const LONGEST_MESSAGE: i32 = 16 << 20;
/// A damaged cluster has more warnings than anybody reads.
const MOST_WARNINGS: usize = 100;
const GOODBYE: Duration = Duration::from_secs(1);
/// `CopyBothResponse` of a replication stream, which `Message` does not know. It has the form of `CopyOutResponse`.
const COPY_BOTH: u8 = b'W';

pub(super) type Result<T> = std::result::Result<T, WalSenderError>;
/// The columns of one row, as text.
pub(super) type Row = Vec<Option<String>>;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(super) struct Wire {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    pub(super) address: String,
    /// How long the server may be silent, and what it is silent about.
    pub(super) within: Duration,
    pub(super) doing: &'static str,
    /// What it called a warning.
    pub(super) warnings: Vec<String>,
    /// `server_version`, once it told.
    pub(super) version: Option<String>,
}

impl Wire {
    pub(super) fn new(stream: Box<dyn Stream>, address: &str, within: Duration) -> Self {
        Self {
            stream,
            buffer: BytesMut::with_capacity(BUFFER + ROOM),
            address: address.to_owned(),
            within,
            doing: "during the login",
            warnings: Vec::new(),
            version: None,
        }
    }

    /// The next message that is meant for us. An error that the server reports is an error here.
    pub(super) async fn receive(&mut self) -> Result<Message> {
        loop {
            match self.buffered()? {
                None => self.fill().await?,
                Some(Message::NoticeResponse(body)) => self.note(body.fields()),
                Some(Message::ParameterStatus(body)) => {
                    if body.name().is_ok_and(|name| name == "server_version") {
                        self.version = body.value().ok().map(str::to_owned);
                    }
                }
                Some(Message::ErrorResponse(body)) => return Err(self.reported(body.fields())),
                Some(message) => return Ok(message),
            }
        }
    }

    /// A message that has arrived as a whole.
    fn buffered(&mut self) -> Result<Option<Message>> {
        // Message::parse would make room for the rest of a message, and less of it than is worth a read.
        let Some(header) = Header::parse(&self.buffer).map_err(|error| self.nonsense(error.to_string()))? else {
            return Ok(None);
        };
        if header.len() > LONGEST_MESSAGE {
            return Err(self.nonsense(format!("a message of {} bytes", header.len())));
        }
        if self.buffer.len() <= header.len() as usize {
            return Ok(None);
        }
        if header.tag() == COPY_BOTH {
            self.buffer[0] = COPY_OUT_RESPONSE_TAG;
        }
        Message::parse(&mut self.buffer).map_err(|error| self.nonsense(error.to_string()))
    }

    async fn fill(&mut self) -> Result<()> {
        if self.buffer.capacity() - self.buffer.len() < ROOM {
            self.buffer.reserve(BUFFER);
        }
        match timeout(self.within, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(0)) => Err(self.cut("the server closed it".to_owned())),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.cut(error.to_string())),
            Err(_) => Err(self.timed_out()),
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let written = match timeout(self.within, self.stream.write_all(bytes)).await {
            Ok(Ok(())) => timeout(self.within, self.stream.flush()).await,
            other => other,
        };
        match written {
            Ok(Ok(())) => Ok(()),
            Err(_) => Err(self.timed_out()),
            // A server that ended the session has said why before it closed.
            Ok(Err(error)) => match self.receive().await {
                Err(said @ WalSenderError::Server { .. }) => Err(said),
                _ => Err(self.cut(error.to_string())),
            },
        }
    }

    /// Sends a message that `write` composes.
    pub(super) async fn compose(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<()> {
        let mut message = BytesMut::new();
        write(&mut message).map_err(|error| self.nonsense(error.to_string()))?;
        self.send(&message).await
    }

    pub(super) async fn command(&mut self, command: &str) -> Result<()> {
        self.compose(|message| frontend::query(command, message)).await
    }

    /// The rows that a command answers with.
    pub(super) async fn ask(&mut self, command: &str) -> Result<Vec<Row>> {
        self.command(command).await?;
        let mut rows = Vec::new();
        loop {
            match self.receive().await {
                Ok(Message::DataRow(row)) => rows.push(self.columns(&row)?),
                Ok(Message::RowDescription(_) | Message::CommandComplete(_)) => {}
                Ok(Message::ReadyForQuery(_)) => return Ok(rows),
                Ok(_) => return Err(self.out_of_place()),
                Err(error) => {
                    if matches!(error, WalSenderError::Server { .. }) {
                        self.settle().await;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// After an error: until the server takes the next command, or is gone, which that command will notice.
    async fn settle(&mut self) {
        while !matches!(self.receive().await, Ok(Message::ReadyForQuery(_)) | Err(_)) {}
    }

    pub(super) fn columns(&self, row: &DataRowBody) -> Result<Row> {
        let ranges: Vec<_> = row.ranges().collect().map_err(|error| self.nonsense(error.to_string()))?;
        let text = |range: std::ops::Range<usize>| {
            let bytes = row.buffer()[range].to_vec();
            String::from_utf8(bytes).map_err(|_| self.nonsense("a text that is not UTF-8".to_owned()))
        };
        ranges.into_iter().map(|range| range.map(text).transpose()).collect()
    }

    /// Ends the session properly, so that the server logs no broken connection. The socket closes with this value.
    pub(super) async fn goodbye(&mut self) {
        let mut message = BytesMut::new();
        frontend::terminate(&mut message);
        let _ = timeout(GOODBYE, async {
            self.stream.write_all(&message).await?;
            self.stream.flush().await
        })
        .await;
    }

    fn note(&mut self, fields: ErrorFields<'_>) {
        let said = Said::read(fields);
        if said.severity == "WARNING" && self.warnings.len() < MOST_WARNINGS {
            self.warnings.push(said.text);
        }
    }

    fn reported(&self, fields: ErrorFields<'_>) -> WalSenderError {
        let said = Said::read(fields);
        WalSenderError::Server {
            address: self.address.clone(),
            sqlstate: said.code,
            message: said.text,
            next: "look into the server's log".to_owned(),
        }
    }

    pub(super) fn cut(&self, why: String) -> WalSenderError {
        WalSenderError::Cut { address: self.address.clone(), doing: self.doing, why }
    }

    fn timed_out(&self) -> WalSenderError {
        WalSenderError::Timeout { address: self.address.clone(), doing: self.doing, within: self.within }
    }

    pub(super) fn nonsense(&self, what: String) -> WalSenderError {
        WalSenderError::Protocol { address: self.address.clone(), doing: self.doing, what }
    }

    pub(super) fn out_of_place(&self) -> WalSenderError {
        self.nonsense("a message that does not belong there".to_owned())
    }
}

/// An error or a notice.
#[derive(Default)]
struct Said {
    severity: String,
    code: String,
    text: String,
}

impl Said {
    fn read(mut fields: ErrorFields<'_>) -> Self {
        let mut said = Self::default();
        let (mut detail, mut hint) = (String::new(), String::new());
        // What cannot be read is left out: a part of the reason is better than none.
        while let Ok(Some(field)) = fields.next() {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                // Not `S`, which is translated.
                b'V' => said.severity = value,
                b'C' => said.code = value,
                b'M' => said.text = value,
                b'D' => detail = value,
                b'H' => hint = value,
                _ => {}
            }
        }
        for more in [detail, hint] {
            if !more.is_empty() {
                said.text.push_str(": ");
                said.text.push_str(&more);
            }
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, Bytes};

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() as u32 + 4).to_be_bytes();
        [&[tag], &length[..], body].concat()
    }

    fn wire(stream: impl Stream + 'static) -> Wire {
        Wire::new(Box::new(stream), "db:5432/x", Duration::from_millis(200))
    }

    fn data(received: Result<Message>) -> Bytes {
        let Ok(Message::CopyData(body)) = received else { panic!("no data") };
        body.into_bytes()
    }

    #[tokio::test]
    async fn messages_are_whole_however_they_arrive() {
        let (client, mut server) = tokio::io::duplex(7);
        let mut wire = wire(client);
        let sent = [message(b'd', b"dhello"), message(b'd', &[b'x'; 100]), message(b'c', b"")].concat();
        let sending = async move {
            server.write_all(&sent).await.unwrap();
            server
        };
        let receiving = async {
            assert_eq!(data(wire.receive().await), &b"dhello"[..]);
            assert_eq!(data(wire.receive().await).len(), 100);
            assert!(matches!(wire.receive().await, Ok(Message::CopyDone)));
            wire
        };
        let (server, mut wire) = tokio::join!(sending, receiving);
        assert!(matches!(wire.receive().await, Err(WalSenderError::Timeout { .. })), "it is silent");
        drop(server);
        assert!(matches!(wire.receive().await, Err(WalSenderError::Cut { .. })), "it is gone");
    }

    #[tokio::test]
    async fn what_is_no_message_of_postgres_is_refused_before_it_is_read() {
        for bytes in [&b"d\x7f\xff\xff\xff"[..], b"d\x00\x00\x00\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
            let (client, mut server) = tokio::io::duplex(64);
            server.write_all(bytes).await.unwrap();
            let error = wire(client).receive().await.err().unwrap();
            assert!(matches!(error, WalSenderError::Protocol { .. }), "{error:?}");
        }
    }

    #[tokio::test]
    async fn warnings_are_kept_and_errors_reported_with_detail_and_hint() {
        let (client, mut server) = tokio::io::duplex(4096);
        let notice = message(b'N', b"SWARNUNG\0VWARNING\0C01000\0Mthis looks odd\0\0");
        let chatter = message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mby the way\0\0");
        let error = message(b'E', b"SFEHLER\0VERROR\0CXX001\0Mbroken\0Din two\0Hmend it\0\0");
        server.write_all(&[notice, chatter, error].concat()).await.unwrap();
        let mut wire = wire(client);
        let Err(WalSenderError::Server { sqlstate, message, .. }) = wire.receive().await else { panic!() };
        assert_eq!((sqlstate.as_str(), message.as_str()), ("XX001", "broken: in two: mend it"));
        assert_eq!(wire.warnings, ["this looks odd"]);
    }

    #[tokio::test]
    async fn data_that_were_dropped_make_room_for_more_in_the_same_buffer() {
        let (client, mut server) = tokio::io::duplex(1 << 20);
        let mut wire = wire(client);
        let start = wire.buffer.capacity();
        let one = message(b'd', &vec![b'x'; 32 << 10]);
        for _ in 0..200 {
            server.write_all(&one).await.unwrap();
            assert_eq!(data(wire.receive().await).len(), 32 << 10);
        }
        wire.buffer.reserve(BUFFER);
        assert!(wire.buffer.capacity() <= start, "{} of {start}", wire.buffer.capacity());
        let mut kept = Vec::new();
        for number in 0..200_u8 {
            let mut body = BytesMut::new();
            body.put_bytes(number, 32 << 10);
            server.write_all(&message(b'd', &body)).await.unwrap();
            kept.push(data(wire.receive().await));
        }
        let whole = kept.iter().enumerate().all(|(number, data)| data.iter().all(|byte| usize::from(*byte) == number));
        assert!(whole, "what is kept is never written over");
    }
}
