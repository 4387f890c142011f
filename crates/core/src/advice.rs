//! Which indexes a statement could use: read off its conditions, to be verified by the planner before anybody hears of them.
//!
//! Statements are parsed, never searched as text. Only B-trees on plain columns come out: what is compared for equality
//! first, then one range, or the order that a LIMIT asks for. What the parser does not know is said, not guessed at.

mod conditions;

use crate::observation::TableName;
use crate::remedy::quoted;
use conditions::Wish;
use serde::{Deserialize, Serialize};
use sqlparser::ast::{
    Expr, FromTable, ObjectName, Query, SetExpr, Statement, TableWithJoins, Value, VisitMut, VisitorMut,
    visit_expressions_mut,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token, Tokenizer};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// More columns make an index larger, and each write dearer, than they are worth.
const COLUMNS: usize = 3;
/// The planner is asked once for each.
const CANDIDATES: usize = 8;

/// A table that may want an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableShape {
    pub table: TableName,
    pub columns: Vec<String>,
    /// The key columns, in order, of each valid B-tree over the whole table; cut off at the first expression.
    pub indexes: Vec<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    pub table: TableName,
    pub columns: Vec<String>,
}

impl Candidate {
    /// `ON "public"."chunks" ("tenant", "made")`
    pub fn place(&self) -> String {
        let columns: Vec<String> = self.columns.iter().map(|column| quoted(column)).collect();
        format!("ON {}.{} ({})", quoted(&self.table.schema), quoted(&self.table.name), columns.join(", "))
    }

    /// An index that begins with these columns does as well.
    fn is_there(&self, indexes: &[Vec<String>]) -> bool {
        indexes.iter().any(|index| index.starts_with(&self.columns))
    }
}

/// What to ask the planner about one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The statement itself, or for an UPDATE or DELETE of one table a SELECT with its conditions.
    pub sql: String,
    /// How many parameters (`$1` …) it has.
    pub parameters: usize,
    pub candidates: Vec<Candidate>,
}

/// The indexes that a statement could use. None when it has no condition on one of these tables that an index is missing
/// for, or is of another kind. An error when it cannot be parsed.
pub fn question(statement: &str, tables: &[TableShape]) -> Result<Option<Question>, String> {
    let statement = &with_casts(statement);
    let Some(one) = parsed(statement)? else { return Ok(None) };
    let mut candidates = Vec::new();
    for shape in tables {
        for wish in conditions::wishes(&one, shape) {
            for candidate in possible(&wish, shape) {
                if !candidates.contains(&candidate) {
                    candidates.push(candidate);
                }
            }
        }
    }
    candidates.truncate(CANDIDATES);
    if candidates.is_empty() {
        return Ok(None);
    }
    let Some(sql) = selecting(&one, statement) else { return Ok(None) };
    let parameters = parameters(&sql)?;
    Ok(Some(Question { sql, parameters, candidates }))
}

