//! Rung 4: Postgres boots from what was restored, and its tables and indexes hold together.

use super::coverage::{self, Coverage};
use super::faithful::faithful;
use super::probe::{self, Probe};
use super::{Expected, reader, shortened};
use crate::programs::Programs;
use crate::scratch::{DATA_DIRECTORY, DataFolder, PRELOADED, Replay, ScratchServer, Setback, Until, said};
use groundskeeper_core::quantity::{after, format_seconds};
use groundskeeper_core::receipt::{ClimbOutcome, Cluster, Lsn, Tie};
use groundskeeper_systems::postgres::tie::{Chunks, chunks};
use jiff::Timestamp;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// By whom chunks are read.
const READER: &str = "groundskeeper_chunks";

/// How the attempt went.
#[derive(Debug, Clone, PartialEq)]
pub struct Alive {
    pub outcome: ClimbOutcome,
    /// Seconds from the start of Postgres to its first answer; of the whole attempt when there was none.
    pub took: f64,
    /// What came of the comparison, and how long it took in seconds. None when it did not come so far.
    pub faithful: Option<(ClimbOutcome, f64)>,
    /// What it says to each tie; empty when it did not come so far.
    pub chunks: Vec<Result<Chunks, String>>,
}

/// A database of the restored cluster.
struct Database {
    name: String,
    open: bool,
}

/// Boots the folder, checks that it is the cluster it should be and that recovery came far enough, enters every
/// database, runs `pg_amcheck`, compares the tables with what they are to hold, asks for the chunks that are tied to points,
/// and puts the probes. The folder is not what was restored afterwards.
pub async fn alive(programs: &Programs, data: &DataFolder<'_>, expected: Expected<'_>, within: Duration) -> Alive {
    let began = Instant::now();
    let Expected { cluster, contents, probes, ties, .. } = expected;
    let over = |setback| Alive {
        outcome: outcome(Err(setback)),
        took: began.elapsed().as_secs_f64(),
        faithful: None,
        chunks: Vec::new(),
    };
    if let Some(why) = programs.missing(&["pg_amcheck"]) {
        return over(Setback::NotTried(why));
    }
    // On the heap: the state of a start is large, and a drill does many things after it.
    let server = match Box::pin(ScratchServer::start(programs, data, cluster, within)).await {
        Ok(server) => server,
        Err(setback) => return over(setback),
    };
    let took = server.answered_after().as_secs_f64();
    let outcome = outcome(ask(programs, &server, cluster, began + within).await);
    let comparing = Instant::now();
    let is_proven = matches!(outcome, ClimbOutcome::Proven { .. });
    let faithful = match contents.filter(|_| is_proven) {
        Some(contents) => Some(Box::pin(faithful(&server, contents, began + within)).await),
        None => None,
    };
    let faithful = faithful.map(|outcome| (outcome, comparing.elapsed().as_secs_f64()));
    let chunks = if is_proven { Box::pin(held(&server, ties, began + within)).await } else { Vec::new() };
    let outcome = Box::pin(probed(outcome, &server, probes, began + within)).await;
    if let Err(error) = server.stop().await {
        tracing::warn!(%error, "after a drill");
    }
    Alive { outcome, took, faithful, chunks }
}

/// What the database says to each tie.
async fn held(server: &ScratchServer<'_>, ties: &[&Tie], until: Instant) -> Vec<Result<Chunks, String>> {
    if ties.is_empty() {
        return Vec::new();
    }
    let made = reader::make(server, READER).await;
    let made = made.map_err(|why| format!("the role {READER}, which reads the chunks, cannot be made: {why}"));
    let mut held = Vec::new();
    for tie in ties {
        let reading = async {
            made.clone()?;
            let opened = reader::connect(server, READER, &tie.database, "-c local_preload_libraries=").await;
            let client = opened.map_err(|error| said(&error))?;
            chunks(&client, &tie.statements, until.saturating_duration_since(Instant::now())).await
        };
        held.push(reading.await);
    }
    held
}

fn outcome(asked: Result<(String, Vec<String>), Setback>) -> ClimbOutcome {
    match asked {
        Ok((shown, not_covered)) => ClimbOutcome::Proven { shown, not_covered },
        Err(Setback::Failed(why)) => ClimbOutcome::Failed { why },
        Err(Setback::NotTried(why)) => ClimbOutcome::NotTried { why },
    }
}

/// Adds what the probes were answered. Without the answers that the user wants it is not alive to him.
async fn probed(asked: ClimbOutcome, server: &ScratchServer<'_>, probes: &[Probe], until: Instant) -> ClimbOutcome {
    let ClimbOutcome::Proven { shown, not_covered } = asked else { return asked };
    let answers = probe::put(server, probes, until).await;
    outcome(answers.map(|answers| ([vec![shown], answers].concat().join("; "), not_covered)))
}

