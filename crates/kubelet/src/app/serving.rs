//! The HTTP servers: who may ask, what they are shown, on which sockets.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, RwLock},
};

use anyhow::{Context, bail};
use apiserver::ApiServer;
use certificates::{
    ClientCa, Serving, ServingCertificate, ServingConfig,
    bootstrap::{PairStore, ServingRotation},
};
use host::{Clock, RootDir};
use k8s_openapi::api::core::v1::Node;
use pod::PodUid;
use server::{
    Authenticator, Authorizer, HealthCheck, Listeners, Observed, PodRow, Server, ServerConfig, ServerDeps, TlsListener,
    authz::Remember, bind, reviews, routes::Endpoint,
};
use tokio::{sync::watch, task::JoinSet};

use super::base::Base;
use crate::{logging, options::Options};

/// UIDs of mirror pods by the UID of their static pod: API clients know a static pod by the former.
#[derive(Clone, Debug, Default)]
pub(super) struct MirrorUids(Arc<RwLock<HashMap<PodUid, PodUid>>>);

impl MirrorUids {
    pub fn set(&self, static_uid: &PodUid, mirror: Option<PodUid>) {
        let mut uids = self.0.write().expect("no panic while the mirrors are locked");
        match mirror {
            Some(uid) => uids.insert(static_uid.clone(), uid),
            None => uids.remove(static_uid),
        };
    }

    fn of(&self, static_uid: &PodUid) -> Option<PodUid> {
        self.0.read().expect("no panic while the mirrors are locked").get(static_uid).cloned()
    }
}

pub(super) fn start(
    base: &Base,
    view: pod_workers::PodsView,
    mirrors: MirrorUids,
    listeners: Listeners,
) -> anyhow::Result<Server> {
    let Base { options, clock, .. } = base;
    let rows = move || {
        let row = |v: &Arc<pod_workers::PodView>| PodRow {
            desired: v.desired.clone(),
            status: Some(v.status.clone()),
            life: v.life.clone(),
            mirror_uid: mirrors.of(&v.desired.uid),
        };
        view.list().iter().map(row).collect()
    };
    let subscriber = base.pleg.clone();
    let health = base.pleg.clone();
    let configz = options.configz();
    let deps = ServerDeps {
        clock: *clock,
        cri: base.cri.clone(),
        cgroups: base.cgroups.clone(),
        runtime_cgroup: Some(options.flags.runtime_cgroups.clone()).filter(|path| !path.is_empty()),
        pods: server::PodsView::new(rows),
        observed: Observed::new(move |uid: &PodUid| subscriber.peek(uid)),
        authenticator: authenticator(options, *clock, base.api.as_ref())?,
        authorizer: authorizer(options, *clock, base.api.clone()),
        health: vec![HealthCheck::new("syncloop", move || health.health())],
        configz: Arc::new(move || configz.clone()),
        set_verbosity: Arc::new(logging::set_verbosity),
        flags: {
            let flags = options.flagz();
            Arc::new(move || flags.clone())
        },
        features: {
            let gates = options.gates.clone();
            Arc::new(move || gates.all().map(|(gate, on)| (gate.name, gate.stage.as_metric(), on)).collect())
        },
    };
    Ok(Server::spawn(deps, server_config(options, &base.root), listeners))
}

fn server_config(options: &Options, root: &RootDir) -> ServerConfig {
    let config = &options.config;
    ServerConfig {
        pod_logs_dir: root.pod_logs().to_owned(),
        checkpoints_dir: root.path().join("checkpoints"),
        root_dir: root.path().to_owned(),
        enable_debugging_handlers: config.enable_debugging_handlers,
        enable_system_log_handler: config.enable_system_log_handler,
        enable_system_log_query: config.enable_system_log_query,
        enable_profiling_handler: config.enable_profiling_handler,
        enable_debug_flags_handler: config.enable_debug_flags_handler,
        streaming_connection_idle_timeout: config.streaming_connection_idle_timeout.std(),
        volume_stats_period: match config.volume_stats_agg_period {
            period if period.is_negative() => None,
            period => Some(period.std()),
        },
        version: options.reported_version.clone(),
        split_log_streams: options.gates.enabled("PodLogsQuerySplitStreams"),
        extend_websockets: options.gates.enabled("ExtendWebSocketsToKubelet"),
        gated_off: gated_off(options),
        ..ServerConfig::new(&options.node_name)
    }
}

/// Endpoints that hang on a feature gate.
fn gated_off(options: &Options) -> Vec<Endpoint> {
    let gated = [
        ("ContainerCheckpoint", Endpoint::Checkpoint),
        ("ComponentStatusz", Endpoint::Statusz),
        ("ComponentFlagz", Endpoint::Flagz),
    ];
    gated.into_iter().filter(|(gate, _)| !options.gates.enabled(gate)).map(|(_, endpoint)| endpoint).collect()
}

