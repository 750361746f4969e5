//! The certificates of the agent: what it serves with, which client certificates it believes, and its own identity
//! towards the API server (`bootstrap`).
//!
//! Whoever uses a certificate holds a handle that shows the newest one; a task per source (files, signing requests)
//! swaps it. Dropping the task's future ends it.

pub mod bootstrap;
mod client_ca;
mod error;
mod follow;
mod pair;
mod self_signed;
mod serving;
mod tls;
mod ttl;

pub use client_ca::ClientCa;
pub use error::{CertificateError, Result};
pub use pair::Pair;
pub use serving::{Serving, ServingCertificate, ServingConfig};
pub use tls::{TlsOptions, server_config};
