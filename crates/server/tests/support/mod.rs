//! A node's servers with a fake runtime behind them, and clients of every sort.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use host::Clock;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use pod::{
    ObservedPod,
    api::{ContainerState, ContainerStateRunning, ContainerStateWaiting, ContainerStatus, PodStatus},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use server::{
    Authenticator, Authorizer, HealthCheck, Listeners, Observed, PodRow, PodsView, Server, ServerConfig, ServerDeps,
    TlsListener,
    authn::ClientCa,
    authz::{Access, Remember},
    tls,
};
use testing::FakeCri;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Heads of the requests that the runtime's streaming server got.
pub static STREAMING: Mutex<Vec<String>> = Mutex::new(Vec::new());

pub struct Node {
    _server: Server,
    main: SocketAddr,
    read_only: SocketAddr,
    healthz: SocketAddr,
    ca: Arc<Ca>,
    observed: watch::Sender<Arc<ObservedPod>>,
    stalled: Arc<AtomicBool>,
    log: PathBuf,
    _runtime: FakeCri,
    _directory: tempfile::TempDir,
}

pub struct Answer {
    pub status: StatusCode,
    pub text: String,
    headers: HashMap<String, String>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

impl Node {
    pub async fn start(configure: impl FnOnce(&mut ServerConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = FakeCri::start();
        let desired = testing::pod("web").namespace("ns").container("app", "i").container("slow", "i").desired();
        let seeded = runtime.seed(&desired);
        runtime.stream_at(&format!("http://{}", streaming_server().await));
        let cri = cri::Cri::connect(&runtime.endpoint(), "", Duration::from_secs(10)).unwrap();
        let mut observed = cri.observe_pod(&desired.uid).await.unwrap();
        observed.containers.retain(|container| container.name == "app");
        let app = seeded.containers["app"].clone();
        let log = directory.path().join(format!("ns_web_{}/app/0.log", desired.uid));
        fs::create_dir_all(log.parent().unwrap()).unwrap();

        let ca = Arc::new(Ca::new());
        let (observed, receiver) = watch::channel(Arc::new(observed));
        let mut config = ServerConfig::new("node-1");
        config.pod_logs_dir = directory.path().into();
        configure(&mut config);
        let row = PodRow {
            status: Some(Arc::new(status(app.as_str()))),
            life: pod::Life::Syncing,
            desired,
            mirror_uid: None,
        };
        let stalled = Arc::new(AtomicBool::new(false));
        let deps = deps(cri, row, receiver, &ca, &stalled);

        let bound = || async { server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap() };
        let (main, read_only, healthz) = (bound().await, bound().await, bound().await);
        let address = |listener: &TcpListener| listener.local_addr().unwrap();
        let (main_at, read_only_at, healthz_at) = (address(&main), address(&read_only), address(&healthz));
        let tls = ca.server_config();
        let main = TlsListener { listener: main, tls: Arc::new(move || tls.clone()) };
        let listeners = Listeners { main: Some(main), read_only: Some(read_only), healthz: Some(healthz) };
        Self {
            _server: Server::spawn(deps, config, listeners),
            main: main_at,
            read_only: read_only_at,
            healthz: healthz_at,
            ca,
            observed,
            stalled,
            log,
            _runtime: runtime,
            _directory: directory,
        }
    }

    pub fn log(&self, text: &str) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    pub fn container_exits(&self) {
        self.observed.send_modify(|pod| {
            for container in &mut Arc::make_mut(pod).containers {
                container.state = pod::ContainerState::Exited;
            }
        });
    }

    pub async fn anonymous(&self, method: &str, path: &str) -> Answer {
        ask(self.tls(None).await, method, path, &[]).await.into_answer().await
    }

    pub async fn as_user(&self, name: &str, method: &str, path: &str) -> Answer {
        ask(self.tls(Some(self.ca.client(name))).await, method, path, &[]).await.into_answer().await
    }

    /// The status alone; the body is not read.
    pub async fn status(&self, name: &str, method: &str, path: &str) -> StatusCode {
        ask(self.tls(Some(self.ca.client(name))).await, method, path, &[]).await.0.status()
    }

    /// As an admin whose request belongs to a trace.
    pub async fn traced(&self, path: &str, traceparent: &str) -> Answer {
        let connection = self.tls(Some(self.ca.client("admin"))).await;
        ask(connection, "GET", path, &[("traceparent", traceparent)]).await.into_answer().await
    }

    pub async fn with_foreign_certificate(&self, method: &str, path: &str) -> Answer {
        ask(self.tls(Some(Ca::new().client("admin"))).await, method, path, &[]).await.into_answer().await
    }

    pub async fn read_only(&self, path: &str) -> Answer {
        ask(TcpStream::connect(self.read_only).await.unwrap(), "GET", path, &[]).await.into_answer().await
    }

    /// The agent's loop is not well from now on.
    pub fn stall(&self) {
        self.stalled.store(true, Ordering::Relaxed);
    }

    pub async fn healthz(&self, path: &str) -> Answer {
        ask(TcpStream::connect(self.healthz).await.unwrap(), "GET", path, &[]).await.into_answer().await
    }

    /// Connects to every port without a word. Whether the node has hung up on all of them by then.
    pub async fn hangs_up_on_the_silent(&self, within: Duration) -> bool {
        let hung_up = [self.main, self.read_only, self.healthz].map(async |address| {
            let mut socket = TcpStream::connect(address).await.unwrap();
            tokio::time::timeout(within, socket.read(&mut [0; 64])).await.is_ok()
        });
        futures::future::join_all(hung_up).await.into_iter().all(|hung_up| hung_up)
    }

    pub async fn follow(&self, path: &str) -> Follower {
        let reply = ask(self.tls(Some(self.ca.client("admin"))).await, "GET", path, &[]).await;
        assert_eq!(reply.0.status(), StatusCode::OK);
        Follower(reply.0.into_body())
    }

    pub async fn upgrade(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Stream {
        let headers = [headers, &[("authorization", "Bearer secret")]].concat();
        let reply = ask(self.tls(Some(self.ca.client("admin"))).await, method, path, &headers).await.0;
        assert_eq!(reply.status(), StatusCode::SWITCHING_PROTOCOLS);
        let head = reply.headers().clone();
        Stream { head, io: TokioIo::new(hyper::upgrade::on(reply).await.unwrap()) }
    }

    async fn tls(&self, client: Option<Identity>) -> tokio_rustls::client::TlsStream<TcpStream> {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(self.ca.client_config(client)));
        let socket = TcpStream::connect(self.main).await.unwrap();
        connector.connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap()
    }
}

fn deps(
    cri: cri::Cri,
    row: PodRow,
    observed: watch::Receiver<Arc<ObservedPod>>,
    ca: &Ca,
    stalled: &Arc<AtomicBool>,
) -> ServerDeps {
    let stalled = stalled.clone();
    let clock = Clock::start();
    let verifier = ca.verifier();
    let client_ca: Arc<ClientCa> = Arc::new(move || Some(verifier.clone()));
    let review = |access: Access| async move { Ok(access.user.name == "admin") }.boxed();
    ServerDeps {
        clock,
        cri,
        cgroups: cgroups::Cgroups::new(cgroups::Config::default()).unwrap(),
        runtime_cgroup: Some("/".to_owned()),
        pods: PodsView::new(move || vec![row.clone()]),
        observed: Observed::new(move |_| Some(observed.clone())),
        authenticator: Authenticator::new(clock, client_ca, None, false, Duration::from_secs(120)),
        authorizer: Authorizer::webhook(clock, Arc::new(review), Remember::default()),
        health: vec![HealthCheck::new("syncloop", move || match stalled.load(Ordering::Relaxed) {
            true => Err("the runtime is away".to_owned()),
            false => Ok(()),
        })],
        configz: Arc::new(|| serde_json::json!({ "port": 10250 })),
        set_verbosity: Arc::new(|_| Ok(())),
        features: Arc::new(|| vec![("Some", "BETA", true)]),
        flags: Arc::new(Vec::new),
    }
}

fn status(app: &str) -> PodStatus {
    let container = |name: &str, id: Option<String>, state| ContainerStatus {
        name: name.into(),
        container_id: id,
        state: Some(state),
        ..ContainerStatus::default()
    };
    let running = ContainerState { running: Some(ContainerStateRunning::default()), ..Default::default() };
    let waiting = ContainerStateWaiting { reason: Some("ContainerCreating".into()), message: None };
    let waiting = ContainerState { waiting: Some(waiting), ..Default::default() };
    let statuses =
        vec![container("app", Some(format!("containerd://{app}")), running), container("slow", None, waiting)];
    PodStatus { container_statuses: Some(statuses), ..PodStatus::default() }
}

/// Answers every upgrade and sends back what it gets.
async fn streaming_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                STREAMING.lock().unwrap().push(String::from_utf8(head).unwrap());
                let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                              X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";
                socket.write_all(answer.as_bytes()).await.unwrap();
                let (mut from, mut to) = socket.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    address
}

struct Response(http::Response<hyper::body::Incoming>);

impl Response {
    async fn into_answer(self) -> Answer {
        let (head, body) = self.0.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        let headers = head.headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
        Answer { status: head.status, text, headers }
    }
}

async fn ask<S>(socket: S, method: &str, path: &str, headers: &[(&str, &str)]) -> Response
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    Response(sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap())
}

