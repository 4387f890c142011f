//! The hidden child process `docrag parse-pdf`: see [`crate::document::child`].

use crate::document::child;
use std::io::{BufReader, stdin, stdout};

/// Reads one PDF from the standard input and writes what it says to the standard output.
pub fn run() -> anyhow::Result<()> {
    child::serve(BufReader::new(stdin().lock()), stdout().lock())?;
    Ok(())
}