fn parsed(statement: &str) -> Result<Option<Statement>, String> {
    let mut parsed = match Parser::parse_sql(&PostgreSqlDialect {}, statement) {
        Ok(parsed) => parsed,
        // The parser need not know VACUUM and the like: no index helps them.
        Err(_) if !has_conditions(statement) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let one = parsed.pop();
    Ok(one.filter(|_| parsed.is_empty()))
}

/// The statement as its plan can be asked for by whoever may only read, and how many parameters (`$1` …) it has: itself, or
/// for an UPDATE or DELETE of one table a SELECT with its conditions. None for other kinds, and for
/// what reads no table of users. An error when it cannot be parsed.
pub fn plannable(statement: &str) -> Result<Option<(String, usize)>, String> {
    let statement = with_casts(statement);
    let Some(mut one) = parsed(&statement)? else { return Ok(None) };
    let mut unlocking = Unlocking::default();
    let _ = one.visit(&mut unlocking);
    if unlocking
        .relations
        .iter()
        .all(|name| name.trim_start_matches('.').starts_with("pg_") || unlocking.parts.contains(name))
    {
        return Ok(None);
    }
    let sql = match &one {
        Statement::Query(_) if unlocking.writes => None,
        Statement::Query(query) if unlocking.locked => Some(query.to_string()),
        Statement::Query(_) => Some(statement.trim().trim_end_matches(';').to_owned()),
        other => selecting(other, &statement),
    };
    let Some(sql) = sql else { return Ok(None) };
    let parameters = parameters(&sql)?;
    Ok(Some((sql, parameters)))
}

/// Takes `FOR UPDATE` and its like out of a statement, wherever they stand: the rows are found in the same way without, and to lock
/// them is a right of its own.
#[derive(Default)]
struct Unlocking {
    locked: bool,
    /// A `WITH` of it inserts, updates or deletes.
    writes: bool,
    /// What it reads, and the names that a `WITH` gives.
    relations: BTreeSet<String>,
    parts: BTreeSet<String>,
}

impl VisitorMut for Unlocking {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.locked |= !query.locks.is_empty();
        query.locks.clear();
        let parts = query.with.iter().flat_map(|with| &with.cte_tables);
        self.parts.extend(parts.map(|part| part.alias.name.value.to_lowercase()));
        self.writes |=
            matches!(*query.body, SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_));
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<()> {
        // One with a schema is no part of a WITH, whatever its name.
        let schema = if relation.0.len() > 1 { "." } else { "" };
        let name = relation.0.last().and_then(|part| part.as_ident());
        self.relations.extend(name.map(|name| format!("{schema}{}", name.value.to_lowercase())));
        ControlFlow::Continue(())
    }
}

/// `interval '7 days'` is kept as `interval $1`, and `extract(day FROM made)` as `extract($1 FROM made)`, which is no SQL:
/// `$1::interval` and `date_part($1, made)` are.
fn with_casts(statement: &str) -> String {
    const TYPES: [&str; 6] = ["interval", "date", "timestamp", "timestamptz", "time", "timetz"];
    let mut tokenizer = Tokenizer::new(&PostgreSqlDialect {}, statement).with_unescape(false);
    let Ok(tokens) = tokenizer.tokenize() else { return statement.to_owned() };
    let is_rewritten = |token: &Token| {
        matches!(token, Token::EscapedStringLiteral(_) | Token::UnicodeStringLiteral(_) | Token::HexStringLiteral(_))
    };
    // They would not come out as they went in.
    if tokens.iter().any(is_rewritten) {
        return statement.to_owned();
    }
    let is_word = |token: &Token, names: &[&str]| {
        matches!(token, Token::Word(word)
            if word.quote_style.is_none() && names.contains(&word.value.to_lowercase().as_str()))
    };
    let solid: Vec<&Token> = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let mut words: Vec<String> = Vec::with_capacity(solid.len());
    let mut rest = solid.as_slice();
    let mut is_changed = false;
    while let Some((first, after)) = rest.split_first() {
        let (word, used) = match after {
            [Token::Placeholder(name), ..] if is_word(first, &TYPES) => (format!("{name}::{first}"), 1),
            [Token::LParen, Token::Placeholder(name), from, ..]
                if is_word(first, &["extract"]) && is_word(from, &["from"]) =>
            {
                (format!("date_part({name},"), 3)
            }
            _ => (first.to_string(), 0),
        };
        is_changed |= used > 0;
        words.push(word);
        rest = &after[used..];
    }
    if is_changed { words.join(" ") } else { statement.to_owned() }
}

/// The columns of these tables that the statement compares with something. Nothing where it cannot be parsed.
pub fn compared(statement: &str, tables: &[TableShape]) -> Vec<(TableName, String)> {
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, statement).unwrap_or_default();
    let mut found = Vec::new();
    for (one, shape) in parsed.iter().flat_map(|one| tables.iter().map(move |shape| (one, shape))) {
        for wish in conditions::wishes(one, shape) {
            found.extend(wish.equal.into_iter().chain(wish.range).map(|column| (shape.table.clone(), column)));
        }
    }
    found
}

/// Whether the statement is of a kind that may have conditions.
fn has_conditions(statement: &str) -> bool {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, statement).tokenize().unwrap_or_default();
    let first = tokens.iter().find_map(|token| if let Token::Word(word) = token { Some(word.keyword) } else { None });
    matches!(first, None | Some(Keyword::SELECT | Keyword::WITH | Keyword::UPDATE | Keyword::DELETE))
}

