//! One short conversation: connect, ask, read.
//!
//! The `redis` crate writes the commands and parses the answers; the connection is ours. Its own connection answers a
//! refused login with one fixed sentence and drops an error that the server sends before it was asked (`max number of
//! clients reached`): the two that matter most here.

use super::endpoint::{Endpoint, Place};
use groundskeeper_core::observation::{Failure, FailureKind};
use redis::{Cmd, Value};
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

/// An answer to INFO has some kilobytes. What sends more than this is no Redis.
const LONGEST_ANSWER: u64 = 16 << 20;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

pub(super) struct Connection<'a> {
    stream: Box<dyn Stream>,
    address: &'a str,
}

impl<'a> Connection<'a> {
    pub(super) async fn open(endpoint: &'a Endpoint, waits_for: &mut &'static str) -> Result<Self, Failure> {
        let address = endpoint.address();
        let stream: Box<dyn Stream> = match &endpoint.place {
            Place::Unix(path) => {
                Box::new(UnixStream::connect(path).await.map_err(|error| io_failure(&error, address))?)
            }
            Place::Tcp { host, port, tls } => {
                let stream = connect(host, *port, address).await?;
                match tls {
                    None => Box::new(stream),
                    Some(config) => {
                        // A server without TLS may wait for ever for the end of what it takes for a command.
                        *waits_for = "the TLS handshake; is this port one with TLS?";
                        let tls_failure = |message: String| failure(FailureKind::Tls, message, address);
                        let name = ServerName::try_from(host.clone()).map_err(|e| tls_failure(e.to_string()))?;
                        let connector = tokio_rustls::TlsConnector::from(config.clone());
                        Box::new(connector.connect(name, stream).await.map_err(|error| tls_failure(error.to_string()))?)
                    }
                }
            }
        };
        Ok(Self { stream, address })
    }

    /// Says who we are, where there is a password.
    pub(super) async fn login(&mut self, endpoint: &Endpoint) -> Result<(), Failure> {
        let Some(password) = &endpoint.password else { return Ok(()) };
        let mut login = redis::cmd("AUTH");
        if let Some(user) = &endpoint.user {
            login.arg(user);
        }
        login.arg(password.expose_secret());
        if let Value::ServerError(error) = self.ask(&login).await? {
            // A password that the server does not ask for opens the door as well.
            if !error.details().is_some_and(|details| details.contains("without any password configured")) {
                return Err(server_failure(&error, self.address));
            }
        }
        Ok(())
    }

    /// For what is no question and answer. Nothing that was sent is lost: every answer was read whole.
    pub(super) fn into_stream(self) -> Box<dyn Stream> {
        self.stream
    }

    /// The server's answer; an error that it reports is an answer as well ([`Value::ServerError`]).
    #[expect(clippy::default_trait_access, reason = "the decoder's type is not exported")]
    pub(super) async fn ask(&mut self, command: &Cmd) -> Result<Value, Failure> {
        // A server that refuses us has said why and closed before we ask: writing fails, yet the reason can be read.
        let written = self.stream.write_all(&command.get_packed_command()).await;
        let flushed = self.stream.flush().await;
        let mut answer = (&mut self.stream).take(LONGEST_ANSWER);
        // Each answer is read whole before the next question, so nothing is left in this decoder.
        match redis::parse_redis_value_async(&mut Default::default(), &mut answer).await {
            Ok(value) => Ok(value),
            Err(error) => {
                let (address, cause) = (self.address, written.and(flushed).err());
                Err(match (io_cause(&error).or(cause.as_ref()), error.kind()) {
                    (Some(cause), _) => io_failure(cause, address),
                    (None, redis::ErrorKind::Parse) => {
                        failure(FailureKind::Protocol, "the answer is not in Redis's protocol", address)
                    }
                    (None, _) => failure(FailureKind::Interrupted, error.to_string(), address),
                })
            }
        }
    }
}

async fn connect(host: &str, port: u16, address: &str) -> Result<TcpStream, Failure> {
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| failure(FailureKind::UnknownHost, error.to_string(), address))?;
    let mut last = failure(FailureKind::UnknownHost, "the name has no address", address);
    for candidate in addresses {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = io_failure(&error, address),
        }
    }
    Err(last)
}

fn io_cause(error: &redis::RedisError) -> Option<&io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// What the other side says is shown in terminals: without control characters, and not at any length.
pub(super) fn failure(kind: FailureKind, message: impl Into<String>, address: &str) -> Failure {
    let message = message.into().chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect();
    Failure { kind, message, address: address.to_owned() }
}

pub(super) fn io_failure(error: &io::Error, address: &str) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => FailureKind::Refused,
        io::ErrorKind::NotFound => FailureKind::Missing,
        io::ErrorKind::PermissionDenied => FailureKind::Denied,
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            FailureKind::Timeout
        }
        io::ErrorKind::InvalidData => FailureKind::Protocol,
        _ => FailureKind::Interrupted,
    };
    failure(kind, error.to_string(), address)
}

/// What an error that the server reported means for the reading.
pub(super) fn server_failure(error: &redis::ServerError, address: &str) -> Failure {
    let message = match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    };
    let kind = match error.code() {
        "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => FailureKind::Denied,
        "LOADING" | "MASTERDOWN" | "BUSY" => FailureKind::NotReady,
        // Before 6.0 a wrong password was plainly `ERR invalid password`.
        "ERR" if message.contains("max number of clients") => FailureKind::Exhausted,
        "ERR" if message.contains("password") || message.contains("AUTH") => FailureKind::Denied,
        _ => FailureKind::Protocol,
    };
    failure(kind, message, address)
}
