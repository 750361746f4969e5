//! managedFields blanked in an answer's bytes, before they are decoded. They are a good part of a pod on the wire,
//! nobody here reads them, and decoding them takes many small allocations.

const KEY: &[u8] = b"\"managedFields\":[";
/// The place of its `F`, which is rare elsewhere.
const RARE: usize = 8;

/// Leaves empty arrays. Within a JSON string the quotes of the key would be escaped, so no value of a ConfigMap is
/// meant.
pub(crate) fn blank(json: &mut [u8]) {
    let mut from = 0;
    while let Some(start) = next_key(json, from) {
        let start = start + KEY.len();
        let Some(length) = length_of_array(&json[start..]) else { return };
        json[start..start + length].fill(b' ');
        from = start + length;
    }
}

fn next_key(json: &[u8], mut from: usize) -> Option<usize> {
    loop {
        let rare = from + json.get(from..)?.iter().position(|byte| *byte == KEY[RARE])?;
        if rare >= RARE && json[rare - RARE..].starts_with(KEY) {
            return Some(rare - RARE);
        }
        from = rare + 1;
    }
}

/// Up to its closing bracket; None where it has none: its reader shall find what is wrong.
fn length_of_array(json: &[u8]) -> Option<usize> {
    let (mut depth, mut in_text, mut escaped) = (1_usize, false, false);
    for (i, byte) in json.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(i);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn blanked(json: &Value) -> Value {
        let mut bytes = serde_json::to_vec(json).unwrap();
        blank(&mut bytes);
        serde_json::from_slice(&bytes).unwrap()
    }

    fn managed() -> Value {
        let uid = r#"k:{"uid":"]}\"#;
        json!([{"manager": "kubectl", "fieldsV1": {"f:metadata": {uid: {".": {}, "f:a": [1, "]"]}}}}, {}])
    }

    #[test]
    fn managed_fields_of_every_object_are_emptied_and_nothing_else() {
        let list = |managed: Value| {
            json!({"items": [
                {"metadata": {"managedFields": managed, "name": "Fa"}, "spec": {"x": ["F", "\""]}},
                {"metadata": {"name": "b", "managedFields": managed}},
            ]})
        };
        assert_eq!(blanked(&list(managed())), list(json!([])));
    }

    #[test]
    fn a_text_that_looks_like_managed_fields_stays() {
        let text = json!({"metadata": {"managedFields": managed()}}).to_string();
        let map = json!({"data": {"managedFields": "[1]", "object.json": text}});
        assert_eq!(blanked(&map), map);
    }

    #[test]
    fn what_is_cut_off_is_left_to_its_reader() {
        for cut in ["{\"managedFields\":[{\"a\":\"", "{\"managedFields\":[", "\"managedFields\":", "F", ""] {
            let mut bytes = cut.as_bytes().to_vec();
            blank(&mut bytes);
            assert_eq!(bytes, cut.as_bytes());
        }
    }

    #[test]
    fn valid_json_stays_valid_and_keeps_the_rest() {
        fuzz::each("managed-fields", |bytes| {
            let mut blanked = bytes.to_vec();
            blank(&mut blanked);
            assert_eq!(blanked.len(), bytes.len());
            if serde_json::from_slice::<serde_json::Value>(bytes).is_ok() {
                serde_json::from_slice::<serde_json::Value>(&blanked).expect("still JSON");
            }
        });
    }
}
