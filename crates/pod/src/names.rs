//! The forms that names take in the API. Each check returns the text that the API server would show.

const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const ENV_NAME: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";

/// `inner` bytes allowed between alphanumeric ends.
fn framed(text: &str, end: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => end(*first) && end(*last) && bytes.iter().all(|b| end(*b) || inner(*b)),
        _ => false,
    }
}

fn lower_alnum(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}
fn alnum(b: u8) -> bool {
    b.is_ascii_alphanumeric()
}
fn is_label(text: &str) -> bool {
    framed(text, lower_alnum, |b| b == b'-')
}

/// Container names, volume names, namespaces.
pub fn dns_label(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err("must be no more than 63 characters".into());
    }
    if is_label(text) { Ok(()) } else { Err(DNS_LABEL.into()) }
}

/// Pod names.
pub fn dns_subdomain(text: &str) -> Result<(), String> {
    if text.len() > 253 {
        return Err("must be no more than 253 characters".into());
    }
    if text.split('.').all(is_label) { Ok(()) } else { Err(DNS_SUBDOMAIN.into()) }
}

/// Keys of labels and annotations: `[prefix/]name`.
pub fn qualified_name(text: &str) -> Result<(), String> {
    let name = match text.split_once('/') {
        None => text,
        Some((_, rest)) if rest.contains('/') => {
            return Err(format!("a qualified name {}", &QUALIFIED["name part ".len()..]));
        }
        Some(("", _)) => return Err("prefix part must be non-empty".into()),
        Some((prefix, name)) => {
            dns_subdomain(prefix).map_err(|e| format!("prefix part {e}"))?;
            name
        }
    };
    if name.is_empty() {
        return Err("name part must be non-empty".into());
    }
    if name.len() > 63 {
        return Err("name part must be no more than 63 characters".into());
    }
    if framed(name, alnum, |b| b"-_.".contains(&b)) { Ok(()) } else { Err(QUALIFIED.into()) }
}

pub fn label_value(text: &str) -> Result<(), String> {
    if text.len() > 63 {
        return Err("must be no more than 63 characters".into());
    }
    if text.is_empty() || framed(text, alnum, |b| b"-_.".contains(&b)) { Ok(()) } else { Err(LABEL_VALUE.into()) }
}

pub fn env_name(text: &str) -> Result<(), String> {
    let printable = |b: u8| (0x20..0x7f).contains(&b) && b != b'=';
    if !text.is_empty() && text.bytes().all(printable) { Ok(()) } else { Err(ENV_NAME.into()) }
}

/// Names of container ports.
pub fn port_name(text: &str) -> Result<(), String> {
    if text.len() > 15 {
        return Err("must be no more than 15 characters".into());
    }
    if !framed(text, lower_alnum, |b| b == b'-') {
        return Err("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if text.contains("--") {
        return Err("must not contain consecutive hyphens".into());
    }
    if text.bytes().any(|b| b.is_ascii_lowercase()) {
        Ok(())
    } else {
        Err("must contain at least one letter (a-z)".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_forms() {
        for good in ["a", "a-b", "1", "0a"] {
            assert_eq!(dns_label(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", &"x".repeat(64)] {
            assert!(dns_label(bad).is_err(), "{bad}");
        }
        assert!(dns_subdomain("a.b-c.d").is_ok() && dns_subdomain("a..b").is_err());
        assert!(qualified_name("example.com/My_Name.1").is_ok() && qualified_name("x").is_ok());
        for bad in ["", "/x", "a/", "a/b/c", "Ex.com/x", "_x"] {
            assert!(qualified_name(bad).is_err(), "{bad}");
        }
        assert!(label_value("").is_ok() && label_value("a b").is_err());
        assert!(env_name("my.var-1").is_ok() && env_name("a=b").is_err() && env_name("").is_err());
        assert!(port_name("http-1").is_ok() && port_name("80").is_err() && port_name("a--b").is_err());
    }
}
