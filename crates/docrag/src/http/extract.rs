//! Bodies, paths and queries, whose refusals are problems.
//!
//! No body is read past its limit. What a client sends beyond it is thrown away for a moment (see [`linger`]), because a
//! client that is still sending when the connection closes never gets to see why.

use super::App;
use super::problem::{Answer, Trouble};
use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, FromRequestParts, Request, rejection::PathRejection};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use futures_util::{Stream, StreamExt as _};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// For so long the rest of a refused body is thrown away before the connection closes.
const LINGER: Duration = Duration::from_secs(2);

/// Up to here every whole number is a float of its own.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;

/// A JSON body of at most `limits.request_bytes`.
pub(super) struct Json<T>(pub(super) T);

/// Parameters of the path. What is not of the right form names nothing: 404.
pub(super) struct Path<T>(pub(super) T);

/// Parameters after the question mark.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned> FromRequest<App> for Json<T> {
    type Rejection = Trouble;

    async fn from_request(request: Request, app: &App) -> Answer<Self> {
        if !is_json(request.headers()) {
            return Err(Trouble::media_type("application/json"));
        }
        let bytes = whole_body(request, app.service.settings().limits.request_bytes).await?;
        from_json(&bytes).or_else(|trouble| with_whole_numbers(&bytes).ok_or(trouble)).map(Self)
    }
}

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        match axum::extract::Path::<T>::from_request_parts(parts, app).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(_)) => Err(Trouble::not_found("such id")),
            Err(_) => Err(Trouble::internal()),
        }
    }
}

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Answer<Self> {
        match axum::extract::Query::<T>::from_request_parts(parts, app).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Trouble::invalid(rejection.body_text())),
        }
    }
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let essence = essence(headers);
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// The content type without its parameters, in lower case.
pub(super) fn essence(headers: &HeaderMap) -> String {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Bytes that are not JSON are 400, JSON of another shape is 422.
pub(super) fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Answer<T> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => Trouble::invalid(error.to_string()),
        _ => Trouble::new(StatusCode::BAD_REQUEST, "bad-json", error.to_string()),
    })
}

/// Once more with `5.0` read as `5`: to JSON they are one number, and JSON Schema calls both an integer.
fn with_whole_numbers<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let mut value: Value = serde_json::from_slice(bytes).ok()?;
    for member in value.as_object_mut()?.values_mut() {
        if let Some(number) = member.as_f64().filter(|number| number.fract() == 0.0 && number.abs() < MOST_EXACT) {
            *member = Value::from(number as i64);
        }
    }
    serde_json::from_value(value).ok()
}

/// For members that may be left out but not be `null`.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// All of a body of at most `limit` bytes.
pub(super) async fn whole_body(request: Request, limit: usize) -> Answer<Vec<u8>> {
    let (parts, body) = request.into_parts();
    let announced = announced(&parts.headers).filter(|length| *length <= limit).map(|length| length.min(1 << 20));
    let (body, exceeded) = limited(&parts.headers, body, limit)?;
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::with_capacity(announced.unwrap_or(0));
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(_) if exceeded.load(Ordering::Relaxed) => return Err(Trouble::too_large(limit)),
            Err(error) => return Err(Trouble::bad(format!("the body ended early: {error}"))),
        }
    }
    Ok(bytes)
}

/// A body that fails when it goes beyond `limit`; the flag says that this was why.
pub(super) fn limited(headers: &HeaderMap, body: Body, limit: usize) -> Answer<(Body, Arc<AtomicBool>)> {
    let stream = body.into_data_stream();
    if announced(headers).is_some_and(|length| length > limit) {
        tokio::spawn(linger(stream));
        return Err(Trouble::too_large(limit));
    }
    let exceeded = Arc::new(AtomicBool::new(false));
    let body = Body::from_stream(counted(stream, limit, Arc::clone(&exceeded)));
    Ok((body, exceeded))
}

pub(super) fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn counted(
    stream: BodyDataStream,
    limit: usize,
    exceeded: Arc<AtomicBool>,
) -> impl Stream<Item = Result<axum::body::Bytes, axum::Error>> {
    futures_util::stream::unfold(Some((stream, limit)), move |state| {
        let exceeded = Arc::clone(&exceeded);
        async move {
            let (mut stream, left) = state?;
            match stream.next().await? {
                Ok(piece) if piece.len() > left => {
                    exceeded.store(true, Ordering::Relaxed);
                    tokio::spawn(linger(stream));
                    Some((Err(axum::Error::new("too large")), None))
                }
                Ok(piece) => {
                    let left = left - piece.len();
                    Some((Ok(piece), Some((stream, left))))
                }
                Err(error) => Some((Err(error), None)),
            }
        }
    })
}

/// Throws away what still arrives. Without it the connection is reset under a client that only looks for the answer
/// once it has sent everything.
pub(super) async fn linger(mut stream: BodyDataStream) {
    let rest = async { while let Some(Ok(_)) = stream.next().await {} };
    let _ = tokio::time::timeout(LINGER, rest).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: Body) -> Request {
        Request::new(body)
    }

    #[tokio::test]
    async fn a_body_without_end_is_refused_at_its_limit() {
        let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 1_000]));
        let refused = whole_body(request(Body::from_stream(endless)), 10_000).await.unwrap_err();
        assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(whole_body(request(Body::from("abc")), 3).await.unwrap(), b"abc");
    }

    #[tokio::test]
    async fn an_announced_length_is_refused_before_anything_is_read() {
        let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        let mut request = request(Body::from_stream(never));
        request.headers_mut().insert(CONTENT_LENGTH, 11.into());
        assert_eq!(whole_body(request, 10).await.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[test]
    fn json_of_another_shape_is_told_from_what_is_no_json() {
        assert_eq!(from_json::<Vec<u8>>(b"[1").unwrap_err().status, StatusCode::BAD_REQUEST);
        assert_eq!(from_json::<u8>(b"\"a\"").unwrap_err().status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(from_json::<u8>(b"7").unwrap(), 7);
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_point() {
        #[derive(Deserialize)]
        struct Body {
            limit: u8,
        }
        assert_eq!(with_whole_numbers::<Body>(br#"{"limit": 5.0}"#).unwrap().limit, 5);
        for wrong in ["{\"limit\": 5.5}", "{\"limit\": -1.0}", "{\"limit\": 1e300}"] {
            assert!(with_whole_numbers::<Body>(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
