//! What lies on the node for a pod: its hosts file, the files of its volumes, what its containers wrote.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use anyhow::Result;
use serde_json::{Map, Value};

/// Deeper or longer volumes are cut.
const DEPTH: usize = 5;
const ENTRIES: usize = 60;
/// Enough for a whole token.
const CONTENT: usize = 4000;

/// Files that host path volumes of the corpus name as `NODE-DIR/scratch`.
pub fn make_scratch(node: &Path) -> Result<()> {
    let scratch = node.join("scratch");
    let _ = fs::remove_dir_all(&scratch);
    fs::create_dir_all(scratch.join("dir/inner"))?;
    fs::write(scratch.join("dir/file"), "a file\n")?;
    fs::write(scratch.join("file"), "a file\n")?;
    std::os::unix::fs::symlink(scratch.join("dir"), scratch.join("link"))?;
    drop(std::os::unix::net::UnixListener::bind(scratch.join("socket"))?);
    Ok(())
}

fn mounts(cri: &Value) -> impl Iterator<Item = &Value> {
    let containers = cri["containers"].as_object().into_iter().flatten();
    containers.flat_map(|(_, config)| config["mounts"].as_array().into_iter().flatten())
}

/// Lines of the file that is mounted at /etc/hosts.
pub fn hosts(cri: &Value) -> Value {
    let path = mounts(cri).filter(|m| m["containerPath"] == "/etc/hosts").find_map(|m| m["hostPath"].as_str());
    let text = path.and_then(|path| fs::read_to_string(path).ok());
    text.map_or(Value::Null, |text| text.lines().collect())
}

/// Every file below the mounts that the kubelet made, with mode, owner and content.
pub fn volumes(cri: &Value, root: &Path) -> Value {
    let mut found = Map::new();
    for path in mounts(cri).filter_map(|m| m["hostPath"].as_str()) {
        let path = Path::new(path);
        let inside = path.strip_prefix(root).map(|p| p.display().to_string()).unwrap_or_default();
        if inside.contains("/volumes/") || inside.contains("/volume-subpaths/") {
            let mut files = Map::new();
            walk(path, "", DEPTH, &mut files);
            found.insert(inside, files.into());
        }
    }
    found.into()
}

fn walk(path: &Path, name: &str, depth: usize, files: &mut Map<String, Value>) {
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    if files.len() >= ENTRIES {
        return;
    }
    let kind = metadata.file_type();
    let content = match () {
        () if kind.is_dir() => "directory".to_owned(),
        () if kind.is_symlink() => format!("-> {}", fs::read_link(path).unwrap_or_default().display()),
        () if kind.is_file() => content(path),
        () if kind.is_socket() => "socket".to_owned(),
        () => "special".to_owned(),
    };
    let about = format!("{:o} {}:{} {content}", metadata.mode() & 0o7777, metadata.uid(), metadata.gid());
    files.insert(format!("/{name}"), about.into());
    if kind.is_dir() && depth > 0 {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let below = format!("{name}{}{}", if name.is_empty() { "" } else { "/" }, entry.file_name().display());
            walk(&entry.path(), &below, depth - 1, files);
        }
    }
}

fn content(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).chars().take(CONTENT).collect::<String>().escape_debug().to_string()
}

/// The lines of each container's first log, without their times.
pub fn logs(cri: &Value) -> Value {
    let dir = cri["sandbox"]["config"]["logDirectory"].as_str().unwrap_or_default();
    let read = |name: &str| {
        let text = fs::read_to_string(Path::new(dir).join(name).join("0.log")).unwrap_or_default();
        text.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(words).collect::<Value>()
    };
    let containers = cri["containers"].as_object().into_iter().flatten();
    // Servers tell of every probe.
    let quiet = |config: &Value| config["image"]["userSpecifiedImage"].as_str().is_some_and(|i| i.contains("busybox"));
    containers
        .filter(|(_, config)| quiet(config))
        .map(|(name, _)| (name.clone(), read(name)))
        .collect::<Map<_, _>>()
        .into()
}

/// The resolver's options come in any order.
fn words(line: &str) -> Value {
    let mut words: Vec<&str> = line.split(' ').collect();
    if words[0] == "options" {
        words[1..].sort_unstable();
    }
    words.join(" ").into()
}