pub struct Follower(hyper::body::Incoming);

impl Follower {
    /// The next piece; None at the end.
    pub async fn next(&mut self) -> Option<String> {
        let frame = self.0.frame().await?.unwrap();
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }

    /// As `next`; panics at a proper end.
    pub async fn next_or_broken(&mut self) -> Option<String> {
        let frame = self.0.frame().await.expect("the end of the body is no end of the connection").ok()?;
        Some(String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap())
    }
}

pub struct Stream {
    head: http::HeaderMap,
    io: TokioIo<hyper::upgrade::Upgraded>,
}

impl Stream {
    pub fn head(&self, name: &str) -> Option<String> {
        self.head.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    /// Writes that many bytes at once, begins to read after the pause, and returns how many came back.
    pub async fn echo_late(self, bytes: usize, pause: Duration) -> usize {
        let (mut from, mut to) = tokio::io::split(self.io);
        let writing = tokio::spawn(async move {
            to.write_all(&vec![b'x'; bytes]).await?;
            // TLS may have kept the last of it.
            to.flush().await.map(|()| to)
        });
        tokio::time::sleep(pause).await;
        let (mut back, mut buffer) = (0, vec![0; 64 * 1024]);
        while back < bytes {
            match from.read(&mut buffer).await {
                Ok(count @ 1..) => back += count,
                _ => break,
            }
        }
        let _ = writing.await;
        back
    }

    pub async fn echo(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.io.write_all(bytes).await.unwrap();
        let mut back = vec![0; bytes.len()];
        self.io.read_exact(&mut back).await.unwrap();
        back
    }
}

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

struct Identity(CertificateDer<'static>, PrivateKeyDer<'static>);

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    fn issue(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Identity {
        let key = KeyPair::generate().unwrap();
        params.extended_key_usages = vec![usage];
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Identity(certificate, PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    fn client(&self, name: &str) -> Identity {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        self.issue(params, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }

    fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        WebPkiClientVerifier::builder_with_provider(self.roots(), provider()).build().unwrap()
    }

    fn server_config(&self) -> Arc<rustls::ServerConfig> {
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let Identity(certificate, key) = self.issue(params, ExtendedKeyUsagePurpose::ServerAuth);
        let builder = rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let config = builder
            .unwrap()
            .with_client_cert_verifier(tls::request_client_certificate(provider()))
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Arc::new(config)
    }

    fn client_config(&self, client: Option<Identity>) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let builder = builder.unwrap().with_root_certificates(self.roots());
        match client {
            None => builder.with_no_client_auth(),
            Some(Identity(certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        }
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
