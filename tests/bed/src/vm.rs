//! A real node: Debian with systemd and cgroup v2, in qemu on the cluster's bridge.
//!
//! Two disks. The base is Debian alone, made once by debootstrap and only ever opened as a snapshot. The seed is
//! made anew for each boot and holds everything of ours: programs of the stack, the kubelet, its unit,
//! configuration and credentials; `seed-init` puts it in place before systemd starts. x86-64 only.

mod seed;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    Cache, Cluster, Runtime, build,
    cluster::SUBNET,
    process::{self, Daemons, run},
    wait,
};

const HOST_PACKAGES: &[&str] = &["qemu-system-x86", "debootstrap", "e2fsprogs", "openssh-client"];
const RELEASE: &str = "bookworm";
const GUEST_PACKAGES: &str = "systemd-sysv,dbus,iproute2,iptables,kmod,udev,conntrack,socat,procps,linux-image-cloud-amd64,\
initramfs-tools,ca-certificates,libseccomp2,openssh-server,ethtool,curl,xfsprogs,e2fsprogs,sudo,criu";
/// Rises when the base changes in another way than by its packages.
const EDITION: &str = "1";
const DISK_SIZE: &str = "8G";
/// The first program of the guest. The large programs stay on the seed, which is only mounted.
const SEED_INIT: &str = "\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t ext4 -o ro /dev/vdb /seed && cp -a /seed/files/. /
mount --bind /seed/bin /usr/local/bin
mkdir -p /opt/cni/bin && mount --bind /seed/cni /opt/cni/bin
ln -sf /usr/local/bin/kubelet /usr/bin/kubelet
exec /sbin/init
";

/// The base disk, its kernel and the key to get in; in the cache folder.
struct Base {
    dir: PathBuf,
}

impl Base {
    fn of(cache: &Cache) -> Self {
        Self { dir: cache.vm() }
    }
    fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }
    fn edition() -> String {
        format!("{EDITION} {RELEASE} {DISK_SIZE} {GUEST_PACKAGES}\n{SEED_INIT}")
    }
    fn is_made(&self) -> bool {
        fs::read_to_string(self.path("edition")).is_ok_and(|e| e == Self::edition())
    }

    fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.dir)?;
        let root = self.path("root");
        let _ = fs::remove_dir_all(&root);
        let include = format!("--include={GUEST_PACKAGES}");
        run(Command::new("debootstrap").args(["--variant=minbase", &include, RELEASE]).arg(&root))?;
        Self::configure(&root)?;
        for (file, kind) in [("vmlinuz", "vmlinuz-"), ("initrd", "initrd.img-")] {
            let boot = fs::read_dir(root.join("boot"))?.flatten().map(|e| e.path());
            let mut found = boot.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(kind)));
            fs::copy(found.next().with_context(|| format!("no {kind} in the guest"))?, self.path(file))?;
        }
        make_ext4(&root, &self.path("disk.img"), DISK_SIZE)?;
        fs::remove_dir_all(&root)?;
        fs::write(self.path("edition"), Self::edition())?;
        Ok(())
    }

    fn configure(root: &Path) -> Result<()> {
        let chroot = |args: &[&str]| run(Command::new("chroot").arg(root).args(args));
        put(root, "etc/fstab", "/dev/vda / ext4 defaults 0 1\n")?;
        put(root, "etc/resolv.conf", "# no name server here\n")?;
        put(root, "etc/modules-load.d/kubernetes.conf", "overlay\nbr_netfilter\n")?;
        let sysctls = "net.ipv4.ip_forward=1\nnet.bridge.bridge-nf-call-iptables=1\n";
        put(root, "etc/sysctl.d/kubernetes.conf", sysctls)?;
        put(root, "usr/local/sbin/seed-init", SEED_INIT)?;
        fs::set_permissions(root.join("usr/local/sbin/seed-init"), fs::Permissions::from_mode(0o755))?;
        fs::create_dir_all(root.join("seed"))?;
        chroot(&["systemctl", "enable", "systemd-networkd", "ssh"])?;
        chroot(&["systemctl", "mask", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer"])?;
        chroot(&["apt-get", "clean"])?;
        Ok(())
    }

    fn make_key(&self) -> Result<()> {
        fs::create_dir_all(&self.dir)?;
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(self.path("key")))?;
        Ok(())
    }

    /// Flags of qemu for the fastest way that works. Asked once a boot of this machine: a /dev/kvm may be there and
    /// yet run no stock kernel, and finding that out may take the whole limit.
    fn accelerator(&self) -> Result<&'static [&'static str]> {
        const KVM: &[&str] = &["-accel", "kvm", "-cpu", "host"];
        // Each level of page tables costs time that is emulated.
        const TCG: &[&str] = &["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"];
        let memo = self.path("accelerator");
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let known = fs::read_to_string(&memo).unwrap_or_default();
        let works = match known.strip_suffix(&boot_id) {
            Some(answer) => answer == "kvm ",
            None => {
                let works = Path::new("/dev/kvm").exists() && self.kernel_starts(KVM);
                fs::write(memo, format!("{} {boot_id}", if works { "kvm" } else { "tcg" }))?;
                works
            }
        };
        Ok(if works { KVM } else { TCG })
    }

    /// A kernel with no disk ends by looking for one in vain: then it came all the way up.
    fn kernel_starts(&self, accelerator: &[&str]) -> bool {
        let mut command = Command::new("timeout");
        command.args(["20", "qemu-system-x86_64", "-machine", "q35"]).args(accelerator);
        command.args(["-m", "512M", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        command.args(["-append", "console=ttyS0 panic=-1", "-kernel"]).arg(self.path("vmlinuz"));
        command.output().is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("Unable to mount root fs"))
    }
}

