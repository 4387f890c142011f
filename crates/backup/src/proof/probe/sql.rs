//! A probe in SQL.
//!
//! It reads, and is asked by a role that may do nothing else. That guards less against the question than against what
//! answers it: a view or a function that somebody put into the database runs with the rights of whoever asks, and those
//! of a superuser reach beyond the scratch place.

use super::{Probe, Time, told};
use crate::proof::reader;
use crate::scratch::{ScratchServer, Setback, said};
use futures_util::StreamExt;
use groundskeeper_core::quantity::format_count;
use std::pin::pin;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, SimpleQueryMessage};

/// By whom probes read that name nobody.
const READER: &str = "groundskeeper_probe";
/// The server ends a statement that takes too long. This is for one that does not let itself be ended.
const GRACE: Duration = Duration::from_secs(5);

/// What the first column of the first row has to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// This text.
    Equal(String),
    /// A number, and no smaller one.
    AtLeast(f64),
    /// Anything but no row, NULL, an empty text and false.
    Something,
}

/// The first row, or what we need of it.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    /// As Postgres writes it; None is NULL.
    first: Option<String>,
    is_flag: bool,
}

/// Makes the role for those that name none. A cluster that has one of this name has its own idea of what that may do.
pub(super) async fn make_reader(server: &ScratchServer<'_>) -> Result<(), Setback> {
    reader::make(server, READER).await.map_err(|why| {
        Setback::NotTried(format!("the role {READER}, by which probes read, cannot be made: {why}; give each a `user`"))
    })
}

pub(super) async fn ask(
    server: &ScratchServer<'_>,
    probe: &Probe,
    sql: &str,
    wanted: &Wanted,
    time: Time,
) -> Result<String, Setback> {
    let milliseconds = time.within.as_millis().clamp(1, i32::MAX as u128);
    let options =
        format!("-c statement_timeout={milliseconds} -c default_transaction_read_only=on -c local_preload_libraries=");
    let asking = async {
        let client = match &probe.user {
            Some(user) => server.connect_as(user, &probe.database, &options).await?,
            None => reader::connect(server, READER, &probe.database, &options).await?,
        };
        answer(&client, sql).await
    };
    match tokio::time::timeout(time.within.saturating_add(GRACE), asking).await {
        Ok(Ok(row)) => judged(wanted, row).map_err(Setback::Failed),
        Ok(Err(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => Err(time.over("")),
        Ok(Err(error)) => Err(refused(server, &error)),
        Err(_) => Err(time.over("")),
    }
}

async fn answer(client: &Client, sql: &str) -> Result<Option<Row>, Error> {
    client.batch_execute("BEGIN READ ONLY").await?;
    // A text with several statements, of which one could end the transaction, is refused here.
    let statement = client.prepare(sql).await?;
    let is_flag = statement.columns().first().is_some_and(|column| *column.type_() == Type::BOOL);
    let mut messages = pin!(client.simple_query_raw(sql).await?);
    while let Some(message) = messages.next().await {
        if let SimpleQueryMessage::Row(row) = message? {
            let first = row.try_get(0).ok().flatten().map(str::to_owned);
            return Ok(Some(Row { first, is_flag }));
        }
    }
    Ok(None)
}

fn refused(server: &ScratchServer<'_>, error: &Error) -> Setback {
    let what = format!("was refused: {}", said(error));
    if error.as_db_error().is_none() {
        return server.failed(&what);
    }
    if what.contains("No space left on device") { Setback::NotTried(what) } else { Setback::Failed(what) }
}

/// `answered 5,000`, or what is wrong with the answer.
fn judged(wanted: &Wanted, row: Option<Row>) -> Result<String, String> {
    let Some(Row { first, is_flag }) = row else { return Err("answered without a row".to_owned()) };
    let Some(text) = first else { return Err("answered NULL".to_owned()) };
    let flag = match text.as_str() {
        "t" if is_flag => Some("true"),
        "f" if is_flag => Some("false"),
        _ => None,
    };
    let shown = flag.map_or_else(|| shown(&text), str::to_owned);
    let is_wanted = match wanted {
        Wanted::Equal(wanted) if text == *wanted || flag == Some(wanted.as_str()) => Ok(()),
        Wanted::Equal(wanted) => Err(format!(" and not {}", told(wanted))),
        Wanted::AtLeast(least) => match text.trim().parse::<f64>() {
            Ok(number) if number >= *least => Ok(()),
            Ok(_) => Err(format!(", and at least {} is wanted", format_count(*least))),
            Err(_) => Err(", which is no number".to_owned()),
        },
        Wanted::Something if text.trim().is_empty() => return Err("answered an empty text".to_owned()),
        Wanted::Something if flag == Some("false") => Err(String::new()),
        Wanted::Something => Ok(()),
    };
    match is_wanted {
        Ok(()) => Ok(format!("answered {shown}")),
        Err(why) => Err(format!("answered {shown}{why}")),
    }
}

/// Large whole numbers are read more easily in groups.
fn shown(text: &str) -> String {
    match text.parse::<i64>() {
        // Up to there a float has every whole number.
        Ok(number) if number.unsigned_abs() < 1 << 53 && number.to_string() == text => format_count(number as f64),
        _ => told(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        Row { first: Some(text.to_owned()), is_flag: false }
    }

    fn flag(text: &str) -> Row {
        Row { is_flag: true, ..row(text) }
    }

    #[test]
    fn an_answer_is_as_it_is_wanted_or_it_is_told_why_not() {
        let equal = |text: &str| Wanted::Equal(text.to_owned());
        for (wanted, row, judgement) in [
            (equal("5000"), row("5000"), Ok("answered 5,000")),
            (equal("5000"), row("4999"), Err("answered 4,999 and not 5000")),
            (equal("true"), flag("t"), Ok("answered true")),
            (equal("t"), flag("t"), Ok("answered true")),
            (equal("t"), flag("f"), Err("answered false and not t")),
            (equal("true"), row("t"), Err("answered t and not true")),
            (Wanted::AtLeast(1000.0), row("1000"), Ok("answered 1,000")),
            (Wanted::AtLeast(1000.0), row("999.5"), Err("answered 999.5, and at least 1,000 is wanted")),
            (Wanted::AtLeast(0.0), row("NaN"), Err("answered NaN, and at least 0 is wanted")),
            (Wanted::AtLeast(0.0), row("many"), Err("answered many, which is no number")),
            (Wanted::Something, row("0"), Ok("answered 0")),
            (Wanted::Something, row("f"), Ok("answered f")),
            (Wanted::Something, flag("t"), Ok("answered true")),
            (Wanted::Something, flag("f"), Err("answered false")),
            (Wanted::Something, row(" "), Err("answered an empty text")),
            (Wanted::Something, Row { first: None, is_flag: false }, Err("answered NULL")),
        ] {
            let said = judged(&wanted, Some(row));
            let said = said.as_ref().map(String::as_str).map_err(String::as_str);
            assert_eq!(said, judgement, "{wanted:?}");
        }
        for wanted in [Wanted::Something, equal(""), Wanted::AtLeast(0.0)] {
            assert_eq!(judged(&wanted, None), Err("answered without a row".to_owned()), "{wanted:?}");
        }
    }

    #[test]
    fn only_whole_numbers_are_written_in_groups() {
        for (text, written) in [
            ("1234567", "1,234,567"),
            ("-1234", "-1,234"),
            ("0042", "0042"),
            ("1234.50", "1234.50"),
            ("9007199254740993", "9007199254740993"),
        ] {
            assert_eq!(shown(text), written);
        }
    }
}
