//! What can go wrong, in the words and with the codes of the recorded server.

use qdrant_edge::OperationError;

/// A refusal. Its text is what a client sees, over REST as over gRPC.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("Wrong input: {0}")]
    BadInput(String),
    #[error("Wrong input: {0}")]
    AlreadyExists(String),
    #[error("Bad request: {0}")]
    BadRequest(String),
    #[error("Format error in JSON body: {0}")]
    Format(String),
    #[error("Not found: {0}")]
    NotFound(String),
    /// A point that a query names and nobody has.
    #[error("{0}")]
    NoSuchPoint(String),
    /// Part of Qdrant's interface that the stand-in does not have: refused, so that no test passes by accident.
    #[error("the Qdrant stand-in does not know {0}")]
    Unsupported(String),
    #[error("Service internal error: {0}")]
    Internal(String),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn no_collection(name: &str) -> Self {
        Self::NotFound(format!("Collection `{name}` doesn't exist!"))
    }

    pub(crate) fn no_snapshot(name: &str) -> Self {
        Self::NotFound(format!("Snapshot {name} not found"))
    }

    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        Self::Internal(error.to_string())
    }
}

impl From<OperationError> for Error {
    fn from(error: OperationError) -> Self {
        match error {
            OperationError::WrongVectorDimension { .. }
            | OperationError::VectorNameNotExists { .. }
            | OperationError::TypeError { .. }
            | OperationError::TypeInferenceError { .. }
            | OperationError::WrongSparse
            | OperationError::WrongMulti
            | OperationError::MissingRangeIndexForOrderBy { .. }
            | OperationError::MissingMapIndexForFacet { .. }
            | OperationError::VariableTypeError { .. } => Self::BadInput(error.to_string()),
            OperationError::ValidationError { description } => Self::BadInput(description),
            OperationError::PointIdError { .. } => Self::NoSuchPoint(error.to_string()),
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::internal(error)
    }
}
