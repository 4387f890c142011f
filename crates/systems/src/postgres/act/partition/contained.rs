//! Whether a partition holds what the proven backup set has of it, and nothing else.
//!
//! Where the set knows every row, the sum of their hashes and their number are made again; of a large table it knows a sample of
//! the pages, and that is made again. Equal hashes are not yet the same rows: 1.0 and 1.00 are equal and hash alike, and so do
//! some intervals and documents. So no row may have been written by a transaction that was not over when the set was made
//! either. The number that a row has from its writer (`xmin`) stays with it, also
//! when it is frozen; as long as fewer than 2^31 transactions lie in between, a younger one is told from an older one.

use super::super::super::contents::{Unread, fingerprint};
use super::super::{ActError, CANCELLED_WITHIN, Work};
use super::Parting;
use groundskeeper_core::expiry::{Contained, PROVE, Sample};
use groundskeeper_core::quantity::format_count;
use std::pin::Pin;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// Whether the number of a transaction still tells when it was, and whether one that is not in the set wrote a row.
fn younger_rows(relation: &str) -> String {
    format!(
        "SELECT now.number - $1 BETWEEN 0 AND 2147483647,
       EXISTS (SELECT 1 FROM ONLY {relation} AS held
                WHERE ((held.xmin::text::int8 - $1) % 4294967296 + 4294967296) % 4294967296 < now.number - $1)
  FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::int8) AS now(number)"
    )
}

impl Work<'_> {
    /// A number of a transaction, and a table of the same name, mean something only on the server that the set was made of.
    pub(super) async fn same_server(&self, client: &Client, contained: &Contained) -> Result<(), ActError> {
        const SERVER: &str = "
SELECT (SELECT system_identifier::text FROM pg_control_system()),
       ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int8";
        let row = self.wait(client.query_typed_one(SERVER, &[])).await?;
        let (identifier, timeline): (String, i64) = (row.get(0), row.get(1));
        let set = &contained.set;
        let why = if identifier != contained.system_identifier {
            "was made of another server"
        } else if timeline != i64::from(contained.timeline) {
            "was made before the server was recovered or promoted"
        } else {
            return Ok(());
        };
        Err(self.precondition(format!("the newest proven set {set} {why}; {PROVE}")))
    }

    /// In a transaction that is open.
    pub(super) async fn still_contained(
        &self,
        client: &Client,
        of: Parting<'_>,
        halt: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), ActError> {
        tokio::select! {
            biased;
            compared = self.compared(client, of) => compared,
            () = halt => {
                // The transaction ends with the session; the statement must not go on until then.
                let _ = timeout(CANCELLED_WITHIN, self.endpoint.cancel(client)).await;
                Err(ActError::Interrupted(self.what()))
            }
        }
    }

    async fn compared(&self, client: &Client, of: Parting<'_>) -> Result<(), ActError> {
        let (relation, held) = (of.at.relation(), of.contained);
        let within = self.until.saturating_duration_since(Instant::now());
        let sample = held.sample.map(Sample::percent);
        let read = timeout_at(self.until, fingerprint(client, &relation, held.hashed, sample, within)).await;
        let (rows, sum) = match read {
            Ok(Ok(read)) => read,
            Err(_) | Ok(Err(Unread::Late)) => return Err(self.timeout()),
            Ok(Err(Unread::NotHashed)) => {
                return Err(
                    self.precondition("there is no hash function for its rows any more, so they cannot be compared")
                );
            }
            Ok(Err(Unread::Lost(why))) => return Err(self.failed(why, true)),
            Ok(Err(Unread::Refused(why))) => {
                return Err(self.failed(format!("its rows could not be read: {why}"), false));
            }
        };
        let set = &held.set;
        if rows != held.rows {
            let (here, there) = (format_count(rows as f64), format_count(held.rows as f64));
            let what = if sample.is_some() { " in the sampled pages" } else { "" };
            let why =
                format!("it holds {here} rows{what}, and the newest proven set {set} has {there} of them; {PROVE}");
            return Err(self.precondition(why));
        }
        if sum != held.fingerprint {
            let why = format!("its rows are not those that the newest proven set {set} has; {PROVE}");
            return Err(self.precondition(why));
        }
        self.no_younger_rows(client, &relation, held).await
    }

    async fn no_younger_rows(&self, client: &Client, relation: &str, held: &Contained) -> Result<(), ActError> {
        let finished_below = i64::try_from(held.finished_below).unwrap_or(i64::MAX);
        let value: [(&(dyn ToSql + Sync), Type); 1] = [(&finished_below, Type::INT8)];
        let row = self.wait(client.query_typed_one(&younger_rows(relation), &value)).await?;
        let why = match (row.get::<_, bool>(0), row.get::<_, bool>(1)) {
            (true, false) => return Ok(()),
            (true, true) => "somebody has written to it since",
            (false, _) => "too many transactions lie in between to tell whether somebody has written to it since",
        };
        Err(self.precondition(format!("the newest proven set {} has its rows of then, and {why}; {PROVE}", held.set)))
    }
}
