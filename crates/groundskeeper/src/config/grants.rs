//! The SQL that prepares a configured Postgres for Groundskeeper.

use super::nearest::did_you_mean;
use super::{ConfigError, Endpoint, Settings};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::grants::{Wish, grants as script};
use std::str::FromStr;

/// What the role is to be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Watch,
    EndSessions,
    Maintain,
    /// Change settings, one at a time.
    Tune,
    /// All that any remedy needs.
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
            "tune" => Ok(Self::Tune),
            "act" => Ok(Self::Act),
            "backup" => Ok(Self::Backup),
            _ => {
                let hint = did_you_mean(text, ["watch", "act", "backup", "end-sessions", "maintain", "tune"]);
                Err(format!("use watch, act, backup, end-sessions, maintain or tune{hint}"))
            }
        }
    }
}

impl Purpose {
    fn wishes(self) -> Vec<Wish> {
        let everywhere = || Wish::Maintain { tables: Vec::new() };
        match self {
            Self::Watch => vec![Wish::Watch],
            Self::EndSessions => vec![Wish::EndSessions],
            Self::Maintain => vec![everywhere()],
            Self::Tune => vec![Wish::ChangeSettings],
            Self::Act => vec![Wish::Watch, Wish::EndSessions, everywhere(), Wish::ChangeSettings],
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
    let address = match (system, all.as_slice()) {
        (_, []) => return Err(ConfigError::general("no Postgres is configured; add a [postgres.main] section")),
        (Some(name), _) => {
            // `main` is enough: only a Postgres has grants.
            let meant = |id: &SystemId| id.to_string() == name || id.name == name;
            let found = all.iter().find(|(id, _)| meant(id)).map(|(_, address)| address);
            found.ok_or_else(|| {
                let hint = did_you_mean(name, names.iter().map(String::as_str));
                ConfigError::general(format!("there is no {} `{name}`{hint}", SystemKind::Postgres))
            })?
        }
        (None, [(_, address)]) => address,
        (None, _) => {
            let message = format!("several Postgres are configured; name one of {}", names.join(", "));
            return Err(ConfigError::general(message));
        }
    };
    let mut wishes = Vec::new();
    for wish in purposes.iter().flat_map(|purpose| purpose.wishes()) {
        if !wishes.contains(&wish) {
            wishes.push(wish);
        }
    }
    // An address is `host:port/database`, and a host may be the folder of a socket.
    let database = address.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("postgres");
    Ok(script(role, database, &wishes))
}
