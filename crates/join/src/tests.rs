//! Joins a server that answers as k3s' does, in both generations, and meets its refusals.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use certificates::Pair;
use jiff::Timestamp;
use tempfile::TempDir;
use testing::{Ca, FakeK3s};

use crate::{JoinError, Joined, Result, Token, Wanted, ca::Bundle, files::Paths, join};

const NOW: &str = "2026-06-01T00:00:00Z";

struct World {
    k3s: FakeK3s,
    dir: TempDir,
}

impl World {
    async fn new() -> Self {
        Self { k3s: FakeK3s::start_new().await, dir: tempfile::tempdir().unwrap() }
    }

    fn token(&self) -> String {
        let state = self.k3s.state();
        let hash = Bundle::read(state.server_ca.certificate.as_bytes(), NOW.parse().unwrap()).unwrap().hash;
        format!("K10{hash}::server:{}", state.password)
    }

    fn wanted(&self, token: &str) -> Wanted {
        Wanted {
            server: self.k3s.url(),
            token: Token::parse(token).unwrap(),
            skip_ca_hash: false,
            node_name: "Worker-1".to_owned(),
            with_node_id: false,
            node_ips: vec![IpAddr::from([192, 0, 2, 7])],
            data_dir: self.dir.path().join("k3s"),
            node_dir: self.dir.path().join("node"),
            root_dir: "/var/lib/kubelet".into(),
            runtime_endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            resolv_conf: String::new(),
            cgroup_driver: String::new(),
            labels: vec!["a=b".to_owned()],
            taints: Vec::new(),
        }
    }

    async fn join(&self) -> Result<Joined> {
        self.join_with(&self.wanted(&self.token())).await
    }

    async fn join_with(&self, wanted: &Wanted) -> Result<Joined> {
        join(wanted, NOW.parse::<Timestamp>().unwrap()).await
    }

    fn paths(&self) -> Paths {
        Paths::below(&self.dir.path().join("k3s"))
    }

    fn written(&self) -> usize {
        fs::read_dir(self.dir.path().join("k3s/agent")).map_or(0, Iterator::count)
    }

