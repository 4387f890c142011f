//! A probe over HTTP: a service of the user's is started on the restored Postgres, and asked.

use super::{Probe, Time, told, told_lines};
use crate::scratch::{Ended, Launch, ScratchCommand, ScratchServer, Setback, said};
use groundskeeper_core::quantity::format_seconds;
use groundskeeper_systems::trust;
use reqwest::{Client, redirect};
use rustls::{ClientConfig, RootCertStore};
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of an answer in which a text is looked for.
const MOST: usize = 1 << 20;
/// A port that is free may be taken before the service has it.
const PORTS: usize = 3;
/// Below those that outgoing connections get.
const FIRST_PORT: u16 = 15_000;
const PORT_COUNT: u16 = 16_000;
/// By which shells, `env` and `setpriv` say that a program cannot be run, or is not there.
const NOT_RUN: [i32; 2] = [126, 127];

/// In the arguments and the URL this is the port.
pub const PORT: &str = "{port}";

/// A program that listens on the port of the variable `PORT`, and what it is to answer. `Debug` shows neither the arguments
/// nor the query of the URL: a token may stand in them.
#[derive(Clone, PartialEq, Eq)]
pub struct Service {
    /// Its whole path.
    pub program: PathBuf,
    pub arguments: Vec<String>,
    /// A path, or an address on this machine with `{port}` in it.
    pub url: String,
    pub status: u16,
    /// A text in the answer.
    pub contains: Option<String>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("asked", &self.asked()).finish_non_exhaustive()
    }
}

impl Service {
    fn address(&self, port: u16) -> String {
        let url = self.url.replace(PORT, &port.to_string());
        if url.starts_with('/') { format!("http://{}:{port}{url}", Ipv4Addr::LOCALHOST) } else { url }
    }

    /// Neither its arguments nor the query of the URL.
    pub(super) fn asked(&self) -> String {
        format!("{} of {}", told(self.url.split('?').next().unwrap_or_default()), self.program.display())
    }
}

/// Why there was no answer that is wanted.
enum Silence {
    Ended(Ended),
    /// What came of the last question.
    Late(String),
}

pub(super) async fn ask(
    server: &ScratchServer<'_>,
    probe: &Probe,
    service: &Service,
    time: Time,
) -> Result<String, Setback> {
    let client = client().map_err(|why| Setback::NotTried(format!("cannot be asked: {why}")))?;
    let role = tokio::time::timeout(time.left(), role(server, probe)).await.map_err(|_| time.over(""))??;
    let mut tries = 1;
    loop {
        let port = free_port().map_err(|error| Setback::NotTried(format!("has no port: {error}")))?;
        let arguments = service.arguments.iter().map(|argument| argument.replace(PORT, &port.to_string())).collect();
        let launch = Launch { program: &service.program, arguments, role: &role, database: &probe.database, port };
        let running = ScratchCommand::start(server, &launch)?;
        let answered = until_it_answers(&running, &client, service, port, time).await;
        // Before it is told to end: it may have much to say about that.
        let output = running.output();
        running.stop().await;
        match answered {
            Ok(took) => {
                let took = format_seconds(took.as_secs_f64());
                return Ok(format!("answered {} after {took}", service.status));
            }
            Err(Silence::Ended(_)) if tries < PORTS && is_taken(&output) => tries += 1,
            Err(silence) => return Err(silence.setback(time, &output)),
        }
    }
}

impl Silence {
    fn setback(self, time: Time, output: &str) -> Setback {
        let output = told_lines(output);
        let output = if output.is_empty() {
            "it printed nothing".to_owned()
        } else {
            format!("the last lines that it printed:\n{output}")
        };
        match self {
            Self::Late(last) => time.over(&format!("; the last time {last}; {output}")),
            Self::Ended(ended) if ended.code.is_some_and(|code| NOT_RUN.contains(&code)) => Setback::NotTried(format!(
                "could not be tried ({ended}: there is a program that cannot be run); {output}"
            )),
            Self::Ended(ended) => {
                let hint = if ended.code == Some(0) { ": it has to stay in the foreground" } else { "" };
                Setback::Failed(format!("ended with {ended} before it had answered{hint}; {output}"))
            }
        }
    }
}

