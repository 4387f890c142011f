//! Notices as an HTTP POST: our own JSON, or Slack's.

use super::notice::{News, Notice, NoticeLine};
use super::post::Post;
use super::{Failure, NotifyError, Result};
use crate::config::{WebhookForm, WebhookSettings};
use groundskeeper_core::Severity;
use groundskeeper_core::quantity::format_seconds;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::fmt::Write;

/// The same for every attempt of one message.
const DELIVERY: HeaderName = HeaderName::from_static("groundskeeper-delivery");

/// Slack takes 50 blocks of 3,000 characters; nobody reads as many.
const SLACK_LINES: usize = 20;
const SLACK_TEXT: usize = 2_900;

#[derive(Debug)]
pub(super) struct Webhook {
    pub(super) name: String,
    pub(super) minimum: Severity,
    form: WebhookForm,
    post: Post,
}

impl Webhook {
    pub(super) fn new(settings: WebhookSettings) -> Result<Self> {
        let name = format!("webhook.{}", settings.name);
        let post = Post::new(settings.url, &settings.headers)
            .map_err(|reason| NotifyError::Setup { channel: name.clone(), reason })?;
        Ok(Self { name, minimum: settings.minimum, form: settings.form, post })
    }

    pub(super) async fn send(&self, notice: &Notice, delivery: &str) -> std::result::Result<(), Failure> {
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_str(delivery) {
            headers.insert(DELIVERY, value);
        }
        match self.form {
            WebhookForm::Json => self.post.json(notice, headers).await,
            WebhookForm::Slack => self.post.json(&slack(notice), headers).await,
        }
    }
}

/// `text` is what a phone shows as the notification; the blocks are what the channel shows.
fn slack(notice: &Notice) -> Value {
    let mut blocks = vec![section(&format!("*{}*", escaped(&notice.short_headline())))];
    blocks.extend(notice.lines.iter().take(SLACK_LINES).map(|line| section(&slack_line(line))));
    if notice.lines.len() > SLACK_LINES {
        blocks.push(section(&format!("… and {} more", notice.lines.len() - SLACK_LINES)));
    }
    let foot = format!("{} on {}, {}", notice.product, escaped(&notice.host), moment(notice.time));
    blocks.push(json!({"type": "context", "elements": [{"type": "mrkdwn", "text": foot}]}));
    json!({"text": escaped(&notice.headline), "blocks": blocks})
}

fn slack_line(line: &NoticeLine) -> String {
    let symbol = match (line.event, line.severity) {
        (News::Resolved, _) => ":white_check_mark:",
        (_, Severity::Critical) => ":red_circle:",
        (_, Severity::Warning) => ":large_orange_circle:",
        (_, Severity::Info) => ":large_blue_circle:",
    };
    let (severity, words, system) = (line.severity, line.event.words(), escaped(&line.system));
    let mut text = format!("{symbol} *{system}* {severity}, {words}\n{}", escaped(&line.summary));
    // Writing to a String cannot fail.
    if let Some(seconds) = line.duration {
        let _ = write!(text, "\nIt was open for {}.", format_seconds(seconds));
    } else {
        for measured in &line.evidence {
            let _ = write!(text, "\n• {}: {}", escaped(&measured.what), escaped(&measured.value));
            if let Some(threshold) = &measured.threshold {
                let _ = write!(text, " (threshold {})", escaped(threshold));
            }
        }
        if !line.fix.is_empty() {
            let _ = write!(text, "\n*Next step:* {}", escaped(&line.fix));
        }
    }
    let _ = write!(text, "\n`{}` `{}`, since {}", line.check, line.fingerprint, moment(line.since));
    text
}

fn section(text: &str) -> Value {
    let cut: String = text.chars().take(SLACK_TEXT).collect();
    json!({"type": "section", "text": {"type": "mrkdwn", "text": cut}})
}

pub(super) fn moment(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// The three characters that Slack's mrkdwn gives a meaning to: links, mentions (`<!channel>`) and entities.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn line(summary: &str) -> NoticeLine {
        NoticeLine {
            event: News::Opened,
            severity: Severity::Critical,
            system: "redis.cache".into(),
            subject: String::new(),
            check: "redis.unreachable".into(),
            summary: summary.into(),
            fix: "a && b > c".into(),
            evidence: Vec::new(),
            since: Timestamp::UNIX_EPOCH,
            duration: None,
            fingerprint: "0123abcd".into(),
        }
    }

    #[test]
    fn slack_text_cannot_mention_or_link() {
        let notice = Notice::new("box", vec![line("<!channel> & <https://evil.example|click>")], Timestamp::UNIX_EPOCH);
        let body = slack(&notice).to_string();
        assert!(!body.contains('<') && !body.contains('>'), "{body}");
        assert!(body.contains("&lt;!channel&gt; &amp; &lt;https://evil.example|click&gt;"), "{body}");
        assert!(body.contains("a &amp;&amp; b &gt; c"), "{body}");
    }

    #[test]
    fn slack_limits_are_kept() {
        let lines = (0..200).map(|_| line(&"x".repeat(5000))).collect();
        let body = slack(&Notice::new("box", lines, Timestamp::UNIX_EPOCH));
        let blocks = body["blocks"].as_array().unwrap();
        assert!(blocks.len() <= 50);
        assert!(blocks.iter().filter_map(|block| block["text"]["text"].as_str()).all(|text| text.len() <= 3000));
        assert!(body.to_string().contains("and 180 more"));
    }
}
