//! Which addresses this node has: as told, or that of the interface which the default route leaves by.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrStorage};

/// A resolver that does not answer would else hold up the start for as long as it is configured to.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);
const ROUTES_V4: &str = "/proc/net/route";
const ROUTES_V6: &str = "/proc/net/ipv6_route";

#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    #[error("{text:?} is no IP address")]
    Malformed { text: String },
    #[error("nodeIP can't be {kind} address")]
    Unusable { ip: IpAddr, kind: &'static str },
    #[error("node IP: \"{ip}\" not found in the host's network interfaces")]
    NotOfThisHost { ip: IpAddr },
    #[error("node IPs {0} and {1} are of one family")]
    SameFamily(IpAddr, IpAddr),
    #[error("must specify one or two node IPs, not {0}")]
    TooMany(usize),
    #[error("cannot list network interfaces")]
    Interfaces(#[source] io::Error),
    #[error("unable to select an IP from default routes")]
    NoRoute,
    #[error("no acceptable interface with global unicast address found on host")]
    NoInterface,
}

/// Option node-ip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeIp {
    /// Found out; IPv4 is preferred.
    #[default]
    Unset,
    /// `0.0.0.0` or `::`: found out, this family preferred.
    Prefer(Family),
    Given(IpAddr),
    /// Two families; the first is the primary one.
    Dual(IpAddr, IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }
    fn other(self) -> Self {
        match self {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        }
    }
}

impl NodeIp {
    /// One address, or two joined by a comma.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let parsed: Result<Vec<IpAddr>, _> = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().map_err(|_| AddressError::Malformed { text: part.to_owned() }))
            .collect();
        match parsed?.as_slice() {
            [] => Ok(Self::Unset),
            [ip] if ip.is_unspecified() => Ok(Self::Prefer(Family::of(*ip))),
            [ip] => Ok(Self::Given(*ip)),
            [one, two] if one.is_unspecified() || two.is_unspecified() => {
                Err(AddressError::Unusable { ip: *one, kind: "an all zeros" })
            }
            [one, two] if Family::of(*one) == Family::of(*two) => Err(AddressError::SameFamily(*one, *two)),
            [one, two] => Ok(Self::Dual(*one, *two)),
            many => Err(AddressError::TooMany(many.len())),
        }
    }

    fn family(self) -> Family {
        match self {
            Self::Unset => Family::V4,
            Self::Prefer(family) => family,
            Self::Given(ip) | Self::Dual(ip, _) => Family::of(ip),
        }
    }
}

/// One interface with its addresses in the kernel's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub up: bool,
    pub loopback: bool,
    pub point_to_point: bool,
    pub addresses: Vec<IpAddr>,
}

/// The node's IPs, primary first: as given (and then checked), the host name if it is one, what DNS says of the node
/// name, or the default route's interface.
pub async fn node_ips(wanted: NodeIp, host_name: &str, node_name: &str) -> Result<Vec<IpAddr>, AddressError> {
    let interfaces = interfaces()?;
    let given = match wanted {
        NodeIp::Given(ip) => vec![ip],
        NodeIp::Dual(one, two) => vec![one, two],
        NodeIp::Unset | NodeIp::Prefer(_) => Vec::new(),
    };
    for ip in &given {
        validate(*ip, &interfaces)?;
    }
    if !given.is_empty() {
        return Ok(given);
    }
    if let Ok(ip) = host_name.parse::<IpAddr>() {
        return Ok(vec![ip]);
    }
    let family = wanted.family();
    let resolved = resolve(node_name).await;
    if let Some(ip) = choose_resolved(&resolved, family, &interfaces) {
        return Ok(vec![ip]);
    }
    choose_ip(family, &default_routes(), &interfaces).map(|ip| vec![ip])
}

async fn resolve(name: &str) -> Vec<IpAddr> {
    match tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}

/// The first of the wanted family that belongs to this host, else the first of the other one.
fn choose_resolved(resolved: &[IpAddr], family: Family, interfaces: &[Interface]) -> Option<IpAddr> {
    let mut usable = resolved.iter().copied().filter(|ip| validate(*ip, interfaces).is_ok());
    let first = usable.next()?;
    let of_family = std::iter::once(first).chain(usable).find(|ip| Family::of(*ip) == family);
    Some(of_family.unwrap_or(first))
}

