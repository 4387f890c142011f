//! From a restored set to a later time, by hand: which WAL to open with what, and how Postgres replays it.
//!
//! Which WAL is needed says the restored data folder itself, so the steps hold for any set, not only for the one that the
//! plan names.

use super::{INTO, quoted};
use crate::place::Place;
use crate::source::own::{PART, WAL_IDENTITY};
use crate::wal::fetched::WAL;
use crate::wal::name::{self, FOLDER, KEYS};
use groundskeeper_core::quantity::format_bytes;
use std::fmt::Write as _;

/// One Postgres whose WAL is in the repository.
pub(super) struct Replay<'a> {
    pub(super) place: &'a Place,
    /// The part's name.
    pub(super) part: &'a str,
    pub(super) system_identifier: &'a str,
    /// Bytes of a segment.
    pub(super) segment: u64,
}

impl Replay<'_> {
    /// Where its WAL lies in the repository.
    pub(super) fn cluster(&self) -> String {
        name::cluster(self.system_identifier)
    }

    /// What comes between the comparison and the first start; `data` is the data folder.
    pub(super) fn steps(&self, data: &str) -> String {
        let mut out = self.choice();
        out.push_str(&self.fetch());
        out.push_str(&self.open(data));
        out.push_str(&Self::look(data));
        out.push_str(&Self::prepare(data));
        out
    }

    fn choice(&self) -> String {
        format!(
            "\n   **The time between the sets.** So far it is as it was when the set was made. What was committed later is in \
             the repository as WAL, in `{}/`; the next blocks replay it. (To leave it as it was in the set, go on where it is \
             started.) Which time? Nothing between the quotes is all that there is. With a time, written like `target='2026-11-22 \
             14:05:00+00'`, the last that is replayed is what was committed at or before it; a time after the last commit is \
             refused by Postgres (`recovery ended before configured recovery target was reached`).\n\n   ```sh\n   \
             target=''\n   ```\n",
            self.cluster()
        )
    }

    fn fetch(&self) -> String {
        let into = format!("{INTO}/{}.stored", self.part);
        let (said, commands) = match download(self.place, &self.cluster(), &into) {
            None => {
                let folder = self.place.folder().map(|folder| folder.join(self.cluster())).unwrap_or_default();
                ("Where it lies:", format!("stored={}", quoted(&folder.display().to_string())))
            }
            Some(download) => (
                "Download it, with this client or any other of that store:",
                format!("mkdir -p {into}\n   {download}\n   stored={into}"),
            ),
        };
        format!("\n   {said}\n\n   ```sh\n   {commands}\n   ```\n")
    }

    fn open(&self, data: &str) -> String {
        let wal = format!("{INTO}/{}/{WAL}", self.part);
        let identity = format!("{INTO}/{PART}/{WAL_IDENTITY}");
        let size = format_bytes(self.segment as f64);
        let keys = match self.place.folder() {
            Some(_) => format!("\"$(dirname \"$stored\")\"/{KEYS}/ID*.age"),
            None => "ID.age".to_owned(),
        };
        format!(
            r#"
   Open it. Each file is zstd in the age format; what opens it came with the set. A set from before the first WAL has no
   `{WAL_IDENTITY}`. `{FOLDER}/{KEYS}` in the repository has the same for each key, by the ID that `restic key list` shows; the
   key itself is the passphrase:

   ```console
   # age -d {keys} > {identity}
   ```

   `NAME.zst.age` is a whole segment of {size}, and needs so much room. `NAME.BYTES.partial.zst.age` is the beginning of
   one that was not full yet, most often the newest: of several the longest counts, and none where the whole one is there;
   opened in this order, the right one is the last. Postgres wants it as long as the others, so zeros follow it, or what
   the set has of the same segment. `0000000N.history` says where timeline N left the one before. What is older than the
   set stays closed.

   ```sh
   wal={wal}
   first=$(sed -n 's/^START WAL LOCATION: .*(file \([0-9A-F]*\))$/\1/p' {data}/backup_label)
   size=$(stat -c %s {data}/pg_wal/$first)
   mkdir -p $wal
   find "$stored" -name '*.zst.age' -print0 | LC_ALL=C sort -z | while IFS= read -r -d '' file; do
     name=$(basename "$file" .zst.age)
     if [[ $name != *.history ]]; then name=${{name%%.*}}; fi
     if [[ $name != *.history && ${{name:8}} < ${{first:8}} ]]; then continue; fi
     if [[ $file = *.partial.zst.age && -e {data}/pg_wal/$name ]]; then cp {data}/pg_wal/$name $wal/; fi
     age -d -i {identity} "$file" | zstd -dq | dd of=$wal/$name bs=1M conv=notrunc status=none
   done
   cut=$(find $wal -name '????????????????????????' -size -${{size}}c -printf '%f ')
   find $wal -name '????????????????????????' -exec truncate -s $size {{}} +
   ```
"#
        )
    }

    /// What nobody would notice later: recovery ends at a gap without a word, and makes tablespaces where they were.
    fn look(data: &str) -> String {
        format!(
            r#"
   Is any missing? Postgres would end there and say nothing. This prints where; no line is good. What is behind a gap cannot
   be reached from this set, but from one that was made after it.

   ```sh
   number() {{ echo $((16#${{1:8:8}} * (0x100000000 / size) + 16#${{1:16}})); }}
   end=$(number $(ls {data}/pg_wal | grep -E '^[0-9A-F]{{24}}$' | LC_ALL=C sort | tail -n 1)); last=''
   for name in $(ls $wal | grep -E '^[0-9A-F]{{24}}$' | LC_ALL=C sort); do
     if [ $(number $name) -gt $((end + 1)) ] || [[ " $cut" = *" $last "* && ${{name:0:8}} = "${{last:0:8}}" ]]; then
       echo "WAL is missing before $name"
     fi
     end=$(number $name); last=$name
   done
   ```

   Does it make a tablespace? Postgres would do that at the same path again, and write into the folder of a server that still
   runs on this machine. A line with `CREATE` names the path: go on only where nothing uses it, and make that folder, empty
   and for the user postgres.

   ```sh
   for name in $(ls $wal | grep -E '^[0-9A-F]{{24}}$'); do
     pg_waldump --rmgr=Tablespace $wal/$name 2> /dev/null || true
   done
   ```
"#
        )
    }

    /// What stands last in `postgresql.auto.conf` counts; a target of an earlier recovery may stand there, and two are
    /// refused, so the others are unset first.
    fn prepare(data: &str) -> String {
        let mut out =
            String::from("\n   Tell Postgres to replay it, and then to be an ordinary server.\n\n   ```sh\n   {\n");
        let mut say = |line: &str| {
            let _ = writeln!(out, "     echo \"{line}\"");
        };
        say(r#"restore_command = 'cp $wal/%f \"%p\"'"#);
        say("recovery_target_timeline = 'latest'");
        say("recovery_target_inclusive = on");
        say("recovery_target_action = 'promote'");
        for other in ["recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_xid"] {
            say(&format!("{other} = ''"));
        }
        say("recovery_target_time = '$target'");
        let _ = write!(
            out,
            "   }} >> {data}/postgresql.auto.conf\n   rm -f {data}/standby.signal\n   touch {data}/recovery.signal\n   chown -R \
             postgres: $wal {data}/postgresql.auto.conf {data}/recovery.signal\n   ```\n\n   Where the log says that a timeline \
             `is not a child of this server's history`, somebody has gone back in time after this set was made: write `current` \
             instead of `latest`, and it stays on the set's own.\n"
        );
        out
    }
}

