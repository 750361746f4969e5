//! The stack as a command, for people: `bed build`, `bed up`, `bed down`, `bed kubectl`, `bed e2e`.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use bed::{Cache, Cluster, ClusterOptions, NodeOptions, Runtime, build, cleanup, demo, doctor, e2e};

const USAGE: &str = "usage:
  bed build                        build the stack into the cache folder
  bed up KUBELET [NAME] [--debian] start a one-node cluster with that kubelet (NAME: bed)
  bed demo cluster|standalone KUBELET
                                   what `make demo` runs
  bed down [NAME]                  end it and remove what it left
  bed kubectl ARGS...              kubectl against the cluster `bed`
  bed shell NAME                   print how to enter the cluster's network namespace
  bed e2e FOCUS [SKIP] [PROCS]     run upstream's e2e.test against the cluster `bed`
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
            let mut node = NodeOptions::new("node-a", &kubelet);
            if args.iter().any(|a| a == "--debian") {
                node.runtime = Runtime::Debian;
            }
            let name = arg(2).filter(|a| !a.starts_with('-')).unwrap_or("bed").to_owned();
            let cluster = Cluster::start(&cache, ClusterOptions { name, nodes: vec![node] })?.keep();
            println!("{}", cluster.kubectl().run(&["get", "nodes", "-o", "wide"])?);
            println!("export KUBECONFIG={}", cluster.kubectl().kubeconfig.display());
            println!("nsenter --net=/var/run/netns/{} {}", cluster.netns, cluster.kubectl().program.display());
            Ok(())
        }
        Some("demo") => {
            let standalone = arg(1) == Some("standalone");
            let kubelet = PathBuf::from(arg(2).context(USAGE)?).canonicalize().context("no such kubelet")?;
            if standalone { demo::standalone(&cache, &kubelet) } else { demo::cluster(&cache, &kubelet) }
        }
        Some("down") => cleanup::end_run(&cache.runs().join(arg(1).unwrap_or("bed"))),
        Some("kubectl") => {
            let cluster = Cluster::attach(&cache, "bed", Vec::new())?;
            let rest: Vec<&str> = args[1..].iter().map(String::as_str).collect();
            let status = cluster.kubectl().command(&rest).status()?;
            std::process::exit(status.code().unwrap_or(1));
        }
        Some("e2e") => {
            let cluster = Cluster::attach(&cache, "bed", Vec::new())?;
            let suite = e2e::Suite {
                name: "e2e".into(),
                focus: arg(1).context(USAGE)?.into(),
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
        _ => bail!("{USAGE}"),
    }
}
