//! WAL on its way from the server into the repository.
//!
//! What arrives fills a segment in memory. A full one is stored as a whole; one that is filling is stored as far as it is
//! every two seconds, so that a quiet database is as safe as a busy one. One write is under way at a time, and the next
//! ones wait in a short queue; when that is full nothing more is read, and the server waits, which it can: the slot keeps
//! its WAL. Only what is stored is reported as flushed.

use super::archive::{Archive, Position};
use super::marks::Marks;
use super::name::Segment;
use crate::error::{Error, Result};
use groundskeeper_core::receipt::Lsn;
use groundskeeper_systems::postgres::walsender::{NextTimeline, Piece, WalSenderError, WalStream};
use jiff::Timestamp;
use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

/// What was written is stored after so long, and the server hears from us as often.
pub(crate) const SOON: Duration = Duration::from_secs(2);
/// A server answers each of our reports; one that does not for so long hangs.
const SILENCE: Duration = Duration::from_mins(1);
/// Segments that wait to be stored.
const WAITING: usize = 2;
/// When told to stop, what has arrived is still stored if that does not take longer.
const LAST: Duration = Duration::from_secs(5);

/// A write that is under way; gives up to where all is safe then.
pub(crate) type Write = JoinHandle<Result<Lsn>>;

/// Why WAL does not flow any more.
#[derive(Debug)]
pub(crate) enum Halt {
    Stopped,
    NextTimeline(NextTimeline),
    /// The server has removed what comes next.
    Gone(String),
    /// The server keeps more for us than it should.
    TooMuch,
    Failed(Error),
}

struct Job {
    segment: Segment,
    content: Vec<u8>,
    before: Option<u64>,
    end: Lsn,
}

pub(crate) struct Flow<'a, T, C> {
    pub(crate) archive: Arc<Archive>,
    pub(crate) stream: WalStream,
    pub(crate) system: String,
    /// Bytes that the server may keep for us.
    pub(crate) keep: u64,
    pub(crate) marks: &'a mut Marks,
    /// Where it stands is told to this one.
    pub(crate) tell: T,
    pub(crate) clock: &'a C,
    timeline: u32,
    /// The next byte that the server must send.
    next: Lsn,
    /// The segment that fills. Longer than what was sent while a part of it is sent again, to be compared.
    bytes: Vec<u8>,
    /// What of it is stored, or about to be.
    shipped: Option<u64>,
    queue: VecDeque<Job>,
    running: Option<Write>,
    durable: Lsn,
    written: Lsn,
    heard: (Instant, Timestamp),
    last_put: Option<Instant>,
    last_report: Instant,
    report_due: bool,
    /// Bytes: the shortest that the backlog was so far.
    least_waiting: u64,
}

/// Where a flow stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) timeline: u32,
    pub(crate) durable: Lsn,
    pub(crate) written: Lsn,
    pub(crate) safe_until: Timestamp,
    pub(crate) worst: Option<f64>,
}

/// What a flow begins with.
pub(crate) struct Source<'a, T, C> {
    pub(crate) archive: Arc<Archive>,
    pub(crate) stream: WalStream,
    pub(crate) system: String,
    pub(crate) keep: u64,
    pub(crate) marks: &'a mut Marks,
    pub(crate) tell: T,
    pub(crate) clock: &'a C,
    /// Up to here all is stored; `stored` is what of that segment is.
    pub(crate) position: Position,
    pub(crate) stored: Vec<u8>,
    /// So far the server's WAL had come.
    pub(crate) written: Lsn,
}

impl<'a, T: FnMut(Progress), C: Fn() -> Timestamp> Flow<'a, T, C> {
    /// The stream must begin at the start of the segment that `position` is in.
    pub(crate) fn new(from: Source<'a, T, C>) -> Self {
        let Source { archive, stream, system, keep, marks, tell, clock, position, stored, written } = from;
        let next = Segment::at(position.timeline, position.at, archive.size).start(archive.size);
        let shipped = (!stored.is_empty()).then_some(stored.len() as u64);
        let now = Instant::now();
        Self {
            archive,
            stream,
            system,
            keep,
            marks,
            tell,
            heard: (now, clock()),
            clock,
            timeline: position.timeline,
            next,
            bytes: stored,
            shipped,
            queue: VecDeque::new(),
            running: None,
            durable: position.at,
            written,
            last_put: None,
            last_report: now,
            report_due: true,
            least_waiting: u64::MAX,
        }
    }

