//! The recovery plan of one installation: what there is, where it is, how long it took to bring it back, and each step, for
//! somebody who has never seen the system. With Groundskeeper, and with nothing but plain tools.
//!
//! A test follows the second way word by word: what stands in the blocks marked `sh` has to work as it stands.

mod wal;

use crate::key::KeySource;
use crate::place::Place;
use crate::source::configuration::CONFIGURATION;
use crate::source::postgres::DATA;
use crate::vault::Settings;
use groundskeeper_core::quantity::{format_bytes, format_seconds};
use groundskeeper_core::receipt::{Cluster, Configuration, Keyspace, Part, Receipt, Rung, Vectors};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use wal::Replay;

/// Where the commands of the plan restore to.
pub const INTO: &str = "/srv/restored";
/// The port that a restored Postgres answers on, the first one of several.
pub const PORT: u16 = 5433;

/// Writes the plan. `receipts` are those of all sets, the newest first; `streamed` are the clusters whose WAL is in the
/// repository, by system identifier, with the bytes of a segment.
pub fn plan(settings: &Settings, receipts: &[Receipt], streamed: &BTreeMap<String, u64>, now: Timestamp) -> String {
    let plan = Plan { settings, receipts, streamed, chosen: chosen(receipts), now };
    plan.to_string()
}

/// The newest whole set that was shown to restore; else the newest one.
fn chosen(receipts: &[Receipt]) -> Option<&Receipt> {
    let good = |receipt: &&Receipt| receipt.is_whole() && receipt.proven() >= Some(Rung::Alive);
    receipts.iter().find(good).or_else(|| receipts.first())
}

struct Plan<'a> {
    settings: &'a Settings,
    receipts: &'a [Receipt],
    streamed: &'a BTreeMap<String, u64>,
    chosen: Option<&'a Receipt>,
    now: Timestamp,
}

impl fmt::Display for Plan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.settings.place.to_string();
        writeln!(
            f,
            "# Recovery plan\n\nWritten by Groundskeeper {} on {}, from the sets that were there then. It is written anew \
             after each backup, and lies beside them as `recovery.md`. It holds no secret. Keep a copy, and a copy of the \
             key, where a fire here does not reach.\n",
            env!("CARGO_PKG_VERSION"),
            moment(self.now)
        )?;
        writeln!(f, "## What there is\n")?;
        writeln!(f, "- The backups: `{place}`, in the format of [restic](https://restic.net), encrypted.")?;
        writeln!(f, "- The key: {}. Without it nobody can read them.", key(&self.settings.key))?;
        let Some(set) = self.chosen else {
            return writeln!(
                f,
                "- No set yet: there is nothing to recover from. `groundskeeper backup run` makes one."
            );
        };
        self.sets(f, set)?;
        self.wal(f, set)?;
        Self::parts(f, set)?;
        self.with_us(f, set)?;
        self.without_us(f, set)
    }
}

