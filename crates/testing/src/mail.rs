//! A receiver of mail: just enough SMTP for a client to deliver. Plain text, no TLS, no login.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::inbox::Inbox;

/// One message that was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mail {
    /// The envelope's sender, without angle brackets.
    pub from: String,
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// Headers and body as sent, with `\n` line ends and dot-stuffing undone.
    pub data: String,
}

#[derive(Debug)]
pub struct MailSink {
    address: SocketAddr,
    inbox: Arc<Inbox<Mail>>,
    accepting: JoinHandle<()>,
}

impl MailSink {
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let inbox = Arc::new(Inbox::new());
        let recorded = Arc::clone(&inbox);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let inbox = Arc::clone(&recorded);
                // A client that hangs up in the middle is its test's business.
                tokio::spawn(async move { converse(stream, &inbox).await });
            }
        });
        Ok(Self { address, inbox, accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `smtp://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    #[expect(clippy::unused_async, reason = "reads like its sibling `wait_for`, and may have to wait one day")]
    pub async fn received(&self) -> Vec<Mail> {
        self.inbox.all()
    }

    /// Everything received, once that is at least `count`; an error when `within` is over before.
    pub async fn wait_for(&self, count: usize, within: Duration) -> Result<Vec<Mail>> {
        self.inbox.wait_for(count, within).await
    }
}

impl Drop for MailSink {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn converse(stream: TcpStream, inbox: &Inbox<Mail>) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut mail = Mail::default();
    stream.write_all(b"220 groundskeeper-testing ESMTP\r\n").await?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end();
        let (verb, rest) = line.split_once([' ', ':']).unwrap_or((line, ""));
        let answer = match verb.to_ascii_uppercase().as_str() {
            "EHLO" => "250-groundskeeper-testing\r\n250 8BITMIME",
            "HELO" | "NOOP" => "250 OK",
            "MAIL" => {
                mail = Mail { from: in_brackets(rest), ..Mail::default() };
                "250 OK"
            }
            "RCPT" => {
                mail.to.push(in_brackets(rest));
                "250 OK"
            }
            "RSET" => {
                mail = Mail::default();
                "250 OK"
            }
            "DATA" if mail.to.is_empty() => "503 RCPT first",
            "DATA" => {
                stream.write_all(b"354 End with a dot on its own line\r\n").await?;
                mail.data = read_data(&mut stream).await?;
                inbox.push(std::mem::take(&mut mail));
                "250 OK"
            }
            "QUIT" => {
                stream.write_all(b"221 Bye\r\n").await?;
                return Ok(());
            }
            _ => "502 Not known here",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}

async fn read_data(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut data = String::new();
    loop {
        let mut line = Vec::new();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            anyhow::bail!("the client hung up within DATA");
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\r', '\n']);
        if line == "." {
            return Ok(data);
        }
        data.push_str(line.strip_prefix('.').unwrap_or(line));
        data.push('\n');
    }
}

fn in_brackets(text: &str) -> String {
    text.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(text, |(inner, _)| inner).to_owned()
}
