//! What a worker does with a document: read and chunk, then embed.

use super::trouble::{Trouble, Verdict, delay};
use crate::chunk::{Chunk, ChunkLimits, Chunker, embedded_text};
use crate::document::{MediaType, ParseError, ParseLimits, parse};
use crate::service::{ModelState, Service};
use crate::store::StoreError;
use crate::store::documents::DocumentState;
use crate::store::models::{bytes, floats};
use crate::store::work::{Making, Pending, Task};
use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

/// Batches whose texts are read at once.
const BATCHES_READ: usize = 8;
/// How long the embedder is given to prove that it is there.
const CANARY: Duration = Duration::from_secs(5);
/// Until a document is tried again whose model was away.
const AWAY: Duration = Duration::from_secs(5);
/// Reading that takes longer is noted, so that a document which takes the service down is known by it. What is shorter
/// is not: a service that is killed for other reasons would be taken for one that a document has killed.
const LONG: Duration = Duration::from_secs(2);
/// Notes in a row, after none of which the reading ended, that give a document up.
const MOST_STARTS: i32 = 5;

/// Takes a document as far as it gets. An error is one of Postgres being away; everything else is noted with the
/// document.
pub(super) async fn work(service: Service, id: Uuid, stop: watch::Receiver<bool>) -> Result<(), StoreError> {
    loop {
        let Some(mut task) = service.store().task(id).await? else { return Ok(()) };
        let Err(trouble) = advance(&service, &mut task, &stop).await else { return Ok(()) };
        match settle(&service, &task, trouble).await? {
            Next::StartOver => {}
            Next::Done => return Ok(()),
        }
    }
}

enum Next {
    StartOver,
    Done,
}

async fn settle(service: &Service, task: &Task, trouble: Trouble) -> Result<Next, StoreError> {
    let (store, text) = (service.store(), trouble.to_string());
    let verdict = match trouble.verdict() {
        Verdict::Suspect => match service.embedder().query("docrag", CANARY).await {
            Ok(_) => Verdict::Count,
            Err(_) => Verdict::Wait(None),
        },
        verdict => verdict,
    };
    match verdict {
        Verdict::StartOver => return Ok(Next::StartOver),
        Verdict::Leave => {
            if let Trouble::Store(error) = trouble {
                return Err(error);
            }
        }
        Verdict::Count if task.attempts + 1 < service.settings().ingest.attempts => {
            tracing::info!(document = %task.id, source = task.source, error = text, "a document is tried again");
            store.put_off(task, &text, delay(task.attempts), true).await?;
        }
        Verdict::Count | Verdict::GiveUp => {
            tracing::warn!(document = %task.id, source = task.source, error = text, "a document failed");
            store.give_up(task, &text).await?;
        }
        Verdict::Wait(how_long) => store.put_off(task, &text, how_long.unwrap_or(AWAY), false).await?,
        Verdict::Suspect => {}
    }
    Ok(Next::Done)
}

/// A panic while this document was worked on.
pub(super) async fn settle_panic(service: &Service, id: Uuid, panic: String) -> Result<(), StoreError> {
    let Some(task) = service.store().task(id).await? else { return Ok(()) };
    settle(service, &task, Trouble::Panicked(panic)).await.map(drop)
}

async fn advance(service: &Service, task: &mut Task, stop: &watch::Receiver<bool>) -> Result<(), Trouble> {
    if task.state == DocumentState::Received {
        task.state = read(service, task, stop).await?;
    }
    if task.state == DocumentState::Chunked {
        embed(service, task, stop).await?;
    }
    Ok(())
}

async fn read(service: &Service, task: &mut Task, stop: &watch::Receiver<bool>) -> Result<DocumentState, Trouble> {
    if task.starts >= MOST_STARTS {
        return Err(Trouble::Crashes(task.starts));
    }
    let body = service.store().body(task).await?;
    let (note, forget) = (service.store().note_start(task), service.store().forget_start(task));
    let (title, chunks) = noted(chunked(service, task, body), note, forget, stop.clone()).await?;
    if chunks.is_empty() {
        return Err(Trouble::NoChunks);
    }
    let state = service.store().put_chunks(task, title.as_deref(), &chunks).await?;
    task.title = title;
    Ok(state)
}

/// Reads; should that take long, notes that it began, and forgets it when the service is told to stop. Otherwise the
/// note goes with what is written when the reading has ended, however it has.
async fn noted<T>(
    reading: impl Future<Output = T>,
    note: impl Future<Output = Result<(), StoreError>>,
    forget: impl Future<Output = Result<(), StoreError>>,
    mut stop: watch::Receiver<bool>,
) -> T {
    let mut reading = pin!(reading);
    tokio::select! {
        done = &mut reading => return done,
        () = told(&mut stop) => return reading.await,
        () = tokio::time::sleep(LONG) => {}
    }
    // Should Postgres be away, this start does not count.
    let noted = note.await;
    tokio::select! {
        done = &mut reading => return done,
        () = told(&mut stop) => {}
    }
    if noted.is_ok() {
        let _ = forget.await;
    }
    reading.await
}

