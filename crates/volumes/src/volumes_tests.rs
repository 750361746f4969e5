//! Tests of the whole: real directories and mounts, in a mount namespace of their own.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::PathBuf,
};

use host::mounts;
use serde_json::{Value, json};

use super::*;
use crate::{
    MountedSource,
    fixture::{in_own_mounts, pod},
};

struct Node {
    _temp: tempfile::TempDir,
    root: RootDir,
    volumes: Volumes,
}

fn node() -> Node {
    let temp = tempfile::tempdir().unwrap();
    let base = fs::canonicalize(temp.path()).unwrap();
    let root = RootDir::new(base.join("kubelet")).with_logs(base.join("logs"), base.join("links"));
    root.create().unwrap();
    let volumes = again(&root);
    Node { _temp: temp, root, volumes }
}

/// What a restarted agent has: the disk, and nothing else.
fn again(root: &RootDir) -> Volumes {
    let allocatable: ApiList = serde_json::from_value(json!({"memory": "1Gi", "cpu": "2"})).unwrap();
    Volumes::new(VolumesConfig {
        root: root.clone(),
        clock: Clock::start(),
        api: None,
        node_allocatable: Arc::new(move || allocatable.clone()),
    })
}

/// One container that mounts every volume, the first one with `mount` added.
fn pod_with(volumes: Value, mount: Value, security: Value) -> DesiredPod {
    let names = volumes.as_array().unwrap().iter().enumerate();
    let mut mounts: Vec<Value> =
        names.map(|(i, v)| json!({"name": v["name"], "mountPath": format!("/m{i}")})).collect();
    mounts[0].as_object_mut().unwrap().extend(mount.as_object().unwrap().clone());
    pod(json!({"volumes": volumes, "securityContext": security, "containers": [{"name": "c", "volumeMounts": mounts}]}))
}

async fn container_mounts(
    node: &Node,
    pod: &DesiredPod,
    mounted: &MountedVolumes,
) -> Result<Vec<ContainerMount>, VolumeError> {
    let of = MountsFor {
        pod,
        container: &pod.regular_containers()[0],
        volumes: mounted,
        images: &BTreeMap::new(),
        recursive_read_only: true,
        expand: &|text| Ok(text.to_owned()),
    };
    node.volumes.container_mounts(of).await
}

fn path(mounted: &MountedVolumes, volume: &str) -> PathBuf {
    match &mounted.get(volume).unwrap().source {
        MountedSource::Host(path) => path.clone(),
        MountedSource::Image => panic!("{volume} is an image"),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn volumes_come_go_and_survive_a_restart_in_between() {
    if !in_own_mounts("volumes::tests::volumes_come_go_and_survive_a_restart_in_between") {
        return;
    }
    let mut node = node();
    let labels = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]);
    let pod = pod_with(
        json!([{"name": "disk", "emptyDir": {}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "info", "downwardAPI": {"defaultMode": 420, "items": labels}},
            {"name": "all", "projected": {"defaultMode": 256, "sources": [{"downwardAPI": {"items": labels}}]}}]),
        json!({}),
        json!({}),
    );
    let mounted = node.volumes.mount(&pod).await.unwrap();
    let (disk, mem, info) = (path(&mounted, "disk"), path(&mounted, "mem"), path(&mounted, "info"));
    fs::write(disk.join("keep"), "x").unwrap();
    assert_eq!(mode(&disk), 0o777);
    let tmpfs = mounts::at(&mem).unwrap().unwrap();
    assert_eq!((tmpfs.fs_type.as_str(), tmpfs.super_options.contains("size=1024k")), ("tmpfs", true));
    assert_eq!(mounts::at(&info).unwrap().unwrap().fs_type, "tmpfs");
    assert_eq!(fs::read_to_string(info.join("labels")).unwrap(), "app=\"web\"");
    assert_eq!(mode(&path(&mounted, "all").join("labels")), 0o400);
    assert!(mounted.get("info").unwrap().read_only && !mounted.get("disk").unwrap().read_only);
    assert!(node.root.pod_plugin(&pod.uid, "kubernetes.io/empty-dir", "wrapped_info").join("ready").is_file());

    let table = mounts::beneath(&node.root.pods()).unwrap();
    node.volumes = again(&node.root);
    assert_eq!(node.volumes.mount(&pod).await.unwrap(), mounted);
    assert_eq!(mounts::beneath(&node.root.pods()).unwrap(), table);
    assert!(disk.join("keep").exists());

    fs::create_dir_all(node.root.container(&pod.uid, "c")).unwrap();
    node.volumes.unmount(&pod.uid).await.unwrap();
    assert_eq!(mounts::beneath(&node.root.pods()).unwrap(), []);
    assert!(!node.volumes.has_volumes(&pod.uid).await.unwrap());
    assert!(!node.root.pod_volumes(&pod.uid).exists() && node.root.container(&pod.uid, "c").exists());
    assert_eq!(node.volumes.leftovers().unwrap(), std::slice::from_ref(&pod.uid));
    node.volumes.remove_pod(&pod.uid).await.unwrap();
    node.volumes.remove_pod(&pod.uid).await.unwrap();
    assert_eq!(node.volumes.leftovers().unwrap(), []);
}

