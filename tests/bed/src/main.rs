//! The stack as a command, for people: `bed build`, `bed up`, `bed down`, `bed kubectl`, `bed e2e`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bed::{
    Cache, Cluster, ClusterOptions, NodeOptions, Provision, Runtime, Vm, VmOptions, build, cleanup, demo, doctor, e2e,
};

const USAGE: &str = "usage:
  bed build                        build the stack into the cache folder
  bed up KUBELET [NAME] [--debian] [--services] [--two]
                                   start a cluster with that kubelet (NAME: bed), with Debian's containerd, with
                                   kube-proxy and DNS, with two nodes
  bed demo cluster|standalone KUBELET
                                   what `make demo` runs
  bed down [NAME]                  end it and remove what it left
  bed kubectl ARGS...              kubectl against the cluster `bed`
  bed e2e FOCUS [SKIP] [PROCS] [NAME]
                                   run upstream's e2e.test against the cluster NAME; FOCUS is a regular expression
                                   or @FILE, a list of tests
  bed vm build                     build the disk of the VM node
  bed vm boot KUBELET [NAME]       boot a Debian node (systemd, cgroup v2) with that kubelet in the cluster NAME,
                                   which gets its control plane if it does not run
  bed vm kubeadm KUBELET [NAME]    boot two machines as kubeadm's packages leave them (NAME: kubeadm)
  bed vm ssh NAME [COMMAND...]     in the VM of the cluster NAME
  bed vm off NAME
";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let cache = Cache::of_user()?;
    let arg = |i: usize| args.get(i).map(String::as_str);
    match arg(0) {
        Some("build") => {
            doctor::check()?;
            build::stack(&cache)
        }
        Some("up") => {
            doctor::check()?;
            let kubelet = PathBuf::from(arg(1).context(USAGE)?).canonicalize().context("no such kubelet")?;
            let has = |flag: &str| args.iter().any(|a| a == flag);
            let runtime = if has("--debian") { Runtime::Debian } else { Runtime::Containerd2 };
            let names = if has("--two") { ["node-a", "node-b"].as_slice() } else { &["node-a"] };
            let node =
                |name: &&str| NodeOptions { runtime, services: has("--services"), ..NodeOptions::new(name, &kubelet) };
            let nodes = names.iter().map(node).collect();
            let name = arg(2).filter(|a| !a.starts_with('-')).unwrap_or("bed").to_owned();
            let cluster = Cluster::start(&cache, ClusterOptions { name, nodes })?.keep();
            println!("{}", cluster.kubectl().run(&["get", "nodes", "-o", "wide"])?);
            println!("export KUBECONFIG={}", cluster.kubectl().kubeconfig.display());
            println!("nsenter --net=/var/run/netns/{} {}", cluster.netns, cluster.kubectl().program.display());
            Ok(())
        }
        Some("demo") => {
            let kubelet = PathBuf::from(arg(2).context(USAGE)?).canonicalize().context("no such kubelet")?;
            match arg(1) {
                Some("cluster") => demo::cluster(&cache, &kubelet),
                Some("standalone") => demo::standalone(&cache, &kubelet),
                _ => bail!("{USAGE}"),
            }
        }
        Some("down") => cleanup::end_run(&cache.runs().join(arg(1).unwrap_or("bed"))),
        Some("kubectl") => {
            let cluster = Cluster::attach(&cache, "bed", Vec::new())?;
            let rest: Vec<&str> = args[1..].iter().map(String::as_str).collect();
            let status = cluster.kubectl().command(&rest).status()?;
            std::process::exit(status.code().unwrap_or(1));
        }
        Some("e2e") => {
            let name = arg(4).unwrap_or("bed");
            let cluster = Cluster::attach(&cache, name, Vec::new())?;
            let suite = e2e::Suite {
                name: if name == "bed" { "e2e".into() } else { format!("e2e-{name}") },
                focus: match arg(1).context(USAGE)?.split_at_checked(1) {
                    Some(("@", file)) => e2e::focus_of(&e2e::read_list(file.as_ref())?),
                    _ => args[1].clone(),
                },
                skip: arg(2).unwrap_or("NOTHING").into(),
                processes: arg(3).unwrap_or("6").parse()?,
                retries: 0,
            };
            let outcomes = e2e::run(&cluster, &suite)?;
            let failed: Vec<_> = outcomes.iter().filter(|(_, o)| **o != e2e::Outcome::Passed).collect();
            for (name, outcome) in &failed {
                println!("FAIL {name}\n     {outcome:?}");
            }
            println!("{} passed, {} failed", outcomes.len() - failed.len(), failed.len());
            Ok(())
        }
        Some("vm") => vm(&cache, &args[1..]),
        _ => bail!("{USAGE}"),
    }
}

/// One VM a cluster, enough for people.
fn vm(cache: &Cache, args: &[String]) -> Result<()> {
    const VM: (&str, u8) = ("vm-a", 8);
    let arg = |i: usize| args.get(i).map(String::as_str);
    let running = |name: &str| -> Result<Vm> {
        let cluster = Cluster::attach(cache, name, Vec::new())?;
        Vm::attach(&cluster, VM.0, VM.1)?.with_context(|| format!("no VM runs in cluster {name}"))
    };
    match arg(0) {
        Some("build") => {
            build::stack(cache)?;
            Vm::build(cache)
        }
        Some("boot") => {
            let kubelet = PathBuf::from(arg(1).context(USAGE)?).canonicalize().context("no such kubelet")?;
            let name = arg(2).unwrap_or("bed");
            let cluster = if Cluster::is_up(cache, name) {
                Cluster::attach(cache, name, Vec::new())?
            } else {
                Cluster::start_control_plane(cache, name)?.keep()
            };
            let vm = Vm::boot(&cluster, &VmOptions::new(VM.0, VM.1, &kubelet))?;
            vm.until_ready(&cluster)?;
            println!("{}", cluster.kubectl().run(&["get", "nodes", "-o", "wide"])?);
            println!("bed vm ssh {name}");
            Ok(())
        }
        Some("kubeadm") => {
            let kubelet = PathBuf::from(arg(1).context(USAGE)?).canonicalize().context("no such kubelet")?;
            let cluster = Cluster::start_network_only(cache, arg(2).unwrap_or("kubeadm"))?.keep();
            for (name, index) in [VM, ("vm-b", VM.1 + 1)] {
                let options = VmOptions::new(name, index, &kubelet);
                let vm = Vm::boot(&cluster, &VmOptions { provision: Provision::Kubeadm, memory_mib: 3072, ..options })?;
                println!("{name}: {:?}", vm.ssh_command());
            }
            Ok(())
        }
        Some("ssh") => {
            let status = running(arg(1).context(USAGE)?)?.ssh_command().args(&args[2..]).status()?;
            std::process::exit(status.code().unwrap_or(1));
        }
        Some("off") => running(arg(1).context(USAGE)?)?.off(),
        _ => bail!("{USAGE}"),
    }
}
