//! Rules of Kubernetes names that options are checked against: label keys and values, taint effects, sysctls.

const NAME_RULE: &str =
    "must consist of letters, digits, '-', '_' or '.', and must start and end with a letter or digit";

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn is_dns_subdomain(text: &str) -> bool {
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// What is wrong with a label key (`prefix/name` or `name`).
pub fn qualified_name(key: &str) -> Option<String> {
    let (prefix, name) = match key.split('/').collect::<Vec<_>>()[..] {
        [name] => (None, name),
        [prefix, name] => (Some(prefix), name),
        _ => return Some("a qualified name has at most one '/'".to_owned()),
    };
    if prefix.is_some_and(|prefix| !is_dns_subdomain(prefix)) {
        return Some("prefix part must be a lower case DNS subdomain of at most 253 characters".to_owned());
    }
    match name {
        "" => Some("name part must be non-empty".to_owned()),
        _ if name.len() > 63 => Some("name part must be no more than 63 bytes".to_owned()),
        _ if !is_name(name) => Some(format!("name part {NAME_RULE}")),
        _ => None,
    }
}

/// What is wrong with a label value.
pub fn label_value(value: &str) -> Option<String> {
    match value {
        "" => None,
        _ if value.len() > 63 => Some("must be no more than 63 bytes".to_owned()),
        _ if !is_name(value) => Some(format!("a valid label value {NAME_RULE}")),
        _ => None,
    }
}

pub fn is_taint_effect(effect: &str) -> bool {
    matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute")
}

pub fn is_reservable_memory(resource: &str) -> bool {
    resource == "memory" || resource.starts_with("hugepages-")
}

/// Segments of lower case letters, digits, `-` and `_`, parted by `.` or `/`.
pub fn is_sysctl(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let segment = |segment: &str| {
        let bytes = segment.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_keys_and_values_follow_the_api() {
        for good in ["a", "a.b/c_D-1", "node.kubernetes.io/x"] {
            assert_eq!(qualified_name(good), None, "{good}");
        }
        for bad in ["", "a b", "A.b/c", "a/b/c", "-a", "x/"] {
            assert!(qualified_name(bad).is_some(), "{bad}");
        }
        assert_eq!(label_value(""), None);
        assert!(label_value("a/b").is_some());
    }

    #[test]
    fn sysctl_names_take_dots_or_slashes() {
        assert!(is_sysctl("net.ipv4/ip_forward") && is_sysctl("kernel.shm_rmid_forced"));
        assert!(!is_sysctl("net..x") && !is_sysctl("Net.x") && !is_sysctl(""));
    }
}
