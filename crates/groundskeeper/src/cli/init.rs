//! `init`: says what it found and writes a first configuration.

use super::args::InitArgs;
use super::{Desk, FINE, Outcome};
use crate::config::Environment;
use crate::config::init::{Places, discover, write};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

pub(super) fn run(desk: &mut Desk, args: &InitArgs) -> Outcome {
    let file = desk.file.clone().unwrap_or_else(|| PathBuf::from(crate::config::FILE_NAME));
    // A file that is in the way is reported before the looking around, not after.
    if !args.stdout && !args.force && file.exists() {
        write(&file, "", false)?;
    }
    let found = discover(&Environment::of_process(), &Places::default());
    let mut said = String::from("Found:\n");
    for sentence in &found.found {
        let _ = writeln!(said, "  {} {sentence}", desk.paint.good("●"));
    }
    if !found.missing.is_empty() {
        said.push_str("\nNot found, or left out:\n");
        for sentence in &found.missing {
            let _ = writeln!(said, "  {} {sentence}", desk.paint.dim("○"));
        }
    }
    if args.stdout {
        // The file alone goes to standard output, so that it can be redirected.
        let _ = std::io::stderr().write_all(said.as_bytes());
        desk.out.text(&found.text)?;
        return Ok(FINE);
    }
    write(&file, &found.text, args.force)?;
    desk.out.text(&said)?;
    let found_by_default = file == Path::new(crate::config::FILE_NAME);
    let option = if found_by_default { String::new() } else { format!(" --config {}", file.display()) };
    desk.out.line(&format!(
        "\nWrote {}. No secret is in it. Next: look it over, then run `groundskeeper check{option}`.",
        file.display()
    ))?;
    Ok(FINE)
}
