//! What this machine is: identity, kernel, processors, memory. Read once at start; what cannot be read is left empty.

use std::{fs, path::Path};

/// The machine-id file's places, the first one that has something wins.
const MACHINE_ID: [&str; 2] = ["/etc/machine-id", "/var/lib/dbus/machine-id"];
const SYSTEM_UUID: [&str; 3] =
    ["/sys/class/dmi/id/product_uuid", "/proc/device-tree/system-id", "/proc/device-tree/vm,uuid"];
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineFacts {
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    /// As Go spells it: amd64, arm64, ...
    pub architecture: &'static str,
    pub num_cpus: u32,
    pub memory_bytes: u64,
    pub swap_bytes: u64,
    pub hugepages: Vec<HugePages>,
    /// Greatest number of processes and threads the kernel allows.
    pub max_pids: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HugePages {
    /// Bytes of one page.
    pub page_size: u64,
    pub pages: u64,
}

impl MachineFacts {
    pub fn read() -> Self {
        let meminfo = text("/proc/meminfo");
        let machine_id = first_of(&MACHINE_ID);
        Self {
            system_uuid: Some(first_of(&SYSTEM_UUID)).filter(|s| !s.is_empty()).unwrap_or_else(|| machine_id.clone()),
            machine_id,
            boot_id: text("/proc/sys/kernel/random/boot_id"),
            kernel_version: rustix::system::uname().release().to_string_lossy().into_owned(),
            os_image: os_image(&first_of(&OS_RELEASE)),
            architecture: go_architecture(std::env::consts::ARCH),
            num_cpus: num_cpus(),
            memory_bytes: meminfo_bytes(&meminfo, "MemTotal"),
            swap_bytes: meminfo_bytes(&meminfo, "SwapTotal"),
            hugepages: hugepages(Path::new("/sys/kernel/mm/hugepages")),
            max_pids: most_processes(),
        }
    }

    /// Bytes set aside for huge pages of all sizes.
    pub fn hugepage_bytes(&self) -> u64 {
        self.hugepages.iter().map(|h| h.page_size.saturating_mul(h.pages)).sum()
    }
}

/// Greatest number of processes and threads that the kernel allows now.
pub fn most_processes() -> Option<u64> {
    max_pids(&text("/proc/sys/kernel/pid_max"), &text("/proc/sys/kernel/threads-max"))
}

/// The kernel's host name, lowercase and trimmed, as node names are.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().trim().to_lowercase()
}

/// An unreadable file counts as an empty one. Device tree strings end with a NUL.
fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim_matches(|c: char| c.is_whitespace() || c == '\0').to_owned()
}

fn first_of(paths: &[&str]) -> String {
    paths.iter().map(text).find(|s| !s.is_empty()).unwrap_or_default()
}

fn os_image(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.trim().strip_prefix("PRETTY_NAME="));
    let name = line.unwrap_or_default().trim().trim_matches(['"', '\'']);
    if name.is_empty() { "Linux".to_owned() } else { name.to_owned() }
}

fn go_architecture(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
        "powerpc64" => "ppc64",
        "loongarch64" => "loong64",
        same => same,
    }
}

fn num_cpus() -> u32 {
    let online = count_cpus(&text("/sys/devices/system/cpu/online"));
    if online > 0 {
        return online;
    }
    let listed = text("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
    u32::try_from(listed).unwrap_or(1).max(1)
}

/// How many CPUs a list such as `0-3,8` has.
fn count_cpus(list: &str) -> u32 {
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        last.checked_sub(first).map(|n| n + 1)
    });
    ranges.sum()
}

fn meminfo_bytes(meminfo: &str, key: &str) -> u64 {
    let rest = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let kib = rest.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

fn hugepages(dir: &Path) -> Vec<HugePages> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<HugePages> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            let pages = text(entry.path().join("nr_hugepages")).parse().ok()?;
            Some(HugePages { page_size: kib * 1024, pages })
        })
        .collect();
    found.sort_by_key(|h| h.page_size);
    found
}

fn max_pids(pid_max: &str, threads_max: &str) -> Option<u64> {
    [pid_max, threads_max].iter().filter_map(|text| text.parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_processors_and_memory() {
        let facts = MachineFacts::read();
        assert!(facts.num_cpus > 0 && facts.memory_bytes > 0);
        assert!(!facts.kernel_version.is_empty() && !facts.boot_id.is_empty() && !facts.os_image.is_empty());
        assert!(!host_name().is_empty());
    }

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(["0-3,8", "0", "0-1", "", "garbage", "5-2"].map(count_cpus), [5, 1, 2, 0, 0, 0]);
    }

    #[test]
    fn the_pretty_name_is_the_os_image() {
        assert_eq!(
            os_image("NAME=Debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(os_image("PRETTY_NAME='Flat'"), "Flat");
        assert_eq!(os_image(""), "Linux");
    }

    #[test]
    fn meminfo_is_in_kibibytes() {
        let text = "MemTotal:       16384 kB\nSwapTotal:          0 kB\n";
        assert_eq!((meminfo_bytes(text, "MemTotal"), meminfo_bytes(text, "SwapTotal")), (16384 * 1024, 0));
        assert_eq!(meminfo_bytes(text, "Mem"), 0);
    }

    #[test]
    fn huge_pages_are_listed_by_size() {
        let dir = tempfile::tempdir().unwrap();
        for (name, pages) in [("hugepages-1048576kB", "0\n"), ("hugepages-2048kB", "16\n")] {
            fs::create_dir(dir.path().join(name)).unwrap();
            fs::write(dir.path().join(name).join("nr_hugepages"), pages).unwrap();
        }
        let expected = [HugePages { page_size: 2 << 20, pages: 16 }, HugePages { page_size: 1 << 30, pages: 0 }];
        assert_eq!(hugepages(dir.path()), expected);
    }

    #[test]
    fn the_smaller_process_limit_counts() {
        assert_eq!(max_pids("4194304", "95914"), Some(95914));
        assert_eq!(max_pids("", ""), None);
    }
}
