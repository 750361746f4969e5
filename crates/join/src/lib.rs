//! Makes a machine a node of a cluster that has a way of joining of its own: gets certificates, writes the files that
//! the agent is started with, and is done. It is no part of the running agent.
//!
//! `k3s`: a k3s server's node endpoints, as an agentless worker.

mod ca;
mod client;
mod endpoints;
mod error;
mod files;
mod k3s;
mod password;
mod secret;
#[cfg(test)]
mod tests;
mod token;

pub use error::{JoinError, Result};
pub use files::Taint;
pub use k3s::{Joined, Wanted, join};
pub use secret::Secret;
pub use token::Token;
