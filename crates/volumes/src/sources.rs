//! Where the files of a pod's volumes come from: the API server, the pod itself, the node.

use std::sync::Arc;

use apiserver::{ApiError, ApiServer, Objects, TokenFor};
use host::Clock;
use pod::{
    DesiredPod,
    api::{ConfigMap, DownwardAPIVolumeFile, PersistentVolume, PersistentVolumeClaim, Secret},
    quantity::ApiList,
};

use crate::{
    error::Cause,
    ownership::FsGroup,
    payload::{self, Defaults, Payload},
    security,
    tokens::{Issued, TokenKey, Tokens},
};

/// The agent's side of the API server; absent in standalone mode.
#[derive(Clone)]
pub struct Api {
    pub server: ApiServer,
    pub objects: Objects,
}

/// Everything that the volumes of one pod are made from.
pub(crate) struct Sources<'a> {
    pub api: Option<&'a Api>,
    pub tokens: &'a Tokens,
    pub clock: Clock,
    pub pod: &'a DesiredPod,
    pub allocatable: ApiList,
    pub fs_group: Option<FsGroup>,
    pub common_user: Option<u32>,
}

impl<'a> Sources<'a> {
    pub fn new(
        api: Option<&'a Api>,
        tokens: &'a Tokens,
        clock: Clock,
        pod: &'a DesiredPod,
        allocatable: ApiList,
    ) -> Self {
        let (fs_group, common_user) = (security::fs_group(pod), security::common_user(pod));
        Self { api, tokens, clock, pod, allocatable, fs_group, common_user }
    }

    /// An optional object that is absent is an empty one.
    pub async fn secret(&self, name: &str, optional: bool) -> Result<Arc<Secret>, Cause> {
        let api = self.api("secrets")?;
        let answer = api.objects.secret(&self.pod.key.namespace, name).await;
        or_empty(answer.map_err(|e| cause(e, "secret", name)), optional)
    }

    pub async fn config_map(&self, name: &str, optional: bool) -> Result<Arc<ConfigMap>, Cause> {
        let api = self.api("configmaps")?;
        let answer = api.objects.config_map(&self.pod.key.namespace, name).await;
        or_empty(answer.map_err(|e| cause(e, "configmap", name)), optional)
    }

    pub fn downward_api(&self, items: &[DownwardAPIVolumeFile], defaults: Defaults) -> Result<Payload, Cause> {
        payload::of_downward_api(items, &self.pod.pod, self.pod.spec(), &self.allocatable, defaults)
    }

    pub async fn token(&self, audience: Option<String>, expiration_seconds: Option<i64>) -> Result<Issued, Cause> {
        let server = &self.api("service account tokens")?.server;
        let account = self.pod.spec().service_account_name.clone().filter(|a| !a.is_empty());
        let service_account = account.unwrap_or_else(|| "default".to_owned());
        let key = TokenKey { pod: self.pod.uid.clone(), service_account, audience, expiration_seconds };
        let whom = TokenFor { pod: self.pod.key.clone(), uid: self.pod.uid.clone() };
        let (account, audiences) = (key.service_account.clone(), Vec::from_iter(key.audience.clone()));
        let request = async { server.token_request(&account, &audiences, expiration_seconds, &whom).await };
        self.tokens.get(key, self.clock, request).await
    }

    pub async fn claim(&self, name: &str) -> Result<PersistentVolumeClaim, Cause> {
        let server = &self.api("persistentvolumeclaims")?.server;
        let answer = server.get_persistent_volume_claim(&self.pod.key.namespace, name).await;
        answer.map_err(|e| cause(e, "persistentvolumeclaim", name))
    }

    pub async fn persistent_volume(&self, name: &str) -> Result<PersistentVolume, Cause> {
        let server = &self.api("persistentvolumes")?.server;
        server.get_persistent_volume(name).await.map_err(|e| cause(e, "persistentvolume", name))
    }

    fn api(&self, what: &'static str) -> Result<&'a Api, Cause> {
        self.api.ok_or(Cause::NoApiServer(what))
    }
}

fn cause(error: ApiError, kind: &'static str, name: &str) -> Cause {
    if error.is_not_found() { Cause::NotFound { kind, name: name.to_owned() } } else { Cause::Api(Box::new(error)) }
}

fn or_empty<T: Default>(answer: Result<Arc<T>, Cause>, optional: bool) -> Result<Arc<T>, Cause> {
    match answer {
        Err(e) if optional && e.is_not_found() => Ok(Arc::default()),
        other => other,
    }
}
