//! Debian's Prometheus beside the agent: it scrapes every endpoint with metrics, with a token, and finds no fault.

use std::{fmt::Write as _, fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use bed::{
    build,
    process::{in_netns, run},
    wait,
};
use serde_json::Value;

use crate::world::{World, expect, shell_pod};

const ENDPOINTS: [&str; 4] = ["/metrics", "/metrics/cadvisor", "/metrics/resource", "/metrics/probes"];
const API: &str = "http://127.0.0.1:9090/api/v1";
const NAME: &str = "prometheus";

pub fn scrapes_all(w: &mut World) -> Result<()> {
    let mut pod = shell_pod("scraped", &[("app", "sleep 100000")]);
    pod["spec"]["containers"][0]["livenessProbe"] =
        serde_json::json!({"exec": {"command": ["true"]}, "periodSeconds": 1});
    w.kubectl().apply(&pod.to_string())?;
    w.kubectl().until_ready("scraped")?;
    wait::until("the probe to be counted", wait::LONG, || {
        Ok(crate::series::get(w, "metrics/probes")?.contains("pod=\"scraped\""))
    })?;
    start(w)?;
    // Stopped even where it found a fault: the next test of the group has the same namespace.
    let found = no_faults(w);
    w.cluster.daemons.stop(NAME);
    found?;
    w.delete_pods(&["scraped"])
}

fn start(w: &World) -> Result<()> {
    let dir = w.cluster.dir.join(NAME);
    fs::create_dir_all(&dir)?;
    let k = w.kubectl();
    k.run(&["create", "serviceaccount", NAME])?;
    k.run(&["create", "clusterrole", NAME, "--verb=get", "--resource=nodes/metrics"])?;
    k.run(&["create", "clusterrolebinding", NAME, "--clusterrole=prometheus", "--serviceaccount=default:prometheus"])?;
    let token = dir.join("token");
    fs::write(&token, k.run(&["create", "token", NAME])?.trim())?;
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600))?;
    let config = dir.join("prometheus.yml");
    fs::write(&config, configuration(&token, &w.node().ip))?;
    let mut command = in_netns(Some(&w.cluster.netns), &build::debian(w.cluster.cache(), build::PROMETHEUS));
    command.arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
    command.args(["--web.listen-address=127.0.0.1:9090", "--log.level=debug"]);
    w.cluster.daemons.start(NAME, command)?;
    Ok(())
}

fn configuration(token: &Path, ip: &str) -> String {
    let mut config = "global: {scrape_interval: 2s, scrape_timeout: 2s}\nscrape_configs:\n".to_owned();
    for path in ENDPOINTS {
        let _ = write!(
            config,
            "- job_name: {path}\n  metrics_path: {path}\n  scheme: https\n  \
             tls_config: {{insecure_skip_verify: true}}\n  authorization: {{credentials_file: {}}}\n  \
             static_configs: [{{targets: [\"{ip}:10250\"]}}]\n",
            token.display()
        );
    }
    config
}

fn no_faults(w: &World) -> Result<()> {
    let get = |what: &str| -> Result<Value> {
        let mut curl = in_netns(Some(&w.cluster.netns), Path::new("curl"));
        let text = run(curl.args(["-q", "--silent", "--fail", "--max-time", "5"]).arg(format!("{API}/{what}")))?;
        Ok(serde_json::from_str(&text)?)
    };
    wait::until("Prometheus to have scraped every endpoint", wait::LONG, || {
        let Ok(answer) = get("targets") else { return Ok(false) };
        let targets = answer["data"]["activeTargets"].as_array().context("targets")?;
        Ok(targets.len() == ENDPOINTS.len() && targets.iter().all(|target| target["health"] != "unknown"))
    })?;
    let answer = get("targets")?;
    for target in answer["data"]["activeTargets"].as_array().context("targets")? {
        let faultless = target["health"] == "up" && target["lastError"] == "";
        expect(faultless, format!("{} is up: {target}", target["scrapePool"]))?;
    }
    for path in ENDPOINTS {
        let of = |series: &str| -> Result<u64> {
            let answer = get(&format!("query?query={series}%7Bjob%3D%22{path}%22%7D"))?;
            let value = answer["data"]["result"][0]["value"][1].as_str().context("no value")?;
            Ok(value.parse()?)
        };
        let samples = of("scrape_samples_scraped")?;
        expect(samples > 0, format!("{path} has samples"))?;
        eprint!("{path} {samples} ... ");
    }
    // All that was sent is stored: a series that came twice in one answer, or out of order, leaves the target up.
    let log = fs::read_to_string(w.cluster.daemons.log(NAME))?;
    let dropped: Vec<&str> = log.lines().filter(|line| DROPPED.iter().any(|what| line.contains(what))).collect();
    expect(dropped.is_empty(), format!("nothing is dropped: {}", dropped.join("\n")))
}

/// What Prometheus logs of samples that it read and did not store.
const DROPPED: [&str; 3] = ["Duplicate sample for timestamp", "Out of order sample", "Error on ingesting"];
