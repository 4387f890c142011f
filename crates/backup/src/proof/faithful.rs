//! Rung 5: the tables hold what they held when the set was made, at the same position of the WAL.

use super::shortened;
use crate::scratch::{ScratchServer, said};
use groundskeeper_core::quantity::format_count;
use groundskeeper_core::receipt::{ClimbOutcome, Contents, DatabaseContents};
use groundskeeper_systems::postgres::contents::{Unread, fingerprint, prepare};
use std::time::Instant;

/// What the comparison came to.
#[derive(Debug, Default)]
struct Compared {
    tables: usize,
    rows: u64,
    sampled: usize,
    differ: Vec<String>,
    not_covered: Vec<String>,
}

/// Compares a server that recovered exactly to [`Contents::at`] and has written nothing since.
pub(super) async fn faithful(server: &ScratchServer<'_>, contents: &Contents, until: Instant) -> ClimbOutcome {
    let mut compared = Compared { not_covered: contents.not_covered.clone(), ..Compared::default() };
    for database in &contents.databases {
        if let Err(why) = compared.visit(server, database, until).await {
            compared.differ.push(format!("database {}: {why}", database.name));
        }
    }
    compared.outcome(contents)
}

impl Compared {
    async fn visit(
        &mut self,
        server: &ScratchServer<'_>,
        database: &DatabaseContents,
        until: Instant,
    ) -> Result<(), String> {
        let name = &database.name;
        let client = server.connect(name).await.map_err(|error| said(&error))?;
        prepare(&client).await?;
        for (done, table) in database.tables.iter().enumerate() {
            let left = until.saturating_duration_since(Instant::now());
            let found = match fingerprint(&client, &table.name, table.hashed, table.sample, left).await {
                Ok(found) => found,
                Err(Unread::Late) => {
                    let rest = database.tables.len() - done;
                    self.not_covered.push(format!("database {name}: no time was left for {rest} tables"));
                    return Ok(());
                }
                // It had no row to be hashed then, and has one now.
                Err(Unread::NotHashed) if table.rows == 0 => {
                    self.differ.push(format!("{name}: {} has rows and had none", table.name));
                    continue;
                }
                Err(Unread::NotHashed) => {
                    self.not_covered.push(format!("{name}: {}: there is no hash function for it here", table.name));
                    continue;
                }
                Err(Unread::Refused(why) | Unread::Lost(why)) => {
                    self.differ.push(format!("{name}: {}: {why}", table.name));
                    continue;
                }
            };
            self.tables += 1;
            self.rows += found.0;
            self.sampled += usize::from(table.sample.is_some());
            let what = if table.sample.is_some() { "rows in the sampled pages" } else { "rows" };
            if found.0 != table.rows {
                self.differ.push(format!("{name}: {} has {} {what} and had {}", table.name, found.0, table.rows));
            } else if found.1 != table.fingerprint {
                self.differ.push(format!("{name}: {} has as many {what} as it had, with other content", table.name));
            }
        }
        Ok(())
    }

    fn outcome(self, contents: &Contents) -> ClimbOutcome {
        let (at, tables, rows) = (contents.at, format_count(self.tables as f64), format_count(self.rows as f64));
        if !self.differ.is_empty() {
            let differ = shortened(&self.differ.join("\n"));
            return ClimbOutcome::Failed {
                why: format!("at {at} its tables hold something else than they held:\n{differ}"),
            };
        }
        // Of nothing that was compared nobody can say that it is equal, unless there is nothing.
        if self.tables == 0 && !(self.not_covered.is_empty() && contents.tables().next().is_none()) {
            return ClimbOutcome::NotTried { why: self.not_covered.join("; ") };
        }
        let sampled = match self.sampled {
            0 => String::new(),
            some => format!(", of {} large ones a sample of their pages", format_count(some as f64)),
        };
        let what = match self.tables {
            0 => "there is no table, as there was none".to_owned(),
            1 => format!("the one table that was read holds the {rows} rows that it held"),
            _ => format!("all {tables} tables that were read hold the {rows} rows that they held"),
        };
        let shown = format!("at {at} {what}{sampled}");
        ClimbOutcome::Proven { shown, not_covered: self.not_covered }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::{Hashed, Lsn, Moment, TableContents};

    fn contents(tables: usize) -> Contents {
        let table = TableContents {
            name: "public.a".into(),
            rows: 2,
            fingerprint: "7".into(),
            hashed: Hashed::Record,
            sample: None,
        };
        let database = DatabaseContents { name: "docrag".into(), tables: vec![table; tables] };
        Contents {
            at: Lsn(0x300_0028),
            moment: Moment::Quiet,
            finished_below: None,
            databases: vec![database],
            not_covered: Vec::new(),
        }
    }

    #[test]
    fn one_table_that_differs_fails_it() {
        let compared =
            Compared { tables: 9, differ: vec!["docrag: public.a has 1 rows and had 2".into()], ..Compared::default() };
        let ClimbOutcome::Failed { why } = compared.outcome(&contents(9)) else { panic!("it differs") };
        assert!(why.contains("0/3000028") && why.contains("public.a has 1 rows"), "{why}");
    }

    #[test]
    fn nothing_compared_is_no_proof_unless_there_is_nothing() {
        let late = Compared { not_covered: vec!["no time".into()], ..Compared::default() };
        assert_eq!(late.outcome(&contents(1)), ClimbOutcome::NotTried { why: "no time".into() });
        let hidden = Compared { not_covered: vec!["the role may not read public.a".into()], ..Compared::default() };
        assert!(matches!(hidden.outcome(&contents(0)), ClimbOutcome::NotTried { .. }));
        assert!(matches!(Compared::default().outcome(&contents(0)), ClimbOutcome::Proven { .. }));
    }
}
