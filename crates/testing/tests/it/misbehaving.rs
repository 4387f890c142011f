//! Each misbehaving listener does what it is for.

use std::net::SocketAddr;
use std::time::Duration;

use groundskeeper_testing::{BlackHole, Closer, Cutter, Garbage, PacketDropper, Severer, Severing};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
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

/// Says everything back, and gives what it has heard.
async fn echo() -> (SocketAddr, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, (heard, hears)) = (listener.local_addr().unwrap(), unbounded_channel());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let heard = heard.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 64];
                while let Ok(count) = stream.read(&mut buffer).await {
                    if count == 0 {
                        break;
                    }
                    let _ = heard.send(String::from_utf8_lossy(&buffer[..count]).into_owned());
                    let _ = stream.write_all(&buffer[..count]).await;
                }
            });
        }
    });
    (address, hears)
}

/// What comes back; empty when the connection is cut.
async fn ask(stream: &mut TcpStream, what: &str) -> String {
    let mut buffer = [0; 64];
    // Where it was cut already, writing may fail as well.
    let _ = stream.write_all(what.as_bytes()).await;
    let count = timeout(BOUND, stream.read(&mut buffer)).await.unwrap().unwrap_or(0);
    String::from_utf8_lossy(&buffer[..count]).into_owned()
}

#[tokio::test]
async fn a_severer_cuts_one_connection_before_at_or_behind_one_message() {
    for (when, arrives) in [(Severing::BeforeIt, false), (Severing::AtIt, true), (Severing::BehindIt, true)] {
        let (to, mut hears) = echo().await;
        let severer = Severer::start(to, 2, when).await.unwrap();
        let mut stream = TcpStream::connect(severer.address()).await.unwrap();
        assert_eq!((ask(&mut stream, "one").await.as_str(), severer.severed()), ("one", None), "{when:?}");
        assert_eq!(ask(&mut stream, "two").await, "", "{when:?}");
        assert_eq!(severer.severed(), Some("two"), "{when:?}");
        let mut other = TcpStream::connect(severer.address()).await.unwrap();
        assert_eq!(ask(&mut other, "three").await, "three", "{when:?}: who comes later is passed on");
        let mut heard = vec![hears.recv().await.unwrap(), hears.recv().await.unwrap()];
        if arrives {
            heard.push(hears.recv().await.unwrap());
        }
        heard.sort();
        assert_eq!(heard, if arrives { vec!["one", "three", "two"] } else { vec!["one", "three"] }, "{when:?}");
    }
}

#[tokio::test]
async fn a_message_that_is_held_back_goes_on_when_it_is_released() {
    let (to, mut hears) = echo().await;
    let severer = Severer::start(to, 1, Severing::Held).await.unwrap();
    let mut stream = TcpStream::connect(severer.address()).await.unwrap();
    let asked = tokio::spawn(async move { ask(&mut stream, "one").await });
    timeout(BOUND, severer.reached()).await.unwrap();
    assert!(hears.try_recv().is_err(), "it is held back");
    severer.release();
    assert_eq!(asked.await.unwrap(), "one");
}
