//! Room in memory for uploads.
//!
//! Before anything of a body is read, the bytes that it may have are taken from what all uploads share, and they are
//! given back once the document is stored. Many uploads at once wait for each other for a moment, or are told to come
//! back; they do not fill the memory. Copies that are made on the way (of base64, for the database) come on top.

use super::extract::{announced, linger};
use super::problem::{Answer, Trouble};
use axum::extract::Request;
use axum::http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted in: a semaphore has fewer permits than a machine has bytes.
const UNIT: usize = 1 << 10;
/// An upload waits so long for others to end.
const PATIENCE: Duration = Duration::from_secs(2);
const RETRY_SECONDS: u64 = 5;

pub(super) struct Room {
    free: Arc<Semaphore>,
    units: u32,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken {
    _permit: OwnedSemaphorePermit,
}

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        let units = units(bytes);
        Self { free: Arc::new(Semaphore::new(units as usize)), units }
    }

    /// For a body of at most `most` bytes: as much as it announces, or all of that when it does not say.
    pub(super) async fn for_body(&self, request: Request, most: usize) -> Answer<(Request, Taken)> {
        let bytes = match announced(request.headers()) {
            // It is refused before anything of it is read.
            Some(length) if length > most => 0,
            Some(length) => length,
            None => most,
        };
        if let Some(taken) = self.take(bytes).await {
            return Ok((request, taken));
        }
        tracing::warn!(bytes, "an upload was sent away: others fill the room in memory");
        tokio::spawn(linger(request.into_body().into_data_stream()));
        let detail = "too many uploads at once; send this one again in some seconds";
        Err(Trouble::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after(RETRY_SECONDS))
    }

    async fn take(&self, bytes: usize) -> Option<Taken> {
        let wanted = Arc::clone(&self.free).acquire_many_owned(units(bytes).min(self.units));
        let permit = tokio::time::timeout(PATIENCE, wanted).await.ok()?.ok()?;
        Some(Taken { _permit: permit })
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::header::CONTENT_LENGTH;

    fn request(length: Option<u64>) -> Request {
        let mut request = Request::new(Body::empty());
        if let Some(length) = length {
            request.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        request
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_share_one_room_and_what_does_not_fit_is_told_to_come_back() {
        let room = Room::new(100 * UNIT);
        let taken = room.for_body(request(Some(60 * UNIT as u64)), 80 * UNIT).await.unwrap();
        room.for_body(request(Some(30 * UNIT as u64)), 80 * UNIT).await.unwrap();
        // One that does not say how long it is may be as long as is allowed.
        let refused = room.for_body(request(None), 80 * UNIT).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        // One that is too long takes nothing: it is refused, for that reason.
        room.for_body(request(Some(90 * UNIT as u64)), 80 * UNIT).await.unwrap();
        drop(taken);
        room.for_body(request(None), 80 * UNIT).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_waits_a_moment_for_another_to_end() {
        let room = Arc::new(Room::new(10 * UNIT));
        let taken = room.take(10 * UNIT).await.unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(PATIENCE / 2).await;
            drop(taken);
        });
        assert!(room.take(10 * UNIT).await.is_some());
        assert!(room.take(20 * UNIT).await.is_some(), "what is larger than the room has it for itself");
    }
}
