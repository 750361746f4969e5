//! Making, setting, emptying and removing cgroup directories. Blocking: callers run it off the async threads.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    Error, Result,
    hierarchy::{Hierarchies, below},
    limits::FileWrite,
};

const CFS_PERIOD: &str = "cpu.cfs_period_us";
const CFS_QUOTA: &str = "cpu.cfs_quota_us";

/// Makes the cgroup and all above it, in every hierarchy.
pub fn create(hierarchies: &Hierarchies, path: &str) -> Result<()> {
    match hierarchies {
        Hierarchies::V1(mounts) => {
            for mount in hierarchies.mount_points() {
                let is_cpuset = mounts.get("cpuset").is_some_and(|m| m == mount);
                create_v1(mount, path, is_cpuset)?;
            }
            Ok(())
        }
        Hierarchies::V2 { root, controllers } => create_v2(root, path, controllers),
    }
}

fn steps(mount: &Path, path: &str) -> Vec<PathBuf> {
    let mut dir = mount.to_path_buf();
    let parts = path.split('/').filter(|p| !p.is_empty());
    parts
        .map(|part| {
            dir.push(part);
            dir.clone()
        })
        .collect()
}

fn make_dir(dir: &Path) -> Result<()> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => Err(Error::Create { path: dir.into(), source: e }),
        _ => Ok(()),
    }
}

fn create_v1(mount: &Path, path: &str, is_cpuset: bool) -> Result<()> {
    let dirs = steps(mount, path);
    if let Some(last) = dirs.last()
        && create_last_v1(last, is_cpuset)?
    {
        return Ok(());
    }
    for dir in dirs {
        make_dir(&dir)?;
        if is_cpuset {
            inherit_cpuset(&dir)?;
        }
    }
    Ok(())
}

/// Whether that was enough: it is wherever a pod is not the first of its tier.
fn create_last_v1(dir: &Path, is_cpuset: bool) -> Result<bool> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(Error::Create { path: dir.into(), source: e }),
        _ if !is_cpuset => return Ok(true),
        _ => {}
    }
    let Some(parent) = dir.parent() else { return Ok(false) };
    for file in CPUSET {
        if read(&parent.join(file))?.trim().is_empty() {
            return Ok(false);
        }
    }
    inherit_cpuset(dir)?;
    Ok(true)
}

const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// A new v1 cpuset has neither CPUs nor memory nodes, and no process can enter it until it has both.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for file in CPUSET {
        if read(&dir.join(file))?.trim().is_empty() {
            write(&dir.join(file), read(&parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

fn create_v2(root: &Path, path: &str, controllers: &BTreeSet<String>) -> Result<()> {
    let mut parent = root.to_path_buf();
    for dir in steps(root, path) {
        enable_controllers(&parent, controllers);
        make_dir(&dir)?;
        parent = dir;
    }
    Ok(())
}

/// Lets the children of `dir` use every controller it may. What the kernel refuses (a controller that holds
/// processes, say) is left: a limit that needs it fails later with its own message.
fn enable_controllers(dir: &Path, controllers: &BTreeSet<String>) {
    let file = dir.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    let missing: Vec<String> =
        controllers.iter().filter(|c| !enabled.split_whitespace().any(|e| e == *c)).map(|c| format!("+{c}")).collect();
    if missing.is_empty() || fs::write(&file, missing.join(" ")).is_ok() {
        return;
    }
    for one in missing {
        let _ = fs::write(&file, one);
    }
}

/// Sets limits. Those of a controller that the machine lacks are left out. One that is refused keeps none of the others
/// from being set: the error is the first one's.
pub fn set(hierarchies: &Hierarchies, path: &str, writes: &[FileWrite]) -> Result<()> {
    let sets_quota = writes.iter().any(|w| w.file == CFS_QUOTA);
    let mut period_later = None;
    let mut outcome = Ok(());
    for item in writes.iter().filter(|w| hierarchies.has(w.controller)) {
        let file = below(hierarchies.of(item.controller)?, path).join(&item.file);
        match write(&file, &item.value) {
            // A shorter period is refused while the old quota over it exceeds the parent's share.
            Err(Error::Write { source, .. })
                if item.file == CFS_PERIOD && sets_quota && source.kind() == ErrorKind::InvalidInput =>
            {
                period_later = Some(item.value.as_str());
            }
            Err(Error::Write { source, .. }) if item.optional && source.kind() == ErrorKind::NotFound => {}
            result => outcome = outcome.and(result),
        }
        if let (CFS_QUOTA, Some(period)) = (item.file.as_str(), period_later.take_if(|_| item.file == CFS_QUOTA)) {
            outcome = outcome.and(write(&file.with_file_name(CFS_PERIOD), period));
        }
    }
    outcome
}

pub fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })
}

