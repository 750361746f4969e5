//! The server and the runtime: ports' TLS, authorization, endpoints, log files.

use std::collections::BTreeSet;

use pod::quantity::Quantity;

use super::{Check, Invalid};

/// Names that Go's TLS library knows, the insecure ones too.
const CIPHERS: [&str; 27] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_RC4_128_SHA",
];

const PREVIOUS_MINOR: &str = "1.36";

pub(super) fn check(check: &mut Check<'_>) {
    let c = check.config;
    check.refuse_if(!matches!(c.authorization.mode.as_str(), "Webhook" | "AlwaysAllow"), || {
        Invalid::new("authorization.mode", &c.authorization.mode, "must be \"Webhook\" or \"AlwaysAllow\"")
    });
    check.refuse_if(c.server_tls_bootstrap && !check.on("RotateKubeletServerCertificate"), || {
        Invalid::new("serverTLSBootstrap", true, "requires feature gate RotateKubeletServerCertificate")
    });
    tls(check);
    check.refuse_if(c.container_runtime_endpoint.is_empty(), || {
        Invalid::required("containerRuntimeEndpoint", "must not be empty")
    });
    check.refuse_if(c.enable_system_log_query && !c.enable_system_log_handler, || {
        Invalid::new("enableSystemLogQuery", true, "needs enableSystemLogHandler to be true")
    });
    let hidden = &c.show_hidden_metrics_for_version;
    check.refuse_if(!matches!(hidden.as_str(), "" | PREVIOUS_MINOR), || {
        let reason = format!("must be omitted or be \"{PREVIOUS_MINOR}\": only the previous minor version is allowed");
        Invalid::new("showHiddenMetricsForVersion", hidden, reason)
    });
    check.refuse_if(c.container_log_max_size.parse::<Quantity>().is_err(), || {
        Invalid::new("containerLogMaxSize", &c.container_log_max_size, "must be a quantity")
    });
    pod_logs(check);
}

fn tls(check: &mut Check<'_>) {
    let c = check.config;
    for (index, cipher) in c.tls_cipher_suites.iter().enumerate() {
        check.refuse_if(!CIPHERS.contains(&cipher.as_str()), || {
            Invalid::new(format!("tlsCipherSuites[{index}]"), cipher, "is not supported or does not exist")
        });
    }
    const VERSIONS: [&str; 5] = ["", "VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"];
    check.refuse_if(!VERSIONS.contains(&c.tls_min_version.as_str()), || {
        Invalid::new("tlsMinVersion", &c.tls_min_version, "must be VersionTLS10, 11, 12 or 13")
    });
    let mut seen = BTreeSet::new();
    for (index, curve) in c.tls_curve_preferences.iter().copied().enumerate() {
        let field = format!("tlsCurvePreferences[{index}]");
        // P-256, P-384, P-521, X25519 and the three post-quantum hybrids.
        let known = matches!(curve, 23..=25 | 29 | 4587..=4589);
        check.refuse_if(!known, || Invalid::new(&field, curve, "is not a supported key exchange"));
        check.refuse_if(!seen.insert(curve), || Invalid::new(&field, curve, "is given twice"));
    }
}

fn pod_logs(check: &mut Check<'_>) {
    const FIELD: &str = "podLogsDir";
    let path = &check.config.pod_logs_dir;
    if path.is_empty() {
        check.refuse(Invalid::required(FIELD, "must not be empty"));
        return;
    }
    let parts = path.split('/').skip(1);
    let clean = path == "/" || parts.clone().all(|part| !matches!(part, "" | "." | ".."));
    check.refuse_if(!path.starts_with('/'), || Invalid::new(FIELD, path, "must be an absolute path"));
    check.refuse_if(!clean, || Invalid::new(FIELD, path, "must be normalized"));
    check.refuse_if(!path.is_ascii(), || Invalid::new(FIELD, path, "must contain ASCII characters only"));
}
