//! What is done with one agent in one round, and what it cost.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use apiserver::ApiServer;
use bed::{Cluster, Node};
use cri::Cri;
use futures::{StreamExt, TryStreamExt, stream};
use host::Clock;
use k8s_openapi::api::core::v1::{self as core, Pod};
use pod::PodKey;
use serde_json::json;
use tokio::time::timeout;

use crate::{
    figures::{Figures, Quantiles},
    last_words, proc,
    watcher::{Seen, Watcher},
};

pub const IMAGE: &str = "registry.k8s.io/e2e-test-images/busybox:1.37.0-2";
pub const COMMAND: [&str; 2] = ["sleep", "100000"];
pub const NAMESPACE: &str = "default";
/// Requests of ours at the API server at once.
pub const HANDS: usize = 8;
/// Ends a start that hangs; judges nothing.
const UP: Duration = Duration::from_secs(120);
/// Caches fill, first reports go out, and threads that had work end (they would take their counts with them) before a
/// span of quiet begins.
pub const SETTLE: Duration = Duration::from_secs(20);
/// After the last pod is gone: what waits for deadlines (connections, watches) is freed within a minute.
pub const FREED: Duration = Duration::from_secs(90);
/// After the start of the agent: its catching up counts as part of the restart.
const RESTART_WATCHED: Duration = Duration::from_secs(10);
/// After the last pod is Ready: what was put off, such as events, counts as part of the burst.
const PUT_OFF: Duration = Duration::from_secs(3);
/// As many pods stand where their number is not what is looked for.
const STANDING: usize = 110;

/// A kubelet to be measured.
#[derive(Clone, Debug)]
pub struct Agent {
    pub name: String,
    pub program: PathBuf,
}

/// How much of everything.
#[derive(Clone, Debug)]
pub struct Extent {
    pub singles: usize,
    /// Numbers of pods to stand at once, smallest first.
    pub pods: Vec<usize>,
    pub quiet: Duration,
    /// Pods to churn through, one wave after the other.
    pub churn: usize,
}

impl Extent {
    /// How many pods stand when the agent restarts, and are started by raw CRI calls.
    pub fn standing(&self) -> usize {
        let usual = self.pods.iter().rfind(|pods| **pods <= STANDING);
        usual.or(self.pods.first()).copied().unwrap_or(STANDING)
    }
}

pub struct Bench<'a> {
    pub cluster: &'a Cluster,
    pub api: ApiServer,
    pub watcher: Watcher,
    pub clock: Clock,
    pub extent: Extent,
    pub figures: Figures,
    pub cri: Cri,
}

pub fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// Each time at another point of a second, evenly: an agent that looks once a second would else be met always at the same
/// point, being asked as soon as it has answered.
pub fn beat(i: usize) -> Duration {
    Duration::from_millis(i as u64 * 618 % 1000)
}

/// Made by the agent, or since an earlier look.
#[derive(Clone, Copy, Debug)]
struct Calls {
    runtime: f64,
    api: f64,
}

impl Calls {
    fn since(self, earlier: Self) -> Self {
        Self { runtime: self.runtime - earlier.runtime, api: self.api - earlier.api }
    }
}

