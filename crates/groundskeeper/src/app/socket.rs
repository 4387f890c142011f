//! The daemon's socket: a Unix socket in the state folder, for its owner only; one line of JSON in, one line out.

use super::api::{Answer, Request};
use super::{App, CallError};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A request is small; whoever sends more than this is not one of ours.
const LONGEST_REQUEST: u64 = 1 << 20;

pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("groundskeeper.sock")
}

/// Binds the socket. The caller holds the store's lock, so a socket that is already there belongs to a dead process.
pub(super) fn bind(state_dir: &Path) -> io::Result<UnixListener> {
    let path = path(state_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

pub(super) async fn serve(listener: UnixListener, app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let mut answering = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => { answering.spawn(answer(stream, Arc::clone(&app), stop.clone())); }
                Err(error) => {
                    tracing::warn!(%error, "the socket could not accept; trying again in a second");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            },
            Some(_) = answering.join_next() => {}
            () = stopped(&mut stop) => break,
        }
    }
    drop(listener);
    // A request that was taken is carried to its end, also when the client hangs up or the keeper is told to stop.
    while answering.join_next().await.is_some() {}
}

/// Completes when the keeper stops (or its owner is gone).
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn answer(stream: UnixStream, app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    loop {
        let mut line = String::new();
        let mut limited = (&mut reader).take(LONGEST_REQUEST);
        let read = tokio::select! {
            biased;
            read = limited.read_line(&mut line) => read,
            () = stopped(&mut stop) => return,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let answer = match serde_json::from_str::<Request>(&line) {
            Ok(request) => app.dispatch(request).await,
            Err(error) => Answer::Refused {
                message: format!(
                    "the daemon does not know this request ({error}); is it of another version? restart it"
                ),
                exit: 3,
            },
        };
        let Ok(mut bytes) = serde_json::to_vec(&answer) else { return };
        bytes.push(b'\n');
        if write.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Sends one request and waits for its answer, however long the work takes.
pub(super) async fn ask(stream: &mut UnixStream, request: &Request) -> Result<Answer, CallError> {
    let broken = |what: &str| CallError::unanswered(format!("the daemon ended the conversation ({what}); see its log"));
    let mut line = serde_json::to_vec(request).map_err(|error| CallError::unanswered(error.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(|error| broken(&error.to_string()))?;
    let mut answer = String::new();
    let read = BufReader::new(stream).read_line(&mut answer).await.map_err(|error| broken(&error.to_string()))?;
    if read == 0 {
        return Err(broken("no answer"));
    }
    serde_json::from_str(&answer).map_err(|error| broken(&error.to_string()))
}
