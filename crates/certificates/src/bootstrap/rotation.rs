//! Tasks: renew a certificate before it expires.
//!
//! Reads: the stored pair, the Node's addresses. Writes: signing requests, the pair store. Wakes on: time, changed
//! addresses. Validity is wall time by nature; the waits are cut short so that a jump of the clock is noticed.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::Duration,
};

use apiserver::{ApiError, ApiServer, ClientOptions};
use host::Clock;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeAddress};
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;

use super::{
    first::{FirstIdentity, prepare_identity},
    kubeconfig::{client_pair, expired},
    request::{Purpose, Wanted, new_key, request},
    store::PairStore,
};
use crate::{CertificateError, Pair, Result, ServingCertificate, pair::Names, ttl};

const LIMIT: Duration = Duration::from_secs(15 * 60);
const LOOK_AGAIN: Duration = Duration::from_secs(10 * 60);
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// While there is no certificate: the API server may have come up just now.
const LONGEST_PAUSE_AT_FIRST: Duration = Duration::from_secs(15);
/// So long a node without a certificate goes on asking with credentials that are refused. It ends then, as upstream's, so
/// that whoever starts it again may lay down others.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// Somewhere between 70 and 90 % of its life, so that nodes of one age don't ask together.
fn renew_at(pair: &Pair, fraction: f64) -> Timestamp {
    let life = pair.not_after.duration_since(pair.not_before).as_secs_f64();
    let seconds = (life * (0.7 + 0.2 * fraction)).round() as i64;
    Timestamp::from_second(pair.not_before.as_second().saturating_add(seconds)).unwrap_or(pair.not_after)
}

fn fraction() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

/// When a certificate is to be renewed. Drawn once for each: a certificate whose renewal failed stays due, and is not
/// put off by a new draw.
#[derive(Default)]
struct Deadline(Option<(CertificateDer<'static>, Timestamp)>);

impl Deadline {
    fn of(&mut self, pair: &Pair, draw: impl FnOnce() -> f64) -> Timestamp {
        let leaf = pair.certified.cert.first();
        if let Some((of, at)) = &self.0
            && Some(of) == leaf
        {
            return *at;
        }
        let at = renew_at(pair, draw());
        self.0 = leaf.map(|leaf| (leaf.clone(), at));
        at
    }
}

/// Whether `renew_at` may say so.
fn may_be_due(pair: &Pair, now: Timestamp) -> bool {
    renew_at(pair, 0.0) <= now
}

/// The server does not take requests with these credentials; that one is denied says nothing of the kind.
fn is_refusal(error: &CertificateError) -> bool {
    let (CertificateError::Request { source, .. } | CertificateError::Token { source, .. }) = error else {
        return false;
    };
    let is_request = matches!(**source, ApiError::Refused { operation: "create", .. });
    is_request && (source.is_unauthorized() || source.is_forbidden())
}

/// Between attempts that got nowhere.
struct Pause {
    next: Duration,
    longest: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self::up_to(LONGEST_PAUSE)
    }
}

impl Pause {
    fn up_to(longest: Duration) -> Self {
        Self { next: FIRST_PAUSE, longest }
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(self.longest);
    }

    fn reset(&mut self) {
        self.next = FIRST_PAUSE;
    }
}

/// Tries to get the node its certificate until that succeeds. `Err`: refused for so long that only other credentials help.
async fn persistently<A>(clock: Clock, server: impl Fn() -> String, mut attempt: impl FnMut() -> A) -> Result<()>
where
    A: Future<Output = Result<Pair>>,
{
    let (begun, mut pause) = (clock.mono(), Pause::up_to(LONGEST_PAUSE_AT_FIRST));
    loop {
        let error = match attempt().await {
            Ok(pair) => {
                tracing::info!(not_after = %pair.not_after, "the node has its certificate");
                ttl::client_expires(pair.not_after);
                return Ok(());
            }
            Err(error) => error,
        };
        ttl::CLIENT_ERRORS.inc();
        if is_refusal(&error) && clock.mono().since(begun) >= PATIENCE {
            return Err(error);
        }
        let (server, error) = (server(), error.described());
        tracing::warn!(server, error, "the node has no certificate yet; it is asked for again");
        pause.wait().await;
    }
}

/// Until the wall clock shows `at`.
pub(crate) async fn wait_until(clock: Clock, at: Timestamp) {
    loop {
        let left = Duration::try_from(at.duration_since(clock.wall())).unwrap_or_default();
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LOOK_AGAIN)).await;
    }
}

