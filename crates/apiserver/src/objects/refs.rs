//! Which Secrets and ConfigMaps a pod's spec names.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, Pod, PodSpec, ProjectedVolumeSource, Volume};

use super::ObjectRef;

/// All of them, in order; optional ones too.
pub fn refs_of(pod: &Pod) -> BTreeSet<ObjectRef> {
    let mut found = Found { namespace: pod.metadata.namespace.as_deref().unwrap_or("default"), refs: BTreeSet::new() };
    if let Some(spec) = &pod.spec {
        found.spec(spec);
    }
    found.refs
}

struct Found<'a> {
    namespace: &'a str,
    refs: BTreeSet<ObjectRef>,
}

impl Found<'_> {
    fn secret(&mut self, name: &str) {
        if !name.is_empty() {
            self.refs.insert(ObjectRef::secret(self.namespace, name));
        }
    }
    fn config_map(&mut self, name: &str) {
        if !name.is_empty() {
            self.refs.insert(ObjectRef::config_map(self.namespace, name));
        }
    }

    fn spec(&mut self, spec: &PodSpec) {
        for secret in spec.image_pull_secrets.iter().flatten() {
            self.secret(&secret.name);
        }
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            self.env(container.env.as_deref(), container.env_from.as_deref());
        }
        for container in spec.ephemeral_containers.iter().flatten() {
            self.env(container.env.as_deref(), container.env_from.as_deref());
        }
        for volume in spec.volumes.iter().flatten() {
            self.volume(volume);
        }
    }

    fn env(&mut self, env: Option<&[EnvVar]>, from: Option<&[EnvFromSource]>) {
        for source in from.into_iter().flatten() {
            if let Some(secret) = &source.secret_ref {
                self.secret(&secret.name);
            }
            if let Some(config_map) = &source.config_map_ref {
                self.config_map(&config_map.name);
            }
        }
        for source in env.into_iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            if let Some(secret) = &source.secret_key_ref {
                self.secret(&secret.name);
            }
            if let Some(config_map) = &source.config_map_key_ref {
                self.config_map(&config_map.name);
            }
        }
    }

    fn volume(&mut self, volume: &Volume) {
        if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()) {
            self.secret(name);
        }
        if let Some(config_map) = &volume.config_map {
            self.config_map(&config_map.name);
        }
        if let Some(projected) = &volume.projected {
            self.projected(projected);
        }
        if let Some(reference) = volume.csi.as_ref().and_then(|c| c.node_publish_secret_ref.as_ref()) {
            self.secret(&reference.name);
        }
        self.network_storage(volume);
    }

    fn projected(&mut self, volume: &ProjectedVolumeSource) {
        for source in volume.sources.iter().flatten() {
            if let Some(secret) = &source.secret {
                self.secret(&secret.name);
            }
            if let Some(config_map) = &source.config_map {
                self.config_map(&config_map.name);
            }
        }
    }

    /// Credentials of the in-tree kinds; the Node authorizer allows the same list.
    fn network_storage(&mut self, volume: &Volume) {
        if let Some(azure) = &volume.azure_file {
            self.secret(&azure.secret_name);
        }
        let references = [
            volume.cephfs.as_ref().and_then(|v| v.secret_ref.as_ref()),
            volume.cinder.as_ref().and_then(|v| v.secret_ref.as_ref()),
            volume.flex_volume.as_ref().and_then(|v| v.secret_ref.as_ref()),
            volume.iscsi.as_ref().and_then(|v| v.secret_ref.as_ref()),
            volume.rbd.as_ref().and_then(|v| v.secret_ref.as_ref()),
            volume.scale_io.as_ref().map(|v| &v.secret_ref),
            volume.storageos.as_ref().and_then(|v| v.secret_ref.as_ref()),
        ];
        for reference in references.into_iter().flatten() {
            self.secret(&reference.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_that_names_an_object_is_seen() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "initContainers": [{"name": "i", "envFrom": [{"configMapRef": {"name": "from"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "from", "key": "k"}}}]}],
                "volumes": [
                    {"name": "a", "secret": {"secretName": "vol"}},
                    {"name": "b", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}, {"secret": {"name": "vol"}}]}},
                    {"name": "c", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "csi"}}}]
            }
        }))
        .unwrap();
        let names: Vec<String> = refs_of(&pod).iter().map(ToString::to_string).collect();
        let expected = [
            "secret ns/csi",
            "secret ns/key",
            "secret ns/pull",
            "secret ns/vol",
            "configmap ns/from",
            "configmap ns/kube-root-ca.crt",
        ];
        assert_eq!(names, expected);
    }
}
