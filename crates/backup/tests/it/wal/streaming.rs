//! Good days: a time between two commits, a timeline's end, plain tools.

use super::*;
use groundskeeper_backup::Retention;
use groundskeeper_core::receipt::{ClimbOutcome, Rung, SetId};
use groundskeeper_core::retention::Keep;
use std::io::Write;

#[tokio::test(flavor = "multi_thread")]
async fn a_time_between_two_commits_is_restored_with_the_one_and_without_the_other() {
    let mut streaming = Streaming::start().await;
    streaming.caught_up().await;
    let before = streaming.time().await;
    streaming.set().await;
    streaming.tell("first").await;
    let between = streaming.time().await;
    streaming.tell("second").await;
    streaming.switch().await;
    streaming.tell("third").await;
    let stands = streaming.caught_up().await;
    assert!(stands.worst_seconds.is_some() && stands.trouble.is_none() && stands.gaps.is_empty(), "{stands:?}");

    assert_eq!(streaming.restored(Target::Time(between)).await.unwrap(), ["first"]);
    assert_eq!(streaming.restored(Target::Latest).await.unwrap(), ["first", "second", "third"]);
    // Nothing was committed since, so there is nothing to stop at, and that is no error.
    let now = streaming.time().await;
    let last = streaming.boot(Target::Time(now)).await.unwrap();
    assert_eq!(last.told().await, ["first", "second", "third"]);
    let next = last.restored.parts[0].next.join("\n");
    assert!(next.contains("No transaction in the repository is younger than"), "{next}");
    let early = streaming.restored(Target::Time(before)).await.unwrap_err();
    assert!(matches!(&early, Error::Wal(why) if why.contains("no set")), "{early}");
    streaming.end().await;
    let slot: bool = streaming.ask("SELECT active FROM pg_replication_slots").await;
    assert!(!slot, "the slot stays, and nobody is at it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drill_shows_how_far_it_came() {
    let streaming = Streaming::start().await;
    streaming.set().await;
    streaming.tell("first").await;
    let between = streaming.time().await;
    streaming.tell("second").await;
    streaming.caught_up().await;
    for (target, told) in [
        (Target::Time(between), format!("to the last transaction before {between}")),
        (Target::Latest, "to the end of timeline 1 with its last transaction of".to_owned()),
    ] {
        let drilled = streaming.vault.drill_to(None, target, BUDGET, real_now()).await.unwrap();
        let climb = drilled.last(Rung::Alive).unwrap_or_else(|| panic!("{drilled:?}"));
        let ClimbOutcome::Proven { shown, .. } = &climb.outcome else { panic!("{climb:?}") };
        assert!(shown.contains(&told), "{shown}");
    }
    assert_eq!(std::fs::read_dir(streaming.scene.scratch()).unwrap().count(), 0, "the drill takes its place away");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_goes_on_on_the_next_timeline() {
    let mut streaming = Streaming::start().await;
    streaming.set().await;
    streaming.tell("before").await;
    streaming.caught_up().await;
    streaming.scene.server.stop().await.unwrap();
    std::fs::write(streaming.scene.server.data_dir().join("standby.signal"), "").unwrap();
    streaming.scene.server.start_again().await.unwrap();
    streaming.client = streaming.scene.server.client().await;
    assert!(streaming.ask::<bool>("SELECT pg_promote()").await);
    streaming.tell("after").await;
    let written = streaming.written().await;
    let stands = streaming.until("it follows", |stream| stream.timeline == Some(2) && stream.durable >= Some(written));
    assert_eq!(stands.await.gaps, []);
    assert_eq!(streaming.restored(Target::Latest).await.unwrap(), ["before", "after"]);
    let drilled = streaming.vault.drill_to(None, Target::Latest, BUDGET, real_now()).await.unwrap();
    let climb = drilled.last(Rung::Alive).unwrap();
    assert!(matches!(&climb.outcome, ClimbOutcome::Proven { shown, .. } if shown.contains("timeline 2")), "{climb:?}");
}

/// What a program makes of its input.
fn piped(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let child = Command::new(program).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}; run `cargo xtask setup`"));
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_owned());
    let writing = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_age_and_zstd_open_what_was_stored() {
    let mut streaming = Streaming::start().await;
    streaming.caught_up().await;
    streaming.switch().await;
    streaming.tell("after").await;
    streaming.caught_up().await;
    streaming.end().await;
    streaming.set().await;
    let identity = streaming.scene.folder.path().join("identity");
    // From the set by restic, as whoever has nothing else would do it.
    let dumped = streaming.scene.restic(&["dump", "latest", "/groundskeeper/wal-identity.txt"]);
    assert!(dumped.status.success(), "{dumped:?}");
    std::fs::write(&identity, dumped.stdout).unwrap();
    let identity = identity.to_str().unwrap();
    let stored = streaming.segments();
    assert!(!stored.is_empty());
    for file in stored {
        let small = piped("age", &["-d", "-i", identity], &std::fs::read(&file).unwrap());
        let content = piped("zstd", &["-d", "-q", "-c"], &small);
        let name = file.file_name().unwrap().to_str().unwrap()[..24].to_owned();
        let theirs = std::fs::read(streaming.scene.server.data_dir().join("pg_wal").join(&name));
        if let Ok(theirs) = theirs {
            assert!(content == theirs, "{name} is the server's");
        }
        assert_eq!(content.len(), 16 << 20, "{name}");
    }
    // The identity itself, with the repository's key as the passphrase. It is asked for on a terminal only.
    let keys = streaming.scene.files("wal/keys");
    let [key] = keys.as_slice() else { panic!("{keys:?}") };
    let opened =
        piped("script", &["-qec", &format!("age -d {}", key.display()), "/dev/null"], format!("{KEY}\n").as_bytes());
    let opened = String::from_utf8(opened).unwrap();
    assert!(opened.contains("AGE-SECRET-KEY-"), "{opened}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_before_the_oldest_set_is_needless_and_all_after_it_is_kept() {
    let streaming = Streaming::start().await;
    for what in ["one", "two", "three"] {
        streaming.tell(what).await;
        streaming.switch().await;
    }
    streaming.caught_up().await;
    assert_eq!(streaming.vault.prune(&[], real_now()).await.unwrap().freed.wal, 0, "without a set nothing goes");
    streaming.set().await;
    streaming.tell("four").await;
    streaming.caught_up().await;
    let before = streaming.segments().len();
    let would = streaming.vault.plan_prune(real_now()).await.unwrap();
    assert!(would.freed.wal > 0 && would.is_due(), "{would:?}");
    assert_eq!(streaming.segments().len(), before, "nothing goes unless it is asked for");
    let pruned = streaming.vault.prune(&[], real_now()).await.unwrap();
    assert_eq!(pruned.freed.wal, would.freed.wal);
    assert!(streaming.segments().len() + 3 <= before, "{:?}", streaming.segments());
    assert_eq!(streaming.vault.prune(&[], real_now()).await.unwrap().freed.wal, 0);
    assert_eq!(streaming.vault.wal_gaps(real_now()).await.unwrap(), [], "what was removed at the front is no gap");
    assert_eq!(streaming.restored(Target::Latest).await.unwrap(), ["one", "two", "three", "four"]);

    // The WAL between two sets goes with the older one, and not before.
    let keep = Keep { last: 1, hourly: 0, daily: 0, weekly: 0, monthly: 0, yearly: 0, ..Keep::default() };
    let one = streaming.vault.clone().keeping(Retention { keep, ..Retention::default() });
    streaming.switch().await;
    streaming.caught_up().await;
    assert_eq!(one.plan_prune(real_now()).await.unwrap().freed.wal, 0);
    streaming.set().await;
    let plan = one.plan_prune(real_now()).await.unwrap();
    let going: Vec<SetId> = plan.removed().map(|judged| judged.set.clone()).collect();
    assert!(going.len() == 1 && plan.freed.wal > 0, "{plan:?}");
    assert_eq!(one.prune(&going, real_now()).await.unwrap().freed.wal, plan.freed.wal);
    streaming.tell("five").await;
    streaming.caught_up().await;
    assert_eq!(streaming.restored(Target::Latest).await.unwrap().last().unwrap(), "five");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_added_opens_the_wal_by_itself_and_one_that_is_removed_does_not() {
    let streaming = Streaming::start().await;
    streaming.caught_up().await;
    let added = streaming.vault.add_key(&"another one".into()).await.unwrap();
    let files = || streaming.scene.files("wal/keys").len();
    assert_eq!(files(), 2);
    streaming.vault.remove_key(&added.id[..8]).await.unwrap();
    assert_eq!(files(), 1);
}
