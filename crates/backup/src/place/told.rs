//! What an object store answered, in a sentence with a next step.
//!
//! Of an answer only its code is told. Some stores repeat the key's name, the signature and the whole request in it.

use object_store::Error as StoreError;
use std::error::Error;
use std::fmt::Write as _;

/// Where a cloud gives its machines their credentials. Asked last, so that outside of a cloud nobody answers there.
const CLOUDS: [&str; 3] = ["169.254.169.254", "169.254.170.2", "metadata.google.internal"];

/// What went wrong, and what to do.
pub(crate) fn told(error: &StoreError) -> String {
    let text = chain(error);
    if CLOUDS.iter().any(|address| text.contains(address)) {
        return "there are no credentials: none in [backup.storage], none in the environment, and this machine has no role \
                that gives some"
            .to_owned();
    }
    let answer = Answer::read(&text);
    let mut sentence = match (answer.code.as_deref(), answer.status) {
        (Some(code @ ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired")), _) => {
            format!(
                "the credentials have expired ({code}); renew them in [backup.storage] or in the environment and run it \
                 again: what is stored already is not sent again"
            )
        }
        (
            Some(code @ ("InvalidAccessKeyId" | "SignatureDoesNotMatch" | "InvalidToken" | "AuthenticationFailed")),
            _,
        ) => {
            format!(
                "the credentials are wrong ({code}); see `access_key_id` and `secret_access_key` of [backup.storage]"
            )
        }
        (Some(code @ ("RequestTimeTooSkewed" | "RequestInTheFuture")), _) => {
            format!("this machine's clock is wrong ({code}); `timedatectl` shows and sets it")
        }
        (Some(code @ ("NoSuchBucket" | "ContainerNotFound")), _) => {
            format!("there is no such bucket ({code}); make it, or correct `repository` of [backup]")
        }
        (
            Some(code @ ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")),
            _,
        ) => {
            format!("the bucket is in another region ({code}); set `region` of [backup.storage]")
        }
        (Some(code @ ("QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage")), _) => {
            format!("the store is full ({code}); make room there, or raise its quota")
        }
        (Some(code @ ("SlowDown" | "TooManyRequests" | "RequestLimitExceeded" | "ServerBusy")), _) => {
            format!("the store is overloaded ({code}); try it later, or lower `connections` of [backup]")
        }
        (_, Some(429)) => "the store is overloaded (429); try it later, or lower `connections` of [backup]".to_owned(),
        (_, Some(507)) => "the store is full (507); make room there, or raise its quota".to_owned(),
        (code, Some(status @ (401 | 403))) => {
            let code = code.map_or_else(|| status.to_string(), str::to_owned);
            format!(
                "permission denied ({code}): the credentials are wrong or have expired, or their policy does not allow \
                 it; docs/backup.md has the smallest one that does"
            )
        }
        (code, Some(status @ 500..)) => {
            let code = code.map(|code| format!(" {code}")).unwrap_or_default();
            format!("the store has an error of its own ({status}{code}); look at how it stands and try it again")
        }
        (Some(code), status) => {
            format!("the store refused it ({}{code})", status.map(|status| format!("{status} ")).unwrap_or_default())
        }
        (None, Some(301 | 307)) => {
            "the bucket is in another region, or `endpoint` of [backup.storage] is not that of the store".to_owned()
        }
        // The answer to a HEAD has no body.
        (None, Some(400)) => {
            "the store refused it (400) and does not say why: most often the credentials have expired, \
                              or `region` of [backup.storage] is another one"
                .to_owned()
        }
        (None, Some(status)) => format!("the store refused it ({status})"),
        (None, None) => unanswered(&text),
    };
    if let Some(times) = answer.retries {
        let _ = write!(sentence, " (tried {} times)", times + 1);
    }
    sentence
}

/// Whether an object is shorter than the part of it that was asked for.
pub(crate) fn is_beyond_the_end(error: &StoreError) -> bool {
    let answer = Answer::read(&chain(error));
    answer.status == Some(416) || answer.code.as_deref() == Some("InvalidRange")
}

/// Nothing came back that could be read.
fn unanswered(text: &str) -> String {
    let lower = text.to_lowercase();
    if lower.contains("redirect without location") {
        return "the bucket is in another region; set `region` of [backup.storage]".to_owned();
    }
    if lower.contains("timed out") || lower.contains("timeout") && lower.contains("elapsed") {
        return "no answer in time; look at the network and at the store, or raise `timeout` of [backup.storage]"
            .to_owned();
    }
    if lower.contains("dns error") || lower.contains("failed to lookup") {
        return "its name cannot be looked up; look at `endpoint` of [backup.storage], and at the network".to_owned();
    }
    if lower.contains("certificate") {
        return "its certificate is not trusted; name its authority as `ca_file` of [backup.storage]".to_owned();
    }
    for cause in ["connection refused", "no route to host", "network is unreachable", "connection reset"] {
        if lower.contains(cause) {
            return format!("{cause}; look at `endpoint` of [backup.storage], at the network and at the store");
        }
    }
    if lower.contains("connection closed") || lower.contains("incompletemessage") || lower.contains("unexpected eof") {
        return "the connection was closed in the middle; look at the network and at the store".to_owned();
    }
    // What is left was not sent by a store, so it repeats nothing; requests are signed in headers, not in addresses.
    let cause = text.rsplit("HTTP error: ").next().unwrap_or(text);
    cause.split("<?xml").next().unwrap_or(cause).trim().chars().take(300).collect()
}

/// The error and what caused it. Some say the same again, some do not.
fn chain(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// What `object_store` says of an answer. Its own type for it is private.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: Option<u16>,
    code: Option<String>,
    retries: Option<u32>,
}

impl Answer {
    fn read(text: &str) -> Self {
        let number = |after: &str| -> Option<u32> {
            let (_, rest) = text.split_once(after)?;
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().ok()
        };
        let code = text
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"))
            .map(|(code, _)| code.trim().to_owned())
            .filter(|code| !code.is_empty() && code.len() < 80 && code.chars().all(|c| c.is_ascii_alphanumeric()));
        let status = number("status code: ").and_then(|status| u16::try_from(status).ok());
        Self { status, code, retries: number("after ").filter(|_| text.contains(" retries, max_retries")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: &str, body: &str) -> String {
        let text = format!(
            "Error performing PUT http://127.0.0.1:9000/b/data/ab in 3ms, after 7 retries, max_retries: 1000, \
             retry_timeout: 180s  - Server returned non-2xx status code: {status}: {body}"
        );
        told(&StoreError::Generic { store: "S3", source: text.into() })
    }

    fn xml(code: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>hunter2</Message>\
             <AWSAccessKeyId>hunter2</AWSAccessKeyId><StringToSign>hunter2</StringToSign></Error>"
        )
    }

    #[test]
    fn an_answer_is_told_by_its_code_with_a_next_step_and_without_what_it_repeats() {
        for (status, code, said) in [
            ("400 Bad Request", "ExpiredToken", "the credentials have expired (ExpiredToken); renew them"),
            ("403 Forbidden", "SignatureDoesNotMatch", "the credentials are wrong (SignatureDoesNotMatch)"),
            ("403 Forbidden", "RequestTimeTooSkewed", "clock is wrong"),
            ("403 Forbidden", "AccessDenied", "permission denied (AccessDenied)"),
            ("404 Not Found", "NoSuchBucket", "there is no such bucket (NoSuchBucket); make it"),
            ("503 Service Unavailable", "SlowDown", "overloaded (SlowDown)"),
            ("500 Internal Server Error", "InternalError", "an error of its own (500 InternalError)"),
            ("507 Insufficient Storage", "XMinioStorageFull", "the store is full"),
            ("409 Conflict", "OperationAborted", "refused it (409 OperationAborted)"),
        ] {
            let sentence = answered(status, &xml(code));
            assert!(sentence.contains(said) && sentence.ends_with("(tried 8 times)"), "{sentence}");
            assert!(!sentence.contains("hunter2"), "{sentence}");
        }
        assert!(answered("403 Forbidden", "").contains("permission denied (403)"));
        assert!(
            answered("502 Bad Gateway", "<html>hunter2</html>").starts_with("the store has an error of its own (502);")
        );
    }

    #[test]
    fn no_answer_is_told_by_its_cause() {
        let of = |text: &str| told(&StoreError::Generic { store: "S3", source: text.to_owned().into() });
        assert!(of("HTTP error: error sending request: operation timed out").starts_with("no answer in time"));
        assert!(
            of("HTTP error: tcp connect error: Connection refused (os error 111)").starts_with("connection refused;")
        );
        assert!(of("HTTP error: dns error: failed to lookup address information").contains("looked up"));
        assert!(of("HTTP error: invalid peer certificate: UnknownIssuer").contains("`ca_file`"));
        let role =
            "Error performing PUT http://169.254.169.254/latest/api/token in 5s - HTTP error: operation timed out";
        assert!(of(role).starts_with("there are no credentials"));
        assert_eq!(of("something else"), "Generic S3 error: something else: something else");
    }
}
