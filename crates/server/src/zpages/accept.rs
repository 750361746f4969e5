//! Which form of an answer an `Accept` header asks for.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Yaml,
}

impl Format {
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Form {
    Text,
    Object { format: Format, version: &'static str },
}

/// None of the forms will do; the refusal itself can be told in this format.
#[derive(Debug, PartialEq, Eq)]
pub struct Refused {
    pub format: Format,
}

/// In the order in which a wildcard takes them.
const FORMATS: [Format; 2] = [Format::Json, Format::Yaml];
const VERSIONS: [&str; 2] = ["v1beta1", "v1alpha1"];

struct Clause<'a> {
    media_type: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

/// `kind` is that of the object which the endpoint has. An object is given only to who names it by `as`, `g` and `v`,
/// the text only to who names none.
pub fn negotiate(header: &str, kind: &str) -> Result<Form, Refused> {
    if header.trim().is_empty() {
        return Ok(Form::Text);
    }
    let mut clauses: Vec<Clause<'_>> = header.split(',').filter_map(clause).collect();
    let rank = |c: &Clause<'_>| (c.media_type.starts_with('*'), c.media_type.ends_with('*'));
    clauses.sort_by(|a, b| b.quality.total_cmp(&a.quality).then(rank(a).cmp(&rank(b))));
    for clause in &clauses {
        let named = named(clause, kind);
        for format in FORMATS.into_iter().filter(|format| covers(clause.media_type, format.media_type())) {
            if let Some(Some(version)) = named {
                return Ok(Form::Object { format, version });
            }
        }
        if covers(clause.media_type, "text/plain") && named == Some(None) {
            return Ok(Form::Text);
        }
    }
    let told = clauses.iter().find_map(|c| FORMATS.into_iter().find(|f| covers(c.media_type, f.media_type())));
    Err(Refused { format: told.unwrap_or(Format::Json) })
}

fn clause(text: &str) -> Option<Clause<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let media_type = match parts.next()? {
        "*" => "*/*",
        named if named.contains('/') => named,
        _ => return None,
    };
    let mut parameters: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
    let quality = parameters.iter().find(|(name, _)| *name == "q").and_then(|(_, q)| q.parse().ok()).unwrap_or(1.0);
    parameters.retain(|(name, _)| *name != "q");
    Some(Clause { media_type, quality, parameters })
}

/// Some(None): no object is named. None: one that is not here.
fn named(clause: &Clause<'_>, kind: &str) -> Option<Option<&'static str>> {
    let get = |key: &str| clause.parameters.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
    let schema = ["stream", "sv"].into_iter().any(|key| get(key).is_some_and(|value| !value.is_empty()));
    match (get("as"), get("g"), get("v")) {
        _ if schema => None,
        (None, None, None) => Some(None),
        (Some(as_kind), Some("config.k8s.io"), Some(version)) if as_kind == kind => {
            VERSIONS.into_iter().find(|known| *known == version).map(Some)
        }
        _ => None,
    }
}

fn covers(pattern: &str, media_type: &str) -> bool {
    let (kind, _) = media_type.split_once('/').unwrap_or_default();
    pattern == media_type || pattern == "*/*" || pattern.strip_suffix("/*") == Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(format: Format, version: &'static str) -> Result<Form, Refused> {
        Ok(Form::Object { format, version })
    }

    /// Each as the upstream kubelet answers it.
    #[test]
    fn the_form_is_the_one_that_upstream_chooses() {
        let refused = |format| Err(Refused { format });
        let table = [
            ("", Ok(Form::Text)),
            ("*/*", Ok(Form::Text)),
            ("text/plain", Ok(Form::Text)),
            ("text/plain, application/json", Ok(Form::Text)),
            ("text/html", refused(Format::Json)),
            ("application/json", refused(Format::Json)),
            ("application/yaml", refused(Format::Yaml)),
            ("application/vnd.kubernetes.protobuf", refused(Format::Json)),
            ("application/json;as=Statusz;v=v1beta1;g=config.k8s.io", object(Format::Json, "v1beta1")),
            ("application/json;as=Statusz;v=v1alpha1;g=config.k8s.io", object(Format::Json, "v1alpha1")),
            ("application/yaml;as=Statusz;v=v1beta1;g=config.k8s.io", object(Format::Yaml, "v1beta1")),
            ("application/json;as=Statusz;v=v1;g=config.k8s.io", refused(Format::Json)),
            ("application/json;as=Flagz;v=v1beta1;g=config.k8s.io", refused(Format::Json)),
            ("application/cbor;as=Statusz;v=v1beta1;g=config.k8s.io", refused(Format::Json)),
            ("application/json;as=Table;v=v1;g=meta.k8s.io", refused(Format::Json)),
            ("text/plain;q=0.5,application/json;v=v1beta1;g=config.k8s.io;as=Statusz", object(Format::Json, "v1beta1")),
        ];
        for (header, form) in table {
            assert_eq!(negotiate(header, "Statusz"), form, "{header}");
        }
    }
}
