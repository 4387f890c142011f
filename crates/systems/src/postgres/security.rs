//! Reads who may come in and what everybody may do there.

use super::observe::{Asking, count, get};
use groundskeeper_core::observation::{
    AccessRule, Extension, Gap, OpenRoutine, OpenSchema, Part, PlainClient, Security, Superuser, TableName,
};
use groundskeeper_core::remedy::quoted;
use tokio_postgres::Row;

/// The role that initdb made has this number on every server.
const SUPERUSERS: &str = "
SELECT rolname::text AS name, oid = 10 AS bootstrap FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid";

/// All owners, for whoever is left out of the advice could not create there any more.
const OPEN_SCHEMAS: &str = "
SELECT n.nspname::text AS name,
       ARRAY(SELECT r.rolname::text FROM pg_roles r
              WHERE NOT r.rolsuper AND r.oid IN (SELECT relowner FROM pg_class WHERE relnamespace = n.oid
                                                 UNION SELECT proowner FROM pg_proc WHERE pronamespace = n.oid
                                                 UNION SELECT typowner FROM pg_type WHERE typnamespace = n.oid)
              ORDER BY 1) AS owners
  FROM pg_namespace n
 WHERE has_schema_privilege('public', n.oid, 'CREATE') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
 ORDER BY 1 LIMIT 200";

/// The options of a rule may hold the password of a directory, and are left where they are.
fn rules(version_num: u32) -> &'static str {
    if version_num >= 160_000 {
        "SELECT line_number::int8 AS line, file_name AS file, coalesce(type, '') AS kind, coalesce(database, '{}') AS databases,
       coalesce(user_name, '{}') AS users, address, netmask, coalesce(auth_method, '') AS method,
       coalesce(array_to_string(options, ' ') LIKE '%clientcert=verify%', false) AS certificate, error
  FROM pg_hba_file_rules ORDER BY rule_number NULLS LAST, line_number LIMIT 1000"
    } else {
        "SELECT line_number::int8 AS line, NULL::text AS file, coalesce(type, '') AS kind,
       coalesce(database, '{}') AS databases, coalesce(user_name, '{}') AS users, address, netmask,
       coalesce(auth_method, '') AS method,
       coalesce(array_to_string(options, ' ') LIKE '%clientcert=verify%', false) AS certificate, error
  FROM pg_hba_file_rules ORDER BY line_number LIMIT 1000"
    }
}

/// GSSAPI may encrypt as well. A backend without a type is one that we may not look into.
const PLAIN_CLIENTS: &str = "
SELECT host(a.client_addr) AS address, coalesce(a.usename::text, '') AS role, count(*)::int8 AS connections,
       bool_or(a.backend_type IS NULL) AS hidden
  FROM pg_stat_activity a
  LEFT JOIN pg_stat_ssl s ON s.pid = a.pid
  LEFT JOIN pg_stat_gssapi g ON g.pid = a.pid
 WHERE (a.backend_type IN ('client backend', 'walsender') AND a.client_addr IS NOT NULL
        AND NOT coalesce(s.ssl, false) AND NOT coalesce(g.encrypted, false))
    OR (a.backend_type IS NULL AND a.datid IS NOT NULL AND a.usesysid IS NOT NULL)
 GROUP BY 1, 2 ORDER BY 4 DESC, 3 DESC, 1, 2 LIMIT 50";

/// Those that are not of the version that the server has files for, and `pg_stat_statements` in any case. To tell which there
/// are, the server reads a file for each: one question only.
const EXTENSIONS: &str = "
SELECT coalesce(e.extname, a.name)::text AS name, e.extversion AS installed, a.default_version AS available
  FROM pg_extension e FULL JOIN pg_available_extensions() a ON a.name = e.extname
 WHERE a.name = 'pg_stat_statements' OR (e.oid IS NOT NULL AND a.default_version IS DISTINCT FROM e.extversion)
 ORDER BY 1 LIMIT 200";