/// Whether an address may be a node's and belongs to this host.
pub fn validate(ip: IpAddr, interfaces: &[Interface]) -> Result<(), AddressError> {
    let unusable = |kind| Err(AddressError::Unusable { ip, kind });
    match ip {
        _ if ip.is_loopback() => unusable("a loopback"),
        _ if ip.is_multicast() => unusable("a multicast"),
        _ if is_link_local(ip) => unusable("a link-local unicast"),
        _ if ip.is_unspecified() => unusable("an all zeros"),
        _ if interfaces.iter().any(|i| i.addresses.contains(&ip)) => Ok(()),
        _ => Err(AddressError::NotOfThisHost { ip }),
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_global_unicast(ip: IpAddr) -> bool {
    let broadcast = ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    !broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !is_link_local(ip)
}

/// A default route: the interface it leaves by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultRoute {
    pub interface: String,
    pub family: Family,
}

/// None when the kernel shows no routing table at all.
pub fn default_routes() -> Option<Vec<DefaultRoute>> {
    let v4 = fs::read_to_string(ROUTES_V4).ok()?;
    let v6 = fs::read_to_string(ROUTES_V6).unwrap_or_default();
    Some(routes_v4(&v4).into_iter().chain(routes_v6(&v6)).collect())
}

fn routes_v4(text: &str) -> Vec<DefaultRoute> {
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 2 && u32::from_str_radix(row[1], 16) == Ok(0))
        .map(|row| DefaultRoute { interface: row[0].to_owned(), family: Family::V4 })
        .collect()
}

/// Those without a gateway are the kernel's own "unreachable" entries.
fn routes_v6(text: &str) -> Vec<DefaultRoute> {
    let is_zero = |hex: &str| u128::from_str_radix(hex, 16) == Ok(0);
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && is_zero(row[0]) && !is_zero(row[4]))
        .map(|row| DefaultRoute { interface: row[9].to_owned(), family: Family::V6 })
        .collect()
}

/// The first global address that a default route leads to; without a routing table, of any interface.
pub fn choose_ip(
    preferred: Family,
    routes: &Option<Vec<DefaultRoute>>,
    interfaces: &[Interface],
) -> Result<IpAddr, AddressError> {
    let families = [preferred, preferred.other()];
    let Some(routes) = routes else {
        let usable = |i: &&Interface| i.up && !i.loopback && !i.point_to_point;
        let of = |family| interfaces.iter().filter(usable).find_map(|i| global_address(i, family));
        return families.into_iter().find_map(of).ok_or(AddressError::NoInterface);
    };
    let by_route = |family| {
        let mut names = routes.iter().filter(|r| r.family == family).map(|r| r.interface.as_str());
        names.find_map(|name| {
            let own = interfaces.iter().filter(|i| i.up && i.name == name).find_map(|i| global_address(i, family));
            // Unnumbered links: the routable address sits on the loopback interface.
            own.or_else(|| interfaces.iter().filter(|i| i.up && i.loopback).find_map(|i| global_address(i, family)))
        })
    };
    families.into_iter().find_map(by_route).ok_or(AddressError::NoRoute)
}

fn global_address(interface: &Interface, family: Family) -> Option<IpAddr> {
    interface.addresses.iter().copied().find(|ip| Family::of(*ip) == family && is_global_unicast(*ip))
}

