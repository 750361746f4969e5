//! Limits of one cgroup, and the file writes that set them on either version.

use std::collections::BTreeMap;

use crate::Version;

pub const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const DEFAULT_PERIOD: u64 = 100_000;

/// What is `None` or absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: Option<u64>,
    /// Microseconds a period; -1 is no limit.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes; -1 is no limit.
    pub memory: Option<i64>,
    /// -1 is no limit.
    pub pids: Option<i64>,
    /// Bytes by page size in bytes.
    pub hugepages: BTreeMap<u64, u64>,
    /// A list such as `0-3`.
    pub cpus: Option<String>,
    /// Further files of version 2 by name.
    pub unified: BTreeMap<&'static str, String>,
}

/// One write: the controller that owns the file, its name, and the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileWrite {
    pub controller: &'static str,
    pub file: String,
    pub value: String,
    /// A kernel without the file is fine.
    pub optional: bool,
}

impl FileWrite {
    fn new(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Self {
        Self { controller, file: file.into(), value: value.to_string(), optional: false }
    }
    fn optional(self) -> Self {
        Self { optional: true, ..self }
    }
}

/// The kubelet's own linear map of [2, 262144] to [1, 10000].
pub fn shares_to_weight(shares: u64) -> u64 {
    let shares = shares.clamp(MIN_SHARES, MAX_SHARES);
    1 + (shares - 2) * 9999 / 262_142
}

pub fn weight_to_shares(weight: u64) -> u64 {
    weight.saturating_sub(1) * 262_142 / 9999 + 2
}

/// `2MB`, `1GB`: the kernel's names of page sizes.
pub fn page_size_name(bytes: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB", "PB"];
    let (mut size, mut unit) = (bytes, 0);
    while size >= 1024 && size % 1024 == 0 && unit + 1 < units.len() {
        size /= 1024;
        unit += 1;
    }
    format!("{size}{}", units[unit])
}

impl Limits {
    /// First what keeps a pod from taking the node down: pids, memory, then cpu, then all else.
    pub fn writes(&self, version: Version) -> Vec<FileWrite> {
        let mut writes = match version {
            Version::V1 => self.writes_v1(),
            Version::V2 => self.writes_v2(),
        };
        writes.sort_by_key(|w| ["pids", "memory", "cpu"].iter().position(|c| *c == w.controller).unwrap_or(usize::MAX));
        writes
    }

    fn writes_v1(&self) -> Vec<FileWrite> {
        let mut writes = Vec::new();
        if let Some(shares) = self.cpu_shares {
            writes.push(FileWrite::new("cpu", "cpu.shares", shares));
        }
        if let Some(period) = self.cpu_period {
            writes.push(FileWrite::new("cpu", "cpu.cfs_period_us", period));
        }
        if let Some(quota) = self.cpu_quota.filter(|q| *q != 0) {
            writes.push(FileWrite::new("cpu", "cpu.cfs_quota_us", quota));
        }
        if let Some(memory) = self.memory.filter(|m| *m != 0) {
            writes.push(FileWrite::new("memory", "memory.limit_in_bytes", memory));
        }
        if let Some(pids) = self.pids {
            writes.push(FileWrite::new("pids", "pids.max", number_or_max(pids)));
        }
        for (size, limit) in &self.hugepages {
            let name = page_size_name(*size);
            writes.push(FileWrite::new("hugetlb", format!("hugetlb.{name}.limit_in_bytes"), limit));
            writes.push(FileWrite::new("hugetlb", format!("hugetlb.{name}.rsvd.limit_in_bytes"), limit).optional());
        }
        if let Some(cpus) = &self.cpus {
            writes.push(FileWrite::new("cpuset", "cpuset.cpus", cpus));
        }
        writes
    }

    fn writes_v2(&self) -> Vec<FileWrite> {
        let mut writes = Vec::new();
        if let Some(shares) = self.cpu_shares {
            writes.push(FileWrite::new("cpu", "cpu.weight", shares_to_weight(shares)));
        }
        if self.cpu_quota.is_some_and(|q| q != 0) || self.cpu_period.is_some() {
            writes.push(FileWrite::new("cpu", "cpu.max", self.cpu_max()));
        }
        if let Some(memory) = self.memory.filter(|m| *m != 0) {
            writes.push(FileWrite::new("memory", "memory.max", number_or_max(memory)));
        }
        if let Some(pids) = self.pids {
            writes.push(FileWrite::new("pids", "pids.max", number_or_max(pids)));
        }
        for (size, limit) in &self.hugepages {
            let name = page_size_name(*size);
            writes.push(FileWrite::new("hugetlb", format!("hugetlb.{name}.max"), limit));
            writes.push(FileWrite::new("hugetlb", format!("hugetlb.{name}.rsvd.max"), limit).optional());
        }
        if let Some(cpus) = &self.cpus {
            writes.push(FileWrite::new("cpuset", "cpuset.cpus", cpus));
        }
        for (file, value) in &self.unified {
            let controller = file.split('.').next().unwrap_or_default();
            writes.push(FileWrite::new(controller, *file, value));
        }
        writes
    }

