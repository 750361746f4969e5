//! `kubelet doctor --runtime`: does the container runtime do what the agent asks of it? Every call is made on pods of
//! this check's own, which are removed again, also those of a run that was broken off.

mod arguments;
mod calls;
mod events;
mod host;
mod life;
mod node;
mod pods;
mod report;
mod running;
mod streams;
mod users;

use std::{path::Path, time::Duration};

use ::host::RootDir;
use anyhow::bail;
use cri::{CgroupDriver, Cri, Image};
use runtime::{RuntimeConfig, resources::ResourceRules};
use tokio::net::TcpStream;

pub(super) use arguments::Arguments;
use pods::{OWN, Place};
use report::Report;

use crate::options::Options;

/// For each call.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints a row for each call; false where the agent cannot do with this runtime.
pub(super) async fn run(options: &Options, image: Option<&str>) -> anyhow::Result<bool> {
    if agent_runs(options).await {
        bail!("an agent runs on this node and ends pods that it does not know: stop it for this check");
    }
    let config = &options.config;
    let cri = Cri::connect(&config.container_runtime_endpoint, &config.image_service_endpoint, PATIENCE)?;
    let mut report = Report::default();
    if node::runtime(&cri, &mut report).await {
        let driver = node::cgroup_driver(&cri, &config.cgroup_driver, &mut report).await;
        let root = RootDir::new(&options.flags.root_dir).with_logs(&config.pod_logs_dir, "/var/log/containers");
        let cgroup_parent = cgroup_parent(driver, &config.cgroup_root);
        let config = RuntimeConfig { resources: resource_rules(), ..RuntimeConfig::new(root) };
        let place = Place { cri, config, cgroup_parent };
        if report.add(calls::CLEANUP, pods::remove_all(&place).await.map(|()| "of an earlier check")) {
            let found = node::images(&place.cri, image, &mut report).await;
            let checked = with_pods(&place, &found.candidates, &mut report).await;
            report.add(calls::CLEANUP, pods::remove_all(&place).await.map(|()| "of this check"));
            node::remove_image(&place.cri, found.pulled.as_ref(), &mut report).await;
            checked?;
        }
    }
    println!("{}", report.summary());
    Ok(report.fits())
}

async fn with_pods(place: &Place, images: &[Image], report: &mut Report) -> anyhow::Result<()> {
    if let Some(image) = life::check(place, images, report).await? {
        host::check(place, &image, report).await?;
        users::check(place, &image, report).await?;
    }
    report.add(calls::UNKNOWN_HANDLER, node::unknown_handler(place).await);
    Ok(())
}

/// Of this machine's cgroups: a runtime refuses settings of the other version.
fn resource_rules() -> ResourceRules {
    let cgroup_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    ResourceRules {
        cgroup_v2,
        single_process_oom_kill: !cgroup_v2,
        swap_controller: runtime::machine::swap_controller(cgroup_v2),
        ..ResourceRules::default()
    }
}

/// By its health port; an agent without one is not seen.
async fn agent_runs(options: &Options) -> bool {
    let Ok(port) = u16::try_from(options.config.healthz_port) else { return false };
    port != 0 && TcpStream::connect((options.config.healthz_bind_address.as_str(), port)).await.is_ok()
}

/// systemd's slices are not for us to make: there the containers go where the system's services are.
fn cgroup_parent(driver: CgroupDriver, root: &str) -> String {
    match driver {
        CgroupDriver::Systemd => "system.slice".to_owned(),
        CgroupDriver::Cgroupfs => format!("{}/{OWN}", root.trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_go_below_the_agents_cgroup_root() {
        assert_eq!(cgroup_parent(CgroupDriver::Cgroupfs, ""), "/ferrolet-doctor");
        assert_eq!(cgroup_parent(CgroupDriver::Cgroupfs, "/"), "/ferrolet-doctor");
        assert_eq!(cgroup_parent(CgroupDriver::Cgroupfs, "/a/b"), "/a/b/ferrolet-doctor");
        assert_eq!(cgroup_parent(CgroupDriver::Systemd, "/"), "system.slice");
    }
}
