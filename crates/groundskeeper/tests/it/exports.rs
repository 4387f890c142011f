//! Rows that retention exports before it deletes them, as their users meet them: configured, told, listed, put back.

use crate::backup::Scene;
use groundskeeper::app::api::{ActionView, ExportsView, TaskRunView};
use groundskeeper_core::policy::Outcome;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

const EVERY_DAY: &str = "[maintenance]\nwindows = [\"daily 00:00-24:00\"]\n";

/// The same keeper, with a rule for each of these tables.
async fn with_rules(tables: &[&str]) -> Scene {
    let scene = Scene::with_repository().await;
    scene.database.server.client().await.batch_execute("GRANT app TO keeper").await.unwrap();
    configure(&scene, tables, "export = true\n");
    scene
}

fn configure(scene: &Scene, tables: &[&str], export: &str) {
    let rule = |table: &&str| {
        format!("[[postgres.main.retention]]\ntable = \"{table}\"\ncolumn = \"expires_at\"\nkeep = \"30d\"\n{export}")
    };
    let rules: String = tables.iter().map(rule).collect();
    let backup = format!(
        "[checks.\"backup.set_missing\"]\nenabled = false\n[backup]\nrepository = \"{}\"\nkey_file = \"backup.key\"\nscratch = \"{}\"\nleave_free = \"0 B\"\n",
        scene.repository().display(),
        scene.place.path().join("scratch").display()
    );
    scene.place.configure(&scene.database.config("autonomy = \"assist\"", &format!("{rules}{EVERY_DAY}{backup}")));
}

