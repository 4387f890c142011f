//! What can be said at all, every reason to leave a setting alone, and when a change has taken.

use super::*;
use crate::observation::Setting;
use crate::remedy::{Step, Undo};
use crate::system::{SystemId, SystemKind};
use rstest::rstest;

fn value(text: &str) -> SettingValue {
    text.try_into().unwrap()
}

fn to(text: &str) -> Change {
    Change::Set { value: value(text) }
}

fn put_back(line: Option<&str>) -> Change {
    Change::PutBack { line: line.map(value) }
}

/// `random_page_cost` at its default, with nothing in any file.
fn ground() -> Ground {
    Ground {
        setting: Setting {
            name: "random_page_cost".into(),
            value: "4".into(),
            unit: None,
            source: "default".into(),
            context: "user".into(),
            boot: Some("4".into()),
            file: None,
            line: None,
            pending_restart: false,
        },
        limits: Limits {
            kind: "real".into(),
            least: Some("0".into()),
            most: Some("1.79769e+308".into()),
            words: Vec::new(),
        },
        lines: Vec::new(),
        by_reload: Vec::new(),
        by_restart: Vec::new(),
        data_directory: Some("/var/lib/pg".into()),
        keeper: None,
    }
}

fn line(file: &str, value: &str) -> Line {
    Line { file: file.into(), line: Some(3), value: value.into(), error: None }
}

const AUTO: &str = "/pg/postgresql.auto.conf";

/// The same with a value that a file gave it.
fn from_file(file: &str, value: &str) -> Ground {
    let mut ground = ground();
    ground.setting.source = "configuration file".into();
    ground.setting.value = value.into();
    ground.setting.file = Some(file.into());
    ground.setting.line = Some(3);
    ground.lines.push(line(file, value));
    ground
}

fn refusal(ground: &Ground, change: &Change) -> Option<String> {
    ground.refusal(Parameter::RandomPageCost, &value("4"), change)
}

/// A step out of a journal in which somebody has written another name.
fn renamed(name: &str) -> Result<Step, serde_json::Error> {
    let mut text = serde_json::to_value(step(Parameter::RandomPageCost, to("8MB"))).unwrap();
    text["setting"] = name.into();
    serde_json::from_value(text)
}

#[test]
fn no_step_can_name_what_is_not_on_the_list() {
    for name in [
        "shared_preload_libraries",
        "listen_addresses",
        "password_encryption",
        "ssl",
        "hba_file",
        "data_directory",
        "archive_command",
        "restore_command",
        "fsync",
        "full_page_writes",
        "synchronous_commit",
        "wal_level",
        "max_connections",
        "max_worker_processes",
        "max_wal_senders",
        "max_prepared_transactions",
        "max_locks_per_transaction",
        "max_slot_wal_keep_size",
        "autovacuum",
    ] {
        assert!(Parameter::find(name).is_err(), "{name}");
        assert!(renamed(name).is_err(), "{name}");
    }
    assert_eq!(renamed("work_mem").unwrap(), step(Parameter::WorkMem, to("8MB")));
    for setting in Parameter::ALL {
        assert_eq!(Parameter::find(setting.as_str()), Ok(setting));
        assert_eq!(serde_json::to_value(setting).unwrap(), setting.as_str(), "the journal has the server's own name");
    }
}

#[test]
fn a_value_is_a_number_or_a_word_and_nothing_else() {
    for good in ["4MB", "-1", "0", "1.1", "0.05", "15min", "on", "lz4", "512kB"] {
        assert!(SettingValue::try_from(good).is_ok(), "{good}");
    }
    for bad in ["", "4MB'; DROP TABLE a; --", "/bin/sh", "4 MB", "evil.so", "1e309", "nan", "4MBB", "--1", "Ⅷ"] {
        assert!(SettingValue::try_from(bad).is_err(), "{bad}");
    }
    assert!(serde_json::from_str::<SettingValue>("\"'\"").is_err(), "nor out of a journal");
}

#[rstest]
#[case("64MB", "65536", Some("kB"), true)]
#[case("128MB", "16384", Some("8kB"), true)]
#[case("100kB", "104kB", Some("8kB"), true)]
#[case("64MB", "64kB", Some("kB"), false)]
#[case("15min", "900", Some("s"), true)]
#[case("2s", "1s", Some("s"), false)]
#[case("-1", "-1", Some("kB"), true)]
#[case("0", "0kB", Some("kB"), true)]
#[case("-1", "0", Some("kB"), false)]
#[case("-1", "0", Some("8kB"), false)]
#[case("-1", "0", Some("ms"), false)]
#[case("-1", "0", Some("min"), false)]
#[case("0", "1", Some("kB"), false)]
#[case("0", "1ms", Some("s"), false)]
#[case("-1", "1", None, false)]
#[case("1.10", "1.1", None, true)]
#[case("on", "true", None, true)]
#[case("on", "pglz", None, true)]
#[case("4 MB", "4MB", Some("kB"), true)]
#[case("off", "lz4", None, false)]
fn two_ways_to_write_a_value(#[case] a: &str, #[case] b: &str, #[case] unit: Option<&str>, #[case] same: bool) {
    assert_eq!((is_same(a, b, unit), is_same(b, a, unit)), (same, same));
}

