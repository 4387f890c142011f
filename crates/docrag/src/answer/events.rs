//! The events of one answer.

use super::{AskEvent, AskProblem};
use futures_util::Stream;
use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Events that wait for a slow reader; then the model is read no further.
const WAITING: usize = 32;

/// Ends with `done` or `error`. Dropped before, it ends the work behind it, and with that the request to the model.
pub struct Events {
    ready: VecDeque<AskEvent>,
    work: Option<Work>,
}

struct Work {
    events: mpsc::Receiver<AskEvent>,
    task: JoinHandle<()>,
    ended: bool,
}

impl Events {
    pub(super) fn ready(events: Vec<AskEvent>) -> Self {
        Self { ready: events.into(), work: None }
    }

    /// Runs `work`, which sends events.
    pub(super) fn spawned<F>(work: impl FnOnce(mpsc::Sender<AskEvent>) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, events) = mpsc::channel(WAITING);
        let task = tokio::spawn(work(sender));
        Self { ready: VecDeque::new(), work: Some(Work { events, task, ended: false }) }
    }
}

impl Stream for Events {
    type Item = AskEvent;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<AskEvent>> {
        if let Some(event) = self.ready.pop_front() {
            return Poll::Ready(Some(event));
        }
        let Some(work) = &mut self.work else { return Poll::Ready(None) };
        work.events.poll_recv(context).map(|event| match event {
            Some(event) => {
                work.ended |= matches!(event, AskEvent::Done(_) | AskEvent::Error { .. });
                Some(event)
            }
            None if work.ended => None,
            // The work panicked. A stream that just stops would look like an answer.
            None => {
                work.ended = true;
                let detail = "answering failed; what was sent is incomplete".to_owned();
                Some(AskEvent::Error { problem: AskProblem { slug: "internal".to_owned(), status: 500, detail } })
            }
        })
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Done;
    use super::*;
    use futures_util::StreamExt;

    #[tokio::test]
    async fn work_that_panics_ends_in_an_error_and_not_in_silence() {
        let events = Events::spawned(|sender| async move {
            sender.send(AskEvent::Token { text: "half".to_owned() }).await.unwrap();
            panic!("on purpose");
        });
        let names: Vec<&str> = events.map(|event| event.name()).collect().await;
        assert_eq!(names, ["token", "error"]);
    }

    #[tokio::test]
    async fn dropping_the_events_ends_the_work() {
        let (gone, is_gone) = tokio::sync::oneshot::channel::<()>();
        let mut events = Events::spawned(|sender| async move {
            let _held = gone;
            let _ = sender.send(AskEvent::Done(Done::default())).await;
            std::future::pending::<()>().await;
        });
        assert!(events.next().await.is_some());
        drop(events);
        assert!(is_gone.await.is_err(), "its end of the channel was dropped");
    }
}
