//! Builds the programs of the stack, once, from Go modules and Debian packages.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{Cache, process::run};

pub const KUBERNETES: &str = "1.37.2";
const CONTAINERD: &str = "v2.4.2";
const RUNC: &str = "v1.5.2";
const CNI: &str = "v1.9.1";
const ETCD: &str = "v3.7.3";
const COREDNS: &str = "v1.12.4";
const METRICS_SERVER: &str = "v0.7.2";

/// What the stack needs of Debian: image contents, tools of the suites. None of them is a service.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "iptables",
    "socat",
    "conntrack",
    "libseccomp-dev",
    "pkg-config",
    "skopeo",
    "bind9-dnsutils",
    "netcat-openbsd",
    "curl",
    "iproute2",
    "openssl",
    "ca-certificates",
    "gcc",
    "libc6-dev",
    "kmod",
    "procps",
];

const KUBE_PROGRAMS: &[&str] =
    &["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubeadm", "kubectl"];

/// Builds what is missing and says what it does; nothing when all is there.
pub fn stack(cache: &Cache) -> Result<()> {
    fs::create_dir_all(cache.bin(""))?;
    fs::create_dir_all(cache.cni())?;
    // One build at a time: clusters of several groups may start at once. Released when the file is closed.
    let lock = fs::File::create(cache.bin(".lock"))?;
    lock.lock().context("the lock on the stack")?;
    step("Debian packages", has_packages(PACKAGES), || install_packages(PACKAGES))?;
    let kube = KUBE_PROGRAMS.iter().chain(&["agnhost", "ginkgo", "e2e.test"]);
    step("Kubernetes (5 to 10 minutes the first time)", all(kube.map(|p| cache.bin(p))), || kubernetes(cache))?;
    step("etcd", cache.bin("etcd").exists(), || etcd(cache))?;
    let containerd = ["containerd", "ctr", "containerd-shim-runc-v2"].map(|p| cache.bin(p));
    step("containerd", all(containerd), || containerd_programs(cache))?;
    step("runc", cache.bin("runc").exists(), || runc(cache))?;
    step("CNI plugins", cache.cni().join("portmap").exists(), || cni(cache))?;
    let unpacked = UNPACKED.iter().map(|(_, program)| debian(cache, program));
    step("Debian's containerd, registry, nginx and Prometheus", all(unpacked), || unpack(cache))?;
    step("images", crate::images::are_made(cache), || crate::images::make(cache))
}

/// Cluster DNS, for clusters that want it.
pub fn dns(cache: &Cache) -> Result<()> {
    step("CoreDNS", cache.bin("coredns").exists(), || {
        let module = format!("github.com/coredns/coredns@{COREDNS}");
        run(go(cache.root()).args(["install", &module]).env("GOBIN", cache.bin("")).env("GOFLAGS", "-ldflags=-w"))
            .map(drop)
    })
}

/// For the one test that wants it.
pub fn metrics_server(cache: &Cache) -> Result<()> {
    step("metrics-server", cache.bin("metrics-server").exists(), || {
        let module = format!("sigs.k8s.io/metrics-server/cmd/metrics-server@{METRICS_SERVER}");
        go_install(&cache.bin(""), false, &["-ldflags=-s -w".into(), module])
    })
}

fn all(paths: impl IntoIterator<Item = PathBuf>) -> bool {
    paths.into_iter().all(|p| p.exists())
}

pub(crate) fn step(what: &str, done: bool, build: impl FnOnce() -> Result<()>) -> Result<()> {
    if done {
        return Ok(());
    }
    eprint!("stack: {what} ... ");
    std::io::stderr().flush()?;
    build().with_context(|| format!("cannot build {what}"))?;
    eprintln!("done");
    Ok(())
}

pub(crate) fn has_packages(wanted: &[&str]) -> bool {
    let listed = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}\n"]).args(wanted).output();
    listed.is_ok_and(|out| {
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        out.status.success() && text.lines().all(|l| l == "installed")
    })
}

pub(crate) fn install_packages(wanted: &[&str]) -> Result<()> {
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    run(Command::new("apt-get")
        .args(["install", "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=300"])
        .args(wanted)
        .env("DEBIAN_FRONTEND", "noninteractive"))?;
    Ok(())
}

fn go(dir: &Path) -> Command {
    let mut command = Command::new("go");
    command.current_dir(dir).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=mod").env("GOTOOLCHAIN", "local");
    command
}

