//! From findings to messages that were delivered.
//!
//! What each channel has heard is kept per finding *and* channel, because channels have different minimums: a channel
//! hears that something resolved exactly when it heard that it opened, and a channel that is added later hears of what
//! is open. What was judged and not announced because of a crash is announced by the next round for the same reason.
//! What a message told that was given up counts as not heard and is told again, an hour later at the earliest.

use super::notice::{Notice, NoticeLine};
use super::telling::Scene;
use super::{Channel, Failure, Result, host_name};
use crate::app::api::DeliveryView;
use crate::clock::Clock;
use crate::config::NotifySettings;
use crate::record::{self, Message, Record, Store};
use groundskeeper_core::finding::Fingerprint;
use groundskeeper_core::quantity::{after, seconds_between};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// The waits between attempts: 10 s, 20 s, 40 s … 10 min. `record::outbox` relies on the longest.
const FIRST_WAIT_SECONDS: f64 = 10.0;
const LONGEST_WAIT_SECONDS: f64 = 600.0;
/// Older news is no news.
const GIVE_UP_SECONDS: f64 = 24.0 * 3600.0;
/// One pass starts no further attempt on a channel after this time, so that a slow channel holds the pass up for at most
/// this and one attempt.
const PASS: Duration = Duration::from_secs(10);

/// What one pass of delivery did; attempts, not messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    pub sent: usize,
    pub failed: usize,
}

/// See the module's text.
#[derive(Debug)]
pub struct Pipeline {
    channels: Vec<Arc<Channel>>,
    repeat: Duration,
    record: Record,
    clock: Clock,
    host: String,
    /// Two passes at once would send the same message twice.
    passing: Mutex<()>,
}

impl Pipeline {
    pub fn new(settings: NotifySettings, record: Record, clock: Clock) -> Result<Self> {
        let repeat = settings.repeat;
        let channels = Channel::all(settings)?.into_iter().map(Arc::new).collect();
        Ok(Self { channels, repeat, record, clock, host: host_name(), passing: Mutex::new(()) })
    }

    pub fn channels(&self) -> Vec<String> {
        self.channels.iter().map(|channel| channel.name().to_owned()).collect()
    }

    /// Puts what is news into the outbox, one message per channel at most. Gives the number of messages.
    pub async fn announce(&self) -> record::Result<usize> {
        if self.channels.is_empty() {
            return Ok(0);
        }
        let (channels, host, repeat, now) = (self.channels.clone(), self.host.clone(), self.repeat, self.clock.now());
        // One use of the store, so that the rounds of two tasks do not tell the same twice.
        self.record
            .with(move |store| {
                let ignored = store.ignored(now)?.into_iter().map(|ignored| ignored.fingerprint).collect();
                let scene = Scene { live: store.live_tracks()?, ignored, repeat, now };
                let mut posted = 0;
                for channel in &channels {
                    posted += usize::from(post(store, channel, &scene, &host)?);
                }
                Ok(posted)
            })
            .await
    }

