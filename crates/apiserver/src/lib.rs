//! Everything the agent asks of the Kubernetes API server, and the only place that holds a client of it.
//!
//! One file per thing that is read or written; `follow` is the list-and-watch engine below the caches.
//! A cache's task ends when its handle or receiver is dropped.

mod backoff;
mod body;
mod budget;
mod client;
mod connection;
mod csr;
mod error;
mod events;
mod follow;
mod leases;
mod managed_fields;
mod nodes;
mod objects;
mod owned;
mod pods;
mod proxy;
mod reachability;
mod reads;
mod request;
mod reviews;
mod rows;
mod services;
mod shrink;
#[cfg(test)]
mod tests;
mod tokens;

pub use client::{ApiServer, ClientOptions};
pub use connection::Identity;
pub use csr::SigningRequest;
pub use error::{ApiError, Refusal};
pub use events::{Events, field_path};
pub use kube::client::Body as RequestBody;
pub use objects::{ChangeDetection, ObjectKind, ObjectRef, Objects, refs_of};
pub use pods::PodEvent;
pub use reachability::{Reachability, with_causes};
pub use services::{ServiceEntry, ServicePortEntry, Services};
pub use tokens::{ServiceAccountToken, TokenFor};