#[test]
fn a_setting_that_nobody_keeps_is_changed() {
    assert_eq!(refusal(&ground(), &to("1.1")), None);
    assert_eq!(refusal(&from_file(AUTO, "4"), &to("1.1")), None, "an earlier ALTER SYSTEM is put back as it was");
}

#[test]
fn what_somebody_keeps_is_left_to_him() {
    let refused = |ground: &Ground, word: &str| {
        let reason = refusal(ground, &to("1.1")).unwrap_or_else(|| panic!("{word}: not refused"));
        assert!(reason.contains(word), "{word}: {reason}");
    };
    refused(&from_file("/etc/postgresql/conf.d/ops.conf", "4"), "ops.conf, line 3, keeps it");
    refused(&from_file("/etc/postgresql/15/main/postgresql.conf", "4"), "postgresql.conf, line 3, keeps it");
    for (source, word) in [
        ("command line", "command line"),
        ("environment variable", "environment"),
        ("user", "our session has a value of its own (user)"),
        ("configuration file", "hidden from us"),
    ] {
        let mut other = ground();
        other.setting.source = source.into();
        refused(&other, word);
    }
    let mut operated = ground();
    operated.keeper = Some("Patroni".into());
    refused(&operated, "Patroni keeps the settings");
}

/// What initdb writes is nobody's decision; the same line in a file that somebody includes is.
#[test]
fn what_initdb_wrote_is_nobodys() {
    let sized = |file: &str| {
        let mut ground = from_file(file, "16384");
        (ground.setting.name, ground.setting.unit) = ("shared_buffers".into(), Some("8kB".into()));
        ground.setting.context = "postmaster".into();
        ground.limits =
            Limits { kind: "integer".into(), least: Some("16".into()), most: Some("1073741823".into()), words: vec![] };
        ground.refusal(Parameter::SharedBuffers, &value("128MB"), &to("4GB"))
    };
    assert_eq!(sized("/var/lib/pg/postgresql.conf"), None);
    assert_eq!(sized("/etc/postgresql/15/main/postgresql.conf"), None, "as Debian makes it");
    for kept in [
        "/var/lib/pg/conf.d/memory.conf",
        "/var/lib/pg/conf.d/postgresql.conf",
        "/etc/postgresql/postgresql.conf",
        "/etc/postgresql/15/main/conf.d/postgresql.conf",
        "/etc/postgresql/main/15/postgresql.conf",
        "/srv/postgresql/15/main/postgresql.conf",
    ] {
        assert!(sized(kept).is_some_and(|why| why.contains("keeps it")), "{kept}: as a ConfigMap would have it");
    }
    let mut hidden = from_file("/var/lib/pg/postgresql.conf", "131072");
    hidden.setting.name = "max_wal_size".into();
    (hidden.setting.value, hidden.setting.unit) = ("1024".into(), Some("MB".into()));
    hidden.lines[0].value = "1GB".into();
    let change = |ground: &Ground| ground.refusal(Parameter::MaxWalSize, &value("1GB"), &to("4GB"));
    hidden.limits =
        Limits { kind: "integer".into(), least: Some("2".into()), most: Some("2147483647".into()), words: vec![] };
    hidden.setting.context = "sighup".into();
    assert_eq!(change(&hidden), None);
    hidden.data_directory = None;
    assert!(change(&hidden).unwrap().contains("keeps it"), "who knows whose file it is");
}

#[test]
fn a_world_that_moved_or_moves_is_left_alone() {
    let refused = |ground: &Ground, word: &str| {
        let reason = refusal(ground, &to("1.1")).unwrap_or_else(|| panic!("{word}: not refused"));
        assert!(reason.contains(word), "{word}: {reason}");
    };
    refused(&from_file(AUTO, "2"), "it is 2 by now, and was 4 when this was planned");
    let mut unread = ground();
    unread.lines.push(line(AUTO, "3"));
    refused(&unread, "sets it to 3, and the server has not taken that up yet");
    let mut gone = from_file(AUTO, "4");
    gone.lines.clear();
    refused(&gone, "its line is gone");
    let mut waiting = ground();
    waiting.by_restart = vec!["max_connections waits for a restart".into(), "x".into()];
    refused(&waiting, "not finished: max_connections waits for a restart, and 1 more");
    waiting.by_reload = vec!["/pg/pg_hba.conf was changed and not read yet".into()];
    refused(&waiting, "not finished: /pg/pg_hba.conf was changed and not read yet, and 2 more");
    let mut odd = from_file(AUTO, "4");
    odd.lines[0].value = " 4".into();
    refused(&odd, "none that we could put back");
}

