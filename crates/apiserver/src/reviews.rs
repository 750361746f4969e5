//! Questions about callers of the agent's own HTTPS port: who is it, and may it.

use k8s_openapi::{
    api::{
        authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus},
        authorization::v1::{SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    ApiError, ApiServer,
    request::{Call, path},
};

impl ApiServer {
    /// `audiences` empty: the API server's own.
    pub async fn token_review(&self, token: &str, audiences: &[String]) -> Result<TokenReviewStatus, ApiError> {
        let spec =
            TokenReviewSpec { token: token.to_owned(), audiences: (!audiences.is_empty()).then(|| audiences.to_vec()) };
        let review = TokenReview { metadata: ObjectMeta::default(), spec, status: None };
        let path = path::group("authentication.k8s.io/v1", "tokenreviews");
        let answer: TokenReview = self.ask(Call::create(path, "tokenreview", &review)?).await?;
        Ok(answer.status.unwrap_or_default())
    }

    pub async fn subject_access_review(
        &self,
        spec: SubjectAccessReviewSpec,
    ) -> Result<SubjectAccessReviewStatus, ApiError> {
        let review = SubjectAccessReview { metadata: ObjectMeta::default(), spec, status: None };
        let path = path::group("authorization.k8s.io/v1", "subjectaccessreviews");
        let answer: SubjectAccessReview = self.ask(Call::create(path, "subjectaccessreview", &review)?).await?;
        Ok(answer.status.unwrap_or_default())
    }
}
