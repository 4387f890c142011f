//! What the seam promises.

use docrag::index::{Allowed, Change, DenseIndex, Hit, IndexError, Point, Scope};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use uuid::Uuid;

pub(crate) const DIMENSION: usize = 32;

pub(crate) fn scope(tenant: &str) -> Scope {
    Scope { tenant: tenant.to_owned(), corpus: "manual".to_owned() }
}

fn vector(seed: u64) -> Vec<f32> {
    vector_of(DIMENSION, seed)
}

/// Of length 1, in one of eight groups, and the same for the same seed.
fn vector_of(dimension: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let group = (seed % 8) as usize;
    let vector: Vec<f32> = (0..dimension).map(|i| next() + if i % 8 == group { 1.5 } else { 0.3 }).collect();
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter().map(|value| value / length).collect()
}

/// Ten chunks make a document.
pub(crate) fn point(id: u64, tenant: &str, version: u64) -> Point {
    Point {
        id: Uuid::from_u128(u128::from(id)),
        doc_id: Uuid::from_u128(1_000_000 + u128::from(id / 10)),
        tenant: tenant.to_owned(),
        corpus: "manual".to_owned(),
        chunk_hash: vec![version as u8; 32],
        model_fingerprint: "model:0123456789abcdef".to_owned(),
        generation: 1,
        vector: vector(id + version * 1_000_000),
    }
}

pub(crate) fn upsert(point: Point) -> Change {
    Change::Upsert(point)
}

fn delete(id: u64, tenant: &str) -> Change {
    Change::Delete { id: Uuid::from_u128(u128::from(id)), scope: scope(tenant) }
}

fn ids(hits: &[Hit]) -> Vec<u64> {
    hits.iter().map(|hit| hit.id.as_u128() as u64).collect()
}

async fn search(index: &DenseIndex, tenant: &str, of: u64, limit: usize) -> Vec<Hit> {
    index.search(&scope(tenant), &None, &vector(of), limit, true).await.unwrap()
}

/// Everything, on an index that holds nothing.
pub(crate) async fn hold(index: DenseIndex) {
    let index = Arc::new(index);
    changes_are_visible_and_harmless_to_repeat(&index).await;
    nothing_is_found_across_scopes(&index).await;
    filters_come_before_ranking(&index).await;
    a_build_is_invisible_until_it_is_served_and_searches_never_fail(index).await;
}

async fn changes_are_visible_and_harmless_to_repeat(index: &DenseIndex) {
    assert_eq!((index.count().await.unwrap(), index.held(None).await.unwrap()), (0, vec![]));
    index.apply(vec![]).await.unwrap();
    for _ in 0..2 {
        index.apply((0..300).map(|id| upsert(point(id, "a", 0))).collect()).await.unwrap();
        assert_eq!(index.count().await.unwrap(), 300);
    }
    let hits = search(index, "a", 7, 5).await;
    assert_eq!((ids(&hits)[0], hits.len(), hits[0].doc_id), (7, 5, point(7, "a", 0).doc_id));
    assert!((hits[0].score - 1.0).abs() < 1e-4, "a cosine: {hits:?}");
    assert!(hits.is_sorted_by(|a, b| a.score >= b.score), "{hits:?}");
    let cosine: f32 = vector(7).iter().zip(point(hits[4].id.as_u128() as u64, "a", 0).vector).map(|(a, b)| a * b).sum();
    assert!((hits[4].score - cosine).abs() < 1e-4);

    // Replaced, twice in one batch: the last one counts. Deleted after it was written, and the other way round.
    let changes = vec![
        upsert(point(7, "a", 1)),
        upsert(point(7, "a", 2)),
        upsert(point(900, "a", 0)),
        delete(900, "a"),
        delete(8, "a"),
        upsert(point(8, "a", 2)),
        delete(9, "a"),
        delete(901, "a"),
    ];
    for _ in 0..2 {
        index.apply(changes.clone()).await.unwrap();
        assert_eq!(index.count().await.unwrap(), 299);
    }
    let hits = search(index, "a", 2_000_007, 1).await;
    assert_eq!((ids(&hits), hits[0].score > 0.999), (vec![7], true));
    assert!(search(index, "a", 7, 300).await.iter().all(|hit| hit.score < 0.999), "the former vector has gone");
    let held = index.held(None).await.unwrap();
    assert!(held.is_sorted_by(|a, b| a.id < b.id));
    let hash = |id: u128| held.iter().find(|held| held.id.as_u128() == id).map(|held| held.chunk_hash.clone());
    assert_eq!((hash(7), hash(8), hash(9), hash(10)), (Some(vec![2; 32]), Some(vec![2; 32]), None, Some(vec![0; 32])));
}

