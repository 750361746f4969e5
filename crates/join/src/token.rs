//! k3s' join tokens: `K10<hash of the CA>::<user>:<password>`, the same with a bootstrap token after the colons, and
//! both without their head.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{JoinError, Result, Secret};

const PREFIX: &str = "K10";
/// Hexadecimal SHA-256.
const HASH_LENGTH: usize = 64;
/// Whatever user the token names: a worker comes as this one, and the server has a password for it.
const USER: &str = "node";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    pub ca_hash: Option<String>,
    credentials: Credentials,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Credentials {
    Password(Secret),
    Bootstrap(Secret),
}

impl Token {
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |detail| Err(JoinError::Token { detail });
        let text = text.trim();
        if text.is_empty() {
            return wrong("it is empty");
        }
        if text.contains(char::is_whitespace) {
            return wrong("it has more than one word");
        }
        let Some(whole) = text.strip_prefix(PREFIX) else {
            let credentials = match is_bootstrap(text) {
                true => Credentials::Bootstrap(Secret::new(text)),
                // `node:` may stand before a password that came without a hash.
                false => Credentials::Password(Secret::new(text.strip_prefix("node:").unwrap_or(text))),
            };
            return Ok(Self { ca_hash: None, credentials });
        };
        let (hash, credentials) = whole.split_once("::").unwrap_or(("", whole));
        if !hash.is_empty() && (hash.len() != HASH_LENGTH || !hash.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return wrong("the hash of the CA is cut off");
        }
        let ca_hash = (!hash.is_empty()).then(|| hash.to_ascii_lowercase());
        if is_bootstrap(credentials) {
            return Ok(Self { ca_hash, credentials: Credentials::Bootstrap(Secret::new(credentials)) });
        }
        match credentials.split_once(':') {
            Some((_, password)) if !password.is_empty() => {
                Ok(Self { ca_hash, credentials: Credentials::Password(Secret::new(password)) })
            }
            _ => wrong("there is no password in it"),
        }
    }

    /// The value of the Authorization header.
    pub(crate) fn authorization(&self) -> Secret {
        Secret::new(match &self.credentials {
            Credentials::Bootstrap(token) => format!("Bearer {}", token.reveal()),
            Credentials::Password(password) => {
                format!("Basic {}", STANDARD.encode(format!("{USER}:{}", password.reveal())))
            }
        })
    }
}

/// As kubeadm's: six characters, a dot, sixteen characters.
fn is_bootstrap(text: &str) -> bool {
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    text.split_once('.').is_some_and(|(id, secret)| id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn parsed(text: &str) -> (Option<String>, String) {
        let token = Token::parse(text).unwrap();
        let header = token.authorization().reveal().to_owned();
        let shown = match header.strip_prefix("Basic ") {
            Some(basic) => String::from_utf8(STANDARD.decode(basic).unwrap()).unwrap(),
            None => header,
        };
        (token.ca_hash, shown)
    }

    #[test]
    fn every_form_of_a_token_is_read_and_a_worker_always_comes_as_node() {
        let hash = Some(HASH.to_owned());
        assert_eq!(
            parsed(&format!("K10{HASH}::server:pw:with:colons\n")),
            (hash.clone(), "node:pw:with:colons".into())
        );
        assert_eq!(parsed(&format!("K10{HASH}::node:pw")), (hash.clone(), "node:pw".into()));
        assert_eq!(
            parsed(&format!("K10{HASH}::abcdef.0123456789abcdef")),
            (hash, "Bearer abcdef.0123456789abcdef".into())
        );
        assert_eq!(parsed("K10::server:pw"), (None, "node:pw".into()));
        assert_eq!(parsed("K10server:pw"), (None, "node:pw".into()));
        assert_eq!(parsed("node:pw"), (None, "node:pw".into()));
        assert_eq!(parsed("pw"), (None, "node:pw".into()));
        assert_eq!(parsed("abcdef.0123456789abcdef"), (None, "Bearer abcdef.0123456789abcdef".into()));
    }

    #[test]
    fn a_token_that_was_cut_off_is_refused_and_not_shown() {
        for text in [
            "",
            " \n",
            "K10",
            "K10abc::server:hush",
            &format!("K10{HASH}::server:"),
            &format!("K10{HASH}::hush"),
            "a b",
        ] {
            let error = Token::parse(text).unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
        let token = Token::parse(&format!("K10{HASH}::server:hush")).unwrap();
        assert!(!format!("{token:?}").contains("hush"));
    }

    #[test]
    fn any_token_is_read_or_refused() {
        let seeds = [format!("K10{HASH}::server:pw"), "abcdef.0123456789abcdef".to_owned()].map(String::into_bytes);
        fuzz::each_of("k3s-token", &seeds, |bytes| {
            if let Ok(token) = Token::parse(&String::from_utf8_lossy(bytes)) {
                assert!(!token.authorization().reveal().is_empty());
            }
        });
    }
}
