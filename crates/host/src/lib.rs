//! The machine under the pods: clock, root directory layout, mounts, paths resolved safely, machine facts.

pub mod addresses;
pub mod atomic_file;
pub mod beneath;
pub mod clock;
mod error;
pub mod facts;
pub mod fs_stats;
pub mod inotify;
pub mod memory;
pub mod mounts;
pub mod root_dir;

pub use beneath::Dir;
pub use clock::Clock;
pub use error::HostError;
pub use facts::MachineFacts;
pub use root_dir::RootDir;