/// Whom the service comes as.
async fn role(server: &ScratchServer<'_>, probe: &Probe) -> Result<String, Setback> {
    let (sql, sought) = match &probe.user {
        Some(user) => ("SELECT rolname::text, rolcanlogin FROM pg_roles WHERE rolname = $1", user),
        None => (
            "SELECT r.rolname::text, r.rolcanlogin FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba \
             WHERE d.datname = $1",
            &probe.database,
        ),
    };
    let asking = async { server.enter().await?.query_opt(sql, &[sought]).await };
    let row = asking.await.map_err(|error| server.failed(&format!("cannot be asked: {}", said(&error))))?;
    let Some(row) = row else {
        let what = if probe.user.is_some() { "role" } else { "database" };
        return Err(Setback::Failed(format!("cannot be asked: there is no {what} {sought} in it")));
    };
    let (role, logs_in): (String, bool) = (row.get(0), row.get(1));
    if !logs_in {
        let whose = if probe.user.is_some() { "" } else { ", to whom the database belongs," };
        return Err(Setback::NotTried(format!(
            "could not be tried: the role {role}{whose} may not log in; set `user` of the probe to the service's own"
        )));
    }
    Ok(role)
}

/// How long that took.
async fn until_it_answers(
    running: &ScratchCommand,
    client: &Client,
    service: &Service,
    port: u16,
    time: Time,
) -> Result<Duration, Silence> {
    let (began, address) = (Instant::now(), service.address(port));
    // The last that it answered says more than that the time was over before the next answer came.
    let (mut answered, mut silent) = (None, "it was not asked".to_owned());
    loop {
        if let Some(ended) = running.ended() {
            return Err(Silence::Ended(ended));
        }
        let left = time.left();
        if left.is_zero() {
            return Err(Silence::Late(answered.unwrap_or(silent)));
        }
        match tokio::time::timeout(left, asked(client, &address, service)).await {
            // An answer of one that has ended is perhaps somebody else's, who has taken the port.
            Ok(Ok(None)) if running.ended().is_none() => return Ok(began.elapsed()),
            Ok(Ok(None)) => {}
            Ok(Ok(other)) => answered = other,
            Ok(Err(why)) => silent = why,
            Err(_) => silent = String::from("it took the question and did not answer"),
        }
        tokio::time::sleep(PAUSE.min(time.left())).await;
    }
}

/// What it answers, if that is not what is wanted; the error says why there is no answer.
async fn asked(client: &Client, address: &str, service: &Service) -> Result<Option<String>, String> {
    let mut answer = client.get(address).send().await.map_err(|error| cause(&error))?;
    let status = answer.status().as_u16();
    let wanted = match &service.contains {
        _ if status != service.status => None,
        None => return Ok(None),
        Some(text) => Some(text),
    };
    let mut body = Vec::new();
    while body.len() < MOST
        && let Some(piece) = answer.chunk().await.map_err(|error| cause(&error))?
    {
        body.extend_from_slice(&piece);
    }
    let body = String::from_utf8_lossy(&body);
    let shown = told(&body);
    let shown = if shown.is_empty() { String::new() } else { format!(": {shown}") };
    Ok(match wanted {
        Some(text) if body.contains(text) => None,
        Some(text) => Some(format!("it answered {status} without `{}`{shown}", told(text))),
        None => Some(format!("it answered {status}, and {} is wanted{shown}", service.status)),
    })
}

/// Asks this machine and nobody else: no proxy, and no redirect, which could lead to a service that is live.
fn client() -> Result<Client, String> {
    // There is no TLS in it, and reqwest panics where it has no cryptography for that.
    let tls = ClientConfig::builder_with_provider(trust::provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .user_agent(concat!("groundskeeper/", env!("CARGO_PKG_VERSION")));
    client.build().map_err(|error| error.to_string())
}

/// What reqwest says first is only that it was a request; the cause is at the end.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    format!("it could not be asked ({cause})")
}

/// A port of this machine on which nothing listens right now, any of them.
fn free_port() -> io::Result<u16> {
    free_from((RandomState::new().build_hasher().finish() % u64::from(PORT_COUNT)) as u16)
}

