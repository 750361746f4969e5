//! Images: garbage collection, parallel pulls, verification of credentials.

use super::{Check, Invalid};
use crate::config::duration::GoDuration;

pub(super) fn check(check: &mut Check<'_>) {
    let c = check.config;
    let (low, high) = (c.image_gc_low_threshold_percent, c.image_gc_high_threshold_percent);
    check.refuse_if(low >= high, || {
        let reason = format!("must be less than imageGCHighThresholdPercent (--image-gc-high-threshold) {high}");
        Invalid::new("imageGCLowThresholdPercent", low, reason)
    });
    let (minimum, maximum) = (c.image_minimum_gc_age, c.image_maximum_gc_age);
    for (field, age) in [("imageMinimumGCAge", minimum), ("imageMaximumGCAge", maximum)] {
        check.refuse_if(age.is_negative(), || Invalid::new(field, age, "must not be negative"));
    }
    check.refuse_if(maximum > GoDuration::default() && maximum <= minimum, || {
        Invalid::new("imageMaximumGCAge", maximum, format!("must be greater than imageMinimumGCAge {minimum}"))
    });
    if let Some(parallel) = c.max_parallel_image_pulls {
        const FIELD: &str = "maxParallelImagePulls";
        check.refuse_if(parallel < 1, || Invalid::new(FIELD, parallel, "must be a positive number"));
        check.refuse_if(c.serialize_image_pulls && parallel > 1, || {
            let reason = "cannot be larger than 1 unless serializeImagePulls (--serialize-image-pulls) is false";
            Invalid::new(FIELD, parallel, reason)
        });
    }
    verification(check);
}

fn verification(check: &mut Check<'_>) {
    const POLICY: &str = "imagePullCredentialsVerificationPolicy";
    const ALLOWLIST: &str = "preloadedImagesVerificationAllowlist";
    let c = check.config;
    let policy = &c.image_pull_credentials_verification_policy;
    let allowlist = &c.preloaded_images_verification_allowlist;
    if !check.on("KubeletEnsureSecretPulledImages") {
        let reason = "requires feature gate KubeletEnsureSecretPulledImages";
        check.refuse_if(!policy.is_empty(), || Invalid::new(POLICY, policy, reason));
        check.refuse_if(!allowlist.is_empty(), || Invalid::new(ALLOWLIST, &allowlist.join(","), reason));
        return;
    }
    const POLICIES: [&str; 4] =
        ["NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"];
    check.refuse_if(!POLICIES.contains(&policy.as_str()), || {
        Invalid::new(POLICY, policy, format!("must be one of {POLICIES:?}"))
    });
    if !allowlist.is_empty() && policy != "NeverVerifyAllowlistedImages" {
        let reason = format!("can only be given when {POLICY} is \"NeverVerifyAllowlistedImages\"");
        check.refuse(Invalid::new(ALLOWLIST, &allowlist.join(","), reason));
        return;
    }
    for (index, pattern) in allowlist.iter().enumerate() {
        if let Some(reason) = pattern_fault(pattern) {
            check.refuse(Invalid::new(format!("{ALLOWLIST}[{index}]"), pattern, reason));
        }
    }
}

/// A pattern is an image without tag and digest, or a registry path that ends with `/*`.
fn pattern_fault(pattern: &str) -> Option<&'static str> {
    let wildcard = pattern.strip_suffix("/*");
    let name = wildcard.unwrap_or(pattern);
    // A colon after the last slash starts a tag; before it, it is a registry's port.
    let last = name.rsplit('/').next().unwrap_or_default();
    match () {
        () if pattern != pattern.trim() => Some("must have no space at either end"),
        () if pattern.is_empty() => Some("must not be empty"),
        () if name.contains('*') => Some("may have a wildcard only as \"/*\" at its end"),
        () if name.is_empty() => Some("needs the host of a registry before \"/*\""),
        () if wildcard.is_none() && (name.contains('@') || last.contains(':')) => {
            Some("must have neither tag nor digest")
        }
        () if wildcard.is_none() && !is_image(name) => Some("is not the name of an image"),
        () => None,
    }
}

fn is_image(name: &str) -> bool {
    let mut parts = name.split('/');
    let host = parts.next().unwrap_or_default();
    let rest: Vec<_> = parts.collect();
    let lower = |part: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = part.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
        edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
    };
    let is_host = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
    let named = |part: &&str| lower(part);
    rest.iter().all(named) && if rest.is_empty() { lower(host) } else { !host.is_empty() && is_host }
}
