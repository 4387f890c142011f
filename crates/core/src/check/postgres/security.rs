//! Who may do more than is needed.

use crate::check::{Check, Hold, Judge, Judged, Runbook, Sight, Threshold};
use crate::finding::Draft;
use crate::observation::{OpenRoutine, OpenSchema, Postgres, Superuser};
use crate::quantity::{Unit, Value};
use crate::remedy::quoted;
use crate::severity::Severity;

pub static SUPERUSERS_MANY: Check = Check {
    id: "postgres.superusers_many",
    title: "Many roles are superusers",
    runbook: Runbook {
        means: "A superuser passes every access rule, reads and writes every table, and can run programs on the server's \
                machine. Each of them is one more password whose loss is the loss of everything.",
        confirm: "SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin;",
        act: "For each, find out what it is used for. Most need only a predefined role: GRANT pg_monitor (watching), \
              pg_read_all_data (dumps, 14 on), pg_maintain (vacuum, 17 on), or to own their database. Then ALTER ROLE name \
              NOSUPERUSER; sessions that are open keep working. Keep one that people use in an emergency.",
    },
    source: "rolsuper and rolcanlogin of pg_roles",
    thresholds: &[Threshold {
        name: "warning",
        default: 3.0,
        unit: Unit::Count,
        why: "superusers with a login besides the one that initdb made: two people for emergencies are usual; the CIS \
              benchmark for PostgreSQL asks to revoke what is in excess of need",
    }],
    hold: Hold::NONE,
    judge: Judge::Postgres(superusers_many),
};

fn superusers_many(sight: &Sight<'_, Postgres>) -> Judged {
    let superusers = sight.seen.security.superusers.as_ref()?;
    // Here and below: a standby shows the primary's a second time, and nothing can be changed there.
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let more: Vec<&Superuser> = superusers.iter().filter(|role| !role.is_bootstrap).collect();
    let Some((severity, limit)) = sight.graded(more.len() as f64) else { return Ok(Vec::new()) };
    let names: Vec<&str> = more.iter().map(|role| role.name.as_str()).collect();
    let shown = if names.len() > 20 { format!("{} …", names[..20].join(", ")) } else { names.join(", ") };
    let draft = Draft::new(severity, format!("{} roles besides the first one are superusers: {shown}", names.len()))
        .against(
            "superusers with a login",
            Value::count(more.len() as u32),
            Value::count(limit),
            SUPERUSERS_MANY.source,
        )
        .fix(format!(
            "For each that needs no such right, after a GRANT of what it does need: ALTER ROLE {} NOSUPERUSER;",
            quoted(names.first().copied().unwrap_or_default())
        ));
    Ok(vec![draft])
}

pub static GRANTS_EXCESSIVE: Check = Check {
    id: "postgres.grants_excessive",
    title: "We may do more than we need",
    runbook: Runbook {
        means: "Our role is a superuser. What we do is bounded by our own guards only, not by the server's, and our \
                password opens everything.",
        confirm: "SELECT rolsuper FROM pg_roles WHERE rolname = current_user;",
        act: "Make a role of our own: `groundskeeper grants` prints its exact statements. Then put its name and password \
              into the configuration.",
    },
    source: "rolsuper of pg_roles",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(grants_excessive),
};

fn grants_excessive(sight: &Sight<'_, Postgres>) -> Judged {
    let access = &sight.seen.access;
    if !access.superuser {
        return Ok(Vec::new());
    }
    let draft = Draft::new(Severity::Info, format!("we log in as {}, a superuser", access.user))
        .saw("superuser", Value::text("yes"), GRANTS_EXCESSIVE.source)
        .fix("Run what `groundskeeper grants` prints, then configure that role.");
    Ok(vec![draft])
}

pub static SCHEMA_PUBLIC_CREATE: Check = Check {
    id: "postgres.schema_public_create",
    title: "Everybody may create in a schema",
    runbook: Runbook {
        means: "Any role that can connect may put a function or a table there that others call by accident, as themselves: \
                a way to become superuser (CVE-2018-1058). Up to 14 that is how `public` was made, and an upgrade keeps it.",
        confirm: "SELECT nspname FROM pg_namespace WHERE has_schema_privilege('public', oid, 'CREATE');",
        act: "GRANT CREATE to the roles that make tables there (the one your migrations run as) first, then REVOKE CREATE \
              ON SCHEMA … FROM PUBLIC. What is there already stays, and everybody goes on using it. Do it in template1, too, \
              for databases to come.",
    },
    source: "has_schema_privilege('public', oid, 'CREATE') over pg_namespace, in the connected database",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(schema_public_create),
};

