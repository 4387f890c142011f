//! The SQL that gives our role what it needs, and no more.

mod retain;

use groundskeeper_core::remedy::quoted;
use groundskeeper_core::remedy::setting::Parameter;
use std::fmt::Write as _;

/// What our role is to be able to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// Read statistics and settings: all checks.
    Watch,
    /// End sessions that sit idle in a transaction.
    EndSessions,
    /// Vacuum and analyze these tables (schema, name); every table of the server when the list is empty.
    Maintain { tables: Vec<(String, String)> },
    /// Build indexes anew: only the owner of a table may.
    Reindex,
    /// The same behind dashes, for a person to choose: it gives the role whatever owners may.
    MayReindex,
    /// Delete rows, and drop partitions, that a rule does not keep.
    Retain { database: String, tables: Vec<Ruled> },
    /// Change the settings that Groundskeeper knows to change, and have them read.
    ChangeSettings,
    /// Copy the whole cluster over the replication protocol, and read what a copy must be given.
    BackUp,
}

/// A table that a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruled {
    pub schema: String,
    pub table: String,
    /// That the rows age by.
    pub column: String,
}

/// A script for psql, to be run by a superuser in `database`. It may be run again: a role that exists stays as it is.
pub fn grants(role: &str, database: &str, wishes: &[Wish]) -> String {
    let name = quoted(role);
    let mut script = format!(
        "-- The rights of Groundskeeper's role. Run this as a superuser in database {}.\n\
         -- A new role has no password, with which nobody can log in by one. In psql: \\password {}\n\
         DO $role$ BEGIN\n  \
           IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = {}) THEN\n    \
             CREATE ROLE {name} LOGIN CONNECTION LIMIT 20;\n  \
           END IF;\n\
         END $role$;\n\
         GRANT CONNECT ON DATABASE {} TO {name};\n",
        quoted(database),
        role.replace(['\n', '\r'], " "),
        literal(role),
        quoted(database)
    );
    for wish in wishes {
        script.push('\n');
        match wish {
            Wish::Watch => watch(&mut script, &name, &literal(role)),
            Wish::EndSessions => {
                let _ = write!(
                    script,
                    "-- End sessions that sit idle in a transaction. Postgres itself refuses this for superusers.\n\
                     GRANT pg_signal_backend TO {name};\n"
                );
            }
            Wish::Maintain { tables } => maintain(&mut script, &name, tables),
            Wish::Reindex => script.push_str(&retain::reindex(role)),
            Wish::MayReindex => {
                script.push_str("-- Take the first two dashes of each line away where that is wanted, or print it with --for reindex.\n");
                for line in retain::reindex(role).lines() {
                    let _ = writeln!(script, "-- {line}");
                }
            }
            Wish::Retain { database: of, tables } => retain::retain(&mut script, role, (database, of), tables),
            Wish::ChangeSettings => change_settings(&mut script, &name),
            Wish::BackUp => back_up(&mut script, &name),
        }
    }
    script
}

fn watch(script: &mut String, name: &str, role: &str) {
    let _ = write!(
        script,
        "-- Read statistics, sessions and settings; no table's content.\n\
         GRANT pg_monitor TO {name};\n\
         -- Read the rules of pg_hba.conf, which tell who may come in without a password; no password is in them.\n\
         GRANT SELECT ON pg_catalog.pg_hba_file_rules TO {name};\n\
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_hba_file_rules() TO {name};\n\
         -- See which statements take the time. Needs shared_preload_libraries = 'pg_stat_statements' and a restart\n\
         -- first; take the two dashes away once that is done.\n\
         -- CREATE EXTENSION IF NOT EXISTS pg_stat_statements;\n\
         -- See how far sequences have come. SELECT reads the counter and cannot move it. For sequences that are made later,\n\
         -- run this again.\n\
         DO $sequences$ DECLARE there name; BEGIN\n  \
           FOR there IN SELECT DISTINCT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace\n            \
               WHERE c.relkind = 'S' AND c.relpersistence <> 't' LOOP\n    \
             EXECUTE format('GRANT SELECT ON ALL SEQUENCES IN SCHEMA %I TO %I', there, {role});\n  \
           END LOOP;\n\
         END $sequences$;\n\
         -- Estimate which tables and indexes are mostly air. The statistics that tell it are shown to whoever may read the\n\
         -- rows, and so is how the planner would answer a statement. This lets the role read the documents too; leave it out\n\
         -- where that is too much.\n\
         -- GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name};\n\
         -- Confirm it by their pages; that needs no right to read rows.\n\
         -- CREATE EXTENSION IF NOT EXISTS pgstattuple;\n"
    );
}

