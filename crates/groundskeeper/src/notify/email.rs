//! Notices as plain-text mail.
//!
//! | server | encryption |
//! |---|---|
//! | `smtps://host:465` | TLS from the first byte |
//! | `smtp://host:587?tls=required` | STARTTLS, or nothing is sent |
//! | `smtp://host:25` | STARTTLS where the server offers it; required as soon as there is a password |
//! | `smtp://localhost:25` | none: it does not leave the machine |

use super::notice::{Notice, NoticeLine};
use super::post::is_loopback;
use super::webhook::moment;
use super::{Failure, NotifyError, PRODUCT, Result, with_causes};
use crate::config::EmailSettings;
use groundskeeper_core::Severity;
use groundskeeper_core::quantity::format_seconds;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use secrecy::ExposeSecret;
use std::fmt::{self, Write};
use std::time::SystemTime;
use url::Url;

pub(super) struct Email {
    pub(super) name: String,
    pub(super) minimum: Severity,
    from: Mailbox,
    to: Vec<Mailbox>,
    /// Host and port, for people.
    place: String,
    transport: AsyncSmtpTransport<Tokio1Executor>,
}

impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The transport holds the password.
        f.debug_struct("Email").field("name", &self.name).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Email {
    pub(super) fn new(settings: &EmailSettings) -> Result<Self> {
        let name = format!("email.{}", settings.name);
        let unusable = |reason: String| NotifyError::Setup { channel: name.clone(), reason };
        let mailbox = |text: &String| {
            text.parse::<Mailbox>().map_err(|error| unusable(format!("`{text}` is no mail address: {error}")))
        };
        let from = mailbox(&settings.from)?;
        let to = settings.to.iter().map(mailbox).collect::<Result<Vec<_>>>()?;
        let (place, transport) = transport(settings).map_err(&unusable)?;
        Ok(Self { minimum: settings.minimum, from, to, place, transport, name })
    }

    pub(super) async fn send(&self, notice: &Notice, delivery: &str) -> std::result::Result<(), Failure> {
        let message = self
            .message(notice, delivery)
            .map_err(|error| Failure::Rejected(format!("the mail could not be written: {}", with_causes(&error))))?;
        match self.transport.send(message).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let said = format!("{}: {}", self.place, with_causes(&error));
                Err(if error.is_permanent() {
                    Failure::Rejected(said)
                } else if error.is_transient() || error.is_response() {
                    Failure::Refused(said)
                } else {
                    Failure::Unreachable(said)
                })
            }
        }
    }

    fn message(&self, notice: &Notice, delivery: &str) -> std::result::Result<Message, lettre::error::Error> {
        let domain: String = notice.host.chars().filter(|c| c.is_ascii_alphanumeric() || ".-".contains(*c)).collect();
        let mut builder = Message::builder()
            .from(self.from.clone())
            .date(SystemTime::from(notice.time))
            .subject(format!("[{PRODUCT}] {}", notice.short_headline()))
            .message_id(Some(format!("<{PRODUCT}.{delivery}@{domain}>")))
            // So that no holiday reply comes back (RFC 3834).
            .raw_header(HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned()))
            .header(ContentType::TEXT_PLAIN);
        for to in &self.to {
            builder = builder.to(to.clone());
        }
        builder.body(body(notice))
    }
}

fn transport(settings: &EmailSettings) -> std::result::Result<(String, AsyncSmtpTransport<Tokio1Executor>), String> {
    let url = Url::parse(&settings.server).map_err(|error| format!("`server` is no URL: {error}"))?;
    let host = url.host_str().ok_or("`server` names no host")?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let tls_parameters = || TlsParameters::new(host.clone()).map_err(|error| with_causes(&error));
    let starttls_required = url.query_pairs().any(|(key, value)| key == "tls" && value == "required");
    let (port, tls) = match url.scheme() {
        "smtps" => (465, Tls::Wrapper(tls_parameters()?)),
        "smtp" if starttls_required => (587, Tls::Required(tls_parameters()?)),
        "smtp" if is_loopback(&host) => (25, Tls::None),
        // A password must not go over the wire because someone in between removed the offer of STARTTLS.
        "smtp" if settings.password.is_some() => (25, Tls::Required(tls_parameters()?)),
        "smtp" => (25, Tls::Opportunistic(tls_parameters()?)),
        other => return Err(format!("`server` begins with {other}://; use smtp:// or smtps://")),
    };
    let port = url.port().unwrap_or(port);
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host.clone()).port(port).tls(tls);
    if let (Some(user), Some(password)) = (&settings.user, &settings.password) {
        builder = builder.credentials(Credentials::new(user.clone(), password.expose_secret().to_owned()));
    }
    Ok((format!("{host}:{port}"), builder.build()))
}

fn body(notice: &Notice) -> String {
    let mut text = format!("{}\n\n", notice.headline);
    for line in &notice.lines {
        // Writing to a String cannot fail.
        let _ = write_line(&mut text, line);
    }
    let _ = write!(text, "-- \n{} on {}, {}\n", notice.product, notice.host, moment(notice.time));
    text
}

fn write_line(text: &mut String, line: &NoticeLine) -> fmt::Result {
    let about = if line.subject.is_empty() { String::new() } else { format!(", {}", line.subject) };
    writeln!(text, "{} ({})  {}{about}", line.severity.as_str().to_uppercase(), line.event.words(), line.system)?;
    writeln!(text, "  {}", line.summary)?;
    if let Some(seconds) = line.duration {
        writeln!(text, "  It was open for {}, from {} on.", format_seconds(seconds), moment(line.since))?;
    } else {
        for measured in &line.evidence {
            let threshold =
                measured.threshold.as_ref().map_or_else(String::new, |limit| format!(", threshold {limit}"));
            writeln!(text, "  {}: {}{threshold}   ({})", measured.what, measured.value, measured.source)?;
        }
        if !line.fix.is_empty() {
            writeln!(text, "\n  Next step: {}\n", line.fix)?;
        }
        writeln!(text, "  Since {}.", moment(line.since))?;
    }
    writeln!(text, "  {}, {}; `groundskeeper explain {}` says more.\n", line.fingerprint, line.check, line.check)
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::SecretString;

    fn settings(server: &str, password: bool) -> EmailSettings {
        EmailSettings {
            name: "oncall".into(),
            server: server.into(),
            user: password.then(|| "keeper".into()),
            password: password.then(|| SecretString::from("s3cret")),
            from: "Keeper <keeper@example.com>".into(),
            to: vec!["oncall@example.com".into()],
            minimum: Severity::Warning,
        }
    }

    #[test]
    fn servers_of_every_kind_are_understood() {
        for (server, place) in [
            ("smtp://127.0.0.1:2525", "127.0.0.1:2525"),
            ("smtp://[::1]:2525", "::1:2525"),
            ("smtps://mail.example.com", "mail.example.com:465"),
            ("smtp://mail.example.com?tls=required", "mail.example.com:587"),
            ("smtp://mail.example.com", "mail.example.com:25"),
        ] {
            assert_eq!(Email::new(&settings(server, true)).unwrap().place, place);
        }
        let error = Email::new(&settings("http://mail.example.com", false)).unwrap_err().to_string();
        assert!(error.contains("email.oncall") && error.contains("use smtp://"), "{error}");
    }

    #[test]
    fn the_password_is_shown_by_nothing() {
        let email = Email::new(&settings("smtp://127.0.0.1:2525", true)).unwrap();
        assert!(!format!("{email:?}").contains("s3cret"));
    }
}
