//! Pods for this crate's tests.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod::{
    DesiredPod, Source,
    api::{Container, Pod, PodSpec},
};

/// A pod in namespace `ns` with UID `uid-1` and one container `app` of image `busybox`.
pub fn pod(name: &str, change: impl FnOnce(&mut PodSpec)) -> DesiredPod {
    pod_with(name, change, |_| {})
}

pub fn pod_with(
    name: &str,
    change: impl FnOnce(&mut PodSpec),
    change_meta: impl FnOnce(&mut ObjectMeta),
) -> DesiredPod {
    let app = Container {
        name: "app".into(),
        image: Some("busybox".into()),
        termination_message_path: Some("/dev/termination-log".into()),
        termination_message_policy: Some("File".into()),
        ..Container::default()
    };
    let mut spec = PodSpec { containers: vec![app], enable_service_links: Some(true), ..PodSpec::default() };
    change(&mut spec);
    let mut metadata = ObjectMeta {
        name: Some(name.into()),
        namespace: Some("ns".into()),
        uid: Some("uid-1".into()),
        ..ObjectMeta::default()
    };
    change_meta(&mut metadata);
    let pod = Pod { metadata, spec: Some(spec), status: None };
    DesiredPod::new(Source::Api, Arc::new(pod)).expect("complete")
}
