//! The maintainer scripts of the Debian package in deploy/, run as dpkg runs them, with a systemctl that takes notes.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
    process::Command,
};

const WANTED_BY: &str = "etc/systemd/system/multi-user.target.wants/kubelet.service";

struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    /// `systemctl`: its exit code, whatever it is asked.
    fn new(systemctl: u8) -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap() };
        machine.write("run/systemd/system/x", "");
        let fake = format!(
            "#!/bin/sh\necho \"$*\" >>\"$DPKG_ROOT/asked\"\nlink=$DPKG_ROOT/{WANTED_BY}\n\
             [ {systemctl} = 0 ] || exit {systemctl}\n\
             case $* in\n\
             *is-enabled*) [ -L \"$link\" ] ;;\n\
             *enable*) mkdir -p \"${{link%/*}}\" && ln -sf /usr/lib/systemd/system/kubelet.service \"$link\" ;;\n\
             esac\n"
        );
        let fake = machine.write("bin/systemctl", &fake);
        fs::set_permissions(fake, fs::Permissions::from_mode(0o755)).unwrap();
        machine
    }

    fn joined() -> Self {
        let machine = Self::new(0);
        machine.write("etc/kubernetes/kubelet.conf", "");
        machine
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.root.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        file
    }

    /// The administrator, or another package, disables the unit.
    fn disable(&self) {
        fs::remove_file(self.root.path().join(WANTED_BY)).unwrap();
    }

    /// What systemctl was told, without the root and the reloads.
    fn run(&self, line: &str) -> Vec<String> {
        let mut words = line.split(' ');
        let script = format!("{}/../../deploy/debian/{}", env!("CARGO_MANIFEST_DIR"), words.next().unwrap());
        let root = self.root.path();
        let path = format!("{}:/usr/bin:/bin", root.join("bin").display());
        let ended = Command::new("sh").arg(script).args(words).env("PATH", path).env("DPKG_ROOT", root).status();
        assert!(ended.unwrap().success(), "{line}");
        let asked = fs::read_to_string(root.join("asked")).unwrap_or_default();
        let _ = fs::remove_file(root.join("asked"));
        let asked = asked.replace(&format!("--root={} ", root.display()), "");
        let told = |line: &&str| *line != "daemon-reload" && !line.starts_with("is-enabled");
        asked.lines().filter(told).map(str::to_owned).collect()
    }
}

const STARTS: [&str; 2] = ["enable kubelet.service", "--no-block restart kubelet.service"];
const RESTARTS: [&str; 1] = ["--no-block restart kubelet.service"];

#[test]
fn a_node_that_has_joined_has_its_agent_after_every_installation() {
    let node = Machine::joined();
    assert_eq!(node.run("postinst configure "), STARTS);
    assert_eq!(node.run("postinst configure 0.1.0"), RESTARTS, "an upgrade");
    assert_eq!(node.run("postinst abort-upgrade 0.2.0"), RESTARTS);
    // The administrator's word is for the unit as it was; a package in between may have disabled it.
    for removal in ["prerm remove", "prerm remove in-favour kubelet 1.37.2"] {
        node.run(removal);
        node.disable();
        assert_eq!(node.run("postinst configure 0.1.0"), STARTS, "after {removal}");
        assert_eq!(node.run("postinst configure 0.1.0"), RESTARTS, "and an upgrade");
    }
    node.run("prerm remove");
    assert_eq!(node.run("postinst abort-remove"), STARTS);
    let joining = Machine::new(0);
    joining.write("etc/kubernetes/bootstrap-kubelet.conf", "");
    assert_eq!(joining.run("postinst configure "), STARTS);
}

#[test]
fn a_unit_that_the_administrator_has_disabled_stays_so() {
    let node = Machine::joined();
    node.run("postinst configure ");
    node.disable();
    // What runs all the same is restarted.
    for line in ["postinst configure 0.1.0", "postinst abort-upgrade 0.2.0"] {
        assert_eq!(node.run(line), ["--no-block try-restart kubelet.service"], "{line}");
    }
    node.run("prerm remove");
    assert_eq!(node.run("postinst configure 0.1.0"), ["--no-block try-restart kubelet.service"], "a new installation");
}

#[test]
fn a_machine_that_has_not_joined_is_left_to_kubeadm() {
    let asked = Machine::new(0).run("postinst configure ");
    assert_eq!(asked, ["enable kubelet.service", "--no-block try-restart kubelet.service"]);
}

#[test]
fn a_systemctl_that_fails_leaves_no_package_half_installed() {
    for line in ["postinst configure ", "prerm remove", "postrm remove", "postrm purge"] {
        Machine::new(1).run(line);
    }
}

#[test]
fn only_a_removal_for_good_stops_the_agent() {
    let node = Machine::joined();
    assert_eq!(node.run("prerm remove"), ["stop kubelet.service"]);
    for line in ["prerm remove in-favour kubelet 1.37.2", "prerm upgrade 0.2.0", "postrm remove", "postrm purge"] {
        assert_eq!(node.run(line), [""; 0], "{line}");
    }
}

#[test]
fn only_a_purge_disables_and_never_the_unit_of_another_package() {
    let node = Machine::joined();
    let link = node.write(WANTED_BY, "");
    fs::remove_file(&link).unwrap();
    symlink("/usr/lib/systemd/system/kubelet.service", &link).unwrap();
    let stays = |line| {
        node.run(line);
        link.symlink_metadata().is_ok()
    };
    assert!(stays("prerm remove") && stays("postrm remove"));
    let others = node.write("usr/lib/systemd/system/kubelet.service", "");
    assert!(stays("postrm purge"));
    fs::remove_file(others).unwrap();
    assert!(!stays("postrm purge"));
}

#[test]
fn where_no_systemd_runs_the_unit_is_enabled_for_the_next_boot() {
    let image = Machine::joined();
    fs::remove_dir_all(image.root.path().join("run")).unwrap();
    assert_eq!(image.run("postinst configure "), ["enable kubelet.service"]);
    assert_eq!(image.run("prerm remove"), [""; 0]);
}
