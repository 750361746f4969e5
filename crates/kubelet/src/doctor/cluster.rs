//! What ties the node to its cluster: kubeconfig, certificates, the API server.

use std::path::{Path, PathBuf};

use apiserver::{ApiError, ApiServer, ClientOptions, Identity, with_causes};
use certificates::{
    ClientCa, Pair,
    bootstrap::{PairStore, client_certificate_validity},
};
use host::Clock;
use pod::time::Timestamp;

use super::Finding;
use crate::options::Options;

pub(super) async fn findings(options: &Options, clock: Clock) -> Vec<Finding> {
    let mut all: Vec<Finding> = serving(options, clock.wall()).into_iter().chain(client_ca(options)).collect();
    let Some(kubeconfig) = &options.flags.kubeconfig else { return all };
    let bootstrap = options.flags.bootstrap_kubeconfig.as_deref().filter(|path| path.exists());
    // One with a token or another plugin has none.
    let validity = client_certificate_validity(kubeconfig).ok();
    all.extend(cert_dir(&options.flags.cert_dir, validity, clock.wall()));
    if !kubeconfig.exists() {
        all.push(no_kubeconfig(kubeconfig, bootstrap));
        return all;
    }
    let (way_on, identity) = match credentials(options, validity, clock.wall()) {
        Credentials::Kubeconfig => (None, None),
        Credentials::Stored(pair) => {
            let way_on = "the agent uses the one of its --cert-dir instead".to_owned();
            (Some(way_on), Some(Identity::new(move || Some(pair.clone()))))
        }
        // Whether its token is still good, only the API server knows.
        Credentials::ToCome(path) => {
            let path = path.display();
            (Some(format!("the agent will bootstrap again by {path}, if that is still accepted")), None)
        }
    };
    let renews = way_on.clone().filter(|_| identity.is_none());
    all.extend(validity.map(|validity| client_certificate(validity, way_on, clock.wall())));
    let client = ClientOptions { identity, ..ClientOptions::default() };
    all.push(match ApiServer::from_kubeconfig(kubeconfig, client).await {
        Ok(api) => api_server(api.get_node(&options.node_name).await.map(drop), &options.node_name, renews),
        // Until its first certificate is there, a kubeconfig that bootstrap has written names a file that is not.
        Err(error) => match renews {
            Some(way_on) => Finding::warning("kubeconfig", with_causes(&error), way_on),
            None => Finding::fault("kubeconfig", with_causes(&error), "the agent will not start until it can read it"),
        },
    });
    all
}

/// With what the agent goes to the API server.
#[derive(Debug, PartialEq, Eq)]
enum Credentials {
    Kubeconfig,
    /// A pair of its --cert-dir.
    Stored(PathBuf),
    /// It has none yet, but a kubeconfig to bootstrap by.
    ToCome(PathBuf),
}

/// Changes nothing, where the agent would mend the folder or write the kubeconfig anew. `validity`: of the certificate
/// in the kubeconfig.
fn credentials(options: &Options, validity: Option<Validity>, now: Timestamp) -> Credentials {
    let store = PairStore::client(&options.flags.cert_dir);
    // As at the agent's start, a token or a plugin does not count where there is a kubeconfig to bootstrap by.
    let is_lost = validity.is_none_or(|(_, to)| to < now);
    let bootstrap = options.flags.bootstrap_kubeconfig.as_ref().filter(|path| is_lost && path.exists());
    let rotates = options.config.rotate_certificates;
    match stored(&store).filter(|pair| pair.is_valid_at(now)) {
        Some(pair) if bootstrap.map_or(rotates, |_| pair.is_of_node(&options.node_name)) => {
            Credentials::Stored(store.current_path())
        }
        _ => bootstrap.map_or(Credentials::Kubeconfig, |path| Credentials::ToCome(path.clone())),
    }
}

fn no_kubeconfig(path: &Path, bootstrap: Option<&Path>) -> Finding {
    let found = format!("{} is not there yet", path.display());
    match bootstrap {
        Some(bootstrap) => Finding::good("kubeconfig", format!("{found}; {} will get it", bootstrap.display())),
        None => Finding::fault(
            "kubeconfig",
            found,
            "`kubeadm join` writes it; or give a --bootstrap-kubeconfig that exists",
        ),
    }
}

/// `way_on`: what the agent does about one that has expired.
fn client_certificate(validity: Validity, way_on: Option<String>, now: Timestamp) -> Finding {
    let (from, to) = validity;
    let about = "certificate";
    if now < from {
        let advice = "set the clock, or have the certificate signed again";
        return Finding::fault(about, format!("of the kubeconfig: valid only from {from}"), advice);
    }
    if now < to {
        return valid("the kubeconfig", validity, now);
    }
    let found = format!("of the kubeconfig: expired on {}", day(to));
    match way_on {
        Some(way_on) => Finding::warning(about, found, way_on),
        None => {
            let advice = "join the node again, or give a --bootstrap-kubeconfig with a valid token";
            Finding::fault(about, found, advice)
        }
    }
}

