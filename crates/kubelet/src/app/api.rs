//! The agent's identity towards the API server: got by bootstrap, followed on disk, rotated.

use anyhow::Context;
use apiserver::{ApiServer, ClientOptions};
use certificates::bootstrap::{
    Bootstrap, ClientRotation, FirstIdentity, PairStore, ensure_identity, follow_identity, prepare_identity,
};
use host::Clock;
use tokio::task::JoinSet;

use crate::options::Options;

/// None in standalone mode. With a bootstrap kubeconfig the node's own certificate may still have to be got: rotation does
/// that while the agent runs, without rotation it is waited for here.
pub(super) async fn connect(options: &Options, clock: Clock) -> anyhow::Result<Option<ApiServer>> {
    let Some(kubeconfig) = &options.flags.kubeconfig else {
        tracing::info!("standalone: no kubeconfig is given, only static pods run");
        return Ok(None);
    };
    let mut client = client_options(options);
    client.identity = rotated(options).map(|store| store.identity(clock));
    if let Some(Bootstrap { identity, options }) = bootstrap(options) {
        let path = identity.bootstrap_kubeconfig.display();
        let to_come = match client.identity {
            Some(_) => prepare_identity(&identity, options, clock).await,
            None => ensure_identity(&identity, options, clock).await.map(|()| false),
        };
        client.awaits_identity = to_come.with_context(|| format!("no identity by --bootstrap-kubeconfig {path}"))?;
    }
    let api = ApiServer::from_kubeconfig(kubeconfig, client).await;
    Ok(Some(api.with_context(|| format!("cannot use --kubeconfig {}", kubeconfig.display()))?))
}

/// Where rotation stores its pair; None without rotation.
fn rotated(options: &Options) -> Option<PairStore> {
    options.config.rotate_certificates.then(|| PairStore::client(&options.flags.cert_dir))
}

fn bootstrap(options: &Options) -> Option<Bootstrap> {
    let flags = &options.flags;
    let identity = FirstIdentity {
        bootstrap_kubeconfig: flags.bootstrap_kubeconfig.clone()?,
        kubeconfig: flags.kubeconfig.clone()?,
        cert_dir: flags.cert_dir.clone(),
        node_name: options.node_name.clone(),
    };
    Some(Bootstrap { identity, options: client_options(options) })
}

fn client_options(options: &Options) -> ClientOptions {
    let config = &options.config;
    ClientOptions {
        qps: f64::from(config.kube_api_qps),
        burst: config.kube_api_burst.max(1) as u32,
        event_qps: f64::from(config.event_record_qps),
        event_burst: config.event_burst.max(1) as u32,
        ..ClientOptions::default()
    }
}

/// The tasks that keep the client's credentials up to date.
pub(super) fn keep_identity(options: &Options, api: &ApiServer, clock: Clock, tasks: &mut JoinSet<()>) {
    let Some(kubeconfig) = options.flags.kubeconfig.clone() else { return };
    let rotated = rotated(options);
    if let Some(store) = rotated.clone() {
        let node_name = options.node_name.clone();
        let rotation = ClientRotation { bootstrap: bootstrap(options), api: api.clone(), store, node_name, clock };
        let kubeconfig = kubeconfig.clone();
        tasks.spawn(async move { rotation.run(&kubeconfig).await });
    }
    let api = api.clone();
    tasks.spawn(async move { follow_identity(&kubeconfig, rotated.as_ref(), &api, clock).await });
}
