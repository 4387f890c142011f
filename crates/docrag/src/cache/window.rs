//! Sliding-window rate limits: at most so many requests in any minute.
//!
//! Requests are counted by the second. A count holds for a minute from the beginning of its second, so a request is
//! forgotten 59 to 60 seconds after it was made, and a bucket takes the same small room whatever its limit. Redis and
//! the fallback in this process follow the same rule. A request that is refused does not count, or a client that keeps
//! trying would never be let in again. (Rejected: two buckets of a minute, which let nearly twice the limit through
//! around the change; a log of all requests, which grows with the limit.)

use super::Verdict;
use redis::aio::MultiplexedConnection;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// Seconds that count.
const WINDOW: u64 = 60;
/// Buckets that the fallback keeps: about 3 MB.
const MOST_BUCKETS: usize = 10_000;

/// Redis' clock decides, so that replicas agree. Returns allowed, remaining, milliseconds until the next.
const SCRIPT: &str = r"
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local second = tonumber(time[1])
local counts = redis.call('HGETALL', KEYS[1])
local used, oldest, gone = 0, second, {}
for i = 1, #counts, 2 do
  local at = tonumber(counts[i])
  if at <= second - window then
    gone[#gone + 1] = counts[i]
  else
    used = used + tonumber(counts[i + 1])
    if at < oldest then oldest = at end
  end
end
if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
if used >= limit then
  return {0, 0, (oldest + window - second) * 1000 - math.floor(tonumber(time[2]) / 1000)}
end
redis.call('HINCRBY', KEYS[1], second, 1)
redis.call('EXPIRE', KEYS[1], window)
return {1, limit - used - 1, 0}
";

static ALLOW: LazyLock<redis::Script> = LazyLock::new(|| redis::Script::new(SCRIPT));

/// One round trip; two after Redis was restarted and has to be told the script again.
pub(super) async fn ask_redis(
    mut connection: MultiplexedConnection,
    key: &str,
    per_minute: u32,
) -> redis::RedisResult<Verdict> {
    let mut call = ALLOW.key(key);
    call.arg(per_minute).arg(WINDOW);
    let (allowed, remaining, wait): (u32, u32, u64) = call.invoke_async(&mut connection).await?;
    Ok(Verdict { allowed: allowed == 1, remaining, retry_after: Duration::from_millis(wait) })
}

/// The same, counted in this process.
#[derive(Debug, Default)]
pub(super) struct Windows {
    // A std mutex: it is held for some sums only, never across an await.
    buckets: Mutex<HashMap<String, Window>>,
}

/// Requests by second; a slot belongs to the one second that is written beside it.
#[derive(Debug, Clone)]
struct Window {
    counts: [u32; WINDOW as usize],
    /// The second of the last request.
    last: u64,
}

impl Windows {
    /// `now` since the process began.
    pub(super) fn allow(&self, bucket: &str, per_minute: u32, now: Duration) -> Verdict {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(bucket) {
            make_room(&mut buckets, now.as_secs());
            buckets.insert(bucket.to_owned(), Window { counts: [0; WINDOW as usize], last: now.as_secs() });
        }
        // It was inserted when it was missing.
        buckets.get_mut(bucket).expect("the bucket is there").allow(per_minute, now)
    }
}

/// Forgets buckets that are idle; if all are busy, the tenth that counts least: forgetting those lets least through.
fn make_room(buckets: &mut HashMap<String, Window>, second: u64) {
    if buckets.len() < MOST_BUCKETS {
        return;
    }
    buckets.retain(|_, window| window.last + WINDOW > second);
    if buckets.len() < MOST_BUCKETS {
        return;
    }
    let mut used: Vec<u32> = buckets.values().map(Window::used).collect();
    let (_, least, _) = used.select_nth_unstable(MOST_BUCKETS / 10);
    let (least, mut left) = (*least, MOST_BUCKETS / 10);
    buckets.retain(|_, window| {
        let goes = left > 0 && window.used() <= least;
        left -= usize::from(goes);
        !goes
    });
}

impl Window {
    fn allow(&mut self, per_minute: u32, now: Duration) -> Verdict {
        let second = now.as_secs();
        self.forget(second);
        let used = self.used();
        if used >= per_minute {
            let oldest = (0..WINDOW).rev().map(|age| second.saturating_sub(age)).find(|at| self.counts[slot(*at)] > 0);
            let free_at = Duration::from_secs(oldest.unwrap_or(second) + WINDOW);
            return Verdict { allowed: false, remaining: 0, retry_after: free_at.saturating_sub(now) };
        }
        self.counts[slot(second)] += 1;
        Verdict { allowed: true, remaining: per_minute - used - 1, retry_after: Duration::ZERO }
    }

    /// Clears the slots of the seconds since the last request, which hold counts of a minute before.
    fn forget(&mut self, second: u64) {
        for at in (self.last + 1..=second).take(WINDOW as usize) {
            self.counts[slot(at)] = 0;
        }
        self.last = self.last.max(second);
    }

    fn used(&self) -> u32 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }
}

fn slot(second: u64) -> usize {
    (second % WINDOW) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_last_allowed_request_is_followed_by_refusals_until_the_first_is_a_minute_old() {
        let windows = Windows::default();
        assert_eq!(windows.allow("a", 2, at(5_500)).remaining, 1);
        assert_eq!(windows.allow("a", 2, at(20_000)).remaining, 0);
        let refused = windows.allow("a", 2, at(30_250));
        assert_eq!(refused, Verdict { allowed: false, remaining: 0, retry_after: at(34_750) });
        assert!(!windows.allow("a", 2, at(64_999)).allowed);
        assert!(windows.allow("b", 2, at(64_999)).allowed, "buckets are counted apart");
        assert!(windows.allow("a", 2, at(65_000)).allowed);
        assert!(!windows.allow("a", 2, at(65_001)).allowed, "the one of second 20 still counts");
    }

    #[test]
    fn many_clients_do_not_fill_the_memory_and_the_busiest_stays_limited() {
        let windows = Windows::default();
        for _ in 0..5 {
            windows.allow("busy", 5, at(1_000));
        }
        for client in 0..MOST_BUCKETS * 2 {
            windows.allow(&client.to_string(), 5, at(2_000));
        }
        assert!(windows.buckets.lock().unwrap().len() <= MOST_BUCKETS);
        assert!(!windows.allow("busy", 5, at(3_000)).allowed);
    }

    proptest! {
        #[test]
        fn no_59_seconds_ever_hold_more_than_the_limit(gaps in prop::collection::vec(0_u64..9_000, 1..300), limit in 1_u32..12) {
            let (windows, mut now, mut allowed) = (Windows::default(), 0, Vec::new());
            for gap in gaps {
                now += gap;
                let verdict = windows.allow("a", limit, at(now));
                if verdict.allowed {
                    allowed.push(now);
                } else {
                    // What was promised holds: then, not a millisecond before, the next one is allowed.
                    let free = now + verdict.retry_after.as_millis() as u64;
                    let bucket = windows.buckets.lock().unwrap()["a"].clone();
                    prop_assert!(bucket.clone().allow(limit, at(free)).allowed);
                    prop_assert!(!bucket.clone().allow(limit, at(free - 1)).allowed);
                }
            }
            for (first, from) in allowed.iter().enumerate() {
                let within = allowed[first..].iter().take_while(|time| **time < from + 59_000).count();
                prop_assert!(within <= limit as usize, "{within} requests from {from}");
            }
        }
    }
}
