//! What is made from the arguments themselves: shell completions and manual pages.

use super::args::Cli;
use super::{Desk, FINE, Outcome, Stop};
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

pub(super) fn completions(desk: &mut Desk, shell: Shell) -> Outcome {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "groundskeeper", &mut bytes);
    desk.out.bytes(&bytes)?;
    Ok(FINE)
}

pub(super) fn man(desk: &mut Desk, folder: Option<&Path>) -> Outcome {
    let Some(folder) = folder else {
        let mut bytes = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut bytes)?;
        desk.out.bytes(&bytes)?;
        return Ok(FINE);
    };
    let failed = |error: std::io::Error| Stop::usage(format!("cannot write into {}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    desk.out.line(&format!("Wrote the manual pages into {}.", folder.display()))?;
    Ok(FINE)
}