async fn ids(scene: &Scene, table: &str) -> BTreeSet<i64> {
    let app = scene.database.app("docrag").await;
    app.query(&format!("SELECT id::int8 FROM {table}"), &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn fill(scene: &Scene, table: &str, rows: u32) {
    let sql = format!(
        "CREATE TABLE {table} (id int PRIMARY KEY, expires_at timestamptz, doc jsonb, note text,
           loud text GENERATED ALWAYS AS (upper(note)) STORED);
         INSERT INTO {table} SELECT n, now() - interval '90 days' + n * interval '1 second', jsonb_build_object('n', n),
             CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE E'a\\nb,\"' END FROM generate_series(1, {rows}) n;
         INSERT INTO {table} VALUES (0, now(), NULL, 'young'); CREATE INDEX ON {table} (expires_at)"
    );
    scene.database.app("docrag").await.batch_execute(&sql).await.unwrap();
}

/// Feeds psql.
fn psql(url: &str, command: &str, input: &[u8]) {
    let mut psql = Command::new("psql")
        .args(["-qX", "-v", "ON_ERROR_STOP=1", url, "-c", command])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    psql.stdin.take().unwrap().write_all(input).unwrap();
    assert!(psql.wait().unwrap().success(), "{command}");
}

#[tokio::test]
async fn rows_are_exported_listed_and_put_back_by_psql_as_they_were() {
    let scene = with_rules(&["sessions"]).await;
    fill(&scene, "sessions", 5_000).await;
    let sum = "SELECT md5(string_agg(s::text, '|' ORDER BY id)) FROM sessions s";
    let app = scene.database.app("docrag").await;
    let before: String = app.query_one(sum, &[]).await.unwrap().get(0);
    assert!(scene.fine(&["backup", "exports"]).await.contains("There is no export"));
    let dry: TaskRunView = scene.place.json(&["task", "run", "database-maintenance", "--dry-run"]).await;
    let told = |line: &String| line.contains("each row once it is in the repository of backups");
    assert!(dry.details.iter().any(told), "{dry:?}");
    assert_eq!(ids(&scene, "sessions").await.len(), 5_001);

    let run: TaskRunView = scene.place.json(&["task", "run", "database-maintenance"]).await;
    assert!(run.ok, "{run:?}");
    assert_eq!(ids(&scene, "sessions").await, [0].into());
    let listed: ExportsView = scene.place.json(&["backup", "exports"]).await;
    let rows: Vec<u64> = listed.exports.iter().map(|export| export.rows).collect();
    assert_eq!(rows, [2_000, 3_000], "{listed:?}");
    assert_eq!(listed.stored, listed.exports.iter().map(|export| export.stored).sum::<u64>());
    let name = listed.exports[0].run();
    let text = scene.fine(&["backup", "exports"]).await;
    assert!(
        text.contains(&name) && text.contains("5,000") && text.contains("Groundskeeper never removes them"),
        "{text}"
    );
    let actions: Vec<ActionView> = scene.place.json(&["actions"]).await;
    let entry = actions.iter().find(|action| action.remedy == "postgres.delete_expired_rows").unwrap();
    assert_eq!(entry.entry, Some(listed.exports[0].entry));
    let undo = scene.place.run(&["undo", &entry.entry.unwrap().to_string()]).await;
    assert!(format!("{}{}", undo.out, undo.err).contains("backup exports"), "{undo:?}");

    let csv = scene.fine(&["backup", "exports", "--read", &name]).await;
    assert!(csv.starts_with("id,expires_at,doc,note\n") && csv.matches("id,expires_at").count() == 1);
    let url = scene.database.server.url_for("app", "app", "docrag");
    psql(
        &url,
        "\\copy sessions (id, expires_at, doc, note) FROM STDIN (FORMAT csv, HEADER, ENCODING UTF8)",
        csv.as_bytes(),
    );
    assert_eq!(app.query_one(sum, &[]).await.unwrap().get::<_, String>(0), before);

    // Once more, by the way for rows that may be there already.
    app.batch_execute("DELETE FROM sessions WHERE id % 2 = 0; CREATE TABLE back (LIKE sessions)").await.unwrap();
    psql(
        &url,
        "\\copy back (id, expires_at, doc, note) FROM STDIN (FORMAT csv, HEADER, ENCODING UTF8)",
        csv.as_bytes(),
    );
    let back = "INSERT INTO sessions (id, expires_at, doc, note) SELECT id, expires_at, doc, note FROM back ON CONFLICT DO NOTHING;
                INSERT INTO sessions VALUES (0, now(), NULL, 'young') ON CONFLICT DO NOTHING";
    app.batch_execute(back).await.unwrap();
    assert_eq!(ids(&scene, "sessions").await.len(), 5_001);

    let second = scene.fine(&["backup", "exports", "--read", &listed.exports[1].file]).await;
    assert!(second.starts_with("id,expires_at,doc,note\n2001,"), "{}", &second[..80]);
    let unknown = scene.place.run(&["backup", "exports", "--read", "2020"]).await;
    assert!(unknown.code == 2 && unknown.err.contains("there is no export `2020`"), "{unknown:?}");
}

#[tokio::test]
async fn a_repository_that_takes_nothing_keeps_the_rows_and_an_export_that_was_harmed_is_not_given() {
    let scene = with_rules(&["sessions", "others"]).await;
    fill(&scene, "sessions", 500).await;
    fill(&scene, "others", 500).await;
    let (there, aside) = (scene.repository(), scene.place.path().join("aside"));
    std::fs::rename(&there, &aside).unwrap();
    let run = scene.place.run(&["task", "run", "database-maintenance"]).await;
    assert!(run.code != 0, "{run:?}");
    assert_eq!((ids(&scene, "sessions").await.len(), ids(&scene, "others").await.len()), (501, 501));
    let actions: Vec<ActionView> = scene.place.json(&["actions"]).await;
    let told = format!("{actions:?}");
    assert!(told.contains("none of them was deleted") && told.contains("there is no repository"), "{told}");
    std::fs::rename(&aside, &there).unwrap();

    // Another table: this one's rule rests for an hour.
    fill(&scene, "later", 500).await;
    configure(&scene, &["later"], "export = true\n");
    let run: TaskRunView = scene.place.json(&["task", "run", "database-maintenance"]).await;
    assert!(run.ok && ids(&scene, "later").await == [0].into(), "{run:?}");
    let listed: ExportsView = scene.place.json(&["backup", "exports"]).await;
    let file = scene.repository().join(&listed.exports[0].file);
    let mut content = std::fs::read(&file).unwrap();
    *content.last_mut().unwrap() ^= 1;
    std::fs::write(&file, content).unwrap();
    let harmed = scene.place.run(&["backup", "exports", "--read", &listed.exports[0].id()]).await;
    assert!(harmed.code == 1 && harmed.out.is_empty() && harmed.err.contains("is damaged"), "{harmed:?}");
}

#[tokio::test]
async fn an_approved_plan_without_export_is_not_carried_out_once_the_rule_exports() {
    let scene = with_rules(&["sessions"]).await;
    fill(&scene, "sessions", 500).await;
    configure(&scene, &["sessions"], "");
    let app = scene.place.app().await;
    let plan = app.plan().await.unwrap().plan;
    app.approve(&plan.hash, true, "ann").await.unwrap();
    drop(app);
    configure(&scene, &["sessions"], "export = true\n");
    let app = scene.place.app().await;
    let applied = app.apply(&plan.hash, "ann").await.unwrap();
    assert!(format!("{applied:?}").contains("no rule of the configuration asks for that"), "{applied:?}");
    assert_eq!(ids(&scene, "sessions").await.len(), 501);
}

/// `kill -9`, each time as soon as another piece is in the repository, and a little later: no row is gone that is in no export.
#[tokio::test]
async fn killed_between_the_export_and_the_deletion_no_row_is_lost() {
    const TABLES: [&str; 4] = ["one", "two", "three", "four"];
    let scene = with_rules(&TABLES).await;
    for table in TABLES {
        fill(&scene, table, 6_000).await;
    }
    let pieces = || {
        let folder = scene.repository().join("exports/postgres.main/docrag/public");
        let tables = std::fs::read_dir(folder).into_iter().flatten();
        tables.flat_map(|table| std::fs::read_dir(table.unwrap().path()).unwrap()).count()
    };
    let mut killed = 0;
    for later in [0, 10, 50] {
        let before = pieces();
        let mut keeper = scene.place.start(&["task", "run", "database-maintenance"]);
        while pieces() == before && keeper.try_wait().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(later)).await;
        killed += u32::from(keeper.try_wait().unwrap().is_none());
        keeper.kill().await.unwrap();
        // The table first: what is missing in it was exported before.
        for table in TABLES {
            let left = ids(&scene, table).await;
            let kept = exported(&scene, table).await;
            let lost = (0..=6_000).filter(|id| !left.contains(id) && !kept.contains(id)).count();
            assert_eq!(lost, 0, "{table} after {later} ms");
        }
    }
    assert!(killed > 0, "every run was over before it was killed");
    let entries: Vec<ActionView> = {
        scene.place.run(&["task", "run", "database-maintenance"]).await;
        scene.place.json(&["actions"]).await
    };
    let open = |action: &&ActionView| action.ended.is_none();
    assert_eq!(entries.iter().filter(open).count(), 0, "what was left is settled: {entries:?}");
    assert!(format!("{entries:?}").contains(&format!("{:?}", Outcome::Helped)), "{entries:?}");
}

async fn exported(scene: &Scene, table: &str) -> BTreeSet<i64> {
    let listed: ExportsView = scene.place.json(&["backup", "exports"]).await;
    let mut ids = BTreeSet::new();
    for export in listed.exports.iter().filter(|export| export.table == table) {
        let csv = scene.fine(&["backup", "exports", "--read", &export.file]).await;
        // A note goes on in a line of its own, which begins with no number.
        ids.extend(csv.lines().filter_map(|line| line.split_once(',')?.0.parse::<i64>().ok()));
    }
    ids
}
