//! hostPath: a path of the node, checked for its type and never changed but for the two `…OrCreate` types.

use std::{
    fs::{self, DirBuilder, FileType, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::Path,
};

use crate::error::Cause;

/// Checks or makes the path as `kind` says; the empty kind accepts anything, also nothing.
pub(crate) fn check(path: &str, kind: &str) -> Result<(), Cause> {
    if path.split('/').any(|name| name == "..") {
        return Err(Cause::HostPath(format!("invalid HostPath `{path}`: must not contain '..'")));
    }
    let at = Path::new(path);
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if !at.exists() => make_dir(at),
        "DirectoryOrCreate" | "Directory" => expect(path, "directory", FileType::is_dir),
        "FileOrCreate" if !at.exists() => make_file(at),
        "FileOrCreate" | "File" => expect(path, "file", FileType::is_file),
        "Socket" => expect(path, "socket file", FileType::is_socket),
        "CharDevice" => expect(path, "character device", FileType::is_char_device),
        "BlockDevice" => expect(path, "block device", FileType::is_block_device),
        other => Err(Cause::HostPath(format!("{other} is an invalid volume type"))),
    }
}

fn expect(path: &str, wanted: &str, matches: fn(&FileType) -> bool) -> Result<(), Cause> {
    let unknown = |why: String| {
        let text = format!("hostPath type check failed, {path} is not a {wanted}, unable to determine its type: {why}");
        Err(Cause::HostPath(text))
    };
    let found = match fs::metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return unknown(format!("path \"{path}\" does not exist")),
        Err(e) => return unknown(format!("stat {path}: {e}")),
    };
    if matches(&found) {
        return Ok(());
    }
    match name(found) {
        Some(name) => {
            Err(Cause::HostPath(format!("hostPath type check failed: {path} is not a {wanted}, it's a {name}")))
        }
        None => unknown("only recognise file, directory, socket, block device and character device".to_owned()),
    }
}

fn name(file_type: FileType) -> Option<&'static str> {
    match file_type {
        t if t.is_dir() => Some("Directory"),
        t if t.is_file() => Some("File"),
        t if t.is_socket() => Some("Socket"),
        t if t.is_char_device() => Some("CharDevice"),
        t if t.is_block_device() => Some("BlockDevice"),
        _ => None,
    }
}

fn make_dir(path: &Path) -> Result<(), Cause> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|e| Cause::HostPath(format!("mkdir {}: {e}", path.display())))
}

/// Its parent must exist.
fn make_file(path: &Path) -> Result<(), Cause> {
    match OpenOptions::new().write(true).create_new(true).mode(0o644).open(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(Cause::HostPath(format!("open {}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn each_type_accepts_its_own_kind_of_file_only() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
        fs::create_dir(path("dir")).unwrap();
        fs::write(path("file"), "").unwrap();
        let _socket = UnixListener::bind(path("sock")).unwrap();
        let files = [
            (path("dir"), "Directory"),
            (path("file"), "File"),
            (path("sock"), "Socket"),
            ("/dev/null".to_owned(), "CharDevice"),
        ];
        for (at, own) in &files {
            for kind in ["Directory", "File", "Socket", "CharDevice", "BlockDevice"] {
                assert_eq!(check(at, kind).is_ok(), kind == *own, "{at} as {kind}");
            }
            assert!(check(at, "").is_ok());
        }
    }

    #[test]
    fn messages_are_upstreams() {
        let message = |path: &str, kind: &str| check(path, kind).unwrap_err().to_string();
        assert_eq!(
            message("/dev/null", "Directory"),
            "hostPath type check failed: /dev/null is not a directory, it's a CharDevice"
        );
        assert_eq!(
            message("/no/such", "File"),
            "hostPath type check failed, /no/such is not a file, unable to determine its type: path \"/no/such\" does not exist"
        );
        assert_eq!(message("/a/../b", ""), "invalid HostPath `/a/../b`: must not contain '..'");
        assert_eq!(message("/", "Pipe"), "Pipe is an invalid volume type");
    }

    #[test]
    fn or_create_makes_what_is_missing_and_checks_what_is_there() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
        check(&path("a/b"), "DirectoryOrCreate").unwrap();
        check(&path("f"), "FileOrCreate").unwrap();
        assert!(Path::new(&path("a/b")).is_dir() && Path::new(&path("f")).is_file());
        assert!(check(&path("a/b"), "FileOrCreate").is_err());
        assert!(check(&path("f"), "DirectoryOrCreate").is_err());
        assert!(check(&path("none/f"), "FileOrCreate").is_err());
    }
}
