//! What `/metrics` says, in Prometheus' text form.
//!
//! One registry, owned by the service: nothing is global, so that two services in one test process do not share counts.
//! Names follow the operations guides (`http_requests_total`, `http_request_duration_seconds`); everything of our own
//! begins with `docrag_`. Labels come from closed sets only: a path is its route's template, never what a client wrote.

use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// All handles in one registry; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    http_requests: IntCounterVec,
    http_duration: HistogramVec,
    pool: IntGaugeVec,
    documents: IntGaugeVec,
    ingest_lag: Gauge,
    outbox_lag: IntGaugeVec,
    cache: IntCounterVec,
    tokens: IntCounterVec,
    cost: CounterVec,
    search_stage: HistogramVec,
    search_degraded: IntCounterVec,
    embeddings: IntCounter,
    breaker: GaugeVec,
    auth_failures: IntCounter,
    rate_limited: IntCounter,
    /// Tokens of the embedder that are counted already.
    embedding_seen: Arc<AtomicU64>,
}

/// Seconds. Requests go from a health check (microseconds) to a streamed answer (a minute).
const REQUEST_BUCKETS: [f64; 14] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];
/// Seconds. A scan of a small index takes less than a millisecond.
const STAGE_BUCKETS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let made = Maker { registry: &registry };
        Self {
            http_requests: made.counters("http_requests_total", "Requests answered.", &["method", "path", "status"]),
            http_duration: made.times(
                "http_request_duration_seconds",
                "Time until the response began, by route.",
                &["method", "path"],
                &REQUEST_BUCKETS,
            ),
            pool: made.gauges("docrag_pool_connections", "Connections of the Postgres pool.", &["state"]),
            documents: made.gauges("docrag_ingest_documents", "Documents by state.", &["state"]),
            ingest_lag: made.keep(Gauge::new(
                "docrag_ingest_lag_seconds",
                "Age of the oldest document that is neither searchable nor failed.",
            )),
            outbox_lag: made.gauges("docrag_outbox_lag_entries", "Changes that an index has not followed.", &["index"]),
            cache: made.counters("docrag_cache_requests_total", "Cache look-ups.", &["cache", "result"]),
            tokens: made.counters("docrag_tokens_total", "Tokens sent to and got from models.", &["kind"]),
            cost: made.keep(CounterVec::new(
                Opts::new("docrag_cost_total", "Money spent on models, in the currency of the configured prices."),
                &["kind"],
            )),
            search_stage: made.times(
                "docrag_search_stage_seconds",
                "Time of a search's stages.",
                &["stage"],
                &STAGE_BUCKETS,
            ),
            search_degraded: made.counters(
                "docrag_search_degraded_total",
                "Searches that did less than was asked for.",
                &["reason"],
            ),
            embeddings: made.keep(IntCounter::new("docrag_embeddings_total", "Passages embedded by the model.")),
            breaker: made.keep(GaugeVec::new(
                Opts::new(
                    "docrag_breaker_open",
                    "1 while a model's endpoint is not asked because it failed too often.",
                ),
                &["endpoint"],
            )),
            auth_failures: made.keep(IntCounter::new("docrag_auth_failures_total", "Requests with a wrong key.")),
            rate_limited: made.keep(IntCounter::new("docrag_rate_limited_total", "Requests refused by a rate limit.")),
            embedding_seen: Arc::default(),
            registry,
        }
    }

    /// A stage of one search: `embed`, `dense`, `lexical`, `fuse`, `fetch`.
    pub fn search_stage(&self, stage: &'static str, took: Duration) {
        self.search_stage.with_label_values(&[stage]).observe(took.as_secs_f64());
    }

    /// A search that did less than was asked for. The reason is a short word: `embedder`, `model`, `index` …
    pub fn search_degraded(&self, reason: &'static str) {
        self.search_degraded.with_label_values(&[reason]).inc();
    }

    pub fn cache(&self, cache: &'static str, hit: bool) {
        self.cache.with_label_values(&[cache, if hit { "hit" } else { "miss" }]).inc();
    }

    /// `prompt`, `completion` or `embedding`.
    pub fn tokens(&self, kind: &'static str, count: u64) {
        self.tokens.with_label_values(&[kind]).inc_by(count);
    }

    /// As for `tokens`, in money. Less than nothing is not counted: a counter only grows.
    pub fn cost(&self, kind: &'static str, amount: f64) {
        if amount > 0.0 {
            self.cost.with_label_values(&[kind]).inc_by(amount);
        }
    }

    /// All tokens that the embedder has used since its start, as it counts by itself; what is new among them counts.
    pub fn embedding_used(&self, tokens: u64, price_per_million: f64) {
        // Two who ask at once do not both count the same.
        let seen = self.embedding_seen.fetch_max(tokens, Ordering::Relaxed);
        let new = tokens.saturating_sub(seen);
        self.tokens("embedding", new);
        self.cost("embedding", new as f64 / 1e6 * price_per_million);
    }

    pub fn embedded(&self, count: u64) {
        self.embeddings.inc_by(count);
    }

    pub fn breaker(&self, endpoint: &str, open: bool) {
        self.breaker.with_label_values(&[endpoint]).set(if open { 1.0 } else { 0.0 });
    }

    pub fn auth_failure(&self) {
        self.auth_failures.inc();
    }

    pub fn rate_limited(&self) {
        self.rate_limited.inc();
    }

    pub fn outbox_lag(&self, index: &'static str, entries: u64) {
        self.outbox_lag.with_label_values(&[index]).set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// `path` is the route's template.
    pub fn http(&self, method: &str, path: &str, status: u16, took: Duration) {
        self.http_requests.with_label_values(&[method, path, &status.to_string()]).inc();
        self.http_duration.with_label_values(&[method, path]).observe(took.as_secs_f64());
    }

    pub fn pool(&self, idle: u64, busy: u64) {
        self.pool.with_label_values(&["idle"]).set(i64::try_from(idle).unwrap_or(i64::MAX));
        self.pool.with_label_values(&["busy"]).set(i64::try_from(busy).unwrap_or(i64::MAX));
    }

    /// Replaces all counts by state: a state without documents shows 0 and not its last figure.
    pub fn documents(&self, by_state: &BTreeMap<String, u64>, lag: Duration) {
        for state in ["received", "chunked", "embedded", "indexed", "failed", "deleted"] {
            let count = by_state.get(state).copied().unwrap_or(0);
            self.documents.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.ingest_lag.set(lag.as_secs_f64());
    }

    /// Everything, in Prometheus' text form.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => {
                tracing::error!(%error, "the metrics cannot be written");
                String::new()
            }
        }
    }
}

