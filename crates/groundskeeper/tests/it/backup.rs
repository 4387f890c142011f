//! Backups as their users meet them: a real Postgres, a real repository, the built program.

use crate::scene::{Database, Place, Said, eventually};
use groundskeeper::app::api::{
    AuditView, BackupListView, BackupStatusView, BackupTryView, CalendarEntry, CalendarState, CheckView, KeyInfo,
    RestoreView, StatusView, TaskRunView,
};
use groundskeeper_core::Status;
use groundskeeper_core::receipt::{ClimbOutcome, Rung};
use groundskeeper_testing::scratch::Scratch;
use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::path::{Path, PathBuf};

const REPLICATES: &str = "ALTER ROLE keeper REPLICATION; GRANT pg_monitor, pg_read_all_data TO keeper";
pub(crate) const KEY: &str = "a key that nobody guesses";

/// A keeper with a Postgres and a place for its backups.
pub(crate) struct Scene {
    pub(crate) database: Database,
    pub(crate) place: Place,
    scratch: Scratch,
}

impl Scene {
    async fn start(grants: &str) -> Self {
        let scene = Self {
            database: Database::start(grants).await,
            place: Place::new(""),
            scratch: Scratch::new("backup").unwrap(),
        };
        fs::write(scene.key(), format!("{KEY}\n")).unwrap();
        scene.configure("");
        scene
    }

    /// The same with a repository.
    pub(crate) async fn with_repository() -> Self {
        let scene = Self::start(REPLICATES).await;
        scene.fine(&["backup", "init"]).await;
        scene
    }

    /// `more` stands at the end of `[backup]`, and may open other tables.
    pub(crate) fn configure(&self, more: &str) {
        self.configure_as("", more);
    }

    /// The same, with keys outside every table.
    pub(crate) fn configure_as(&self, head: &str, more: &str) {
        // How full the disk of the tests is, is not their business.
        let backup = format!(
            "[checks.\"backup.repository_nearly_full\"]\nenabled = false\n[backup]\nrepository = \"{}\"\nkey_file = \"{}\"\nscratch = \"{}\"\nleave_free = \"0 B\"\n{more}",
            self.repository().display(),
            self.key().display(),
            self.scratch.path().display()
        );
        self.place.configure(&self.database.config(head, &backup));
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.place.path().join("repository")
    }

    fn key(&self) -> PathBuf {
        self.place.path().join("backup.key")
    }

    /// A command that must go well.
    pub(crate) async fn fine(&self, arguments: &[&str]) -> String {
        let said = self.place.run(arguments).await;
        assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
        said.out
    }

    pub(crate) async fn list(&self) -> BackupListView {
        self.place.json(&["backup", "list"]).await
    }

    /// The checks of the backups that fail now.
    pub(crate) async fn failing(&self) -> Vec<String> {
        let view: CheckView = self.place.json(&["check", "backup"]).await;
        let judgements = view.systems.into_iter().flat_map(|system| system.judgements);
        let failing = judgements.filter(|judgement| matches!(judgement.status, Status::Failing { .. }));
        failing.map(|judgement| judgement.check).collect()
    }

    /// What the server answers, as text.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        self.database.server.client().await.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// A table with so many rows.
    pub(crate) async fn fill(&self, table: &str, rows: u32) {
        let app = self.database.app("docrag").await;
        let sql =
            format!("CREATE TABLE {table} AS SELECT n, repeat(md5(n::text), 4) AS t FROM generate_series(1, {rows}) n");
        app.batch_execute(&sql).await.unwrap();
    }
}

fn found(folder: &Path, name: &str) -> PathBuf {
    search(folder, name).unwrap_or_else(|| panic!("there is no {name} below {}", folder.display()))
}

fn search(folder: &Path, name: &str) -> Option<PathBuf> {
    let paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let here = paths.iter().find(|path| path.file_name().unwrap() == name).cloned();
    here.or_else(|| paths.iter().filter(|path| path.is_dir()).find_map(|path| search(path, name)))
}

