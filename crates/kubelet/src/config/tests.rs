//! The order of defaults, file, drop-ins and flags, and what each refuses.

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::flags;

const HEAD: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";

struct Files {
    dir: TempDir,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn load(&self, args: &[&str]) -> Result<Effective, String> {
        let here = self.dir.path().to_str().unwrap();
        let args: Vec<String> = args.iter().map(|arg| arg.replace("DIR", here)).collect();
        load(&flags::parse(&args).unwrap()).map_err(|e| {
            let chain = std::iter::successors(Some(&e as &dyn std::error::Error), |e| e.source());
            let text = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
            text.replace(here, "DIR")
        })
    }
}

fn file(body: &str) -> Files {
    Files::new(&[("config.yaml", &format!("{HEAD}{body}"))])
}

#[test]
fn without_a_file_the_flags_own_defaults_hold() {
    let effective = Files::new(&[]).load(&[]).unwrap();
    let config = &effective.config;
    assert!(config.authentication.anonymous.enabled && !config.authentication.webhook.enabled);
    assert_eq!(config.authorization.mode, "AlwaysAllow");
    assert_eq!(config.read_only_port, 10255);
    assert!(config.eviction_hard.is_empty(), "as upstream has it");
}

#[test]
fn with_a_file_the_files_defaults_hold() {
    let config = file("").load(&["--config=DIR/config.yaml"]).unwrap().config;
    assert!(!config.authentication.anonymous.enabled && config.authentication.webhook.enabled);
    assert_eq!(config.authorization.mode, "Webhook");
    assert_eq!(config.read_only_port, 0);
    assert_eq!(config.eviction_hard.len(), 5);
    assert_eq!(config.node_status_report_frequency.to_string(), "5m0s");
    assert!(config.serialize_image_pulls);
}

/// The list that `kubelet` v1.37.2 logs with no arguments.
#[test]
fn the_effective_configuration_is_upstreams() {
    let effective = Files::new(&[]).load(&[]).unwrap();
    let upstream: Value = serde_yaml_ng::from_str(include_str!("../../testdata/effective-defaults.yaml")).unwrap();
    assert_eq!(effective.versioned(), upstream);
}

#[test]
fn a_flag_wins_over_drop_ins_and_they_over_the_file() {
    let files = Files::new(&[
        ("config.yaml", &format!("{HEAD}maxPods: 1\nport: 1\npodsPerCore: 1\nclusterDNS: [10.0.0.1]\n")),
        ("d/20-b.conf", &format!("{HEAD}podsPerCore: 4\n")),
        ("d/10-a.conf", &format!("{HEAD}port: 2\npodsPerCore: 2\n")),
        ("d/15/x.conf", &format!("{HEAD}podsPerCore: 3\nregistryBurst: 3\n")),
        ("d/note.txt", "not read"),
    ]);
    let args = ["--config=DIR/config.yaml", "--config-dir=DIR/d", "--port=3", "--cluster-dns=10.0.0.2,10.0.0.3"];
    let effective = files.load(&args).unwrap();
    let config = &effective.config;
    assert_eq!((config.max_pods, config.port, config.pods_per_core, config.registry_burst), (1, 3, 4, 3));
    assert_eq!(config.cluster_dns, ["10.0.0.2", "10.0.0.3"]);
    assert_eq!(effective.notes, [Note::SkippedFile { file: files.path("d/note.txt") }]);
}

