//! The machine's size and ids, as far as series name them.

use std::{collections::BTreeSet, fs};

#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub memory_bytes: u64,
    pub swap_bytes: u64,
    pub cpus: usize,
    pub physical_cores: usize,
    pub sockets: usize,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
}

impl Machine {
    pub fn read() -> Self {
        let info = rustix::system::sysinfo();
        let unit = u64::from(info.mem_unit);
        let cpus = fs::read_to_string("/sys/devices/system/cpu/online").map(|list| count(list.trim()));
        let (sockets, physical_cores) = topology();
        let ids = host::MachineFacts::read();
        Self {
            sockets,
            physical_cores,
            memory_bytes: info.totalram * unit,
            swap_bytes: info.totalswap * unit,
            cpus: cpus.unwrap_or(1),
            machine_id: ids.machine_id,
            system_uuid: ids.system_uuid,
            boot_id: ids.boot_id,
        }
    }
}

/// Sockets and cores, as the kernel numbers them; a machine that says nothing has one of each.
fn topology() -> (usize, usize) {
    let (mut sockets, mut cores) = (BTreeSet::new(), BTreeSet::new());
    for cpu in fs::read_dir("/sys/devices/system/cpu").into_iter().flatten().flatten() {
        let of = |file: &str| fs::read_to_string(cpu.path().join("topology").join(file)).ok();
        let (Some(socket), Some(core)) = (of("physical_package_id"), of("core_id")) else { continue };
        cores.insert((socket.clone(), core));
        sockets.insert(socket);
    }
    (sockets.len().max(1), cores.len().max(1))
}

/// Of a list as `0-3,8`.
fn count(list: &str) -> usize {
    let ranges = list.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.parse::<usize>().ok()?, last.parse::<usize>().ok()?))
    });
    ranges.map(|(first, last)| (last + 1).saturating_sub(first)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_from_ranges() {
        assert_eq!(count("0-3,8"), 5);
        assert_eq!(count("0"), 1);
        assert_eq!(count(""), 0);
    }
}
