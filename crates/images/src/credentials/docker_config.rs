//! `config.json` and the older `.dockercfg`: registry to login.

use std::collections::BTreeMap;

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::Deserialize;

use super::Login;

/// By registry, in the form the file has it.
pub type DockerConfig = BTreeMap<String, Login>;

/// No part of the content is quoted: it is secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DockerConfigError {
    #[error("error occurred while trying to unmarshal json")]
    Json,
    #[error("unable to parse auth field, must be formatted as base64(username:password)")]
    Auth,
}

#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default)]
    auths: Option<BTreeMap<String, Entry>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: Option<String>,
    password: Option<String>,
    email: Option<String>,
    auth: Option<String>,
}

/// `{"auths": {"registry": {...}}}`
pub fn parse_json(content: &[u8]) -> Result<DockerConfig, DockerConfigError> {
    let file: ConfigFile = serde_json::from_slice(content).map_err(|_| DockerConfigError::Json)?;
    logins(file.auths.unwrap_or_default())
}

/// `{"registry": {...}}`
pub fn parse_legacy(content: &[u8]) -> Result<DockerConfig, DockerConfigError> {
    logins(serde_json::from_slice(content).map_err(|_| DockerConfigError::Json)?)
}

fn logins(entries: BTreeMap<String, Entry>) -> Result<DockerConfig, DockerConfigError> {
    entries.into_iter().map(|(registry, entry)| Ok((registry, login(entry)?))).collect()
}

/// `auth` wins over user name and password.
fn login(entry: Entry) -> Result<Login, DockerConfigError> {
    let email = entry.email.unwrap_or_default();
    match entry.auth.filter(|a| !a.is_empty()) {
        Some(auth) => {
            let (username, password) = decode_auth(&auth).ok_or(DockerConfigError::Auth)?;
            Ok(Login { username, password, email })
        }
        None => Ok(Login {
            username: entry.username.unwrap_or_default(),
            password: entry.password.unwrap_or_default(),
            email,
        }),
    }
}

fn decode_auth(auth: &str) -> Option<(String, String)> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
    let text = String::from_utf8(engine.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(username: &str, password: &str) -> Login {
        Login { username: username.into(), password: password.into(), email: String::new() }
    }

    #[test]
    fn both_forms_are_read_and_auth_wins() {
        // base64 of `user:pa:ss`, without padding; and of `u:p` with it.
        let json = br#"{"auths": {"a.io": {"auth": "dXNlcjpwYTpzcw", "username": "x"}, "b.io": {"auth": "dTpw"}}}"#;
        let config = parse_json(json).unwrap();
        assert_eq!((&config["a.io"], &config["b.io"]), (&login("user", "pa:ss"), &login("u", "p")));
        let legacy = parse_legacy(br#"{"c.io": {"username": "u", "password": "p"}}"#).unwrap();
        assert_eq!(legacy["c.io"], login("u", "p"));
        assert!(parse_json(br#"{"credsStore": "x"}"#).unwrap().is_empty());
    }

    #[test]
    fn bad_content_is_refused_without_being_quoted() {
        assert_eq!(parse_json(b"hunter2"), Err(DockerConfigError::Json));
        assert_eq!(parse_json(br#"{"auths": {"a": {"auth": "bm9jb2xvbg=="}}}"#), Err(DockerConfigError::Auth));
    }

    #[test]
    fn any_file_is_read_or_refused() {
        fuzz::each("docker-config", |bytes| {
            let _ = parse_json(bytes);
            let _ = parse_legacy(bytes);
        });
    }
}
