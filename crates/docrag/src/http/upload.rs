//! The two forms in which a document can be sent, and their limits.

use super::App;
use super::documents::{DocumentBody, default_corpus_name};
use super::extract::{essence, from_json, is_json, limited, whole_body};
use super::problem::{Answer, Trouble};
use super::room::Taken;
use crate::service::NewDocument;
use crate::settings::LimitSettings;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use std::sync::atomic::Ordering;

/// Of every field but the file.
const FIELD_BYTES: usize = 64 << 10;

/// Numbers beyond this are stored as hundreds of digits, which not every reader takes for a number again.
const LARGEST_NUMBER: f64 = 1e300;

/// The document, and its room in memory, which is to be kept until the document is stored.
pub(super) async fn read(app: &App, request: Request) -> Answer<(NewDocument, Taken)> {
    let (document, room) = read_form(app, request).await?;
    if document.metadata.values().all(is_storable) {
        return Ok((document, room));
    }
    Err(Trouble::invalid(format!("metadata has a number beyond {LARGEST_NUMBER:e}; send it as text")))
}

fn is_storable(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_some_and(|number| number.abs() <= LARGEST_NUMBER),
        Value::Array(values) => values.iter().all(is_storable),
        Value::Object(members) => members.values().all(is_storable),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// Of a document as JSON, which may write a byte of text as two; base64 writes three bytes as four.
pub(super) fn most_json(limits: &LimitSettings) -> usize {
    limits.body_bytes.saturating_mul(2).saturating_add(limits.request_bytes)
}

async fn read_form(app: &App, request: Request) -> Answer<(NewDocument, Taken)> {
    let limits = &app.service.settings().limits;
    if is_json(request.headers()) {
        let most = most_json(limits);
        let (request, room) = app.room.for_body(request, most).await?;
        let bytes = whole_body(request, most).await?;
        let sent = from_json(&bytes)?;
        // Before it is decoded, which makes a copy.
        drop(bytes);
        Ok((of_json(sent, limits.body_bytes)?, room))
    } else if essence(request.headers()) == "multipart/form-data" {
        let most = limits.body_bytes.saturating_add(limits.request_bytes);
        let (request, room) = app.room.for_body(request, most).await?;
        Ok((of_form(request, limits.body_bytes, most).await?, room))
    } else {
        Err(Trouble::media_type("application/json or multipart/form-data"))
    }
}

fn of_json(sent: DocumentBody, limit: usize) -> Answer<NewDocument> {
    let body = match (sent.content, sent.content_base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => {
            STANDARD.decode(text).map_err(|error| Trouble::invalid(format!("content_base64: {error}")))?
        }
        _ => return Err(Trouble::invalid("send either content or content_base64")),
    };
    if body.len() > limit {
        return Err(Trouble::too_large(limit));
    }
    Ok(NewDocument {
        corpus: sent.corpus,
        source: sent.source,
        title: sent.title,
        media_type: sent.media_type,
        metadata: sent.metadata,
        body,
    })
}

#[derive(Default)]
struct Form {
    file: Option<Vec<u8>>,
    file_name: Option<String>,
    file_type: Option<String>,
    source: Option<String>,
    title: Option<String>,
    media_type: Option<String>,
    metadata: Option<String>,
    corpus: Option<String>,
}

async fn of_form(request: Request, file_limit: usize, whole_limit: usize) -> Answer<NewDocument> {
    let (parts, body) = request.into_parts();
    let (body, exceeded) = limited(&parts.headers, body, whole_limit)?;
    let mut request = Request::from_parts(parts, body);
    // Ours counts; theirs would count again.
    axum::extract::DefaultBodyLimit::disable().apply(&mut request);
    let mut multipart = Multipart::from_request(request, &())
        .await
        .map_err(|rejection| Trouble::new(StatusCode::BAD_REQUEST, "bad-multipart", rejection.body_text()))?;
    let mut form = Form::default();
    let read = read_fields(&mut multipart, &mut form, file_limit).await;
    if exceeded.load(Ordering::Relaxed) {
        return Err(Trouble::too_large(file_limit));
    }
    read?;
    form.document()
}

async fn read_fields(multipart: &mut Multipart, form: &mut Form, file_limit: usize) -> Answer<()> {
    while let Some(field) = multipart.next_field().await.map_err(malformed)? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" {
            form.file_name = field.file_name().map(str::to_owned).filter(|name| !name.is_empty());
            form.file_type = field.content_type().map(str::to_owned).filter(|kind| kind != "application/octet-stream");
            set(&mut form.file, &name, bytes_of(field, file_limit).await?)?;
            continue;
        }
        let slot = match name.as_str() {
            "source" => &mut form.source,
            "title" => &mut form.title,
            "media_type" => &mut form.media_type,
            "metadata" => &mut form.metadata,
            "corpus" => &mut form.corpus,
            _ => return Err(Trouble::invalid(format!("there is no field {name:?}"))),
        };
        let bytes = bytes_of(field, FIELD_BYTES).await?;
        let text = String::from_utf8(bytes).map_err(|_| Trouble::invalid(format!("{name} is not UTF-8")))?;
        set(slot, &name, text)?;
    }
    Ok(())
}

