//! The watch: every 30 seconds, the checks of every system; findings open, change and resolve; people hear of it; what
//! may be mended by itself is mended.
//!
//! Each system is judged and recorded the moment its reading arrives, so that one that hangs delays no other; and an
//! action that takes long goes on beside the watch.

use super::{Found, Shop, acceptance, bloat, calendar, deep, history, plans};
use crate::app::view;
use crate::record;
use crate::remediation::{Applied, Permission};
use crate::scheduler::{BoxFuture, End, Job, Mode};
use groundskeeper_core::check::{Judgement, Status, Tuning, judge_all};
use groundskeeper_core::finding::{Finding, Fingerprint};
use groundskeeper_core::lifecycle::{Change, Event, Track, advance};
use groundskeeper_core::observation::Observation;
use groundskeeper_core::plan::plan;
use groundskeeper_core::quantity::seconds_between;
use groundskeeper_core::sample::samples;
use groundskeeper_core::{SystemId, check};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// Most actions end within this time, and then the round tells of them. A vacuum may take an hour: the next look must
/// not wait for it.
const ACTIONS_WITHIN: Duration = Duration::from_secs(2);

pub(super) struct Watch(pub(super) Arc<Shop>);

impl Job for Watch {
    type Yield = Found;

    fn run(&self, mode: Mode) -> BoxFuture<'_, End<Found>> {
        Box::pin(async move {
            match round(&self.0, mode).await {
                Ok(end) => end,
                Err(error) => End { ok: false, summary: error.to_string(), found: Found::default() },
            }
        })
    }
}

async fn round(shop: &Shop, mode: Mode) -> record::Result<End<Found>> {
    let round = Round::watch(shop, |_| true, mode).await?;
    let mut found = Found { details: round.lines(), ..Found::default() };
    if mode == Mode::Real {
        tell(shop).await?;
    }
    let (plan, actions) = mend(shop, &round, mode).await?;
    let done = actions.iter().filter(|applied| matches!(applied, Applied::Done(_))).count();
    found.actions = actions.into_iter().map(view::action).collect();
    found.plan = Some(plan);
    let summary = round.summary(done);
    if mode == Mode::Real {
        shop.present.finish_round(shop.clock.now());
        if let Some(heartbeat) = &shop.heartbeat
            && let Err(error) = heartbeat.beat().await
        {
            tracing::warn!(%error, "the heartbeat did not arrive");
        }
    }
    Ok(End { ok: true, summary, found })
}

/// Puts the news of a round in the box (a loop of its own delivers: no dead channel delays a watch), and once an hour
/// forgets what is past its keeping time.
pub(super) async fn tell(shop: &Shop) -> record::Result<()> {
    let now = shop.clock.now();
    // Thinning reads whole tables; once an hour is plenty.
    let hour = |at: jiff::Timestamp| at.as_second().div_euclid(3600);
    let thin = shop.present.watched().is_none_or(|last| hour(last) != hour(now));
    if thin {
        shop.record.with(move |store| store.thin(now)).await?;
    }
    shop.pipeline.announce().await?;
    Ok(())
}

/// Plans for the open findings and applies what the guards allow.
pub(super) async fn mend(
    shop: &Shop,
    round: &Round,
    mode: Mode,
) -> record::Result<(groundskeeper_core::plan::Plan, Vec<Applied>)> {
    let situation = shop.executor.situation().await?;
    let open: Vec<Finding> = shop
        .record
        .with(|store| store.live_tracks())
        .await?
        .into_iter()
        // Only what this round saw for itself: an old finding of a system that does not answer now is no basis to act.
        .filter(|track| track.is_open() && track.clear_since.is_none() && round.saw(&track.finding.fingerprint))
        .filter(|track| situation.open.iter().any(|(fingerprint, _, _)| *fingerprint == track.finding.fingerprint))
        .map(|track| track.finding)
        .collect();
    let plan = plan(&open, &shop.settings.policy, &situation, shop.clock.now());
    if mode == Mode::DryRun {
        return Ok((plan, Vec::new()));
    }
    let (executor, wanted) = (shop.executor.clone(), plan.clone());
    let mending = tokio::spawn(async move {
        let applied = executor.try_apply(&wanted, &Permission::by_itself()).await;
        applied.inspect_err(|error| tracing::error!(%error, "a plan could not be carried out"))
    });
    let applied = match tokio::time::timeout(ACTIONS_WITHIN, mending).await {
        Ok(ended) => ended.map_err(|ended| record::Error::Worker(ended.to_string()))??,
        // The journal will tell how it ended.
        Err(_) => Vec::new(),
    };
    Ok((plan, applied))
}

/// One round of looking at systems.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) judgements: Vec<Judgement>,
    pub(crate) changes: Vec<Change>,
}

impl Round {
    /// Reads, judges and (in a real round) records the chosen systems.
    pub(crate) async fn watch(shop: &Shop, chosen: impl Fn(&SystemId) -> bool, mode: Mode) -> record::Result<Self> {
        Self::look(shop, chosen, mode, false).await
    }

    /// The same with what the watch does not ask.
    pub(super) async fn sweep(shop: &Shop, mode: Mode) -> record::Result<Self> {
        Self::look(shop, |_| true, mode, true).await
    }

