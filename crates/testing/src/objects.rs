//! An S3 server (moto, from PyPI) with one bucket, and a proxy before it that misbehaves as a test wants.

use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, LAST_MODIFIED};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::port;
use crate::process::{Launch, NotReady, RunAs, ServerProcess};
use crate::scratch::{Scratch, cache};

/// The bucket that is there.
pub const BUCKET: &str = "backups";
/// The path of a `moto_server`; wins over what `cargo xtask setup` installed.
pub const BIN_VARIABLE: &str = "GROUNDSKEEPER_TEST_MOTO_BIN";
const READY_WITHIN: Duration = Duration::from_mins(1);
const ATTEMPTS: usize = 5;

/// Keeps objects in memory; any credentials are good. Ends with this value.
#[derive(Debug)]
pub struct S3Server {
    // The order matters: the server must be gone before its folder is.
    _process: ServerProcess,
    _folder: Scratch,
    port: u16,
}

impl S3Server {
    pub async fn start() -> Result<Self> {
        let installed = || cache().join("moto/bin/moto_server");
        let program = std::env::var_os(BIN_VARIABLE).map_or_else(installed, PathBuf::from);
        ensure!(program.is_file(), "there is no {}; run `cargo xtask setup`", program.display());
        let folder = Scratch::new("s3")?;
        for _ in 0..ATTEMPTS {
            let port = port::free()?;
            let arguments = ["-H", "127.0.0.1", "-p", &port.to_string()].map(OsString::from).to_vec();
            let mut process = ServerProcess::spawn(Launch {
                name: "moto_server",
                program: &program,
                arguments,
                run_as: &RunAs::Me,
                folder: folder.path(),
                goodbye: Signal::KILL,
            })?;
            match process.until_ready(READY_WITHIN, || make_bucket(port)).await {
                Ok(()) => return Ok(Self { _process: process, _folder: folder, port }),
                Err(NotReady::PortTaken) => {}
                Err(NotReady::Failed(error)) => return Err(error),
            }
        }
        bail!("moto found its port taken {ATTEMPTS} times in a row")
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Puts an object into the bucket, behind everybody's back.
    pub async fn put(&self, name: &str, content: impl Into<Bytes>) -> Result<()> {
        self.asked(Method::PUT, name, content.into()).await.map(drop)
    }

    pub async fn get(&self, name: &str) -> Result<Bytes> {
        self.asked(Method::GET, name, Bytes::new()).await
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        self.asked(Method::DELETE, name, Bytes::new()).await.map(drop)
    }

    /// The names of objects that begin so, of the first thousand.
    pub async fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let listed = self.asked(Method::GET, &format!("?list-type=2&prefix={prefix}"), Bytes::new()).await?;
        let text = String::from_utf8_lossy(&listed).into_owned();
        let keys = text.split("<Key>").skip(1).filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()));
        Ok(keys.collect())
    }

    async fn asked(&self, method: Method, name: &str, body: Bytes) -> Result<Bytes> {
        let signed =
            "AWS4-HMAC-SHA256 Credential=test/20261122/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let host = HeaderValue::from_str(&format!("127.0.0.1:{}", self.port))?;
        let headers = [(HOST, host), (AUTHORIZATION, HeaderValue::from_static(signed))];
        let target = if name.starts_with('?') { format!("/{BUCKET}{name}") } else { format!("/{BUCKET}/{name}") };
        let answer = ask(self.port, &method, &target, &headers, &body).await?;
        ensure!(answer.status.is_success(), "{method} {name} gave {}", answer.status);
        Ok(answer.body)
    }
}

async fn make_bucket(port: u16) -> Result<()> {
    let answer = ask(port, &Method::PUT, &format!("/{BUCKET}"), &[], &Bytes::new()).await?;
    ensure!(answer.status == StatusCode::OK, "making the bucket gave {}", answer.status);
    Ok(())
}

/// What a request is answered with instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// This status, with an error of this code in the words of S3.
    Answer(u16, &'static str),
    /// Nothing, ever.
    Silence,
    /// What the server says, up to the middle of its body.
    Cut,
    /// What the server says, so much later.
    Late(Duration),
    /// What the server says, when the test opens the gate.
    Gate,
    /// What the server says, but everything was written years ago.
    OfLongAgo,
    /// What the server says to the same without its conditions (`If-Match`, `If-None-Match`).
    Unconditional,
}

/// A request as the rule of a test sees it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// From 1, since the rule was made.
    pub number: u64,
    pub method: Method,
    /// With the bucket, without the query.
    pub path: String,
}

type Rule = Box<dyn Fn(&Asked) -> Option<Fault> + Send>;

#[derive(Default)]
struct Record {
    rule: Option<Rule>,
    number: u64,
    under_way: u32,
    most_at_once: u32,
    put: u64,
    paths: Vec<(Method, String)>,
}

/// Passes requests on to a server on this machine, except those that a rule picks.
pub struct FaultProxy {
    address: SocketAddr,
    record: Arc<Mutex<Record>>,
    gate: Arc<Gate>,
    serving: JoinHandle<()>,
}

/// Lets nobody pass until it is open.
#[derive(Default)]
struct Gate {
    open: watch::Sender<bool>,
    waiting: watch::Sender<u32>,
}

impl Gate {
    async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        // It lives as long as we do.
        let _ = self.open.subscribe().wait_for(|open| *open).await;
        self.waiting.send_modify(|waiting| *waiting -= 1);
    }
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy").field("address", &self.address).finish_non_exhaustive()
    }
}

