//! The seed disk: everything of ours that the guest gets, made anew for each boot of qemu.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Provision, Vm, VmOptions, make_ext4, pod_subnet, put};
use crate::{Cache, Cluster, Runtime, build, images};

/// What the guest runs of the stack, or of Debian's containerd.
const PROGRAMS: &[&str] = &["containerd", "containerd-shim-runc-v2", "ctr", "runc"];
/// The upstream kubelet's name in the guest's /usr/local/bin.
pub(super) const UPSTREAM: &str = "kubelet.upstream";

const UNIT: &str = include_str!("../../../../deploy/kubelet.service");
const DROP_IN: &str = include_str!("../../../../deploy/10-kubeadm.conf");
const CONTAINERD_UNIT: &str = "\
[Unit]
Description=containerd
After=network.target
[Service]
Type=notify
ExecStart=/usr/local/bin/containerd
Delegate=yes
KillMode=process
Restart=always
OOMScoreAdjust=-999
LimitNOFILE=infinity
TasksMax=infinity
[Install]
WantedBy=multi-user.target
";

impl Vm {
    pub(super) fn make_seed(&self, cluster: &Cluster, options: &VmOptions) -> Result<()> {
        let seed = self.dir.join("seed");
        let _ = fs::remove_dir_all(&seed);
        let files = seed.join("files");
        for folder in ["bin", "cni", "files/etc/kubernetes/manifests"] {
            fs::create_dir_all(seed.join(folder))?;
        }
        for program in PROGRAMS {
            fs::copy(program_of(cluster.cache(), options.runtime, program), seed.join("bin").join(program))
                .context(*program)?;
        }
        for (kubelet, name) in [(&options.kubelet, "kubelet"), (&cluster.cache().bin("kubelet"), UPSTREAM)] {
            fs::copy(kubelet, seed.join("bin").join(name)).with_context(|| kubelet.display().to_string())?;
        }
        for plugin in fs::read_dir(cluster.cache().cni())?.flatten() {
            fs::copy(plugin.path(), seed.join("cni").join(plugin.file_name()))?;
        }
        put(&files, "etc/hostname", &format!("{}\n", self.name))?;
        put(&files, "etc/hosts", &format!("127.0.0.1 localhost\n{} {}\n", self.ip, self.name))?;
        put(&files, "etc/systemd/network/10-eth0.network", &self.network_unit(cluster))?;
        put(&files, "root/.ssh/authorized_keys", &fs::read_to_string(self.key.with_extension("pub"))?)?;
        self.put_containerd(&files, &cluster.registry(), options.runtime)?;
        put(&files, "etc/systemd/system/kubelet.service", UNIT)?;
        put(&files, "etc/systemd/system/kubelet.service.d/10-kubeadm.conf", DROP_IN)?;
        match options.provision {
            Provision::Node => self.put_kubelet(&files, cluster, options)?,
            Provision::Kubeadm => put_kubeadm(&seed, cluster)?,
        }
        for unit in ["containerd", "kubelet"] {
            let wants = files.join("etc/systemd/system/multi-user.target.wants");
            fs::create_dir_all(&wants)?;
            let unit = format!("{unit}.service");
            std::os::unix::fs::symlink(format!("/etc/systemd/system/{unit}"), wants.join(unit))?;
        }
        let size = format!("{}M", size_of(&seed)? / (1 << 20) * 5 / 4 + 64);
        make_ext4(&seed, &self.dir.join("seed.img"), &size)?;
        fs::remove_dir_all(&seed)?;
        Ok(())
    }

    fn network_unit(&self, cluster: &Cluster) -> String {
        // The first node's namespace is the way to everything else, its own pods among it.
        let mut text = format!(
            "[Match]\nName=eth0\n[Network]\nAddress={}/24\nGateway={}\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
            self.ip, cluster.ip
        );
        for node in cluster.nodes.iter().filter(|n| n.netns != cluster.netns) {
            text += &format!("[Route]\nDestination={}\nGateway={}\n", pod_subnet(node.index), node.ip);
        }
        text
    }

