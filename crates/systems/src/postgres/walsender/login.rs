//! Reaching a server and being let in as a replication connection.
//!
//! By the rules of the ordinary connections: the same places in the same order, the same TLS, the same password. The
//! handshake itself is written out here, because the driver has no way to ask for `replication`.

use super::error::WalSenderError;
use super::wire::{Result, Stream, Wire};
use crate::postgres::client::{APPLICATION_NAME, Endpoint, PORT, kind_of_io, reading_settings};
use groundskeeper_core::observation::{Failure, FailureKind};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{self, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::fallible_iterator::FallibleIterator;
use x509_parser::parse_x509_certificate;

/// One of the servers that an address names.
enum Place {
    Unix { socket: PathBuf },
    Tcp { host: String, port: u16, name: String },
}

/// A connection that was let in, and the process that serves it.
pub(super) struct Entered {
    pub(super) wire: Wire,
    pub(super) pid: i32,
}

/// The first place that lets us in; the error of the last one otherwise.
pub(super) async fn enter(endpoint: &Endpoint, deadline: Duration) -> Result<Entered> {
    let until = Instant::now() + deadline;
    let places = places(&endpoint.config);
    let mut refused = None;
    for (index, place) in places.iter().enumerate() {
        // One that says nothing must leave time for the others.
        let left = until.saturating_duration_since(Instant::now());
        let share = left / (places.len() - index) as u32;
        match timeout(share, Box::pin(enter_at(endpoint, place, share))).await {
            Ok(Ok(entered)) => return Ok(entered),
            Ok(Err(error)) => refused = Some(error),
            Err(_) => refused = Some(timed_out(endpoint, share)),
        }
    }
    match refused {
        Some(error @ WalSenderError::NoSenderLeft { .. }) => {
            Err(explained(endpoint, error, until.saturating_duration_since(Instant::now())).await)
        }
        Some(error) => Err(error),
        None => Err(unreachable(endpoint, FailureKind::Missing, "no host is given".to_owned())),
    }
}

fn places(config: &Config) -> Vec<Place> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let place = |index: usize| {
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(PORT);
        let address = addresses.get(index).map(ToString::to_string);
        Some(match (hosts.get(index), address) {
            (Some(Host::Unix(folder)), None) => Place::Unix { socket: folder.join(format!(".s.PGSQL.{port}")) },
            // The name is for the certificate, the address for the connection.
            (Some(Host::Tcp(name)), address) => {
                Place::Tcp { host: address.unwrap_or_else(|| name.clone()), port, name: name.clone() }
            }
            (_, Some(address)) => Place::Tcp { host: address.clone(), port, name: address },
            (None, None) => return None,
        })
    };
    (0..hosts.len().max(addresses.len())).filter_map(place).collect()
}

async fn enter_at(endpoint: &Endpoint, place: &Place, within: Duration) -> Result<Entered> {
    let config = &endpoint.config;
    let patience = config.get_connect_timeout().copied().unwrap_or(within);
    let connecting = Box::pin(connect(endpoint, place));
    let (stream, binding) =
        timeout(patience, connecting).await.unwrap_or_else(|_| Err(timed_out(endpoint, patience)))?;
    let user = match config.get_user() {
        Some(user) => Cow::Borrowed(user),
        None => Cow::Owned(whoami::username().map_err(|error| {
            unreachable(endpoint, FailureKind::Denied, format!("our user has no name ({error}); give the role's"))
        })?),
    };
    let mut login = Login { wire: Wire::new(stream, endpoint.address(), within), config, user: &user, binding };
    let entered = match login.go().await {
        Ok(pid) => Ok(Entered { wire: login.wire, pid }),
        Err(error) => Err(error.at_login(&user, matches!(place, Place::Unix { .. }))),
    };
    wanted(entered?, config).await
}

/// Of several servers, `target_session_attrs` may want one that takes writes.
async fn wanted(mut entered: Entered, config: &Config) -> Result<Entered> {
    let wanted = match config.get_target_session_attrs() {
        TargetSessionAttrs::ReadWrite => "off",
        TargetSessionAttrs::ReadOnly => "on",
        _ => return Ok(entered),
    };
    let rows = entered.wire.ask("SHOW transaction_read_only").await?;
    if rows.first().and_then(|row| row.first()?.as_deref()) == Some(wanted) {
        return Ok(entered);
    }
    Err(WalSenderError::Unreachable(Failure {
        kind: FailureKind::NotReady,
        message: "the server is not the one that target_session_attrs asks for".to_owned(),
        address: entered.wire.address,
    }))
}

