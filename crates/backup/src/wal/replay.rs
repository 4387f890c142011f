//! From a set to a time: which WAL leads there, and laying it out so that Postgres replays it.
//!
//! Where the time is in the WAL nobody knows without reading it. A segment holds nothing that is younger than its file in
//! the repository, so older ones are only fetched; from there on `pg_waldump` looks for the first transaction after the
//! time, and what follows is left where it is.

use super::archive::{Archive, Holdings};
use super::history::Path as Way;
use super::name::{Segment, history_file};
use super::seal::Seal;
use super::tablespaces::Start;
use crate::error::{Error, Result};
use crate::programs::{PATH, Programs};
use crate::repository::Repository;
use crate::scratch::Until;
use groundskeeper_core::quantity::{after, seconds_between};
use groundskeeper_core::receipt::{Cluster, Lsn, Part, Receipt, Rung};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// By so much the clocks of the server and of the repository may differ.
const SKEW_SECONDS: f64 = 300.0;
/// A partial segment is replaced every two seconds while its server writes.
const TRIES: usize = 5;

/// How far WAL is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// All that is in the repository.
    Latest,
    /// Everything that was committed at or before this.
    Time(Timestamp),
}

/// The newest set from which WAL may lead to a target: with a Postgres (the named one) in it, and finished by then.
pub fn newest_before<'r>(receipts: &'r [Receipt], target: Target, only: Option<&str>) -> Option<&'r Receipt> {
    let is_ours = |part: &Part| part.postgres.is_some() && only.is_none_or(|only| only == part.name);
    let is_finished = |receipt: &Receipt| match target {
        Target::Latest => true,
        Target::Time(at) => after(receipt.made, receipt.took) <= at,
    };
    // One whose snapshot is damaged cannot be restored.
    let is_there = |receipt: &Receipt| receipt.failed().all(|(rung, _)| rung != Rung::Stored);
    let mut fit = receipts.iter().filter(|receipt| is_there(receipt) && receipt.parts.iter().any(is_ours));
    fit.find(|receipt| is_finished(receipt))
}

/// WAL that was laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Laid {
    /// The timeline that recovery follows.
    pub(crate) timeline: u32,
    /// Recovery stops there; None: at the end of the WAL.
    pub(crate) until: Option<Timestamp>,
    /// Where the first transaction after that time ended.
    pub(crate) stops: Option<Start>,
    pub(crate) segments: u64,
    /// Bytes of each.
    pub(crate) size: u64,
    /// Where the WAL ends that was laid out.
    pub(crate) end: Lsn,
    /// When the last of it came into the repository.
    pub(crate) stored: Option<Timestamp>,
}

/// One segment on the way, and whether it may be the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Whole(Segment, Timestamp),
    Partial(Segment, u64, Timestamp),
    Missing(Segment),
}

/// Writes the WAL after a set into `folder`, which is there. `programs` have `pg_waldump`.
pub(crate) fn lay(
    repository: &Arc<Repository>,
    cluster: &Cluster,
    target: Target,
    folder: &Path,
    programs: &Programs,
) -> Result<Laid> {
    let archive = archive(repository, cluster)?;
    for _ in 0..TRIES {
        let holdings = archive.holdings()?;
        let laying = Laying { archive: &archive, cluster, target, folder, programs, holdings };
        if let Some(laid) = laying.lay()? {
            return Ok(laid);
        }
    }
    Err(Error::Wal("the WAL in the repository changed while it was read; try again".to_owned()))
}

/// Bytes that the WAL after a set takes when it is laid out. With a time as the target it is known to the segment only
/// once it is read; this is what will most likely do.
pub(crate) fn room(repository: &Arc<Repository>, cluster: &Cluster, target: Target) -> Result<u64> {
    let archive = archive(repository, cluster)?;
    let holdings = archive.holdings()?;
    let (_, way) = way(&archive, &holdings, cluster)?;
    let mut segments = 0;
    for step in steps(&holdings, &way, cluster, archive.size) {
        let (Step::Whole(_, stored) | Step::Partial(_, _, stored)) = step else { break };
        segments += 1;
        if matches!(target, Target::Time(at) if seconds_between(at, stored) > SKEW_SECONDS) {
            break;
        }
    }
    Ok(segments * archive.size)
}

fn archive(repository: &Arc<Repository>, cluster: &Cluster) -> Result<Archive> {
    let id = &cluster.system_identifier;
    let nothing = || {
        Error::Wal(format!(
            "there is no WAL of the cluster {id} in the repository; `wal = true` in [backup] streams it, from the next \
             set on any time can be restored"
        ))
    };
    let about = Archive::about(repository, id)?.ok_or_else(nothing)?;
    let seal = Seal::find(repository)?.ok_or_else(nothing)?;
    Ok(Archive::new(Arc::clone(repository), seal, id, about.segment))
}

