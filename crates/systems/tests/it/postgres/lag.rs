//! A standby that replays late is told as one that replays late.

use super::{now, read};
use groundskeeper_core::check::{Status, Tuning, judge_all};
use groundskeeper_core::observation::Observation;
use groundskeeper_core::{SystemId, SystemKind};
use groundskeeper_testing::PostgresServer;
use std::time::{Duration, Instant};

const CHECK: &str = "postgres.replication_lag";

#[tokio::test]
async fn a_standby_whose_replay_is_paused_has_everything_and_is_late_in_replaying() {
    let server = PostgresServer::start().await.unwrap();
    let replica = server.standby("replica").await.unwrap();
    replica.client().await.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    let client = server.client().await;
    let tuning = Tuning::default().with_threshold(CHECK, "warning_bytes", 1e6);
    let until = Instant::now() + Duration::from_mins(1);
    client.batch_execute("CREATE TABLE much (body text)").await.unwrap();
    loop {
        let written = "INSERT INTO much SELECT repeat('x', 1000) FROM generate_series(1, 2000)";
        client.batch_execute(written).await.unwrap();
        let reading = Observation::Postgres(read(&server.url()).await);
        let judged = judge_all(&SystemId::new(SystemKind::Postgres, "main"), &reading, None, &tuning, now());
        let status = judged.into_iter().find(|judgement| judgement.check == CHECK).unwrap().status;
        if let Status::Failing { findings } = &status
            && findings[0].summary.contains("most of which has arrived and is not replayed yet")
        {
            assert!(findings[0].summary.contains("standby replica (127.0.0.1)"), "{}", findings[0].summary);
            break;
        }
        assert!(Instant::now() < until, "{status:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
