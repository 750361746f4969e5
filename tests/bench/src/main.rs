//! `bench [short|full] [--only PARTS] [--pods 10,110] [--rounds N] [--write] [--agent NAME=KUBELET]...`
//!
//! Runs agents in turn on the same stack, round after round, and prints what each cost beside the others. Without
//! `--agent`: ferrolet (FERROLET_KUBELET) and the upstream kubelet of the stack. `--write` puts the figures into
//! docs/BENCHMARKS.md and docs/bench. The short form fails where the first agent is not well ahead of the second.

mod figures;
mod floor;
mod floor_pod;
mod last_words;
mod longer;
mod measures;
mod page;
mod plot;
mod proc;
mod watcher;

use std::{fs::File, path::Path, time::Duration};

use anyhow::{Context, Result, bail};
use apiserver::{ApiServer, ClientOptions};
use bed::{Cache, Cluster, ClusterOptions, NodeOptions};
use cri::Cri;
use host::Clock;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    figures::{FLOOR, Figures},
    floor::Floor,
    measures::{Agent, Bench, Extent},
    watcher::Watcher,
};

const PARTS: [&str; 10] =
    ["idle", "single", "ended", "readiness", "burst", "after", "restart", "node", "churn", "floor"];
/// Not in the short form.
const LONG: [&str; 4] = ["readiness", "after", "node", "churn"];
/// The name of the cluster.
const NAME: &str = "bench";

struct Options {
    agents: Vec<Agent>,
    parts: Vec<String>,
    rounds: usize,
    extent: Extent,
    write: bool,
    check: bool,
    /// As given, for the page.
    line: String,
}

impl Options {
    fn read(cache: &Cache) -> Result<Self> {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let short = args.first().is_some_and(|a| a == "short");
        let (rounds, singles, pods, quiet) =
            if short { (1, 10, vec![20], 10) } else { (3, 50, vec![10, 110, 250, 500], 60) };
        let mut options = Self {
            agents: Vec::new(),
            parts: PARTS.iter().filter(|part| !short || !LONG.contains(part)).map(|p| (*p).to_owned()).collect(),
            rounds,
            extent: Extent { singles, pods, quiet: Duration::from_secs(quiet), churn: 1000 },
            write: false,
            check: short,
            line: args.join(" "),
        };
        let mut rest = args.iter().skip(usize::from(short || args.first().is_some_and(|a| a == "full")));
        while let Some(arg) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{arg} lacks its value"));
            match arg.as_str() {
                "--only" => options.parts = value()?.split(',').map(str::to_owned).collect(),
                "--rounds" => options.rounds = value()?.parse()?,
                "--singles" => options.extent.singles = value()?.parse()?,
                "--quiet" => options.extent.quiet = Duration::from_secs(value()?.parse()?),
                "--pods" => options.extent.pods = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--churn" => options.extent.churn = value()?.parse()?,
                "--write" => options.write = true,
                "--agent" => {
                    options.agents.push(agent(value()?)?);
                    options.check = false; // the margins are those to the upstream kubelet
                }
                other => bail!("unknown argument {other}; usage:\n{USAGE}"),
            }
        }
        if let Some(unknown) = options.parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
            bail!("there is nothing to measure named {unknown}; usage:\n{USAGE}");
        }
        if options.write && !options.agents.is_empty() {
            bail!("--write is for ferrolet beside upstream: docs/BENCHMARKS.md has no place for other agents");
        }
        options.extent.pods.sort_unstable();
        if options.agents.is_empty() {
            let ours = std::env::var("FERROLET_KUBELET").context("FERROLET_KUBELET names no kubelet")?;
            let theirs = cache.bin("kubelet").display().to_string();
            options.agents = vec![agent(&format!("ferrolet={ours}"))?, agent(&format!("upstream={theirs}"))?];
        }
        Ok(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.iter().any(|p| p == part)
    }
}

const USAGE: &str =
    "bench [short|full] [--only idle,single,ended,readiness,burst,after,restart,node,churn,floor] [--pods 10,110]
      [--rounds N] [--singles N] [--quiet SECONDS] [--churn PODS] [--write] [--agent NAME=KUBELET]...";

