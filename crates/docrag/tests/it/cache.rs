//! The cache with a real Redis: what it keeps, and what happens while Redis is away or frozen.

use docrag::cache::Cache;
use docrag::settings::Settings;
use groundskeeper_testing::{BlackHole, RedisServer};
use std::time::{Duration, Instant};

const TIMEOUT: Duration = Duration::from_millis(250);

fn settings(url: &str) -> Settings {
    let mut settings = Settings::default();
    settings.redis.url = Some(url.to_owned().into());
    settings.cache.timeout_milliseconds = TIMEOUT.as_millis() as u64;
    settings
}

/// Waits until the cache gives the answer again, and says how long that took.
async fn until_back(cache: &Cache, key: &str) -> Duration {
    let start = Instant::now();
    while cache.answer(key).await.is_none() {
        assert!(start.elapsed() < Duration::from_secs(8), "it does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
        cache.put_answer(key, "here").await;
    }
    start.elapsed()
}

#[tokio::test]
async fn what_is_put_is_found_and_nothing_else() {
    let redis = RedisServer::start().await.unwrap();
    let cache = Cache::open(&settings(&redis.url())).await;
    let (one, other, bad) = (vec![1; 32], vec![2; 32], vec![3; 32]);
    let vector: Vec<f32> = (0..384).map(|at| at as f32 / 7.0 - 20.0).collect();
    cache.put_embeddings("model:1", &[(one.clone(), vector.clone()), (bad.clone(), vec![f32::NAN])]).await;
    let found = cache.embeddings("model:1", &[other, one.clone(), bad]).await;
    assert_eq!(found, [None, Some(vector), None], "in the order that was asked for");
    assert_eq!(cache.embeddings("model:2", &[one]).await, [None], "another model's vectors");

    cache.put_answer("key", "{}").await;
    assert_eq!(cache.answer("key").await.as_deref(), Some("{}"));
    assert_eq!(cache.answer("other").await, None);
    assert_eq!(cache.state().await, Some(Ok(())));
    let mut connection = redis.connection().await;
    let keys: Vec<String> = redis_keys(&mut connection).await;
    assert_eq!(keys.len(), 3);
    for key in keys {
        assert!(key.starts_with("docrag:"), "{key}");
        let left: i64 = redis::cmd("TTL").arg(&key).query_async(&mut connection).await.unwrap_or(0);
        assert!(left > 0 || key.contains("embedding"), "{key} stays for ever");
    }
}

async fn redis_keys(connection: &mut redis::aio::MultiplexedConnection) -> Vec<String> {
    let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query_async(connection).await.unwrap();
    keys.iter().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
}

#[tokio::test]
async fn a_rate_limit_holds_across_replicas_and_says_when_to_come_back() {
    let redis = RedisServer::start().await.unwrap();
    let replicas = [Cache::open(&settings(&redis.url())).await, Cache::open(&settings(&redis.url())).await];
    let alone = Cache::open(&Settings::default()).await;
    for at in 0..7_usize {
        let shared = replicas[at % 2].allow("key:1", 5).await;
        let local = alone.allow("key:1", 5).await;
        assert_eq!((shared.allowed, shared.remaining), (at < 5, 4_u32.saturating_sub(at as u32)));
        assert_eq!((local.allowed, local.remaining), (shared.allowed, shared.remaining), "the same rule without Redis");
        for verdict in [shared, local] {
            let wait = verdict.retry_after.as_secs_f64();
            assert!(if verdict.allowed { wait == 0.0 } else { (50.0..=60.0).contains(&wait) }, "{verdict:?}");
        }
    }
    assert!(replicas[0].allow("key:2", 5).await.allowed, "another bucket");
    assert!(replicas[0].allow("key:1", 0).await.allowed, "no limit");

    // A minute later: the counts of Redis are made older, for its clock cannot be moved.
    let mut connection = redis.connection().await;
    let counts: Vec<(i64, i64)> =
        redis::cmd("HGETALL").arg("docrag:rate:key:1").query_async(&mut connection).await.unwrap();
    for (second, count) in counts {
        redis::pipe()
            .hdel("docrag:rate:key:1", second)
            .hset("docrag:rate:key:1", second - 60, count)
            .query_async::<()>(&mut connection)
            .await
            .unwrap();
    }
    assert_eq!(replicas[1].allow("key:1", 5).await.remaining, 4);
}

#[tokio::test]
async fn while_redis_is_away_everything_misses_and_limits_hold_and_it_comes_back() {
    let mut redis = RedisServer::start().await.unwrap();
    let cache = Cache::open(&settings(&redis.url())).await;
    cache.put_answer("key", "here").await;
    assert_eq!(cache.answer("key").await.as_deref(), Some("here"));
    redis.stop().await.unwrap();
    let start = Instant::now();
    for _ in 0..50 {
        assert_eq!(cache.answer("key").await, None);
        assert_eq!(cache.embeddings("model", &[vec![1]]).await, [None]);
    }
    assert!(start.elapsed() < 2 * TIMEOUT, "{:?}", start.elapsed());
    let allowed = [cache.allow("key:1", 2).await, cache.allow("key:1", 2).await, cache.allow("key:1", 2).await];
    assert_eq!(allowed.map(|verdict| verdict.allowed), [true, true, false]);
    assert!(cache.state().await.unwrap().is_err());
    redis.start_again().await.unwrap();
    let took = until_back(&cache, "key").await;
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(cache.state().await, Some(Ok(())));
}

#[tokio::test]
async fn a_frozen_redis_costs_one_time_limit_and_not_one_for_each_request() {
    let redis = RedisServer::start().await.unwrap();
    let cache = Cache::open(&settings(&redis.url())).await;
    cache.put_answer("key", "here").await;
    redis.freeze().unwrap();
    let start = Instant::now();
    let at_once = (0..20).map(|_| cache.answer("key"));
    assert!(futures_util::future::join_all(at_once).await.iter().all(Option::is_none));
    let first = start.elapsed();
    assert!((TIMEOUT..TIMEOUT * 2).contains(&first), "{first:?}");
    // Longer than the pause between two probes: no request pays for those either.
    let mut slowest = Duration::ZERO;
    while start.elapsed() < Duration::from_secs(3) {
        let one = Instant::now();
        assert_eq!(cache.answer("key").await, None);
        assert!(cache.allow("key:1", 1_000).await.allowed);
        slowest = slowest.max(one.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(slowest < TIMEOUT / 4, "{slowest:?}");
    redis.thaw().unwrap();
    let took = until_back(&cache, "key").await;
    assert!(took < Duration::from_secs(3), "{took:?}");
}

#[tokio::test]
async fn a_redis_that_never_was_there_is_no_error() {
    let hole = BlackHole::start().await.unwrap();
    for url in [format!("redis://{}/", hole.address()), "redis://127.0.0.1:1/".to_owned(), "nonsense:s3cret".to_owned()]
    {
        let start = Instant::now();
        let cache = Cache::open(&settings(&url)).await;
        cache.put_answer("key", "here").await;
        assert_eq!(cache.answer("key").await, None);
        assert!(cache.allow("key:1", 1).await.allowed);
        assert!(!cache.allow("key:1", 1).await.allowed);
        let trouble = cache.state().await.unwrap().unwrap_err();
        assert!(!trouble.contains("s3cret"), "{trouble}");
        assert!(start.elapsed() < TIMEOUT * 2, "{:?}", start.elapsed());
    }
    assert_eq!(Cache::open(&Settings::default()).await.state().await, None, "none is configured");
}
