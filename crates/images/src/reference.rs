//! Image references as people write them: `[registry[:port]/]path[:tag][@digest]`, short names meaning Docker Hub.

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Registry and path: by this credentials are found.
    pub repository: String,
    /// The default one where neither tag nor digest was given.
    pub tag: Option<String>,
    pub digest: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("couldn't parse image name {image:?}: {problem}")]
pub struct ReferenceError {
    pub image: String,
    problem: String,
}

const INVALID: &str = "invalid reference format";

impl Reference {
    pub fn parse(image: &str) -> Result<Self, ReferenceError> {
        parse(image).map_err(|problem| ReferenceError { image: image.to_owned(), problem })
    }
}

/// The image as written, with the default tag where it says neither tag nor digest. Short names stay short: what they
/// mean is the runtime's business.
pub fn with_default_tag(image: &str) -> Result<String, ReferenceError> {
    let reference = Reference::parse(image)?;
    match reference.tag {
        Some(tag) if reference.digest.is_none() && !image.ends_with(&format!(":{tag}")) => Ok(format!("{image}:{tag}")),
        _ => Ok(image.to_owned()),
    }
}

fn parse(image: &str) -> Result<Reference, String> {
    if image.len() == 64 && image.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(format!("invalid repository name ({image}), cannot specify 64-byte hexadecimal strings"));
    }
    let (domain, remainder) = split_domain(image);
    let path_end = remainder.find([':', '@']).unwrap_or(remainder.len());
    let path = &remainder[..path_end];
    if path.chars().any(char::is_uppercase) {
        return Err(format!("{INVALID}: repository name ({path}) must be lowercase"));
    }
    let (name_and_tag, digest) = match remainder.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (remainder.as_str(), None),
    };
    let tag = name_and_tag.get(path_end + 1..);
    let valid = is_domain(&domain) && path.split('/').all(is_path_component);
    if !valid || !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest) {
        return Err(INVALID.to_owned());
    }
    let repository = format!("{domain}/{path}");
    if repository.len() > MAX_NAME {
        return Err(format!("repository name must not be more than {MAX_NAME} characters"));
    }
    if let Some(checksum) = digest.and_then(|d| d.strip_prefix("sha256:"))
        && checksum.len() != 64
    {
        return Err("invalid checksum digest length".to_owned());
    }
    let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
    Ok(Reference { repository, tag, digest: digest.map(str::to_owned) })
}

/// What comes before the first slash is a registry only if it looks like a host.
fn split_domain(image: &str) -> (String, String) {
    let is_host = |s: &str| s.contains(['.', ':']) || s == "localhost" || s.chars().any(char::is_uppercase);
    let (domain, remainder) = match image.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, image),
    };
    let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain.to_owned(), format!("library/{remainder}"));
    }
    (domain.to_owned(), remainder.to_owned())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let ipv6 = !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            return ipv6 && (port.is_empty() || port.strip_prefix(':').is_some_and(is_number));
        }
        None => domain.split_once(':').map_or((domain, None), |(host, port)| (host, Some(port))),
    };
    let component = |c: &str| {
        let alnum = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = c.as_bytes();
        alnum(bytes.first()) && alnum(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    };
    host.split('.').all(component) && port.is_none_or(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Runs of lower case letters and digits, joined by `.`, `_`, `__` or dashes.
fn is_path_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators = component.split(|c: char| alnum(c as u8) && c.is_ascii());
    let valid = |s: &str| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-');
    let ends = |b: Option<&u8>| b.is_some_and(|b| alnum(*b));
    ends(component.as_bytes().first()) && ends(component.as_bytes().last()) && separators.into_iter().all(valid)
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else { return false };
    let component = |c: &str| {
        c.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) && c.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(component)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn parts(image: &str) -> (String, Option<String>, Option<String>) {
        let r = Reference::parse(image).unwrap();
        (r.repository, r.tag, r.digest)
    }

    #[test]
    fn short_names_mean_docker_hub() {
        let tag = |t: &str| Some(t.to_owned());
        for (image, repository, expected) in [
            ("busybox", "docker.io/library/busybox", tag("latest")),
            ("busybox:1.36", "docker.io/library/busybox", tag("1.36")),
            ("me/app", "docker.io/me/app", tag("latest")),
            ("index.docker.io/busybox", "docker.io/library/busybox", tag("latest")),
            ("localhost/app", "localhost/app", tag("latest")),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b", tag("v1")),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause", tag("3.10")),
            ("[fd00::1]:5000/a", "[fd00::1]:5000/a", tag("latest")),
        ] {
            assert_eq!(parts(image), (repository.to_owned(), expected, None), "{image}");
        }
        let pinned = parts(&format!("a.io/b@{DIGEST}"));
        assert_eq!(pinned, ("a.io/b".to_owned(), None, Some(DIGEST.to_owned())));
        let both = parts(&format!("a.io/b:t@{DIGEST}"));
        assert_eq!(both.1.as_deref(), Some("t"));
    }

    #[test]
    fn the_default_tag_is_added_to_the_name_as_written() {
        let pinned = format!("a.io/b@{DIGEST}");
        for (image, full) in [
            ("busybox", "busybox:latest"),
            ("busybox:1", "busybox:1"),
            ("a:5000/b", "a:5000/b:latest"),
            (&pinned, &pinned),
        ] {
            assert_eq!(with_default_tag(image).as_deref(), Ok(full));
        }
    }

    #[test]
    fn what_is_no_reference_is_refused_in_dockers_words() {
        let problem = |image: &str| Reference::parse(image).unwrap_err().problem;
        for image in ["", "a//b", "a:", "a@sha256:12", "-a", "a_-b", "a..b", "a b", "a:b:c", "a.io/b:t@"] {
            assert_eq!(problem(image), INVALID, "{image:?}");
        }
        assert_eq!(problem("a/Foo"), "invalid reference format: repository name (a/Foo) must be lowercase");
        assert_eq!(problem("a@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), "invalid checksum digest length");
        let whole = Reference::parse("a b").unwrap_err().to_string();
        assert_eq!(whole, "couldn't parse image name \"a b\": invalid reference format");
    }

    #[test]
    fn any_name_is_a_reference_or_refused() {
        fuzz::each("image", |bytes| {
            let Ok(text) = std::str::from_utf8(bytes) else { return };
            let _ = Reference::parse(text);
            let _ = with_default_tag(text);
        });
    }
}