fn put(root: &Path, file: &str, text: &str) -> Result<()> {
    let path = root.join(file);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&path, text).with_context(|| path.display().to_string())
}

fn make_ext4(from: &Path, image: &Path, size: &str) -> Result<()> {
    let _ = fs::remove_file(image);
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-d"]).arg(from).arg(image).arg(size))?;
    Ok(())
}

/// What the guest has before its kubelet's first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provision {
    /// Configuration and credentials of a node of the cluster.
    Node,
    /// What kubeadm's packages install, and images in /seed/images: the rest is for kubeadm.
    Kubeadm,
}

#[derive(Clone, Debug)]
pub struct VmOptions {
    pub name: String,
    /// Position among the cluster's nodes, as of those in namespaces: gives address and pod subnet.
    pub index: u8,
    pub kubelet: PathBuf,
    pub runtime: Runtime,
    pub provision: Provision,
    pub cpus: u8,
    pub memory_mib: u32,
    /// Lines added to the KubeletConfiguration.
    pub config: String,
}

impl VmOptions {
    pub fn new(name: &str, index: u8, kubelet: &Path) -> Self {
        Self {
            name: name.to_owned(),
            index,
            kubelet: kubelet.to_owned(),
            runtime: Runtime::Containerd2,
            provision: Provision::Node,
            cpus: 2,
            memory_mib: 2048,
            config: String::new(),
        }
    }
}

/// A handle; the machine itself goes with the cluster's run folder.
#[derive(Clone, Debug)]
pub struct Vm {
    pub name: String,
    pub ip: String,
    pub daemons: Daemons,
    dir: PathBuf,
    netns: String,
    index: u8,
    key: PathBuf,
}

