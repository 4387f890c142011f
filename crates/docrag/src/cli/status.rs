//! `docrag status`.

use super::Context;
use super::output::{Stop, ago, columns, one_line};
use crate::index::memory::MOST_CHUNKS;
use crate::service::{CROWDED, CorpusStatus, Status, stored_status};
use crate::store::Store;
use crate::store::documents::DocumentState;
use clap::Args;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const STATES: [DocumentState; 6] = [
    DocumentState::Received,
    DocumentState::Chunked,
    DocumentState::Embedded,
    DocumentState::Indexed,
    DocumentState::Failed,
    DocumentState::Deleted,
];

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Only of this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

pub(super) async fn run(args: &StatusArgs, context: &mut Context) -> Result<u8, Stop> {
    // Not the service: this is asked when something is wrong, perhaps with the model.
    let store = Store::open(&context.settings.database).await?;
    store.migrate().await?;
    let status = stored_status(&store, args.tenant.as_deref()).await?;
    if context.is_json() {
        context.out.json(&status)?;
    } else {
        context.out.text(&text(&status))?;
    }
    Ok(0)
}

fn text(status: &Status) -> String {
    let mut text = String::from("Documents\n");
    if status.corpora.is_empty() {
        text.push_str("  none yet; `docrag ingest PATH` takes some in\n");
    } else {
        text.push_str(&columns(&documents(&status.corpora), "  "));
    }
    if status.oldest_waiting_seconds > 0.0 {
        let _ = writeln!(text, "  the oldest has been waiting for {}", ago(status.oldest_waiting_seconds));
    }
    let _ = write!(text, "\nModel\n  {}\n\nIndexes\n", status.model);
    if status.indexes.is_empty() {
        text.push_str("  none follows; start `docrag serve`\n");
    }
    let rows: Vec<Vec<String>> = status
        .indexes
        .iter()
        .map(|index| {
            let lag = match index.lag_entries {
                0 => "up to date".to_owned(),
                entries => format!("{entries} changes behind, for {}", ago(index.lag_seconds)),
            };
            let seen = format!("seen {} ago", ago(index.seen_seconds));
            vec![index.index.clone(), one_line(&index.replica, 12), format!("build {}", index.build), lag, seen]
        })
        .collect();
    text.push_str(&columns(&rows, "  "));
    let chunks: i64 = status.corpora.iter().map(|count| count.chunks).sum();
    if status.indexes.iter().any(|index| index.index == "memory") && chunks > MOST_CHUNKS as i64 {
        let _ = writeln!(text, "  {CROWDED}");
    }
    if !status.failures.is_empty() {
        text.push_str("\nLast failures\n");
        for failure in &status.failures {
            let again = if failure.state == DocumentState::Failed { "given up" } else { "will be tried again" };
            let _ = writeln!(
                text,
                "  {} ({} in {}, {again})\n    {}",
                one_line(&failure.source, 100),
                failure.id,
                one_line(&failure.corpus, 60),
                one_line(&failure.error, 200)
            );
        }
    }
    text
}

/// One row per corpus, one column per state.
fn documents(corpora: &[CorpusStatus]) -> Vec<Vec<String>> {
    let mut head = vec!["tenant".to_owned(), "corpus".to_owned()];
    head.extend(STATES.map(|state| state.as_str().to_owned()));
    head.push("chunks".to_owned());
    let mut rows: BTreeMap<_, (BTreeMap<&str, i64>, i64)> = BTreeMap::new();
    for count in corpora {
        let row = rows.entry((count.tenant.clone(), count.corpus.clone())).or_default();
        *row.0.entry(count.state.as_str()).or_default() += count.documents;
        row.1 += count.chunks;
    }
    let mut table = vec![head];
    table.extend(rows.into_iter().map(|((tenant, corpus), (states, chunks))| {
        let mut row = vec![one_line(&tenant, 40), one_line(&corpus, 40)];
        row.extend(STATES.map(|state| states.get(state.as_str()).copied().unwrap_or(0).to_string()));
        row.push(chunks.to_string());
        row
    }));
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::{FailureStatus, IndexStatus};
    use uuid::Uuid;

    #[test]
    fn the_status_lines_up_and_names_what_failed() {
        let count = |state, documents, chunks| CorpusStatus {
            tenant: "default".into(),
            corpus: "manual".into(),
            state,
            documents,
            chunks,
        };
        let status = Status {
            model: "serving".into(),
            corpora: vec![count(DocumentState::Indexed, 1_168, 12_004), count(DocumentState::Failed, 1, 0)],
            indexes: vec![IndexStatus {
                index: "memory".into(),
                replica: "0197c0de-aaaa".into(),
                build: 1,
                applied_seq: 40,
                lag_entries: 2,
                lag_seconds: 3.0,
                seen_seconds: 1.0,
            }],
            failures: vec![FailureStatus {
                id: Uuid::nil(),
                tenant: "default".into(),
                corpus: "manual".into(),
                source: "broken.pdf".into(),
                state: DocumentState::Failed,
                error: "the PDF cannot be read:\nno xref".into(),
                attempts: 1,
            }],
            oldest_waiting_seconds: 0.0,
            outbox_seq: 42,
        };
        insta::assert_snapshot!(text(&status), @r"
        Documents
          tenant   corpus  received  chunked  embedded  indexed  failed  deleted  chunks
          default  manual         0        0         0     1168       1        0   12004

        Model
          serving

        Indexes
          memory  0197c0de-aa…  build 1  2 changes behind, for 3 s  seen 1 s ago

        Last failures
          broken.pdf (00000000-0000-0000-0000-000000000000 in manual, given up)
            the PDF cannot be read: no xref
        ");
        let mut crowded = status;
        crowded.corpora[0].chunks = 200_001;
        assert!(text(&crowded).contains(CROWDED));
    }
}
