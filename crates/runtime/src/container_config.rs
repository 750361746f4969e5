//! Container spec to ContainerConfig.

use std::collections::BTreeMap;

use api_types::runtime::v1::{
    ContainerConfig, ContainerMetadata, Device, ImageSpec, KeyValue, LinuxContainerConfig, Mount, MountPropagation,
    NamespaceMode, UserNamespace,
};
use cri::labels;
use pod::{
    ContainerId, DesiredPod,
    api::Container,
    hash::container_hash_text,
    mounts::{ContainerMount, Propagation, ResolvedImage},
};

use crate::{
    config::RuntimeConfig,
    env::Environment,
    error::RuntimeError,
    names, resources,
    sandbox_config::identity,
    security::{self, SecurityDefaults, SecurityError},
};

/// What comes from elsewhere than pod and configuration.
#[derive(Clone, Debug)]
pub struct ContainerInput<'a> {
    pub restart_count: u32,
    pub image: &'a ResolvedImage,
    pub env: &'a Environment,
    /// All of them: volumes, /etc/hosts, termination log.
    pub mounts: &'a [ContainerMount],
    pub devices: &'a [ContainerDevice],
    pub userns: UserNamespace,
    /// Supplemental groups that volumes ask for.
    pub volume_groups: &'a [i64],
    /// The container whose processes an ephemeral one sees.
    pub target: Option<&'a ContainerId>,
    /// The node's; 0 where unknown.
    pub allocatable_memory: i64,
}

/// A device of the host inside the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerDevice {
    pub host_path: String,
    pub container_path: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

pub fn container_config(
    pod: &DesiredPod,
    container: &Container,
    input: ContainerInput,
    config: &RuntimeConfig,
) -> Result<ContainerConfig, RuntimeError> {
    security::verify_non_root(pod, container, &input.image.user)?;
    let expand = |list: &Option<Vec<String>>| {
        let texts = list.iter().flatten().map(|text| input.env.expand(text));
        texts.collect::<Option<Vec<String>>>().ok_or(RuntimeError::NoText)
    };
    let envs = input.env.iter().map(|(key, value)| KeyValue { key: key.to_owned(), value: value.into() });
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: input.restart_count }),
        image: Some(ImageSpec {
            image: input.image.image_ref.clone(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command: expand(&container.command)?,
        args: expand(&container.args)?,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: envs.collect(),
        mounts: input.mounts.iter().map(|m| mount(pod, m, &input.userns, config.selinux)).collect(),
        devices: input.devices.iter().map(device).collect(),
        labels: container_labels(pod, container),
        annotations: annotations(pod, container, input.restart_count),
        log_path: names::container_log(&container.name, input.restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(linux(pod, container, &input, config)?),
        ..ContainerConfig::default()
    })
}

fn linux(
    pod: &DesiredPod,
    container: &Container,
    input: &ContainerInput,
    config: &RuntimeConfig,
) -> Result<LinuxContainerConfig, SecurityError> {
    let defaults = SecurityDefaults {
        seccomp_default: config.seccomp_default,
        seccomp_root: &config.seccomp_root(),
        extra_masked_paths: &config.masked_paths,
    };
    let userns = input.userns.clone();
    let mut security = security::container_security(pod, container, &input.image.user, userns, defaults)?;
    security.supplemental_groups.extend(input.volume_groups);
    if let (Some(target), Some(namespaces)) = (input.target, &mut security.namespace_options)
        && namespaces.pid == NamespaceMode::Container as i32
    {
        namespaces.pid = NamespaceMode::Target as i32;
        namespaces.target_id = target.to_string();
    }
    let resources = resources::container_resources(pod, container, &config.resources, input.allocatable_memory);
    Ok(LinuxContainerConfig { resources: Some(resources), security_context: Some(security) })
}

fn container_labels(pod: &DesiredPod, container: &Container) -> BTreeMap<String, String> {
    let own = (labels::CONTAINER_NAME.to_owned(), container.name.clone());
    identity(pod).into_iter().chain([own]).collect()
}

/// Enough to stop the container when nothing else is known of it.
fn annotations(pod: &DesiredPod, container: &Container, restart_count: u32) -> BTreeMap<String, String> {
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    let mut out = BTreeMap::new();
    let mut set = |key: &str, value: String| drop(out.insert(key.to_owned(), value));
    set(labels::CONTAINER_HASH, container_hash_text(container));
    set(labels::RESTART_COUNT, restart_count.to_string());
    set(labels::TERMINATION_MESSAGE_PATH, text(&container.termination_message_path));
    set(labels::TERMINATION_MESSAGE_POLICY, text(&container.termination_message_policy));
    if let Some(secs) = pod.pod.metadata.deletion_grace_period_seconds {
        set(labels::POD_DELETION_GRACE_PERIOD, secs.to_string());
    }
    if let Some(secs) = pod.spec().termination_grace_period_seconds {
        set(labels::POD_TERMINATION_GRACE_PERIOD, secs.to_string());
    }
    let pre_stop = container.lifecycle.as_ref().and_then(|l| l.pre_stop.as_ref());
    if let Some(json) = pre_stop.and_then(|h| serde_json::to_string(h).ok()) {
        set(labels::PRE_STOP_HANDLER, json);
    }
    let ports = container.ports.as_ref().filter(|p| !p.is_empty());
    if let Some(json) = ports.and_then(|p| serde_json::to_string(&p.iter().map(Port::of).collect::<Vec<_>>()).ok()) {
        set(labels::CONTAINER_PORTS, json);
    }
    out
}

/// A port with its fields in upstream's order: an upgrade leaves the annotation as it is.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Port<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_port: Option<i32>,
    container_port: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<&'a str>,
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    host_ip: Option<&'a str>,
}

