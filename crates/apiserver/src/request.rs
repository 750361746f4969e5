//! Requests as data: path, query, body, and what they cost.

use std::time::Duration;

use http::{Method, Request, header};
use serde::Serialize;
use url::form_urlencoded;

use crate::{ApiError, budget::Budget};

/// One request that has not been sent.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    /// What it is about, for errors: `pods default/web`.
    pub(crate) object: String,
    pub(crate) budget: Budget,
    /// None: the client's own deadline.
    pub(crate) deadline: Option<Duration>,
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    content_type: Option<&'static str>,
    body: Vec<u8>,
}

impl Call {
    fn new(operation: &'static str, method: Method, path: String, object: impl Into<String>) -> Self {
        let (object, budget) = (object.into(), Budget::Reads);
        let query = Vec::new();
        Self { operation, object, budget, deadline: None, method, path, query, content_type: None, body: Vec::new() }
    }
    pub(crate) fn get(path: String, object: impl Into<String>) -> Self {
        Self::new("get", Method::GET, path, object)
    }
    pub(crate) fn list(path: String, object: impl Into<String>) -> Self {
        Self::new("list", Method::GET, path, object)
    }
    pub(crate) fn watch(path: String, object: impl Into<String>) -> Self {
        Self::new("watch", Method::GET, path, object).with("watch", "1").paid_by(Budget::Free)
    }
    pub(crate) fn create(path: String, object: impl Into<String>, body: &impl Serialize) -> Result<Self, ApiError> {
        Self::new("create", Method::POST, path, object).json("application/json", body)
    }
    pub(crate) fn replace(path: String, object: impl Into<String>, body: &impl Serialize) -> Result<Self, ApiError> {
        Self::new("update", Method::PUT, path, object).json("application/json", body)
    }
    pub(crate) fn strategic_patch(
        path: String,
        object: impl Into<String>,
        body: &impl Serialize,
    ) -> Result<Self, ApiError> {
        Self::new("patch", Method::PATCH, path, object).json("application/strategic-merge-patch+json", body)
    }
    pub(crate) fn delete(path: String, object: impl Into<String>, options: &impl Serialize) -> Result<Self, ApiError> {
        Self::new("delete", Method::DELETE, path, object).json("application/json", options)
    }

    /// As metrics name it.
    pub(crate) fn method(&self) -> &str {
        self.method.as_str()
    }
    pub(crate) fn size(&self) -> usize {
        self.body.len()
    }

    fn json(mut self, content_type: &'static str, body: &impl Serialize) -> Result<Self, ApiError> {
        self.body = serde_json::to_vec(body).map_err(|e| self.cannot_build(&e))?;
        self.content_type = Some(content_type);
        Ok(self)
    }
    pub(crate) fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }
    pub(crate) fn with_some(self, key: &'static str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }
    pub(crate) fn paid_by(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }
    pub(crate) fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub(crate) fn request(&self) -> Result<Request<Vec<u8>>, ApiError> {
        let mut uri = self.path.clone();
        if !self.query.is_empty() {
            uri.push('?');
            uri.push_str(&form_urlencoded::Serializer::new(String::new()).extend_pairs(&self.query).finish());
        }
        let mut builder =
            Request::builder().method(self.method.clone()).uri(uri).header(header::ACCEPT, "application/json");
        if let Some(content_type) = self.content_type {
            builder = builder.header(header::CONTENT_TYPE, content_type);
        }
        builder.body(self.body.clone()).map_err(|e| self.cannot_build(&e))
    }

    fn cannot_build(&self, error: &dyn std::error::Error) -> ApiError {
        ApiError::Request { operation: self.operation, object: self.object.clone(), detail: error.to_string() }
    }
}

/// Paths of the API. Names come from API objects or manifests; one that is no DNS name can't leave its segment.
pub(crate) mod path {
    fn segment(name: &str) -> String {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':' | b'~');
        name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    }
    pub(crate) fn core(resource: &str) -> String {
        format!("/api/v1/{resource}")
    }
    pub(crate) fn core_named(resource: &str, name: &str) -> String {
        format!("/api/v1/{resource}/{}", segment(name))
    }
    pub(crate) fn namespaced(namespace: &str, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", segment(namespace))
    }
    pub(crate) fn named(namespace: &str, resource: &str, name: &str) -> String {
        format!("{}/{}", namespaced(namespace, resource), segment(name))
    }
    pub(crate) fn group(group_version: &str, resource: &str) -> String {
        format!("/apis/{group_version}/{resource}")
    }
    pub(crate) fn group_named(group_version: &str, resource: &str, name: &str) -> String {
        format!("/apis/{group_version}/{resource}/{}", segment(name))
    }
    pub(crate) fn group_namespaced(group_version: &str, namespace: &str, resource: &str) -> String {
        format!("/apis/{group_version}/namespaces/{}/{resource}", segment(namespace))
    }

    #[cfg(test)]
    mod tests {
        #[test]
        fn a_name_can_not_leave_its_segment() {
            assert_eq!(super::named("a", "secrets", "../../x?y"), "/api/v1/namespaces/a/secrets/..%2F..%2Fx%3Fy");
        }
    }
}
