//! The program `docrag serve` as a process of its own, on a real Postgres, with the endpoint of the tests as its model.

use crate::endpoint::DIMENSION;
use crate::scene::{Scene, caller_of};
use docrag::service::Scopes;
use docrag::store::Store;
use docrag::store::keys::NewKey;
use reqwest::{Client, RequestBuilder, Response};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const WITHIN: Duration = Duration::from_secs(30);

pub(crate) struct Served {
    process: Option<Child>,
    pub(crate) url: String,
    /// With all scopes, of tenant `acme`.
    pub(crate) key: String,
    pub(crate) client: Client,
    pub(crate) folder: TempDir,
    pub(crate) scene: Scene,
}

/// A problem as it was answered.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) body: Value,
    pub(crate) headers: reqwest::header::HeaderMap,
}

impl Served {
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// `more` are further lines of docrag.toml, beginning with those outside of any table.
    pub(crate) async fn start_with(more: &str) -> Self {
        let scene = Scene::start().await;
        let folder = tempfile::tempdir().unwrap();
        let (config, address) = (folder.path().join("docrag.toml"), folder.path().join("address"));
        let text = format!(
            "listen = \"127.0.0.1:0\"\n{more}\n[database]\nurl = \"{}\"\nmin_connections = 1\nmax_connections = 8\n\
             acquire_seconds = 2\n[embedding]\nendpoint = \"{}\"\ndimension = {DIMENSION}\ntimeout_seconds = 5\n\
             [sessions]\nsecure_cookie = false\n[index]\nfollow_milliseconds = 100\n",
            scene.postgres.url(),
            scene.endpoint.url()
        );
        fs::write(&config, text).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_docrag"))
            .arg("--config")
            .arg(&config)
            .arg("serve")
            .arg("--port-file")
            .arg(&address)
            .env_remove("DATABASE_URL")
            .env_remove("REDIS_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let client = Client::builder().timeout(WITHIN).build().unwrap();
        let mut served = Self { process: Some(process), url: String::new(), key: String::new(), client, folder, scene };
        let address = served.address(address).await;
        served.url = format!("http://{address}");
        served.key = served.make_key("acme", Scopes::ALL, None).await.1;
        served.until_ready().await;
        served
    }

    async fn address(&mut self, file: PathBuf) -> String {
        let began = Instant::now();
        loop {
            if let Ok(text) = fs::read_to_string(&file) {
                return text.trim().to_owned();
            }
            let ended = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && began.elapsed() < WITHIN, "{ended:?}:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    pub(crate) async fn until_ready(&self) {
        let began = Instant::now();
        while self.get("/health/ready").send().await.map_or(0, |response| response.status().as_u16()) != 200 {
            assert!(began.elapsed() < WITHIN, "not ready:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn make_key(&self, tenant: &str, scopes: Scopes, expires: Option<&str>) -> (String, String) {
        let store = Store::open(&self.scene.settings().database).await.unwrap();
        let new = NewKey {
            tenant: tenant.to_owned(),
            name: "test".to_owned(),
            scopes,
            expires_at: expires.map(|text| text.parse().unwrap()),
        };
        let (key, secret) = store.create_key(&caller_of(tenant), &new).await.unwrap();
        store.pool().close().await;
        (key.id.to_string(), secret.expose_secret().to_owned())
    }

    /// Without a key.
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    /// Without a key.
    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url))
    }

    pub(crate) fn delete(&self, path: &str) -> RequestBuilder {
        self.client.delete(format!("{}{path}", self.url))
    }

    /// With the key of tenant `acme`.
    pub(crate) async fn read(&self, path: &str) -> Value {
        let response = self.get(path).bearer_auth(&self.key).send().await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.text().await.unwrap());
        response.json().await.unwrap()
    }

    pub(crate) async fn send(&self, path: &str, body: Value) -> Response {
        self.post(path).bearer_auth(&self.key).json(&body).send().await.unwrap()
    }

    /// Takes in a text, and waits until it is searchable; its id.
    pub(crate) async fn ingest(&self, source: &str, media_type: &str, content: &str) -> String {
        let document = json!({"source": source, "media_type": media_type, "content": content});
        let response = self.send("/v1/documents", document).await;
        assert_eq!(response.status(), 202, "{}", response.text().await.unwrap());
        let id = response.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
        let began = Instant::now();
        loop {
            let document = self.read(&format!("/v1/documents/{id}")).await;
            match document["state"].as_str().unwrap() {
                "indexed" => return id,
                "failed" => panic!("{document}"),
                _ => assert!(began.elapsed() < WITHIN, "{document}"),
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(self.process.as_ref().unwrap())
    }

    /// How the process ended, after it was told to.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        tokio::task::spawn_blocking(move || process.wait().unwrap()).await.unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What was answered must be a problem, whatever it says.
pub(crate) async fn told(response: Response) -> Told {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    assert_eq!(headers["content-type"], "application/problem+json", "{status}: {text}");
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["status"], status);
    assert_eq!(body["request_id"], headers["x-request-id"].to_str().unwrap());
    for member in ["title", "detail"] {
        assert!(!body[member].as_str().unwrap().is_empty(), "{body}");
    }
    let kind = body["type"].as_str().unwrap().strip_prefix("/problems/").unwrap().to_owned();
    Told { status, kind, body, headers }
}
