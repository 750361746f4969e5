//! The gRPC services for programs on the node: which are on, on which sockets, and what they see of the pods.

use std::sync::Arc;

use host::{Clock, RootDir};
use node_api::{PodRow, Pods, bind};
use pod::Life;
use pod_workers::{PodView, PodsView};
use tokio::task::JoinSet;

use crate::options::Options;

/// As with the upstream kubelet the agent does not start where it cannot listen: whoever gives out devices or watches
/// them would else see a node without pods.
pub(super) fn serve(
    options: &Options,
    root: &RootDir,
    clock: Clock,
    view: &PodsView,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let rows = view.clone();
    let pods = Pods::new(move || rows.list().iter().map(row).collect(), view.changes(), view.complete());
    let active_only = options.gates.enabled("KubeletPodResourcesListUseActivePods");
    let listener = bind(&root.pod_resources().join("kubelet.sock"))?;
    tasks.spawn(node_api::pod_resources(listener, pods.clone(), clock, active_only));
    if options.gates.enabled("PodsAPI") {
        let listener = bind(&root.pods_api().join("pods-api.sock"))?;
        tasks.spawn(node_api::pods_api(listener, pods, clock));
    }
    Ok(())
}

fn row(view: &Arc<PodView>) -> PodRow {
    let ended = matches!(view.status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let active = match view.life {
        Life::Terminated | Life::Gone | Life::Rejected { .. } => false,
        // Its containers may still be running.
        Life::Terminating { .. } => true,
        Life::Pending | Life::Syncing => !ended,
    };
    PodRow { desired: view.desired.clone(), status: view.status.clone(), active, gone: view.life == Life::Gone }
}
