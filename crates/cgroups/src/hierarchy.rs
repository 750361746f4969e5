//! Where the kernel shows cgroups on this machine, read from mountinfo.
//!
//! Version 2 is used only when it is mounted at /sys/fs/cgroup itself; on a hybrid machine (v1 controllers with a
//! bare v2 tree beside them) the runtimes use the v1 hierarchies, and so does this crate.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

const MOUNTINFO: &str = "/proc/self/mountinfo";
const UNIFIED: &str = "/sys/fs/cgroup";
/// The v1 hierarchies in which a pod's cgroup must exist to count as there; others (misc, rdma) are not known to
/// every runtime.
const REQUIRED_V1: [&str; 7] = ["cpu", "cpuacct", "cpuset", "memory", "systemd", "pids", "hugetlb"];
/// The v2 controllers that pods need, as far as the kernel has them.
const REQUIRED_V2: [&str; 5] = ["cpu", "cpuset", "memory", "hugetlb", "pids"];
/// The v1 hierarchies that runtimes make cgroups in; a named one but systemd's belongs to somebody else.
const USED_V1: [&str; 15] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "perf_event",
    "freezer",
    "net_prio",
    "net_cls",
    "rdma",
    "misc",
    "systemd",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchies {
    /// Mount point by controller; controllers mounted together share one.
    V1(BTreeMap<String, PathBuf>),
    V2 {
        root: PathBuf,
        controllers: BTreeSet<String>,
    },
}

impl Hierarchies {
    /// The path of the cgroup that accounts for a process, from its `/proc/PID/cgroup`. With version 1 only where one
    /// cgroup accounts for both CPU and memory, or else the numbers would be those of two.
    pub fn path_of(&self, proc_cgroup: &str) -> Option<String> {
        let path = |controller: &str| {
            proc_cgroup.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                controllers.split(',').any(|named| named == controller).then(|| path.to_owned())
            })
        };
        match self {
            Hierarchies::V1(_) => {
                let cpu = path("cpu").filter(|cpu| path("memory").as_ref() == Some(cpu))?;
                path("name=systemd").or(Some(cpu))
            }
            Hierarchies::V2 { .. } => path(""),
        }
    }

    pub fn detect() -> Result<Self> {
        let path = Path::new(MOUNTINFO);
        let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let mut mounts = CgroupMounts::parse(&text);
        if mounts.unified.iter().any(|m| m == Path::new(UNIFIED)) {
            let root = PathBuf::from(UNIFIED);
            return Ok(Hierarchies::V2 { controllers: controllers_of(&root)?, root });
        }
        if mounts.v1.is_empty() {
            return Err(Error::NotMounted);
        }
        // On a hybrid machine runtimes make the same groups in the bare v2 tree, and leave them there.
        if let Some(bare) = mounts.unified.into_iter().next() {
            mounts.v1.insert("unified".to_owned(), bare);
        }
        Ok(Hierarchies::V1(mounts.v1))
    }

    pub fn version(&self) -> Version {
        match self {
            Hierarchies::V1(_) => Version::V1,
            Hierarchies::V2 { .. } => Version::V2,
        }
    }

    /// The mount point at which a controller's files are.
    pub fn of(&self, controller: &'static str) -> Result<&Path> {
        match self {
            Hierarchies::V1(mounts) => {
                mounts.get(controller).map(PathBuf::as_path).ok_or(Error::NoController { controller })
            }
            Hierarchies::V2 { root, .. } => Ok(root),
        }
    }

    pub fn has(&self, controller: &str) -> bool {
        match self {
            Hierarchies::V1(mounts) => mounts.contains_key(controller),
            Hierarchies::V2 { controllers, .. } => controllers.contains(controller),
        }
    }

    /// Every mount point once.
    pub fn mount_points(&self) -> BTreeSet<&Path> {
        match self {
            Hierarchies::V1(mounts) => mounts.values().map(PathBuf::as_path).collect(),
            Hierarchies::V2 { root, .. } => BTreeSet::from([root.as_path()]),
        }
    }

    /// Whether a cgroup is there in full: in every hierarchy that matters, with every controller that matters.
    pub fn exists(&self, path: &str) -> bool {
        match self {
            Hierarchies::V1(mounts) => {
                let mut required = REQUIRED_V1.iter().filter_map(|c| mounts.get(*c));
                required.all(|mount| below(mount, path).is_dir())
            }
            Hierarchies::V2 { root, controllers } => {
                let needed = REQUIRED_V2.iter().filter(|c| controllers.contains(**c));
                let Ok(enabled) = controllers_of(&below(root, path)) else { return false };
                needed.into_iter().all(|c| enabled.contains(*c))
            }
        }
    }
}

