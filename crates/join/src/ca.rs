//! The hash by which a token knows its cluster's CA.

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer, time::ASN1Time};

/// More certificates than any cluster has; to look at them all takes time.
const MOST: usize = 32;

/// What a server shows as its CA.
#[derive(Debug)]
pub struct Bundle {
    /// One certificate: of the file as it is. More of them: of the root that the first one leads to, so that tokens
    /// outlive an intermediate CA; of the file again when the first one leads to no root.
    pub hash: String,
    /// The certificates that the hash vouches for. A bundle may have others beside a root that everybody can get: upstream
    /// believes those too, and so whoever put them there.
    pub trusted: Vec<CertificateDer<'static>>,
}

impl Bundle {
    /// None if that is no bundle of certificates.
    pub fn read(bundle: &[u8], now: Timestamp) -> Option<Self> {
        let ders: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(bundle).collect::<Result<_, _>>().ok()?;
        let parsed = ders.iter().map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed));
        let certificates: Vec<X509Certificate<'_>> = parsed.collect::<Result<_, _>>().ok()?;
        let (first, others) = certificates.split_first().filter(|_| ders.len() <= MOST)?;
        let Some(root) = root_of(first, others, now) else {
            return Some(Self { hash: hex(&Sha256::digest(bundle)), trusted: ders });
        };
        let hash = hex(&Sha256::digest(root.as_raw()));
        let leads_to_it = |certificate: &X509Certificate<'_>| {
            root_of(certificate, others, now).is_some_and(|found| found.as_raw() == root.as_raw())
        };
        let vouched = certificates.iter().map(leads_to_it).collect::<Vec<_>>();
        let trusted = ders.iter().zip(vouched).filter(|(_, vouched)| *vouched).map(|(der, _)| der.clone()).collect();
        Some(Self { hash, trusted })
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Looks at each certificate once: a bundle may be anybody's.
fn root_of<'a>(
    first: &X509Certificate<'a>,
    others: &'a [X509Certificate<'a>],
    now: Timestamp,
) -> Option<&'a X509Certificate<'a>> {
    if !is_valid_at(first, now) {
        return None;
    }
    if let Some(root) = others.iter().find(|other| is_root(other) && other.as_raw() == first.as_raw()) {
        return Some(root);
    }
    let mut left: Vec<_> = others.iter().filter(|other| is_valid_at(other, now)).collect();
    let mut signed_ones = vec![first];
    while let Some(of) = signed_ones.pop() {
        let signers: Vec<_> = left.extract_if(.., |other| signed(of, other)).collect();
        if let Some(root) = signers.iter().copied().find(|signer| is_root(signer)) {
            return Some(root);
        }
        signed_ones.extend(signers);
    }
    None
}

fn is_valid_at(certificate: &X509Certificate<'_>, now: Timestamp) -> bool {
    ASN1Time::from_timestamp(now.as_second()).is_ok_and(|now| certificate.validity().is_valid_at(now))
}

fn signed(certificate: &X509Certificate<'_>, signer: &X509Certificate<'_>) -> bool {
    let is_ca = signer.is_ca() && certificate.issuer().as_raw() == signer.subject().as_raw();
    is_ca && certificate.verify_signature(Some(signer.public_key())).is_ok()
}

/// Names no other key as its signer.
fn is_root(certificate: &X509Certificate<'_>) -> bool {
    let extensions = || certificate.extensions().iter().map(|extension| extension.parsed_extension());
    let authority = extensions().find_map(|extension| match extension {
        ParsedExtension::AuthorityKeyIdentifier(authority) => authority.key_identifier.as_ref(),
        _ => None,
    });
    let own = extensions().find_map(|extension| match extension {
        ParsedExtension::SubjectKeyIdentifier(own) => Some(own),
        _ => None,
    });
    authority.is_none_or(|authority| own == Some(authority))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    struct Ca {
        pem: String,
        der: Vec<u8>,
        issuer: Issuer<'static, KeyPair>,
    }

    fn ca(name: &str, signer: Option<&Ca>) -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.use_authority_key_identifier_extension = true;
        let made = match signer {
            Some(signer) => params.signed_by(&key, &signer.issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        Ca { pem: made.pem(), der: made.der().to_vec(), issuer: Issuer::new(params, key) }
    }

    fn hash(bundle: &[u8], now: Timestamp) -> Option<String> {
        Bundle::read(bundle, now).map(|bundle| bundle.hash)
    }

    fn sha(bytes: &[u8]) -> Option<String> {
        Some(hex(&Sha256::digest(bytes)))
    }

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_single_ca_is_hashed_as_the_file_that_it_is() {
        let pem = ca("k3s-server-ca", None).pem;
        assert_eq!(hash(pem.as_bytes(), now()), sha(pem.as_bytes()));
        let with_space = format!("{pem}\n");
        assert_eq!(hash(with_space.as_bytes(), now()), sha(with_space.as_bytes()));
        assert_eq!(hash(b"<html>", now()), None);
    }

    #[test]
    fn a_bundle_is_hashed_by_the_root_of_its_first() {
        let root = ca("root", None);
        let middle = ca("middle", Some(&root));
        let server = ca("k3s-server-ca", Some(&middle));
        for bundle in [[&server, &middle, &root], [&server, &root, &middle]] {
            let bundle: String = bundle.iter().map(|ca| ca.pem.as_str()).collect();
            assert_eq!(hash(bundle.as_bytes(), now()), sha(&root.der));
        }
        let rootless = format!("{}{}", server.pem, middle.pem);
        assert_eq!(hash(rootless.as_bytes(), now()), sha(rootless.as_bytes()));
        let impostor = ca("middle", None);
        let foreign = format!("{}{}", server.pem, impostor.pem);
        assert_eq!(hash(foreign.as_bytes(), now()), sha(foreign.as_bytes()), "its name fits and its key does not");
        let late: Timestamp = "9000-01-01T00:00:00Z".parse().unwrap();
        let whole = format!("{}{}{}", server.pem, middle.pem, root.pem);
        assert_eq!(hash(whole.as_bytes(), late), sha(whole.as_bytes()), "an expired root is none");
    }

    #[test]
    fn what_does_not_come_from_the_root_is_not_trusted_with_it() {
        let root = ca("root", None);
        let (server, foreign) = (ca("k3s-server-ca", Some(&root)), ca("root", None));
        let bundle: String = [&server, &foreign, &root].iter().map(|ca| ca.pem.as_str()).collect();
        let read = Bundle::read(bundle.as_bytes(), now()).unwrap();
        assert_eq!(Some(read.hash), sha(&root.der));
        let trusted: Vec<&[u8]> = read.trusted.iter().map(|der| &der[..]).collect();
        assert_eq!(trusted, [&server.der[..], &root.der[..]]);
        let single = Bundle::read(server.pem.as_bytes(), now()).unwrap();
        assert_eq!(single.trusted.len(), 1);
    }

    #[test]
    fn any_bundle_has_a_hash_or_none() {
        let root = ca("root", None);
        let server = ca("k3s-server-ca", Some(&root));
        let seeds = [root.pem.clone(), format!("{}{}", server.pem, root.pem)].map(String::into_bytes);
        fuzz::each_of("cacerts", &seeds, |bytes| drop(hash(bytes, now())));
    }
}
