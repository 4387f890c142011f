use super::*;

fn shape(table: &str, columns: &[&str], indexes: &[&[&str]]) -> TableShape {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    TableShape {
        table: TableName { schema: "public".into(), name: table.into() },
        columns: owned(columns),
        indexes: indexes.iter().map(|index| owned(index)).collect(),
    }
}

fn chunks() -> TableShape {
    shape("chunks", &["id", "tenant", "document", "made", "body", "Odd"], &[&["id"], &["document", "made"]])
}

/// The columns of the candidates, each list in one word.
fn columns(statement: &str) -> Vec<String> {
    let tables = [chunks(), shape("documents", &["id", "title", "owner"], &[&["id"]])];
    let found = question(statement, &tables).unwrap_or_else(|error| panic!("{statement}: {error}"));
    let candidates = found.map(|question| question.candidates).unwrap_or_default();
    candidates.iter().map(|candidate| format!("{}:{}", candidate.table.name, candidate.columns.join("+"))).collect()
}

#[test]
fn conditions_become_candidates_with_equality_first() {
    for (statement, expected) in [
        ("SELECT * FROM chunks WHERE tenant = $1", vec!["chunks:tenant"]),
        (
            "SELECT * FROM public.chunks c WHERE c.tenant = ANY($1) AND $2 <= c.made",
            vec!["chunks:tenant", "chunks:tenant+made", "chunks:made"],
        ),
        (
            "SELECT * FROM chunks WHERE tenant IN ($1, $2) AND (made BETWEEN $3 AND $4)",
            vec!["chunks:tenant", "chunks:tenant+made", "chunks:made"],
        ),
        (
            "SELECT id FROM chunks WHERE tenant = $1 ORDER BY made DESC, body DESC LIMIT $2",
            vec!["chunks:tenant", "chunks:tenant+made+body"],
        ),
        ("SELECT id FROM chunks ORDER BY made LIMIT $1", vec!["chunks:made"]),
        ("SELECT * FROM chunks WHERE \"Odd\" = $1", vec!["chunks:Odd"]),
        (
            "SELECT title FROM documents d JOIN chunks c ON c.tenant = d.owner WHERE d.id = $1",
            vec!["chunks:tenant", "documents:id+owner", "documents:owner"],
        ),
        (
            "SELECT 1 FROM documents WHERE EXISTS (SELECT 1 FROM chunks WHERE tenant = documents.owner)",
            vec!["chunks:tenant"],
        ),
        ("UPDATE chunks SET body = $1 WHERE tenant = $2", vec!["chunks:tenant"]),
        ("DELETE FROM chunks WHERE made < $1", vec!["chunks:made"]),
    ] {
        assert_eq!(columns(statement), expected, "{statement}");
    }
}

#[test]
fn what_an_index_serves_already_or_cannot_serve_gives_none() {
    for statement in [
        "SELECT * FROM chunks WHERE id = $1",
        "SELECT * FROM chunks WHERE document = $1",
        "SELECT * FROM chunks WHERE made = $1 AND document = $2",
        "SELECT * FROM chunks WHERE document = $1 ORDER BY made LIMIT $2",
        "SELECT * FROM chunks WHERE lower(body) = $1",
        "SELECT * FROM chunks WHERE tenant <> $1 OR made = $2",
        "SELECT * FROM chunks WHERE tenant = made + $1",
        "SELECT * FROM chunks WHERE tenant NOT IN ($1) AND made NOT BETWEEN $2 AND $3",
        "SELECT * FROM chunks ORDER BY made DESC, body LIMIT $1",
        "SELECT * FROM chunks ORDER BY made",
        "SELECT * FROM other.chunks WHERE tenant = $1",
        "SELECT * FROM Chunks AS c WHERE x.tenant = $1",
        "SELECT $1",
        "INSERT INTO chunks (tenant) VALUES ($1)",
        "VACUUM chunks",
        "VACUUM ANALYZE chunks",
    ] {
        assert_eq!(columns(statement), Vec::<String>::new(), "{statement}");
    }
    // The one for `made` alone: the index that has it begins with another column.
    assert_eq!(
        columns("SELECT * FROM chunks WHERE made = $1 AND document > $2"),
        ["chunks:made", "chunks:made+document"]
    );
}

