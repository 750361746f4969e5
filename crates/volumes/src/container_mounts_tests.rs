//! Tests of the mounts that a container gets.

use serde_json::{Value, json};

use super::*;
use crate::fixture::pod;

struct Case {
    mount: Value,
    privileged: bool,
    recursive_read_only: bool,
}

fn case(mount: Value) -> Case {
    Case { mount, privileged: false, recursive_read_only: false }
}

impl Case {
    fn plan(&self) -> Result<Planned, VolumeError> {
        let container = json!({"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/first"}, self.mount],
            "securityContext": {"privileged": self.privileged}});
        let pod = pod(json!({"containers": [container]}));
        let volume = |name: &str, source, read_only| {
            (name.to_owned(), MountedVolume { name: name.to_owned(), source, read_only, managed: true })
        };
        let volumes = MountedVolumes {
            volumes: BTreeMap::from([
                volume("v", MountedSource::Host("/vol".into()), false),
                volume("secret", MountedSource::Host("/secret".into()), true),
                volume("img", MountedSource::Image, true),
                volume("unpulled", MountedSource::Image, true),
            ]),
            extra_groups: vec![],
        };
        let expand = |text: &str| match text {
            "$(OK)/x" => Ok("ok/x".to_owned()),
            _ => Err("missing value for NOPE".to_owned()),
        };
        let of = MountsFor {
            pod: &pod,
            container: &pod.regular_containers()[0],
            volumes: &volumes,
            images: &BTreeMap::from([("img".to_owned(), "sha256:1".to_owned())]),
            recursive_read_only: self.recursive_read_only,
            expand: &expand,
        };
        Ok(plan(&of, &RootDir::new("/r"), false)?.swap_remove(1))
    }

    fn error(&self) -> String {
        self.plan().unwrap_err().to_string()
    }
}

#[test]
fn a_volume_is_mounted_from_its_path() {
    let planned = case(json!({"name": "v", "mountPath": "data"})).plan().unwrap();
    assert_eq!(
        (planned.mount.container_path.as_str(), planned.mount.host_path.as_path()),
        ("/data", Path::new("/vol"))
    );
    assert!(!planned.mount.readonly && planned.sub_path.is_none());
}

#[test]
fn a_secret_is_read_only_whatever_the_mount_says() {
    assert!(case(json!({"name": "secret", "mountPath": "/s", "readOnly": false})).plan().unwrap().mount.readonly);
}

#[test]
fn a_sub_path_is_mounted_from_its_own_mount_point() {
    let planned = case(json!({"name": "v", "mountPath": "/d", "subPath": "a/b"})).plan().unwrap();
    let target = Path::new("/r/pods/uid-1/volume-subpaths/v/c/1");
    assert_eq!(planned.mount.host_path, target);
    let bound = planned.sub_path.unwrap();
    assert_eq!((bound.path.as_path(), bound.target.as_path()), (Path::new("a/b"), target));
}

#[test]
fn sub_paths_that_leave_or_lack_a_value_are_refused_as_upstream_does() {
    let error = |extra: Value| {
        let mut mount = json!({"name": "v", "mountPath": "/d"});
        mount.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        case(mount).error()
    };
    assert_eq!(error(json!({"subPath": "/etc"})), "error SubPath `/etc` must not be an absolute path");
    assert_eq!(error(json!({"subPath": "a/../b"})), "unable to provision SubPath `a/../b`: must not contain '..'");
    assert_eq!(error(json!({"subPathExpr": "$(NOPE)"})), "missing value for NOPE");
    let ok = case(json!({"name": "v", "mountPath": "/d", "subPathExpr": "$(OK)/x"})).plan().unwrap();
    assert_eq!(ok.sub_path.unwrap().path, Path::new("ok/x"));
}

#[test]
fn an_image_volume_has_no_host_path() {
    let mount = case(json!({"name": "img", "mountPath": "/i", "subPath": "dir"})).plan().unwrap().mount;
    assert_eq!((mount.image.as_deref(), mount.image_sub_path.as_str()), (Some("sha256:1"), "dir"));
    assert_eq!((mount.host_path.as_path(), mount.readonly), (Path::new(""), true));
    assert!(case(json!({"name": "unpulled", "mountPath": "/i"})).error().contains("has not been pulled"));
}

#[test]
fn bidirectional_propagation_is_for_privileged_containers() {
    let mount = json!({"name": "v", "mountPath": "/d", "mountPropagation": "Bidirectional"});
    assert!(case(mount.clone()).error().contains("only for privileged"));
    let privileged = Case { privileged: true, ..case(mount) };
    assert_eq!(privileged.plan().unwrap().mount.propagation, Propagation::Bidirectional);
}

#[test]
fn recursive_read_only_depends_on_the_runtime() {
    let mount = |mode: &str| json!({"name": "v", "mountPath": "/d", "readOnly": true, "recursiveReadOnly": mode});
    let with = |mode, recursive_read_only| Case { recursive_read_only, ..case(mount(mode)) };
    assert!(!with("IfPossible", false).plan().unwrap().mount.recursive_read_only);
    assert!(with("IfPossible", true).plan().unwrap().mount.recursive_read_only);
    assert!(with("Enabled", true).plan().unwrap().mount.recursive_read_only);
    assert!(with("Enabled", false).error().contains("not supported by the runtime"));
    let writable = case(json!({"name": "v", "mountPath": "/d", "recursiveReadOnly": "Enabled"}));
    assert!(writable.error().contains("but it is not read-only"));
}

#[test]
fn an_unknown_volume_is_named() {
    let error = case(json!({"name": "nope", "mountPath": "/d"})).error();
    assert_eq!(error, "cannot find volume \"nope\" to mount into container \"c\"");
}
