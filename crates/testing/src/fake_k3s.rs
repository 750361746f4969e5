//! The node endpoints of a k3s server, over TLS, as its source documents them: who may ask, what is checked, and what
//! is answered by servers that sign a node's own key and by older ones that hand out a key of theirs.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, pem::PemObject},
    },
};

/// A CA's certificate and key, as PEM.
#[derive(Clone)]
pub struct Ca {
    pub certificate: String,
    pub key: String,
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("a CA").pem();
        Self { certificate, key: key.serialize_pem() }
    }

    fn issuer(&self) -> Issuer<'static, KeyPair> {
        let key = KeyPair::from_pem(&self.key).expect("the CA's key");
        Issuer::from_ca_cert_pem(&self.certificate, key).expect("the CA's certificate")
    }
}

/// What the server is like; every field may be changed while it runs.
pub struct K3s {
    pub server_ca: Ca,
    pub client_ca: Ca,
    /// What /cacerts says, if not the CA of the server.
    pub cacerts: Option<String>,
    /// The agents' password.
    pub password: String,
    pub bootstrap_token: Option<String>,
    /// Before that a node's own key was not signed: all nodes got the same one.
    pub signs_keys: bool,
    /// So many requests that need a token are answered 503 first.
    pub unready: u32,
    /// Breaks this path: 500.
    pub broken: Option<String>,
    /// Node name to password, the secrets NAME.node-password.k3s.
    pub passwords: HashMap<String, String>,
    /// What /v1-k3s/config says.
    pub config: Value,
    pub api_servers: Vec<String>,
    /// Method, path, and whether it came with credentials.
    pub requests: Vec<(String, String, bool)>,
    legacy_key: String,
}

impl K3s {
    pub fn new(server_ca: Ca, client_ca: Ca) -> Self {
        Self {
            server_ca,
            client_ca,
            cacerts: None,
            password: "agents-password".to_owned(),
            bootstrap_token: None,
            signs_keys: true,
            unready: 0,
            broken: None,
            passwords: HashMap::new(),
            config: json!({
                "ClusterDNS": "10.43.0.10", "ClusterDNSs": ["10.43.0.10"], "ClusterDomain": "cluster.local",
                "ClusterIPRange": { "IP": "10.42.0.0", "Mask": "//8AAA==" },
                "DisableCCM": false, "DisableKubeProxy": false, "DisableNPC": false,
                "EgressSelectorMode": "agent", "FlannelBackend": "vxlan", "HTTPSPort": 6443, "SupervisorPort": 6443,
            }),
            api_servers: vec!["127.0.0.1:6443".to_owned()],
            requests: Vec::new(),
            legacy_key: KeyPair::generate().expect("a key").serialize_pem(),
        }
    }
}

/// Listens on a port of 127.0.0.1 until it is dropped.
pub struct FakeK3s {
    pub address: SocketAddr,
    state: Arc<Mutex<K3s>>,
    task: JoinHandle<()>,
}

impl Drop for FakeK3s {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeK3s {
    /// `names`: what its TLS certificate, signed by `tls_ca`, is good for.
    pub async fn start(listen: SocketAddr, k3s: K3s, tls_ca: &Ca, names: &[IpAddr]) -> Self {
        let listener = TcpListener::bind(listen).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let acceptor = acceptor(tls_ca, names);
        let state = Arc::new(Mutex::new(k3s));
        let shared = state.clone();
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, state) = (acceptor.clone(), shared.clone());
                connections.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(|request| answer(state.clone(), request));
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self { address, state, task }
    }

    /// With CAs of its own, on a free port.
    pub async fn start_new() -> Self {
        let k3s = K3s::new(Ca::new("k3s-server-ca"), Ca::new("k3s-client-ca"));
        let tls_ca = k3s.server_ca.clone();
        let local = IpAddr::from([127, 0, 0, 1]);
        Self::start(SocketAddr::new(local, 0), k3s, &tls_ca, &[local]).await
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, K3s> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn acceptor(ca: &Ca, names: &[IpAddr]) -> TlsAcceptor {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = named("k3s");
    params.subject_alt_names = names.iter().copied().map(SanType::IpAddress).collect();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &ca.issuer()).expect("a serving certificate");
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).expect("its key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate.der().to_vec())], key)
        .expect("a TLS configuration");
    TlsAcceptor::from(Arc::new(config))
}

async fn answer(state: Arc<Mutex<K3s>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let mut k3s = state.lock().unwrap_or_else(|e| e.into_inner());
    let path = head.uri.path();
    let with_credentials = head.headers.contains_key(header::AUTHORIZATION);
    k3s.requests.push((head.method.to_string(), path.to_owned(), with_credentials));
    let answer = k3s.answer(&head.method, path, &head.headers, &body);
    let (status, content) = match answer {
        Ok(content) => (StatusCode::OK, content.into_bytes()),
        Err((status, message)) => {
            let object = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
                                 "code": status.as_u16() });
            (status, object.to_string().into_bytes())
        }
    };
    let mut response = Response::new(Full::from(content));
    *response.status_mut() = status;
    Ok(response)
}

