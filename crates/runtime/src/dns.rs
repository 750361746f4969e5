//! A pod's resolv.conf: dnsPolicy, dnsConfig, the node's own file, and the limits of resolvers.

use std::net::IpAddr;

use api_types::runtime::v1::DnsConfig;
use pod::{DesiredPod, api::PodDNSConfig};

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
/// Longer ones make some resolvers abort.
const MAX_SEARCH_PATH: usize = 253;

/// What the node contributes.
#[derive(Clone, Debug, Default)]
pub struct NodeDns {
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    /// The content of the file --resolv-conf names; None where it names none.
    pub resolv_conf: Option<String>,
    pub node_ips: Vec<IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodDns {
    pub config: DnsConfig,
    /// Texts for events with reason DNSConfigForming.
    pub exceeded: Vec<String>,
    /// The policy asks for a cluster DNS that nobody configured: event MissingClusterDNS.
    pub missing_cluster_dns: bool,
}

pub fn pod_dns(pod: &DesiredPod, node: &NodeDns) -> PodDns {
    let mut out = PodDns::default();
    let host = || node.resolv_conf.as_deref().map(parse).unwrap_or_default();
    out.config = match policy(pod) {
        Policy::None => DnsConfig::default(),
        Policy::Cluster if !node.cluster_dns.is_empty() => cluster(pod, node, host()),
        Policy::Cluster => {
            out.missing_cluster_dns = true;
            of_node(node, host())
        }
        Policy::Host => of_node(node, host()),
    };
    if let Some(extra) = &pod.spec().dns_config {
        append(&mut out.config, extra);
    }
    limit_servers(&mut out);
    limit_searches(&mut out);
    out
}

enum Policy {
    Cluster,
    Host,
    None,
}

fn policy(pod: &DesiredPod) -> Policy {
    match pod.spec().dns_policy.as_deref() {
        Some("None") => Policy::None,
        Some("Default") => Policy::Host,
        Some("ClusterFirst") if pod.host_network() => Policy::Host,
        _ => Policy::Cluster,
    }
}

fn cluster(pod: &DesiredPod, node: &NodeDns, host: DnsConfig) -> DnsConfig {
    let domain = &node.cluster_domain;
    let mut searches = host.searches;
    if !domain.is_empty() {
        let own = [format!("{}.svc.{domain}", pod.key.namespace), format!("svc.{domain}"), domain.clone()];
        searches = unique(own.into_iter().chain(searches));
    }
    DnsConfig { servers: node.cluster_dns.clone(), searches, options: vec!["ndots:5".to_owned()] }
}

/// Without a resolv.conf the pod must not fall back to the runtime's default: name servers on localhost and no
/// search path switch look-ups off.
fn of_node(node: &NodeDns, host: DnsConfig) -> DnsConfig {
    if node.resolv_conf.is_some() {
        return host;
    }
    let local = |ip: &IpAddr| if ip.is_ipv6() { "::1".to_owned() } else { "127.0.0.1".to_owned() };
    let mut servers: Vec<_> = node.node_ips.iter().map(local).collect();
    if servers.is_empty() {
        servers.push("127.0.0.1".to_owned());
    }
    DnsConfig { servers, searches: vec![".".to_owned()], options: Vec::new() }
}

fn append(config: &mut DnsConfig, extra: &PodDNSConfig) {
    let list = |l: &Option<Vec<String>>| l.clone().unwrap_or_default();
    config.servers = unique(config.servers.drain(..).chain(list(&extra.nameservers)));
    config.searches = unique(config.searches.drain(..).chain(list(&extra.searches)));
    for option in extra.options.as_deref().unwrap_or_default() {
        let name = option.name.as_deref().unwrap_or_default();
        let text = match option.value.as_deref().filter(|v| !v.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.to_owned(),
        };
        set_option(&mut config.options, text);
    }
}

/// A later option of the same name replaces the earlier one in its place.
fn set_option(options: &mut Vec<String>, option: String) {
    let name = |o: &str| o.split(':').next().unwrap_or_default().to_owned();
    match options.iter_mut().find(|o| name(o) == name(&option)) {
        Some(slot) => *slot = option,
        None => options.push(option),
    }
}

fn unique(items: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    items.filter(|i| seen.insert(i.clone())).collect()
}

fn limit_servers(out: &mut PodDns) {
    let servers = &mut out.config.servers;
    if servers.len() > MAX_SERVERS {
        servers.truncate(MAX_SERVERS);
        out.exceeded.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            servers.join(" ")
        ));
    }
}

fn limit_searches(out: &mut PodDns) {
    let searches = &mut out.config.searches;
    let before = searches.len();
    searches.truncate(MAX_SEARCHES);
    searches.retain(|s| s.len() <= MAX_SEARCH_PATH);
    while searches.join(" ").len() > MAX_SEARCH_CHARS {
        searches.pop();
    }
    if searches.len() < before {
        out.exceeded.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            searches.join(" ")
        ));
    }
}

/// Of several `search` lines the last one counts; options accumulate by name.
fn parse(resolv_conf: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in resolv_conf.lines() {
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("nameserver") => config.servers.extend(fields.next().map(str::to_owned)),
            Some("search") => config.searches = fields.filter(|s| *s != ".").map(without_dot).collect(),
            Some("options") => fields.for_each(|o| set_option(&mut config.options, o.to_owned())),
            _ => {}
        }
    }
    config
}

