//! tlsMinVersion, tlsCipherSuites and tlsCurvePreferences as a server configuration.

use std::sync::Arc;

use rustls::{
    NamedGroup, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, ring},
    server::danger::ClientCertVerifier,
    version::{TLS12, TLS13},
};

use crate::{CertificateError, Result, ServingCertificate};

/// As in the kubelet's configuration; empty is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    pub min_version: String,
    pub cipher_suites: Vec<String>,
    /// IANA numbers of key exchange groups.
    pub curve_preferences: Vec<i32>,
}

/// Suites that Go knows and this TLS library leaves out, for lack of forward secrecy or of authenticated encryption.
const LEFT_OUT: [&str; 18] = [
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_FALLBACK_SCSV",
    "TLS_NULL_WITH_NULL_NULL",
];

/// Serves with whatever `serving` holds at each handshake. `client_verifier`: None asks for no client certificate.
pub fn server_config(
    serving: &ServingCertificate,
    options: &TlsOptions,
    client_verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(Arc::new(provider(options)?))
        .with_protocol_versions(&versions(&options.min_version)?)
        .map_err(|source| CertificateError::Tls { source })?;
    let builder = match client_verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(serving.clone()));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Versions 1.0 and 1.1 may be named but are not spoken.
fn versions(min: &str) -> Result<Vec<&'static SupportedProtocolVersion>> {
    match min {
        "" | "VersionTLS10" | "VersionTLS11" | "VersionTLS12" => Ok(vec![&TLS12, &TLS13]),
        "VersionTLS13" => Ok(vec![&TLS13]),
        _ => Err(CertificateError::TlsVersion { name: min.to_owned() }),
    }
}

fn provider(options: &TlsOptions) -> Result<CryptoProvider> {
    let mut provider = ring::default_provider();
    if !options.cipher_suites.is_empty() {
        provider.cipher_suites = suites(&provider.cipher_suites, &options.cipher_suites)?;
    }
    if !options.curve_preferences.is_empty() {
        let wanted = |group: NamedGroup| options.curve_preferences.contains(&i32::from(u16::from(group)));
        provider.kx_groups.retain(|group| wanted(group.name()));
        if provider.kx_groups.is_empty() {
            tracing::warn!("none of the configured key exchange groups is known; all known ones are used");
            provider.kx_groups = ring::default_provider().kx_groups;
        }
    }
    Ok(provider)
}

/// The named suites of TLS 1.2; those of 1.3 are not for choosing, as in Go.
fn suites(all: &[SupportedCipherSuite], wanted: &[String]) -> Result<Vec<SupportedCipherSuite>> {
    let name_of = |suite: &SupportedCipherSuite| {
        let name = suite.suite().as_str().unwrap_or_default();
        name.replace("TLS13_", "TLS_")
    };
    let mut chosen: Vec<SupportedCipherSuite> = all.iter().filter(|suite| suite.tls13().is_some()).copied().collect();
    for name in wanted {
        // Two names lack their hash in older lists.
        let full = if name.ends_with("POLY1305") { format!("{name}_SHA256") } else { name.clone() };
        match all.iter().find(|suite| name_of(suite) == full) {
            Some(suite) if suite.tls13().is_some() => {}
            Some(suite) => chosen.push(*suite),
            None if LEFT_OUT.contains(&name.as_str()) => {
                tracing::warn!(suite = name, "cipher suite is too weak and left out")
            }
            None => return Err(CertificateError::CipherSuite { name: name.clone() }),
        }
    }
    if chosen.is_empty() { Err(CertificateError::NoCipherSuite) } else { Ok(chosen) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str]) -> Result<Vec<String>> {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let chosen = suites(&ring::default_provider().cipher_suites, &wanted)?;
        Ok(chosen.iter().filter(|s| s.tls13().is_none()).map(|s| s.suite().as_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn named_suites_are_used_and_those_of_tls_1_3_stay() {
        let chosen = names(&[
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
            "TLS_AES_128_GCM_SHA256",
        ]);
        let expected = ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"];
        assert_eq!(chosen.unwrap(), expected);
    }

    #[test]
    fn weak_suites_are_left_out_and_unknown_ones_refused() {
        assert!(names(&["TLS_RSA_WITH_AES_128_CBC_SHA"]).unwrap().is_empty());
        assert!(matches!(names(&["TLS_NO_SUCH"]), Err(CertificateError::CipherSuite { .. })));
    }

    #[test]
    fn a_configuration_is_made_before_there_is_a_certificate() {
        let config = server_config(&ServingCertificate::default(), &TlsOptions::default(), None).unwrap();
        assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
    }

    #[test]
    fn versions_are_named_as_in_go() {
        assert_eq!(versions("VersionTLS13").unwrap().len(), 1);
        assert_eq!(versions("").unwrap().len(), 2);
        assert!(versions("1.3").is_err());
    }

    #[test]
    fn key_exchange_groups_are_chosen_by_number() {
        let options = TlsOptions { curve_preferences: vec![23], ..TlsOptions::default() };
        assert_eq!(provider(&options).unwrap().kx_groups.len(), 1);
        let options = TlsOptions { curve_preferences: vec![4711], ..TlsOptions::default() };
        assert_eq!(provider(&options).unwrap().kx_groups.len(), 3);
    }
}
