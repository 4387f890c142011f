//! Where a Postgres is and how to reach it.
//!
//! Our session's settings travel in the start-up message (`options`), not in `SET` statements: behind a pooler in
//! transaction mode a `SET` would stay on a server connection that applications use next, and a
//! `default_transaction_read_only` of ours would break them. A pooler that does not take the start-up parameter is asked
//! again without it; then only our own deadline bounds the statements.

use super::dsn::{dsn_pairs, joined_dsn, joined_url, url_parts};
use super::tls;
use groundskeeper_core::observation::{Failure, FailureKind};
use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use std::error::Error as _;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;

/// What our sessions are called in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "groundskeeper";
/// Where Debian's packages, and most images, put the socket when no host is given.
const DEFAULT_SOCKET_FOLDER: &str = "/var/run/postgresql";
pub(super) const PORT: u16 = 5432;
/// What libpq takes and we have no use for; anything else that is unknown is an error.
const IGNORED: [&str; 4] = ["gssencmode", "sslsni", "sslcompression", "fallback_application_name"];

/// The address of a server with what is needed to log in. `Debug` shows no password.
#[derive(Clone)]
pub struct Endpoint {
    pub(super) config: Config,
    tls: MakeRustlsConnect,
    /// What `tls` is made of, for connections that are not the driver's.
    pub(super) encryption: Arc<ClientConfig>,
    address: String,
    protected: Arc<[String]>,
    trusted: Arc<[String]>,
    disk: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("this is no Postgres address: {0}; write postgres://user@host:5432/database")]
    Malformed(String),
    #[error("{0}")]
    Tls(String),
    #[error("`{0}` is not supported in a Postgres address; client certificates and pass files come later")]
    Unsupported(String),
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .field("user", &self.config.get_user())
            .field("sslmode", &self.config.get_ssl_mode())
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Reads a `postgres://` or `postgresql://` URL, or a `key=value` connection string. A password given apart wins over
    /// one in the text. Nothing is connected, but a file that `sslrootcert` names is read.
    pub fn parse(text: &str, password: Option<SecretString>) -> Result<Self, EndpointError> {
        let text = text.trim();
        let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        let (rest, options) = if is_url { url_parts(text) } else { (String::new(), dsn_pairs(text)?) };
        let mut sslmode = None;
        let mut root = None;
        let mut kept = Vec::new();
        for (key, value) in options {
            match key.as_str() {
                "sslmode" => sslmode = Some(value),
                "sslrootcert" => root = Some(value),
                "sslcert" | "sslkey" | "passfile" | "service" => return Err(EndpointError::Unsupported(key)),
                ignored if IGNORED.contains(&ignored) => {}
                _ => kept.push((key, value)),
            }
        }
        let plain = if is_url { joined_url(&rest, &kept) } else { joined_dsn(&kept) };
        let mut config: Config = plain.parse().map_err(|error: Error| EndpointError::Malformed(chain(&error)))?;
        if let Some(password) = password {
            config.password(password.expose_secret());
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host_path(DEFAULT_SOCKET_FOLDER);
        }
        let (mode, trust) = tls::mode(sslmode.as_deref(), root.as_deref()).map_err(EndpointError::Tls)?;
        // As in libpq: a Unix socket is not encrypted, whatever is asked for.
        let local =
            !config.get_hosts().is_empty() && config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        config.ssl_mode(if local { SslMode::Disable } else { mode });
        config.application_name(APPLICATION_NAME);
        let encryption = tls::encryption(trust, root.as_deref()).map_err(EndpointError::Tls)?;
        let tls = MakeRustlsConnect::new(encryption.clone());
        let address = address(&config);
        let (encryption, nobody) = (Arc::new(encryption), Arc::from([]));
        Ok(Self { config, tls, encryption, address, protected: Arc::clone(&nobody), trusted: nobody, disk: None })
    }

    /// Applications and roles whose sessions are never ended, besides those that nobody may end.
    #[must_use]
    pub fn with_protected(self, names: &[String]) -> Self {
        Self { protected: names.iter().map(|name| name.to_lowercase()).collect(), ..self }
    }

    /// Roles whose functions the planner may evaluate with our rights.
    #[must_use]
    pub fn with_trusted(self, roles: &[String]) -> Self {
        Self { trusted: Arc::from(roles), ..self }
    }

    /// The same roles.
    pub(super) fn trusted(&self) -> &[String] {
        &self.trusted
    }

    /// The bytes of the disk that the server's data directory is on, for a server whose disk cannot be looked at.
    #[must_use]
    pub fn with_disk(self, bytes: Option<u64>) -> Self {
        Self { disk: bytes, ..self }
    }

    /// The same bytes.
    pub fn disk(&self) -> Option<u64> {
        self.disk
    }

    /// The same names, in lower case.
    pub(super) fn protected(&self) -> &[String] {
        &self.protected
    }

    /// `host:port/database`, without credentials.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Whether a connection may lead to one of several servers.
    pub(super) fn has_several_hosts(&self) -> bool {
        self.config.get_hosts().len().max(self.config.get_hostaddrs().len()) > 1
    }

    /// Whether it is reached over Unix sockets only, and so is on this machine. An address of the loopback interface says
    /// less: behind it may be a tunnel, a proxy or a container with limits of its own.
    pub fn is_socket(&self) -> bool {
        let hosts = self.config.get_hosts();
        // An address that is given apart is the one that is used.
        self.config.get_hostaddrs().is_empty()
            && !hosts.is_empty()
            && hosts.iter().all(|host| matches!(host, Host::Unix(_)))
    }

    /// The database that is entered. Without one the server takes that which is named like the user.
    pub fn database(&self) -> Option<&str> {
        database(&self.config)
    }

    /// Whom we log in as.
    pub(super) fn role(&self) -> &str {
        self.config.get_user().unwrap_or("our role")
    }

    /// The same server and role, another database.
    #[must_use]
    pub fn with_database(&self, database: &str) -> Self {
        let mut config = self.config.clone();
        config.dbname(database);
        let address = address(&config);
        Self { config, address, ..self.clone() }
    }

    /// Opens a session with these settings in force from its first statement on.
    pub async fn connect(
        &self,
        application_name: &str,
        settings: &[(&str, String)],
        deadline: Duration,
    ) -> Result<Session, Failure> {
        // Boxed: the handshake's state is large, and gone once the session is open.
        let opening =
            Box::pin(async { self.enter(application_name, settings).await.map_err(|error| self.failure(&error)) });
        crate::deadline::within(deadline, &self.address, opening).await
    }

    /// The same without a deadline, and with the driver's own error.
    pub(super) async fn enter(&self, application_name: &str, settings: &[(&str, String)]) -> Result<Session, Error> {
        match self.open(application_name, settings).await {
            Err(error) if !settings.is_empty() && is_refused_parameter(&error) => {
                self.open(application_name, &[]).await
            }
            other => other,
        }
    }

    /// Asks the server to end the statement that this client waits for.
    pub(super) async fn cancel(&self, client: &Client) -> Result<(), Error> {
        client.cancel_token().cancel_query(self.tls.clone()).await
    }

    async fn open(&self, application_name: &str, settings: &[(&str, String)]) -> Result<Session, Error> {
        let mut config = self.config.clone();
        config.application_name(application_name);
        if !settings.is_empty() {
            let mut options = config.get_options().unwrap_or_default().to_owned();
            for (name, value) in settings {
                let _ = write!(options, " -c {name}={value}");
            }
            config.options(options.trim_start());
        }
        let (client, connection) = config.connect(self.tls.clone()).await?;
        let task = tokio::spawn(async move {
            // Whoever waits for an answer gets this error as well, and has more to say about it.
            if let Err(error) = connection.await {
                tracing::debug!(error = chain(&error), "the connection ended");
            }
        });
        Ok(Session { client: Some(client), task, settled: !settings.is_empty() })
    }

    /// What an error of the driver means to a person.
    pub fn failure(&self, error: &Error) -> Failure {
        let message = match error.as_db_error() {
            Some(said) => format!("{} (SQLSTATE {})", said.message(), said.code().code()),
            None => chain(error),
        };
        Failure { kind: kind(error), message, address: self.address.clone() }
    }
}