fn possible(wish: &Wish, shape: &TableShape) -> Vec<Candidate> {
    let with = |more: &[String]| -> Vec<String> {
        let mut columns: Vec<String> = Vec::new();
        for column in wish.equal.iter().chain(more) {
            if !columns.contains(column) {
                columns.push(column.clone());
            }
        }
        columns.truncate(COLUMNS);
        columns
    };
    let is_known = |columns: &[String]| {
        // Columns that are compared for equality may stand in any order.
        let in_any_order = |index: &Vec<String>| {
            index.len() >= columns.len()
                && columns.iter().all(|column| wish.equal.contains(column) && index[..columns.len()].contains(column))
        };
        shape.indexes.iter().any(in_any_order)
    };
    let mut lists = vec![with(&[]), with(&wish.order)];
    lists.extend(wish.range.iter().map(|column| with(std::slice::from_ref(column))));
    // One column of several that are found together already narrows nothing down.
    if wish.equal.is_empty() || !is_known(&wish.equal) {
        lists.extend(wish.equal.iter().chain(&wish.range).map(|column| vec![column.clone()]));
    }
    lists
        .into_iter()
        .filter(|columns| !columns.is_empty() && !is_known(columns))
        .map(|columns| Candidate { table: shape.table.clone(), columns })
        .filter(|candidate| !candidate.is_there(&shape.indexes))
        .collect()
}

/// A statement that only reads and has the same conditions. What writes would need rights that nobody should give us.
fn selecting(statement: &Statement, text: &str) -> Option<String> {
    let (table, selection) = match statement {
        // A WITH may write.
        Statement::Query(query) if query.with.is_none() => return Some(text.trim().trim_end_matches(';').to_owned()),
        Statement::Update(update) if update.from.is_none() => {
            (alone(std::slice::from_ref(&update.table))?, &update.selection)
        }
        Statement::Delete(delete) if delete.using.is_none() => {
            let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
            (alone(from)?, &delete.selection)
        }
        _ => return None,
    };
    let mut selection = selection.clone()?;
    let mut seen: Vec<String> = Vec::new();
    let _ = visit_expressions_mut(&mut selection, |expression: &mut Expr| {
        if let Expr::Value(value) = expression
            && let Value::Placeholder(name) = &mut value.value
        {
            // The parameters of what is left out would have no type.
            let place = seen.iter().position(|other| other == name).unwrap_or_else(|| {
                seen.push(name.clone());
                seen.len() - 1
            });
            *name = format!("${}", place + 1);
        }
        ControlFlow::<()>::Continue(())
    });
    Some(format!("SELECT 1 FROM {table} WHERE {selection}"))
}

fn alone(tables: &[TableWithJoins]) -> Option<&TableWithJoins> {
    let [table] = tables else { return None };
    table.joins.is_empty().then_some(table)
}

fn parameters(sql: &str) -> Result<usize, String> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize().map_err(|error| error.to_string())?;
    let numbers = tokens.iter().filter_map(|token| match token {
        Token::Placeholder(name) => name.strip_prefix('$')?.parse().ok(),
        _ => None,
    });
    Ok(numbers.max().unwrap_or(0))
}

/// An index that the planner would use, and what it would save.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verified {
    pub candidate: Candidate,
    /// Bytes, as estimated.
    pub size: u64,
    /// The statements that it helps.
    pub helped: Vec<Helped>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Helped {
    pub query_id: i64,
    /// The first 200 characters, literals replaced by `?`.
    pub query: String,
    /// The planner's cost of its generic plan, without and with the index. It has no unit.
    pub before: f64,
    pub after: f64,
}

/// What came of looking for indexes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Advice {
    /// The extension hypopg is not created in this database.
    NoHypopg,
    /// Nor is `pg_stat_statements`, so that no statement is known.
    NoStatements,
    /// To plan could run functions of others with our rights: whose, and what can be done.
    KeptFrom(String),
    Looked {
        /// What saves most comes first.
        verified: Vec<Verified>,
        /// How many statements had conditions that an index is missing for, and were put to the planner.
        asked: usize,
        /// Statements that could not be explained, and why.
        unexplained: Vec<(i64, String)>,
    },
}

#[cfg(test)]
mod tests;
