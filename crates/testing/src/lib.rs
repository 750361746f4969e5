//! For tests only: a container runtime in this process, and pods in a few words.
//!
//! ```ignore
//! let fake = FakeCri::start();
//! let cri = Cri::connect(&fake.endpoint(), "", Duration::from_secs(120))?;
//! let web = pod("web").container("app", "nginx").restart(Restart::Always).desired();
//! ```

mod fake_apiserver;
mod fake_collector;
mod fake_cri;
mod fake_k3s;
mod pods;
mod protobuf;

pub use fake_apiserver::{Backup, FakeApiserver, Recorded};
pub use fake_collector::{FakeCollector, attribute};
pub use fake_cri::{FakeCri, Flavor, Seeded};
pub use fake_k3s::{Ca, FakeK3s, K3s};
pub use pods::{PodBuilder, Restart, pod};
pub use protobuf::{decoded_pod, without_defaults};