fn write(path: &Path, value: &str) -> Result<()> {
    // Not fs::write: a missing control file must not be created (on a cgroup file system it can't be, in tests it could).
    let result = fs::OpenOptions::new().write(true).truncate(true).open(path).and_then(|mut file| {
        use io::Write;
        file.write_all(value.as_bytes())
    });
    result.map_err(|source| Error::Write { path: path.into(), value: value.to_owned(), source })
}

/// Every process in the cgroup or below it, in any hierarchy.
pub fn processes(hierarchies: &Hierarchies, path: &str) -> BTreeSet<i32> {
    let mut pids = BTreeSet::new();
    for mount in hierarchies.mount_points() {
        add_processes(&below(mount, path), &mut pids);
    }
    pids
}

fn add_processes(dir: &Path, pids: &mut BTreeSet<i32>) {
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process of another pid namespace: not ours to kill, and kill(0) would hit ourselves.
    pids.extend(procs.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|pid| *pid > 0));
    for child in children(dir) {
        add_processes(&child, pids);
    }
}

/// SIGKILL to all of them; those still there afterwards are for the caller to see again.
pub fn kill(hierarchies: &Hierarchies, path: &str) -> BTreeSet<i32> {
    if let Hierarchies::V2 { root, .. } = hierarchies {
        // One write reaches forks too; older kernels lack the file.
        let _ = write(&below(root, path).join("cgroup.kill"), "1");
    }
    let pids = processes(hierarchies, path);
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        let _ = kill_process(pid, Signal::KILL);
    }
    pids
}

/// Removes the cgroup and all below it from every hierarchy. The error is the last hierarchy's that keeps it.
pub fn remove(hierarchies: &Hierarchies, path: &str) -> Result<()> {
    let mut kept = Ok(());
    for mount in hierarchies.mount_points() {
        if let Err(error) = remove_tree(&below(mount, path)) {
            kept = Err(error);
        }
    }
    kept
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for child in children(dir) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::Remove { path: dir.into(), source: e }),
        _ => Ok(()),
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// The names of the directories right below a cgroup, over all hierarchies.
pub fn child_names(hierarchies: &Hierarchies, path: &str) -> BTreeSet<String> {
    let dirs = hierarchies.mount_points().into_iter().flat_map(|mount| children(&below(mount, path)));
    dirs.filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned())).collect()
}

/// Whether any hierarchy still has the cgroup.
pub fn exists_anywhere(hierarchies: &Hierarchies, path: &str) -> bool {
    hierarchies.mount_points().iter().any(|mount| below(mount, path).is_dir())
}

