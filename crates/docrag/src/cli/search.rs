//! `docrag search` and `docrag ask`. Without a URL they open the indexes themselves, which takes a moment; with one they ask
//! the running service.

use super::Context;
use super::corpus::Mode;
use super::output::{Stop, one_line};
use super::remote::{Remote, RemoteArgs};
use crate::answer::{AskEvent, AskRequest};
use crate::search::{Passage, SearchFilter, SearchMode, SearchRequest, SearchResponse};
use crate::service::{Background, Service};
use clap::Args;
use futures_util::StreamExt as _;
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

/// Indexes in memory are filled at the start; a person waits so long.
const FILL_LIMIT: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
struct What {
    /// The corpus
    #[arg(long, default_value = "default", value_name = "NAME")]
    corpus: String,
    /// How to search; the corpus's own mode by default
    #[arg(long, value_enum, value_name = "MODE")]
    mode: Option<Mode>,
    /// Only documents with this metadata; may be repeated
    #[arg(long = "filter", value_name = "KEY=VALUE", value_parser = pair)]
    filter: Vec<(String, serde_json::Value)>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Debug, Args)]
pub(super) struct SearchArgs {
    /// What to look for
    #[arg(value_name = "QUERY")]
    query: String,
    /// How many passages
    #[arg(long, default_value_t = 5, value_name = "N")]
    limit: usize,
    #[command(flatten)]
    what: What,
}

#[derive(Debug, Args)]
pub(super) struct AskArgs {
    /// The question
    #[arg(value_name = "QUESTION")]
    question: String,
    #[command(flatten)]
    what: What,
}

/// `key=value`; a value that is JSON is taken as such, anything else is text.
fn pair(text: &str) -> Result<(String, serde_json::Value), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((key.to_owned(), value))
}

impl What {
    fn filter(&self) -> SearchFilter {
        SearchFilter { metadata: self.filter.iter().cloned().collect::<BTreeMap<_, _>>(), documents: Vec::new() }
    }

    fn mode(&self) -> Option<SearchMode> {
        self.mode.map(SearchMode::from)
    }
}

pub(super) async fn search(args: &SearchArgs, context: &mut Context) -> Result<u8, Stop> {
    let request = SearchRequest {
        query: args.query.clone(),
        corpus: args.what.corpus.clone(),
        mode: args.what.mode(),
        limit: args.limit,
        filter: args.what.filter(),
    };
    let response: SearchResponse = if let Some(remote) = Remote::of(&args.what.remote)? {
        remote.post("/v1/search", &request).await?
    } else {
        let (service, background) = opened(context).await?;
        let found = service.search(&args.what.remote.caller(), request).await;
        background.stop().await;
        found?
    };
    if context.is_json() {
        context.out.json(&response)?;
        return Ok(0);
    }
    if response.passages.is_empty() {
        context.out.line("Nothing was found.")?;
    }
    for (number, passage) in response.passages.iter().enumerate() {
        context.out.line(&head(number + 1, passage))?;
        context.out.line(&format!("   {}\n", one_line(&passage.content, 300)))?;
    }
    if let Some(why) = response.degraded {
        context.out.line(&format!("Note: {}.", why.trim_end_matches('.')))?;
    }
    Ok(0)
}

fn head(number: usize, passage: &Passage) -> String {
    let name = passage.title.as_deref().unwrap_or(&passage.source);
    let heading =
        if passage.heading.is_empty() { String::new() } else { format!(" > {}", one_line(&passage.heading, 80)) };
    format!("{number}. {}{heading}  ({}, {:.3})", one_line(name, 80), one_line(&passage.source, 80), passage.score)
}

pub(super) async fn ask(args: &AskArgs, context: &mut Context) -> Result<u8, Stop> {
    let request = AskRequest {
        question: args.question.clone(),
        corpus: args.what.corpus.clone(),
        mode: args.what.mode(),
        limit: None,
        filter: args.what.filter(),
    };
    if let Some(remote) = Remote::of(&args.what.remote)? {
        let whole: serde_json::Value = remote.post("/v1/ask", &request).await?;
        return remote_answer(&whole, context);
    }
    let (service, background) = opened(context).await?;
    let code = streamed(&service, args, request, context).await;
    background.stop().await;
    code
}