#[tokio::test]
async fn an_fs_group_owns_what_the_pod_may_write() {
    if !in_own_mounts("volumes::tests::an_fs_group_owns_what_the_pod_may_write") {
        return;
    }
    let node = node();
    let items = json!([{"path": "name", "mode": 256, "fieldRef": {"fieldPath": "metadata.name"}}]);
    let pod = pod_with(
        json!([{"name": "disk", "emptyDir": {}}, {"name": "info", "downwardAPI": {"defaultMode": 420, "items": items}}]),
        json!({"subPath": "new/dir"}),
        json!({"fsGroup": 4321}),
    );
    let mounted = node.volumes.mount(&pod).await.unwrap();
    let (disk, name) = (path(&mounted, "disk"), path(&mounted, "info").join("name"));
    assert_eq!((fs::metadata(&disk).unwrap().gid(), mode(&disk)), (4321, 0o2777));
    assert_eq!((fs::metadata(&name).unwrap().gid(), mode(&name)), (4321, 0o440));
    // A directory that is made for a subPath is as open as the volume.
    let mounts = container_mounts(&node, &pod, &mounted).await.unwrap();
    assert_eq!((fs::metadata(&mounts[0].host_path).unwrap().gid(), mode(&mounts[0].host_path)), (4321, 0o2777));
    node.volumes.remove_pod(&pod.uid).await.unwrap();
}

#[tokio::test]
async fn a_sub_path_is_one_bind_mount_that_follows_a_replaced_directory() {
    if !in_own_mounts("volumes::tests::a_sub_path_is_one_bind_mount_that_follows_a_replaced_directory") {
        return;
    }
    let node = node();
    let pod = pod_with(json!([{"name": "v", "emptyDir": {}}]), json!({"subPath": "dir"}), json!({}));
    let mounted = node.volumes.mount(&pod).await.unwrap();
    let volume = path(&mounted, "v");
    let target = container_mounts(&node, &pod, &mounted).await.unwrap()[0].host_path.clone();
    assert_eq!(target, node.root.pod_sub_path(&pod.uid, "v", "c", 0));
    fs::write(volume.join("dir/file"), "1").unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "1");
    // A restarted container gets the same mount, not another one on top.
    container_mounts(&node, &pod, &mounted).await.unwrap();
    assert_eq!(mounts::beneath(&target).unwrap().len(), 1);
    // The pod has put another directory there.
    fs::rename(volume.join("dir"), volume.join("old")).unwrap();
    fs::create_dir(volume.join("dir")).unwrap();
    container_mounts(&node, &pod, &mounted).await.unwrap();
    assert_eq!((mounts::beneath(&target).unwrap().len(), target.join("file").exists()), (1, false));
    // And now a file.
    fs::remove_dir(volume.join("dir")).unwrap();
    fs::write(volume.join("dir"), "file").unwrap();
    container_mounts(&node, &pod, &mounted).await.unwrap();
    assert_eq!(fs::read_to_string(&target).unwrap(), "file");
    node.volumes.unmount(&pod.uid).await.unwrap();
    assert!(!node.root.pod_sub_paths(&pod.uid).exists());
}

