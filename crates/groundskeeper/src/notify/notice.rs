//! What people are told, independent of the channel: a headline and one line per finding.
//!
//! Its JSON is what the outbox keeps and what the JSON webhook sends; `docs/notifications.md` documents it. Fields are
//! added, never renamed.

use super::PRODUCT;
use groundskeeper_core::Severity;
use groundskeeper_core::lifecycle::Track;
use groundskeeper_core::quantity::seconds_between;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Enough to judge a finding by; `groundskeeper findings` and the page show all.
const EVIDENCE_SHOWN: usize = 3;

/// What happened to a finding, as far as people want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    Opened,
    /// It was known and got worse.
    Escalated,
    /// A critical one that was announced long ago and is still there.
    StillOpen,
    Resolved,
}

impl News {
    pub fn words(self) -> &'static str {
        match self {
            Self::Opened => "new",
            Self::Escalated => "got worse",
            Self::StillOpen => "still open",
            Self::Resolved => "resolved",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// Always `groundskeeper`.
    pub product: String,
    /// The machine that the keeper runs on.
    pub host: String,
    pub time: Timestamp,
    /// One line that says the worst; `(+2)` stands for two further lines.
    pub headline: String,
    /// True for a message that only tries the channel; it has no lines.
    #[serde(default)]
    pub test: bool,
    /// Open ones first, the worst first.
    pub lines: Vec<NoticeLine>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NoticeLine {
    pub event: News,
    pub severity: Severity,
    pub system: String,
    /// The table, database, mount …; empty for the system as a whole.
    pub subject: String,
    pub check: String,
    pub summary: String,
    pub fix: String,
    /// The first measured facts.
    pub evidence: Vec<Measured>,
    /// When it opened.
    pub since: Timestamp,
    /// Seconds for which it was open; only when it has resolved.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duration: Option<f64>,
    /// Eight digits; commands take it.
    pub fingerprint: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    pub what: String,
    /// Ready to read, with its unit.
    pub value: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub threshold: Option<String>,
    pub source: String,
}

impl NoticeLine {
    pub fn new(event: News, track: &Track) -> Self {
        let finding = &track.finding;
        let since = track.opened.unwrap_or(track.first_seen);
        let evidence = finding.evidence.iter().take(EVIDENCE_SHOWN);
        Self {
            event,
            severity: finding.severity,
            system: finding.system.to_string(),
            subject: finding.subject.to_string(),
            check: finding.check.clone(),
            summary: one_line(&finding.summary),
            fix: finding.fix.clone(),
            evidence: evidence
                .map(|measured| Measured {
                    what: measured.what.clone(),
                    value: one_line(&measured.value.to_string()),
                    threshold: measured.threshold.as_ref().map(ToString::to_string),
                    source: measured.source.clone(),
                })
                .collect(),
            since,
            duration: None,
            fingerprint: finding.fingerprint.short().to_owned(),
        }
    }

    /// The same finding, over now.
    #[must_use]
    pub fn resolved(self, now: Timestamp) -> Self {
        let duration = Some(seconds_between(self.since, now).max(0.0));
        Self { event: News::Resolved, duration, ..self }
    }

    /// `critical: redis.cache: Redis at … refuses connections`
    fn headline(&self) -> String {
        let what = if self.event == News::Resolved { "resolved" } else { self.severity.as_str() };
        if self.summary.contains(&self.system) {
            format!("{what}: {}", self.summary)
        } else {
            format!("{what}: {}: {}", self.system, self.summary)
        }
    }
}

impl Notice {
    /// Sorts the lines and makes the headline. There is at least one line.
    pub fn new(host: &str, mut lines: Vec<NoticeLine>, now: Timestamp) -> Self {
        lines.sort_by_key(|line| (line.event == News::Resolved, std::cmp::Reverse(line.severity), line.since));
        let more = if lines.len() > 1 { format!(" (+{})", lines.len() - 1) } else { String::new() };
        let headline = lines.first().map(|first| first.headline() + &more).unwrap_or_default();
        Self { product: PRODUCT.to_owned(), host: host.to_owned(), time: now, headline, test: false, lines }
    }

    /// A message that only tries the channel.
    pub fn test(host: &str, now: Timestamp) -> Self {
        let headline = format!("test message from {host}: this channel works, nothing is wrong");
        Self { product: PRODUCT.to_owned(), host: host.to_owned(), time: now, headline, test: true, lines: Vec::new() }
    }

    /// The headline, cut where a subject line gets unreadable; what stands in brackets at its end stays.
    pub fn short_headline(&self) -> String {
        const LONGEST: usize = 120;
        if self.headline.chars().count() <= LONGEST {
            return self.headline.clone();
        }
        let more = if self.lines.len() > 1 { format!(" (+{})", self.lines.len() - 1) } else { String::new() };
        let kept: String = self.headline.chars().take(LONGEST).collect();
        format!("{}...{more}", kept.trim_end())
    }
}

/// Without line breaks and control characters: a server's words must not forge a line of ours.
fn one_line(text: &str) -> String {
    let spaced: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::finding::{Draft, Finding};
    use groundskeeper_core::{SystemId, SystemKind, Value};

    fn line(event: News, severity: Severity, summary: &str) -> NoticeLine {
        let draft = Draft::new(severity, summary).saw("failure", Value::text("a\nb"), "connect");
        let system = SystemId::new(SystemKind::Redis, "cache");
        let opened = Timestamp::UNIX_EPOCH;
        let finding = Finding::from_draft("redis.unreachable", &system, draft);
        let track = Track { finding, first_seen: opened, last_seen: opened, opened: Some(opened), clear_since: None };
        let line = NoticeLine::new(event, &track);
        if event == News::Resolved { line.resolved(Timestamp::from_second(90).unwrap()) } else { line }
    }

    #[test]
    fn the_headline_says_the_worst_and_counts_the_rest() {
        let lines = vec![
            line(News::Resolved, Severity::Critical, "gone"),
            line(News::Opened, Severity::Warning, "slow"),
            line(News::Opened, Severity::Critical, "redis.cache does not answer"),
        ];
        let notice = Notice::new("box", lines, Timestamp::UNIX_EPOCH);
        assert_eq!(notice.headline, "critical: redis.cache does not answer (+2)");
        assert_eq!(notice.lines[2].duration, Some(90.0));
        let alone = Notice::new("box", vec![line(News::Resolved, Severity::Info, "slow")], Timestamp::UNIX_EPOCH);
        assert_eq!(alone.headline, "resolved: redis.cache: slow");
    }

    #[test]
    fn a_line_break_in_foreign_words_does_not_reach_a_line_of_ours() {
        let line = line(News::Opened, Severity::Critical, "ERR x\r\nBcc: everyone@example.com");
        assert_eq!(line.summary, "ERR x Bcc: everyone@example.com");
        assert_eq!(line.evidence[0].value, "a b");
    }

    #[test]
    fn a_long_headline_is_cut_and_keeps_its_count() {
        let lines =
            vec![line(News::Opened, Severity::Critical, &"x".repeat(400)), line(News::Opened, Severity::Info, "y")];
        let short = Notice::new("box", lines, Timestamp::UNIX_EPOCH).short_headline();
        assert!(short.ends_with("x... (+1)"), "{short}");
        assert!(short.len() < 140);
    }

    #[test]
    fn the_json_is_what_the_documentation_says() {
        let notice = Notice::new(
            "box",
            vec![line(News::Opened, Severity::Critical, "Redis at 127.0.0.1:6379 refuses connections")],
            Timestamp::UNIX_EPOCH,
        );
        let json = serde_json::to_value(&notice).unwrap();
        let expected = serde_json::json!({
            "product": "groundskeeper", "host": "box", "time": "1970-01-01T00:00:00Z",
            "headline": "critical: redis.cache: Redis at 127.0.0.1:6379 refuses connections", "test": false,
            "lines": [{
                "event": "opened", "severity": "critical", "system": "redis.cache", "subject": "",
                "check": "redis.unreachable", "summary": "Redis at 127.0.0.1:6379 refuses connections", "fix": "",
                "evidence": [{"what": "failure", "value": "a b", "source": "connect"}],
                "since": "1970-01-01T00:00:00Z", "fingerprint": notice.lines[0].fingerprint,
            }],
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Notice>(json).unwrap(), notice);
    }
}
