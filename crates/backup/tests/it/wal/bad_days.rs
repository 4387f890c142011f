//! Bad days: each is really caused, nothing that was safe is lost, and what is missing is named.

use super::*;
use groundskeeper_core::quantity::seconds_between;
use groundskeeper_core::receipt::{ClimbOutcome, Rung};

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_segment_is_named_and_nothing_is_restored_over_it() {
    let mut streaming = Streaming::start().await;
    streaming.set().await;
    streaming.tell("first").await;
    let early = streaming.time().await;
    for _ in 0..4 {
        streaming.tell("more").await;
        streaming.switch().await;
    }
    streaming.tell("last").await;
    streaming.caught_up().await;
    streaming.end().await;
    let segments = streaming.segments();
    let lost = &segments[segments.len() - 2];
    std::fs::remove_file(lost).unwrap();
    let name = lost.file_name().unwrap().to_str().unwrap()[..24].to_owned();

    let error = streaming.restored(Target::Latest).await.unwrap_err();
    assert!(matches!(&error, Error::Wal(why) if why.contains(&name) && why.contains("missing")), "{error}");
    let left = std::fs::read_dir(streaming.scene.folder.path()).unwrap().flatten();
    let left: Vec<PathBuf> =
        left.map(|entry| entry.path()).filter(|path| path.to_str().unwrap().contains("restored-")).collect();
    let [left] = left.as_slice() else { panic!("{left:?}") };
    assert_eq!(std::fs::read_dir(left).unwrap().count(), 0, "nothing was restored");
    let drilled = streaming.vault.drill_to(None, Target::Latest, BUDGET, real_now()).await.unwrap_err();
    assert!(matches!(&drilled, Error::Wal(why) if why.contains(&name)), "{drilled}");
    assert_eq!(streaming.restored(Target::Time(early)).await.unwrap(), ["first"], "before the gap all is well");
    let gaps = streaming.vault.wal_gaps(real_now()).await.unwrap();
    assert!(gaps.len() == 1 && gaps[0].why.contains(&name), "also while nobody streams: {gaps:?}");
    streaming.begin();
    let stands = streaming.until("it is noticed", |stream| !stream.gaps.is_empty()).await;
    assert!(stands.gaps[0].why.contains(&name), "{stands:?}");
    let receipts = streaming.vault.receipts().await.unwrap();
    assert!(!stands.gaps[0].is_closed_by(&receipts));
    streaming.set().await;
    assert!(stands.gaps[0].is_closed_by(&streaming.vault.receipts().await.unwrap()), "the next set closes it");
    streaming.tell("behind").await;
    streaming.caught_up().await;
    assert_eq!(streaming.restored(Target::Latest).await.unwrap().last().unwrap(), "behind");
}

/// What a crash took.
struct Crash {
    acknowledged: usize,
    /// Of those, how many are there again.
    there: usize,
    /// How many had been said to be safe.
    safe: usize,
    /// Seconds between the first commit that is lost and the crash.
    lost: f64,
    /// Whether a segment that was not full was in the repository at the crash.
    had_partial: bool,
}

