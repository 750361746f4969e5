//! Connections to one API server: TLS, HTTP/2 with pings, and enough of them for all watches.
//!
//! A server allows about a hundred streams per HTTP/2 connection and a request beyond that would wait for ever
//! behind watches. So watches are spread over shards, apart from the requests, and heartbeats have their own.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderValue, Uri, header};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{
        Client as HyperClient,
        connect::{HttpConnector, proxy::Tunnel},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt},
    config::{AuthInfo, KubeConfigOptions, Kubeconfig},
};

use tokio::net::TcpStream;
use tower::{ServiceExt as _, util::BoxCloneSyncService};

use crate::{
    ApiError,
    proxy::{self, ByProxy, Environment, Proxy},
};

const WATCHES_PER_CONNECTION: usize = 80;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Until a connection can carry requests: with what a proxy says first, and TLS. A request ends by its own deadline,
/// but hyper goes on with a connection that a request no longer waits for.
const READY_TIMEOUT: Duration = Duration::from_secs(25);
/// A silent peer is found out after interval + timeout, as by client-go.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Names a file with certificate and key that goes before all that the kubeconfig says of its user. Asked at every
/// load, so that a file counts only as long as it is good.
#[derive(Clone)]
pub struct Identity(Arc<dyn Fn() -> Option<PathBuf> + Send + Sync>);

impl Identity {
    pub fn new(file: impl Fn() -> Option<PathBuf> + Send + Sync + 'static) -> Self {
        Self(Arc::new(file))
    }

    pub fn file(&self) -> Option<PathBuf> {
        (self.0)()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// As whom the client goes to the server.
pub(crate) enum Credentials {
    OfKubeconfig,
    /// A file with certificate and key, in place of the kubeconfig's user.
    Pair(PathBuf),
    /// The node's own are still to come, and nobody else's serve in their place.
    ToCome,
}

impl Credentials {
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::Pair(file) => Some(file),
            Self::OfKubeconfig | Self::ToCome => None,
        }
    }
}

/// Where clients come from.
pub(crate) enum Origin {
    Kubeconfig(Box<Config>, Option<Proxy>),
    /// An in-process server: one client serves all.
    Fixed(Client),
}

impl Origin {
    pub(crate) async fn from_kubeconfig(
        path: &Path,
        user_agent: &str,
        credentials: &Credentials,
    ) -> Result<Self, ApiError> {
        let wrong = |source| ApiError::Kubeconfig { path: path.to_owned(), source: Arc::new(source) };
        let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
        let options = KubeConfigOptions::default();
        let own_proxy = proxy::of_kubeconfig(&kubeconfig);
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?;
        // Without one nobody is believed, and each request would fail with the blame on the server.
        if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
            return Err(ApiError::ClusterCa { path: path.to_owned() });
        }
        match credentials {
            Credentials::OfKubeconfig => {}
            Credentials::ToCome => config.auth_info = AuthInfo::default(),
            Credentials::Pair(pair) => {
                let file = Some(pair.display().to_string());
                if config.auth_info.client_certificate_data.is_some() || config.auth_info.client_certificate != file {
                    let (kubeconfig, pair) = (path.display(), pair.display());
                    tracing::info!(%kubeconfig, %pair, "the rotated client certificate goes before the kubeconfig's");
                }
                // A token or a plugin would be asked beside the certificate: nothing of the user stays, as upstream.
                config.auth_info =
                    AuthInfo { client_certificate: file.clone(), client_key: file, ..AuthInfo::default() };
            }
        }
        if let Ok(value) = HeaderValue::from_str(user_agent) {
            config.headers.push((header::USER_AGENT, value));
        }
        let proxy = proxy::proxy(own_proxy.as_deref(), &Environment::read(), &config.cluster_url)?;
        if let Some(proxy) = &proxy {
            tracing::info!(%proxy, "the API server is reached through a proxy");
        }
        Ok(Self::Kubeconfig(Box::new(config), proxy))
    }

    fn host(&self) -> String {
        match self {
            Self::Kubeconfig(config, _) => config.cluster_url.authority().map(ToString::to_string).unwrap_or_default(),
            Self::Fixed(_) => String::new(),
        }
    }

    fn client(&self) -> Result<Client, ApiError> {
        match self {
            Self::Fixed(client) => Ok(client.clone()),
            Self::Kubeconfig(config, proxy) => over_the_network(config, proxy.as_ref()),
        }
    }
}

