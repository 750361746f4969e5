//! The floor under any kubelet: the same pods by raw CRI calls, with nobody else asking the runtime.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};
use cri::{Cri, EventKind};
use futures::{StreamExt, stream};
use host::Clock;
use pod::{ContainerId, SandboxId};

use crate::{figures::Quantiles, floor_pod, last_words, measures::COMMAND};

/// Pods under way at once in the burst; the best of these counts.
const WORKERS: [usize; 3] = [2, 4, 8];

pub struct Floor {
    cri: Cri,
    clock: Clock,
    logs: std::path::PathBuf,
    cgroup: String,
}

#[derive(Clone)]
struct Made {
    sandbox: SandboxId,
    container: ContainerId,
}

/// In milliseconds but for the burst, which is in seconds.
#[derive(Debug)]
pub struct FloorFigures {
    pub start: Quantiles,
    pub stop: Quantiles,
    /// From a container's end to the runtime's event about it.
    pub ended: Quantiles,
    pub burst: f64,
}

impl Floor {
    pub fn new(cri: Cri, logs: &Path, cgroup: &str, clock: Clock) -> Arc<Self> {
        Arc::new(Self { cri, clock, logs: logs.to_owned(), cgroup: format!("/{cgroup}/floor") })
    }

    pub async fn measure(self: &Arc<Self>, singles: usize, burst: usize) -> Result<FloorFigures> {
        let (mut starts, mut stops) = (Vec::new(), Vec::new());
        for i in 0..=singles {
            let begun = self.clock.mono();
            let made = self.start(&format!("single-{i}"), &COMMAND).await?;
            let started = self.clock.mono();
            self.stop(&made).await?;
            if i > 0 {
                starts.push(started.since(begun).as_secs_f64() * 1e3);
                stops.push(self.clock.mono().since(started).as_secs_f64() * 1e3);
            }
        }
        let mut best = f64::MAX;
        for workers in WORKERS {
            best = best.min(self.burst(burst, workers).await?);
        }
        let ends = self.ends(singles).await?;
        let [start, stop, ended] = [&starts, &stops, &ends].map(|samples| Quantiles::of(samples));
        Ok(FloorFigures { start, stop, ended, burst: best })
    }

    async fn burst(self: &Arc<Self>, pods: usize, workers: usize) -> Result<f64> {
        let begun = self.clock.mono();
        let starts = stream::iter(0..pods).map(|i| {
            let floor = self.clone();
            async move { floor.start(&format!("burst-{workers}-{i}"), &COMMAND).await }
        });
        let made: Vec<Result<Made>> = starts.buffer_unordered(workers).collect().await;
        let took = self.clock.mono().since(begun).as_secs_f64();
        let made = made.into_iter().collect::<Result<Vec<_>>>()?;
        let stops = stream::iter(&made).map(|each| self.stop(each)).buffer_unordered(pods);
        stops.collect::<Vec<_>>().await.into_iter().collect::<Result<()>>()?;
        eprintln!("  floor: {pods} pods by {workers} at once in {took:.2} s");
        Ok(took)
    }

    /// Nobody who waits for the runtime's word can know earlier that a container has ended.
    async fn ends(&self, singles: usize) -> Result<Vec<f64>> {
        let mut late = Vec::new();
        let mut events = self.cri.container_events();
        for i in 0..singles {
            let name = format!("ended-{i}");
            let made = self.start(&name, &["sh", "-c", &format!("sleep 1; {}", last_words::COMMAND)]).await?;
            let told = loop {
                let event = events.next().await.context("the runtime tells no more events")??;
                if event.kind == EventKind::Stopped && event.id == made.container {
                    break self.clock.mono();
                }
            };
            let log = std::fs::read_to_string(self.directory(&name).join("c.log"))?;
            late.push(last_words::until(&log, told, self.clock)?);
            self.stop(&made).await?;
        }
        Ok(late)
    }

    fn directory(&self, name: &str) -> std::path::PathBuf {
        self.logs.join(format!("floor-{name}"))
    }

    async fn start(&self, name: &str, command: &[&str]) -> Result<Made> {
        let logs = self.directory(name);
        std::fs::create_dir_all(&logs)?;
        let config = floor_pod::sandbox(name, &logs, &self.cgroup);
        let sandbox = self.cri.run_pod_sandbox(config.clone(), "").await?;
        let container = floor_pod::container(name, command, &logs)?;
        let container = self.cri.create_container(&sandbox, container, config).await?;
        self.cri.start_container(&container).await?;
        Ok(Made { sandbox, container })
    }

    /// As for a pod deleted with a grace of one second, which Kubernetes makes two, whose process ignores SIGTERM.
    async fn stop(&self, made: &Made) -> Result<()> {
        self.cri.stop_container(&made.container, std::time::Duration::from_secs(2)).await?;
        self.cri.stop_pod_sandbox(&made.sandbox).await?;
        self.cri.remove_container(&made.container).await?;
        Ok(self.cri.remove_pod_sandbox(&made.sandbox).await?)
    }
}
