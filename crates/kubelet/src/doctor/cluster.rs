//! What ties the node to its cluster: kubeconfig, certificates, the API server.

use std::path::Path;

use apiserver::{ApiError, ApiServer, ClientOptions};
use certificates::{ClientCa, Pair, bootstrap::client_certificate_validity};
use host::Clock;
use pod::time::Timestamp;

use super::Finding;
use crate::options::Options;

pub(super) async fn findings(options: &Options, clock: Clock) -> Vec<Finding> {
    let mut all: Vec<Finding> = serving(options, clock.wall()).into_iter().chain(client_ca(options)).collect();
    let Some(kubeconfig) = &options.flags.kubeconfig else { return all };
    if !kubeconfig.exists() {
        all.push(no_kubeconfig(kubeconfig, options.flags.bootstrap_kubeconfig.as_deref()));
        return all;
    }
    all.extend(client_certificate(kubeconfig, clock.wall()));
    all.push(match ApiServer::from_kubeconfig(kubeconfig, ClientOptions::default()).await {
        Ok(api) => api_server(api.get_node(&options.node_name).await.map(drop), &options.node_name),
        Err(error) => Finding::fault("kubeconfig", error.to_string(), "the agent will not start until it can read it"),
    });
    all
}

fn no_kubeconfig(path: &Path, bootstrap: Option<&Path>) -> Finding {
    let found = format!("{} is not there yet", path.display());
    match bootstrap.filter(|path| path.exists()) {
        Some(bootstrap) => Finding::good("kubeconfig", format!("{found}; {} will get it", bootstrap.display())),
        None => Finding::fault(
            "kubeconfig",
            found,
            "`kubeadm join` writes it; or give a --bootstrap-kubeconfig that exists",
        ),
    }
}

fn client_certificate(kubeconfig: &Path, now: Timestamp) -> Option<Finding> {
    // One with a token or another plugin has none.
    let (from, to) = client_certificate_validity(kubeconfig).ok()?;
    let until = to.strftime("%Y-%m-%d").to_string();
    Some(if now < from {
        let advice = "set the clock, or have the certificate signed again";
        Finding::fault("certificate", format!("of the kubeconfig: valid only from {from}"), advice)
    } else if now >= to {
        let advice = "join the node again, or give a --bootstrap-kubeconfig with a valid token";
        Finding::fault("certificate", format!("of the kubeconfig: expired on {until}"), advice)
    } else {
        Finding::good("certificate", format!("of the kubeconfig: valid until {until}"))
    })
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
            Finding::fault("API server", error.to_string(), advice)
        }
        Err(error) => {
            let advice = "what runs goes on and static pods start; nothing new comes from the API until it answers";
            Finding::warning("API server", error.to_string(), advice)
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
        assert_eq!(no_kubeconfig(missing, Some(Path::new("/no/such/bootstrap.conf"))).verdict, Verdict::Fault);
        assert_eq!(no_kubeconfig(missing, Some(Path::new("/proc/self/status"))).verdict, Verdict::Good);
    }
}
