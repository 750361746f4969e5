//! Which host ids a pod with `hostUsers: false` uses: its own range, kept in `pods/UID/userns` for as long as the pod
//! has a directory. Nothing else is remembered: the ranges in use are those in the files.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use api_types::runtime::v1::{IdMapping, NamespaceMode, UserNamespace};
use host::{HostError, RootDir, atomic_file};
use pod::{DesiredPod, PodUid};
use serde::{Deserialize, Serialize};

use crate::user_ids::UserIds;

#[derive(Debug, thiserror::Error)]
pub enum UsernsError {
    #[error("can't set `spec.hostUsers: false`, {}", unsupported(.handler))]
    Unsupported { handler: String },
    #[error("can't set `spec.hostUsers: false`, the runtime can't be asked: {0}")]
    RuntimeStatus(cri::CriError),
    #[error("user namespace: {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("user namespace: {} is no mapping", path.display())]
    Parse { path: PathBuf, source: serde_json::Error },
    #[error("create user namespace: no range of ids is free")]
    Exhausted,
    #[error("create user namespace")]
    Write(#[from] HostError),
}

fn unsupported(handler: &str) -> String {
    match handler {
        "" => "runtime does not support user namespaces".to_owned(),
        _ => format!("RuntimeClass handler {handler:?} does not support user namespaces"),
    }
}

/// The file's form, which upstream reads and writes too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mappings {
    #[serde(rename = "uidMappings")]
    uids: Vec<Mapping>,
    #[serde(rename = "gidMappings")]
    gids: Vec<Mapping>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

impl Mappings {
    fn one_range(host_id: u32, length: u32) -> Self {
        let mapping = Mapping { host_id, container_id: 0, length };
        Self { uids: vec![mapping.clone()], gids: vec![mapping] }
    }

    /// As the runtime is told.
    fn told(&self) -> UserNamespace {
        let one = |m: &Mapping| IdMapping { host_id: m.host_id, container_id: m.container_id, length: m.length };
        let all = |list: &[Mapping]| list.iter().map(one).collect();
        UserNamespace { mode: NamespaceMode::Pod as i32, uids: all(&self.uids), gids: all(&self.gids) }
    }
}

/// A pod with the host's users.
pub fn host_users() -> UserNamespace {
    UserNamespace { mode: NamespaceMode::Node as i32, ..UserNamespace::default() }
}

/// A pod with users of its own: so many, from that id of the host on.
pub fn own_users(first: u32, count: u32) -> UserNamespace {
    Mappings::one_range(first, count).told()
}

pub fn wants_own(pod: &DesiredPod) -> bool {
    pod.spec().host_users == Some(false)
}

/// The pod's range, made now if it has none. Callers hold the one lock on allocations.
pub fn of_pod(root: &RootDir, uid: &PodUid, ids: &UserIds) -> Result<UserNamespace, UsernsError> {
    let mappings = match read(root, uid)? {
        Some(mappings) => mappings,
        None => allocate(root, uid, ids)?,
    };
    Ok(mappings.told())
}

fn read(root: &RootDir, uid: &PodUid) -> Result<Option<Mappings>, UsernsError> {
    let path = root.user_namespace(uid);
    match fs::read(&path) {
        Ok(content) => match serde_json::from_slice(&content) {
            Ok(mappings) => Ok(Some(mappings)),
            Err(source) => Err(UsernsError::Parse { path, source }),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(UsernsError::Read { path, source }),
    }
}

/// The first range that no pod has.
fn allocate(root: &RootDir, uid: &PodUid, ids: &UserIds) -> Result<Mappings, UsernsError> {
    let mut taken = BTreeSet::new();
    for other in root.pod_uids()? {
        let mappings = read(root, &other)?;
        taken.extend(mappings.iter().flat_map(|m| &m.uids).map(|m| m.host_id / ids.per_pod));
    }
    let free = ids.ranges.clone().find(|n| !taken.contains(n)).ok_or(UsernsError::Exhausted)?;
    let mappings = Mappings::one_range(free * ids.per_pod, ids.per_pod);
    let json = serde_json::to_vec(&mappings).unwrap_or_default();
    host::root_dir::make_dir(&root.pod(uid), host::root_dir::DIR_MODE)?;
    atomic_file::write(&root.user_namespace(uid), &json, 0o644)?;
    Ok(mappings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_ranges_of_their_own_and_keep_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::new(dir.path());
        let range = |uid: &str| of_pod(&root, &PodUid::new(uid), &UserIds::default()).unwrap().uids[0].host_id;
        assert_eq!((range("a"), range("b"), range("a")), (65_536, 131_072, 65_536));
        fs::remove_dir_all(root.pod(&PodUid::new("a"))).unwrap();
        assert_eq!(range("c"), 65_536);
        let file = fs::read_to_string(root.user_namespace(&PodUid::new("b"))).unwrap();
        let one = r#"[{"hostId":131072,"containerId":0,"length":65536}]"#;
        assert_eq!(file, format!(r#"{{"uidMappings":{one},"gidMappings":{one}}}"#));
    }

    #[test]
    fn a_broken_file_is_an_error_rather_than_another_range() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::new(dir.path());
        let uid = PodUid::new("a");
        fs::create_dir_all(root.pod(&uid)).unwrap();
        fs::write(root.user_namespace(&uid), "{").unwrap();
        assert!(matches!(of_pod(&root, &uid, &UserIds::default()), Err(UsernsError::Parse { .. })));
    }
}
