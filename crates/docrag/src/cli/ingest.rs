//! `docrag ingest PATH…`: files and folders in, and a wait until they can be searched.
//!
//! Without a URL the command works on the database itself and runs the stages; where a service runs on the same database,
//! the two share the work (a document is locked by whoever works on it). With a URL it only sends and watches.

use super::Context;
use super::output::{Stop, bar, one_line};
use super::remote::{Remote, RemoteArgs};
use crate::http::DocumentBody;
use crate::service::{Accepted, Background, Caller, NewDocument, Outcome, Service};
use crate::store::documents::{DocumentRecord, DocumentState, Page};
use base64::Engine as _;
use clap::Args;
use serde::Serialize;
use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Endings of the formats that can be read.
const ENDINGS: [&str; 9] = ["txt", "text", "md", "markdown", "html", "htm", "xhtml", "pdf", "rst"];
const POLL: Duration = Duration::from_millis(500);
const REMOTE_POLL: Duration = Duration::from_secs(2);
/// When nothing moves for so long, a person wants to know why.
const STALLED: Duration = Duration::from_secs(30);
/// Failures that are named one by one.
const NAMED: usize = 20;

#[derive(Debug, Args)]
pub(super) struct IngestArgs {
    /// Files, and folders with all that is below them (txt, md, html, pdf)
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The corpus
    #[arg(long, default_value = "default", value_name = "NAME")]
    corpus: String,
    /// Metadata of every document, to filter searches by; may be repeated
    #[arg(long = "metadata", value_name = "KEY=VALUE")]
    metadata: Vec<String>,
    /// Come back when everything is accepted; a running service does the rest
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// Where documents go.
enum Target {
    Here { service: Service, caller: Caller, background: Option<Background> },
    There(Remote),
}

#[derive(Debug, Default, Serialize)]
struct Summary {
    documents: usize,
    created: usize,
    updated: usize,
    unchanged: usize,
    indexed: usize,
    chunks: i64,
    failed: usize,
    failures: Vec<Failure>,
}

#[derive(Debug, Serialize)]
struct Failure {
    source: String,
    error: String,
}

pub(super) async fn run(args: &IngestArgs, context: &mut Context) -> Result<u8, Stop> {
    let files = files(&args.paths)?;
    let metadata = metadata(&args.metadata)?;
    let target = open(args, context).await?;
    let mut summary = Summary { documents: files.len(), ..Summary::default() };
    let accepted = send(&target, args, &files, &metadata, context, &mut summary).await;
    let waited = match accepted {
        Ok(accepted) if !args.no_wait => watch(&target, accepted, &mut summary).await,
        Ok(_) => Ok(()),
        Err(stop) => Err(stop),
    };
    if let Target::Here { background: Some(background), .. } = target {
        background.stop().await;
    }
    waited?;
    print(&summary, args.no_wait, context)?;
    Ok(if summary.failed > 0 { super::FAILED } else { 0 })
}

async fn open(args: &IngestArgs, context: &Context) -> Result<Target, Stop> {
    if let Some(remote) = Remote::of(&args.remote)? {
        return Ok(Target::There(remote));
    }
    let service = context.open().await?;
    let background = (!args.no_wait).then(|| service.start());
    Ok(Target::Here { service, caller: args.remote.caller(), background })
}

/// Everything below the paths that has a known ending, and the files named themselves; sorted, once each.
fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Stop> {
    let mut found = Vec::new();
    for path in paths {
        let what = fs::metadata(path).map_err(|error| Stop::usage(format!("{}: {error}", path.display())))?;
        if what.is_dir() { walk(path, &mut found)? } else { found.push(path.clone()) }
    }
    found.sort();
    found.dedup();
    if found.is_empty() {
        let endings = ENDINGS.join(", ");
        return Err(Stop::usage(format!("there is no file here whose name ends in one of: {endings}")));
    }
    Ok(found)
}

/// Hidden files and symbolic links are left out: the former are rarely meant, the latter may run in a circle.
fn walk(folder: &Path, found: &mut Vec<PathBuf>) -> Result<(), Stop> {
    let unreadable = |error| Stop::usage(format!("{}: {error}", folder.display()));
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(unreadable)?);
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            walk(&path, found)?;
        } else if kind.is_file() && has_known_ending(&path) {
            found.push(path);
        }
    }
    Ok(())
}

fn has_known_ending(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

fn metadata(pairs: &[String]) -> Result<serde_json::Map<String, serde_json::Value>, Stop> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
    };
    let wrong = |text: &String| Stop::usage(format!("--metadata {text}: write it as KEY=VALUE"));
    pairs.iter().map(|text| pair(text).ok_or_else(|| wrong(text))).collect()
}

/// What a file is called in the corpus: its path as it was given.
fn source(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.strip_prefix("./").unwrap_or(&text).to_owned()
}