#[tokio::test]
async fn a_set_is_made_proven_and_restored() {
    let scene = Scene::start(REPLICATES).await;
    scene.fill("documents", 5_000).await;
    assert!(scene.fine(&["backup", "init"]).await.contains("Made the repository"));
    assert!(scene.fine(&["backup", "init"]).await.contains("is there already"));
    let before = scene.place.run(&["backup", "status"]).await;
    assert!(before.code == 1 && before.out.contains("No backup set has been made yet"), "{before:?}");
    assert_eq!(scene.failing().await, ["backup.set_missing"]);

    let made = scene.fine(&["backup", "run"]).await;
    assert!(made.starts_with("✓ set 2") && made.contains("postgres.main"), "{made}");
    let listed = scene.list().await;
    let [set] = listed.sets.as_slice() else { panic!("{listed:?}") };
    assert!(set.is_whole() && set.proven() == Some(Rung::Stored), "{set:?}");
    let cluster = set.parts.iter().find_map(|part| part.postgres.as_ref()).unwrap();
    assert!(cluster.start < cluster.stop && cluster.superuser == "postgres", "{cluster:?}");

    let verified = scene.fine(&["backup", "verify"]).await;
    assert!(verified.contains("✓ 2 intact"), "{verified}");
    let drilled: BackupTryView = scene.place.json(&["backup", "drill", "--set", &set.set.as_str()[..15]]).await;
    assert_eq!(drilled.receipt.proven(), Some(Rung::Faithful), "{drilled:?}");
    assert_eq!(
        drilled.tried.iter().map(|climb| climb.rung).collect::<Vec<_>>(),
        [Rung::Restored, Rung::Alive, Rung::Faithful]
    );
    assert!(fs::read_dir(scene.scratch.path()).unwrap().count() <= 1, "nothing but the lock of the test is left");
    let status = scene.fine(&["backup", "status"]).await;
    assert!(status.contains("Nothing is wrong.") && status.contains("✓ 5 faithful"), "{status}");
    assert!(status.contains("Recovery took ") && status.contains(" in the only drill of the last 90 days"), "{status}");
    let status: BackupStatusView = scene.place.json(&["backup", "status"]).await;
    let [measured] = status.backup.measured.recovery_times.as_slice() else { panic!("{status:?}") };
    assert!(measured.seconds > 0.0);
    assert_eq!(Some(measured.seconds), status.backup.last_proof.unwrap().recovery_seconds);

    let into = scene.place.path().join("restored");
    let said = scene.place.run(&["backup", "restore", "--into", into.to_str().unwrap()]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("This will be restored") && said.out.contains("next: "), "{said:?}");
    assert!(found(&into, "PG_VERSION").exists());
    let again = scene.place.run(&["backup", "restore", "--into", into.to_str().unwrap()]).await;
    assert!(again.code == 2 && again.err.contains("restored"), "a folder with something in it is refused: {again:?}");

    let audit: AuditView = scene.place.json(&["audit"]).await;
    let told: Vec<&str> = audit.entries.iter().map(|entry| entry.what.as_str()).collect();
    for what in ["backup made", "backup verify", "backup drill"] {
        assert!(told.contains(&what), "{what}: {told:?}");
    }
}

