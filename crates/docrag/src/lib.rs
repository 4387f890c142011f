//! Doc-RAG: a document retrieval service. Postgres is its system of record; everything that is served from memory,
//! Qdrant or pgvector can be rebuilt from there.
//!
//! | module | what it does |
//! |---|---|
//! | `settings` | the configuration, validated once at the edge |
//! | `document` | bytes in, blocks of text out: text, Markdown, HTML, PDF |
//! | `chunk` | blocks in, chunks out: by structure, counted in tokens, with stable ids |
//! | `embed` | texts in, vectors out: the local model or a remote endpoint; which model it is |
//! | `model` | installing and checking the local model |
//! | `store` | everything that Postgres keeps: documents, vectors, outbox, keys, sessions, audit |
//! | `ingest` | accepting documents, and the stages parse, chunk, embed, index |
//! | `index` | what is searched: dense (memory, Qdrant, pgvector) and lexical, following the outbox |
//! | `search` | a query in, fused and filtered passages out |
//! | `answer` | a question in, an answer with citations out |
//! | `provider` | time limits, retries and circuit breakers towards remote models |
//! | `cache` | Redis: embeddings, answers, rate limits; and what happens without it |
//! | `service` | the façade that every surface calls |
//! | `http`, `cli` | the surfaces |
//! | `eval` | judged queries: nDCG, recall, MRR, paired bootstrap |
//!
//! It knows nothing of Groundskeeper, which looks after it as after anybody else's service.

pub mod answer;
pub mod cache;
pub mod chunk;
pub mod cli;
pub mod document;
pub mod embed;
pub mod eval;
pub mod http;
pub mod index;
pub mod ingest;
pub mod metrics;
pub mod model;
pub mod provider;
pub mod search;
pub mod service;
pub mod settings;
pub mod store;
