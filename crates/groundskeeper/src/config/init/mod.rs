//! The first configuration: looks around this machine and writes a commented file about what it found.
//!
//! Nothing is guessed: a port is only called Postgres, Redis or HTTP after it answered like one. Secrets stay where they
//! are: the file refers to `${DATABASE_URL}` and does not copy it.

mod probe;
mod write;

pub use write::write;

use super::secrets::Environment;
use probe::Answers;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use url::Url;

/// Where to look; a test looks elsewhere.
#[derive(Debug, Clone)]
pub struct Places {
    pub log_root: PathBuf,
    pub ports: Vec<u16>,
}

impl Default for Places {
    fn default() -> Self {
        Self { log_root: PathBuf::from("/var/log"), ports: vec![5432, 6379, 80, 8080, 8000, 3000] }
    }
}

/// What was found, ready to be shown and written.
#[derive(Debug, Clone, Default)]
pub struct Discovery {
    /// Plain sentences.
    pub found: Vec<String>,
    pub missing: Vec<String>,
    /// The file's text.
    pub text: String,
}

/// A section to write: its header, why it is there, its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) section: String,
    pub because: String,
    pub lines: Vec<String>,
}

#[derive(Debug, Default)]
struct Search {
    entries: Vec<Entry>,
    found: Vec<String>,
    missing: Vec<String>,
    /// Local ports that an address in the environment already covers.
    covered: BTreeSet<u16>,
}

/// Takes about a second at most: every port is on the loopback and has a short deadline.
pub fn discover(environment: &Environment, places: &Places) -> Discovery {
    let mut search = Search::default();
    search.postgres_variables(environment);
    search.redis_variable(environment);
    for port in &places.ports {
        search.port(*port);
    }
    search.add("host.local", "the machine that Groundskeeper runs on", vec!["mounts = []  # all".into()]);
    search.log_folders(&places.log_root);
    search.kubernetes(environment);
    search.report_missing(places);
    Discovery { text: write::text(&search.entries), found: search.found, missing: search.missing }
}

impl Search {
    fn add(&mut self, section: &str, because: &str, lines: Vec<String>) {
        self.found.push(format!("[{section}]: {because}"));
        self.entries.push(Entry { section: section.to_owned(), because: because.to_owned(), lines });
    }

    fn has(&self, kind: &str) -> bool {
        self.entries.iter().any(|entry| entry.section.starts_with(&format!("{kind}.")))
    }

    fn postgres_variables(&mut self, environment: &Environment) {
        let mut seen: Vec<&str> = Vec::new();
        for variable in ["DATABASE_URL", "POSTGRES_URL"] {
            let Some(value) = environment.get(variable) else { continue };
            if seen.contains(&value) {
                continue;
            }
            seen.push(value);
            if !value.starts_with("postgres") {
                self.missing.push(format!("{variable} is set and does not begin with postgres://; it was left out."));
                continue;
            }
            let name = if self.has("postgres") { "postgres.second" } else { "postgres.main" };
            self.cover(value, 5432);
            self.add(name, &format!("the environment variable {variable}"), vec![format!("url = \"${{{variable}}}\"")]);
        }
        if environment.get("PGHOST").is_some() && !self.has("postgres") {
            let mut lines = vec![
                "url = \"postgres://${PGUSER:-postgres}@${PGHOST}:${PGPORT:-5432}/${PGDATABASE:-postgres}\"".to_owned(),
            ];
            if environment.get("PGPASSWORD").is_some() {
                lines.push("password = \"${PGPASSWORD}\"".to_owned());
            }
            let host = environment.get("PGHOST").unwrap_or_default();
            let port = environment.get("PGPORT").unwrap_or("5432");
            self.cover(&format!("postgres://{host}:{port}"), 5432);
            self.add("postgres.main", "the environment variables PGHOST and its kin", lines);
        }
    }

    fn redis_variable(&mut self, environment: &Environment) {
        let Some(value) = environment.get("REDIS_URL") else { return };
        if value.starts_with("redis") {
            self.cover(value, 6379);
            self.add("redis.cache", "the environment variable REDIS_URL", vec!["url = \"${REDIS_URL}\"".into()]);
        } else {
            self.missing.push("REDIS_URL is set and does not begin with redis://; it was left out.".to_owned());
        }
    }