impl Plan<'_> {
    fn sets(&self, f: &mut fmt::Formatter<'_>, set: &Receipt) -> fmt::Result {
        if let Some(newest) = self.receipts.first() {
            writeln!(f, "- The newest set: `{}`, made {}.", newest.set, moment(newest.made))?;
        }
        match (set.proven(), set.recovery_time()) {
            (Some(rung), Some(took)) if rung >= Rung::Alive => {
                let at = set.proven_at(Rung::Alive).map(moment).unwrap_or_default();
                writeln!(
                    f,
                    "- The newest set that was shown to restore: `{}`, on {at}, up to rung {} ({rung}). From the start of the \
                     restore to the first answer it took **{}** for {}; expect that, and what a person needs to read this.",
                    set.set,
                    rung.number(),
                    format_seconds(took),
                    format_bytes(set.bytes() as f64)
                )
            }
            _ => writeln!(
                f,
                "- **No set was shown to restore yet**, so nobody knows how long it takes: `groundskeeper backup drill`."
            ),
        }
    }

    /// The way from a part of the set to a later time; None where no WAL leads there.
    fn replay<'p>(&'p self, part: &'p Part) -> Option<Replay<'p>> {
        let system_identifier = &part.postgres.as_ref()?.system_identifier;
        let segment = *self.streamed.get(system_identifier)?;
        Some(Replay { place: &self.settings.place, part: &part.name, system_identifier, segment })
    }

    fn wal(&self, f: &mut fmt::Formatter<'_>, set: &Receipt) -> fmt::Result {
        for replay in set.parts.iter().filter_map(|part| self.replay(part)) {
            writeln!(
                f,
                "- The WAL of `{}`, with what was committed between and after the sets: `{}` in the repository, as zstd in \
                 the format of [age](https://age-encryption.org). What opens it is in each set since it began.",
                replay.part,
                replay.cluster()
            )?;
        }
        Ok(())
    }

    fn parts(f: &mut fmt::Formatter<'_>, set: &Receipt) -> fmt::Result {
        writeln!(f, "\nIn the set `{}`:\n\n| folder | what it is | size |\n|---|---|---|", set.set)?;
        for part in &set.parts {
            writeln!(f, "| `{}` | {} | {} |", part.name, what(part), format_bytes(part.bytes as f64))?;
        }
        for missing in &set.missing {
            writeln!(f, "| `{}` | **missing**: {} | |", missing.system, missing.why.replace('\n', " "))?;
        }
        Ok(())
    }

    fn with_us(&self, f: &mut fmt::Formatter<'_>, set: &Receipt) -> fmt::Result {
        let place = self.settings.place.to_string();
        writeln!(
            f,
            "\n## With Groundskeeper\n\nOn any machine with the program and the key, into a folder that does not exist yet:\n\n\
             ```console\n$ groundskeeper backup restore --repository '{place}' --key-file ./backup.key --set {} --into {INTO}\n```\n\n\
             It says what it will do, does it, and then says each next step with its command. Without `--set` it takes the \
             newest set. Nothing that exists is overwritten.",
            set.set
        )?;
        if set.parts.iter().any(|part| self.replay(part).is_some()) {
            writeln!(
                f,
                "\n`--to-latest` goes on from there to the last that was committed, `--to-time '2026-11-22 14:05'` to that time; \
                 without `--set` from the newest set before it."
            )?;
        }
        Ok(())
    }

    fn without_us(&self, f: &mut fmt::Formatter<'_>, set: &Receipt) -> fmt::Result {
        writeln!(
            f,
            "\n## Without Groundskeeper\n\nAs root, in one bash, from top to bottom. Nothing here touches a server that runs.\n"
        )?;
        let opening = if set.parts.iter().any(|part| self.replay(part).is_some()) { ", age and zstd" } else { "" };
        writeln!(f, "1. The programs: restic 0.14 or newer{}{opening}.\n", programs(set))?;
        writeln!(
            f,
            "2. The repository, the key, and an empty folder on a disk with {} free.\n\n   ```sh\n   {}\n   {}\n   \
             mkdir -p {INTO}\n   chmod 711 {INTO}\n   ```\n",
            format_bytes(set.bytes() as f64 * 1.2),
            repository(&self.settings.place),
            password(&self.settings.key),
        )?;
        writeln!(
            f,
            "3. The sets. Each snapshot with the tag `groundskeeper-set` is one; its other tag is its name.\n\n   ```sh\n   \
             restic snapshots --tag groundskeeper-set\n   ```\n\n4. Fetch it. For the newest one instead, the tag is \
             `groundskeeper-set`.\n\n   ```sh\n   restic restore latest --tag {} --target {INTO}\n   chmod 711 {INTO}\n   ```\n",
            set.set
        )?;
        let (mut number, mut port) = (5, PORT);
        for part in &set.parts {
            let steps = match part {
                Part { postgres: Some(cluster), .. } => {
                    port += 1;
                    postgres(part, cluster, self.replay(part).as_ref(), port - 1)
                }
                Part { redis: Some(keyspace), .. } => redis(&part.name, keyspace),
                Part { qdrant: Some(vectors), .. } => qdrant(&part.name, vectors),
                Part { files: Some(tree), .. } => format!(
                    "`{0}` was the folder `{1}`. See what differs, then bring it back with modes, owners and times.\n\n   \
                     ```console\n   # diff -rq {INTO}/{0} {1}\n   # rsync -a {INTO}/{0}/ {1}/\n   ```\n",
                    part.name, tree.path
                ),
                _ => format!(
                    "`{}` is the keeper's own: its configuration, and `store.db`, which goes into its state folder before it \
                     is started.\n",
                    part.name
                ),
            };
            writeln!(f, "{number}. {steps}")?;
            number += 1;
        }
        writeln!(
            f,
            "{number}. Point the applications at what was restored, watch their errors, and make a new set as soon as they \
             work. Delete `{INTO}` only after that."
        )
    }
}

fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M UTC").to_string()
}

fn key(source: &KeySource) -> String {
    match source {
        KeySource::File(path) => format!("the first line of `{}`", path.display()),
        KeySource::Command(_) => "what the `key_command` of the configuration prints".to_owned(),
        KeySource::Given(_) => "`key` in the configuration, or the environment variable that it names".to_owned(),
    }
}

fn password(source: &KeySource) -> String {
    match source {
        KeySource::File(path) => format!("export RESTIC_PASSWORD_FILE={}", quoted(&path.display().to_string())),
        KeySource::Command(_) | KeySource::Given(_) => {
            "read -rsp 'Key: ' RESTIC_PASSWORD; export RESTIC_PASSWORD".to_owned()
        }
    }
}

/// What stands in the environment for restic.
fn repository(place: &Place) -> String {
    let ask = |name: &&str| format!("read -rp '{name}: ' {name}; export {name}\n   ");
    let asked: String = place.variables().iter().map(ask).collect();
    format!("{asked}export RESTIC_REPOSITORY={}", quoted(&place.restic()))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What a part is, in a few words.
fn what(part: &Part) -> String {
    match part {
        Part { postgres: Some(cluster), .. } => format!("Postgres {}", cluster.major()),
        Part { redis: Some(keyspace), .. } => format!("Redis {}, {} keys", keyspace.version, keyspace.keys),
        Part { qdrant: Some(vectors), .. } => {
            format!("Qdrant {}, {} collections", vectors.version, vectors.collections.len())
        }
        Part { files: Some(tree), .. } => format!("the folder `{}`", tree.path),
        _ => "the keeper's own store and configuration".to_owned(),
    }
}

fn programs(set: &Receipt) -> String {
    let mut needed: Vec<String> = Vec::new();
    for part in &set.parts {
        let program = match part {
            Part { postgres: Some(cluster), .. } => format!("Postgres {} with its contrib package", cluster.major()),
            Part { redis: Some(keyspace), .. } => format!("Redis {} or newer", keyspace.version),
            Part { qdrant: Some(vectors), .. } => format!("Qdrant {} or newer", vectors.version),
            _ => continue,
        };
        if !needed.contains(&program) {
            needed.push(program);
        }
    }
    [String::new()].into_iter().chain(needed).collect::<Vec<_>>().join(", ")
}

fn postgres(part: &Part, cluster: &Cluster, replay: Option<&Replay<'_>>, port: u16) -> String {
    let (name, configuration) = (&part.name, part.configuration.as_ref());
    let (major, folder) = (cluster.major(), format!("{INTO}/{name}"));
    let data = format!("{folder}/{DATA}");
    let mut out = format!(
        "`{name}` is a Postgres {major}. Give it to the user that Postgres runs as.\n\n   ```sh\n   \
         export PATH=/usr/lib/postgresql/{major}/bin:$PATH\n   chown -R postgres: {folder}\n   chmod 700 {data}\n   ```\n"
    );
    let mut ignored = "";
    if !cluster.tablespaces.is_empty() {
        ignored = " -i tablespace_map";
        let _ = write!(
            out,
            "\n   It has tablespaces. Their links are made anew, or Postgres would write into the folders of the server that \
             may still run.\n\n   ```sh\n   : > {data}/tablespace_map\n   for oid in $(ls {folder}/tablespaces); do\n     \
             ln -s {folder}/tablespaces/$oid {data}/pg_tblspc/$oid\n     \
             echo \"$oid {folder}/tablespaces/$oid\" >> {data}/tablespace_map\n   done\n   \
             chown -hR postgres: {data}/pg_tblspc {data}/tablespace_map\n   ```\n"
        );
    }
    let _ = write!(
        out,
        "\n   Compare it with its own manifest.\n\n   ```sh\n   runuser -u postgres -- \"$(command -v pg_verifybackup)\"\
         {ignored} {data}\n   ```\n"
    );
    out.push_str(&configured(&folder, &data, configuration));
    out.extend(replay.map(|replay| replay.steps(&data)));
    let _ = write!(
        out,
        "\n   Look at `{data}/postgresql.conf` and `postgresql.auto.conf` for paths and an `archive_command` that must not run \
         here. Then start it on another port. It replays its WAL and is consistent.\n\n   ```sh\n   \
         runuser -u postgres -- \"$(command -v pg_ctl)\" -D {data} -o '-p {port} -k /tmp' -l {folder}/server.log -w -t 3600 \
         start\n   ```\n"
    );
    out.extend(replay.map(|_| wal::wait(&folder, &data, port)));
    let _ = write!(
        out,
        "\n   Look at it.\n\n   ```sh\n   runuser -u postgres -- psql -h /tmp -p {port} -d postgres -l\n   ```\n\n   When it is \
         what you want, stop it (`pg_ctl -D {data} stop`) and put it where your server expects its data.\n"
    );
    out
}

fn configured(folder: &str, data: &str, found: Option<&Configuration>) -> String {
    let Some(found) = found else { return String::new() };
    let beside = format!("{folder}/{CONFIGURATION}");
    if found.unreadable.is_empty() {
        let mut out = format!(
            "\n   Its configuration was outside of the data folder and is in `{beside}`. Put the files into the data folder.\n\n   \
             ```sh\n"
        );
        for file in &found.files {
            let name = file.trim_start_matches('/');
            let _ = writeln!(out, "   test -e {beside}/{name} && cp {beside}/{name} {data}/");
        }
        return out + &format!("   chown postgres: {data}/*.conf\n   ```\n");
    }
    format!(
        "\n   Its configuration was outside of the data folder and could not be read; its settings are as the server said \
         them.\n\n   ```sh\n   cp {beside}/settings.conf {data}/postgresql.conf\n   echo 'local all all peer' > \
         {data}/pg_hba.conf\n   touch {data}/pg_ident.conf\n   chown postgres: {data}/*.conf\n   ```\n"
    )
}

fn redis(name: &str, keyspace: &Keyspace) -> String {
    format!(
        "`{name}` is a Redis {}: one file. Check it.\n\n   ```sh\n   redis-check-rdb {INTO}/{name}/dump.rdb\n   ```\n\n   Stop \
         the server, put the file where its settings `dir` and `dbfilename` say, give it to its user, start it. With \
         `appendonly yes` it reads its AOF instead: start it with `appendonly no`, then `CONFIG SET appendonly yes`. `INFO \
         keyspace` should count {} keys.\n",
        keyspace.version, keyspace.keys
    )
}

fn qdrant(name: &str, vectors: &Vectors) -> String {
    let mut out = format!(
        "`{name}` is a Qdrant {}: a snapshot of each collection. Upload each to an empty Qdrant of that version or newer.\n\n",
        vectors.version
    );
    for collection in &vectors.collections {
        for snapshot in &collection.snapshots {
            let _ = write!(
                out,
                "   ```console\n   # echo '{}  {INTO}/{name}/{}' | sha256sum -c\n   # curl -X POST \
                 'http://HOST:6333/collections/{}/snapshots/upload?priority=snapshot' -F 'snapshot=@{INTO}/{name}/{}'\n   ```\n\n",
                snapshot.sha256, snapshot.path, collection.name, snapshot.path
            );
        }
        let _ = writeln!(out, "   `{}` had {} points.", collection.name, collection.points);
    }
    if vectors.aliases > 0 {
        let _ = writeln!(out, "   The aliases are in `aliases.json`: each again with `POST /collections/aliases`.");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{Bucket, Storage};

    #[test]
    fn addresses_are_those_of_restic() {
        let bucket = |address: &str, storage| Place::of_bucket(Bucket::parse(address, storage).unwrap());
        assert_eq!(repository(&Place::of_folder("/mnt/it's")), r"export RESTIC_REPOSITORY='/mnt/it'\''s'");
        let s3 = repository(&bucket("s3://b/some/folder", Storage::default()));
        assert!(s3.ends_with("export RESTIC_REPOSITORY='s3:https://s3.amazonaws.com/b/some/folder'"), "{s3}");
        assert!(s3.starts_with("read -rp 'AWS_ACCESS_KEY_ID: ' AWS_ACCESS_KEY_ID; export"), "{s3}");
        let own = Storage { endpoint: Some("https://minio.example:9000/".into()), ..Storage::default() };
        assert_eq!(bucket("s3://b/f", own).restic(), "s3:https://minio.example:9000/b/f");
        assert_eq!(bucket("gs://b/f", Storage::default()).restic(), "gs:b:/f");
        assert_eq!(bucket("az://con/f", Storage::default()).restic(), "azure:con:/f");
    }
}
