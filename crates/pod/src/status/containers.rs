//! The statuses of a pod's containers: what the runtime shows, filled up from the previous status and from what the
//! worker says stands in the way.

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, ContainerUser, LinuxContainerUser, ResourceRequirements, VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::StatusInput;
use crate::{
    ContainerState as Observed, Containers, DesiredPod, ObservedContainer, Verdict,
    desired::{ephemeral_as_container, init_kind},
    quantity::{ApiList, Format, Quantity},
    reason,
    resources::{MIN_MILLI_CPU_LIMIT, MIN_SHARES, quota_to_milli_cpu, shares_to_milli_cpu},
    restart::after_exit,
};

pub(super) const UNKNOWN_EXIT_CODE: i32 = 137;

/// One list of statuses and what it is made from.
struct Listing<'a> {
    input: &'a StatusInput<'a>,
    old: Option<&'a Vec<ContainerStatus>>,
}

/// In spec order.
pub(super) fn of_init(input: &StatusInput<'_>) -> Vec<ContainerStatus> {
    let listing = Listing { input, old: input.old().init_container_statuses.as_ref() };
    input.desired.init_containers().iter().map(|c| listing.status(c, init_kind(c))).collect()
}

/// By name, as upstream sorts them.
pub(super) fn of_regular(input: &StatusInput<'_>) -> Vec<ContainerStatus> {
    let listing = Listing { input, old: input.old().container_statuses.as_ref() };
    let containers = input.desired.regular_containers().iter();
    by_name(containers.map(|c| listing.status(c, Containers::Regular)).collect())
}

/// By name, as upstream sorts them.
pub(super) fn of_ephemeral(input: &StatusInput<'_>) -> Vec<ContainerStatus> {
    let listing = Listing { input, old: input.old().ephemeral_container_statuses.as_ref() };
    let containers = input.desired.ephemeral_containers().iter().map(ephemeral_as_container);
    by_name(containers.map(|c| listing.status(&c, Containers::Ephemeral)).collect())
}

fn by_name(mut statuses: Vec<ContainerStatus>) -> Vec<ContainerStatus> {
    statuses.sort_by(|a, b| a.name.cmp(&b.name));
    statuses
}

pub(super) fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}
pub(super) fn last_terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.last_state.as_ref()?.terminated.as_ref()
}
pub(super) fn is_waiting(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.waiting.is_some())
}
pub(super) fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|s| s.running.is_some())
}

pub(super) fn ended(end: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(end), ..ContainerState::default() }
}

/// Why a container waits of which nothing else is known.
pub fn default_reason(desired: &DesiredPod) -> &'static str {
    if desired.init_containers().is_empty() { reason::CONTAINER_CREATING } else { reason::POD_INITIALIZING }
}

