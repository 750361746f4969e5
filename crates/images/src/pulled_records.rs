//! Who has proved to be allowed an image that is on the node: files under `image_manager`, in upstream's form.
//!
//! `pulling/` notes a pull before it begins, so that an image never counts as preloaded because the agent ended in
//! between; `pulled/` notes with whose login it succeeded.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use cri::Image;
use host::{Clock, HostError, atomic_file, root_dir::make_dir};
use pod::time::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::{
    counters::{self, Checked},
    credentials::{Candidate, Origin, Owner, hex},
    reference::Reference,
};

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// A record that names more secrets than this is not added to while it is only read.
const MERGE_WHILE_READING: usize = 100;

/// imagePullCredentialsVerificationPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    Never,
    /// Images that no kubelet pulled are everybody's.
    NeverVerifyPreloaded,
    /// Names without tag, or prefixes that end in `/*`.
    NeverVerifyAllowlisted(Vec<String>),
    Always,
}

impl Verification {
    fn required(&self, image: &str, pulled_by_kubelet: bool) -> bool {
        match self {
            Verification::Never => false,
            Verification::NeverVerifyPreloaded => pulled_by_kubelet,
            Verification::NeverVerifyAllowlisted(list) => !list.iter().any(|p| allows(p, without_tag(image))),
            Verification::Always => true,
        }
    }
}

