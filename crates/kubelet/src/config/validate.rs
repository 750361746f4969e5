//! Every rule that upstream holds a configuration to, at validation or later in its start; all faults are reported
//! together, each with field, value and reason.

mod images;
mod logging;
mod node;
mod numbers;
mod resources;
mod serving;

use std::{collections::BTreeSet, net::IpAddr};

use super::{invalid::Invalid, types::KubeletConfiguration};
use crate::{
    flags::{FLAGS, Given, Sets},
    gates::FeatureGates,
};

/// The facts of the host that some rules ask for.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// The unified hierarchy is mounted at /sys/fs/cgroup.
    pub cgroup_v2: bool,
    pub swap_on: bool,
}

impl Host {
    pub fn read() -> Self {
        const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;
        let cgroup_v2 = rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type == CGROUP2_MAGIC);
        // A header line, then one line for each swap area.
        let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        Self { cgroup_v2, swap_on: swaps.lines().filter(|line| !line.trim().is_empty()).count() > 1 }
    }
}

/// What the rules read, and the faults they find.
pub(super) struct Check<'a> {
    config: &'a KubeletConfiguration,
    gates: &'a FeatureGates,
    host: Host,
    faults: Vec<Invalid>,
}

impl Check<'_> {
    fn refuse(&mut self, fault: Invalid) {
        self.faults.push(fault);
    }

    fn refuse_if(&mut self, refused: bool, fault: impl FnOnce() -> Invalid) {
        if refused {
            self.faults.push(fault());
        }
    }

    fn on(&self, gate: &str) -> bool {
        self.gates.enabled(gate)
    }
}

/// All faults of a configuration.
pub fn configuration(config: &KubeletConfiguration, gates: &FeatureGates, host: Host) -> Vec<Invalid> {
    let mut check = Check { config, gates, host, faults: Vec::new() };
    numbers::check(&mut check);
    node::check(&mut check);
    resources::check(&mut check);
    images::check(&mut check);
    serving::check(&mut check);
    logging::check(&mut check);
    let mut faults = check.faults;
    faults.iter_mut().for_each(name_flag);
    faults
}

/// Puts the flag that sets the same option beside the field's name.
fn name_flag(fault: &mut Invalid) {
    let flag = FLAGS.iter().find(|flag| matches!(flag.sets, Sets::Config(path) if path == fault.field));
    if let Some(flag) = flag {
        fault.field = format!("{} (--{})", fault.field, flag.name);
    }
}

/// The addresses of --node-ip, none where `flags` refuses them.
pub fn node_ips(text: &str) -> Vec<IpAddr> {
    node::parse_node_ips(text).unwrap_or_default()
}

/// The CPUs of a list such as `0-3,7`.
pub fn cpus(list: &str) -> Option<BTreeSet<u32>> {
    resources::parse_cpus(list)
}

/// Faults of the options that only the command line has.
pub fn flags(given: &Given) -> Vec<Invalid> {
    node::flags(given)
}

#[cfg(test)]
mod tests;