    async fn look(shop: &Shop, chosen: impl Fn(&SystemId) -> bool, mode: Mode, is_deep: bool) -> record::Result<Self> {
        let mut round = Self::default();
        let mut readings = shop.stack.observe(shop.clock.now(), chosen);
        while let Some(read) = readings.join_next().await {
            let (system, observation) = match read {
                Ok(read) => read,
                Err(panic) => {
                    tracing::error!(%panic, "a reading ended in a panic; that system was not judged in this round");
                    continue;
                }
            };
            let mut observation = history::with_past(shop, &system, observation).await?;
            acceptance::compare(shop, &system, &mut observation, mode).await?;
            if is_deep {
                deep::look(shop, &system, &mut observation).await;
                plans::compare(shop, &system, &mut observation, mode == Mode::Real).await?;
            }
            round.take(shop, &system, Arc::new(observation), mode).await?;
        }
        Ok(round)
    }

    async fn take(
        &mut self,
        shop: &Shop,
        system: &SystemId,
        observation: Arc<Observation>,
        mode: Mode,
    ) -> record::Result<()> {
        let now = shop.clock.now();
        let before = shop.present.before(system);
        let judgements = judge_all(system, &observation, before.as_deref(), &shop.settings.tuning, now);
        let taken = samples(system, &observation, before.as_deref());
        if mode == Mode::Real {
            let changes = {
                let (judgements, taken) = (judgements.clone(), taken.clone());
                let (tuning, system) = (shop.settings.tuning.clone(), system.clone());
                let interval = interval(shop, now);
                shop.record
                    .with(move |store| {
                        let mut tracks = store.live_tracks()?;
                        tracks.retain(|track| track.finding.system == system);
                        let changes = step(&judgements, &tracks, &tuning, interval, now);
                        store.keep_round(&judgements, &changes, now)?;
                        store.keep_samples(&taken, now)?;
                        Ok(changes)
                    })
                    .await?
            };
            self.changes.extend(changes);
            shop.present.update(system, observation, judgements.clone(), taken);
        }
        self.judgements.extend(judgements);
        Ok(())
    }

    /// Whether this round found it wrong itself.
    fn saw(&self, fingerprint: &Fingerprint) -> bool {
        failing(&self.judgements).any(|finding| finding.fingerprint == *fingerprint)
    }

    fn summary(&self, done: usize) -> String {
        let number = |wanted: fn(&Status) -> bool| self.judgements.iter().filter(|j| wanted(&j.status)).count();
        let opened = self.changes.iter().filter(|change| change.event == Event::Opened).count();
        let resolved = self.changes.iter().filter(|change| change.event == Event::Resolved).count();
        let mut summary = format!(
            "{} checks: {} failing, {} unknown",
            self.judgements.len(),
            number(|status| matches!(status, Status::Failing { .. })),
            number(|status| matches!(status, Status::Unknown(_))),
        );
        for (count, what) in [(opened, "opened"), (resolved, "resolved"), (done, "actions taken")] {
            if count > 0 {
                // Writing to a String cannot fail.
                let _ = write!(summary, "; {count} {what}");
            }
        }
        summary
    }

    fn lines(&self) -> Vec<String> {
        failing(&self.judgements)
            .map(|finding| format!("{} {}: {}", finding.severity, finding.system, finding.summary))
            .collect()
    }
}

/// The findings among judgements.
pub(crate) fn failing(judgements: &[Judgement]) -> impl Iterator<Item = &Finding> {
    judgements.iter().flat_map(|judgement| match &judgement.status {
        Status::Failing { findings } => findings.as_slice(),
        _ => &[],
    })
}

/// The seconds from one look of the calendar to the next.
fn interval(shop: &Shop, now: jiff::Timestamp) -> f64 {
    let watch = calendar::LINES.iter().find(|line| line.name == "watch");
    let looks = watch.and_then(|line| {
        let schedule = super::schedule(&shop.settings, line)?;
        let first = schedule.next_after(now)?;
        Some(seconds_between(first, schedule.next_after(first)?))
    });
    looks.unwrap_or(0.0)
}

/// Moves the tracks of one system on by its judgements.
fn step(
    judgements: &[Judgement],
    tracks: &[Track],
    tuning: &Tuning,
    interval: f64,
    now: jiff::Timestamp,
) -> Vec<Change> {
    judgements
        .iter()
        .filter_map(|judgement| Some((judgement, check::catalogue::find(&judgement.check)?)))
        .flat_map(|(judgement, check)| {
            let own: Vec<Track> =
                tracks.iter().filter(|track| track.finding.check == judgement.check).cloned().collect();
            advance(judgement, &own, tuning.hold(check), interval, now)
        })
        .collect()
}

/// Reads and judges the chosen systems under another tuning, recording nothing: the basis of plans made by hand and of
/// the weekly maintenance.
///
/// Who remembers keeps what was seen of indexes, so that they can be compared the next time.
pub(crate) async fn judge_now(
    shop: &Shop,
    tuning: &Tuning,
    chosen: impl Fn(&SystemId) -> bool,
    remembers: bool,
) -> record::Result<Vec<Judgement>> {
    let now = shop.clock.now();
    let mut readings = shop.stack.observe(now, chosen);
    let mut judgements = Vec::new();
    while let Some(read) = readings.join_next().await {
        if let Ok((system, mut observation)) = read {
            bloat::confirm(shop, &system, &mut observation, tuning).await?;
            deep::look(shop, &system, &mut observation).await;
            plans::compare(shop, &system, &mut observation, false).await?;
            if remembers {
                bloat::remember(shop, &system, &observation).await?;
            }
            let before = shop.present.before(&system);
            judgements.extend(judge_all(&system, &observation, before.as_deref(), tuning, now));
        }
    }
    Ok(judgements)
}
