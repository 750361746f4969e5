//! A container that is stopped in order to be started again.

use super::*;

#[test]
fn a_container_between_two_lives_waits_though_its_end_looks_final() {
    for (policy, code) in [("OnFailure", 0), ("Never", 0), ("Never", 143)] {
        let ended = case(json!({"restartPolicy": policy})).exited("app", "c1", code);
        assert!(ended.state("app")["waiting"].is_null(), "{policy} {code}: it is not stopped for that");

        for reason in [None, Some("ImagePullBackOff")] {
            let mut between = case(json!({"restartPolicy": policy})).exited("app", "c1", code);
            between.report.restarting.insert("c1".into());
            if let Some(reason) = reason {
                between = between.waits("app", reason);
            }
            let status = between.status();
            let app = container(&status, "app");
            assert_eq!(between.state("app")["waiting"]["reason"], reason.unwrap_or("ContainerCreating"));
            assert_eq!(app.last_state.unwrap().terminated.unwrap().exit_code, code, "{policy}");
            assert!(!app.ready, "{policy}");
            assert_eq!(status.phase.as_deref(), Some("Running"), "{policy}");
            let pod = DesiredPod::new(Source::Api, Arc::new(serde_json::from_value(between.object).unwrap())).unwrap();
            let again = case(json!({"restartPolicy": policy})).running("app", "c2").status();
            assert_eq!(check_transition(&pod, &status, &again), Ok(()), "{policy}: it may run again");
        }
    }
}

#[test]
fn an_end_that_the_policy_takes_back_anyway_is_shown_until_there_is_a_reason_to_wait() {
    let mut between = case(json!({"restartPolicy": "OnFailure"})).exited("app", "c1", 137);
    between.report.restarting.insert("c1".into());
    assert_eq!(between.state("app")["terminated"]["exitCode"], 137);
    assert_eq!(between.phase(), "Running");
}

#[test]
fn a_deleted_pod_starts_nothing_again() {
    let mut between = case(json!({"restartPolicy": "OnFailure"})).exited("app", "c1", 0).deleted();
    between.report.restarting.insert("c1".into());
    assert_eq!(between.state("app")["terminated"]["exitCode"], 0);
}