fn over_the_network(config: &Config, proxy: Option<&Proxy>) -> Result<Client, ApiError> {
    let wrong = |source| ApiError::Credentials { source: Arc::new(source) };
    let http = hyper_client(connector(config, proxy)?).map_err(tower::BoxError::from);
    let headers = config.extra_headers_layer().map_err(wrong)?;
    let base = config.base_uri_layer();
    let builder = ClientBuilder::new(http, config.default_namespace.clone()).with_layer(&base).with_layer(&headers);
    Ok(match config.auth_layer().map_err(wrong)? {
        Some(auth) => builder.with_layer(&auth).build(),
        None => builder.build(),
    })
}

/// A connection on which TLS begins: to the server, or to a proxy that has found the way there.
type Way = BoxCloneSyncService<Uri, TokioIo<TcpStream>, tower::BoxError>;
/// One that can carry requests.
type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, tower::BoxError>;

#[derive(Debug, thiserror::Error)]
#[error("the server, or the proxy before it, takes connections but does not answer on them")]
struct Silent;

fn way(proxy: Option<&Proxy>) -> Way {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(PING_INTERVAL));
    tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
    match proxy {
        None => Way::new(tcp.map_err(tower::BoxError::from)),
        Some(proxy) => {
            let tunnel = Tunnel::new(proxy.uri.clone(), tcp);
            let tunnel = match &proxy.authorization {
                Some(authorization) => tunnel.with_auth(authorization.clone()),
                None => tunnel,
            };
            let proxy = proxy.clone();
            Way::new(tunnel.map_err(move |source| ByProxy { proxy: proxy.clone(), source: source.into() }.into()))
        }
    }
}

fn connector(config: &Config, proxy: Option<&Proxy>) -> Result<Connector, ApiError> {
    let tls = config.rustls_client_config().map_err(|e| ApiError::Credentials { source: Arc::new(e) })?;
    let way = way(proxy);
    let mut builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let parsed = name.clone().try_into().map_err(|_| ApiError::ServerName { name: name.clone() })?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(parsed));
    }
    // As for client-go: an operator's way out where a middlebox breaks HTTP/2.
    let patient = if std::env::var_os("DISABLE_HTTP2").is_some_and(|v| !v.is_empty()) {
        builder.enable_http1().wrap_connector(way)
    } else {
        builder.enable_all_versions().wrap_connector(way)
    };
    let patient = Connector::new(patient);
    Ok(Connector::new(tower::service_fn(move |server: Uri| {
        let connecting = tokio::time::timeout(READY_TIMEOUT, patient.clone().oneshot(server));
        async move { connecting.await.unwrap_or_else(|_| Err(Silent.into())) }
    })))
}

fn hyper_client(connector: Connector) -> HyperClient<Connector, Body> {
    HyperClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build(connector)
}

/// All connections made with one set of credentials.
pub(crate) struct Connections {
    origin: Origin,
    pub(crate) requests: Client,
    pub(crate) heartbeats: Client,
    /// The server's, with its port, as metrics name it.
    pub(crate) host: String,
    shards: Mutex<Vec<Shard>>,
}

struct Shard {
    client: Client,
    /// One reference is the shard's own, the others are open watches.
    uses: Arc<()>,
}

/// A client to open one watch with. The place on its connection is taken until this is dropped.
pub(crate) struct WatchClient {
    pub(crate) client: Client,
    _place: Arc<()>,
}

impl Connections {
    pub(crate) fn new(origin: Origin) -> Result<Self, ApiError> {
        let (requests, heartbeats) = (origin.client()?, origin.client()?);
        let host = origin.host();
        Ok(Self { origin, requests, heartbeats, host, shards: Mutex::new(Vec::new()) })
    }

