//! Looks for indexes that are missing, and believes in none that the planner would not use.
//!
//! A reading of its own, not a part of the one that is taken twice a minute. Each statement is explained (see `explaining`), first
//! as things are and then with a hypothetical index of hypopg, which exists in our session only.

use super::client::{Endpoint, NOT_IN_PARALLEL, reading_settings};
use super::explaining::{STATEMENTS, begin, explained, foreign_code, reason, run, statements, take_back};
use super::mask::masked;
use super::observe::{QUERY_SHOWN, get, unsigned};
use groundskeeper_core::advice::{Advice, Candidate, Helped, Question, TableShape, Verified, question};
use groundskeeper_core::observation::{Failure, FailureKind, TableName};
use groundskeeper_core::remedy::quoted;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

const APPLICATION_NAME: &str = "groundskeeper-advice";
/// An index that saves less is not worth its writes. The limit of dexter, which does the same.
const WORTH: f64 = 0.5;
/// Among indexes that save about as much, the one with fewer columns is chosen.
const ABOUT: f64 = 1.1;

/// The columns and B-trees of some tables. An index of rows that meet a condition serves only statements that name it.
const SHAPES: &str = "
SELECT n.nspname::text AS schema, c.relname::text AS name,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns,
       ARRAY(SELECT array_to_string(ARRAY(
                      SELECT coalesce(quote_ident(a.attname), '') FROM generate_series(0, i.indnkeyatts - 1) k
                        LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[k] AND a.attnum > 0
                       ORDER BY k), ',')
               FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am am ON am.oid = x.relam
              WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL AND am.amname = 'btree') AS indexes
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE (n.nspname, c.relname) IN (SELECT * FROM unnest($1::text[], $2::text[])) AND c.relkind IN ('r', 'm')";

/// What an index saves on one statement: its size in bytes, and the costs without and with it.
type Saving = (Candidate, u64, f64, f64);

const HYPOPG: &str = "SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                        WHERE e.extname = 'hypopg'";

/// Looks at the statements that take the most time, for indexes on these tables, within this time. What it has verified by
/// then is the answer.
pub async fn advise(endpoint: &Endpoint, tables: &[TableName], within: Duration) -> Result<Advice, Failure> {
    let until = Instant::now() + within;
    let mut settings = reading_settings(within);
    // It plans what the application runs, and so as the application does.
    settings.retain(|(name, _)| *name != NOT_IN_PARALLEL.0);
    let session = endpoint.connect(APPLICATION_NAME, &settings, within).await?;
    let Some(client) = session.client() else {
        return Err(Failure {
            kind: FailureKind::Interrupted,
            message: "the server closed the connection".to_owned(),
            address: endpoint.address().to_owned(),
        });
    };
    let looked = match timeout_at(until, prepare(client, tables, endpoint.trusted())).await {
        Ok(Ok(Prepared::Advice(advice))) => Ok(advice),
        Ok(Ok(Prepared::Work(work))) => Ok(work.done(client, endpoint.trusted(), until).await),
        Ok(Err(error)) => Err(endpoint.failure(&error)),
        Err(_) => Err(crate::deadline::timed_out(within, endpoint.address())),
    };
    session.close(Duration::from_secs(1)).await;
    looked
}

enum Prepared {
    Advice(Advice),
    Work(Work),
}

/// What is to be put to the planner.
struct Work {
    /// The schema of hypopg, quoted.
    hypopg: String,
    questions: Vec<(i64, String, Question)>,
    unexplained: Vec<(i64, String)>,
}

async fn prepare(client: &Client, tables: &[TableName], trusted: &[String]) -> Result<Prepared, tokio_postgres::Error> {
    let rows = client.query_typed(HYPOPG, &[]).await?;
    let Some(row) = rows.first() else { return Ok(Prepared::Advice(Advice::NoHypopg)) };
    let hypopg: String = row.try_get(0)?;
    let Some(found) = statements(client, STATEMENTS).await? else { return Ok(Prepared::Advice(Advice::NoStatements)) };
    if let Some(why) = foreign_code(client, trusted).await? {
        return Ok(Prepared::Advice(Advice::KeptFrom(why)));
    }
    let schemas: Vec<&str> = tables.iter().map(|table| table.schema.as_str()).collect();
    let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    let named: [(&(dyn ToSql + Sync), Type); 2] = [(&schemas, Type::TEXT_ARRAY), (&names, Type::TEXT_ARRAY)];
    let shapes = client.query_typed(SHAPES, &named).await?;
    let shapes: Vec<TableShape> = shapes.iter().filter_map(|row| shape(row).ok()).collect();
    let mut work = Work { hypopg: quoted(&hypopg), questions: Vec::new(), unexplained: Vec::new() };
    for (query_id, text) in found {
        // Most statements are about other tables, and what is not SQL of the parser's kind need not be reported for those.
        if !tables.iter().any(|table| text.to_lowercase().contains(&table.name.to_lowercase())) {
            continue;
        }
        match question(&text, &shapes) {
            Ok(Some(question)) => work.questions.push((query_id, masked(&text, QUERY_SHOWN), question)),
            Ok(None) => {}
            Err(error) => work.unexplained.push((query_id, format!("it could not be parsed: {error}"))),
        }
    }
    Ok(Prepared::Work(work))
}

