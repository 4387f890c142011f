//! Readers and writers: pgbench with two scripts, at a rate, and what its log says of each transaction.
//!
//! With `--rate` pgbench counts a transaction's time from the moment at which it was to begin, so whoever has to queue behind a
//! blocked client is counted as late, too.

use super::worn::{APP, TABLE, Worn};
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

const CLIENTS: &str = "8";
const THREADS: &str = "2";
/// Of ten transactions, three write.
const SCRIPTS: [(&str, u32); 2] = [("read.sql", 7), ("write.sql", 3)];
/// In the order of [`SCRIPTS`].
const WRITER: u32 = 1;
/// Longer than any maintenance; it is ended before.
const FOREVER: &str = "86400";
const DRAINED_WITHIN: Duration = Duration::from_mins(5);

/// Seconds since 1970, as pgbench's log has them.
pub(super) fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs_f64())
}

/// Writes the scripts.
pub(super) fn prepare(folder: &Path, rows: u64) -> Result<()> {
    let users = rows / 5;
    let read = format!(
        "\\set id random(1, {rows})\n\
         SELECT user_id, created_at, visits FROM {TABLE} WHERE id = :id;\n\
         SELECT id, last_seen FROM {TABLE} WHERE token = md5(:id::text);\n"
    );
    let write = format!(
        "\\set id random(1, {rows})\n\
         BEGIN;\n\
         UPDATE {TABLE} SET last_seen = now(), visits = visits + 1 WHERE id = :id;\n\
         INSERT INTO {TABLE} (user_id, token) VALUES (:id % {users}, md5(random()::text));\n\
         COMMIT;\n"
    );
    for (name, text) in [("read.sql", read), ("write.sql", write)] {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}

fn pgbench(worn: &Worn, folder: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(worn.programs.join("pgbench"));
    command.args(["--no-vacuum", "--protocol=prepared", "--client", CLIENTS, "--jobs", THREADS]);
    for (script, weight) in SCRIPTS {
        command.arg(format!("--file={}@{weight}", folder.join(script).display()));
    }
    command.args(more).envs(worn.environment(APP)).env("LC_ALL", "C.UTF-8").current_dir(folder);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Transactions a second without a rate.
pub(super) async fn capacity(worn: &Worn, folder: &Path, seconds: u64) -> Result<f64> {
    let output =
        pgbench(worn, folder, &["--time", &seconds.to_string()]).output().await.context("cannot start pgbench")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    let line = said.lines().find_map(|line| line.strip_prefix("tps = ")).context("pgbench told no tps")?;
    line.split_whitespace().next().and_then(|number| number.parse().ok()).context("pgbench told an odd tps")
}

/// pgbench at a rate, until it is ended.
pub(super) struct Load {
    child: Child,
    folder: PathBuf,
}

impl Load {
    /// `folder` has the scripts; the log goes into a new folder `name` in it.
    pub(super) fn start(worn: &Worn, folder: &Path, name: &str, rate: f64) -> Result<Self> {
        let own = folder.join(name);
        fs::create_dir(&own)?;
        let (rate, prefix) = (format!("--rate={rate:.0}"), format!("--log-prefix={}", own.join("log").display()));
        let errors = fs::File::create(own.join("errors"))?;
        let mut command = pgbench(worn, folder, &["--time", FOREVER, &rate, "--log", &prefix]);
        let child = command.stdout(Stdio::null()).stderr(errors).spawn().context("cannot start pgbench")?;
        Ok(Self { child, folder: own })
    }

    /// Ends the load when all that was to begin until `end` has been logged; pgbench writes its log in blocks.
    pub(super) async fn logged_until(mut self, end: f64) -> Result<Vec<Transaction>> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                let errors = fs::read_to_string(self.folder.join("errors")).unwrap_or_default();
                let last = errors.lines().last().unwrap_or_default();
                bail!("pgbench ended by itself ({status}), all its sessions were lost: {last}");
            }
            let logs = self.logs()?;
            let is_past = |log: &Vec<Transaction>| log.last().is_some_and(|last| last.began() > end + 1.0);
            if !logs.is_empty() && logs.iter().all(is_past) {
                self.child.kill().await?;
                return Ok(logs.into_iter().flatten().collect());
            }
            ensure!(started.elapsed() < DRAINED_WITHIN, "pgbench does not come to the end of what was to be done");
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// One for each thread.
    fn logs(&self) -> Result<Vec<Vec<Transaction>>> {
        let mut logs = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log.")) {
                logs.push(parsed(&fs::read_to_string(&path)?));
            }
        }
        Ok(logs)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Transaction {
    writes: bool,
    /// Seconds since 1970.
    ended: f64,
    /// Seconds, from when it was to begin.
    took: f64,
}

impl Transaction {
    fn began(&self) -> f64 {
        self.ended - self.took
    }
}

/// `client number microseconds script seconds microseconds lag`; the last line may be half written.
fn parsed(log: &str) -> Vec<Transaction> {
    let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let line = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        let took: f64 = words.next()?.parse().ok()?;
        let script: u32 = words.next()?.parse().ok()?;
        let (seconds, micros): (f64, f64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Transaction { writes: script == WRITER, ended: seconds + micros / 1e6, took: took / 1e6 })
    };
    whole.lines().filter_map(line).collect()
}

/// Milliseconds, of the writers that were to begin between two moments.
pub(super) fn writers_p99(transactions: &[Transaction], from: f64, to: f64) -> Result<f64> {
    let within = |at: f64| at >= from && at <= to;
    let writers = transactions.iter().filter(|one| one.writes && within(one.began()));
    let mut took: Vec<f64> = writers.map(|one| one.took * 1e3).collect();
    // Of fewer, the hundredth part is no transaction.
    ensure!(took.len() >= 100, "only {} transactions of writers in {:.0} s", took.len(), to - from);
    took.sort_by(f64::total_cmp);
    Ok(took[(took.len() * 99).div_ceil(100) - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_pgbenchs_log_is_read_and_half_a_line_is_not() {
        let log = "0 199 2241 0 1175850568 995598 12\n1 7 1500000 1 1175850570 500000 3\n2 8 15";
        let read = parsed(log);
        assert_eq!(read.len(), 2);
        assert!(!read[0].writes && read[1].writes);
        assert!((read[1].began() - 1_175_850_569.0).abs() < 1e-6, "from when it was to begin");
    }

    #[test]
    fn the_99th_of_a_hundred_writers_counts_and_readers_do_not() {
        let one = |number: u32, writes| {
            let took = f64::from(number) / 1e3;
            Transaction { writes, ended: 10.0 + took, took }
        };
        let mut all: Vec<Transaction> = (1..=100).map(|number| one(number, true)).collect();
        all.extend((1..=100).map(|_| one(9_000, false)));
        assert!((writers_p99(&all, 9.9, 10.1).unwrap() - 99.0).abs() < 1e-6);
        assert!(writers_p99(&all, 20.0, 30.0).is_err(), "none was to begin then");
    }
}
