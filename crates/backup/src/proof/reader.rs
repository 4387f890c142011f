//! Roles of our own in a restored copy, which read every table, row-level security or not, and may do nothing else. What
//! an application has put into its database, a function behind a view for one, must not run as a superuser.

use crate::scratch::{ScratchServer, said};
use tokio_postgres::{Client, Error};

/// Makes one. `role` is a plain name.
pub(super) async fn make(server: &ScratchServer<'_>, role: &str) -> Result<(), String> {
    let sql = format!("CREATE ROLE {role} LOGIN BYPASSRLS IN ROLE pg_read_all_data");
    let making = async { server.enter().await?.batch_execute(&sql).await };
    making.await.map_err(|error| said(&error))
}

/// A session of it in a database, which it is let into.
pub(super) async fn connect(
    server: &ScratchServer<'_>,
    role: &str,
    database: &str,
    options: &str,
) -> Result<Client, Error> {
    let quoted = database.replace('"', "\"\"");
    let grant = format!("GRANT CONNECT ON DATABASE \"{quoted}\" TO {role}");
    server.enter().await?.batch_execute(&grant).await?;
    server.connect_as(role, database, options).await
}
