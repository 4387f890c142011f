//! One question to chronyd: `tracking`, as `chronyc tracking` asks it (protocol version 6, `candm.h` of chrony).

use groundskeeper_core::observation::Clock;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;

pub(super) const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 323);
/// It answers at once or not at all; where nobody listens the loopback says so immediately.
const PATIENCE: Duration = Duration::from_millis(300);

const VERSION: u8 = 6;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const TRACKING: u16 = 33;
const TRACKING_REPLY: u16 = 5;
const REPLY_HEADER: usize = 28;
/// A request is padded to the size of its reply, so that nobody can use the server to amplify.
const REPLY_SIZE: usize = REPLY_HEADER + 76;
const NOT_SYNCHRONISED: u16 = 3;

/// None when chronyd does not run, or does not answer us.
pub(super) async fn ask(address: SocketAddr) -> Option<Clock> {
    let socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.ok()?;
    socket.connect(address).await.ok()?;
    socket.send(&request()).await.ok()?;
    let mut reply = [0; 512];
    let size = tokio::time::timeout(PATIENCE, socket.recv(&mut reply)).await.ok()?.ok()?;
    parse(reply.get(..size)?)
}

fn request() -> [u8; REPLY_SIZE] {
    let mut request = [0; REPLY_SIZE];
    request[0] = VERSION;
    request[1] = REQUEST;
    request[4..6].copy_from_slice(&TRACKING.to_be_bytes());
    request
}

fn parse(reply: &[u8]) -> Option<Clock> {
    let short = |at: usize| Some(u16::from_be_bytes(reply.get(at..at + 2)?.try_into().ok()?));
    let float = |at: usize| Some(seconds(u32::from_be_bytes(reply.get(at..at + 4)?.try_into().ok()?)));
    let is_tracking = reply.get(..2) == Some(&[VERSION, REPLY]) && short(4)? == TRACKING && short(6)? == TRACKING_REPLY;
    let succeeded = short(8)? == 0;
    if !is_tracking || !succeeded || reply.len() < REPLY_SIZE {
        return None;
    }
    // Reference, address (20 bytes), stratum, leap status, reference time (12), correction, two offsets, three
    // frequencies, then delay and dispersion of the way to the root.
    let body = REPLY_HEADER;
    let leap = short(body + 26)?;
    let correction = float(body + 40)?.abs();
    let (delay, dispersion) = (float(body + 64)?, float(body + 68)?);
    // As the manual of chronyc bounds the error: half the way to the root, its dispersion, and what is left to correct.
    let max_error = delay / 2.0 + dispersion + correction;
    let synchronised = leap != NOT_SYNCHRONISED;
    Some(Clock { synchronised, max_error: Some(max_error).filter(|error| synchronised && error.is_finite()) })
}

/// chrony's own float: 7 bits of exponent, 25 of coefficient, both signed.
fn seconds(bits: u32) -> f64 {
    let exponent = (bits as i32) >> 25;
    let coefficient = ((bits << 7) as i32) >> 7;
    f64::from(coefficient) * 2_f64.powi(exponent - 25)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(leap: u16) -> Vec<u8> {
        let mut reply = request().to_vec();
        reply[1] = REPLY;
        reply[6..8].copy_from_slice(&TRACKING_REPLY.to_be_bytes());
        reply[REPLY_HEADER + 26..REPLY_HEADER + 28].copy_from_slice(&leap.to_be_bytes());
        // 0.5 s of delay and 0.25 s of dispersion: coefficients 2^23 at exponents 1 and 0.
        reply[REPLY_HEADER + 64..REPLY_HEADER + 68].copy_from_slice(&((1_u32 << 25) | (1 << 23)).to_be_bytes());
        reply[REPLY_HEADER + 68..REPLY_HEADER + 72].copy_from_slice(&(1_u32 << 23).to_be_bytes());
        reply
    }

    #[test]
    fn a_reply_says_whether_the_clock_is_kept_and_how_well() {
        assert_eq!(parse(&reply(0)), Some(Clock { synchronised: true, max_error: Some(0.5) }));
        assert_eq!(parse(&reply(NOT_SYNCHRONISED)), Some(Clock { synchronised: false, max_error: None }));
    }

    #[test]
    fn garbage_is_no_answer() {
        let good = reply(0);
        for size in 0..good.len() {
            assert_eq!(parse(&good[..size]), None);
        }
        for at in 0..10 {
            let mut changed = good.clone();
            changed[at] ^= 0xff;
            let _ = parse(&changed);
        }
        assert_eq!(parse(&[0xff; 512]), None);
    }

    #[tokio::test]
    async fn where_nobody_listens_there_is_no_answer() {
        assert_eq!(ask(([127, 0, 0, 1], 9).into()).await, None);
    }
}