/// How a node that lost its identity gets a new one.
pub struct Bootstrap {
    pub identity: FirstIdentity,
    pub options: ClientOptions,
}

/// Option rotateCertificates.
pub struct ClientRotation {
    /// None: there is no bootstrap kubeconfig.
    pub bootstrap: Option<Bootstrap>,
    /// Its identity is that of `store`: a rotation reaches it also where the kubeconfig names another pair.
    pub api: ApiServer,
    pub store: PairStore,
    pub node_name: String,
    pub clock: Clock,
}

impl ClientRotation {
    /// Runs until dropped, or until the identity is lost for good. The first is asked for with the bootstrap credentials;
    /// one that the kubeconfig brought itself, as that of kubeadm's first node, is renewed at once.
    pub async fn run(self, kubeconfig: &Path) {
        ttl::show_client();
        if let Some(bootstrap) = self.bootstrap.as_ref().filter(|_| self.api.awaits_identity())
            && !self.begin(bootstrap).await
        {
            return;
        }
        let mut is_due = take_over(&self.store, kubeconfig, &self.node_name, self.clock.wall());
        let (mut pause, mut deadline) = (Pause::default(), Deadline::default());
        loop {
            if let Some(pair) = self.store.load().filter(|_| !is_due) {
                ttl::client_expires(pair.not_after);
                wait_until(self.clock, deadline.of(&pair, fraction)).await;
            }
            match self.renew().await {
                Ok(pair) => {
                    tracing::info!(not_after = %pair.not_after, "client certificate renewed");
                    is_due = false;
                    self.use_identity().await;
                    // Where this clock is ahead of the signer's, a new one may be due at once.
                    if may_be_due(&pair, self.clock.wall()) {
                        pause.wait().await;
                    } else {
                        pause.reset();
                    }
                }
                Err(error) => {
                    ttl::CLIENT_ERRORS.inc();
                    let (server, error_text) = (self.api.address(), error.described());
                    tracing::warn!(server, error = error_text, "client certificate not renewed");
                    if self.is_lost(&error) {
                        if !self.begin_again().await {
                            return;
                        }
                        is_due = false;
                    }
                    pause.wait().await;
                }
            }
        }
    }

    /// The server answers, but not to an expired certificate: it will never sign a new one for it.
    fn is_lost(&self, error: &CertificateError) -> bool {
        is_refusal(error) && self.store.load().is_some_and(|pair| pair.not_after <= self.clock.wall())
    }

    /// From the bootstrap kubeconfig, as at a first start. False: only a new start by somebody else's hand helps.
    async fn begin_again(&self) -> bool {
        let Some(bootstrap) = &self.bootstrap else {
            let expired = self.store.load().map(|pair| expired(&self.store.current_path(), pair.not_after));
            tracing::error!("{}; the API server refuses it, the agent ends", expired.unwrap_or_default());
            return false;
        };
        tracing::warn!("the client certificate has expired: the node asks for its identity again");
        match prepare_identity(&bootstrap.identity, bootstrap.options.clone(), self.clock).await {
            Ok(true) => self.begin(bootstrap).await,
            Ok(false) => {
                self.use_identity().await;
                true
            }
            Err(error) => {
                tracing::error!(
                    error = error.described(),
                    "the client certificate has expired and there is no new one"
                );
                false
            }
        }
    }

    /// Gets an identity with the bootstrap credentials, however long that takes. False: they are refused for good.
    async fn begin(&self, bootstrap: &Bootstrap) -> bool {
        let (identity, options) = (&bootstrap.identity, &bootstrap.options);
        tracing::info!("the node has no certificate yet: static pods run, what needs the API server waits for it");
        let attempt = || identity.request(options.clone(), LIMIT, self.clock);
        if let Err(error) = persistently(self.clock, || self.api.address(), attempt).await {
            let error = error.described();
            tracing::error!(error, "the node has no certificate and is refused one; the agent ends");
            return false;
        }
        self.use_identity().await;
        true
    }

    async fn use_identity(&self) {
        if let Err(error) = self.api.reload().await {
            // It is stored: the client takes it at the next change of a file or refusal.
            tracing::warn!(error = apiserver::with_causes(&error), "the new client certificate is not used yet");
        }
    }

