//! Somebody without Groundskeeper replays what was streamed, by the recovery plan, word by word.

use super::*;
use crate::recovery_plan::{Followed, with_key_file};

const TOLD: &str = "SELECT 'told: ' || string_agg(what, ' ' ORDER BY at) FROM told";

/// With a set that has what opens the WAL.
async fn begun() -> Streaming {
    let streaming = Streaming::start().await;
    streaming.caught_up().await;
    streaming.set().await;
    streaming
}

fn plan(streaming: &Streaming) -> String {
    std::fs::read_to_string(streaming.scene.repository().join("recovery.md")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_with_age_and_zstd_gets_what_was_committed_after_the_set() {
    let mut streaming = begun().await;
    streaming.tell("first").await;
    streaming.switch().await;
    streaming.tell("second").await;
    let between = streaming.time().await;
    streaming.tell("third").await;
    streaming.caught_up().await;
    let partial = streaming.scene.files("wal").into_iter().filter(|file| is_partial(file)).count();
    assert!(partial > 0, "the newest segment is a partial one");
    let vault = with_key_file(&streaming.vault, streaming.scene.folder.path());
    vault.keep_plan(real_now()).await.unwrap();
    let plan = plan(&streaming);
    assert!(!plan.contains(KEY) && !plan.contains("AGE-SECRET-KEY"), "a plan holds no secret");
    let password = streaming.scene.server.password();

    let all = Followed::new(&vault, &plan, "postgres.main");
    let said = all.ask(password, TOLD);
    assert!(said.contains("told: first second third\n"), "{said}");
    assert!(!said.contains("WAL is missing"), "{said}");

    // The one line that a person writes anew.
    let mut earlier = Followed::new(&vault, &plan, "postgres.main");
    assert_eq!(earlier.script.matches("target=''").count(), 1);
    earlier.script =
        earlier.script.replace("target=''", &between.strftime("target='%Y-%m-%d %H:%M:%S.%6f+00'").to_string());
    let said = earlier.ask(password, TOLD);
    assert!(said.contains("told: first second\n"), "{said}");
    streaming.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_told_of_wal_that_is_missing_and_of_a_tablespace() {
    let mut streaming = begun().await;
    let space = streaming.scene.folder.path().join("space");
    make_space(&space, &streaming.scene.server.data_dir());
    let sql = format!("CREATE TABLESPACE later LOCATION '{}'", space.display());
    streaming.client.batch_execute(&sql).await.unwrap();
    streaming.client.batch_execute("DROP TABLESPACE later").await.unwrap();
    for what in ["first", "second", "third"] {
        streaming.tell(what).await;
        streaming.switch().await;
    }
    streaming.caught_up().await;
    streaming.end().await;
    let segments = streaming.segments();
    let lost = &segments[segments.len() - 2];
    std::fs::remove_file(lost).unwrap();
    let after = segments.last().unwrap().file_name().unwrap().to_str().unwrap().replace(".zst.age", "");
    let vault = with_key_file(&streaming.vault, streaming.scene.folder.path());
    vault.keep_plan(real_now()).await.unwrap();

    // As the plan says, only where nothing uses the path; the server of this test has dropped it again.
    let followed = Followed::new(&vault, &plan(&streaming), "postgres.main");
    let said = followed.ask(streaming.scene.server.password(), TOLD);
    assert!(said.contains(&format!("WAL is missing before {after}\n")), "{said}");
    assert!(said.contains(&format!("\"{}\"", space.display())) && said.contains("desc: CREATE"), "{said}");
    assert!(said.contains("told: first\n") && !said.contains("third"), "what lies behind the gap is not there: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_comes_to_the_timeline_after_a_promotion() {
    let mut streaming = begun().await;
    streaming.tell("before").await;
    streaming.caught_up().await;
    streaming.scene.server.stop().await.unwrap();
    std::fs::write(streaming.scene.server.data_dir().join("standby.signal"), "").unwrap();
    streaming.scene.server.start_again().await.unwrap();
    streaming.client = streaming.scene.server.client().await;
    assert!(streaming.ask::<bool>("SELECT pg_promote()").await);
    streaming.tell("after").await;
    let written = streaming.written().await;
    streaming.until("it follows", |stream| stream.timeline == Some(2) && stream.durable >= Some(written)).await;
    let vault = with_key_file(&streaming.vault, streaming.scene.folder.path());
    vault.keep_plan(real_now()).await.unwrap();
    let followed = Followed::new(&vault, &plan(&streaming), "postgres.main");
    let said = followed.ask(streaming.scene.server.password(), TOLD);
    assert!(said.contains("told: before after\n") && !said.contains("WAL is missing"), "{said}");
    streaming.end().await;
}
