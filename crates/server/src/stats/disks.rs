//! The node's mounted disks: how full they are, and what the kernel has counted for them.

use std::{collections::HashMap, fs};

use host::{fs_stats, mounts};

#[derive(Debug)]
pub struct Disk {
    /// As `/dev/vda1`.
    pub device: String,
    pub stats: fs_stats::FsStats,
    pub counts: Counts,
}

/// Of `/proc/diskstats`, in its order. Times are in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub reads: u64,
    pub reads_merged: u64,
    pub sectors_read: u64,
    pub read_time: u64,
    pub writes: u64,
    pub writes_merged: u64,
    pub sectors_written: u64,
    pub write_time: u64,
    pub in_progress: u64,
    pub io_time: u64,
    pub weighted_io_time: u64,
}

/// Every block device that is mounted, once. Blocking.
pub fn mounted() -> Vec<Disk> {
    let counts = parse(&fs::read_to_string("/proc/diskstats").unwrap_or_default());
    let mut disks: Vec<Disk> = Vec::new();
    for mount in mounts::table().unwrap_or_default() {
        let is_new = disks.iter().all(|disk| disk.device != mount.source);
        if !is_new || !mount.source.starts_with("/dev/") || mount.fs_type == "devtmpfs" {
            continue;
        }
        let Ok(stats) = fs_stats::fs_stats(&mount.mount_point) else { continue };
        let name = mount.source.trim_start_matches("/dev/");
        let counts = counts.get(name).copied().unwrap_or_default();
        disks.push(Disk { device: mount.source, stats, counts });
    }
    disks
}

/// The names of all block devices by their numbers, as `254:0`.
pub fn names() -> HashMap<String, String> {
    let text = fs::read_to_string("/proc/diskstats").unwrap_or_default();
    let name = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().take(3).collect();
        let [major, minor, name] = words[..] else { return None };
        Some((format!("{major}:{minor}"), format!("/dev/{name}")))
    };
    text.lines().filter_map(name).collect()
}

fn parse(text: &str) -> HashMap<String, Counts> {
    text.lines().filter_map(parse_line).collect()
}

/// `254 0 vda 40 0 280 223 7 0 22 108 0 330 330`; newer kernels add more.
fn parse_line(line: &str) -> Option<(String, Counts)> {
    let mut words = line.split_whitespace().skip(2);
    let name = words.next()?.to_owned();
    let mut next = || words.next()?.parse().ok();
    let counts = Counts {
        reads: next()?,
        reads_merged: next()?,
        sectors_read: next()?,
        read_time: next()?,
        writes: next()?,
        writes_merged: next()?,
        sectors_written: next()?,
        write_time: next()?,
        in_progress: next()?,
        io_time: next()?,
        weighted_io_time: next()?,
    };
    Some((name, counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_diskstats_is_understood() {
        let (name, counts) = parse_line(" 254       0 vda 1 2 3 4 5 6 7 8 9 10 11 0 0 0 0 1 2").unwrap();
        assert_eq!((name.as_str(), counts.reads, counts.write_time, counts.weighted_io_time), ("vda", 1, 8, 11));
        assert_eq!(parse_line("254 0 vda 1 2"), None);
    }
}
