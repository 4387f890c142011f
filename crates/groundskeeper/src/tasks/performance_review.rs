//! The weekly performance review, first version: the statements that take the most, cache hit rates, latencies and growth.
//!
//! It reads and reports; it changes nothing. Figures come from the record's hourly points of the last seven days,
//! statements from `pg_stat_statements` as they stand (totals since its last reset, which is never ours), and compared
//! with their own past of five weeks.

mod indexes;
mod leaders;
mod regressed;

use super::{Found, Shop};
use crate::record::{self, Resolution};
use crate::scheduler::{BoxFuture, End, Job, Mode};
use groundskeeper_core::SystemKind;
use groundskeeper_core::observation::Observation;
use groundskeeper_core::quantity::{after, format_number};
use groundskeeper_core::report::Figure;
use std::sync::Arc;

const DAYS: f64 = 7.0;
/// The figures that tell of performance; the rest is in the daily report.
const FIGURES: [&str; 8] =
    ["latency", "response_time", "cache_hit", "hit_rate", "connections", "oldest_transaction", "evictions", "commits"];

pub(super) struct PerformanceReview(pub(super) Arc<Shop>);

impl Job for PerformanceReview {
    type Yield = Found;

    fn run(&self, _mode: Mode) -> BoxFuture<'_, End<Found>> {
        Box::pin(async move {
            match review(&self.0).await {
                Ok(end) => end,
                Err(error) => End { ok: false, summary: error.to_string(), found: Found::default() },
            }
        })
    }
}

async fn review(shop: &Shop) -> record::Result<End<Found>> {
    let now = shop.clock.now();
    let from = after(now, -DAYS * 86_400.0);
    let figures = shop.record.with(move |store| store.figures(Resolution::Hour, from, now)).await?;
    let mut details = Vec::new();
    for (system, figures) in &figures {
        let telling: Vec<&Figure> = figures.iter().filter(|figure| FIGURES.contains(&figure.metric.as_str())).collect();
        if telling.is_empty() {
            continue;
        }
        details.push(format!("{system}, last 7 days"));
        details.extend(telling.into_iter().map(figure_line));
        details.extend(figures.iter().filter_map(growth_line));
    }
    let mut readings = shop.stack.observe(now, |system| system.kind == SystemKind::Postgres);
    let mut named = 0;
    let mut unread = 0;
    while let Some(read) = readings.join_next().await {
        let Ok((system, Observation::Postgres(reading))) = read else { continue };
        match reading.outcome {
            Ok(seen) => {
                let (lines, count) = leaders::lines(&system, &seen.statements);
                named += count;
                details.extend(lines);
                if let Some(Ok(leaders)) = &seen.statements.leaders {
                    details.extend(regressed::lines(shop, &system, leaders).await?);
                }
                details.extend(indexes::lines(shop, &system, &seen).await);
            }
            Err(failure) => {
                unread += 1;
                details.push(format!("{system}: not read: {}", failure.message));
            }
        }
    }
    let summary = if unread == 0 {
        format!("figures of {} systems; statements named: {named}", figures.len())
    } else {
        format!("{unread} databases could not be read")
    };
    Ok(End { ok: unread == 0, summary, found: Found { details, ..Found::default() } })
}

fn figure_line(figure: &Figure) -> String {
    let show = |value| format_number(value, figure.unit);
    let name = figure.metric.replace('_', " ");
    format!(
        "  {name:<22} mean {}, between {} and {}, now {}",
        show(figure.mean),
        show(figure.min),
        show(figure.max),
        show(figure.last)
    )
}

/// Databases that are a tenth or more above their smallest size of the span.
fn growth_line(figure: &Figure) -> Option<String> {
    let grown = figure.last - figure.min;
    (figure.metric == "database_size" && figure.min > 0.0 && grown / figure.min >= 0.1).then(|| {
        format!(
            "  {} is {}, which is {} more than its smallest of these days",
            figure.subject,
            format_number(figure.last, figure.unit),
            format_number(grown, figure.unit)
        )
    })
}
