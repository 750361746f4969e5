//! The container runtime, and the pod network that it sets up.

use std::time::Duration;

use cri::{CgroupDriver, Cri, RuntimeStatus};

use super::Finding;
use crate::options::Options;

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn findings(options: &Options) -> Vec<Finding> {
    let endpoint = &options.config.container_runtime_endpoint;
    let unusable = |error: String| {
        let advice = "is it running, is its CRI plugin enabled, is containerRuntimeEndpoint its socket?";
        vec![Finding::fault("runtime", format!("{endpoint}: {error}"), advice)]
    };
    let cri = match Cri::connect(endpoint, &options.config.image_service_endpoint, PATIENCE) {
        Ok(cri) => cri,
        Err(error) => return unusable(error.to_string()),
    };
    let version = match cri.version().await {
        Ok(version) => version,
        Err(error) => return unusable(error.to_string()),
    };
    let mut all = vec![Finding::good(
        "runtime",
        format!("{} {} (CRI {})", version.runtime_name, version.runtime_version, version.runtime_api_version),
    )];
    match cri.status().await {
        Ok(status) => all.extend(conditions(&status)),
        Err(error) => all.push(Finding::fault("runtime", error.to_string(), "its log says more")),
    }
    match cri.runtime_config().await {
        Ok(driver) => all.push(cgroup_driver(driver, &options.config.cgroup_driver)),
        Err(error) if error.is_unimplemented() => all.push(Finding::good(
            "cgroup driver",
            format!("{}, as configured; see that the runtime's is the same", options.config.cgroup_driver),
        )),
        Err(error) => all.push(Finding::fault("cgroup driver", error.to_string(), "the runtime's log says more")),
    }
    if let Err(error) = cri.list_images().await {
        all.push(Finding::fault(
            "images",
            error.to_string(),
            "is imageServiceEndpoint the socket of an image service?",
        ));
    }
    all
}

fn conditions(status: &RuntimeStatus) -> Vec<Finding> {
    let mut all = Vec::new();
    if !status.runtime_ready() {
        let found = format!("not ready: {} {}", status.runtime.reason, status.runtime.message);
        all.push(Finding::fault("runtime", found, "its log says more"));
    }
    all.push(if status.network_ready() {
        Finding::good("pod network", "ready")
    } else {
        let found = format!("not ready: {} {}", status.network.reason, status.network.message);
        let advice = "put a CNI configuration where the runtime looks for it; until then only hostNetwork pods start";
        Finding::warning("pod network", found, advice)
    });
    all
}

fn cgroup_driver(runtime: CgroupDriver, configured: &str) -> Finding {
    let name = match runtime {
        CgroupDriver::Systemd => "systemd",
        CgroupDriver::Cgroupfs => "cgroupfs",
    };
    if name == configured {
        return Finding::good("cgroup driver", name);
    }
    let advice = format!("the runtime's counts; set cgroupDriver: {name} so that the file tells the truth");
    Finding::warning("cgroup driver", format!("{name} in the runtime, {configured} in the configuration"), advice)
}

#[cfg(test)]
mod tests {
    use cri::Condition;

    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn the_runtimes_own_words_are_shown() {
        let ready = Condition { ready: true, ..Condition::default() };
        let missing = Condition {
            ready: false,
            reason: "NetworkPluginNotReady".to_owned(),
            message: "cni plugin not initialized".to_owned(),
        };
        let status = RuntimeStatus { runtime: ready, network: missing, ..RuntimeStatus::default() };
        let found = conditions(&status);
        assert_eq!((found.len(), found[0].verdict), (1, Verdict::Warning));
        assert!(found[0].found.contains("cni plugin not initialized"));
        assert_eq!(conditions(&RuntimeStatus::default())[0].verdict, Verdict::Fault);
    }

    #[test]
    fn two_cgroup_drivers_are_told_apart() {
        assert_eq!(cgroup_driver(CgroupDriver::Systemd, "systemd").verdict, Verdict::Good);
        assert_eq!(cgroup_driver(CgroupDriver::Systemd, "cgroupfs").verdict, Verdict::Warning);
    }
}
