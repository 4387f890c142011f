//! Bad days: each is really caused, nothing that was safe is lost, and what is missing is named.

use super::*;
use groundskeeper_core::quantity::seconds_between;

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

/// The server is killed and its data directory is gone. Everything that was said to be safe is there.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_to_be_safe_survives_the_loss_of_the_server() {
    for pause in [Duration::from_secs(1), Duration::from_millis(5)] {
        let mut streaming = Streaming::start().await;
        streaming.set().await;
        streaming.caught_up().await;
        let started = Instant::now();
        let mut told = Vec::new();
        while started.elapsed() < Duration::from_secs(7) {
            let what = told.len().to_string();
            streaming.tell(&what).await;
            told.push((what, real_now()));
            tokio::time::sleep(pause).await;
        }
        let pid = streaming.scene.server.pid().unwrap();
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        let crashed = real_now();
        let safe_until = streaming.stands().unwrap().safe_until.unwrap();
        // Its children end a moment after it, and may still write.
        while std::fs::remove_dir_all(streaming.scene.server.data_dir()).is_err() {
            assert!(seconds_between(crashed, real_now()) < 60.0);
        }
        streaming.end().await;
        let there = streaming.restored(Target::Latest).await.unwrap();
        let safe = told.iter().filter(|(_, at)| *at < safe_until).count();
        assert!(there.len() >= safe, "{} of {safe}", there.len());
        assert!(told.iter().map(|(what, _)| what).zip(&there).all(|(told, there)| told == there));
        let lost = seconds_between(safe_until, crashed);
        eprintln!(
            "every {pause:?}: {} of {} are there, and {lost:.1} s were not said to be safe",
            there.len(),
            told.len()
        );
        assert!(safe > 0 && lost < 60.0, "{lost}");
    }
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
