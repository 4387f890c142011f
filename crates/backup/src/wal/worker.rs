//! The worker that streams one server's WAL for as long as the keeper runs.
//!
//! Each attempt begins with what is in the repository: the next byte is the one after the last that is safe there, and
//! nothing that was only in memory counts. When an attempt ends it is begun again, after a pause that grows while nothing
//! comes of it.
//!
//! The slot keeps WAL at the server until it is in the repository. When that takes too long the slot is given up (if that
//! is configured): a gap in the backups can be closed, a server whose disk is full has stopped.

use super::archive::{About, Archive, Holdings, Position};
use super::board::Board;
use super::flow::{Flow, Halt, Progress, Source, Write, stopping};
use super::history::Path;
use super::marks::Marks;
use super::name::Segment;
use super::seal::Seal;
use super::{SLOT, Settings};
use crate::error::{Error, Result};
use crate::repository::Repository;
use crate::vault::{PostgresSource, Vault};
use groundskeeper_core::observation::{WalGap, WalStream};
use groundskeeper_core::quantity::format_bytes;
use groundskeeper_core::receipt::Lsn;
use groundskeeper_systems::postgres::walsender::{Identity, WalSender, WalSenderError};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// To connect, and for one question.
const DEADLINE: Duration = Duration::from_secs(30);
/// Between two attempts; twice as long each time that nothing came of it. What the slot keeps is looked at as often, and a
/// busy server writes gigabytes in a minute.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Streams until told to stop. `clock` gives the time.
pub async fn keep_streaming(
    vault: Vault,
    source: PostgresSource,
    board: Board,
    clock: impl Fn() -> Timestamp + Send + Sync,
    mut stop: watch::Receiver<bool>,
) {
    let Some(settings) = vault.settings().wal.clone() else { return };
    let now = clock();
    let known = board.streams().into_iter().find(|stream| stream.system == source.system);
    // What was safe when somebody streamed last is where the time without a stream begins.
    let told = known.unwrap_or_else(|| nothing_yet(&source, now));
    let told = WalStream { retained_limit: settings.keep, trouble: None, retained: None, ..told };
    let mut worker = Worker { vault, source, settings, board, clock: &clock, told, marks: Marks::default() };
    let mut pause = FIRST_PAUSE;
    loop {
        worker.post();
        let before = worker.told.durable;
        let ended = worker.attempt(&mut stop).await;
        let wait = match ended {
            Ok(Next::Stop) => return,
            Ok(Next::AtOnce) => Duration::ZERO,
            Err(error) => {
                tracing::warn!(system = %worker.source.system, %error, "its WAL does not stream");
                worker.told.trouble = Some(error.to_string());
                worker.post();
                tokio::select! {
                    () = worker.look_after_the_slot() => {}
                    () = stopping(&mut stop) => return,
                }
                pause
            }
        };
        pause = if worker.told.durable == before { (pause * 2).min(LONGEST_PAUSE) } else { FIRST_PAUSE };
        tokio::select! {
            () = sleep(wait) => {}
            () = stopping(&mut stop) => return,
        }
    }
}

fn nothing_yet(source: &PostgresSource, now: Timestamp) -> WalStream {
    WalStream {
        system: source.system.clone(),
        since: now,
        system_identifier: None,
        timeline: None,
        durable: None,
        written: None,
        safe_until: None,
        worst_seconds: None,
        retained: None,
        retained_limit: 0,
        gave_up: None,
        trouble: None,
        gaps: Vec::new(),
    }
}

enum Next {
    Stop,
    AtOnce,
}

struct Worker<'c, C> {
    vault: Vault,
    source: PostgresSource,
    settings: Settings,
    board: Board,
    clock: &'c C,
    told: WalStream,
    marks: Marks,
}

/// Everything that a stream needs.
struct Ready {
    archive: Arc<Archive>,
    about: About,
    sender: WalSender,
    identity: Identity,
    position: Position,
    stored: Vec<u8>,
    /// From here on the slot keeps WAL.
    kept_from: Lsn,
}

