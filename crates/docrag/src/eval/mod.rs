//! `docrag eval`: judged queries, every mode, and whether the difference between two modes is more than luck.
//!
//! The mode of a corpus is chosen by evaluation because fusing helps most corpora and hurts some. The default, hybrid,
//! is left only when another mode is clearly better: its interval of the paired difference leaves out zero.

use crate::search::{SearchFilter, SearchMode, SearchRequest};
use crate::service::{Caller, NewDocument, Scopes, Service, ServiceError};
use crate::store::documents::DocumentState;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

pub mod beir;
pub mod bootstrap;
pub mod measures;
pub mod random;

use beir::{Collection, CollectionError};
use bootstrap::Difference;

/// Collections that are ingested only to be evaluated live under this tenant.
pub const TENANT: &str = "eval";
const MODES: [SearchMode; 3] = [SearchMode::Hybrid, SearchMode::Dense, SearchMode::Lexical];
const WAITED_FOR_AT_ONCE: usize = 50;
/// Passages that most figures are made from.
const PASSAGES: usize = 100;
/// Passages that recall@100 is made from: several may be of one document. Where 300 have fewer than 100 documents, it is
/// over those.
const PASSAGES_OF_100_DOCUMENTS: usize = 300;
/// A whole collection may have to be embedded first.
const INGEST_LIMIT: Duration = Duration::from_hours(4);

#[derive(Debug, Clone)]
pub struct Options {
    /// In BEIR's layout.
    pub folder: PathBuf,
    /// An existing corpus (tenant and name) whose documents' sources are the judged ids. Without one, the collection is
    /// ingested under the tenant `eval`.
    pub corpus: Option<(String, String)>,
    /// Sets the corpus's mode to the recommended one.
    pub save: bool,
}

/// Means over the queries, each from 0 to 1.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Figures {
    pub mode: SearchMode,
    #[serde(rename = "ndcg@10")]
    pub ndcg_10: f64,
    #[serde(rename = "recall@10")]
    pub recall_10: f64,
    /// Of 100 documents, found in a deeper search than the other figures.
    #[serde(rename = "recall@100")]
    pub recall_100: f64,
    pub mrr: f64,
    /// nDCG@10 of each query, in the order of their ids in the file.
    #[serde(skip)]
    pub by_query: Vec<f64>,
}

/// nDCG@10 of the first mode minus that of the second.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Comparison {
    pub ours: SearchMode,
    pub theirs: SearchMode,
    pub difference: Difference,
}

#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    pub collection: String,
    pub documents: usize,
    pub queries: usize,
    pub model: String,
    pub figures: Vec<Figures>,
    pub comparisons: Vec<Comparison>,
    pub recommended: SearchMode,
    pub reason: String,
    /// Whether the corpus is searched so from now on.
    pub saved: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error(transparent)]
    Collection(#[from] CollectionError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A figure of a search that did less than it should would be a figure of something else.
    #[error("query {query}, {mode:?}: {why}; nothing was measured")]
    Degraded { query: String, mode: SearchMode, why: String },
    #[error("not all of the {all} documents could be ingested, first {first}")]
    Ingest { all: usize, first: String },
}

/// What is being done, how much of it is done, of how much.
pub type Progress<'a> = &'a mut (dyn FnMut(&str, usize, usize) + Send);

/// Ingests (when needed), searches and compares.
pub async fn run(service: &Service, options: &Options, progress: Progress<'_>) -> Result<Report, EvalError> {
    let collection = Collection::read(&options.folder)?;
    let (tenant, corpus) = options.corpus.clone().unwrap_or_else(|| (TENANT.to_owned(), corpus_name(&collection.name)));
    let caller = Caller {
        tenant,
        actor: "cli".to_owned(),
        scopes: Scopes { read: true, write: true, admin: true },
        request_id: "eval".to_owned(),
    };
    if options.corpus.is_none() {
        ingest(service, &caller, &corpus, &collection, progress).await?;
    }
    let mut figures = Vec::new();
    for mode in MODES {
        figures.push(measure(service, &caller, &corpus, &collection, mode, progress).await?);
    }
    let comparisons = compare(&figures);
    let (recommended, reason) = recommend(&figures, &comparisons);
    if options.save {
        service.store().set_search_mode(&caller, &corpus, recommended, &reason).await.map_err(ServiceError::from)?;
    }
    Ok(Report {
        collection: collection.name,
        documents: collection.documents.len(),
        queries: collection.queries.len(),
        model: service.embedder().identity().name.clone(),
        figures,
        comparisons,
        recommended,
        reason,
        saved: options.save,
    })
}