#[test]
fn drop_ins_merge_maps_and_null_brings_the_default_back() {
    let files = Files::new(&[
        ("config.yaml", &format!("{HEAD}maxPods: 7\nevictionHard: {{memory.available: 1Gi}}\n")),
        ("d/a.conf", &format!("{HEAD}maxPods: null\nevictionHard: {{pid.available: 5%}}\n")),
    ]);
    let config = files.load(&["--config=DIR/config.yaml", "--config-dir=DIR/d"]).unwrap().config;
    assert_eq!(config.max_pods, 110);
    let expected = [("memory.available", "1Gi"), ("pid.available", "5%")];
    assert_eq!(config.eviction_hard, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

#[test]
fn a_drop_in_must_say_what_it_is() {
    let files = Files::new(&[("d/a.conf", "maxPods: 5\n")]);
    let error = files.load(&["--config-dir=DIR/d"]).unwrap_err();
    assert_eq!(
        error,
        "failed to load kubelet config file \"DIR/d/a.conf\": failed to decode: Object 'kind' is missing"
    );
    let missing = Files::new(&[]).load(&["--config-dir=DIR/none"]).unwrap_err();
    assert!(
        missing.starts_with("failed to walk through kubelet drop-in directory \"DIR/none\": No such file"),
        "{missing}"
    );
}

#[test]
fn gates_of_flag_and_file_are_merged_and_the_flag_wins() {
    let files = file("featureGates: {EventedPLEG: true, CRIListStreaming: true}\n");
    let args = ["--config=DIR/config.yaml", "--feature-gates=EventedPLEG=false,H2CContainerProbe=true"];
    let effective = files.load(&args).unwrap();
    assert!(!effective.gates.enabled("EventedPLEG"));
    assert!(effective.gates.enabled("CRIListStreaming") && effective.gates.enabled("H2CContainerProbe"));
    let unknown = file("featureGates: {Foo: true}\n").load(&["--config=DIR/config.yaml"]).unwrap_err();
    assert_eq!(unknown, "failed to set feature gates: unrecognized feature gate: Foo");
}

#[test]
fn unknown_and_duplicate_fields_are_noted_and_passed_over() {
    let files = file("foo: bar\nport: 1\nport: 2\nauthentication:\n  bar: x\n");
    let effective = files.load(&["--config=DIR/config.yaml"]).unwrap();
    let path = files.path("config.yaml");
    assert_eq!(effective.config.port, 2);
    assert_eq!(
        effective.notes,
        [
            Note::DuplicateField { file: path.clone(), field: "port".into() },
            Note::UnknownField { file: path.clone(), field: "foo".into() },
            Note::UnknownField { file: path, field: "authentication.bar".into() },
        ]
    );
}

#[test]
fn each_bad_file_is_refused_with_its_reason() {
    for (text, reason) in [
        ("", "it is empty"),
        ("kind: KubeletConfiguration\n", "failed to decode: Object 'apiVersion' is missing"),
        ("apiVersion: v1\nkind: Pod\n", "failed to decode: no kind \"Pod\" is registered for version \"v1\""),
        ("a: b: c", "failed to decode: not valid YAML"),
        ("{\"kind\": }", "failed to decode: not valid JSON"),
    ] {
        let error = Files::new(&[("c", text)]).load(&["--config=DIR/c"]).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
    let error = file("port: abc\nhealthzPort: x\n").load(&["--config=DIR/config.yaml"]).unwrap_err();
    let both = "failed to decode: \n  healthzPort: Invalid value: \"x\": must be a 32-bit integer\
                \n  port: Invalid value: \"abc\": must be a 32-bit integer";
    assert!(error.contains(both), "{error}");
}

#[test]
fn relative_paths_of_the_file_count_from_its_directory_and_those_of_flags_do_not() {
    let files = file("staticPodPath: ./manifests\nresolvConf: ../r\n");
    let config = files.load(&["--config=DIR/config.yaml", "--tls-cert-file=x.crt"]).unwrap().config;
    assert_eq!(PathBuf::from(&config.static_pod_path), files.path("manifests"));
    assert_eq!(PathBuf::from(&config.resolv_conf), files.dir.path().parent().unwrap().join("r"));
    assert_eq!(config.tls_cert_file, "x.crt");
}

#[test]
fn a_zero_flag_stays_zero() {
    let config = file("").load(&["--config=DIR/config.yaml", "--max-pods=0", "--sync-frequency=0"]).unwrap().config;
    assert_eq!(config.max_pods, 0);
    assert!(config.sync_frequency.is_zero());
}

#[test]
fn some_defaults_follow_other_fields() {
    let config = file("nodeStatusUpdateFrequency: 4s\nmaxParallelImagePulls: 3\npodPidsLimit: -7\n")
        .load(&["--config=DIR/config.yaml"])
        .unwrap()
        .config;
    assert_eq!(config.node_status_report_frequency.to_string(), "4s");
    assert!(!config.serialize_image_pulls);
    assert_eq!(config.pod_pids_limit, -1);
    let off = file("featureGates: {KubeletCrashLoopBackOffMax: false, KubeletEnsureSecretPulledImages: false}\n")
        .load(&["--config=DIR/config.yaml"])
        .unwrap()
        .config;
    assert_eq!(off.crash_loop_back_off.max_container_restart_period, None);
    assert_eq!(off.image_pull_credentials_verification_policy, "");
}

#[test]
fn eviction_defaults_are_replaced_unless_merging_is_asked_for() {
    let one = "evictionHard: {memory.available: 1Gi}\n";
    let replaced = file(one).load(&["--config=DIR/config.yaml"]).unwrap().config;
    assert_eq!(replaced.eviction_hard.len(), 1);
    let merged =
        file(&format!("{one}mergeDefaultEvictionSettings: true\n")).load(&["--config=DIR/config.yaml"]).unwrap().config;
    assert_eq!(merged.eviction_hard.len(), 5);
    assert_eq!(merged.eviction_hard["memory.available"], "1Gi");
}

#[test]
fn header_values_are_masked_in_the_log_only() {
    let files = file("staticPodURLHeader: {Authorization: [secret]}\n");
    let effective = files.load(&["--config=DIR/config.yaml"]).unwrap();
    assert!(!effective.for_log().contains("secret") && effective.for_log().contains("<masked>"));
    assert!(effective.versioned().to_string().contains("secret"));
}

#[test]
fn json_is_read_too() {
    let json = r#"{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 9}"#;
    let config = Files::new(&[("c.json", json)]).load(&["--config=DIR/c.json"]).unwrap().config;
    assert_eq!(config.max_pods, 9);
}
