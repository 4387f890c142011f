//! `[notify]` and its channels: `[notify.webhook.NAME]`, `[notify.email.NAME]`.

use super::REPEAT;
use crate::config::nearest::did_you_mean;
use crate::config::raw::{At, Section, string_entries};
use crate::config::{EmailSettings, NotifySettings, WebhookForm, WebhookSettings};
use groundskeeper_core::Severity;
use secrecy::SecretString;
use std::str::FromStr;

pub(super) fn defaults() -> NotifySettings {
    NotifySettings { webhooks: Vec::new(), emails: Vec::new(), repeat: REPEAT }
}

pub(super) fn all(top: &Section<'_>) -> NotifySettings {
    let mut found = defaults();
    let Some(section) = top.section("notify") else { return found };
    found.repeat = section.duration_or_zero("repeat").unwrap_or(found.repeat);
    for (name, channel) in section.named_sections("webhook", "team") {
        found.webhooks.extend(webhook(name, channel));
    }
    for (name, channel) in section.named_sections("email", "team") {
        if section.has("webhook") && found.webhooks.iter().any(|webhook| webhook.name == name) {
            let message = format!(
                "[notify.email.{name}] and [notify.webhook.{name}] have the same name; give each channel its own, so \
                 that `groundskeeper notify test {name}` means one"
            );
            channel.problem(channel.at, message);
        }
        found.emails.extend(email(name, channel));
    }
    section.finish();
    found
}

fn webhook(name: String, section: Section<'_>) -> Option<WebhookSettings> {
    let url = section.required_secret("url", "https://hooks.example.com/${WEBHOOK_TOKEN}");
    let url = url.filter(|url| is_web_address(&section, "url", url));
    let form = section.parsed("format", "\"json\" or \"slack\"", |text| match text {
        "json" => Ok(WebhookForm::Json),
        "slack" => Ok(WebhookForm::Slack),
        _ => Err(format!("`{text}` is not \"json\" or \"slack\"{}", did_you_mean(text, ["json", "slack"]))),
    });
    let headers = headers(&section);
    let minimum = minimum(&section);
    section.finish();
    let url = SecretString::from(url?.value);
    Some(WebhookSettings { name, url, form: form.unwrap_or(WebhookForm::Json), headers, minimum })
}

fn email(name: String, section: Section<'_>) -> Option<EmailSettings> {
    let server = section.required_secret("server", "smtps://mail.example.com:465");
    let user = section.secret("user").map(|found| found.value);
    let password = section.password().map(SecretString::from);
    let from = mailbox_or_problem(&section, section.required_secret("from", "groundskeeper@example.com"), "from");
    let to = recipients(&section);
    let minimum = minimum(&section);
    let server = server.filter(|server| is_mail_server(&section, server));
    if user.is_some() && !section.has("password") && !section.has("password_file") {
        section.problem(
            section.at,
            format!("[{}] has a `user` and no password; add `password` or `password_file`", section.name),
        );
    }
    section.finish();
    Some(EmailSettings { name, server: server?.value, user, password, from: from?, to, minimum })
}

fn recipients(section: &Section<'_>) -> Vec<String> {
    let written = section.texts("to");
    if written.as_ref().is_none_or(Vec::is_empty) && (written.is_some() || !section.has("to")) {
        let message = format!("[{}] needs `to`, such as to = [\"oncall@example.com\"]", section.name);
        section.problem(section.at, message);
    }
    let each = written.unwrap_or_default().into_iter();
    each.filter_map(|address| mailbox_or_problem(section, Some(address), "to")).collect()
}

fn mailbox_or_problem(section: &Section<'_>, written: Option<At<String>>, key: &str) -> Option<String> {
    let written = written?;
    if lettre::message::Mailbox::from_str(&written.value).is_ok() {
        return Some(written.value);
    }
    let message = format!(
        "`{key}`{}: `{}` is no mail address; write for example \"oncall@example.com\"",
        section.place(),
        written.value
    );
    section.problem(written.at, message);
    None
}

fn minimum(section: &Section<'_>) -> Severity {
    section
        .parsed("minimum_severity", "\"info\", \"warning\" or \"critical\"", Severity::from_str)
        .unwrap_or(Severity::Warning)
}

/// `headers = { Authorization = "Bearer ${TOKEN}" }`, values kept secret.
pub(super) fn headers(section: &Section<'_>) -> Vec<(String, SecretString)> {
    let Some(table) = section.section("headers") else { return Vec::new() };
    let mut found = Vec::new();
    for (name, value) in string_entries(&table) {
        let valid_name = reqwest::header::HeaderName::from_str(name.value).is_ok();
        if !valid_name || reqwest::header::HeaderValue::from_str(&value).is_err() {
            let part = if valid_name { "its value holds a character" } else { "its name holds a character" };
            let message = format!("the header `{}`{}: {part} that no header may have", name.value, section.place());
            table.problem(name.at, message);
            continue;
        }
        found.push((name.value.to_owned(), SecretString::from(value)));
    }
    found
}

/// The address may hold a token, so it is not repeated.
pub(super) fn is_web_address(section: &Section<'_>, key: &str, url: &At<String>) -> bool {
    let fine = url::Url::parse(&url.value)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
    if !fine {
        let message =
            format!("`{key}`{} must be a whole address that begins with http:// or https://", section.place());
        section.problem(url.at, message);
    }
    fine
}

fn is_mail_server(section: &Section<'_>, server: &At<String>) -> bool {
    let parsed = url::Url::parse(&server.value).ok();
    let fine = parsed.as_ref().is_some_and(|url| matches!(url.scheme(), "smtp" | "smtps") && url.host_str().is_some());
    let credentials = parsed.is_some_and(|url| url.password().is_some());
    if !fine || credentials {
        let message = if credentials {
            format!("`server`{} holds a password; move it to `user` and `password`", section.place())
        } else {
            format!(
                "`server`{} must look like \"smtps://mail.example.com:465\" or \"smtp://localhost:25\"",
                section.place()
            )
        };
        section.problem(server.at, message);
    }
    fine && !credentials
}
