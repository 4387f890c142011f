//! Each misbehaving listener does what it is for.

use std::time::Duration;

use groundskeeper_testing::{BlackHole, Closer, Cutter, Garbage, PacketDropper};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const A_WHILE: Duration = Duration::from_millis(300);
const BOUND: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_black_hole_accepts_and_stays_silent() {
    let hole = BlackHole::start().await.unwrap();
    let mut stream = TcpStream::connect(hole.address()).await.unwrap();
    stream.write_all(b"hello?").await.unwrap();
    assert!(timeout(A_WHILE, stream.read(&mut [0; 8])).await.is_err(), "it answered or closed");
}

#[tokio::test]
async fn a_closer_hangs_up_without_an_answer() {
    let closer = Closer::start().await.unwrap();
    let mut stream = TcpStream::connect(closer.address()).await.unwrap();
    stream.write_all(b"hello?").await.unwrap();
    let end = timeout(BOUND, stream.read(&mut [0; 8])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

#[tokio::test]
async fn garbage_is_neither_http_nor_redis_nor_postgres() {
    let garbage = Garbage::start().await.unwrap();
    let mut stream = TcpStream::connect(garbage.address()).await.unwrap();
    stream.write_all(b"PING\r\n").await.unwrap();
    let mut answer = [0; 64];
    let count = timeout(BOUND, stream.read(&mut answer)).await.unwrap().unwrap();
    assert!(count > 0 && !b"+-:$*HRSEN".contains(&answer[0]));
}

#[tokio::test]
async fn connecting_to_a_packet_dropper_hangs() {
    let dropper = PacketDropper::start().await.unwrap();
    for _ in 0..3 {
        assert!(timeout(A_WHILE, TcpStream::connect(dropper.address())).await.is_err(), "it connected or was refused");
    }
}

#[tokio::test]
async fn a_cutter_passes_so_many_bytes_and_no_more() {
    let garbage = Garbage::start().await.unwrap();
    let cutter = Cutter::start(garbage.address(), 10).await.unwrap();
    let mut stream = TcpStream::connect(cutter.address()).await.unwrap();
    stream.write_all(b"hello?").await.unwrap();
    let mut answer = Vec::new();
    // Cut with bytes still on their way, the end may be a reset.
    let _ = timeout(BOUND, stream.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer.len(), 10);
}
