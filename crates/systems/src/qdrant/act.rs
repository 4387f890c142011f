//! Snapshots of one collection on one node: made, downloaded, deleted.

use super::client::Endpoint;
use crate::deadline::timed_out;
use bytes::Bytes;
use groundskeeper_core::observation::{Failure, FailureKind};
use reqwest::{Method, Response};
use serde::Deserialize;
use std::time::Duration;

/// One that lies at the server.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Snapshot {
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Its SHA-256 in hexadecimal digits; servers before 1.9 give none.
    #[serde(default)]
    pub checksum: Option<String>,
}

impl Endpoint {
    /// Makes one; the answer comes when it is whole, which may take long.
    pub async fn snapshot(&self, collection: &str, patience: Duration) -> Result<Snapshot, Failure> {
        let path = ["collections", collection, "snapshots"];
        let made = self.ask(Method::POST, &path, patience).await?;
        serde_json::from_value(made).map_err(|_| self.nonsense(&path))
    }

    /// One that is gone already is as good as deleted.
    pub async fn delete_snapshot(&self, collection: &str, snapshot: &str, deadline: Duration) -> Result<(), Failure> {
        match self.ask(Method::DELETE, &["collections", collection, "snapshots", snapshot], deadline).await {
            Err(failure) if failure.kind != FailureKind::Missing => Err(failure),
            _ => Ok(()),
        }
    }

    /// `silence` is for each wait of the transfer.
    pub async fn download(
        &self,
        collection: &str,
        snapshot: &Snapshot,
        silence: Duration,
    ) -> Result<Download, Failure> {
        let path = ["collections", collection, "snapshots", &snapshot.name];
        let answer = self.send(Method::GET, &path, silence).await?;
        Ok(Download { endpoint: self.clone(), answer, left: snapshot.size, silence })
    }
}

/// A snapshot on its way.
#[derive(Debug)]
pub struct Download {
    endpoint: Endpoint,
    answer: Response,
    /// Bytes that are still to come, by the size that the server gave.
    left: u64,
    silence: Duration,
}

impl Download {
    /// None when as many bytes came as there should be. Fewer or more are an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let reading = tokio::time::timeout(self.silence, self.answer.chunk()).await;
        let chunk = reading.map_err(|_| timed_out(self.silence, self.endpoint.address()))?;
        let chunk = chunk.map_err(|error| self.endpoint.failed(&error))?;
        let wrong = |what: String| self.endpoint.failure(FailureKind::Interrupted, what);
        match chunk {
            None if self.left > 0 => Err(wrong(format!("the download ended {} bytes before its end", self.left))),
            None => Ok(None),
            Some(chunk) => {
                let left = self.left.checked_sub(chunk.len() as u64);
                self.left = left.ok_or_else(|| wrong("more bytes came than the snapshot has".to_owned()))?;
                Ok(Some(chunk))
            }
        }
    }
}
