//! A setting that somebody changes is told, until somebody accepts it.

use crate::scene::{Database, GRANTS, Place, eventually};
use groundskeeper::app::App;
use groundskeeper_core::Finding;

const CHECK: &str = "postgres.settings_drifted";

async fn drift(app: &App) -> Option<Finding> {
    let run = app.task_run("watch", false, "ann").await.unwrap();
    assert!(run.ok, "{run:?}");
    let open = app.findings(false).await.unwrap();
    open.into_iter().map(|view| view.finding).find(|finding| finding.check == CHECK)
}

/// What a record of an older version had: 64 bits of the bare hash of `restore_command`.
const BARE: &str = "UPDATE accepted SET body = json_set(body, '$.settings.restore_command.value', 'sha256:' || ?1)";

#[tokio::test]
async fn a_secret_is_compared_by_a_keyed_hash_and_what_an_older_version_accepted_is_sealed() {
    let database = Database::start(GRANTS).await;
    let admin = database.server.client().await;
    admin.batch_execute("ALTER SYSTEM SET restore_command = 'cp %p s3://key:hunter2@x'").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let sql = "SELECT left(encode(sha256(convert_to(reset_val, 'UTF8')), 'hex'), 16) FROM pg_settings
                WHERE name = 'restore_command' AND reset_val LIKE '%hunter2%'";
    let bare: String = eventually("it is taken", async || {
        database.server.client().await.query_opt(sql, &[]).await.unwrap().map(|row| row.get(0))
    })
    .await;
    let place = Place::new(&database.config("", ""));
    let app = place.app().await;
    assert_eq!(drift(&app).await, None);
    let kept = "SELECT body FROM accepted";
    let body = || place.store().query_row(kept, [], |row| row.get::<_, String>(0)).unwrap();
    let first = body();
    drop(app);

    assert_eq!(place.store().execute(BARE, [&bare]).unwrap(), 1);
    let app = place.app().await;
    let told = drift(&app).await;
    assert_eq!((told, body()), (None, first), "the same secret, under the same key");
    drop(app);
    assert_eq!(place.store().execute(BARE, ["0123456789abcdef"]).unwrap(), 1);
    let app = place.app().await;
    let found = drift(&app).await.unwrap();
    assert!(found.summary.starts_with("restore_command is sealed:"), "{found:?}");
    for bare in [bare.as_str(), "0123456789abcdef", "hunter2"] {
        assert!(!body().contains(bare) && !format!("{found:?}").contains(bare), "{bare}: {found:?}");
    }
    assert_eq!(place.count("SELECT count(*) FROM audit WHERE what = 'seal accepted secrets'"), 2);
}

#[tokio::test]
async fn a_changed_setting_is_told_with_both_values_until_it_is_accepted() {
    let database = Database::start(GRANTS).await;
    let admin = database.server.client().await;
    let place = Place::new(&database.config("", ""));
    let app = place.app().await;
    assert_eq!(drift(&app).await, None, "the first reading accepts what it sees");
    assert_eq!(place.count("SELECT count(*) FROM accepted WHERE who = 'the first reading'"), 1);

    admin.batch_execute("ALTER SYSTEM SET work_mem = '7MB'").await.unwrap();
    assert_eq!(drift(&app).await, None, "nobody has taken it up");
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let found = eventually("the change is told", async || drift(&app).await).await;
    assert_eq!(found.summary, "work_mem is 7MB and was accepted as its default: set by ALTER SYSTEM");
    let told = found.fix.split("such as ").nth(1).unwrap();
    assert_eq!(told, "ALTER SYSTEM RESET work_mem; SELECT pg_reload_conf();");

    let view = app.accept("main", "ann").await.unwrap();
    let changes = view.changes.unwrap();
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(drift(&app).await, None);
    assert_eq!(place.count("SELECT count(*) FROM audit WHERE what = 'accept configuration' AND who = 'ann'"), 1);

    // Back again is a change, too.
    for statement in told.split(';').filter(|statement| !statement.trim().is_empty()) {
        admin.batch_execute(statement).await.unwrap();
    }
    let found = eventually("it is told that it is gone", async || drift(&app).await).await;
    assert_eq!(found.summary, "work_mem is 4MB and was accepted as 7MB: set by default");
    drop(app);
    let said = place.run(&["accept", "postgres.main"]).await;
    assert!(said.code == 0 && said.out.contains("work_mem: 7MB → 4MB (default)"), "{said:?}");
    let said = place.run(&["accept", "redis.cache"]).await;
    assert!(said.code == 2 && said.err.contains("there is postgres.main"), "{said:?}");
}