/// Commits, `pause` apart, until the server is killed with `kill -9` and its data directory is gone.
async fn crash(pause: Duration, after: Duration) -> Crash {
    let mut streaming = Streaming::start().await;
    streaming.set().await;
    streaming.caught_up().await;
    let started = Instant::now();
    let mut told = Vec::new();
    while started.elapsed() < after {
        let what = told.len().to_string();
        streaming.tell(&what).await;
        told.push((what, real_now()));
        tokio::time::sleep(pause).await;
    }
    let pid = streaming.scene.server.pid().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let crashed = real_now();
    let safe_until = streaming.stands().unwrap().safe_until.unwrap();
    let had_partial = streaming.scene.files("wal").iter().any(|file| is_partial(file));
    // Its children end a moment after it, and may still write.
    while std::fs::remove_dir_all(streaming.scene.server.data_dir()).is_err() {
        assert!(seconds_between(crashed, real_now()) < 60.0);
    }
    streaming.end().await;
    let there = streaming.restored(Target::Latest).await.unwrap();
    assert!(told.iter().map(|(what, _)| what).zip(&there).all(|(told, there)| told == there), "no hole in it");
    Crash {
        acknowledged: told.len(),
        there: there.len(),
        safe: told.iter().filter(|(_, at)| *at < safe_until).count(),
        lost: told.get(there.len()).map_or(0.0, |(_, at)| seconds_between(*at, crashed)),
        had_partial,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_one_commit_a_second_takes_less_than_five_seconds() {
    let crash = crash(Duration::from_secs(1), Duration::from_secs(9)).await;
    let Crash { acknowledged, there, safe, lost, had_partial } = crash;
    eprintln!("{there} of {acknowledged} commits are there, {safe} were said to be safe; {lost:.1} s are lost");
    assert!(had_partial, "far from a full segment was written, so a partial one was stored");
    assert!(there >= safe && there > 0 && lost < 5.0, "{there} of {safe}, {lost}");
}

/// How much that is depends on the machine; that what was said to be safe is there does not.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_to_be_safe_survives_the_loss_of_the_server() {
    let Crash { acknowledged, there, safe, lost, .. } = crash(Duration::from_millis(5), Duration::from_secs(7)).await;
    eprintln!("{there} of {acknowledged} commits are there, {safe} were said to be safe; {lost:.1} s are lost");
    assert!(safe > 0 && there >= safe && lost < 60.0, "{there} of {safe}, {lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_again_and_again_leaves_no_gap() {
    let mut streaming = Streaming::start().await;
    streaming.set().await;
    for round in 0..5 {
        streaming.until("it streams", |stream| stream.trouble.is_none() && stream.durable.is_some()).await;
        streaming.tell(&round.to_string()).await;
        streaming.client.batch_execute("INSERT INTO documents SELECT n + 10000 * (1 + (SELECT count(*) FROM told)), 'x' FROM generate_series(1, 9999) n").await.unwrap();
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication";
        streaming.ask::<i64>(cut).await;
    }
    let stands = streaming.caught_up().await;
    assert_eq!(stands.gaps, []);
    assert_eq!(streaming.restored(Target::Latest).await.unwrap(), ["0", "1", "2", "3", "4"]);
    streaming.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_at_any_moment_goes_on_from_what_is_safe() {
    let mut streaming = Streaming::start().await;
    streaming.set().await;
    let (_, worker) = streaming.worker.take().unwrap();
    worker.abort();
    for round in 0..12_u64 {
        streaming.begin();
        streaming.tell(&round.to_string()).await;
        streaming
            .client
            .batch_execute(&format!(
                "CREATE TABLE more_{round} AS SELECT repeat('x', 500) FROM generate_series(1, 4000)"
            ))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(40 + round * 97 % 700)).await;
        let (_, worker) = streaming.worker.take().unwrap();
        worker.abort();
    }
    streaming.begin();
    let stands = streaming.caught_up().await;
    assert_eq!(stands.gaps, []);
    let all: Vec<String> = (0..12).map(|round: u64| round.to_string()).collect();
    assert_eq!(streaming.restored(Target::Latest).await.unwrap(), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_keeps_too_much_is_given_up_and_the_gap_is_closed_by_the_next_set() {
    let options = PostgresOptions::default().set("max_wal_size", "64MB").set("min_wal_size", "32MB");
    let streaming = Streaming::with(options, 40 << 20).await;
    streaming.set().await;
    streaming.tell("safe").await;
    streaming.caught_up().await;
    // The disk of the repository is gone.
    let (repository, aside) = (streaming.scene.repository(), streaming.scene.folder.path().join("aside"));
    std::fs::rename(&repository, &aside).unwrap();
    for round in 0..4 {
        let fill =
            format!("CREATE TABLE fill_{round} AS SELECT repeat(md5(n::text), 30) FROM generate_series(1, 20000) n");
        streaming.client.batch_execute(&fill).await.unwrap();
        streaming.switch().await;
    }
    let stands = streaming.until("the slot is given up", |stream| stream.gave_up.is_some()).await;
    assert!(stands.trouble.is_some(), "{stands:?}");
    let slots: i64 = streaming.ask("SELECT count(*) FROM pg_replication_slots").await;
    assert_eq!(slots, 0);
    streaming.client.batch_execute("CHECKPOINT").await.unwrap();
    let _ = std::fs::remove_dir_all(&repository);
    std::fs::rename(&aside, &repository).unwrap();
    let stands =
        streaming.until("the gap is noted", |stream| !stream.gaps.is_empty() && stream.gave_up.is_none()).await;
    let gap = stands.gaps[0].clone();
    assert!(gap.from < gap.to && gap.why.contains("given up"), "{gap:?}");
    streaming.tell("behind").await;
    streaming.caught_up().await;
    let error = streaming.restored(Target::Latest).await.unwrap_err();
    assert!(matches!(&error, Error::Wal(why) if why.contains("missing")), "{error}");
    streaming.set().await;
    assert!(gap.is_closed_by(&streaming.vault.receipts().await.unwrap()));
    streaming.tell("closed").await;
    streaming.caught_up().await;
    assert_eq!(streaming.restored(Target::Latest).await.unwrap(), ["safe", "behind", "closed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keepers_do_not_stream_from_one_server() {
    let streaming = Streaming::start().await;
    streaming.caught_up().await;
    let board = Board::new(streaming.scene.folder.path().join("other.json"));
    let (stop, stopped) = watch::channel(false);
    let source = streaming.vault.settings().postgres[0].clone();
    let other = tokio::spawn(keep_streaming(streaming.vault.clone(), source, board.clone(), real_now, stopped));
    let started = Instant::now();
    let why = loop {
        if let Some(why) = board.streams().into_iter().find_map(|stream| stream.trouble) {
            break why;
        }
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(why.contains(SLOT) && why.contains("other keeper"), "{why}");
    stop.send(true).unwrap();
    other.await.unwrap();
    streaming.tell("still").await;
    streaming.caught_up().await;
}

/// What a server that is set back has is not what follows on the repository.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_set_back_without_a_new_timeline_is_refused() {
    let mut streaming = Streaming::start().await;
    streaming.caught_up().await;
    streaming.end().await;
    streaming.scene.server.stop().await.unwrap();
    let (data, aside) = (streaming.scene.server.data_dir(), streaming.scene.folder.path().join("older"));
    assert!(Command::new("cp").arg("-a").arg(&data).arg(&aside).status().unwrap().success());
    streaming.scene.server.start_again().await.unwrap();
    streaming.client = streaming.scene.server.client().await;
    streaming.begin();
    for _ in 0..3 {
        streaming.tell("one way").await;
        streaming.switch().await;
    }
    streaming.caught_up().await;
    streaming.end().await;
    let before = streaming.scene.files("wal").len();
    streaming.scene.server.stop_immediate().await.unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    assert!(Command::new("cp").arg("-a").arg(&aside).arg(&data).status().unwrap().success());
    streaming.scene.server.start_again().await.unwrap();
    streaming.begin();
    let stands = streaming.until("it is refused", |stream| stream.trouble.is_some()).await;
    assert!(stands.trouble.unwrap().contains("set back without a new timeline"));
    assert_eq!(streaming.scene.files("wal").len(), before, "nothing of the other history is stored");
}

/// `CREATE TABLESPACE` is in the WAL with its path: replayed where the live one is, it would write over it.
#[tokio::test(flavor = "multi_thread")]
async fn a_tablespace_that_was_made_after_the_set_is_never_written_over() {
    let mut streaming = Streaming::start().await;
    streaming.set().await;
    streaming.tell("first").await;
    let early = streaming.time().await;
    streaming.tell("second").await;
    let space = streaming.scene.folder.path().join("space");
    make_space(&space, &streaming.scene.server.data_dir());
    let sql = format!("CREATE TABLESPACE later LOCATION '{}'", space.display());
    streaming.client.batch_execute(&sql).await.unwrap();
    let sql = "CREATE TABLE placed (n int) TABLESPACE later; INSERT INTO placed VALUES (7); CHECKPOINT";
    streaming.client.batch_execute(sql).await.unwrap();
    streaming.caught_up().await;
    let live = || {
        let found = files(&space);
        found.into_iter().map(|file| (std::fs::metadata(&file).unwrap().modified().unwrap(), file)).collect::<Vec<_>>()
    };
    let before = live();
    assert!(!before.is_empty());

    let refused = streaming.restored(Target::Latest).await.unwrap_err();
    let path = space.to_str().unwrap();
    assert!(matches!(&refused, Error::Wal(why) if why.contains("tablespace") && why.contains(path)), "{refused}");
    let drilled = streaming.vault.drill_to(None, Target::Latest, BUDGET, real_now()).await.unwrap();
    let climb = drilled.climbs.iter().rfind(|climb| climb.rung == Rung::Alive).unwrap();
    assert!(matches!(&climb.outcome, ClimbOutcome::NotTried { why } if why.contains("tablespace")), "{climb:?}");
    assert_eq!(live(), before);
    // It lies in the same segment, and behind what is replayed.
    assert_eq!(streaming.restored(Target::Time(early)).await.unwrap(), ["first"]);
    let drilled = streaming.vault.drill_to(None, Target::Time(early), BUDGET, real_now()).await.unwrap();
    let climb = drilled.last(Rung::Alive).unwrap();
    assert!(matches!(climb.outcome, ClimbOutcome::Proven { .. }), "{climb:?}");
    assert_eq!(live(), before);

    // Another machine, where nothing is at that path.
    streaming.end().await;
    streaming.scene.server.stop().await.unwrap();
    std::fs::rename(&space, space.with_extension("old")).unwrap();
    let into = streaming.scene.folder.path().join("elsewhere");
    let restored = streaming.vault.restore_to(None, Some("postgres.main"), Target::Latest, &into, None).await.unwrap();
    let next = restored.parts[0].next.join("\n");
    assert!(next.contains(&format!("mkdir -p {path}")), "{next}");
    make_space(&space, &streaming.scene.server.data_dir());
    let booted = Booted::start(restored, streaming.scene.server.password()).await;
    assert_eq!(booted.told().await, ["first", "second"]);
    let placed: i32 = booted.client().await.query_one("SELECT n FROM placed", &[]).await.unwrap().get(0);
    assert_eq!(placed, 7);
}
