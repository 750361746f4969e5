//! `kubelet join k3s`: gets this machine what it needs to be a worker of a k3s cluster, writes it, says how to start the
//! agent, and exits.

use std::{fmt::Write as _, net::IpAddr, path::Path};

use anyhow::{Context, Result, bail, ensure};
use host::Clock;
use join::{Joined, Taint, Token, Wanted};

const USAGE: &str = "\
usage: kubelet join k3s --server URL --token-file FILE [FLAGS]

Makes this machine a worker of a k3s cluster without k3s' own agent: fetches the node's certificates with the cluster's
token, writes them with a kubeconfig and a configuration, and says how to start the agent. Run it again to renew the
certificates; a running agent takes the new ones.

  --server URL                     the k3s server, such as https://10.0.0.1:6443
  --token-file FILE                its token (/var/lib/rancher/k3s/server/node-token there); - is the standard input
  --node-name NAME                 default: the host name
  --with-node-id                   appends an id of this machine to the name
  --node-ip IP[,IP]                default: that of the default route
  --node-label KEY=VALUE           may be given several times, as may the next
  --node-taint KEY=VALUE:EFFECT
  --data-dir DIR                   the files go to DIR/agent (default /var/lib/rancher/k3s)
  --node-dir DIR                   where the node's password is kept (default /etc/rancher/node)
  --root-dir DIR                   the agent's root directory (default /var/lib/kubelet)
  --container-runtime-endpoint URL default unix:///run/containerd/containerd.sock
  --cgroup-driver NAME             default: as the runtime says
  --resolv-conf FILE               default: /etc/resolv.conf, or systemd-resolved's file if that names a local resolver
  --insecure-skip-ca-hash          takes the server's CA as it is when the token has no hash of it
";

/// `args`: what follows `join`. The result is for the standard output.
pub fn run(args: &[String], clock: Clock) -> Result<String> {
    let args = match args {
        [] => bail!("{USAGE}"),
        [flag, ..] if is_help(flag) => return Ok(USAGE.to_owned()),
        [kind, args @ ..] if kind == "k3s" => args,
        [other, ..] => bail!("{other:?} can't be joined, only k3s\n\n{USAGE}"),
    };
    if args.iter().any(|arg| is_help(arg)) {
        return Ok(USAGE.to_owned());
    }
    let wanted = parse(args)?;
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let joined = executor.block_on(join::join(&wanted, clock.wall()))?;
    Ok(report(&joined))
}

fn is_help(arg: &str) -> bool {
    matches!(arg, "-h" | "--help")
}

fn parse(args: &[String]) -> Result<Wanted> {
    let given = given(args)?;
    let needed = |flag| {
        let found = given.iter().rev().find(|(name, _)| *name == flag);
        found.map(|(_, value)| *value).with_context(|| format!("{flag} is missing\n\n{USAGE}"))
    };
    let server = needed("--server")?;
    let token = Token::parse(&read_token(needed("--token-file")?)?)?;
    let mut wanted = Wanted {
        server: server.to_owned(),
        token,
        skip_ca_hash: false,
        node_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        with_node_id: false,
        node_ips: Vec::new(),
        data_dir: "/var/lib/rancher/k3s".into(),
        node_dir: "/etc/rancher/node".into(),
        root_dir: "/var/lib/kubelet".into(),
        runtime_endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
        resolv_conf: resolv_conf(),
        cgroup_driver: String::new(),
        labels: Vec::new(),
        taints: Vec::new(),
    };
    for (flag, value) in given {
        match flag {
            "--server" | "--token-file" => {}
            "--with-node-id" => wanted.with_node_id = switch(flag, value)?,
            "--insecure-skip-ca-hash" => wanted.skip_ca_hash = switch(flag, value)?,
            "--node-name" => wanted.node_name = value.to_owned(),
            "--node-ip" => wanted.node_ips = addresses(value)?,
            "--node-label" => wanted.labels.push(label(value)?),
            "--node-taint" => wanted.taints.push(taint(value)?),
            "--data-dir" => wanted.data_dir = std::path::absolute(value)?,
            "--node-dir" => wanted.node_dir = std::path::absolute(value)?,
            "--root-dir" => wanted.root_dir = std::path::absolute(value)?,
            "--container-runtime-endpoint" => wanted.runtime_endpoint = endpoint(value),
            "--cgroup-driver" => wanted.cgroup_driver = cgroup_driver(value)?,
            "--resolv-conf" => wanted.resolv_conf = value.to_owned(),
            _ => bail!("unknown flag {flag}\n\n{USAGE}"),
        }
    }
    Ok(wanted)
}

