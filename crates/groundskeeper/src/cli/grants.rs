//! `grants`: the SQL for our role.

use super::args::GrantsArgs;
use super::{Desk, FINE, Outcome};
use crate::config;

pub(super) fn run(desk: &mut Desk, args: &GrantsArgs) -> Outcome {
    // An address instead of a name needs no configuration.
    let address = args.system.as_deref().filter(|word| config::is_url(word));
    let (settings, system) = match address {
        Some(url) => (config::for_url(url)?, None),
        None => (desk.settings()?, args.system.as_deref()),
    };
    let script = config::grants(&settings, system, &args.role, &args.purposes)?;
    desk.show(&script, |_| script.clone())?;
    Ok(FINE)
}
