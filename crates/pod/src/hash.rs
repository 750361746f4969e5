//! Hashes that live on the node: written into container annotations and static pod UIDs, so they must not
//! change when the agent is swapped for upstream's or back.

use k8s_openapi::api::core::v1::Container;

/// The annotation `io.kubernetes.container.hash` (written in lower case hex): changes when the image does.
///
/// Upstream hashes the printed form of the JSON bytes of `{image, name}`, i.e. their decimal values.
pub fn container_hash(container: &Container) -> u64 {
    let image = json_string(container.image.as_deref().unwrap_or_default());
    let name = json_string(&container.name);
    let json = format!("{{\"image\":{image},\"name\":{name}}}");
    let mut printed = String::from("([]uint8)[");
    for (i, byte) in json.bytes().enumerate() {
        if i > 0 {
            printed.push(' ');
        }
        printed.push_str(&byte.to_string());
    }
    printed.push(']');
    u64::from(fnv1a_32(printed.as_bytes()))
}

/// As `annotations["io.kubernetes.container.hash"]` shows it.
pub fn container_hash_text(container: &Container) -> String {
    format!("{:x}", container_hash(container))
}

pub fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

pub fn fnv1a_128(chunks: &[&[u8]]) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    chunks.iter().flat_map(|c| c.iter()).fold(OFFSET, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

/// A JSON string as Go's encoder writes it: angle brackets, ampersands and the two line separators escaped.
fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_one_upstream_writes() {
        for (name, image, hash) in [
            ("app", "nginx:1.27", "a763184"),
            ("a<b>&", "r/\"x\\y", "c7f49279"),
            ("", "", "edd67cc4"),
            ("kube-apiserver", "registry.k8s.io/kube-apiserver:v1.37.2", "bd8bd84c"),
            ("ünï", "a\u{2028}b\u{1}\t", "c28393b6"),
        ] {
            let container = Container { name: name.into(), image: Some(image.into()), ..Container::default() };
            assert_eq!(container_hash_text(&container), hash, "{name}");
        }
    }

    #[test]
    fn fnv_128_is_the_standard_one() {
        assert_eq!(fnv1a_128(&[b"foobar"]), fnv1a_128(&[b"foo", b"bar"]));
        assert_eq!(fnv1a_128(&[b""]), 0x6c62272e07bb014262b821756295c58d);
        assert_eq!(fnv1a_128(&[b"a"]), 0xd228cb696f1a8caf78912b704e4a8964);
    }
}
