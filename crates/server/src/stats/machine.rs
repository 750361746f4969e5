//! The machine's size and ids, as far as series name them.

use std::fs;

#[derive(Clone, Debug, Default)]
pub struct Machine {
    pub memory_bytes: u64,
    pub swap_bytes: u64,
    pub cpus: usize,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
}

impl Machine {
    pub fn read() -> Self {
        let info = rustix::system::sysinfo();
        let unit = u64::from(info.mem_unit);
        let cpus = fs::read_to_string("/sys/devices/system/cpu/online").map(|list| count(list.trim()));
        Self {
            memory_bytes: info.totalram * unit,
            swap_bytes: info.totalswap * unit,
            cpus: cpus.unwrap_or(1),
            machine_id: line("/etc/machine-id"),
            system_uuid: line("/sys/class/dmi/id/product_uuid"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
        }
    }
}

fn line(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
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
