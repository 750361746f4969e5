//! The CRI calls that the agent makes, and what a node is like whose runtime has not got one of them.

/// One thing that a runtime should be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub name: &'static str,
    pub need: Need,
    /// What follows where it does not work, and what to do.
    pub without: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Required,
    /// The agent does without, if the runtime says that it has no such call. A call that is there has to be right.
    Optional,
}

const fn required(name: &'static str, without: &'static str) -> Call {
    Call { name, need: Need::Required, without }
}
const fn optional(name: &'static str, without: &'static str) -> Call {
    Call { name, need: Need::Optional, without }
}

pub(super) const VERSION: Call =
    required("Version", "the agent does not start; it needs CRI v1, see that the runtime's CRI plugin is enabled");
pub(super) const STATUS: Call =
    required("Status", "the node stays NotReady; the runtime's log and its CNI configuration say more");
pub(super) const RUNTIME_CONFIG: Call =
    optional("RuntimeConfig", "cgroupDriver of the agent's configuration counts; see that it is the runtime's");
pub(super) const UPDATE_RUNTIME_CONFIG: Call =
    required("UpdateRuntimeConfig", "the runtime does not learn the node's pod CIDR");
pub(super) const LIST_IMAGES: Call =
    required("ListImages", "no image garbage collection, no images in the node's status");
pub(super) const IMAGE_STATUS: Call =
    required("ImageStatus", "no container starts; is imageServiceEndpoint the socket of an image service?");
pub(super) const PULL_IMAGE: Call =
    required("PullImage", "no image gets here; look at the runtime's registry configuration and at the network");
pub(super) const REMOVE_IMAGE: Call =
    required("RemoveImage", "no image garbage collection: images fill the disk; is something else holding the image?");
pub(super) const IMAGE_FS_INFO: Call = required("ImageFsInfo", "no image garbage collection, no imageFs in statistics");
pub(super) const RUN_SANDBOX: Call =
    required("RunPodSandbox", "no pod starts; look at the sandbox image, CNI, the cgroup driver, the runtime's log");
pub(super) const LIST_SANDBOX: Call =
    required("ListPodSandbox, PodSandboxStatus", "pods are not seen; the agent would make them again");
pub(super) const HOST_NAMESPACES: Call =
    required("host network, host PID", "pods of the node's own services (hostNetwork, hostPID) see other namespaces");
pub(super) const UNKNOWN_HANDLER: Call = required(
    "unknown runtime handler",
    "a pod whose RuntimeClass this node does not have runs all the same, say without the sandbox it was to have",
);
pub(super) const USER_NAMESPACE: Call = optional(
    "user namespace",
    "no pods with hostUsers false; may every user pass through the runtime's directories, do file systems take id maps?",
);
pub(super) const CREATE: Call = required("CreateContainer", "no container starts; the runtime's log says more");
pub(super) const START: Call = required("StartContainer", "no container starts; see that runc works on this machine");
pub(super) const LIST: Call = required("ListContainers, ContainerStatus", "containers are not seen");
pub(super) const EXEC_SYNC: Call = required("ExecSync", "exec probes and exec hooks fail");
pub(super) const EXEC_TIMEOUT: Call =
    required("ExecSync past its time", "an exec probe that hangs is not told from one that fails");
pub(super) const EXEC: Call = required("Exec", "no kubectl exec; is the runtime's streaming server enabled?");
pub(super) const ATTACH: Call = required("Attach", "no kubectl attach; is the runtime's streaming server enabled?");
pub(super) const PORT_FORWARD: Call =
    required("PortForward", "no kubectl port-forward; is the runtime's streaming server enabled?");
pub(super) const LOG: Call = required("container log", "no kubectl logs; may the runtime write to podLogsDir?");
pub(super) const REOPEN_LOG: Call = required("ReopenContainerLog", "logs cannot be rotated and fill the disk");
pub(super) const USER: Call = required("runAsUser, runAsGroup", "containers run as somebody else than their pod says");
pub(super) const READ_ONLY: Call =
    required("readOnlyRootFilesystem", "containers may write where their pod forbids it");
pub(super) const CAPABILITIES: Call =
    required("capabilities, no new privileges", "containers have rights that their pod takes from them");
pub(super) const STATS: Call =
    required("ListContainerStats", "no limit on local storage, no writable layers in statistics");
pub(super) const UPDATE: Call = required("UpdateContainerResources", "no resize of a pod in place");
pub(super) const UPDATE_SANDBOX: Call =
    optional("UpdatePodSandboxResources", "nothing is missing: only runtimes with VMs want to be told");
pub(super) const CHECKPOINT: Call = optional("CheckpointContainer", "no checkpoints of containers (the kubelet's API)");
pub(super) const EXIT_CODE: Call = required("exit code", "restart rules and Jobs go by wrong exit codes");
pub(super) const STOP: Call = required("StopContainer", "containers are killed without their grace period, or stay");
pub(super) const REMOVE: Call = required("RemoveContainer", "dead containers fill the disk");
pub(super) const STOP_SANDBOX: Call = required("StopPodSandbox", "deleted pods stay, and so do their addresses");
pub(super) const REMOVE_SANDBOX: Call = required("RemovePodSandbox", "dead sandboxes fill the disk");
pub(super) const AGAIN: Call =
    required("stop and remove again", "a pod's end that was broken off is never finished after a restart of the agent");
pub(super) const UNKNOWN: Call =
    required("stop and remove what is not there", "pods that the runtime has forgotten cannot be deleted");
pub(super) const EVENTS: Call =
    optional("GetContainerEvents", "the agent uses containerd's own events, or looks at the runtime every second");
pub(super) const CLEANUP: Call =
    required("nothing is left", "what this check has made is still there; run it again, it begins with removing it");
