//! The SQL that prepares a configured Postgres for Groundskeeper.

use super::nearest::did_you_mean;
use super::{ConfigError, Endpoint, Settings};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::grants::{Ruled, Wish, grants as script};
use std::collections::BTreeMap;
use std::str::FromStr;

/// What the role is to be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Watch,
    EndSessions,
    Maintain,
    /// Delete what the configured rules do not keep.
    Retention,
    Reindex,
    /// Change settings, one at a time.
    Tune,
    /// All that any remedy needs; to build indexes anew is left for a person to choose, since it takes membership of owners.
    Act,
    /// Base backups.
    Backup,
}

impl FromStr for Purpose {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "watch" => Ok(Self::Watch),
            "end-sessions" => Ok(Self::EndSessions),
            "maintain" => Ok(Self::Maintain),
            "retention" => Ok(Self::Retention),
            "reindex" => Ok(Self::Reindex),
            "tune" => Ok(Self::Tune),
            "act" => Ok(Self::Act),
            "backup" => Ok(Self::Backup),
            _ => {
                let known = ["watch", "act", "backup", "end-sessions", "maintain", "reindex", "retention", "tune"];
                let hint = did_you_mean(text, known);
                Err(format!("use watch, act, backup, end-sessions, maintain, reindex, retention or tune{hint}"))
            }
        }
    }
}

impl Purpose {
    /// `rules` is what the retention of that Postgres needs.
    fn wishes(self, rules: &[Wish]) -> Vec<Wish> {
        let everywhere = || Wish::Maintain { tables: Vec::new() };
        match self {
            Self::Watch => vec![Wish::Watch],
            Self::EndSessions => vec![Wish::EndSessions],
            Self::Maintain => vec![everywhere()],
            Self::Retention => rules.to_vec(),
            Self::Reindex => vec![Wish::Reindex],
            Self::Tune => vec![Wish::ChangeSettings],
            Self::Act => {
                let all = vec![Wish::Watch, Wish::EndSessions, everywhere(), Wish::ChangeSettings, Wish::MayReindex];
                [all, rules.to_vec()].concat()
            }
            Self::Backup => vec![Wish::BackUp],
        }
    }
}

/// The script for the named Postgres, or for the only one.
pub fn grants(
    settings: &Settings,
    system: Option<&str>,
    role: &str,
    purposes: &[Purpose],
) -> Result<String, ConfigError> {
    let all: Vec<(&SystemId, String)> = settings
        .systems
        .iter()
        .filter_map(|system| match &system.endpoint {
            Endpoint::Postgres(endpoint) => Some((&system.id, endpoint.address().to_owned())),
            _ => None,
        })
        .collect();
    let names: Vec<String> = all.iter().map(|(id, _)| id.to_string()).collect();
    let (id, address) = match (system, all.as_slice()) {
        (_, []) => return Err(ConfigError::general("no Postgres is configured; add a [postgres.main] section")),
        (Some(name), _) => {
            // `main` is enough: only a Postgres has grants.
            let meant = |id: &SystemId| id.to_string() == name || id.name == name;
            let found = all.iter().find(|(id, _)| meant(id)).map(|(id, address)| (*id, address));
            found.ok_or_else(|| {
                let hint = did_you_mean(name, names.iter().map(String::as_str));
                ConfigError::general(format!("there is no {} `{name}`{hint}", SystemKind::Postgres))
            })?
        }
        (None, [(id, address)]) => (*id, address),
        (None, _) => {
            let message = format!("several Postgres are configured; name one of {}", names.join(", "));
            return Err(ConfigError::general(message));
        }
    };
    // An address is `host:port/database`, and a host may be the folder of a socket.
    let database = address.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("postgres");
    let rules = retained(settings, id, database);
    let mut wishes = Vec::new();
    for wish in purposes.iter().flat_map(|purpose| purpose.wishes(&rules)) {
        if !wishes.contains(&wish) {
            wishes.push(wish);
        }
    }
    if wishes.contains(&Wish::Reindex) {
        wishes.retain(|wish| *wish != Wish::MayReindex);
    }
    Ok(script(role, database, &wishes))
}

/// One wish for each database that a rule of that Postgres is about; one without tables where there is no rule.
fn retained(settings: &Settings, system: &SystemId, database: &str) -> Vec<Wish> {
    let mut databases: BTreeMap<&str, Vec<Ruled>> = BTreeMap::new();
    for (_, rule) in settings.expiry.iter().filter(|(of, _)| of == system) {
        let ruled = Ruled { schema: rule.schema.clone(), table: rule.table.clone(), column: rule.column.clone() };
        databases.entry(&rule.database).or_default().push(ruled);
    }
    if databases.is_empty() {
        databases.insert(database, Vec::new());
    }
    databases.into_iter().map(|(of, tables)| Wish::Retain { database: of.to_owned(), tables }).collect()
}