fn without_dot(domain: &str) -> String {
    domain.strip_suffix('.').unwrap_or(domain).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::pod;
    use pod::api::{PodDNSConfigOption, PodSpec};

    fn node() -> NodeDns {
        NodeDns {
            cluster_dns: vec!["10.96.0.10".into()],
            cluster_domain: "cluster.local".into(),
            resolv_conf: Some(
                "# local\nnameserver 9.9.9.9\nsearch old\nsearch corp. .\noptions timeout:2 rotate\n".into(),
            ),
            node_ips: vec![],
        }
    }

    fn dns(node: &NodeDns, change: impl FnOnce(&mut PodSpec)) -> PodDns {
        pod_dns(&pod("web", change), node)
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn cluster_first_asks_the_cluster_and_searches_it_before_the_nodes_domains() {
        let got = dns(&node(), |s| s.dns_policy = Some("ClusterFirst".into()));
        assert_eq!(got.config.servers, ["10.96.0.10"]);
        assert_eq!(got.config.searches, ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp"]);
        assert_eq!(got.config.options, ["ndots:5"]);
        assert_eq!(got.exceeded, strings(&[]));
    }

    #[test]
    fn default_and_host_network_take_the_nodes_file() {
        let expected = DnsConfig {
            servers: strings(&["9.9.9.9"]),
            searches: strings(&["corp"]),
            options: strings(&["timeout:2", "rotate"]),
        };
        assert_eq!(dns(&node(), |s| s.dns_policy = Some("Default".into())).config, expected);
        let host_network = dns(&node(), |s| {
            s.dns_policy = Some("ClusterFirst".into());
            s.host_network = Some(true);
        });
        assert_eq!(host_network.config, expected);
        let with_host_net = dns(&node(), |s| {
            s.dns_policy = Some("ClusterFirstWithHostNet".into());
            s.host_network = Some(true);
        });
        assert_eq!(with_host_net.config.servers, ["10.96.0.10"]);
    }

    #[test]
    fn none_takes_only_what_the_pod_says() {
        let got = dns(&node(), |s| {
            s.dns_policy = Some("None".into());
            s.dns_config = Some(PodDNSConfig {
                nameservers: Some(strings(&["1.1.1.1"])),
                searches: Some(strings(&["a.b"])),
                options: Some(vec![PodDNSConfigOption { name: Some("ndots".into()), value: Some("2".into()) }]),
            });
        });
        let expected =
            DnsConfig { servers: strings(&["1.1.1.1"]), searches: strings(&["a.b"]), options: strings(&["ndots:2"]) };
        assert_eq!(got.config, expected);
    }

    #[test]
    fn the_pods_options_replace_those_of_the_policy() {
        let got = dns(&node(), |s| {
            let options = [("ndots", Some("2")), ("debug", None)];
            let option =
                |(n, v): (&str, Option<&str>)| PodDNSConfigOption { name: Some(n.into()), value: v.map(str::to_owned) };
            s.dns_config =
                Some(PodDNSConfig { options: Some(options.map(option).to_vec()), ..PodDNSConfig::default() });
        });
        assert_eq!(got.config.options, ["ndots:2", "debug"]);
    }

    #[test]
    fn without_cluster_dns_the_nodes_settings_are_used_and_it_is_said() {
        let lonely = NodeDns { cluster_dns: vec![], resolv_conf: None, ..node() };
        let got = dns(&lonely, |s| s.dns_policy = Some("ClusterFirst".into()));
        assert!(got.missing_cluster_dns);
        assert_eq!((got.config.servers, got.config.searches), (strings(&["127.0.0.1"]), strings(&["."])));
    }

    #[test]
    fn limits_cut_from_the_end_and_are_reported() {
        let got = dns(&node(), |s| {
            s.dns_config = Some(PodDNSConfig {
                nameservers: Some(strings(&["1.1.1.1", "2.2.2.2", "3.3.3.3"])),
                searches: Some((0..40).map(|i| format!("s{i}")).chain(["x".repeat(254)]).collect()),
                options: None,
            });
        });
        assert_eq!(got.config.servers, ["10.96.0.10", "1.1.1.1", "2.2.2.2"]);
        assert_eq!(got.config.searches.len(), 32);
        assert_eq!(got.exceeded.len(), 2);
        assert!(got.exceeded[0].ends_with("applied nameserver line is: 10.96.0.10 1.1.1.1 2.2.2.2"));
    }

    #[test]
    fn a_search_line_of_many_long_domains_is_cut_by_length() {
        let node = NodeDns { resolv_conf: None, cluster_domain: String::new(), ..node() };
        let got = dns(&node, |s| {
            s.dns_config = Some(PodDNSConfig { searches: Some(vec!["y".repeat(250); 1]), ..PodDNSConfig::default() });
        });
        assert_eq!(got.config.searches.len(), 1);
        let long = |i: usize| format!("{i}{}", "z".repeat(249));
        let got = dns(&node, |s| {
            s.dns_config =
                Some(PodDNSConfig { searches: Some((0..10).map(long).collect()), ..PodDNSConfig::default() });
        });
        assert_eq!(got.config.searches.len(), 8);
    }
}
