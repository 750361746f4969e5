//! One task per pod UID: inputs -> `pod::plan` -> actions -> report. The dispatcher admits and starts them.
//!
//! A pod that hangs harms only itself: every step is a task that its worker owns, and ends with it.

mod actions;
mod dispatcher;
mod in_flight;
mod inbox;
mod parts;
mod qos;
mod records;
mod remains;
mod resize;
mod startup;
mod termination;
mod view;
mod worker;

pub use dispatcher::{Dispatcher, DispatcherConfig, PodCommand};
pub use parts::Parts;
pub use records::{ACTUATED, ALLOCATED, ResourceRecords};
pub use view::{PodView, PodsView};
