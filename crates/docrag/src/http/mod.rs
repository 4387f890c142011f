//! The HTTP surface: routes, and what holds for all of them. It knows no rule of retrieval; it calls `service`.
//!
//! | module | what it does |
//! |---|---|
//! | `around` | request ids, time limit, log line, figures, security headers |
//! | `problem` | errors, all in the form of RFC 9457 |
//! | `extract` | bodies, paths and queries, never read past their limit |
//! | `room` | how many uploads are in memory at once |
//! | `auth` | keys, sessions, scopes, rate limits |
//! | `documents`, `search`, `keys`, `sessions`, `admin` | the API |
//! | `health` | liveness, readiness, metrics |
//! | `openapi` | the description of all that |
//! | `page` | the page for people |
//!
//! At shutdown readiness turns first, then no new connection is taken, then running requests end within
//! `limits.drain_seconds`.

use crate::service::{Service, ServiceError};
use axum::extract::Request;
use axum::{Router, middleware};
use problem::Trouble;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

mod admin;
mod around;
mod auth;
mod documents;
mod extract;
mod health;
mod keys;
mod openapi;
mod page;
mod problem;
mod room;
mod search;
mod sessions;
mod upload;

pub use documents::DocumentBody;
pub use problem::Problem;

/// After readiness turned, new connections are still taken for so long: whoever balances the load has to notice first.
const NOTICE: Duration = Duration::from_secs(1);

/// What every handler gets.
#[derive(Clone)]
pub(crate) struct App {
    service: Service,
    known: Arc<auth::Known>,
    draining: Arc<AtomicBool>,
    room: Arc<room::Room>,
}

impl App {
    pub(crate) fn new(service: Service) -> Self {
        let limits = &service.settings().limits;
        // Two of the longest bodies that there can be.
        let room = room::Room::new(upload::most_json(limits).saturating_mul(2));
        Self { service, known: Arc::default(), draining: Arc::default(), room: Arc::new(room) }
    }
}

/// Answers requests until `shutdown` is done, then drains.
pub async fn serve(
    service: Service,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServiceError> {
    let drain = Duration::from_secs(service.settings().limits.drain_seconds);
    let app = App::new(service);
    let draining = Arc::clone(&app.draining);
    let (closed, closing) = tokio::sync::oneshot::channel::<()>();
    let stop = async move {
        shutdown.await;
        draining.store(true, Ordering::Relaxed);
        tracing::info!("shutting down: not ready from now on");
        tokio::time::sleep(NOTICE).await;
        let _ = closed.send(());
    };
    let make = router(app).into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, make).with_graceful_shutdown(stop);
    let limit = async {
        // An error means that the server ended by itself.
        if closing.await.is_ok() {
            tokio::time::sleep(drain).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = server.into_future() => ended.map_err(|error| ServiceError::Internal(error.to_string())),
        () = limit => {
            tracing::warn!(seconds = drain.as_secs(), "requests were still running when the time to drain was over");
            Ok(())
        }
    }
}

pub(crate) fn router(app: App) -> Router {
    let protected = OpenApiRouter::new()
        .routes(routes!(documents::create, documents::list))
        .routes(routes!(documents::show, documents::remove))
        .routes(routes!(search::search))
        .routes(routes!(search::ask))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::revoke))
        .routes(routes!(sessions::current, sessions::end))
        .routes(routes!(admin::corpora))
        .routes(routes!(admin::set_mode))
        .routes(routes!(admin::status))
        .routes(routes!(admin::audit))
        .routes(routes!(admin::index))
        .route_layer(middleware::from_fn_with_state(app.clone(), auth::authenticated));
    let open = OpenApiRouter::new()
        .routes(routes!(sessions::create))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics));
    let (api, document) = OpenApiRouter::with_openapi(openapi::base()).merge(protected).merge(open).split_for_parts();
    api.route("/", axum::routing::get(page::page))
        .route("/assets/{name}", axum::routing::get(page::asset))
        .route("/problems/{slug}", axum::routing::get(page::problem))
        .merge(SwaggerUi::new("/docs").external_url_unchecked("/openapi.json", openapi::complete(document)))
        .fallback(no_such_route)
        .layer(middleware::from_fn_with_state(app.clone(), around::in_time))
        .layer(CatchPanicLayer::custom(around::panicked))
        .layer(middleware::from_fn_with_state(app.clone(), around::observed))
        .with_state(app)
}

async fn no_such_route(request: Request) -> Trouble {
    Trouble::not_found(&format!("route {} {}; /docs lists them", request.method(), request.uri().path()))
}