fn maintain(script: &mut String, name: &str, tables: &[(String, String)]) {
    let grants = if tables.is_empty() {
        vec![format!("GRANT pg_maintain TO {name}")]
    } else {
        let names = tables.iter().map(|(schema, table)| format!("{}.{}", quoted(schema), quoted(table)));
        names.map(|table| format!("GRANT MAINTAIN ON TABLE {table} TO {name}")).collect()
    };
    let _ = write!(
        script,
        "-- Vacuum and analyze. Postgres has a right of its own for this from 17 on; before, only the owner of a table\n\
         -- may. There, either leave it to autovacuum, or make Groundskeeper's role a member of the owner: GRANT owner\n\
         -- TO {name}; which lets it do whatever the owner may.\n\
         DO $maintain$ BEGIN\n  \
           IF current_setting('server_version_num')::int >= 170000 THEN\n"
    );
    for grant in grants {
        let _ = writeln!(script, "    EXECUTE {};", literal(&grant));
    }
    script.push_str(
        "  ELSE\n    \
           RAISE NOTICE 'this server is older than 17 and has no MAINTAIN; nothing was granted';\n  \
         END IF;\n\
         END $maintain$;\n",
    );
    let _ = write!(
        script,
        "-- Build indexes anew and set statistics targets: only a table's owner may, in every version.\n\
         -- Move a sequence on that is behind its column, after a restore for instance. For that the role reads the column and\n\
         -- locks its table for a moment: with MAINTAIN (17 on), with UPDATE on the table, or as a member of its owner. It could\n\
         -- move sequences back as well, and never does. Take the dashes away where that is wanted, for each schema.\n\
         -- GRANT SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA public TO {name};\n\
         -- GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name};\n"
    );
}

fn change_settings(script: &mut String, name: &str) {
    let settings = Parameter::ALL.map(Parameter::as_str).join(", ");
    let _ = write!(
        script,
        "-- Change these settings with ALTER SYSTEM, and no others. Postgres has a right of its own for this from 15 on; before,\n\
         -- only superusers may.\n\
         DO $settings$ BEGIN\n  \
           IF current_setting('server_version_num')::int >= 150000 THEN\n    \
             EXECUTE {};\n  \
           ELSE\n    \
             RAISE NOTICE 'this server is older than 15: only a superuser may change settings; nothing was granted';\n  \
           END IF;\n\
         END $settings$;\n\
         -- Let the server read its files, and see what they say: what somebody else is about to change is left alone.\n\
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf(), pg_catalog.pg_show_all_file_settings() TO {name};\n\
         GRANT SELECT ON pg_catalog.pg_file_settings TO {name};\n\
         GRANT pg_read_all_settings TO {name};\n\
         -- See when pg_hba.conf and its like were changed, which a reload takes up as well; only in the data directory. Where\n\
         -- they are elsewhere (Debian), it takes pg_read_server_files, with which a role can read every file of the server:\n\
         -- without it no setting is changed by itself, and a plan says so.\n\
         GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO {name};\n\
         -- And which files those include, from 16 on.\n\
         DO $included$ BEGIN\n  \
           IF current_setting('server_version_num')::int >= 160000 THEN\n    \
             GRANT SELECT ON pg_catalog.pg_hba_file_rules, pg_catalog.pg_ident_file_mappings TO {name};\n    \
             GRANT EXECUTE ON FUNCTION pg_catalog.pg_hba_file_rules(), pg_catalog.pg_ident_file_mappings() TO {name};\n  \
           END IF;\n\
         END $included$;\n",
        literal(&format!("GRANT ALTER SYSTEM ON PARAMETER {settings} TO {name}"))
    );
}

