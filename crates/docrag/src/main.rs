//! The program: arguments, log, runtime, exit code. Everything else is in the library.

use clap::Parser;
use docrag::cli::{self, Cli};
use std::io::{self, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Everyone who speaks TLS gets this provider; an error means that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A parser child has its memory limited: threads that it does not need would take some of it.
    if cli.is_parser() {
        return ExitCode::from(cli::parse_pdf());
    }
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(cli::run(cli));
            // A system call that hangs must not hold up the end.
            runtime.shutdown_background();
            ExitCode::from(code)
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: the runtime cannot be started: {error}");
            ExitCode::from(cli::UNKNOWN)
        }
    }
}