/// Flags with their values, `--flag value` or `--flag=value`; the two switches may go without.
fn given(args: &[String]) -> Result<Vec<(&str, &str)>> {
    let mut given = Vec::new();
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        given.push(match (arg.split_once('='), arg) {
            (Some(with_value), _) => with_value,
            (None, "--with-node-id" | "--insecure-skip-ca-hash") => (arg, "true"),
            (None, _) => {
                (arg, args.next().with_context(|| format!("{arg} is no flag of this command, or wants a value"))?)
            }
        });
    }
    Ok(given)
}

fn switch(flag: &str, value: &str) -> Result<bool> {
    value.parse().with_context(|| format!("{flag} is true or false"))
}

fn read_token(file: &str) -> Result<String> {
    match file {
        "-" => std::io::read_to_string(std::io::stdin()).context("cannot read the token from the standard input"),
        _ => std::fs::read_to_string(file).with_context(|| format!("cannot read the token file {file}")),
    }
}

fn addresses(text: &str) -> Result<Vec<IpAddr>> {
    let ips = text.split(',').map(|ip| ip.trim().parse().with_context(|| format!("--node-ip: {ip:?} is no address")));
    let ips: Vec<IpAddr> = ips.collect::<Result<_>>()?;
    let is_pair = ips.len() == 2 && ips[0].is_ipv4() != ips[1].is_ipv4();
    ensure!(ips.len() == 1 || is_pair, "--node-ip takes one address, or one of each family");
    Ok(ips)
}

fn label(text: &str) -> Result<String> {
    ensure!(text.split_once('=').is_some_and(|(key, _)| !key.is_empty()), "--node-label: {text:?} is not KEY=VALUE");
    Ok(text.to_owned())
}

