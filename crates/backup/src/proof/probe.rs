//! The user's own probes: what he wants to know of a restored Postgres before he calls it alive.
//!
//! They come last, because what was restored may change from here on: a role is made for those that read, and a service
//! writes what it likes.

mod service;
mod sql;

pub use service::{PORT, Service};
pub use sql::Wanted;

use super::shortened;
use crate::scratch::{ScratchServer, Setback};
use groundskeeper_core::quantity::format_seconds;
use std::time::{Duration, Instant};

/// Characters of an answer, or of a question, that are told.
const TOLD: usize = 120;

/// A question to a restored Postgres.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    pub name: String,
    /// The Postgres, by the name of its part in a set: `postgres.main`.
    pub system: String,
    pub database: String,
    /// The role of the restored cluster that asks. None: for SQL one that may read everything and no more, for a service
    /// the owner of the database.
    pub user: Option<String>,
    pub question: Question,
    /// One that has no answer by then has failed.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// One statement that only reads.
    Sql {
        sql: String,
        wanted: Wanted,
    },
    Service(Service),
}

impl Probe {
    async fn ask(&self, server: &ScratchServer<'_>, time: Time) -> Result<String, Setback> {
        match &self.question {
            Question::Sql { sql, wanted } => sql::ask(server, self, sql, wanted, time).await,
            Question::Service(service) => service::ask(server, self, service, time).await,
        }
    }

    /// What is asked, in a few words.
    fn asked(&self) -> String {
        match &self.question {
            Question::Sql { sql, .. } => told(sql),
            Question::Service(service) => service.asked(),
        }
    }
}

/// How long one probe may take.
#[derive(Debug, Clone, Copy)]
struct Time {
    within: Duration,
    until: Instant,
    /// The drill has no more left: its end is no fault of the set.
    cut: bool,
}

impl Time {
    fn of(timeout: Duration, left: Duration, now: Instant) -> Self {
        let within = timeout.min(left);
        Self { within, until: now + within, cut: left < timeout }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// What it means that it is over; `besides` tells more.
    fn over(&self, besides: &str) -> Setback {
        let within = format_seconds(self.within.as_secs_f64());
        if self.cut {
            let why = format!("had no answer in {within}, and the drill has no more time{besides}");
            return Setback::NotTried(why);
        }
        Setback::Failed(format!("gave no answer within {within}{besides}"))
    }
}

/// Puts one after the other, and gives what each of them was answered. All of them are put, whatever becomes of one.
pub(super) async fn put(server: &ScratchServer<'_>, probes: &[Probe], until: Instant) -> Result<Vec<String>, Setback> {
    let reads = |probe: &Probe| probe.user.is_none() && matches!(probe.question, Question::Sql { .. });
    if probes.iter().any(reads) {
        sql::make_reader(server).await?;
    }
    let (mut answers, mut failed, mut untried) = (Vec::new(), Vec::new(), Vec::new());
    for probe in probes {
        let now = Instant::now();
        let left = until.saturating_duration_since(now);
        let asked = if left.is_zero() {
            Err(Setback::NotTried("was not put: the drill has no more time".to_owned()))
        } else {
            // On the heap: a service's state is large.
            Box::pin(probe.ask(server, Time::of(probe.timeout, left, now))).await
        };
        let named = |why: &str| format!("the probe `{}` ({}) {why}", probe.name, probe.asked());
        match asked {
            Ok(answer) => answers.push(format!("the probe `{}` {answer}", probe.name)),
            Err(Setback::Failed(why)) => failed.push(named(&why)),
            Err(Setback::NotTried(why)) => untried.push(named(&why)),
        }
    }
    // What failed is worse than what is not known.
    match (failed.is_empty(), untried.is_empty()) {
        (true, true) => Ok(answers),
        (true, false) => Err(Setback::NotTried(untried.join("; "))),
        (false, _) => Err(Setback::Failed([failed, untried].concat().join("; "))),
    }
}

/// In one line, without what a terminal would obey, and not too long.
fn told(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    if line.chars().count() <= TOLD {
        return line;
    }
    line.chars().take(TOLD).collect::<String>() + "…"
}

/// The same for several lines.
fn told_lines(text: &str) -> String {
    shortened(&text.chars().filter(|c| *c == '\n' || !c.is_control()).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_the_drill_does_not_have_is_no_fault_of_the_set() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let whole = Time::of(second, 2 * second, now);
        assert_eq!(whole.over("; x"), Setback::Failed("gave no answer within 1 s; x".to_owned()));
        let cut = Time::of(2 * second, second, now);
        assert_eq!(cut.until, now + second);
        assert!(matches!(cut.over(""), Setback::NotTried(why) if why.starts_with("had no answer in 1 s")));
    }

    #[test]
    fn what_is_told_is_one_short_line_without_controls() {
        assert_eq!(told("SELECT\n  count(*)\tFROM \u{1b}[31mdocs"), "SELECT count(*) FROM [31mdocs");
        assert_eq!(told(&"x".repeat(1000)).chars().count(), TOLD + 1);
        assert_eq!(told_lines("a\n\u{1b}[0mb\u{7}\n"), "a\n[0mb");
    }
}
