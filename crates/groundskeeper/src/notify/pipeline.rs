//! From what happened to findings to messages that were delivered.
//!
//! What each channel has heard is kept per finding *and* channel, because channels have different minimums: a channel
//! hears that something resolved exactly when it heard that it opened, and a channel that is added later hears of what
//! is open. What was judged and not announced because of a crash is announced by the next round for the same reason.

use super::notice::{News, Notice, NoticeLine};
use super::{Channel, Failure, Result, host_name};
use crate::app::api::DeliveryView;
use crate::clock::Clock;
use crate::config::NotifySettings;
use crate::record::{self, Heard, Message, Record};
use groundskeeper_core::Severity;
use groundskeeper_core::finding::Fingerprint;
use groundskeeper_core::lifecycle::{Change, Event, Track};
use groundskeeper_core::quantity::{after, seconds_between};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

/// The waits between attempts: 10 s, 20 s, 40 s … 10 min.
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

    /// Puts what is news into the outbox, one message per channel at most. `changes` are those of the round, `live` the
    /// tracks that have not ended. Gives the number of messages.
    pub async fn announce(&self, changes: &[Change], live: &[Track], ignored: &[Fingerprint]) -> record::Result<usize> {
        if self.channels.is_empty() {
            return Ok(0);
        }
        let now = self.clock.now();
        let heard = self.record.with(|store| store.announced()).await?;
        let candidates = unsilenced(candidates(changes, live), ignored);
        let mut posts = Vec::new();
        for channel in &self.channels {
            let news = worth_telling(&candidates, channel, &heard, self.repeat, now);
            if news.is_empty() {
                continue;
            }
            let open = news.iter().filter(|(event, _)| *event != News::Resolved);
            let told = open.map(|(_, track)| track.finding.fingerprint.clone()).collect();
            let lines = news.iter().map(|(event, track)| NoticeLine::new(*event, track, now)).collect();
            let body = serde_json::to_string(&Notice::new(&self.host, lines, now))?;
            posts.push(Post { channel: channel.name().to_owned(), body, told });
        }
        // What ended is forgotten also where nobody was told because it is ignored: if it comes back, that is news.
        let ended = changes.iter().filter(|change| change.event.is_end());
        let over: Vec<Heard> = ended
            .flat_map(|change| self.channels.iter().map(|c| key(&change.track.finding.fingerprint, c.name())))
            .filter(|key| heard.contains_key(key))
            .collect();
        self.keep(posts, over, now).await
    }

    async fn keep(&self, posts: Vec<Post>, over: Vec<Heard>, now: Timestamp) -> record::Result<usize> {
        if posts.is_empty() && over.is_empty() {
            return Ok(0);
        }
        self.record
            .with(move |store| {
                for post in &posts {
                    store.post(&post.channel, &post.body, &post.told, now)?;
                }
                store.forget_announced(&over)?;
                Ok(posts.len())
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

struct Post {
    channel: String,
    body: String,
    /// What this message tells of as open.
    told: Vec<Fingerprint>,
}

fn key(fingerprint: &Fingerprint, channel: &str) -> Heard {
    Heard { channel: channel.to_owned(), fingerprint: fingerprint.clone() }
}

/// Every finding that may be news: what changed, and what is open (none) and may have been missed or be due again.
fn candidates(changes: &[Change], live: &[Track]) -> Vec<(Option<News>, Track)> {
    let mut found: BTreeMap<&Fingerprint, (Option<News>, &Track)> = BTreeMap::new();
    for track in live {
        found.insert(&track.finding.fingerprint, (None, track));
    }
    // The changes are fresher than `live`, whether that was read before the round or after.
    for change in changes {
        let fingerprint = &change.track.finding.fingerprint;
        let event = match change.event {
            Event::Opened => Some(News::Opened),
            Event::Escalated => Some(News::Escalated),
            Event::Resolved => Some(News::Resolved),
            Event::Forgotten => {
                found.remove(fingerprint);
                continue;
            }
            Event::Pending | Event::Eased | Event::Updated | Event::Clearing => None,
        };
        found.insert(fingerprint, (event, &change.track));
    }
    found.into_values().map(|(event, track)| (event, track.clone())).collect()
}

fn unsilenced(mut candidates: Vec<(Option<News>, Track)>, ignored: &[Fingerprint]) -> Vec<(Option<News>, Track)> {
    candidates.retain(|(_, track)| !ignored.contains(&track.finding.fingerprint));
    candidates
}

/// The candidates that this channel should hear of now.
fn worth_telling<'a>(
    candidates: &'a [(Option<News>, Track)],
    channel: &Channel,
    heard: &BTreeMap<Heard, Timestamp>,
    repeat: Duration,
    now: Timestamp,
) -> Vec<(News, &'a Track)> {
    let judge = |(event, track): &'a (Option<News>, Track)| {
        let heard = heard.get(&key(&track.finding.fingerprint, channel.name())).copied();
        if *event == Some(News::Resolved) {
            return heard.is_some().then_some((News::Resolved, track));
        }
        let opened = track.opened?;
        if track.finding.severity < channel.minimum() {
            return None;
        }
        // The record keeps milliseconds. What was heard before this opening was about an earlier one.
        let Some(heard) = heard.filter(|heard| heard.as_millisecond() >= opened.as_millisecond()) else {
            return (event.is_some() || track.clear_since.is_none()).then_some((event.unwrap_or(News::Opened), track));
        };
        let is_due = track.finding.severity == Severity::Critical
            && track.clear_since.is_none()
            && !repeat.is_zero()
            && seconds_between(heard, now) >= repeat.as_secs_f64();
        match event {
            Some(News::Escalated) => Some((News::Escalated, track)),
            _ => is_due.then_some((News::StillOpen, track)),
        }
    };
    candidates.iter().filter_map(judge).collect()
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
