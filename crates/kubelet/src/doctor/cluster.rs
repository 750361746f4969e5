//! What ties the node to its cluster: kubeconfig, certificates, the API server.

use std::{error::Error, path::Path};

use apiserver::{ApiError, ApiServer, ClientOptions};
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
    let rotated = options.config.rotate_certificates.then(|| stored(&PairStore::client(&options.flags.cert_dir)));
    let way_on = if rotated.flatten().is_some_and(|pair| pair.is_valid_at(clock.wall())) {
        Some("the agent uses the one of its --cert-dir instead".to_owned())
    } else {
        // Whether its token is still good, only the API server knows.
        bootstrap.map(|path| format!("the agent will bootstrap again by {}, if that is still accepted", path.display()))
    };
    all.extend(validity.map(|validity| client_certificate(validity, way_on, clock.wall())));
    all.push(match ApiServer::from_kubeconfig(kubeconfig, ClientOptions::default()).await {
        Ok(api) => api_server(api.get_node(&options.node_name).await.map(drop), &options.node_name),
        Err(error) => Finding::fault("kubeconfig", causes(&error), "the agent will not start until it can read it"),
    });
    all
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

/// An error and what is behind it, each once.
fn causes(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        next = cause.source();
    }
    told
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

fn api_server(answer: Result<(), ApiError>, node: &str) -> Finding {
    match answer {
        Ok(()) => Finding::good("API server", format!("answers, and knows node {node}")),
        Err(error) if error.is_not_found() => {
            Finding::good("API server", format!("answers; node {node} will register"))
        }
        Err(error) if error.is_forbidden() || error.is_unauthorized() => {
            let advice = format!("these credentials must be those of system:node:{node}");
            Finding::fault("API server", causes(&error), advice)
        }
        Err(error) => {
            let advice = "what runs goes on and static pods start; nothing new comes from the API until it answers";
            Finding::warning("API server", causes(&error), advice)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

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

    #[test]
    fn the_causes_of_an_error_are_told_once_each() {
        let refused = std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        let error = anyhow::Error::new(refused).context("dial 10.0.0.1:6443").context("get node");
        assert_eq!(causes(error.as_ref()), "get node: dial 10.0.0.1:6443: connection refused");
    }
}
