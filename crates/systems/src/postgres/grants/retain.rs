//! What the weekly maintenance needs of tables: to delete what a rule does not keep, and to build indexes anew.
//!
//! Who owns a table is not known where the script is written, so it looks that up where it is run.

use super::{Ruled, literal};
use groundskeeper_core::remedy::quoted;
use std::fmt::Write as _;

/// A superuser's membership would give everything away, and so would that of whoever may become one; neither is granted.
const MEMBERSHIP: &str = "\
    IF EXISTS (SELECT 1 FROM pg_roles s WHERE s.rolsuper AND pg_has_role(owner, s.oid, 'MEMBER')) THEN
      RAISE WARNING 'tables belong to %, a superuser or a member of one, of whom nobody is made a member: give them to a role of their own', owner;
    ELSIF owner = 'pg_database_owner' THEN
      RAISE WARNING 'tables belong to pg_database_owner, of whom nobody can be made a member: give them to a role of their own';
    ELSIF owner <> ROLE THEN
      EXECUTE format('GRANT %I TO %I', owner, ROLE);
    END IF;
";

pub(super) fn reindex(role: &str) -> String {
    let role = literal(role);
    let membership = MEMBERSHIP.replace("ROLE", &role);
    format!(
        "-- Build indexes anew. Only the owner of a table may, so the role becomes a member of each owner of a table of this\n\
         -- database, and may do there whatever the owner may.\n\
         DO $reindex$ DECLARE owner name; BEGIN\n  \
           FOR owner IN SELECT DISTINCT pg_get_userbyid(c.relowner) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace\n            \
               WHERE c.relkind IN ('r', 'm') AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' LOOP\n\
         {membership}  \
           END LOOP;\n\
         END $reindex$;\n"
    )
}

/// `here` is the database that psql is in.
pub(super) fn retain(script: &mut String, role: &str, (here, database): (&str, &str), tables: &[Ruled]) {
    let name = quoted(role);
    let _ = write!(
        script,
        "-- Delete the rows that a rule of [[postgres.NAME.retention]] does not keep, in database {database}.\n\
         -- How far standbys and slots are behind is seen by pg_monitor only.\n\
         GRANT pg_monitor TO {name};\n"
    );
    if database != here {
        let _ = write!(script, "GRANT CONNECT ON DATABASE {0} TO {name};\n\\connect {0}\n", quoted(database));
    }
    if tables.is_empty() {
        script.push_str("-- No rule is configured, so nothing more is needed.\n");
    }
    for ruled in tables {
        table(script, role, ruled);
    }
    if database != here {
        let _ = writeln!(script, "\\connect {}", quoted(here));
    }
}

fn table(script: &mut String, role: &str, Ruled { schema, table, column }: &Ruled) {
    let (role, schema, table, column) = (literal(role), literal(schema), literal(table), literal(column));
    let membership = MEMBERSHIP.replace("ROLE", &role);
    let _ = write!(
        script,
        "-- A partitioned table: only its owner may detach and drop partitions. Any other one: SELECT and DELETE, UPDATE of one\n\
         -- column to lock rows, and SELECT of the columns by which others refer to it and keep its rows.\n\
         DO $retain$ DECLARE there pg_class; refers record; owner name; BEGIN\n  \
           SELECT c.* INTO there FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace\n   \
            WHERE n.nspname = {schema} AND c.relname = {table};\n  \
           IF there.oid IS NULL THEN\n    \
             RAISE WARNING 'there is no table %.%, so nothing was granted', {schema}, {table};\n    \
             RETURN;\n  \
           END IF;\n  \
           EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', {schema}, {role});\n  \
           IF there.relkind = 'p' THEN\n  \
             FOR owner IN SELECT DISTINCT pg_get_userbyid(c.relowner) FROM pg_class c\n            \
                 WHERE c.oid = there.oid OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = there.oid) LOOP\n\
         {membership}  \
             END LOOP;\n    \
             RETURN;\n  \
           END IF;\n  \
           EXECUTE format('GRANT SELECT, DELETE, UPDATE (%I) ON TABLE %I.%I TO %I', {column}, {schema}, {table}, {role});\n  \
           FOR refers IN SELECT n.nspname, r.relname, string_agg(DISTINCT quote_ident(a.attname), ', ') AS columns\n      \
               FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n ON n.oid = r.relnamespace\n      \
               JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = ANY (c.conkey)\n     \
              WHERE c.contype = 'f' AND c.confrelid = there.oid AND c.confdeltype IN ('a', 'r') GROUP BY 1, 2 LOOP\n    \
             EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', refers.nspname, {role});\n    \
             EXECUTE format('GRANT SELECT (%s) ON TABLE %I.%I TO %I', refers.columns, refers.nspname, refers.relname, {role});\n  \
           END LOOP;\n\
         END $retain$;\n"
    );
}

#[cfg(test)]
mod tests {
    use super::super::{Wish, grants};
    use super::*;

    fn ruled(table: &str) -> Ruled {
        Ruled { schema: "public".into(), table: table.into(), column: "ends'at".into() }
    }

    #[test]
    fn only_tables_with_a_rule_are_granted_and_odd_names_stay_names() {
        let wish = |tables| Wish::Retain { database: "docrag".into(), tables };
        let none = grants("keeper", "docrag", &[wish(Vec::new())]);
        assert!(none.contains("No rule is configured") && !none.contains("DELETE,"), "{none}");
        let two = grants("o'role", "docrag", &[wish(vec![ruled("a\"b"), ruled("sessions")])]);
        assert_eq!(two.matches("DO $retain$").count(), 2, "{two}");
        assert!(two.contains("c.relname = 'a\"b'") && two.contains("'ends''at', 'public', 'a\"b', 'o''role'"), "{two}");
        assert!(!two.contains("\\connect"), "{two}");
    }

    #[test]
    fn rules_of_another_database_are_granted_there() {
        let wish = Wish::Retain { database: "other".into(), tables: vec![ruled("sessions")] };
        let script = grants("keeper", "docrag", &[wish]);
        let (there, back) = (script.find("\\connect \"other\"").unwrap(), script.find("\\connect \"docrag\"").unwrap());
        let granted = script.find("DO $retain$").unwrap();
        assert!(there < granted && granted < back, "{script}");
    }
}
