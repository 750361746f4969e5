//! A container's security context: the pod's and the container's joined, and what the image says of its user.

use std::path::Path;

use api_types::runtime::v1::{
    Capability, Int64Value, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, SeLinuxOption,
    SecurityProfile, SupplementalGroupsPolicy, UserNamespace, security_profile::ProfileType,
};
use pod::{
    DesiredPod,
    api::{
        AppArmorProfile, Capabilities, Container, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
    },
    mounts::ImageUser,
};

use crate::names::pod_text;

const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const APPARMOR_RUNTIME_DEFAULT: &str = "runtime/default";
const APPARMOR_UNCONFINED: &str = "unconfined";
const APPARMOR_LOCALHOST: &str = "localhost/";

const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecurityError {
    #[error("localhostProfile must be set if seccompProfile type is Localhost.")]
    SeccompWithoutProfile,
    #[error("missing localhost apparmor profile name")]
    AppArmorWithoutProfile,
    #[error("unknown apparmor profile type: {0:?}")]
    AppArmorType(String),
    #[error("unsupported supplementalGroupsPolicy: {0}")]
    GroupsPolicy(String),
    #[error("container's runAsUser breaks non-root policy (pod: {pod:?}, container: {container})")]
    RunAsUserIsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root \
         (pod: {pod:?}, container: {container})"
    )]
    ImageUserIsName { user: String, pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: {pod:?}, container: {container})")]
    ImageIsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has an invalid user id ({uid}). (Must be 1-({})): \
         must be between 0 and {}, inclusive (pod: {pod:?}, container: {container})",
        i32::MAX,
        i32::MAX
    )]
    ImageUidInvalid { uid: i64, pod: String, container: String },
}

/// What the node's configuration adds.
#[derive(Clone, Copy, Debug)]
pub struct SecurityDefaults<'a> {
    /// Containers without a seccomp profile get RuntimeDefault rather than Unconfined.
    pub seccomp_default: bool,
    pub seccomp_root: &'a Path,
    /// Paths masked on this machine besides the fixed ones (`thermal_throttle` of each CPU).
    pub extra_masked_paths: &'a [String],
}

/// The container's fields win over the pod's.
pub fn effective(pod: &DesiredPod, container: &Container) -> SecurityContext {
    let mut out = container.security_context.clone().unwrap_or_default();
    let Some(of_pod) = &pod.spec().security_context else { return out };
    out.se_linux_options = out.se_linux_options.or_else(|| of_pod.se_linux_options.clone());
    out.run_as_user = out.run_as_user.or(of_pod.run_as_user);
    out.run_as_group = out.run_as_group.or(of_pod.run_as_group);
    out.run_as_non_root = out.run_as_non_root.or(of_pod.run_as_non_root);
    out
}

/// Refuses a container that must not be root and would be, or of which nobody can tell.
pub fn verify_non_root(pod: &DesiredPod, container: &Container, image: &ImageUser) -> Result<(), SecurityError> {
    let sc = effective(pod, container);
    if sc.run_as_non_root != Some(true) {
        return Ok(());
    }
    let (pod, container) = (pod_text(&pod.key, &pod.uid), container.name.clone());
    match (sc.run_as_user, image) {
        (Some(0), _) => Err(SecurityError::RunAsUserIsRoot { pod, container }),
        (Some(_), _) => Ok(()),
        (None, ImageUser::Root | ImageUser::Uid(0)) => Err(SecurityError::ImageIsRoot { pod, container }),
        (None, ImageUser::Name(user)) => Err(SecurityError::ImageUserIsName { user: user.clone(), pod, container }),
        (None, ImageUser::Uid(uid)) if !(0..=i64::from(i32::MAX)).contains(uid) => {
            Err(SecurityError::ImageUidInvalid { uid: *uid, pod, container })
        }
        (None, ImageUser::Uid(_)) => Ok(()),
    }
}

