//! Who asks: the operating-system user, for the audit.

/// The name of the user whose process this is; behind `sudo` also who stood before it.
pub(super) fn name() -> String {
    let uid = rustix::process::getuid();
    let own = lookup(uid.as_raw()).unwrap_or_else(|| format!("uid {}", uid.as_raw()));
    match std::env::var("SUDO_USER") {
        Ok(person) if uid.is_root() && !person.is_empty() && person != own => format!("{own} (sudo by {person})"),
        _ => own,
    }
}

/// Whether somebody sits at a terminal who can answer.
pub(super) fn is_there() -> bool {
    use std::io::IsTerminal;
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// From `/etc/passwd`. Users of a directory service are named by their number: asking it would mean a C library.
fn lookup(uid: u32) -> Option<String> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}
