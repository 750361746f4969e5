//! What the command line and the configuration come to: the one value that `app::run` starts from.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use serde_json::Value;

use crate::{
    config::{
        self, ConfigError, Effective, KubeletConfiguration, document,
        duration::GoDuration,
        invalid::{self, Invalid},
        validate::{self, Host},
    },
    flags::{self, FLAGS, Flag, FlagError, Given, Sets, help},
    gates::FeatureGates,
    support, version,
};

#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    #[error(transparent)]
    Flags(#[from] FlagError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("failed to validate kubelet configuration: {}", invalid::list(.0))]
    Invalid(Vec<Invalid>),
    #[error("empty hostname is invalid")]
    EmptyHostname,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// `--help` and `--version`: this to stdout, that to stderr.
    Print {
        out: String,
        note: String,
    },
    Run(Box<Options>),
}

/// The options that only the command line has.
#[derive(Clone, Debug, PartialEq)]
pub struct KubeletFlags {
    pub root_dir: PathBuf,
    pub cert_dir: PathBuf,
    /// `None` is standalone mode.
    pub kubeconfig: Option<PathBuf>,
    pub bootstrap_kubeconfig: Option<PathBuf>,
    pub hostname_override: String,
    pub node_labels: BTreeMap<String, String>,
    /// A cloud controller initialises the node: it registers tainted, and addresses come from there.
    pub cloud_provider_external: bool,
    /// A file or a directory of files.
    pub image_credential_provider_config: Option<PathBuf>,
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    pub runtime_cgroups: String,
    pub lock_file: Option<PathBuf>,
    pub exit_on_lock_contention: bool,
    pub minimum_container_ttl: GoDuration,
    pub maximum_dead_containers_per_container: i32,
    /// Negative is no limit.
    pub maximum_dead_containers: i32,
    /// evictionHard does not lower the node's allocatable.
    pub allocatable_ignores_eviction: bool,
}

#[derive(Debug)]
pub struct Options {
    pub config: KubeletConfiguration,
    pub flags: KubeletFlags,
    pub gates: FeatureGates,
    /// Lower case, from --hostname-override or the host.
    pub node_name: String,
    /// The host's own name, as the kernel has it.
    pub hostname: String,
    /// Of --node-ip: none, one, or one of each family; an unspecified address only chooses a family.
    pub node_ips: Vec<IpAddr>,
    /// Of the flag or the field.
    pub seccomp_default: bool,
    /// What node.status.nodeInfo.kubeletVersion says.
    pub reported_version: String,
    pub host: Host,
    effective: Effective,
    given: Given,
}

/// Reads the arguments (without the program's name) and all they name. The result is not validated yet: logging comes
/// first, so that a refused configuration can be seen in the log.
pub fn read(args: &[String]) -> Result<Request, OptionsError> {
    let given = flags::parse(args)?;
    if given.bool("help") {
        return Ok(Request::Print { out: help::text(), note: String::new() });
    }
    let asked = given.text("version");
    let reported = if asked.starts_with('v') { asked.clone() } else { version::KUBERNETES.to_owned() };
    match asked.as_str() {
        "true" => return Ok(Request::Print { out: version::line(&reported) + "\n", note: version::own_line() + "\n" }),
        "raw" => return Ok(Request::Print { out: version::raw(&reported) + "\n", note: String::new() }),
        _ => {}
    }
    let effective = config::load(&given)?;
    let hostname = rustix::system::uname().nodename().to_string_lossy().trim().to_owned();
    let flags = KubeletFlags::new(&given);
    let node_name = node_name(&flags.hostname_override, &hostname)?;
    Ok(Request::Run(Box::new(Options {
        config: effective.config.clone(),
        gates: effective.gates.clone(),
        seccomp_default: given.bool("seccomp-default") || effective.config.seccomp_default,
        node_ips: validate::node_ips(&given.text("node-ip")),
        reported_version: reported,
        host: Host::read(),
        flags,
        node_name,
        hostname,
        effective,
        given,
    })))
}