impl FaultProxy {
    pub async fn start(server: &S3Server) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let record: Arc<Mutex<Record>> = Arc::default();
        let gate: Arc<Gate> = Arc::default();
        let router = Router::new().fallback(pass).with_state((server.port, Arc::clone(&record), Arc::clone(&gate)));
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, record, gate, serving })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub fn misbehave(&self, rule: impl Fn(&Asked) -> Option<Fault> + Send + 'static) {
        let mut record = locked(&self.record);
        record.rule = Some(Box::new(rule));
        record.number = 0;
    }

    pub fn behave(&self) {
        locked(&self.record).rule = None;
    }

    /// Waits until somebody stands before the gate.
    pub async fn somebody_waits(&self) {
        let _ = self.gate.waiting.subscribe().wait_for(|waiting| *waiting > 0).await;
    }

    /// For everybody, from now on.
    pub fn open_gate(&self) {
        self.gate.open.send_replace(true);
    }

    /// The most requests that were open at the same time.
    pub fn most_at_once(&self) -> u32 {
        locked(&self.record).most_at_once
    }

    /// Bytes that were put.
    pub fn put_bytes(&self) -> u64 {
        locked(&self.record).put
    }

    /// What was asked since the last time that this was.
    pub fn take_asked(&self) -> Vec<(Method, String)> {
        std::mem::take(&mut locked(&self.record).paths)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn locked(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One less under way, also when the client hangs up.
struct UnderWay(Arc<Mutex<Record>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        locked(&self.0).under_way -= 1;
    }
}

async fn pass(State((port, record, gate)): State<(u16, Arc<Mutex<Record>>, Arc<Gate>)>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (fault, _under_way) = {
        let mut record_now = locked(&record);
        record_now.number += 1;
        record_now.under_way += 1;
        record_now.most_at_once = record_now.most_at_once.max(record_now.under_way);
        let path = parts.uri.path().to_owned();
        record_now.paths.push((parts.method.clone(), path.clone()));
        let asked = Asked { number: record_now.number, method: parts.method.clone(), path };
        (record_now.rule.as_ref().and_then(|rule| rule(&asked)), UnderWay(Arc::clone(&record)))
    };
    let Ok(body) = to_bytes(body, usize::MAX).await else { return StatusCode::BAD_REQUEST.into_response() };
    match fault {
        Some(Fault::Answer(status, code)) => return refusal(status, code, &parts.method),
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Late(by)) => tokio::time::sleep(by).await,
        Some(Fault::Gate) => gate.pass().await,
        Some(Fault::Cut | Fault::OfLongAgo | Fault::Unconditional) | None => {}
    }
    if parts.method == Method::PUT {
        locked(&record).put += body.len() as u64;
    }
    let passed = |name: &HeaderName| {
        fault != Some(Fault::Unconditional) || !matches!(name.as_str(), "if-match" | "if-none-match")
    };
    let headers: Vec<(HeaderName, HeaderValue)> = parts
        .headers
        .iter()
        .filter(|(name, _)| passed(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let target = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    match ask(port, &parts.method, target, &headers, &body).await {
        Ok(answer) if fault == Some(Fault::OfLongAgo) => answer.of_long_ago().into_response(false),
        Ok(answer) => answer.into_response(fault == Some(Fault::Cut)),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

fn refusal(status: u16, code: &str, method: &Method) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // As some stores do, it repeats what the client would rather not read in a log.
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>no</Message>\
         <AWSAccessKeyId>key-of-the-test</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256 20261122</StringToSign></Error>"
    );
    if *method == Method::HEAD { status.into_response() } else { (status, body).into_response() }
}

struct Answer {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Answer {
    fn of_long_ago(mut self) -> Self {
        for (name, value) in &mut self.headers {
            if *name == LAST_MODIFIED {
                *value = HeaderValue::from_static("Thu, 01 Jan 2015 00:00:00 GMT");
            }
        }
        if let Some(text) = std::str::from_utf8(&self.body).ok().filter(|text| text.contains("<LastModified>")) {
            let dates = text.split("<LastModified>").enumerate().map(|(number, part)| match part.split_once('<') {
                Some((_, rest)) if number > 0 => format!("<LastModified>2015-01-01T00:00:00.000Z<{rest}"),
                _ => part.to_owned(),
            });
            self.body = dates.collect::<String>().into();
            self.headers.retain(|(name, _)| *name != CONTENT_LENGTH);
        }
        self
    }

    fn into_response(self, cut: bool) -> Response {
        let body = if cut {
            let half = self.body.slice(..self.body.len() / 2);
            let broken = std::io::Error::other("cut by the test");
            Body::from_stream(futures_util::stream::iter([Ok(half), Err(broken)]))
        } else {
            Body::from(self.body)
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        // With the length of all of it, so that a client knows what it lacks.
        response.headers_mut().extend(self.headers.into_iter().map(|(name, value)| (Some(name), value)));
        response
    }
}

/// One request in the old protocol, whose answers end with their connection.
async fn ask(
    port: u16,
    method: &Method,
    target: &str,
    headers: &[(HeaderName, HeaderValue)],
    body: &Bytes,
) -> Result<Answer> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut head = format!("{method} {target} HTTP/1.0\r\ncontent-length: {}\r\n", body.len()).into_bytes();
    for (name, value) in headers.iter().filter(|(name, _)| !matches!(name.as_str(), "content-length" | "connection")) {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    parse(answer)
}

fn parse(answer: Vec<u8>) -> Result<Answer> {
    let end =
        answer.windows(4).position(|four| four == b"\r\n\r\n").context("the server's answer has no end of its head")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("the server's answer has no status")?;
    let mut headers = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if matches!(name.to_ascii_lowercase().as_str(), "connection" | "transfer-encoding" | "server" | "date") {
            continue;
        }
        headers.push((name.parse()?, value.trim().parse()?));
    }
    Ok(Answer { status: status.parse()?, headers, body: Bytes::from(answer).slice(end + 4..) })
}
