//! The machine under the pods: clock, root directory layout, mounts, paths resolved safely, machine facts.

pub mod clock;

pub use clock::Clock;