fn shape(row: &Row) -> Result<TableShape, String> {
    let indexes: Vec<String> = get(row, "indexes")?;
    let columns: Vec<String> = get(row, "columns")?;
    // Names are compared as the server quotes them, so that a comma in one is no border.
    let by_quoted: BTreeMap<String, &String> =
        columns.iter().flat_map(|column| [(quoted(column), column), (column.clone(), column)]).collect();
    let keys = |index: &String| -> Vec<String> {
        index.split(',').map_while(|key| by_quoted.get(key).map(|column| (*column).clone())).collect()
    };
    Ok(TableShape {
        table: TableName { schema: get(row, "schema")?, name: get(row, "name")? },
        indexes: indexes.iter().map(keys).collect(),
        columns,
    })
}

impl Work {
    /// What was not asked in time is told as such.
    async fn done(mut self, client: &Client, trusted: &[String], until: Instant) -> Advice {
        let mut helped: BTreeMap<Candidate, (u64, Vec<Helped>)> = BTreeMap::new();
        let asked = self.questions.len();
        for (query_id, query, question) in std::mem::take(&mut self.questions) {
            let answer = match timeout_at(until, self.ask(client, &question, trusted)).await {
                Ok(Ok(Ok(answer))) => answer,
                Ok(Ok(Err(why))) => {
                    self.unexplained.push((query_id, why));
                    None
                }
                Ok(Err(error)) => {
                    self.unexplained.push((query_id, reason(&error)));
                    None
                }
                Err(_) => {
                    self.unexplained.push((query_id, "there was no time left to explain it".to_owned()));
                    break;
                }
            };
            if let Some((candidate, size, before, after)) = answer {
                let entry = helped.entry(candidate).or_insert_with(|| (size, Vec::new()));
                entry.1.push(Helped { query_id, query, before, after });
            }
        }
        let mut verified: Vec<Verified> =
            helped.into_iter().map(|(candidate, (size, helped))| Verified { candidate, size, helped }).collect();
        let saved = |one: &Verified| -> f64 { one.helped.iter().map(|helped| helped.before - helped.after).sum() };
        verified.sort_by(|a, b| saved(b).total_cmp(&saved(a)));
        Advice::Looked { verified, asked, unexplained: self.unexplained }
    }

    /// The index that saves most on one statement, none where none is worth it. Or why it may not be asked for any more.
    async fn ask(
        &self,
        client: &Client,
        question: &Question,
        trusted: &[String],
    ) -> Result<Result<Option<Saving>, String>, tokio_postgres::Error> {
        let answer = match begin(client, trusted).await? {
            Some(why) => Ok(Err(why)),
            None => self.compare(client, question).await.map(Ok),
        };
        let taken_back = take_back(client).await;
        let reset = run(client, &format!("SELECT {}.hypopg_reset()", self.hypopg)).await;
        run(client, "ROLLBACK").await?;
        taken_back.and(reset)?;
        answer
    }

    async fn compare(&self, client: &Client, question: &Question) -> Result<Option<Saving>, tokio_postgres::Error> {
        let before = cost(client, question, 0).await?;
        let mut found: Vec<(Candidate, u64, f64)> = Vec::new();
        for (number, candidate) in question.candidates.iter().enumerate() {
            run(client, "SAVEPOINT candidate").await?;
            match self.with(client, question, number + 1).await {
                Ok((size, after)) if after <= before * WORTH => found.push((candidate.clone(), size, after)),
                Ok(_) => {}
                // A type without a B-tree: it is no candidate.
                Err(error) if error.as_db_error().is_some() => {}
                Err(error) => return Err(error),
            }
            run(client, "ROLLBACK TO SAVEPOINT candidate").await?;
            run(client, &format!("SELECT {}.hypopg_reset()", self.hypopg)).await?;
        }
        let Some(least) = found.iter().map(|(_, _, after)| *after).min_by(f64::total_cmp) else { return Ok(None) };
        let chosen = found
            .into_iter()
            .filter(|(_, _, after)| *after <= least * ABOUT)
            .min_by_key(|(candidate, size, _)| (candidate.columns.len(), *size));
        Ok(chosen.map(|(candidate, size, after)| (candidate, size, before, after)))
    }

    /// The estimated size of the index, and the cost with it.
    async fn with(
        &self,
        client: &Client,
        question: &Question,
        number: usize,
    ) -> Result<(u64, f64), tokio_postgres::Error> {
        let hypopg = &self.hypopg;
        let definition = format!("CREATE INDEX {}", question.candidates[number - 1].place());
        let sql = format!(
            "SELECT {hypopg}.hypopg_relation_size(indexrelid)::int8 AS size FROM {hypopg}.hypopg_create_index($1)"
        );
        let row = client.query_typed_one(&sql, &[(&definition, Type::TEXT)]).await?;
        let size = unsigned(row.try_get("size")?);
        Ok((size, cost(client, question, number).await?))
    }
}

/// The planner's cost of the generic plan.
async fn cost(client: &Client, question: &Question, number: usize) -> Result<f64, tokio_postgres::Error> {
    let plan = explained(client, &question.sql, question.parameters, number).await?;
    // What has no cost is cheaper than nothing.
    Ok(plan[0]["Plan"]["Total Cost"].as_f64().unwrap_or(f64::INFINITY))
}