type Connected = (Box<dyn Stream>, Option<Vec<u8>>);

/// The stream, and the hash of the server's certificate where it has one.
async fn connect(endpoint: &Endpoint, place: &Place) -> Result<Connected> {
    let failed = |error: io::Error| unreachable(endpoint, kind_of_io(&error), error.to_string());
    match place {
        Place::Unix { socket } => Ok((Box::new(UnixStream::connect(socket).await.map_err(failed)?), None)),
        Place::Tcp { host, port, name } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            secured(endpoint, stream, name).await
        }
    }
}

async fn secured(endpoint: &Endpoint, mut stream: TcpStream, name: &str) -> Result<Connected> {
    let mode = endpoint.config.get_ssl_mode();
    let failed = |error: io::Error| unreachable(endpoint, kind_of_io(&error), error.to_string());
    let untrusted = |message: String| unreachable(endpoint, FailureKind::Tls, message);
    if mode == SslMode::Disable {
        return Ok((Box::new(stream), None));
    }
    if endpoint.config.get_ssl_negotiation() == SslNegotiation::Postgres {
        let mut request = bytes::BytesMut::new();
        frontend::ssl_request(&mut request);
        stream.write_all(&request).await.map_err(failed)?;
        // One byte and no more: what came with it would not be encrypted and could be anybody's.
        match stream.read_u8().await.map_err(failed)? {
            b'S' => {}
            b'N' if mode == SslMode::Prefer => return Ok((Box::new(stream), None)),
            b'N' => return Err(untrusted("the server has no TLS; set ssl = on there".to_owned())),
            _ => {
                let what = "it knows nothing of TLS".to_owned();
                let (address, doing) = (endpoint.address().to_owned(), "during the login");
                return Err(WalSenderError::Protocol { address, doing, what });
            }
        }
    }
    let name = ServerName::try_from(name.to_owned()).map_err(|error| untrusted(error.to_string()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(&endpoint.encryption));
    let stream = connector.connect(name, stream).await.map_err(|error| untrusted(error.to_string()))?;
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let binding = shown.and_then(|certificate| end_point(certificate));
    Ok((Box::new(stream), binding))
}

/// RFC 5929, `tls-server-end-point`: the certificate's hash by the algorithm that signed it, SHA-256 at least. An
/// algorithm without a hash of its own (Ed25519) has none.
fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    match parsed.signature_algorithm.algorithm.to_id_string().as_str() {
        // MD5 and SHA-1 with RSA, SHA-1 and SHA-256 with ECDSA, SHA-256 with RSA.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.10045.4.1"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.3.2" => Some(Sha256::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Sha384::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Sha512::digest(certificate).to_vec()),
        _ => None,
    }
}

struct Login<'a> {
    wire: Wire,
    config: &'a Config,
    user: &'a str,
    binding: Option<Vec<u8>>,
}

impl<'a> Login<'a> {
    /// Gives the id of the process that serves us.
    async fn go(&mut self) -> Result<i32> {
        let mut parameters = vec![
            ("client_encoding", "UTF8"),
            ("user", self.user),
            ("replication", "true"),
            ("application_name", APPLICATION_NAME),
        ];
        // The server does not look at it; a pooler between us does.
        parameters.extend(self.config.get_dbname().map(|name| ("database", name)));
        parameters.extend(self.config.get_options().map(|options| ("options", options)));
        self.wire.compose(|message| frontend::startup_message(parameters, message)).await?;
        self.authenticate().await?;
        let mut pid = 0;
        loop {
            match self.wire.receive().await? {
                Message::BackendKeyData(body) => pid = body.process_id(),
                Message::ReadyForQuery(_) => return Ok(pid),
                _ => return Err(self.wire.out_of_place()),
            }
        }
    }

