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

/// The pod watch may be ahead of what decides on a token: another API server's cache, or the graph of the Node authorizer.
const LAG: [Duration; 6] = [
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
];

fn comes_too_early(error: &ApiError) -> bool {
    let says = |told: fn(&str) -> bool| error.refusal().is_some_and(|refusal| told(&refusal.message));
    error.is_not_found() && says(|message| message.starts_with("pod "))
        || error.is_forbidden() && says(|message| message.contains("no relationship found"))
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
        let mut waits = LAG.into_iter();
        let answer: TokenRequest = loop {
            let call = Call::create(path.clone(), object.as_str(), &request)?.paid_by(Budget::Tokens);
            let answer = self.ask(call).await;
            let too_early = answer.as_ref().err().is_some_and(comes_too_early);
            match waits.next().filter(|_| too_early) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => break answer?,
            }
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
    fn what_the_api_server_does_not_know_yet_is_told_from_what_is_absent_or_denied() {
        let refused = |code, reason: &str, message: &str| {
            let (reason, message) = (reason.to_owned(), message.to_owned());
            let refusal = Refusal { code, reason, message, retry_after: None };
            ApiError::Refused { operation: "create", object: "token".to_owned(), refusal }
        };
        assert!(comes_too_early(&refused(404, "NotFound", "pod \"web\" not found")));
        assert!(!comes_too_early(&refused(404, "NotFound", "serviceaccounts \"builder\" not found")));
        let no_edge = "node: no relationship found between node 'node-a' and this object";
        assert!(comes_too_early(&refused(403, "Forbidden", no_edge)));
        assert!(!comes_too_early(&refused(403, "Forbidden", "node: unauthorized audience vault")));
    }
}
