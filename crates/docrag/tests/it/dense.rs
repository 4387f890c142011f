//! One body of tests for every dense index: what the seam promises holds whichever way it is carried out.

mod body;
mod pgvector;
mod qdrant;

use docrag::index::DenseIndex;
use docrag::index::memory::MemoryIndex;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_in_memory_keeps_what_the_seam_promises() {
    body::hold(DenseIndex::Memory(MemoryIndex::new(body::DIMENSION))).await;
}

#[tokio::test]
async fn the_index_in_memory_finds_what_an_exact_search_finds() {
    // More vectors than are compared one by one, and longer ones; and short ones, which always are.
    body::find_nearly_everything(DenseIndex::Memory(MemoryIndex::new(256)), 256, 5_000).await;
    body::find_nearly_everything(DenseIndex::Memory(MemoryIndex::new(body::DIMENSION)), body::DIMENSION, 5_000).await;
}

#[tokio::test]
async fn a_vector_of_another_length_is_refused_and_nothing_of_its_batch_is_applied() {
    let index = DenseIndex::Memory(MemoryIndex::new(body::DIMENSION));
    let mut wrong = body::point(2, "a", 1);
    wrong.vector.pop();
    let changes = vec![body::upsert(body::point(1, "a", 1)), body::upsert(wrong)];
    let error = index.apply(changes).await.unwrap_err().to_string();
    assert!(error.contains("has 31 numbers") && error.contains("vectors of 32"), "{error}");
    assert_eq!(index.count().await.unwrap(), 0);
    index.search(&body::scope("a"), &None, &[1.0], 1, false).await.unwrap_err();
}
