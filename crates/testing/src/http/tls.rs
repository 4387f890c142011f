//! A certificate of any age, and a listener that speaks TLS with it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const DAY: i64 = 24 * 60 * 60;

/// Which certificate an HTTPS target shows.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// Whole days until it ends; negative when it already has. It began 90 days before its end.
    pub days_left: i64,
    /// Signed by itself instead of by the test's own authority.
    pub self_signed: bool,
    /// The names and addresses it is for.
    pub names: Vec<String>,
}

impl Default for TlsOptions {
    fn default() -> Self {
        Self { days_left: 60, self_signed: false, names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()] }
    }
}

#[derive(Debug)]
pub(super) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    pub(super) ca_pem: String,
}

impl Identity {
    pub(super) fn new(options: &TlsOptions) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(options.names.clone())?;
        params.distinguished_name.push(DnType::CommonName, options.names.first().map_or("target", String::as_str));
        // Half an hour more, so that "7 days left" is still 7 whole days when the test gets to look.
        let end = unix_now()? + options.days_left * DAY + DAY / 48;
        params.not_after = date_time_ymd(1970, 1, 1) + seconds(end);
        params.not_before = date_time_ymd(1970, 1, 1) + seconds(end - 90 * DAY);
        let (certificate, ca_pem) = if options.self_signed {
            let certificate = params.self_signed(&key)?;
            let pem = certificate.pem();
            (certificate, pem)
        } else {
            let (issuer, pem) = authority()?;
            (params.signed_by(&key, &issuer)?, pem)
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|reason| anyhow::anyhow!("{reason}"))?;
        Ok(Self { chain: vec![certificate.der().clone()], key, ca_pem })
    }
}

fn authority() -> Result<(Issuer<'static, KeyPair>, String)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "Groundskeeper test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key)?.pem();
    Ok((Issuer::new(params, key), pem))
}

fn unix_now() -> Result<i64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs() as i64)
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(count.max(0) as u64)
}

/// Hands out connections whose handshake is done. Handshakes run side by side: a client that connects and says nothing
/// must not keep others waiting.
#[derive(Debug)]
pub(super) struct TlsListener {
    address: SocketAddr,
    connections: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    accepting: JoinHandle<()>,
}

impl TlsListener {
    pub(super) fn new(listener: TcpListener, identity: &Identity) -> Result<Self> {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let address = listener.local_addr()?;
        let (sender, connections) = mpsc::channel(16);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let _ = sender.send((stream, peer)).await;
                    }
                });
            }
        });
        Ok(Self { address, connections, accepting })
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}
