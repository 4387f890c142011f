//! What `[backup]`, its probes and what is copied besides Postgres say about themselves.

use super::{parse, problem};
use groundskeeper_backup::vault::KeySource;
use rstest::rstest;
use std::path::Path;

#[rstest]
#[case::backup_without_a_repository(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nkey_file = \"/etc/k\"\n",
    "groundskeeper.toml:3: [backup] needs `repository`, such as repository = \"/var/backups/groundskeeper\""
)]
#[case::backup_elsewhere(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"ftp://bucket/backups\"\nkey_file = \"/etc/k\"\n",
    "groundskeeper.toml:4: `repository` in [backup]: the store is not known; write s3://, gs:// or az:// (an endpoint of your own is `endpoint` of [backup.storage])"
)]
#[case::backup_with_credentials_in_the_address(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"s3://ann:hunter2@bucket\"\nkey_file = \"/etc/k\"\n",
    "groundskeeper.toml:4: `repository` in [backup]: it may hold a bucket and a folder only; credentials and the rest belong into [backup.storage]"
)]
#[case::backup_in_a_folder_with_a_storage(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/etc/k\"\n[backup.storage]\nregion = \"eu\"",
    "groundskeeper.toml:6: [backup.storage] is of no use: `repository` is a folder; write an address such as s3://bucket/folder, or remove the table"
)]
#[case::backup_with_half_of_the_credentials(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"s3://b\"\nkey_file = \"/etc/k\"\n[backup.storage]\naccess_key_id = \"AKIA\"",
    "groundskeeper.toml:6: [backup.storage]: `access_key_id` and `secret_access_key` (or `secret_access_key_file`) belong together; give both, or neither for those of the environment"
)]
#[case::backup_without_tls(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"s3://b\"\nkey_file = \"/etc/k\"\n[backup.storage]\nendpoint = \"http://minio.example\"",
    "groundskeeper.toml:4: `repository` in [backup]: `endpoint` is without TLS and not on this machine; write https://, or set `allow_http = true` if nobody else is on that network"
)]
#[case::backup_with_an_unknown_key_of_the_storage(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"s3://b\"\nkey_file = \"/etc/k\"\n[backup.storage]\nacces_key_id = \"AKIA\"",
    "groundskeeper.toml:7: unknown key `acces_key_id` in [backup.storage]; did you mean `access_key_id`?"
)]
#[case::backup_with_a_rate_that_is_none(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/etc/k\"\nupload_limit = \"20 MB\"",
    "groundskeeper.toml:6: `upload_limit` in [backup]: `20 MB` is no rate; write for example \"20 MB/s\""
)]
#[case::backup_in_a_relative_folder(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"backups\"\nkey_file = \"/etc/k\"\n",
    "groundskeeper.toml:4: `repository` in [backup]: `backups` must be a whole path such as \"/var/backups/groundskeeper\""
)]
#[case::backup_with_a_size_that_is_none(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\nwal_keep = \"much\"",
    "groundskeeper.toml:6: `wal_keep` in [backup]: `much` is no amount of bytes; write for example \"5 GiB\" or \"500 MB\""
)]
#[case::backup_with_a_switch_that_is_none(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\nread_files = \"no\"",
    "groundskeeper.toml:6: `read_files` in [backup] must be true or false, not text"
)]
#[case::backup_without_a_key(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\n",
    "groundskeeper.toml:3: [backup] needs `key_file`, such as key_file = \"/etc/groundskeeper/backup.key\", or `key_command`, or `key`"
)]
#[case::a_backup_that_keeps_nothing(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\n[backup.keep]\nlast = 0\ndaily = 0\nweekly = 0\nmonthly = 0\n",
    "groundskeeper.toml:6: [backup.keep] keeps nothing but the newest set; write for example daily = 7"
)]
#[case::a_rule_that_does_not_exist(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\n[backup.keep]\ndayly = 7\n",
    "groundskeeper.toml:7: unknown key `dayly` in [backup.keep]; did you mean `daily`?"
)]
#[case::backup_with_two_keys(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\nkey_command = \"pass backup\"",
    "groundskeeper.toml:3: [backup] has both `key_file` and `key_command`; keep one"
)]
#[case::backup_with_an_empty_key(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey = \"${BACKUP_KEY:-}\"",
    "groundskeeper.toml:5: `key` in [backup] is empty"
)]
#[case::backup_with_an_unset_key(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey = \"${BACKUP_KEY}\"",
    "groundskeeper.toml:5: `key` in [backup]: the environment variable BACKUP_KEY is not set; set it, or write `${BACKUP_KEY:-default}`"
)]
#[case::backup_of_an_unknown_system(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\nsystems = [\"postgres.man\"]",
    "groundskeeper.toml:6: `systems` in [backup]: there is no `postgres.man`; did you mean `postgres.main`?"
)]
#[case::backup_of_a_host(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[host.local]\n[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\nsystems = [\"host.local\"]",
    "groundskeeper.toml:7: `systems` in [backup]: `host.local` cannot be backed up by this version; it backs up Postgres, Redis and Qdrant"
)]
#[case::backup_of_a_relative_folder(
    "[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\nfiles = [\"docs\"]",
    "groundskeeper.toml:4: `files` in [backup]: `docs` must be a whole path such as \"/srv/docs\""
)]
#[case::backup_of_folders_of_one_name(
    "[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\nfiles = [\"/srv/docs\", \"/srv-docs\"]",
    "groundskeeper.toml:4: `files` in [backup]: /srv/docs and /srv-docs would both be called files.srv-docs; keep one, or name a folder above them"
)]
#[case::qdrant_without_an_address(
    "[qdrant.main]\n[backup]\nrepository = \"/b\"\nkey_file = \"/etc/k\"",
    "groundskeeper.toml:1: [qdrant.main] needs `url`, such as url = \"http://localhost:6333\", or `urls` with every node of a cluster"
)]
#[case::qdrant_with_two_kinds_of_address(
    "[qdrant.main]\nurl = \"http://a:6333\"\nurls = [\"http://b:6333\"]\n[backup]\nrepository = \"/b\"\nkey_file = \"/etc/k\"",
    "groundskeeper.toml:1: [qdrant.main] has both `url` and `urls`; keep one"
)]
#[case::qdrant_over_grpc(
    "[qdrant.main]\nurl = \"grpc://a:6334\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/etc/k\"",
    "groundskeeper.toml:2: `url` in [qdrant.main]: this is no address of Qdrant's REST interface (the scheme is `grpc`); write http://host:6333"
)]
#[case::qdrant_that_nobody_backs_up(
    "[qdrant.main]\nurl = \"http://a:6333\"",
    "groundskeeper.toml:1: [qdrant] is for backups only in this version, and there is no [backup]; add one, or remove this section"
)]
#[case::chunks_of_no_postgres(
    "[backup]\nrepository = \"/b\"\nkey = \"k\"\n[qdrant.main]\nurl = \"http://a:6333\"\n[qdrant.main.chunks]\ndatabase = \"app\"\ncollection = \"docs\"\nlike = \"docrag\"",
    "groundskeeper.toml:6: [qdrant.main.chunks] needs the Postgres with the chunks, and there is none; add a [postgres.main]"
)]
#[case::chunks_of_an_unknown_postgres(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey = \"k\"\n[qdrant.main]\nurl = \"http://a:6333\"\n[qdrant.main.chunks]\ndatabase = \"app\"\ncollection = \"docs\"\nlike = \"docrag\"\npostgres = \"mian\"",
    "groundskeeper.toml:12: `postgres` in [qdrant.main.chunks]: there is no [postgres.mian]; did you mean `postgres.main`?"
)]
#[case::chunks_without_statements(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey = \"k\"\n[qdrant.main]\nurl = \"http://a:6333\"\n[qdrant.main.chunks]\ndatabase = \"app\"\ncollection = \"docs\"\n",
    "groundskeeper.toml:8: [qdrant.main.chunks] needs `like = \"docrag\"`, or `ids` with a statement that gives the id of every chunk, such as ids = \"SELECT id FROM public.chunks\""
)]
#[case::chunks_with_two_kinds_of_statements(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey = \"k\"\n[qdrant.main]\nurl = \"http://a:6333\"\n[qdrant.main.chunks]\ndatabase = \"app\"\ncollection = \"docs\"\nlike = \"docrag\"\nids = \"SELECT 1\"",
    "groundskeeper.toml:8: [qdrant.main.chunks] has both `like` and `ids`; keep one"
)]
#[case::chunks_of_an_unknown_service(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey = \"k\"\n[qdrant.main]\nurl = \"http://a:6333\"\n[qdrant.main.chunks]\ndatabase = \"app\"\ncollection = \"docs\"\nlike = \"dograg\"",
    "groundskeeper.toml:11: `like` in [qdrant.main.chunks]: only `docrag` is known; write `ids` for another"
)]
#[case::chunks_with_half_an_outbox(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey = \"k\"\n[qdrant.main]\nurl = \"http://a:6333\"\n[qdrant.main.chunks]\ndatabase = \"app\"\ncollection = \"docs\"\nids = \"SELECT 1\"\nfollowed = \"SELECT 1\"",
    "groundskeeper.toml:8: [qdrant.main.chunks] has a part of an outbox: `changes` and `followed` belong together, and `pruned` to them"
)]
#[case::chunks_with_all_changes_ever(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey = \"k\"\n[qdrant.main]\nurl = \"http://a:6333\"\n[qdrant.main.chunks]\ndatabase = \"app\"\ncollection = \"docs\"\nids = \"SELECT 1\"\nfollowed = \"SELECT 1\"\nchanges = \"SELECT 1, 2\"",
    "groundskeeper.toml:8: `changes` in [qdrant.main.chunks] needs `$1`, the number after which entries are wanted, such as changes = \"SELECT seq, chunk_id FROM public.outbox WHERE seq > $1\""
)]
#[case::chunks_without_a_database(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey = \"k\"\n[qdrant.main]\nurl = \"http://a:6333\"\n[qdrant.main.chunks]\ncollection = \"docs\"\nlike = \"docrag\"",
    "groundskeeper.toml:8: [qdrant.main.chunks] needs `database`, such as database = \"docrag\""
)]
#[case::chunks_in_a_system_that_is_left_out(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey = \"k\"\nsystems = [\"qdrant.main\"]\n[qdrant.main]\nurl = \"http://a:6333\"\n[qdrant.main.chunks]\ndatabase = \"app\"\ncollection = \"docs\"\nlike = \"docrag\"",
    "groundskeeper.toml:3: `systems` in [backup] leaves out postgres.main, and the chunks of [qdrant.main] are in it; name it too, or remove [qdrant.main.chunks]"
)]
#[case::backup_of_no_system(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\nsystems = []",
    "groundskeeper.toml:3: [backup] has an empty `systems`; leave it out to back up all that can be backed up"
)]
#[case::backup_with_an_unknown_key(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\nscrach = \"/tmp\"",
    "groundskeeper.toml:6: unknown key `scrach` in [backup]; did you mean `scratch`?"
)]
#[case::backup_with_a_relative_scratch(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\nscratch = \"tmp\"",
    "groundskeeper.toml:6: `scratch` in [backup]: `tmp` must be a whole path such as \"/var/tmp/groundskeeper\""
)]
#[case::backup_with_relative_programs(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\nprograms = [\"bin\"]",
    "groundskeeper.toml:6: `programs` in [backup]: `bin` must be a whole path such as \"/usr/lib/postgresql/16/bin\""
)]
#[case::backup_without_a_postgres(
    "[backup]\nrepository = \"/var/backups\"\nkey_file = \"/etc/k\"\n",
    "groundskeeper.toml:1: [backup] has nothing to back up: no Postgres, Redis or Qdrant is configured, and no `files`; add a [postgres.main] section"
)]
fn each_mistake_in_a_backup_gets_one_clear_sentence(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(problem(text), expected);
}

