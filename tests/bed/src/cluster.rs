//! A whole cluster in namespaces of its own: etcd, API server, controller-manager, scheduler, registry, nodes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    Cache, Kubectl, Node, NodeOptions, build, cleanup, images,
    process::{self, Daemons, run},
    wait,
};

pub(crate) const SUBNET: &str = "172.31.77";

#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Short: it names namespaces, links and cgroups.
    pub name: String,
    pub nodes: Vec<NodeOptions>,
}

/// The first node shares its namespace with the control plane; each further one has its own, on one bridge.
#[derive(Debug)]
pub struct Cluster {
    pub dir: PathBuf,
    pub netns: String,
    pub ip: String,
    pub nodes: Vec<Node>,
    pub daemons: Daemons,
    cache: Cache,
    keep: bool,
}

impl Cluster {
    /// Builds what is missing, ends what a crashed run of the same name left, starts everything and waits until
    /// each node is Ready.
    pub fn start(cache: &Cache, options: ClusterOptions) -> Result<Self> {
        let mut cluster = Self::start_control_plane(cache, &options.name)?;
        for (i, node) in options.nodes.into_iter().enumerate() {
            cluster.add_node(i as u8, node)?;
        }
        Ok(cluster)
    }

    pub fn start_control_plane(cache: &Cache, name: &str) -> Result<Self> {
        let cluster = Self::start_network_only(cache, name)?;
        cluster.make_certificates()?;
        cluster.start_etcd()?;
        cluster.start_apiserver()?;
        cluster.grant_rights()?;
        cluster.start_controllers()?;
        Ok(cluster)
    }

    /// Network and registry, nothing that knows of pods.
    pub fn start_network_only(cache: &Cache, name: &str) -> Result<Self> {
        build::stack(cache)?;
        let dir = cache.runs().join(name);
        cleanup::end_run(&dir)?;
        fs::create_dir_all(dir.join("etc"))?;
        let netns = format!("fl-{name}");
        let cluster = Self {
            daemons: Daemons::new(&dir)?,
            ip: format!("{SUBNET}.2"),
            nodes: Vec::new(),
            cache: cache.clone(),
            keep: false,
            dir,
            netns,
        };
        cluster.make_network()?;
        cluster.start_registry()?;
        Ok(cluster)
    }

    /// Leaves everything running when this value is dropped.
    pub fn keep(mut self) -> Self {
        self.keep = true;
        self
    }

