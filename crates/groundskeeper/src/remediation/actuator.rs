//! The hands: carries a journalled step to the system that it is for.
//!
//! A trait, because the executor's tests need hands that fail, hang and die on command.

use super::{Limits, partition, repository};
use crate::clock::Clock;
use crate::config::Endpoint;
use crate::scheduler::BoxFuture;
use crate::stack;
use groundskeeper_backup::Vault;
use groundskeeper_backup::exports::Exporter;
use groundskeeper_core::SystemId;
use groundskeeper_core::expiry::{self, Rule};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState};
use groundskeeper_systems::postgres;
use groundskeeper_systems::postgres::act::{self, ActError, Sink};
use std::time::Duration;

/// Why a step could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The world is not (any more) as the step needs it; nothing was changed.
    #[error("{0}")]
    Precondition(String),
    /// What the step is about is gone, and with it whatever could be changed or put back there.
    #[error("{0}")]
    Gone(String),
    /// It was ended before it was done, because we stop.
    #[error("interrupted by the stop of groundskeeper: {0}")]
    Interrupted(String),
    /// It was tried and failed; whether anything changed is for the verification to say.
    #[error("{0}")]
    Failed(String),
}

pub trait Actuator: Send + Sync {
    /// Reads the state of a step's target.
    fn capture<'a>(&'a self, step: &'a Step) -> BoxFuture<'a, Result<StepState, Trouble>>;
    /// Carries out a step whose intent is durable.
    fn apply<'a>(&'a self, step: &'a JournalledStep, limits: Limits) -> BoxFuture<'a, Result<(), Trouble>>;
    /// Whether the system still works on the step, on behalf of a process that may be dead.
    fn is_under_way<'a>(&'a self, step: &'a Step) -> BoxFuture<'a, Result<bool, Trouble>>;
}

/// Reading a target is quick.
const CAPTURE_DEADLINE: Duration = Duration::from_secs(10);

/// The hands on the configured systems, by the keeper's clock.
#[derive(Debug, Clone)]
pub struct Stack {
    pub systems: stack::Stack,
    pub clock: Clock,
    /// How long rows are kept: asked again right before any are deleted.
    pub expiry: Vec<(SystemId, Rule)>,
}

impl Stack {
    fn vault(&self, step: &Step) -> Result<&Vault, Trouble> {
        match self.systems.get(step.system()).map(|system| &system.endpoint) {
            Some(Endpoint::Backup(lookout)) => Ok(lookout.vault()),
            _ => Err(Trouble::Precondition(format!("{} is not configured as a repository (any more)", step.system()))),
        }
    }

    fn postgres(&self, step: &Step) -> Result<&postgres::Endpoint, Trouble> {
        match self.systems.get(step.system()).map(|system| &system.endpoint) {
            Some(Endpoint::Postgres(endpoint)) => Ok(endpoint),
            _ => Err(Trouble::Precondition(format!("{} is not configured as a Postgres (any more)", step.system()))),
        }
    }
}

impl From<ActError> for Trouble {
    fn from(error: ActError) -> Self {
        match error {
            ActError::Precondition { .. } => Self::Precondition(error.to_string()),
            ActError::Gone { .. } => Self::Gone(error.to_string()),
            ActError::Interrupted(_) => Self::Interrupted(error.to_string()),
            other => Self::Failed(other.to_string()),
        }
    }
}

impl Actuator for Stack {
    fn capture<'a>(&'a self, step: &'a Step) -> BoxFuture<'a, Result<StepState, Trouble>> {
        Box::pin(async move {
            match step {
                Step::PruneRepository { sets, .. } => repository::capture(self.vault(step)?, sets).await,
                _ => Ok(act::capture(self.postgres(step)?, step, CAPTURE_DEADLINE).await?),
            }
        })
    }

    fn apply<'a>(&'a self, step: &'a JournalledStep, limits: Limits) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(async move {
            if let Step::PruneRepository { sets, .. } = step.step() {
                return repository::prune(self.vault(step.step())?, sets, self.clock.now(), limits).await;
            }
            if matches!(step.step(), Step::DeleteExpired { .. }) && !expiry::is_asked_for(&self.expiry, step.step()) {
                let why = format!("no rule of the configuration asks for that (any more): {}", step.step().subject());
                return Err(Trouble::Precondition(why));
            }
            partition::relied_on(step.step(), &self.expiry, self.systems.lookout()).await?;
            let (endpoint, within) = (self.postgres(step.step())?, limits.within);
            let lookout = self.systems.lookout();
            let exporter = lookout.and_then(|lookout| Exporter::of(lookout.vault(), step, self.clock.now()));
            let sink = exporter.as_ref().map(|exporter| exporter as &dyn Sink);
            Ok(act::apply_with(endpoint, step, within, limits.halt(), sink).await?)
        })
    }

    fn is_under_way<'a>(&'a self, step: &'a Step) -> BoxFuture<'a, Result<bool, Trouble>> {
        Box::pin(async move {
            match step {
                // It ends with the process that does it.
                Step::PruneRepository { .. } => Ok(false),
                _ => Ok(act::is_under_way(self.postgres(step)?, step, CAPTURE_DEADLINE).await?),
            }
        })
    }
}
