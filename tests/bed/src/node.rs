//! One node: a network namespace, a container runtime, a cgroup root and a kubelet, all its own. (Two kubelets
//! that share a cgroup root kill each other's pods.)

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    Cache, build, images,
    process::{self, Daemons, run},
    wait,
};

/// The address of the Service kube-dns.
pub(crate) const DNS: &str = "10.96.0.10";
const DOMAIN: &str = "cluster.local";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// containerd 2.4 and runc 1.5, built from source.
    #[default]
    Containerd2,
    /// Debian's containerd 1.6 and runc.
    Debian,
}

/// The CRI plugin asks every container each second how much CPU it took, for whoever wants to know by CRI; ferrolet reads
/// cgroups itself.
const LEAN_RUNTIME: &str = "  stats_collect_period = \"1h\"\n  stats_retention_period = \"2h\"\n";

#[derive(Clone, Debug)]
pub struct NodeOptions {
    pub name: String,
    pub runtime: Runtime,
    pub kubelet: PathBuf,
    pub max_pods: u32,
    /// Lines added to the KubeletConfiguration.
    pub config: String,
    pub flags: Vec<String>,
    /// No API server: only static pods.
    pub standalone: bool,
    /// Services answer, by IP and by name: the node has kube-proxy, the first one CoreDNS too.
    pub services: bool,
    /// containerd with the settings that the README recommends; version 2 only.
    pub lean_runtime: bool,
}

