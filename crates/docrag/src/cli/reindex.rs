//! `docrag reindex`.

use super::output::{Stop, bar};
use super::{Context, Whose};
use crate::store::audit::{AuditEntry, AuditOutcome};
use clap::Args;
use std::sync::Arc;

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
    let chunks = service.dense().count().await.map_err(crate::service::ServiceError::from)?;
    if context.is_json() {
        context.out.json(&serde_json::json!({"index": service.dense().name(), "chunks": chunks}))?;
    } else {
        context.out.line(&format!("The index {} is new; it holds {chunks} chunks.", service.dense().name()))?;
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
