//! Who may ask the node's server for what: every endpoint, by every method, with every kind of credential, gets the
//! status code that the upstream kubelet gives on the same node.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use bed::{
    Runtime,
    process::{in_netns, run},
    wait,
};
use serde_json::Value;

use crate::{
    node_sockets, prometheus, series, top,
    world::{Group, World, expect, shell_pod},
};

pub fn group() -> Group {
    Group {
        name: "requests",
        runtime: Runtime::Containerd2,
        services: false,
        bare: false,
        tests: vec![
            ("every_request_has_upstreams_status_code", same_codes),
            ("the_nodes_own_sockets_answer_as_upstreams", node_sockets::same_answers),
            ("what_is_measured_has_upstreams_names", series::same_names),
            ("prometheus_reads_all_that_is_measured", prometheus::scrapes_all),
            ("kubectl_top_shows_what_a_pod_and_the_node_use", top::shows_usage),
        ],
    }
}

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Paths below 10250. `POD` is the namespace and name of a pod that runs, `UID` its UID.
const PATHS: &[&str] = &[
    "/healthz",
    "/healthz/ping",
    "/healthz/log",
    "/healthz/syncloop",
    "/healthz/nothing",
    "/pods",
    "/pods/",
    "/pods/x",
    "/runningpods",
    "/runningpods/",
    "/allocatedPods",
    "/stats/summary",
    "/stats/summary?only_cpu_and_memory=true",
    "/stats/",
    "/stats/container",
    "/metrics",
    "/metrics/cadvisor",
    "/metrics/resource",
    "/metrics/probes",
    "/metrics/slis",
    "/metrics/nothing",
    "/configz",
    "/statusz",
    "/flagz",
    "/logs",
    "/logs/",
    "/logs/requests-test.log",
    "/logs/no-such-file",
    "/logs/?query=%2Frequests-test.log",
    "/logs/?query=/etc/passwd",
    "/logs/?query=requests-test.log&tailLines=x",
    "/logs/?query=requests-test.log&tailLines=1",
    "/containerLogs/POD/app",
    "/containerLogs/POD/none",
    "/containerLogs/POD/app?tailLines=-1",
    "/containerLogs/POD/app?sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
    "/containerLogs/POD/app?stream=Stdout",
    "/containerLogs/POD/app?tailLines=x",
    "/containerLogs/default/none/app",
    "/run/POD/app?cmd=true",
    "/run/POD/app?cmd=false",
    "/run/POD/app",
    "/run/POD/none?cmd=true",
    "/run/POD/UID/app?cmd=true",
    "/run/POD/wrong-uid/app?cmd=true",
    "/run/default/none/app?cmd=true",
    "/exec/POD/app?command=true&output=1",
    "/exec/POD/app",
    "/exec/POD/none?command=true&output=1",
    "/exec/POD/UID/app?command=true&output=1",
    "/exec/POD/wrong-uid/app?command=true&output=1",
    "/exec/default/none/app?command=true&output=1",
    "/exec/default",
    "/attach/POD/app?output=1",
    "/attach/POD/app",
    "/attach/POD/UID/app?output=1",
    "/attach/default/none/app?output=1",
    "/portForward/POD",
    "/portForward/POD/UID",
    "/portForward/POD/wrong-uid",
    "/portForward/default/none",
    "/checkpoint/default/none/app",
    "/checkpoint/POD/none",
    "/checkpoint/POD/app?timeout=x",
    "/checkpoint/POD/app",
    "/debug/flags/v",
    "/debug/flags/nothing",
    "/debug/pprof",
    "/debug/pprof/",
    "/debug/pprof/cmdline",
    "/debug/pprof/heap",
    "/debug/pprof/nothing",
    "/",
    "/nothing",
    "/spec/",
];

/// Where the codes differ on purpose, as docs/SUPPORT.md says.
fn differs_on_purpose(row: &str, ours: &str, theirs: &str) -> bool {
    let no_redirects = theirs == "307";
    let asked_even_for_nothing = theirs == "404" && matches!(ours, "401" | "403");
    // The index too refuses other methods by 405, as each profile does; upstream has 404 for it alone.
    let no_go_profiles = row.contains(" /debug/pprof/") && matches!(ours, "501" | "405");
    let another_pod = row.contains("/wrong-uid/") && ours == "404";
    no_redirects || asked_even_for_nothing || no_go_profiles || another_pod
}

