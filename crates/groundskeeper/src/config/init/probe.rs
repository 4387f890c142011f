//! Who listens on a local port? Each protocol is asked one harmless question.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

const CONNECT: Duration = Duration::from_millis(150);
const ANSWER: Duration = Duration::from_millis(400);
/// `SSLRequest`: its length and the code 80877103. A Postgres says `S` or `N` before any login.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// Tried in this order; the first that is fine wins.
const PATHS: [&str; 4] = ["/health/ready", "/health", "/healthz", "/"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answers {
    Postgres,
    Redis { wants_password: bool },
    Http { path: &'static str, status: u16 },
    Unknown,
}

/// None when nobody listens. The usual owner of the port is asked first.
pub(super) fn identify(port: u16) -> Option<Answers> {
    connect(port)?;
    let asked: [fn(u16) -> Option<Answers>; 3] = match port {
        5432 => [postgres, redis, http],
        6379 => [redis, postgres, http],
        _ => [http, postgres, redis],
    };
    Some(asked.into_iter().find_map(|ask| ask(port)).unwrap_or(Answers::Unknown))
}

fn postgres(port: u16) -> Option<Answers> {
    let answer = ask(port, &SSL_REQUEST)?;
    matches!(answer.as_slice(), [b'S' | b'N']).then_some(Answers::Postgres)
}

fn redis(port: u16) -> Option<Answers> {
    let answer = ask(port, b"PING\r\n")?;
    let wants_password = answer.starts_with(b"-NOAUTH");
    (wants_password || answer.starts_with(b"+PONG")).then_some(Answers::Redis { wants_password })
}

fn http(port: u16) -> Option<Answers> {
    let mut last = None;
    for path in PATHS {
        let question = format!("HEAD {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        let status = status(&ask(port, question.as_bytes())?)?;
        if (200..400).contains(&status) {
            return Some(Answers::Http { path, status });
        }
        last = Some(Answers::Http { path, status });
    }
    last
}

/// `HTTP/1.1 200 OK` gives 200.
fn status(answer: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(answer.get(..12)?).ok()?;
    line.strip_prefix("HTTP/1.")?.get(2..)?.parse().ok()
}

fn connect(port: u16) -> Option<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), CONNECT).ok()
}

/// The first bytes of the answer.
fn ask(port: u16, question: &[u8]) -> Option<Vec<u8>> {
    let mut stream = connect(port)?;
    stream.set_read_timeout(Some(ANSWER)).ok()?;
    stream.set_write_timeout(Some(ANSWER)).ok()?;
    stream.write_all(question).ok()?;
    let mut answer = [0; 64];
    let count = stream.read(&mut answer).ok()?;
    Some(answer.get(..count)?.to_vec())
}
