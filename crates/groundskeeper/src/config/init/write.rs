//! The text of a first configuration, and putting it on disk.

use super::Entry;
use crate::config::error::ConfigError;
use crate::config::secrets::plain;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const HEAD: &str = "\
# The configuration of Groundskeeper, written by `groundskeeper init`.
# Every value has a default; lines that begin with `#` show them. `groundskeeper check` tries it out.
# `${NAME}` is taken from the environment when the file is read, so no secret needs to be in here.

# What the keeper may do by itself: \"observe\" looks and tells; \"assist\" also does routine upkeep inside the
# maintenance windows, and deletes there what the rules of retention do not keep; \"auto\" also mends single things: ends
# sessions that sit idle in a transaction or block others, moves sequences on.
autonomy = \"observe\"

# All times below, and the days of the report.
timezone = \"UTC\"

# state_dir = \"/var/lib/groundskeeper\"

[maintenance]
windows = [\"Sun 02:00-05:00\"]

# Applications and roles whose sessions are never ended, besides superusers, replication, backups and migrations.
# [policy]
# never_end = [\"billing-worker\", \"etl\"]
";

const EXAMPLES: [(&str, &str); 4] = [
    (
        "postgres",
        "\
# [postgres.main]
# url = \"${DATABASE_URL}\"
# password_file = \"/run/secrets/postgres\"
# deadline = \"10s\"
# # The size of its disk, where that cannot be looked at from here: when it is full, and where indexes can be built anew.
# disk = \"100 GiB\"
# # What it runs on, for `groundskeeper tune`, where it is not reached over a socket of this machine.
# machine = { memory = \"8 GiB\", cores = 4, storage = \"ssd\" }
# # Roles whose functions may run with our rights when the planner is asked about statements (the daily look at plans).
# trusted_owners = [\"app\"]
# # Rows that are not kept for ever: from \"assist\" on, the weekly maintenance deletes them in small batches.
# [[postgres.main.retention]]
# table = \"user_sessions\"
# column = \"expires_at\"
# keep = \"30d\"
# export = true  # first into the repository of [backup]; `groundskeeper backup exports` gives them back
",
    ),
    ("redis", "# [redis.cache]\n# url = \"${REDIS_URL}\"\n# deadline = \"5s\"\n"),
    (
        "http",
        "\
# [http.api]
# url = \"https://api.example.com/health/ready\"
# expect_status = [200]
# headers = { Authorization = \"Bearer ${API_TOKEN}\" }
",
    ),
    ("logs", "# [logs.api]\n# folder = \"/var/log/api\"\n"),
];

const TAIL: &str = "\
# Thresholds, how long a condition must hold, and what is switched off; `groundskeeper explain --all` lists the checks.
# [checks.\"postgres.connections_near_limit\"]
# warning = 70
# for = \"2m\"

# Backups that prove themselves; docs/backup.md tells how. Then `groundskeeper backup init` makes the repository. Keep a
# copy of the key elsewhere: nobody can read the backups without it.
# [backup]
# repository = \"/var/backups/groundskeeper\"
# key_file = \"/etc/groundskeeper/backup.key\"
# [[backup.probe]]
# name = \"documents\"
# sql = \"SELECT count(*) > 0 FROM documents\"

# When tasks run; `groundskeeper calendar` lists them.
# [tasks.daily-health]
# cron = \"0 9 * * *\"
# timezone = \"Europe/Berlin\"

# Who is told. `groundskeeper notify test` tries it out.
# [notify.webhook.team]
# url = \"${SLACK_WEBHOOK_URL}\"
# format = \"slack\"
# minimum_severity = \"warning\"

# [notify.email.oncall]
# server = \"smtps://mail.example.com:465\"
# user = \"groundskeeper\"
# password_file = \"/run/secrets/smtp\"
# from = \"groundskeeper@example.com\"
# to = [\"oncall@example.com\"]

# Someone else raises the alarm when this stops arriving.
# [heartbeat]
# url = \"https://hc-ping.com/${HEARTBEAT_ID}\"
# every = \"1m\"

[web]
listen = \"127.0.0.1:7070\"  # \"off\" for no page
";

/// The sections found, and a commented example of each kind that was not.
pub(super) fn text(entries: &[Entry]) -> String {
    let mut out = String::from(HEAD);
    for kind in ["postgres", "redis", "http", "host", "logs"] {
        let prefix = format!("{kind}.");
        let found: Vec<&Entry> = entries.iter().filter(|entry| entry.section.starts_with(&prefix)).collect();
        for entry in &found {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "\n# Found: {}.\n[{}]", entry.because, entry.section);
            for line in &entry.lines {
                let _ = writeln!(out, "{line}");
            }
        }
        if found.is_empty()
            && let Some((_, example)) = EXAMPLES.iter().find(|(name, _)| *name == kind)
        {
            let _ = write!(out, "\n# Not found on this machine; an example:\n{example}");
        }
    }
    let _ = write!(out, "\n{TAIL}");
    out
}

/// Never replaces a file without `force`. Group and others may not write it, and others not read it: a person may add
/// a password later.
pub fn write(file: &Path, text: &str, force: bool) -> Result<(), ConfigError> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o640);
    if force {
        options.create(true).truncate(true)
    } else {
        options.create_new(true)
    };
    let opened = options.open(file).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            ConfigError::about(file, "this file is already there and was left alone; use --force to replace it, --output for another name, or --stdout to only look")
        }
        ErrorKind::NotFound => ConfigError::about(file, "its folder does not exist; make it first"),
        _ => ConfigError::about(file, format!("cannot be written: {}", plain(&error))),
    });
    opened?.write_all(text.as_bytes()).map_err(|error| ConfigError::about(file, format!("cannot be written: {error}")))
}
