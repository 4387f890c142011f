//! Settings that are written, verified and put back, and every reason not to: on a live server.

use super::{DEADLINE, endpoint, is_at_least, reaching, role, seen};
use groundskeeper_core::remedy::setting::{Change, Parameter, SettingValue};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState, Undo, Verification};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::act::{ActError, apply, capture, is_under_way};
use groundskeeper_systems::postgres::grants::{Wish, grants};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::fs::File;
use std::future::pending;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

const PATIENCE: Duration = Duration::from_secs(30);

fn value(text: &str) -> SettingValue {
    text.try_into().unwrap()
}

fn set(setting: Parameter, from: &str, to: &str) -> Step {
    let system = SystemId::new(SystemKind::Postgres, "main");
    Step::AlterSystem { system, setting, from: value(from), to: Change::Set { value: value(to) } }
}

async fn run(at: &Endpoint, step: &Step) -> Result<(), ActError> {
    Box::pin(apply(at, &JournalledStep::recorded(1, step.clone()), PATIENCE, pending())).await
}

async fn state(at: &Endpoint, step: &Step) -> StepState {
    capture(at, step, DEADLINE).await.unwrap()
}

fn undo(step: &Step, before: &StepState) -> Step {
    let Undo::By(undo) = step.undo(before) else { panic!("{step:?}") };
    *undo
}

fn helped(step: &Step, before: &StepState, after: &StepState) -> String {
    let Verification::Helped(told) = step.verify(before, after) else { panic!("{before:?} {after:?}") };
    told
}

async fn lines(client: &Client) -> i64 {
    let sql = "SELECT count(*) FROM pg_file_settings WHERE sourcefile LIKE '%/postgresql.auto.conf'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn reload(client: &Client) {
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
}

