//! The node's password: made here at the first join, told to the server, and never shown again by either. The server
//! holds a node's name for whoever has it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustls::crypto::ring;

use crate::{JoinError, Result, Secret};

pub struct NodePassword {
    pub value: Secret,
    pub file: PathBuf,
    /// Made by this run: no server can know it.
    pub is_new: bool,
}

/// Reads the one in `dir`, or makes it. It is on the disk before a server hears of it: else a crash in between would
/// lock the name.
pub fn ensure(dir: &Path) -> Result<NodePassword> {
    let file = dir.join("password");
    match fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => {
            return Ok(NodePassword { value: Secret::new(text.trim()), file, is_new: false });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(JoinError::Read { path: file, source }),
    }
    let value = random_hex::<16>()?;
    write(&file, &value, 0o600)?;
    Ok(NodePassword { value: Secret::new(value), file, is_new: true })
}

/// The suffix of `--with-node-id`: made once for a machine.
pub fn node_id(dir: &Path) -> Result<String> {
    let file = dir.join("id");
    match fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        _ => {
            let id = random_hex::<4>()?;
            write(&file, &id, 0o644)?;
            Ok(id)
        }
    }
}

fn write(file: &Path, text: &str, mode: u32) -> Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).map_err(|source| JoinError::Directory { path: dir.into(), source })?;
    }
    host::atomic_file::write(file, format!("{text}\n").as_bytes(), mode).map_err(|source| JoinError::Write { source })
}

fn random_hex<const BYTES: usize>() -> Result<String> {
    let mut bytes = [0; BYTES];
    ring::default_provider().secure_random.fill(&mut bytes).map_err(|_| JoinError::NoRandom)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_password_is_made_once_and_for_its_owner_only() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("rancher/node");
        let made = ensure(&dir).unwrap();
        assert!(made.is_new && made.value.reveal().len() == 32);
        assert_eq!(fs::metadata(&made.file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = ensure(&dir).unwrap();
        assert!(!again.is_new && again.value == made.value);
        assert_eq!(node_id(&dir).unwrap(), node_id(&dir).unwrap());
        assert_eq!(node_id(&dir).unwrap().len(), 8);
    }
}
