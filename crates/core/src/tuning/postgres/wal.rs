//! Checkpoints and what the WAL costs.

use super::{Amount, Desk, GIB, matters, rounded, useful};
use crate::quantity::{format_bytes, format_seconds};

const MANUAL: &str = "https://www.postgresql.org/docs/current/wal-configuration.html";
const WAL: &str = "https://www.postgresql.org/docs/current/runtime-config-wal.html";
const REPLICATION: &str = "https://www.postgresql.org/docs/current/runtime-config-replication.html";
/// As many checkpoints say something about a server.
const ENOUGH: u64 = 20;
/// A mean over less than an hour is that of one piece of work.
const LONG_ENOUGH: f64 = 3_600.0;
/// Of less than a day the work may be another than of most days: an import, the first fill.
const WHOLE_DAY: f64 = 86_400.0;
/// The busiest checkpoint of a day writes about twice what the mean does.
const PEAK: f64 = 2.0;
/// With fewer seconds between checkpoints, more time is advised as well.
const SHORT_PAUSE: f64 = 600.0;
const ROOMY_PAUSE: f64 = 900.0;

pub(super) fn look(desk: &mut Desk<'_>) {
    checkpoints(desk);
    if let Some(current) = desk.number("checkpoint_completion_target") {
        if current < 0.85 {
            let reason = "a checkpoint that is spread over most of the time until the next one disturbs queries less; 0.9 is \
                          the default from 14 on";
            desk.advise("checkpoint_completion_target", &Amount::Number(0.9), matters(reason.to_owned(), WAL));
        } else {
            desk.suits("checkpoint_completion_target");
        }
    }
    compression(desk);
    slots(desk);
}

/// Judged by what happened: with room for the WAL, checkpoints come by the clock.
fn checkpoints(desk: &mut Desk<'_>) {
    let (Some(most), Some(least), Some(pause)) =
        (desk.number("max_wal_size"), desk.number("min_wal_size"), desk.number("checkpoint_timeout"))
    else {
        return;
    };
    let Ok(seen) = &desk.seen.checkpoints else {
        return desk.cannot("max_wal_size", "how often checkpoints were asked for could not be read");
    };
    let (requested, all) = (seen.requested, seen.requested + seen.timed);
    let rate = rate(desk);
    let wanted = rate.map(|rate| room(desk, rate, if pause < SHORT_PAUSE { ROOMY_PAUSE } else { pause }));
    // Up to a third: backups, bulk loads and shutdowns ask for some.
    let (is_early, is_young) = (all >= ENOUGH && requested * 3 >= all, all < ENOUGH);
    let may_be_small = is_young && wanted.is_none_or(|wanted| wanted > most);
    if !is_early && !may_be_small {
        desk.suits("max_wal_size");
        desk.suits("min_wal_size");
        return desk.suits("checkpoint_timeout");
    }
    if is_young && wanted.is_none() {
        return desk.cannot(
            "max_wal_size",
            "there were fewer than 20 checkpoints, and how much WAL is written is not known (pg_stat_wal tells it from 14 on, \
             after an hour): look again tomorrow",
        );
    }
    let double = rounded((most * 2.0).max(2.0 * GIB));
    let unbound = wanted.unwrap_or(0.0).max(if is_early { double } else { 0.0 });
    let mut reason = why_more(is_early.then_some((requested, all)), rate, pause);
    let bound = bound(desk);
    let target = if bound.is_some() { unbound.min(double) } else { unbound };
    if let Some(why) = bound {
        reason = format!("{reason}. {why}");
    }
    if let Some(free) = lacking(desk, target - most) {
        let why = format!("{} would do ({reason}), and the disk has {} free", format_bytes(target), format_bytes(free));
        return desk.cannot("max_wal_size", &why);
    }
    desk.advise("max_wal_size", &Amount::Bytes(target), matters(reason, MANUAL));
    if least * 8.0 < target {
        let reason =
            format!("files that are used again are cheaper than new ones; a quarter of {}", format_bytes(target));
        desk.advise("min_wal_size", &Amount::Bytes(rounded(target / 4.0)), useful(&reason, MANUAL));
    }
    if pause < SHORT_PAUSE {
        let reason = "the same: fewer checkpoints write fewer whole pages. Recovery after a crash takes longer";
        desk.advise("checkpoint_timeout", &Amount::Seconds(ROOMY_PAUSE), useful(reason, MANUAL));
    }
}

