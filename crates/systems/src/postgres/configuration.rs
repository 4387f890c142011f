//! The configuration of a cluster where it lies outside of the data directory, as Debian's packages have it: a base backup
//! does not hold it.
//!
//! To read the files takes `pg_read_server_files` and a function that only superusers may call at first, which few roles
//! for backups have. So what the server says of its settings is taken as well, and it says that to `pg_monitor`.

use super::client::{APPLICATION_NAME, Endpoint, reading_settings};
use crate::deadline::timed_out;
use groundskeeper_core::observation::Failure;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The files outside of the data directory that could be read, by where they are.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// Those that could not, and why.
    pub unreadable: Vec<String>,
    /// Every setting that is not at its default and not made by a session, as lines for a `postgresql.conf`.
    pub settings: String,
    /// The rules of `pg_hba.conf`, where its file could not be read and the server tells them.
    pub rules: Option<String>,
}

/// What grants the rest to a role.
pub fn rights_to_read_files(role: &str) -> String {
    let role = role.replace('"', "\"\"");
    format!(
        "GRANT pg_read_server_files TO \"{role}\"; GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO \"{role}\"; \
         GRANT SELECT ON pg_hba_file_rules, pg_ident_file_mappings TO \"{role}\"; \
         GRANT EXECUTE ON FUNCTION pg_hba_file_rules(), pg_ident_file_mappings() TO \"{role}\""
    )
}

const LOCATIONS: [&str; 5] = ["data_directory", "config_file", "hba_file", "ident_file", "external_pid_file"];

const SETTINGS: &str = "
SELECT name, setting FROM pg_settings
WHERE context <> 'internal' AND setting IS NOT NULL
  AND source IN ('configuration file', 'command line', 'environment variable', 'global')
ORDER BY name";

/// Reads it over an ordinary connection.
pub async fn configuration(endpoint: &Endpoint, deadline: Duration) -> Result<Configuration, Failure> {
    let until = Instant::now() + deadline;
    let session = endpoint.connect(APPLICATION_NAME, &reading_settings(deadline), deadline).await?;
    let outcome = match session.client() {
        Some(client) => timeout_at(until, Box::pin(read(client))).await,
        None => Ok(Ok(Configuration::default())),
    };
    session.close(until.saturating_duration_since(Instant::now())).await;
    match outcome {
        Ok(Ok(configuration)) => Ok(configuration),
        Ok(Err(error)) => Err(endpoint.failure(&error)),
        Err(_) => Err(timed_out(deadline, endpoint.address())),
    }
}

async fn read(client: &Client) -> Result<Configuration, Error> {
    let mut found = Configuration { settings: settings(client).await?, ..Configuration::default() };
    let (data, mut paths) = paths(client).await?;
    let is_outside = |path: &PathBuf| data.as_ref().is_none_or(|data| !path.starts_with(data));
    if paths.iter().any(is_outside) {
        found.unreadable = included(client, &mut paths).await?;
    }
    for path in paths.into_iter().filter(is_outside) {
        let text = path.display().to_string();
        let parameter: [(&(dyn ToSql + Sync), Type); 1] = [(&text, Type::TEXT)];
        match client.query_typed_one("SELECT pg_read_binary_file($1)", &parameter).await {
            Ok(row) => {
                found.files.insert(path, row.try_get(0)?);
            }
            Err(error) => {
                let Some(answer) = error.as_db_error() else { return Err(error) };
                found.unreadable.push(format!("{text}: {}", answer.message()));
            }
        }
    }
    let has_rules = found.files.keys().any(|path| path.ends_with("pg_hba.conf"));
    if !has_rules && !found.unreadable.is_empty() {
        found.rules = rules(client).await?;
    }
    Ok(found)
}

/// The data directory, and every file that the server reads its configuration from.
async fn paths(client: &Client) -> Result<(Option<PathBuf>, BTreeSet<PathBuf>), Error> {
    let names: [(&(dyn ToSql + Sync), Type); 1] = [(&&LOCATIONS[..4], Type::TEXT_ARRAY)];
    let sql = "SELECT name, setting FROM pg_settings WHERE name = ANY ($1::text[]) AND setting <> ''";
    let (mut data, mut paths) = (None, BTreeSet::new());
    for row in client.query_typed(sql, &names).await? {
        let (name, path): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        if name == "data_directory" {
            data = Some(PathBuf::from(path));
        } else {
            paths.insert(PathBuf::from(path));
        }
    }
    // What these name in turn (`include_dir 'conf.d'`).
    for row in client.query_typed("SELECT DISTINCT sourcefile FROM pg_settings WHERE sourcefile <> ''", &[]).await? {
        paths.insert(PathBuf::from(row.try_get::<_, String>(0)?));
    }
    Ok((data, paths))
}