impl<C: Fn() -> Timestamp + Send + Sync> Worker<'_, C> {
    fn post(&self) {
        self.board.post(self.told.clone());
    }

    fn server(&self, error: &WalSenderError) -> Error {
        let system = self.source.system.to_string();
        Error::Source { system, why: error.to_string(), retryable: error.retryable() }
    }

    fn wrong(&self, why: String) -> Error {
        Error::Source { system: self.source.system.to_string(), why, retryable: false }
    }

    async fn attempt(&mut self, stop: &mut watch::Receiver<bool>) -> Result<Next> {
        let ready = tokio::select! {
            ready = self.prepare() => ready?,
            () = stopping(stop) => return Ok(Next::Stop),
        };
        let Some(ready) = ready else { return Ok(Next::AtOnce) };
        let Ready { archive, mut about, sender, identity, position, stored, kept_from } = ready;
        let start = Segment::at(position.timeline, position.at, archive.size).start(archive.size);
        let stream = match sender.stream(SLOT, start, position.timeline).await {
            Ok(stream) => stream,
            Err(WalSenderError::WalGone { message, .. }) => {
                self.note_gap(&archive, &mut about, position, kept_from, message).await?;
                return Ok(Next::AtOnce);
            }
            Err(error) => return Err(self.server(&error)),
        };
        let now = (self.clock)();
        self.marks.begin(identity.flushed, position.at, self.told.safe_until.unwrap_or(now));
        let (halt, write) = {
            let (told, board) = (&mut self.told, &self.board);
            let tell = |progress: Progress| {
                take_over(told, progress);
                board.post(told.clone());
            };
            let (system, keep) = (self.source.system.to_string(), self.settings.limit());
            let (archive, marks, written) = (Arc::clone(&archive), &mut self.marks, identity.flushed);
            let from =
                Source { archive, stream, system, keep, marks, tell, clock: self.clock, position, stored, written };
            Flow::new(from).run(stop).await
        };
        let next = self.after(halt, &archive, &mut about, position, kept_from).await;
        if let Err(error) = &next {
            self.told.trouble = Some(error.to_string());
            self.post();
        }
        self.wait_for(write, stop).await;
        next
    }

    async fn after(
        &mut self,
        halt: Halt,
        archive: &Arc<Archive>,
        about: &mut About,
        position: Position,
        kept_from: Lsn,
    ) -> Result<Next> {
        match halt {
            Halt::Stopped => Ok(Next::Stop),
            Halt::NextTimeline(next) => {
                tracing::info!(system = %self.source.system, timeline = next.timeline, at = %next.start, "its WAL goes on on another timeline");
                Ok(Next::AtOnce)
            }
            // Once something has arrived, what comes next is kept by the slot; it is gone at the very beginning only.
            Halt::Gone(message) => {
                self.note_gap(archive, about, position, kept_from, message).await?;
                Ok(Next::AtOnce)
            }
            Halt::TooMuch => {
                self.give_up().await?;
                Err(self.wrong(self.given_up()))
            }
            Halt::Failed(error) => Err(error),
        }
    }

    /// A write that is under way could overtake those of the next attempt. On a disk that hangs it never ends, and the slot
    /// goes on to keep WAL.
    async fn wait_for(&mut self, write: Option<Write>, stop: &mut watch::Receiver<bool>) {
        let Some(mut write) = write else { return };
        loop {
            tokio::select! {
                _ = &mut write => return,
                () = stopping(stop) => return,
                () = sleep(DEADLINE) => self.look_after_the_slot().await,
            }
        }
    }

    fn given_up(&self) -> String {
        format!(
            "more than {} of WAL waited at the server, and its slot was given up; a gap remains until the next set",
            format_bytes(self.settings.keep as f64)
        )
    }

    /// None when a gap had to be written down first.
    async fn prepare(&mut self) -> Result<Option<Ready>> {
        let (repository, seal) = self.open().await?;
        let endpoint = self.source.endpoint.clone();
        let mut sender = endpoint.replicate(DEADLINE).await.map_err(|error| self.server(&error))?;
        let identity = sender.identify().await.map_err(|error| self.server(&error))?;
        let size = sender.show("wal_segment_size").await.map_err(|error| self.server(&error))?;
        let size = bytes_of(&size).ok_or_else(|| self.wrong(format!("its wal_segment_size is `{size}`")))?;
        let archive = Arc::new(Archive::new(repository, seal, &identity.system_identifier, size));
        let (mut about, holdings) = self.look(&archive, &identity).await?;
        let path = self.path(&mut sender, &archive, &holdings, identity.timeline).await?;
        let had_slot = sender.slot(SLOT).await.map_err(|error| self.server(&error))?;
        let kept_from = self.slot(&mut sender).await?;
        self.know(&identity, &about, &holdings, size);
        self.post();
        let begun = begin(holdings.end(size), &about.gaps, &path, &identity, kept_from, size);
        let position = begun.map_err(|why| self.wrong(why))?;
        if self.told.gave_up.is_some() && had_slot.is_none() && position.at < floor(kept_from, size) {
            let why = self.given_up();
            self.note_gap(&archive, &mut about, position, kept_from, why).await?;
            return Ok(None);
        }
        let stored = self.stored(&archive, &holdings, position).await?;
        Ok(Some(Ready { archive, about, sender, identity, position, stored, kept_from }))
    }

    async fn open(&self) -> Result<(Arc<Repository>, Seal)> {
        self.vault
            .blocking(|settings| {
                let key = settings.key.read()?;
                let repository = Repository::open(&settings.place, &key)?;
                let seal = Seal::find_or_make(&repository, &key)?;
                Ok((Arc::new(repository), seal))
            })
            .await
    }

    async fn look(&self, archive: &Arc<Archive>, identity: &Identity) -> Result<(About, Holdings)> {
        let (archive, cluster, size) = (Arc::clone(archive), identity.system_identifier.clone(), archive.size);
        let (about, holdings) = self
            .vault
            .blocking(move |_| {
                let about = if let Some(about) = archive.known()? {
                    about
                } else {
                    let about = About { segment: archive.size, gaps: Vec::new() };
                    archive.keep_about(&about)?;
                    about
                };
                let holdings = archive.holdings()?;
                archive.tidy(&holdings);
                Ok((about, holdings))
            })
            .await?;
        if about.segment == size {
            return Ok((about, holdings));
        }
        Err(self
            .wrong(format!("the cluster {cluster} had WAL segments of another size before; begin a new repository")))
    }

    /// The way to the server's timeline; histories that are not in the repository yet are put there.
    async fn path(
        &self,
        sender: &mut WalSender,
        archive: &Arc<Archive>,
        holdings: &Holdings,
        timeline: u32,
    ) -> Result<Path> {
        if timeline == 1 {
            return Ok(Path::alone(1));
        }
        let history = sender.history(timeline).await.map_err(|error| self.server(&error))?;
        let path = Path::parsed(timeline, &history.content)
            .ok_or_else(|| self.wrong(format!("{} is no history of timelines", history.file)))?;
        let mut missing = vec![(timeline, history.content)];
        for (earlier, _) in path.from(2).filter(|(step, _)| *step != timeline && !holdings.histories.contains(step)) {
            match sender.history(earlier).await {
                Ok(history) => missing.push((earlier, history.content)),
                // The newest names all that came before it.
                Err(error) => tracing::warn!(%error, earlier, "the history of an earlier timeline cannot be had"),
            }
        }
        missing.retain(|(timeline, _)| !holdings.histories.contains(timeline));
        let archive = Arc::clone(archive);
        self.vault
            .blocking(move |_| {
                missing.iter().try_for_each(|(timeline, content)| archive.put_history(*timeline, content))
            })
            .await?;
        Ok(path)
    }

    /// Where the slot keeps WAL from; made where there is none, and anew where the server has let it go.
    async fn slot(&self, sender: &mut WalSender) -> Result<Lsn> {
        let found = sender.slot(SLOT).await.map_err(|error| self.server(&error))?;
        if let Some(kept_from) = found.and_then(|slot| slot.kept_from) {
            return Ok(kept_from);
        }
        if found.is_some() {
            sender.drop_slot(SLOT).await.map_err(|error| self.server(&error))?;
        }
        sender.create_slot(SLOT).await.map_err(|error| self.server(&error))?;
        let made = sender.slot(SLOT).await.map_err(|error| self.server(&error))?;
        made.and_then(|slot| slot.kept_from).ok_or_else(|| self.wrong(format!("its slot {SLOT} keeps no WAL")))
    }

    /// What of the segment at `position` is stored already.
    async fn stored(&self, archive: &Arc<Archive>, holdings: &Holdings, position: Position) -> Result<Vec<u8>> {
        let segment = Segment::at(position.timeline, position.at, archive.size);
        let wanted = position.at.0 - segment.start(archive.size).0;
        if wanted == 0 || holdings.partial.get(&segment).is_none_or(|(bytes, _)| *bytes != wanted) {
            return Ok(Vec::new());
        }
        let archive = Arc::clone(archive);
        let stored = self.vault.blocking(move |_| archive.partial(segment, wanted)).await?;
        stored.ok_or_else(|| Error::Worker("a partial segment went away while it was read".to_owned()))
    }

    /// Notes what an attempt has found out.
    fn know(&mut self, identity: &Identity, about: &About, holdings: &Holdings, size: u64) {
        self.told.gaps = about.with_lost(&identity.system_identifier, holdings, (self.clock)());
        self.told.system_identifier = Some(identity.system_identifier.clone());
        self.told.written = Some(identity.flushed);
        self.told.durable = holdings.end(size).map(|end| end.at);
        self.told.timeline = Some(identity.timeline);
    }

    /// Writes down that what follows on `position` never came; the next attempt goes on behind it.
    async fn note_gap(
        &mut self,
        archive: &Arc<Archive>,
        about: &mut About,
        position: Position,
        kept_from: Lsn,
        why: String,
    ) -> Result<()> {
        let to = floor(kept_from, archive.size);
        if to <= position.at {
            return Err(self.wrong(why));
        }
        let Some(system_identifier) = self.told.system_identifier.clone() else { return Err(self.wrong(why)) };
        tracing::error!(system = %self.source.system, from = %position.at, %to, why, "WAL is missing; a new set closes the gap");
        let noticed = (self.clock)();
        let gap = WalGap { system_identifier, timeline: position.timeline, from: position.at, to, noticed, why };
        about.gaps.push(gap.clone());
        self.told.gaps.push(gap);
        self.post();
        let (archive, about) = (Arc::clone(archive), about.clone());
        self.vault.blocking(move |_| archive.keep_about(&about)).await
    }

    /// While it does not stream, the slot goes on to keep WAL.
    async fn look_after_the_slot(&mut self) {
        match self.retained().await {
            Ok(Some(retained)) => {
                self.told.retained = Some(retained);
                if retained > self.settings.limit()
                    && let Err(error) = self.give_up().await
                {
                    tracing::error!(%error, "the slot could not be given up");
                }
            }
            Ok(None) => self.told.retained = None,
            Err(error) => tracing::debug!(%error, "what the slot keeps is not known"),
        }
        self.post();
    }

    async fn retained(&mut self) -> Result<Option<u64>> {
        let mut sender = self.source.endpoint.replicate(DEADLINE).await.map_err(|error| self.server(&error))?;
        let identity = sender.identify().await.map_err(|error| self.server(&error))?;
        self.told.written = Some(identity.flushed);
        let slot = sender.slot(SLOT).await.map_err(|error| self.server(&error))?;
        sender.close().await;
        let kept_from = slot.and_then(|slot| slot.kept_from);
        Ok(kept_from.map(|kept_from| identity.flushed.0.saturating_sub(kept_from.0)))
    }

    async fn give_up(&mut self) -> Result<()> {
        let mut sender = self.source.endpoint.replicate(DEADLINE).await.map_err(|error| self.server(&error))?;
        sender.drop_slot(SLOT).await.map_err(|error| self.server(&error))?;
        sender.close().await;
        tracing::error!(system = %self.source.system, "the slot was given up: {}", self.given_up());
        self.told.gave_up = Some((self.clock)());
        self.told.retained = None;
        self.post();
        Ok(())
    }
}