    /// Until it cannot go on, or is told to stop. A write that is still under way then is given back: it must have ended
    /// before the next flow begins.
    pub(crate) async fn run(mut self, stop: &mut watch::Receiver<bool>) -> (Halt, Option<Write>) {
        let halt = match self.flow(stop).await {
            Ok(halt) => halt,
            Err(error) => Halt::Failed(error),
        };
        let Self { stream, running, .. } = self;
        stream.close().await;
        (halt, running)
    }

    async fn flow(&mut self, stop: &mut watch::Receiver<bool>) -> Result<Halt> {
        loop {
            self.dispatch();
            let due = self.due();
            let hungry = self.queue.len() < WAITING;
            let Self { stream, running, .. } = self;
            tokio::select! {
                ended = finished(running) => self.stored(ended)?,
                piece = stream.next(), if hungry => {
                    match self.received(piece).await {
                        Ok(None) => {}
                        Ok(Some(halt)) => return Ok(halt),
                        Err(error) => {
                            // A server that is gone for good will not send again what has arrived.
                            let _ = timeout(LAST, self.settle()).await;
                            return Err(error);
                        }
                    }
                }
                () = sleep_until(due) => {}
                () = stopping(stop) => {
                    // What has arrived and is not stored is still kept by the slot: nothing is lost by a limit.
                    let _ = timeout(LAST, self.settle()).await;
                    let _ = self.report().await;
                    return Ok(Halt::Stopped);
                }
            }
            if self.report_due || self.last_report.elapsed() >= SOON {
                self.report().await?;
            }
            if !hungry {
                // Whom we do not listen to is not silent.
                self.heard.0 = Instant::now();
            }
            if self.heard.0.elapsed() >= SILENCE {
                return Err(self.broken(format!("the server has said nothing for {} s", SILENCE.as_secs()), true));
            }
            // Nothing is read meanwhile, so nobody here sees what piles up at the server.
            if self.running.is_some() && self.last_put.is_some_and(|begun| begun.elapsed() >= SILENCE) {
                let why = format!("the repository has not taken its WAL for {} s", SILENCE.as_secs());
                return Err(self.broken(why, true));
            }
            if self.is_too_much() {
                return Ok(Halt::TooMuch);
            }
        }
    }

    /// Whether the server keeps more than it should. What waited when the flow began may be more, as long as it shrinks.
    fn is_too_much(&mut self) -> bool {
        let waiting = self.written.0.saturating_sub(self.durable.0);
        self.least_waiting = self.least_waiting.min(waiting);
        waiting > self.keep.max(self.least_waiting.saturating_add(self.keep / 8))
    }

    /// When something is to be done next if nothing happens.
    fn due(&self) -> Instant {
        let report = if self.report_due { Instant::now() } else { self.last_report + SOON };
        let ships = self.running.is_none() && self.has_news();
        match self.last_put.filter(|_| ships) {
            Some(last) => report.min(last + SOON),
            None => report,
        }
    }

    fn has_news(&self) -> bool {
        self.bytes.len() as u64 > self.shipped.unwrap_or_default()
    }

    /// Begins the next write, when none is under way and there is something to write.
    fn dispatch(&mut self) {
        if self.running.is_some() {
            return;
        }
        let is_due = self.last_put.is_none_or(|last| last.elapsed() >= SOON);
        if self.queue.is_empty() && self.has_news() && is_due {
            self.enqueue_partial();
        }
        let Some(job) = self.queue.pop_front() else { return };
        self.last_put = Some(Instant::now());
        let archive = Arc::clone(&self.archive);
        self.running = Some(tokio::task::spawn_blocking(move || {
            archive.put(job.segment, &job.content, job.before)?;
            Ok(job.end)
        }));
    }

    fn enqueue_partial(&mut self) {
        let content = self.bytes.clone();
        let bytes = content.len() as u64;
        let segment = self.segment();
        let end = Lsn(segment.start(self.archive.size).0 + bytes);
        self.queue.push_back(Job { segment, content, before: self.shipped.replace(bytes), end });
    }

    /// The segment that fills.
    fn segment(&self) -> Segment {
        // At the end of a full one `bytes` is empty, and `next` is in the one after it.
        Segment::at(self.timeline, self.next, self.archive.size)
    }

