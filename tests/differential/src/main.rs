//! `differential [--all] [--keep] [CASE...]`: the pods of `corpus/` on the upstream kubelet and on the one that
//! FERROLET_KUBELET names, side by side in one cluster; statuses, CRI requests, /etc/hosts, cgroups and events are
//! compared field by field. Without arguments only the cases marked `short`. CASE is a regular expression for a
//! whole name. What was captured is in the cache's `reports/differential`.

mod compare;
mod corpus;
mod course;
mod files;
mod normal;
mod proxy;
mod settled;
mod side;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use bed::{Cache, Cluster, NodeOptions};
use regex::Regex;
use serde_json::{Value, json};

use crate::{
    compare::{Difference, Known},
    corpus::Case,
    proxy::Proxy,
    side::Side,
};

const CLUSTER: &str = "diff";
const AGAIN: usize = 2;
/// In the order of [`Sides`].
const NODES: [&str; 2] = ["upstream", "ferrolet"];

type Sides = [Side; 2];
type Found = BTreeMap<String, Vec<Difference>>;

fn main() -> Result<ExitCode> {
    let (flags, names): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let has = |flag: &str| flags.iter().any(|f| f == flag);
    let names = names.iter().map(|name| Regex::new(&format!("^(?:{name})$"))).collect::<Result<Vec<_>, _>>()?;
    let mut cases = corpus::load()?;
    match names.is_empty() {
        true => cases.retain(|case| has("--all") || case.short),
        false => cases.retain(|case| names.iter().any(|name| name.is_match(&case.name))),
    }
    bed::doctor::check()?;
    let cache = Cache::of_user()?;
    let kubelet = PathBuf::from(std::env::var_os("FERROLET_KUBELET").context("FERROLET_KUBELET names no kubelet")?);
    let runtime = tokio::runtime::Runtime::new()?;
    let (cluster, sides) = start(&cache, &kubelet, &runtime)?;
    let known = Known::load()?;
    let found = run(&sides, &cases, &known, &cache.reports().join("differential"));
    if has("--keep") {
        let _ = cluster.keep();
    } else {
        cluster.down()?;
    }
    report(&cases, &found?, &known)
}

fn report(cases: &[Case], found: &Found, known: &Known) -> Result<ExitCode> {
    let (mut known_count, mut fresh) = (0, 0);
    for (case, differences) in found {
        let (old, new): (Vec<_>, Vec<_>) = differences.iter().partition(|d| known.has(case, d));
        known_count += old.len();
        fresh += new.len();
        if !new.is_empty() {
            println!("{case}");
            new.iter().for_each(|difference| println!("    {difference}"));
        }
    }
    println!("{} cases, {fresh} differences, {known_count} known ones", cases.len());
    Ok(if fresh == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A cluster of two nodes, each kubelet behind a proxy; one that was kept is used again.
fn start(cache: &Cache, kubelet: &Path, runtime: &tokio::runtime::Runtime) -> Result<(Cluster, Sides)> {
    let programs = [cache.bin("kubelet"), kubelet.to_owned()];
    let dir = cache.runs().join(CLUSTER);
    let socket = |name: &str| dir.join(format!("{name}.sock"));
    let options: Vec<NodeOptions> = NODES
        .iter()
        .zip(&programs)
        .map(|(name, program)| {
            let mut options = NodeOptions::new(name, program);
            options.flags.push(format!("--container-runtime-endpoint=unix://{}", socket(name).display()));
            // However full the disk is, images stay.
            options.config = "imageGCHighThresholdPercent: 100\n".to_owned();
            options
        })
        .collect();
    let proxy = |name: &str| {
        let _ = fs::remove_file(socket(name));
        Proxy::start(runtime.handle(), &socket(name), &dir.join(name).join("containerd.sock"))
    };
    let (cluster, proxies) = if Cluster::is_up(cache, CLUSTER) {
        let cluster = Cluster::attach(cache, CLUSTER, options)?;
        cluster.nodes.iter().for_each(bed::Node::stop_kubelet);
        let proxies = [proxy(NODES[0])?, proxy(NODES[1])?];
        for node in &cluster.nodes {
            node.start_kubelet(None, Some(&cluster.dir))?;
        }
        (cluster, proxies)
    } else {
        let mut cluster = Cluster::start_control_plane(cache, CLUSTER)?;
        let proxies = [proxy(NODES[0])?, proxy(NODES[1])?];
        for (i, options) in options.into_iter().enumerate() {
            cluster.add_node(i as u8, options)?;
        }
        (cluster, proxies)
    };
    NODES.iter().try_for_each(|node| cluster.kubectl().until_node_ready(node))?;
    let mut proxies = proxies.into_iter();
    let mut side = |i: usize| {
        let proxy = proxies.next().context("a proxy a node")?;
        Side::new(&cluster, cluster.nodes[i].clone(), proxy)
    };
    let sides = [side(0)?, side(1)?];
    Ok((cluster, sides))
}

/// Tells what differs each time: two kubelets are not equally far at each moment, and a probe that met a server just
/// before it listened says nothing of either. So a case with a new difference runs [`AGAIN`] times more.
fn run(sides: &Sides, cases: &[Case], known: &Known, reports: &Path) -> Result<Found> {
    fs::create_dir_all(reports.join("again"))?;
    for side in sides {
        side.prepare()?;
    }
    sides[0].check(cases)?;
    let first: Case = serde_json::from_value(warm_up())?;
    course::run(sides, &[first], reports)?;
    let mut found = course::run(sides, cases, reports)?;
    for _ in 0..AGAIN {
        let suspects: Vec<Case> = cases.iter().filter(|case| has_new(&found, case, known)).cloned().collect();
        if suspects.is_empty() {
            break;
        }
        for (case, second) in course::run(sides, &suspects, &reports.join("again"))? {
            let first = found.remove(&case).unwrap_or_default();
            let (stay, once) = compare::repeated(first, &second);
            once.iter().filter(|d| !known.has(&case, d)).for_each(|d| eprintln!("{case}: seen once, not again: {d}"));
            found.insert(case, stay);
        }
    }
    Ok(found)
}

fn has_new(found: &Found, case: &Case, known: &Known) -> bool {
    found.get(&case.name).is_some_and(|differences| differences.iter().any(|d| !known.has(&case.name, d)))
}

/// Brings the images to both nodes, so that the cases see the same ones present.
fn warm_up() -> Value {
    let images = ["busybox", "agnhost", "nginx", "nonroot"];
    let containers: Vec<Value> = images.iter().map(|image| json!({"image": image, "command": ["/bin/true"]})).collect();
    json!({"name": "warm-up", "until": "Succeeded", "spec": {"restartPolicy": "Never", "containers": containers}})
}