#[test]
fn a_value_that_the_server_would_not_take_is_not_sent() {
    assert_eq!(refusal(&ground(), &to("4")).unwrap(), "it is 4 already");
    assert!(refusal(&ground(), &to("-2")).unwrap().contains("not between 0 and"));
    assert!(refusal(&ground(), &to("1MB")).unwrap().contains("a unit that the setting has not"));
    assert!(refusal(&ground(), &to("on")).unwrap().contains("no number"));
    let mut restart = ground();
    restart.setting.context = "postmaster".into();
    assert!(refusal(&restart, &to("1.1")).unwrap().contains("in another way than we know"));
    let mut word = ground();
    word.limits = Limits { kind: "enum".into(), words: vec!["pglz".into(), "on".into()], ..Limits::default() };
    assert_eq!(refusal(&word, &to("on")), None);
    assert!(refusal(&word, &to("zstd")).unwrap().contains("none of pglz, on"));
}

#[test]
fn only_our_own_line_is_put_back() {
    let back = |ground: &Ground| ground.refusal(Parameter::RandomPageCost, &value("1.1"), &put_back(None));
    assert_eq!(back(&from_file(AUTO, "1.1")), None);
    assert_eq!(back(&ground()), None, "it is gone already");
    assert!(back(&from_file(AUTO, "2")).unwrap().contains("says 2, and we wrote 1.1"));
    // Others may be in the middle of something: our line goes all the same.
    let mut waiting = from_file(AUTO, "1.1");
    waiting.by_reload.push("x".into());
    waiting.by_restart.push("y".into());
    assert_eq!(back(&waiting), None);
}

fn step(setting: Parameter, change: Change) -> Step {
    Step::AlterSystem { system: SystemId::new(SystemKind::Postgres, "main"), setting, from: value("4"), to: change }
}

fn state(now: &str, line: Option<&str>, pending_restart: bool) -> StepState {
    let owner = if line.is_some() && !pending_restart { "ALTER SYSTEM" } else { "default" };
    let (value, owner, line) = (now.to_owned(), owner.to_owned(), line.map(str::to_owned));
    StepState::Setting { value, unit: None, owner, line, pending_restart }
}

#[test]
fn a_change_has_taken_when_the_file_and_a_new_session_agree() {
    let change = step(Parameter::RandomPageCost, to("1.1"));
    let before = state("4", None, false);
    let told = |after: &StepState| change.verify(&before, after);
    assert_eq!(told(&state("1.1", Some("1.1"), false)), Verification::Helped("random_page_cost 4 -> 1.1".into()));
    for after in
        [state("4", Some("1.1"), false), state("4", None, false), state("2", Some("2"), false), StepState::Gone]
    {
        assert!(matches!(told(&after), Verification::DidNotHelp(_)), "{after:?}");
    }
    let written = step(Parameter::SharedBuffers, to("4GB"));
    let told = written.verify(&state("128MB", None, false), &state("128MB", Some("4GB"), true));
    assert_eq!(told, Verification::Helped("written; the server runs with 128MB until it is restarted".into()));
    let told = written.verify(&state("128MB", None, false), &state("128MB", Some("4GB"), false));
    assert!(matches!(told, Verification::DidNotHelp(_)), "the server knows nothing of it");
}

#[test]
fn the_undo_is_the_old_line_or_none_and_is_itself_not_undone() {
    let change = step(Parameter::RandomPageCost, to("1.1"));
    let undo = |before: &StepState| match change.undo(before) {
        Undo::By(step) => step.statement(),
        other => panic!("{other:?}"),
    };
    assert_eq!(undo(&state("4", None, false)), "ALTER SYSTEM RESET random_page_cost; SELECT pg_reload_conf()");
    assert_eq!(
        undo(&state("2", Some("2.0"), false)),
        "ALTER SYSTEM SET random_page_cost = '2.0'; SELECT pg_reload_conf()"
    );
    let back = step(Parameter::RandomPageCost, put_back(None));
    assert!(matches!(back.undo(&state("1.1", Some("1.1"), false)), Undo::Impossible(_)));
    assert!(back.has_nothing_to_undo(&state("4", None, false)));
    let StepState::Setting { value, unit, line, .. } = state("1.1", None, false) else { unreachable!() };
    let unread = StepState::Setting { value, unit, line, owner: "ALTER SYSTEM".into(), pending_restart: false };
    assert!(!back.has_nothing_to_undo(&unread), "the file is right, and the server has not read it");
    assert_eq!(change.subject(), step(Parameter::WorkMem, to("8MB")).subject(), "one setting of a server at a time");
}

#[test]
fn a_step_and_its_state_come_out_of_the_journal_as_they_went_in() {
    for step in [step(Parameter::WorkMem, to("64MB")), step(Parameter::WorkMem, put_back(Some("4096")))] {
        let text = serde_json::to_string(&step).unwrap();
        assert_eq!(serde_json::from_str::<Step>(&text).unwrap(), step);
    }
    let state = state("4MB", Some("4096"), false);
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<StepState>(&text).unwrap(), state);
}
