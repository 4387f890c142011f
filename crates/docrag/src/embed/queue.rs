//! Threads that work off texts, queries before passages.
//!
//! Rules:
//! - A worker looks at the queue between two texts: a query waits for at most the one passage that its worker is busy
//!   with, however many are waiting.
//! - What nobody waits for any more (deadline passed, request cancelled) is thrown away, not computed.
//! - The threads end with the `Workers`; what still waits then learns that.
//!
//! Threads and a condition variable rather than tasks: this is arithmetic, and the runtime's threads are for others.

use super::EmbedError;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

pub(super) type Outcome = Result<Vec<f32>, EmbedError>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    Query,
    Passage,
}

pub(super) struct Workers {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    queries: VecDeque<Job>,
    passages: VecDeque<Job>,
    stopped: bool,
}

struct Job {
    text: String,
    reply: oneshot::Sender<Outcome>,
}

impl Workers {
    /// One thread for each of `work`.
    pub(super) fn start<W>(work: impl IntoIterator<Item = W>) -> std::io::Result<Self>
    where
        W: FnMut(&str) -> Outcome + Send + 'static,
    {
        let workers = Self { shared: Arc::default() };
        for (number, work) in work.into_iter().enumerate() {
            let shared = Arc::clone(&workers.shared);
            std::thread::Builder::new().name(format!("embed-{number}")).spawn(move || run(&shared, work))?;
        }
        Ok(workers)
    }

    /// The reply comes when a worker has got to it; whoever drops the receiver takes the text back.
    pub(super) fn submit(&self, priority: Priority, texts: Vec<String>) -> Vec<oneshot::Receiver<Outcome>> {
        let (jobs, replies): (Vec<_>, Vec<_>) = texts
            .into_iter()
            .map(|text| {
                let (reply, receiver) = oneshot::channel();
                (Job { text, reply }, receiver)
            })
            .unzip();
        let mut waiting = self.shared.lock();
        let queue = match priority {
            Priority::Query => &mut waiting.queries,
            Priority::Passage => &mut waiting.passages,
        };
        queue.extend(jobs);
        drop(waiting);
        self.shared.changed.notify_all();
        replies
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut waiting = self.shared.lock();
        waiting.stopped = true;
        // Dropped jobs tell their receivers.
        waiting.queries.clear();
        waiting.passages.clear();
        drop(waiting);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // The queues are whole at every moment, and the work is done outside.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next text that somebody waits for; none when it is time to stop.
    fn next(&self) -> Option<Job> {
        let mut waiting = self.lock();
        loop {
            if waiting.stopped {
                return None;
            }
            match waiting.queries.pop_front().or_else(|| waiting.passages.pop_front()) {
                Some(job) if job.reply.is_closed() => {}
                Some(job) => return Some(job),
                None => waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

fn run(shared: &Shared, mut work: impl FnMut(&str) -> Outcome) {
    while let Some(Job { text, reply }) = shared.next() {
        // A text that breaks the model is one failure, not the loss of a worker.
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&text)));
        let outcome = outcome.unwrap_or_else(|_| Err(EmbedError::Inference("it panicked".to_owned())));
        // Nobody may wait any more; then the work was in vain.
        let _ = reply.send(outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(5);

    /// One worker that says what it begins with, and goes on when it is told to.
    struct Stepped {
        workers: Workers,
        begun: mpsc::Receiver<String>,
        go_on: mpsc::Sender<()>,
    }

    impl Stepped {
        fn start() -> Self {
            let ((begins, begun), (go_on, told)) = (mpsc::channel(), mpsc::channel());
            let work = move |text: &str| {
                begins.send(text.to_owned()).unwrap();
                let _ = told.recv();
                assert_ne!(text, "poison");
                Ok(vec![1.0])
            };
            Self { workers: Workers::start([work]).unwrap(), begun, go_on }
        }

        fn submit(&self, priority: Priority, texts: &[&str]) -> Vec<oneshot::Receiver<Outcome>> {
            self.workers.submit(priority, texts.iter().map(|&text| text.to_owned()).collect())
        }

        fn begins_with(&self) -> String {
            self.begun.recv_timeout(SOON).unwrap()
        }

        fn step(&self) {
            self.go_on.send(()).unwrap();
        }
    }

    #[test]
    fn a_query_goes_before_every_passage_that_waits() {
        let stepped = Stepped::start();
        let _passages = stepped.submit(Priority::Passage, &["p1", "p2", "p3"]);
        assert_eq!(stepped.begins_with(), "p1");
        let _queries = stepped.submit(Priority::Query, &["q1", "q2"]);
        for expected in ["q1", "q2", "p2", "p3"] {
            stepped.step();
            assert_eq!(stepped.begins_with(), expected);
        }
    }

    #[test]
    fn what_nobody_waits_for_is_not_computed() {
        let stepped = Stepped::start();
        let _first = stepped.submit(Priority::Passage, &["p1"]);
        stepped.begins_with();
        drop(stepped.submit(Priority::Query, &["given up"]));
        let _next = stepped.submit(Priority::Passage, &["p2"]);
        stepped.step();
        assert_eq!(stepped.begins_with(), "p2");
    }

    #[test]
    fn dropping_it_ends_the_threads_and_tells_those_who_wait() {
        let stepped = Stepped::start();
        let mut replies = stepped.submit(Priority::Passage, &["p1", "p2"]);
        stepped.begins_with();
        let (shared, waits) = (Arc::downgrade(&stepped.workers.shared), replies.pop().unwrap());
        drop(stepped.workers);
        assert!(waits.blocking_recv().is_err());
        stepped.go_on.send(()).unwrap();
        assert!(replies.pop().unwrap().blocking_recv().unwrap().is_ok(), "what had begun is finished");
        // The channel closes when the thread has ended and dropped its work.
        assert_eq!(stepped.begun.recv_timeout(SOON), Err(mpsc::RecvTimeoutError::Disconnected));
        assert!(shared.upgrade().is_none());
    }

    #[test]
    fn a_text_that_makes_it_panic_costs_nobody_else_anything() {
        let stepped = Stepped::start();
        let mut replies = stepped.submit(Priority::Query, &["poison", "fine"]);
        stepped.step();
        stepped.step();
        let (fine, poisoned) = (replies.pop().unwrap(), replies.pop().unwrap());
        assert!(matches!(poisoned.blocking_recv().unwrap(), Err(EmbedError::Inference(_))));
        assert!(fine.blocking_recv().unwrap().is_ok());
    }
}