fn schema_public_create(sight: &Sight<'_, Postgres>) -> Judged {
    let open = sight.seen.security.open_schemas.as_ref()?;
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    let Some(first) = open.first() else { return Ok(Vec::new()) };
    let names: Vec<&str> = open.iter().map(|schema| schema.name.as_str()).collect();
    let word = if names.len() == 1 { "schema" } else { "schemas" };
    // Statements first, so that they can be copied together.
    let mut closed: Vec<&OpenSchema> = open.iter().take(SCHEMAS).collect();
    closed.sort_by_key(|schema| schema.owners.len() > OWNERS);
    let ways: Vec<String> = closed.into_iter().map(closing).collect();
    let draft = Draft::new(Severity::Warning, format!("everybody may create in {word} {}", names.join(", ")))
        .about(crate::finding::Target::Database { name: sight.seen.server.database.clone() })
        .saw(
            "who owns something there",
            Value::text(owners_told(&first.owners)),
            "owners in pg_class, pg_proc, pg_type",
        )
        .fix(format!("In database {}: {}", sight.seen.server.database, ways.join(" ")));
    Ok(vec![draft])
}

/// As many schemas are closed in one finding.
const SCHEMAS: usize = 10;
/// As many owners are printed.
const OWNERS: usize = 20;

/// The statements that close a schema. Where not all owners can be printed there are none: whoever is left out could not
/// create there any more.
fn closing(schema: &OpenSchema) -> String {
    let name = quoted(&schema.name);
    let owners: Vec<String> = schema.owners.iter().map(|owner| quoted(owner)).collect();
    match owners.len() {
        0 => format!("REVOKE CREATE ON SCHEMA {name} FROM PUBLIC;"),
        1..=OWNERS => format!(
            "GRANT CREATE ON SCHEMA {name} TO {}; REVOKE CREATE ON SCHEMA {name} FROM PUBLIC;",
            owners.join(", ")
        ),
        all => format!(
            "{all} roles own something in schema {name}: find those that have to go on creating there, and GRANT them CREATE, \
             before it is taken from everybody."
        ),
    }
}

fn owners_told(owners: &[String]) -> String {
    match owners.len() {
        0 => "superusers only, or nobody".to_owned(),
        1..=OWNERS => owners.join(", "),
        all => format!("{} and {} more", owners[..OWNERS].join(", "), all - OWNERS),
    }
}

pub static SEARCH_PATH_OPEN: Check = Check {
    id: "postgres.search_path_open",
    title: "A SECURITY DEFINER routine takes its names from its caller",
    runbook: Runbook {
        means: "It runs with its owner's rights and looks up tables and functions along the search_path of whoever calls \
                it. A caller who puts a schema (or a temporary table) of their own first makes it do something else, as \
                the owner.",
        confirm: "SELECT oid::regprocedure, proowner::regrole FROM pg_proc WHERE prosecdef AND NOT EXISTS (SELECT 1 FROM \
                  unnest(proconfig) c WHERE c LIKE 'search_path=%');",
        act: "ALTER ROUTINE … SET search_path = the schemas it uses, pg_temp; with pg_temp last. Look into its body for \
              which those are, and try it. Or revoke EXECUTE from PUBLIC and grant it to those who need it.",
    },
    source: "prosecdef and proconfig of pg_proc, in the connected database",
    thresholds: &[],
    hold: Hold::NONE,
    judge: Judge::Postgres(search_path_open),
};

