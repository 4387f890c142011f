//! `[[postgres.NAME.retention]]`: the rows of a table that are not kept for ever.

use crate::config::raw::Section;
use groundskeeper_core::expiry::Rule;

/// `database` is the one that the system's own address names; `is_backed_up`, whether there is a repository to export to.
pub(super) fn rules(section: &Section<'_>, database: Option<&str>, is_backed_up: bool) -> Vec<Rule> {
    section.sections("retention").into_iter().filter_map(|table| rule(table, database, is_backed_up)).collect()
}

fn rule(section: Section<'_>, database: Option<&str>, is_backed_up: bool) -> Option<Rule> {
    let needed = |key: &str, example: &str| {
        let found = section.text(key).filter(|found| !found.value.trim().is_empty());
        if found.is_none() {
            section.problem(section.at, format!("[{}] needs `{key}`, such as {key} = \"{example}\"", section.name));
        }
        found
    };
    let (table, column) = (needed("table", "user_sessions"), needed("column", "expires_at"));
    let keep = section.duration("keep");
    if keep.is_none() && !section.has("keep") {
        section.problem(section.at, format!("[{}] needs `keep`, such as keep = \"30d\"", section.name));
    }
    let database = section.text("database").map(|found| found.value).or_else(|| database.map(str::to_owned));
    if database.is_none() {
        section.problem(section.at, format!("[{}] needs `database`, such as database = \"docrag\"", section.name));
    }
    let export = section.flag("export").unwrap_or(false);
    if export && !is_backed_up {
        let why = format!(
            "`export` in [{}] needs a repository to export to; add [backup] with `repository` and `key_file`",
            section.name
        );
        section.problem(section.at, why);
    }
    section.finish();
    let (schema, name) = split(&table?.value);
    Some(Rule { database: database?, schema, table: name, column: column?.value, keep: keep?.as_secs_f64(), export })
}

/// `schema.table`, or a table of `public`.
fn split(name: &str) -> (String, String) {
    let (schema, table) = name.split_once('.').unwrap_or(("public", name));
    (schema.to_owned(), table.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_a_schema_is_one_of_public() {
        assert_eq!(split("user_sessions"), ("public".to_owned(), "user_sessions".to_owned()));
        assert_eq!(split("Audit.Log Lines"), ("Audit".to_owned(), "Log Lines".to_owned()));
    }
}