    async fn renew(&self) -> Result<Pair> {
        let key = new_key()?;
        let wanted =
            Wanted { node_name: self.node_name.clone(), purpose: Purpose::Client, is_named: false, limit: LIMIT };
        let certificate = request(&self.api, &key, &wanted, self.clock.wall()).await?;
        self.store.update(&certificate, &key.serialize_pem(), self.clock.wall())
    }
}

/// Stores the pair of the kubeconfig where none is stored that is valid: `kubeadm init` looks for it there, to turn the
/// kubeconfig to it. Whether a new one is to be asked for at once.
fn take_over(store: &PairStore, kubeconfig: &Path, node_name: &str, now: Timestamp) -> bool {
    if let Some(pair) = store.load().filter(|pair| pair.is_valid_at(now)) {
        return !store.is_of_node(&pair, node_name);
    }
    let stored = client_pair(kubeconfig).and_then(|(certificate, key)| store.update(&certificate, &key, now));
    match stored {
        Ok(pair) => ttl::client_expires(pair.not_after),
        Err(error) => tracing::info!(error = error.described(), "no client certificate to begin with"),
    }
    true
}

/// Option serverTLSBootstrap.
pub struct ServingRotation {
    pub api: ApiServer,
    pub store: PairStore,
    pub node_name: String,
    pub clock: Clock,
    pub serving: ServingCertificate,
    /// Its addresses are the names to ask for.
    pub node: watch::Receiver<Option<Arc<Node>>>,
}

impl ServingRotation {
    /// Runs until dropped. Until the first certificate is signed there is none to serve with, as with upstream.
    pub async fn run(mut self) {
        ttl::show_serving();
        // The Node, and with it the names, comes from the API server, which may be away: a stored pair needs neither.
        self.serve_stored();
        let (mut pause, mut deadline) = (Pause::default(), Deadline::default());
        loop {
            let Some(names) = self.wanted_names().await else { return };
            let suffices = |pair: &Pair| pair.names.cover(&names) && self.store.is_of_node(pair, &self.node_name);
            if let Some(pair) = self.serve_stored().filter(suffices) {
                let at = deadline.of(&pair, fraction);
                if !self.wait_until_or_renamed(at, &pair.names).await {
                    continue;
                }
            }
            match self.renew(names.clone()).await {
                Ok(pair)
                    if pair.names.cover(&names)
                        && pair.is_of_node(&self.node_name)
                        && !may_be_due(&pair, self.clock.wall()) =>
                {
                    pause.reset()
                }
                Ok(pair) => {
                    let (not_after, held, subject) = (pair.not_after, &pair.names, &pair.subject);
                    tracing::warn!(%not_after, subject, ?held, wanted = ?names, "the new serving certificate does not suffice");
                    pause.wait().await;
                }
                Err(error) => {
                    ttl::SERVING_ERRORS.inc();
                    let (server, error) = (self.api.address(), error.described());
                    tracing::warn!(server, error, "serving certificate not renewed");
                    pause.wait().await;
                }
            }
        }
    }

    /// The stored pair if it is valid; with other names than wanted it is still better than none.
    fn serve_stored(&self) -> Option<Pair> {
        let stored = self.store.load().filter(|pair| pair.is_valid_at(self.clock.wall()))?;
        self.serving.set(stored.clone());
        Some(stored)
    }

    /// Waits until the Node has an address (the signer wants more than a host name); None when nobody follows it any more.
    async fn wanted_names(&mut self) -> Option<Names> {
        loop {
            let names = names_of(self.node.borrow_and_update().as_deref());
            if !names.ips.is_empty() {
                return Some(names);
            }
            self.node.changed().await.ok()?;
        }
    }

    /// False when the Node gets an address that is not among the names held before it is time.
    async fn wait_until_or_renamed(&mut self, at: Timestamp, held: &Names) -> bool {
        let (clock, node) = (self.clock, &mut self.node);
        let renamed = async {
            loop {
                if node.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                let now = names_of(node.borrow_and_update().as_deref());
                if !held.cover(&now) {
                    return;
                }
            }
        };
        tokio::select! {
            () = wait_until(clock, at) => true,
            () = renamed => false,
        }
    }

    async fn renew(&self, names: Names) -> Result<Pair> {
        let key = new_key()?;
        let wanted = Wanted {
            node_name: self.node_name.clone(),
            purpose: Purpose::Serving(names),
            is_named: false,
            limit: LIMIT,
        };
        let certificate = request(&self.api, &key, &wanted, self.clock.wall()).await?;
        let pair = self.store.update(&certificate, &key.serialize_pem(), self.clock.wall())?;
        tracing::info!(not_after = %pair.not_after, "serving certificate renewed");
        if let Some(before) = self.serving.current() {
            ttl::serving_rotated(before.not_before, self.clock.wall());
        }
        self.serving.set(pair.clone());
        Ok(pair)
    }
}

