//! The API server as the judge of tokens and of access.

use std::{collections::BTreeMap, sync::Arc};

use apiserver::ApiServer;
use futures::FutureExt as _;
use k8s_openapi::api::{
    authentication::v1::TokenReviewStatus,
    authorization::v1::{ResourceAttributes, SubjectAccessReviewSpec},
};

use crate::{
    authn::{ReviewToken, User},
    authz::{Access, ReviewAccess},
    error::ReviewError,
};

/// For [`crate::Authenticator`]. `audiences` empty: the API server's own.
pub fn tokens(api: ApiServer, audiences: Vec<String>) -> Arc<ReviewToken> {
    Arc::new(move |token| {
        let (api, audiences) = (api.clone(), audiences.clone());
        async move { user(api.token_review(&token, &audiences).await?) }.boxed()
    })
}

/// A refusal that is told with an error is no answer: an authenticator behind the API server failed, and may know the
/// token the next time.
fn user(status: TokenReviewStatus) -> Result<Option<User>, ReviewError> {
    if status.authenticated != Some(true) {
        return match status.error.filter(|error| !error.is_empty()) {
            Some(error) => Err(error.into()),
            None => Ok(None),
        };
    }
    let Some(user) = status.user else { return Ok(None) };
    let extra: BTreeMap<_, _> = user.extra.unwrap_or_default().into_iter().collect();
    Ok(Some(User {
        name: user.username.unwrap_or_default(),
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra,
    }))
}

/// For [`crate::Authorizer`].
pub fn access(api: ApiServer) -> Arc<ReviewAccess> {
    Arc::new(move |access| {
        let api = api.clone();
        async move { Ok(api.subject_access_review(question(&access)).await?.allowed) }.boxed()
    })
}

fn question(access: &Access) -> SubjectAccessReviewSpec {
    let user = &access.user;
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: given(&user.uid),
        groups: Some(user.groups.clone()),
        extra: (!user.extra.is_empty()).then(|| user.extra.clone().into_iter().collect()),
        resource_attributes: Some(ResourceAttributes {
            verb: given(access.verb),
            version: Some("v1".into()),
            resource: Some("nodes".into()),
            subresource: Some(access.subresource.into()),
            name: Some(access.node.to_string()),
            ..ResourceAttributes::default()
        }),
        non_resource_attributes: None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    #[test]
    fn an_unauthenticated_answer_names_nobody() {
        let named = UserInfo { username: Some("eve".into()), ..UserInfo::default() };
        let status = TokenReviewStatus { user: Some(named), authenticated: Some(false), ..Default::default() };
        assert_eq!(user(status.clone()).unwrap(), None);
        let known = user(TokenReviewStatus { authenticated: Some(true), ..status }).unwrap();
        assert_eq!(known.unwrap().name, "eve");
    }

    #[test]
    fn an_authenticator_that_failed_has_not_refused() {
        let failed = TokenReviewStatus { error: Some("the webhook is away".into()), ..Default::default() };
        assert_eq!(user(failed).unwrap_err().to_string(), "the webhook is away");
    }

    #[test]
    fn the_question_is_about_this_node() {
        let access =
            Access { user: Arc::new(User::anonymous()), verb: "get", node: Arc::from("n1"), subresource: "proxy" };
        let attributes = question(&access).resource_attributes.unwrap();
        assert_eq!((attributes.resource.as_deref(), attributes.name.as_deref()), (Some("nodes"), Some("n1")));
        assert_eq!(attributes.subresource.as_deref(), Some("proxy"));
    }
}
