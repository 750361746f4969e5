//! A cgroup's name, apart from how a driver spells it.
//!
//! `kubepods, burstable, pod1-2` is `/kubepods/burstable/pod1-2` for the cgroupfs driver and
//! `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice` for systemd, whose slice names
//! carry their whole ancestry joined by dashes; dashes inside a part therefore become underscores.

use std::fmt;

use pod::PodUid;

use crate::{Driver, Error, Result};

const SLICE: &str = ".slice";
const POD_PREFIX: &str = "pod";

/// Parts from the root down; none means the root itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CgroupName(Vec<String>);

impl CgroupName {
    /// From a path such as `/bed` or `/`, as the option cgroupRoot is written with any driver.
    pub fn from_path(path: &str) -> Result<Self> {
        let parts: Vec<String> = path.split('/').filter(|p| !p.is_empty() && *p != ".").map(str::to_owned).collect();
        if parts.iter().any(|p| p == "..") {
            return Err(Error::Name { name: path.to_owned(), reason: "it must not leave its root" });
        }
        Ok(Self(parts))
    }

    #[must_use]
    pub fn child(&self, part: &str) -> Self {
        let mut parts = self.0.clone();
        parts.push(part.to_owned());
        Self(parts)
    }

    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Self {
        self.child(&format!("{POD_PREFIX}{uid}"))
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names from the top one down to this one.
    pub fn lineage(&self) -> impl Iterator<Item = CgroupName> + '_ {
        (1..=self.0.len()).map(|n| CgroupName(self.0[..n].to_vec()))
    }

    pub fn parent(&self) -> Option<CgroupName> {
        let (_, above) = self.0.split_last()?;
        Some(CgroupName(above.to_vec()))
    }

    /// Its path below a hierarchy's mount point, starting with a slash.
    pub fn path(&self, driver: Driver) -> String {
        match driver {
            Driver::Cgroupfs => format!("/{}", self.0.join("/")),
            Driver::Systemd if self.is_root() => "/".to_owned(),
            Driver::Systemd => self.lineage().map(|name| format!("/{}", name.unit())).collect(),
        }
    }

    /// The slice's unit name; `-.slice` for the root.
    pub fn unit(&self) -> String {
        if self.is_root() {
            return format!("-{SLICE}");
        }
        let parts: Vec<String> = self.0.iter().map(|p| p.replace('-', "_")).collect();
        format!("{}{SLICE}", parts.join("-"))
    }

    /// What LinuxPodSandboxConfig.cgroup_parent takes: the whole path, or the slice alone.
    pub fn cgroup_parent(&self, driver: Driver) -> String {
        match driver {
            Driver::Cgroupfs => self.path(driver),
            Driver::Systemd => self.unit(),
        }
    }
}

impl fmt::Display for CgroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.join("/"))
    }
}

/// The pod whose cgroup a directory entry is, if it is one.
pub fn pod_of_entry(entry: &str, driver: Driver) -> Option<PodUid> {
    let uid = match driver {
        Driver::Cgroupfs => entry.strip_prefix(POD_PREFIX)?.to_owned(),
        Driver::Systemd => {
            let last = entry.strip_suffix(SLICE)?.rsplit('-').next()?;
            last.strip_prefix(POD_PREFIX)?.replace('_', "-")
        }
    };
    (!uid.is_empty()).then(|| PodUid::new(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burstable_pod() -> CgroupName {
        let root = CgroupName::from_path("/").unwrap().child("kubepods");
        root.child("burstable").pod(&PodUid::new("1234-abcd-5678"))
    }

    #[test]
    fn a_cgroupfs_name_is_its_path() {
        assert_eq!(burstable_pod().path(Driver::Cgroupfs), "/kubepods/burstable/pod1234-abcd-5678");
        assert_eq!(burstable_pod().cgroup_parent(Driver::Cgroupfs), "/kubepods/burstable/pod1234-abcd-5678");
    }

    #[test]
    fn a_systemd_name_carries_its_ancestry_in_every_slice() {
        let name = burstable_pod();
        assert_eq!(
            name.path(Driver::Systemd),
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1234_abcd_5678.slice"
        );
        assert_eq!(name.cgroup_parent(Driver::Systemd), "kubepods-burstable-pod1234_abcd_5678.slice");
        assert_eq!(name.parent().unwrap().unit(), "kubepods-burstable.slice");
    }

    #[test]
    fn a_guaranteed_pod_lies_right_below_kubepods() {
        let name = CgroupName::from_path("").unwrap().child("kubepods").pod(&PodUid::new("a-b"));
        assert_eq!(name.unit(), "kubepods-poda_b.slice");
        assert_eq!(name.path(Driver::Cgroupfs), "/kubepods/poda-b");
    }

    #[test]
    fn the_root_has_a_path_and_a_unit_of_its_own() {
        let root = CgroupName::default();
        assert_eq!((root.path(Driver::Cgroupfs), root.path(Driver::Systemd)), ("/".into(), "/".into()));
        assert_eq!(root.unit(), "-.slice");
    }

    #[test]
    fn a_root_option_puts_everything_below_it() {
        let name = CgroupName::from_path("/bed/").unwrap().child("kubepods");
        assert_eq!(name.path(Driver::Cgroupfs), "/bed/kubepods");
        assert_eq!(name.path(Driver::Systemd), "/bed.slice/bed-kubepods.slice");
        assert!(CgroupName::from_path("/a/../../b").is_err());
    }

    #[test]
    fn directory_entries_tell_their_pod() {
        let uid = |entry, driver| pod_of_entry(entry, driver).map(|u| u.to_string());
        assert_eq!(uid("pod12-34", Driver::Cgroupfs), Some("12-34".into()));
        assert_eq!(uid("kubepods-besteffort-pod12_34.slice", Driver::Systemd), Some("12-34".into()));
        assert_eq!(uid("kubepods-pod12_34.slice", Driver::Systemd), Some("12-34".into()));
        assert_eq!(uid("kubepods-burstable.slice", Driver::Systemd), None);
        assert_eq!(uid("burstable", Driver::Cgroupfs), None);
        assert_eq!(uid("pod", Driver::Cgroupfs), None);
    }
}
