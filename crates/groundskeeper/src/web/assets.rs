//! The files of the page, part of the program: the page needs nothing from the network.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
}

/// htmx is version 2.0.11, under the licence in `assets/htmx.LICENSE`.
static ASSETS: [Asset; 4] = [
    Asset { name: "style.css", kind: "text/css; charset=utf-8", content: include_str!("../../assets/style.css") },
    Asset { name: "page.js", kind: "text/javascript; charset=utf-8", content: include_str!("../../assets/page.js") },
    Asset {
        name: "htmx.min.js",
        kind: "text/javascript; charset=utf-8",
        content: include_str!("../../assets/htmx.min.js"),
    },
    Asset { name: "icon.svg", kind: "image/svg+xml", content: include_str!("../../assets/icon.svg") },
];

pub(super) async fn serve(Path(name): Path<String>) -> Response {
    ASSETS.iter().find(|asset| asset.name == name).map_or_else(
        || (StatusCode::NOT_FOUND, "There is no such file.\n").into_response(),
        // `no-cache` asks again each time: after an upgrade an old script must not meet a new page.
        |asset| ([(CONTENT_TYPE, asset.kind), (CACHE_CONTROL, "no-cache")], asset.content).into_response(),
    )
}
