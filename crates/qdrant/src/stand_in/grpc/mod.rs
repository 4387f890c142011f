//! The gRPC surface: the server traits that `qdrant-client` generates, over the same store as REST.
//!
//! Messages are turned into the forms that REST uses, so that there is one meaning and one set of refusals. A method
//! that is not built answers `Unimplemented`.

mod collections;
mod filter;
mod from_wire;
mod points;
mod snapshots;
mod to_wire;

use std::sync::Arc;
use std::time::Instant;

use qdrant_client::qdrant::collections_server::CollectionsServer;
use qdrant_client::qdrant::points_server::PointsServer;
use qdrant_client::qdrant::qdrant_server::{Qdrant, QdrantServer};
use qdrant_client::qdrant::snapshots_server::SnapshotsServer;
use qdrant_client::qdrant::{HealthCheckReply, HealthCheckRequest};
use tonic::transport::server::Router;
use tonic::{Code, Request, Response, Status};

use super::engine::store::Store;
use super::error::{Error, Result};
use super::{TITLE, VERSION};

/// The largest message that is taken; the real server's limit for requests.
const LARGEST: usize = 64 * 1024 * 1024;

type Reply<T> = std::result::Result<Response<T>, Status>;

#[derive(Debug, Clone)]
pub(crate) struct Grpc {
    store: Arc<Store>,
}

pub(crate) fn router(store: Arc<Store>) -> Router {
    let grpc = Grpc { store };
    tonic::transport::Server::builder()
        .add_service(QdrantServer::new(grpc.clone()))
        .add_service(CollectionsServer::new(grpc.clone()))
        .add_service(
            PointsServer::new(grpc.clone()).max_decoding_message_size(LARGEST).max_encoding_message_size(LARGEST),
        )
        .add_service(SnapshotsServer::new(grpc))
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::BadInput(_) | Error::BadRequest(_) | Error::Format(_) => Code::InvalidArgument,
            Error::AlreadyExists(_) => Code::AlreadyExists,
            Error::NotFound(_) | Error::NoSuchPoint(_) => Code::NotFound,
            Error::Unsupported(_) => Code::Unimplemented,
            Error::Internal(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

impl Grpc {
    /// Runs `work` off the async threads, and gives its result with the seconds it took.
    async fn run<T, R>(
        &self,
        work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
        reply: impl FnOnce(T, f64) -> R,
    ) -> Reply<R>
    where
        T: Send + 'static,
    {
        let (store, started) = (self.store.clone(), Instant::now());
        let outcome = tokio::task::spawn_blocking(move || work(&store)).await;
        let result = outcome.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(reply(result, started.elapsed().as_secs_f64())))
    }
}

fn unknown<T>(what: &str) -> Reply<T> {
    Err(Error::Unsupported(what.to_owned()).into())
}

#[tonic::async_trait]
impl Qdrant for Grpc {
    async fn health_check(&self, _: Request<HealthCheckRequest>) -> Reply<HealthCheckReply> {
        let reply = HealthCheckReply { title: TITLE.to_owned(), version: VERSION.to_owned(), commit: None };
        Ok(Response::new(reply))
    }
}
