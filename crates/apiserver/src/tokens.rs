//! Service account tokens for pods.

use std::{fmt, time::Duration};

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

/// For how long the API server may not know a pod that it has told of.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

fn is_unknown_pod(error: &ApiError) -> bool {
    error.is_not_found() && error.refusal().is_some_and(|refusal| refusal.message.starts_with("pod "))
}

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
    /// The API server may know of a new pod later than its watchers.
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
        let mut looks = LOOKS;
        let answer: TokenRequest = loop {
            let call = Call::create(path.clone(), object.as_str(), &request)?.paid_by(Budget::Tokens);
            match self.ask(call).await {
                Err(error) if looks > 0 && is_unknown_pod(&error) => looks -= 1,
                answer => break answer?,
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        };
        let granted = answer.status.and_then(|s| Some((s.token?, s.expiration_timestamp?.0)));
        let (token, expires_at) = granted.ok_or_else(|| ApiError::not_found("create", object))?;
        Ok(ServiceAccountToken { token, expires_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refusal;

    #[test]
    fn a_pod_that_the_api_server_does_not_know_yet_is_told_from_an_absent_account() {
        let refused = |message: &str| {
            let (reason, message) = ("NotFound".to_owned(), message.to_owned());
            let refusal = Refusal { code: 404, reason, message, retry_after: None };
            ApiError::Refused { operation: "create", object: "token".to_owned(), refusal }
        };
        assert!(is_unknown_pod(&refused("pod \"web\" not found")));
        assert!(!is_unknown_pod(&refused("serviceaccounts \"builder\" not found")));
    }
}
