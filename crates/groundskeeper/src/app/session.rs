//! The client's side: the running daemon over its socket, or the store itself when no daemon runs.

use super::api::{Answer, Request};
use super::{App, CallError, socket};
use crate::clock::Clock;
use crate::config::Settings;
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use tokio::net::UnixStream;

/// A way to have requests answered.
pub enum Session {
    Daemon(UnixStream),
    Store(Box<App>),
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
