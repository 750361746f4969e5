//! Pairs on disk: one dated file each, and a link `PREFIX-current.pem` that names the one in use.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use apiserver::Identity;
use host::Clock;
use jiff::Timestamp;

use crate::{CertificateError, Pair, Result, pair::user_of};

#[derive(Clone, Debug)]
pub struct PairStore {
    dir: PathBuf,
    prefix: &'static str,
}

impl PairStore {
    pub fn client(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), prefix: "kubelet-client" }
    }
    pub fn serving(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), prefix: "kubelet-server" }
    }

    /// The link; a kubeconfig names it as certificate and as key.
    pub fn current_path(&self) -> PathBuf {
        self.file("current")
    }

    /// Where a new key waits until its certificate has come.
    pub fn pending_key_path(&self) -> PathBuf {
        self.dir.join(format!("{}.key.tmp", self.prefix))
    }

    fn file(&self, qualifier: &str) -> PathBuf {
        self.dir.join(format!("{}-{qualifier}.pem", self.prefix))
    }

    /// None where none was stored yet or what is stored can't be used.
    pub fn load(&self) -> Option<Pair> {
        let path = self.current_path();
        if !path.exists() && !self.recover() {
            return None;
        }
        match Pair::from_files(&path, &path) {
            Ok(pair) => Some(pair),
            Err(error) => {
                tracing::warn!(%error, "stored certificate can't be used");
                None
            }
        }
    }

    /// Whether a pair from here is that node's; says so where it is not, as after a change of the host's name.
    pub fn is_of_node(&self, pair: &Pair, node_name: &str) -> bool {
        let is_own = pair.is_of_node(node_name);
        if !is_own {
            let path = self.current_path();
            let (subject, groups, wanted) = (&pair.subject, &pair.groups, user_of(node_name));
            tracing::warn!(path = %path.display(), subject, ?groups, wanted,
                "the stored certificate is another node's: a new one is asked for");
        }
        is_own
    }

    /// For the API client: the stored pair as long as it is valid, whatever the kubeconfig says.
    pub fn identity(&self, clock: Clock) -> Identity {
        let store = self.clone();
        Identity::new(move || store.load().filter(|pair| pair.is_valid_at(clock.wall())).map(|_| store.current_path()))
    }

    /// An update that was cut off between its last two steps is completed.
    fn recover(&self) -> bool {
        let updated = self.file("updated");
        updated.is_symlink() && fs::rename(updated, self.current_path()).is_ok() && self.current_path().exists()
    }

    /// Stores a pair and turns the link to it.
    pub fn update(&self, certificates: &[u8], key: &str, now: Timestamp) -> Result<Pair> {
        fs::create_dir_all(&self.dir).map_err(|source| CertificateError::Write { path: self.dir.clone(), source })?;
        let path = self.file(&now.strftime("%Y-%m-%d-%H-%M-%S").to_string());
        let mut content = certificates.to_vec();
        if !content.ends_with(b"\n") {
            content.push(b'\n');
        }
        content.extend_from_slice(key.as_bytes());
        host::atomic_file::write(&path, &content, 0o600)
            .map_err(|source| CertificateError::WriteAtomically { path: path.clone(), source })?;
        let pair = Pair::from_files(&path, &path)?;
        self.turn_link(&path)?;
        Ok(pair)
    }

    fn turn_link(&self, to: &Path) -> Result<()> {
        let (current, updated) = (self.current_path(), self.file("updated"));
        for link in [&current, &updated] {
            if link.exists() && !link.is_symlink() {
                return Err(CertificateError::NoLink { path: link.clone() });
            }
        }
        let failed = |source| CertificateError::Write { path: current.clone(), source };
        match fs::remove_file(&updated) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // A relative directory must not be resolved from the link's place.
        let target = fs::canonicalize(to).map_err(failed)?;
        symlink(target, &updated).map_err(failed)?;
        fs::rename(&updated, &current).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn pair(name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn the_link_leads_to_the_newest_pair() {
        let dir = tempfile::tempdir().unwrap();
        let store = PairStore::client(dir.path());
        assert!(store.load().is_none());
        for (second, name) in [(0, "a"), (1, "b")] {
            let (certificate, key) = pair(name);
            store.update(certificate.as_bytes(), &key, at(second)).unwrap();
            assert_eq!(store.load().unwrap().names.dns, [name]);
        }
        let link = fs::read_link(dir.path().join("kubelet-client-current.pem")).unwrap();
        assert!(link.ends_with("kubelet-client-2023-11-14-22-13-21.pem"), "{link:?}");
    }

    #[test]
    fn only_a_stored_pair_that_is_valid_goes_before_the_kubeconfig() {
        let dir = tempfile::tempdir().unwrap();
        let store = PairStore::client(dir.path());
        let identity = store.identity(Clock::start());
        assert_eq!(identity.file(), None);
        for (second, until, expected) in [(0, 2001, None), (1, 4000, Some(store.current_path()))] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::default();
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(until, 1, 1));
            let certificate = params.self_signed(&key).unwrap().pem();
            store.update(certificate.as_bytes(), &key.serialize_pem(), at(second)).unwrap();
            assert_eq!(identity.file(), expected);
        }
    }

    #[test]
    fn a_pair_that_does_not_fit_leaves_the_link() {
        let dir = tempfile::tempdir().unwrap();
        let store = PairStore::serving(dir.path());
        let (good, good_key) = pair("a");
        store.update(good.as_bytes(), &good_key, at(0)).unwrap();
        assert!(store.update(good.as_bytes(), &pair("b").1, at(1)).is_err());
        assert_eq!(store.load().unwrap().names.dns, ["a"]);
    }

    #[test]
    fn an_update_cut_off_before_the_rename_is_completed() {
        let dir = tempfile::tempdir().unwrap();
        let store = PairStore::client(dir.path());
        let (certificate, key) = pair("a");
        store.update(certificate.as_bytes(), &key, at(0)).unwrap();
        fs::rename(store.current_path(), store.file("updated")).unwrap();
        assert_eq!(store.load().unwrap().names.dns, ["a"]);
    }

    #[test]
    fn a_file_in_the_place_of_the_link_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let store = PairStore::client(dir.path());
        fs::write(store.current_path(), "mine").unwrap();
        let (certificate, key) = pair("a");
        assert!(matches!(store.update(certificate.as_bytes(), &key, at(0)), Err(CertificateError::NoLink { .. })));
    }
}
