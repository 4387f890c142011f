//! The configuration: every mistake gets one clear sentence, and no secret gets out.

mod backup;

use groundskeeper::config::{self, ConfigError, Endpoint, Environment, Settings, WebhookForm};
use groundskeeper_backup::proof::Probe;
use groundskeeper_backup::proof::probe::{Question, Wanted};
use groundskeeper_backup::vault::KeySource;
use groundskeeper_core::check::catalogue;
use groundskeeper_core::observation::Storage;
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
    "groundskeeper.toml:3: unknown key `max_conections` in [postgres.main]; known here: deadline, url, password, password_file, disk, trusted_owners, retention, machine"
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
#[case::rule_without_a_time(
    "[postgres.main]\nurl = \"postgres://a@b/c\"\n[[postgres.main.retention]]\ntable = \"t\"\ncolumn = \"c\"",
    "groundskeeper.toml:3: [postgres.main.retention] needs `keep`, such as keep = \"30d\""
)]
#[case::rule_that_exports_to_nowhere(
    "[postgres.main]\nurl = \"postgres://a@b/c\"\n[[postgres.main.retention]]\ntable = \"t\"\ncolumn = \"c\"\nkeep = \"1d\"\nexport = true",
    "groundskeeper.toml:3: `export` in [postgres.main.retention] needs a repository to export to; add [backup] with `repository` and `key_file`"
)]
#[case::rule_without_a_column(
    "[postgres.main]\nurl = \"postgres://a@b/c\"\n[[postgres.main.retention]]\ntable = \"t\"\nkeep = \"1d\"",
    "groundskeeper.toml:3: [postgres.main.retention] needs `column`, such as column = \"expires_at\""
)]
#[case::status_that_is_none(
    "[http.api]\nurl = \"http://localhost/\"\nexpect_status = [2000]",
    "groundskeeper.toml:3: `expect_status` in [http.api] must be a list of HTTP status codes, such as [200], not a list"
)]
fn each_mistake_gets_one_clear_sentence(#[case] text: &str, #[case] expected: &str) {
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
    let Endpoint::Postgres(reporting) = &settings.systems[1].endpoint else { panic!("{:?}", settings.systems[1]) };
    assert_eq!(reporting.disk(), Some(100 << 30));
    let rules: Vec<String> = settings
        .expiry
        .iter()
        .map(|(id, rule)| {
            let export = if rule.export { " exported" } else { "" };
            format!("{id} {} {}.{} {} {}{export}", rule.database, rule.schema, rule.table, rule.column, rule.keep)
        })
        .collect();
    assert_eq!(
        rules,
        [
            "postgres.reporting app public.user_sessions expires_at 2592000",
            "postgres.reporting audit trail.audit_logs made_at 7776000 exported"
        ]
    );
    let machine = settings.systems[1].machine.as_ref().unwrap();
    assert_eq!((machine.memory, machine.cores, machine.storage), (Some(8 << 30), Some(4), Some(Storage::Ssd)));
    assert_eq!(settings.systems[0].machine, None);
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
