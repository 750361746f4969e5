//! What this node shall run, from three sources: the API server, a manifest directory or file, a URL.
//!
//! One stream of [`SourceEvent`]s. Static pods need no API server; where there is one, each gets a mirror pod.

mod api;
mod files;
mod manifest;
mod mirror;
mod statics;
#[cfg(test)]
mod tests;
mod url;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use apiserver::ApiServer;
use host::Clock;
use pod::{DesiredPod, PodUid, Source, api::Pod};
use tokio::{sync::mpsc, task::JoinSet};

pub use mirror::Mirrors;

/// News about what is desired.
#[derive(Clone, Debug)]
pub enum SourceEvent {
    /// New or changed; a pod that is being deleted too, since its worker ends it.
    Set(DesiredPod),
    /// The source has it no longer.
    Removed(PodUid),
    /// The API object that stands for a static pod, or that there is none now.
    Mirror { static_uid: PodUid, mirror: Option<Box<Pod>> },
    /// The source has delivered its first full state.
    Synced(Source),
}

#[derive(Clone, Debug, Default)]
pub struct SourceConfig {
    pub node_name: String,
    /// A directory of manifests or a single file.
    pub static_pod_path: Option<PathBuf>,
    pub file_check: Duration,
    pub static_pod_url: Option<String>,
    pub url_headers: BTreeMap<String, Vec<String>>,
    pub url_check: Duration,
}

impl SourceConfig {
    /// The sources that will say [`SourceEvent::Synced`].
    pub fn sources(&self, api: bool) -> Vec<Source> {
        let has = [
            (Source::Api, api),
            (Source::File, self.static_pod_path.is_some()),
            (Source::Http, self.static_pod_url.is_some()),
        ];
        has.into_iter().filter(|(_, there)| *there).map(|(source, _)| source).collect()
    }
}

/// Ends with its owner, and every source with it.
#[derive(Debug)]
pub struct PodSource {
    mirrors: Option<Mirrors>,
    _tasks: JoinSet<()>,
}

const BACKLOG: usize = 256;

impl PodSource {
    pub fn spawn(config: SourceConfig, api: Option<ApiServer>, clock: Clock) -> (Self, mpsc::Receiver<SourceEvent>) {
        let (out, events) = mpsc::channel(BACKLOG);
        let mut tasks = JoinSet::new();
        let sources = config.sources(api.is_some());
        let mirrors =
            api.clone().map(|api| Mirrors::spawn(api, &config.node_name, clock, &sources, out.clone(), &mut tasks));
        if let Some(path) = config.static_pod_path.clone() {
            let statics = statics::Statics::new(Source::File, out.clone(), mirrors.clone(), clock);
            tasks.spawn(files::watch(path, config.file_check, config.node_name.clone(), clock, statics));
        }
        if let Some(address) = config.static_pod_url.clone() {
            let statics = statics::Statics::new(Source::Http, out.clone(), mirrors.clone(), clock);
            let poll = url::Poll { address, headers: config.url_headers.clone(), every: config.url_check };
            tasks.spawn(url::poll(poll, config.node_name.clone(), statics));
        }
        if let (Some(api), Some(mirrors)) = (api, mirrors.clone()) {
            tasks.spawn(api::follow(api, config.node_name, clock, out, mirrors));
        }
        (Self { mirrors, _tasks: tasks }, events)
    }

    /// To be told when static pods have ended. None without an API server: then there are no mirrors.
    pub fn mirrors(&self) -> Option<Mirrors> {
        self.mirrors.clone()
    }
}
