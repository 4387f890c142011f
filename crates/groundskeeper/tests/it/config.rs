//! The configuration: every mistake gets one clear sentence, and no secret gets out.

use groundskeeper::config::{self, ConfigError, Environment, Settings, WebhookForm};
use groundskeeper_backup::proof::Probe;
use groundskeeper_backup::proof::probe::{Question, Wanted};
use groundskeeper_backup::vault::KeySource;
use groundskeeper_core::check::catalogue;
use groundskeeper_core::policy::Autonomy;
use groundskeeper_core::{Severity, SystemId, SystemKind, Unit};
use rstest::rstest;
use secrecy::ExposeSecret;
use std::path::Path;
use std::time::Duration;

fn parse_with(text: &str, environment: &Environment) -> Result<Settings, ConfigError> {
    config::parse(text, Path::new("groundskeeper.toml"), environment)
}

fn parse(text: &str) -> Result<Settings, ConfigError> {
    parse_with(text, &Environment::of([("HOME", "/home/ann")]))
}

/// The whole message, which must be about one problem.
fn problem(text: &str) -> String {
    let error = parse(text).expect_err("this must be refused");
    assert_eq!(error.problems().len(), 1, "{error}");
    error.to_string()
}

#[rstest]
#[case::unknown_key(
    "\n[postgres.main]\nurl = \"postgres://localhost/app\"\ndeadlin = \"5s\"",
    "groundskeeper.toml:4: unknown key `deadlin` in [postgres.main]; did you mean `deadline`?"
)]
#[case::unknown_key_without_a_neighbour(
    "[postgres.main]\nurl = \"postgres://localhost/app\"\nmax_conections = 5",
    "groundskeeper.toml:3: unknown key `max_conections` in [postgres.main]; known here: deadline, url, password, password_file"
)]
#[case::unknown_key_at_the_top(
    "autonmy = \"auto\"",
    "groundskeeper.toml:1: unknown key `autonmy`; did you mean `autonomy`?"
)]
#[case::unknown_section(
    "[postgre.main]\nurl = \"postgres://localhost/app\"",
    "groundskeeper.toml:1: unknown section [postgre]; did you mean `postgres`?"
)]
#[case::section_of_a_later_version(
    "[prometheus.main]\nurl = \"http://localhost:9090\"",
    "groundskeeper.toml:1: [prometheus] is not available in this version yet; remove this section"
)]
#[case::instance_without_a_name(
    "[redis]\nurl = \"redis://localhost\"",
    "groundskeeper.toml:2: [redis] needs a name of its own; write [redis.main]"
)]
#[case::missing_url(
    "[redis.cache]",
    "groundskeeper.toml:1: [redis.cache] needs `url`, such as url = \"redis://localhost:6379\""
)]
#[case::wrong_type(
    "[redis.cache]\nurl = \"redis://localhost\"\ndeadline = 5",
    "groundskeeper.toml:3: `deadline` in [redis.cache] must be a duration in quotes, such as \"30s\", not the number 5"
)]
#[case::bad_duration(
    "[redis.cache]\nurl = \"redis://localhost\"\ndeadline = \"soon\"",
    "groundskeeper.toml:3: `deadline` in [redis.cache]: `soon` is no duration (a number and a unit are needed); write for example \"30s\", \"5m\", \"1h30m\" or \"7d\""
)]
#[case::bad_window(
    "[maintenance]\nwindows = [\n  \"daily 01:00-04:00\",\n  \"Sonntag 02:00-05:00\",\n]",
    "groundskeeper.toml:4: `Sonntag 02:00-05:00` is no maintenance window (the day is not known); write for example `Sun 02:00-05:00`, `Mon-Fri 22:00-02:00` or `daily 01:00-04:00`"
)]
#[case::bad_zone(
    "timezone = \"Europe/Berln\"",
    "groundskeeper.toml:1: `timezone`: there is no time zone `Europe/Berln`; did you mean `Europe/Berlin`?"
)]
#[case::bad_autonomy(
    "autonomy = \"full\"",
    "groundskeeper.toml:1: `autonomy`: `full` is not one of \"observe\", \"assist\", \"auto\""
)]
#[case::cron_that_never_comes(
    "[tasks.backup]\ncron = \"0 1 30 2 *\"",
    "groundskeeper.toml:2: `cron` in [tasks.backup]: `0 1 30 2 *` does not come round within the next five years; write for example \"0 9 * * *\" (daily at nine) or \"0 2 * * SUN\""
)]
#[case::two_schedules(
    "[tasks.backup]\ncron = \"0 1 * * *\"\nevery = \"1h\"",
    "groundskeeper.toml:1: [tasks.backup] has both `every` and `cron`; keep one"
)]
#[case::unknown_task(
    "[tasks.dayly-health]",
    "groundskeeper.toml:1: there is no task `dayly-health`; did you mean `daily-health`?"
)]
#[case::unknown_check(
    "[checks.\"redis.hit_rate_lo\"]",
    "groundskeeper.toml:1: there is no check `redis.hit_rate_lo`; did you mean `redis.hit_rate_low`?"
)]
#[case::check_without_quotes(
    "[checks.redis.hit_rate_low]\nwarning = 50",
    "groundskeeper.toml:1: a check's id holds a dot and must be in quotes; write [checks.\"redis.unreachable\"]"
)]
#[case::page_for_everyone(
    "[web]\nlisten = \"0.0.0.0:7070\"",
    "groundskeeper.toml:2: `listen` in [web]: `0.0.0.0:7070` could be reached from other machines, and that is refused until authentication exists; listen on 127.0.0.1 and reach the page through an SSH tunnel (`ssh -L 7070:127.0.0.1:7070 HOST`)"
)]
#[case::page_without_a_port(
    "[web]\nlisten = \"localhost\"",
    "groundskeeper.toml:2: `listen` in [web]: `localhost` is no address with a port; write for example \"127.0.0.1:7070\", or \"off\""
)]
#[case::channels_of_the_same_name(
    "[notify.webhook.team]\nurl = \"https://a.example\"\n[notify.email.team]\nserver = \"smtp://localhost:25\"\nfrom = \"a@example.com\"\nto = [\"b@example.com\"]",
    "groundskeeper.toml:3: [notify.email.team] and [notify.webhook.team] have the same name; give each channel its own, so that `groundskeeper notify test team` means one"
)]
#[case::no_recipient(
    "[notify.email.team]\nserver = \"smtp://localhost:25\"\nfrom = \"a@example.com\"\nto = []",
    "groundskeeper.toml:1: [notify.email.team] needs `to`, such as to = [\"oncall@example.com\"]"
)]
#[case::bad_severity(
    "[notify.webhook.team]\nurl = \"https://a.example\"\nminimum_severity = \"high\"",
    "groundskeeper.toml:3: `minimum_severity` in [notify.webhook.team]: `high` is no severity; use info, warning or critical"
)]
#[case::bad_format(
    "[notify.webhook.team]\nurl = \"https://a.example\"\nformat = \"slak\"",
    "groundskeeper.toml:3: `format` in [notify.webhook.team]: `slak` is not \"json\" or \"slack\"; did you mean `slack`?"
)]
#[case::webhook_that_is_no_address(
    "[notify.webhook.team]\nurl = \"hooks.example.com/secret-token\"",
    "groundskeeper.toml:2: `url` in [notify.webhook.team] must be a whole address that begins with http:// or https://"
)]
#[case::unset_variable(
    "[redis.cache]\nurl = \"${REDIS_URL}\"",
    "groundskeeper.toml:2: `url` in [redis.cache]: the environment variable REDIS_URL is not set; set it, or write `${REDIS_URL:-default}`"
)]
#[case::two_passwords(
    "[redis.cache]\nurl = \"redis://localhost\"\npassword = \"a\"\npassword_file = \"b\"",
    "groundskeeper.toml:4: [redis.cache] has both `password` and `password_file`; keep one"
)]
#[case::missing_password_file(
    "[redis.cache]\nurl = \"redis://localhost\"\npassword_file = \"/no/such/file\"",
    "groundskeeper.toml:3: `password_file` in [redis.cache]: cannot read the password file /no/such/file: there is no such file"
)]
#[case::relative_log_folder(
    "[logs.api]\nfolder = \"logs\"",
    "groundskeeper.toml:2: `folder` in [logs.api]: `logs` must be a whole path such as \"/var/log/nginx\""
)]
#[case::number_out_of_range(
    "[policy]\nroutine_per_hour = 0",
    "groundskeeper.toml:2: `routine_per_hour` in [policy] must be a whole number above zero, not the number 0"
)]
#[case::status_that_is_none(
    "[http.api]\nurl = \"http://localhost/\"\nexpect_status = [2000]",
    "groundskeeper.toml:3: `expect_status` in [http.api] must be a list of HTTP status codes, such as [200], not a list"
)]
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
fn each_mistake_gets_one_clear_sentence(#[case] text: &str, #[case] expected: &str) {
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
fn text_that_is_no_toml_is_reported_with_its_line() {
    let message = problem("autonomy = \"observe\"\ntimezone = UTC\n");
    assert!(message.starts_with("groundskeeper.toml:2: this is not TOML: "), "{message}");
    let message = problem("[redis.a]\nurl = \"redis://x\"\n[redis.a]\nurl = \"redis://y\"\n");
    assert!(message.starts_with("groundskeeper.toml:3: this is not TOML: duplicate key"), "{message}");
}

#[test]
fn a_cron_line_that_is_none_names_the_cause_and_an_example() {
    let message = problem("[tasks.backup]\ncron = \"at noon\"");
    assert!(
        message.starts_with("groundskeeper.toml:2: `cron` in [tasks.backup]: `at noon` is no cron line: "),
        "{message}"
    );
    assert!(message.ends_with("write for example \"0 9 * * *\" (daily at nine) or \"0 2 * * SUN\""), "{message}");
}

#[test]
fn several_mistakes_are_reported_together_in_the_order_of_the_file() {
    let error = parse("autonomy = \"full\"\n[web]\nlisten = \"x\"\n[tasks.bakup]\n").unwrap_err();
    let lines: Vec<_> = error.problems().iter().map(|problem| problem.line).collect();
    assert_eq!(lines, [Some(1), Some(3), Some(4)]);
    assert_eq!(error.to_string().lines().count(), 3);
}

/// A check with a warning and a critical threshold where higher is worse, or lower.
fn graded(higher_is_worse: bool) -> (&'static str, f64, f64) {
    let limit = |check: &groundskeeper_core::Check, name: &str| {
        check.thresholds.iter().find(|threshold| threshold.name == name).map(|threshold| threshold.default)
    };
    catalogue::CHECKS
        .iter()
        .filter_map(|check| Some((check.id, limit(check, "warning")?, limit(check, "critical")?)))
        .find(|(_, warning, critical)| if higher_is_worse { warning < critical } else { warning > critical })
        .expect("the catalogue has such a check")
}

#[test]
fn a_warning_beyond_the_critical_limit_is_refused_in_the_direction_of_the_check() {
    let (id, _, critical) = graded(true);
    let message = problem(&format!("[checks.\"{id}\"]\nwarning = {}", critical + 1.0));
    let low = critical + 1.0;
    assert_eq!(
        message,
        format!(
            "groundskeeper.toml:2: {id}: `warning` ({low}) lies above `critical` ({critical}), and higher is worse, so it \
             would never be seen; exchange them"
        )
    );
    let (id, warning, _) = graded(false);
    let message = problem(&format!("[checks.\"{id}\"]\ncritical = {}", warning + 1.0));
    assert!(message.contains(&format!("`warning` ({warning}) lies below `critical`")), "{message}");
    assert!(parse(&format!("[checks.\"{id}\"]\nwarning = {}\ncritical = {warning}", warning + 1.0)).is_ok());
}

#[test]
fn an_unknown_threshold_names_the_nearest() {
    let (id, ..) = graded(true);
    let message = problem(&format!("[checks.\"{id}\"]\nwarnign = 1"));
    assert_eq!(message, format!("groundskeeper.toml:2: {id} has no threshold `warnign`; did you mean `warning`?"));
}

#[test]
fn a_threshold_in_seconds_may_be_written_as_a_duration() {
    let in_seconds = |check: &&&groundskeeper_core::Check| {
        check.thresholds.iter().any(|threshold| threshold.unit == Unit::Seconds && threshold.name == "warning")
    };
    let check = catalogue::CHECKS.iter().find(in_seconds).expect("the catalogue has such a check");
    let text = format!("[checks.\"{}\"]\nwarning = \"1ms\"\nfor = \"0s\"\nclear_after = \"5m\"", check.id);
    let settings = parse(&text).unwrap();
    let hold = settings.tuning.hold(check);
    assert_eq!((hold.open_after, hold.clear_after), (0.0, 300.0));
    assert!(parse(&format!("[checks.\"{}\"]\nenabled = false", check.id)).unwrap().tuning.is_disabled(check.id));
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let settings = parse("").unwrap();
    assert_eq!(settings.policy.autonomy, Autonomy::Observe);
    assert_eq!(settings.policy.windows.iter().map(ToString::to_string).collect::<Vec<_>>(), ["Sun 02:00-05:00"]);
    assert_eq!(settings.zone_name, "UTC");
    assert_eq!(settings.web.listen, Some(([127, 0, 0, 1], 7070).into()));
    assert_eq!(settings.web.probes, None);
    assert_eq!(settings.notify.repeat, Duration::from_hours(4));
    assert!(settings.systems.is_empty() && settings.heartbeat.is_none() && settings.tasks.is_empty());
}

const EVERYTHING: &str = include_str!("everything.toml");

fn everything() -> Settings {
    let environment = Environment::of([
        ("DATABASE_URL", "postgresql+asyncpg://ann:hunter2@db.example/app"),
        ("API_TOKEN", "hunter2"),
        ("HOOK", "hunter2"),
        ("PINGS", "hunter2"),
        ("SMTP_PASSWORD", "hunter2"),
        ("REDIS_PASSWORD", "hunter2"),
        ("BACKUP_KEY", "hunter2"),
        ("S3_SECRET", "hunter2"),
    ]);
    parse_with(EVERYTHING, &environment).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_file_with_everything_loads() {
    let settings = everything();
    let ids: Vec<String> = settings.systems.iter().map(|system| system.id.to_string()).collect();
    assert_eq!(
        ids,
        ["postgres.main", "postgres.reporting", "redis.cache", "http.api", "host.local", "logs.api", "backup.main"]
    );
    assert_eq!(settings.systems[1].deadline, Duration::from_secs(3));
    assert_eq!(settings.systems[2].id, SystemId::new(SystemKind::Redis, "cache"));
    assert_eq!(settings.systems[2].deadline, Duration::from_secs(5));
    assert_eq!(settings.policy.autonomy, Autonomy::Assist);
    assert_eq!(settings.policy.corrective_per_hour, 7);
    assert_eq!(settings.policy.never_end, ["billing", "etl"]);
    assert!((settings.policy.approval_seconds - 1800.0).abs() < f64::EPSILON);
    assert_eq!(settings.policy.zone.iana_name(), Some("Europe/Berlin"));
    assert_eq!(settings.policy.windows.len(), 2);
    assert_eq!(settings.tasks["daily-health"].cron.as_deref(), Some("30 8 * * *"));
    assert_eq!(settings.tasks["watch"].every, Some(Duration::from_secs(15)));
    assert_eq!(settings.tasks["backup"].enabled, Some(false));
    let backup = settings.backup.unwrap();
    assert_eq!((backup.place.to_string().as_str(), backup.place.folder()), ("s3://backups/keeper", None));
    assert!(matches!(&backup.key, KeySource::Given(key) if key.expose_secret() == "hunter2"));
    assert_eq!(backup.postgres.len(), 1);
    assert_eq!(backup.postgres[0].system, SystemId::new(SystemKind::Postgres, "main"));
    assert_eq!((backup.scratch.as_path(), backup.leave_free), (Path::new("/srv/scratch"), 20_000_000_000));
    assert_eq!((backup.programs.len(), backup.run_as.as_str()), (1, "pg"));
    let kept = "the last 5, 24 hourly, 14 daily, 8 weekly, 12 monthly, 3 yearly, all within 72h";
    assert_eq!(settings.keep.retention.keep.to_string(), kept);
    assert_eq!((settings.keep.apply, settings.keep.retention.zone.iana_name()), (true, Some("Europe/Berlin")));
    let wal = backup.wal.as_ref().unwrap();
    assert_eq!((wal.keep, wal.give_up), (2 << 30, false));
    let [documents, tickets, flag, api] = backup.probes.as_slice() else { panic!("{:?}", backup.probes) };
    assert_eq!((documents.system.as_str(), documents.database.as_str()), ("postgres.main", "app"));
    assert_eq!((documents.user.as_deref(), documents.timeout), (None, Duration::from_secs(30)));
    let wanted = |probe: &Probe| match &probe.question {
        Question::Sql { wanted, .. } => wanted.clone(),
        Question::Service(_) => panic!("{probe:?}"),
    };
    assert_eq!(wanted(documents), Wanted::AtLeast(1000.0));
    assert_eq!(wanted(tickets), Wanted::Equal("open".to_owned()));
    assert_eq!((tickets.database.as_str(), tickets.timeout), ("tickets", Duration::from_mins(5)));
    assert_eq!((wanted(flag), flag.user.as_deref()), (Wanted::Something, Some("app")));
    let Question::Service(service) = &api.question else { panic!("{api:?}") };
    assert_eq!((service.program.as_path(), service.arguments.len()), (Path::new("/opt/app/bin/app"), 2));
    assert_eq!((service.url.as_str(), service.status), ("http://localhost:{port}/health", 204));
    assert_eq!((service.contains.as_deref(), api.timeout), (Some("ok"), Duration::from_mins(1)));
    let webhook = &settings.notify.webhooks[0];
    assert_eq!((webhook.form, webhook.minimum), (WebhookForm::Slack, Severity::Critical));
    assert_eq!(webhook.url.expose_secret(), "https://hooks.example.com/hunter2");
    assert_eq!(webhook.headers[0].1.expose_secret(), "Bearer hunter2");
    assert_eq!(settings.notify.emails[0].to.len(), 2);
    assert_eq!(settings.heartbeat.map(|beat| beat.every), Some(Duration::from_mins(2)));
    assert_eq!(settings.web.listen, None);
    assert_eq!(settings.web.probes, Some(([0, 0, 0, 0], 7071).into()));
}

#[test]
fn no_secret_shows_in_a_debug() {
    let shown = format!("{:?}", everything());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[rstest]
#[case::postgres("[postgres.main]\nurl = \"postgres://ann:hunter2@:bad:port/x\"")]
#[case::redis("[redis.main]\nurl = \"redis://:hunter2@:bad:port/x\"")]
#[case::http("[http.main]\nurl = \"http://ann:hunter2@:bad:port/x\"")]
#[case::another_scheme("[postgres.main]\nurl = \"mysql://ann:hunter2@localhost/x\"")]
#[case::mail_server("[notify.email.a]\nserver = \"smtps://ann:hunter2@host\"\nfrom=\"a@b.c\"\nto=[\"a@b.c\"]")]
#[case::wrong_type("[redis.main]\nurl = [\"redis://:hunter2@localhost\"]")]
fn no_secret_shows_in_an_error(#[case] text: &str) {
    let error = parse(text).expect_err("this must be refused");
    assert!(!error.to_string().contains("hunter2") && !format!("{error:?}").contains("hunter2"), "{error}");
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

#[test]
fn an_address_alone_makes_settings() {
    let settings = config::for_url("postgres://ann:hunter2@localhost/app").unwrap();
    assert_eq!(settings.systems.len(), 1);
    assert_eq!(settings.systems[0].id.kind, SystemKind::Postgres);
    assert!(!format!("{settings:?}").contains("hunter2"));
    for (url, kind) in [
        ("rediss://localhost", SystemKind::Redis),
        ("https://localhost/", SystemKind::Http),
        ("host:", SystemKind::Host),
        ("/tmp", SystemKind::Logs),
    ] {
        assert_eq!(config::for_url(url).unwrap().systems[0].id.kind, kind, "{url}");
    }
}

#[test]
fn an_address_that_cannot_be_used_names_the_forms() {
    let message = config::for_url("postgress://ann:hunter2@localhost").unwrap_err().to_string();
    assert_eq!(
        message,
        "this address cannot be used: `postgress://` is not known; did you mean `postgres`?; write postgres://…, \
         redis://…, http://…, https://…, `host:` or the path of a log folder"
    );
    let message = config::for_url("/no/such/folder").unwrap_err().to_string();
    assert!(message.contains("there is no folder `/no/such/folder`"), "{message}");
}

#[test]
fn a_password_file_is_found_beside_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("secret"), "hunter2\n").unwrap();
    let file = folder.path().join("groundskeeper.toml");
    std::fs::write(&file, "[redis.cache]\nurl = \"redis://localhost\"\npassword_file = \"secret\"\n").unwrap();
    let settings = config::load(Some(&file)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(settings.file, Some(file));
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn a_file_that_is_not_there_names_the_next_step() {
    let error = config::load(Some(Path::new("/no/such/groundskeeper.toml"))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "/no/such/groundskeeper.toml: the configuration cannot be read: there is no such file; `groundskeeper init` \
         writes one"
    );
}