pub fn container_security(
    pod: &DesiredPod,
    container: &Container,
    image: &ImageUser,
    userns: UserNamespace,
    defaults: SecurityDefaults,
) -> Result<LinuxContainerSecurityContext, SecurityError> {
    let sc = effective(pod, container);
    let unmasked = sc.proc_mount.as_deref() == Some("Unmasked");
    let mut out = LinuxContainerSecurityContext {
        capabilities: sc.capabilities.as_ref().map(capabilities),
        privileged: sc.privileged.unwrap_or(false),
        selinux_options: sc.se_linux_options.as_ref().map(selinux),
        run_as_user: sc.run_as_user.map(|value| Int64Value { value }),
        run_as_group: sc.run_as_group.map(|value| Int64Value { value }),
        readonly_rootfs: sc.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: sc.allow_privilege_escalation == Some(false),
        masked_paths: if unmasked { Vec::new() } else { masked_paths(defaults) },
        readonly_paths: if unmasked { Vec::new() } else { READONLY_PATHS.map(str::to_owned).to_vec() },
        namespace_options: Some(namespaces(pod, userns)),
        seccomp: Some(seccomp(pod, container, defaults)?),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: groups_policy(pod)?,
        ..LinuxContainerSecurityContext::default()
    };
    if out.run_as_user.is_none() {
        match image {
            ImageUser::Root => out.run_as_user = Some(Int64Value { value: 0 }),
            ImageUser::Uid(value) => out.run_as_user = Some(Int64Value { value: *value }),
            ImageUser::Name(name) => out.run_as_username = name.clone(),
        }
    }
    set_apparmor(&mut out, pod, container)?;
    Ok(out)
}

pub fn namespaces(pod: &DesiredPod, userns: UserNamespace) -> NamespaceOption {
    let spec = pod.spec();
    let or_node = |host: Option<bool>, otherwise: NamespaceMode| {
        if host == Some(true) { NamespaceMode::Node as i32 } else { otherwise as i32 }
    };
    let shared = spec.share_process_namespace == Some(true);
    NamespaceOption {
        network: or_node(spec.host_network, NamespaceMode::Pod),
        ipc: or_node(spec.host_ipc, NamespaceMode::Pod),
        pid: or_node(spec.host_pid, if shared { NamespaceMode::Pod } else { NamespaceMode::Container }),
        target_id: String::new(),
        userns_options: Some(userns),
    }
}

/// Any container of the pod: the sandbox must be privileged to hold a privileged one.
pub fn has_privileged_container(pod: &DesiredPod) -> bool {
    let privileged = |sc: &Option<SecurityContext>| sc.as_ref().and_then(|s| s.privileged) == Some(true);
    let plain = pod.init_containers().iter().chain(pod.regular_containers());
    plain.map(|c| &c.security_context).any(privileged)
        || pod.ephemeral_containers().iter().any(|c| privileged(&c.security_context))
}

pub fn supplemental_groups(pod: &DesiredPod) -> Vec<i64> {
    let Some(sc) = &pod.spec().security_context else { return Vec::new() };
    sc.fs_group.into_iter().chain(sc.supplemental_groups.iter().flatten().copied()).collect()
}

pub fn groups_policy(pod: &DesiredPod) -> Result<i32, SecurityError> {
    let policy = pod.spec().security_context.as_ref().and_then(|sc| sc.supplemental_groups_policy.as_deref());
    match policy {
        None | Some("Merge") => Ok(SupplementalGroupsPolicy::Merge as i32),
        Some("Strict") => Ok(SupplementalGroupsPolicy::Strict as i32),
        Some(other) => Err(SecurityError::GroupsPolicy(other.to_owned())),
    }
}

pub fn selinux(options: &SELinuxOptions) -> SeLinuxOption {
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    SeLinuxOption {
        user: text(&options.user),
        role: text(&options.role),
        r#type: text(&options.type_),
        level: text(&options.level),
    }
}

fn capabilities(c: &Capabilities) -> Capability {
    Capability {
        add_capabilities: c.add.clone().unwrap_or_default(),
        drop_capabilities: c.drop.clone().unwrap_or_default(),
        ..Capability::default()
    }
}

