//! A serving certificate nobody vouches for, made once and kept in the certificate directory.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use crate::{
    CertificateError, Result,
    pair::{Names, Pair},
};

const CERTIFICATE: &str = "kubelet.crt";
const KEY: &str = "kubelet.key";
/// What the issuer of a self-signed pair is recognized by, upstream's included.
const OWN_ISSUER: &str = "-ca@";
const VALID_FOR: SignedDuration = SignedDuration::from_hours(365 * 24);
/// So long before it expires an own pair is made anew.
const AHEAD: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Certificate and key.
pub fn files(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join(CERTIFICATE), dir.join(KEY))
}

/// When the kubelet makes the pair anew; None where somebody else made it.
pub fn remake_at(pair: &Pair) -> Option<Timestamp> {
    pair.issuer.contains(OWN_ISSUER).then(|| pair.not_after - AHEAD)
}

/// Takes the pair in `dir` if there is one, a new one else. One that the kubelet made itself is replaced when it is
/// about to expire or lacks a name; one that somebody put there is taken as it is.
pub fn load_or_make(dir: &Path, host_name: &str, ips: &[IpAddr], now: Timestamp) -> Result<Pair> {
    let (certificate, key) = files(dir);
    let wanted = Names::of_host(host_name, ips);
    if certificate.exists() && key.exists() {
        match Pair::from_files(&certificate, &key) {
            Ok(pair) => {
                let Some(remake) = remake_at(&pair) else { return Ok(pair) };
                if pair.is_valid_at(now) && now < remake && pair.names.cover(&wanted) {
                    return Ok(pair);
                }
                let (path, not_after) = (certificate.display(), pair.not_after);
                tracing::info!(%path, %not_after, "serving certificate expires or lacks a name; making a new one");
            }
            Err(error) => tracing::warn!(%error, "serving certificate can't be used; making a new one"),
        }
    }
    let made = make(host_name, &wanted, now)?;
    fs::create_dir_all(dir).map_err(|source| CertificateError::Write { path: dir.into(), source })?;
    for (path, content, mode) in [(&key, &made.key, 0o600), (&certificate, &made.chain, 0o644)] {
        host::atomic_file::write(path, content.as_bytes(), mode)
            .map_err(|source| CertificateError::WriteAtomically { path: path.clone(), source })?;
    }
    Pair::from_files(&certificate, &key)
}

struct Made {
    chain: String,
    key: String,
}

fn make(host_name: &str, names: &Names, now: Timestamp) -> Result<Made> {
    let failed = |source| CertificateError::Generate { what: "a self-signed serving certificate", source };
    let (ca_key, key) = (KeyPair::generate().map_err(failed)?, KeyPair::generate().map_err(failed)?);
    let stamp = now.as_second();

    let mut ca = dated(&format!("{host_name}{OWN_ISSUER}{stamp}"), now);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    let ca_certificate = ca.self_signed(&ca_key).map_err(failed)?;

    let mut leaf = dated(&format!("{host_name}@{stamp}"), now);
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.subject_alt_names = alternatives(names).map_err(failed)?;
    let certificate = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).map_err(failed)?;
    Ok(Made { chain: certificate.pem() + &ca_certificate.pem(), key: key.serialize_pem() })
}

pub(crate) fn alternatives(names: &Names) -> std::result::Result<Vec<SanType>, rcgen::Error> {
    let dns = names.dns.iter().map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
    let ips = names.ips.iter().map(|ip| Ok(SanType::IpAddress(*ip)));
    dns.chain(ips).collect()
}

/// Whole days: from the beginning of this one.
fn dated(common_name: &str, now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let day = |at: Timestamp| {
        let date = at.to_zoned(TimeZone::UTC).date();
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(now);
    params.not_after = day(now + VALID_FOR);
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + day * 86_400).unwrap()
    }

    fn ips() -> Vec<IpAddr> {
        vec!["192.0.2.2".parse().unwrap(), "fd00::2".parse().unwrap()]
    }

    #[test]
    fn the_pair_names_host_and_addresses_and_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_make(dir.path(), "node-1", &ips(), at(0)).unwrap();
        assert_eq!(first.names, Names::of_host("node-1", &ips()));
        assert!(first.is_valid_at(at(0)) && !first.is_valid_at(at(366)));
        let again = load_or_make(dir.path(), "node-1", &ips()[..1], at(1)).unwrap();
        assert_eq!(again.certified.cert, first.certified.cert);
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(dir.path().join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_own_pair_is_replaced_when_expired_or_when_a_name_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_make(dir.path(), "node-1", &[], at(0)).unwrap();
        let named = load_or_make(dir.path(), "node-1", &ips(), at(0)).unwrap();
        assert_ne!(named.certified.cert, first.certified.cert);
        let renewed = load_or_make(dir.path(), "node-1", &ips(), at(400)).unwrap();
        assert_ne!(renewed.certified.cert, named.certified.cert);
    }

    #[test]
    fn an_own_pair_is_made_anew_a_month_before_it_expires() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_make(dir.path(), "node-1", &[], at(0)).unwrap();
        let remake = remake_at(&first).unwrap();
        assert!(remake < at(336) && remake > at(333), "{remake}");
        let kept = load_or_make(dir.path(), "node-1", &[], at(333)).unwrap();
        assert_eq!(kept.certified.cert, first.certified.cert);
        let renewed = load_or_make(dir.path(), "node-1", &[], remake).unwrap();
        assert!(remake_at(&renewed).unwrap() > at(600));
    }

    #[test]
    fn a_pair_that_somebody_put_there_is_taken_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let theirs = dated("somebody", at(0)).self_signed(&key).unwrap();
        fs::write(dir.path().join(CERTIFICATE), theirs.pem()).unwrap();
        fs::write(dir.path().join(KEY), key.serialize_pem()).unwrap();
        let pair = load_or_make(dir.path(), "node-1", &ips(), at(900)).unwrap();
        assert_eq!(pair.certified.cert[0], *theirs.der());
        assert_eq!(remake_at(&pair), None);
    }

    #[test]
    fn damaged_files_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(CERTIFICATE), "junk").unwrap();
        fs::write(dir.path().join(KEY), "junk").unwrap();
        assert!(load_or_make(dir.path(), "192.0.2.9", &[], at(0)).unwrap().names.dns.is_empty());
    }
}
