//! The four conditions of a node that its kubelet keeps.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use pod::api::NodeCondition;

use crate::config::Pressure;

const TRUE: &str = "True";
const FALSE: &str = "False";

/// An event's reason, which is also the word of its message.
pub type Announcement = &'static str;

/// Type, then per status (absent, present): reason, message, event.
struct Kind {
    name: &'static str,
    absent: [&'static str; 3],
    present: [&'static str; 3],
}

const PRESSURES: [Kind; 3] = [
    Kind {
        name: "MemoryPressure",
        absent: ["KubeletHasSufficientMemory", "kubelet has sufficient memory available", "NodeHasSufficientMemory"],
        present: [
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
            "NodeHasInsufficientMemory",
        ],
    },
    Kind {
        name: "DiskPressure",
        absent: ["KubeletHasNoDiskPressure", "kubelet has no disk pressure", "NodeHasNoDiskPressure"],
        present: ["KubeletHasDiskPressure", "kubelet has disk pressure", "NodeHasDiskPressure"],
    },
    Kind {
        name: "PIDPressure",
        absent: ["KubeletHasSufficientPID", "kubelet has sufficient PID available", "NodeHasSufficientPID"],
        present: ["KubeletHasInsufficientPID", "kubelet has insufficient PID available", "NodeHasInsufficientPID"],
    },
];

/// Brings the conditions up to date in place; others are left alone. Returns what changed, as event reasons.
pub fn update(
    conditions: &mut Vec<NodeCondition>,
    pressure: Pressure,
    not_ready: &[String],
    now: Timestamp,
) -> Vec<Announcement> {
    let mut said = Vec::new();
    for (kind, present) in PRESSURES.iter().zip([pressure.memory, pressure.disk, pressure.pid]) {
        said.extend(update_pressure(conditions, kind, present, now));
    }
    // Ready comes last: old readers stop at the first condition that they act on.
    said.extend(update_ready(conditions, not_ready, now));
    said
}

/// Reason and message of a pressure change only with its status.
fn update_pressure(
    conditions: &mut Vec<NodeCondition>,
    kind: &Kind,
    present: bool,
    now: Timestamp,
) -> Option<Announcement> {
    let status = if present { TRUE } else { FALSE };
    let [reason, message, event] = if present { kind.present } else { kind.absent };
    let condition = find_or_add(conditions, kind.name);
    condition.last_heartbeat_time = Some(Time(now));
    if condition.status == status {
        return None;
    }
    condition.status = status.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message.to_owned());
    condition.last_transition_time = Some(Time(now));
    Some(event)
}

fn update_ready(conditions: &mut Vec<NodeCondition>, not_ready: &[String], now: Timestamp) -> Option<Announcement> {
    let is_new = !conditions.iter().any(|c| c.type_ == "Ready");
    let condition = find_or_add(conditions, "Ready");
    let (status, reason, message, event) = if not_ready.is_empty() {
        (TRUE, "KubeletReady", "kubelet is posting ready status".to_owned(), "NodeReady")
    } else {
        (FALSE, "KubeletNotReady", aggregate(not_ready), "NodeNotReady")
    };
    let turned = condition.status != status;
    condition.last_heartbeat_time = Some(Time(now));
    condition.status = status.to_owned();
    condition.reason = Some(reason.to_owned());
    condition.message = Some(message);
    if turned {
        condition.last_transition_time = Some(Time(now));
    }
    (turned && !is_new).then_some(event)
}

fn find_or_add<'a>(conditions: &'a mut Vec<NodeCondition>, kind: &str) -> &'a mut NodeCondition {
    let index = conditions.iter().position(|c| c.type_ == kind).unwrap_or_else(|| {
        let unknown =
            NodeCondition { type_: kind.to_owned(), status: "Unknown".to_owned(), ..NodeCondition::default() };
        conditions.push(unknown);
        conditions.len() - 1
    });
    &mut conditions[index]
}

/// As upstream joins several errors to one message: without repetitions, in brackets.
fn aggregate(errors: &[String]) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for error in errors {
        if !distinct.contains(&error.as_str()) {
            distinct.push(error);
        }
    }
    match distinct.as_slice() {
        [one] => (*one).to_owned(),
        many => format!("[{}]", many.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn fresh() -> (Vec<NodeCondition>, Vec<Announcement>) {
        let mut conditions = Vec::new();
        let said = update(&mut conditions, Pressure::default(), &["no network".to_owned()], at(0));
        (conditions, said)
    }

    #[test]
    fn a_new_node_has_four_conditions_with_ready_last() {
        let (conditions, said) = fresh();
        let shown: Vec<_> = conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
        let expected =
            [("MemoryPressure", "False"), ("DiskPressure", "False"), ("PIDPressure", "False"), ("Ready", "False")];
        assert_eq!(shown, expected);
        assert_eq!(said, ["NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID"]);
        assert_eq!(conditions[3].message.as_deref(), Some("no network"));
        assert!(conditions.iter().all(|c| c.last_transition_time == Some(Time(at(0)))));
    }

    #[test]
    fn becoming_ready_is_a_transition_and_an_event() {
        let (mut conditions, _) = fresh();
        assert_eq!(update(&mut conditions, Pressure::default(), &[], at(5)), ["NodeReady"]);
        let ready = &conditions[3];
        assert_eq!(
            (ready.reason.as_deref(), ready.last_transition_time.clone()),
            (Some("KubeletReady"), Some(Time(at(5))))
        );
    }

    #[test]
    fn a_heartbeat_moves_no_transition_time() {
        let (mut conditions, _) = fresh();
        assert!(update(&mut conditions, Pressure::default(), &["other".to_owned()], at(9)).is_empty());
        assert!(conditions.iter().all(|c| c.last_transition_time == Some(Time(at(0)))));
        assert!(conditions.iter().all(|c| c.last_heartbeat_time == Some(Time(at(9)))));
        assert_eq!(conditions[3].message.as_deref(), Some("other"));
    }

    #[test]
    fn pressure_comes_and_goes_with_its_events() {
        let (mut conditions, _) = fresh();
        let disk = Pressure { disk: true, ..Pressure::default() };
        assert_eq!(update(&mut conditions, disk, &["no network".to_owned()], at(1)), ["NodeHasDiskPressure"]);
        assert_eq!(
            (conditions[1].status.as_str(), conditions[1].reason.as_deref()),
            ("True", Some("KubeletHasDiskPressure"))
        );
        let said = update(&mut conditions, Pressure::default(), &["no network".to_owned()], at(2));
        assert_eq!(said, ["NodeHasNoDiskPressure"]);
    }

    #[test]
    fn conditions_of_others_are_left_alone() {
        let foreign =
            NodeCondition { type_: "NetworkUnavailable".into(), status: "False".into(), ..Default::default() };
        let mut conditions = vec![foreign.clone()];
        update(&mut conditions, Pressure::default(), &[], at(0));
        assert_eq!((conditions.len(), &conditions[0]), (5, &foreign));
    }

    #[test]
    fn several_errors_stand_in_brackets_each_once() {
        let errors = ["a", "b", "a"].map(str::to_owned);
        assert_eq!(aggregate(&errors), "[a, b]");
        assert_eq!(aggregate(&errors[..1]), "a");
    }
}