/// The codes of all requests, by `CREDENTIAL METHOD URL`.
type Table = BTreeMap<String, String>;

fn same_codes(w: &mut World) -> Result<()> {
    w.cluster.nodes[0].options.flags.push("--read-only-port=10255".into());
    w.cluster.nodes[0].options.config = "enableSystemLogQuery: true\n".into();
    let credentials = credentials(w)?;
    fs::write("/var/log/requests-test.log", "a line\n")?;
    w.kubectl().apply(&shell_pod("asked", &[("app", "echo said; sleep 100000")]).to_string())?;
    let pod = w.kubectl().until_ready("asked")?;
    let uid = pod["metadata"]["uid"].as_str().context("uid")?;
    let upstream = w.cluster.cache().bin("kubelet");
    let theirs = table_of(w, Some(&upstream), uid, &credentials)?;
    let ours = table_of(w, None, uid, &credentials)?;
    fs::remove_file("/var/log/requests-test.log")?;
    let mut differences = String::new();
    for (row, code) in &theirs {
        let our_code = ours.get(row).map_or("none", String::as_str);
        if our_code != code && !differs_on_purpose(row, our_code, code) {
            let _ = writeln!(differences, "{row}: {our_code}, upstream {code}");
        }
    }
    let dir = w.cluster.cache().reports();
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("requests-differences.txt"), &differences)?;
    let lines: Vec<String> = theirs.iter().map(|(row, code)| format!("{code} {row}\n")).collect();
    fs::write(dir.join("requests-upstream.txt"), lines.concat())?;
    let (count, first) = (differences.lines().count(), differences.lines().take(40).collect::<Vec<_>>().join("\n"));
    expect(count == 0, format!("{count} of {} requests differ:\n{first}", theirs.len()))?;
    eprint!("{} requests ... ", theirs.len());
    w.delete_pods(&["asked"])
}