type Answer = Result<String, (StatusCode, String)>;

impl K3s {
    fn answer(&mut self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
        if path == "/cacerts" {
            return Ok(self.cacerts.clone().unwrap_or_else(|| self.server_ca.certificate.clone()));
        }
        self.authorize(headers)?;
        if self.broken.as_deref() == Some(path) {
            return Err((StatusCode::INTERNAL_SERVER_ERROR, "no such file or directory".to_owned()));
        }
        match path {
            "/v1-k3s/config" => Ok(self.config.to_string()),
            "/v1-k3s/client-ca.crt" => Ok(self.client_ca.certificate.clone()),
            "/v1-k3s/server-ca.crt" => Ok(self.server_ca.certificate.clone()),
            "/v1-k3s/apiservers" => Ok(json!(self.api_servers).to_string()),
            "/v1-k3s/serving-kubelet.crt" => {
                let node = self.node(headers)?;
                let params = serving(&node, header_of(headers, "k3s-node-ip"))?;
                Ok(self.sign_and_send(method, body, &self.server_ca, params))
            }
            "/v1-k3s/client-kubelet.crt" => {
                let node = self.node(headers)?;
                let mut params = CertificateParams::default();
                params.distinguished_name = named(&format!("system:node:{node}"));
                params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
                Ok(self.sign_and_send(method, body, &self.client_ca, params))
            }
            _ => Err((StatusCode::NOT_FOUND, "the server could not find the requested resource".to_owned())),
        }
    }

    fn authorize(&mut self, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
        let given = header_of(headers, "authorization");
        let known = [
            Some(format!("Basic {}", base64(&format!("node:{}", self.password)))),
            self.bootstrap_token.as_ref().map(|token| format!("Bearer {token}")),
        ];
        if !known.into_iter().flatten().any(|known| known == given) {
            return Err((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()));
        }
        if self.unready > 0 {
            self.unready -= 1;
            return Err((StatusCode::SERVICE_UNAVAILABLE, "runtime core not ready".to_owned()));
        }
        Ok(())
    }

    /// The first password that comes with a name is the node's.
    fn node(&mut self, headers: &HeaderMap) -> Result<String, (StatusCode, String)> {
        let bad = |message: &str| Err((StatusCode::BAD_REQUEST, message.to_owned()));
        let (name, password) = (header_of(headers, "k3s-node-name"), header_of(headers, "k3s-node-password"));
        if name.is_empty() {
            return bad("node name not set");
        }
        if password.is_empty() {
            return bad("node password not set");
        }
        let known = self.passwords.entry(name.to_lowercase()).or_insert_with(|| password.to_owned());
        match known == password {
            true => Ok(name.to_lowercase()),
            false => Err((StatusCode::FORBIDDEN, "unable to verify hash for node: hash does not match".to_owned())),
        }
    }

    /// A request for signing counts only in a POST; else, and for older servers always, the common key goes along.
    fn sign_and_send(&self, method: &Method, body: &[u8], ca: &Ca, params: CertificateParams) -> String {
        let issuer = ca.issuer();
        let asked = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(body));
        match asked {
            Ok(request) if self.signs_keys && method == Method::POST => {
                let signed = params.signed_by(&request.public_key, &issuer).expect("a certificate");
                signed.pem() + &ca.certificate
            }
            _ => {
                let key = KeyPair::from_pem(&self.legacy_key).expect("the common key");
                let signed = params.signed_by(&key, &issuer).expect("a certificate");
                signed.pem() + &ca.certificate + &self.legacy_key
            }
        }
    }
}

fn serving(node: &str, ips: &str) -> Result<CertificateParams, (StatusCode, String)> {
    let mut params = CertificateParams::new(vec![node.to_owned(), "localhost".to_owned()])
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    params.distinguished_name = named(node);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.subject_alt_names.push(SanType::IpAddress(IpAddr::from([127, 0, 0, 1])));
    for ip in ips.split(',').filter(|ip| !ip.is_empty()) {
        let ip =
            ip.parse().map_err(|_| (StatusCode::INTERNAL_SERVER_ERROR, format!("invalid node IP address {ip}")))?;
        params.subject_alt_names.push(SanType::IpAddress(ip));
    }
    Ok(params)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn header_of<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn base64(text: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}