#[rstest]
#[case::probe_without_a_name(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nsql = \"SELECT 1\"",
    "groundskeeper.toml:6: [backup.probe] needs `name`, such as name = \"documents\""
)]
#[case::probe_with_a_name_that_is_none(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"all documents\"\nsql = \"SELECT 1\"",
    "groundskeeper.toml:7: `name` in [backup.probe]: `all documents` cannot be a name; use letters, digits, `-` and `_`"
)]
#[case::probes_of_one_name(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\nsql = \"SELECT 1\"\n[[backup.probe]]\nname = \"a\"\nsql = \"SELECT 2\"",
    "groundskeeper.toml:10: `name` in [backup.probe]: there is another probe `a`; give each its own name"
)]
#[case::probe_that_asks_nothing(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"",
    "groundskeeper.toml:6: [backup.probe] needs `sql`, such as sql = \"SELECT count(*) > 0 FROM documents\", or `command` and `url`"
)]
#[case::probe_of_both_kinds(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\nsql = \"SELECT 1\"\ncommand = [\"/bin/a\"]\nurl = \"/\"",
    "groundskeeper.toml:6: [backup.probe] has both `sql` and `command`; keep one"
)]
#[case::probe_with_an_empty_sql(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\nsql = \" \"",
    "groundskeeper.toml:8: `sql` in [backup.probe] is empty"
)]
#[case::probe_that_expects_two_things(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\nsql = \"SELECT 1\"\nexpect = \"1\"\nat_least = 1",
    "groundskeeper.toml:6: [backup.probe] has both `expect` and `at_least`; keep one"
)]
#[case::probe_that_expects_a_number(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\nsql = \"SELECT 1\"\nexpect = 1",
    "groundskeeper.toml:9: `expect` in [backup.probe] must be text in quotes, not the number 1"
)]
#[case::probe_in_sql_with_a_key_of_a_command(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\nsql = \"SELECT 1\"\nstatus = 200",
    "groundskeeper.toml:6: [backup.probe] has `sql`, and `status` belongs to `command`; remove one of them"
)]
#[case::probe_by_a_command_with_a_key_of_sql(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\ncommand = [\"/bin/a\"]\nurl = \"/\"\nat_least = 1",
    "groundskeeper.toml:6: [backup.probe] has `command`, and `at_least` belongs to `sql`; remove one of them"
)]
#[case::probe_by_a_command_that_is_not_asked(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\ncommand = [\"/bin/a\"]",
    "groundskeeper.toml:6: [backup.probe] needs `url`, such as url = \"/health\""
)]
#[case::probe_by_an_empty_command(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\ncommand = []\nurl = \"/\"",
    "groundskeeper.toml:6: [backup.probe] has an empty `command`; write the program and its arguments"
)]
#[case::probe_by_a_relative_program(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\ncommand = [\"python3\", \"app.py\"]\nurl = \"/\"",
    "groundskeeper.toml:8: `command` in [backup.probe]: `python3` must be a whole path such as \"/usr/bin/python3\""
)]
#[case::probe_of_a_live_service(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\ncommand = [\"/bin/a\"]\nurl = \"https://app.example/health\"",
    "groundskeeper.toml:9: `url` in [backup.probe] must be a path such as \"/health\", or an address on this machine such as \"http://127.0.0.1:{port}/health\""
)]
#[case::probe_of_a_service_on_a_port_of_its_own(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\ncommand = [\"/bin/a\"]\nurl = \"http://127.0.0.1:8000/health\"",
    "groundskeeper.toml:9: `url` in [backup.probe] must be a path such as \"/health\", or an address on this machine such as \"http://127.0.0.1:{port}/health\""
)]
#[case::probe_with_a_status_that_is_none(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\ncommand = [\"/bin/a\"]\nurl = \"/\"\nstatus = 20",
    "groundskeeper.toml:10: `status` in [backup.probe] must be an HTTP status code, such as 200"
)]
#[case::probe_without_time(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\nsql = \"SELECT 1\"\ntimeout = \"0s\"",
    "groundskeeper.toml:9: `timeout` in [backup.probe]: `0s` is too short: it must be above zero"
)]
#[case::probe_with_an_unknown_key(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\nsql = \"SELECT 1\"\nexpects = \"1\"",
    "groundskeeper.toml:9: unknown key `expects` in [backup.probe]; did you mean `expect`?"
)]
#[case::probe_that_is_no_list(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[backup.probe]\nname = \"a\"\nsql = \"SELECT 1\"",
    "groundskeeper.toml:6: `probe` in [backup] must be a list of tables; write [[backup.probe]]"
)]
#[case::probe_of_an_unknown_postgres(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\npostgres = \"man\"\nsql = \"SELECT 1\"",
    "groundskeeper.toml:8: `postgres` in [backup.probe]: there is no `postgres.man`; did you mean `main`?"
)]
#[case::probe_of_one_postgres_of_several(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[postgres.other]\nurl = \"postgres://localhost/b\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\nsql = \"SELECT 1\"",
    "groundskeeper.toml:8: [backup.probe] needs `postgres`, such as postgres = \"main\": the sets have several (main, other)"
)]
#[case::probe_of_a_postgres_that_is_in_no_set(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\n[postgres.other]\nurl = \"postgres://localhost/b\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\nsystems = [\"postgres.main\"]\n[[backup.probe]]\nname = \"a\"\npostgres = \"other\"\nsql = \"SELECT 1\"",
    "groundskeeper.toml:11: `postgres` in [backup.probe]: postgres.other is left out of `systems`, and so in no set"
)]
#[case::probe_without_a_postgres(
    "[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\nfiles = [\"/srv\"]\n[[backup.probe]]\nname = \"a\"\nsql = \"SELECT 1\"",
    "groundskeeper.toml:5: [backup.probe] has no Postgres to ask: there is none in the sets"
)]
#[case::probe_without_a_database(
    "[postgres.main]\nurl = \"postgres://localhost\"\n[backup]\nrepository = \"/b\"\nkey_file = \"/k\"\n[[backup.probe]]\nname = \"a\"\nsql = \"SELECT 1\"",
    "groundskeeper.toml:6: [backup.probe] needs `database`, such as database = \"docrag\""
)]
fn each_mistake_in_a_probe_gets_one_clear_sentence(#[case] text: &str, #[case] expected: &str) {
    assert_eq!(problem(text), expected);
}