    async fn authenticate(&mut self) -> Result<()> {
        match self.wire.receive().await? {
            Message::AuthenticationOk => return self.unbound(),
            Message::AuthenticationCleartextPassword => {
                self.unbound()?;
                let password = self.password()?;
                self.wire.compose(|message| frontend::password_message(password, message)).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                self.unbound()?;
                let hash = md5_hash(self.user.as_bytes(), self.password()?, body.salt());
                self.wire.compose(|message| frontend::password_message(hash.as_bytes(), message)).await?;
            }
            Message::AuthenticationSasl(body) => self.scram(&body).await?,
            Message::AuthenticationKerberosV5
            | Message::AuthenticationScmCredential
            | Message::AuthenticationGss
            | Message::AuthenticationSspi => {
                return Err(self.denied("it wants a way to log in that we do not have (GSSAPI, SSPI)"));
            }
            _ => return Err(self.wire.out_of_place()),
        }
        match self.wire.receive().await? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(self.wire.out_of_place()),
        }
    }

    async fn scram(&mut self, body: &AuthenticationSaslBody) -> Result<()> {
        let password = self.password()?;
        let offered: Vec<&str> =
            body.mechanisms().collect().map_err(|error: io::Error| self.wire.nonsense(error.to_string()))?;
        let ours = self.binding.take().filter(|_| self.config.get_channel_binding() != ChannelBinding::Disable);
        let (mechanism, binding) = match ours {
            Some(hash) if offered.contains(&sasl::SCRAM_SHA_256_PLUS) => {
                (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash))
            }
            _ if !offered.contains(&sasl::SCRAM_SHA_256) => {
                return Err(self.denied("it wants a way to log in that we do not have"));
            }
            // This tells the server that we would have, should somebody between us have taken its offer away.
            Some(_) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            None => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        if mechanism != sasl::SCRAM_SHA_256_PLUS {
            self.unbound()?;
        }
        let mut scram = ScramSha256::new(password, binding);
        self.wire.compose(|message| frontend::sasl_initial_response(mechanism, scram.message(), message)).await?;
        let Message::AuthenticationSaslContinue(body) = self.wire.receive().await? else {
            return Err(self.wire.out_of_place());
        };
        scram.update(body.data()).map_err(|error| self.wire.nonsense(error.to_string()))?;
        self.wire.compose(|message| frontend::sasl_response(scram.message(), message)).await?;
        let Message::AuthenticationSaslFinal(body) = self.wire.receive().await? else {
            return Err(self.wire.out_of_place());
        };
        // That it knows the password as well is what tells it from anybody else.
        scram.finish(body.data()).map_err(|error| self.wire.nonsense(error.to_string()))
    }

    fn unbound(&self) -> Result<()> {
        match self.config.get_channel_binding() {
            ChannelBinding::Require => Err(self.denied("it does not offer the channel binding that is required")),
            _ => Ok(()),
        }
    }

    fn password(&self) -> Result<&'a [u8]> {
        self.config.get_password().ok_or_else(|| self.denied("it asks for a password, and none is configured"))
    }

    fn denied(&self, message: &str) -> WalSenderError {
        WalSenderError::Denied {
            address: self.wire.address.clone(),
            message: message.to_owned(),
            next: "correct the address in the configuration, or the server's pg_hba.conf".to_owned(),
        }
    }
}

/// Why no connection is left: with `wal_level = minimal` there never is one, and the server tells nobody who asks for one.
async fn explained(endpoint: &Endpoint, error: WalSenderError, left: Duration) -> WalSenderError {
    let WalSenderError::NoSenderLeft { address, message, next, .. } = error else { return error };
    match settings(endpoint, left).await {
        Some((level, _)) if level == "minimal" => WalSenderError::WalLevelTooLow { address },
        Some((_, 0)) => {
            let next = "set max_wal_senders = 10 in its configuration, and restart it".to_owned();
            WalSenderError::NoSenderLeft { address, message, senders: Some(0), next }
        }
        known => WalSenderError::NoSenderLeft { address, message, senders: known.map(|(_, senders)| senders), next },
    }
}

/// `wal_level` and `max_wal_senders`, over an ordinary connection; none when that is refused as well.
async fn settings(endpoint: &Endpoint, left: Duration) -> Option<(String, u32)> {
    const SETTINGS: &str = "SELECT current_setting('wal_level'), current_setting('max_wal_senders')::int8";
    let until = Instant::now() + left;
    let session = endpoint.connect(APPLICATION_NAME, &reading_settings(left), left).await.ok()?;
    let left = until.saturating_duration_since(Instant::now());
    let answer = timeout(left, session.client()?.query_typed_one(SETTINGS, &[])).await.ok()?.ok()?;
    session.close(until.saturating_duration_since(Instant::now())).await;
    Some((answer.try_get(0).ok()?, u32::try_from(answer.try_get::<_, i64>(1).ok()?).ok()?))
}

fn unreachable(endpoint: &Endpoint, kind: FailureKind, message: String) -> WalSenderError {
    WalSenderError::Unreachable(Failure { kind, message, address: endpoint.address().to_owned() })
}

fn timed_out(endpoint: &Endpoint, within: Duration) -> WalSenderError {
    WalSenderError::Timeout { address: endpoint.address().to_owned(), doing: "during the login", within }
}