    fn put_containerd(&self, files: &Path, registry: &str, runtime: Runtime) -> Result<()> {
        put(files, "etc/systemd/system/containerd.service", CONTAINERD_UNIT)?;
        let host = format!(
            "server = \"http://{registry}\"\n[host.\"http://{registry}\"]\n  capabilities = [\"pull\",\"resolve\"]\n"
        );
        put(files, "etc/containerd/certs.d/registry.k8s.io/hosts.toml", &host)?;
        put(files, "etc/containerd/config.toml", &containerd_config(runtime))?;
        let cni = format!(
            r#"{{"cniVersion":"1.0.0","name":"bed","plugins":[{{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,"ipam":{{"type":"host-local","ranges":[[{{"subnet":"{}"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}}},{{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}"#,
            pod_subnet(self.index)
        );
        put(files, "etc/cni/net.d/10-bridge.conflist", &cni)
    }

    fn put_kubelet(&self, files: &Path, cluster: &Cluster, options: &VmOptions) -> Result<()> {
        put(files, "etc/default/kubelet", &format!("KUBELET_EXTRA_ARGS=\"--node-ip={} --v=2\"\n", self.ip))?;
        let authority = fs::read_to_string(cluster.dir.join("pki/ca.crt"))?;
        put(files, "etc/kubernetes/pki/ca.crt", &authority)?;
        let etc = self.dir.join("etc");
        cluster.make_node_credentials(&self.name, &etc)?;
        put(files, "etc/kubernetes/kubelet.conf", &fs::read_to_string(etc.join("kubelet.conf"))?)?;
        let config = format!(
            r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: /etc/kubernetes/pki/ca.crt}}}}
authorization: {{mode: Webhook}}
cgroupDriver: systemd
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
resolvConf: /etc/resolv.conf
rotateCertificates: true
serializeImagePulls: false
staticPodPath: /etc/kubernetes/manifests
{}"#,
            options.config
        );
        put(files, "var/lib/kubelet/config.yaml", &config)
    }
}

/// kubeadm and kubectl as their packages have them, and the images that no registry here has.
fn put_kubeadm(seed: &Path, cluster: &Cluster) -> Result<()> {
    let (files, cache) = (seed.join("files"), cluster.cache());
    // As on any Debian with a firewall; kube-proxy sets the limits of this module.
    put(&files, "etc/modules-load.d/kube-proxy.conf", "nf_conntrack\n")?;
    // CoreDNS does not start without a name server to ask; nobody answers there.
    put(&files, "etc/resolv.conf", &format!("nameserver {}\n", cluster.ip))?;
    for program in ["kubeadm", "kubectl"] {
        fs::copy(cache.bin(program), seed.join("bin").join(program)).context(program)?;
    }
    fs::create_dir_all(seed.join("images"))?;
    images::kubeadm::make(cache)?;
    for archive in images::kubeadm::archives(cache)? {
        fs::copy(&archive, seed.join("images").join(archive.file_name().context("an archive's name")?))?;
    }
    Ok(())
}

fn size_of(path: &Path) -> Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(path)?.flatten() {
        let kind = entry.metadata()?;
        total += if kind.is_dir() { size_of(&entry.path())? } else { kind.len() };
    }
    Ok(total)
}

fn program_of(cache: &Cache, runtime: Runtime, program: &str) -> PathBuf {
    match runtime {
        Runtime::Containerd2 => cache.bin(program),
        Runtime::Debian => build::debian_containerd(cache).with_file_name(program),
    }
}

fn containerd_config(runtime: Runtime) -> String {
    let pause = images::PAUSE;
    match runtime {
        Runtime::Containerd2 => format!(
            r#"version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/containerd/certs.d"
# Its poll of every container each second is dear where the CPU is emulated.
[plugins."io.containerd.cri.v1.runtime"]
  stats_collect_period = "1m"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
    SystemdCgroup = true
"#
        ),
        Runtime::Debian => format!(
            r#"version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = true
"#
        ),
    }
}
