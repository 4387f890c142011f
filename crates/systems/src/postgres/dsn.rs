//! The two ways to write a Postgres address, taken apart and put together.

use super::client::EndpointError;

/// The URL up to its `?`, and the options behind it. The first `@` ends the credentials, as the driver reads it: a
/// question mark before it belongs to the password.
pub(super) fn url_parts(url: &str) -> (String, Vec<(String, String)>) {
    let credentials = url.find('@').map_or(0, |at| at + 1);
    let Some(mark) = url[credentials..].find('?').map(|at| at + credentials) else {
        return (url.to_owned(), Vec::new());
    };
    let pairs = url::form_urlencoded::parse(&url.as_bytes()[mark + 1..]);
    (url[..mark].to_owned(), pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
}

pub(super) fn joined_url(base: &str, options: &[(String, String)]) -> String {
    let encoded = options.iter().map(|(key, value)| {
        // The driver decodes percent signs only, so a space must not become a plus.
        let value: String = url::form_urlencoded::byte_serialize(value.as_bytes()).collect();
        format!("{key}={}", value.replace('+', "%20"))
    });
    let encoded = encoded.collect::<Vec<_>>().join("&");
    if encoded.is_empty() { base.to_owned() } else { format!("{base}?{encoded}") }
}

pub(super) fn joined_dsn(options: &[(String, String)]) -> String {
    let quoted =
        options.iter().map(|(key, value)| format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")));
    quoted.collect::<Vec<_>>().join(" ")
}

/// `host=/run/postgresql dbname='my db'`: libpq's rules for quotes and backslashes.
pub(super) fn dsn_pairs(text: &str) -> Result<Vec<(String, String)>, EndpointError> {
    // A message must not repeat what was read: it may be part of a password.
    let malformed = |why: &str| EndpointError::Malformed(why.to_owned());
    let mut pairs = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.peek().is_none() {
            break;
        }
        let mut key = String::new();
        while let Some(c) = rest.next_if(|c| *c != '=' && !c.is_whitespace()) {
            key.push(c);
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        if rest.next() != Some('=') || key.is_empty() {
            return Err(malformed("it is neither a postgres:// URL nor key=value pairs"));
        }
        while rest.next_if(|c| c.is_whitespace()).is_some() {}
        let is_quoted = rest.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match rest.next() {
                Some('\'') if is_quoted => break,
                Some('\\') => value.extend(rest.next()),
                Some(c) if !is_quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if is_quoted => return Err(malformed("a quoted value does not end")),
                None => break,
            }
        }
        pairs.push((key, value));
    }
    if pairs.is_empty() { Err(malformed("it is empty")) } else { Ok(pairs) }
}
