//! The names of what the node's server measures: series with their labels, and fields of the summary, beside those
//! of the upstream kubelet with the same pods on the same node; and the values that must agree.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path, thread::sleep, time::Duration};

use anyhow::Result;
use bed::{
    process::{in_netns, run},
    wait,
};
use serde_json::{Value, json};

use crate::{
    values::{self, Samples},
    world::{World, expect, shell_pod},
};

const EXPOSITIONS: [&str; 4] = ["metrics/resource", "metrics/probes", "metrics/cadvisor", "metrics"];
const SUMMARY: &str = "stats/summary";
/// Upstream samples in the background: until then its answers lack what needs two samples.
const SETTLE: Duration = Duration::from_secs(25);

type Names = BTreeSet<String>;
type NamesByEndpoint = Vec<(&'static str, Names)>;

/// Values that differ (values.rs) and what upstream has and we lack make the test fail, but for what LEFT_OUT names; all names
/// are written to the reports.
pub fn same_names(w: &mut World) -> Result<()> {
    w.kubectl().apply(&measured().to_string())?;
    w.kubectl().until_ready("measured")?;
    for what in ["total", "sli"] {
        let count = format!("kubelet_pod_start_{what}_duration_seconds_count{{}}");
        let counted = || Ok(values::samples(&get(w, "metrics")?).get(&count).is_some_and(|pods| *pods >= 1.0));
        wait::until("the pod's start to be counted", wait::LONG, counted)?;
    }
    let upstream = w.cluster.cache().bin("kubelet");
    let (theirs, their_values) = measured_by(w, Some(&upstream))?;
    let (ours, our_values) = measured_by(w, None)?;
    let (mut report, mut missing) = (String::new(), Vec::new());
    let uid = w.kubectl().json(&["get", "pod", "measured"])?["metadata"]["uid"].clone();
    for ((endpoint, theirs), ours) in EXPOSITIONS.iter().zip(&their_values).zip(&our_values) {
        missing.extend(values::differences(endpoint, theirs, ours));
        let [theirs, ours] = [theirs, ours].map(|side| cgroups(side, uid.as_str().unwrap_or_default()));
        missing.extend(theirs.difference(&ours).map(|id| format!("{endpoint} lacks the cgroup {id}")));
    }
    for ((endpoint, theirs), (_, ours)) in theirs.iter().zip(&ours) {
        for name in theirs.difference(ours) {
            let _ = writeln!(report, "{endpoint} lacks {name}");
            if !left_out(endpoint, name) {
                missing.push(format!("{endpoint} lacks {name}"));
            }
        }
        for name in ours.difference(theirs) {
            let _ = writeln!(report, "{endpoint} has, upstream not, {name}");
        }
    }
    fs::write(w.cluster.cache().reports().join("series-differences.txt"), report)?;
    expect(missing.is_empty(), missing.join("\n"))?;
    w.delete_pods(&["measured"])
}

/// The ids of the cgroups that cAdvisor's page shows: of the node, the classes and that pod. Other pods may be on their
/// way out.
fn cgroups(of: &Samples, uid: &str) -> Names {
    let started = of.keys().filter(|series| series.starts_with("container_start_time_seconds{"));
    let ids = started.filter_map(|series| Some(series.split_once("id=\"")?.1.split('"').next()?.to_owned()));
    ids.filter(|id| !id.contains("/pod") || id.contains(uid)).collect()
}

/// With a probe, volumes and limits, and memory in use that stays what it is: files of a tmpfs.
fn measured() -> Value {
    let app = "echo said; echo x >/data/x; head -c 24m /dev/zero >/held/x; sleep 100000";
    let mut pod = shell_pod("measured", &[("app", app), ("side", "sleep 100000")]);
    let app = &mut pod["spec"]["containers"][0];
    app["livenessProbe"] = json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    app["resources"] = json!({"limits": {"cpu": "500m", "memory": "64Mi"}});
    app["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}, {"name": "held", "mountPath": "/held"}]);
    pod["spec"]["volumes"] =
        json!([{"name": "data", "emptyDir": {}}, {"name": "held", "emptyDir": {"medium": "Memory"}}]);
    pod
}

/// What is not measured: by endpoint, the beginnings of names.
const LEFT_OUT: [(&str, &[&str]); 2] = [
    (
        "metrics",
        &[
            // Of the language, and of libraries for API servers that are linked into all of upstream's programs.
            "go_",
            "aggregator_",
            "apiserver_",
            "authentication_",
            "cardinality_enforcement_",
            "disabled_metrics_",
            "field_validation_",
            "hidden_metrics_",
            "registered_metrics_",
            "rest_client_exec_plugin_",
            "rest_client_transport_",
            "workqueue_",
            // Parts that this agent does not have, and what docs/SUPPORT.md says is not counted.
            "dra_",
            "kubelet_cpu_manager_",
            "kubelet_memory_manager_",
            "kubelet_memory_qos_",
            "kubelet_topology_manager_",
            "kubelet_pod_level_resources_",
            "plugin_manager_",
            "reconstruct_volume_",
            "force_cleaned_failed_volume_",
            // Ways of working that this agent does not have: worker rounds that block, a choice of statistics, a background
            // measurement of volumes, a cache of pull records.
            "kubelet_pod_worker_",
            "kubelet_metrics_provider",
            "kubelet_volume_metric_collection_",
            "kubelet_imagemanager_inmemory_",
        ],
    ),
    // Memory of a kind that no longer is made; upstream shows zeros.
    ("metrics/cadvisor", &["machine_nvm_"]),
];

fn left_out(endpoint: &str, name: &str) -> bool {
    // Cgroups of version 1 have no pressure; upstream shows zeros.
    let pressure = name.contains(".psi.") || name.ends_with(".io.time");
    let named = LEFT_OUT.iter().filter(|(at, _)| *at == endpoint).flat_map(|(_, names)| *names);
    pressure || named.into_iter().any(|prefix| name.starts_with(prefix))
}

/// By endpoint the names, by exposition the values.
fn measured_by(w: &World, program: Option<&Path>) -> Result<(NamesByEndpoint, Vec<Samples>)> {
    w.node().stop_kubelet();
    w.node().start_kubelet(program, Some(&w.cluster.dir))?;
    wait::until("the server to know the pod", wait::LONG, || Ok(get(w, SUMMARY)?.contains("\"measured\"")))?;
    sleep(SETTLE);
    let (mut all, mut values) = (Vec::new(), Vec::new());
    let dir = w.cluster.cache().reports();
    fs::create_dir_all(&dir)?;
    let whose = if program.is_some() { "upstream" } else { "ours" };
    for endpoint in EXPOSITIONS {
        let text = get(w, endpoint)?;
        fs::write(dir.join(format!("series-{whose}-{}.txt", endpoint.replace('/', "-"))), &text)?;
        all.push((endpoint, series(&text)));
        values.push(values::samples(&text));
    }
    let summary: Value = serde_json::from_str(&get(w, SUMMARY)?)?;
    let mut names = Names::new();
    let mut of_pod =
        |pods: &Value| pods.as_array().into_iter().flatten().for_each(|pod| fields("pod", pod, &mut names));
    of_pod(&summary["pods"]);
    fields("node", &summary["node"], &mut names);
    all.push((SUMMARY, names));
    Ok((all, values))
}

pub fn get(w: &World, endpoint: &str) -> Result<String> {
    let pki = w.cluster.dir.join("pki");
    let mut curl = in_netns(Some(&w.cluster.netns), Path::new("curl"));
    curl.args(["-q", "--silent", "--fail", "--insecure", "--max-time", "30"]);
    curl.arg("--cert").arg(pki.join("apiserver-kubelet-client.crt"));
    curl.arg("--key").arg(pki.join("apiserver-kubelet-client.key"));
    run(curl.arg(format!("https://{}:10250/{endpoint}", w.node().ip)))
}

/// `name{label,label}` of each series; buckets and the like count as one.
fn series(text: &str) -> Names {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.split_once('{').map_or_else(|| bare(line), |(name, rest)| labelled(name, rest))).collect()
}

fn bare(line: &str) -> String {
    line.split(' ').next().unwrap_or_default().to_owned()
}

/// Label values hold no `",`: none of what is measured here is named so.
fn labelled(name: &str, rest: &str) -> String {
    let labels: Vec<&str> = rest.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0)).collect();
    format!("{name}{{{}}}", labels.join(","))
}

/// The paths of all values; the elements of a list are alike.
fn fields(at: &str, value: &Value, names: &mut Names) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| fields(&format!("{at}.{key}"), value, names)),
        Value::Array(list) => list.iter().for_each(|value| fields(&format!("{at}[]"), value, names)),
        _ => {
            names.insert(at.to_owned());
        }
    }
}
