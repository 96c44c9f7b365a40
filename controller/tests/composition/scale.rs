//! Large specifications.

use std::fmt::Write as _;

use super::random::Random;

/// Chains of four functions over hosts: ten chains a host, tenants of 40 chains, each kind shared by ten chains of its tenant.
pub fn chains(count: usize) -> String {
    let hosts = (count / 10).max(2);
    let mut text = "version: 1\nhosts:\n".to_owned();
    for host in 0..hosts {
        let (high, low) = (host / 200, host % 200 + 1);
        let _ = writeln!(
            text,
            "  h{host}:\n    cpus: {{io: 0, nf: 1-40}}\n    controller: 198.51.{high}.{low}:7475\n    \
             underlay: {{device: net_null0, address: 192.0.{high}.{low}/16, mtu: 1600}}\n    ports: {{p: {{device: net_null1}}}}"
        );
    }
    let mut vlans = vec![0; hosts];
    text += "tenants:\n";
    for (tenant, first) in (0..count).step_by(40).enumerate() {
        let own = (count - first).min(40);
        let _ = writeln!(text, "  t{tenant}:\n    vni: [{}]\n    endpoints:", tenant + 1);
        for chain in 0..own {
            for (side, letter) in ["c", "s"].iter().enumerate() {
                let host = (first + chain * 7 + side * 3) % hosts;
                vlans[host] += 1;
                let _ = writeln!(
                    text,
                    "      {letter}{chain}: {{host: h{host}, port: p, vlan: {}, prefixes: [10.{}.{chain}.0/24], gateways: [10.{}.{chain}.1]}}",
                    vlans[host],
                    side + 1,
                    side + 1
                );
            }
        }
        text += "    nfs:\n";
        let groups = own.div_ceil(10);
        for group in 0..groups {
            for position in 0..4 {
                let _ =
                    writeln!(text, "      k{group}-{position}: {{function: passthrough, mangles: {}}}", position == 1);
            }
        }
        text += "    instances:\n";
        for group in 0..groups {
            for position in 0..4 {
                // Every chain ends elsewhere, so each needs a clone of the mangler.
                let copies = if position == 1 { own.min(10) } else { 1 };
                let _ = writeln!(text, "      - {{nf: k{group}-{position}, count: {copies}}}");
            }
        }
        text += "    chains:\n";
        for chain in 0..own {
            let through: Vec<String> = (0..4).map(|position| format!("k{}-{position}", chain / 10)).collect();
            let _ =
                writeln!(text, "      x{chain}: {{from: c{chain}, to: s{chain}, through: [{}]}}", through.join(", "));
        }
    }
    text
}

/// One tenant on eight hosts: three positions of ten instances each, and more networks than one.
pub fn thousand_paths(random: &mut Random) -> String {
    let mut text = "version: 1\nhosts:\n".to_owned();
    for host in 0..8 {
        let _ = writeln!(
            text,
            "  h{host}:\n    cpus: {{io: 0}}\n    limits: {{tag_rules: 8192}}\n    \
             underlay: {{device: net_null0, address: 192.0.2.{}/24, mtu: 1600}}\n    ports: {{p: {{device: net_null1}}}}",
            host + 1
        );
    }
    text += "tenants:\n  t:\n    vni: [100, 1000-1099]\n    endpoints:\n";
    for (index, name) in ["clients", "servers"].iter().enumerate() {
        let host = random.below(8);
        let _ = writeln!(
            text,
            "      {name}: {{host: h{host}, port: p, vlan: {0}, prefixes: [10.{0}.0.0/16], gateways: [10.{0}.0.1]}}",
            index + 1
        );
    }
    text += "    nfs: {a: {function: passthrough}, b: {function: passthrough}, c: {function: passthrough}}\n    instances:\n";
    for kind in ["a", "b", "c"] {
        for copy in 0..10 {
            let host = random.below(8);
            let cpu = 1 + (kind.as_bytes()[0] - b'a') as usize * 10 + copy;
            let _ = writeln!(text, "      - {{nf: {kind}, host: h{host}, cpu: {cpu}}}");
        }
    }
    text + "    chains:\n      all: {from: clients, to: servers, through: [a, b, c]}\n"
}
