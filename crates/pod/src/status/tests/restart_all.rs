//! What a status says while all containers of the pod begin anew.

use super::*;

fn asking() -> Value {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
    json!({"restartPolicy": "Never", "initContainers": [{"name": "init"}], "containers": [
        {"name": "app", "restartPolicy": "Never", "restartPolicyRules": rule}, {"name": "other"}]})
}

fn up() -> Case {
    case(asking()).exited("init", "i1", 0).running("app", "a1").running("other", "o1")
}

#[test]
fn the_condition_lasts_from_the_exit_until_the_one_that_asked_is_removed() {
    let before = up().status();
    assert_eq!(told(&before, "AllContainersRestarting"), "False");
    let exited = || case(asking()).exited("init", "i1", 0).exited("app", "a1", 42).after(&before);
    let asked = exited().running("other", "o1").status();
    assert_eq!(
        told(&asked, "AllContainersRestarting"),
        "True RestartAllContainersStarted container exited with restart policy rule"
    );
    assert_eq!(asked.phase.as_deref(), Some("Running"));
    let removed = case(asking()).after(&asked).status();
    assert_eq!(told(&removed, "AllContainersRestarting"), "False");
}

#[test]
fn removed_containers_wait_and_are_counted_once() {
    let before = up().status();
    let asked = case(asking()).exited("init", "i1", 0).exited("app", "a1", 42).after(&before).status();
    let other = container(&asked, "other");
    assert_eq!(other.restart_count, 1);
    assert_eq!(serde_json::to_value(&other.state).unwrap()["waiting"]["reason"], "RestartingAllContainers");
    assert_eq!(serde_json::to_value(&other.last_state).unwrap()["terminated"]["exitCode"], 137);
    let init_gone = case(asking()).exited("app", "a1", 42).after(&asked).status();
    let init = container(&init_gone, "init");
    assert_eq!(serde_json::to_value(&init.state).unwrap()["waiting"]["reason"], "RestartingAllContainers");
    let removed = case(asking()).after(&init_gone).status();
    let counts = ["init", "app", "other"].map(|name| container(&removed, name).restart_count);
    assert_eq!((counts, removed.phase.as_deref()), ([1, 1, 1], Some("Running")));
    let again = ObservedContainer { restart_count: 1, ..seen("init", "i2", State::Running) };
    let again = container(&case(asking()).with(again).after(&removed).status(), "init");
    assert_eq!((again.restart_count, again.last_state.unwrap().terminated.unwrap().exit_code), (1, 137));
}