async fn ingest(
    service: &Service,
    caller: &Caller,
    corpus: &str,
    collection: &Collection,
    progress: Progress<'_>,
) -> Result<(), EvalError> {
    let all = collection.documents.len();
    let mut ids = Vec::with_capacity(all);
    let mut first_failure = None;
    for (number, record) in collection.documents.iter().enumerate() {
        progress("documents accepted", number, all);
        let document = NewDocument {
            corpus: corpus.to_owned(),
            source: record.id.clone(),
            title: Some(record.title.clone()).filter(|title| !title.trim().is_empty()),
            media_type: Some("text/plain".to_owned()),
            metadata: serde_json::Map::new(),
            // Some records of some collections are a title and nothing else.
            body: if record.text.trim().is_empty() { record.title.clone() } else { record.text.clone() }.into_bytes(),
        };
        match service.accept(caller, document).await {
            Ok(accepted) => ids.push(accepted.id),
            // An empty record is part of some collections; it cannot be found, by us or by anybody.
            Err(ServiceError::Invalid(what)) => {
                first_failure = first_failure.or(Some(format!("{}: {what}", record.id)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let refused = all - ids.len();
    if let Some(first) = first_failure
        && refused * 100 > all
    {
        return Err(EvalError::Ingest { all, first });
    }
    progress("documents indexed", 0, all);
    // They are worked on in the order in which they came, so that waiting in that order shows how far it is.
    for (number, part) in ids.chunks(WAITED_FOR_AT_ONCE).enumerate() {
        let done = service.wait_until_indexed(&caller.tenant, part, INGEST_LIMIT).await?;
        if let Some(failed) = done.iter().find(|document| document.state == DocumentState::Failed) {
            let first = format!("{}: {}", failed.source, failed.error.as_deref().unwrap_or("no reason was kept"));
            return Err(EvalError::Ingest { first, all });
        }
        progress("documents indexed", number * WAITED_FOR_AT_ONCE + done.len(), all);
    }
    Ok(())
}

async fn measure(
    service: &Service,
    caller: &Caller,
    corpus: &str,
    collection: &Collection,
    mode: SearchMode,
    progress: Progress<'_>,
) -> Result<Figures, EvalError> {
    let count = collection.queries.len();
    let (mut ndcg, mut recall_10, mut recall_100, mut mrr) = (Vec::with_capacity(count), 0.0, 0.0, 0.0);
    for (number, query) in collection.queries.iter().enumerate() {
        progress(mode.as_str(), number, count);
        let request = |limit| SearchRequest {
            query: query.text.clone(),
            corpus: corpus.to_owned(),
            mode: Some(mode),
            limit,
            filter: SearchFilter::default(),
        };
        // As people are answered: fusing deeper lists changes also the first ten.
        let usual = service.settings().search.depth;
        let shallow = ranked(service, caller, &query.id, request(PASSAGES), usual).await?;
        let depth = usual.max(PASSAGES_OF_100_DOCUMENTS);
        let deep = ranked(service, caller, &query.id, request(PASSAGES_OF_100_DOCUMENTS), depth).await?;
        let judged = &collection.judgments[&query.id];
        ndcg.push(measures::ndcg(&shallow, judged, 10));
        recall_10 += measures::recall(&shallow, judged, 10);
        recall_100 += measures::recall(&deep, judged, 100);
        mrr += measures::reciprocal_rank(&shallow, judged);
    }
    let mean = |sum: f64| sum / count as f64;
    Ok(Figures {
        mode,
        ndcg_10: mean(ndcg.iter().sum()),
        recall_10: mean(recall_10),
        recall_100: mean(recall_100),
        mrr: mean(mrr),
        by_query: ndcg,
    })
}

/// The passages' documents, the best first; one may be there several times.
async fn ranked(
    service: &Service,
    caller: &Caller,
    query: &str,
    request: SearchRequest,
    depth: usize,
) -> Result<Vec<String>, EvalError> {
    let mode = request.mode.unwrap_or(SearchMode::Hybrid);
    let response = service.search_to_depth(caller, request, depth).await?;
    match response.degraded {
        Some(why) => Err(EvalError::Degraded { query: query.to_owned(), mode, why }),
        None => Ok(response.passages.into_iter().map(|passage| passage.source).collect()),
    }
}

fn compare(figures: &[Figures]) -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    for (number, ours) in figures.iter().enumerate() {
        for theirs in &figures[number + 1..] {
            if let Some(difference) = bootstrap::paired(&ours.by_query, &theirs.by_query) {
                comparisons.push(Comparison { ours: ours.mode, theirs: theirs.mode, difference });
            }
        }
    }
    comparisons
}

/// Hybrid, unless another mode is clearly better than it; of several, the one with the highest figure.
fn recommend(figures: &[Figures], comparisons: &[Comparison]) -> (SearchMode, String) {
    let clearly_better = |mode: SearchMode| {
        comparisons.iter().any(|comparison| {
            comparison.ours == SearchMode::Hybrid && comparison.theirs == mode && comparison.difference.high < 0.0
        })
    };
    let better = figures.iter().filter(|figure| clearly_better(figure.mode));
    match better.max_by(|a, b| a.ndcg_10.total_cmp(&b.ndcg_10)) {
        Some(best) => {
            let reason = format!("nDCG@10 {:.3}, clearly better than hybrid", best.ndcg_10);
            (best.mode, reason)
        }
        None => (SearchMode::Hybrid, "no other mode is clearly better than hybrid".to_owned()),
    }
}

/// A folder's name as a corpus can be called.
fn corpus_name(folder: &str) -> String {
    let name: String = folder.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    name.chars().take(200).collect()
}

impl Report {
    /// For people.
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{}: {} documents, {} judged queries, model {}\n\n{:<9} {:>8} {:>10} {:>11} {:>7}\n",
            self.collection,
            self.documents,
            self.queries,
            self.model,
            "mode",
            "nDCG@10",
            "recall@10",
            "recall@100",
            "MRR"
        );
        for row in &self.figures {
            let _ = writeln!(
                text,
                "{:<9} {:>8.3} {:>10.3} {:>11.3} {:>7.3}",
                row.mode.as_str(),
                row.ndcg_10,
                row.recall_10,
                row.recall_100,
                row.mrr
            );
        }
        text.push_str("\nDifference in nDCG@10 on the same queries, 95 % interval (paired bootstrap):\n");
        for row in &self.comparisons {
            let Difference { mean, low, high } = row.difference;
            let verdict = if row.difference.is_clear() { "clear" } else { "could be luck" };
            let pair = format!("{} − {}", row.ours.as_str(), row.theirs.as_str());
            let _ = writeln!(text, "{pair:<17} {mean:>+7.3}  [{low:+.3}, {high:+.3}]  {verdict}");
        }
        let _ = write!(text, "\nRecommended: {} ({})", self.recommended.as_str(), self.reason);
        text.push_str(if self.saved { "; the corpus is searched so from now on.\n" } else { ".\n" });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(mode: SearchMode, by_query: Vec<f64>) -> Figures {
        let mean = by_query.iter().sum::<f64>() / by_query.len() as f64;
        Figures { mode, ndcg_10: mean, recall_10: 0.0, recall_100: 0.0, mrr: 0.0, by_query }
    }

    fn recommended(hybrid: f64, dense: f64, noise: f64) -> SearchMode {
        let spread = |of: f64, sign: f64| (0..60).map(|n| of + if n % 2 == 0 { sign } else { -sign } * noise).collect();
        let all = [
            figures(SearchMode::Hybrid, spread(hybrid, 1.0)),
            figures(SearchMode::Dense, spread(dense, -1.0)),
            figures(SearchMode::Lexical, spread(0.1, 1.0)),
        ];
        recommend(&all, &compare(&all)).0
    }

    #[test]
    fn hybrid_is_left_only_for_what_is_clearly_better() {
        assert_eq!(recommended(0.50, 0.60, 0.0), SearchMode::Dense);
        assert_eq!(recommended(0.50, 0.51, 0.2), SearchMode::Hybrid);
        assert_eq!(recommended(0.60, 0.50, 0.0), SearchMode::Hybrid);
    }

    #[test]
    fn every_pair_of_modes_is_compared_once() {
        let all = MODES.map(|mode| figures(mode, vec![0.5, 0.4]));
        assert_eq!(compare(&all).len(), 3);
    }

    #[test]
    fn a_folder_gives_a_corpus_name() {
        assert_eq!(corpus_name("sci fact/2"), "sci-fact-2");
    }

    #[test]
    fn the_report_lines_up_and_names_the_recommendation() {
        let all = MODES.map(|mode| figures(mode, vec![0.5, 0.4]));
        let report = Report {
            collection: "cranfield".into(),
            documents: 1_400,
            queries: 225,
            model: "all-MiniLM-L6-v2-int8".into(),
            comparisons: compare(&all),
            figures: all.to_vec(),
            recommended: SearchMode::Hybrid,
            reason: "no other mode is clearly better than hybrid".into(),
            saved: false,
        };
        insta::assert_snapshot!(report.to_text(), @r"
        cranfield: 1400 documents, 225 judged queries, model all-MiniLM-L6-v2-int8

        mode       nDCG@10  recall@10  recall@100     MRR
        hybrid       0.450      0.000       0.000   0.000
        dense        0.450      0.000       0.000   0.000
        lexical      0.450      0.000       0.000   0.000

        Difference in nDCG@10 on the same queries, 95 % interval (paired bootstrap):
        hybrid − dense     +0.000  [+0.000, +0.000]  could be luck
        hybrid − lexical   +0.000  [+0.000, +0.000]  could be luck
        dense − lexical    +0.000  [+0.000, +0.000]  could be luck

        Recommended: hybrid (no other mode is clearly better than hybrid).
        ");
    }
}
