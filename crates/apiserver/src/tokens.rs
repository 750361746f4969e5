//! Service account tokens for pods.

use std::fmt;

use k8s_openapi::{
    api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use pod::{PodKey, PodUid, time::Timestamp};

use crate::{
    ApiError, ApiServer,
    budget::Budget,
    request::{Call, path},
};

/// Whom a token is for: it ceases to be valid with that pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenFor {
    pub pod: PodKey,
    pub uid: PodUid,
}

/// A token; its Debug doesn't show it.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceAccountToken {
    pub token: String,
    pub expires_at: Timestamp,
}

impl fmt::Debug for ServiceAccountToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccountToken").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}

impl ApiServer {
    /// A token of the pod's namespace and the named service account. `audiences` empty: the API server's own.
    pub async fn token_request(
        &self,
        service_account: &str,
        audiences: &[String],
        expiration_seconds: Option<i64>,
        pod: &TokenFor,
    ) -> Result<ServiceAccountToken, ApiError> {
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.pod.name.to_string()),
            uid: Some(pod.uid.to_string()),
        };
        let spec = TokenRequestSpec {
            audiences: (!audiences.is_empty()).then(|| audiences.to_vec()),
            bound_object_ref: Some(bound),
            expiration_seconds,
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { metadata: ObjectMeta::default(), spec: Some(spec), status: None };
        let namespace = &pod.pod.namespace;
        let path = format!("{}/token", path::named(namespace, "serviceaccounts", service_account));
        let object = format!("token of serviceaccount {namespace}/{service_account}");
        let call = Call::create(path, object.as_str(), &request)?.paid_by(Budget::Tokens);
        let answer: TokenRequest = self.ask(call).await?;
        let granted = answer.status.and_then(|s| Some((s.token?, s.expiration_timestamp?.0)));
        let (token, expires_at) = granted.ok_or_else(|| ApiError::not_found("create", object))?;
        Ok(ServiceAccountToken { token, expires_at })
    }
}
