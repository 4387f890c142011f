//! Ports for child servers.
//!
//! A child binds its port itself, so between choosing and binding another process can take it. Two things keep that
//! rare: ports come from below the kernel's ephemeral range, where no outgoing connection takes them, and the first one
//! tried is random. What is left is handled by starting again on another port.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, Result, bail};
use tokio::net::TcpSocket;

/// Linux gives outgoing connections 32768 and up.
const FIRST: u16 = 15_000;
const COUNT: u16 = 16_000;

/// A loopback port on which nothing listens right now.
pub fn free() -> Result<u16> {
    let start = (RandomState::new().build_hasher().finish() % u64::from(COUNT)) as u16;
    for step in 0..COUNT {
        let port = FIRST + (start + step) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free TCP port on 127.0.0.1 between {FIRST} and {}", FIRST + COUNT - 1)
}

/// Keeps the port of a stopped server from being given to another one.
///
/// The socket is bound and does not listen, so that connecting is still refused, as it is to a server that is down.
#[derive(Debug)]
pub struct Reservation {
    _socket: TcpSocket,
}

impl Reservation {
    pub fn hold(port: u16) -> Result<Self> {
        let socket = TcpSocket::new_v4().context("cannot make a socket")?;
        socket.set_reuseaddr(true)?;
        socket
            .bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
            .with_context(|| format!("cannot hold port {port} of a stopped server"))?;
        Ok(Self { _socket: socket })
    }
}