/// The newest timeline that the set's own leads to, and the way there.
fn way(archive: &Archive, holdings: &Holdings, cluster: &Cluster) -> Result<(u32, Way)> {
    let from = cluster.timeline;
    let with_wal = holdings.whole.keys().chain(holdings.partial.keys()).map(|segment| segment.timeline);
    let newest: BTreeSet<u32> = with_wal.filter(|timeline| *timeline > from).collect();
    for timeline in newest.into_iter().rev() {
        let Some(history) = archive.history(timeline)? else { continue };
        let way = Way::parsed(timeline, &history);
        let leads = |way: &Way| way.left(from).is_some_and(|left| left >= cluster.stop);
        if let Some(way) = way.filter(leads) {
            return Ok((timeline, way));
        }
    }
    Ok((from, Way::alone(from)))
}

struct Laying<'a> {
    archive: &'a Archive,
    cluster: &'a Cluster,
    target: Target,
    folder: &'a Path,
    programs: &'a Programs,
    holdings: Holdings,
}

impl Laying<'_> {
    /// None when something went away meanwhile.
    fn lay(&self) -> Result<Option<Laid>> {
        let (timeline, way) = way(self.archive, &self.holdings, self.cluster)?;
        for (step, _) in way.from(2) {
            let Some(history) = self.archive.history(step)? else { continue };
            self.write(&history_file(step), &history)?;
        }
        let size = self.archive.size;
        let mut laid =
            Laid { timeline, until: None, stops: None, segments: 0, size, end: self.cluster.stop, stored: None };
        let mut before: Option<Segment> = None;
        for step in steps(&self.holdings, &way, self.cluster, size) {
            let (segment, content, stored) = match step {
                Step::Missing(segment) => return Err(self.gap(segment)),
                Step::Whole(segment, stored) => (segment, self.archive.whole(segment)?, stored),
                Step::Partial(segment, bytes, stored) => (segment, self.archive.partial(segment, bytes)?, stored),
            };
            let Some(mut content) = content else { return Ok(None) };
            laid.segments += 1;
            laid.end = Lsn(segment.start(size).0 + content.len() as u64);
            laid.stored = Some(stored);
            // Postgres wants whole files; it stops where no record follows.
            content.resize(size as usize, 0);
            self.write(&segment.file(size), &content)?;
            if let Target::Time(at) = self.target
                && seconds_between(at, stored) > -SKEW_SECONDS
                && let Some(lsn) =
                    self.beyond(before.filter(|before| before.timeline == segment.timeline), segment, at)?
            {
                laid.until = Some(at);
                laid.stops = Some(Start { at: lsn, timeline: segment.timeline });
                return Ok(Some(laid));
            }
            before = Some(segment);
        }
        Ok(Some(laid))
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, content).map_err(|error| Error::Target { path, why: error.to_string() })
    }

    fn gap(&self, segment: Segment) -> Error {
        let size = self.archive.size;
        let until = match self.target {
            Target::Latest => String::new(),
            Target::Time(at) => format!(", and {at} is not before it"),
        };
        Error::Wal(format!(
            "WAL is missing in the repository from {} on (segment {}){until}: from this set one can go no further; choose \
             an earlier time, or a set that was made after the gap",
            segment.start(size),
            segment.file(size)
        ))
    }

    /// Where in this segment the first transaction ended after `at`. Its record may begin in the segment before.
    fn beyond(&self, before: Option<Segment>, segment: Segment, at: Timestamp) -> Result<Option<Lsn>> {
        let size = self.archive.size;
        let (start, end) = (before.unwrap_or(segment).start(size), Lsn(segment.start(size).0 + size));
        let mut command = Command::new(self.programs.path("pg_waldump"));
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").env("TZ", "UTC");
        command.arg("--path").arg(self.folder).arg("--rmgr=Transaction");
        command.arg(format!("--timeline={}", segment.timeline)).arg(format!("--start={start}"));
        command.arg(format!("--end={end}")).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
        let cannot = |error: io::Error| Error::Wal(format!("pg_waldump cannot look for {at} in the WAL: {error}"));
        let mut child = command.spawn().map_err(cannot)?;
        let lines = child.stdout.take().map(|output| BufReader::new(output).lines().map_while(io::Result::ok));
        let ends_after = |line: String| Some(line).filter(|line| ended(line).is_some_and(|ended| ended > at));
        let found = lines.into_iter().flatten().find_map(ends_after).map(|line| position(&line));
        // It may have much more to say.
        let _ = child.kill();
        let _ = child.wait();
        let unclear = || Error::Wal("what pg_waldump says of the WAL is not as we know it".to_owned());
        found.map(|lsn| lsn.ok_or_else(unclear)).transpose()
    }
}

