//! Who is ended when, and with how much grace. Pure.

use std::time::Duration;

use pod::DesiredPod;

/// From this priority on pods belong to the system's critical ones.
const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// One entry of shutdownGracePeriodByPodPriority: pods from this priority up to the next entry's have this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub priority: i32,
    pub grace: Duration,
}

/// Options shutdownGracePeriod, shutdownGracePeriodCriticalPods and shutdownGracePeriodByPodPriority, as one list in
/// ascending order. Empty: pods are not ended before a shutdown.
pub fn periods(total: Duration, critical: Duration, by_priority: &[Period]) -> Vec<Period> {
    if by_priority.is_empty() {
        let Some(ordinary) = total.checked_sub(critical).filter(|_| !total.is_zero()) else { return Vec::new() };
        return vec![
            Period { priority: 0, grace: whole_seconds(ordinary) },
            Period { priority: SYSTEM_CRITICAL, grace: whole_seconds(critical) },
        ];
    }
    let mut periods = by_priority.to_vec();
    periods.sort_by_key(|period| period.priority);
    periods
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

/// For how long a shutdown has to be held up.
pub fn total(periods: &[Period]) -> Duration {
    periods.iter().map(|period| period.grace).sum()
}

/// Pods that are ended together, before those of the next group.
#[derive(Debug)]
pub struct Group {
    pub grace: Duration,
    pub pods: Vec<DesiredPod>,
}

/// In the order in which they are ended; groups without pods take no time and are left out.
pub fn groups(periods: &[Period], pods: Vec<DesiredPod>) -> Vec<Group> {
    let mut groups: Vec<Group> = periods.iter().map(|p| Group { grace: p.grace, pods: Vec::new() }).collect();
    for pod in pods {
        let priority = pod.spec().priority.unwrap_or(0);
        // Below the lowest entry counts as the lowest.
        let above = periods.partition_point(|period| period.priority <= priority);
        if let Some(group) = groups.get_mut(above.saturating_sub(1)) {
            group.pods.push(pod);
        }
    }
    groups.retain(|group| !group.pods.is_empty());
    groups
}

/// A pod's own grace where that is less than its group's.
pub fn grace(pod: &DesiredPod, group: Duration) -> Duration {
    let own = pod.spec().termination_grace_period_seconds.map(|secs| Duration::from_secs(secs.max(0).unsigned_abs()));
    own.map_or(group, |own| own.min(group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::pod;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    const fn period(priority: i32, seconds: u64) -> Period {
        Period { priority, grace: secs(seconds) }
    }

    fn names(groups: Vec<Group>) -> Vec<(u64, Vec<String>)> {
        let name = |pod: &DesiredPod| pod.key.name.to_string();
        groups.into_iter().map(|g| (g.grace.as_secs(), g.pods.iter().map(name).collect())).collect()
    }

    #[test]
    fn two_periods_make_a_group_of_ordinary_and_one_of_critical_pods() {
        assert_eq!(periods(secs(30), secs(10), &[]), [period(0, 20), period(SYSTEM_CRITICAL, 10)]);
        let odd = periods(Duration::from_millis(30_900), Duration::from_millis(10_200), &[]);
        assert_eq!(odd, [period(0, 20), period(SYSTEM_CRITICAL, 10)]);
    }

    #[test]
    fn without_any_period_nothing_is_planned() {
        assert_eq!(periods(secs(0), secs(0), &[]), []);
        assert_eq!(periods(secs(5), secs(10), &[]), [], "less than the critical pods' part");
    }

    #[test]
    fn periods_by_priority_come_first_and_in_order() {
        let listed = [period(1000, 20), period(0, 30), period(500, 10)];
        let sorted = [period(0, 30), period(500, 10), period(1000, 20)];
        assert_eq!(periods(secs(9), secs(3), &listed), sorted);
        assert_eq!(total(&sorted), secs(60));
    }

    #[test]
    fn a_pod_belongs_to_the_nearest_entry_below_its_priority() {
        let periods = [period(1, 10), period(100, 20), period(1000, 30)];
        let pods =
            [("none", None), ("low", Some(-5)), ("edge", Some(100)), ("between", Some(999)), ("high", Some(9999))];
        let pods = pods.map(|(name, priority)| pod(name, priority, None)).to_vec();
        let group = |seconds, names: &[&str]| (seconds, names.iter().map(|n| (*n).to_owned()).collect());
        let expected = [group(10, &["none", "low"]), group(20, &["edge", "between"]), group(30, &["high"])];
        assert_eq!(names(groups(&periods, pods)), expected);
    }

    #[test]
    fn a_group_without_pods_takes_no_time() {
        let periods = [period(0, 10), period(100, 20)];
        assert_eq!(names(groups(&periods, vec![pod("a", Some(100), None)])), [(20, vec!["a".to_owned()])]);
    }

    #[test]
    fn the_groups_grace_caps_the_pods_own() {
        assert_eq!(grace(&pod("a", None, Some(30)), secs(10)), secs(10));
        assert_eq!(grace(&pod("a", None, Some(3)), secs(10)), secs(3));
        assert_eq!(grace(&pod("a", None, None), secs(10)), secs(10));
    }
}