fn remote_answer(whole: &serde_json::Value, context: &mut Context) -> Result<u8, Stop> {
    if context.is_json() {
        context.out.json(whole)?;
        return Ok(0);
    }
    context.out.line(whole["answer"].as_str().unwrap_or_default())?;
    context.out.line("")?;
    for passage in whole["passages"].as_array().into_iter().flatten() {
        let source = passage["source"].as_str().unwrap_or_default();
        let heading = passage["heading"].as_str().unwrap_or_default();
        context.out.line(&format!("[{}] {} {}", passage["n"], one_line(source, 100), one_line(heading, 100)))?;
    }
    for note in ["reason", "degraded"].into_iter().filter_map(|name| whole[name].as_str()) {
        note_unless_said(note, whole["answer"].as_str().unwrap_or_default(), context)?;
    }
    Ok(0)
}

/// Why there is less than there could be, unless the answer itself says so.
fn note_unless_said(note: &str, said: &str, context: &mut Context) -> Result<(), Stop> {
    let note = note.trim_end_matches('.');
    if said.contains(note) { Ok(()) } else { context.out.line(&format!("\nNote: {note}.")) }
}

/// Prints the answer as it comes; with JSON, one event a line.
async fn streamed(service: &Service, args: &AskArgs, request: AskRequest, context: &mut Context) -> Result<u8, Stop> {
    let events = service.ask(&args.what.remote.caller(), request).await?;
    let mut events = pin!(events);
    let (mut passages, mut said) = (Vec::new(), String::new());
    while let Some(event) = events.next().await {
        if context.is_json() {
            context.out.line(&format!("{{\"event\":\"{}\",\"data\":{}}}", event.name(), event.data()))?;
            continue;
        }
        match event {
            AskEvent::Passages { passages: found } => passages = found,
            AskEvent::Token { text } => {
                let clean: String = text.chars().filter(|c| !c.is_control() || *c == '\n').collect();
                said.push_str(&clean);
                context.out.text(&clean)?;
                context.out.flush()?;
            }
            AskEvent::Citation(_) => {}
            AskEvent::Done(done) => {
                context.out.line("\n")?;
                for found in &passages {
                    let place = one_line(&found.passage.heading, 100);
                    context.out.line(&format!("[{}] {} {place}", found.n, one_line(&found.passage.source, 100)))?;
                }
                for note in [done.reason, done.degraded].into_iter().flatten() {
                    note_unless_said(&note, &said, context)?;
                }
            }
            AskEvent::Error { problem } => {
                return Err(Stop::unknown(format!("the answer broke off: {}", problem.detail)));
            }
        }
    }
    Ok(0)
}

/// The service with its indexes filled.
async fn opened(context: &Context) -> Result<(Service, Background), Stop> {
    let service = context.open().await?;
    let background = service.start();
    let filled = async {
        while Box::pin(service.ready()).await.iter().any(|state| state.required && !state.ok) {
            tokio::time::sleep(POLL).await;
        }
    };
    if tokio::time::timeout(FILL_LIMIT, filled).await.is_err() {
        let states = Box::pin(service.ready()).await;
        let missing = states.iter().find(|state| state.required && !state.ok);
        let why = missing.map(|state| format!("{}: {}", state.name, state.detail)).unwrap_or_default();
        return Err(Stop::unknown(format!("the service did not get ready within {FILL_LIMIT:?}: {why}")));
    }
    Ok((service, background))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_value_is_json_when_it_can_be() {
        assert_eq!(pair("year=2024").unwrap(), ("year".to_owned(), serde_json::json!(2024)));
        assert_eq!(pair("lang=en").unwrap(), ("lang".to_owned(), serde_json::json!("en")));
        assert!(pair("lang").is_err());
    }
}