/// The segments on the way, in order; the first that is missing is the last that is told.
fn steps(holdings: &Holdings, way: &Way, cluster: &Cluster, size: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    // What comes before is in the set itself.
    let mut next = cluster.stop.0 / size;
    for (timeline, left) in way.from(cluster.timeline) {
        let segment = |number| Segment { timeline, number };
        // A segment in which a timeline was left is read from the one after it.
        let last = left.map(|left| left.0 / size);
        let end =
            last.or_else(|| holdings.end_on(timeline, size).map(|end| end.at.0.div_ceil(size))).unwrap_or_default();
        while next < end {
            let step = match (holdings.whole.get(&segment(next)), holdings.partial.get(&segment(next))) {
                (Some(at), _) => Step::Whole(segment(next), *at),
                // The set itself has more of it.
                (None, Some((bytes, _))) if next * size + bytes <= cluster.stop.0 => return steps,
                (None, Some((bytes, at))) => Step::Partial(segment(next), *bytes, *at),
                (None, None) => Step::Missing(segment(next)),
            };
            steps.push(step);
            next += 1;
            match step {
                Step::Whole(..) => {}
                // WAL goes on behind it, so the rest of it is missing.
                Step::Partial(..) if next < end || last.is_some() => {
                    steps.push(Step::Missing(segment(next - 1)));
                    return steps;
                }
                Step::Partial(..) | Step::Missing(_) => return steps,
            }
        }
    }
    steps
}

/// When the transaction of a line of `pg_waldump` ended: `desc: COMMIT 2026-11-22 08:00:00.123456 UTC; …`.
fn ended(line: &str) -> Option<Timestamp> {
    let (_, description) = line.split_once("desc: ")?;
    if !description.starts_with("COMMIT") && !description.starts_with("ABORT") {
        return None;
    }
    let words: Vec<&str> = description.split([' ', ';']).collect();
    words.windows(2).find_map(|pair| format!("{}T{}Z", pair[0], pair[1]).parse().ok())
}

/// Where it lies: `lsn: 0/04000428`.
fn position(line: &str) -> Option<Lsn> {
    let (_, rest) = line.split_once("lsn: ")?;
    rest.split([',', ' ']).next()?.parse().ok()
}

const TARGETS: [&str; 5] =
    ["recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_xid", "recovery_target_time"];

/// What recovery is told, beside `restore_command`. Every other target is unset: two are refused.
pub(crate) fn recovery(timeline: u32, until: Until) -> Vec<(&'static str, String)> {
    let target = match until {
        Until::End => None,
        Until::Time(at) => Some(("recovery_target_time", at.strftime("%Y-%m-%d %H:%M:%S.%6f+00").to_string())),
        Until::Before(at) => Some(("recovery_target_lsn", at.to_string())),
    };
    let inclusive = if matches!(until, Until::Before(_)) { "off" } else { "on" };
    let mut settings = vec![
        ("recovery_target_timeline", timeline.to_string()),
        ("recovery_target_inclusive", inclusive.to_owned()),
        ("recovery_target_action", "promote".to_owned()),
    ];
    let wanted = target.as_ref().map(|(name, _)| *name);
    settings.extend(TARGETS.into_iter().filter(|name| Some(*name) != wanted).map(|name| (name, String::new())));
    // Last: to unset one after another was set is to Postgres as much as to set two.
    settings.extend(target);
    settings
}