impl NodeOptions {
    pub fn new(name: &str, kubelet: &Path) -> Self {
        Self {
            name: name.to_owned(),
            runtime: Runtime::default(),
            kubelet: kubelet.to_owned(),
            max_pods: 250,
            config: String::new(),
            flags: Vec::new(),
            standalone: false,
            services: false,
            lean_runtime: false,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub options: NodeOptions,
    pub dir: PathBuf,
    pub netns: String,
    pub ip: String,
    /// Position among the cluster's nodes: gives the pod subnet.
    pub index: u8,
    pub daemons: Daemons,
    cache: Cache,
}

impl Node {
    pub fn new(cache: &Cache, dir: PathBuf, netns: &str, ip: &str, index: u8, options: NodeOptions) -> Result<Self> {
        let daemons = Daemons::new(&dir)?;
        Ok(Self { options, dir, netns: netns.to_owned(), ip: ip.to_owned(), index, daemons, cache: cache.clone() })
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }
    pub fn static_pods(&self) -> PathBuf {
        self.dir.join("manifests")
    }
    pub fn root_dir(&self) -> PathBuf {
        self.dir.join("kubelet")
    }
    pub fn pod_logs(&self) -> PathBuf {
        self.dir.join("podlogs")
    }
    /// The node's own cgroup under each hierarchy.
    pub fn cgroup(&self) -> String {
        self.netns.clone()
    }

    pub fn start_runtime(&self, registry: &str) -> Result<()> {
        for dir in ["etc/cni", "etc/certs.d/registry.k8s.io", "containerd", "manifests", "podlogs"] {
            fs::create_dir_all(self.dir.join(dir))?;
        }
        let host = format!(
            "server = \"http://{registry}\"\n[host.\"http://{registry}\"]\n  capabilities = [\"pull\",\"resolve\"]\n"
        );
        fs::write(self.dir.join("etc/certs.d/registry.k8s.io/hosts.toml"), host)?;
        fs::write(self.dir.join("etc/cni/10-bridge.conflist"), self.cni_config())?;
        self.configure_runtime()?;
        self.make_cgroups();
        self.run_containerd()
    }

    /// For the next start of containerd.
    pub fn configure_runtime(&self) -> Result<()> {
        Ok(fs::write(self.dir.join("etc/containerd.toml"), self.containerd_config())?)
    }

    /// Starts containerd with what is configured already (again, after a stop).
    pub fn run_containerd(&self) -> Result<()> {
        let program = match self.options.runtime {
            Runtime::Containerd2 => self.cache.bin("containerd"),
            Runtime::Debian => build::debian_containerd(&self.cache),
        };
        let mut command = process::in_netns(Some(&self.netns), &program);
        command.arg("-c").arg(self.dir.join("etc/containerd.toml")).env("PATH", self.path());
        self.daemons.start("containerd", command)?;
        wait::until("containerd to answer", Duration::from_secs(60), || {
            run(process::in_netns(None, &self.cache.bin("ctr")).arg("-a").arg(self.socket()).arg("version"))?;
            Ok(true)
        })
    }

    /// `ctr` on this node's containerd, in the namespace of Kubernetes.
    pub fn ctr(&self, args: &[&str]) -> Result<String> {
        let mut command = process::in_netns(None, &self.cache.bin("ctr"));
        run(command.arg("-a").arg(self.socket()).args(["-n", "k8s.io"]).args(args))
    }

    fn path(&self) -> String {
        let own = match self.options.runtime {
            Runtime::Containerd2 => self.cache.bin(""),
            Runtime::Debian => build::debian_containerd(&self.cache).with_file_name(""),
        };
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", own.display())
    }

    fn cni_config(&self) -> String {
        let subnet = format!("10.77.{}.0/20", self.index * 16);
        let data = self.dir.join("cni");
        format!(
            r#"{{"cniVersion":"1.0.0","name":"bed","plugins":[{{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,"ipam":{{"type":"host-local","ranges":[[{{"subnet":"{subnet}"}}]],"routes":[{{"dst":"0.0.0.0/0"}}],"dataDir":"{}"}}}},{{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}"#,
            data.display()
        )
    }

    fn containerd_config(&self) -> String {
        let (dir, cni) = (self.dir.display(), self.cache.cni());
        let cni = cni.display();
        let head = format!(
            "root = \"{dir}/containerd/root\"\nstate = \"{dir}/containerd/state\"\ndisabled_plugins = [\"io.containerd.internal.v1.opt\"]\n[grpc]\n  address = \"{dir}/containerd.sock\"\n"
        );
        let lean = if self.options.lean_runtime { LEAN_RUNTIME } else { "" };
        // CAP_SYS_RESOURCE may be missing: without restrict_oom_score_adj runc would die where it is.
        match self.options.runtime {
            Runtime::Containerd2 => format!(
                r#"version = 3
{head}[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{dir}/etc/certs.d"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  enable_selinux = false
{lean}[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["{cni}"]
  conf_dir = "{dir}/etc/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    BinaryName = "{runc}"
"#,
                pause = images::PAUSE,
                runc = self.cache.bin("runc").display(),
            ),
            Runtime::Debian => format!(
                r#"version = 2
{head}[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{dir}/etc/certs.d"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni}"
    conf_dir = "{dir}/etc/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "{runc}"
"#,
                pause = images::PAUSE,
                runc = self.cache.root().join("stack/debian/usr/sbin/runc").display(),
            ),
        }
    }

    fn make_cgroups(&self) {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for hierarchy in hierarchies.map(|h| h.path()).filter(|h| h.is_dir() && h.join("cgroup.procs").exists()) {
            let own = hierarchy.join(self.cgroup());
            if fs::create_dir_all(&own).is_err() {
                continue;
            }
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(all) = fs::read(hierarchy.join(file)) {
                    let _ = fs::write(own.join(file), all);
                }
            }
        }
    }

    /// The KubeletConfiguration; `pki` is the cluster's folder, none when standalone.
    fn kubelet_config(&self, pki: Option<&Path>) -> String {
        let auth = match pki {
            Some(pki) => format!(
                "authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {}/ca.crt}}}}\nauthorization: {{mode: Webhook}}\n",
                pki.display()
            ),
            None => "authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}\nauthorization: {mode: AlwaysAllow}\n".into(),
        };
        format!(
            r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
{auth}cgroupDriver: cgroupfs
cgroupRoot: /{cgroup}
clusterDNS: [{DNS}]
clusterDomain: {DOMAIN}
containerRuntimeEndpoint: unix://{socket}
failCgroupV1: false
failSwapOn: false
maxPods: {max}
podLogsDir: {logs}
resolvConf: /etc/resolv.conf
rotateCertificates: true
serializeImagePulls: false
staticPodPath: {manifests}
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}
{more}"#,
            cgroup = self.cgroup(),
            socket = self.socket().display(),
            max = self.options.max_pods,
            logs = self.pod_logs().display(),
            manifests = self.static_pods().display(),
            more = self.options.config,
        )
    }

    /// Starts the kubelet named, or the one of the options; the node's files stay as they are.
    pub fn start_kubelet(&self, program: Option<&Path>, cluster: Option<&Path>) -> Result<()> {
        let pki = cluster.map(|c| c.join("pki"));
        let config = self.dir.join("etc/kubelet.yml");
        fs::write(&config, self.kubelet_config(pki.as_deref()))?;
        let program = program.unwrap_or(&self.options.kubelet);
        let mut command = process::in_netns(Some(&self.netns), program);
        command.arg(format!("--config={}", config.display()));
        if !self.options.standalone {
            let kubeconfig = self.dir.join("etc/kubelet.conf");
            command.arg(format!("--kubeconfig={}", kubeconfig.display()));
        }
        command
            .arg(format!("--hostname-override={}", self.options.name))
            .arg(format!("--root-dir={}", self.root_dir().display()))
            .arg(format!("--cert-dir={}", self.root_dir().join("pki").display()))
            .arg(format!("--node-ip={}", self.ip))
            .arg("--v=2")
            .args(&self.options.flags)
            .env("PATH", self.path());
        self.daemons.start("kubelet", command).context("kubelet")?;
        Ok(())
    }

    pub fn start_kube_proxy(&self, cluster: &Path) -> Result<()> {
        let mut command = process::in_netns(Some(&self.netns), &self.cache.bin("kube-proxy"));
        command
            .arg(format!("--kubeconfig={}", cluster.join("etc/admin.conf").display()))
            .arg(format!("--hostname-override={}", self.options.name))
            .args(["--proxy-mode=iptables", "--cluster-cidr=10.77.0.0/16"])
            // Limits of the machine, not of the namespace.
            .args(["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s"])
            .args(["--conntrack-tcp-timeout-close-wait=0s"])
            .env("PATH", self.path());
        self.daemons.start("kube-proxy", command).context("kube-proxy")?;
        Ok(())
    }

    /// Cluster DNS, as a process of this node.
    pub fn start_dns(&self, cluster: &Path) -> Result<()> {
        let corefile = self.dir.join("etc/Corefile");
        let text = format!(
            ".:53 {{\n bind {}\n errors\n kubernetes {DOMAIN} in-addr.arpa ip6.arpa {{\n  kubeconfig {}\n  pods verified\n  \
             ttl 1\n }}\n}}\n",
            self.ip,
            cluster.join("etc/admin.conf").display()
        );
        fs::write(&corefile, text)?;
        let mut command = process::in_netns(Some(&self.netns), &self.cache.bin("coredns"));
        command.arg("-conf").arg(corefile);
        self.daemons.start("coredns", command).context("coredns")?;
        Ok(())
    }

    pub fn stop_kubelet(&self) {
        self.daemons.stop("kubelet");
    }

    pub fn kill_kubelet(&self) {
        self.daemons.kill("kubelet");
    }
}
