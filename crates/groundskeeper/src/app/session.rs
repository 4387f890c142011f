//! The client's side: the running daemon over its socket, or the store itself when no daemon runs.

use super::api::{Answer, Done, Request};
use super::{App, CallError, socket};
use crate::clock::Clock;
use crate::config::Settings;
use groundskeeper_backup::Progress;
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::path::PathBuf;
use tokio::net::UnixStream;

/// A way to have requests answered.
pub enum Session {
    Daemon(UnixStream),
    Store(Box<App>),
}

/// Looks at the progress of the work on the repository of backups.
#[derive(Debug)]
pub enum Watcher {
    /// By a conversation of its own: the other one waits for its answer.
    Daemon(PathBuf),
    Own(Option<Progress>),
}

impl Watcher {
    /// None while nothing is under way that counts, and of a daemon that does not answer.
    pub async fn look(&self) -> Option<Done> {
        let path = match self {
            Self::Own(progress) => return progress.as_ref()?.now(),
            Self::Daemon(path) => path,
        };
        let mut stream = UnixStream::connect(path).await.ok()?;
        match socket::ask(&mut stream, &Request::BackupProgress).await.ok()? {
            Answer::Done(value) => serde_json::from_value(value).ok()?,
            Answer::Refused { .. } => None,
        }
    }
}

impl Session {
    /// Prefers the daemon; without one, takes the store's lock.
    pub async fn connect(settings: &Settings) -> Result<Self, CallError> {
        let path = socket::path(&settings.state_dir);
        match UnixStream::connect(&path).await {
            Ok(stream) => Ok(Self::Daemon(stream)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                Ok(Self::Store(Box::new(App::open(settings.clone(), Clock::wall()).await?)))
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(CallError::usage(format!(
                "the daemon's socket {} is not open to this user; run this command as the daemon's user",
                path.display()
            ))),
            Err(error) => Err(CallError::unanswered(format!("the daemon's socket {}: {error}", path.display()))),
        }
    }

    /// Whether a daemon answers.
    pub fn is_daemon(&self) -> bool {
        matches!(self, Self::Daemon(_))
    }

    /// To look how far a call is while it is under way.
    pub fn watcher(&self, settings: &Settings) -> Watcher {
        match self {
            Self::Daemon(_) => Watcher::Daemon(socket::path(&settings.state_dir)),
            Self::Store(app) => Watcher::Own(app.progress().cloned()),
        }
    }

    pub async fn call<T: DeserializeOwned>(&mut self, request: Request) -> Result<T, CallError> {
        let answer = match self {
            Self::Daemon(stream) => socket::ask(stream, &request).await?,
            Self::Store(app) => {
                let answer = app.dispatch(request).await;
                // The process ends after this; an action that goes on beside a watch must not end with it.
                app.shop.executor.idle().await;
                answer
            }
        };
        match answer {
            Answer::Done(value) => serde_json::from_value(value).map_err(|error| {
                CallError::unanswered(format!(
                    "the daemon's answer is not understood ({error}); is it of another version? restart it"
                ))
            }),
            Answer::Refused { message, exit } => Err(CallError { message, exit }),
        }
    }
}