/// `go install k8s.io/kubernetes/...` fails on the staging modules' v0.0.0, so a small module of ours names the
/// versions they were published as.
fn kubernetes(cache: &Cache) -> Result<()> {
    let dir = cache.src("k8s");
    fs::create_dir_all(&dir)?;
    let module = format!("k8s.io/kubernetes@v{KUBERNETES}");
    let mut go_mod = format!("module bed\n\ngo 1.26.0\n\nrequire k8s.io/kubernetes v{KUBERNETES}\n");
    fs::write(dir.join("go.mod"), &go_mod)?;
    let found: serde_json::Value = serde_json::from_str(&run(go(&dir).args(["mod", "download", "-json", &module]))?)?;
    let source = found["Dir"].as_str().context("go mod download names no folder")?;
    let staging = format!("v0.{}", KUBERNETES.trim_start_matches("1."));
    for line in fs::read_to_string(Path::new(source).join("go.mod"))?.lines() {
        if let Some((name, _)) = line.trim().split_once(" => ./staging/") {
            go_mod += &format!("replace {name} => {name} {staging}\n");
        }
    }
    fs::write(dir.join("go.mod"), go_mod)?;
    let commands = KUBE_PROGRAMS.iter().map(|p| format!("cmd/{p}"));
    let wanted = commands.chain(["test/e2e".to_owned(), "test/images/agnhost".to_owned()]);
    let imports: String = wanted.map(|p| format!("\t_ \"k8s.io/kubernetes/{p}\"\n")).collect();
    let tools = format!(
        "//go:build tools\n\npackage tools\n\nimport (\n{imports}\t_ \"github.com/onsi/ginkgo/v2/ginkgo\"\n)\n"
    );
    fs::write(dir.join("tools.go"), tools)?;
    run(go(&dir).args(["mod", "tidy"]))?;
    let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
    let base = "k8s.io/component-base/version";
    let flags = format!(
        "-s -w -X {base}.gitVersion=v{KUBERNETES} -X {base}.gitMajor=1 -X {base}.gitMinor={minor} \
         -X k8s.io/client-go/pkg/version.gitVersion=v{KUBERNETES}"
    );
    let mut build = go(&dir);
    build.args(["build", "-ldflags", &flags, "-o"]).arg(cache.bin(""));
    build.args(KUBE_PROGRAMS.iter().map(|p| format!("k8s.io/kubernetes/cmd/{p}")));
    build.args(["k8s.io/kubernetes/test/images/agnhost", "github.com/onsi/ginkgo/v2/ginkgo"]);
    run(&mut build)?;
    run(go(&dir).args(["test", "-c", "-o"]).arg(cache.bin("e2e.test")).arg("k8s.io/kubernetes/test/e2e"))?;
    Ok(())
}

fn etcd(cache: &Cache) -> Result<()> {
    let dir = cache.src("etcd");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("go.mod"), format!("module bed\n\ngo 1.26.0\n\nrequire go.etcd.io/etcd/server/v3 {ETCD}\n"))?;
    let main = "package main\n\nimport (\n\t\"os\"\n\n\t\"go.etcd.io/etcd/server/v3/etcdmain\"\n)\n\nfunc main() { etcdmain.Main(os.Args) }\n";
    fs::write(dir.join("main.go"), main)?;
    run(go(&dir).args(["mod", "tidy"]))?;
    run(go(&dir).args(["build", "-ldflags", "-s -w", "-o"]).arg(cache.bin("etcd")).arg("."))?;
    Ok(())
}

fn go_install(into: &Path, cgo: bool, args: &[String]) -> Result<()> {
    let mut command = Command::new("go");
    command.arg("install").args(args).env("GOBIN", into).env("GOTOOLCHAIN", "local");
    run(command.env("CGO_ENABLED", if cgo { "1" } else { "0" }))?;
    Ok(())
}

fn containerd_programs(cache: &Cache) -> Result<()> {
    let main = format!("github.com/containerd/containerd/v2/cmd/containerd@{CONTAINERD}");
    go_install(&cache.bin(""), false, &["-tags".into(), "no_btrfs no_devmapper no_zfs".into(), main])?;
    let rest = ["ctr", "containerd-shim-runc-v2"];
    let rest = rest.map(|p| format!("github.com/containerd/containerd/v2/cmd/{p}@{CONTAINERD}"));
    go_install(&cache.bin(""), false, &rest)
}

fn runc(cache: &Cache) -> Result<()> {
    let module = format!("github.com/opencontainers/runc@{RUNC}");
    go_install(&cache.bin(""), true, &["-tags".into(), "seccomp".into(), module])
}

fn cni(cache: &Cache) -> Result<()> {
    let plugins = ["main/bridge", "main/loopback", "ipam/host-local", "meta/portmap"];
    let plugins = plugins.map(|p| format!("github.com/containernetworking/plugins/plugins/{p}@{CNI}"));
    go_install(&cache.cni(), false, &plugins)
}

/// Packages of Debian that are unpacked beside the rest and never installed, so that no service of theirs starts;
/// with a program of each: the second runtime (containerd 1.6), the local registry, the contents of an image, a client
/// of what the agent measures.
const UNPACKED: &[(&str, &str)] = &[
    ("containerd", "usr/bin/containerd"),
    ("runc", "usr/sbin/runc"),
    ("docker-registry", "usr/bin/docker-registry"),
    ("nginx", "usr/sbin/nginx"),
    ("prometheus", PROMETHEUS),
];
pub const PROMETHEUS: &str = "usr/bin/prometheus";

/// A program of [`UNPACKED`].
pub fn debian(cache: &Cache, program: &str) -> PathBuf {
    cache.root().join("stack/debian").join(program)
}

pub fn debian_containerd(cache: &Cache) -> PathBuf {
    debian(cache, "usr/bin/containerd")
}

fn unpack(cache: &Cache) -> Result<()> {
    let dir = debian(cache, "");
    fs::create_dir_all(&dir)?;
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    let packages = UNPACKED.iter().map(|(package, _)| package);
    run(Command::new("apt-get").args(["download", "-qq"]).args(packages).current_dir(&dir))?;
    for entry in fs::read_dir(&dir)?.flatten() {
        if entry.path().extension().is_some_and(|e| e == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(entry.path()).arg(&dir))?;
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
