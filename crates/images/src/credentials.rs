//! Who may pull what: logins from the pod's secrets, from the node's files and from plugins.

pub mod docker_config;
pub mod keyring;
pub mod node_files;
pub mod plugin;
pub mod plugin_config;

use std::fmt;

use sha2::{Digest, Sha256};

/// A user and a password for some registries.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: String,
    pub email: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

impl Login {
    /// The hash that upstream's pull records keep of it: of the JSON of its fields that are set, in this order.
    pub fn hash(&self) -> String {
        let fields = [("username", &self.username), ("password", &self.password), ("email", &self.email)];
        let set: Vec<String> = fields
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(name, value)| format!("\"{name}\":{}", go_json_string(value)))
            .collect();
        hex(&Sha256::digest(format!("{{{}}}", set.join(","))))
    }
}

/// Go's encoder also escapes what HTML would take for markup.
fn go_json_string(text: &str) -> String {
    let json = serde_json::to_string(text).unwrap_or_default();
    let escapes =
        [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\u{2028}', "\\u2028"), ('\u{2029}', "\\u2029")];
    escapes.iter().fold(json, |json, (c, escape)| json.replace(*c, escape))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Whose a login is; a login of the node's own is everybody's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    Node,
    Secret(Owner),
    ServiceAccount(Owner),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

/// A login that fits the image at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub login: Login,
    pub origin: Origin,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_never_printed() {
        let login = Login { username: "u".into(), password: "hunter2".into(), email: String::new() };
        let candidate = Candidate { login, origin: Origin::Node };
        assert!(!format!("{candidate:?}").contains("hunter2"));
    }

    #[test]
    fn hashes_are_those_of_gos_json() {
        let login = Login { username: "u".into(), password: "p<&>".into(), email: String::new() };
        let json = "{\"username\":\"u\",\"password\":\"p\\u003c\\u0026\\u003e\"}";
        assert_eq!(login.hash(), hex(&Sha256::digest(json)));
    }
}