fn node_name(hostname_override: &str, hostname: &str) -> Result<String, OptionsError> {
    let chosen = if hostname_override.is_empty() { hostname } else { hostname_override };
    match chosen.trim().to_lowercase() {
        name if name.is_empty() => Err(OptionsError::EmptyHostname),
        name => Ok(name),
    }
}

impl KubeletFlags {
    fn new(given: &Given) -> Self {
        // A relative path counts from where the agent was started, also after it has moved.
        let path = |name: &str| {
            let path = PathBuf::from(given.text(name));
            std::path::absolute(&path).unwrap_or(path)
        };
        let some_path = |name: &str| (!given.text(name).is_empty()).then(|| path(name));
        let int = |name: &str| i32::try_from(given.int(name)).unwrap_or_default();
        Self {
            root_dir: path("root-dir"),
            cert_dir: path("cert-dir"),
            kubeconfig: some_path("kubeconfig"),
            bootstrap_kubeconfig: some_path("bootstrap-kubeconfig"),
            hostname_override: given.text("hostname-override"),
            node_labels: given.map("node-labels"),
            cloud_provider_external: given.text("cloud-provider") == "external",
            image_credential_provider_config: some_path("image-credential-provider-config"),
            image_credential_provider_bin_dir: some_path("image-credential-provider-bin-dir"),
            runtime_cgroups: given.text("runtime-cgroups"),
            lock_file: some_path("lock-file"),
            exit_on_lock_contention: given.bool("exit-on-lock-contention"),
            minimum_container_ttl: given.duration("minimum-container-ttl-duration"),
            maximum_dead_containers_per_container: int("maximum-dead-containers-per-container"),
            maximum_dead_containers: int("maximum-dead-containers"),
            allocatable_ignores_eviction: given.bool("experimental-allocatable-ignore-eviction"),
        }
    }
}

impl Options {
    /// Refuses what upstream refuses, all of it at once.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let mut faults = validate::flags(&self.given);
        faults.extend(validate::configuration(&self.config, &self.gates, self.host));
        if faults.is_empty() { Ok(()) } else { Err(OptionsError::Invalid(faults)) }
    }

    /// Without an API server: static pods only.
    pub fn is_standalone(&self) -> bool {
        self.flags.kubeconfig.is_none()
    }

    /// The cgroup below which pods live: with QoS groups, no root given means the top.
    pub fn cgroup_root(&self) -> &str {
        match self.config.cgroup_root.as_str() {
            "" if self.config.cgroups_per_qos => "/",
            root => root,
        }
    }

    /// kubeReserved and systemReserved as they count: reservedSystemCPUs sets the system's cpu and drops the kubelet's.
    pub fn reserved(&self) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
        let (mut kube, mut system) = (self.config.kube_reserved.clone(), self.config.system_reserved.clone());
        let cpus = validate::cpus(&self.config.reserved_system_cpus).unwrap_or_default();
        if !cpus.is_empty() {
            kube.remove("cpu");
            system.insert("cpu".to_owned(), cpus.len().to_string());
        }
        (kube, system)
    }

    /// What `/configz` serves below the key `kubeletconfig`.
    pub fn configz(&self) -> Value {
        self.effective.versioned()
    }

    /// Every flag as it was given, or its default, for `/flagz`; what the file says is in `/configz`. Header values
    /// and tokens never.
    pub fn flagz(&self) -> Vec<(String, String)> {
        let defaults = config::flag_defaults();
        let value = |flag: &Flag| match (self.given.value(flag.name), flag.sets) {
            (Some(_), Sets::Config("staticPodURLHeader")) => "<masked>".to_owned(),
            (Some(value), _) => flag.reads.shown(value),
            (None, Sets::Config("evictionHard")) => String::new(),
            (None, Sets::Config(path)) => flag.reads.shown(document::at(&defaults, path)),
            (None, Sets::Own { default, .. }) => flag.reads.shown(&default.into()),
        };
        FLAGS.iter().map(|flag| (flag.name.to_owned(), value(flag))).collect()
    }

    /// The first lines of the log: the configuration, what was passed over in it, and what is not there yet.
    pub fn log_start(&self) {
        for name in &self.given.deprecated {
            let field = FLAGS.iter().find(|flag| flag.name == *name).map(|flag| flag.sets);
            match field {
                Some(Sets::Config(field)) => {
                    tracing::warn!(
                        flag = format!("--{name}"),
                        field,
                        "Flag has been deprecated, set the field in the config file instead"
                    );
                }
                _ => tracing::warn!(flag = format!("--{name}"), "Flag has been deprecated"),
            }
        }
        for note in &self.effective.notes {
            log_note(note);
        }
        tracing::info!(config = self.effective.for_log(), "Effective KubeletConfiguration");
        for (name, value) in self.flagz().iter().filter(|(name, _)| self.given.is_given(name)) {
            tracing::debug!(flag = format!("--{name}"), value, "Flag given");
        }
        for warning in support::warnings(&self.effective, &self.given) {
            tracing::warn!(
                option = warning.option,
                value = warning.value,
                reason = warning.reason,
                "Option has no effect yet"
            );
        }
        tracing::info!(
            kubeletVersion = self.reported_version,
            ferroletVersion = version::FERROLET,
            node = self.node_name,
            "Kubelet version"
        );
    }
}

