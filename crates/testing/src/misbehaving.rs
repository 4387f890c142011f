//! Listeners that a client with deadlines must survive. Loopback only.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Accepts, and never says a word.
#[derive(Debug)]
pub struct BlackHole {
    listening: Listening,
}

impl BlackHole {
    pub async fn start() -> Result<Self> {
        let swallow = |mut stream: TcpStream| async move {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        };
        Ok(Self { listening: Listening::start(swallow).await? })
    }

    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }
}

/// Accepts, reads a little, and hangs up without an answer.
#[derive(Debug)]
pub struct Closer {
    listening: Listening,
}

impl Closer {
    pub async fn start() -> Result<Self> {
        let hang_up = |mut stream: TcpStream| async move {
            let _ = stream.read(&mut [0; 16]).await;
        };
        Ok(Self { listening: Listening::start(hang_up).await? })
    }

    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }
}

/// Answers whatever it is sent with bytes that are no protocol.
#[derive(Debug)]
pub struct Garbage {
    listening: Listening,
}

impl Garbage {
    pub async fn start() -> Result<Self> {
        let babble = |mut stream: TcpStream| async move {
            let mut buffer = [0; 4096];
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {
                if stream.write_all(b"\xff\xfe\x00!! not a protocol \x07\x1b[2J\r\n\r\n").await.is_err() {
                    return;
                }
            }
        };
        Ok(Self { listening: Listening::start(babble).await? })
    }

    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }
}

/// Passes bytes on to a server and back, and hangs up on both once the server has sent so many of them.
#[derive(Debug)]
pub struct Cutter {
    listening: Listening,
}

impl Cutter {
    pub async fn start(to: SocketAddr, after: u64) -> Result<Self> {
        let pass_on = move |mut client: TcpStream| async move {
            let _ = pass(&mut client, to, after).await;
        };
        Ok(Self { listening: Listening::start(pass_on).await? })
    }

    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }
}

/// Passes bytes on to a server and back, and flips a bit in one of those that the server sends on each connection.
#[derive(Debug)]
pub struct Flipper {
    listening: Listening,
}

impl Flipper {
    pub async fn start(to: SocketAddr, at: u64) -> Result<Self> {
        let pass_on = move |mut client: TcpStream| async move {
            let _ = flip(&mut client, to, at).await;
        };
        Ok(Self { listening: Listening::start(pass_on).await? })
    }

    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }
}

/// Passes bytes on to a server and back until a client says a certain word for the first time, which never arrives.
#[derive(Debug)]
pub struct Interrupter {
    listening: Listening,
}

/// What becomes of the connection on which the word was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interruption {
    /// Both sides are hung up on.
    HangUp,
    /// Nothing happens any more until the client goes.
    Silence,
}

impl Interrupter {
    pub async fn start(to: SocketAddr, word: &'static str, then: Interruption) -> Result<Self> {
        let said = Arc::new(AtomicBool::new(false));
        let pass_on = move |mut client: TcpStream| {
            let said = Arc::clone(&said);
            async move {
                let _ = interrupt(&mut client, to, word, then, &said).await;
            }
        };
        Ok(Self { listening: Listening::start(pass_on).await? })
    }

    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }
}

async fn interrupt(
    client: &mut TcpStream,
    to: SocketAddr,
    word: &str,
    then: Interruption,
    said: &AtomicBool,
) -> io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        let mut buffer = [0; 4096];
        loop {
            let count = from_client.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            // A statement of a test is short enough to come in one piece.
            let is_word = buffer[..count].windows(word.len()).any(|part| part == word.as_bytes());
            if is_word && !said.swap(true, Ordering::SeqCst) {
                while then == Interruption::Silence && from_client.read(&mut buffer).await? > 0 {}
                return Ok(());
            }
            to_server.write_all(&buffer[..count]).await?;
        }
    };
    tokio::select! {
        up = up => up,
        down = tokio::io::copy(&mut from_server, &mut to_client) => down.map(drop),
    }
}

/// Passes bytes on to a server and back, and cuts one connection: the one on which the n-th message of all clients comes. Those
/// that are opened later are passed on, as by a network that is whole again.
#[derive(Debug)]
pub struct Severer {
    listening: Listening,
    cut: Arc<Cut>,
}

/// When, within the exchange of a message and its answer, a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severing {
    /// The message never arrives.
    BeforeIt,
    /// It arrives, and nobody is there any more while the server works on it.
    AtIt,
    /// The server has answered, and nobody hears it.
    BehindIt,
    /// The message is held back until [`Severer::release`], and then passed on. The test does the rest.
    Held,
}

#[derive(Debug)]
struct Cut {
    nth: usize,
    when: Severing,
    counted: AtomicUsize,
    message: OnceLock<String>,
    reached: Notify,
    released: Notify,
}