impl Vm {
    /// Makes the base disk if it is missing or old.
    pub fn build(cache: &Cache) -> Result<()> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("the VM node is for x86-64 only");
        }
        let base = Base::of(cache);
        let packages = || build::install_packages(HOST_PACKAGES);
        build::step("Debian packages for VMs", build::has_packages(HOST_PACKAGES), packages)?;
        build::step("the VM's key", base.path("key").exists(), || base.make_key())?;
        build::step("the VM's Debian (2 minutes the first time)", base.is_made(), || base.make())
    }

    /// Boots a node and returns when one can log in; whether the node becomes Ready is for the caller to see.
    pub fn boot(cluster: &Cluster, options: &VmOptions) -> Result<Self> {
        Self::build(cluster.cache())?;
        let vm = Self::handle(cluster, &options.name, options.index)?;
        vm.make_seed(cluster, options)?;
        vm.link(cluster)?;
        vm.start(&Base::of(cluster.cache()), options)?;
        wait::until("the VM to let us in", wait::LONG, || Ok(!vm.is_running() || vm.ssh(&["true"]).is_ok()))?;
        if !vm.is_running() {
            bail!("qemu ended: see {}", vm.daemons.log("qemu").display());
        }
        vm.share_connection()?;
        Ok(vm)
    }

    /// One connection that the later ones use, or each would pay for its own handshake, emulated.
    fn share_connection(&self) -> Result<()> {
        let mut shared = self.ssh_command();
        shared.args(["-M", "-N"]);
        self.daemons.start("ssh", shared)?;
        Ok(())
    }

    /// As after a power cut: no unit is stopped first. What was written is there again; returns when one can log in.
    pub fn cut_power(&self) -> Result<()> {
        let before = self.boot_id()?;
        // In the background: an answer might not make it out of the dying guest.
        self.ssh(&["sync; (sleep 1; systemctl reboot --force --force) >/dev/null 2>&1 &"])?;
        self.until_rebooted(&before)
    }

    /// Changes with each boot.
    pub fn boot_id(&self) -> Result<String> {
        Ok(self.ssh(&["cat", "/proc/sys/kernel/random/boot_id"])?.trim().to_owned())
    }

    /// Until one can log in after a reboot that is under way.
    pub fn until_rebooted(&self, before: &str) -> Result<()> {
        self.daemons.stop("ssh");
        let back = || Ok(!self.is_running() || self.boot_id()? != before);
        wait::until("the VM to let us in again", wait::LONG, back)?;
        if !self.is_running() {
            bail!("qemu ended: see {}", self.daemons.log("qemu").display());
        }
        self.share_connection()
    }

    /// Runs the unit with the upstream kubelet, or again with the one under test; units and files stay.
    pub fn swap_kubelet(&self, upstream: bool) -> Result<()> {
        let program = if upstream { seed::UPSTREAM } else { "kubelet" };
        let swap = format!("ln -sf /usr/local/bin/{program} /usr/bin/kubelet");
        self.ssh(&[&format!("systemctl stop kubelet && {swap} && systemctl start kubelet")])?;
        Ok(())
    }

    /// The VM that runs under this name and index already.
    pub fn attach(cluster: &Cluster, name: &str, index: u8) -> Result<Option<Self>> {
        if !cluster.dir.join(name).join("pids").is_dir() {
            return Ok(None);
        }
        let vm = Self::handle(cluster, name, index)?;
        Ok(vm.is_running().then_some(vm))
    }

    fn handle(cluster: &Cluster, name: &str, index: u8) -> Result<Self> {
        let dir = cluster.dir.join(name);
        Ok(Self {
            name: name.to_owned(),
            ip: format!("{SUBNET}.{}", 2 + index),
            daemons: Daemons::new(&dir)?,
            dir,
            netns: cluster.netns.clone(),
            index,
            key: Base::of(cluster.cache()).path("key"),
        })
    }

    pub fn is_running(&self) -> bool {
        self.daemons.pid("qemu").is_some()
    }

    /// Runs a command in the guest, its words joined by spaces for the guest's shell.
    pub fn ssh(&self, command: &[&str]) -> Result<String> {
        run(self.ssh_command().args(command))
    }

    /// For people: with a terminal if there is one.
    pub fn ssh_command(&self) -> Command {
        let mut command = process::in_netns(Some(&self.netns), Path::new("ssh"));
        command.arg("-i").arg(&self.key).arg("-S").arg(self.dir.join("ssh.sock"));
        for option in [
            "LogLevel=ERROR",
            "BatchMode=yes",
            // Emulated, on a busy host, the guest may be silent for long.
            "ConnectTimeout=60",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=20",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
        ] {
            command.args(["-o", option]);
        }
        command.args(["-l", "root", &self.ip]);
        command
    }

    /// The last lines of a unit's log.
    pub fn journal(&self, unit: &str, lines: u32) -> Result<String> {
        self.ssh(&["journalctl", "--no-pager", "-o", "cat", "-u", unit, "-n", &lines.to_string()])
    }

    /// Waits until the node is Ready, and shows the kubelet's log if it never is.
    pub fn until_ready(&self, cluster: &Cluster) -> Result<()> {
        let ready = cluster.kubectl().until_node_ready(&self.name);
        ready.with_context(|| {
            format!("the kubelet's log ends with:\n{}", self.journal("kubelet", 15).unwrap_or_default())
        })
    }

    /// Shuts the guest down; what it wrote is gone.
    pub fn off(&self) -> Result<()> {
        // The guest may be gone before it answers.
        let _ = self.ssh(&["systemctl", "poweroff"]);
        let _ = wait::until("the guest to end", Duration::from_secs(30), || Ok(!self.is_running()));
        self.daemons.stop("qemu");
        self.daemons.stop("ssh");
        let _ = self.in_ns(&["link", "del", &self.tap()]);
        Ok(())
    }

    // ---- the machine

    fn tap(&self) -> String {
        format!("tap{}", self.index)
    }

    fn in_ns(&self, args: &[&str]) -> Result<String> {
        run(process::in_netns(Some(&self.netns), Path::new("ip")).args(args))
    }

    /// The tap device is a port of the cluster's bridge; it goes with the namespace.
    fn link(&self, cluster: &Cluster) -> Result<()> {
        let tap = self.tap();
        let _ = self.in_ns(&["link", "del", &tap]);
        self.in_ns(&["tuntap", "add", &tap, "mode", "tap"])?;
        self.in_ns(&["link", "set", &tap, "master", "br0", "up"])?;
        let others = cluster.nodes.iter().map(|n| n.netns.as_str()).filter(|n| *n != cluster.netns);
        for netns in std::iter::once(cluster.netns.as_str()).chain(others) {
            let mut command = process::in_netns(Some(netns), Path::new("ip"));
            run(command.args(["route", "replace", &pod_subnet(self.index), "via", &self.ip]))?;
        }
        Ok(())
    }

    fn start(&self, base: &Base, options: &VmOptions) -> Result<()> {
        let drive =
            |file: &Path, more: &str| format!("file={},if=virtio,format=raw,cache=unsafe,{more}", file.display());
        let mut command = process::in_netns(Some(&self.netns), Path::new("qemu-system-x86_64"));
        command.args(["-machine", "q35", "-nodefaults", "-display", "none", "-serial", "stdio"]);
        command.args(base.accelerator()?);
        command.args(["-smp", &options.cpus.to_string(), "-m", &format!("{}M", options.memory_mib)]);
        command.arg("-kernel").arg(base.path("vmlinuz")).arg("-initrd").arg(base.path("initrd"));
        // On a busy host the emulated timer may look broken in the moment that the kernel tests it.
        let kernel = "root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 fsck.mode=skip no_timer_check init=/usr/local/sbin/seed-init";
        command.args(["-append", kernel]);
        command.args(["-drive", &drive(&base.path("disk.img"), "snapshot=on")]);
        command.args(["-drive", &drive(&self.dir.join("seed.img"), "readonly=on")]);
        command.args(["-netdev", &format!("tap,id=net,ifname={},script=no,downscript=no", self.tap())]);
        command.args(["-device", &format!("virtio-net-pci,netdev=net,mac=52:54:00:00:00:{:02x}", self.index)]);
        command.args(["-device", "virtio-rng-pci"]);
        // The snapshot lies here, unlinked: it ends with qemu.
        command.env("TMPDIR", &self.dir);
        self.daemons.start("qemu", command)?;
        Ok(())
    }
}

fn pod_subnet(index: u8) -> String {
    format!("10.77.{}.0/20", index * 16)
}