fn masked_paths(defaults: SecurityDefaults) -> Vec<String> {
    let fixed = MASKED_PATHS.iter().map(|p| (*p).to_owned());
    fixed.chain(defaults.extra_masked_paths.iter().cloned()).collect()
}

fn profile(kind: ProfileType, localhost_ref: String) -> SecurityProfile {
    SecurityProfile { profile_type: kind as i32, localhost_ref }
}

fn seccomp(
    pod: &DesiredPod,
    container: &Container,
    defaults: SecurityDefaults,
) -> Result<SecurityProfile, SecurityError> {
    let of_container = container.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref());
    let of_pod = |sc: &PodSecurityContext| sc.seccomp_profile.clone();
    let wanted = of_container.cloned().or_else(|| pod.spec().security_context.as_ref().and_then(of_pod));
    let Some(SeccompProfile { type_, localhost_profile }) = wanted else {
        let kind = if defaults.seccomp_default { ProfileType::RuntimeDefault } else { ProfileType::Unconfined };
        return Ok(profile(kind, String::new()));
    };
    match type_.as_str() {
        "RuntimeDefault" => Ok(profile(ProfileType::RuntimeDefault, String::new())),
        "Localhost" => {
            // An empty name would mean the profile directory itself, which runtimes took for "unconfined" (CVE-2023-2431).
            let name = localhost_profile.filter(|p| !p.is_empty()).ok_or(SecurityError::SeccompWithoutProfile)?;
            let path = defaults.seccomp_root.join(name);
            Ok(profile(ProfileType::Localhost, path.to_string_lossy().into_owned()))
        }
        _ => Ok(profile(ProfileType::Unconfined, String::new())),
    }
}

/// Sets the new field and the old one, which some runtimes still read.
fn set_apparmor(
    out: &mut LinuxContainerSecurityContext,
    pod: &DesiredPod,
    container: &Container,
) -> Result<(), SecurityError> {
    let Some(wanted) = apparmor(pod, container) else { return Ok(()) };
    let (new, old) = match wanted.type_.as_str() {
        "RuntimeDefault" => (profile(ProfileType::RuntimeDefault, String::new()), APPARMOR_RUNTIME_DEFAULT.to_owned()),
        "Unconfined" => (profile(ProfileType::Unconfined, String::new()), APPARMOR_UNCONFINED.to_owned()),
        "Localhost" => {
            let name = wanted.localhost_profile.ok_or(SecurityError::AppArmorWithoutProfile)?;
            let old = format!("{APPARMOR_LOCALHOST}{name}");
            (profile(ProfileType::Localhost, name), old)
        }
        other => return Err(SecurityError::AppArmorType(other.to_owned())),
    };
    out.apparmor = Some(new);
    #[allow(deprecated)]
    out.apparmor_profile.clone_from(&old);
    Ok(())
}

/// The container's field, then the annotation of old, then the pod's field.
fn apparmor(pod: &DesiredPod, container: &Container) -> Option<AppArmorProfile> {
    let of_container = container.security_context.as_ref().and_then(|s| s.app_armor_profile.clone());
    of_container
        .or_else(|| annotated_apparmor(pod, &container.name))
        .or_else(|| pod.spec().security_context.as_ref().and_then(|s| s.app_armor_profile.clone()))
}

fn annotated_apparmor(pod: &DesiredPod, container: &str) -> Option<AppArmorProfile> {
    let (type_, localhost_profile) = match pod.annotation(&format!("{APPARMOR_ANNOTATION}{container}"))? {
        APPARMOR_RUNTIME_DEFAULT => ("RuntimeDefault", None),
        APPARMOR_UNCONFINED => ("Unconfined", None),
        other => ("Localhost", Some(other.strip_prefix(APPARMOR_LOCALHOST)?.to_owned())),
    };
    Some(AppArmorProfile { type_: type_.to_owned(), localhost_profile })
}

#[cfg(test)]
#[path = "security_tests.rs"]
mod tests;