#[tokio::test]
async fn a_sub_path_never_leaves_its_volume_however_links_are_swapped() {
    if !in_own_mounts("volumes::tests::a_sub_path_never_leaves_its_volume_however_links_are_swapped") {
        return;
    }
    let node = node();
    let pod = pod_with(json!([{"name": "v", "emptyDir": {}}]), json!({"subPath": "dir/sub"}), json!({}));
    let mounted = node.volumes.mount(&pod).await.unwrap();
    let volume = path(&mounted, "v");
    let outside = node.root.path().join("outside");
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::write(outside.join("sub/secret"), "host").unwrap();
    fs::create_dir_all(volume.join("dir/sub")).unwrap();
    symlink(&outside, volume.join("evil")).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let renamer = {
        let (volume, stop) = (volume.clone(), stop.clone());
        std::thread::spawn(move || {
            let (a, b) = (volume.join("dir"), volume.join("evil"));
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, flags).unwrap();
            }
        })
    };
    let mut worked = 0;
    for _ in 0..500 {
        match container_mounts(&node, &pod, &mounted).await {
            Ok(mounts) => {
                worked += 1;
                assert!(!mounts[0].host_path.join("secret").exists());
            }
            Err(error) => assert!(error.to_string().contains("subPath"), "{error}"),
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    renamer.join().unwrap();
    assert!(worked > 0);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    node.volumes.unmount(&pod.uid).await.unwrap();
    assert_eq!(fs::read_to_string(outside.join("sub/secret")).unwrap(), "host");
}

#[tokio::test]
async fn nothing_is_deleted_through_a_mount() {
    if !in_own_mounts("volumes::tests::nothing_is_deleted_through_a_mount") {
        return;
    }
    let node = node();
    let pod = pod_with(json!([{"name": "v", "emptyDir": {}}]), json!({}), json!({}));
    let mounted = node.volumes.mount(&pod).await.unwrap();
    let precious = node.root.path().join("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "x").unwrap();
    // As a container with Bidirectional propagation does, and as a local volume is mounted.
    let inner = path(&mounted, "v").join("inner");
    let local = node.root.pod_volume(&pod.uid, "kubernetes.io/local-volume", "pv");
    for target in [&inner, &local] {
        fs::create_dir_all(target).unwrap();
        mounts::bind(&precious, target).unwrap();
    }
    mounts::bind(&precious, &local).unwrap();
    // The order of work alone does not protect the data: the removal itself stops at a mount.
    let dir = host::Dir::open(&path(&mounted, "v")).unwrap();
    assert!(dir.remove_all(Path::new("inner")).is_err());
    node.volumes.unmount(&pod.uid).await.unwrap();
    assert_eq!(fs::read_to_string(precious.join("file")).unwrap(), "x");
    assert!(!node.root.pod_volumes(&pod.uid).exists());
}

#[tokio::test]
async fn what_lies_under_a_foreign_mount_point_is_not_deleted() {
    let node = node();
    let uid = PodUid::new("left");
    let foreign = node.root.pod_volume(&uid, "kubernetes.io/nfs", "share");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("file"), "x").unwrap();
    assert!(node.volumes.unmount(&uid).await.is_err());
    assert!(foreign.join("file").exists());
    fs::remove_file(foreign.join("file")).unwrap();
    node.volumes.unmount(&uid).await.unwrap();
    assert!(!node.root.pod_volumes(&uid).exists());
}

/// Upstream writes the file beside the mount point, for itself to read again.
#[tokio::test]
async fn of_a_csi_volume_that_another_kubelet_has_mounted_the_record_goes_and_nothing_else() {
    let node = node();
    let uid = PodUid::new("left");
    let (csi, nfs) = (
        node.root.pod_volume(&uid, "kubernetes.io/csi", "pv"),
        node.root.pod_volume(&uid, "kubernetes.io/nfs", "share"),
    );
    let precious = node.root.path().join("precious");
    fs::write(&precious, "x").unwrap();
    for volume in [&csi, &nfs] {
        fs::create_dir_all(volume.join("mount")).unwrap();
        fs::write(volume.join("vol_data.json"), "{}").unwrap();
    }
    assert!(node.volumes.unmount(&uid).await.is_err());
    assert!(nfs.join("vol_data.json").exists(), "it is no CSI volume");
    fs::remove_dir_all(&nfs).unwrap();

    fs::create_dir_all(csi.join("mount")).unwrap();
    fs::write(csi.join("vol_data.json"), "{}").unwrap();
    fs::write(csi.join("mount/file"), "x").unwrap();
    assert!(node.volumes.unmount(&uid).await.is_err());
    assert!(csi.join("mount/file").exists() && csi.join("vol_data.json").exists());
    fs::remove_file(csi.join("mount/file")).unwrap();

    fs::remove_file(csi.join("vol_data.json")).unwrap();
    symlink(&precious, csi.join("vol_data.json")).unwrap();
    assert!(node.volumes.unmount(&uid).await.is_err());
    assert!(csi.join("vol_data.json").is_symlink() && precious.exists());
    fs::remove_file(csi.join("vol_data.json")).unwrap();

    fs::write(csi.join("vol_data.json"), "{}").unwrap();
    node.volumes.unmount(&uid).await.unwrap();
    assert!(!node.root.pod_volumes(&uid).exists());
}

#[tokio::test]
async fn one_bad_volume_does_not_keep_the_others_from_being_set_up() {
    let node = node();
    let pod = pod_with(
        json!([{"name": "disk", "emptyDir": {}},
            {"name": "bad", "hostPath": {"path": "/no/such/dir", "type": "Directory"}},
            {"name": "share", "nfs": {"server": "s", "path": "/"}}]),
        json!({}),
        json!({}),
    );
    let error = node.volumes.mount(&pod).await.unwrap_err();
    let texts: Vec<String> = error.each().iter().map(ToString::to_string).collect();
    assert_eq!(texts[0], "volume \"share\" of kind nfs is not supported: its driver is not implemented");
    assert!(texts[1].starts_with("MountVolume.SetUp failed for volume \"bad\" : hostPath type check failed"));
    assert!(node.root.pod_volume(&pod.uid, "kubernetes.io/empty-dir", "disk").is_dir());
    node.volumes.remove_pod(&pod.uid).await.unwrap();
}

#[tokio::test]
async fn a_volume_that_no_container_mounts_is_not_set_up() {
    let node = node();
    let pod =
        pod(json!({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}], "containers": [{"name": "c"}]}));
    assert_eq!(node.volumes.mount(&pod).await.unwrap(), MountedVolumes::default());
}

