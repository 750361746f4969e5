//! interim
pub(crate) fn with_default_tag(image: &str) -> Result<String, String> {
    if image.is_empty() || image.contains(' ') { return Err("invalid reference format".into()); }
    let tagged = image.contains('@') || image.rsplit_once(':').is_some_and(|(_, t)| !t.contains('/'));
    Ok(if tagged { image.to_owned() } else { format!("{image}:latest") })
}
pub(crate) fn default_policy(image: &str) -> &'static str {
    if image.ends_with(":latest") { "Always" } else { "IfNotPresent" }
}
pub(crate) fn repository(image: &str) -> &str { image }