async fn send(
    target: &Target,
    args: &IngestArgs,
    files: &[PathBuf],
    metadata: &serde_json::Map<String, serde_json::Value>,
    context: &Context,
    summary: &mut Summary,
) -> Result<HashMap<Uuid, String>, Stop> {
    let limit = context.settings.limits.body_bytes;
    let bar = bar(files.len() as u64, "sending  {wide_bar} {pos}/{len} {msg}");
    let mut accepted = HashMap::new();
    for path in files {
        let source = source(path);
        bar.set_message(one_line(&source, 40));
        match one(target, args, path, &source, metadata, limit).await {
            Ok(done) => {
                match done.outcome {
                    Outcome::Created => summary.created += 1,
                    Outcome::Updated => summary.updated += 1,
                    Outcome::Unchanged => summary.unchanged += 1,
                }
                // One that is unchanged may still be on its way from an earlier time.
                accepted.insert(done.id, source);
            }
            // One bad file is no reason to leave out the rest; a service that is away is.
            Err(Stop::Said { message, exit }) if exit != super::UNKNOWN => {
                summary.failed += 1;
                summary.failures.push(Failure { source, error: message });
            }
            Err(stop) => {
                bar.finish_and_clear();
                return Err(stop);
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(accepted)
}

async fn one(
    target: &Target,
    args: &IngestArgs,
    path: &Path,
    source: &str,
    metadata: &serde_json::Map<String, serde_json::Value>,
    limit: usize,
) -> Result<Accepted, Stop> {
    let unreadable = |error: std::io::Error| Stop::failed(format!("it cannot be read: {error}"));
    let size = fs::metadata(path).map_err(unreadable)?.len();
    if size > limit as u64 {
        return Err(Stop::failed(format!("it has {size} bytes; limits.body_bytes is {limit}")));
    }
    let body = fs::read(path).map_err(unreadable)?;
    match target {
        Target::Here { service, caller, .. } => {
            let document = NewDocument {
                corpus: args.corpus.clone(),
                source: source.to_owned(),
                title: None,
                media_type: None,
                metadata: metadata.clone(),
                body,
            };
            Ok(service.accept(caller, document).await?)
        }
        Target::There(remote) => {
            let document = DocumentBody {
                source: source.to_owned(),
                content_base64: Some(base64::engine::general_purpose::STANDARD.encode(body)),
                metadata: metadata.clone(),
                corpus: args.corpus.clone(),
                ..DocumentBody::default()
            };
            remote.post("/v1/documents", &document).await
        }
    }
}

/// Waits until every document is searchable or has failed.
async fn watch(target: &Target, accepted: HashMap<Uuid, String>, summary: &mut Summary) -> Result<(), Stop> {
    let bar = bar(accepted.len() as u64, "indexing {wide_bar} {pos}/{len} documents, {msg} {eta}");
    let mut waiting = accepted;
    let mut stall = Stall::default();
    loop {
        let records = target.records(&waiting).await?;
        if let Some(why) = stall.noticed(&records, Instant::now()) {
            bar.suspend(|| {
                let _ = writeln!(std::io::stderr(), "{why}");
            });
        }
        for document in &records {
            let over = match document.state {
                DocumentState::Indexed | DocumentState::Deleted => {
                    summary.indexed += 1;
                    summary.chunks += i64::from(document.chunk_count);
                    true
                }
                DocumentState::Failed => {
                    let error = document.error.clone().unwrap_or_else(|| "of unknown cause".to_owned());
                    summary.failed += 1;
                    summary.failures.push(Failure { source: document.source.clone(), error });
                    true
                }
                DocumentState::Received | DocumentState::Chunked | DocumentState::Embedded => false,
            };
            if over {
                waiting.remove(&document.id);
                bar.inc(1);
            }
        }
        bar.set_message(format!("{} chunks, {} failed", summary.chunks, summary.failed));
        if waiting.is_empty() {
            bar.finish_and_clear();
            return Ok(());
        }
        tokio::time::sleep(target.poll()).await;
    }
}

/// Notices that no document gets on.
#[derive(Default)]
struct Stall {
    /// The states when something moved last, and when that was.
    moved: Option<(Vec<(Uuid, DocumentState)>, Instant)>,
    told: bool,
}

impl Stall {
    /// Once, when nothing has moved for [`STALLED`]: the newest error of the documents that are waited for.
    fn noticed(&mut self, records: &[DocumentRecord], now: Instant) -> Option<String> {
        let mut states: Vec<_> = records.iter().map(|document| (document.id, document.state)).collect();
        states.sort_unstable();
        let since = match &self.moved {
            Some((before, since)) if *before == states => *since,
            _ => {
                self.moved = Some((states, now));
                now
            }
        };
        if self.told || now.duration_since(since) < STALLED {
            return None;
        }
        let failing = records.iter().filter(|document| document.error.is_some());
        let newest = failing.max_by_key(|document| document.updated_at)?;
        self.told = true;
        let error = one_line(newest.error.as_deref().unwrap_or_default(), 300);
        let (count, seconds) = (records.len(), STALLED.as_secs());
        let source = one_line(&newest.source, 100);
        Some(format!("nothing has moved for {seconds} s; {count} documents are still waited for; {source}: {error}"))
    }
}

impl Target {
    fn poll(&self) -> Duration {
        match self {
            Self::Here { .. } => POLL,
            Self::There(_) => REMOTE_POLL,
        }
    }

    /// Those of the documents that are there.
    async fn records(&self, ids: &HashMap<Uuid, String>) -> Result<Vec<DocumentRecord>, Stop> {
        match self {
            Self::Here { service, caller, .. } => {
                let ids: Vec<Uuid> = ids.keys().copied().collect();
                Ok(service.store().documents_by_id(&caller.tenant, &ids).await?)
            }
            // The listing begins with what changed last, which is what is waited for.
            Self::There(remote) => {
                let (mut found, mut cursor) = (Vec::new(), String::new());
                loop {
                    let page: Page<DocumentRecord> = remote.get(&format!("/v1/documents?limit=1000{cursor}")).await?;
                    found.extend(page.items.into_iter().filter(|document| ids.contains_key(&document.id)));
                    match page.next {
                        Some(next) if found.len() < ids.len() => cursor = format!("&cursor={next}"),
                        _ => return Ok(found),
                    }
                }
            }
        }
    }
}

fn print(summary: &Summary, no_wait: bool, context: &mut Context) -> Result<(), Stop> {
    if context.is_json() {
        return context.out.json(summary);
    }
    let Summary { created, updated, unchanged, indexed, chunks, failed, .. } = summary;
    let documents = summary.documents;
    context.out.line(&format!("{documents} documents: {created} new, {updated} changed, {unchanged} unchanged."))?;
    if no_wait {
        context.out.line("They wait for a running service; `docrag status` shows how far it is.")?;
    } else {
        context.out.line(&format!("{indexed} searchable in {chunks} chunks, {failed} failed."))?;
    }
    for failure in summary.failures.iter().take(NAMED) {
        context.out.line(&format!("  {}: {}", one_line(&failure.source, 100), one_line(&failure.error, 200)))?;
    }
    if summary.failures.len() > NAMED {
        context.out.line(&format!("  and {} more; `docrag status` names the last", summary.failures.len() - NAMED))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_readable_files_once_and_no_hidden_ones() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        for name in ["a/one.md", "a/b/two.HTML", "a/b/three.exe", "a/.hidden.md"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), below.join("circle")).unwrap();
        let paths = [folder.path().to_owned(), folder.path().join("a/one.md")];
        let names: Vec<String> = files(&paths)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["two.HTML", "one.md"]);
    }

    #[test]
    fn a_standstill_is_told_once_with_the_newest_error() {
        let document = |id: u128, state: &str, updated: &str, error: Option<&str>| -> DocumentRecord {
            let (id, source) = (Uuid::from_u128(id), format!("{id}.txt"));
            let record = serde_json::json!({
                "id": id, "corpus": "c", "source": source, "title": null, "media_type": "text/plain", "metadata": {},
                "byte_size": 1, "version": 1, "state": state, "error": error, "attempts": 1, "chunk_count": 1,
                "outbox_seq": 0, "created_at": updated, "updated_at": updated, "indexed_at": null,
            });
            serde_json::from_value(record).unwrap()
        };
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z");
        let (mut stall, start) = (Stall::default(), Instant::now());
        let two =
            [document(1, "chunked", late, Some("the endpoint is away")), document(2, "received", early, Some("old"))];
        assert_eq!(stall.noticed(&two, start), None);
        assert_eq!(stall.noticed(&two, start + STALLED / 2), None);
        // One got on: it begins anew.
        let one = [two[0].clone()];
        assert_eq!(stall.noticed(&one, start + STALLED), None);
        let silent = [document(1, "chunked", late, None)];
        assert_eq!(stall.noticed(&silent, start + STALLED * 3), None, "nothing is known");
        assert!(stall.noticed(&one, start + STALLED * 3).unwrap().contains("1.txt: the endpoint is away"));
        assert_eq!(stall.noticed(&one, start + STALLED * 9), None);
        let mut stall = Stall::default();
        stall.noticed(&two, start);
        assert!(stall.noticed(&two, start + STALLED).unwrap().contains("the endpoint is away"), "the newest");
    }

    #[test]
    fn a_source_does_not_depend_on_how_this_folder_is_spelt() {
        assert_eq!(source(Path::new("./docs/a.md")), source(Path::new("docs/a.md")));
    }

    #[test]
    fn nothing_to_ingest_is_a_mistake_that_names_the_endings() {
        let folder = tempfile::tempdir().unwrap();
        let Err(Stop::Said { message, exit }) = files(&[folder.path().to_owned()]) else { panic!("it is empty") };
        assert!(message.contains("pdf") && exit == 2, "{message}");
    }
}
