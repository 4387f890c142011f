//! The arguments of `backup`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
#[command(after_help = "Exit codes:
  0  fine
  1  it failed, a set is not whole, or a proof failed
  2  wrong usage or configuration
  3  it could not be found out, or could not be tried

Examples:
  groundskeeper backup init                           make the repository of [backup]
  groundskeeper backup run                            make a set now
  groundskeeper backup list                           every set, and how far each is proven
  groundskeeper backup drill                          restore the newest set into the scratch place and boot it
  groundskeeper backup restore --into /srv/restored   get everything back")]
pub struct BackupArgs {
    #[command(subcommand)]
    pub verb: BackupVerb,
}

#[derive(Debug, Subcommand)]
pub enum BackupVerb {
    /// Make the repository; one that is there is left as it is
    Init,
    /// Make a set now and wait for its end
    Run,
    /// Every set, the newest first, and how far each is proven
    #[command(after_help = "Without a configuration, as after a disaster:
  groundskeeper backup list --repository /mnt/backups --key-file ./backup.key
  groundskeeper backup list --repository s3://bucket/folder --key-file ./backup.key    credentials from AWS_…")]
    List(PlaceArgs),
    /// What is wrong, the newest set with its ladder, the last proof and the measured recovery time
    Status,
    /// The recovery plan of this installation: what there is, how long it takes, each step; also without Groundskeeper
    #[command(after_help = "It is written beside the sets as recovery.md after each backup and each drill.
  groundskeeper backup plan > recovery.md
  groundskeeper backup plan --repository /mnt/backups --key-file ./backup.key")]
    Plan(PlaceArgs),
    /// Read a set's data back from the repository (rungs 1 and 2)
    Verify(SetArgs),
    /// Restore a set into the scratch place, boot it and ask it (rungs 3 to 6)
    Drill(DrillArgs),
    /// Restore a set, or one system of it, into an empty or new folder
    Restore(RestoreArgs),
    /// Which sets no rule of [backup.keep] keeps, and what removing them frees; nothing is changed without --apply
    #[command(
        after_help = "Data of removed sets are deleted by the first prune that comes a day later or more: whoever \
restores now may need them."
    )]
    Prune {
        /// Remove them, now and outside of the maintenance window
        #[arg(long)]
        apply: bool,
    },
    /// Rows that retention has deleted with `export = true`, and how they come back; nothing of ours ever removes them
    Exports(ExportsArgs),
    /// The keys that open the repository
    #[command(after_help = "Examples:
  groundskeeper backup key list
  groundskeeper backup key add                        asks for the new key on the terminal
  groundskeeper backup key add --new-key-file ./next.key
  groundskeeper backup key remove 3fa2b1c9")]
    Key {
        #[command(subcommand)]
        verb: KeyVerb,
    },
}

/// A repository without a configuration.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The repository's folder, or its address in an object store, instead of the configuration
    #[arg(long, value_name = "PLACE", requires = "key_file")]
    pub repository: Option<String>,
    /// A file whose first line opens that repository
    #[arg(long, value_name = "FILE", requires = "repository")]
    pub key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundskeeper backup exports
  groundskeeper backup exports --read 20261123T043015Z-17 > sessions.csv
  groundskeeper backup exports --read 20261123T043015Z-17 | psql docrag -c 'CREATE TABLE back (LIKE user_sessions)' \\
      -c '\\copy back FROM STDIN (FORMAT csv, HEADER, ENCODING UTF8)'

A row that was locked or changed while it was to be deleted may be in two exports: docs/backup.md has how to put rows back.")]
pub struct ExportsArgs {
    /// Write the rows of an export as CSV with a header: its name or first letters, or one piece (`file` in --output json)
    #[arg(long, value_name = "EXPORT")]
    pub read: Option<String>,
    #[command(flatten)]
    pub place: PlaceArgs,
}

#[derive(Debug, Args)]
pub struct SetArgs {
    /// The set, or the first letters of its name [default: the newest]
    #[arg(long, value_name = "ID")]
    pub set: Option<String>,
}

/// How far the WAL after the set is replayed; it is in the repository where `wal = true`.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct TargetArgs {
    /// Go on to this time: the last transaction at or before it, as in "2026-11-22 14:05" or 2026-11-22T13:05:00Z
    #[arg(long, value_name = "TIME")]
    pub to_time: Option<String>,
    /// Go on to the end of the WAL
    #[arg(long)]
    pub to_latest: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "The probes of [[backup.probe]] are put to what was restored: docs/backup.md tells of them.")]
pub struct DrillArgs {
    #[command(flatten)]
    pub set: SetArgs,
    #[command(flatten)]
    pub target: TargetArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  groundskeeper backup restore --into /srv/restored
  groundskeeper backup restore --to-time \"2026-11-22 14:05\" --into /srv/restored
  groundskeeper backup restore --set 20261122 --only postgres.main --into /srv/restored
  groundskeeper backup restore --repository /mnt/backups --key-file ./backup.key --into /srv/restored
  groundskeeper backup restore --into /srv/restored --replace --confirm restored

Nothing that exists is overwritten: --replace moves it aside. Plain restic restores as well: docs/backup.md has it step by step.")]
pub struct RestoreArgs {
    #[command(flatten)]
    pub set: SetArgs,
    /// One system of the set, such as postgres.main, or groundskeeper for the keeper's own part [default: all]
    #[arg(long, value_name = "SYSTEM")]
    pub only: Option<String>,
    #[command(flatten)]
    pub target: TargetArgs,
    /// The folder to restore into; it is made, or must have nothing of these systems in it
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// Move what is there to NAME.replaced-TIME beside it, once the name of the folder was typed
    #[arg(long)]
    pub replace: bool,
    /// The last part of DIR, instead of typing it on the terminal
    #[arg(long, value_name = "NAME", requires = "replace")]
    pub confirm: Option<String>,
    #[command(flatten)]
    pub place: PlaceArgs,
}

#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Every key, without what is secret
    List,
    /// Let another key open the repository as well
    Add {
        /// A file whose first line is the new key [default: asks on the terminal]
        #[arg(long, value_name = "FILE")]
        new_key_file: Option<PathBuf>,
    },
    /// Take a key away; the one in use and the last one stay
    Remove {
        /// Its id, or the first digits of it
        id: String,
    },
}
