//! Security contexts, case by case.

use super::*;
use crate::fixture::{pod, pod_with};
use pod::api::PodSpec;

fn defaults() -> SecurityDefaults<'static> {
    SecurityDefaults {
        seccomp_default: false,
        seccomp_root: Path::new("/var/lib/kubelet/seccomp"),
        extra_masked_paths: &[],
    }
}

fn with_pod_sc(spec: &mut PodSpec, sc: PodSecurityContext) {
    spec.security_context = Some(sc);
}

fn with_sc(spec: &mut PodSpec, sc: SecurityContext) {
    spec.containers[0].security_context = Some(sc);
}

fn security(pod: &DesiredPod, image: &ImageUser) -> LinuxContainerSecurityContext {
    container_security(pod, &pod.spec().containers[0], image, UserNamespace::default(), defaults()).unwrap()
}

fn verify(change: impl FnOnce(&mut PodSpec), image: ImageUser) -> Result<(), String> {
    let pod = pod("web", change);
    verify_non_root(&pod, &pod.spec().containers[0], &image).map_err(|e| e.to_string())
}

fn non_root(user: Option<i64>) -> SecurityContext {
    SecurityContext { run_as_non_root: Some(true), run_as_user: user, ..SecurityContext::default() }
}

#[test]
fn run_as_non_root_fails_closed() {
    let suffix = "(pod: \"web_ns(uid-1)\", container: app)";
    let cases = [
        (Some(0), ImageUser::Uid(7), Some("container's runAsUser breaks non-root policy")),
        (Some(7), ImageUser::Root, None),
        (None, ImageUser::Root, Some("container has runAsNonRoot and image will run as root")),
        (None, ImageUser::Uid(0), Some("container has runAsNonRoot and image will run as root")),
        (None, ImageUser::Uid(7), None),
        (
            None,
            ImageUser::Name("nobody".into()),
            Some("container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root"),
        ),
    ];
    for (user, image, error) in cases {
        let expected = error.map_or(Ok(()), |e| Err(format!("{e} {suffix}")));
        assert_eq!(verify(|s| with_sc(s, non_root(user)), image), expected);
    }
    assert_eq!(verify(|_| {}, ImageUser::Root), Ok(()));
    let invalid = verify(|s| with_sc(s, non_root(None)), ImageUser::Uid(-1)).unwrap_err();
    assert!(invalid.contains("invalid user id (-1). (Must be 1-(2147483647)): must be between 0 and 2147483647"));
}

#[test]
fn the_containers_user_wins_over_the_pods_and_both_over_the_images() {
    let of_pod = PodSecurityContext { run_as_user: Some(1), run_as_group: Some(2), ..Default::default() };
    let both = pod("web", |s| {
        with_pod_sc(s, of_pod.clone());
        with_sc(s, SecurityContext { run_as_user: Some(3), ..Default::default() });
    });
    let got = security(&both, &ImageUser::Uid(9));
    assert_eq!((got.run_as_user.unwrap().value, got.run_as_group.unwrap().value), (3, 2));
    let image_only = pod("web", |_| {});
    assert_eq!(security(&image_only, &ImageUser::Uid(9)).run_as_user.unwrap().value, 9);
    assert_eq!(security(&image_only, &ImageUser::Root).run_as_user.unwrap().value, 0);
    let named = security(&image_only, &ImageUser::Name("nobody".into()));
    assert_eq!((named.run_as_user, named.run_as_username.as_str()), (None, "nobody"));
}

#[test]
fn groups_are_fs_group_first_and_the_policy_is_passed_on() {
    let sc = PodSecurityContext {
        fs_group: Some(5),
        supplemental_groups: Some(vec![6, 7]),
        supplemental_groups_policy: Some("Strict".into()),
        ..Default::default()
    };
    let got = security(&pod("web", |s| with_pod_sc(s, sc)), &ImageUser::Root);
    assert_eq!(got.supplemental_groups, [5, 6, 7]);
    assert_eq!(got.supplemental_groups_policy, SupplementalGroupsPolicy::Strict as i32);
}

#[test]
fn privilege_escalation_forbidden_means_no_new_privs() {
    let sc = |allow| SecurityContext { allow_privilege_escalation: allow, ..Default::default() };
    for (allow, expected) in [(None, false), (Some(true), false), (Some(false), true)] {
        assert_eq!(security(&pod("web", |s| with_sc(s, sc(allow))), &ImageUser::Root).no_new_privs, expected);
    }
}