/// How a client of an object store copies a folder of the repository; None where that is a folder itself.
fn download(place: &Place, folder: &str, into: &str) -> Option<String> {
    let storage = place.storage()?;
    let address = format!("{place}/{folder}");
    let from = quoted(&address);
    Some(match address.split_once("://")? {
        ("gs", _) => format!("gcloud storage rsync -r {from} {into}"),
        ("az", rest) => {
            let (container, path) = rest.split_once('/')?;
            format!(
                "az storage blob download-batch --account-name \"$AZURE_ACCOUNT_NAME\" --account-key \
                 \"$AZURE_ACCOUNT_KEY\" -s {container} --pattern {} -d {into}",
                quoted(&format!("{path}/*"))
            )
        }
        _ => {
            let named = |name: &str, value: Option<&String>| value.map(|value| format!(" --{name} {}", quoted(value)));
            let options = [named("endpoint-url", storage.endpoint.as_ref()), named("region", storage.region.as_ref())];
            format!("aws{} s3 sync {from} {into}", options.into_iter().flatten().collect::<String>())
        }
    })
}

/// Until it has replayed everything; as many answers as it takes.
pub(super) fn wait(folder: &str, data: &str, port: u16) -> String {
    let ask = |sql: &str| format!("runuser -u postgres -- psql -h /tmp -p {port} -d postgres -Atc '{sql}'");
    format!(
        r#"
   It answers while it still replays, and is written to only after that. Wait for it, and see how far it came: the time of
   the last commit that is there.

   ```sh
   until answer=$({recovers} 2> /dev/null) && [ "$answer" = f ]; do
     runuser -u postgres -- "$(command -v pg_ctl)" -D {data} status > /dev/null || {{ tail {folder}/server.log; break; }}
     sleep 1
   done
   {last}
   ```
"#,
        recovers = ask("SELECT pg_is_in_recovery()"),
        last = ask("SELECT pg_last_xact_replay_timestamp()"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{Bucket, Storage};

    fn steps(place: &Place) -> String {
        let replay = Replay { place, part: "postgres.main", system_identifier: "77", segment: 16 << 20 };
        replay.steps("/srv/restored/postgres.main/data")
    }

    #[test]
    fn wal_in_a_folder_is_opened_where_it_lies() {
        let steps = steps(&Place::of_folder("/mnt/it's"));
        assert!(steps.contains(r"stored='/mnt/it'\''s/wal/77'"), "{steps}");
        for part in [
            "a whole segment of 16 MiB",
            "age -d -i /srv/restored/groundskeeper/wal-identity.txt \"$file\" | zstd -dq | dd of=$wal/$name",
            r#"echo "restore_command = 'cp $wal/%f \"%p\"'""#,
            "touch /srv/restored/postgres.main/data/recovery.signal",
            "# age -d \"$(dirname \"$stored\")\"/keys/ID*.age > /srv/restored/groundskeeper/wal-identity.txt",
        ] {
            assert!(steps.contains(part), "{part} is missing in {steps}");
        }
        // Every block of a list's item is indented like the item, or Markdown ends the list.
        assert!(steps.lines().all(|line| line.is_empty() || line.starts_with("   ")), "{steps}");
    }

    #[test]
    fn wal_in_an_object_store_is_downloaded_first() {
        let of = |address: &str, storage| steps(&Place::of_bucket(Bucket::parse(address, storage).unwrap()));
        let own = Storage { endpoint: Some("https://minio.example:9000".into()), ..Storage::default() };
        for (steps, command) in [
            (
                of("s3://b/some/folder", Storage::default()),
                "aws s3 sync 's3://b/some/folder/wal/77' /srv/restored/postgres.main.stored",
            ),
            (
                of("s3://b", own),
                "aws --endpoint-url 'https://minio.example:9000' s3 sync 's3://b/wal/77' \
                 /srv/restored/postgres.main.stored",
            ),
            (of("gs://b/f", Storage::default()), "gcloud storage rsync -r 'gs://b/f/wal/77' /srv/restored/"),
            (of("az://b/f", Storage::default()), "-s b --pattern 'f/wal/77/*' -d /srv/restored/postgres.main.stored"),
        ] {
            assert!(steps.contains(command), "{command} is missing in {steps}");
            assert!(steps.contains("mkdir -p /srv/restored/postgres.main.stored\n"), "{steps}");
            assert!(steps.contains("stored=/srv/restored/postgres.main.stored\n"), "{steps}");
            assert!(steps.contains("# age -d ID.age > "), "{steps}");
        }
    }
}