#[test]
fn backups_are_of_everything_that_can_be_backed_up_unless_some_are_named() {
    let text = "[postgres.a]\nurl = \"postgres://localhost/a\"\n[postgres.b]\nurl = \"postgres://localhost/b\"\n\
                [redis.cache]\nurl = \"redis://localhost\"\n[backup]\nrepository = \"/var/backups\"\n";
    let names = |more: &str| -> Vec<String> {
        let settings = parse(&format!("{text}{more}")).unwrap_or_else(|error| panic!("{error}"));
        let backup = settings.backup.unwrap();
        let postgres = backup.postgres.iter().map(|source| source.system.to_string());
        postgres.chain(backup.redis.iter().map(|source| source.system.to_string())).collect()
    };
    assert_eq!(names("key_command = \"pass backup\""), ["postgres.a", "postgres.b", "redis.cache"]);
    assert_eq!(names("key = \"k\"\nsystems = [\"redis.cache\"]"), ["redis.cache"]);
    let qdrant = "[qdrant.main]\nurls = [\"http://one:6333\", \"http://two:6333\"]\napi_key = \"hunter2\"\n\
                  [backup]\nrepository = \"/b\"\nkey = \"k\"";
    let qdrant = parse(qdrant).unwrap().backup.unwrap().qdrant;
    assert_eq!((qdrant[0].name.as_str(), qdrant[0].nodes[1].address()), ("qdrant.main", "http://two:6333"));
    assert!(!format!("{qdrant:?}").contains("hunter2"));
    let chunks = "[postgres.main]\nurl = \"postgres://localhost/app\"\n[qdrant.main]\nurl = \"http://one:6333\"\n[qdrant.main.chunks]\n\
                  database = \"app\"\ncollection = \"docs\"\nids = \"SELECT id FROM public.chunks;\"\n\
                  [backup]\nrepository = \"/b\"\nkey = \"k\"";
    let chunks = parse(chunks).unwrap().backup.unwrap().qdrant.remove(0).chunks.unwrap();
    assert_eq!((chunks.postgres.as_str(), chunks.collection.as_str()), ("postgres.main", "docs"));
    assert_eq!(chunks.statements.chunks, "SELECT id FROM public.chunks", "it becomes a part of another statement");
    let files =
        parse("[backup]\nrepository = \"/b\"\nkey = \"k\"\nfiles = [\"/srv/docs\"]\nother_filesystems = true").unwrap();
    let files = files.backup.unwrap().files;
    assert_eq!((files.len(), files[0].name.as_str(), files[0].other_filesystems), (1, "files.srv-docs", true));
    let twice = "systems = [\"postgres.b\", \"postgres.b\"]";
    assert_eq!(names(&format!("key_command = \"pass backup\"\n{twice}")), ["postgres.b"]);
    let file = parse(&format!("{text}key_file = \"backup.key\"")).unwrap().backup.unwrap();
    assert!(matches!(&file.key, KeySource::File(path) if path == Path::new("backup.key")), "beside the configuration");
    assert_eq!(file.leave_free, 5 << 30);
    assert!(parse("").unwrap().backup.is_none());
    // A mistake in the Postgres is one mistake.
    let wrong =
        "[postgres.a]\nurl = \"mysql://x\"\n[backup]\nrepository = \"/b\"\nkey = \"k\"\nsystems = [\"postgres.a\"]\n";
    for more in [
        "",
        "[[backup.probe]]\nname = \"a\"\nsql = \"b\"",
        "[[backup.probe]]\nname = \"a\"\npostgres = \"a\"\nsql = \"b\"",
    ] {
        let message = problem(&format!("{wrong}{more}"));
        assert!(message.starts_with("groundskeeper.toml:2: `url` in [postgres.a]"), "{message}");
    }
}