    fn stored(&mut self, ended: Result<Lsn>) -> Result<()> {
        self.durable = self.durable.max(ended?);
        let now = (self.clock)();
        self.marks.safe(self.durable, now);
        // Told at once: the sooner the server may forget, the less it keeps.
        self.report_due = true;
        Ok(())
    }

    async fn received(&mut self, piece: std::result::Result<Piece, WalSenderError>) -> Result<Option<Halt>> {
        let piece = match piece {
            Ok(piece) => piece,
            Err(WalSenderError::WalGone { message, .. }) => return Ok(Some(Halt::Gone(message))),
            Err(error) => return Err(self.broken(error.to_string(), error.retryable())),
        };
        self.heard = (Instant::now(), (self.clock)());
        match piece {
            Piece::Data { start, bytes, end } => {
                self.hear(end);
                self.take(start, &bytes)?;
            }
            Piece::Keepalive { end, reply } => {
                self.hear(end);
                if reply {
                    self.report().await?;
                }
            }
            Piece::End(Some(next)) => {
                self.settle().await?;
                return Ok(Some(Halt::NextTimeline(next)));
            }
            Piece::End(None) => {
                return Err(self.broken(format!("timeline {} ended and no other follows", self.timeline), true));
            }
        }
        Ok(None)
    }

    fn hear(&mut self, end: Lsn) {
        self.written = self.written.max(end);
        self.marks.written(self.written, self.durable, self.heard.1);
    }

    /// The next bytes. One that is missing, or another one where we have one already, ends it.
    fn take(&mut self, start: Lsn, mut data: &[u8]) -> Result<()> {
        if start != self.next {
            return Err(self.broken(format!("it sent WAL from {start} on, where {} was next", self.next), true));
        }
        let size = self.archive.size;
        while !data.is_empty() {
            let offset = (self.next.0 % size) as usize;
            let (piece, rest) = data.split_at(data.len().min(size as usize - offset));
            let known = self.bytes.len().saturating_sub(offset).min(piece.len());
            if self.bytes[offset..offset + known] != piece[..known] {
                let why = format!(
                    "its WAL in {} is not what the repository has: it was set back without a new timeline; begin a new \
                     repository for it, or restore it with a recovery target",
                    self.segment().file(size)
                );
                return Err(self.broken(why, false));
            }
            self.bytes.extend_from_slice(&piece[known..]);
            let segment = self.segment();
            self.next = Lsn(self.next.0 + piece.len() as u64);
            data = rest;
            if self.bytes.len() as u64 == size {
                let content = std::mem::replace(&mut self.bytes, Vec::with_capacity(size as usize));
                self.queue.push_back(Job { segment, content, before: self.shipped.take(), end: self.next });
            }
        }
        Ok(())
    }

    /// Stores all that has arrived.
    async fn settle(&mut self) -> Result<()> {
        loop {
            if self.running.is_none() && self.queue.is_empty() {
                if !self.has_news() {
                    return Ok(());
                }
                self.enqueue_partial();
            }
            self.dispatch();
            let ended = finished(&mut self.running).await;
            self.stored(ended)?;
        }
    }

    async fn report(&mut self) -> Result<()> {
        (self.last_report, self.report_due) = (Instant::now(), false);
        let received = self.next.max(self.durable);
        let now = (self.clock)();
        let reported = self.stream.report(received, self.durable, now).await;
        reported.map_err(|error| self.broken(error.to_string(), error.retryable()))?;
        let safe_until = self.marks.safe_until(self.heard.1);
        let (timeline, durable, written) = (self.timeline, self.durable, self.written);
        (self.tell)(Progress { timeline, durable, written, safe_until, worst: self.marks.worst() });
        Ok(())
    }

    fn broken(&self, why: String, retryable: bool) -> Error {
        Error::Source { system: self.system.clone(), why, retryable }
    }
}

/// Ends when we are told to stop, also by the end of whoever would tell.
pub(crate) async fn stopping(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Ends with the write that is under way; never where there is none.
async fn finished(running: &mut Option<Write>) -> Result<Lsn> {
    let Some(write) = running else { return pending().await };
    let ended = write.await;
    *running = None;
    ended.map_err(|error| Error::Worker(error.to_string()))?
}
