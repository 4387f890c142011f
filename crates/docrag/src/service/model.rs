//! Whether the model that runs is the one that the vectors were made with.

use super::{Inside, ModelState};
use crate::embed::{fingerprint, same_model};
use crate::store::StoreError;
use crate::store::models::ModelRow;

impl Inside {
    /// Compares the running model with those that Postgres knows. The first one ever begins to serve.
    pub(super) async fn recognise(&self) -> Result<ModelState, StoreError> {
        let probes = match self.probes().await {
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
        let probes = match self.probes().await {
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

    /// Asked of the model once; it does not change while the process runs.
    async fn probes(&self) -> Result<Vec<Vec<f32>>, String> {
        let mut kept = self.probes.lock().await;
        if let Some(probes) = &*kept {
            return Ok(probes.clone());
        }
        let probes = self.embedder.probes().await.map_err(|error| error.to_string())?;
        *kept = Some(probes.clone());
        Ok(probes)
    }
}

/// The row of the running model, the serving one first: other processors round otherwise, so that more than one row may
/// be near enough.
fn own_row<'a>(models: &'a [ModelRow], dimension: usize, probes: &[Vec<f32>]) -> Option<&'a ModelRow> {
    let same = |model: &&ModelRow| model.dimension == dimension && same_model(&model.probes, probes);
    models.iter().filter(|model| model.serving).find(same).or_else(|| models.iter().find(same))
}