fn take_over(told: &mut WalStream, progress: Progress) {
    let Progress { timeline, durable, written, safe_until, worst } = progress;
    told.timeline = Some(timeline);
    // The slot is no matter of the past any more once something has come after it was given up.
    if told.durable.is_some_and(|before| before < durable) {
        told.gave_up = None;
    }
    told.durable = Some(durable);
    told.written = Some(written);
    told.safe_until = Some(safe_until);
    told.worst_seconds = worst;
    told.retained = Some(written.0.saturating_sub(durable.0));
    told.trouble = None;
}

/// Where to begin. `end` is where what is stored ends.
fn begin(
    end: Option<Position>,
    gaps: &[WalGap],
    path: &Path,
    identity: &Identity,
    kept_from: Lsn,
    size: u64,
) -> std::result::Result<Position, String> {
    let Some(end) = end else {
        let at = floor(kept_from, size);
        return Ok(Position { timeline: path.holding(at), at });
    };
    if let Some(gap) = gaps.iter().find(|gap| gap.timeline == end.timeline && gap.from == end.at) {
        return Ok(Position { timeline: path.holding(gap.to), at: gap.to });
    }
    let there = format!("the repository has its WAL up to {} on timeline {}", end.at, end.timeline);
    match path.left(end.timeline) {
        None => {
            Err(format!("{there}, which is no ancestor of its timeline {}: is it another copy?", identity.timeline))
        }
        Some(_) if end.timeline == identity.timeline && end.at > identity.flushed => Err(format!(
            "{there}, and its own ends at {}: it was set back without a new timeline; begin a new repository for it, or \
             restore it with a recovery target",
            identity.flushed
        )),
        Some(left) if end.at < left => Ok(end),
        Some(left) => {
            let timeline = path.after(end.timeline).unwrap_or(identity.timeline);
            Ok(Position { timeline, at: floor(left, size) })
        }
    }
}

fn floor(at: Lsn, size: u64) -> Lsn {
    Lsn(at.0 / size * size)
}

/// `16MB`, `1GB`: a power of two between 1 MB and 1 GB.
fn bytes_of(setting: &str) -> Option<u64> {
    let (digits, unit) = setting.split_at(setting.find(|c: char| !c.is_ascii_digit())?);
    let shift = match unit {
        "MB" => 20,
        "GB" => 30,
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes)).then_some(bytes)
}
