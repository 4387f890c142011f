//! Settings of a real Postgres that are changed, verified and put back: one at a time, and only where nobody else keeps them.

use crate::scene::{Database, Place, eventually};
use groundskeeper::app::App;
use groundskeeper::app::api::{ActionResult, ActionView, PlanView};
use groundskeeper_core::policy::Outcome;
use groundskeeper_testing::{Interrupter, Interruption};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use tokio_postgres::Client;

const MACHINE: &str = "[postgres.main.machine]\nmemory = \"8 GiB\"\ncores = 2\nstorage = \"ssd\"\n";
const WATCH_ONLY: &str = "GRANT pg_monitor, pg_signal_backend TO keeper";

struct Scene {
    database: Database,
    admin: Client,
    place: Place,
}

impl Scene {
    /// The keeper may do what the printed grants let it do.
    async fn new(head: &str) -> Self {
        let database = Database::start(WATCH_ONLY).await;
        let place = Place::new(&database.config(head, MACHINE));
        let script = place.run(&["grants", "main", "--role", "keeper", "--for", "tune"]).await.out;
        let docrag = database.server.url_for("postgres", database.server.password(), "docrag");
        let admin = database.server.client_at(&docrag).await;
        admin.batch_execute(&script).await.unwrap();
        Self { database, admin, place }
    }

    /// A fresh session's value.
    async fn value(&self, setting: &str) -> String {
        let fresh = self.database.server.client().await;
        fresh.query_one(&format!("SHOW {setting}"), &[]).await.unwrap().get(0)
    }

    /// What `postgresql.auto.conf` says.
    async fn line(&self, setting: &str) -> Option<String> {
        let sql = "SELECT setting FROM pg_file_settings WHERE name = $1 AND sourcefile LIKE '%auto.conf'";
        self.admin.query_opt(sql, &[&setting]).await.unwrap().map(|row| row.get(0))
    }

    /// Somebody changes it, and the server runs with that.
    async fn set(&self, setting: &str, value: &str, shown: &str) {
        self.admin.batch_execute(&format!("ALTER SYSTEM SET {setting} = '{value}'")).await.unwrap();
        self.admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
        eventually("it is taken", async || (self.value(setting).await == shown).then_some(())).await;
    }

    /// Until no session is about to change a setting: that of a keeper that was killed goes a moment after him.
    async fn nobody_is_at_it(&self) {
        let sql = "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')";
        eventually("the session of the killed keeper is gone", async || {
            self.admin.query_one(sql, &[]).await.unwrap().get::<_, bool>(0).then_some(())
        })
        .await;
    }

    async fn plan(&self, setting: &str) -> PlanView {
        self.place.json(&["tune", "postgres", "main", "--plan", setting]).await
    }

    /// Plans and approves, and gives the hash.
    async fn approved(&self, setting: &str) -> String {
        let hash = self.plan(setting).await.plan.short_hash().to_owned();
        let said = self.place.run(&["approve", "--any-time", &hash]).await;
        assert_eq!(said.code, 0, "{said:?}");
        hash
    }

    /// Outcome, detail, and whether it put another one back; oldest first.
    fn journal(&self) -> Vec<(String, String, bool)> {
        let store = self.place.store();
        let mut rows = store.prepare("SELECT outcome, detail, undoes IS NOT NULL FROM journal ORDER BY id").unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    /// The keeper through something that stands between it and the server.
    fn behind(&self, between: SocketAddr, head: &str) {
        let port = format!(":{}/", self.database.server.port());
        let text = self.database.config(head, MACHINE).replace(&port, &format!(":{}/", between.port()));
        self.place.configure(&text);
    }

    fn server(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.database.server.port()).into()
    }

    /// A file of somebody who keeps the setting.
    async fn include(&self, line: &str) {
        let data = self.database.server.data_dir();
        let folder = data.join("conf.d");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("ops.conf"), format!("{line}\n")).unwrap();
        for path in [folder.join("ops.conf"), folder] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let main = data.join("postgresql.conf");
        let text = std::fs::read_to_string(&main).unwrap() + "\ninclude_dir 'conf.d'\n";
        std::fs::write(main, text).unwrap();
        self.admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }
}