#[tokio::test]
async fn without_an_api_server_objects_are_refused_by_name() {
    let node = node();
    let pod = pod_with(json!([{"name": "v", "secret": {"secretName": "s", "defaultMode": 420}}]), json!({}), json!({}));
    let error = node.volumes.mount(&pod).await.unwrap_err().to_string();
    assert_eq!(error, "MountVolume.SetUp failed for volume \"v\" : the kubelet has no API server to read secrets from");
}

#[tokio::test]
async fn the_root_directory_becomes_a_shared_mount_once() {
    if !in_own_mounts("volumes::tests::the_root_directory_becomes_a_shared_mount_once") {
        return;
    }
    let node = node();
    node.root.make_shared().unwrap();
    node.root.make_shared().unwrap();
    let found = mounts::beneath(node.root.path()).unwrap();
    assert_eq!((found.len(), found[0].shared), (1, true));
    mounts::unmount_beneath(node.root.path()).unwrap();
}

#[tokio::test]
async fn volumes_are_counted_once_however_often_they_are_looked_at() {
    if !in_own_mounts("volumes::tests::volumes_are_counted_once_however_often_they_are_looked_at") {
        return;
    }
    let node = node();
    let pod = pod_with(json!([{"name": "disk", "emptyDir": {}}]), json!({}), json!({}));
    let counts = || {
        ["desired", "actual"].map(|world| {
            let series = format!(
                "volume_manager_total_volumes{{plugin_name=\"kubernetes.io/empty-dir\",state=\"{world}_state_of_world\"}} "
            );
            let text = metrics::gather();
            let value = text.lines().find_map(|line| line.strip_prefix(&series)).unwrap_or("0");
            value.parse::<f64>().unwrap()
        })
    };
    node.volumes.mount(&pod).await.unwrap();
    node.volumes.mount(&pod).await.unwrap();
    assert_eq!(counts(), [1.0, 1.0]);
    node.volumes.unmount(&pod.uid).await.unwrap();
    node.volumes.unmount(&pod.uid).await.unwrap();
    assert_eq!(counts(), [0.0, 0.0]);
}