fn taint(text: &str) -> Result<Taint> {
    let parts = text.rsplit_once(':').map(|(taint, effect)| (taint.split_once('=').unwrap_or((taint, "")), effect));
    match parts {
        Some(((key, value), effect @ ("NoSchedule" | "PreferNoSchedule" | "NoExecute"))) if !key.is_empty() => {
            Ok(Taint { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
        }
        _ => bail!("--node-taint: {text:?} is not KEY=VALUE:NoSchedule, :PreferNoSchedule or :NoExecute"),
    }
}

/// A bare path is a socket, as for k3s.
fn endpoint(text: &str) -> String {
    if text.starts_with('/') { format!("unix://{text}") } else { text.to_owned() }
}

fn cgroup_driver(text: &str) -> Result<String> {
    ensure!(matches!(text, "cgroupfs" | "systemd"), "--cgroup-driver is cgroupfs or systemd, not {text:?}");
    Ok(text.to_owned())
}

/// A resolver on the loopback address of the host is out of reach for a pod.
fn resolv_conf() -> String {
    const HOSTS: &str = "/etc/resolv.conf";
    const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
    let is_local = |text: String| {
        let server = |line: &str| line.strip_prefix("nameserver").and_then(|rest| rest.trim().parse::<IpAddr>().ok());
        text.lines().filter_map(server).any(|ip| ip.is_loopback())
    };
    match std::fs::read_to_string(HOSTS).is_ok_and(is_local) && Path::new(RESOLVED).exists() {
        true => RESOLVED.to_owned(),
        false => HOSTS.to_owned(),
    }
}

fn report(joined: &Joined) -> String {
    let mut text = format!("node {} has its certificates; written:\n", joined.node_name);
    for file in &joined.files {
        let _ = writeln!(text, "  {}", file.display());
    }
    for note in &joined.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let arguments: Vec<String> = joined.arguments.iter().map(|argument| quoted(argument)).collect();
    let arguments = arguments.join(" \\\n    ");
    let _ = write!(text, "start the agent with\n\n  kubelet \\\n    {arguments}\n");
    text
}

/// For a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@+%".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use testing::FakeK3s;

    use super::*;
    use crate::options::{self, Request};

    fn words(args: &[&str]) -> Vec<String> {
        args.iter().map(|arg| (*arg).to_owned()).collect()
    }

    #[test]
    fn flags_are_read_and_nonsense_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, "K10::node:pw\n").unwrap();
        let token = token.to_str().unwrap();
        let with = |more: &[&str]| parse(&words(&[&["--server=https://s:6443", "--token-file", token], more].concat()));
        let wanted = with(&["--node-ip", "10.0.0.1,fd00::1", "--node-taint=a=b:NoSchedule", "--with-node-id"]).unwrap();
        assert_eq!(wanted.node_ips.len(), 2);
        assert_eq!(wanted.taints, [taint("a=b:NoSchedule").unwrap()]);
        assert!(wanted.with_node_id && !wanted.skip_ca_hash);
        for (flags, said) in [
            (&["--node-ip", "10.0.0.1,10.0.0.2"][..], "one of each family"),
            (&["--node-label", "a"], "KEY=VALUE"),
            (&["--node-taint", "a:Never"], "NoSchedule"),
            (&["--cgroup-driver", "none"], "cgroupfs"),
            (&["--frobnicate=1"], "unknown flag"),
            (&["--node-name"], "wants a value"),
        ] {
            let error = with(flags).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let error = run(&words(&["k3s", "--server", "https://s"]), Clock::start()).unwrap_err().to_string();
        assert!(error.contains("--token-file is missing"), "{error}");
        assert!(run(&words(&["k8s"]), Clock::start()).unwrap_err().to_string().contains("only k3s"));
    }

    #[test]
    fn a_word_with_blanks_is_quoted() {
        assert_eq!(quoted("--node-ip=10.0.0.1,::1"), "--node-ip=10.0.0.1,::1");
        assert_eq!(quoted("--root-dir=/a b"), "'--root-dir=/a b'");
    }

    /// What is written has to be what the agent takes.
    #[tokio::test]
    async fn the_agent_accepts_what_the_command_says_to_start_it_with() {
        let (k3s, dir) = (FakeK3s::start_new().await, tempfile::tempdir().unwrap());
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("token"), "node:agents-password").unwrap();
        let (server, token, data, node) = (k3s.url(), path("token"), path("data"), path("node"));
        let flags = ["--server", &server, "--token-file", &token, "--data-dir", &data, "--node-dir", &node];
        let more = ["--insecure-skip-ca-hash", "--node-ip=192.0.2.7", "--node-name=w", "--node-taint=a=b:NoExecute"];
        let wanted = parse(&words(&[&flags[..], &more].concat())).unwrap();
        let joined = join::join(&wanted, Clock::start().wall()).await.unwrap();
        let Request::Run(options) = options::read(&joined.arguments).unwrap() else { panic!("not to be run") };
        // This machine's cgroups may be of version 1, of which the agent wants to be told.
        let mut options = *options;
        options.config.fail_cgroup_v1 = false;
        options.validate().unwrap();
        assert_eq!(options.node_name, "w");
        assert_eq!(options.node_ips, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(options.config.cluster_dns, ["10.43.0.10"]);
        assert_eq!(options.config.register_with_taints.len(), 1);
        let text = report(&joined);
        assert!(text.contains("kubelet \\\n") && text.contains("client-kubelet.pem"), "{text}");
        assert!(!text.contains("agents-password"), "{text}");
    }
}
