//! `docrag reindex`.

use super::Context;
use super::output::{Stop, bar};
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
    let done = service.reindex(args.re_embed, progress).await;
    bar.finish_and_clear();
    done?;
    let chunks = service.dense().count().await.map_err(crate::service::ServiceError::from)?;
    if context.is_json() {
        context.out.json(&serde_json::json!({"index": service.dense().name(), "chunks": chunks}))?;
    } else {
        context.out.line(&format!("The index {} is new; it holds {chunks} chunks.", service.dense().name()))?;
    }
    Ok(0)
}
