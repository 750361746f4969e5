//! The hash by which a token knows its cluster's CA.

use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension, prelude::FromDer, time::ASN1Time};

/// A chain longer than this is none.
const DEPTH: usize = 8;

/// One certificate: the hash is of the file as it is. More of them: of the root that the first one leads to, so that
/// tokens outlive an intermediate CA; of the file again when the first one leads to no root. None if there is no
/// certificate in it.
pub fn hash(bundle: &[u8], now: Timestamp) -> Option<String> {
    let ders: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(bundle).collect::<Result<_, _>>().ok()?;
    let certificates: Vec<X509Certificate<'_>> = ders
        .iter()
        .map(|der| X509Certificate::from_der(der).map(|(_, parsed)| parsed))
        .collect::<Result<_, _>>()
        .ok()?;
    let (first, others) = certificates.split_first()?;
    let digest = match root_of(first, others, now, DEPTH) {
        Some(root) => Sha256::digest(root.as_raw()),
        None => Sha256::digest(bundle),
    };
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn root_of<'a>(
    of: &X509Certificate<'a>,
    others: &'a [X509Certificate<'a>],
    now: Timestamp,
    depth: usize,
) -> Option<&'a X509Certificate<'a>> {
    let deeper = depth.checked_sub(1)?;
    if !is_valid_at(of, now) {
        return None;
    }
    if let Some(root) = others.iter().find(|other| is_root(other) && other.as_raw() == of.as_raw()) {
        return Some(root);
    }
    let signers: Vec<_> = others.iter().filter(|other| is_valid_at(other, now) && signed(of, other)).collect();
    let root = signers.iter().copied().find(|signer| is_root(signer));
    root.or_else(|| signers.iter().find_map(|signer| root_of(signer, others, now, deeper)))
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

    fn sha(bytes: &[u8]) -> Option<String> {
        Some(Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect())
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
}