/// Until a new session sees it.
async fn until(server: &PostgresServer, condition: &str) {
    let started = Instant::now();
    let sql = format!("SELECT EXISTS (SELECT FROM pg_settings WHERE {condition})");
    while !server.client().await.query_one(&sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(started.elapsed() < PATIENCE, "{condition}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A role with the printed grants and nothing else. Before 15 none are enough: only a superuser may.
async fn tuner(server: &PostgresServer) -> Endpoint {
    endpoint(&tuner_url(server).await)
}

async fn tuner_url(server: &PostgresServer) -> String {
    let url = role(server, "tuner", "").await;
    let script = grants("tuner", "postgres", &[Wish::ChangeSettings]);
    let client = server.client().await;
    client.batch_execute(&script).await.unwrap();
    if !is_at_least(server, 15, "the right to change a single setting") {
        client.batch_execute("ALTER ROLE tuner SUPERUSER").await.unwrap();
    }
    url
}

#[tokio::test]
async fn every_setting_on_the_list_is_known_and_may_be_changed_by_a_role_with_the_printed_grants() {
    let server = PostgresServer::start().await.unwrap();
    let (at, client) = (tuner(&server).await, server.client().await);
    for setting in Parameter::ALL {
        let sql = "SELECT context, setting FROM pg_settings WHERE name = $1";
        let row = client.query_one(sql, &[&setting.as_str()]).await.unwrap();
        assert_eq!(row.get::<_, String>(0) == "postmaster", setting.needs_restart(), "{setting}");
        let StepState::Setting { value: now, .. } = state(&at, &set(setting, "1", "1")).await else { panic!() };
        assert!(SettingValue::try_from(now.as_str()).is_ok(), "{setting} is {now}");
    }
    if server.major() >= 15 {
        let may = "SELECT has_parameter_privilege('tuner', 'fsync', 'ALTER SYSTEM')";
        assert!(!client.query_one(may, &[]).await.unwrap().get::<_, bool>(0));
    }

    let step = set(Parameter::WorkMem, "4MB", "7MB");
    let before = state(&at, &step).await;
    run(&at, &step).await.unwrap();
    let after = state(&at, &step).await;
    assert_eq!(helped(&step, &before, &after), "work_mem 4MB -> 7MB");
    until(&server, "name = 'work_mem' AND setting = '7168'").await;
    let error = run(&at, &step).await.unwrap_err();
    assert!(error.to_string().contains("it is 7MB by now, and was 4MB when this was planned"), "{error}");
    let back = undo(&step, &before);
    assert!(!back.has_nothing_to_undo(&after));
    run(&at, &back).await.unwrap();
    let undone = state(&at, &back).await;
    assert_eq!(helped(&back, &after, &undone), "work_mem 7MB -> 4MB");
    assert!(back.has_nothing_to_undo(&undone));
    run(&at, &back).await.unwrap();
    assert_eq!((undone, lines(&client).await), (before, 0), "once more does nothing");
}

#[tokio::test]
async fn what_takes_a_restart_is_written_waits_for_it_and_can_be_taken_back() {
    let mut server =
        PostgresServer::start_with(PostgresOptions::default().set("shared_buffers", "128MB")).await.unwrap();
    let url = tuner_url(&server).await;
    let (at, step) = (endpoint(&url), set(Parameter::SharedBuffers, "128MB", "32MB"));
    let before = state(&at, &step).await;
    run(&at, &step).await.unwrap();
    let after = state(&at, &step).await;
    assert_eq!(helped(&step, &before, &after), "written; the server runs with 128MB until it is restarted");
    let settings = seen(&url).await.settings.unwrap();
    assert_eq!(settings.written["shared_buffers"], "32MB");
    // Nothing else is changed while it waits.
    let error = run(&at, &set(Parameter::WorkMem, "4MB", "7MB")).await.unwrap_err();
    assert!(error.to_string().contains("another change of settings is not finished: shared_buffers"), "{error}");
    let back = undo(&step, &before);
    run(&at, &back).await.unwrap();
    until(&server, "name = 'shared_buffers' AND setting = '16384' AND NOT pending_restart").await;
    assert_eq!(lines(&server.client().await).await, 0);

    run(&at, &step).await.unwrap();
    server.stop().await.unwrap();
    server.start_again().await.unwrap();
    let after = state(&at, &step).await;
    assert_eq!(helped(&step, &before, &after), "shared_buffers 128MB -> 32MB");
}

#[tokio::test]
async fn a_changed_world_is_left_as_it_is() {
    let server = PostgresServer::start().await.unwrap();
    let (at, client) = (tuner(&server).await, server.client().await);
    let step = set(Parameter::RandomPageCost, "4", "1.1");
    let refused = async |step: &Step, word: &str| {
        let error = run(&at, step).await.unwrap_err();
        assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains(word)), "{word}: {error}");
    };
    refused(&set(Parameter::RandomPageCost, "4", "-1"), "-1 is not between 0 and").await;
    refused(&set(Parameter::WorkMem, "4MB", "1s"), "1s has a unit that the setting has not").await;
    refused(&set(Parameter::TrackIoTiming, "off", "lz4"), "lz4 is neither on nor off").await;
    refused(&set(Parameter::SharedBuffers, "16MB", "32MB"), "postgresql.conf, line").await;
    refused(&set(Parameter::RandomPageCost, "4", "4"), "it is 4 already").await;

    client.batch_execute("ALTER ROLE tuner SET random_page_cost = 2").await.unwrap();
    refused(&step, "our session has a value of its own (user)").await;
    client.batch_execute("ALTER ROLE tuner RESET random_page_cost").await.unwrap();

    // Somebody is in the middle of something: in the file, and not read.
    client.batch_execute("ALTER SYSTEM SET statement_timeout = '50min'").await.unwrap();
    refused(&step, "not finished: statement_timeout was written anew and not read yet").await;
    client.batch_execute("ALTER SYSTEM RESET statement_timeout").await.unwrap();
    client.batch_execute("ALTER SYSTEM SET deadlock_timeout = '7s'").await.unwrap();
    reload(&client).await;
    until(&server, "name = 'deadlock_timeout' AND setting = '7000'").await;
    client.batch_execute("ALTER SYSTEM RESET deadlock_timeout").await.unwrap();
    refused(&step, "deadlock_timeout is gone from the files and still in force").await;
    reload(&client).await;
    client.batch_execute("ALTER SYSTEM SET max_connections = 50").await.unwrap();
    reload(&client).await;
    until(&server, "name = 'max_connections' AND pending_restart").await;
    refused(&step, "max_connections").await;
    client.batch_execute("ALTER SYSTEM RESET max_connections").await.unwrap();
    reload(&client).await;
    until(&server, "name = 'max_connections' AND NOT pending_restart").await;

    let broken = server.data_dir().join("postgresql.conf");
    let text = std::fs::read_to_string(&broken).unwrap();
    std::fs::write(&broken, format!("{text}\nno such line at all\n")).unwrap();
    refused(&step, "syntax error").await;
    std::fs::write(&broken, text).unwrap();
    assert_eq!(lines(&client).await, 0, "none of it wrote anything");
    run(&at, &step).await.unwrap();
}

#[tokio::test]
async fn what_an_operator_keeps_is_left_alone() {
    let server = PostgresServer::start().await.unwrap();
    let (at, client, data) = (tuner(&server).await, server.client().await, server.data_dir());
    let version = client.query_one("SELECT current_setting('server_version_num')::int4", &[]).await.unwrap();
    // The switch that operators use from 17 on, and the file by which one of them is known.
    let (line, taken, who) = if version.get::<_, i32>(0) >= 170_000 {
        ("allow_alter_system = off", "name = 'allow_alter_system' AND setting = 'off'", "allow_alter_system = off")
    } else {
        ("include 'postgresql.base.conf'", "name = 'log_checkpoints' AND sourcefile LIKE '%.base.conf'", "Patroni")
    };
    let base = data.join("postgresql.base.conf");
    std::fs::write(&base, "log_checkpoints = on\n").unwrap();
    std::fs::set_permissions(&base, std::fs::Permissions::from_mode(0o644)).unwrap();
    let main = data.join("postgresql.conf");
    let text = std::fs::read_to_string(&main).unwrap();
    std::fs::write(&main, format!("{text}\n{line}\n")).unwrap();
    reload(&client).await;
    until(&server, taken).await;
    let error = run(&at, &set(Parameter::RandomPageCost, "4", "1.1")).await.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains(who)), "{error}");
}