/// Why no more than the double is advised at once, where a large value could fill the disk or follow from an unusual hour.
fn bound(desk: &Desk<'_>) -> Option<&'static str> {
    let room = &desk.seen.room;
    if !matches!(room.disk, Ok(Some(_))) {
        return Some(
            "No more than the double, for how much the disk has free is not known here: say how large it is with `disk = \
             \"100 GiB\"` in its table of the configuration",
        );
    }
    let counted = room.written.as_ref().ok().and_then(|written| written.seconds);
    counted
        .is_some_and(|seconds| seconds < WHOLE_DAY)
        .then_some("No more than the double, for the WAL is counted for less than a day: look again tomorrow")
}

/// Bytes of WAL in a second; none where nobody counts them, or not for long.
fn rate(desk: &Desk<'_>) -> Option<f64> {
    let written = desk.seen.room.written.as_ref().ok()?;
    written.rate().filter(|_| written.seconds.is_some_and(|seconds| seconds >= LONG_ENOUGH))
}

/// What holds the WAL of a checkpoint of so many seconds. One is asked for when the WAL since the last began is
/// `max_wal_size / (1 + checkpoint_completion_target)` (`CalculateCheckpointSegments` of xlog.c).
fn room(desk: &Desk<'_>, rate: f64, pause: f64) -> f64 {
    let spread = desk.settings.number("checkpoint_completion_target").unwrap_or(0.9);
    rounded_up(rate * pause * (1.0 + spread) * PEAK)
}

fn rounded_up(bytes: f64) -> f64 {
    let down = rounded(bytes.max(1.0));
    if down >= bytes { down } else { down + (bytes.log2().floor() - 2.0).exp2() }
}

fn why_more(checkpoints: Option<(u64, u64)>, rate: Option<f64>, pause: f64) -> String {
    let early = checkpoints.map(|(requested, all)| {
        format!(
            "{:.0} % of {all} checkpoints came because this much WAL was full, not by the clock, and after each one whole \
             pages are written again",
            requested as f64 * 100.0 / all as f64
        )
    });
    let rate = match rate {
        Some(rate) => format!(
            "on average {} of WAL are written in the {} between two checkpoints, and about twice that when it is busy",
            format_bytes(rate * pause),
            format_seconds(pause)
        ),
        None => "how much WAL is written is not known here (pg_stat_wal tells it from 14 on, after an hour), so this is unsure, \
                 and no more than the double: look again after a day"
            .to_owned(),
    };
    let both: Vec<String> = early.into_iter().chain([rate]).collect();
    format!("{}. Needs so much room in pg_wal, and recovery after a crash takes longer", both.join("; "))
}

/// The free bytes of the disk, where half of them would not hold so many more.
fn lacking(desk: &Desk<'_>, more: f64) -> Option<f64> {
    let disk = desk.seen.room.disk.as_ref().ok()?.as_ref()?;
    let free = disk.free as f64;
    (more * 2.0 > free).then_some(free)
}

/// Where the WAL goes somewhere, it costs more than the disk it is written to.
fn compression(desk: &mut Desk<'_>) {
    let is_sent = desk.seen.archiver.as_ref().is_ok_and(|archiver| archiver.enabled)
        || desk.seen.replication.as_ref().is_ok_and(|replication| !replication.standbys.is_empty())
        || desk.seen.horizon.as_ref().is_ok_and(|horizon| !horizon.slots.is_empty());
    match desk.settings.value("wal_compression") {
        Some("off") if is_sent => {
            let reason = "WAL is archived or streamed from here: whole pages in it shrink to about half, for a little work of \
                          the processor. On 15 and later lz4 is cheaper still, where the server was built with it";
            desk.advise("wal_compression", &Amount::Word("on"), useful(reason, WAL));
        }
        Some(_) => desk.suits("wal_compression"),
        None => {}
    }
}

/// A bound is advised only where no slot comes near to it: one that keeps more is lost with the next checkpoint.
fn slots(desk: &mut Desk<'_>) {
    const NAME: &str = "max_slot_wal_keep_size";
    let is_open = match desk.settings.number(NAME) {
        Some(kept) => kept < 0.0,
        None => return,
    };
    let Ok(horizon) = &desk.seen.horizon else {
        if is_open {
            desk.cannot(NAME, "how much WAL the slots keep could not be read, and a bound below that would lose them");
        }
        return;
    };
    if horizon.slots.is_empty() {
        return;
    }
    if !is_open {
        return desk.suits(NAME);
    }
    let most = desk.settings.number("max_wal_size").unwrap_or(GIB);
    let target = rounded((most * 4.0).max(16.0 * GIB));
    let kept = horizon.slots.iter().filter(|slot| !slot.is_lost).filter_map(|slot| Some((slot.retained?, slot)));
    if let Some((kept, slot)) = kept.max_by_key(|(kept, _)| *kept)
        && kept as f64 * 2.0 > target
    {
        let why = format!(
            "slot {} keeps {} of WAL now, and a bound near that would lose it: see first why its consumer is behind. While \
             it is, no bound below {}; later {} would do",
            slot.name,
            format_bytes(kept as f64),
            format_bytes(kept as f64 * 2.0),
            format_bytes(target)
        );
        return desk.cannot(NAME, &why);
    }
    let reason = "a slot whose consumer is gone keeps WAL until the disk is full and the server stops. With a bound the slot \
                  is lost instead, and its consumer made anew. Choose it by the room in pg_wal";
    desk.advise(NAME, &Amount::Bytes(target), matters(reason.to_owned(), REPLICATION));
}
