//! The /etc/hosts that a pod's containers share.

use pod::api::HostAlias;

use crate::hostname::Hostname;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HEADER_HOST_NETWORK: &str = "# Kubernetes-managed hosts file (host network).\n";
const LOOPBACK: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::0\tip6-localnet\n\
    fe00::0\tip6-mcastprefix\n\
    fe00::1\tip6-allnodes\n\
    fe00::2\tip6-allrouters\n";

pub fn for_pod_network(ips: &[String], host: &Hostname, aliases: &[HostAlias]) -> String {
    let mut out = format!("{HEADER}{LOOPBACK}");
    for ip in ips {
        match host.domain.as_str() {
            "" => out += &format!("{ip}\t{}\n", host.name),
            domain => out += &format!("{ip}\t{}.{domain}\t{}\n", host.name, host.name),
        }
    }
    out + &alias_lines(aliases)
}

/// `node_hosts` is the node's own file.
pub fn for_host_network(node_hosts: &str, aliases: &[HostAlias]) -> String {
    format!("{HEADER_HOST_NETWORK}{node_hosts}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let line = |a: &HostAlias| format!("{}\t{}\n", a.ip, a.hostnames.as_deref().unwrap_or_default().join("\t"));
    "\n# Entries added by HostAliases.\n".to_owned() + &aliases.iter().map(line).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(ip: &str, names: &[&str]) -> HostAlias {
        HostAlias { ip: ip.into(), hostnames: Some(names.iter().map(|n| (*n).to_owned()).collect()) }
    }

    #[test]
    fn a_pods_own_names_follow_the_loopback_lines() {
        let host = Hostname { name: "db-0".into(), domain: "db.ns.svc.cluster.local".into() };
        let ips = ["10.0.0.5".to_owned(), "fd00::5".to_owned()];
        let expected = "# Kubernetes-managed hosts file.\n\
            127.0.0.1\tlocalhost\n\
            ::1\tlocalhost ip6-localhost ip6-loopback\n\
            fe00::0\tip6-localnet\n\
            fe00::0\tip6-mcastprefix\n\
            fe00::1\tip6-allnodes\n\
            fe00::2\tip6-allrouters\n\
            10.0.0.5\tdb-0.db.ns.svc.cluster.local\tdb-0\n\
            fd00::5\tdb-0.db.ns.svc.cluster.local\tdb-0\n\
            \n\
            # Entries added by HostAliases.\n\
            1.2.3.4\tfoo\tbar\n";
        assert_eq!(for_pod_network(&ips, &host, &[alias("1.2.3.4", &["foo", "bar"])]), expected);
    }

    #[test]
    fn without_a_domain_only_the_name_is_listed() {
        let host = Hostname { name: "web".into(), domain: String::new() };
        assert!(for_pod_network(&["10.0.0.5".to_owned()], &host, &[]).ends_with("allrouters\n10.0.0.5\tweb\n"));
    }

    #[test]
    fn on_the_host_network_the_nodes_file_is_kept() {
        let got = for_host_network("127.0.0.1 localhost\n", &[alias("1.2.3.4", &["foo"])]);
        let expected = "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n\n\
            # Entries added by HostAliases.\n1.2.3.4\tfoo\n";
        assert_eq!(got, expected);
    }
}
