//! Facts of this machine that shape containers, for whoever fills in the configuration.

use std::{fs, path::Path};

/// CPU files whose reading stalls the machine: masked besides the fixed paths.
pub fn masked_paths() -> Vec<String> {
    let possible = fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    let path = |cpu: u32| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
    cpu_list(&possible).into_iter().map(path).filter(|p| Path::new(p).exists()).collect()
}

/// Whether the kernel accounts swap per cgroup.
pub fn swap_controller(cgroup_v2: bool) -> bool {
    if !cgroup_v2 {
        return Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    }
    // The root cgroup has no such file, our own has.
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Path::new("/sys/fs/cgroup").join(own).join("memory.swap.max").exists()
}

/// `0-3,5` is 0, 1, 2, 3, 5.
fn cpu_list(text: &str) -> Vec<u32> {
    let bounds = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    text.trim().split(',').filter_map(bounds).flat_map(|(first, last): (u32, u32)| first..=last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_have_ranges_and_single_numbers() {
        assert_eq!(cpu_list("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(cpu_list(""), Vec::<u32>::new());
    }
}
