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
};

/// For [`crate::Authenticator`]. `audiences` empty: the API server's own.
pub fn tokens(api: ApiServer, audiences: Vec<String>) -> Arc<ReviewToken> {
    Arc::new(move |token| {
        let (api, audiences) = (api.clone(), audiences.clone());
        async move { Ok(user(api.token_review(&token, &audiences).await?)) }.boxed()
    })
}

fn user(status: TokenReviewStatus) -> Option<User> {
    let user = status.user.filter(|_| status.authenticated == Some(true))?;
    let extra: BTreeMap<_, _> = user.extra.unwrap_or_default().into_iter().collect();
    Some(User {
        name: user.username.unwrap_or_default(),
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra,
    })
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
        assert_eq!(user(status.clone()), None);
        assert_eq!(user(TokenReviewStatus { authenticated: Some(true), ..status }).unwrap().name, "eve");
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