fn log_note(note: &config::Note) {
    match note {
        config::Note::UnknownField { file, field } => {
            tracing::warn!(file = %file.display(), field, "Unknown field in the configuration is ignored");
        }
        config::Note::DuplicateField { file, field } => {
            tracing::warn!(file = %file.display(), field, "Field is given twice in the configuration, the last one counts");
        }
        config::Note::SkippedFile { file } => {
            tracing::debug!(file = %file.display(), "Skipped file in drop-in directory (does not have .conf extension)");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str]) -> Options {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        match read(&args).unwrap() {
            Request::Run(options) => *options,
            Request::Print { out, .. } => panic!("printed {out}"),
        }
    }

    fn printed(args: &[&str]) -> (String, String) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        match read(&args).unwrap() {
            Request::Print { out, note } => (out, note),
            Request::Run(_) => panic!("runs"),
        }
    }

    #[test]
    fn the_server_gets_the_configuration_itself_and_not_what_configz_wraps_it_in() {
        let configz = run(&[]).configz();
        assert_eq!(configz["kind"], "KubeletConfiguration", "{configz}");
    }

    #[test]
    fn version_prints_one_line_to_stdout_and_our_own_beside_it() {
        let (out, note) = printed(&["--version"]);
        assert_eq!(out, "Kubernetes v1.37.2\n");
        assert!(note.starts_with("ferrolet "));
        assert!(printed(&["--version=raw"]).0.starts_with("version.Info{Major:\"1\", Minor:\"37\""));
        assert_eq!(run(&["--version=false"]).reported_version, "v1.37.2");
        assert_eq!(run(&["--version=v1.37.2+ours"]).reported_version, "v1.37.2+ours");
    }

    #[test]
    fn the_nodes_name_is_lower_case() {
        assert_eq!(run(&["--hostname-override= Node-A "]).node_name, "node-a");
        assert_eq!(node_name("", "HOST").unwrap(), "host");
        assert!(node_name("  ", "host").is_err());
    }

    #[test]
    fn the_seccomp_default_is_on_by_flag_or_field() {
        assert!(!run(&[]).seccomp_default);
        assert!(run(&["--seccomp-default"]).seccomp_default);
    }

    #[test]
    fn reserved_cpus_count_for_the_system_alone() {
        let options = run(&["--kube-reserved=cpu=1,memory=1Gi", "--system-reserved=cpu=2", "--reserved-cpus=0-2"]);
        let (kube, system) = options.reserved();
        assert_eq!(kube, [("memory".to_owned(), "1Gi".to_owned())].into());
        assert_eq!(system, [("cpu".to_owned(), "3".to_owned())].into());
    }

    #[test]
    fn no_kubeconfig_is_standalone_mode() {
        assert!(run(&[]).is_standalone());
        assert!(!run(&["--kubeconfig=/etc/kubernetes/kubelet.conf"]).is_standalone());
        assert_eq!(run(&[]).cgroup_root(), "/");
        assert_eq!(run(&["--cgroups-per-qos=false", "--enforce-node-allocatable="]).cgroup_root(), "");
    }
}