/// The pairs that the agent keeps there, but for the one that is the kubeconfig's.
fn cert_dir(dir: &Path, kubeconfig: Option<Validity>, now: Timestamp) -> Vec<Finding> {
    let client = stored(&PairStore::client(dir)).filter(|pair| Some((pair.not_before, pair.not_after)) != kubeconfig);
    let serving = stored(&PairStore::serving(dir));
    let own = Pair::from_files(&dir.join("kubelet.crt"), &dir.join("kubelet.key")).ok();
    let all = [("kubelet-client-current.pem", client), ("kubelet-server-current.pem", serving), ("kubelet.crt", own)];
    all.into_iter().filter_map(|(name, pair)| Some(pair_of_cert_dir(name, &pair?, now))).collect()
}

/// Not by the store's own way, which mends its folder.
fn stored(store: &PairStore) -> Option<Pair> {
    Pair::from_files(&store.current_path(), &store.current_path()).ok()
}

fn pair_of_cert_dir(name: &str, pair: &Pair, now: Timestamp) -> Finding {
    if pair.is_valid_at(now) {
        return valid(name, (pair.not_before, pair.not_after), now);
    }
    let found = format!("of {name}: valid from {} until {}", day(pair.not_before), day(pair.not_after));
    Finding::warning("certificate", found, "the agent asks for another; it may have to be approved")
}

/// From when, until when.
type Validity = (Timestamp, Timestamp);

/// The agent renews its certificates between 70 and 90 percent of their life.
fn valid(of: &str, (from, to): Validity, now: Timestamp) -> Finding {
    let found = format!("of {of}: valid until {}", day(to));
    let (left, life) = (to.as_second() - now.as_second(), to.as_second() - from.as_second());
    if left.saturating_mul(10) >= life {
        return Finding::good("certificate", found);
    }
    let advice = "it should have been renewed: see rotateCertificates, serverTLSBootstrap, and `kubectl get csr`";
    Finding::warning("certificate", found, advice)
}

fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

fn serving(options: &Options, now: Timestamp) -> Option<Finding> {
    let config = &options.config;
    if config.tls_cert_file.is_empty() || config.tls_private_key_file.is_empty() {
        return None;
    }
    let advice = "mend tlsCertFile and tlsPrivateKeyFile, or leave them out for a certificate of our own";
    Some(match Pair::from_files(Path::new(&config.tls_cert_file), Path::new(&config.tls_private_key_file)) {
        Err(error) => Finding::fault("certificate", format!("of the server: {error}"), advice),
        Ok(pair) if pair.is_valid_at(now) => Finding::good("certificate", "of the server: valid"),
        Ok(_) => Finding::warning("certificate", "of the server: not valid now", "logs and exec fail; renew it"),
    })
}

fn client_ca(options: &Options) -> Option<Finding> {
    let file = &options.config.authentication.x509.client_ca_file;
    if file.is_empty() {
        return None;
    }
    Some(match ClientCa::from_file(file) {
        Ok(_) => Finding::good("client CA", file.as_str()),
        Err(error) => Finding::fault("client CA", error.to_string(), "the agent refuses to start with it"),
    })
}