/// What was shown, and what it does not cover.
async fn ask(
    programs: &Programs,
    server: &ScratchServer<'_>,
    cluster: &Cluster,
    until: Instant,
) -> Result<(String, Vec<String>), Setback> {
    let left = || until.saturating_duration_since(Instant::now());
    let late = |_| Setback::NotTried("its databases were not all entered when the time for it was over".to_owned());
    let entering = Box::pin(async {
        let client = server.enter().await.map_err(|error| refused(server, "the first database", &error))?;
        let found = identity(server, &client, cluster).await?;
        let databases = databases(&client).await.map_err(|error| refused(server, "the list of databases", &error))?;
        let coverage = coverage(server, &databases, cluster).await?;
        Ok::<_, Setback>((found, databases, coverage))
    });
    let ((version, recovered), databases, coverage) = tokio::time::timeout(left(), entering).await.map_err(late)??;
    let time = match server.data().replay() {
        Some(replay) => reached(server, replay).await?,
        None => String::new(),
    };
    let checking = Instant::now();
    amcheck(programs, server, &coverage, left()).await?;
    let shown = format!(
        "Postgres {version} replayed its WAL to {recovered} ({} was needed){time} and answered after {}; all {} databases \
         that allow connections were entered, and pg_amcheck --heapallindexed found nothing wrong in {}",
        cluster.stop,
        format_seconds(server.answered_after().as_secs_f64()),
        databases.iter().filter(|database| database.open).count(),
        format_seconds(checking.elapsed().as_secs_f64())
    );
    Ok((shown, coverage.not_covered))
}

/// Its version and how far it recovered, when it is the cluster of the set, and far enough.
async fn identity(server: &ScratchServer<'_>, client: &Client, cluster: &Cluster) -> Result<(String, Lsn), Setback> {
    // The checkpoint that ends recovery stands where the replayed WAL ended; later ones only further on.
    let row = client
        .query_one(
            "SELECT s.system_identifier::text, c.redo_lsn::text, current_setting('server_version') \
             FROM pg_control_system() s, pg_control_checkpoint() c",
            &[],
        )
        .await
        .map_err(|error| refused(server, "its control file", &error))?;
    let (identifier, recovered, version): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    if identifier != cluster.system_identifier {
        return Err(Setback::Failed(format!(
            "it is another cluster: its system identifier is {identifier}, that of the set is {}",
            cluster.system_identifier
        )));
    }
    let recovered: Lsn = recovered.parse().map_err(Setback::Failed)?;
    if recovered < cluster.stop {
        return Err(Setback::Failed(format!(
            "recovery ended at {recovered}, before {}, from where on the backup is consistent",
            cluster.stop
        )));
    }
    let version = version.split_whitespace().next().unwrap_or_default().to_owned();
    Ok((version, recovered))
}

/// How far it came in time. Beyond what was asked for is too far.
async fn reached(server: &ScratchServer<'_>, replay: Replay) -> Result<String, Setback> {
    // How far that is in the WAL is told anyway.
    if matches!(replay.until, Until::Before(_)) {
        return Ok(String::new());
    }
    let asking = async {
        let client = server.enter().await?;
        let sql = "SELECT extract(epoch FROM pg_last_xact_replay_timestamp())::float8";
        client.query_one(sql, &[]).await?.try_get::<_, Option<f64>>(0)
    };
    let last = asking.await.map_err(|error| refused(server, "the time of its last transaction", &error))?;
    let timeline = replay.timeline;
    let Some(last) = last.map(|seconds| after(Timestamp::UNIX_EPOCH, seconds)) else {
        return Ok(format!(", to the end of timeline {timeline} without a transaction,"));
    };
    let until = match replay.until {
        Until::Time(at) => Some(at),
        Until::End | Until::Before(_) => None,
    };
    match until {
        // A float of seconds since 1970 is good for a microsecond.
        Some(until) if after(until, 0.000_01) < last => {
            Err(Setback::Failed(format!("it replayed a transaction of {last}, and was to stop at {until}")))
        }
        Some(until) => Ok(format!(", to the last transaction before {until}, of {last},")),
        None => Ok(format!(", to the end of timeline {timeline} with its last transaction of {last},")),
    }
}

async fn databases(client: &Client) -> Result<Vec<Database>, tokio_postgres::Error> {
    // -2 marks one that was half dropped: nobody can enter it.
    let sql = "SELECT datname::text, datallowconn AND datconnlimit <> -2 FROM pg_database ORDER BY datname";
    let rows = client.query(sql, &[]).await?;
    rows.iter().map(|row| Ok(Database { name: row.try_get(0)?, open: row.try_get(1)? })).collect()
}