async fn drift(app: &App) -> Vec<String> {
    let run = app.task_run("watch", false, "ann").await.unwrap();
    assert!(run.ok, "{run:?}");
    let open = app.findings(false).await.unwrap();
    let drifted = open.into_iter().filter(|view| view.finding.check == "postgres.settings_drifted");
    drifted.map(|view| view.finding.summary).collect()
}

fn ended(actions: &[ActionView]) -> Vec<(Outcome, &str)> {
    let ends = actions.iter().filter_map(|action| match &action.result {
        ActionResult::Ended { outcome, detail } => Some((*outcome, detail.as_str())),
        ActionResult::Skipped { .. } => None,
    });
    ends.collect()
}

#[tokio::test]
async fn a_setting_is_changed_as_approved_accepted_and_taken_back() {
    let scene = Scene::new("autonomy = \"observe\"").await;
    let place = &scene.place;
    let shown = place.run(&["tune", "postgres", "main"]).await;
    assert!(shown.out.contains("undone by ALTER SYSTEM RESET random_page_cost"), "{shown:?}");
    assert!(shown.out.contains("not by us: it writes the values of statements into the log"), "{shown:?}");
    assert_eq!(drift(&*place.app().await).await, [""; 0], "the first reading accepts what it sees");

    let planned = place.run(&["tune", "postgres", "main", "--plan", "random_page_cost"]).await;
    let statement = "ALTER SYSTEM SET random_page_cost = '1.1'; SELECT pg_reload_conf()";
    assert!(planned.code == 0 && planned.out.contains(statement), "{planned:?}");
    assert!(
        planned.out.contains("needs approval") && planned.out.contains("Next: `groundskeeper approve"),
        "{planned:?}"
    );
    let plan = scene.plan("random_page_cost").await.plan;
    let hash = plan.short_hash();
    let refused = place.run(&["apply", hash]).await;
    assert!(refused.code == 1 && refused.out.contains("corrective actions need a person"), "{refused:?}");
    assert_eq!((scene.value("random_page_cost").await, scene.line("random_page_cost").await), ("4".to_owned(), None));

    assert_eq!(place.run(&["approve", hash]).await.code, 0);
    let applied = place.run(&["apply", hash]).await;
    assert!(applied.code == 0 && applied.out.contains("helped: random_page_cost 4 -> 1.1"), "{applied:?}");
    assert_eq!(scene.value("random_page_cost").await, "1.1");
    let again = place.run(&["tune", "postgres", "main", "--plan", "random_page_cost"]).await;
    assert!(again.code == 2 && again.err.contains("nothing else is advised for it"), "{again:?}");

    let app = place.app().await;
    assert_eq!(drift(&app).await, [""; 0], "what we changed ourselves is no drift");
    let undo = app.undo(1, "ann").await.unwrap().action.unwrap();
    assert_eq!(ended(std::slice::from_ref(&undo)), [(Outcome::Helped, "random_page_cost 1.1 -> 4")]);
    assert_eq!((scene.value("random_page_cost").await, scene.line("random_page_cost").await), ("4".to_owned(), None));
    assert_eq!(drift(&app).await, [""; 0], "nor is what we took back");
    // What somebody else does to the same setting is.
    scene.admin.batch_execute("ALTER SYSTEM SET random_page_cost = 2").await.unwrap();
    scene.admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let found = eventually("it is told", async || drift(&app).await.pop()).await;
    assert_eq!(found, "random_page_cost is 2 and was accepted as its default: set by ALTER SYSTEM");
}

