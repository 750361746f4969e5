//! The agent: its options, and the wiring of all parts.

pub mod app;
pub mod config;
pub mod doctor;
pub mod explain;
pub mod flags;
pub mod gates;
pub mod install;
pub mod join;
pub mod lock;
pub mod logging;
pub mod options;
pub mod support;
pub mod version;