fn authenticator(options: &Options, clock: Clock, api: Option<&ApiServer>) -> anyhow::Result<Authenticator> {
    let auth = &options.config.authentication;
    let review = api.filter(|_| auth.webhook.enabled).map(|api| reviews::tokens(api.clone(), Vec::new()));
    let ca = ClientCa::from_file(&auth.x509.client_ca_file).context("authentication.x509.clientCAFile")?;
    Ok(Authenticator::new(
        clock,
        Arc::new(move || ca.verifier()),
        review,
        auth.anonymous.enabled,
        auth.webhook.cache_ttl.std(),
    ))
}

/// Without an API server nobody can be asked: then only AlwaysAllow lets anybody in.
fn authorizer(options: &Options, clock: Clock, api: Option<ApiServer>) -> Authorizer {
    let authorization = &options.config.authorization;
    match api {
        _ if authorization.mode == "AlwaysAllow" => Authorizer::AlwaysAllow,
        Some(api) => {
            let remember = Remember {
                allowed: authorization.webhook.cache_authorized_ttl.std(),
                denied: authorization.webhook.cache_unauthorized_ttl.std(),
            };
            Authorizer::webhook(clock, reviews::access(api), remember)
        }
        None => Authorizer::webhook(clock, Arc::new(|_| Box::pin(async { Ok(false) })), Remember::default()),
    }
}

/// What is taken before anything of the node is touched: a second agent finds the ports in use and ends.
pub(super) async fn listeners(options: &Options, certificate: Serving) -> anyhow::Result<Listeners> {
    let config = &options.config;
    let socket = |address: &str, port: i32| -> anyhow::Result<SocketAddr> {
        let ip: IpAddr = address.parse().with_context(|| format!("{address:?} is no address"))?;
        Ok(SocketAddr::new(ip, u16::try_from(port)?))
    };
    let mut listeners = Listeners::default();
    if config.enable_server {
        let listener = bind(socket(&config.address, config.port)?).await?;
        listeners.main = Some(TlsListener { listener, tls: Arc::new(move || certificate.config()) });
        if config.read_only_port > 0 {
            listeners.read_only = Some(bind(socket(&config.address, config.read_only_port)?).await?);
        }
    }
    if config.healthz_port > 0 {
        listeners.healthz = Some(bind(socket(&config.healthz_bind_address, config.healthz_port)?).await?);
    }
    Ok(listeners)
}

/// serverTLSBootstrap: a certificate that the cluster signs, kept by a task. Else the files given, or a certificate
/// that the node signs itself.
pub(super) fn certificate(
    base: &Base,
    host_ips: &[String],
    node: Option<watch::Receiver<Option<Arc<Node>>>>,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<Serving> {
    let Base { options, clock, api, .. } = base;
    let config = &options.config;
    let has_certificate = !config.tls_cert_file.is_empty();
    let has_key = !config.tls_private_key_file.is_empty();
    let given = has_certificate && has_key;
    let serving = ServingConfig {
        files: given.then(|| (config.tls_cert_file.clone().into(), config.tls_private_key_file.clone().into())),
        cert_dir: options.flags.cert_dir.clone(),
        host_name: options.node_name.clone(),
        ips: host_ips.iter().filter_map(|ip| ip.parse().ok()).collect(),
        min_version: config.tls_min_version.clone(),
        cipher_suites: config.tls_cipher_suites.clone(),
        curve_preferences: config.tls_curve_preferences.clone(),
    };
    let asks = !config.authentication.x509.client_ca_file.is_empty();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients = asks.then(|| server::tls::request_client_certificate(provider));
    let rotates = config.server_tls_bootstrap && options.gates.enabled("RotateKubeletServerCertificate");
    let Some((api, node)) = api.clone().zip(node).filter(|_| rotates) else {
        if has_certificate != has_key {
            bail!(
                "tlsCertFile (--tls-cert-file) and tlsPrivateKeyFile (--tls-private-key-file): only one of them is set"
            );
        }
        return Serving::new(&serving, clients).context("tlsCertFile, tlsPrivateKeyFile or --cert-dir");
    };
    let certificate = ServingCertificate::default();
    let rotation = ServingRotation {
        api,
        store: PairStore::serving(&options.flags.cert_dir),
        node_name: options.node_name.clone(),
        clock: *clock,
        serving: certificate.clone(),
        node,
    };
    tasks.spawn(rotation.run());
    Ok(Serving::with_certificate(&certificate, &serving, clients)?)
}
