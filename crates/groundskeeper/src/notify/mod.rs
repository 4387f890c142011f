//! Telling people: one pipeline of small stages, and the heartbeat.
//!
//! | stage | rule |
//! |---|---|
//! | silence | what a person ignores is not announced |
//! | minimum | each channel hears from its own severity on |
//! | dedup | a finding is news when it is open and was not told, is worse than was told, or is over; a critical one again after `repeat` |
//! | group | all news of one round are one message |
//! | outbox | one row per channel, durable before the first attempt |
//! | deliver | with retries, channels side by side; each result is recorded |
//!
//! What is news follows from what is open and what the channel has heard, not from events: those can be lost.
//!
//! Waiting (`for`) and hysteresis are not done here: `core::lifecycle` does them before anyone hears of a finding.
//! The order and the names follow Alertmanager's pipeline. Delivery is at least once: a crash between sending and
//! recording sends a message again, under the same delivery id.
//!
//! A webhook's address is a secret (whoever knows it can post): errors and logs name its host only.

mod email;
mod heartbeat;
mod notice;
mod pipeline;
mod post;
mod telling;
mod webhook;

pub use heartbeat::Heartbeat;
pub use notice::{Measured, News, Notice, NoticeLine};
pub use pipeline::{Delivered, Pipeline};

use crate::config::NotifySettings;
use email::Email;
use groundskeeper_core::Severity;
use std::fs;
use std::time::Duration;
use webhook::Webhook;

/// For one attempt, from the name lookup to the answer.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);

pub const PRODUCT: &str = "groundskeeper";

#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    #[error("the channel {channel} cannot be used: {reason}")]
    Setup { channel: String, reason: String },
    #[error("the heartbeat to {host} failed: {reason}")]
    Heartbeat { host: String, reason: String },
}

pub type Result<T> = std::result::Result<T, NotifyError>;

/// Why an attempt did not deliver, and with it what comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// Nobody answered in time. The channel's other messages wait too.
    Unreachable(String),
    /// It answered that it cannot take the message now.
    Refused(String),
    /// It will never take this message.
    Rejected(String),
}

impl Failure {
    fn text(&self) -> &str {
        let (Self::Unreachable(text) | Self::Refused(text) | Self::Rejected(text)) = self;
        text
    }
}

#[derive(Debug)]
enum Channel {
    Webhook(Webhook),
    Email(Email),
}

impl Channel {
    fn all(settings: NotifySettings) -> Result<Vec<Self>> {
        let webhooks = settings.webhooks.into_iter().map(|webhook| Webhook::new(webhook).map(Self::Webhook));
        let emails = settings.emails.iter().map(|email| Email::new(email).map(Self::Email));
        webhooks.chain(emails).collect()
    }

    /// `webhook.team`, `email.oncall`.
    fn name(&self) -> &str {
        match self {
            Self::Webhook(webhook) => &webhook.name,
            Self::Email(email) => &email.name,
        }
    }

    fn minimum(&self) -> Severity {
        match self {
            Self::Webhook(webhook) => webhook.minimum,
            Self::Email(email) => email.minimum,
        }
    }

    /// One attempt. `delivery` names the message, so that a receiver can tell a repeated one.
    async fn send(&self, notice: &Notice, delivery: &str) -> std::result::Result<(), Failure> {
        let attempt = async {
            match self {
                Self::Webhook(webhook) => webhook.send(notice, delivery).await,
                Self::Email(email) => email.send(notice, delivery).await,
            }
        };
        let late = |_| Err(Failure::Unreachable(format!("no answer within {} seconds", ATTEMPT_DEADLINE.as_secs())));
        tokio::time::timeout(ATTEMPT_DEADLINE, attempt).await.unwrap_or_else(late)
    }
}

/// The name of this machine, as a person would look for it.
fn host_name() -> String {
    let named = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let named = named.trim();
    if named.is_empty() { "this host".to_owned() } else { named.to_owned() }
}

/// An error with its causes; some libraries repeat the cause in their own text, and then it is not said twice.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
