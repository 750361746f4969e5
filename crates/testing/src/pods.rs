//! Pods in a few words: a test names only what matters to it.

use std::sync::Arc;

use pod::{DesiredPod, Source, api};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Always,
    OnFailure,
    Never,
}

/// A pod `default/NAME` with UID `NAME-uid`, defaults as the API server sets them, and no containers yet.
pub fn pod(name: &str) -> PodBuilder {
    let mut pod = api::Pod::default();
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.namespace = Some("default".to_owned());
    pod.metadata.uid = Some(format!("{name}-uid"));
    pod.metadata.generation = Some(1);
    pod.spec = Some(api::PodSpec {
        restart_policy: Some("Always".to_owned()),
        termination_grace_period_seconds: Some(30),
        dns_policy: Some("ClusterFirst".to_owned()),
        enable_service_links: Some(true),
        node_name: Some("node-a".to_owned()),
        service_account_name: Some("default".to_owned()),
        ..Default::default()
    });
    PodBuilder { pod, source: Source::Api }
}

#[derive(Clone, Debug)]
pub struct PodBuilder {
    pod: api::Pod,
    source: Source,
}

impl PodBuilder {
    pub fn uid(mut self, uid: &str) -> Self {
        self.pod.metadata.uid = Some(uid.to_owned());
        self
    }
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.pod.metadata.namespace = Some(namespace.to_owned());
        self
    }
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.pod.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.pod.metadata.labels.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        self
    }
    /// From a manifest file instead of the API server.
    pub fn from_file(mut self) -> Self {
        self.source = Source::File;
        self
    }
    pub fn restart(self, policy: Restart) -> Self {
        self.spec(|s| s.restart_policy = Some(format!("{policy:?}")))
    }
    pub fn grace(self, seconds: i64) -> Self {
        self.spec(|s| s.termination_grace_period_seconds = Some(seconds))
    }
    pub fn host_network(self) -> Self {
        self.spec(|s| s.host_network = Some(true))
    }
    /// A regular container.
    pub fn container(self, name: &str, image: &str) -> Self {
        let c = container(name, image);
        self.spec(|s| s.containers.push(c))
    }
    pub fn init(self, name: &str, image: &str) -> Self {
        let c = container(name, image);
        self.spec(|s| s.init_containers.get_or_insert_default().push(c))
    }
    pub fn sidecar(self, name: &str, image: &str) -> Self {
        let c = api::Container { restart_policy: Some("Always".to_owned()), ..container(name, image) };
        self.spec(|s| s.init_containers.get_or_insert_default().push(c))
    }
    /// Changes the container added last (regular ones before init ones).
    pub fn with(self, change: impl FnOnce(&mut api::Container)) -> Self {
        self.spec(|s| {
            let last = s.containers.last_mut().or_else(|| s.init_containers.as_mut().and_then(|i| i.last_mut()));
            change(last.expect("add a container first"));
        })
    }
    pub fn spec(mut self, change: impl FnOnce(&mut api::PodSpec)) -> Self {
        change(self.pod.spec.as_mut().expect("set by pod()"));
        self
    }
    pub fn edit(mut self, change: impl FnOnce(&mut api::Pod)) -> Self {
        change(&mut self.pod);
        self
    }

    pub fn api(self) -> Arc<api::Pod> {
        Arc::new(self.pod)
    }
    pub fn desired(self) -> DesiredPod {
        DesiredPod::new(self.source, Arc::new(self.pod)).expect("has uid, name and spec")
    }
}

fn container(name: &str, image: &str) -> api::Container {
    api::Container {
        name: name.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        termination_message_path: Some("/dev/termination-log".to_owned()),
        termination_message_policy: Some("File".to_owned()),
        ..Default::default()
    }
}
