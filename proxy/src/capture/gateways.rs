//! The pod's default gateways. Where pods hang on a bridge or a router of their node, the kubelet
//! asks from that one's address, which is the pods' gateway and none of the node's own. Read from
//! the kernel when the rules are made: for [`capture`](super) alone.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Of a route in the kernel's tables: it is up, and leads through a gateway.
const UP_AND_GATEWAY: u32 = 0x3;

/// The default gateways of this network namespace.
pub fn gateways() -> Vec<IpNet> {
    // Without the family there is no table, and no gateway.
    let v4 = fs::read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    of_tables(&v4, &v6)
}

fn of_tables(v4: &str, v6: &str) -> Vec<IpNet> {
    let v4 = v4
        .lines()
        .filter_map(|line| v4_gateway(line).map(IpAddr::from));
    let v6 = v6
        .lines()
        .filter_map(|line| v6_gateway(line).map(IpAddr::from));
    let mut found: Vec<_> = v4.chain(v6).map(IpNet::from).collect();
    found.sort();
    found.dedup();
    found
}

/// Interface, destination, gateway, flags, three counters, mask: in this machine's order of bytes.
fn v4_gateway(line: &str) -> Option<Ipv4Addr> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let number = |i: usize| u32::from_str_radix(fields.get(i)?, 16).ok();
    let (destination, gateway, flags, mask) = (number(1)?, number(2)?, number(3)?, number(7)?);
    let is_default = destination == 0 && mask == 0 && flags & UP_AND_GATEWAY == UP_AND_GATEWAY;
    (is_default && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
}

/// Destination and its length, source and its length, gateway, metric, two counters, flags.
fn v6_gateway(line: &str) -> Option<Ipv6Addr> {
    let fields: Vec<_> = line.split_whitespace().collect();
    let number = |i: usize| u128::from_str_radix(fields.get(i)?, 16).ok();
    let flags = u32::try_from(number(8)?).ok()?;
    let (destination, length, gateway) = (number(0)?, number(1)?, number(4)?);
    let is_default = destination == 0 && length == 0 && flags & UP_AND_GATEWAY == UP_AND_GATEWAY;
    (is_default && gateway != 0).then(|| Ipv6Addr::from(gateway))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_gateway_of_the_default_route_is_found_and_no_other() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t00000000\t010012C6\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            eth0\t000012C6\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            eth0\t000013C6\t020012C6\t0003\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let zero = "0".repeat(32);
        let route = |destination: &str, length: &str, gateway: &str, flags: &str| {
            format!(
                "{destination} {length} {zero} 00 {gateway} 00000400 00000003 00000000 {flags} eth0\n"
            )
        };
        let gateway = "fd000000000000000000000000000001";
        let v6 = [
            route(&zero, "00", gateway, "00000003"),
            route(&zero, "00", &zero, "00200200"),
            route(
                "fd000000000000000000000000000000",
                "40",
                "fd000000000000000000000000000002",
                "00000003",
            ),
        ]
        .concat();
        let found: Vec<_> = of_tables(v4, &v6).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["198.18.0.1/32", "fd00::1/128"]);
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic(v4 in "([0-9A-F]{0,9}[ \t\n]){0,20}", v6 in "([0-9a-f]{0,33}[ \n]){0,20}") {
            let _ = of_tables(&v4, &v6);
        }
    }
}