/// A name and the options of curl that make it.
type Credential = (&'static str, Vec<String>);

fn credentials(w: &World) -> Result<Vec<Credential>> {
    let (dir, pki) = (w.cluster.dir.join("etc"), w.cluster.dir.join("pki"));
    let (wrong_key, wrong) = (dir.join("wrong.key"), dir.join("wrong.crt"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/O=system:masters/CN=kubernetes-admin"]);
    run(openssl.arg("-keyout").arg(&wrong_key).arg("-out").arg(&wrong))?;
    let node = w.node().dir.join("etc/kubelet.conf");
    let pair = |cert: &Path, key: &Path| {
        vec![format!("cert = \"{}\"", cert.display()), format!("key = \"{}\"", key.display())]
    };
    let bearer = |token: &str| vec![format!("header = \"Authorization: Bearer {}\"", token.trim())];
    let node_pair = (embedded(&node, "client-certificate", &dir)?, embedded(&node, "client-key", &dir)?);
    let k = w.kubectl();
    for account in ["nobody", "reader"] {
        k.run(&["create", "serviceaccount", account])?;
    }
    let fine = "nodes/healthz,nodes/pods,nodes/configz,nodes/stats,nodes/metrics,nodes/log,nodes/checkpoint";
    k.run(&["create", "clusterrole", "reader", "--verb=get,create", &format!("--resource={fine}")])?;
    k.run(&["create", "clusterrolebinding", "reader", "--clusterrole=reader", "--serviceaccount=default:reader"])?;
    let admin = pair(&pki.join("apiserver-kubelet-client.crt"), &pki.join("apiserver-kubelet-client.key"));
    Ok(vec![
        ("none", vec![]),
        ("wrong-certificate", pair(&wrong, &wrong_key)),
        ("node", pair(&node_pair.0, &node_pair.1)),
        ("admin", admin),
        ("wrong-token", bearer("not-a-token")),
        ("no-rights", bearer(&k.run(&["create", "token", "nobody"])?)),
        ("fine-grained", bearer(&k.run(&["create", "token", "reader"])?)),
    ])
}

/// The user's certificate or key out of a kubeconfig, as a file.
fn embedded(kubeconfig: &Path, what: &str, dir: &Path) -> Result<PathBuf> {
    let text = fs::read_to_string(kubeconfig)?;
    let find = |key: String| text.lines().find_map(|line| Some(line.trim().strip_prefix(&key)?.trim().to_owned()));
    if let Some(path) = find(format!("{what}:")) {
        return Ok(path.into());
    }
    let encoded = find(format!("{what}-data:")).with_context(|| format!("no {what} in {}", kubeconfig.display()))?;
    let (base64, file) = (dir.join(format!("node-{what}.base64")), dir.join(format!("node-{what}.pem")));
    fs::write(&base64, encoded)?;
    fs::write(&file, run(Command::new("base64").arg("-d").arg(&base64))?)?;
    Ok(file)
}

fn table_of(w: &World, program: Option<&Path>, uid: &str, credentials: &[Credential]) -> Result<Table> {
    w.node().stop_kubelet();
    w.node().start_kubelet(program, Some(&w.cluster.dir))?;
    let ip = &w.node().ip;
    let admin = &credentials.iter().find(|(name, _)| *name == "admin").context("admin")?.1;
    wait::until("the server to answer", wait::LONG, || {
        let request = [("GET", format!("https://{ip}:10250/healthz"))];
        let known = [("GET", format!("https://{ip}:10250/runningpods/"))];
        Ok(codes(w, admin, &request)? == ["200"] && codes(w, admin, &known)? == ["200"])
    })?;
    // Its sources are known, so that requests find the pod.
    w.kubectl().until_pod("asked", "Ready", |pod: &Value| bed::kubectl::is_ready(pod))?;
    let path_of = |path: &str| path.replace("POD", "default/asked").replace("UID", uid);
    wait::until("the pod to be known", wait::LONG, || {
        let logs = [("GET", format!("https://{ip}:10250{}", path_of("/containerLogs/POD/app")))];
        Ok(codes(w, admin, &logs)? == ["200"])
    })?;
    let mut table = Table::new();
    let mut add = |who: &str, options: &[String], base: &str, paths: &[&str]| -> Result<()> {
        let requests: Vec<(&str, String)> =
            paths.iter().flat_map(|path| METHODS.map(|method| (method, format!("{base}{}", path_of(path))))).collect();
        let shown = paths.iter().flat_map(|path| METHODS.map(|method| format!("{who} {method} {path}")));
        let codes = codes(w, options, &requests)?;
        expect(codes.len() == requests.len(), format!("{who} has an answer to each of {} requests", requests.len()))?;
        table.extend(shown.zip(codes));
        Ok(())
    };
    for (name, options) in credentials {
        add(name, options, &format!("https://{ip}:10250"), PATHS)?;
    }
    add("read-only", &[], &format!("http://{ip}:10255"), PATHS)?;
    add("healthz-port", &[], "http://127.0.0.1:10248", &["/healthz", "/healthz/ping", "/metrics", "/pods", "/"])?;
    Ok(table)
}

/// One status code a request; `000` where the connection broke.
fn codes(w: &World, options: &[String], requests: &[(&str, String)]) -> Result<Vec<String>> {
    let mut config = String::new();
    for (method, url) in requests {
        let how = match *method {
            "HEAD" => "head".to_owned(),
            // The level that it has already.
            "PUT" => "request = \"PUT\"\ndata = \"2\"".to_owned(),
            method => format!("request = \"{method}\""),
        };
        let _ = writeln!(config, "{how}\nurl = \"{url}\"\noutput = \"/dev/null\"\nwrite-out = \"%{{http_code}}\\n\"");
        let _ = writeln!(config, "insecure\nsilent\npath-as-is\nmax-time = 20\n{}\nnext", options.join("\n"));
    }
    let file = w.cluster.dir.join("etc/curl.conf");
    fs::write(&file, config.strip_suffix("next\n").unwrap_or(&config))?;
    let mut command = in_netns(Some(&w.cluster.netns), Path::new("curl"));
    // Exits with the last request's outcome, which may well be a refused one.
    let output = command.arg("-q").arg("--config").arg(&file).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}