    fn secrets_sent(&self) -> bool {
        self.k3s.state().requests.iter().any(|(_, _, with_credentials)| *with_credentials)
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn a_token_becomes_certificates_configuration_and_the_agents_command() {
    let world = World::new().await;
    let joined = world.join().await.unwrap();
    let paths = world.paths();
    assert_eq!(joined.node_name, "worker-1");
    assert_eq!(joined.files.len(), 6);
    assert_eq!(world.written(), 6);
    for file in &joined.files {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    let client = Pair::from_files(&paths.client, &paths.client).unwrap();
    assert_eq!(client.issuer, "k3s-client-ca");
    let serving = Pair::from_files(&paths.serving, &paths.serving).unwrap();
    assert!(serving.names.dns.contains(&"worker-1".to_owned()));
    assert!(serving.names.ips.contains(&IpAddr::from([192, 0, 2, 7])));

    let kubeconfig = read(&paths.kubeconfig);
    assert!(kubeconfig.contains(&world.k3s.url()), "{kubeconfig}");
    assert!(kubeconfig.contains(paths.client.to_str().unwrap()), "{kubeconfig}");
    let config = read(&paths.config);
    assert!(config.contains("10.43.0.10") && config.contains(paths.client_ca.to_str().unwrap()), "{config}");
    assert!(joined.arguments.contains(&"--hostname-override=worker-1".to_owned()), "{:?}", joined.arguments);
    assert!(joined.arguments.contains(&"--node-labels=a=b".to_owned()), "{:?}", joined.arguments);
    assert!(joined.notes.iter().any(|note| note.contains("egress-selector-mode")), "{:?}", joined.notes);
    let secret = &world.k3s.state().password;
    assert!(!format!("{joined:?}{kubeconfig}{config}").contains(secret.as_str()));
}

#[tokio::test]
async fn an_older_server_sends_its_own_key() {
    let world = World::new().await;
    world.k3s.state().signs_keys = false;
    world.join().await.unwrap();
    let paths = world.paths();
    let key = |path: &Path| read(path).split_once("-----BEGIN PRIVATE KEY").unwrap().1.to_owned();
    Pair::from_files(&paths.client, &paths.client).unwrap();
    assert_eq!(key(&paths.client), key(&paths.serving), "all certificates of such a server have one key");
}

#[tokio::test]
async fn a_second_join_renews_the_certificates_with_the_same_password() {
    let world = World::new().await;
    world.join().await.unwrap();
    let first = read(&world.paths().client);
    world.join().await.unwrap();
    assert_ne!(read(&world.paths().client), first);
    assert_eq!(world.k3s.state().passwords.len(), 1);
}

#[tokio::test]
async fn bootstrap_tokens_and_tokens_without_a_head_are_accepted() {
    let world = World::new().await;
    world.k3s.state().bootstrap_token = Some("abcdef.0123456789abcdef".to_owned());
    let head = world.token().split_once("::").unwrap().0.to_owned();
    world.join_with(&world.wanted(&format!("{head}::abcdef.0123456789abcdef"))).await.unwrap();

    let short = world.wanted("agents-password");
    let error = world.join_with(&short).await.unwrap_err();
    let hash = head.strip_prefix("K10").unwrap();
    assert!(matches!(&error, JoinError::NoCaHash { found } if found == hash), "{error}");
    world.join_with(&Wanted { skip_ca_hash: true, ..short }).await.unwrap();
}

#[tokio::test]
async fn another_ca_than_the_tokens_is_told_nothing() {
    let world = World::new().await;
    let token = world.token();
    world.k3s.state().server_ca = Ca::new("k3s-server-ca");
    let error = world.join_with(&world.wanted(&token)).await.unwrap_err();
    assert!(matches!(error, JoinError::CaHash { .. }), "{error}");
    assert!(!world.secrets_sent());
    assert_eq!(world.written(), 0);
}

#[tokio::test]
async fn somebody_who_shows_the_right_ca_without_being_signed_by_it_is_told_nothing() {
    let mut world = World::new().await;
    let token = world.token();
    let local = IpAddr::from([127, 0, 0, 1]);
    let theirs = testing::K3s::new(world.k3s.state().server_ca.clone(), Ca::new("k3s-client-ca"));
    world.k3s = FakeK3s::start(SocketAddr::new(local, 0), theirs, &Ca::new("k3s-server-ca"), &[local]).await;
    let error = world.join_with(&world.wanted(&token)).await.unwrap_err();
    assert!(matches!(error, JoinError::Untrusted { .. }), "{error}");
    assert!(!world.secrets_sent());

    // The same for a name that the certificate does not have.
    let ours = testing::K3s::new(world.k3s.state().server_ca.clone(), Ca::new("k3s-client-ca"));
    let tls_ca = ours.server_ca.clone();
    world.k3s = FakeK3s::start(SocketAddr::new(local, 0), ours, &tls_ca, &[IpAddr::from([192, 0, 2, 1])]).await;
    let error = world.join_with(&world.wanted(&token)).await.unwrap_err();
    assert!(matches!(error, JoinError::Untrusted { .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_token_is_called_wrong() {
    let world = World::new().await;
    let token = world.token();
    world.k3s.state().password = "another".to_owned();
    let error = world.join_with(&world.wanted(&token)).await.unwrap_err();
    assert!(matches!(error, JoinError::TokenRejected { .. }), "{error}");
    assert_eq!(world.written(), 0);
    assert!(!world.dir.path().join("node").exists(), "no password for a cluster that is not ours");
}

#[tokio::test]
async fn a_name_that_is_taken_and_a_lost_password_are_told_apart() {
    let world = World::new().await;
    world.k3s.state().passwords.insert("worker-1".to_owned(), "somebody's".to_owned());
    let error = world.join().await.unwrap_err();
    assert!(matches!(&error, JoinError::NameTaken { node } if node == "worker-1"), "{error}");
    let error = world.join().await.unwrap_err();
    assert!(matches!(error, JoinError::PasswordRejected { .. }), "{error}");
    assert_eq!(world.written(), 0);
    let joined = world.join_with(&Wanted { with_node_id: true, ..world.wanted(&world.token()) }).await.unwrap();
    assert!(joined.node_name.starts_with("worker-1-"), "{}", joined.node_name);
}

#[tokio::test]
async fn an_unreachable_server_and_a_port_without_tls_are_named() {
    let world = World::new().await;
    let closed = Wanted { server: "https://127.0.0.1:1".to_owned(), ..world.wanted(&world.token()) };
    let error = world.join_with(&closed).await.unwrap_err();
    assert!(matches!(error, JoinError::Unreachable { .. }), "{error}");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain = format!("https://{}", listener.local_addr().unwrap());
    let answer = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        stream
    });
    let error = world.join_with(&Wanted { server: plain, ..closed }).await.unwrap_err();
    assert!(matches!(error, JoinError::Tls { .. }), "{error}");
    answer.abort();
}

#[tokio::test]
async fn what_fails_half_way_leaves_no_file_and_what_was_there_as_it_was() {
    let world = World::new().await;
    let broken = |path: &str| world.k3s.state().broken = Some(path.to_owned());
    for path in ["/v1-k3s/config", "/v1-k3s/serving-kubelet.crt", "/v1-k3s/client-kubelet.crt", "/v1-k3s/apiservers"] {
        broken(path);
        let error = world.join().await.unwrap_err();
        assert!(matches!(error, JoinError::Refused { status: 500, .. }), "{error}");
        assert_eq!(world.written(), 0);
    }
    world.k3s.state().broken = None;
    world.join().await.unwrap();
    let (client, config) = (read(&world.paths().client), read(&world.paths().config));
    broken("/v1-k3s/apiservers");
    world.join().await.unwrap_err();
    assert_eq!((read(&world.paths().client), read(&world.paths().config)), (client, config));
    // Nor if the disk is what fails.
    world.k3s.state().broken = None;
    fs::remove_file(world.paths().kubeconfig).unwrap();
    fs::create_dir(world.paths().kubeconfig).unwrap();
    let before = read(&world.paths().client);
    let error = world.join().await.unwrap_err();
    assert!(matches!(error, JoinError::Write { .. }), "{error}");
    assert_eq!(read(&world.paths().client), before);
    assert_eq!(world.written(), 6, "and no temporary file is left");
}

#[tokio::test]
async fn a_server_that_still_starts_is_waited_for() {
    let world = World::new().await;
    world.k3s.state().unready = 1;
    world.join().await.unwrap();
    let config = world.k3s.state().requests.iter().filter(|(_, path, _)| path == "/v1-k3s/config").count();
    assert_eq!(config, 2);
}

#[tokio::test]
async fn what_is_no_certificate_is_not_taken_for_one() {
    let world = World::new().await;
    world.k3s.state().cacerts = Some("<html>login</html>".to_owned());
    let error = world.join().await.unwrap_err();
    assert!(matches!(error, JoinError::Answer { path: "/cacerts", .. }), "{error}");
    let error = world.join_with(&Wanted { node_name: "no_name".into(), ..world.wanted(&world.token()) }).await;
    assert!(matches!(error.unwrap_err(), JoinError::NodeName { .. }));
}
