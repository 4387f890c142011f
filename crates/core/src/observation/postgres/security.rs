//! Who may come in, how, and what everybody may do there. Each part by itself: what one grant hides, hides nothing else.

use super::{Part, TableName};
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Security {
    /// Roles that are superusers and can log in.
    pub superusers: Part<Vec<Superuser>>,
    /// Schemas of the connected database in which everybody may create.
    pub open_schemas: Part<Vec<OpenSchema>>,
    /// `pg_hba_file_rules`: the file as it is now, in its order.
    pub rules: Part<Vec<AccessRule>>,
    /// Clients that are connected over the network without TLS, the most connections first, at most 50.
    pub plain_clients: Part<Vec<PlainClient>>,
    /// Extensions of the connected database whose version is not the one that is installed on the server.
    pub extensions: Part<Vec<Extension>>,
    /// SECURITY DEFINER routines of the connected database without a `search_path` of their own, at most 200.
    pub open_routines: Part<Vec<OpenRoutine>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Superuser {
    pub name: String,
    /// The one that initdb made; it cannot be anything else.
    pub is_bootstrap: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSchema {
    pub name: String,
    /// All roles but superusers that own a relation, a routine or a type in it, and may need to go on creating there.
    pub owners: Vec<String>,
}

/// A line of `pg_hba.conf`. The first one that fits a connection decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessRule {
    pub line: u32,
    /// None up to 15, where there is one file only.
    pub file: Option<String>,
    /// `local`, `host`, `hostssl`, `hostnossl` …; empty where the line could not be understood.
    pub kind: String,
    pub databases: Vec<String>,
    pub users: Vec<String>,
    /// An address, a name, `all`, `samehost` or `samenet`; none for `local`.
    pub address: Option<String>,
    pub netmask: Option<String>,
    pub method: String,
    /// It asks for a certificate of the client besides (`clientcert`).
    pub has_certificate: bool,
    /// What is wrong with the line.
    pub error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainClient {
    pub address: IpAddr,
    pub user: String,
    pub connections: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extension {
    pub name: String,
    pub installed: String,
    /// What CREATE EXTENSION would make now; none when its files are gone.
    pub available: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRoutine {
    pub name: TableName,
    /// `integer, text`: with the name, it names the one routine.
    pub arguments: String,
    pub owner: String,
    pub owner_is_superuser: bool,
    /// Everybody may call it.
    pub is_public: bool,
}
