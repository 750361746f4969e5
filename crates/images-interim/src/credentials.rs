//! interim
use cri::Credentials;
use pod::api::Secret;
#[derive(Clone, Debug, Default)]
pub struct Keyring;
impl Keyring {
    pub fn add_secret(&mut self, _: &Secret) {}
    pub async fn add_file(&mut self, _: &std::path::Path) {}
    pub fn add(&mut self, _: &str, _: Credentials) {}
    pub fn lookup(&self, _: &str) -> Vec<Credentials> { Vec::new() }
}
pub(crate) fn matches(_: &str, _: &str) -> bool { false }