fn waiting(reason: &str, message: &str) -> ContainerState {
    let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let waiting = ContainerStateWaiting { reason: set(reason), message: set(message) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

/// The end of a container that nobody saw.
pub(super) fn lost(message: &str) -> ContainerStateTerminated {
    ContainerStateTerminated {
        reason: Some(reason::CONTAINER_STATUS_UNKNOWN.to_owned()),
        message: Some(message.to_owned()),
        exit_code: UNKNOWN_EXIT_CODE,
        ..ContainerStateTerminated::default()
    }
}

pub(super) fn container_id(observed: &ObservedContainer) -> String {
    format!("containerd://{}", observed.id)
}

impl Listing<'_> {
    fn status(&self, container: &Container, kind: Containers) -> ContainerStatus {
        let old = self.old.into_iter().flatten().find(|s| s.name == container.name);
        let seen: Vec<&ObservedContainer> =
            self.input.observed.containers.iter().filter(|c| c.name == container.name).take(2).collect();
        let mut status = match seen.first() {
            Some(newest) => self.of_observed(container, newest, old),
            None => self.of_absent(container, old),
        };
        if let Some(previous) = seen.get(1) {
            let state = self.state(previous, old);
            status.last_state = (state.waiting.is_none()).then_some(state).or(status.last_state);
        }
        self.hold_back(&mut status, container, kind, seen.first().copied());
        self.judge(&mut status, container, kind, old);
        status
    }

    // ---- a container that the runtime shows

    fn of_observed(
        &self,
        container: &Container,
        seen: &ObservedContainer,
        old: Option<&ContainerStatus>,
    ) -> ContainerStatus {
        let id = container_id(seen);
        let mut status = ContainerStatus {
            name: container.name.clone(),
            restart_count: i32::try_from(seen.restart_count).unwrap_or(i32::MAX),
            image: seen.image.clone(),
            image_id: seen.image_id.clone(),
            state: Some(self.state(seen, old)),
            volume_mounts: self.volume_mounts(container, Some(seen), old),
            user: user(seen),
            resources: Some(resources(container, seen, old.filter(|o| o.container_id.as_deref() == Some(&id)))),
            allocated_resources: container.resources.as_ref().and_then(|r| r.requests.clone()),
            container_id: Some(id),
            ..ContainerStatus::default()
        };
        let Some(old) = old else { return status };
        status.restart_count = status.restart_count.max(old.restart_count);
        let replaced = old.container_id != status.container_id;
        status.last_state = match terminated(old) {
            // The runtime may have lost the predecessor; its end was told before.
            Some(end) if replaced => Some(ended(end.clone())),
            _ => last_terminated(old).map(|end| ended(end.clone())),
        };
        let restarted = replaced && terminated(old).is_some() && is_running(&status);
        if restarted && old.restart_count >= i32::try_from(seen.restart_count).unwrap_or(i32::MAX) {
            status.restart_count = old.restart_count + 1;
        }
        if seen.state == Observed::Unknown && is_running(old) {
            status.restart_count = old.restart_count + 1;
        }
        status
    }

    fn state(&self, seen: &ObservedContainer, old: Option<&ContainerStatus>) -> ContainerState {
        match seen.state {
            Observed::Running => {
                let running = ContainerStateRunning { started_at: seen.started_at.map(Time) };
                ContainerState { running: Some(running), ..ContainerState::default() }
            }
            Observed::Exited => ended(end_of(seen)),
            Observed::Unknown if old.is_some_and(is_running) => {
                ended(lost("The container could not be located when the pod was terminated"))
            }
            Observed::Created | Observed::Unknown => waiting(default_reason(self.input.desired), ""),
        }
    }

    // ---- a container that the runtime does not know (yet, or any more)

    fn of_absent(&self, container: &Container, old: Option<&ContainerStatus>) -> ContainerStatus {
        let mut status = ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            state: Some(waiting(default_reason(self.input.desired), "")),
            volume_mounts: self.volume_mounts(container, None, old),
            ..ContainerStatus::default()
        };
        let Some(old) = old else { return status };
        if self.input.is_restarting_all() && !is_waiting(old) {
            return removed_to_restart(old, status);
        }
        if terminated(old).is_some() {
            return old.clone();
        }
        status.restart_count = old.restart_count;
        status.last_state = old.last_state.clone().filter(|l| l.terminated.is_some());
        if is_running(old) && last_terminated(&status).is_none() {
            // It ran and its end is unknown: that is not the same as never having run.
            status.last_state = Some(ended(lost(
                "The container could not be located when the pod was deleted.  The container used to be Running",
            )));
            if !self.input.desired.deletion_requested() {
                status.restart_count += 1;
            }
        }
        status
    }

    // ---- what stands in the way

    /// A container that shall run but does not is shown as waiting, with the reason that its worker gives.
    fn hold_back(
        &self,
        status: &mut ContainerStatus,
        container: &Container,
        kind: Containers,
        seen: Option<&ObservedContainer>,
    ) {
        let is_init = matches!(kind, Containers::Init | Containers::Sidecar);
        if is_init && seen.is_some_and(|c| c.state == Observed::Exited && c.exit_code == 0) {
            return;
        }
        if kind == Containers::Init
            && seen.is_none()
            && is_waiting(status)
            && self.any_regular_made()
            && !self.input.is_restarting_all()
        {
            status.state = Some(ended(ContainerStateTerminated {
                reason: Some(reason::COMPLETED.to_owned()),
                message: Some("Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally".to_owned()),
                ..ContainerStateTerminated::default()
            }));
            return;
        }
        if !self.runs_again(container, seen) {
            return;
        }
        let (reason, message) = match self.input.report.waiting_for(&container.name) {
            Some(why) => (why.reason.as_str(), why.message.as_str()),
            // No later status may take back an end that looks final.
            None if seen.is_some_and(|c| self.looks_final(container, c)) => (default_reason(self.input.desired), ""),
            None => return,
        };
        if let Some(end) = terminated(status) {
            status.last_state = Some(ended(end.clone()));
        }
        status.state = Some(waiting(reason, message));
    }

    /// Running with a reason to wait means that its postStart hook has not ended: it is not up yet.
    fn runs_again(&self, container: &Container, seen: Option<&ObservedContainer>) -> bool {
        if self.input.desired.deletion_requested() {
            return false;
        }
        seen.is_none_or(|c| self.input.report.restarting.contains(&c.id) || !self.looks_final(container, c))
    }

    /// It has ended, and the restart policy alone would leave it at that.
    fn looks_final(&self, container: &Container, seen: &ObservedContainer) -> bool {
        let policy = self.input.desired.restart_policy();
        seen.state == Observed::Exited && !after_exit(container, policy, seen.exit_code)
    }

    fn any_regular_made(&self) -> bool {
        let regular = self.input.desired.regular_containers();
        let made = |c: &ObservedContainer| c.state != Observed::Unknown && regular.iter().any(|r| r.name == c.name);
        self.input.observed.containers.iter().any(made)
    }

    // ---- probes

    /// Fills in `started` and `ready`.
    fn judge(
        &self,
        status: &mut ContainerStatus,
        container: &Container,
        kind: Containers,
        old: Option<&ContainerStatus>,
    ) {
        if kind == Containers::Ephemeral {
            return;
        }
        let started = self.is_started(status, container, old);
        status.started = Some(started);
        status.ready = match kind {
            Containers::Init => terminated(status).is_some_and(|end| end.exit_code == 0),
            _ => started && self.is_ready(status, container, old),
        };
    }

    fn is_started(&self, status: &ContainerStatus, container: &Container, old: Option<&ContainerStatus>) -> bool {
        if !is_running(status) {
            return false;
        }
        match self.probes(status).startup {
            Some(verdict) => verdict == Verdict::Success,
            // The agent was restarted and has not probed again yet.
            None => container.startup_probe.is_none() || same(status, old).is_some_and(|o| o.started == Some(true)),
        }
    }

    fn is_ready(&self, status: &ContainerStatus, container: &Container, old: Option<&ContainerStatus>) -> bool {
        match self.probes(status).readiness {
            Some(verdict) => verdict == Verdict::Success,
            None => container.readiness_probe.is_none() || same(status, old).is_some_and(|o| o.ready),
        }
    }

    fn probes(&self, status: &ContainerStatus) -> crate::ContainerProbes {
        let id = status.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://"));
        id.map(|id| self.input.probes.of(&id.into())).unwrap_or_default()
    }

    // ---- mounts

    /// Fixed once they are known, but for what only the runtime can tell of a mount.
    fn volume_mounts(
        &self,
        container: &Container,
        seen: Option<&ObservedContainer>,
        old: Option<&ContainerStatus>,
    ) -> Option<Vec<VolumeMountStatus>> {
        let known = old.filter(|o| seen.is_some_and(|c| o.container_id.as_deref() == Some(&container_id(c))));
        if let Some(mounts) = known.and_then(|o| o.volume_mounts.clone()) {
            return Some(mounts);
        }
        let mounts: Vec<VolumeMountStatus> = container
            .volume_mounts
            .iter()
            .flatten()
            .map(|mount| {
                let read_only = mount.read_only == Some(true);
                let observed = seen.and_then(|c| c.mounts.iter().find(|m| m.container_path == mount.mount_path));
                let wanted = mount.recursive_read_only.as_deref() == Some("Enabled");
                let recursive = observed.map_or(wanted, |m| m.recursive_read_only);
                let mode = if recursive { "Enabled" } else { "Disabled" };
                VolumeMountStatus {
                    name: mount.name.clone(),
                    mount_path: mount.mount_path.clone(),
                    read_only: read_only.then_some(true),
                    recursive_read_only: read_only.then(|| mode.to_owned()),
                    volume_status: None,
                }
            })
            .collect();
        (!mounts.is_empty()).then_some(mounts)
    }
}

