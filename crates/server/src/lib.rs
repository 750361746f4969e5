//! The kubelet's HTTP servers: 10250 (TLS, authenticated), 10255 (read only) and 10248 (liveness of the agent itself).
//!
//! One route table says which path exists, by which methods, and what must be allowed to reach it ([`routes`]);
//! everything else is refused. Requests run: [`listen`] -> [`dispatch`] (route, [`authn`], [`authz`], limits) -> an endpoint.

// A refusal is a whole reply, made at most once per request.
#![allow(clippy::result_large_err)]

pub mod authn;
pub mod authz;
mod chunk;
mod debug;
pub mod deps;
mod dispatch;
mod error;
mod healthz;
mod listen;
mod logs;
mod node_logs;
mod pods;
mod query;
mod reply;
pub mod reviews;
pub mod routes;
mod spans;
mod stats;
mod stream;
pub mod tls;
mod ttl_cache;
mod zpages;

pub use authn::Authenticator;
pub use authz::Authorizer;
pub use deps::{HealthCheck, Limits, Observed, PodRow, PodsView, ServerConfig, ServerDeps, SetVerbosity};
pub use error::ServerError;
pub use listen::{Listeners, Server, TlsListener, TlsProvider, bind};
pub use stream::client as stream_client;