#[test]
fn proc_mount_unmasked_masks_nothing() {
    let masked = security(&pod("web", |_| {}), &ImageUser::Root);
    assert_eq!((masked.masked_paths.len(), masked.readonly_paths.len()), (12, 5));
    let sc = SecurityContext { proc_mount: Some("Unmasked".into()), ..Default::default() };
    let open = security(&pod("web", |s| with_sc(s, sc)), &ImageUser::Root);
    assert!(open.masked_paths.is_empty() && open.readonly_paths.is_empty());
}

#[test]
fn seccomp_falls_back_from_container_to_pod_to_the_nodes_default() {
    let of = |type_: &str, name: Option<&str>| SeccompProfile {
        type_: type_.into(),
        localhost_profile: name.map(str::to_owned),
    };
    let plain = pod("web", |_| {});
    assert_eq!(security(&plain, &ImageUser::Root).seccomp.unwrap().profile_type, ProfileType::Unconfined as i32);
    let on = SecurityDefaults { seccomp_default: true, ..defaults() };
    let got = seccomp(&plain, &plain.spec().containers[0], on).unwrap();
    assert_eq!(got.profile_type, ProfileType::RuntimeDefault as i32);

    let local = pod("web", |s| {
        with_pod_sc(s, PodSecurityContext { seccomp_profile: Some(of("RuntimeDefault", None)), ..Default::default() });
        let sc = SecurityContext { seccomp_profile: Some(of("Localhost", Some("a/b.json"))), ..Default::default() };
        with_sc(s, sc);
    });
    let got = security(&local, &ImageUser::Root).seccomp.unwrap();
    assert_eq!(got.localhost_ref, "/var/lib/kubelet/seccomp/a/b.json");

    let empty = pod("web", |s| {
        let sc = SecurityContext { seccomp_profile: Some(of("Localhost", Some(""))), ..Default::default() };
        with_sc(s, sc);
    });
    let refused = seccomp(&empty, &empty.spec().containers[0], defaults());
    assert_eq!(refused, Err(SecurityError::SeccompWithoutProfile));
}

#[test]
#[allow(deprecated)]
fn apparmor_reads_field_then_annotation_then_pod() {
    let field = |type_: &str, name: Option<&str>| AppArmorProfile {
        type_: type_.into(),
        localhost_profile: name.map(str::to_owned),
    };
    let annotated = |change: &dyn Fn(&mut PodSpec)| {
        pod_with(
            "web",
            |s| change(s),
            |m| {
                let key = "container.apparmor.security.beta.kubernetes.io/app".to_owned();
                m.annotations = Some([(key, "localhost/old".to_owned())].into());
            },
        )
    };
    let with_pod_field = |s: &mut PodSpec| {
        let sc = PodSecurityContext { app_armor_profile: Some(field("Unconfined", None)), ..Default::default() };
        with_pod_sc(s, sc);
    };
    let got = security(&annotated(&with_pod_field), &ImageUser::Root);
    assert_eq!((got.apparmor.unwrap().localhost_ref.as_str(), got.apparmor_profile.as_str()), ("old", "localhost/old"));
    let got = security(&pod("web", with_pod_field), &ImageUser::Root);
    assert_eq!(got.apparmor_profile, "unconfined");
    let own = annotated(&|s| {
        let sc = SecurityContext { app_armor_profile: Some(field("RuntimeDefault", None)), ..Default::default() };
        with_sc(s, sc);
    });
    assert_eq!(security(&own, &ImageUser::Root).apparmor_profile, "runtime/default");
}

#[test]
fn namespaces_follow_the_spec() {
    let modes = |change: &dyn Fn(&mut PodSpec)| {
        let n = namespaces(&pod("web", |s| change(s)), UserNamespace::default());
        (n.network, n.pid, n.ipc)
    };
    let (pod_mode, node, own) =
        (NamespaceMode::Pod as i32, NamespaceMode::Node as i32, NamespaceMode::Container as i32);
    assert_eq!(modes(&|_| {}), (pod_mode, own, pod_mode));
    assert_eq!(modes(&|s| s.share_process_namespace = Some(true)), (pod_mode, pod_mode, pod_mode));
    assert_eq!(modes(&|s| s.host_network = Some(true)), (node, own, pod_mode));
    assert_eq!(modes(&|s| s.host_pid = Some(true)), (pod_mode, node, pod_mode));
    assert_eq!(modes(&|s| s.host_ipc = Some(true)), (pod_mode, own, node));
}
