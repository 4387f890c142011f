//! Tests with real servers and the real model; one module per capability.

mod access;
mod answers;
mod browser;
mod cache;
mod chat;
mod crash;
mod dense;
mod embedding;
mod endpoint;
mod eval;
mod http;
mod ingest;
mod interrupted;
mod keys;
mod opening;
mod outbox;
mod page;
mod parsing;
mod running;
mod scene;
mod schema;
mod search;
mod served;