    /// Tries every message whose attempt is due, channels side by side, and records each result.
    pub async fn deliver_due(&self) -> record::Result<Delivered> {
        let _alone = self.passing.lock().await;
        let now = self.clock.now();
        let mut by_channel: BTreeMap<String, Vec<Message>> = BTreeMap::new();
        for message in self.record.with(move |store| store.due_messages(now)).await? {
            by_channel.entry(message.channel.clone()).or_default().push(message);
        }
        let mut passes = JoinSet::new();
        for (name, messages) in by_channel {
            let channel = self.channels.iter().find(|channel| channel.name() == name).cloned();
            let pass = Pass { name, channel, record: self.record.clone(), clock: self.clock.clone() };
            passes.spawn(pass.deliver(messages));
        }
        let mut all = Delivered::default();
        let mut first_error = None;
        while let Some(ended) = passes.join_next().await {
            match ended.map_err(|ended| record::Error::Worker(ended.to_string())) {
                Ok(Ok(delivered)) => {
                    all.sent += delivered.sent;
                    all.failed += delivered.failed;
                }
                Ok(Err(error)) | Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(all), Err)
    }

    /// Sends a test message now, past the outbox, through every channel or the named one (`webhook.team` or `team`).
    pub async fn test(&self, channel: Option<&str>) -> Vec<DeliveryView> {
        let is_meant = |name: &str| {
            channel.is_none_or(|asked| name == asked || name.split_once('.').is_some_and(|(_, n)| n == asked))
        };
        let meant: Vec<_> = self.channels.iter().filter(|channel| is_meant(channel.name())).cloned().collect();
        if let (true, Some(asked)) = (meant.is_empty(), channel) {
            let known = match self.channels() {
                none if none.is_empty() => "none is configured; add a [notify.webhook.NAME] table".to_owned(),
                names => format!("there are {}", names.join(", ")),
            };
            let detail = format!("no channel is named `{asked}`; {known}");
            return vec![DeliveryView { channel: asked.to_owned(), ok: false, detail }];
        }
        let notice = Arc::new(Notice::test(&self.host, self.clock.now()));
        let delivery = format!("test-{}", notice.time.as_millisecond());
        let mut attempts = JoinSet::new();
        for (order, channel) in meant.into_iter().enumerate() {
            let (notice, delivery) = (Arc::clone(&notice), delivery.clone());
            attempts.spawn(async move {
                let result = channel.send(&notice, &delivery).await;
                let detail = result.as_ref().err().map_or("delivered", Failure::text).to_owned();
                (order, DeliveryView { channel: channel.name().to_owned(), ok: result.is_ok(), detail })
            });
        }
        let mut views = attempts.join_all().await;
        views.sort_by_key(|(order, _)| *order);
        views.into_iter().map(|(_, view)| view).collect()
    }
}

/// Puts into the box what the channel should hear; false when that is nothing.
fn post(store: &mut Store, channel: &Channel, scene: &Scene, host: &str) -> record::Result<bool> {
    let telling = scene.telling(channel.minimum(), &store.announced(channel.name())?);
    if telling.open.is_empty() && telling.resolved.is_empty() {
        if !telling.over.is_empty() {
            store.forget_announced(channel.name(), &telling.over)?;
        }
        return Ok(false);
    }
    let json =
        |(fingerprint, line): &(Fingerprint, NoticeLine)| Ok((fingerprint.clone(), serde_json::to_string(line)?));
    let told = telling.open.iter().map(json).collect::<record::Result<Vec<_>>>()?;
    let lines = telling.open.into_iter().map(|(_, line)| line).chain(telling.resolved).collect();
    let body = serde_json::to_string(&Notice::new(host, lines, scene.now))?;
    store.post(channel.name(), &body, &told, &telling.over, scene.now)?;
    Ok(true)
}

/// The due messages of one channel, in their order.
struct Pass {
    name: String,
    /// None when it was removed from the configuration.
    channel: Option<Arc<Channel>>,
    record: Record,
    clock: Clock,
}

impl Pass {
    async fn deliver(self, messages: Vec<Message>) -> record::Result<Delivered> {
        let mut delivered = Delivered::default();
        let started = tokio::time::Instant::now();
        let mut stopped: Option<Failure> = None;
        for message in messages {
            if stopped.is_none() && started.elapsed() >= PASS {
                stopped = Some(Failure::Refused(format!("{} is slow; the message waits its turn", self.name)));
            }
            let result = match &stopped {
                Some(failure) => Err(failure.clone()),
                None => self.attempt(&message).await,
            };
            match result {
                Ok(()) => {
                    let now = self.clock.now();
                    self.record.with(move |store| store.message_sent(message.id, now)).await?;
                    delivered.sent += 1;
                }
                Err(failure) => {
                    self.failed(&message, &failure).await?;
                    delivered.failed += 1;
                    if matches!(failure, Failure::Unreachable(_)) {
                        stopped = Some(failure);
                    }
                }
            }
        }
        Ok(delivered)
    }

    async fn attempt(&self, message: &Message) -> std::result::Result<(), Failure> {
        let Some(channel) = &self.channel else {
            return Err(Failure::Rejected(format!("the channel {} is not configured any more", self.name)));
        };
        let notice: Notice = serde_json::from_str(&message.body)
            .map_err(|error| Failure::Rejected(format!("this version cannot read the message: {error}")))?;
        channel.send(&notice, &format!("{}-{}", message.created.as_millisecond(), message.id)).await
    }

    async fn failed(&self, message: &Message, failure: &Failure) -> record::Result<()> {
        let now = self.clock.now();
        let next = next_attempt(message, failure, now);
        let (channel, error) = (self.name.as_str(), failure.text());
        if next.is_none() {
            tracing::error!(channel, error, attempts = message.attempts + 1, "a message was given up");
        } else if message.attempts == 0 {
            tracing::warn!(channel, error, "a message could not be delivered; it will be tried again");
        }
        let (id, error) = (message.id, error.to_owned());
        self.record.with(move |store| store.message_failed(id, &error, next, now)).await
    }
}

/// None: it is given up.
fn next_attempt(message: &Message, failure: &Failure, now: Timestamp) -> Option<Timestamp> {
    if matches!(failure, Failure::Rejected(_)) {
        return None;
    }
    let doublings = message.attempts.min(16) as i32;
    let next = after(now, (FIRST_WAIT_SECONDS * 2f64.powi(doublings)).min(LONGEST_WAIT_SECONDS));
    (seconds_between(message.created, next) <= GIVE_UP_SECONDS).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_ten_minutes_and_end_after_a_day() {
        let refused = Failure::Refused("x".into());
        let message = |attempts| Message {
            id: 1,
            created: Timestamp::UNIX_EPOCH,
            channel: "webhook.team".into(),
            body: String::new(),
            attempts,
        };
        let now = Timestamp::from_second(1000).unwrap();
        let wait = |attempts| next_attempt(&message(attempts), &refused, now).map(|next| seconds_between(now, next));
        let waits = [0, 1, 2, 5, 6, 4_000_000_000].map(|n| wait(n).unwrap() as u64);
        assert_eq!(waits, [10, 20, 40, 320, 600, 600]);
        assert_eq!(next_attempt(&message(0), &Failure::Rejected("x".into()), now), None);
        assert_eq!(next_attempt(&message(9), &refused, Timestamp::from_second(86_000).unwrap()), None);
    }
}