/// Its own end, if it had one, counts no more: it begins anew with all the others.
fn removed_to_restart(old: &ContainerStatus, fresh: ContainerStatus) -> ContainerStatus {
    let message = "The container is removed because RestartAllContainers in place";
    let why = reason::RESTARTING_ALL_CONTAINERS;
    let base = if terminated(old).is_some() { old.clone() } else { fresh };
    ContainerStatus {
        state: Some(waiting(why, message)),
        last_state: Some(ended(ContainerStateTerminated { reason: Some(why.to_owned()), ..lost(message) })),
        restart_count: old.restart_count + 1,
        ..base
    }
}

/// The previous status, if it is of the very same container and that ran.
fn same<'a>(status: &ContainerStatus, old: Option<&'a ContainerStatus>) -> Option<&'a ContainerStatus> {
    old.filter(|o| o.container_id == status.container_id && is_running(o))
}

fn end_of(seen: &ObservedContainer) -> ContainerStateTerminated {
    let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ContainerStateTerminated {
        exit_code: seen.exit_code,
        reason: set(&seen.reason),
        message: set(&seen.message),
        // Of one that never started upstream tells the beginning of time too.
        started_at: Some(Time(seen.started_at.unwrap_or(crate::time::Timestamp::UNIX_EPOCH))),
        finished_at: seen.finished_at.map(Time),
        container_id: Some(container_id(seen)),
        signal: None,
    }
}