fn back_up(script: &mut String, name: &str) {
    let _ = write!(
        script,
        "-- Take base backups. Whoever has this right can copy every file of the server, whatever table rights say.\n\
         -- The server lets a replication connection in only where a line of pg_hba.conf says so: `all` as its\n\
         -- database does not include it. Add this one, with the address that Groundskeeper comes from:\n\
         --   host replication {name} ADDRESS scram-sha-256\n\
         -- then run SELECT pg_reload_conf(); and see that max_wal_senders has a place left for it.\n\
         ALTER ROLE {name} REPLICATION;\n\
         -- Read the settings that a copy must repeat to start, shared_preload_libraries among them.\n\
         GRANT pg_monitor TO {name};\n\
         -- Read the tables, to compare what they hold with a restored copy. It is in every base backup anyway.\n\
         -- And say where a base backup begins and ends, for a keeper that may read the data directory itself.\n\
         DO $backup$ BEGIN\n  \
           IF current_setting('server_version_num')::int >= 150000 THEN\n    \
             GRANT pg_read_all_data TO {name};\n    \
             EXECUTE {};\n    \
             -- And keep the files of access, with those that they include (from 16 on).\n    \
             GRANT SELECT ON pg_catalog.pg_hba_file_rules, pg_catalog.pg_ident_file_mappings TO {name};\n    \
             GRANT EXECUTE ON FUNCTION pg_catalog.pg_hba_file_rules(), pg_catalog.pg_ident_file_mappings() TO {name};\n  \
           ELSE\n    \
             RAISE WARNING 'backups are made of Postgres 15 and later';\n  \
           END IF;\n\
         END $backup$;\n",
        literal(&format!(
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text, boolean), pg_catalog.pg_backup_stop(boolean) TO {name}"
        ))
    );
}

/// A string in SQL, whatever `standard_conforming_strings` says.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wish_adds_its_own_grant_and_nothing_else() {
        let watch = grants("groundskeeper", "docrag", &[Wish::Watch]);
        assert!(watch.contains("GRANT pg_monitor TO \"groundskeeper\";"), "{watch}");
        assert!(!watch.contains("signal") && !watch.contains("MAINTAIN"), "{watch}");
        let end = grants("groundskeeper", "docrag", &[Wish::EndSessions]);
        assert!(end.contains("GRANT pg_signal_backend TO \"groundskeeper\";") && !end.contains("pg_monitor"), "{end}");
        let all = grants("groundskeeper", "docrag", &[Wish::Maintain { tables: Vec::new() }]);
        assert!(all.contains("GRANT pg_maintain TO \"groundskeeper\""), "{all}");
        let may = grants("groundskeeper", "docrag", &[Wish::MayReindex]);
        let active = may.lines().filter(|line| !line.starts_with("-- ") && line.contains("reindex"));
        assert!(may.contains("\n-- DO $reindex$") && active.count() == 0, "{may}");
        let reindex = grants("groundskeeper", "docrag", &[Wish::Reindex]);
        assert!(reindex.contains("\nDO $reindex$"), "{reindex}");
        let back_up = grants("groundskeeper", "docrag", &[Wish::BackUp]);
        assert!(back_up.contains("\nALTER ROLE \"groundskeeper\" REPLICATION;"), "{back_up}");
        assert!(back_up.contains("pg_catalog.pg_backup_stop(boolean) TO \"groundskeeper\"';"), "{back_up}");
        let settings = grants("groundskeeper", "docrag", &[Wish::ChangeSettings]);
        assert!(settings.contains("ON PARAMETER autovacuum_vacuum_cost_limit, "), "{settings}");
        assert!(
            settings.contains("FUNCTION pg_catalog.pg_stat_file(text, boolean) TO \"groundskeeper\";"),
            "{settings}"
        );
        assert!(!settings.contains("pg_monitor") && !all.contains("PARAMETER"), "{settings}");
        assert!(!all.contains("REPLICATION") && !watch.contains("REPLICATION"), "{all}");
    }

    #[test]
    fn odd_names_are_quoted_twice_where_they_must_be() {
        let tables = vec![("it's".to_owned(), "a\"b".to_owned())];
        let script = grants("o'role", "d\"b", &[Wish::Maintain { tables }]);
        assert!(script.contains("rolname = 'o''role'"), "{script}");
        assert!(script.contains("EXECUTE 'GRANT MAINTAIN ON TABLE \"it''s\".\"a\"\"b\" TO \"o''role\"';"), "{script}");
    }
}