/// An open connection. Dropping it closes the socket at once; [`Session::close`] says goodbye first.
#[derive(Debug)]
pub struct Session {
    client: Option<Client>,
    task: JoinHandle<()>,
    settled: bool,
}

impl Session {
    /// None once it was closed, which only [`Session::close`] does.
    pub(super) fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// Whether the server took our settings. A pooler may not.
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// Ends the session properly, so that it is gone from `pg_stat_activity` and no half-open connection is logged.
    pub async fn close(mut self, within: Duration) {
        drop(self.client.take());
        // When the goodbye does not get through, dropping the task closes the socket all the same.
        let _ = tokio::time::timeout(within, &mut self.task).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What keeps the answer to a question of ours in one process: workers that it took would be missing where the application
/// wants them. Not `max_parallel_workers_per_gather`, of which the reading wants the server's own value.
pub(super) const NOT_IN_PARALLEL: (&str, &str) = ("parallel_setup_cost", "1000000000");

/// A statement may take half of the time at most, so that one that hangs leaves room for the others.
pub(super) fn reading_settings(deadline: Duration) -> Vec<(&'static str, String)> {
    vec![
        ("default_transaction_read_only", "on".to_owned()),
        ("statement_timeout", (deadline.as_millis() / 2).max(1).to_string()),
        ("lock_timeout", "200".to_owned()),
        // To compile these small questions would take longer than to answer them.
        ("jit", "off".to_owned()),
        (NOT_IN_PARALLEL.0, NOT_IN_PARALLEL.1.to_owned()),
    ]
}

fn kind(error: &Error) -> FailureKind {
    if let Some(code) = error.code() {
        return kind_of_state(code);
    }
    let what = error.to_string();
    if error.is_closed() {
        return FailureKind::Interrupted;
    }
    if what.contains("TLS") {
        return FailureKind::Tls;
    }
    if what.contains("authentication") || chain(error).contains("password missing") {
        return FailureKind::Denied;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            return kind_of_io(error);
        }
        source = cause.source();
    }
    if what.contains("timeout") { FailureKind::Timeout } else { FailureKind::Protocol }
}

pub(super) fn kind_of_state(code: &SqlState) -> FailureKind {
    match code {
        _ if code.code().starts_with("28") => FailureKind::Denied,
        &SqlState::INVALID_CATALOG_NAME | &SqlState::INSUFFICIENT_PRIVILEGE => FailureKind::Denied,
        &SqlState::TOO_MANY_CONNECTIONS => FailureKind::Exhausted,
        &SqlState::CANNOT_CONNECT_NOW => FailureKind::NotReady,
        &SqlState::ADMIN_SHUTDOWN | &SqlState::CRASH_SHUTDOWN => FailureKind::Interrupted,
        &SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE => FailureKind::Timeout,
        _ => FailureKind::Protocol,
    }
}

pub(super) fn kind_of_io(error: &io::Error) -> FailureKind {
    use io::ErrorKind as Io;
    match error.kind() {
        Io::ConnectionRefused => FailureKind::Refused,
        Io::NotFound => FailureKind::Missing,
        Io::PermissionDenied => FailureKind::Denied,
        // Nothing comes back from there, which is what a dropped packet looks like as well.
        Io::TimedOut | Io::HostUnreachable | Io::NetworkUnreachable | Io::NetworkDown => FailureKind::Timeout,
        Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe | Io::UnexpectedEof => FailureKind::Interrupted,
        // The resolver's errors have no kind of their own.
        _ if error.to_string().contains("lookup address") || error.to_string().contains("resolve") => {
            FailureKind::UnknownHost
        }
        _ => FailureKind::Protocol,
    }
}

/// PgBouncer: "unsupported startup parameter: options", or one within `options`.
fn is_refused_parameter(error: &Error) -> bool {
    error.as_db_error().is_some_and(|said| said.message().contains("unsupported startup parameter"))
}

/// `error connecting to server: Connection refused (os error 111)`
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

fn address(config: &Config) -> String {
    let hosts: Vec<String> = if config.get_hosts().is_empty() {
        config.get_hostaddrs().iter().map(ToString::to_string).collect()
    } else {
        let names = config.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        names.collect()
    };
    let ports = config.get_ports();
    let places = hosts.iter().enumerate().map(|(index, host)| {
        let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(PORT);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    });
    let places = places.collect::<Vec<_>>().join(",");
    match database(config) {
        Some(database) => format!("{places}/{database}"),
        None => places,
    }
}

fn database(config: &Config) -> Option<&str> {
    config.get_dbname().or(config.get_user())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Endpoint {
        Endpoint::parse(text, None).unwrap()
    }

    #[test]
    fn an_address_names_the_place_and_never_the_password() {
        for (text, address) in [
            ("postgres://docrag:s3cret@db.example:6432/docrag", "db.example:6432/docrag"),
            ("postgresql://docrag:s3cret@db.example", "db.example:5432/docrag"),
            ("postgres://docrag:s3cret%2F%3F%40@[::1]/x?connect_timeout=3", "[::1]:5432/x"),
            ("postgres://docrag:s3?cret@db/docrag?sslmode=disable", "db:5432/docrag"),
            (
                "host=/run/postgresql port=5433 user=docrag password='s3 cret' dbname=docrag",
                "/run/postgresql:5433/docrag",
            ),
            ("postgres://docrag:s3cret@a:1,b:2/docrag?target_session_attrs=read-write", "a:1,b:2/docrag"),
            ("postgres:///docrag", "/var/run/postgresql:5432/docrag"),
        ] {
            let endpoint = parse(text);
            assert_eq!(endpoint.address(), address, "{text}");
            assert!(!format!("{endpoint:?}").contains("s3"), "{endpoint:?}");
        }
    }

    #[test]
    fn a_database_that_is_not_named_is_called_like_the_user() {
        for (text, database) in
            [("postgres://ann@h/docrag", Some("docrag")), ("postgres://ann@h", Some("ann")), ("postgres://h", None)]
        {
            assert_eq!(parse(text).database(), database, "{text}");
        }
    }

    #[test]
    fn a_password_given_apart_wins() {
        let endpoint = Endpoint::parse("postgres://u:wrong@h/d", Some("right".into())).unwrap();
        assert_eq!(endpoint.config.get_password(), Some(&b"right"[..]));
        let quoted = parse(r"host=h user=u password='it\'s \\ fine' sslmode=require");
        assert_eq!(quoted.config.get_password(), Some(&br"it's \ fine"[..]));
        assert_eq!(quoted.config.get_ssl_mode(), SslMode::Require);
    }

    #[test]
    fn libpqs_modes_and_options_are_understood() {
        assert_eq!(parse("postgres://u@h/d?sslmode=verify-full").config.get_ssl_mode(), SslMode::Require);
        assert_eq!(parse("postgres://u@h/d?gssencmode=disable").config.get_ssl_mode(), SslMode::Prefer);
        assert_eq!(parse("postgres:///d?host=/tmp&sslmode=require").config.get_ssl_mode(), SslMode::Disable);
        let options = parse("postgres://u@h/d?options=-c%20work_mem%3D8MB&sslmode=disable");
        assert_eq!(options.config.get_options(), Some("-c work_mem=8MB"));
    }

    #[test]
    fn what_is_no_address_says_so_without_repeating_a_secret() {
        for text in ["", "hunter2", "password=hunter2 x", "password='hunter2", "postgres://u:hunter2@h:port/d"] {
            let error = Endpoint::parse(text, None).unwrap_err().to_string();
            assert!(error.contains("postgres://user@host"), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let error = Endpoint::parse("postgres://u@h/d?sslcert=a.pem", None).unwrap_err().to_string();
        assert!(error.contains("sslcert"), "{error}");
        assert!(Endpoint::parse("postgres://u@h/d?sslmode=yes", None).unwrap_err().to_string().contains("verify-full"));
    }

    #[test]
    fn another_database_keeps_everything_else() {
        let other = parse("postgres://u:p@h:1/a").with_database("b");
        assert_eq!(other.address(), "h:1/b");
        assert_eq!(other.config.get_password(), Some(&b"p"[..]));
    }
}