#[tokio::test]
async fn one_after_the_other_each_verified_and_an_old_line_comes_back_as_it_was() {
    let scene = Scene::new("autonomy = \"observe\"").await;
    scene.set("maintenance_work_mem", "1024", "1MB").await;
    for setting in ["random_page_cost", "maintenance_work_mem"] {
        let hash = scene.approved(setting).await;
        let applied = scene.place.run(&["apply", &hash]).await;
        assert!(applied.code == 0, "{applied:?}");
    }
    assert_eq!(scene.value("maintenance_work_mem").await, "512MB");
    let undone = scene.place.run(&["undo", "2"]).await;
    assert!(undone.code == 0 && undone.out.contains("ALTER SYSTEM SET maintenance_work_mem = '1024'"), "{undone:?}");
    assert_eq!(scene.value("maintenance_work_mem").await, "1MB");
    assert_eq!(scene.line("maintenance_work_mem").await.as_deref(), Some("1024"));
    assert_eq!(scene.value("random_page_cost").await, "1.1", "the other one stays");
    // A line that somebody has changed since is not ours to put back.
    scene.set("random_page_cost", "3", "3").await;
    let late = scene.place.run(&["undo", "1"]).await;
    assert!(late.code == 1 && late.out.contains("somebody has changed it since"), "{late:?}");
    assert_eq!(scene.line("random_page_cost").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn what_somebody_else_keeps_or_has_changed_is_left_alone() {
    let scene = Scene::new("autonomy = \"observe\"").await;
    let place = &scene.place;
    scene.set("maintenance_work_mem", "1MB", "1MB").await;
    let late = scene.approved("random_page_cost").await;
    scene.include("random_page_cost = 3").await;
    eventually("it is taken", async || (scene.value("random_page_cost").await == "3").then_some(())).await;
    let refused = place.run(&["apply", &late]).await;
    assert!(refused.code == 1 && refused.out.contains("conf.d/ops.conf, line 1, keeps it"), "{refused:?}");
    let planned = place.run(&["tune", "postgres", "main", "--plan", "random_page_cost"]).await;
    assert!(planned.code == 2 && planned.err.contains("ops.conf, line 1 keeps it"), "{planned:?}");
    assert_eq!(scene.line("random_page_cost").await, None);

    let late = scene.approved("maintenance_work_mem").await;
    scene.admin.batch_execute("ALTER SYSTEM SET maintenance_work_mem = '70MB'").await.unwrap();
    let refused = place.run(&["apply", &late]).await;
    assert!(refused.out.contains("sets it to 70MB, and the server has not taken that up yet"), "{refused:?}");
    scene.admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("it is taken", async || (scene.value("maintenance_work_mem").await == "70MB").then_some(())).await;
    let refused = place.run(&["apply", &late]).await;
    assert!(refused.out.contains("it is 70MB by now, and was 1MB when this was planned"), "{refused:?}");
    assert_eq!(scene.line("maintenance_work_mem").await.as_deref(), Some("70MB"));
    assert!(scene.journal().iter().all(|(outcome, ..)| outcome == "abandoned"), "{:?}", scene.journal());

    let bare = scene.database.server.url();
    let said = place.run(&["tune", "postgres", &bare, "--plan", "maintenance_work_mem"]).await;
    assert!(said.code == 2 && said.err.contains("a bare address has no journal"), "{said:?}");
    for (setting, why) in [("shared_buffers", "keeps it"), ("fsync", "nothing else is advised for it")] {
        let said = place.run(&["tune", "postgres", "main", "--plan", setting]).await;
        assert!(said.code == 2 && said.err.contains(why), "{said:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_killed_before_the_reload_leaves_no_line_behind() {
    let scene = Scene::new("autonomy = \"observe\"").await;
    let between = Interrupter::start(scene.server(), "SELECT pg_reload_conf", Interruption::HangUp).await.unwrap();
    let hash = scene.approved("random_page_cost").await;
    scene.behind(between.address(), "autonomy = \"observe\"");
    let applied = scene.place.run(&["apply", &hash]).await;
    assert!(applied.code == 1, "{applied:?}");
    let journal = scene.journal();
    let told: Vec<(&str, bool)> = journal.iter().map(|(outcome, _, undoes)| (outcome.as_str(), *undoes)).collect();
    assert_eq!(told, [("failed", false), ("helped", true)], "{journal:?}");
    assert_eq!((scene.value("random_page_cost").await, scene.line("random_page_cost").await), ("4".to_owned(), None));
}

#[tokio::test]
async fn a_keeper_that_is_killed_before_the_reload_is_put_right_by_the_next() {
    let scene = Scene::new("autonomy = \"observe\"").await;
    let between = Interrupter::start(scene.server(), "SELECT pg_reload_conf", Interruption::Silence).await.unwrap();
    let hash = scene.approved("random_page_cost").await;
    scene.behind(between.address(), "autonomy = \"observe\"");
    let mut keeper = scene.place.start(&["apply", &hash]);
    eventually("the line is written", async || scene.line("random_page_cost").await).await;
    keeper.kill().await.unwrap();
    scene.nobody_is_at_it().await;
    assert_eq!(scene.place.count("SELECT count(*) FROM journal WHERE ended IS NULL"), 1);

    let run = scene.place.run(&["task", "run", "watch"]).await;
    assert_eq!(run.code, 0, "{run:?}");
    let journal = scene.journal();
    let told: Vec<(&str, bool)> = journal.iter().map(|(outcome, _, undoes)| (outcome.as_str(), *undoes)).collect();
    assert_eq!(told, [("abandoned", false), ("helped", true)], "{journal:?}");
    assert!(journal[0].1.contains("it is written, and the server still runs with 4"), "{journal:?}");
    assert_eq!((scene.value("random_page_cost").await, scene.line("random_page_cost").await), ("4".to_owned(), None));
    // And the way is free for the same plan, made anew.
    let hash = scene.approved("random_page_cost").await;
    assert_eq!(scene.place.run(&["apply", &hash]).await.code, 0);
    assert_eq!(scene.value("random_page_cost").await, "1.1");
}

#[tokio::test]
async fn a_keeper_that_is_killed_while_it_puts_back_is_put_right_by_the_next() {
    let scene = Scene::new("autonomy = \"observe\"").await;
    let hash = scene.approved("random_page_cost").await;
    assert_eq!(scene.place.run(&["apply", &hash]).await.code, 0);
    let between = Interrupter::start(scene.server(), "SELECT pg_reload_conf", Interruption::Silence).await.unwrap();
    scene.behind(between.address(), "autonomy = \"observe\"");
    let mut keeper = scene.place.start(&["undo", "1"]);
    eventually("the line is gone", async || scene.line("random_page_cost").await.is_none().then_some(())).await;
    assert_eq!(scene.value("random_page_cost").await, "1.1", "nobody has read it");
    keeper.kill().await.unwrap();
    scene.nobody_is_at_it().await;
    assert_eq!(scene.place.run(&["task", "run", "watch"]).await.code, 0);
    assert_eq!(scene.value("random_page_cost").await, "4");
    let last = scene.journal().pop().unwrap();
    assert_eq!((last.0.as_str(), last.2), ("helped", true), "{:?}", scene.journal());
}

#[tokio::test]
async fn nothing_is_changed_by_itself_and_a_plan_tells_what_else_a_reload_takes_up() {
    let scene = Scene::new("autonomy = \"auto\"").await;
    let off = "[checks.\"postgres.settings_unsuited\"]\nenabled = false\n";
    let on = "[checks.\"postgres.settings_unsuited\"]\nfor = \"0s\"\n";
    let text = scene.database.config("autonomy = \"auto\"", MACHINE);
    assert!(text.contains(off));
    scene.place.configure(&text.replace(off, on));
    let hide = "REVOKE EXECUTE ON FUNCTION pg_stat_file(text, boolean) FROM keeper";
    scene.admin.batch_execute(hide).await.unwrap();
    let app = scene.place.app().await;
    let run = app.task_run("watch", false, "ann").await.unwrap();
    assert_eq!(ended(&run.actions), [], "{run:?}");
    let open = app.findings(false).await.unwrap();
    assert!(open.iter().any(|view| view.finding.check == "postgres.settings_unsuited"), "{open:?}");
    drop(app);
    let planned = scene.place.run(&["tune", "postgres", "main", "--plan", "random_page_cost"]).await;
    let told = "the files of hba_file, ident_file are hidden from us";
    assert!(planned.code == 0 && planned.out.contains(told), "{planned:?}");
    assert!(planned.out.contains("plans change; a statement may get slower"), "{planned:?}");
    assert_eq!(scene.place.count("SELECT count(*) FROM journal"), 0);
}

#[tokio::test]
async fn what_waited_for_a_restart_is_accepted_when_it_is_taken_up() {
    let mut scene = Scene::new("autonomy = \"observe\"").await;
    assert_eq!(drift(&*scene.place.app().await).await, [""; 0], "the first reading accepts what it sees");
    // As a change of ours leaves it: the fixture's own file keeps the only setting that takes a restart.
    scene.admin.batch_execute("ALTER SYSTEM SET shared_buffers = '32MB'").await.unwrap();
    scene.admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let waits = "SELECT pending_restart FROM pg_settings WHERE name = 'shared_buffers'";
    eventually("it waits", async || {
        let fresh = scene.database.server.client().await;
        fresh.query_one(waits, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    let change = "UPDATE accepted SET body = json_set(body, '$.changed',
                         json('{\"shared_buffers\": {\"action\": 7, \"value\": \"32MB\", \"until\": null}}'))";
    assert_eq!(scene.place.store().execute(change, []).unwrap(), 1);
    let pending = async |scene: &Scene| {
        let app = scene.place.app().await;
        assert_eq!(drift(&app).await, [""; 0]);
        let open = app.findings(false).await.unwrap();
        let pending = open.into_iter().find(|view| view.finding.check == "postgres.restart_pending");
        pending.map(|view| view.finding.evidence.iter().any(|one| one.value.to_string().contains("undo 7")))
    };
    let is_ours = eventually("it is told", async || pending(&scene).await).await;
    assert!(is_ours, "with the way back");
    assert_eq!(scene.place.count("SELECT count(*) FROM accepted WHERE body LIKE '%\"action\":7%'"), 1);
    scene.admin.batch_execute("ALTER SYSTEM SET shared_buffers = '48MB'").await.unwrap();
    assert_eq!(pending(&scene).await, Some(false), "the line is somebody else's by now");
    scene.admin.batch_execute("ALTER SYSTEM SET shared_buffers = '32MB'").await.unwrap();

    scene.database.server.stop().await.unwrap();
    scene.database.server.start_again().await.unwrap();
    assert_eq!(pending(&scene).await, None);
    assert_eq!(scene.place.count("SELECT count(*) FROM accepted WHERE body LIKE '%\"action\":7%'"), 0);
    let accepted = "SELECT count(*) FROM accepted WHERE json_extract(body, '$.settings.shared_buffers.value') = '32MB'";
    assert_eq!(scene.place.count(accepted), 1);
}

#[tokio::test]
async fn without_the_grants_nothing_is_written_and_they_are_named() {
    let database = Database::start(WATCH_ONLY).await;
    let place = Place::new(&database.config("autonomy = \"observe\"", MACHINE));
    let plan: PlanView = place.json(&["tune", "postgres", "main", "--plan", "random_page_cost"]).await;
    let hash = plan.plan.short_hash();
    assert_eq!(place.run(&["approve", "--any-time", hash]).await.code, 0);
    let said = place.run(&["apply", hash]).await;
    let grant = "GRANT ALTER SYSTEM ON PARAMETER random_page_cost TO \"keeper\"";
    assert!(said.code == 1 && said.out.contains(grant) && said.out.contains("--for tune"), "{said:?}");
    // To see the files is not to change them.
    let docrag = database.server.url_for("postgres", database.server.password(), "docrag");
    let admin = database.server.client_at(&docrag).await;
    let see =
        "GRANT SELECT ON pg_file_settings TO keeper; GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO keeper";
    admin.batch_execute(see).await.unwrap();
    let said = place.run(&["apply", hash]).await;
    assert!(said.code == 1 && said.out.contains(grant), "{said:?}");
    let lines = "SELECT count(*) FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf'";
    assert_eq!(admin.query_one(lines, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(place.count("SELECT count(*) FROM journal WHERE undoes IS NOT NULL"), 0, "nothing was there to undo");
}