/// A body that was parsed when it was made (`BEGIN ATOMIC`, from 14 on), and one in C, looks up no name when it is called.
fn open_routines(version_num: u32) -> String {
    let parsed = if version_num >= 140_000 { "AND p.prosqlbody IS NULL" } else { "" };
    format!(
        "SELECT n.nspname::text AS schema, p.proname::text AS name,
       coalesce(pg_get_function_identity_arguments(p.oid), '') AS arguments, r.rolname::text AS owner,
       r.rolsuper AS superuser, coalesce(has_function_privilege('public', p.oid, 'EXECUTE'), false) AS public
  FROM pg_proc p
  JOIN pg_namespace n ON n.oid = p.pronamespace
  JOIN pg_roles r ON r.oid = p.proowner
  JOIN pg_language l ON l.oid = p.prolang
 WHERE p.prosecdef {parsed} AND l.lanname NOT IN ('c', 'internal')
   AND NOT EXISTS (SELECT 1 FROM unnest(p.proconfig) AS setting WHERE setting LIKE 'search\\_path=%')
   AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
   AND NOT EXISTS (SELECT 1 FROM pg_depend d
                    WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
 ORDER BY r.rolsuper DESC, 1, 2, 3 LIMIT 200"
    )
}

/// With whether `pg_stat_statements` could be created.
pub(super) async fn read(asking: &Asking<'_>, version_num: u32, user: &str) -> (Box<Security>, Part<bool>) {
    let open_routines = open_routines(version_num);
    let (superusers, open_schemas, rules, plain_clients, extensions, open_routines) = tokio::join!(
        asking.many(SUPERUSERS, |row| Ok(Superuser { name: get(row, "name")?, is_bootstrap: get(row, "bootstrap")? })),
        asking.many(OPEN_SCHEMAS, |row| Ok(OpenSchema { name: get(row, "name")?, owners: get(row, "owners")? })),
        asking.many(rules(version_num), rule),
        asking.many(PLAIN_CLIENTS, plain_client),
        asking.many(EXTENSIONS, extension),
        asking.many(&open_routines, open_routine),
    );
    let (has_statements, extensions) = match extensions {
        Ok(found) => {
            let has_files = |(name, _, available): &Found| name == "pg_stat_statements" && available.is_some();
            (Ok(found.iter().any(has_files)), Ok(outdated(found)))
        }
        Err(gap) => (Err(gap.clone()), Err(gap)),
    };
    let security = Security {
        superusers,
        open_schemas,
        rules: rules.map_err(|gap| if gap.permission { rules_hidden(user) } else { gap }),
        plain_clients: plain_clients.and_then(|clients| {
            let hidden = || Gap::permission("how others are connected is hidden from us; grant pg_monitor");
            clients.into_iter().collect::<Option<_>>().ok_or_else(hidden)
        }),
        extensions,
        open_routines,
    };
    (Box::new(security), has_statements)
}

/// Name, the version that was created here, and the one that the server has files for.
type Found = (String, Option<String>, Option<String>);

fn extension(row: &Row) -> Result<Found, String> {
    Ok((get(row, "name")?, get(row, "installed")?, get(row, "available")?))
}

fn outdated(found: Vec<Found>) -> Vec<Extension> {
    let created = found.into_iter().filter_map(|(name, installed, available)| {
        Some(Extension {
            name,
            installed: installed.filter(|installed| available.as_ref() != Some(installed))?,
            available,
        })
    });
    created.collect()
}

/// `pg_monitor` does not bring these.
fn rules_hidden(user: &str) -> Gap {
    let role = quoted(user);
    Gap::permission(format!(
        "the rules of pg_hba.conf are hidden from us. A managed server shows them to nobody, but its provider's console has \
         them; on others, as a superuser, in this database: GRANT SELECT ON pg_hba_file_rules TO \
         {role}; GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO {role};"
    ))
}

fn rule(row: &Row) -> Result<AccessRule, String> {
    Ok(AccessRule {
        line: count(row, "line")? as u32,
        file: get(row, "file")?,
        kind: get(row, "kind")?,
        databases: get(row, "databases")?,
        users: get(row, "users")?,
        address: get(row, "address")?,
        netmask: get(row, "netmask")?,
        method: get(row, "method")?,
        has_certificate: get(row, "certificate")?,
        error: get(row, "error")?,
    })
}

/// None for one that is hidden from us.
fn plain_client(row: &Row) -> Result<Option<PlainClient>, String> {
    if get(row, "hidden")? {
        return Ok(None);
    }
    let address: String = get(row, "address")?;
    Ok(Some(PlainClient {
        address: address.parse().map_err(|_| format!("{address} is no address"))?,
        user: get(row, "role")?,
        connections: count(row, "connections")? as u32,
    }))
}

fn open_routine(row: &Row) -> Result<OpenRoutine, String> {
    Ok(OpenRoutine {
        name: TableName { schema: get(row, "schema")?, name: get(row, "name")? },
        arguments: get(row, "arguments")?,
        owner: get(row, "owner")?,
        owner_is_superuser: get(row, "superuser")?,
        is_public: get(row, "public")?,
    })
}
