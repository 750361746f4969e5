//! What is refused, and in which words.

use serde_json::{Value, json};

use super::*;
use crate::defaults;

fn pod(spec: Value) -> Pod {
    let mut pod: Pod =
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec})).unwrap();
    defaults::apply(&mut pod);
    pod
}
fn problems(spec: Value) -> String {
    validate(&pod(spec)).err().map(|e| e.to_string()).unwrap_or_default()
}
fn of_container(mut fields: Value) -> String {
    fields["name"] = json!("c");
    fields["image"] = json!("i");
    problems(json!({"containers": [fields], "volumes": [{"name": "v"}]}))
}

#[test]
fn a_plain_pod_is_valid() {
    assert_eq!(of_container(json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "a/b"}]})), "");
}

#[test]
fn required_values_are_named_by_their_path() {
    assert_eq!(
        problems(json!({"containers": [{"name": ""}]})),
        "[spec.containers[0].name: Required value, spec.containers[0].image: Required value]"
    );
    assert_eq!(problems(json!({"containers": []})), "spec.containers: Required value");
}

#[test]
fn duplicates_and_dangling_names_are_found() {
    let c = json!({"name": "c", "image": "i"});
    assert_eq!(problems(json!({"containers": [c, c]})), "spec.containers[1].name: Duplicate value: \"c\"");
    assert_eq!(
        problems(json!({"containers": [c], "initContainers": [c]})),
        "spec.initContainers[0].name: Duplicate value: \"c\""
    );
    assert_eq!(
        of_container(json!({"volumeMounts": [{"name": "w", "mountPath": "/x"}]})),
        "spec.containers[0].volumeMounts[0].name: Not found: \"w\""
    );
    assert_eq!(
        problems(json!({"containers": [c], "volumes": [{"name": "v"}, {"name": "v"}]})),
        "spec.volumes[1].name: Duplicate value: \"v\""
    );
}

#[test]
fn values_outside_their_set_are_listed_with_it() {
    assert_eq!(
        problems(json!({"containers": [{"name": "c", "image": "i"}], "restartPolicy": "Sometimes"})),
        "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\""
    );
    assert!(
        of_container(json!({"ports": [{"containerPort": 70000}]})).contains("must be between 1 and 65535, inclusive")
    );
    assert!(
        of_container(json!({"env": [{"name": "a=b", "value": "x"}]}))
            .starts_with("spec.containers[0].env[0].name: Invalid value: \"a=b\"")
    );
}

#[test]
fn probes_hooks_and_resources_are_checked() {
    assert!(
        of_container(json!({"livenessProbe": {}}))
            .contains("livenessProbe: Required value: must specify a handler type")
    );
    assert!(
        of_container(json!({"startupProbe": {"tcpSocket": {"port": 1}, "successThreshold": 2}})).contains("must be 1")
    );
    assert!(
        of_container(json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}))
            .contains("must be less than or equal to cpu limit of 1")
    );
    assert!(of_container(json!({"resources": {"requests": {"cpu": "abc"}}})).contains("quantities must match"));
    let init = json!([{"name": "i", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]);
    assert!(
        problems(json!({"containers": [{"name": "c", "image": "i"}], "initContainers": init})).contains("Forbidden")
    );
}

#[test]
fn dangerous_paths_are_refused() {
    assert!(
        of_container(json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "../etc"}]}))
            .contains("must not contain '..'")
    );
    assert!(
        of_container(json!({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "/etc"}]}))
            .contains("must be a relative path")
    );
}

#[test]
fn references_to_api_objects_are_found() {
    let refers = |mut spec: Value| {
        spec["containers"] = spec.get("containers").cloned().unwrap_or(json!([{"name": "c"}]));
        api_reference(pod(spec).spec.as_ref().unwrap())
    };
    assert_eq!(refers(json!({})), None);
    assert_eq!(refers(json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]})), None);
    assert_eq!(refers(json!({"serviceAccountName": "x"})), Some("serviceaccounts"));
    assert_eq!(refers(json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]})), Some("secrets"));
    assert_eq!(refers(json!({"volumes": [{"name": "v", "configMap": {"name": "s"}}]})), Some("configmaps"));
    assert_eq!(
        refers(json!({"containers": [{"name": "c", "envFrom": [{"configMapRef": {"name": "m"}}]}]})),
        Some("configmaps")
    );
    assert_eq!(
        refers(json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "s"}}]})),
        Some("persistentvolumeclaims")
    );
    assert_eq!(refers(json!({"resourceClaims": [{"name": "r"}]})), Some("resourceclaims"));
}