pub fn first_process(hierarchies: &Hierarchies, path: &str) -> Option<u32> {
    let files = hierarchies.mount_points().into_iter().map(|mount| below(mount, path).join("cgroup.procs"));
    let lists = files.filter_map(|file| fs::read_to_string(file).ok());
    // 0 is a process of another PID namespace.
    lists.flat_map(|list| list.lines().next().and_then(|pid| pid.parse().ok())).find(|pid| *pid != 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::limits::Limits;

    /// A directory that looks like a v1 machine as far as files are concerned.
    fn v1(root: &Path, controllers: &[&str]) -> Hierarchies {
        let mounts: BTreeMap<String, PathBuf> = controllers.iter().map(|c| ((*c).to_owned(), root.join(c))).collect();
        for dir in mounts.values() {
            fs::create_dir_all(dir).unwrap();
        }
        Hierarchies::V1(mounts)
    }

    #[test]
    fn a_cgroup_is_made_and_removed_in_every_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        let hierarchies = v1(root.path(), &["cpu", "memory"]);
        create(&hierarchies, "/kubepods/burstable/pod1").unwrap();
        assert!(hierarchies.exists("/kubepods/burstable/pod1"));
        assert_eq!(child_names(&hierarchies, "/kubepods/burstable"), BTreeSet::from(["pod1".to_owned()]));

        fs::create_dir(root.path().join("cpu/kubepods/burstable/pod1/container")).unwrap();
        remove(&hierarchies, "/kubepods/burstable/pod1").unwrap();
        assert!(!exists_anywhere(&hierarchies, "/kubepods/burstable/pod1"));
        assert!(exists_anywhere(&hierarchies, "/kubepods/burstable"));
        remove(&hierarchies, "/kubepods/burstable/pod1").unwrap();
    }

    #[test]
    fn a_cgroup_missing_in_one_hierarchy_does_not_exist() {
        let root = tempfile::tempdir().unwrap();
        let hierarchies = v1(root.path(), &["cpu", "memory", "net_cls"]);
        create(&hierarchies, "/a").unwrap();
        fs::remove_dir(root.path().join("net_cls/a")).unwrap();
        assert!(hierarchies.exists("/a"));
        fs::remove_dir(root.path().join("memory/a")).unwrap();
        assert!(!hierarchies.exists("/a"));
        assert!(exists_anywhere(&hierarchies, "/a"));
    }

    #[test]
    fn a_cpuset_takes_its_parents_cpus() {
        let root = tempfile::tempdir().unwrap();
        let (top, dir) = (root.path().join("top"), root.path().join("top/leaf"));
        fs::create_dir_all(&dir).unwrap();
        for (dir, cpus, mems) in [(&top, "0-3\n", "0\n"), (&dir, "\n", "1\n")] {
            fs::write(dir.join("cpuset.cpus"), cpus).unwrap();
            fs::write(dir.join("cpuset.mems"), mems).unwrap();
        }
        inherit_cpuset(&dir).unwrap();
        assert_eq!(read(&dir.join("cpuset.cpus")).unwrap(), "0-3");
        assert_eq!(read(&dir.join("cpuset.mems")).unwrap(), "1\n");
    }

    #[test]
    fn limits_of_absent_controllers_are_left_out_and_absent_files_are_errors() {
        let root = tempfile::tempdir().unwrap();
        let hierarchies = v1(root.path(), &["cpu"]);
        create(&hierarchies, "/a").unwrap();
        fs::write(root.path().join("cpu/a/cpu.shares"), "1024").unwrap();
        let limits = Limits { cpu_shares: Some(2), memory: Some(5), ..Limits::default() };
        set(&hierarchies, "/a", &limits.writes(hierarchies.version())).unwrap();
        assert_eq!(read(&root.path().join("cpu/a/cpu.shares")).unwrap(), "2");

        let limits = Limits { cpu_quota: Some(5000), ..Limits::default() };
        let error = set(&hierarchies, "/a", &limits.writes(hierarchies.version())).unwrap_err();
        assert!(matches!(error, Error::Write { .. }), "{error}");
    }

    #[test]
    fn one_refused_limit_keeps_none_of_the_others_from_being_set() {
        let root = tempfile::tempdir().unwrap();
        let controllers = ["cpu", "memory", "pids"].map(str::to_owned).into();
        let hierarchies = Hierarchies::V2 { root: root.path().to_owned(), controllers };
        let dir = root.path().join("a");
        fs::create_dir(&dir).unwrap();
        // There is no cpu.max.
        for file in ["cpu.weight", "memory.max", "memory.low", "pids.max"] {
            fs::write(dir.join(file), "").unwrap();
        }
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_quota: Some(5000),
            memory: Some(64),
            pids: Some(10),
            unified: BTreeMap::from([("memory.low", "7".to_owned())]),
            ..Limits::default()
        };
        let error = set(&hierarchies, "/a", &limits.writes(hierarchies.version())).unwrap_err();
        assert!(matches!(&error, Error::Write { path, .. } if path.ends_with("cpu.max")), "{error}");
        for (file, value) in [("cpu.weight", "39"), ("memory.max", "64"), ("memory.low", "7"), ("pids.max", "10")] {
            assert_eq!(read(&dir.join(file)).unwrap(), value, "{file}");
        }
    }

    #[test]
    fn processes_are_found_below_too_and_foreign_ones_are_left_out() {
        let root = tempfile::tempdir().unwrap();
        let hierarchies = v1(root.path(), &["cpu", "memory"]);
        create(&hierarchies, "/a/b").unwrap();
        fs::write(root.path().join("cpu/a/cgroup.procs"), "12\n").unwrap();
        fs::write(root.path().join("memory/a/b/cgroup.procs"), "0\n12\n13\n").unwrap();
        assert_eq!(processes(&hierarchies, "/a"), BTreeSet::from([12, 13]));
    }
}
