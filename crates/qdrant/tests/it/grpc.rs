//! The stand-in as `qdrant-client` meets it.

use groundskeeper_qdrant::QdrantServer;
use qdrant_client::qdrant::{
    CollectionStatus, Condition, CountPointsBuilder, CreateAliasBuilder, CreateCollectionBuilder,
    CreateFieldIndexCollectionBuilder, DeletePointsBuilder, Distance, FacetCountsBuilder, FieldType, Filter,
    GetPointsBuilder, OptimizersConfigDiff, PointId, PointStruct, PointsIdsList, QueryBatchPointsBuilder, QueryPoints,
    QueryPointsBuilder, ScrollPointsBuilder, SearchParamsBuilder, SearchPointsBuilder, SetPayloadPointsBuilder,
    UpdateCollectionBuilder, UpsertPointsBuilder, VectorParamsBuilder,
};
use qdrant_client::{Payload, Qdrant, QdrantError};
use tonic::Code;

pub(crate) fn client(server: &QdrantServer) -> Qdrant {
    Qdrant::from_url(&server.url()).build().unwrap()
}

/// Points on a quarter circle: the nearest to the angle of one are its neighbours in number.
pub(crate) fn points(numbers: impl IntoIterator<Item = u64>) -> Vec<PointStruct> {
    let point = |number: u64| {
        let angle = number as f32 / 1000.0;
        let mut payload = Payload::new();
        payload.insert("doc", format!("d{}", number % 3));
        payload.insert("number", number as i64);
        PointStruct::new(number, vec![angle.cos(), angle.sin(), 0.0, 0.0], payload)
    };
    numbers.into_iter().map(point).collect()
}

pub(crate) async fn filled(client: &Qdrant, name: &str, count: u64) {
    let vectors = VectorParamsBuilder::new(4, Distance::Cosine);
    client.create_collection(CreateCollectionBuilder::new(name).vectors_config(vectors)).await.unwrap();
    client.upsert_points(UpsertPointsBuilder::new(name, points(0..count)).wait(true)).await.unwrap();
}

fn at(number: f32) -> Vec<f32> {
    vec![(number / 1000.0).cos(), (number / 1000.0).sin(), 0.0, 0.0]
}

fn numbers(ids: impl IntoIterator<Item = Option<PointId>>) -> Vec<u64> {
    use qdrant_client::qdrant::point_id::PointIdOptions;

    ids.into_iter()
        .map(|id| match id.and_then(|id| id.point_id_options) {
            Some(PointIdOptions::Num(number)) => number,
            other => panic!("not a number: {other:?}"),
        })
        .collect()
}

async fn count(client: &Qdrant, name: &str) -> u64 {
    client.count(CountPointsBuilder::new(name).exact(true)).await.unwrap().result.unwrap().count
}

#[tokio::test]
async fn collections_come_and_go() {
    let server = QdrantServer::start().await.unwrap();
    let client = client(&server);
    assert_eq!(client.health_check().await.unwrap().version, "1.16.3");
    filled(&client, "docs", 10).await;
    assert!(client.collection_exists("docs").await.unwrap());
    assert_eq!(client.list_collections().await.unwrap().collections[0].name, "docs");
    let info = client.collection_info("docs").await.unwrap().result.unwrap();
    assert_eq!((info.points_count, info.status), (Some(10), CollectionStatus::Green.into()));

    let again = CreateCollectionBuilder::new("docs").vectors_config(VectorParamsBuilder::new(4, Distance::Cosine));
    let error = client.create_collection(again).await.unwrap_err();
    let QdrantError::ResponseError { status } = error else { panic!("{error}") };
    assert_eq!(status.message(), "Wrong input: Collection `docs` already exists!");

    client.create_alias(CreateAliasBuilder::new("docs", "current")).await.unwrap();
    assert_eq!(count(&client, "current").await, 10);
    assert_eq!(client.list_aliases().await.unwrap().aliases[0].collection_name, "docs");

    let update = UpdateCollectionBuilder::new("docs").optimizers_config(OptimizersConfigDiff::default());
    assert!(client.update_collection(update).await.unwrap().result);
    assert!(client.delete_collection("docs").await.unwrap().result);
    assert!(!client.delete_collection("docs").await.unwrap().result);
    assert!(!client.collection_exists("docs").await.unwrap());
    // The name is free at once, and nothing of the former is left.
    filled(&client, "docs", 3).await;
    assert_eq!(count(&client, "docs").await, 3);
}