fn user(seen: &ObservedContainer) -> Option<ContainerUser> {
    let user = seen.user.as_ref()?;
    let groups = &user.supplemental_groups;
    let linux = LinuxContainerUser {
        uid: user.uid,
        gid: user.gid,
        supplemental_groups: (!groups.is_empty()).then(|| groups.clone()),
    };
    Some(ContainerUser { linux: Some(linux) })
}

/// What the kernel enforces now, for a running container; else what it was given. Amounts too small for the kernel
/// to tell apart are shown as given.
fn resources(container: &Container, seen: &ObservedContainer, old: Option<&ContainerStatus>) -> ResourceRequirements {
    let mut shown = container.resources.clone().unwrap_or_default();
    if seen.state != Observed::Running {
        return shown;
    }
    let actual = seen.resources.clone().unwrap_or_default();
    let old = old.filter(|o| is_running(o)).and_then(|o| o.resources.as_ref());
    if let Some(limits) = &mut shown.limits {
        let old = old.and_then(|o| o.limits.as_ref());
        let cpu = quota_to_milli_cpu(actual.cpu_quota, actual.cpu_period);
        show_cpu(limits, old, cpu, MIN_MILLI_CPU_LIMIT);
        if actual.memory_limit_bytes > 0 {
            limits.insert("memory".into(), Quantity::from_value(actual.memory_limit_bytes, Format::BinarySi).to_api());
        } else if let Some(memory) = old.and_then(|o| o.get("memory")) {
            limits.insert("memory".into(), memory.clone());
        }
    }
    if let Some(requests) = &mut shown.requests {
        let old = old.and_then(|o| o.requests.as_ref());
        show_cpu(requests, old, shares_to_milli_cpu(actual.cpu_shares), MIN_SHARES as i64);
    }
    shown
}

fn show_cpu(list: &mut ApiList, old: Option<&ApiList>, actual: i64, floor: i64) {
    let given = list.get("cpu").map(Quantity::of).unwrap_or_default().milli_value();
    if actual > 0 {
        if actual > floor || given > floor {
            list.insert("cpu".into(), Quantity::from_milli(actual, Format::DecimalSi).to_api());
        }
    } else if let Some(cpu) = old.and_then(|o| o.get("cpu")) {
        list.insert("cpu".into(), cpu.clone());
    }
}