#[test]
fn what_writes_is_asked_about_as_something_that_only_reads() {
    let asked = |statement: &str| question(statement, &[chunks()]).unwrap();
    let update =
        asked("UPDATE chunks AS c SET body = $1, made = $2 WHERE c.tenant = $3 AND made < $4 RETURNING id").unwrap();
    assert_eq!(update.sql, "SELECT 1 FROM chunks AS c WHERE c.tenant = $1 AND made < $2");
    assert_eq!(update.parameters, 2);
    let delete = asked("DELETE FROM ONLY chunks WHERE tenant = $1").map(|question| question.sql);
    assert!(delete.is_none_or(|sql| sql.starts_with("SELECT 1 FROM")));
    assert_eq!(asked("DELETE FROM chunks USING documents WHERE tenant = $1"), None);
    assert_eq!(asked("WITH gone AS (DELETE FROM chunks WHERE tenant = $1 RETURNING *) SELECT * FROM gone"), None);
    let select = asked("SELECT '$9', id FROM chunks WHERE tenant = $2 AND body <> $1;").unwrap();
    assert_eq!((select.parameters, select.sql.ends_with("$1")), (2, true));
}

#[test]
fn what_cannot_be_parsed_is_an_error_and_two_statements_are_nothing() {
    assert!(question("SELECT interval $1 FROM chunks WHERE (", &[chunks()]).is_err());
    assert_eq!(question("SELECT 1 FROM chunks WHERE tenant = $1; DROP TABLE chunks", &[chunks()]), Ok(None));
    assert_eq!(question("", &[chunks()]), Ok(None));
    let deep = format!("SELECT * FROM chunks WHERE {}tenant = $1{}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(question(&deep, &[chunks()]).is_err());
}

#[test]
fn names_are_quoted() {
    let candidate =
        Candidate { table: TableName { schema: "a\"b".into(), name: "t".into() }, columns: vec!["x".into()] };
    assert_eq!(candidate.place(), "ON \"a\"\"b\".\"t\" (\"x\")");
}

#[test]
fn what_reads_is_planned_as_it_is_and_what_writes_by_its_conditions() {
    let planned = |statement: &str| plannable(statement).unwrap();
    let as_is = |statement: &str, parameters| assert_eq!(planned(statement), Some((statement.to_owned(), parameters)));
    as_is("SELECT a.body FROM chunks a JOIN documents USING (id) WHERE a.tenant = $2 LIMIT $1", 2);
    assert_eq!(
        planned("UPDATE chunks SET body = $1 WHERE tenant = $2;"),
        Some(("SELECT 1 FROM chunks WHERE tenant = $1".to_owned(), 1))
    );
    assert_eq!(
        planned("SELECT id FROM chunks WHERE tenant = $1 ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED"),
        Some(("SELECT id FROM chunks WHERE tenant = $1 ORDER BY id LIMIT $2".to_owned(), 2))
    );
    let nested =
        planned("UPDATE chunks SET body = $1 WHERE id IN (SELECT id FROM chunks LIMIT $2 FOR UPDATE)").unwrap().0;
    assert_eq!(nested, "SELECT 1 FROM chunks WHERE id IN (SELECT id FROM chunks LIMIT $1)");
    as_is("WITH young AS (SELECT id FROM chunks WHERE made > $1) SELECT count(*) FROM young", 1);
    assert_eq!(
        planned("SELECT 1 FROM chunks WHERE made > now() - interval $1 AND body <> 'it''s'"),
        Some(("SELECT 1 FROM chunks WHERE made > now ( ) - $1::interval AND body <> 'it''s'".to_owned(), 1))
    );
    let part = planned("SELECT extract($1 from made) FROM app.a WHERE body = $2").unwrap();
    assert_eq!(part, ("SELECT date_part($1, made ) FROM app . a WHERE body = $2".to_owned(), 2));
    as_is("SELECT count(*) FROM chunks WHERE made > $1 AND body = E'it\\'s'", 1);
    as_is("WITH chunks AS (SELECT id FROM app.chunks) SELECT count(*) FROM chunks", 0);
    for catalogue in [
        "SELECT $1",
        "SELECT count(*) FROM pg_class",
        "WITH a AS (SELECT oid FROM pg_catalog.pg_class) SELECT 1 FROM a",
    ] {
        assert_eq!(planned(catalogue), None, "{catalogue}");
    }
    for other in [
        "WITH gone AS (DELETE FROM chunks RETURNING id) SELECT count(*) FROM gone",
        "INSERT INTO chunks (id) VALUES ($1)",
        "BEGIN",
        "VACUUM chunks",
        "SELECT 1; SELECT 2",
        "",
    ] {
        assert_eq!(planned(other), None, "{other}");
    }
    assert!(plannable("SELECT * FROM chunks WHERE ((").is_err());
}