#[tokio::test]
async fn a_drill_asks_what_the_user_wants_to_know_and_fails_with_the_answer() {
    let scene = Scene::with_repository().await;
    scene.fill("documents", 5_000).await;
    scene.fine(&["backup", "run"]).await;
    let probe = |more: &str| {
        let sql = "sql = \"SELECT count(*) FROM documents\"";
        scene.configure(&format!("[[backup.probe]]\nname = \"documents\"\n{sql}\n{more}\n"));
    };
    let alive = |tried: &BackupTryView| tried.tried.iter().find(|climb| climb.rung == Rung::Alive).unwrap().clone();
    probe("at_least = 5000");
    let drilled: BackupTryView = scene.place.json(&["backup", "drill"]).await;
    let ClimbOutcome::Proven { shown, .. } = alive(&drilled).outcome else { panic!("{drilled:?}") };
    assert!(shown.ends_with("; the probe `documents` answered 5,000"), "{shown}");
    assert_eq!(drilled.receipt.proven(), Some(Rung::Faithful));

    probe("expect = \"5001\"");
    let said = scene.place.run(&["backup", "drill"]).await;
    let why = "the probe `documents` (SELECT count(*) FROM documents) answered 5,000 and not 5001";
    assert!(said.code == 1 && said.out.contains(why), "{said:?}");
    assert_eq!(scene.failing().await, ["backup.rung_failed"]);

    scene.configure("[[backup.probe]]\nname = \"api\"\ncommand = [\"/nowhere/service\"]\nurl = \"/health\"\n");
    let said = scene.place.run(&["backup", "drill"]).await;
    assert!(said.code == 3 && said.out.contains("the probe `api` (/health of /nowhere/service)"), "{said:?}");
}