#[tokio::test]
async fn an_undo_is_not_held_up_by_what_waits_for_a_restart() {
    let options = PostgresOptions::default().set("shared_buffers", "128MB");
    let server = PostgresServer::start_with(options).await.unwrap();
    let (at, client) = (tuner(&server).await, server.client().await);
    let (memory, buffers) = (set(Parameter::WorkMem, "4MB", "7MB"), set(Parameter::SharedBuffers, "128MB", "32MB"));
    let (of_memory, of_buffers) = (state(&at, &memory).await, state(&at, &buffers).await);
    run(&at, &memory).await.unwrap();
    run(&at, &buffers).await.unwrap();
    until(&server, "name = 'shared_buffers' AND pending_restart").await;

    let back = undo(&memory, &of_memory);
    let changed = state(&at, &back).await;
    run(&at, &back).await.unwrap();
    let undone = state(&at, &back).await;
    assert_eq!(helped(&back, &changed, &undone), "work_mem 7MB -> 4MB");
    until(&server, "name = 'shared_buffers' AND pending_restart").await;
    assert_eq!(lines(&client).await, 1, "what waits goes on waiting");

    // What a reload would take up does hold it up: the line is put back, and nothing is read.
    run(&at, &undo(&buffers, &of_buffers)).await.unwrap();
    until(&server, "name = 'shared_buffers' AND NOT pending_restart").await;
    run(&at, &memory).await.unwrap();
    client.batch_execute("ALTER SYSTEM SET statement_timeout = '50min'").await.unwrap();
    let error = run(&at, &back).await.unwrap_err();
    assert!(error.to_string().contains("statement_timeout was written anew and not read yet"), "{error}");
    until(&server, "name = 'work_mem' AND setting = '7168'").await;
    assert_eq!(lines(&client).await, 1, "only that of somebody else");
}

