//! Doc-RAG as a user runs it: the built binary, on the stack's own Postgres and Redis.

use anyhow::{Context, Result, bail, ensure};
use groundskeeper_testing::scratch;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// The service loads its model and fills its index before it is ready.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// How long the service may take to end when asked to.
const STOPS_WITHIN: Duration = Duration::from_secs(15);
const TENANT: &str = "demo";

/// The running service; it ends with the value.
pub struct DocRag {
    child: Child,
    url: String,
    key: String,
    client: reqwest::Client,
}

/// Where everything is that the service needs.
pub struct Place<'a> {
    /// For its configuration and its port.
    pub folder: &'a Path,
    pub database: &'a str,
    pub redis: Option<&'a str>,
    /// What the service writes: JSON lines.
    pub log: &'a Path,
    /// Appended to its configuration.
    pub more: &'a str,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Document {
    pub state: String,
    pub error: Option<String>,
    pub chunk_count: u64,
}

impl DocRag {
    pub async fn start(place: &Place<'_>) -> Result<Self> {
        let binary = binary()?;
        let config = place.folder.join("docrag.toml");
        let redis = place.redis.map(|url| format!("[redis]\nurl = \"{url}\"\n")).unwrap_or_default();
        let text = format!(
            "listen = \"127.0.0.1:0\"\n{more}\n[database]\nurl = \"{database}\"\nmin_connections = 2\nmax_connections = 20\n\
             {redis}\n[limits]\nrequests_per_minute = 1000000\n\n[sessions]\nsecure_cookie = false\n",
            more = place.more,
            database = place.database,
        );
        std::fs::write(&config, text)?;
        let key = create_key(&binary, &config).await?;
        let port_file = place.folder.join("docrag.port");
        let _ = std::fs::remove_file(&port_file);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(place.log)?;
        let mut command = tied_to_us(&binary);
        command.arg("--config").arg(&config).arg("serve").arg("--port-file").arg(&port_file);
        let child = command.stdout(log.try_clone()?).stderr(log).spawn().context("starting docrag")?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build()?;
        let mut service = Self { child, url: String::new(), key, client };
        service.until_ready(&port_file, place.log).await?;
        Ok(service)
    }

    async fn until_ready(&mut self, port_file: &Path, log: &Path) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("docrag ended while starting ({status}); its log:\n{}", tail(log));
            }
            if let Ok(address) = std::fs::read_to_string(port_file)
                && let Ok(address) = address.trim().parse::<SocketAddr>()
            {
                self.url = format!("http://{address}");
                let answer = self.client.get(self.url("/health/ready")).send().await;
                if answer.is_ok_and(|answer| answer.status().is_success()) {
                    return Ok(());
                }
            }
            ensure!(
                started.elapsed() < READY_WITHIN,
                "docrag was not ready after {READY_WITHIN:?}; its log:\n{}",
                tail(log)
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    pub fn key(&self) -> &str {
        &self.key
    }

    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Sends the files and waits until all of them can be found. Gives the number of chunks.
    pub async fn ingest(&self, files: &[PathBuf]) -> Result<u64> {
        let mut ids = Vec::new();
        for file in files {
            let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let content = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            let body = json!({"source": name, "media_type": "text/html", "content": String::from_utf8_lossy(&content)});
            let accepted = self.post("/v1/documents", &body).await.with_context(|| format!("ingesting {name}"))?;
            let id = accepted["id"].as_str().context("docrag gave no document id")?;
            ids.push((name, id.to_owned()));
        }
        let mut chunks = 0;
        for (name, id) in ids {
            let started = Instant::now();
            loop {
                let document: Document = serde_json::from_value(self.get(&format!("/v1/documents/{id}")).await?)?;
                match document.state.as_str() {
                    "indexed" => {
                        chunks += document.chunk_count;
                        break;
                    }
                    "failed" => bail!("{name} could not be ingested: {}", document.error.unwrap_or_default()),
                    _ => {}
                }
                ensure!(
                    started.elapsed() < Duration::from_hours(1),
                    "{name} is still {} after an hour",
                    document.state
                );
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(chunks)
    }

    /// The whole answer as one JSON object.
    pub async fn ask(&self, question: &str) -> Result<Value> {
        self.post("/v1/ask", &json!({"question": question})).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = self.client.post(self.url(path)).bearer_auth(&self.key).header("accept", "application/json");
        read(request.json(body).send().await?).await
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        read(self.client.get(self.url(path)).bearer_auth(&self.key).send().await?).await
    }

    /// Asks the service to end, as an orchestrator does, and waits for it.
    pub async fn stop(mut self) -> Result<()> {
        if let Some(id) = self.child.id() {
            let status = Command::new("kill").arg(id.to_string()).status().await?;
            ensure!(status.success(), "docrag (process {id}) could not be told to end");
        }
        match tokio::time::timeout(STOPS_WITHIN, self.child.wait()).await {
            Ok(status) => ensure!(status?.success(), "docrag did not end well"),
            Err(_) => bail!("docrag did not end within {STOPS_WITHIN:?}"),
        }
        Ok(())
    }
}

async fn read(response: reqwest::Response) -> Result<Value> {
    let (status, text) = (response.status(), response.text().await?);
    ensure!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).context("docrag answered with something else than JSON")
}

/// The `docrag` binary that was built beside this one.
pub fn binary() -> Result<PathBuf> {
    // Tests run from `deps`, a folder below.
    let own = std::env::current_exe()?;
    let beside = own.with_file_name("docrag");
    let above = own.parent().and_then(Path::parent).map(|folder| folder.join("docrag"));
    let found = [Some(beside), above].into_iter().flatten().find(|binary| binary.is_file());
    found.context("docrag is not built; run this through `cargo xtask`, which builds it")
}

/// The model that the tests and the lab use, where `cargo xtask setup` puts it.
pub fn model_folder() -> PathBuf {
    scratch::cache().join("models/all-MiniLM-L6-v2-int8")
}

/// The program in an environment of its own, killed with us even when we are killed.
fn tied_to_us(binary: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.arg("--pdeathsig=KILL").arg("--").arg(binary).env_clear().env("LC_ALL", "C.UTF-8");
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("DOCRAG_MODEL_DIR", model_folder());
    // Ctrl-C is for the lab, which then ends its servers in its own order.
    command.stdin(Stdio::null()).kill_on_drop(true).process_group(0);
    command
}

async fn create_key(binary: &Path, config: &Path) -> Result<String> {
    let output = tied_to_us(binary)
        .arg("--config")
        .arg(config)
        .args(["--output", "json", "key", "create", "lab", "--tenant", TENANT, "--scope", "read,write,admin"])
        .output()
        .await?;
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "docrag key create failed: {errors}");
    let created: Value = serde_json::from_str(&text).with_context(|| format!("docrag key create printed {text}"))?;
    Ok(created["secret"].as_str().context("docrag key create printed no secret")?.to_owned())
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
