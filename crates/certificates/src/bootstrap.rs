//! Certificates that the cluster signs: the node's own identity (TLS bootstrap and rotation) and, with
//! serverTLSBootstrap, its serving certificate.

mod first;
mod identity;
mod kubeconfig;
mod request;
mod rotation;
mod store;

pub use first::{FirstIdentity, ensure_identity, prepare_identity};
pub use identity::follow_identity;
pub use kubeconfig::client_certificate_validity;
pub(crate) use rotation::wait_until;
pub use rotation::{Bootstrap, ClientRotation, ServingRotation};
pub use store::PairStore;