/// Lets a restored data directory replay what lies in `wal` when it is started.
pub(crate) fn prepare(data: &Path, wal: &Path, laid: &Laid) -> io::Result<()> {
    let mut settings = vec![("restore_command", copy_from(wal))];
    settings.extend(recovery(laid.timeline, laid.until.map_or(Until::End, Until::Time)));
    // What stands last in it counts.
    let file = data.join("postgresql.auto.conf");
    let mut text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    text.push_str("\n# Written by groundskeeper for this recovery; of no effect once it is over.\n");
    for (name, value) in settings {
        let _ = writeln!(text, "{name} = '{}'", value.replace('\\', "\\\\").replace('\'', "''"));
    }
    fs::write(file, text)?;
    match fs::remove_file(data.join("standby.signal")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(data.join("recovery.signal"), "")
}

/// The shell's command that fetches a file of WAL.
fn copy_from(wal: &Path) -> String {
    let folder = wal.display().to_string().replace('%', "%%").replace('\'', "'\\''");
    format!("cp '{folder}'/%f \"%p\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::name;
    use std::collections::BTreeMap;

    const SIZE: u64 = 16 << 20;

    fn cluster(timeline: u32, stop: u64) -> Cluster {
        Cluster {
            version: 150_000,
            system_identifier: "7".into(),
            timeline,
            start: Lsn(stop),
            stop: Lsn(stop),
            tablespaces: Vec::new(),
            superuser: "postgres".into(),
            settings: BTreeMap::new(),
            read_in_place: false,
        }
    }

    fn holdings(whole: &[(u32, u64)], partial: &[(u32, u64, u64)]) -> Holdings {
        let segment = |timeline, number| Segment { timeline, number };
        let whole = whole.iter().map(|(timeline, number)| name::whole("7", segment(*timeline, *number), SIZE));
        let partial = partial
            .iter()
            .map(|(timeline, number, bytes)| name::partial("7", segment(*timeline, *number), SIZE, *bytes));
        Holdings::read(whole.chain(partial).map(|name| (name, Timestamp::UNIX_EPOCH)), SIZE)
    }

    /// `1/3`, `1/4+9` for a partial one, `1/5?` for a missing one.
    fn told(holdings: &Holdings, way: &Way, cluster: &Cluster) -> Vec<String> {
        let told = |step: &Step| match step {
            Step::Whole(segment, _) => format!("{}/{}", segment.timeline, segment.number),
            Step::Partial(segment, bytes, _) => format!("{}/{}+{bytes}", segment.timeline, segment.number),
            Step::Missing(segment) => format!("{}/{}?", segment.timeline, segment.number),
        };
        steps(holdings, way, cluster, SIZE).iter().map(told).collect()
    }

    #[test]
    fn the_way_goes_from_the_end_of_the_set_to_the_end_of_the_wal_without_a_gap() {
        let way = Way::alone(1);
        let all = holdings(&[(1, 1), (1, 2), (1, 3)], &[(1, 4, 9)]);
        assert_eq!(told(&all, &way, &cluster(1, 2 * SIZE + 5)), ["1/2", "1/3", "1/4+9"]);
        let gap = holdings(&[(1, 2), (1, 4)], &[]);
        assert_eq!(told(&gap, &way, &cluster(1, 2 * SIZE + 5)), ["1/2", "1/3?"]);
        let torn = holdings(&[(1, 4)], &[(1, 3, 9)]);
        assert_eq!(told(&torn, &way, &cluster(1, 3 * SIZE + 5)), ["1/3+9", "1/3?"]);
        let before = holdings(&[(1, 1)], &[]);
        assert_eq!(told(&before, &way, &cluster(1, 2 * SIZE)), Vec::<String>::new());
        let short = holdings(&[], &[(1, 2, 5)]);
        assert_eq!(told(&short, &way, &cluster(1, 2 * SIZE + 5)), Vec::<String>::new(), "the set has more of it");
        let late = holdings(&[(1, 7)], &[]);
        assert_eq!(told(&late, &way, &cluster(1, 2 * SIZE)), ["1/2?"]);
    }

    #[test]
    fn where_a_timeline_was_left_its_successor_has_the_segment() {
        let way = Way::parsed(2, format!("1\t{}\tpromoted\n", Lsn(4 * SIZE + 100)).as_bytes()).unwrap();
        let both = holdings(&[(1, 2), (1, 3), (2, 4)], &[(1, 4, 100), (2, 5, 7)]);
        assert_eq!(told(&both, &way, &cluster(1, 2 * SIZE + 5)), ["1/2", "1/3", "2/4", "2/5+7"]);
        let lost = holdings(&[(1, 2), (2, 4)], &[]);
        assert_eq!(told(&lost, &way, &cluster(1, 2 * SIZE + 5)), ["1/2", "1/3?"]);
        assert_eq!(told(&both, &way, &cluster(2, 5 * SIZE + 1)), ["2/5+7"]);
    }

    #[test]
    fn the_end_of_a_transaction_is_read_whatever_kind_it_is_of() {
        let line = |desc: &str| {
            format!("rmgr: Transaction len (rec/tot): 34/ 34, tx: 734, lsn: 0/0150, prev 0/0, desc: {desc}")
        };
        let at: Timestamp = "2026-11-22T08:00:00.123456Z".parse().unwrap();
        for desc in [
            "COMMIT 2026-11-22 08:00:00.123456 UTC",
            "COMMIT 2026-11-22 08:00:00.123456 UTC; inval msgs: catcache 7",
            "ABORT 2026-11-22 08:00:00.123456 UTC",
            "COMMIT_PREPARED 731: 2026-11-22 08:00:00.123456 UTC",
        ] {
            assert_eq!((ended(&line(desc)), position(&line(desc))), (Some(at), Some(Lsn(0x150))), "{desc}");
        }
        for desc in ["ASSIGNMENT xtop 731: subxacts: 732", "PREPARE gid g: 2026-11-22 08:00:00.123456 UTC", ""] {
            assert_eq!(ended(&line(desc)), None, "{desc}");
        }
    }

    #[test]
    fn a_folder_with_an_odd_name_stays_one_word_of_the_command() {
        assert_eq!(copy_from(Path::new("/srv/it's 5%/wal")), "cp '/srv/it'\\''s 5%%/wal'/%f \"%p\"");
    }
}