fn agent(text: &str) -> Result<Agent> {
    let (name, program) = text.split_once('=').context("--agent NAME=KUBELET")?;
    let program = Path::new(program).canonicalize().with_context(|| format!("no kubelet at {program}"))?;
    Ok(Agent { name: name.to_owned(), program })
}

fn main() -> Result<()> {
    let cache = Cache::of_user()?;
    let options = Options::read(&cache)?;
    bed::doctor::check()?;
    let mut node = NodeOptions::new("node-a", &options.agents[0].program);
    node.max_pods = options.extent.pods.last().map_or(250, |most| 250.max(*most as u32 + 20));
    let cluster = Cluster::start(&cache, ClusterOptions { name: NAME.into(), nodes: vec![node] })?;
    // Before any thread of the runtime is made: all of them shall see the cluster's network.
    let netns = File::open(format!("/var/run/netns/{}", cluster.netns))?;
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&netns), Some(LinkNameSpaceType::Network))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(measure(&cluster, &options))?;
    let mut names: Vec<&str> = options.agents.iter().map(|a| a.name.as_str()).collect();
    names.push(FLOOR);
    println!("{}", figures.table(&names));
    if options.write {
        page::write(&figures, &names, &options.line)?;
    }
    let lost = figures.lost_leads(&names[..names.len() - 1]);
    if options.check && !lost.is_empty() {
        bail!("not as far ahead as it should be:\n{}", lost.join("\n"));
    }
    Ok(())
}

async fn measure(cluster: &Cluster, options: &Options) -> Result<Figures> {
    let clock = Clock::start();
    let unlimited = ClientOptions { qps: 0.0, user_agent: "ferrolet-bench".into(), ..ClientOptions::default() };
    let api = ApiServer::from_kubeconfig(cluster.dir.join("etc/admin.conf"), unlimited).await?;
    let node = &cluster.nodes[0];
    let watcher = Watcher::start(&api, &node.options.name, clock).await?;
    let extent = options.extent.clone();
    let endpoint = format!("unix://{}", node.socket().display());
    let cri = Cri::connect(&endpoint, "", Duration::from_secs(120)).context("CRI socket")?;
    let mut bench = Bench { cluster, api, watcher, clock, extent, figures: Figures::default(), cri };
    bench.stop().await?;
    let names: Vec<&str> = options.agents.iter().map(|agent| agent.name.as_str()).collect();
    for round in 0.. {
        // One that was disturbed is not the last word: the middle of three is.
        let again = options.check && round < options.rounds + 2 && !bench.figures.lost_leads(&names).is_empty();
        if round >= options.rounds && !again {
            break;
        }
        // Whoever comes first in one round comes last in the next.
        let mut agents: Vec<&Agent> = options.agents.iter().collect();
        agents.rotate_left(round % options.agents.len());
        for agent in agents {
            eprintln!("round {}: {}", round + 1, agent.name);
            bench.round(agent, &|part| options.wants(part)).await?;
        }
        if options.wants("floor") {
            measure_floor(&mut bench).await?;
        }
    }
    Ok(bench.figures)
}

async fn measure_floor(bench: &mut Bench<'_>) -> Result<()> {
    let node = &bench.cluster.nodes[0];
    let floor = Floor::new(bench.cri.clone(), &node.pod_logs(), &node.cgroup(), bench.clock);
    let pods = bench.extent.standing();
    let found = floor.measure(bench.extent.singles, pods).await?;
    let mut add = |key: &str, value: f64| bench.figures.add(key, pods, FLOOR, value);
    add("ready-p50", found.start.p50);
    add("ready-p90", found.start.p90);
    add("ready-p99", found.start.p99);
    add("gone-p50", found.stop.p50);
    add("ended-p50", found.ended.p50);
    add("ended-p99", found.ended.p99);
    add("burst-#", found.burst);
    let words = bench.words().await?;
    bench.figures.add("words-p50", 0, FLOOR, words.p50);
    bench.figures.add("words-p99", 0, FLOOR, words.p99);
    Ok(())
}