    /// A handle on a cluster that another process started with [`Cluster::keep`].
    pub fn attach(cache: &Cache, name: &str, nodes: Vec<NodeOptions>) -> Result<Self> {
        let dir = cache.runs().join(name);
        let netns = format!("fl-{name}");
        let mut cluster = Self {
            daemons: Daemons::new(&dir)?,
            ip: format!("{SUBNET}.2"),
            nodes: Vec::new(),
            cache: cache.clone(),
            keep: true,
            dir,
            netns,
        };
        for (i, node) in nodes.into_iter().enumerate() {
            let node = cluster.node_handle(i as u8, node)?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    /// Whether its API server runs.
    pub fn is_up(cache: &Cache, name: &str) -> bool {
        let dir = cache.runs().join(name);
        dir.exists() && Daemons::new(&dir).is_ok_and(|d| d.pid("kube-apiserver").is_some())
    }

    pub fn kubectl(&self) -> Kubectl {
        Kubectl {
            program: self.cache.bin("kubectl"),
            netns: self.netns.clone(),
            kubeconfig: self.dir.join("etc/admin.conf"),
        }
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    pub fn registry(&self) -> String {
        format!("{}:5000", self.ip)
    }

    // ---- network

    fn make_network(&self) -> Result<()> {
        fs::write(self.dir.join("netns"), format!("{}\n", self.netns))?;
        run(Command::new("ip").args(["netns", "add", &self.netns]))?;
        self.in_ns("ip", &["link", "set", "lo", "up"])?;
        self.in_ns("ip", &["link", "add", "br0", "type", "bridge"])?;
        self.in_ns("ip", &["link", "set", "br0", "up"])?;
        self.in_ns("ip", &["link", "add", "eth0", "type", "veth", "peer", "name", "eth0p"])?;
        self.in_ns("ip", &["link", "set", "eth0p", "master", "br0", "up"])?;
        self.address(&self.netns, &self.ip)
    }

    fn address(&self, netns: &str, ip: &str) -> Result<()> {
        let address = format!("{ip}/24");
        let steps: [&[&str]; 4] = [
            &["ip", "addr", "add", &address, "dev", "eth0"],
            &["ip", "link", "set", "eth0", "up"],
            &["ip", "route", "add", "default", "dev", "eth0"],
            &["sysctl", "-qw", "net.ipv4.ip_forward=1"],
        ];
        for step in steps {
            run(process::in_netns(Some(netns), Path::new(step[0])).args(&step[1..]))?;
        }
        // Bridged frames pass iptables only where the module is there.
        let _ =
            run(process::in_netns(Some(netns), Path::new("sysctl"))
                .args(["-qw", "net.bridge.bridge-nf-call-iptables=1"]));
        Ok(())
    }

    fn in_ns(&self, program: &str, args: &[&str]) -> Result<String> {
        run(process::in_netns(Some(&self.netns), Path::new(program)).args(args))
    }

    fn node_handle(&self, index: u8, options: NodeOptions) -> Result<Node> {
        let netns = if index == 0 { self.netns.clone() } else { format!("{}-{index}", self.netns) };
        let ip = format!("{SUBNET}.{}", 2 + index);
        let dir = self.dir.join(&options.name);
        Node::new(&self.cache, dir, &netns, &ip, index, options)
    }

    // ---- control plane

    fn start_program(&self, name: &str, args: &[String]) -> Result<()> {
        let mut command = process::in_netns(Some(&self.netns), &self.cache.bin(name));
        command.args(args);
        self.daemons.start(name, command)?;
        Ok(())
    }

    fn start_registry(&self) -> Result<()> {
        let config = self.dir.join("etc/registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{}\"}}\n",
            self.cache.root().join("registry").display(),
            self.registry()
        );
        fs::write(&config, text)?;
        let mut command = process::in_netns(Some(&self.netns), &build::debian(&self.cache, "usr/bin/docker-registry"));
        command.arg("serve").arg(&config);
        self.daemons.start("registry", command)?;
        let url = format!("http://{}/v2/", self.registry());
        wait::until("the registry", Duration::from_secs(60), || Ok(self.in_ns("curl", &["-sf", &url]).is_ok()))?;
        images::push(&self.cache, &self.netns, &self.registry())
    }

    fn make_certificates(&self) -> Result<()> {
        let (pki, etc) = (self.dir.join("pki"), self.dir.join("etc"));
        let config = etc.join("kubeadm.yml");
        let text = format!(
            r#"apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
localAPIEndpoint: {{advertiseAddress: {ip}}}
nodeRegistration: {{name: control, criSocket: "unix:///run/none.sock"}}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: v{version}
certificatesDir: {pki}
networking: {{serviceSubnet: 10.96.0.0/16}}
controlPlaneEndpoint: "{ip}:6443"
apiServer: {{certSANs: ["127.0.0.1"]}}
"#,
            ip = self.ip,
            version = build::KUBERNETES,
            pki = pki.display()
        );
        fs::write(&config, text)?;
        let kubeadm = self.cache.bin("kubeadm");
        for what in ["certs", "kubeconfig"] {
            let mut command = process::in_netns(Some(&self.netns), &kubeadm);
            command.args(["init", "phase", what, "all", "--config"]).arg(&config);
            if what == "kubeconfig" {
                command.arg("--kubeconfig-dir").arg(&etc);
            }
            run(&mut command)?;
        }
        Ok(())
    }

    pub fn start_etcd(&self) -> Result<()> {
        let data = self.dir.join("etcd");
        let args = [
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
        ];
        let mut args: Vec<String> = args.map(str::to_owned).to_vec();
        args.push(format!("--data-dir={}", data.display()));
        self.start_program("etcd", &args)
    }

    pub fn start_apiserver(&self) -> Result<()> {
        let p = self.dir.join("pki");
        let p = p.display();
        let args = [
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--advertise-address={}", self.ip),
            "--bind-address=0.0.0.0".into(),
            "--secure-port=6443".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            format!("--client-ca-file={p}/ca.crt"),
            format!("--tls-cert-file={p}/apiserver.crt"),
            format!("--tls-private-key-file={p}/apiserver.key"),
            format!("--kubelet-client-certificate={p}/apiserver-kubelet-client.crt"),
            format!("--kubelet-client-key={p}/apiserver-kubelet-client.key"),
            format!("--service-account-key-file={p}/sa.pub"),
            format!("--service-account-signing-key-file={p}/sa.key"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--enable-bootstrap-token-auth".into(),
            "--allow-privileged=true".into(),
            // By name it would not find them: nothing resolves node names here.
            "--kubelet-preferred-address-types=InternalIP,Hostname".into(),
            format!("--requestheader-client-ca-file={p}/front-proxy-ca.crt"),
            "--requestheader-allowed-names=front-proxy-client".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
            format!("--proxy-client-cert-file={p}/front-proxy-client.crt"),
            format!("--proxy-client-key-file={p}/front-proxy-client.key"),
        ];
        self.start_program("kube-apiserver", &args)?;
        wait::until("the API server", wait::LONG, || Ok(self.super_admin(&["get", "--raw", "/readyz"]).is_ok()))
    }

    fn super_admin(&self, args: &[&str]) -> Result<String> {
        let kubectl = Kubectl { kubeconfig: self.dir.join("etc/super-admin.conf"), ..self.kubectl() };
        kubectl.run(args)
    }

    fn grant_rights(&self) -> Result<()> {
        let bind = |name: &str, role: &str, whom: &str| {
            wait::until(&format!("binding {name}"), Duration::from_secs(60), || {
                Ok(self.super_admin(&["get", "clusterrolebinding", name]).is_ok()
                    || self.super_admin(&["create", "clusterrolebinding", name, role, whom]).is_ok())
            })
        };
        bind("kubeadm:cluster-admins", "--clusterrole=cluster-admin", "--group=kubeadm:cluster-admins")?;
        // kubeadm's client certificate of the API server is in no group that may talk to kubelets.
        bind("kubelet-api", "--clusterrole=system:kubelet-api-admin", "--user=kube-apiserver-kubelet-client")
    }

    pub fn start_controllers(&self) -> Result<()> {
        self.start_controller_manager(&[])?;
        let mut args = self.kubeconfigs_of("scheduler");
        args.push("--leader-elect=false".into());
        self.start_program("kube-scheduler", &args)?;
        wait::until("the default service account", wait::LONG, || {
            Ok(self.kubectl().run(&["get", "serviceaccount", "default"]).is_ok())
        })
    }

    fn kubeconfigs_of(&self, who: &str) -> Vec<String> {
        let file = self.dir.join(format!("etc/{who}.conf"));
        ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
            .map(|flag| format!("--{flag}={}", file.display()))
            .to_vec()
    }

    /// With more arguments than usual.
    pub fn start_controller_manager(&self, more: &[String]) -> Result<()> {
        let p = self.dir.join("pki");
        let p = p.display();
        let mut args = self.kubeconfigs_of("controller-manager");
        args.extend([
            format!("--client-ca-file={p}/ca.crt"),
            format!("--cluster-signing-cert-file={p}/ca.crt"),
            format!("--cluster-signing-key-file={p}/ca.key"),
            format!("--root-ca-file={p}/ca.crt"),
            format!("--service-account-private-key-file={p}/sa.key"),
            "--use-service-account-credentials=true".into(),
            "--controllers=*,bootstrapsigner,tokencleaner".into(),
            "--leader-elect=false".into(),
        ]);
        args.extend_from_slice(more);
        self.start_program("kube-controller-manager", &args)
    }

    pub fn stop_apiserver(&self) {
        self.daemons.stop("kube-apiserver");
    }

    // ---- nodes

    pub fn add_node(&mut self, index: u8, options: NodeOptions) -> Result<()> {
        let node = self.node_handle(index, options)?;
        if index > 0 {
            self.link_node(&node)?;
        }
        self.make_node_credentials(&node.options.name, &node.dir.join("etc"))?;
        node.start_runtime(&self.registry())?;
        node.start_kubelet(None, Some(&self.dir))?;
        if node.options.services {
            node.start_kube_proxy(&self.dir)?;
        }
        if node.options.services && index == 0 {
            build::dns(&self.cache)?;
            node.start_dns(&self.dir)?;
            self.kubectl().apply(&dns_service(&node.ip))?;
        }
        self.kubectl().until_node_ready(&node.options.name).with_context(|| {
            let log = node.daemons.log("kubelet");
            let text = fs::read_to_string(&log).unwrap_or_default();
            let tail: Vec<&str> = text.lines().rev().take(15).collect();
            format!("{} ends with:\n{}", log.display(), tail.into_iter().rev().collect::<Vec<_>>().join("\n"))
        })?;
        self.nodes.push(node);
        Ok(())
    }

    /// The first node without an API server.
    pub fn standalone_node(&self, options: NodeOptions) -> Result<Node> {
        let node = self.node_handle(0, options)?;
        node.start_runtime(&self.registry())?;
        node.start_kubelet(None, None)?;
        Ok(node)
    }

    fn link_node(&self, node: &Node) -> Result<()> {
        let mut recorded = fs::read_to_string(self.dir.join("netns"))?;
        recorded += &format!("{}\n", node.netns);
        fs::write(self.dir.join("netns"), recorded)?;
        run(Command::new("ip").args(["netns", "add", &node.netns]))?;
        run(process::in_netns(Some(&node.netns), Path::new("ip")).args(["link", "set", "lo", "up"]))?;
        let far = format!("node{}", node.index);
        let pid_or_name = format!("/var/run/netns/{}", node.netns);
        self.in_ns("ip", &["link", "add", &far, "type", "veth", "peer", "name", "eth0", "netns", &pid_or_name])
            .or_else(|_| {
                self.in_ns("ip", &["link", "add", &far, "type", "veth", "peer", "name", "eth0", "netns", &node.netns])
            })?;
        self.in_ns("ip", &["link", "set", &far, "master", "br0", "up"])?;
        self.address(&node.netns, &node.ip)?;
        for other in &self.nodes {
            self.route(&other.netns, node)?;
            self.route(&node.netns, other)?;
        }
        Ok(())
    }

    fn route(&self, netns: &str, to: &Node) -> Result<()> {
        let subnet = format!("10.77.{}.0/20", to.index * 16);
        run(process::in_netns(Some(netns), Path::new("ip")).args(["route", "add", &subnet, "via", &to.ip]))?;
        Ok(())
    }

    /// `system:node:NAME`, nothing more: what the Node authorizer and NodeRestriction let a node do is enough.
    /// Makes `kubelet.conf` in the folder `etc`.
    pub(crate) fn make_node_credentials(&self, name: &str, etc: &Path) -> Result<()> {
        fs::create_dir_all(etc)?;
        let config = fs::read_to_string(self.dir.join("etc/kubeadm.yml"))?;
        fs::write(etc.join("kubeadm.yml"), config.replace("name: control", &format!("name: {name}")))?;
        let mut command = process::in_netns(Some(&self.netns), &self.cache.bin("kubeadm"));
        command.args(["init", "phase", "kubeconfig", "kubelet", "--config"]).arg(etc.join("kubeadm.yml"));
        run(command.arg("--kubeconfig-dir").arg(etc))?;
        Ok(())
    }

    /// Ends everything and removes its folder.
    pub fn down(self) -> Result<()> {
        cleanup::end_run(&self.dir)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if std::thread::panicking() {
            eprintln!("left for inspection: {} (`bed down` ends it)", self.dir.display());
            return;
        }
        if let Err(error) = cleanup::end_run(&self.dir) {
            eprintln!("clean-up of {}: {error:#}", self.dir.display());
        }
    }
}

/// The Service kube-dns, which leads to a server on a node rather than to pods.
fn dns_service(ip: &str) -> String {
    let ports = |service: bool| {
        let port = |protocol: &str| {
            let mut port =
                json!({"name": format!("dns-{}", protocol.to_lowercase()), "port": 53, "protocol": protocol});
            if service {
                port["targetPort"] = json!(53);
            }
            port
        };
        [port("UDP"), port("TCP")]
    };
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": crate::node::DNS, "ports": ports(true)}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "kube-dns", "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"}},
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}], "ports": ports(false)});
    json!({"apiVersion": "v1", "kind": "List", "items": [service, slice]}).to_string()
}
