//! HTTPS to one server: a connection for each request, as there are a handful of them.

use std::{io, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use crate::{JoinError, Result, Secret};

/// For one request, as k3s' own client has it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing that a server has to say is longer.
const LONGEST: usize = 4 << 20;

/// Where the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// An IPv6 address has no brackets here.
    pub host: String,
    pub port: u16,
}

impl Address {
    pub fn parse(url: &str) -> Result<Self> {
        let wrong = |detail| JoinError::Url { url: url.to_owned(), detail };
        let uri: Uri = url.trim().parse().map_err(|_| wrong("it can't be read"))?;
        if uri.scheme_str() != Some("https") {
            return Err(wrong("it does not begin with https://"));
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        ServerName::try_from(host.as_str()).map_err(|_| wrong("it names no host"))?;
        Ok(Self { host, port: uri.port_u16().unwrap_or(443) })
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.authority())
    }

    fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// What to ask.
#[derive(Clone, Debug)]
pub struct Question {
    pub method: Method,
    pub path: &'static str,
    pub authorization: Option<Secret>,
    pub headers: Vec<(&'static str, Secret)>,
    pub body: Vec<u8>,
}

impl Question {
    pub fn get(path: &'static str) -> Self {
        Self { method: Method::GET, path, authorization: None, headers: Vec::new(), body: Vec::new() }
    }
}

pub struct Client {
    address: Address,
    tls: TlsConnector,
    trusts_anybody: bool,
}

impl Client {
    /// Believes any server: only for what is checked otherwise, and never for a secret.
    pub fn trusting_anybody(address: Address) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let config = builder(&provider)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        Ok(Self { address, tls: TlsConnector::from(Arc::new(config)), trusts_anybody: true })
    }

    /// Believes a server whose certificate comes from one of the CAs.
    pub fn trusting(address: Address, cas: Vec<CertificateDer<'static>>) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(cas);
        let provider = Arc::new(ring::default_provider());
        let config = builder(&provider)?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { address, tls: TlsConnector::from(Arc::new(config)), trusts_anybody: false })
    }

    pub async fn ask(&self, question: Question) -> Result<(StatusCode, Vec<u8>)> {
        match timeout(PATIENCE, self.exchange(question)).await {
            Ok(answer) => answer,
            Err(_) => Err(JoinError::NoAnswer { server: self.address.url(), seconds: PATIENCE.as_secs() }),
        }
    }

    async fn exchange(&self, question: Question) -> Result<(StatusCode, Vec<u8>)> {
        let (server, path) = (self.address.url(), question.path);
        let unreachable = |source| JoinError::Unreachable { server: server.clone(), source };
        let broken = |source| JoinError::Exchange { server: server.clone(), path, source };
        let tcp = TcpStream::connect((self.address.host.as_str(), self.address.port)).await.map_err(unreachable)?;
        let name = ServerName::try_from(self.address.host.clone())
            .map_err(|_| JoinError::Url { url: server.clone(), detail: "it names no host" })?;
        let tls = self.tls.connect(name, tcp).await.map_err(|source| self.no_tls(source))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(broken)?;
        let request = self.request(question)?;
        let answer = async move {
            let reply = sender.send_request(request).await.map_err(broken)?;
            let status = reply.status();
            let body = Limited::new(reply.into_body(), LONGEST).collect().await;
            let body = body.map_err(|error| JoinError::Answer { path, detail: error.to_string() })?;
            Ok((status, body.to_bytes().to_vec()))
        };
        tokio::pin!(answer);
        tokio::select! {
            answered = &mut answer => answered,
            // The peer has closed; what it sent before is still to be read.
            _ = connection => answer.await,
        }
    }

    fn no_tls(&self, source: io::Error) -> JoinError {
        let server = self.address.url();
        let about_certificate = source
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .is_some_and(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
        match about_certificate && !self.trusts_anybody {
            true => JoinError::Untrusted { server, source },
            false => JoinError::Tls { server, source },
        }
    }

    fn request(&self, question: Question) -> Result<Request<Full<Bytes>>> {
        let path = question.path;
        let wrong = |_| JoinError::Answer { path, detail: "a header can't be sent".to_owned() };
        let mut request = Request::new(Full::from(question.body));
        *request.method_mut() = question.method;
        *request.uri_mut() = Uri::from_static(path);
        let headers = request.headers_mut();
        headers.insert(header::HOST, self.address.authority().parse().map_err(wrong)?);
        headers.insert(header::USER_AGENT, HeaderValue::from_static("ferrolet-join"));
        for (name, value) in question.headers {
            headers.insert(HeaderName::from_static(name), secret_header(&value).map_err(wrong)?);
        }
        if let Some(authorization) = question.authorization {
            headers.insert(header::AUTHORIZATION, secret_header(&authorization).map_err(wrong)?);
        }
        Ok(request)
    }
}

fn secret_header(value: &Secret) -> std::result::Result<HeaderValue, header::InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(value.reveal())?;
    value.set_sensitive(true);
    Ok(value)
}

fn builder(provider: &Arc<CryptoProvider>) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|source| JoinError::TlsConfig { source })
}

/// Takes every certificate; the handshake's signatures are still checked.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_https_url() {
        let parsed = |url| Address::parse(url).unwrap().url();
        assert_eq!(parsed("https://10.0.0.1:6443"), "https://10.0.0.1:6443");
        assert_eq!(parsed("https://k3s.example/"), "https://k3s.example:443");
        assert_eq!(parsed("https://[2001:db8::1]:6443"), "https://[2001:db8::1]:6443");
        for url in ["10.0.0.1:6443", "http://10.0.0.1:6443", "https://", "", "https://a b"] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }
}
