//! Questions about callers of the agent's own HTTPS port: who is it, and may it.

use std::time::Duration;

use k8s_openapi::{
    api::{
        authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
        authorization::v1::{SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use serde::de::DeserializeOwned;

use crate::{
    ApiError, ApiServer,
    request::{Call, path},
};

/// Between the tries of a question: a caller waits for its answer, and asking twice does no harm.
const PAUSES: [Duration; 3] = [Duration::from_millis(100), Duration::from_millis(300), Duration::from_millis(900)];

impl ApiServer {
    /// `audiences` empty: the API server's own.
    pub async fn token_review(&self, token: &str, audiences: &[String]) -> Result<TokenReviewStatus, ApiError> {
        let spec =
            TokenReviewSpec { token: token.to_owned(), audiences: (!audiences.is_empty()).then(|| audiences.to_vec()) };
        let review = TokenReview { metadata: ObjectMeta::default(), spec, status: None };
        let path = path::group("authentication.k8s.io/v1", "tokenreviews");
        let answer: TokenReview = self.review(Call::create(path, "tokenreview", &review)?).await?;
        Ok(answer.status.unwrap_or_default())
    }

    pub async fn subject_access_review(
        &self,
        spec: SubjectAccessReviewSpec,
    ) -> Result<SubjectAccessReviewStatus, ApiError> {
        let review = SubjectAccessReview { metadata: ObjectMeta::default(), spec, status: None };
        let path = path::group("authorization.k8s.io/v1", "subjectaccessreviews");
        let answer: SubjectAccessReview = self.review(Call::create(path, "subjectaccessreview", &review)?).await?;
        Ok(answer.status.unwrap_or_default())
    }

    /// Asks again where the connection broke off or the server is in trouble. A caller gets his answer now: it does not
    /// wait for the node's identity.
    async fn review<T: DeserializeOwned>(&self, call: Call) -> Result<T, ApiError> {
        if self.awaits_identity() {
            return Err(ApiError::NoIdentity { operation: call.operation, object: call.object });
        }
        for pause in PAUSES {
            match self.ask(call.clone()).await {
                Err(error) if error.is_transient() && !error.is_deadline() => tokio::time::sleep(pause).await,
                answer => return answer,
            }
        }
        self.ask(call).await
    }
}