fn controllers_of(dir: &Path) -> Result<BTreeSet<String>> {
    let path = dir.join("cgroup.controllers");
    let text = fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// A cgroup's directory: `path` starts with a slash, which `Path::join` would take for the machine's root.
pub fn below(mount: &Path, path: &str) -> PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// The cgroup mounts of one mountinfo text.
#[derive(Debug, Default, PartialEq, Eq)]
struct CgroupMounts {
    v1: BTreeMap<String, PathBuf>,
    unified: Vec<PathBuf>,
}

impl CgroupMounts {
    fn parse(mountinfo: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let Some(mount_point) = before.split(' ').nth(4) else { continue };
            let mut after = after.split(' ');
            let (kind, options) = (after.next().unwrap_or_default(), after.nth(1).unwrap_or_default());
            match kind {
                "cgroup2" => found.unified.push(mount_point.into()),
                "cgroup" => found.add_v1(mount_point, options),
                _ => {}
            }
        }
        found
    }

    /// Of two mounts of one hierarchy the shortest path wins, so that the choice does not depend on their order.
    fn add_v1(&mut self, mount_point: &str, options: &str) {
        for option in options.split(',') {
            let controller = option.strip_prefix("name=").unwrap_or(option);
            if !USED_V1.contains(&controller) {
                continue;
            }
            let known = self.v1.get(controller).map(|p| p.as_os_str().len());
            if known.is_none_or(|len| mount_point.len() < len) {
                self.v1.insert(controller.to_owned(), mount_point.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /var/lib/very/long/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /sys/fs/cgroup/elogind rw,relatime - cgroup cgroup rw,name=elogind";

    #[test]
    fn a_process_is_accounted_for_where_cpu_and_memory_agree() {
        let v2 = Hierarchies::V2 { root: UNIFIED.into(), controllers: BTreeSet::new() };
        assert_eq!(v2.path_of("0::/system.slice/kubelet.service\n").as_deref(), Some("/system.slice/kubelet.service"));
        let v1 = Hierarchies::V1(BTreeMap::new());
        let systemd = "4:memory:/a\n3:cpu,cpuacct:/a\n1:name=systemd:/b\n0::/c\n";
        assert_eq!(v1.path_of(systemd).as_deref(), Some("/b"));
        assert_eq!(v1.path_of("4:memory:/a\n3:cpu,cpuacct:/a\n").as_deref(), Some("/a"));
        assert_eq!(v1.path_of("4:memory:/\n3:cpu,cpuacct:/a\n1:name=systemd:/b\n"), None);
    }

    #[test]
    fn a_hybrid_machine_shows_its_v1_hierarchies() {
        let found = CgroupMounts::parse(HYBRID);
        let expected = [
            ("cpu", "/sys/fs/cgroup/cpu,cpuacct"),
            ("cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            ("memory", "/sys/fs/cgroup/memory"),
            ("systemd", "/sys/fs/cgroup/systemd"),
        ];
        assert_eq!(found.v1, expected.map(|(c, p)| (c.to_owned(), PathBuf::from(p))).into());
        assert_eq!(found.unified, [PathBuf::from("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn controllers_mounted_together_share_one_directory() {
        let hierarchies = Hierarchies::V1(CgroupMounts::parse(HYBRID).v1);
        assert_eq!(hierarchies.mount_points().len(), 3);
        assert_eq!(hierarchies.version(), Version::V1);
    }

    #[test]
    fn a_cgroup_path_stays_below_its_mount() {
        assert_eq!(below(Path::new("/sys/fs/cgroup/cpu"), "/kubepods"), Path::new("/sys/fs/cgroup/cpu/kubepods"));
        assert_eq!(below(Path::new("/sys/fs/cgroup"), "/"), Path::new("/sys/fs/cgroup/"));
    }
}