/// Makes metrics and registers them.
struct Maker<'a> {
    registry: &'a Registry,
}

impl Maker<'_> {
    fn keep<M: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<M>) -> M {
        // Names and labels are literals in this file, and `new` runs in every test.
        let metric = made.expect("a metric's name and labels are valid");
        self.registry.register(Box::new(metric.clone())).expect("a metric is registered once");
        metric
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn times(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.keep(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_rendered_under_the_guides_names() {
        let metrics = Metrics::new();
        metrics.http("GET", "/v1/documents/{id}", 404, Duration::from_millis(3));
        metrics.cache("answer", false);
        metrics.documents(&BTreeMap::from([("failed".to_owned(), 2)]), Duration::from_secs(7));
        let text = metrics.render();
        for line in [
            r#"http_requests_total{method="GET",path="/v1/documents/{id}",status="404"} 1"#,
            r#"http_request_duration_seconds_count{method="GET",path="/v1/documents/{id}"} 1"#,
            r#"docrag_cache_requests_total{cache="answer",result="miss"} 1"#,
            r#"docrag_ingest_documents{state="failed"} 2"#,
            r#"docrag_ingest_documents{state="indexed"} 0"#,
            "docrag_ingest_lag_seconds 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_the_embedder_used_is_counted_once_and_has_its_price() {
        let metrics = Metrics::new();
        for used in [1_000_000, 3_000_000, 3_000_000, 2_000_000] {
            metrics.embedding_used(used, 0.5);
        }
        let text = metrics.render();
        for line in [r#"docrag_tokens_total{kind="embedding"} 3000000"#, r#"docrag_cost_total{kind="embedding"} 1.5"#] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn two_services_do_not_share_counts() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.embedded(3);
        assert!(other.render().contains("docrag_embeddings_total 0"));
    }
}
