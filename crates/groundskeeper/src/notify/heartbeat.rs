//! The dead man's switch: a sign of life that someone outside expects, and alarms about when it stays away.
//!
//! The keeper cannot say that it is dead. The watch calls [`Heartbeat::beat`] after each round that succeeded, so a
//! watch that hangs or a store that cannot be written silences it too.

use super::post::Post;
use super::{NotifyError, PRODUCT, Result, host_name};
use crate::clock::Clock;
use crate::config::HeartbeatSettings;
use groundskeeper_core::quantity::seconds_between;
use jiff::Timestamp;
use reqwest::header::HeaderMap;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::Mutex;

/// Rounds come a few milliseconds early or late; a beat that is due within this time is sent, or every second beat
/// would wait for another round.
const SLACK_SECONDS: f64 = 1.0;

#[derive(Debug)]
pub struct Heartbeat {
    post: Post,
    every: Duration,
    clock: Clock,
    host: String,
    /// When the last beat arrived; none before the first.
    last: Mutex<Option<Timestamp>>,
}

#[derive(Serialize)]
struct Beat<'a> {
    product: &'a str,
    host: &'a str,
    version: &'a str,
    time: Timestamp,
    status: &'a str,
}

impl Heartbeat {
    pub fn new(settings: HeartbeatSettings, clock: Clock) -> Result<Self> {
        let post = Post::new(settings.url, &[])
            .map_err(|reason| NotifyError::Setup { channel: "heartbeat".to_owned(), reason })?;
        Ok(Self { post, every: settings.every, clock, host: host_name(), last: Mutex::new(None) })
    }

    /// Sends a beat when one is due. One that failed is due again at the next call.
    pub async fn beat(&self) -> Result<()> {
        let mut last = self.last.lock().await;
        let now = self.clock.now();
        let every = self.every.as_secs_f64();
        // In both directions: the clock may have been set back.
        if last.is_some_and(|last| every - seconds_between(last, now).abs() > SLACK_SECONDS.min(every / 10.0)) {
            return Ok(());
        }
        let version = env!("CARGO_PKG_VERSION");
        let beat = Beat { product: PRODUCT, host: &self.host, version, time: now, status: "alive" };
        self.post.json(&beat, HeaderMap::new()).await.map_err(|failure| NotifyError::Heartbeat {
            host: self.post.host.clone(),
            reason: failure.text().to_owned(),
        })?;
        *last = Some(now);
        Ok(())
    }
}
