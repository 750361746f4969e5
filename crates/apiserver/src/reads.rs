//! Single objects that a pod refers to, read when they are needed, and the node's CSINode.

use k8s_openapi::api::{
    core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret, ServiceAccount},
    node::v1::RuntimeClass,
    storage::v1::{CSIDriver, CSINode, VolumeAttachment},
};

use crate::{
    ApiError, ApiServer,
    request::{Call, path},
    rows::Row,
};

const STORAGE: &str = "storage.k8s.io/v1";

impl ApiServer {
    pub async fn get_runtime_class(&self, name: &str) -> Result<RuntimeClass, ApiError> {
        self.ask(Call::get(path::group_named("node.k8s.io/v1", "runtimeclasses", name), format!("runtimeclass {name}")))
            .await
    }

    pub async fn get_service_account(&self, namespace: &str, name: &str) -> Result<ServiceAccount, ApiError> {
        self.get_named(namespace, "serviceaccounts", "serviceaccount", name).await
    }

    pub async fn get_persistent_volume_claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PersistentVolumeClaim, ApiError> {
        self.get_named(namespace, "persistentvolumeclaims", "persistentvolumeclaim", name).await
    }

    pub async fn get_persistent_volume(&self, name: &str) -> Result<PersistentVolume, ApiError> {
        self.ask(Call::get(path::core_named("persistentvolumes", name), format!("persistentvolume {name}"))).await
    }

    pub async fn get_volume_attachment(&self, name: &str) -> Result<VolumeAttachment, ApiError> {
        let path = path::group_named(STORAGE, "volumeattachments", name);
        self.ask(Call::get(path, format!("volumeattachment {name}"))).await
    }

    pub async fn get_csi_driver(&self, name: &str) -> Result<CSIDriver, ApiError> {
        self.ask(Call::get(path::group_named(STORAGE, "csidrivers", name), format!("csidriver {name}"))).await
    }

    pub async fn get_csi_node(&self, name: &str) -> Result<CSINode, ApiError> {
        self.ask(Call::get(path::group_named(STORAGE, "csinodes", name), csi_node(name))).await
    }

    pub async fn create_csi_node(&self, node: &CSINode) -> Result<CSINode, ApiError> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        self.ask(Call::create(path::group(STORAGE, "csinodes"), csi_node(name), node)?).await
    }

    pub async fn update_csi_node(&self, node: &CSINode) -> Result<CSINode, ApiError> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        self.ask(Call::replace(path::group_named(STORAGE, "csinodes", name), csi_node(name), node)?).await
    }

    /// One Secret straight from the store, past any cache.
    pub async fn get_secret(&self, namespace: &str, name: &str) -> Result<Secret, ApiError> {
        let mut secret: Secret = self.get_named(namespace, "secrets", "secret", name).await?;
        secret.slim();
        Ok(secret)
    }

    pub async fn get_config_map(&self, namespace: &str, name: &str) -> Result<ConfigMap, ApiError> {
        let mut config_map: ConfigMap = self.get_named(namespace, "configmaps", "configmap", name).await?;
        config_map.slim();
        Ok(config_map)
    }

    async fn get_named<K: serde::de::DeserializeOwned>(
        &self,
        namespace: &str,
        resource: &str,
        kind: &str,
        name: &str,
    ) -> Result<K, ApiError> {
        self.ask(Call::get(path::named(namespace, resource, name), format!("{kind} {namespace}/{name}"))).await
    }
}

fn csi_node(name: &str) -> String {
    format!("csinode {name}")
}
