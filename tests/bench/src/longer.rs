//! What takes long or an arrangement of its own: readiness that changes, the whole node with containerd as recommended,
//! thousands of pods one after the other.

use std::{fs, time::Duration};

use anyhow::Result;
use apiserver::TokenFor;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use pod::PodKey;
use serde_json::json;

use crate::{
    figures::Quantiles,
    measures::{Agent, Bench, COMMAND, FREED, HANDS, IMAGE, NAMESPACE, SETTLE, beat, millis},
    proc,
};

/// Pods there at once while many are churned through.
const WAVE: usize = 50;
/// Before memory is looked at for the first time: the first pods bring in what all of them use.
const FIRST: usize = 200;

impl Bench<'_> {
    /// The probe finds a file that we make: its period of one second is part of the result.
    pub(crate) async fn readiness(&mut self, agent: &Agent) -> Result<()> {
        let dir = self.node().dir.join("readiness");
        fs::create_dir_all(&dir)?;
        let (mut late, mut names) = (Vec::new(), Vec::new());
        for i in 0..self.extent.singles {
            let (name, file) = (format!("probed-{i}"), dir.join(i.to_string()));
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {
                    "nodeName": self.node().options.name,
                    "terminationGracePeriodSeconds": 1,
                    "volumes": [{"name": "dir", "hostPath": {"path": dir}}],
                    "containers": [{
                        "name": "c", "image": IMAGE, "command": ["sleep", "100000"],
                        "volumeMounts": [{"name": "dir", "mountPath": "/dir"}],
                        "readinessProbe": {"exec": {"command": ["test", "-e", format!("/dir/{i}")]}, "periodSeconds": 1},
                    }],
                },
            }))?;
            self.api.create_pod(&pod).await?;
            self.watcher.until_one(&name, "started", |s| s.running).await?;
            tokio::time::sleep(Duration::from_secs(1) + beat(i)).await;
            let begun = self.clock.mono();
            fs::write(&file, "")?;
            let seen = self.watcher.until_one(&name, "Ready", |s| s.ready.is_some()).await?;
            late.push(millis(seen.ready.unwrap_or_default().since(begun)));
            self.delete(&name).await?;
            names.push(name);
        }
        self.until_gone(&names).await?;
        fs::remove_dir_all(&dir)?;
        let late = Quantiles::of(&late);
        self.figures.add("probed-p50", 0, &agent.name, late.p50);
        self.figures.add("probed-p90", 0, &agent.name, late.p90);
        Ok(())
    }

    /// What the API server takes of a pod's start, in milliseconds: the news of a new pod, its token, the status, and
    /// the news of it. No agent runs.
    pub(crate) async fn words(&self) -> Result<Quantiles> {
        let mut took = Vec::new();
        for i in 0..=self.extent.singles {
            let begun = self.clock.mono();
            let name = self.create(&format!("words-{i}"), &COMMAND, "Always").await?;
            let seen = self.watcher.until_one(&name, "known", |s| !s.uid.is_empty()).await?;
            let (pod, uid) = (PodKey::new(NAMESPACE, name.as_str()), seen.uid());
            let token_for = TokenFor { pod: pod.clone(), uid: uid.clone() };
            self.api.token_request("default", &[], Some(3607), &token_for).await?;
            let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            self.api.patch_pod_status(&pod, &uid, &ready).await?;
            let seen = self.watcher.until_one(&name, "Ready", |s| s.ready.is_some()).await?;
            if i > 0 {
                took.push(millis(seen.ready.unwrap_or_default().since(begun)));
            }
            self.api.delete_pod(&pod, &uid, Some(0)).await?;
        }
        self.watcher.forget_all();
        Ok(Quantiles::of(&took))
    }

    /// Agent, containerd and shims while nobody asks for anything, with containerd as it is by default and as we
    /// recommend it.
    pub(crate) async fn node_cost(&mut self, agent: &Agent, pods: usize) -> Result<()> {
        for (key, lean) in [("node-#", false), ("node-lean-#", true)] {
            self.restart_runtime(lean).await?;
            tokio::time::sleep(SETTLE).await;
            let mut pids = self.runtime()?;
            pids.push(self.pid()?);
            let (begun, before) = (self.clock.mono(), proc::cpu_of_all(&pids));
            tokio::time::sleep(self.extent.quiet).await;
            let took = self.clock.mono().since(begun).as_secs_f64();
            self.figures.add(key, pods, &agent.name, (proc::cpu_of_all(&pids) - before) / took * 1e3);
        }
        self.restart_runtime(false).await
    }

    /// Containers go on while containerd starts anew.
    async fn restart_runtime(&self, lean: bool) -> Result<()> {
        let mut node = self.node().clone();
        node.options.lean_runtime = lean;
        tokio::task::spawn_blocking(move || {
            node.daemons.stop("containerd");
            node.configure_runtime()?;
            node.run_containerd()
        })
        .await?
    }

    /// Pods that end by themselves and are deleted, in waves; what the agent's memory has grown by since the first ones.
    pub(crate) async fn churn(&mut self, agent: &Agent) -> Result<()> {
        let count = self.extent.churn;
        self.waves(0, FIRST).await?;
        let before = self.memory_at_rest().await?;
        self.waves(FIRST, count).await?;
        let after = self.memory_at_rest().await?;
        self.figures.add("churn-rss-#", count, &agent.name, after.rss - before.rss);
        self.figures.add("churn-anon-#", count, &agent.name, after.anonymous - before.anonymous);
        Ok(())
    }

    pub(crate) async fn memory_at_rest(&self) -> Result<proc::Memory> {
        tokio::time::sleep(FREED).await;
        proc::memory(self.pid()?)
    }

    async fn waves(&self, from: usize, count: usize) -> Result<()> {
        for first in (from..from + count).step_by(WAVE) {
            let wave = first..(first + WAVE).min(from + count);
            let creations =
                stream::iter(wave).map(|i| async move { self.create(&format!("churn-{i}"), &["true"], "Never").await });
            let names: Vec<String> = creations.buffer_unordered(HANDS).try_collect().await?;
            self.watcher.until(&names, "ended", |s| s.ended.is_some()).await?;
            self.delete_quietly(&names).await?;
        }
        Ok(())
    }
}