fn search_path_open(sight: &Sight<'_, Postgres>) -> Judged {
    let open = sight.seen.security.open_routines.as_ref()?;
    if sight.seen.server.in_recovery {
        return Ok(Vec::new());
    }
    // Whoever may call it decides: with rights that only its owner's friends have, nobody gains anything.
    let mut reachable: Vec<&OpenRoutine> = open.iter().filter(|routine| routine.is_public).collect();
    reachable.sort_by_key(|routine| !routine.owner_is_superuser);
    let Some(first) = reachable.first() else { return Ok(Vec::new()) };
    let (severity, whose) = if first.owner_is_superuser {
        (Severity::Warning, format!("the superuser {}", first.owner))
    } else {
        (Severity::Info, first.owner.clone())
    };
    let more = if reachable.len() == 1 { String::new() } else { format!(", and {} more", reachable.len() - 1) };
    let all: Vec<String> = reachable.iter().take(20).map(|one| format!("{} of {}", one.name, one.owner)).collect();
    let draft = Draft::new(
        severity,
        format!("everybody may call {}, which runs as {whose} along the caller's search_path{more}", first.name),
    )
    .about(crate::finding::Target::Database { name: sight.seen.server.database.clone() })
    .saw("which", Value::text(all.join("; ")), SEARCH_PATH_OPEN.source)
    .fix(format!(
        "With the schemas that it uses: ALTER ROUTINE {}.{}({}) SET search_path = {}, pg_temp;",
        quoted(&first.name.schema),
        quoted(&first.name.name),
        first.arguments,
        quoted(&first.name.schema)
    ));
    Ok(vec![draft])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Status;
    use crate::check::postgres::fixtures::{change, finding, found_in, status};
    use crate::observation::{Gap, TableName};

    fn superusers(more: usize) -> Postgres {
        change(|seen| {
            let roles = (0..more).map(|n| Superuser { name: format!("admin{n}"), is_bootstrap: false });
            seen.security.superusers.as_mut().unwrap().extend(roles);
        })
    }

    #[test]
    fn three_more_superusers_are_too_many() {
        assert_eq!(found_in(superusers(2)), []);
        let found = finding("postgres.superusers_many", found_in(superusers(3)));
        assert_eq!(found.severity, Severity::Warning);
        assert!(found.summary.contains("admin0, admin1, admin2"), "{}", found.summary);
        assert!(!found.summary.contains("postgres,"), "the first one has to be there: {}", found.summary);
    }

    #[test]
    fn roles_schemas_and_routines_are_the_primarys() {
        let mut seen = superusers(9);
        seen.security.open_schemas = Ok(vec![OpenSchema { name: "public".into(), owners: Vec::new() }]);
        let found = |seen: &Postgres| found_in(seen.clone()).into_iter().map(|one| one.check).collect::<Vec<_>>();
        assert_eq!(found(&seen), ["postgres.superusers_many", "postgres.schema_public_create"]);
        seen.server.in_recovery = true;
        assert_eq!(found(&seen), [""; 0]);
        seen.security.open_routines = Err(Gap::new("cut off"));
        assert!(matches!(status("postgres.search_path_open", seen, None), Status::Unknown(_)));
    }

    #[test]
    fn we_tell_that_we_may_do_too_much() {
        let found = finding("postgres.grants_excessive", found_in(change(|seen| seen.access.superuser = true)));
        assert_eq!(found.severity, Severity::Info);
    }

    #[test]
    fn whoever_makes_tables_keeps_that_right() {
        let seen = change(|seen| {
            let schema = |name: &str, owners: &[&str]| OpenSchema {
                name: name.into(),
                owners: owners.iter().map(|owner| (*owner).to_owned()).collect(),
            };
            seen.security.open_schemas = Ok(vec![schema("public", &["app"]), schema("Shared", &[])]);
        });
        let found = finding("postgres.schema_public_create", found_in(seen));
        assert_eq!(found.summary, "everybody may create in schemas public, Shared");
        assert_eq!(
            found.fix,
            "In database docrag: GRANT CREATE ON SCHEMA \"public\" TO \"app\"; REVOKE CREATE ON SCHEMA \"public\" FROM \
             PUBLIC; REVOKE CREATE ON SCHEMA \"Shared\" FROM PUBLIC;"
        );
    }

    #[test]
    fn where_owners_are_left_out_nothing_is_taken_from_them() {
        let with = |count: usize| {
            let owners: Vec<String> = (0..count).map(|n| format!("app{n:02}")).collect();
            let seen = change(|seen| {
                seen.security.open_schemas = Ok(vec![OpenSchema { name: "public".into(), owners }]);
            });
            finding("postgres.schema_public_create", found_in(seen))
        };
        let fix = with(20).fix;
        assert!(fix.contains("\"app19\"; REVOKE CREATE"), "{fix}");
        let found = with(21);
        assert!(!found.fix.contains("REVOKE") && found.fix.contains("21 roles"), "{}", found.fix);
        let told = found.evidence[0].value.to_string();
        assert!(told.ends_with("app19 and 1 more"), "{told}");
    }

    fn routine(owner_is_superuser: bool, is_public: bool) -> OpenRoutine {
        OpenRoutine {
            name: TableName { schema: "public".into(), name: "reset".into() },
            arguments: "id integer".into(),
            owner: if owner_is_superuser { "postgres" } else { "app" }.into(),
            owner_is_superuser,
            is_public,
        }
    }

    #[test]
    fn a_routine_that_nobody_else_may_call_is_fine_and_a_superusers_is_worse() {
        let with = |all: Vec<OpenRoutine>| change(|seen| seen.security.open_routines = Ok(all));
        assert_eq!(found_in(with(vec![routine(true, false)])), []);
        let found = finding("postgres.search_path_open", found_in(with(vec![routine(false, true)])));
        assert_eq!(found.severity, Severity::Info);
        let found =
            finding("postgres.search_path_open", found_in(with(vec![routine(false, true), routine(true, true)])));
        assert_eq!(found.severity, Severity::Warning);
        assert!(
            found.fix.ends_with("\"public\".\"reset\"(id integer) SET search_path = \"public\", pg_temp;"),
            "{}",
            found.fix
        );
    }

    type Hide = fn(&mut Postgres);

    #[test]
    fn each_check_is_unknown_by_its_own_part_only() {
        let parts: [(&str, Hide); 3] = [
            ("postgres.superusers_many", |seen| seen.security.superusers = Err(Gap::new("no"))),
            ("postgres.schema_public_create", |seen| seen.security.open_schemas = Err(Gap::new("no"))),
            ("postgres.search_path_open", |seen| seen.security.open_routines = Err(Gap::new("no"))),
        ];
        for (check, hide) in parts {
            assert!(matches!(status(check, change(hide), None), Status::Unknown(_)), "{check}");
            let others = parts.iter().filter(|(other, _)| *other != check);
            for (other, _) in others {
                assert_eq!(status(other, change(hide), None), Status::Ok, "{other}");
            }
        }
    }
}
