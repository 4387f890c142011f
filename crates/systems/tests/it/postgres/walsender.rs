//! The replication protocol, against real servers and against scripts of what a server might do.

mod copying;
mod ending;
mod entering;
mod streaming;

use super::endpoint;
use groundskeeper_core::receipt::Lsn;
use groundskeeper_systems::postgres::walsender::{BaseBackup, Chunk, WalSender, WalSenderError};
use groundskeeper_testing::PostgresServer;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tokio_postgres::Client;

/// However slow the machine is.
const BOUND: Duration = Duration::from_secs(30);

async fn replicate(url: &str) -> Result<WalSender, WalSenderError> {
    endpoint(url).replicate(BOUND).await
}

async fn begin(url: &str) -> BaseBackup {
    replicate(url).await.unwrap().base_backup("a test").await.unwrap()
}

fn address(server: &PostgresServer) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.port()))
}

/// The same server by way of `proxy`.
fn through(server: &PostgresServer, proxy: SocketAddr) -> String {
    server.url().replace(&address(server).to_string(), &proxy.to_string())
}

/// A table that is larger than what sockets hold, so that a backup that nobody reads stands still.
async fn fill(admin: &Client) {
    let table = "CREATE TABLE filling AS SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 32000) g";
    admin.batch_execute(table).await.unwrap();
}

/// A backup as a whole.
struct Taken {
    archives: Vec<Archive>,
    manifest: Vec<u8>,
    progress: Vec<u64>,
    stop: Lsn,
    timeline: u32,
}

struct Archive {
    name: String,
    tablespace: Option<u32>,
    bytes: Vec<u8>,
}

impl Archive {
    /// Its entries; a folder's content is empty.
    fn entries(&self) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(self.bytes.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (path, content)
        });
        entries.collect()
    }
}

async fn take(backup: &mut BaseBackup) -> Taken {
    let (mut archives, mut manifest, mut progress) = (Vec::<Archive>::new(), None::<Vec<u8>>, Vec::new());
    loop {
        match timeout(BOUND, backup.next()).await.unwrap().unwrap().expect("no end") {
            Chunk::Archive { name, tablespace } => archives.push(Archive { name, tablespace, bytes: Vec::new() }),
            Chunk::Manifest => manifest = Some(Vec::new()),
            Chunk::Data(data) => match &mut manifest {
                Some(manifest) => manifest.extend_from_slice(&data),
                None => archives.last_mut().unwrap().bytes.extend_from_slice(&data),
            },
            Chunk::Progress(bytes) => progress.push(bytes),
            Chunk::End { stop, timeline } => {
                assert_eq!(backup.next().await.unwrap(), None);
                return Taken { archives, manifest: manifest.unwrap(), progress, stop, timeline };
            }
        }
    }
}

/// The error that ends a backup which must not come to its end.
async fn failing(backup: &mut BaseBackup) -> WalSenderError {
    let error = loop {
        match timeout(BOUND, backup.next()).await.unwrap() {
            Ok(Some(Chunk::End { .. }) | None) => panic!("it claims to be whole"),
            Ok(Some(_)) => {}
            Err(error) => break error,
        }
    };
    backup.next().await.unwrap_err();
    error
}

/// Until `what` holds on the server.
async fn until(admin: &Client, what: &str) {
    let started = Instant::now();
    while !admin.query_one(&format!("SELECT {what}"), &[]).await.unwrap().get::<_, bool>(0) {
        assert!(started.elapsed() < BOUND, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn text(admin: &Client, expression: &str) -> String {
    admin.query_one(&format!("SELECT ({expression})::text"), &[]).await.unwrap().get(0)
}
