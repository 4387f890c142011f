//! The program: arguments, log, runtime, exit code. Everything else is in the library.

use clap::Parser;
use groundskeeper::cli::{self, Cli, Command};
use std::io::{self, IsTerminal, Write as _};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// What is logged, as in `info` or `groundskeeper=debug`.
const LOG_VARIABLE: &str = "GROUNDSKEEPER_LOG";

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli);
    // Everyone who speaks TLS gets this provider; an error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // Two threads do for a watch of dozens of systems: nearly all of it is waiting.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(cli));
            // A system call that hangs must not hold up the end.
            runtime.shutdown_background();
            ExitCode::from(code)
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: the runtime cannot be started: {error}");
            ExitCode::from(3)
        }
    }
}

/// To standard error: for a person when one looks, as JSON when `run` writes for a collector.
fn log(cli: &Cli) {
    let daemon = matches!(cli.command, Command::Run);
    let level = match (daemon, cli.verbose) {
        (true, 0) => "info",
        (false, 0 | 1) => "warn",
        (true, 1) | (false, 2) => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env(LOG_VARIABLE).unwrap_or_else(|_| EnvFilter::new(level));
    let terminal = io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(terminal);
    if daemon && !terminal { builder.json().init() } else { builder.init() }
}