impl<'a> Port<'a> {
    fn of(port: &'a pod::api::ContainerPort) -> Self {
        Self {
            name: port.name.as_deref(),
            host_port: port.host_port,
            container_port: port.container_port,
            protocol: port.protocol.as_deref(),
            host_ip: port.host_ip.as_deref(),
        }
    }
}

fn device(d: &ContainerDevice) -> Device {
    Device {
        container_path: d.container_path.clone(),
        host_path: d.host_path.clone(),
        permissions: d.permissions.clone(),
    }
}

fn mount(pod: &DesiredPod, m: &ContainerMount, userns: &UserNamespace, selinux: bool) -> Mount {
    let propagation = match m.propagation {
        Propagation::Private => MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => MountPropagation::PropagationBidirectional,
    };
    Mount {
        container_path: m.container_path.clone(),
        host_path: m.host_path.to_string_lossy().into_owned(),
        readonly: m.readonly,
        selinux_relabel: m.selinux_relabel && selinux,
        propagation: propagation as i32,
        uid_mappings: userns.uids.clone(),
        gid_mappings: userns.gids.clone(),
        recursive_read_only: m.recursive_read_only,
        image: m.image.clone().map(|image| image_volume(pod, &m.name, image)),
        image_sub_path: m.image_sub_path.clone(),
        ..Mount::default()
    }
}

