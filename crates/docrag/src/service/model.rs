//! Whether the model that runs is the one that the vectors were made with.

use super::background::HEARTBEAT;
use super::{Inside, ModelState};
use crate::embed::{fingerprint, same_model};
use crate::store::StoreError;
use crate::store::models::ModelRow;
use std::time::Duration;

/// Until an endpoint that serves another model is asked again whether the right one is back.
const ASKED_AGAIN: Duration = Duration::from_mins(1);
/// As long as the embedder takes, with all its tries.
pub(super) const PATIENTLY: Duration = Duration::MAX;

/// How long to wait until the model is asked again; for ever when nothing but a switch can change anything.
pub(super) fn asked_again(state: &ModelState, remote: bool) -> Option<Duration> {
    match state {
        ModelState::Serving { .. } => None,
        // A local model was read at the start, and stays what it is.
        ModelState::Differs { .. } => remote.then_some(ASKED_AGAIN),
        ModelState::Unavailable { .. } => Some(HEARTBEAT),
    }
}

impl Inside {
    /// Compares the running model with those that Postgres knows. The first one ever begins to serve.
    pub(super) async fn recognise(&self, within: Duration) -> Result<ModelState, StoreError> {
        let probes = match self.probes(within).await {
            Ok(probes) => probes,
            Err(reason) => return Ok(ModelState::Unavailable { reason }),
        };
        let identity = self.embedder.identity();
        let seen = fingerprint(identity, &probes);
        let mut models = self.store.models().await?;
        if !models.iter().any(|model| model.serving) {
            let own = own_row(&models, identity.dimension, &probes).map(|model| model.generation);
            let generation = match own {
                Some(generation) => generation,
                None => self.store.add_model(identity, &seen, &probes).await?,
            };
            self.store.serve_model(generation, false).await?;
            models = self.store.models().await?;
        }
        let own = own_row(&models, identity.dimension, &probes);
        let serving = models.iter().find(|model| model.serving);
        Ok(match (serving, own) {
            (Some(serving), Some(own)) if serving.generation == own.generation => {
                ModelState::Serving { fingerprint: own.fingerprint.clone(), generation: own.generation }
            }
            (Some(serving), own) => ModelState::Differs {
                known: serving.fingerprint.clone(),
                seen: own.map_or(seen, |own| own.fingerprint.clone()),
            },
            (None, _) => ModelState::Unavailable { reason: "no embedding model serves yet".to_owned() },
        })
    }

    /// Makes the running model known to Postgres, and returns its generation.
    pub(super) async fn own_generation(&self) -> Result<Result<i64, String>, StoreError> {
        let probes = match self.probes(PATIENTLY).await {
            Ok(probes) => probes,
            Err(reason) => return Ok(Err(reason)),
        };
        let identity = self.embedder.identity();
        let models = self.store.models().await?;
        if let Some(own) = own_row(&models, identity.dimension, &probes) {
            return Ok(Ok(own.generation));
        }
        Ok(Ok(self.store.add_model(identity, &fingerprint(identity, &probes), &probes).await?))
    }

    /// Asked of the model once, until [`Inside::forget_probes`].
    async fn probes(&self, within: Duration) -> Result<Vec<Vec<f32>>, String> {
        let ask = async {
            let mut kept = self.probes.lock().await;
            if let Some(probes) = &*kept {
                return Ok(probes.clone());
            }
            let probes = self.embedder.probes().await.map_err(|error| error.to_string())?;
            *kept = Some(probes.clone());
            Ok(probes)
        };
        let answered = tokio::time::timeout(within, ask).await;
        answered.unwrap_or_else(|_| Err(format!("the embedding model did not answer within {within:?}")))
    }

    /// An endpoint may serve another model than when it was asked.
    pub(super) async fn forget_probes(&self) {
        *self.probes.lock().await = None;
    }

    /// Whether the model can change while this process runs: the local one has no endpoint.
    pub(super) fn is_remote(&self) -> bool {
        self.embedder.endpoint().is_some()
    }
}

/// The row of the running model, the serving one first: other processors round otherwise, so that more than one row may
/// be near enough.
fn own_row<'a>(models: &'a [ModelRow], dimension: usize, probes: &[Vec<f32>]) -> Option<&'a ModelRow> {
    let same = |model: &&ModelRow| model.dimension == dimension && same_model(&model.probes, probes);
    models.iter().filter(|model| model.serving).find(same).or_else(|| models.iter().find(same))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_with_another_model_is_asked_again_and_a_local_model_is_not() {
        let differs = ModelState::Differs { known: "a".to_owned(), seen: "b".to_owned() };
        assert_eq!(asked_again(&differs, true), Some(Duration::from_mins(1)));
        assert_eq!(asked_again(&differs, false), None);
        let away = ModelState::Unavailable { reason: "away".to_owned() };
        assert_eq!(asked_again(&away, true), Some(HEARTBEAT));
        let serving = ModelState::Serving { fingerprint: "a".to_owned(), generation: 1 };
        assert_eq!(asked_again(&serving, true), None);
    }
}
