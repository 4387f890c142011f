//! The `Snapshots` service.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use qdrant_client::qdrant as wire;
use qdrant_client::qdrant::snapshots_server::Snapshots;
use tonic::Request;

use super::{Grpc, Reply};
use crate::stand_in::engine::snapshot::{Of, Snapshot};

fn shown(snapshot: Snapshot) -> wire::SnapshotDescription {
    let created = snapshot.creation_time.parse::<DateTime>().and_then(|time| time.to_zoned(TimeZone::UTC)).ok();
    wire::SnapshotDescription {
        name: snapshot.name,
        creation_time: created.map(|time| wire::Timestamp {
            seconds: time.timestamp().as_second(),
            nanos: time.timestamp().subsec_nanosecond(),
        }),
        size: snapshot.size as i64,
        checksum: Some(snapshot.checksum),
    }
}

fn created(snapshot: Snapshot, time: f64) -> wire::CreateSnapshotResponse {
    wire::CreateSnapshotResponse { snapshot_description: Some(shown(snapshot)), time }
}

fn listed(snapshots: Vec<Snapshot>, time: f64) -> wire::ListSnapshotsResponse {
    wire::ListSnapshotsResponse { snapshot_descriptions: snapshots.into_iter().map(shown).collect(), time }
}

#[tonic::async_trait]
impl Snapshots for Grpc {
    async fn create(&self, request: Request<wire::CreateSnapshotRequest>) -> Reply<wire::CreateSnapshotResponse> {
        let name = request.into_inner().collection_name;
        self.run(move |store| store.create_snapshot(Of::Collection(&*store.collection(&name)?)), created).await
    }

    async fn list(&self, request: Request<wire::ListSnapshotsRequest>) -> Reply<wire::ListSnapshotsResponse> {
        let name = request.into_inner().collection_name;
        self.run(move |store| store.list_snapshots(Of::Collection(&*store.collection(&name)?)), listed).await
    }

    async fn delete(&self, request: Request<wire::DeleteSnapshotRequest>) -> Reply<wire::DeleteSnapshotResponse> {
        let request = request.into_inner();
        self.run(
            move |store| {
                let collection = store.collection(&request.collection_name)?;
                store.delete_snapshot(Of::Collection(&collection), &request.snapshot_name)
            },
            |(), time| wire::DeleteSnapshotResponse { time },
        )
        .await
    }

    async fn create_full(&self, _: Request<wire::CreateFullSnapshotRequest>) -> Reply<wire::CreateSnapshotResponse> {
        self.run(|store| store.create_snapshot(Of::Everything), created).await
    }

    async fn list_full(&self, _: Request<wire::ListFullSnapshotsRequest>) -> Reply<wire::ListSnapshotsResponse> {
        self.run(|store| store.list_snapshots(Of::Everything), listed).await
    }

    async fn delete_full(
        &self,
        request: Request<wire::DeleteFullSnapshotRequest>,
    ) -> Reply<wire::DeleteSnapshotResponse> {
        let name = request.into_inner().snapshot_name;
        self.run(
            move |store| store.delete_snapshot(Of::Everything, &name),
            |(), time| wire::DeleteSnapshotResponse { time },
        )
        .await
    }
}