async fn nothing_is_found_across_scopes(index: &DenseIndex) {
    index.apply((1_000..1_020).map(|id| upsert(point(id, "b", 0))).collect()).await.unwrap();
    let mut other_corpus = point(2_000, "a", 0);
    "wiki".clone_into(&mut other_corpus.corpus);
    index.apply(vec![upsert(other_corpus)]).await.unwrap();
    for exact in [true, false] {
        let of_b = index.search(&scope("b"), &None, &vector(7), 1_000, exact).await.unwrap();
        assert_eq!(of_b.len(), 20, "exact: {exact}");
        assert!(ids(&of_b).iter().all(|id| (1_000..1_020).contains(id)));
    }
    assert!(!ids(&search(index, "a", 2_000, 1_000).await).contains(&2_000));
    let (of_b, all) = (index.held(Some("b")).await.unwrap(), index.held(None).await.unwrap());
    assert_eq!((of_b.len(), all.len() > 20), (20, true));
    assert!(of_b.iter().all(|held| (1_000..1_020).contains(&held.id.as_u128())));
    for nobody in ["", "c", "a\" OR 1=1", "A"] {
        assert!(search(index, nobody, 7, 10).await.is_empty());
    }
    // A delete names its scope.
    index.apply((1_000..1_020).map(|id| delete(id, "b")).collect()).await.unwrap();
    assert!(search(index, "b", 7, 10).await.is_empty());
    assert_eq!(index.count().await.unwrap(), 300);
}

async fn filters_come_before_ranking(index: &DenseIndex) {
    let document = |number: u128| Uuid::from_u128(1_000_000 + number);
    let allowed: Allowed = Some(Arc::new([document(3), document(20), document(77)].into()));
    for exact in [true, false] {
        let hits = index.search(&scope("a"), &allowed, &vector(7), 100, exact).await.unwrap();
        let mut found = ids(&hits);
        found.sort_unstable();
        assert_eq!(found, (30..40).chain(200..210).collect::<Vec<u64>>(), "exact: {exact}");
    }
    assert_eq!(index.search(&scope("a"), &allowed, &vector(7), 3, true).await.unwrap().len(), 3);
    let nothing: Allowed = Some(Arc::default());
    assert!(index.search(&scope("a"), &nothing, &vector(7), 10, false).await.unwrap().is_empty());
    assert!(index.search(&scope("a"), &None, &vector(7), 0, false).await.unwrap().is_empty());
}

async fn a_build_is_invisible_until_it_is_served_and_searches_never_fail(index: Arc<DenseIndex>) {
    let (stop, searches) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let searching = tokio::spawn({
        let (index, stop, searches) = (index.clone(), stop.clone(), searches.clone());
        async move {
            while !stop.load(Ordering::Relaxed) {
                let hits = index.search(&scope("a"), &None, &vector(10), 5, false).await?;
                assert_eq!(hits.len(), 5, "a search saw an empty or half-filled build");
                searches.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
            Ok::<(), IndexError>(())
        }
    });
    // Until searches run beside what follows.
    while searches.load(Ordering::Relaxed) == 0 && !searching.is_finished() {
        tokio::task::yield_now().await;
    }
    // What an interrupted rebuild left does not count.
    index.begin_build(2).await.unwrap();
    index.fill_build(2, vec![upsert(point(5_000, "a", 0))]).await.unwrap();
    index.begin_build(2).await.unwrap();
    let before = index.count().await.unwrap();
    index.fill_build(2, (0..50).map(|id| upsert(point(id, "a", 3))).collect()).await.unwrap();
    index.fill_build(2, vec![delete(49, "a"), upsert(point(0, "a", 4))]).await.unwrap();
    index.apply(vec![upsert(point(6_000, "a", 0))]).await.unwrap();
    assert_eq!(index.count().await.unwrap(), before + 1);
    index.switch_build(2).await.unwrap();
    assert_eq!(index.count().await.unwrap(), 49);
    assert_eq!(ids(&search(&index, "a", 3_000_007, 1).await), [7]);
    index.apply(vec![upsert(point(7_000, "a", 0))]).await.unwrap();
    assert_eq!(index.count().await.unwrap(), 50, "changes go to what is served");
    index.begin_build(3).await.unwrap();
    index.fill_build(3, (0..60).map(|id| upsert(point(id, "a", 3))).collect()).await.unwrap();
    index.switch_build(3).await.unwrap();
    assert_eq!(index.count().await.unwrap(), 60);
    stop.store(true, Ordering::Relaxed);
    searching.await.unwrap().unwrap();
}

/// Approximate against exact, on an index that holds nothing.
pub(crate) async fn find_nearly_everything(index: DenseIndex, dimension: usize, count: u64) {
    let point = |id: u64| Point { vector: vector_of(dimension, id), ..point(id, "a", 0) };
    for from in (0..count).step_by(500) {
        let until = count.min(from + 500);
        index.apply((from..until).map(|id| upsert(point(id))).collect()).await.unwrap();
    }
    let (mut found, mut there) = (0, 0);
    for query in 0..50 {
        let query = vector_of(dimension, 9_000_000 + query);
        let exact = index.search(&scope("a"), &None, &query, 10, true).await.unwrap();
        let approximate = index.search(&scope("a"), &None, &query, 10, false).await.unwrap();
        assert_eq!((exact.len(), approximate.len()), (10, 10));
        there += exact.len();
        found += exact.iter().filter(|hit| approximate.iter().any(|other| other.id == hit.id)).count();
    }
    assert!(found * 100 >= there * 98, "{found} of {there} were found");
}
