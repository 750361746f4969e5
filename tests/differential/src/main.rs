//! `differential [--all] [--keep] [CASE...]`: the pods of `corpus/` on the upstream kubelet and on the one that
//! FERROLET_KUBELET names, side by side in one cluster; statuses, CRI requests, /etc/hosts, cgroups and events are
//! compared field by field. Without arguments only the cases marked `short`. CASE is a regular expression for a
//! whole name. What was captured is in the cache's `reports/differential`.

mod compare;
mod corpus;
mod normal;
mod proxy;
mod settled;
mod side;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use bed::{Cache, Cluster, NodeOptions};
use regex::Regex;
use serde_json::{Value, json};

use crate::{
    compare::{Difference, Known, differences},
    corpus::Case,
    proxy::Proxy,
    settled::Until,
    side::{Side, Snapshot},
};

const CLUSTER: &str = "diff";
/// In the order of [`Sides`].
const NODES: [&str; 2] = ["upstream", "ferrolet"];
const BATCH: usize = 30;
/// For a whole batch to settle.
const PATIENCE: Duration = Duration::from_secs(240);
/// Captures that differ are taken again this often: the two kubelets need not be equally far.
const LOOKS: usize = 6;

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
    let found = run(&sides, &cases, &cache.reports().join("differential"));
    if has("--keep") {
        let _ = cluster.keep();
    } else {
        cluster.down()?;
    }
    report(&cases, &found?)
}

fn report(cases: &[Case], found: &Found) -> Result<ExitCode> {
    let known = Known::load()?;
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
        Ok::<_, anyhow::Error>(Side::new(&cluster, cluster.nodes[i].clone(), proxy))
    };
    let sides = [side(0)?, side(1)?];
    Ok((cluster, sides))
}

fn run(sides: &Sides, cases: &[Case], reports: &Path) -> Result<Found> {
    fs::create_dir_all(reports)?;
    for side in sides {
        side.prepare()?;
    }
    let first: Case = serde_json::from_value(warm_up())?;
    batch(sides, &[first], reports)?;
    let mut found = Found::new();
    for (i, cases) in cases.chunks(BATCH).enumerate() {
        eprintln!("batch {} of {} pods", i + 1, cases.len());
        found.extend(batch(sides, cases, reports)?);
    }
    Ok(found)
}

/// Brings the images to both nodes, so that the cases see the same ones present.
fn warm_up() -> Value {
    let images = ["busybox", "agnhost", "nginx", "registry.k8s.io/e2e-test-images/nonroot:1.5"];
    let containers: Vec<Value> = images.iter().map(|image| json!({"image": image, "command": ["/bin/true"]})).collect();
    json!({"name": "warm-up", "until": "Succeeded", "spec": {"restartPolicy": "Never", "containers": containers}})
}

fn batch(sides: &Sides, cases: &[Case], reports: &Path) -> Result<Found> {
    for side in sides {
        side.create(cases)?;
    }
    settle(sides, cases)?;
    let mut debugged = cases.iter().filter(|case| case.debug.is_some()).peekable();
    if debugged.peek().is_some() {
        for case in debugged {
            sides.iter().try_for_each(|side| side.debug(case))?;
        }
        sleep(Duration::from_secs(5));
    }
    let mut captured = capture(sides, cases)?;
    let uids = captured.uids.clone();
    for side in sides {
        side.delete(cases)?;
    }
    let events = [sides[0].snapshot()?.events, sides[1].snapshot()?.events];
    let mut found = Found::new();
    for case in cases {
        let Some(views) = captured.views.get_mut(&case.name) else { continue };
        for (i, side) in sides.iter().enumerate() {
            views[i]["end"] = side.epilogue(&events[i], &uids[&case.name][i]);
            let file = reports.join(format!("{}.{}.json", case.name, side.name()));
            fs::write(file, serde_json::to_string_pretty(&views[i])?)?;
        }
        found.insert(case.name.clone(), differences(&views[0], &views[1]));
    }
    Ok(found)
}

/// Waits until every pod is where its case wants it on both sides, or for as long as the patience lasts: what is
/// not there by then shows as a difference, or is the same on both.
#[allow(clippy::disallowed_methods)] // a test's own patience, not the agent's time
fn settle(sides: &Sides, cases: &[Case]) -> Result<()> {
    let untils = cases.iter().map(|case| Ok((case, Until::read(&case.until)?))).collect::<Result<Vec<_>>>()?;
    let begun = Instant::now();
    loop {
        let mut open = Vec::new();
        for side in sides {
            let now = side.snapshot()?;
            let age = begun.elapsed().as_secs();
            for (case, until) in &untils {
                let pod = now.pods.get(&case.name).unwrap_or(&Value::Null);
                if !until.is_reached(pod, &now.events, age) {
                    open.push(format!("{} on {}", case.name, side.name()));
                }
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            eprintln!("not settled: {}", open.join(", "));
            return Ok(());
        }
        sleep(Duration::from_secs(2));
    }
}

struct Captured {
    views: BTreeMap<String, [Value; 2]>,
    uids: BTreeMap<String, [String; 2]>,
}

fn capture(sides: &Sides, cases: &[Case]) -> Result<Captured> {
    let mut captured = Captured { views: BTreeMap::new(), uids: BTreeMap::new() };
    let mut open: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    for look in 0..LOOKS {
        sleep(Duration::from_secs(if look == 0 { 1 } else { 3 }));
        let now = [sides[0].snapshot()?, sides[1].snapshot()?];
        for case in &open {
            let views = [sides[0].capture(&now[0], case), sides[1].capture(&now[1], case)];
            captured.views.insert((*case).to_owned(), views);
            captured.uids.insert((*case).to_owned(), [uid(&now[0], case), uid(&now[1], case)]);
        }
        open.retain(|case| captured.views.get(*case).is_some_and(|[a, b]| !differences(a, b).is_empty()));
        if open.is_empty() {
            break;
        }
    }
    Ok(captured)
}

fn uid(snapshot: &Snapshot, case: &str) -> String {
    let pod = snapshot.pods.get(case);
    pod.and_then(|pod| pod["metadata"]["uid"].as_str()).unwrap_or_default().to_owned()
}
