//! From what was found to the events of the answer.

use super::chat::{Answering, Chat, Delta};
use super::citations::{Scanned, Scanner};
use super::events::Events;
use super::prompt::{self, NO_ANSWER};
use super::remember::Remembered;
use super::spending::{Prices, Spending};
use super::{AskEvent, AskProblem, AskRequest, Citation, Done, NumberedPassage, extractive, relevance};
use crate::cache::Cache;
use crate::metrics::Metrics;
use crate::provider::{BreakerState, ProviderError};
use crate::search::{Passage, SearchMode, SearchRequest, SearchResponse};
use crate::service::Service;
use std::sync::Arc;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::SendError;
use tracing::Instrument;

/// What is asked, with everything resolved.
pub(super) struct About<'a> {
    pub(super) tenant: &'a str,
    pub(super) mode: SearchMode,
    pub(super) limit: usize,
    pub(super) request: &'a AskRequest,
}

impl About<'_> {
    pub(super) fn search(&self) -> SearchRequest {
        SearchRequest {
            query: self.request.question.clone(),
            corpus: self.request.corpus.clone(),
            mode: Some(self.mode),
            limit: self.limit,
            filter: self.request.filter.clone(),
        }
    }
}

impl Service {
    /// The answer from these passages.
    pub(super) fn answered(&self, about: &About<'_>, found: SearchResponse) -> Events {
        let question = &about.request.question;
        let SearchResponse { passages, degraded, index_version, .. } = found;
        let done = Done { degraded, index_version, ..Done::default() };
        if let Some(reason) = relevance::abstain(question, &passages, self.settings().answer.min_cosine) {
            let text = "Nothing in these documents answers this question.".to_owned();
            let done = Done { abstained: true, reason: Some(reason), ..done };
            return Events::ready(vec![numbered(&passages), AskEvent::Token { text }, AskEvent::Done(done)]);
        }
        let Some(chat) = &self.answers().chat else {
            let reason = match self.answers().trouble {
                None => "No answering model is configured.",
                Some(_) => "The answering model that is configured cannot be used.",
            };
            let mut events = vec![numbered(&passages)];
            events.extend(quoted(question, &passages, reason, done));
            return Events::ready(events);
        };
        let key = done.degraded.is_none().then(|| about.key(chat.model(), &done.index_version));
        let telling = Telling {
            chat: Arc::clone(chat),
            cache: self.cache().clone(),
            metrics: self.metrics().clone(),
            prices: self.answers().prices,
            question: question.clone(),
            passages,
            done,
            key,
        };
        Events::spawned(|sender| {
            async move {
                // An error here means that nobody listens any more.
                let _ = telling.run(&sender).await;
            }
            .in_current_span()
        })
    }
}

/// An answer in the making.
struct Telling {
    chat: Arc<Chat>,
    cache: Cache,
    metrics: Metrics,
    prices: Prices,
    question: String,
    passages: Vec<Passage>,
    done: Done,
    /// Where it is kept when it is worth keeping.
    key: Option<String>,
}

/// What was told so far.
struct Told {
    scanner: Scanner,
    opening: Opening,
    text: String,
    citations: Vec<Citation>,
    finish: Option<String>,
}

/// The kind of problem that an answer ends with when the model broke off.
pub(crate) const INTERRUPTED: &str = "answer-interrupted";

type Sent = Result<(), SendError<AskEvent>>;

impl Telling {
    async fn run(mut self, sender: &Sender<AskEvent>) -> Sent {
        sender.send(numbered(&self.passages)).await?;
        let Ok(boundary) = prompt::boundary() else {
            // Without one, passages would not be told apart from rules.
            return self.quote("The operating system gives no random bytes, so no model was asked.", sender).await;
        };
        let messages = prompt::messages(&self.question, &self.passages, &boundary);
        let asked = self.chat.ask(&messages).await;
        let endpoint = self.chat.endpoint();
        let open = matches!(endpoint.breaker().state(), BreakerState::Open { .. });
        self.metrics.breaker(endpoint.name(), open);
        match asked {
            Ok(answering) => {
                let prompt_bytes = messages.iter().map(|message| message.content.len()).sum();
                let spending = Spending::new(self.metrics.clone(), self.prices, prompt_bytes);
                self.tell(answering, spending, sender).await
            }
            Err(error) => {
                tracing::warn!(%error, "the answering model gave no answer; passages are quoted instead");
                self.quote(&why_not(&error), sender).await
            }
        }
    }

    async fn quote(&mut self, reason: &str, sender: &Sender<AskEvent>) -> Sent {
        for event in quoted(&self.question, &self.passages, reason, std::mem::take(&mut self.done)) {
            sender.send(event).await?;
        }
        Ok(())
    }

