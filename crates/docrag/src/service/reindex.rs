//! `docrag reindex`: the index, and with it all vectors if wanted, made anew.

use super::model::PATIENTLY;
use super::{Background, ModelState, Progress, Service, ServiceError};
use crate::index::follower::FollowError;
use std::sync::atomic::Ordering;
use std::time::Duration;

const LOOK: Duration = Duration::from_millis(300);
/// A first rebuild after vectors were missed while it ran is tried again so often.
const TRIES: usize = 3;

pub(super) async fn reindex(service: &Service, re_embed: bool, progress: &Progress) -> Result<(), ServiceError> {
    if re_embed {
        return re_embed_all(service, progress).await;
    }
    if let ModelState::Differs { known, seen } = service.recognised() {
        return Err(ServiceError::Invalid(format!(
            "the vectors were made by {known}, but {seen} runs here, which cannot rebuild their index: configure the former \
             model again, or run `docrag reindex --re-embed`"
        )));
    }
    let serving = service.store().serving_model().await?;
    let own = service.following().dimension;
    // When the model does not answer, its length still tells something.
    if let Some(serving) = serving
        && serving.dimension != own
    {
        return Err(ServiceError::Invalid(format!(
            "the vectors have {} numbers, but the model that is configured here makes {own}: configure the former model \
             again, or run `docrag reindex --re-embed`",
            serving.dimension
        )));
    }
    rebuild(service, serving.map(|serving| serving.generation), false, progress).await
}

async fn rebuild(
    service: &Service,
    generation: Option<i64>,
    serve: bool,
    progress: &Progress,
) -> Result<(), ServiceError> {
    let following = service.following();
    if following.dense.is_shared() {
        let mut tried = 1;
        loop {
            match following.rebuild_shared(generation, serve, &**progress).await {
                Err(FollowError::TooLate) if tried < TRIES => tried += 1,
                result => return Ok(result?),
            }
        }
    }
    if let (true, Some(generation)) = (serve, generation) {
        service.store().serve_model(generation, true).await?;
    }
    // Every process rebuilds its own.
    let build = service.store().want_build(following.dense.name()).await?;
    service.store().notify_followers().await?;
    service.wakes().followers();
    let total = service.store().count_chunks().await?;
    progress(0, total);
    while service.store().behind_build(following.dense.name(), build).await? > 0 {
        tokio::time::sleep(LOOK).await;
    }
    progress(total, total);
    Ok(())
}

/// Switches to the model that runs, and waits until it has made all vectors. Interrupted, the next start or the next call
/// goes on.
async fn re_embed_all(service: &Service, progress: &Progress) -> Result<(), ServiceError> {
    if service.inside.is_remote() {
        service.inside.forget_probes().await;
    }
    let own = service.inside.own_generation().await?.map_err(|reason| {
        ServiceError::Internal(format!("the embedding model does not answer, so nothing was changed: {reason}"))
    })?;
    // Before the switch, so that a process that keeps its index in memory hears of it.
    let running = service.inside.started.load(Ordering::Acquire);
    let background: Option<Background> = (!running).then(|| service.start());
    let result = switch_and_wait(service, own, progress).await;
    if let Some(background) = background {
        background.stop().await;
    }
    result
}

async fn switch_and_wait(service: &Service, own: i64, progress: &Progress) -> Result<(), ServiceError> {
    if service.store().serving_generation().await? != Some(own) {
        rebuild(service, Some(own), true, progress).await?;
    }
    service.recognise_again(PATIENTLY).await?;
    if !matches!(service.recognised(), ModelState::Serving { .. }) {
        return Err(ServiceError::Internal("another model was switched to meanwhile".to_owned()));
    }
    while service.store().requeue_stale().await? > 0 {}
    service.store().notify_workers().await?;
    let total = service.store().count_chunks().await?;
    loop {
        let left = service.store().count_unembedded().await?;
        progress(total.saturating_sub(left), total);
        if left == 0 {
            service.store().note_complete().await?;
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl From<FollowError> for ServiceError {
    fn from(error: FollowError) -> Self {
        match error {
            FollowError::Store(error) => Self::Store(error),
            FollowError::Index(error) => Self::Index(error),
            error => Self::Internal(error.to_string()),
        }
    }
}