/// Adds what the files of access include, from 16 on. Gives what cannot be told, and why.
async fn included(client: &Client, paths: &mut BTreeSet<PathBuf>) -> Result<Vec<String>, Error> {
    let version = client.query_typed_one("SELECT current_setting('server_version_num')::int4", &[]).await?;
    let mut hidden = Vec::new();
    if version.try_get::<_, i32>(0)? < 160_000 {
        return Ok(hidden);
    }
    for (file, view) in [("pg_hba.conf", "pg_hba_file_rules"), ("pg_ident.conf", "pg_ident_file_mappings")] {
        match client.query_typed(&format!("SELECT DISTINCT file_name FROM {view}"), &[]).await {
            Ok(rows) => {
                for row in rows {
                    paths.insert(PathBuf::from(row.try_get::<_, String>(0)?));
                }
            }
            Err(error) => {
                let Some(answer) = error.as_db_error() else { return Err(error) };
                hidden.push(format!("what {file} includes: {}", answer.message()));
            }
        }
    }
    Ok(hidden)
}

async fn settings(client: &Client) -> Result<String, Error> {
    let mut lines = Vec::new();
    for row in client.query_typed(SETTINGS, &[]).await? {
        let (name, value): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        // Where files are is another matter on another machine.
        let comment = if LOCATIONS.contains(&name.as_str()) { "# " } else { "" };
        lines.push(format!("{comment}{}\n", line(&name, &value)));
    }
    Ok(lines.concat())
}

fn line(name: &str, value: &str) -> String {
    format!("{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n"))
}

/// As lines of a `pg_hba.conf`; none when our role may not see them. From 16 on they come from several files, and have numbers.
async fn rules(client: &Client) -> Result<Option<String>, Error> {
    let sql = "SELECT concat_ws(' ', type, array_to_string(database, ','), array_to_string(user_name, ','), address, netmask, \
               auth_method, array_to_string(options, ' ')) FROM pg_hba_file_rules r WHERE error IS NULL \
               ORDER BY (to_jsonb(r) ->> 'rule_number')::int, line_number";
    match client.query_typed(sql, &[]).await {
        Ok(rows) => {
            let lines: Result<Vec<String>, Error> = rows.iter().map(|row| row.try_get(0)).collect();
            Ok(Some(lines?.join("\n") + "\n"))
        }
        Err(error) if error.as_db_error().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

impl Configuration {
    /// Where a file goes in a folder of its own: as it lies beside `postgresql.conf`, or by its whole path.
    pub fn place_of(&self, path: &Path) -> PathBuf {
        let base = self.files.keys().find(|path| path.ends_with("postgresql.conf")).and_then(|path| path.parent());
        let beside = base.and_then(|base| path.strip_prefix(base).ok());
        beside.map_or_else(|| path.components().skip(1).collect(), Path::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_written_as_postgres_reads_it() {
        assert_eq!(line("work_mem", "4096"), "work_mem = '4096'");
        assert_eq!(line("log_line_prefix", "it's \\ here\n"), "log_line_prefix = 'it''s \\\\ here\\n'");
    }

    #[test]
    fn files_keep_their_places_to_each_other() {
        let files =
            ["/etc/postgresql/15/main/postgresql.conf", "/etc/postgresql/15/main/conf.d/a.conf", "/srv/pg_hba.conf"];
        let files = files.iter().map(|path| (PathBuf::from(path), Vec::new())).collect();
        let configuration = Configuration { files, ..Configuration::default() };
        let places: Vec<PathBuf> = configuration.files.keys().map(|path| configuration.place_of(path)).collect();
        assert_eq!(places, ["conf.d/a.conf", "postgresql.conf", "srv/pg_hba.conf"].map(PathBuf::from));
    }
}
