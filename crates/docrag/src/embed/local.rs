//! all-MiniLM-L6-v2 (int8 weights) on this machine's processor, through `rten`.
//!
//! Sentence vector: mean of the token vectors, then length 1 (as sentence-transformers does for this model). A text goes
//! in alone, without padding, and is computed by one thread. Measured, processor time per text of 190 tokens: alone on
//! one thread 89 to 95 ms, in batches of 4 or 8 104 to 110 ms, on two threads 97 to 103 ms; ONNX Runtime 95 to 102 ms. A
//! batch would also make a query wait longer. Weights packed at loading cost 40 MB and save a quarter of a short query.

use super::queue::{Outcome, Priority, Workers};
use super::wordpiece::WordPiece;
use super::{EmbedError, TokenCounter};
use crate::model;
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, ValueOrView};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

pub(super) const NAME: &str = "all-MiniLM-L6-v2-int8";
pub(super) const DIMENSION: usize = 384;
/// What the model was trained on, special tokens included; it sees no more of a text.
pub(crate) const MOST_TOKENS: usize = 256;

pub(super) struct Local {
    workers: Workers,
    tokenizer: Arc<WordPiece>,
    tokens: Arc<AtomicU64>,
}

/// The loaded model, shared by all threads.
struct Encoder {
    model: Model,
    inputs: [NodeId; 3],
    output: NodeId,
}

impl Local {
    /// Reads and checks the files, and starts `threads` workers (0: one per core). Blocks for as long as loading takes.
    pub(super) fn open(folder: &Path, threads: usize) -> Result<Self, EmbedError> {
        let wrong = |error: model::ModelError| EmbedError::Model(error.to_string());
        let tokenizer = WordPiece::from_json(&model::read(folder, &model::TOKENIZER).map_err(wrong)?);
        let tokenizer = Arc::new(tokenizer.map_err(|cause| EmbedError::Model(format!("tokenizer.json: {cause}")))?);
        let encoder = Arc::new(Encoder::load(model::read(folder, &model::WEIGHTS).map_err(wrong)?)?);
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            threads => threads,
        };
        let tokens = Arc::new(AtomicU64::new(0));
        let work = (0..threads).map(|_| {
            let (encoder, tokenizer, tokens) = (Arc::clone(&encoder), Arc::clone(&tokenizer), Arc::clone(&tokens));
            let alone = Arc::new(ThreadPool::with_num_threads(1));
            move |text: &str| {
                let ids = tokenizer.encode(text, MOST_TOKENS);
                let vector = encoder.vector(&ids, &alone)?;
                tokens.fetch_add(ids.len() as u64, Ordering::Relaxed);
                Ok(vector)
            }
        });
        let workers = Workers::start(work).map_err(|error| EmbedError::Model(format!("no thread for it: {error}")))?;
        Ok(Self { workers, tokenizer, tokens })
    }

    pub(super) fn counter(&self) -> TokenCounter {
        TokenCounter::exact(Arc::clone(&self.tokenizer))
    }

    pub(super) fn tokens_used(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    pub(super) async fn query(&self, text: &str, deadline: Duration) -> Outcome {
        let mut replies = self.workers.submit(Priority::Query, vec![text.to_owned()]);
        let reply = replies.pop().ok_or(EmbedError::Stopped)?;
        match tokio::time::timeout(deadline, reply).await {
            Ok(reply) => reply.unwrap_or(Err(EmbedError::Stopped)),
            Err(_) => Err(EmbedError::Deadline(deadline)),
        }
    }

    pub(super) async fn passages(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, EmbedError> {
        let replies: Vec<oneshot::Receiver<Outcome>> = self.workers.submit(Priority::Passage, texts);
        let mut vectors = Vec::with_capacity(replies.len());
        for reply in replies {
            vectors.push(reply.await.unwrap_or(Err(EmbedError::Stopped))?);
        }
        Ok(vectors)
    }
}

impl Encoder {
    fn load(weights: Vec<u8>) -> Result<Self, EmbedError> {
        let wrong = |cause: String| EmbedError::Model(format!("{}: {cause}", model::WEIGHTS.name));
        let model = ModelOptions::with_all_ops().prepack_weights(true).load(weights);
        let model = model.map_err(|error| wrong(error.to_string()))?;
        let node = |name| model.node_id(name).map_err(|error| wrong(error.to_string()));
        let inputs = [node("input_ids")?, node("attention_mask")?, node("token_type_ids")?];
        let output = node("last_hidden_state")?;
        Ok(Self { model, inputs, output })
    }

    /// The sentence vector of one text's tokens.
    fn vector(&self, ids: &[u32], threads: &Arc<ThreadPool>) -> Outcome {
        let wrong = EmbedError::Inference;
        let row = |values: Vec<i32>| ValueOrView::from(NdTensor::from_data([1, values.len()], values));
        let rows = [ids.iter().map(|&id| id as i32).collect(), vec![1; ids.len()], vec![0; ids.len()]].map(row);
        let inputs: Vec<_> = self.inputs.into_iter().zip(rows).collect();
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(threads)));
        let [states] =
            self.model.run_n(inputs, [self.output], Some(options)).map_err(|error| wrong(error.to_string()))?;
        let states: NdTensor<f32, 3> = states.try_into().map_err(|error| wrong(format!("{error:?}")))?;
        if states.shape() != [1, ids.len(), DIMENSION] {
            return Err(EmbedError::Dimension { got: states.size(2), expected: DIMENSION });
        }
        let states = states.to_vec();
        let mut sum = vec![0.0_f32; DIMENSION];
        for token in states.chunks_exact(DIMENSION) {
            sum.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
        }
        super::unit(sum).ok_or_else(|| wrong("it gave a vector without direction".to_owned()))
    }
}