    async fn tell(mut self, mut answering: Answering, mut spending: Spending, sender: &Sender<AskEvent>) -> Sent {
        let mut told = Told {
            scanner: Scanner::new(self.passages.len()),
            opening: Opening::default(),
            text: String::new(),
            citations: Vec::new(),
            finish: None,
        };
        while let Some(delta) = answering.next().await {
            match delta {
                Ok(Delta::Text(text)) => {
                    spending.said(&text);
                    let text = told.opening.push(&text);
                    let scanned = told.scanner.push(&text);
                    self.show(scanned, &mut told, sender).await?;
                }
                Ok(Delta::Finished(reason)) => told.finish = Some(reason),
                Ok(Delta::Usage(usage)) => spending.counted(usage),
                Ok(Delta::Thinking | Delta::End) => {}
                Err(error) => {
                    tracing::warn!(%error, "the answering model broke off");
                    return sender.send(AskEvent::Error { problem: broken_off(&error) }).await;
                }
            }
        }
        let rest = told.opening.finish();
        let scanned = told.scanner.push(&rest);
        self.show(scanned, &mut told, sender).await?;
        let scanned = told.scanner.finish();
        self.show(scanned, &mut told, sender).await?;
        if told.opening.abstained && told.text.trim().is_empty() {
            let text = "The passages that were found do not answer this question.".to_owned();
            self.show(Scanned { text, cited: Vec::new() }, &mut told, sender).await?;
        }
        self.conclude(&told, &spending);
        drop(spending);
        // Kept before `done` is sent: after it the reader may leave, and this work would end with it.
        if let Some(key) = self.key.take().filter(|_| is_worth_keeping(&told, &self.done)) {
            self.keep(&key, &told).await;
        }
        sender.send(AskEvent::Done(self.done)).await
    }

    async fn show(&self, scanned: Scanned, told: &mut Told, sender: &Sender<AskEvent>) -> Sent {
        if !scanned.text.is_empty() {
            told.text.push_str(&scanned.text);
            sender.send(AskEvent::Token { text: scanned.text }).await?;
        }
        for n in scanned.cited {
            let citation = citation(n, &self.passages[n - 1], None);
            told.citations.push(citation.clone());
            sender.send(AskEvent::Citation(citation)).await?;
        }
        Ok(())
    }

    fn conclude(&mut self, told: &Told, spending: &Spending) {
        let spent = spending.spent();
        let empty = told.text.trim().is_empty();
        self.done.model = Some(self.chat.model().to_owned());
        self.done.abstained = told.opening.abstained;
        self.done.answered = !told.opening.abstained && !empty;
        self.done.unsupported = self.done.answered && !told.scanner.cited_any();
        self.done.invented_citations = told.scanner.invented();
        self.done.prompt_tokens = spent.usage.prompt_tokens;
        self.done.completion_tokens = spent.usage.completion_tokens;
        self.done.cost = spent.cost;
        self.done.estimated = spent.estimated;
        self.done.reason = match told.finish.as_deref() {
            _ if told.opening.abstained => Some("the model found no answer in the passages".to_owned()),
            _ if empty => Some("the model said nothing".to_owned()),
            Some("length") => Some("the answer was cut at its greatest length (answer.max_tokens)".to_owned()),
            Some("content_filter") => Some("the provider's content filter cut the answer".to_owned()),
            _ if self.done.unsupported => Some("the answer cites no passage".to_owned()),
            _ => None,
        };
    }

    async fn keep(&self, key: &str, told: &Told) {
        let kept = Remembered {
            passages: numbers(&self.passages),
            text: told.text.clone(),
            citations: told.citations.clone(),
            done: self.done.clone(),
        };
        match serde_json::to_string(&kept) {
            Ok(kept) => self.cache.put_answer(key, &kept).await,
            Err(error) => tracing::warn!(%error, "an answer cannot be kept"),
        }
    }
}

fn is_worth_keeping(told: &Told, done: &Done) -> bool {
    // A provider that does not say how it ended may have been cut.
    done.answered && !done.unsupported && done.reason.is_none() && told.finish.as_deref() == Some("stop")
}

/// Holds back the beginning until it is clear whether it says that there is no answer.
#[derive(Debug, Default)]
struct Opening {
    held: String,
    over: bool,
    abstained: bool,
}