#[tokio::test]
async fn a_line_that_a_command_line_covers_holds_nothing_up() {
    let arguments = ["-c", "max_connections=50"].map(str::to_owned).to_vec();
    let options = PostgresOptions { arguments, ..PostgresOptions::default() };
    let server = PostgresServer::start_with(options).await.unwrap();
    let (at, client) = (tuner(&server).await, server.client().await);
    // As after any reload of a container: initdb wrote another number into the file.
    reload(&client).await;
    until(&server, "name = 'max_connections' AND source = 'command line' AND pending_restart").await;
    let wrong = "SELECT count(*) FROM pg_file_settings WHERE name = 'max_connections' AND error IS NOT NULL";
    assert_eq!(client.query_one(wrong, &[]).await.unwrap().get::<_, i64>(0), 1);

    let step = set(Parameter::RandomPageCost, "4", "1.1");
    let before = state(&at, &step).await;
    run(&at, &step).await.unwrap();
    let after = state(&at, &step).await;
    assert_eq!(helped(&step, &before, &after), "random_page_cost 4 -> 1.1");
    let back = undo(&step, &before);
    run(&at, &back).await.unwrap();
    assert_eq!(helped(&back, &after, &state(&at, &back).await), "random_page_cost 1.1 -> 4");
}

/// The key of the keepers' lock.
const LOCK: &str = "1196575571";

#[tokio::test]
async fn who_is_about_to_change_a_setting_is_seen_from_every_database() {
    let server = PostgresServer::start().await.unwrap();
    let (at, client) = (tuner(&server).await, server.client().await);
    let step = set(Parameter::RandomPageCost, "4", "1.1");
    let before = state(&at, &step).await;
    run(&at, &step).await.unwrap();
    let back = undo(&step, &before);
    assert!(!is_under_way(&at, &back, DEADLINE).await.unwrap(), "we are through with it");

    let other = server.client_at(&server.url_for("postgres", server.password(), "template1")).await;
    other.batch_execute(&format!("SELECT pg_advisory_lock({LOCK})")).await.unwrap();
    assert!(is_under_way(&at, &back, DEADLINE).await.unwrap());
    let error = run(&at, &set(Parameter::WorkMem, "4MB", "7MB")).await.unwrap_err();
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains("another keeper")), "{error}");
    let error = run(&at, &back).await.unwrap_err();
    assert!(error.to_string().contains("another keeper"), "{error}");
    assert!(matches!(&error, ActError::Failed { retryable: true, .. }), "the undo stays open: {error:?}");
    assert_eq!(lines(&client).await, 1, "nothing was written");

    other.batch_execute(&format!("SELECT pg_advisory_unlock({LOCK})")).await.unwrap();
    run(&at, &back).await.unwrap();
    assert_eq!(lines(&client).await, 0);
}