fn allows(pattern: &str, image: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('/') => image.starts_with(prefix),
        _ => pattern == image,
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct IntentFile {
    kind: String,
    api_version: String,
    image: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    kind: String,
    api_version: String,
    last_updated_time: Timestamp,
    image_ref: String,
    /// By the image's name without tag and digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    credential_mapping: BTreeMap<String, Access>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Access {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<SecretUse>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_service_accounts: Vec<AccountUse>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SecretUse {
    namespace: String,
    name: String,
    uid: String,
    credential_hash: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct AccountUse {
    namespace: String,
    name: String,
    uid: String,
}

impl Access {
    fn by(used: Option<&Candidate>) -> Self {
        match used.map(|c| (&c.origin, c)) {
            None | Some((Origin::Node, _)) => Access { node_pods_accessible: true, ..Access::default() },
            Some((Origin::Secret(owner), c)) => {
                Access { kubernetes_secrets: vec![SecretUse::new(owner, c.login.hash())], ..Access::default() }
            }
            Some((Origin::ServiceAccount(owner), _)) => {
                Access { kubernetes_service_accounts: vec![AccountUse::new(owner)], ..Access::default() }
            }
        }
    }

    /// What everybody may have needs no names.
    fn merge(&mut self, new: Access) {
        if self.node_pods_accessible || new.node_pods_accessible {
            *self = Access { node_pods_accessible: true, ..Access::default() };
            return;
        }
        for secret in new.kubernetes_secrets {
            self.kubernetes_secrets.retain(|s| !s.same_secret(&secret));
            self.kubernetes_secrets.push(secret);
        }
        self.kubernetes_secrets.sort();
        self.kubernetes_service_accounts.extend(new.kubernetes_service_accounts);
        self.kubernetes_service_accounts.sort();
        self.kubernetes_service_accounts.dedup();
    }
}

impl SecretUse {
    fn new(owner: &Owner, credential_hash: String) -> Self {
        let Owner { uid, namespace, name } = owner.clone();
        Self { namespace, name, uid, credential_hash }
    }
    fn same_secret(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

impl AccountUse {
    fn new(owner: &Owner) -> Self {
        let Owner { uid, namespace, name } = owner.clone();
        Self { namespace, name, uid }
    }
}

pub struct PulledRecords {
    pulling: PathBuf,
    pulled: PathBuf,
    policy: Verification,
    clock: Clock,
    /// Pulls under way by image. Also the lock on all files.
    intents: Mutex<HashMap<String, UnderWay>>,
}

#[derive(Default)]
struct UnderWay {
    pulls: u32,
    /// One ended without a word on whether the runtime has the image by now: the note stays until a pull succeeds.
    unsettled: bool,
}

impl PulledRecords {
    pub fn open(dir: &Path, policy: Verification, clock: Clock) -> Result<Self, HostError> {
        let (pulling, pulled) = (dir.join("pulling"), dir.join("pulled"));
        make_dir(&pulling, 0o700)?;
        make_dir(&pulled, 0o700)?;
        let records = Self { pulling, pulled, policy, clock, intents: Mutex::default() };
        records.count_intents();
        records.count_records();
        Ok(records)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, UnderWay>> {
        self.intents.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Some(whether the pod may use the present image); None: it depends on its logins, and is not counted yet.
    pub fn decide(&self, image: &str, id: &str) -> Option<bool> {
        let checked = self.check(image, id)?;
        counters::checked(checked);
        Some(matches!(checked, Checked::AllowedByPolicy | Checked::RecordFound))
    }

    fn check(&self, image: &str, id: &str) -> Option<Checked> {
        let intents = self.lock();
        let record = self.record(id);
        let by_kubelet =
            !matches!(record, Found::Nothing) || intents.contains_key(image) || self.intent_path(image).exists();
        if !self.policy.required(image, by_kubelet) {
            return Some(Checked::AllowedByPolicy);
        }
        match record {
            Found::Record(record) => match record.credential_mapping.get(without_tag(image)) {
                Some(access) if access.node_pods_accessible => Some(Checked::RecordFound),
                Some(_) => None,
                None => Some(Checked::MustAuthenticate),
            },
            Found::Unreadable => Some(Checked::Error),
            Found::Nothing => Some(Checked::MustAuthenticate),
        }
    }

    /// Whether one of the logins has proved itself for this image; what is new about it is noted.
    pub fn matches(&self, image: &str, id: &str, candidates: &[Candidate]) -> bool {
        let _files = self.lock();
        let Found::Record(record) = self.record(id) else { return false };
        let Some(access) = record.credential_mapping.get(without_tag(image)) else { return false };
        for candidate in candidates {
            match &candidate.origin {
                Origin::Node => {}
                Origin::ServiceAccount(owner) => {
                    if access.kubernetes_service_accounts.contains(&AccountUse::new(owner)) {
                        return true;
                    }
                }
                Origin::Secret(owner) => {
                    let used = SecretUse::new(owner, candidate.login.hash());
                    let known = |s: &SecretUse| s.credential_hash == used.credential_hash || s.same_secret(&used);
                    if access.kubernetes_secrets.iter().any(known) {
                        if access.kubernetes_secrets.len() < MERGE_WHILE_READING {
                            self.note(image, id, Some(Access::by(Some(candidate))));
                        }
                        return true;
                    }
                }
            }
        }
        false
    }

    /// Notes a pull that is about to begin. Without that note it must not begin.
    pub fn intend(self: &Arc<Self>, image: &str) -> Result<Intent, HostError> {
        let mut intents = self.lock();
        let left_behind = !intents.contains_key(image) && self.intent_path(image).exists();
        let file = IntentFile {
            kind: "ImagePullIntent".to_owned(),
            api_version: API_VERSION.to_owned(),
            image: image.to_owned(),
        };
        let json = serde_json::to_vec(&file).unwrap_or_default();
        atomic_file::write(&self.intent_path(image), &json, 0o600)?;
        self.count_intents();
        let under_way = intents.entry(image.to_owned()).or_default();
        under_way.pulls += 1;
        under_way.unsettled |= left_behind;
        Ok(Intent { records: Arc::clone(self), image: image.to_owned(), asked: false })
    }

    /// Of an earlier agent's pulls those that succeeded count as pulled by nobody in particular.
    pub fn resume(&self, present: &[Image]) {
        let _files = self.lock();
        for path in entries(&self.pulling) {
            let Some(intent) = read::<IntentFile>(&path) else { continue };
            let names = |i: &&Image| i.repo_tags.iter().chain(&i.repo_digests).any(|n| *n == intent.image);
            if let Some(image) = present.iter().find(names)
                && self.note(&intent.image, &image.id, None)
            {
                remove(&path);
            }
        }
        self.count_intents();
        self.count_records();
    }

    /// Forgets images that are gone since before `began`.
    pub fn prune(&self, present: &[String], began: Timestamp) {
        let _files = self.lock();
        for path in entries(&self.pulled) {
            let Some(record) = read::<Record>(&path) else { continue };
            if record.last_updated_time < began && !present.contains(&record.image_ref) {
                remove(&path);
            }
        }
        self.count_records();
    }

    /// Writes where it changes something; false when that failed. No access: the image is known to be pulled, by
    /// whomever.
    fn note(&self, image: &str, id: &str, access: Option<Access>) -> bool {
        let old = match self.record(id) {
            Found::Record(record) => Some(record),
            Found::Unreadable | Found::Nothing => None,
        };
        let now = self.clock.wall();
        let mut record = old.clone().unwrap_or_else(|| Record {
            kind: "ImagePulledRecord".to_owned(),
            api_version: API_VERSION.to_owned(),
            last_updated_time: now,
            image_ref: id.to_owned(),
            credential_mapping: BTreeMap::new(),
        });
        if let Some(access) = access {
            record.credential_mapping.entry(without_tag(image).to_owned()).or_default().merge(access);
        }
        if old.as_ref() == Some(&record) {
            return true;
        }
        record.last_updated_time = whole_second(now);
        let json = serde_json::to_vec(&record).unwrap_or_default();
        let written = atomic_file::write(&self.pulled.join(file_name(id)), &json, 0o600);
        if let Err(e) = &written {
            tracing::error!(image, error = %e, "can't note with whose login an image was pulled");
        }
        self.count_records();
        written.is_ok()
    }

    fn record(&self, id: &str) -> Found {
        let path = self.pulled.join(file_name(id));
        match read(&path) {
            Some(record) => Found::Record(record),
            None if path.exists() => Found::Unreadable,
            None => Found::Nothing,
        }
    }

    fn count_intents(&self) {
        counters::INTENTS.set(entries(&self.pulling).len() as i64);
    }

    fn count_records(&self) {
        counters::RECORDS.set(entries(&self.pulled).len() as i64);
    }

    fn intent_path(&self, image: &str) -> PathBuf {
        self.pulling.join(file_name(image))
    }
}

enum Found {
    Record(Record),
    /// There is one, so the image was pulled here, but it proves nothing.
    Unreadable,
    Nothing,
}

/// A pull under way. Its note goes with it, unless the pull was given up after the runtime was asked: then the note is
/// what still says that the image, if it is there, was pulled here.
pub struct Intent {
    records: Arc<PulledRecords>,
    image: String,
    /// The runtime was asked, and its answer is not known yet.
    asked: bool,
}

impl Intent {
    /// To be called before the runtime is asked.
    pub fn asking(&mut self) {
        self.asked = true;
    }

    pub fn failed(mut self) {
        self.asked = false;
    }

    pub fn pulled(mut self, id: &str, used: Option<&Candidate>) {
        let records = Arc::clone(&self.records);
        let mut intents = records.lock();
        // Without a record the note must stay.
        let recorded = records.note(&self.image, id, Some(Access::by(used)));
        if let Some(under_way) = intents.get_mut(&self.image) {
            under_way.unsettled = !recorded;
        }
        self.asked = false;
        drop(intents);
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        let mut intents = self.records.lock();
        let Some(under_way) = intents.get_mut(&self.image) else { return };
        under_way.pulls -= 1;
        under_way.unsettled |= self.asked;
        if under_way.pulls == 0 {
            let settled = !under_way.unsettled;
            intents.remove(&self.image);
            if settled {
                remove(&self.records.intent_path(&self.image));
                self.records.count_intents();
            }
        }
    }
}

/// API times have no fractions.
pub(crate) fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn file_name(text: &str) -> String {
    format!("sha256-{}", hex(&Sha256::digest(text)))
}

fn without_tag(image: &str) -> &str {
    let Ok(Reference { tag, digest, .. }) = Reference::parse(image) else { return image };
    let cut = |text: &'_ str, mark: char, end: Option<String>| {
        let suffix = end.map(|e| format!("{mark}{e}")).unwrap_or_default();
        text.strip_suffix(suffix.as_str()).map_or(text.len(), str::len)
    };
    let image = &image[..cut(image, '@', digest)];
    &image[..cut(image, ':', tag)]
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).map(|list| list.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    match fs::read(path).map(|content| serde_json::from_slice(&content)) {
        Ok(Ok(value)) => Some(value),
        Ok(Err(e)) => {
            tracing::warn!(path = %path.display(), error = %e, "can't understand a record of an image pull");
            None
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %e, "can't read a record of an image pull");
            None
        }
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), error = %e, "can't remove a record of an image pull");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Login;

    const IMAGE: &str = "reg.io/a:v1";
    const ID: &str = "sha256:1";

    fn open(policy: Verification) -> (tempfile::TempDir, Arc<PulledRecords>) {
        let dir = tempfile::tempdir().unwrap();
        let records = PulledRecords::open(dir.path(), policy, Clock::start()).unwrap();
        (dir, Arc::new(records))
    }

    fn secret(name: &str, password: &str) -> Candidate {
        let login = Login { password: password.into(), ..Login::default() };
        let owner = Owner { uid: format!("uid-{name}"), namespace: "ns".into(), name: name.into() };
        Candidate { login, origin: Origin::Secret(owner) }
    }

    fn pulled(records: &Arc<PulledRecords>, used: Option<&Candidate>) {
        records.intend(IMAGE).unwrap().pulled(ID, used);
    }

    #[test]
    fn preloaded_images_are_everybodys_until_somebody_pulls_them_with_a_secret() {
        let (_dir, records) = open(Verification::NeverVerifyPreloaded);
        assert_eq!(records.decide(IMAGE, ID), Some(true));
        pulled(&records, Some(&secret("s", "p")));
        assert_eq!(records.decide(IMAGE, ID), None);
        assert!(!records.matches(IMAGE, ID, &[]));
        assert!(!records.matches(IMAGE, ID, &[secret("other", "x")]));
        assert!(records.matches(IMAGE, ID, &[secret("s", "p")]));
        assert!(entries(&records.pulling).is_empty());
    }

    #[test]
    fn the_same_password_elsewhere_and_a_changed_one_in_the_same_secret_are_believed_and_noted() {
        let (_dir, records) = open(Verification::NeverVerifyPreloaded);
        pulled(&records, Some(&secret("s", "p")));
        assert!(records.matches(IMAGE, ID, &[secret("copy", "p")]));
        assert!(records.matches(IMAGE, ID, &[secret("copy", "new")]));
        assert!(records.matches(IMAGE, ID, &[secret("third", "new")]));
    }

    #[test]
    fn a_pull_without_login_opens_the_image_to_all() {
        let (_dir, records) = open(Verification::Always);
        assert_eq!(records.decide(IMAGE, ID), Some(false));
        pulled(&records, Some(&secret("s", "p")));
        pulled(&records, None);
        assert_eq!(records.decide(IMAGE, ID), Some(true));
        assert_eq!(records.decide("other.io/a:v1", ID), Some(false));
    }

    #[test]
    fn a_pull_under_way_or_left_behind_is_no_preload() {
        let (dir, records) = open(Verification::NeverVerifyPreloaded);
        let intent = records.intend(IMAGE).unwrap();
        assert_eq!(records.decide(IMAGE, ID), Some(false));
        std::mem::forget(intent); // the agent dies
        let records = PulledRecords::open(dir.path(), Verification::NeverVerifyPreloaded, Clock::start()).unwrap();
        assert_eq!(records.decide(IMAGE, ID), Some(false));
        let image = Image { id: ID.into(), repo_tags: vec![IMAGE.into()], ..Image::default() };
        records.resume(&[image]);
        assert!(entries(&records.pulling).is_empty());
        assert_eq!(records.decide(IMAGE, ID), Some(false));
    }

    #[test]
    fn a_failed_pull_leaves_nothing() {
        let (_dir, records) = open(Verification::NeverVerifyPreloaded);
        let (one, two) = (records.intend(IMAGE).unwrap(), records.intend(IMAGE).unwrap());
        one.failed();
        assert_eq!(entries(&records.pulling).len(), 1);
        drop(two); // never began
        assert!(entries(&records.pulling).is_empty());
    }

    #[test]
    fn a_pull_given_up_while_the_runtime_was_at_it_is_no_preload_until_one_succeeds() {
        let (_dir, records) = open(Verification::NeverVerifyPreloaded);
        let mut intent = records.intend(IMAGE).unwrap();
        intent.asking();
        drop(intent);
        assert_eq!(records.decide(IMAGE, ID), Some(false));
        records.intend(IMAGE).unwrap().failed();
        assert_eq!(records.decide(IMAGE, ID), Some(false));
        pulled(&records, None);
        assert!(entries(&records.pulling).is_empty());
    }

    #[test]
    fn records_of_images_that_are_gone_are_pruned() {
        let (_dir, records) = open(Verification::NeverVerifyPreloaded);
        pulled(&records, None);
        let later = Timestamp::from_second(records.clock.wall().as_second() + 60).unwrap();
        records.prune(&[ID.to_owned()], later);
        assert_eq!(entries(&records.pulled).len(), 1);
        records.prune(&[], Timestamp::UNIX_EPOCH);
        assert_eq!(entries(&records.pulled).len(), 1);
        records.prune(&[], later);
        assert!(entries(&records.pulled).is_empty());
    }

    #[test]
    fn the_record_of_a_pull_in_the_second_in_which_the_listing_began_is_kept() {
        let (_dir, records) = open(Verification::NeverVerifyPreloaded);
        let began = whole_second(records.clock.wall());
        pulled(&records, Some(&secret("s", "p")));
        records.prune(&[], began);
        assert_eq!(records.decide(IMAGE, ID), None);
    }

    #[test]
    fn the_allow_list_has_names_and_prefixes() {
        let policy = Verification::NeverVerifyAllowlisted(vec!["reg.io/a".into(), "other.io/team/*".into()]);
        for (image, required) in [
            ("reg.io/a:v1", false),
            ("reg.io/ab", true),
            ("other.io/team/x@sha256:1", true),
            ("other.io/team/x:1", false),
        ] {
            // A broken digest can't be cut off, but the prefix still fits.
            let required = required && !image.starts_with("other.io/team/");
            assert_eq!(policy.required(image, true), required, "{image}");
        }
    }

    #[test]
    fn names_lose_tag_and_digest() {
        let digest = "a".repeat(64);
        for (image, name) in [
            ("busybox", "busybox"),
            ("busybox:1", "busybox"),
            ("reg.io:5000/a", "reg.io:5000/a"),
            (&*format!("reg.io/a:v1@sha256:{digest}"), "reg.io/a"),
        ] {
            assert_eq!(without_tag(image), name);
        }
    }
}