/// All interfaces of this network namespace.
pub fn interfaces() -> Result<Vec<Interface>, AddressError> {
    let listed = getifaddrs().map_err(|e| AddressError::Interfaces(e.into()))?;
    let mut order = Vec::new();
    let mut by_name: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in listed {
        let name = entry.interface_name;
        let interface = by_name.entry(name.clone()).or_insert_with(|| {
            order.push(name.clone());
            Interface {
                name,
                up: entry.flags.contains(InterfaceFlags::IFF_UP),
                loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
                point_to_point: entry.flags.contains(InterfaceFlags::IFF_POINTOPOINT),
                addresses: Vec::new(),
            }
        });
        interface.addresses.extend(entry.address.as_ref().and_then(ip_of));
    }
    Ok(order.into_iter().filter_map(|name| by_name.remove(&name)).collect())
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(IpAddr::V4(v4.ip()));
    }
    address.as_sockaddr_in6().map(|v6| IpAddr::V6(Ipv6Addr::from(v6.ip().octets())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn interface(name: &str, addresses: &[&str]) -> Interface {
        let loopback = name == "lo";
        let addresses = addresses.iter().map(|a| ip(a)).collect();
        Interface { name: name.to_owned(), up: true, loopback, addresses, ..Interface::default() }
    }

    fn machine() -> Vec<Interface> {
        let lo = interface("lo", &["127.0.0.1", "::1"]);
        let down = Interface { up: false, ..interface("eth9", &["10.9.9.9"]) };
        vec![lo, down, interface("eth0", &["fe80::1", "192.0.2.2", "fd00::2"]), interface("eth1", &["198.51.100.7"])]
    }

    const V4: &str = "Iface\tDestination\tGateway \tFlags\n\
        eth1\t00000000\t010200C0\t0003\neth0\t000200C0\t00000000\t0001\n";
    const V6: &str = "\
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    fn routes() -> Option<Vec<DefaultRoute>> {
        Some(routes_v4(V4).into_iter().chain(routes_v6(V6)).collect())
    }

    #[test]
    fn only_default_routes_are_taken() {
        let expected = [("eth1", Family::V4), ("eth0", Family::V6)];
        let expected = expected.map(|(i, family)| DefaultRoute { interface: i.to_owned(), family });
        assert_eq!(routes().unwrap(), expected);
    }

    #[test]
    fn the_default_routes_interface_gives_the_address() {
        assert_eq!(choose_ip(Family::V4, &routes(), &machine()).unwrap(), ip("198.51.100.7"));
        assert_eq!(choose_ip(Family::V6, &routes(), &machine()).unwrap(), ip("fd00::2"));
    }

    #[test]
    fn the_other_family_is_better_than_none() {
        let only_v6 = Some(routes_v6(V6));
        assert_eq!(choose_ip(Family::V4, &only_v6, &machine()).unwrap(), ip("fd00::2"));
        assert!(matches!(choose_ip(Family::V4, &Some(Vec::new()), &machine()), Err(AddressError::NoRoute)));
    }

    #[test]
    fn without_a_routing_table_the_first_usable_interface_counts() {
        assert_eq!(choose_ip(Family::V4, &None, &machine()).unwrap(), ip("192.0.2.2"));
    }

    #[test]
    fn an_unnumbered_link_uses_the_loopback_interfaces_address() {
        let machine = [interface("lo", &["127.0.0.1", "203.0.113.5"]), interface("eth1", &["169.254.1.1"])];
        assert_eq!(choose_ip(Family::V4, &routes(), &machine).unwrap(), ip("203.0.113.5"));
    }

    #[test]
    fn a_given_address_must_be_usable_and_of_this_host() {
        let text = |address: &str| validate(ip(address), &machine()).unwrap_err().to_string();
        assert!(validate(ip("192.0.2.2"), &machine()).is_ok());
        assert_eq!(text("127.0.0.1"), "nodeIP can't be a loopback address");
        assert_eq!(text("224.0.0.1"), "nodeIP can't be a multicast address");
        assert_eq!(text("fe80::1"), "nodeIP can't be a link-local unicast address");
        assert_eq!(text("192.0.2.99"), "node IP: \"192.0.2.99\" not found in the host's network interfaces");
    }

    #[test]
    fn the_option_names_one_or_two_addresses() {
        assert_eq!(NodeIp::parse("").unwrap(), NodeIp::Unset);
        assert_eq!(NodeIp::parse("::").unwrap(), NodeIp::Prefer(Family::V6));
        assert_eq!(NodeIp::parse("10.0.0.1").unwrap(), NodeIp::Given(ip("10.0.0.1")));
        assert_eq!(NodeIp::parse("fd00::1, 10.0.0.1").unwrap(), NodeIp::Dual(ip("fd00::1"), ip("10.0.0.1")));
        for text in ["nonsense", "10.0.0.1,10.0.0.2", "0.0.0.0,::1", "10.0.0.1,::1,10.0.0.3"] {
            assert!(NodeIp::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_resolved_address_must_be_ours_and_preferably_of_the_family() {
        let resolved = [ip("127.0.1.1"), ip("fd00::2"), ip("192.0.2.2")];
        assert_eq!(choose_resolved(&resolved, Family::V4, &machine()), Some(ip("192.0.2.2")));
        assert_eq!(choose_resolved(&resolved[..2], Family::V4, &machine()), Some(ip("fd00::2")));
        assert_eq!(choose_resolved(&resolved[..1], Family::V4, &machine()), None);
    }

    #[tokio::test]
    async fn this_machine_has_an_address() {
        let all = interfaces().unwrap();
        assert!(all.iter().any(|i| i.loopback && i.addresses.contains(&ip("127.0.0.1"))));
        assert_eq!(node_ips(NodeIp::Unset, "10.1.2.3", "n").await.unwrap(), [ip("10.1.2.3")]);
    }
}