/// Until the service is told to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// The title and the chunks of a document.
async fn chunked(service: &Service, task: &Task, body: Vec<u8>) -> Result<(Option<String>, Vec<Chunk>), Trouble> {
    let settings = service.settings();
    let media = MediaType::detect(Some(&task.media_type), &task.source, &body)?;
    let limits = ParseLimits {
        text_bytes: settings.parsing.max_text_bytes,
        time: Duration::from_secs(settings.parsing.seconds),
        memory_bytes: settings.parsing.memory_bytes,
    };
    let parsed = parse(media, body, &limits).await?;
    let title = task.title.clone().or_else(|| parsed.title.clone());
    let chunker = Chunker::new(
        service.embedder().counter(),
        ChunkLimits { max_tokens: settings.chunking.max_tokens, overlap_tokens: settings.chunking.overlap_tokens },
    );
    let (id, for_chunker) = (task.id, title.clone());
    let chunks = tokio::task::spawn_blocking(move || chunker.chunks(id, for_chunker.as_deref(), &parsed)).await;
    Ok((title, chunks.map_err(|panic| Trouble::Panicked(panic.to_string()))?))
}

async fn embed(service: &Service, task: &Task, stop: &watch::Receiver<bool>) -> Result<(), Trouble> {
    let batch = service.settings().ingest.batch;
    let page = batch * BATCHES_READ;
    loop {
        let ModelState::Serving { fingerprint, generation } = service.embedding_state() else {
            return Err(Trouble::Paused);
        };
        let making = Making { generation, fingerprint };
        let pending = service.store().pending(task.id, generation, page).await?;
        let last_page = pending.len() < page;
        let mut batches = pending.chunks(batch).peekable();
        if batches.peek().is_none() {
            service.store().put_embeddings(task, &making, &[], true).await?;
            return Ok(());
        }
        let mut known = twins(&pending);
        while let Some(chunks) = batches.next() {
            if *stop.borrow() {
                return Err(Trouble::Stopping);
            }
            let embeddings = embeddings(service, task, &making, chunks, &mut known).await?;
            let last = last_page && batches.peek().is_none();
            let state = service.store().put_embeddings(task, &making, &embeddings, last).await?;
            if state == DocumentState::Embedded {
                return Ok(());
            }
        }
    }
}

/// Vectors by the hash of their text.
type Known = HashMap<Vec<u8>, Vec<f32>>;

/// What other documents have of these.
fn twins(chunks: &[Pending]) -> Known {
    let twin = |chunk: &Pending| Some((chunk.chunk_hash.clone(), floats(chunk.twin.as_deref()?)));
    chunks.iter().filter_map(twin).collect()
}

/// From where they are already, else from the cache, else from the model. What the model makes goes to the cache before it
/// goes to Postgres: a `kill -9` in between then costs nothing. And it goes to `known`: a text may come again in a later
/// batch.
async fn embeddings(
    service: &Service,
    task: &Task,
    making: &Making,
    chunks: &[Pending],
    known: &mut Known,
) -> Result<Vec<(Uuid, Vec<u8>)>, Trouble> {
    let mut unknown: HashMap<&[u8], &Pending> = HashMap::new();
    for chunk in chunks {
        if !known.contains_key(&chunk.chunk_hash) {
            unknown.insert(&chunk.chunk_hash, chunk);
        }
    }
    let mut missing: Vec<&Pending> = unknown.into_values().collect();
    if !missing.is_empty() {
        let hashes: Vec<Vec<u8>> = missing.iter().map(|chunk| chunk.chunk_hash.clone()).collect();
        let cached = service.cache().embeddings(&making.fingerprint, &hashes).await;
        let dimension = service.embedder().identity().dimension;
        missing = Vec::new();
        for (chunk, found) in hashes.iter().zip(cached).filter_map(|(hash, found)| {
            chunks.iter().find(|chunk| chunk.chunk_hash == *hash).map(|chunk| (chunk, found))
        }) {
            let found = found.filter(|vector| vector.len() == dimension);
            if service.settings().redis.url.is_some() {
                service.metrics().cache("embedding", found.is_some());
            }
            match found {
                Some(vector) => drop(known.insert(chunk.chunk_hash.clone(), vector)),
                None => missing.push(chunk),
            }
        }
    }
    if !missing.is_empty() {
        let text = |chunk: &&Pending| embedded_text(task.title.as_deref(), &chunk.heading, &chunk.content);
        let vectors = service.embedder().passages(missing.iter().map(text).collect()).await?;
        service.metrics().embedded(vectors.len() as u64);
        let made: Vec<(Vec<u8>, Vec<f32>)> =
            missing.iter().map(|chunk| chunk.chunk_hash.clone()).zip(vectors).collect();
        service.cache().put_embeddings(&making.fingerprint, &made).await;
        known.extend(made);
    }
    let found = |chunk: &Pending| Some((chunk.id, bytes(known.get(&chunk.chunk_hash)?)));
    Ok(chunks.iter().filter_map(found).collect())
}

impl From<tokio::task::JoinError> for Trouble {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Parse(ParseError::Interrupted(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Notes that are left after a reading of so many seconds, with a stop after so many.
    async fn notes(reading: u64, stop_after: u64) -> i32 {
        let (stop, stopped) = watch::channel(false);
        let notes = Cell::new(0);
        let change = async |by: i32| {
            notes.set(notes.get() + by);
            Ok(())
        };
        let reading = tokio::time::sleep(Duration::from_secs(reading));
        let stopping = async {
            tokio::time::sleep(Duration::from_secs(stop_after)).await;
            stop.send_replace(true);
        };
        tokio::join!(noted(reading, change(1), change(-1), stopped), stopping);
        notes.get()
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_long_reading_is_noted_and_one_that_a_stop_may_end_is_not() {
        assert_eq!(notes(1, 100).await, 0, "short");
        assert_eq!(notes(30, 100).await, 1, "long");
        assert_eq!(notes(30, 10).await, 0, "stopped meanwhile");
        assert_eq!(notes(30, 1).await, 0, "stopped before");
    }
}
