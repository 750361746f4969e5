//! The images of a cluster that kubeadm makes: control plane, etcd, kube-proxy, cluster DNS, under the names that
//! kubeadm asks for. They are large and only VMs want them, so they have a folder of their own and are in no registry.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::json;

use super::{PAUSE, Root, archive_in, save_in, which};
use crate::{
    Cache,
    build::{self, KUBERNETES},
    process::run,
};

/// Rises when the contents below change.
const EDITION: &str = "2";

/// Makes what is missing.
pub fn make(cache: &Cache) -> Result<()> {
    build::dns(cache)?;
    let folder = cache.kubeadm_images();
    let marker = folder.join("edition");
    let edition = format!("{EDITION} {KUBERNETES}");
    let made = fs::read_to_string(&marker).is_ok_and(|e| e == edition);
    build::step("images of kubeadm's pods", made, || {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        for name in names(cache)? {
            image(cache, &name).with_context(|| name.clone())?;
        }
        fs::write(marker, edition)?;
        Ok(())
    })
}

/// One archive each.
pub fn archives(cache: &Cache) -> Result<Vec<PathBuf>> {
    let files = fs::read_dir(cache.kubeadm_images())?.flatten().map(|e| e.path());
    Ok(files.filter(|p| p.extension().is_some_and(|e| e == "tar")).collect())
}

fn names(cache: &Cache) -> Result<Vec<String>> {
    let version = format!("--kubernetes-version=v{KUBERNETES}");
    let listed = run(Command::new(cache.bin("kubeadm")).args(["config", "images", "list", &version]))?;
    Ok(listed.lines().map(|l| l.trim().to_owned()).filter(|n| !n.is_empty()).collect())
}

fn image(cache: &Cache, name: &str) -> Result<()> {
    let path = name.rsplit_once(':').map_or(name, |(path, _)| path);
    let program = path.rsplit('/').next().unwrap_or(path);
    if program == "pause" {
        fs::copy(archive_in(&cache.images(), PAUSE), archive_in(&cache.kubeadm_images(), name))?;
        return Ok(());
    }
    let mut root = Root::new();
    let stripped = cache.kubeadm_images().join(program);
    run(Command::new("strip").arg("-o").arg(&stripped).arg(cache.bin(program)))?;
    root.copy(&format!("usr/local/bin/{program}"), &stripped)?;
    fs::remove_file(stripped)?;
    if program == "kube-proxy" {
        add_packet_filters(&mut root)?;
    }
    let config = match program {
        "coredns" => json!({"Entrypoint": ["/usr/local/bin/coredns"]}),
        _ => json!({}),
    };
    save_in(&cache.kubeadm_images(), name, &root.layer()?, config)
}

/// kube-proxy calls iptables and its like, which load the plugins of their matches and targets.
fn add_packet_filters(root: &mut Root) -> Result<()> {
    let multi = which("xtables-nft-multi").context("iptables is not installed")?;
    root.closure("usr/sbin/xtables-nft-multi", &multi)?;
    for family in ["iptables", "ip6tables"] {
        for verb in ["", "-save", "-restore"] {
            root.link(&format!("usr/sbin/{family}{verb}"), "xtables-nft-multi");
        }
    }
    let plugins = format!("/usr/lib/{}-linux-gnu/xtables", std::env::consts::ARCH);
    for plugin in fs::read_dir(&plugins).with_context(|| plugins.clone())?.flatten() {
        let plugin = plugin.path();
        root.closure(&plugin.display().to_string()[1..], &fs::canonicalize(&plugin)?)?;
    }
    for (tool, at) in [("conntrack", "usr/sbin/conntrack"), ("kmod", "usr/sbin/modprobe")] {
        let source = which(tool).with_context(|| format!("{tool} is not installed"))?;
        root.closure(at, &fs::canonicalize(source)?)?;
    }
    Ok(())
}
