//! The API's description. What holds for every route is added here, once, so that no route can forget it.

use super::problem::{MEDIA_TYPE, Problem};
use serde_json::{Value, json};
use utoipa::PartialSchema as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{KnownFormat, SchemaFormat, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, HeaderBuilder, Info, ObjectBuilder, OpenApi, OpenApiBuilder, Ref, RefOr,
    ResponseBuilder, SecurityRequirement,
};

const BEARER: &str = "key";
const DESCRIPTION: &str = "A document retrieval service. Send an API key (`docrag key create` makes one) as \
    `Authorization: Bearer dr_…`. Errors are `application/problem+json` (RFC 9457).";

/// What the routes are added to.
pub(super) fn base() -> OpenApi {
    let mut info = Info::new("Doc-RAG", env!("CARGO_PKG_VERSION"));
    info.description = Some(DESCRIPTION.to_owned());
    let mut scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    scheme.description = Some("An API key, or a session's token".to_owned());
    let mut components = Components::new();
    components.security_schemes.insert(BEARER.to_owned(), RefOr::T(SecurityScheme::Http(scheme)));
    components.schemas.insert("Problem".to_owned(), Problem::schema());
    let security = SecurityRequirement::new::<_, [String; 0], String>(BEARER, []);
    OpenApiBuilder::new().info(info).components(Some(components)).security(Some([security])).build()
}

/// Adds to every route the errors that it can answer, and what attributes cannot express.
pub(super) fn complete(mut document: OpenApi) -> Value {
    for (path, item) in &mut document.paths.paths {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete];
        for operation in operations.into_iter().flatten() {
            add_errors(path, operation);
        }
    }
    let mut document = serde_json::to_value(document).unwrap_or_default();
    refine(&mut document);
    document
}

/// No NUL, which Postgres cannot keep.
const NO_NUL: &str = r"^[^\u0000]*$";
/// Says something.
const NOT_BLANK: &str = r"[^\s\u0000-\u001f\u007f-\u009f]";
/// One line.
const NAME: &str = r"^[^\u0000-\u001f\u007f-\u009f]+$";

fn refine(document: &mut Value) {
    let schemas = &mut document["components"]["schemas"];
    // Text is no PDF, whatever it is called.
    let text = json!({"media_type": {"enum": ["text/plain", "text/markdown", "text/html"]}});
    schemas["DocumentBody"]["oneOf"] = json!([
        {"required": ["content"], "not": {"required": ["content_base64"]}, "properties": text},
        {"required": ["content_base64"], "not": {"required": ["content"]}}
    ]);
    schemas["MetadataValue"] = json!({"anyOf": [
        {"type": ["boolean", "null"]},
        {"type": "number", "minimum": -1e300, "maximum": 1e300},
        {"type": "string", "pattern": NO_NUL},
        {"type": "array", "items": {"$ref": "#/components/schemas/MetadataValue"}},
        {"$ref": "#/components/schemas/Metadata"}
    ]});
    schemas["Metadata"] = json!({
        "type": "object",
        "description": "At most 16 KB; searches filter by its members that are text, numbers, true or false.",
        "propertyNames": {"pattern": NO_NUL},
        "additionalProperties": {"$ref": "#/components/schemas/MetadataValue"}
    });
    schemas["DocumentForm"]["additionalProperties"] = json!(false);
    for name in ["DocumentBody", "DocumentForm"] {
        schemas[name]["properties"]["metadata"] = json!({"$ref": "#/components/schemas/Metadata"});
    }
    for (name, text) in [("SearchRequest", "query"), ("AskRequest", "question")] {
        let properties = &mut schemas[name]["properties"];
        properties[text]["pattern"] = json!(NOT_BLANK);
        merge(
            &mut properties["corpus"],
            json!({"minLength": 1, "maxLength": 200, "pattern": NAME, "default": "default"}),
        );
    }
    let filter = &mut schemas["SearchFilter"]["properties"];
    filter["documents"]["maxItems"] = json!(1_000);
    let value = json!({"anyOf": [
        {"type": ["number", "boolean"]},
        {"type": "string", "maxLength": 1_000, "pattern": NO_NUL}
    ]});
    let names = json!({"minLength": 1, "maxLength": 200, "pattern": NO_NUL});
    let refined = json!({"maxProperties": 20, "propertyNames": names, "additionalProperties": value});
    merge(&mut filter["metadata"], refined);
    // OpenAPI 3.1 has no words for the events of a stream; the description has.
    let answers = &mut document["paths"]["/v1/ask"]["post"]["responses"]["200"]["content"];
    answers["text/event-stream"] = json!({});
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

fn add_errors(path: &str, operation: &mut Operation) {
    // Probes have said all that they answer.
    let open = operation.security.is_some();
    let login = path == "/v1/sessions";
    let has_body = operation.request_body.is_some();
    let mut errors = vec![(500, "Something broke inside"), (504, "It took too long")];
    if !open || login {
        errors.extend([
            (400, "The request is malformed"),
            (401, "The key is missing, unknown, expired or revoked"),
            (403, "The key lacks a scope, or the request comes from another site"),
            (422, "A value is not allowed"),
            (429, "Too many requests"),
            (503, "The database, the model or the index does not answer, or there are too many uploads at once"),
        ]);
    }
    if has_body {
        errors.extend([(413, "The body is too large"), (415, "The content type is not known here")]);
    }
    if path.contains('{') || path == "/v1/search" || path == "/v1/ask" {
        errors.push((404, "There is no such thing, or it belongs to another tenant"));
    }
    if path == "/v1/ask" {
        errors.extend([(406, "No representation fits the Accept header"), (502, "The answering model failed")]);
    }
    for (status, description) in errors {
        operation
            .responses
            .responses
            .entry(status.to_string())
            .or_insert_with(|| RefOr::T(problem(status, description)));
    }
}

fn problem(status: u16, description: &str) -> utoipa::openapi::Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new().description(description).content(MEDIA_TYPE, content);
    if !matches!(status, 429 | 503) {
        return response.build();
    }
    let format = SchemaFormat::KnownFormat(KnownFormat::Int64);
    let seconds = ObjectBuilder::new().schema_type(Type::Integer).format(Some(format)).build();
    let mut header = HeaderBuilder::new().schema(Some(seconds)).build();
    header.description = Some("Seconds after which to try again".to_owned());
    response.header("retry-after", header).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use utoipa::openapi::path::PathItem;

    #[test]
    fn no_route_is_without_its_errors() {
        let mut document = base();
        let mut item = PathItem::default();
        item.get = Some(Operation::new());
        document.paths.paths.insert("/v1/things/{id}".to_owned(), item);
        let text = complete(document);
        let responses = &text["paths"]["/v1/things/{id}"]["get"]["responses"];
        for status in ["401", "403", "404", "422", "429", "500", "503", "504"] {
            let schema = &responses[status]["content"]["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem", "{status}");
        }
    }
}