    /// Remembers that an address means a port of this machine, so that the port is not written a second time.
    fn cover(&mut self, address: &str, default_port: u16) {
        let Ok(url) = Url::parse(address) else { return };
        if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
            self.covered.insert(url.port().unwrap_or(default_port));
        }
    }

    fn port(&mut self, port: u16) {
        if self.covered.contains(&port) {
            return;
        }
        let free = |wanted: &str, search: &Self| {
            let taken = search.entries.iter().any(|entry| entry.section == wanted);
            if taken { format!("{wanted}-{port}") } else { wanted.to_owned() }
        };
        match probe::identify(port) {
            Some(Answers::Postgres) => self.add(
                &free("postgres.local", self),
                &format!("a Postgres answers on port {port} of this machine"),
                vec![
                    format!("url = \"postgres://groundskeeper@127.0.0.1:{port}/postgres\""),
                    "password = \"${GROUNDSKEEPER_POSTGRES_PASSWORD:-}\"".to_owned(),
                ],
            ),
            Some(Answers::Redis { wants_password }) => {
                let mut lines = vec![format!("url = \"redis://127.0.0.1:{port}\"")];
                if wants_password {
                    lines.push("password = \"${GROUNDSKEEPER_REDIS_PASSWORD:-}\"".to_owned());
                }
                self.add(&free("redis.local", self), &format!("a Redis answers on port {port} of this machine"), lines);
            }
            Some(Answers::Http { path, status }) => self.add(
                &format!("http.port-{port}"),
                &format!("an HTTP server answers on port {port} of this machine ({path} gives {status})"),
                vec![format!("url = \"http://127.0.0.1:{port}{path}\""), format!("expect_status = [{status}]")],
            ),
            Some(Answers::Unknown) => self.missing.push(format!(
                "Port {port} of this machine is open and speaks neither Postgres nor Redis nor HTTP; it was left out."
            )),
            None => {}
        }
    }

    fn log_folders(&mut self, root: &Path) {
        let Ok(entries) = std::fs::read_dir(root) else { return };
        let mut names: Vec<String> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| is_application(name))
            .collect();
        names.sort();
        for name in names {
            let folder = root.join(&name);
            if std::fs::read_dir(&folder).is_err() {
                self.missing.push(format!("{} may not be read by this user; it was left out.", folder.display()));
                continue;
            }
            let section = format!("logs.{}", name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "-"));
            // Debug quotes as TOML does for the characters that a path may hold.
            self.add(&section, "a folder of logs", vec![format!("folder = {:?}", folder.display().to_string())]);
        }
    }

    fn kubernetes(&mut self, environment: &Environment) {
        let home = environment.get("HOME").map(|home| Path::new(home).join(".kube/config"));
        let file = environment.get("KUBECONFIG").map(PathBuf::from).or(home).filter(|file| file.exists());
        if let Some(file) = file {
            self.missing.push(format!(
                "{} names a Kubernetes cluster; looking after Kubernetes is not in this version yet.",
                file.display()
            ));
        }
    }

    fn report_missing(&mut self, places: &Places) {
        if !self.has("postgres") {
            self.missing.push(
                "No Postgres: DATABASE_URL, POSTGRES_URL and PGHOST are not set, and none answers on this machine."
                    .to_owned(),
            );
        }
        if !self.has("redis") {
            self.missing.push("No Redis: REDIS_URL is not set, and none answers on this machine.".to_owned());
        }
        if !self.has("http") {
            let ports = places.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
            self.missing.push(format!("No HTTP server answers on this machine (asked ports {ports})."));
        }
        if !self.has("logs") {
            self.missing.push(format!("No folder of an application under {}.", places.log_root.display()));
        }
    }
}

/// What the distribution writes for itself is not the application's.
fn is_application(folder: &str) -> bool {
    const OF_THE_SYSTEM: [&str; 14] = [
        "apt",
        "audit",
        "cups",
        "dist-upgrade",
        "fsck",
        "installer",
        "journal",
        "landscape",
        "pam",
        "private",
        "sssd",
        "sysstat",
        "tallylog",
        "unattended-upgrades",
    ];
    !OF_THE_SYSTEM.contains(&folder) && !folder.starts_with('.')
}
