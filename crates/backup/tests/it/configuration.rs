//! The configuration of a Postgres that lies outside of its data folder, as in Debian's packages.

use crate::scene::{Scene, files, now, settings};
use groundskeeper_backup::Vault;
use groundskeeper_core::receipt::Rung;
use groundskeeper_testing::PostgresOptions;
use groundskeeper_testing::scratch::Scratch;
use std::fs;
use std::path::Path;

/// A server whose files of configuration are in a folder of their own.
async fn scene(etc: &Path) -> Scene {
    fs::create_dir(etc.join("conf.d")).unwrap();
    fs::write(etc.join("conf.d/extra.conf"), "work_mem = '5MB'\n").unwrap();
    fs::write(
        etc.join("pg_hba.conf"),
        "# ours\nlocal all all trust\nhost all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n",
    )
    .unwrap();
    fs::write(etc.join("pg_ident.conf"), "# nobody\n").unwrap();
    let file = |name: &str| etc.join(name).display().to_string();
    let options =
        PostgresOptions::default().set("hba_file", file("pg_hba.conf")).set("ident_file", file("pg_ident.conf"));
    let scene = Scene::with(options).await;
    // The include is made afterwards: the fixture writes its own postgresql.conf.
    let conf = scene.server.data_dir().join("postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{text}\ninclude_dir '{}'\n", file("conf.d"))).unwrap();
    let client = scene.server.client().await;
    client.query_one("SELECT pg_reload_conf()", &[]).await.unwrap();
    // The postmaster reads it when it gets to it.
    while client.query_one("SHOW work_mem", &[]).await.unwrap().get::<_, String>(0) != "5MB" {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn files_outside_of_the_data_folder_come_along() {
    let etc = Scratch::new("etc").unwrap();
    let scene = scene(etc.path()).await;
    let made = scene.make().await;
    let known = made.parts[0].configuration.as_ref().unwrap();
    assert!(known.unreadable.is_empty() && known.files.len() == 3, "{known:?}");
    let into = scene.folder.path().join("restored");
    let restored = scene.vault.restore(None, Some("postgres.main"), &into).await.unwrap();
    let folder = into.join("postgres.main/configuration");
    let all = files(&folder);
    let read = |name: &str| {
        let path = all.iter().find(|path| path.ends_with(name)).unwrap_or_else(|| panic!("no {name}: {all:?}"));
        fs::read_to_string(path).unwrap()
    };
    assert!(read("pg_hba.conf").starts_with("# ours\n"));
    assert_eq!(read("extra.conf"), "work_mem = '5MB'\n");
    assert!(read("settings.conf").contains("\nwork_mem = '5120'\n"), "{}", read("settings.conf"));
    assert!(restored.parts[0].next.join(" ").contains(folder.to_str().unwrap()), "{restored:?}");
    let drilled = scene.vault.drill(None, crate::scene::BUDGET, now()).await.unwrap();
    assert!(drilled.proven() >= Some(Rung::Alive), "{:?}", drilled.climbs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_read_files_gives_the_settings_and_says_what_is_missing() {
    let etc = Scratch::new("etc").unwrap();
    let scene = scene(etc.path()).await;
    let client = scene.server.client().await;
    client
        .batch_execute("CREATE ROLE keeper LOGIN REPLICATION PASSWORD 'pw'; GRANT pg_monitor TO keeper")
        .await
        .unwrap();
    let vault = Vault::new(settings(&scene.server.url_for("keeper", "pw", "postgres"), scene.folder.path()));
    let made = vault.make(Vec::new(), now()).await.unwrap();
    assert!(made.is_whole(), "the data are what counts: {made:?}");
    let known = made.parts[0].configuration.as_ref().unwrap();
    assert!(known.files.is_empty() && known.unreadable.len() == 3, "{known:?}");
    assert!(known.unreadable.iter().all(|told| told.contains("permission denied")), "{known:?}");
    let told = scene.restic(&["dump", "latest", "/postgres.main/configuration/settings.conf"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("work_mem = '5120'"), "{told:?}");
    // With these rights they are there.
    client
        .batch_execute(&groundskeeper_systems::postgres::configuration::rights_to_read_files("keeper"))
        .await
        .unwrap();
    let made = vault.make(Vec::new(), now()).await.unwrap();
    assert_eq!(made.parts[0].configuration.as_ref().unwrap().files.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_in_the_data_folder_is_not_stored_twice() {
    let scene = Scene::with(PostgresOptions::default()).await;
    let made = scene.make().await;
    assert!(made.parts[0].configuration.is_none(), "{made:?}");
    let listed = scene.restic(&["ls", "latest", "/postgres.main"]);
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("configuration"), "{listed:?}");
}