    pub(crate) fn for_watch(&self) -> Result<WatchClient, ApiError> {
        let mut shards = self.shards.lock().unwrap_or_else(|e| e.into_inner());
        let open = |shard: &Shard| Arc::strong_count(&shard.uses) - 1;
        let free = shards.iter().position(|s| open(s) < WATCHES_PER_CONNECTION);
        let index = match free {
            Some(index) => index,
            None => {
                shards.push(Shard { client: self.origin.client()?, uses: Arc::new(()) });
                shards.len() - 1
            }
        };
        let watch = WatchClient { client: shards[index].client.clone(), _place: shards[index].uses.clone() };
        shards.retain(|s| open(s) > 0);
        Ok(watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pair_given_goes_before_the_user_of_the_kubeconfig() {
        let dir = std::env::temp_dir().join(format!("apiserver-pair-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("kubelet.conf");
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
                    clusters: [{name: k, cluster: {server: 'https://192.0.2.1:6443'}}]\n\
                    contexts: [{name: c, context: {cluster: k, user: u}}]\n\
                    users: [{name: u, user: {client-certificate-data: b2xk, client-key-data: b2xk, token: t}}]\n";
        std::fs::write(&path, text).unwrap();
        let user = async |credentials| match Origin::from_kubeconfig(&path, "a", &credentials).await.unwrap() {
            Origin::Kubeconfig(config, _) => config.auth_info,
            Origin::Fixed(_) => unreachable!(),
        };
        assert!(user(Credentials::OfKubeconfig).await.client_certificate_data.is_some());
        let with_pair = user(Credentials::Pair("/pki/current.pem".into())).await;
        let without = user(Credentials::ToCome).await;
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!(with_pair.client_certificate.as_deref(), Some("/pki/current.pem"));
        assert_eq!(with_pair.client_key.as_deref(), Some("/pki/current.pem"));
        assert!(with_pair.client_certificate_data.is_none() && with_pair.client_key_data.is_none());
        assert!(with_pair.token.is_none());
        assert!(without.client_certificate_data.is_none() && without.token.is_none());
    }

    #[tokio::test]
    async fn a_proxy_is_asked_for_the_way_to_the_server() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = format!("http://user:word@{}", listener.local_addr().unwrap());
        let asked = tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(client.read_u8().await.unwrap());
            }
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            // A handshake of TLS, meant for the server.
            (String::from_utf8(request).unwrap(), client.read_u8().await.unwrap())
        });
        let config = Config::new(Uri::from_static("https://api.example:6443"));
        let proxy = proxy::proxy(Some(&proxy), &Environment::default(), &config.cluster_url).unwrap();
        let client = over_the_network(&config, proxy.as_ref()).unwrap();
        let request = http::Request::get("/version").body(Vec::new()).unwrap();
        let (answer, asked) = tokio::join!(client.request_text(request), asked);
        let (request, first_byte) = asked.unwrap();
        assert!(answer.is_err(), "there is no server");
        assert!(request.starts_with("CONNECT api.example:6443 HTTP/1.1\r\n"), "{request}");
        assert!(request.to_ascii_lowercase().contains("proxy-authorization: basic dxnlcjp3b3jk"), "{request}");
        assert_eq!(first_byte, 22);
    }

    /// The deadline is not awaited with a paused clock: that would go by before the kernel has made the connection.
    #[tokio::test]
    async fn a_proxy_or_a_server_that_stays_silent_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let behind = Config::new(Uri::from_static("https://api.example:6443"));
        let proxy = proxy::proxy(Some(&format!("http://{address}")), &Environment::default(), &behind.cluster_url);
        let server = Config::new(format!("https://{address}").parse().unwrap());
        for (config, proxy) in [(&behind, proxy.unwrap()), (&server, None)] {
            let connecting = connector(config, proxy.as_ref()).unwrap().oneshot(config.cluster_url.clone());
            let connecting = tokio::spawn(connecting);
            let (held, _) = listener.accept().await.unwrap();
            held.readable().await.unwrap();
            tokio::time::pause();
            let begun = tokio::time::Instant::now();
            let error = connecting.await.unwrap().err().unwrap();
            assert!(error.is::<Silent>(), "{error}");
            assert!(begun.elapsed() <= READY_TIMEOUT + Duration::from_secs(1), "{:?}", begun.elapsed());
            tokio::time::resume();
        }
    }

    #[tokio::test]
    async fn watches_are_spread_before_a_connection_is_full_and_empty_ones_are_closed() {
        let service = tower::service_fn(|_: http::Request<Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
        });
        let all = Connections::new(Origin::Fixed(Client::new(service, "default"))).unwrap();
        let mut held: Vec<_> = (0..=WATCHES_PER_CONNECTION).map(|_| all.for_watch().unwrap()).collect();
        assert_eq!(all.shards.lock().unwrap().len(), 2);
        held.truncate(1);
        held.push(all.for_watch().unwrap());
        assert_eq!(all.shards.lock().unwrap().len(), 1);
    }
}