/// Takes start-up options and drops them, as a pooler does that is told to ignore them.
async fn forgetful_pooler(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut startup = [0; 1024];
            let count = client.read(&mut startup).await.unwrap();
            // After the length and the version: names and values, each with a zero at its end.
            let words: Vec<&[u8]> = startup[8..count].split(|byte| *byte == 0).collect();
            let mut body = startup[4..8].to_vec();
            for pair in words.chunks_exact(2).filter(|pair| !pair[0].is_empty() && pair[0] != b"options") {
                for word in pair {
                    body.extend_from_slice(word);
                    body.push(0);
                }
            }
            body.push(0);
            let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
            let mut server = TcpStream::connect(to).await.unwrap();
            server.write_all(&[&length[..], &body[..]].concat()).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn behind_a_pooler_nothing_is_changed_for_its_session_would_keep_our_lock() {
    let server = PostgresServer::start().await.unwrap();
    let (url, client) = (tuner_url(&server).await, server.client().await);
    let to = SocketAddr::from(([127, 0, 0, 1], server.port()));
    for pooler in [forgetful_pooler(to).await, reaching::pooler(to).await] {
        let at = endpoint(&format!("{}?sslmode=disable", url.replace(&to.to_string(), &pooler.to_string())));
        let step = set(Parameter::RandomPageCost, "4", "1.1");
        state(&at, &step).await;
        let error = run(&at, &step).await.unwrap_err();
        assert!(matches!(&error, ActError::Failed { retryable: false, .. }), "{error:?}");
        assert!(error.to_string().contains("a pooler in between gives us no session of our own"), "{error}");
    }
    assert_eq!(lines(&client).await, 0);
}

/// Nothing else is changed meanwhile.
async fn a_changed_file_that_another_includes_is_seen(server: &PostgresServer, at: &Endpoint) {
    let hba = server.data_dir().join("pg_hba.conf");
    let text = std::fs::read_to_string(&hba).unwrap();
    let included = server.data_dir().join("more.conf");
    std::fs::write(&included, "host none none 192.0.2.1/32 reject\n").unwrap();
    std::fs::set_permissions(&included, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&hba, format!("{text}include more.conf\n")).unwrap();
    // Files have the time in seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let client = server.client().await;
    let began: String = client.query_one("SELECT clock_timestamp()::text", &[]).await.unwrap().get(0);
    reload(&client).await;
    until(server, &format!("pg_conf_load_time() >= '{began}'")).await;
    let step = set(Parameter::WorkMem, "4MB", "7MB");
    let before = state(at, &step).await;
    run(at, &step).await.unwrap();
    run(at, &undo(&step, &before)).await.unwrap();
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    File::options().append(true).open(&included).unwrap().set_modified(changed).unwrap();
    let error = run(at, &step).await.unwrap_err();
    assert!(error.to_string().contains("more.conf was changed and not read yet"), "{error}");
}

#[tokio::test]
async fn a_changed_file_of_access_is_not_read_unseen() {
    let server = PostgresServer::start().await.unwrap();
    let (url, client) = (tuner_url(&server).await, server.client().await);
    let (at, step) = (endpoint(&url), set(Parameter::RandomPageCost, "4", "1.1"));
    let before = state(&at, &step).await;
    run(&at, &step).await.unwrap();
    assert_eq!(seen(&url).await.settings.unwrap().hidden_files, [""; 0]);

    // Of another year, so that no clock matters.
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let file = File::options().append(true).open(server.data_dir().join("pg_hba.conf")).unwrap();
    file.set_modified(changed).unwrap();
    let error = run(&at, &set(Parameter::WorkMem, "4MB", "7MB")).await.unwrap_err();
    let why = "pg_hba.conf was changed and not read yet";
    assert!(matches!(&error, ActError::Precondition { reason, .. } if reason.contains(why)), "{error}");
    let error = run(&at, &undo(&step, &before)).await.unwrap_err();
    assert!(error.to_string().contains(why), "{error}");
    assert_eq!(lines(&client).await, 0, "the line is put back, and nothing was read");
    until(&server, "name = 'random_page_cost' AND setting = '1.1'").await;

    if !is_at_least(&server, 15, "the right to change a single setting") {
        return;
    }
    if server.major() >= 16 {
        a_changed_file_that_another_includes_is_seen(&server, &at).await;
        // What the server cannot read itself, a reload does not take up.
        let ident = server.data_dir().join("pg_ident.conf");
        std::fs::set_permissions(&ident, std::fs::Permissions::from_mode(0o000)).unwrap();
        let unread = client.query("SELECT FROM pg_ident_file_mappings", &[]).await.unwrap_err();
        assert_eq!(unread.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
        assert_eq!(seen(&url).await.settings.unwrap().hidden_files, [""; 0]);
        std::fs::set_permissions(&ident, std::fs::Permissions::from_mode(0o600)).unwrap();
        client.batch_execute("REVOKE SELECT ON pg_ident_file_mappings FROM tuner").await.unwrap();
        assert_eq!(seen(&url).await.settings.unwrap().hidden_files, ["what hba_file includes"]);
    }
    client.batch_execute("REVOKE EXECUTE ON FUNCTION pg_stat_file(text, boolean) FROM tuner").await.unwrap();
    assert_eq!(seen(&url).await.settings.unwrap().hidden_files[..2], ["hba_file", "ident_file"]);
    // Whoever may not see all settings cannot tell what a reload would do.
    client.batch_execute("REVOKE pg_read_all_settings FROM tuner").await.unwrap();
    let error = run(&at, &set(Parameter::WorkMem, "4MB", "7MB")).await.unwrap_err();
    assert!(matches!(&error, ActError::Denied { fix, .. } if fix.contains("GRANT pg_read_all_settings")), "{error}");
}
