//! Settings that are written, verified and put back, and every reason not to: on a live server.

use super::{DEADLINE, endpoint, role};
use groundskeeper_core::remedy::setting::{Change, Parameter, SettingValue};
use groundskeeper_core::remedy::{JournalledStep, Step, StepState, Undo, Verification};
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_systems::postgres::Endpoint;
use groundskeeper_systems::postgres::act::{ActError, apply, capture};
use groundskeeper_systems::postgres::grants::{Wish, grants};
use groundskeeper_testing::{PostgresOptions, PostgresServer};
use std::future::pending;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

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

/// A role with the printed grants and nothing else.
async fn tuner(server: &PostgresServer) -> Endpoint {
    let url = role(server, "tuner", "").await;
    let script = grants("tuner", "postgres", &[Wish::ChangeSettings]);
    server.client().await.batch_execute(&script).await.unwrap();
    endpoint(&url)
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
    let may = "SELECT has_parameter_privilege('tuner', 'fsync', 'ALTER SYSTEM')";
    assert!(!client.query_one(may, &[]).await.unwrap().get::<_, bool>(0));

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
    let (at, step) = (tuner(&server).await, set(Parameter::SharedBuffers, "128MB", "32MB"));
    let before = state(&at, &step).await;
    run(&at, &step).await.unwrap();
    let after = state(&at, &step).await;
    assert_eq!(helped(&step, &before, &after), "written; the server runs with 128MB until it is restarted");
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
