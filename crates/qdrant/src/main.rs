//! `qdrant-stand-in`: a Qdrant for tests, on 127.0.0.1.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use groundskeeper_qdrant::stand_in::{Options, run};

/// A Qdrant to test against: Qdrant's own engine behind its gRPC and REST interfaces, on 127.0.0.1 only.
#[derive(Debug, Parser)]
#[command(name = "qdrant-stand-in", version)]
struct Arguments {
    #[arg(long, default_value_t = 6333)]
    http_port: u16,
    #[arg(long, default_value_t = 6334)]
    grpc_port: u16,
    /// Where data is kept; made if it is not there.
    #[arg(long)]
    storage: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Arguments { http_port, grpc_port, storage } = Arguments::parse();
    let ready = move || println!("qdrant-stand-in: REST on 127.0.0.1:{http_port}, gRPC on 127.0.0.1:{grpc_port}");
    run(Options { http_port, grpc_port, storage }, ready).await
}
