//! Bounds of single numbers and durations.

use std::ops::RangeInclusive;

use super::{Check, Invalid};
use crate::config::duration::GoDuration;

const PORT: RangeInclusive<i32> = 1..=65535;
const PORT_OR_OFF: RangeInclusive<i32> = 0..=65535;
const PERCENT: RangeInclusive<i32> = 0..=100;
const BIT: RangeInclusive<i32> = 0..=31;
const NOT_NEGATIVE: RangeInclusive<i32> = 0..=i32::MAX;

pub(super) fn check(check: &mut Check<'_>) {
    let c = check.config;
    for (field, value, range, reason) in [
        ("nodeLeaseDurationSeconds", c.node_lease_duration_seconds, 1..=i32::MAX, "must be greater than 0"),
        ("eventBurst", c.event_burst, NOT_NEGATIVE, "must not be a negative number"),
        ("eventRecordQPS", c.event_record_qps, NOT_NEGATIVE, "must not be a negative number"),
        ("kubeAPIBurst", c.kube_api_burst, NOT_NEGATIVE, "must not be a negative number"),
        ("kubeAPIQPS", c.kube_api_qps, NOT_NEGATIVE, "must not be a negative number"),
        ("registryBurst", c.registry_burst, NOT_NEGATIVE, "must not be a negative number"),
        ("registryPullQPS", c.registry_pull_qps, NOT_NEGATIVE, "must not be a negative number"),
        ("maxPods", c.max_pods, NOT_NEGATIVE, "must not be a negative number"),
        ("podsPerCore", c.pods_per_core, NOT_NEGATIVE, "must not be a negative number"),
        ("nodeStatusMaxImages", c.node_status_max_images, -1..=i32::MAX, "must be -1 or greater"),
        ("port", c.port, PORT, "must be between 1 and 65535, inclusive"),
        ("healthzPort", c.healthz_port, PORT_OR_OFF, "must be between 0 and 65535, inclusive"),
        ("readOnlyPort", c.read_only_port, PORT_OR_OFF, "must be between 0 and 65535, inclusive"),
        (
            "imageGCHighThresholdPercent",
            c.image_gc_high_threshold_percent,
            PERCENT,
            "must be between 0 and 100, inclusive",
        ),
        (
            "imageGCLowThresholdPercent",
            c.image_gc_low_threshold_percent,
            PERCENT,
            "must be between 0 and 100, inclusive",
        ),
        ("iptablesDropBit", c.iptables_drop_bit, BIT, "must be between 0 and 31, inclusive"),
        ("iptablesMasqueradeBit", c.iptables_masquerade_bit, BIT, "must be between 0 and 31, inclusive"),
        ("oomScoreAdj", c.oom_score_adj, -1000..=1000, "must be between -1000 and 1000, inclusive"),
        ("containerLogMaxWorkers", c.container_log_max_workers, 1..=i32::MAX, "must be greater than or equal to 1"),
        ("containerLogMaxFiles", c.container_log_max_files, 2..=i32::MAX, "must be greater than 1"),
    ] {
        check.refuse_if(!range.contains(&value), || Invalid::new(field, value, reason));
    }
    check.refuse_if(c.max_open_files < 0, || {
        Invalid::new("maxOpenFiles", c.max_open_files, "must not be a negative number")
    });
    durations(check);
}

fn durations(check: &mut Check<'_>) {
    let c = check.config;
    let period = c.cpu_cfs_quota_period;
    if check.on("CustomCPUCFSQuotaPeriod") {
        let bounds = GoDuration::from_millis(1)..=GoDuration::from_secs(1);
        check.refuse_if(!bounds.contains(&period), || {
            Invalid::new("cpuCFSQuotaPeriod", period, "must be between 1ms and 1s, inclusive")
        });
    } else {
        check.refuse_if(period != GoDuration::from_millis(100), || {
            Invalid::new("cpuCFSQuotaPeriod", period, "requires feature gate CustomCPUCFSQuotaPeriod")
        });
    }
    check.refuse_if(c.container_log_monitor_interval < GoDuration::from_secs(3), || {
        Invalid::new(
            "containerLogMonitorInterval",
            c.container_log_monitor_interval,
            "must be greater than or equal to 3s",
        )
    });
    restart_period(check);
}

fn restart_period(check: &mut Check<'_>) {
    const FIELD: &str = "crashLoopBackOff.maxContainerRestartPeriod";
    let period = check.config.crash_loop_back_off.max_container_restart_period;
    match (period, check.on("KubeletCrashLoopBackOffMax")) {
        (None, true) => check.refuse(Invalid::required(FIELD, "feature gate KubeletCrashLoopBackOffMax is enabled")),
        (Some(period), true) => {
            let bounds = GoDuration::from_secs(1)..=GoDuration::from_secs(300);
            check.refuse_if(!bounds.contains(&period), || Invalid::new(FIELD, period, "must be between 1s and 300s"));
        }
        (Some(period), false) => {
            check.refuse(Invalid::new(FIELD, period, "requires feature gate KubeletCrashLoopBackOffMax"));
        }
        (None, false) => {}
    }
}
