//! Images: pulled by policy with the right logins, each once however many pods wait for it, and removed when nobody
//! uses them.

mod backoff;
mod counters;
mod credentials;
mod error;
mod flight;
mod gc;
mod images;
mod inventory;
mod pull;
mod pulled_records;
mod rate;
mod reference;

pub use credentials::{plugin::CredentialProviders, plugin_config::PluginConfigError};
pub use error::{ImageError, PullFailure};
pub use gc::{GcError, GcPolicy, ImageGc};
pub use images::{Images, ImagesConfig, PullLimits, Use};
pub use pulled_records::Verification;