#[tokio::test]
async fn the_keepers_own_store_is_in_the_set_and_nothing_of_its_copy_stays_behind() {
    let scene = Scene::with_repository().await;
    scene.fine(&["pause", "--reason", "so that the audit has an entry"]).await;
    scene.fine(&["backup", "run"]).await;
    let left: Vec<_> = fs::read_dir(scene.place.state()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("copy")), "{left:?}");

    let into = scene.place.path().join("own");
    let own: RestoreView =
        scene.place.json(&["backup", "restore", "--only", "groundskeeper", "--into", into.to_str().unwrap()]).await;
    assert_eq!(own.restored.parts.len(), 1);
    let head: serde_json::Value = serde_json::from_slice(&fs::read(found(&into, "audit-head.json")).unwrap()).unwrap();
    let store = Connection::open_with_flags(found(&into, "store.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let hash: String = store
        .query_row("SELECT hash FROM audit WHERE seq = ?1", [head["seq"].as_i64().unwrap()], |row| row.get(0))
        .unwrap();
    assert_eq!(head["hash"], hash);
    let configuration = fs::read_to_string(found(&into, "groundskeeper.toml")).unwrap();
    assert_eq!(configuration, fs::read_to_string(scene.place.path().join("groundskeeper.toml")).unwrap());
}

#[tokio::test]
async fn after_a_disaster_the_repository_and_its_key_are_enough() {
    let scene = Scene::with_repository().await;
    scene.fill("documents", 1_000).await;
    scene.fine(&["backup", "run"]).await;
    let (repository, key) = (scene.repository(), scene.key());
    // Another machine: no configuration, no state, no Postgres.
    let elsewhere = Place::new("");
    fs::remove_file(elsewhere.path().join("groundskeeper.toml")).unwrap();
    let place = ["--repository", repository.to_str().unwrap(), "--key-file", key.to_str().unwrap()];
    let listed: BackupListView = elsewhere.json(&[&["backup", "list"], &place[..]].concat()).await;
    assert_eq!(listed.sets.len(), 1);
    let into = elsewhere.path().join("restored");
    let restore =
        [&["backup", "restore", "--only", "postgres.main", "--into", into.to_str().unwrap()], &place[..]].concat();
    let said = elsewhere.run(&restore).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(found(&into, "PG_VERSION").exists() && !elsewhere.state().exists());

    fs::write(&key, "another key").unwrap();
    let said = elsewhere.run(&[&["backup", "list"], &place[..]].concat()).await;
    assert!(said.code == 2 && said.err.contains("the key does not open the repository"), "{said:?}");
}

#[tokio::test]
async fn a_running_keeper_makes_and_proves_sets_and_tells_of_them() {
    let scene = Scene::with_repository().await;
    let keeper = scene.place.keeper().await;
    let (one, other) = tokio::join!(scene.place.run(&["backup", "run"]), scene.place.run(&["backup", "run"]));
    assert_eq!((one.code, other.code), (0, 0), "the second waits for the first: {one:?} {other:?}");
    assert_eq!(scene.list().await.sets.len(), 2);
    let tried: BackupTryView = scene.place.json(&["backup", "verify"]).await;
    assert_eq!(tried.receipt.proven(), Some(Rung::Intact), "{tried:?}");

    let night: TaskRunView = scene.place.json(&["task", "run", "backup-verification"]).await;
    assert!(
        night.ok && night.receipt.unwrap().proven() == Some(Rung::Faithful),
        "{:?} {:?}",
        night.summary,
        night.details
    );
    let dry: TaskRunView = scene.place.json(&["task", "run", "backup", "--dry-run"]).await;
    assert!(dry.ok && dry.summary.starts_with("would make a set of 1 system"), "{dry:?}");
    assert_eq!(scene.list().await.sets.len(), 2, "a dry run makes none");

    let status: StatusView = eventually("the status tells of both sets", async || {
        let status: StatusView = scene.place.json(&["status"]).await;
        let known = status.backup.as_ref().is_some_and(|backup| {
            backup.sets.len() == 2 && backup.last_proof.is_some() && !backup.measured.recovery_points.is_empty()
        });
        known.then_some(status)
    })
    .await;
    assert!(
        status.findings.iter().all(|view| view.finding.system.to_string() != "backup.main"),
        "{:?}",
        status.findings
    );
    // The command looks into the same record, while the keeper has it.
    let looked: BackupStatusView = scene.place.json(&["backup", "status"]).await;
    for measured in [status.backup.unwrap().measured, looked.backup.measured] {
        assert_eq!(measured.recovery_times.len(), 1, "{measured:?}");
        let [sets] = measured.recovery_points.as_slice() else { panic!("{measured:?}") };
        assert!(sets.system.is_none() && sets.days.iter().all(|day| day.seconds < 3_600.0), "{sets:?}");
    }
    let calendar: Vec<CalendarEntry> = scene.place.json(&["calendar"]).await;
    for task in ["backup", "backup-verification"] {
        let entry = calendar.iter().find(|entry| entry.task == task).unwrap();
        assert_eq!(entry.state, CalendarState::Scheduled, "{task}");
        assert_eq!(entry.last.as_ref().unwrap().outcome, "ok", "{task}");
    }
    assert_eq!(keeper.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn without_a_repository_every_verb_names_the_next_step() {
    let scene = Scene::start(REPLICATES).await;
    assert_eq!(scene.failing().await, ["backup.unreachable"]);
    let next = "`groundskeeper backup init`";
    let run = scene.place.run(&["backup", "run"]).await;
    assert!(run.code == 1 && run.out.contains(next), "{run:?}");
    for (arguments, code) in [(&["backup", "list"][..], 2), (&["backup", "status"], 1), (&["doctor"], 3)] {
        let said = scene.place.run(arguments).await;
        assert_eq!(said.code, code, "{arguments:?}: {said:?}");
        assert!(format!("{}{}", said.out, said.err).contains(next), "{arguments:?}: {said:?}");
    }
    scene.fine(&["backup", "init"]).await;
    assert!(scene.fine(&["doctor"]).await.contains("✓ backup: "));
}

#[tokio::test]
async fn a_role_that_may_not_replicate_makes_no_set_and_that_is_a_finding() {
    let scene = Scene::start("GRANT pg_monitor TO keeper").await;
    scene.fine(&["backup", "init"]).await;
    let run = scene.place.run(&["backup", "run"]).await;
    assert!(run.code == 1 && run.out.starts_with("✗ "), "{run:?}");
    assert_eq!(scene.list().await.sets, []);
    // The keeper remembers why, also after a restart.
    scene.fine(&["task", "run", "watch"]).await;
    let open = scene.place.findings().await;
    let missing = open.iter().find(|view| view.finding.check == "backup.set_missing").unwrap();
    assert!(
        missing.finding.evidence.iter().any(|evidence| evidence.what == "why the last run made none"),
        "{missing:?}"
    );
    let audit: AuditView = scene.place.json(&["audit"]).await;
    assert!(audit.entries.iter().any(|entry| entry.what == "backup failed"), "{audit:?}");

    let admin = scene.database.server.client().await;
    admin.batch_execute("ALTER ROLE keeper REPLICATION").await.unwrap();
    scene.fine(&["backup", "run"]).await;
    scene.fine(&["task", "run", "watch"]).await;
    assert!(scene.place.findings().await.iter().all(|view| view.finding.check != "backup.set_missing"));
}

#[tokio::test]
async fn a_set_without_one_of_its_systems_is_made_and_is_not_called_whole() {
    let scene = Scene::with_repository().await;
    scene.configure("[postgres.reports]\nurl = \"postgres://keeper@127.0.0.1:1/reports\"\n");
    let run = scene.place.run(&["backup", "run"]).await;
    assert!(run.code == 1 && run.out.contains("not everything is in it"), "{run:?}");
    assert!(run.out.contains("postgres.reports is missing"), "{run:?}");
    let listed = scene.list().await;
    assert!(listed.sets.len() == 1 && !listed.sets[0].is_whole(), "{listed:?}");
    assert_eq!(scene.failing().await, ["backup.system_missing"]);
    let list = scene.fine(&["backup", "list"]).await;
    assert!(list.starts_with("! ") && list.contains("without postgres.reports"), "{list}");
    let into = scene.place.path().join("restored");
    let restore = ["backup", "restore", "--only", "postgres.reports", "--into", into.to_str().unwrap()];
    let said = scene.place.run(&restore).await;
    assert!(said.code == 2 && said.err.contains("postgres.reports is missing in the set"), "{said:?}");
    assert!(!into.exists());
}

#[tokio::test]
async fn a_wrong_key_is_a_finding_and_the_right_one_ends_it() {
    let scene = Scene::with_repository().await;
    scene.fine(&["backup", "run"]).await;
    fs::write(scene.key(), "another key\n").unwrap();
    assert_eq!(scene.failing().await, ["backup.key_unreadable"]);
    let said = scene.place.run(&["doctor"]).await;
    assert!(said.code == 3 && said.out.contains("✗ backup: the key does not open"), "{said:?}");
    fs::remove_file(scene.key()).unwrap();
    assert_eq!(scene.failing().await, ["backup.key_unreadable"]);
    fs::write(scene.key(), format!("{KEY}\n")).unwrap();
    assert_eq!(scene.failing().await, Vec::<String>::new());
}

#[tokio::test]
async fn keys_are_added_used_and_removed_and_never_shown() {
    let scene = Scene::with_repository().await;
    let next = scene.place.path().join("next.key");
    fs::write(&next, "the next key\n").unwrap();
    let added: KeyInfo = scene.place.json(&["backup", "key", "add", "--new-key-file", next.to_str().unwrap()]).await;
    assert!(!added.in_use);
    let shown = scene.fine(&["backup", "key", "list"]).await;
    assert!(shown.contains(&added.id) && !shown.contains("the next key") && !shown.contains(KEY), "{shown}");
    let keys: Vec<KeyInfo> = scene.place.json(&["backup", "key", "list"]).await;
    let first = keys.iter().find(|key| key.in_use).unwrap().id.clone();
    let refused: Said = scene.place.run(&["backup", "key", "remove", &first]).await;
    assert_ne!(refused.code, 0, "the key in use stays: {refused:?}");
    fs::write(scene.key(), "the next key\n").unwrap();
    scene.fine(&["backup", "key", "remove", &first[..8]]).await;
    let keys: Vec<KeyInfo> = scene.place.json(&["backup", "key", "list"]).await;
    assert!(keys.len() == 1 && keys[0].in_use, "{keys:?}");
    let piped = scene.place.run(&["backup", "key", "add"]).await;
    assert!(piped.code == 2 && piped.err.contains("--new-key-file"), "there is no terminal: {piped:?}");
}
