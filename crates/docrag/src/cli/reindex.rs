//! `docrag reindex`.

use super::output::{Stop, bar};
use super::{Context, Whose};
use crate::service::IndexStatus;
use crate::store::audit::{AuditEntry, AuditOutcome};
use clap::Args;
use std::sync::Arc;

/// A process that was not heard of for so long has ended.
const LIVES_SECONDS: f64 = 60.0;

#[derive(Debug, Args)]
pub(super) struct ReindexArgs {
    /// Make all embeddings again first, by the model that is configured now
    #[arg(long)]
    re_embed: bool,
}

pub(super) async fn run(args: &ReindexArgs, context: &mut Context) -> Result<u8, Stop> {
    let service = context.open().await?;
    let bar = bar(0, "{msg} {wide_bar} {pos}/{len} chunks {eta}");
    bar.set_message(if args.re_embed { "embedding and indexing" } else { "indexing" });
    let shown = bar.clone();
    let progress = Arc::new(move |done: u64, of: u64| {
        shown.set_length(of);
        shown.set_position(done);
    });
    // Before and after: it may take hours, and be interrupted when the model has been switched.
    let mut entry = audit_entry(args, service.dense().name());
    service.store().write_audit(&entry).await?;
    let done = service.reindex(args.re_embed, progress).await;
    bar.finish_and_clear();
    "reindex.end".clone_into(&mut entry.action);
    entry.outcome = if done.is_ok() { AuditOutcome::Done } else { AuditOutcome::Failed };
    let noted = service.store().write_audit(&entry).await;
    done?;
    noted?;
    let name = service.dense().name();
    // One in memory is in the processes that serve; this one holds none of it.
    let (chunks, processes) = if service.dense().is_shared() {
        (service.dense().count().await.map_err(crate::service::ServiceError::from)?, None)
    } else {
        let indexes = service.status(None).await?.indexes;
        (service.store().count_chunks().await?, Some(living(&indexes, name)))
    };
    if context.is_json() {
        let done = serde_json::json!({"index": name, "chunks": chunks, "processes": processes});
        context.out.json(&done)?;
    } else {
        context.out.line(&said(name, chunks, processes))?;
    }
    Ok(0)
}

/// Of no tenant: the index is everybody's.
fn audit_entry(args: &ReindexArgs, index: &str) -> AuditEntry {
    let caller = Whose { tenant: String::new() }.caller();
    AuditEntry {
        tenant: None,
        actor: caller.actor,
        action: "reindex.start".to_owned(),
        subject: index.to_owned(),
        outcome: AuditOutcome::Done,
        request_id: Some(caller.request_id),
        details: serde_json::json!({"re_embed": args.re_embed}),
    }
}

fn living(indexes: &[IndexStatus], name: &str) -> usize {
    indexes.iter().filter(|status| status.index == name && status.seen_seconds < LIVES_SECONDS).count()
}

fn said(name: &str, chunks: u64, processes: Option<usize>) -> String {
    match processes {
        None => format!("The index {name} is new; it holds {chunks} chunks."),
        Some(0) => format!(
            "No process serves the index {name} now; the next `docrag serve` builds it from {chunks} chunks in Postgres."
        ),
        Some(1) => format!("One process has built its index {name} anew, from {chunks} chunks in Postgres."),
        Some(count) => {
            format!("{count} processes have built their index {name} anew, from {chunks} chunks in Postgres.")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_in_memory_is_counted_where_it_is() {
        let status = |index: &str, replica: &str, seen_seconds| IndexStatus {
            index: index.to_owned(),
            replica: replica.to_owned(),
            build: 2,
            applied_seq: 1,
            lag_entries: 0,
            lag_seconds: 0.0,
            seen_seconds,
        };
        let all = [status("memory", "a", 1.0), status("memory", "b", 2_000.0), status("lexical", "a", 1.0)];
        assert_eq!(living(&all, "memory"), 1);
        assert!(said("memory", 7, Some(1)).contains("from 7 chunks"));
        assert!(said("memory", 7, Some(0)).contains("the next `docrag serve` builds it"));
        assert!(said("qdrant", 7, None).contains("holds 7 chunks"));
    }
}
