//! Certificates signed by the right and the wrong CA, tokens known and unknown.

use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::{RootCertStore, server::WebPkiClientVerifier};

use super::*;

struct Ca {
    issuer: Issuer<'static, KeyPair>,
    verifier: Arc<dyn ClientCertVerifier>,
}

fn ca() -> Ca {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "ca");
    let certificate = params.self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    Ca { issuer: Issuer::new(params, key), verifier }
}

fn certificate(ca: &Ca, name: &str, groups: &[&str]) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.distinguished_name = rcgen::DistinguishedName::new();
    if !name.is_empty() {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.signed_by(&key, &ca.issuer).unwrap().der().clone()
}

fn authenticator(ca: &Ca, anonymous: bool) -> (Authenticator, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let verifier = ca.verifier.clone();
    let counter = asked.clone();
    let review = move |token: String| -> BoxFuture<'static, Result<Option<User>, ReviewError>> {
        counter.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            match token.as_str() {
                "good" => Ok(Some(User { name: "bob".into(), ..User::default() })),
                "broken" => Err("the API server is away".into()),
                _ => Ok(None),
            }
        })
    };
    let client_ca: Arc<ClientCa> = Arc::new(move || Some(verifier.clone()));
    let ttl = Duration::from_secs(120);
    (Authenticator::new(Clock::start(), client_ca, Some(Arc::new(review)), anonymous, ttl), asked)
}

fn bearer(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
}

#[tokio::test]
async fn a_certificate_names_user_and_groups() {
    let ca = ca();
    let (authenticator, _) = authenticator(&ca, true);
    let chain = [certificate(&ca, "alice", &["admins"])];
    let user = authenticator.who(&chain, &HeaderMap::new()).await.unwrap();
    assert_eq!(user.name, "alice");
    assert_eq!(user.groups, ["admins", "system:authenticated"]);
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_and_not_taken_for_anonymous() {
    let (ours, other) = (ca(), ca());
    let (authenticator, _) = authenticator(&ours, true);
    let chain = [certificate(&other, "alice", &["system:masters"])];
    assert_eq!(authenticator.who(&chain, &HeaderMap::new()).await, None);
    assert!(authenticator.who(&chain, &bearer("good")).await.is_some(), "a good token still counts");
}

#[tokio::test]
async fn a_certificate_without_a_name_is_nobody() {
    let ca = ca();
    let (authenticator, _) = authenticator(&ca, true);
    let user = authenticator.who(&[certificate(&ca, "", &["g"])], &HeaderMap::new()).await.unwrap();
    assert_eq!(*user, User::anonymous());
}

#[tokio::test]
async fn nobody_is_anonymous_only_where_that_is_enabled() {
    let ca = ca();
    assert_eq!(authenticator(&ca, false).0.who(&[], &HeaderMap::new()).await, None);
    assert_eq!(*authenticator(&ca, true).0.who(&[], &HeaderMap::new()).await.unwrap(), User::anonymous());
}

#[tokio::test(start_paused = true)]
async fn a_token_is_reviewed_once_in_two_minutes() {
    let ca = ca();
    let (authenticator, asked) = authenticator(&ca, true);
    for _ in 0..3 {
        assert_eq!(authenticator.who(&[], &bearer("good")).await.unwrap().name, "bob");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    tokio::time::advance(Duration::from_secs(121)).await;
    authenticator.who(&[], &bearer("good")).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_unknown_token_is_refused_and_a_failed_review_is_not_remembered() {
    let ca = ca();
    let (authenticator, asked) = authenticator(&ca, true);
    assert_eq!(authenticator.who(&[], &bearer("bad")).await, None);
    assert_eq!(authenticator.who(&[], &bearer("broken")).await, None);
    assert_eq!(authenticator.who(&[], &bearer("broken")).await, None);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
}

#[test]
fn a_websocket_may_carry_its_token_as_a_subprotocol() {
    let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode("tok");
    let list = format!("v5.channel.k8s.io, {WEBSOCKET_TOKEN}{encoded}");
    let headers = HeaderMap::from_iter([(header::SEC_WEBSOCKET_PROTOCOL, list.parse().unwrap())]);
    assert_eq!(bearer_token(&headers).as_deref(), Some("tok"));
    assert_eq!(bearer_token(&bearer("")), None);
}

#[tokio::test]
async fn a_crowd_of_unknown_tokens_is_asked_about_in_turns() {
    let ca = ca();
    let (most, now) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (seen, counter) = (most.clone(), now.clone());
    let review = move |_: String| -> BoxFuture<'static, Result<Option<User>, ReviewError>> {
        seen.fetch_max(counter.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let counter = counter.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            counter.fetch_sub(1, Ordering::SeqCst);
            Ok(None)
        })
    };
    let verifier = ca.verifier.clone();
    let client_ca: Arc<ClientCa> = Arc::new(move || Some(verifier.clone()));
    let ttl = Duration::from_secs(120);
    let authenticator = Authenticator::new(Clock::start(), client_ca, Some(Arc::new(review)), true, ttl);
    let headers: Vec<_> = (0..200).map(|n| bearer(&n.to_string())).collect();
    futures::future::join_all(headers.iter().map(|headers| authenticator.who(&[], headers))).await;
    assert_eq!(most.load(Ordering::SeqCst), MOST_REVIEWS);
}