impl Bench<'_> {
    pub fn node(&self) -> &Node {
        &self.cluster.nodes[0]
    }

    pub fn pid(&self) -> Result<u32> {
        self.node().daemons.pid("kubelet").context("the kubelet is gone")
    }

    fn containerd(&self) -> Result<u32> {
        self.node().daemons.pid("containerd").context("containerd is gone")
    }

    /// containerd and the shims that it has now.
    pub fn runtime(&self) -> Result<Vec<u32>> {
        let mut pids = proc::shims(&self.node().socket());
        pids.push(self.containerd()?);
        Ok(pids)
    }

    /// All that is asked for, from an empty node to an empty node.
    pub async fn round(&mut self, agent: &Agent, wanted: &dyn Fn(&str) -> bool) -> Result<()> {
        let up = self.start(agent).await?;
        self.figures.add("up", 0, &agent.name, millis(up));
        self.warm_up().await?;
        if wanted("idle") {
            self.quiet(agent, 0).await?;
        }
        if wanted("single") {
            self.singles(agent).await?;
        }
        if wanted("ended") {
            self.ends(agent).await?;
        }
        if wanted("readiness") {
            self.readiness(agent).await?;
        }
        let counts: Vec<usize> = self.extent.pods.iter().copied().filter(|pods| !self.has_seen(agent, *pods)).collect();
        for pods in counts.into_iter().filter(|_| wanted("burst")) {
            let names = self.burst(agent, pods).await?;
            self.quiet(agent, pods).await?;
            self.delete_all(agent, &names).await?;
            if wanted("after") && pods >= self.extent.standing() {
                self.memory_after(agent, pods).await?;
            }
        }
        // What follows comes after these looks at memory: a new process has no past.
        if wanted("restart") || wanted("node") {
            let names = self.create_all("standing", self.extent.standing()).await?;
            self.watcher.until(&names, "Ready", |s| s.ready.is_some()).await?;
            if wanted("restart") {
                self.restart(agent, &names).await?;
            }
            if wanted("node") {
                self.node_cost(agent, names.len()).await?;
            }
            self.delete_quietly(&names).await?;
        }
        if wanted("churn") {
            self.churn(agent).await?;
        }
        self.until_runtime_is_empty().await?;
        self.stop().await
    }

    /// More pods than a node is meant for take a quarter of an hour: once is enough.
    fn has_seen(&self, agent: &Agent, pods: usize) -> bool {
        pods > STANDING && self.figures.middle(&format!("rss-{pods}"), &agent.name).is_some()
    }

    async fn memory_after(&mut self, agent: &Agent, pods: usize) -> Result<()> {
        let memory = self.memory_at_rest().await?;
        self.figures.add("rss-after-#", pods, &agent.name, memory.rss);
        self.figures.add("anon-after-#", pods, &agent.name, memory.anonymous);
        Ok(())
    }

    /// The node is made anew: nobody shall take the readiness of the agent before for that of this one.
    async fn start(&self, agent: &Agent) -> Result<Duration> {
        let (kubectl, name) = (self.cluster.kubectl(), self.node().options.name.clone());
        let old = name.clone();
        tokio::task::spawn_blocking(move || kubectl.run(&["delete", "node", &old, "--ignore-not-found"])).await??;
        let mut node = self.api.watch_node(&name);
        let begun = self.clock.mono();
        self.node().start_kubelet(Some(&agent.program), Some(&self.cluster.dir))?;
        timeout(UP, node.wait_for(|node| node.as_deref().is_some_and(is_ready))).await.context("never Ready")??;
        Ok(self.clock.mono().since(begun))
    }

    /// What an agent left for the time when nobody waits for it would else be work for the next one.
    async fn until_runtime_is_empty(&self) -> Result<()> {
        let begun = self.clock.mono();
        while !self.cri.observe_all().await?.pods.is_empty() && self.clock.mono().since(begun) < FREED {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    pub async fn stop(&self) -> Result<()> {
        let node = self.node().clone();
        Ok(tokio::task::spawn_blocking(move || node.stop_kubelet()).await?)
    }

    /// The image is pulled and the agent has started a pod before.
    async fn warm_up(&self) -> Result<()> {
        let name = self.create("warm", &COMMAND, "Always").await?;
        self.watcher.until_one(&name, "Ready", |s| s.ready.is_some()).await?;
        self.delete_quietly(&[name]).await
    }

    /// A span in which nobody asks for anything.
    async fn quiet(&mut self, agent: &Agent, pods: usize) -> Result<()> {
        tokio::time::sleep(SETTLE).await;
        let (pid, runtime) = (self.pid()?, self.runtime()?);
        let apiserver = self.cluster.daemons.pid("kube-apiserver").context("the API server is gone")?;
        let look = || Ok::<_, anyhow::Error>([proc::exact_cpu(pid)?, proc::cpu_of_all(&runtime), proc::cpu(apiserver)]);
        let calls = self.calls().await?;
        let (begun, before) = (self.clock.mono(), look()?);
        let mut wakeups = proc::Wakeups::of(pid);
        while self.clock.mono() < begun + self.extent.quiet {
            tokio::time::sleep(Duration::from_secs(1)).await;
            wakeups.look();
        }
        let (took, after) = (self.clock.mono().since(begun).as_secs_f64(), look()?);
        let calls = self.calls().await?.since(calls);
        let memory = proc::memory(pid)?;
        let of_none = self.figures.middle("cpu-0", &agent.name);
        let mut add = |key: &str, value: f64| {
            let key = if pods == 0 { key.replace('#', "0") } else { key.to_owned() };
            self.figures.add(&key, pods, &agent.name, value);
        };
        add("rss-#", memory.rss);
        add("anon-#", memory.anonymous);
        let cpu = (after[0] - before[0]) / took * 1e3;
        add("cpu-#", cpu);
        add("wakeups-#", wakeups.count() / took * 60.0);
        add("cri-#", calls.runtime / took * 60.0);
        add("api-#", calls.api / took * 60.0);
        add("runtime-#", (after[1] - before[1]) / took * 1e3);
        add("apiserver-#", (after[2] - before[2]) / took * 1e3);
        if let Some(of_none) = of_none.filter(|_| pods > 0) {
            add("cpu-each-#", (cpu - of_none) / pods as f64 * 1e3);
        }
        Ok(())
    }

    /// What the agent has counted so far, by the metrics that both have.
    async fn calls(&self) -> Result<Calls> {
        let (kubectl, node) = (self.cluster.kubectl(), self.node().options.name.clone());
        let path = format!("/api/v1/nodes/{node}/proxy/metrics");
        let text = tokio::task::spawn_blocking(move || kubectl.run(&["get", "--raw", &path])).await??;
        let sum = |name: &str| -> f64 {
            let lines = text.lines().filter(|line| line.starts_with(name));
            lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
        };
        Ok(Calls { runtime: sum("kubelet_runtime_operations_total{"), api: sum("rest_client_requests_total{") })
    }

    async fn singles(&mut self, agent: &Agent) -> Result<()> {
        let (mut ready, mut gone) = (Vec::new(), Vec::new());
        let (pid, start) = (self.pid()?, self.clock.mono());
        let before = proc::exact_cpu(pid)?;
        for i in 0..self.extent.singles {
            tokio::time::sleep(beat(i)).await;
            let begun = self.clock.mono();
            let name = self.create(&format!("single-{i}"), &COMMAND, "Always").await?;
            let seen = self.watcher.until_one(&name, "Ready", |s| s.ready.is_some()).await?;
            ready.push(millis(seen.ready.unwrap_or_default().since(begun)));
            tokio::time::sleep(beat(i)).await;
            let begun = self.clock.mono();
            self.delete(&name).await?;
            let seen = self.watcher.until_one(&name, "gone", |s| s.gone.is_some()).await?;
            gone.push(millis(seen.gone.unwrap_or_default().since(begun)));
        }
        let idle = self.figures.middle("cpu-0", &agent.name).unwrap_or_default() / 1e3;
        let spent = proc::exact_cpu(pid)? - before - idle * self.clock.mono().since(start).as_secs_f64();
        let spent = spent * 1e3 / self.extent.singles as f64;
        let (ready, gone) = (Quantiles::of(&ready), Quantiles::of(&gone));
        self.figures.add("ready-p50", 0, &agent.name, ready.p50);
        self.figures.add("ready-p90", 0, &agent.name, ready.p90);
        self.figures.add("ready-p99", 0, &agent.name, ready.p99);
        self.figures.add("ready-cpu", 0, &agent.name, spent);
        self.figures.add("gone-p50", 0, &agent.name, gone.p50);
        self.watcher.forget_all();
        Ok(())
    }

    /// The container writes down the time as the last thing it does.
    async fn ends(&mut self, agent: &Agent) -> Result<()> {
        let script = format!("sleep 1; {} > /dev/termination-log", last_words::COMMAND);
        let mut late = Vec::new();
        let mut names = Vec::new();
        for i in 0..self.extent.singles {
            tokio::time::sleep(beat(i)).await;
            let name = self.create(&format!("ended-{i}"), &["sh", "-c", &script], "Never").await?;
            let seen = self.watcher.until_one(&name, "ended", |s| s.ended.is_some()).await?;
            late.push(last_words::until(&seen.message, seen.ended.unwrap_or_default(), self.clock)?);
            names.push(name);
        }
        let late = Quantiles::of(&late);
        self.figures.add("ended-p50", 0, &agent.name, late.p50);
        self.figures.add("ended-p99", 0, &agent.name, late.p99);
        self.delete_quietly(&names).await
    }

    async fn burst(&mut self, agent: &Agent, pods: usize) -> Result<Vec<String>> {
        let containerd = self.containerd()?;
        let (pid, calls) = (self.pid()?, self.calls().await?);
        let server = |name| self.cluster.daemons.pid(name).with_context(|| format!("{name} is gone"));
        let (apiserver, etcd) = (server("kube-apiserver")?, server("etcd")?);
        let look = || {
            let api = proc::cpu(apiserver) + proc::cpu(etcd);
            Ok::<_, anyhow::Error>([proc::exact_cpu(pid)?, proc::cpu(containerd), api])
        };
        let before = look()?;
        let begun = self.clock.mono();
        let names = self.create_all(&format!("p{pods}"), pods).await?;
        let seen = self.watcher.until(&names, "Ready", |s| s.ready.is_some()).await?;
        let last = seen.iter().filter_map(|s| s.ready).max().unwrap_or_default();
        tokio::time::sleep(PUT_OFF).await;
        let after = look()?;
        let spent = |of: usize| after[of] - before[of];
        let calls = self.calls().await?.since(calls);
        let mut add = |key: &str, value: f64| self.figures.add(key, pods, &agent.name, value);
        add("burst-#", last.since(begun).as_secs_f64());
        add("burst-cpu-#", spent(0) / pods as f64 * 1e3);
        add("burst-runtime-#", spent(1));
        add("burst-apiserver-#", spent(2));
        add("burst-cri-#", calls.runtime / pods as f64);
        add("burst-api-#", calls.api / pods as f64);
        Ok(names)
    }

    /// A pod that was bound while no agent ran shows when the new one has seen all and works.
    async fn restart(&mut self, agent: &Agent, names: &[String]) -> Result<()> {
        let flips = |seen: &[Seen]| seen.iter().map(|s| f64::from(s.flips)).sum::<f64>();
        let restarts = |seen: &[Seen]| seen.iter().map(|s| f64::from(s.restarts)).sum::<f64>();
        let look = |watcher: &Watcher| names.iter().map(|n| watcher.get(n)).collect::<Vec<_>>();
        let before = look(&self.watcher);
        self.stop().await?;
        let waiting = self.create("waiting", &COMMAND, "Always").await?;
        let begun = self.clock.mono();
        self.node().start_kubelet(Some(&agent.program), Some(&self.cluster.dir))?;
        let seen = self.watcher.until_one(&waiting, "Ready", |s| s.ready.is_some()).await?;
        self.clock.sleep_until(begun + RESTART_WATCHED).await;
        let spent = proc::cpu(self.pid()?);
        let after = look(&self.watcher);
        let pods = names.len();
        let mut add = |key: &str, value: f64| self.figures.add(key, pods, &agent.name, value);
        add("restart-sync-#", millis(seen.ready.unwrap_or_default().since(begun)));
        add("restart-cpu-#", spent);
        add("restart-flips-#", flips(&after) - flips(&before));
        add("restart-restarts-#", restarts(&after) - restarts(&before));
        self.delete(&waiting).await
    }

    async fn delete_all(&mut self, agent: &Agent, names: &[String]) -> Result<()> {
        let begun = self.clock.mono();
        self.delete_quietly(names).await?;
        let took = self.clock.mono().since(begun).as_secs_f64();
        self.figures.add("gone-#", names.len(), &agent.name, took);
        Ok(())
    }

    pub async fn delete_quietly(&self, names: &[String]) -> Result<()> {
        let deletions = stream::iter(names).map(|name| self.delete(name));
        deletions.buffer_unordered(HANDS).try_collect::<Vec<()>>().await?;
        self.until_gone(names).await
    }

    pub async fn until_gone(&self, names: &[String]) -> Result<()> {
        self.watcher.until(names, "gone", |s| s.gone.is_some()).await?;
        self.watcher.forget_all();
        Ok(())
    }

    async fn create_all(&self, prefix: &str, pods: usize) -> Result<Vec<String>> {
        let creations = stream::iter(0..pods)
            .map(|i| async move { self.create(&format!("{prefix}-{i}"), &COMMAND, "Always").await });
        creations.buffer_unordered(HANDS).try_collect().await
    }

    pub async fn create(&self, name: &str, command: &[&str], restart_policy: &str) -> Result<String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                // Bound by hand: no scheduler's time counts.
                "nodeName": self.node().options.name,
                "restartPolicy": restart_policy,
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "c", "image": IMAGE, "command": command,
                    "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}},
                }],
            },
        }))?;
        self.api.create_pod(&pod).await?;
        Ok(name.to_owned())
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        let key = PodKey::new(NAMESPACE, name);
        let seen = self.watcher.until_one(name, "known", |s| !s.uid.is_empty()).await?;
        Ok(self.api.delete_pod(&key, &seen.uid(), Some(1)).await?)
    }
}

fn is_ready(node: &core::Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