/// `renews`: how the agent gets other credentials before it asks.
fn api_server(answer: Result<(), ApiError>, node: &str, renews: Option<String>) -> Finding {
    match answer {
        Ok(()) => Finding::good("API server", format!("answers, and knows node {node}")),
        Err(error) if error.is_not_found() => {
            Finding::good("API server", format!("answers; node {node} will register"))
        }
        Err(error) if error.is_forbidden() || error.is_unauthorized() => {
            if let Some(renews) = renews {
                return Finding::warning("API server", with_causes(&error), renews);
            }
            let advice = format!("these credentials must be those of system:node:{node}");
            Finding::fault("API server", with_causes(&error), advice)
        }
        Err(error) => {
            let advice = "what runs goes on and static pods start; nothing new comes from the API until it answers";
            Finding::warning("API server", with_causes(&error), advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use apiserver::Refusal;
    use jiff::ToSpan as _;
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;
    use crate::{
        doctor::Verdict,
        options::{Request, read},
    };

    fn options(dir: &Path, more: &[&str]) -> Options {
        let (kubeconfig, pki) = (dir.join("kubelet.conf"), dir.join("pki"));
        let always = [
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--cert-dir={}", pki.display()),
            "--hostname-override=web-1".to_owned(),
        ];
        match read(&always.into_iter().chain(more.iter().map(|arg| (*arg).to_owned())).collect::<Vec<_>>()).unwrap() {
            Request::Run(options) => *options,
            Request::Print { out, .. } => panic!("printed {out}"),
        }
    }

    /// What rotation leaves.
    fn store(dir: &Path, node: &str) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2030, 1, 1));
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        let certificate = params.self_signed(&key).unwrap().pem();
        let store = PairStore::client(&dir.join("pki"));
        store.update(certificate.as_bytes(), &key.serialize_pem(), Timestamp::UNIX_EPOCH).unwrap();
        store.current_path()
    }

    #[test]
    fn the_api_server_is_asked_with_what_the_agent_would_ask_with() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let bootstrap = dir.join("bootstrap.conf");
        fs::write(&bootstrap, "").unwrap();
        let rotates = "--rotate-certificates";
        let renews = format!("--bootstrap-kubeconfig={}", bootstrap.display());
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let (lost, good) = ((Timestamp::UNIX_EPOCH, now - 1.hours()), (Timestamp::UNIX_EPOCH, now + 1.hours()));
        let at = |now, more: &[&str], validity| credentials(&options(dir, more), Some(validity), now);
        assert_eq!(at(now, &[rotates], lost), Credentials::Kubeconfig);
        assert_eq!(at(now, &[rotates, &renews], lost), Credentials::ToCome(bootstrap.clone()));
        assert_eq!(at(now, &[rotates, &renews], good), Credentials::Kubeconfig);
        let token = credentials(&options(dir, &[&renews]), None, now);
        assert_eq!(token, Credentials::ToCome(bootstrap.clone()));

        let stored = Credentials::Stored(store(dir, "web-1"));
        let later = now + (20 * 365 * 24).hours();
        for more in [&[rotates][..], &[rotates, &renews], &[&renews]] {
            assert_eq!(at(now, more, lost), stored, "{more:?}");
            assert_ne!(at(later, more, lost), stored, "{more:?}");
        }
        assert_eq!(at(now, &[], lost), Credentials::Kubeconfig);
        store(dir, "another-node");
        assert_eq!(at(now, &[&renews], lost), Credentials::ToCome(bootstrap));
    }

    #[test]
    fn credentials_that_the_agent_gets_anew_may_be_refused() {
        let verdict = |code, renews| {
            let refusal = Refusal { code, reason: String::new(), message: "no".to_owned(), retry_after: None };
            let refused = ApiError::Refused { operation: "get", object: "node web-1".to_owned(), refusal };
            api_server(Err(refused), "web-1", renews).verdict
        };
        for code in [401, 403] {
            assert_eq!(verdict(code, None), Verdict::Fault);
            assert_eq!(verdict(code, Some("the agent will bootstrap again".to_owned())), Verdict::Warning);
        }
    }

    #[test]
    fn a_kubeconfig_may_be_still_to_come() {
        let missing = Path::new("/no/such/kubelet.conf");
        assert_eq!(no_kubeconfig(missing, None).verdict, Verdict::Fault);
        assert_eq!(no_kubeconfig(missing, Some(Path::new("/proc/self/status"))).verdict, Verdict::Good);
    }

    #[test]
    fn an_expired_certificate_is_no_fault_where_the_agent_can_bootstrap_again() {
        let (from, to) = (Timestamp::UNIX_EPOCH, Timestamp::constant(1000, 0));
        let at = |second, way_on| client_certificate((from, to), way_on, Timestamp::constant(second, 0)).verdict;
        let bootstrap = || Some("the agent will bootstrap again".to_owned());
        assert_eq!((at(1000, None), at(1000, bootstrap())), (Verdict::Fault, Verdict::Warning));
        assert_eq!(at(-1, bootstrap()), Verdict::Fault);
    }

    #[test]
    fn a_certificate_that_was_not_renewed_in_its_time_is_told_before_it_expires() {
        let validity = (Timestamp::UNIX_EPOCH, Timestamp::constant(1000, 0));
        let at = |second| client_certificate(validity, None, Timestamp::constant(second, 0)).verdict;
        assert_eq!((at(899), at(901)), (Verdict::Good, Verdict::Warning));
    }

    #[test]
    fn the_pairs_of_the_certificate_folder_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let after = |days: i64| Timestamp::constant(1_760_000_000 + days * 24 * 3600, 0);
        let now = after(0);
        assert_eq!(cert_dir(dir.path(), None, now), []);
        let serving = certificates::ServingCertificate::default();
        serving.load_self_signed(dir.path(), "web-1", &[], now).unwrap();
        let verdict = |at| cert_dir(dir.path(), None, at).into_iter().map(|found| found.verdict).collect::<Vec<_>>();
        assert_eq!(verdict(after(300)), [Verdict::Good]);
        assert_eq!(verdict(after(350)), [Verdict::Warning]);
        assert_eq!(verdict(after(400)), [Verdict::Warning]);
    }
}