/// Every address of the Node, by what it is.
fn names_of(node: Option<&Node>) -> Names {
    let addresses = node.and_then(|n| n.status.as_ref()).and_then(|s| s.addresses.as_deref()).unwrap_or_default();
    let (mut dns, mut ips) = (Vec::new(), Vec::new());
    for NodeAddress { type_, address } in addresses.iter().filter(|a| !a.address.is_empty()) {
        match (type_.as_str(), address.parse::<IpAddr>()) {
            ("Hostname" | "InternalIP" | "ExternalIP", Ok(ip)) => ips.push(ip),
            ("Hostname" | "InternalDNS" | "ExternalDNS", Err(_)) => dns.push(address.clone()),
            _ => {}
        }
    }
    Names::new(dns, ips)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::NodeStatus;
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn pem_of_january() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "system:node:n");
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        (params.not_before, params.not_after) = (date_time_ymd(2026, 1, 1), date_time_ymd(2026, 1, 11));
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn pair_of_january() -> Pair {
        let (certificate, key) = pem_of_january();
        Pair::from_pem(certificate.as_bytes(), key.as_bytes(), "test").unwrap()
    }

    #[test]
    fn an_identity_that_the_kubeconfig_brings_is_stored_and_renewed() {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let dir = tempfile::tempdir().unwrap();
        let (kubeconfig, store) = (dir.path().join("kubelet.conf"), PairStore::client(&dir.path().join("pki")));
        let now = "2026-01-02T00:00:00Z".parse().unwrap();
        let write = |(certificate, key): &(String, String)| {
            let text = format!(
                "users: [{{name: u, user: {{client-certificate-data: {}, client-key-data: {}}}}}]\n\
                 contexts: [{{name: c, context: {{cluster: k, user: u}}}}]\ncurrent-context: c\n",
                STANDARD.encode(certificate),
                STANDARD.encode(key)
            );
            std::fs::write(&kubeconfig, text).unwrap();
        };
        let brought = pem_of_january();
        write(&brought);
        assert!(take_over(&store, &kubeconfig, "n", now), "due at once");
        let stored = std::fs::read_to_string(store.current_path()).unwrap();
        assert_eq!(stored, brought.0.clone() + &brought.1);

        write(&pem_of_january());
        assert!(!take_over(&store, &kubeconfig, "n", now), "the stored one is newer");
        assert!(take_over(&store, &kubeconfig, "m", now), "the stored one is another node's");
        assert_eq!(std::fs::read_to_string(store.current_path()).unwrap(), stored);
        let later = "2026-02-01T00:00:00Z".parse().unwrap();
        assert!(take_over(&store, &kubeconfig, "n", later), "the stored one has expired");
        assert_ne!(std::fs::read_to_string(store.current_path()).unwrap(), stored);
    }

    #[test]
    fn a_kubeconfig_without_a_certificate_leaves_the_store_empty() {
        let dir = tempfile::tempdir().unwrap();
        let store = PairStore::client(dir.path());
        assert!(take_over(&store, Path::new("/nowhere"), "n", Timestamp::UNIX_EPOCH));
        assert!(store.load().is_none());
    }

    #[test]
    fn renewal_falls_between_seventy_and_ninety_percent_of_the_life() {
        let pair = pair_of_january();
        assert_eq!(renew_at(&pair, 0.0).to_string(), "2026-01-08T00:00:00Z");
        assert_eq!(renew_at(&pair, 1.0).to_string(), "2026-01-10T00:00:00Z");
    }

    #[test]
    fn a_certificate_whose_renewal_failed_stays_due() {
        let (one, other) = (pair_of_january(), pair_of_january());
        let mut deadline = Deadline::default();
        let at = deadline.of(&one, || 0.0);
        assert_eq!(at, renew_at(&one, 0.0));
        assert_eq!(deadline.of(&one, || 1.0), at, "not drawn again");
        assert_eq!(deadline.of(&other, || 1.0), renew_at(&other, 1.0), "another certificate has its own");
    }

    #[tokio::test]
    async fn a_stored_serving_certificate_is_served_before_the_node_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubelet.conf");
        let text = "clusters: [{name: k, cluster: {server: 'https://192.0.2.1:6443'}}]\n\
                    users: [{name: u, user: {}}]\n\
                    contexts: [{name: c, context: {cluster: k, user: u}}]\ncurrent-context: c\n";
        std::fs::write(&kubeconfig, text).unwrap();
        let (clock, store) = (Clock::start(), PairStore::serving(dir.path()));
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["n".to_owned()]).unwrap().self_signed(&key).unwrap();
        store.update(certificate.pem().as_bytes(), &key.serialize_pem(), clock.wall()).unwrap();

        let (serving, (_node, node)) = (ServingCertificate::default(), watch::channel(None));
        let api = ApiServer::from_kubeconfig(&kubeconfig, ClientOptions::default()).await.unwrap();
        let rotation = ServingRotation { api, store, node_name: "n".to_owned(), clock, serving: serving.clone(), node };
        tokio::select! {
            biased;
            () = rotation.run() => panic!("it follows the Node"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(serving.current().unwrap().names.dns, ["n"]);
    }

    #[test]
    fn a_certificate_is_settled_until_the_earliest_time_of_renewal() {
        let pair = pair_of_january();
        assert!(!may_be_due(&pair, "2026-01-07T23:59:59Z".parse().unwrap()));
        assert!(may_be_due(&pair, "2026-01-08T00:00:00Z".parse().unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_get_nowhere_are_paced() {
        let (mut pause, begun) = (Pause::default(), tokio::time::Instant::now());
        for _ in 0..6 {
            pause.wait().await;
        }
        assert_eq!(begun.elapsed().as_secs(), 2 + 4 + 8 + 16 + 32 + 60);
        pause.reset();
        assert_eq!(pause.next, FIRST_PAUSE);
    }

    fn failed(error: ApiError) -> CertificateError {
        CertificateError::Request { subject: "n".into(), source: Box::new(error) }
    }

    fn refused(operation: &'static str, code: u16) -> CertificateError {
        let refusal = apiserver::Refusal { code, reason: String::new(), message: String::new(), retry_after: None };
        failed(ApiError::Refused { operation, object: "csr".into(), refusal })
    }

    fn silent() -> CertificateError {
        failed(ApiError::Deadline { operation: "create", object: "csr".into(), limit: Duration::from_secs(1) })
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_without_a_certificate_asks_for_it_until_it_has_been_refused_for_five_minutes() {
        let clock = Clock::start();
        let begun = tokio::time::Instant::now();
        let server = || String::from("192.0.2.1:6443");
        let given_up = persistently(clock, server, || async { Err(refused("create", 401)) }).await;
        assert!(is_refusal(&given_up.unwrap_err()));
        let took = begun.elapsed();
        assert!(took >= PATIENCE && took < PATIENCE + LONGEST_PAUSE_AT_FIRST, "{took:?}");

        // An hour of silence, or of requests that are denied, ends nothing.
        let begun = tokio::time::Instant::now();
        let mut tries = 0;
        let attempt = || {
            tries += 1;
            let answer = match tries % 2 {
                _ if begun.elapsed() > Duration::from_secs(3600) => Ok(pair_of_january()),
                0 => Err(silent()),
                _ => Err(refused("watch", 403)),
            };
            std::future::ready(answer)
        };
        persistently(clock, server, attempt).await.unwrap();
    }

    #[test]
    fn only_an_answer_of_the_server_ends_an_identity() {
        let at_create = |code| is_refusal(&refused("create", code));
        assert!(at_create(401) && at_create(403) && !at_create(503));
        assert!(!is_refusal(&refused("watch", 403)), "a denied request");
        assert!(!is_refusal(&silent()));
    }

    #[test]
    fn the_nodes_addresses_are_the_names_to_ask_for() {
        let address = |kind: &str, text: &str| NodeAddress { type_: kind.into(), address: text.into() };
        let addresses = vec![
            address("InternalIP", "192.0.2.2"),
            address("Hostname", "n"),
            address("InternalDNS", "n.internal"),
            address("ExternalIP", "junk"),
        ];
        let status = NodeStatus { addresses: Some(addresses), ..NodeStatus::default() };
        let node = Node { status: Some(status), ..Node::default() };
        let expected = Names::new(vec!["n".into(), "n.internal".into()], vec!["192.0.2.2".parse().unwrap()]);
        assert_eq!(names_of(Some(&node)), expected);
        assert_eq!(names_of(None), Names::default());
    }
}
