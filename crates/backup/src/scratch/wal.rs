//! Whether replaying the WAL would leave the scratch place.
//!
//! `CREATE TABLESPACE` is in the WAL with the path as it was typed. Replay links to that path again and writes the
//! tablespace's files there: on the machine of the live server, over the live ones. So the WAL that would be replayed
//! is looked through before it is. No setting of Postgres does the same.

use super::{DataFolder, Setback, config};
use crate::programs::Programs;
use groundskeeper_core::receipt::Lsn;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Where Postgres would begin to replay, by the `backup_label`.
#[derive(Debug, PartialEq, Eq)]
struct Label {
    start: Lsn,
    timeline: u32,
}

/// Without a label Postgres would begin wherever its control file says, which it copied at some time during the backup:
/// the result looks well and is not. Such a folder counts as damaged.
fn label(data: &DataFolder<'_>) -> Result<Label, Setback> {
    let text = std::fs::read_to_string(data.path().join("backup_label"));
    let text = text.map_err(|error| Setback::Failed(format!("backup_label cannot be read: {error}")))?;
    parsed(&text).ok_or_else(|| Setback::Failed("backup_label does not say where the WAL starts".to_owned()))
}

fn parsed(text: &str) -> Option<Label> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
    let start = value("START WAL LOCATION:")?.parse().ok()?;
    Some(Label { start, timeline: value("START TIMELINE:")?.parse().ok()? })
}

/// Where the segments end that follow each other without a gap from the first one on.
fn end_of_wal(data: &Path, label: &Label, segment: u64) -> Option<Lsn> {
    // The name has the number in two parts, the upper one counting 4 GiB.
    let each = (1 << 32) / segment;
    let first = label.start.0 / segment;
    let is_there = |number: u64| {
        let name = format!("{:08X}{:08X}{:08X}", label.timeline, number / each, number % each);
        data.join("pg_wal").join(name).is_file()
    };
    let mut next = first;
    while is_there(next) {
        next += 1;
    }
    (next > first).then_some(Lsn(next * segment))
}

/// Refuses WAL that makes a tablespace. Where the WAL is damaged, `pg_waldump` stops, and so will the replay.
pub(super) async fn stays_inside(programs: &Programs, data: &DataFolder<'_>, within: Duration) -> Result<(), Setback> {
    let label = label(data)?;
    let segment = config::segment_size(data.path());
    // Without its first segment nothing is replayed; Postgres has the words for that.
    let Some(end) = end_of_wal(data.path(), &label, segment) else { return Ok(()) };
    let mut ways = vec![(label, end)];
    if data.replay().is_some() {
        ways.extend(later_timelines(data.path(), ways[0].0.timeline, segment));
    }
    for (label, end) in ways {
        looked_through(programs, data, &label, end, within).await?;
    }
    Ok(())
}

/// Where the WAL of each later timeline begins and ends.
fn later_timelines(data: &Path, timeline: u32, segment: u64) -> Vec<(Label, Lsn)> {
    let each = (1 << 32) / segment;
    let names = std::fs::read_dir(data.join("pg_wal")).into_iter().flatten().flatten();
    let mut first: BTreeMap<u32, u64> = BTreeMap::new();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.len() == 24) {
        let part = |from: usize| u32::from_str_radix(name.get(from..from + 8)?, 16).ok();
        let (Some(found), Some(upper), Some(lower)) = (part(0), part(8), part(16)) else { continue };
        let number = u64::from(upper) * each + u64::from(lower);
        first.entry(found).and_modify(|known| *known = number.min(*known)).or_insert(number);
    }
    let later = first.into_iter().filter(|(found, _)| *found > timeline);
    let ways = later.filter_map(|(timeline, number)| {
        let label = Label { start: Lsn(number * segment), timeline };
        let end = end_of_wal(data, &label, segment)?;
        Some((label, end))
    });
    ways.collect()
}

async fn looked_through(
    programs: &Programs,
    data: &DataFolder<'_>,
    label: &Label,
    end: Lsn,
    within: Duration,
) -> Result<(), Setback> {
    let arguments = vec![
        "--path".into(),
        data.path().join("pg_wal").into(),
        "--rmgr=Tablespace".into(),
        format!("--start={}", label.start).into(),
        // Told no end, it waits five seconds for the segment after the last.
        format!("--end={end}").into(),
        format!("--timeline={}", label.timeline).into(),
    ];
    let said = programs.run("pg_waldump", arguments, "", data.place().user(), within).await;
    let said = said.map_err(|error| Setback::NotTried(format!("pg_waldump cannot be run: {error}")))?;
    if said.status.is_none() {
        return Err(Setback::NotTried("the time for it was over while the WAL was looked through".to_owned()));
    }
    if let Some(made) = made_in(&said.text) {
        return Err(Setback::NotTried(format!(
            "a tablespace was made in the WAL that would be replayed ({made}); replaying that would write to where it \
             lies, outside of the scratch place. Make another backup"
        )));
    }
    if said.is_success() || STOPPED.iter().any(|words| said.text.contains(words)) {
        return Ok(());
    }
    Err(Setback::NotTried(format!("the WAL could not be looked through: {}", said.text.trim())))
}

/// What `pg_waldump` says where replay stops as well. Anything else means that it has not seen what Postgres would.
const STOPPED: [&str; 3] = ["error in WAL record at", "could not find", "could not read from file"];

/// `CREATE 16402 "/disk/ts"`.
fn made_in(records: &str) -> Option<&str> {
    let descriptions = records.lines().filter_map(|line| line.split_once("desc: ").map(|(_, description)| description));
    descriptions.into_iter().find(|description| description.starts_with("CREATE"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_says_where_replay_begins() {
        let text = "START WAL LOCATION: 1/2000028 (file 000000030000000100000002)\nCHECKPOINT LOCATION: 1/2000060\n\
                    BACKUP METHOD: streamed\nSTART TIMELINE: 3\n";
        assert_eq!(parsed(text), Some(Label { start: Lsn(0x1_0200_0028), timeline: 3 }));
        assert_eq!(parsed("BACKUP METHOD: streamed\n"), None);
    }

    #[test]
    fn the_wal_ends_at_its_first_gap() {
        let data = tempfile::tempdir().unwrap();
        std::fs::create_dir(data.path().join("pg_wal")).unwrap();
        for name in ["0000000300000001000000FE", "0000000300000001000000FF", "000000030000000200000000"] {
            std::fs::write(data.path().join("pg_wal").join(name), "").unwrap();
        }
        std::fs::write(data.path().join("pg_wal/000000030000000200000002"), "").unwrap();
        let end = |start, timeline| end_of_wal(data.path(), &Label { start: Lsn(start), timeline }, 16 << 20);
        assert_eq!(end(0x1_FE00_0028, 3), Some(Lsn(0x2_0100_0000)));
        assert_eq!(end(0x2_0100_0028, 3), None);
        assert_eq!(end(0x1_FE00_0028, 2), None);
    }

    #[test]
    fn a_made_tablespace_is_seen_and_a_dropped_one_is_not_one() {
        let line = |description: &str| {
            format!(
                "rmgr: Tablespace  len (rec/tot): 48/ 48, tx: 734, lsn: 0/04000428, prev 0/0, desc: {description}\n"
            )
        };
        let records = line("DROP 16399") + &line("CREATE 16402 \"/disk/ts\"");
        assert_eq!(made_in(&records), Some("CREATE 16402 \"/disk/ts\""));
        assert_eq!(made_in(&line("DROP 16399")), None);
        assert_eq!(made_in("pg_waldump: error: could not find file \"00\""), None);
    }
}