#[tokio::test]
async fn points_are_written_found_and_removed() {
    let server = QdrantServer::start().await.unwrap();
    let client = client(&server);
    filled(&client, "docs", 300).await;
    let index = CreateFieldIndexCollectionBuilder::new("docs", "doc", FieldType::Keyword).wait(true);
    client.create_field_index(index).await.unwrap();

    let query = |number: f32| {
        let params = SearchParamsBuilder::default().exact(true).hnsw_ef(64);
        QueryPointsBuilder::new("docs").query(at(number)).limit(3).params(params).with_payload(true)
    };
    let found = client.query(query(100.2)).await.unwrap().result;
    assert_eq!(found[0].payload["doc"].as_str().unwrap(), "d1");
    assert_eq!(numbers(found.into_iter().map(|point| point.id)), [100, 101, 99]);
    let only_d0 = Filter::must([Condition::matches("doc", "d0".to_owned())]);
    let found = client.query(query(100.2).filter(only_d0.clone())).await.unwrap().result;
    assert_eq!(numbers(found.into_iter().map(|point| point.id)), [99, 102, 96]);
    let batch: Vec<QueryPoints> = vec![query(0.0).into(), query(299.0).into()];
    let found = client.query_batch(QueryBatchPointsBuilder::new("docs", batch)).await.unwrap().result;
    assert_eq!(
        found.into_iter().map(|one| numbers(one.result.into_iter().map(|point| point.id))[0]).collect::<Vec<_>>(),
        [0, 299]
    );

    let page = client.scroll(ScrollPointsBuilder::new("docs").limit(2).offset(10)).await.unwrap();
    assert_eq!(numbers(page.result.into_iter().map(|point| point.id)), [10, 11]);
    assert_eq!(numbers([page.next_page_offset]), [12]);
    let facets = client.facet(FacetCountsBuilder::new("docs", "doc").exact(true)).await.unwrap().hits;
    assert_eq!(facets.iter().map(|hit| hit.count).collect::<Vec<_>>(), [100, 100, 100]);

    let mut payload = Payload::new();
    payload.insert("doc", "changed");
    let ids = || PointsIdsList { ids: vec![1.into(), 2.into()] };
    client.set_payload(SetPayloadPointsBuilder::new("docs", payload).points_selector(ids()).wait(true)).await.unwrap();
    let got = client.get_points(GetPointsBuilder::new("docs", vec![1.into()]).with_payload(true).with_vectors(true));
    let got = got.await.unwrap().result;
    assert_eq!(got[0].payload["doc"].as_str().unwrap(), "changed");
    assert!(got[0].vectors.is_some());

    client.delete_points(DeletePointsBuilder::new("docs").points(ids()).wait(true)).await.unwrap();
    assert_eq!(count(&client, "docs").await, 298);
    client.delete_points(DeletePointsBuilder::new("docs").points(only_d0).wait(true)).await.unwrap();
    assert_eq!(count(&client, "docs").await, 198);
}

#[tokio::test]
async fn what_is_wrong_or_unknown_is_refused() {
    let server = QdrantServer::start().await.unwrap();
    let client = client(&server);
    filled(&client, "docs", 3).await;
    let message = |error: QdrantError| match error {
        QdrantError::ResponseError { status } => (status.code(), status.message().to_owned()),
        other => panic!("{other}"),
    };

    let short = vec![PointStruct::new(1, vec![1.0, 0.0], Payload::new())];
    let error = client.upsert_points(UpsertPointsBuilder::new("docs", short).wait(true)).await.unwrap_err();
    let wrong = "Wrong input: Vector dimension error: expected dim: 4, got 2";
    assert_eq!(message(error), (Code::InvalidArgument, wrong.to_owned()));
    let error = client.query(QueryPointsBuilder::new("docs").query(vec![1.0, 0.0])).await.unwrap_err();
    assert_eq!(message(error), (Code::InvalidArgument, wrong.to_owned()));
    let error = client.count(CountPointsBuilder::new("none")).await.unwrap_err();
    assert_eq!(message(error), (Code::NotFound, "Not found: Collection `none` doesn't exist!".to_owned()));
    let error = client.search_points(SearchPointsBuilder::new("docs", at(0.0), 1)).await.unwrap_err();
    assert_eq!(message(error).0, Code::Unimplemented);
}
