//! Specifications of any size, written as an operator would: [`Specification`].
//!
//! Chains come in groups of [`GROUP`]. A group's chains begin at an endpoint each, go through the same four kinds (two that do not
//! mangle, a mangler, one more) and end at the same endpoint. Each kind has [`INSTANCES`] instances, that is one for 2.5 chains.
//! Neighbours in a chain are on the same host about half of the time; endpoints are spread over the hosts around. A tenant has
//! [`GROUPS_PER_TENANT`] groups, 30 chains.
//!
//! More instances per kind would multiply paths and rules beyond what a host's table of tag rules takes.

use std::fmt::Write as _;

/// Chains that share kinds.
pub(super) const GROUP: usize = 5;
/// Instances of each kind.
pub(super) const INSTANCES: usize = 2;
/// Groups of a tenant.
const GROUPS_PER_TENANT: usize = 6;
/// Networks of a tenant.
const VNIS: usize = 16;
/// A group's kinds in the order of its chains: name, mangler or not, and how far its first instance is from the group's first host.
const KINDS: [(&str, bool, usize); 4] = [("edge", false, 0), ("cache", false, 0), ("nat", true, 1), ("ids", false, 1)];
/// How far the servers are.
const SERVERS: usize = 4;

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Specification {
    /// Chains, rounded up to whole groups.
    pub(super) chains: usize,
    /// Hosts.
    pub(super) hosts: usize,
}

impl Specification {
    /// So many chains over a tenth as many hosts, at least two.
    pub(super) fn of(chains: usize) -> Self {
        let chains = chains.next_multiple_of(GROUP);
        Self { chains, hosts: (chains / 10).max(2) }
    }

    fn groups(self) -> usize {
        self.chains / GROUP
    }

    pub(super) fn tenants(self) -> usize {
        self.groups().div_ceil(GROUPS_PER_TENANT)
    }

    /// The host of something so far from a group's first host.
    fn host(self, group: usize, distance: usize) -> usize {
        (group * self.hosts / self.groups() + distance) % self.hosts
    }

    /// Where one instance more may go: tenant, function and host, of a kind that does not mangle.
    pub(super) fn middle(self) -> (String, String, String) {
        let group = self.groups() / 2;
        let (name, _, distance) = KINDS[1];
        let host = self.host(group, distance + INSTANCES);
        (format!("t{}", group / GROUPS_PER_TENANT), format!("{name}{group}"), format!("h{host}"))
    }

    /// Endpoints: clients of each chain, and servers of each group.
    fn endpoints(self) -> impl Iterator<Item = (usize, usize, String)> {
        (0..self.groups()).flat_map(move |group| {
            let clients = (0..GROUP).map(move |place| (group, self.host(group, place), format!("c{group}-{place}")));
            clients.chain([(group, self.host(group, SERVERS), format!("s{group}"))])
        })
    }

    /// The text of the file.
    pub(super) fn yaml(self) -> String {
        let mut yaml = "version: 1\nhosts:\n".to_owned();
        for host in 0..self.hosts {
            let [_, b, c, d] = (host as u32 + 1).to_be_bytes();
            let _ = writeln!(yaml, "  h{host}:\n    cpus: {{io: 0}}\n    share_cores: true\n    spare_lcores: 4");
            let _ = writeln!(yaml, "    underlay: {{device: net_null0, address: 11.{b}.{c}.{d}/8, mtu: 1600}}");
            let _ = writeln!(yaml, "    ports: {{link: {{device: net_null1}}}}");
        }
        yaml.push_str("tenants:\n");
        let mut vlans = vec![0_usize; self.hosts];
        let endpoints: Vec<(usize, usize, String)> = self.endpoints().collect();
        for tenant in 0..self.tenants() {
            let groups = tenant * GROUPS_PER_TENANT..((tenant + 1) * GROUPS_PER_TENANT).min(self.groups());
            let first = 1 + tenant * VNIS;
            let _ = writeln!(yaml, "  t{tenant}:\n    vni: [{first}-{}]\n    endpoints:", first + VNIS - 1);
            let own = endpoints.iter().filter(|(group, ..)| groups.contains(group));
            for (number, (_, host, name)) in own.enumerate() {
                vlans[*host] += 1;
                let vlan = vlans[*host];
                let _ = writeln!(
                    yaml,
                    "      {name}: {{host: h{host}, port: link, vlan: {vlan}, prefixes: [10.0.{number}.0/24], gateways: [10.0.{number}.1]}}"
                );
            }
            self.write_functions(&mut yaml, groups.clone());
            yaml.push_str("    chains:\n");
            for group in groups {
                for place in 0..GROUP {
                    let through: Vec<String> = KINDS.iter().map(|(name, ..)| format!("{name}{group}")).collect();
                    let through = through.join(", ");
                    let _ = writeln!(
                        yaml,
                        "      x{group}-{place}: {{from: c{group}-{place}, to: s{group}, through: [{through}]}}"
                    );
                }
            }
        }
        yaml
    }

    fn write_functions(self, yaml: &mut String, groups: std::ops::Range<usize>) {
        yaml.push_str("    nfs:\n");
        for group in groups.clone() {
            for (name, mangles, _) in KINDS {
                let function = if mangles { "mangler" } else { "passthrough" };
                let _ = writeln!(yaml, "      {name}{group}: {{function: {function}}}");
            }
        }
        yaml.push_str("    instances:\n");
        for group in groups {
            for (name, mangles, distance) in KINDS {
                for number in 0..INSTANCES {
                    let host = self.host(group, distance + number);
                    let [high, low] = ((group % GROUPS_PER_TENANT * INSTANCES + number) as u16).to_be_bytes();
                    let pool = if mangles {
                        format!(", config: {{pool: [100.{}.{low}.0/24]}}", 64 + high)
                    } else {
                        String::new()
                    };
                    let _ = writeln!(yaml, "      - {{nf: {name}{group}, host: h{host}, cpu: 1{pool}}}");
                }
            }
        }
    }
}