impl Severer {
    /// The first message is the first.
    pub async fn start(to: SocketAddr, nth: usize, when: Severing) -> Result<Self> {
        let counted = AtomicUsize::new(0);
        let (message, reached, released) = (OnceLock::new(), Notify::new(), Notify::new());
        let cut = Arc::new(Cut { nth, when, counted, message, reached, released });
        let pass_on = {
            let cut = Arc::clone(&cut);
            move |mut client: TcpStream| {
                let cut = Arc::clone(&cut);
                async move {
                    let _ = sever(&mut client, to, &cut).await;
                }
            }
        };
        Ok(Self { listening: Listening::start(pass_on).await?, cut })
    }

    pub fn address(&self) -> SocketAddr {
        self.listening.address
    }

    /// What can be read of the message at which the connection was cut; none where there were not as many.
    pub fn severed(&self) -> Option<&str> {
        self.cut.message.get().map(String::as_str)
    }

    /// Completes when the n-th message has come.
    pub async fn reached(&self) {
        self.cut.reached.notified().await;
    }

    /// Passes on a message that was held back.
    pub fn release(&self) {
        self.cut.released.notify_one();
    }
}

impl Drop for Severer {
    /// What is held back would be so for ever.
    fn drop(&mut self) {
        self.release();
    }
}

async fn sever(client: &mut TcpStream, to: SocketAddr, cut: &Cut) -> io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    // Large enough for what one side says in one go.
    let (mut message, mut answer) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = from_client.read(&mut message) => {
                let said = &message[..read?];
                if said.is_empty() {
                    return Ok(());
                }
                if cut.counted.fetch_add(1, Ordering::SeqCst) + 1 == cut.nth {
                    let _ = cut.message.set(readable(said));
                    cut.reached.notify_one();
                    match cut.when {
                        Severing::BeforeIt => return Ok(()),
                        Severing::AtIt => return to_server.write_all(said).await,
                        Severing::BehindIt => {
                            to_server.write_all(said).await?;
                            return from_server.read(&mut answer).await.map(drop);
                        }
                        Severing::Held => cut.released.notified().await,
                    }
                }
                to_server.write_all(said).await?;
            }
            read = from_server.read(&mut answer) => {
                let said = &answer[..read?];
                if said.is_empty() {
                    return Ok(());
                }
                to_client.write_all(said).await?;
            }
        }
    }
}

/// The beginning of a message, with a blank for each run of what is no text.
fn readable(message: &[u8]) -> String {
    let text: String =
        message.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' }).collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

async fn flip(client: &mut TcpStream, to: SocketAddr, at: u64) -> io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let down = async {
        let (mut before, mut buffer) = (0, [0; 4096]);
        loop {
            let count = from_server.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            if let Some(byte) = usize::try_from(at.wrapping_sub(before)).ok().and_then(|at| buffer[..count].get_mut(at))
            {
                *byte ^= 1;
            }
            before += count as u64;
            to_client.write_all(&buffer[..count]).await?;
        }
    };
    tokio::select! {
        up = tokio::io::copy(&mut from_client, &mut to_server) => up.map(drop),
        down = down => down,
    }
}

async fn pass(client: &mut TcpStream, to: SocketAddr, after: u64) -> io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    let (mut from_client, mut to_client) = client.split();
    let (from_server, mut to_server) = server.split();
    let mut from_server = from_server.take(after);
    // Whichever side ends first ends both.
    tokio::select! {
        up = tokio::io::copy(&mut from_client, &mut to_server) => up,
        down = tokio::io::copy(&mut from_server, &mut to_client) => down,
    }?;
    Ok(())
}

#[derive(Debug)]
struct Listening {
    address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Listening {
    async fn start<F, C>(behave: F) -> Result<Self>
    where
        F: Fn(TcpStream) -> C + Send + 'static,
        C: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(behave(stream));
            }
        });
        Ok(Self { address, accepting })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Connecting hangs, as behind a firewall that drops packets: the listener never accepts and its backlog is full, so
/// the kernel ignores every further SYN.
#[derive(Debug)]
pub struct PacketDropper {
    address: SocketAddr,
    _listener: TcpListener,
    _backlog: Vec<TcpStream>,
}

impl PacketDropper {
    pub async fn start() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let listener = socket.listen(0)?;
        let address = listener.local_addr()?;
        let mut backlog = Vec::new();
        while backlog.len() < 64 {
            // A connect over loopback takes microseconds; a second one in vain shows that the first was not just slow.
            match connect_within(address, Duration::from_millis(100)).await {
                Some(stream) => backlog.push(stream),
                None => match connect_within(address, Duration::from_millis(200)).await {
                    Some(stream) => backlog.push(stream),
                    None => return Ok(Self { address, _listener: listener, _backlog: backlog }),
                },
            }
        }
        bail!("the backlog of {address} does not fill up: this kernel does not honour listen(0)")
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn connect_within(address: SocketAddr, within: Duration) -> Option<TcpStream> {
    tokio::time::timeout(within, TcpStream::connect(address)).await.ok()?.ok()
}
