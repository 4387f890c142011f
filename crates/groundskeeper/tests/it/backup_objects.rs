//! Backups in an object store as their users meet them: a real S3 server, a proxy that refuses, the built program.

use crate::scene::{Database, Place};
use groundskeeper::app::api::{BackupListView, CheckView};
use groundskeeper_core::Status;
use groundskeeper_core::receipt::Rung;
use groundskeeper_testing::{Fault, FaultProxy, S3Server};
use std::fs;

const SECRET: &str = "hunter2-of-the-test";

/// The findings of `check backup`, and the checks that could not be judged.
async fn checked(place: &Place) -> (Vec<String>, Vec<String>) {
    let view: CheckView = place.json(&["check", "backup"]).await;
    let (mut failing, mut unknown) = (Vec::new(), Vec::new());
    for judgement in view.systems.into_iter().flat_map(|system| system.judgements) {
        match judgement.status {
            Status::Failing { .. } => failing.push(judgement.check),
            Status::Unknown(_) => unknown.push(judgement.check),
            Status::Ok => {}
        }
    }
    (failing, unknown)
}

#[tokio::test(flavor = "multi_thread")]
async fn sets_go_into_a_bucket_and_a_store_that_refuses_is_a_failed_run_and_a_finding() {
    let database = Database::start("ALTER ROLE keeper REPLICATION; GRANT pg_monitor TO keeper").await;
    let server = S3Server::start().await.unwrap();
    let proxy = FaultProxy::start(&server).await.unwrap();
    let place = Place::new("");
    fs::write(place.path().join("backup.key"), "a key that nobody guesses\n").unwrap();
    fs::write(place.path().join("s3.secret"), format!("{SECRET}\n")).unwrap();
    let backup = format!(
        "[backup]\nrepository = \"s3://backups/keeper\"\nkey_file = \"backup.key\"\nleave_free = \"0 B\"\n\
         scratch = \"{}\"\nconnections = 2\nupload_limit = \"1 GB/s\"\n[backup.storage]\nendpoint = \"{}\"\n\
         access_key_id = \"key-of-the-test\"\nsecret_access_key_file = \"s3.secret\"\nretry_for = \"2s\"",
        place.path().join("scratch").display(),
        proxy.url()
    );
    place.configure(&database.config("", &backup));
    let made = place.run(&["backup", "init"]).await;
    assert!(made.code == 0 && made.out.contains("s3://backups/keeper"), "{made:?}");
    assert_eq!(place.run(&["backup", "run"]).await.code, 0);
    assert_eq!(place.run(&["backup", "verify"]).await.code, 0);
    let listed: BackupListView = place.json(&["backup", "list"]).await;
    assert_eq!(listed.sets[0].proven(), Some(Rung::Intact), "{listed:?}");
    let (failing, unknown) = checked(&place).await;
    assert_eq!(unknown, ["backup.repository_nearly_full"]);
    assert_eq!(failing, Vec::<String>::new());

    proxy.misbehave(|_| Some(Fault::Answer(403, "InvalidAccessKeyId")));
    let refused = place.run(&["backup", "run"]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    let told = format!("{}{}", refused.out, refused.err);
    assert!(told.contains("permission denied") || told.contains("the credentials are wrong"), "{told}");
    let list = place.run(&["backup", "list"]).await;
    assert_eq!(list.code, 3, "{list:?}");
    let (failing, _) = checked(&place).await;
    assert_eq!(failing, ["backup.unreachable"]);
    let all = format!("{told}{}{}{:?}", list.out, list.err, place.run(&["doctor"]).await);
    assert!(!all.contains(SECRET) && !all.contains("AWS4-HMAC"), "{all}");

    proxy.behave();
    let listed: BackupListView = place.json(&["backup", "list"]).await;
    assert_eq!(listed.sets.len(), 1, "nothing came of the run that failed");
    fs::remove_file(place.path().join("s3.secret")).unwrap();
    let gone = place.run(&["backup", "list"]).await;
    assert!(gone.code == 3 && gone.err.contains("s3.secret"), "{gone:?}");
}