impl Opening {
    fn push(&mut self, text: &str) -> String {
        if self.over {
            return text.to_owned();
        }
        self.held.push_str(text);
        let said = self.held.trim_start_matches(is_dressing);
        if let Some(rest) = said.strip_prefix(NO_ANSWER) {
            // "NO ANSWERS were found …" is a sentence. What follows next decides.
            let Some(next) = rest.chars().next() else { return String::new() };
            if !next.is_alphanumeric() {
                self.abstained = true;
                let rest = rest.trim_start_matches(is_dressing);
                let rest = rest.to_owned();
                // Blanks and points may still come.
                self.over = !rest.is_empty();
                NO_ANSWER.clone_into(&mut self.held);
                self.held.push('.');
                return rest;
            }
        } else if NO_ANSWER.starts_with(said) {
            return String::new();
        }
        self.over = true;
        std::mem::take(&mut self.held)
    }

    fn finish(&mut self) -> String {
        if self.over {
            return String::new();
        }
        self.over = true;
        let held = std::mem::take(&mut self.held);
        self.abstained |= held.trim_matches(is_dressing) == NO_ANSWER;
        if self.abstained { String::new() } else { held }
    }
}

/// What models put around such a sentinel.
fn is_dressing(c: char) -> bool {
    c.is_whitespace() || ".:;,–-\"'*`“”".contains(c)
}

/// Quotes as an answer.
fn quoted(question: &str, passages: &[Passage], reason: &str, done: Done) -> Vec<AskEvent> {
    let quotes = extractive::quotes(question, passages);
    let mut events = vec![AskEvent::Token { text: extractive::rendered(reason, &quotes) }];
    events.extend(quotes.into_iter().map(|quote| {
        let passage = &passages[quote.n - 1];
        AskEvent::Citation(citation(quote.n, passage, Some(quote.text)))
    }));
    events.push(AskEvent::Done(Done { reason: Some(reason.to_owned()), ..done }));
    events
}

fn citation(n: usize, passage: &Passage, quote: Option<String>) -> Citation {
    Citation { n, chunk_id: passage.chunk_id, doc_id: passage.doc_id, quote }
}

fn numbers(passages: &[Passage]) -> Vec<NumberedPassage> {
    (1..).zip(passages).map(|(n, passage)| NumberedPassage { n, passage: passage.clone() }).collect()
}

fn numbered(passages: &[Passage]) -> AskEvent {
    AskEvent::Passages { passages: numbers(passages) }
}

/// For the caller: without addresses, which are for the log.
fn why_not(error: &ProviderError) -> String {
    match error {
        ProviderError::BreakerOpen { retry_in, .. } => {
            let seconds = retry_in.as_secs_f64().ceil();
            format!("The answering model failed too often and is not asked for another {seconds} s.")
        }
        ProviderError::TimedOut { .. } => "The answering model did not answer in time.".to_owned(),
        ProviderError::Status { status: 429, .. } => "The answering model is overloaded.".to_owned(),
        ProviderError::Status { status, .. } => format!("The answering model refused the request ({status})."),
        ProviderError::Answer { .. } => "The answering model sent nothing that can be read.".to_owned(),
        ProviderError::Unreachable { .. } | ProviderError::Configuration { .. } => {
            "The answering model cannot be reached.".to_owned()
        }
    }
}

fn broken_off(error: &ProviderError) -> AskProblem {
    let (status, how) = match error {
        ProviderError::TimedOut { .. } => (504, "stopped in the middle"),
        _ => (502, "broke off"),
    };
    let detail = format!("the answering model {how}; what was sent is incomplete");
    AskProblem { slug: INTERRUPTED.to_owned(), status, detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&["NO", " ANS", "WER"], "", true)]
    #[case(&["NO ANSWER", "."], "", true)]
    #[case(&["**", "NO ANSWER**"], "", true)]
    #[case(&["\"Pages\" have"], "\"Pages\" have", false)]
    #[case(&["\nNO ANSWER. ", " The passages are about cats."], "The passages are about cats.", true)]
    #[case(&["NO ANSWERS were", " found"], "NO ANSWERS were found", false)]
    #[case(&["N", "o, it is not [1]."], "No, it is not [1].", false)]
    #[case(&["Pages have 8 kB. NO ANSWER"], "Pages have 8 kB. NO ANSWER", false)]
    #[case(&["NO"], "NO", false)]
    #[case(&[], "", false)]
    fn a_model_that_abstains_is_understood(#[case] pieces: &[&str], #[case] shown: &str, #[case] abstained: bool) {
        let mut opening = Opening::default();
        let mut text: String = pieces.iter().map(|piece| opening.push(piece)).collect();
        text.push_str(&opening.finish());
        assert_eq!((text.as_str(), opening.abstained), (shown, abstained));
    }
}
