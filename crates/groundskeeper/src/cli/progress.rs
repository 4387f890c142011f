//! A sign of life on standard error for what takes longer than two seconds, and how far it is where that is known.

use crate::app::api::Done;
use groundskeeper_core::quantity::{format_bytes, format_seconds};
use indicatif::{ProgressBar, ProgressStyle};
use std::future::Future;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// Between two lines where nobody sees a bar.
const LINE: Duration = Duration::from_secs(30);

/// Waits for `work`; after two seconds a spinner says what is being done.
pub(super) async fn shown<T>(doing: &str, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if !std::io::stderr().is_terminal() {
        return work.await;
    }
    tokio::select! {
        done = &mut work => return done,
        () = tokio::time::sleep(PATIENCE) => {}
    }
    let spinner = ProgressBar::new_spinner().with_message(format!("{doing} …"));
    styled(&spinner, "{spinner} {msg} {elapsed}");
    spinner.enable_steady_tick(TICK);
    let done = work.await;
    spinner.finish_and_clear();
    done
}

/// The same with a bar, its rate and the time left; on what is no terminal a line every half minute.
pub(super) async fn counted<T>(doing: &str, look: impl AsyncFn() -> Option<Done>, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let (mut told, is_terminal) = (Telling::new(doing), std::io::stderr().is_terminal());
    let mut next = if is_terminal { PATIENCE } else { LINE };
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::time::sleep(next) => {}
        }
        let seen = look().await;
        if is_terminal {
            told.bar(seen);
            next = LOOK;
        } else {
            told.line(seen.as_ref());
        }
    }
}

/// What was told so far.
struct Telling {
    doing: String,
    bar: Option<ProgressBar>,
    /// Which stage, since when, and how much was done by then.
    stage: Option<(String, Instant, u64)>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Telling {
    fn new(doing: &str) -> Self {
        Self { doing: doing.to_owned(), bar: None, stage: None }
    }

    fn bar(&mut self, seen: Option<Done>) {
        let is_new = self.enter(seen.as_ref());
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(TICK);
            bar
        });
        if is_new {
            bar.reset();
        }
        match seen {
            None => {
                bar.set_message(format!("{} …", self.doing));
                styled(bar, "{spinner} {msg} {elapsed}");
            }
            Some(done) => {
                bar.set_message(done.what);
                // Before the first byte there is no rate, and when a set has grown there is no end.
                match done.total.filter(|total| done.bytes > 0 && *total >= done.bytes) {
                    Some(total) => {
                        bar.set_length(total);
                        let form = "{spinner} {msg} [{bar:28}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";
                        styled(bar, form);
                    }
                    None => styled(bar, "{spinner} {msg} {bytes}, {bytes_per_sec}, {elapsed}"),
                }
                bar.set_position(done.bytes);
            }
        }
    }

    fn line(&mut self, seen: Option<&Done>) {
        self.enter(seen);
        let text = match (seen, &self.stage) {
            (Some(done), Some((_, since, before))) => told(done, done.bytes.saturating_sub(*before), since.elapsed()),
            _ => format!("{} …", self.doing),
        };
        // A reader that is gone wants no progress.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Whether this is another stage than the last time.
    fn enter(&mut self, seen: Option<&Done>) -> bool {
        let known = self.stage.as_ref().map(|(what, ..)| what.as_str());
        let is_new = seen.map(|done| done.what.as_str()) != known;
        if is_new {
            self.stage = seen.map(|done| (done.what.clone(), Instant::now(), done.bytes));
        }
        is_new
    }
}

/// `making a set: 2 GiB of 8 GiB in 1,200 files, 100 MiB/s, 1 min left`; `since` the first look, `more` bytes were done.
fn told(done: &Done, more: u64, since: Duration) -> String {
    let bytes = |amount: u64| format_bytes(amount as f64);
    let total = done.total.filter(|total| *total >= done.bytes);
    let of = total.map(|total| format!(" of {}", bytes(total))).unwrap_or_default();
    let files = if done.files > 0 { format!(" in {} files", done.files) } else { String::new() };
    let text = format!("{}: {}{of}{files}", done.what, bytes(done.bytes));
    let rate = more as f64 / since.as_secs_f64();
    if more == 0 || !rate.is_finite() {
        return text;
    }
    let seconds = total.map(|total| ((total - done.bytes) as f64 / rate).round());
    let left = seconds.map(|seconds| format!(", {} left", format_seconds(seconds))).unwrap_or_default();
    format!("{text}, {}/s{left}", format_bytes(rate))
}

fn styled(bar: &ProgressBar, form: &str) {
    if let Ok(style) = ProgressStyle::with_template(form) {
        bar.set_style(style.progress_chars("=> "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_is_known_and_nothing_else() {
        let done = |bytes, files, total| Done { what: "making a set".into(), bytes, files, total };
        let minute = Duration::from_mins(1);
        let text = |done: Done, more| told(&done, more, minute);
        assert_eq!(text(done(0, 0, None), 0), "making a set: 0 B");
        assert_eq!(
            text(done(3 << 30, 1200, Some(4 << 30)), 3 << 30),
            "making a set: 3 GiB of 4 GiB in 1200 files, 51.2 MiB/s, 20 s left"
        );
        // More than last time: nobody knows how much is left.
        assert_eq!(text(done(5 << 30, 9, Some(4 << 30)), 60 << 20), "making a set: 5 GiB in 9 files, 1 MiB/s");
    }
}