    fn cpu_max(&self) -> String {
        let period = self.cpu_period.unwrap_or(DEFAULT_PERIOD);
        match self.cpu_quota {
            Some(quota) if quota > 0 => format!("{quota} {period}"),
            _ => format!("max {period}"),
        }
    }

    /// systemd keeps a quota in whole percents of a CPU and would set the rounded one behind our back: the quota
    /// that is written to the file is the same rounded one.
    #[must_use]
    pub fn rounded_for_systemd(&self) -> Limits {
        let mut limits = self.clone();
        if let Some(quota) = self.cpu_quota.filter(|q| *q > 0) {
            let period = self.cpu_period.unwrap_or(DEFAULT_PERIOD).max(1);
            let per_second = self.quota_per_second(quota, period);
            limits.cpu_quota = i64::try_from(per_second.saturating_mul(period) / 1_000_000).ok().or(Some(quota));
        }
        limits
    }

    fn quota_per_second(&self, quota: i64, period: u64) -> u64 {
        let exact = quota.unsigned_abs().saturating_mul(1_000_000) / period;
        exact.div_ceil(10_000) * 10_000
    }

    /// CPUQuotaPerSecUSec: `u64::MAX` is no limit, `None` is nothing to set.
    pub fn systemd_quota(&self) -> Option<u64> {
        match (self.cpu_quota, self.cpu_period) {
            (None | Some(0), None) => None,
            (Some(quota), period) if quota > 0 => {
                Some(self.quota_per_second(quota, period.unwrap_or(DEFAULT_PERIOD).max(1)))
            }
            _ => Some(u64::MAX),
        }
    }
}

fn number_or_max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(writes: Vec<FileWrite>) -> Vec<String> {
        writes.into_iter().map(|w| format!("{}={}", w.file, w.value)).collect()
    }

    fn full() -> Limits {
        Limits {
            cpu_shares: Some(512),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory: Some(1 << 20),
            pids: Some(-1),
            hugepages: BTreeMap::from([(2 << 20, 0)]),
            cpus: Some("0-1".into()),
            unified: BTreeMap::from([("memory.low", "0".to_owned())]),
        }
    }

    #[test]
    fn weights_map_shares_linearly() {
        let cases = [(2, 1), (1024, 39), (512, 20), (262_144, 10_000), (999_999_999, 10_000)];
        for (shares, weight) in cases {
            assert_eq!(shares_to_weight(shares), weight, "{shares}");
        }
        assert_eq!(weight_to_shares(1), 2);
        assert_eq!(weight_to_shares(39), 998);
    }

    #[test]
    fn v1_gets_its_own_files() {
        let expected = [
            "pids.max=max",
            "memory.limit_in_bytes=1048576",
            "cpu.shares=512",
            "cpu.cfs_period_us=100000",
            "cpu.cfs_quota_us=50000",
            "hugetlb.2MB.limit_in_bytes=0",
            "hugetlb.2MB.rsvd.limit_in_bytes=0",
            "cpuset.cpus=0-1",
        ];
        assert_eq!(texts(full().writes(Version::V1)), expected);
    }

    #[test]
    fn v2_gets_weights_and_one_file_for_quota_and_period() {
        let expected = [
            "pids.max=max",
            "memory.max=1048576",
            "memory.low=0",
            "cpu.weight=20",
            "cpu.max=50000 100000",
            "hugetlb.2MB.max=0",
            "hugetlb.2MB.rsvd.max=0",
            "cpuset.cpus=0-1",
        ];
        assert_eq!(texts(full().writes(Version::V2)), expected);
    }

    #[test]
    fn no_quota_is_max_on_v2_and_minus_one_on_v1() {
        let limits = Limits { cpu_quota: Some(-1), cpu_period: Some(100_000), ..Limits::default() };
        assert_eq!(texts(limits.writes(Version::V2)), ["cpu.max=max 100000"]);
        assert_eq!(texts(limits.writes(Version::V1)), ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=-1"]);
        assert_eq!(limits.systemd_quota(), Some(u64::MAX));
        assert_eq!(Limits::default().systemd_quota(), None);
    }

    #[test]
    fn systemd_rounds_a_quota_up_to_whole_percents() {
        let limits = Limits { cpu_quota: Some(1250), cpu_period: Some(100_000), ..Limits::default() };
        assert_eq!(limits.systemd_quota(), Some(20_000));
        assert_eq!(limits.rounded_for_systemd().cpu_quota, Some(2000));
    }

    #[test]
    fn page_sizes_have_the_kernels_names() {
        assert_eq!([64 << 10, 2 << 20, 1 << 30].map(page_size_name), ["64KB", "2MB", "1GB"]);
    }
}