/// An image volume as the spec names it; the image goes by what the runtime calls it.
fn image_volume(pod: &DesiredPod, volume: &str, image: String) -> ImageSpec {
    let source = pod.spec().volumes.iter().flatten().find(|v| v.name == volume).and_then(|v| v.image.as_ref());
    ImageSpec {
        image,
        user_specified_image: source.and_then(|s| s.reference.clone()).unwrap_or_default(),
        annotations: pod.pod.metadata.annotations.clone().unwrap_or_default(),
        ..ImageSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{pod, pod_with};
    use host::RootDir;
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
    use pod::{
        api::{ContainerPort, HTTPGetAction, Lifecycle, LifecycleHandler},
        mounts::ImageUser,
    };

    fn config_of(pod: &DesiredPod, target: Option<&ContainerId>) -> ContainerConfig {
        let config = RuntimeConfig::new(RootDir::new("/var/lib/kubelet"));
        let image = ResolvedImage { image_ref: "sha256:abc".into(), user: ImageUser::Root };
        let env = Environment::from_iter([("A", "1")]);
        let input = ContainerInput {
            restart_count: 3,
            image: &image,
            env: &env,
            mounts: &[],
            devices: &[],
            userns: UserNamespace { mode: NamespaceMode::Node as i32, ..UserNamespace::default() },
            volume_groups: &[7],
            target,
            allocatable_memory: 0,
        };
        container_config(pod, &pod.spec().containers[0], input, &config).unwrap()
    }

    #[test]
    fn a_container_is_named_labelled_and_logged_as_upstream_does() {
        let got = config_of(&pod("web", |_| {}), None);
        assert_eq!(got.metadata, Some(ContainerMetadata { name: "app".into(), attempt: 3 }));
        let image = got.image.unwrap();
        assert_eq!((image.image.as_str(), image.user_specified_image.as_str()), ("sha256:abc", "busybox"));
        assert_eq!(got.log_path, "app/3.log");
        assert_eq!(got.linux.unwrap().security_context.unwrap().supplemental_groups, [7], "a volume's");
        let labels: Vec<_> = got.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let expected = [
            "io.kubernetes.container.name=app",
            "io.kubernetes.pod.name=web",
            "io.kubernetes.pod.namespace=ns",
            "io.kubernetes.pod.uid=uid-1",
        ];
        assert_eq!(labels, expected);
    }

    #[test]
    fn annotations_carry_what_stopping_needs() {
        let pod = pod_with(
            "web",
            |s| {
                s.termination_grace_period_seconds = Some(30);
                let http =
                    HTTPGetAction { path: Some("/bye".into()), port: IntOrString::Int(80), ..HTTPGetAction::default() };
                let hook = LifecycleHandler { http_get: Some(http), ..LifecycleHandler::default() };
                s.containers[0].lifecycle = Some(Lifecycle { pre_stop: Some(hook), ..Lifecycle::default() });
                let (name, host_port, host_ip) = (Some("web".into()), Some(8080), Some("::1".into()));
                let port = ContainerPort { container_port: 80, name, host_port, host_ip, ..ContainerPort::default() };
                s.containers[0].ports = Some(vec![port]);
            },
            |m| m.deletion_grace_period_seconds = Some(5),
        );
        let got = config_of(&pod, None).annotations;
        let expected = [
            ("io.kubernetes.container.hash", &*container_hash_text(&pod.spec().containers[0])),
            ("io.kubernetes.container.ports", r#"[{"name":"web","hostPort":8080,"containerPort":80,"hostIP":"::1"}]"#),
            ("io.kubernetes.container.preStopHandler", r#"{"httpGet":{"path":"/bye","port":80}}"#),
            ("io.kubernetes.container.restartCount", "3"),
            ("io.kubernetes.container.terminationMessagePath", "/dev/termination-log"),
            ("io.kubernetes.container.terminationMessagePolicy", "File"),
            ("io.kubernetes.pod.deletionGracePeriod", "5"),
            ("io.kubernetes.pod.terminationGracePeriod", "30"),
        ];
        assert_eq!(got, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn command_and_args_see_the_environment() {
        let pod = pod("web", |s| {
            s.containers[0].command = Some(vec!["run".into(), "$(A)".into()]);
            s.containers[0].args = Some(vec!["$$(A)".into(), "$(B)".into()]);
        });
        let got = config_of(&pod, None);
        assert_eq!((got.command, got.args), (vec!["run".into(), "1".into()], vec!["$(A)".to_owned(), "$(B)".into()]));
        assert_eq!(got.envs, [KeyValue { key: "A".into(), value: "1".into() }]);
    }

    #[test]
    fn an_ephemeral_container_joins_its_targets_processes_unless_the_pod_shares_them() {
        let target = ContainerId::new("t1");
        let pid = |pod: &DesiredPod| {
            let linux = config_of(pod, Some(&target)).linux.unwrap();
            let n = linux.security_context.unwrap().namespace_options.unwrap();
            (n.pid, n.target_id)
        };
        assert_eq!(pid(&pod("web", |_| {})), (NamespaceMode::Target as i32, "t1".to_owned()));
        let shared = pod("web", |s| s.share_process_namespace = Some(true));
        assert_eq!(pid(&shared), (NamespaceMode::Pod as i32, String::new()));
    }

    #[test]
    fn mounts_keep_their_ways() {
        let volume = ContainerMount {
            name: "v".into(),
            container_path: "/data".into(),
            host_path: "/h/v".into(),
            readonly: true,
            recursive_read_only: true,
            propagation: Propagation::HostToContainer,
            selinux_relabel: true,
            image: None,
            image_sub_path: String::new(),
        };
        let image = ContainerMount {
            host_path: "".into(),
            image: Some("sha256:i".into()),
            image_sub_path: "bin".into(),
            propagation: Propagation::Private,
            ..volume.clone()
        };
        let mounts = [volume, image];
        let desired = pod("web", |s| {
            s.volumes =
                serde_json::from_value(serde_json::json!([{"name": "v", "image": {"reference": "r/i:1"}}])).unwrap();
        });
        let got: Vec<_> = mounts.iter().map(|m| mount(&desired, m, &UserNamespace::default(), false)).collect();
        assert!(got[0].readonly && got[0].recursive_read_only && !got[0].selinux_relabel);
        assert_eq!(got[0].propagation, MountPropagation::PropagationHostToContainer as i32);
        assert_eq!((got[1].image.clone().unwrap().image.as_str(), got[1].host_path.as_str()), ("sha256:i", ""));
        assert_eq!(got[1].image.as_ref().unwrap().user_specified_image, "r/i:1");
    }
}
