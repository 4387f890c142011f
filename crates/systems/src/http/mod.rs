//! HTTP endpoints: one GET on a new connection, with its times and, for https, the certificate.

mod certificate;
mod client;
mod failure;
mod observe;

pub use client::{Endpoint, EndpointError, Options};
pub use observe::observe;
