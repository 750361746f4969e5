//! What the node and its pods use: `/stats/summary`, `/metrics/cadvisor`, `/metrics/resource`; and the agent's own series.
//!
//! Read from the cgroups when asked, at most once a second, but for a second reading where a rate needs one; nothing is
//! sampled in between.

mod cadvisor;
mod cadvisor_details;
mod compressed;
mod disks;
mod exposition;
mod machine;
mod network;
mod now;
mod resource;
mod sample;
mod sandbox_images;
mod storage;
mod summary;
mod turns;

use std::{sync::Arc, time::Duration};

use host::MachineFacts;
use http::{Method, StatusCode, request::Parts};
use http_body_util::{BodyExt, Limited};

use crate::{
    dispatch::{Call, Context},
    query::Query,
    reply::{self, Reply},
};
use cadvisor::Beside;
use cadvisor_details::Extra;
use sample::Pair;
pub use sample::Stats;

const MOST_FORM_BYTES: usize = 4096;
/// Two samples for one answer.
const APART: Duration = Duration::from_millis(100);

pub async fn summary(context: &Arc<Context>, call: Call) -> Reply {
    let mut only_cpu_and_memory = call.query().first("only_cpu_and_memory") == Some("true");
    if call.head.method == Method::POST
        && let Ok(form) = Limited::new(call.body, MOST_FORM_BYTES).collect().await
    {
        let form = form.to_bytes();
        let form = Query::parse(std::str::from_utf8(&form).ok());
        only_cpu_and_memory |= form.first("only_cpu_and_memory") == Some("true");
    }
    match samples_with_rates(context).await {
        Ok((now, before)) => {
            let file_systems = if only_cpu_and_memory { None } else { Some(summary::file_systems(context).await) };
            reply::json(&summary::summary(&context.config.node_name, &now, before.as_deref(), file_systems.as_ref()))
        }
        Err(refusal) => refusal,
    }
}

pub async fn cadvisor(context: &Arc<Context>, head: &Parts) -> Reply {
    match samples(context).await {
        Ok((now, _)) => {
            let sandboxes = now.pods.iter().filter_map(|pod| Some(&pod.sandbox.as_ref()?.id)).collect();
            let images = context.stats.sandbox_images.of(&context.deps.cri, sandboxes).await;
            let reader = context.clone();
            // Reads a few files for each cgroup, and every process' descriptors.
            let text = context.stats.details.take(move || {
                let cgroups = &reader.deps.cgroups;
                let beside = Beside::read(cgroups, &now, images);
                let groups = cadvisor::groups(&now, &beside);
                let details = groups.iter().map(|group| cgroups.details(group.labels[1])).collect();
                let extra = Extra { details, disks: disks::mounted(), device_names: disks::names() };
                cadvisor::render(&now, &groups, &extra, &MachineFacts::read())
            });
            match text.await {
                Ok(text) => compressed::page(&head.headers, text).await,
                Err(_) => failed(),
            }
        }
        Err(refusal) => refusal,
    }
}

fn failed() -> Reply {
    reply::text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Error: reading statistics failed\n")
}

pub async fn resource(context: &Arc<Context>, head: &Parts) -> Reply {
    match samples(context).await {
        Ok((now, _)) => compressed::page(&head.headers, resource::render(&now)).await,
        Err(refusal) => refusal,
    }
}

/// The sample of this second, and an earlier one for rates.
async fn samples(context: &Arc<Context>) -> Result<Pair, Reply> {
    let reader = context.clone();
    // Cgroup files are read by blocking calls.
    let read = context.stats.samples.take(move || reader.stats.current(&reader.deps));
    read.await.map_err(|_| failed())
}

/// Who asks for the first time, or seldom, waits for a second sample.
async fn samples_with_rates(context: &Arc<Context>) -> Result<Pair, Reply> {
    let (now, before) = samples(context).await?;
    if sample::has_rates(now.mono, before.as_ref().map(|before| before.mono)) {
        return Ok((now, before));
    }
    tokio::time::sleep(APART).await;
    let reader = context.clone();
    let read = context.stats.samples.take(move || reader.stats.after(&now, &reader.deps));
    read.await.map_err(|_| failed())
}

/// Which of the agent's own series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registry {
    Kubelet,
    Probes,
    Slis,
}

impl Registry {
    fn has(self, family: &str) -> bool {
        let probes = family.starts_with("prober_");
        let slis = family.starts_with("kubernetes_healthcheck");
        match self {
            Registry::Kubelet => !probes && !slis,
            Registry::Probes => probes,
            Registry::Slis => slis,
        }
    }
}

pub async fn own(context: &Arc<Context>, head: &Parts, registry: Registry) -> Reply {
    let mut text = exposition::families(&metrics::gather(), |family| registry.has(family));
    match registry {
        Registry::Kubelet => text.push_str(&now::render(context, &storage::logs(context).await)),
        Registry::Probes => text.push_str(&now::start_time()),
        Registry::Slis => {}
    }
    compressed::page(&head.headers, text).await
}
