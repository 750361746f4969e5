//! Which kubelet this behaves as, which ferrolet it is, and what `--version` prints.

/// The Kubernetes version whose behaviour this is, as the node reports it.
pub const KUBERNETES: &str = "v1.37.2";

pub const FERROLET: &str = env!("CARGO_PKG_VERSION");

/// The line on stdout. kubeadm requires that stdout holds this line and nothing else
/// (`cmd/kubeadm/app/preflight`: one match of `^\s*Kubernetes v…\s*$` over the whole output).
pub fn line(reported: &str) -> String {
    format!("Kubernetes {reported}")
}

/// Ferrolet's own version. Goes to stderr beside `line`, where no tool that parses stdout sees it.
pub fn own_line() -> String {
    format!("ferrolet {FERROLET}")
}

/// `--version=raw`: in the shape of Go's `%#v` of upstream's version record.
pub fn raw(reported: &str) -> String {
    let mut parts = KUBERNETES.trim_start_matches('v').split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!(
        "version.Info{{Major:\"{major}\", Minor:\"{minor}\", EmulationMajor:\"\", EmulationMinor:\"\", \
         MinCompatibilityMajor:\"\", MinCompatibilityMinor:\"\", GitVersion:\"{reported}\", GitCommit:\"\", \
         GitTreeState:\"\", BuildDate:\"1970-01-01T00:00:00Z\", GoVersion:\"none (ferrolet {FERROLET})\", \
         Compiler:\"rustc\", Platform:\"linux/{arch}\"}}"
    )
}

/// `--version=vX.Y.Z...` may add a suffix to the version that is reported, no more.
pub fn check_reported(version: &str) -> Result<(), String> {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<_> = core.trim_start_matches('v').split('.').collect();
    if parts.len() != 3 || !parts.iter().copied().all(is_number) {
        return Err(format!("could not parse {version:?} as version"));
    }
    if core != KUBERNETES {
        return Err(format!("version {version:?} must match major/minor/patch of default version {KUBERNETES:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubeadm_can_read_the_line() {
        // Its rule: nothing but the name and a semantic version.
        let line = line(KUBERNETES);
        let version = line.strip_prefix("Kubernetes v").unwrap();
        assert!(version.split('.').count() == 3 && version.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
    }

    #[test]
    fn only_a_suffix_may_be_added_to_the_reported_version() {
        assert_eq!(check_reported("v1.37.2-foo+bar"), Ok(()));
        assert!(check_reported("v1.37.3").is_err());
        assert!(check_reported("v1").is_err());
    }
}