fn set<T>(slot: &mut Option<T>, name: &str, value: T) -> Answer<()> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Trouble::invalid(format!("{name} is there twice; send one document per request"))),
    }
}

async fn bytes_of(mut field: Field<'_>, limit: usize) -> Answer<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await.map_err(malformed)? {
        if bytes.len() + piece.len() > limit {
            return Err(Trouble::too_large(limit));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn malformed(error: MultipartError) -> Trouble {
    Trouble::new(StatusCode::BAD_REQUEST, "bad-multipart", error.body_text())
}

impl Form {
    fn document(self) -> Answer<NewDocument> {
        let body = self.file.ok_or_else(|| Trouble::invalid("the form has no part called `file`"))?;
        let source = self.source.or(self.file_name);
        let source = source.ok_or_else(|| Trouble::invalid("send a field `source`, or a file name with the file"))?;
        let metadata = match self.metadata.as_deref() {
            None | Some("") => serde_json::Map::new(),
            Some(text) => serde_json::from_str(text)
                .map_err(|error| Trouble::invalid(format!("metadata is not a JSON object: {error}")))?,
        };
        Ok(NewDocument {
            corpus: self.corpus.unwrap_or_else(default_corpus_name),
            source,
            title: self.title.filter(|title| !title.is_empty()),
            media_type: self.media_type.filter(|kind| !kind.is_empty()).or(self.file_type),
            metadata,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn form(parts: &str) -> Request {
        let body = format!("{parts}--x--\r\n").replace('\n', "\r\n").replace("\r\r", "\r");
        Request::builder().header("content-type", "multipart/form-data; boundary=x").body(Body::from(body)).unwrap()
    }

    fn part(header: &str, content: &str) -> String {
        format!("--x\nContent-Disposition: form-data; {header}\n\n{content}\n")
    }

    #[tokio::test]
    async fn a_file_names_its_document_unless_the_form_does() {
        let file = part("name=\"file\"; filename=\"notes.md\"", "# Hello");
        let document = of_form(form(&file), 100, 1_000).await.unwrap();
        assert_eq!((document.source.as_str(), document.corpus.as_str()), ("notes.md", "default"));
        assert_eq!(document.body, b"# Hello");
        let named = file + &part("name=\"source\"", "mine") + &part("name=\"metadata\"", "{\"lang\": \"en\"}");
        let document = of_form(form(&named), 100, 1_000).await.unwrap();
        assert_eq!((document.source.as_str(), document.metadata["lang"].as_str()), ("mine", Some("en")));
    }

    #[tokio::test]
    async fn a_form_is_refused_for_what_is_wrong_with_it() {
        let file = part("name=\"file\"; filename=\"a\"", "0123456789");
        for (parts, limits, status) in [
            (file.clone(), (5, 1_000), 413),
            (file.clone(), (100, 20), 413),
            (file.clone() + &file, (100, 1_000), 422),
            (part("name=\"title\"", "t"), (100, 1_000), 422),
            (part("name=\"file\"", "no name"), (100, 1_000), 422),
            (file.clone() + &part("name=\"metadata\"", "[1]"), (100, 1_000), 422),
            (file.clone() + &part("name=\"surprise\"", "1"), (100, 1_000), 422),
            ("--x\nrubbish".to_owned(), (100, 1_000), 400),
        ] {
            let refused = of_form(form(&parts), limits.0, limits.1).await.unwrap_err();
            assert_eq!(refused.status.as_u16(), status, "{parts}");
        }
    }

    #[test]
    fn a_number_that_would_not_come_back_is_not_stored() {
        assert!(is_storable(&serde_json::json!({"a": [1, -2.5, 1e300]})));
        assert!(!is_storable(&serde_json::json!({"a": [1, {"b": -1.797e308}]})));
    }

    #[test]
    fn json_brings_exactly_one_content_within_the_limit() {
        let sent = |content: Option<&str>, base64: Option<&str>| DocumentBody {
            content: content.map(str::to_owned),
            content_base64: base64.map(str::to_owned),
            ..DocumentBody::default()
        };
        assert_eq!(of_json(sent(None, Some("aGk=")), 10).unwrap().body, b"hi");
        for (content, base64, status) in
            [(None, None, 422), (Some("a"), Some("aGk="), 422), (None, Some("%"), 422), (Some("too long"), None, 413)]
        {
            assert_eq!(of_json(sent(content, base64), 5).unwrap_err().status.as_u16(), status);
        }
    }
}
