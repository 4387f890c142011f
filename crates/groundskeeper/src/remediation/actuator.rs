//! The hands: carries a journalled step to the system that it is for.
//!
//! A trait, because the executor's tests need hands that fail, hang and die on command.

use crate::config::Endpoint;
use crate::scheduler::BoxFuture;
use crate::stack;
use groundskeeper_core::remedy::{JournalledStep, Step, StepState};
use groundskeeper_systems::postgres;
use std::time::Duration;

/// Why a step could not be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The world is not (any more) as the step needs it; nothing was changed.
    #[error("{0}")]
    Precondition(String),
    /// It was tried and failed; whether anything changed is for the verification to say.
    #[error("{0}")]
    Failed(String),
}

pub trait Actuator: Send + Sync {
    /// Reads the state of a step's target.
    fn capture<'a>(&'a self, step: &'a Step) -> BoxFuture<'a, Result<StepState, Trouble>>;
    /// Carries out a step whose intent is durable.
    fn apply<'a>(&'a self, step: &'a JournalledStep) -> BoxFuture<'a, Result<(), Trouble>>;
}

/// Reading a target is quick; a vacuum of a large table is not.
const CAPTURE_DEADLINE: Duration = Duration::from_secs(10);
const APPLY_DEADLINE: Duration = Duration::from_hours(2);

/// The hands on the configured systems.
#[derive(Debug, Clone)]
pub struct Stack(pub stack::Stack);

impl Stack {
    fn postgres(&self, step: &Step) -> Result<&postgres::Endpoint, Trouble> {
        match self.0.get(step.system()).map(|system| &system.endpoint) {
            Some(Endpoint::Postgres(endpoint)) => Ok(endpoint),
            _ => Err(Trouble::Precondition(format!("{} is not configured as a Postgres (any more)", step.system()))),
        }
    }
}

impl Actuator for Stack {
    fn capture<'a>(&'a self, step: &'a Step) -> BoxFuture<'a, Result<StepState, Trouble>> {
        Box::pin(async move {
            let endpoint = self.postgres(step)?;
            postgres::act::capture(endpoint, step, CAPTURE_DEADLINE)
                .await
                .map_err(|error| Trouble::Failed(error.to_string()))
        })
    }

    fn apply<'a>(&'a self, step: &'a JournalledStep) -> BoxFuture<'a, Result<(), Trouble>> {
        Box::pin(async move {
            let endpoint = self.postgres(step.step())?;
            postgres::act::apply(endpoint, step, APPLY_DEADLINE).await.map_err(|error| match error {
                postgres::act::ActError::Precondition { .. } => Trouble::Precondition(error.to_string()),
                other => Trouble::Failed(other.to_string()),
            })
        })
    }
}
