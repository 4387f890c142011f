//! The program behind `cargo xtask demo | bench | faults`.

use anyhow::Result;
use clap::{Parser, Subcommand};
use groundskeeper_lab::{bench, demo, faults};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "groundskeeper-lab", about = "The demo, the benches and the fault matrix of Groundskeeper")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A live stack under load, one compressed day of the calendar, the day's report.
    Demo(demo::Options),
    /// Measures and prints one `bar` line per target; exits 3 when it could not measure.
    Bench(bench::Options),
    /// Causes each fault on a live stack; prints one `bar` line per fault.
    Faults(faults::Options),
}

fn main() -> ExitCode {
    // A second call in the same process cannot happen here; the result only says that a provider was there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("lab: no runtime: {error}");
            return ExitCode::from(3);
        }
    };
    let done: Result<u8> = runtime.block_on(async {
        match Arguments::parse().command {
            Command::Demo(options) => demo::run(options).await,
            Command::Bench(options) => bench::run(options).await,
            Command::Faults(options) => faults::run(options).await,
        }
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::from(3)
        }
    }
}