fn free_from(start: u16) -> io::Result<u16> {
    let ports = (0..PORT_COUNT).map(|step| FIRST_PORT + (start + step) % PORT_COUNT);
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for port in ports {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// In the words of `strerror`, which most programs repeat.
fn is_taken(output: &str) -> bool {
    output.to_lowercase().contains("address already in use")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn service(url: &str) -> Service {
        let program = PathBuf::from("/opt/app/bin/app");
        Service { program, arguments: vec!["--token=hunter2".into()], url: url.into(), status: 200, contains: None }
    }

    #[test]
    fn a_service_is_asked_on_this_machine() {
        assert_eq!(service("/health").address(15_001), "http://127.0.0.1:15001/health");
        assert_eq!(service("http://localhost:{port}/a?b").address(1), "http://localhost:1/a?b");
    }

    #[test]
    fn what_may_be_a_token_is_not_told() {
        let service = service("/ask?key=hunter2");
        assert_eq!(service.asked(), "/ask of /opt/app/bin/app");
        assert!(!format!("{service:?}").contains("hunter2"));
    }

    /// Answers each path with what stands there.
    async fn answering(answers: &'static [(&'static str, &'static str)]) -> u16 {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = vec![0; 4096];
                let read = stream.read(&mut asked).await.unwrap();
                let asked = String::from_utf8_lossy(&asked[..read]).into_owned();
                let path = asked.split(' ').nth(1).unwrap_or_default();
                let (_, answer) = answers.iter().find(|(known, _)| *known == path).unwrap();
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
            }
        });
        port
    }

    #[tokio::test]
    async fn an_answer_is_the_wanted_one_or_is_told_and_no_redirect_is_followed() {
        let port = answering(&[
            ("/good", "200 OK\r\nConnection: close\r\n\r\nall  is \u{1b}[1mwell"),
            ("/bad", "500 No\r\nConnection: close\r\n\r\nno index"),
            ("/moved", "302 Found\r\nLocation: /good\r\nConnection: close\r\n\r\n"),
        ])
        .await;
        let client = client().unwrap();
        let asked = async |path: &str, status, contains: Option<&str>| {
            let service = Service { status, contains: contains.map(str::to_owned), ..service(path) };
            asked(&client, &service.address(port), &service).await
        };
        assert_eq!(asked("/good", 200, None).await, Ok(None));
        assert_eq!(asked("/good", 200, Some("all  is")).await, Ok(None));
        assert_eq!(asked("/moved", 302, None).await, Ok(None));
        for (path, contains, told) in [
            ("/good", Some("bad"), "it answered 200 without `bad`: all is [1mwell"),
            ("/bad", None, "it answered 500, and 200 is wanted: no index"),
            ("/bad", Some("index"), "it answered 500, and 200 is wanted: no index"),
            ("/moved", None, "it answered 302, and 200 is wanted"),
        ] {
            assert_eq!(asked(path, 200, contains).await, Ok(Some(told.to_owned())));
        }
        let nobody = Service { url: "http://127.0.0.1:1/".to_owned(), ..service("/") };
        let told = super::asked(&client, &nobody.url, &nobody).await.unwrap_err();
        assert!(told.starts_with("it could not be asked (Connection refused"), "{told}");
    }

    #[test]
    fn a_port_that_is_taken_is_not_chosen() {
        let port = free_port().unwrap();
        assert!((FIRST_PORT..FIRST_PORT + PORT_COUNT).contains(&port));
        // Should somebody else have it by now, it is taken all the same.
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        assert_ne!(free_from(port - FIRST_PORT).unwrap(), port);
        assert!(is_taken("OSError: [Errno 98] Address already in use\n"));
    }

    #[test]
    fn an_end_without_an_answer_is_a_failure_unless_there_was_nothing_to_run() {
        let time = Time::of(Duration::from_secs(1), Duration::from_secs(2), Instant::now());
        let ended = |code| Silence::Ended(Ended { code: Some(code), signal: None }).setback(time, "");
        assert!(matches!(ended(3), Setback::Failed(why) if why.starts_with("ended with exit status 3")));
        assert!(matches!(ended(127), Setback::NotTried(why) if why.contains("exit status 127")));
        let late = Silence::Late("it answered 500".to_owned()).setback(time, "one\ntwo");
        let why = "gave no answer within 1 s; the last time it answered 500; the last lines that it printed:\none\ntwo";
        assert_eq!(late, Setback::Failed(why.to_owned()));
    }
}
