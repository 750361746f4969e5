//! The node's heartbeat lease. Never held back by a budget, over a connection of its own.

use k8s_openapi::api::coordination::v1::Lease;

use crate::{
    ApiError, ApiServer,
    budget::Budget,
    request::{Call, path},
};

const GROUP: &str = "coordination.k8s.io/v1";
const NAMESPACE: &str = "kube-node-lease";

impl ApiServer {
    pub async fn get_lease(&self, name: &str) -> Result<Lease, ApiError> {
        self.lease_call(Call::get(of(name), object(name))).await
    }

    pub async fn create_lease(&self, lease: &Lease) -> Result<Lease, ApiError> {
        let name = lease.metadata.name.as_deref().unwrap_or_default();
        self.lease_call(Call::create(path::group_namespaced(GROUP, NAMESPACE, "leases"), object(name), lease)?).await
    }

    /// Replaces the lease; a conflict tells that `lease` is not the newest version.
    pub async fn update_lease(&self, lease: &Lease) -> Result<Lease, ApiError> {
        let name = lease.metadata.name.as_deref().unwrap_or_default();
        self.lease_call(Call::replace(of(name), object(name), lease)?).await
    }

    async fn lease_call(&self, call: Call) -> Result<Lease, ApiError> {
        self.ask(call.paid_by(Budget::Heartbeat).within(self.heartbeat_timeout())).await
    }
}

fn of(name: &str) -> String {
    format!("{}/{name}", path::group_namespaced(GROUP, NAMESPACE, "leases"))
}

fn object(name: &str) -> String {
    format!("lease {NAMESPACE}/{name}")
}
