//! Whether replaying the WAL would leave the scratch place: [`tablespaces`] says how it could.

use super::{DataFolder, Setback, config};
use crate::programs::Programs;
use crate::wal::tablespaces::{self, Seen, Span, Start};
use std::time::Duration;

/// Where Postgres would begin to replay, by the `backup_label`.
///
/// Without a label Postgres would begin wherever its control file says, which it copied at some time during the backup:
/// the result looks well and is not. Such a folder counts as damaged.
fn label(data: &DataFolder<'_>) -> Result<Start, Setback> {
    let text = std::fs::read_to_string(data.path().join("backup_label"));
    let text = text.map_err(|error| Setback::Failed(format!("backup_label cannot be read: {error}")))?;
    parsed(&text).ok_or_else(|| Setback::Failed("backup_label does not say where the WAL starts".to_owned()))
}

fn parsed(text: &str) -> Option<Start> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
    let at = value("START WAL LOCATION:")?.parse().ok()?;
    Some(Start { at, timeline: value("START TIMELINE:")?.parse().ok()? })
}

/// Refuses WAL that makes a tablespace. Where the WAL is damaged, `pg_waldump` stops, and so will the replay.
pub(super) async fn stays_inside(programs: &Programs, data: &DataFolder<'_>, within: Duration) -> Result<(), Setback> {
    let from = label(data)?;
    let stops = data.replay().and_then(|replay| replay.stops);
    let span = Span { from, stops, size: config::segment_size(data.path()) };
    match tablespaces::look(programs, &data.path().join("pg_wal"), span, data.place().user(), within).await {
        Seen::Made(made) => match made.first() {
            None => Ok(()),
            Some(made) => {
                let when = if data.replay().is_some() { "in the WAL up to there" } else { "while the backup ran" };
                Err(Setback::NotTried(format!(
                    "a tablespace was made {when} ({made}); replaying that would write to where it lies, outside of the \
                     scratch place. Make another backup"
                )))
            }
        },
        Seen::OutOfTime => {
            Err(Setback::NotTried("the time for it was over while the WAL was looked through".to_owned()))
        }
        Seen::NotAll(why) => Err(Setback::NotTried(format!("the WAL could not be looked through: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_core::receipt::Lsn;

    #[test]
    fn the_label_says_where_replay_begins() {
        let text = "START WAL LOCATION: 1/2000028 (file 000000030000000100000002)\nCHECKPOINT LOCATION: 1/2000060\n\
                    BACKUP METHOD: streamed\nSTART TIMELINE: 3\n";
        assert_eq!(parsed(text), Some(Start { at: Lsn(0x1_0200_0028), timeline: 3 }));
        assert_eq!(parsed("BACKUP METHOD: streamed\n"), None);
    }
}
