//! Tokens and money of one answer.

use super::chat::Usage;
use crate::metrics::Metrics;

/// Bytes of English that make a token, about; a little pessimistic for prose.
const BYTES_PER_TOKEN: u64 = 4;

/// Per million tokens.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Prices {
    pub(super) prompt: f64,
    pub(super) completion: f64,
}

/// Counts into the metrics when it is dropped: what a client that hung up has cost counts as well.
pub(super) struct Spending {
    metrics: Metrics,
    prices: Prices,
    prompt_bytes: u64,
    completion_bytes: u64,
    counted: Option<Usage>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spent {
    pub(super) usage: Usage,
    pub(super) cost: f64,
    /// The provider did not count.
    pub(super) estimated: bool,
}

impl Spending {
    pub(super) fn new(metrics: Metrics, prices: Prices, prompt_bytes: usize) -> Self {
        Self { metrics, prices, prompt_bytes: prompt_bytes as u64, completion_bytes: 0, counted: None }
    }

    pub(super) fn said(&mut self, text: &str) {
        self.completion_bytes += text.len() as u64;
    }

    /// The provider's own count; some send it more than once, each time of the whole.
    pub(super) fn counted(&mut self, usage: Usage) {
        self.counted = Some(usage);
    }

    pub(super) fn spent(&self) -> Spent {
        let estimate = Usage {
            prompt_tokens: self.prompt_bytes.div_ceil(BYTES_PER_TOKEN),
            completion_tokens: self.completion_bytes.div_ceil(BYTES_PER_TOKEN),
        };
        let usage = self.counted.unwrap_or(estimate);
        let (prompt, completion) = self.costs(usage);
        Spent { usage, cost: prompt + completion, estimated: self.counted.is_none() }
    }

    fn costs(&self, usage: Usage) -> (f64, f64) {
        let price = |tokens: u64, per_million: f64| tokens as f64 / 1e6 * per_million;
        (price(usage.prompt_tokens, self.prices.prompt), price(usage.completion_tokens, self.prices.completion))
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        let usage = self.spent().usage;
        let (prompt, completion) = self.costs(usage);
        self.metrics.tokens("prompt", usage.prompt_tokens);
        self.metrics.tokens("completion", usage.completion_tokens);
        self.metrics.cost("prompt", prompt);
        self.metrics.cost("completion", completion);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_providers_count_wins_over_the_estimate_and_both_reach_the_metrics() {
        let metrics = Metrics::new();
        let prices = Prices { prompt: 1.0, completion: 10.0 };
        let mut spending = Spending::new(metrics.clone(), prices, 4_000);
        spending.said("12345");
        let spent = spending.spent();
        assert_eq!((spent.usage.prompt_tokens, spent.usage.completion_tokens, spent.estimated), (1_000, 2, true));
        spending.counted(Usage { prompt_tokens: 500_000, completion_tokens: 100_000 });
        assert_eq!((spending.spent().cost, spending.spent().estimated), (1.5, false));
        drop(spending);
        let text = metrics.render();
        assert!(text.contains(r#"docrag_tokens_total{kind="prompt"} 500000"#), "{text}");
        assert!(text.contains(r#"docrag_cost_total{kind="completion"} 1"#), "{text}");
    }
}
