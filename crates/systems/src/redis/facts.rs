//! What has to be known of a Redis beside its data, and what a copy that was loaded holds.

use super::connection::{Connection, failure, server_failure};
use super::endpoint::Endpoint;
use super::info;
use crate::deadline::within;
use groundskeeper_core::observation::{Failure, FailureKind};
use jiff::Timestamp;
use redis::{Cmd, Value, cmd};
use std::collections::BTreeMap;
use std::time::Duration;

/// A server as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `7.0.15`, `8.1.0 (Valkey)`
    pub version: String,
    /// Keys of all databases.
    pub keys: u64,
    /// Bytes of memory in use.
    pub memory: u64,
    pub is_primary: bool,
    /// It reads its data into memory, and answers little else but this.
    pub loading: bool,
    pub modules: Vec<String>,
    /// What the last loading of data brought, and what it left out because its time was over. Redis 7.0 or newer.
    pub loaded: Option<(u64, u64)>,
    /// Every setting that is not secret; none where CONFIG is not allowed or was renamed.
    pub settings: Option<BTreeMap<String, String>>,
}

/// The keys of each database, by a server's own clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sizes {
    pub keys: BTreeMap<u32, u64>,
    pub at: Timestamp,
}

/// Asks INFO and, where it is allowed, CONFIG.
pub async fn facts(endpoint: &Endpoint, deadline: Duration) -> Result<Facts, Failure> {
    within(deadline, endpoint.address(), read(endpoint)).await
}

async fn read(endpoint: &Endpoint) -> Result<Facts, Failure> {
    let address = endpoint.address();
    let mut connection = Connection::open(endpoint, &mut "").await?;
    connection.login(endpoint).await?;
    let text = text(&answer(&mut connection, &cmd("INFO"), address).await?);
    let no_redis = || failure(FailureKind::Protocol, "the answer to INFO is not that of a Redis", address);
    let seen = text.as_deref().and_then(info::parse).ok_or_else(no_redis)?;
    let lines = || text.iter().flat_map(|text| text.lines().map(str::trim)).filter_map(|line| line.split_once(':'));
    let number = |wanted: &str| lines().find(|(name, _)| *name == wanted)?.1.parse::<u64>().ok();
    // `module:name=bf,ver=20609,api=1,…`
    let modules = lines()
        .filter(|(name, _)| *name == "module")
        .filter_map(|(_, value)| Some(value.strip_prefix("name=")?.split(',').next()?.to_owned()))
        .collect();
    let settings = match connection.ask(cmd("CONFIG").arg("GET").arg("*")).await? {
        Value::Array(words) => Some(settings(&words)),
        _ => None,
    };
    Ok(Facts {
        version: seen.version,
        keys: seen.keys.map_or(0, |keys| keys.total),
        memory: seen.memory.map_or(0, |memory| memory.used),
        is_primary: seen.replication.is_ok_and(|replication| replication.primary),
        loading: number("loading").unwrap_or(0) != 0,
        modules,
        loaded: number("rdb_last_load_keys_loaded").zip(number("rdb_last_load_keys_expired")),
        settings,
    })
}

/// The keys of these databases.
pub async fn sizes(endpoint: &Endpoint, databases: &[u32], deadline: Duration) -> Result<Sizes, Failure> {
    let reading = async {
        let address = endpoint.address();
        let nonsense = |what: &str| failure(FailureKind::Protocol, format!("{what} answers no number"), address);
        let mut connection = Connection::open(endpoint, &mut "").await?;
        connection.login(endpoint).await?;
        let mut keys = BTreeMap::new();
        for database in databases {
            answer(&mut connection, cmd("SELECT").arg(*database), address).await?;
            let Value::Int(count) = answer(&mut connection, &cmd("DBSIZE"), address).await? else {
                return Err(nonsense("DBSIZE"));
            };
            keys.insert(*database, u64::try_from(count).map_err(|_| nonsense("DBSIZE"))?);
        }
        let Value::Array(time) = answer(&mut connection, &cmd("TIME"), address).await? else {
            return Err(nonsense("TIME"));
        };
        // Seconds and microseconds: what expired in this very second is gone as well.
        let number = |index: usize| time.get(index).and_then(text).and_then(|part| part.parse::<i64>().ok());
        let at =
            number(0).zip(number(1)).map(|(seconds, micro)| seconds.saturating_mul(1_000_000).saturating_add(micro));
        let at = at.and_then(|at| Timestamp::from_microsecond(at).ok()).ok_or_else(|| nonsense("TIME"))?;
        Ok(Sizes { keys, at })
    };
    within(deadline, endpoint.address(), reading).await
}

/// An answer that is no error.
async fn answer(connection: &mut Connection<'_>, command: &Cmd, address: &str) -> Result<Value, Failure> {
    match connection.ask(command).await? {
        Value::ServerError(error) => Err(server_failure(&error, address)),
        value => Ok(value),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}

/// Names and values in turn. Passwords are left out: `requirepass`, `masterauth`, `tls-key-file-pass` and what is called
/// alike.
fn settings(words: &[Value]) -> BTreeMap<String, String> {
    let is_secret = |name: &str| name.ends_with("pass") || name.ends_with("auth");
    let pairs = words.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?)));
    pairs.filter(|(name, _)| !is_secret(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_kept_and_passwords_are_not() {
        let words = ["maxmemory", "100mb", "requirepass", "hunter2", "masterauth", "hunter2", "tls-key-file-pass", "x"];
        let words: Vec<Value> = words.iter().map(|word| Value::BulkString(word.as_bytes().to_vec())).collect();
        assert_eq!(settings(&words), BTreeMap::from([("maxmemory".to_owned(), "100mb".to_owned())]));
    }
}