async fn coverage(server: &ScratchServer<'_>, databases: &[Database], cluster: &Cluster) -> Result<Coverage, Setback> {
    let (mut coverage, major) = (Coverage::default(), cluster.major());
    unsaid(cluster, &mut coverage);
    for library in server.left_out() {
        coverage.doubt(format!("the library {library}: it is not installed here, and was not loaded"));
    }
    for Database { name, open } in databases {
        if !open {
            coverage.not_covered.push(format!("database {name}: it allows no connections"));
            continue;
        }
        let refused = |error| refused(server, &format!("database {name}"), &error);
        let client = server.connect(name).await.map_err(refused)?;
        if major < EVENT_TRIGGERS_OFF {
            disarm(&client).await.map_err(|error| {
                let why = said(&error);
                Setback::NotTried(format!(
                    "database {name}: its event triggers, which would act, cannot be disabled: {why}"
                ))
            })?;
        }
        match coverage::visit(&client, name, major, &mut coverage).await {
            Ok(true) => {}
            Ok(false) => return Err(Setback::NotTried(no_amcheck(major))),
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(coverage)
}

/// From this version on there is a setting for it, which every session of ours has.
const EVENT_TRIGGERS_OFF: u32 = 17;

/// An event trigger that is always enabled, or on replicas, fires in our sessions as well, at the first DDL: that is
/// what installs amcheck. To disable one fires none.
async fn disarm(client: &Client) -> Result<(), tokio_postgres::Error> {
    let sql = "SELECT format('ALTER EVENT TRIGGER %I DISABLE', evtname) FROM pg_event_trigger WHERE evtenabled <> 'D'";
    for row in client.query(sql, &[]).await? {
        client.batch_execute(row.try_get(0)?).await?;
    }
    Ok(())
}

/// What the receipt does not say, because the role that made the set may not see it.
fn unsaid(cluster: &Cluster, coverage: &mut Coverage) {
    let unsaid = |name: &str| !cluster.settings.contains_key(name);
    if unsaid(PRELOADED) {
        coverage.doubt(format!(
            "the libraries of `{PRELOADED}`: which they are was hidden from the role that makes backups, and none was \
             loaded; GRANT pg_monitor to it"
        ));
    }
    if unsaid(DATA_DIRECTORY) {
        coverage.not_covered.push(format!(
            "that the scratch folder is not around the live data directory: the receipt does not say where that is \
             (`{DATA_DIRECTORY}` is hidden from a role without pg_monitor)"
        ));
    }
}

fn no_amcheck(major: u32) -> String {
    format!(
        "the extension amcheck is not installed beside Postgres {major}; install its contrib package (in Debian it is \
         in postgresql-{major}, elsewhere in postgresql{major}-contrib)"
    )
}

/// A query or a session that failed. That the machine lacks a locale is no fault of the set.
fn refused(server: &ScratchServer<'_>, what: &str, error: &tokio_postgres::Error) -> Setback {
    let message = said(error);
    let Some(answer) = error.as_db_error() else { return server.failed(&format!("{what}: {message}")) };
    let message = answer.detail().map_or(message.clone(), |detail| format!("{message}: {detail}"));
    if message.contains("incompatible with operating system") {
        return Setback::NotTried(format!("{what}: {message} Install that locale where drills run"));
    }
    Setback::Failed(format!("{what}: {message}"))
}

async fn amcheck(
    programs: &Programs,
    server: &ScratchServer<'_>,
    coverage: &Coverage,
    within: Duration,
) -> Result<(), Setback> {
    let mut arguments = server.address();
    arguments.extend(["--all", "--heapallindexed", "--install-missing", "--jobs=1"].map(Into::into));
    let user = server.data().place().user();
    let said = programs.run("pg_amcheck", arguments, &server.session_options(), user, within).await;
    let said = said.map_err(|error| Setback::NotTried(format!("pg_amcheck cannot be run: {error}")))?;
    if said.status.is_none() {
        return Err(Setback::NotTried("pg_amcheck was not through when the time for it was over".to_owned()));
    }
    if said.is_success() {
        return Ok(());
    }
    let mut why = format!("pg_amcheck: {}", shortened(&said.text));
    if !coverage.doubts.is_empty() {
        why += "\nThis machine differs from the one of the backup, which may be why: ";
        why += &coverage.doubts.join("; ");
    }
    if said.text.contains("No space left on device") { Err(Setback::NotTried(why)) } else { Err(Setback::Failed(why)) }
}
