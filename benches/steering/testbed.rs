//! The model testbed: hosts with a switch each, endpoints, NF instances, chains, and what may change while traffic runs.
//!
//! Chains come in pairs. Both chains of a pair go through the same firewall kind and the same mangler kind, and part behind the
//! mangler, as the two chains of the Stratos paper's figure 4(a) do:
//!
//! ```text
//! offices ─┐                      ┌─ ids … ─┐
//!          ├─ edge … ─ mangler ───┤         ├─ servers
//! homes   ─┘                      └─ dpi … ─┘
//! ```
//!
//! Longer chains have more kinds in front of the mangler (`edge2`) and behind it (`ids2`, `dpi2`), as even as it goes.
//!
//! Only the source address tells the chains apart, and the mangler rewrites it (section 2.1). Every kind has two instances at
//! the beginning, on different hosts where there are several.
//!
//! Where chains part behind a mangler, Towpath gives each its own instances of it (section 4.1): of a pair's mangler instances
//! the odd ones serve the first chain and the even ones the second. The number of instances is the same in all modes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

/// Instances of each kind at the beginning.
const INSTANCES: usize = 2;

/// Networks of a pair's tenant.
const VNIS: usize = 8;

/// An index into [`Testbed::elements`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ElementId(pub(super) usize);

/// An endpoint or an NF instance.
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) host: usize,
    pub(super) pair: usize,
    pub(super) role: Role,
    /// The /24 of an endpoint's hosts or of a mangler's pool.
    pub(super) net: Option<[u8; 3]>,
}

/// What an element is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// `0` offices, `1` homes, `2` servers of the pair.
    Endpoint(usize),
    /// An instance of a kind, an index into [`Testbed::kinds`].
    Instance(usize),
}

/// Which chains of a pair a kind serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Users {
    Both,
    /// The first or the second.
    One(usize),
}

/// A kind of NF.
#[derive(Debug, Clone)]
pub(super) struct Kind {
    pub(super) name: String,
    pub(super) mangles: bool,
    pub(super) users: Users,
    /// Each with its share of new flows; 0 for one that is being taken out of service.
    pub(super) instances: Vec<(ElementId, u32)>,
}

impl Kind {
    /// The instances that take new flows.
    pub(super) fn active(&self) -> impl Iterator<Item = (ElementId, u32)> + '_ {
        self.instances.iter().copied().filter(|(_, weight)| *weight > 0)
    }
}

/// Which traffic goes through which kinds.
#[derive(Debug, Clone)]
pub(super) struct Chain {
    pub(super) from: ElementId,
    pub(super) to: ElementId,
    pub(super) through: Vec<usize>,
}

/// A change while traffic runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// One more instance of a kind.
    ScaleOut { kind: usize },
    /// No new flows for the instance at this place of the kind's list; it stays until its last flow ended.
    ScaleIn { kind: usize, instance: usize },
    /// Another share of new flows.
    Weight { kind: usize, instance: usize, weight: u32 },
}

impl Change {
    pub(super) const fn kind(self) -> usize {
        match self {
            Self::ScaleOut { kind } | Self::ScaleIn { kind, .. } | Self::Weight { kind, .. } => kind,
        }
    }
}

/// Hosts, elements, chains.
#[derive(Debug, Clone)]
pub(super) struct Testbed {
    pub(super) hosts: usize,
    pub(super) elements: Vec<Element>,
    pub(super) kinds: Vec<Kind>,
    pub(super) chains: Vec<Chain>,
    /// /24s given to endpoints and to pools.
    nets: [u16; 2],
}

impl Testbed {
    /// `2 * pairs` chains of so many kinds over these hosts.
    pub(super) fn new(hosts: usize, pairs: usize, kinds_per_chain: usize) -> Self {
        let mut testbed = Self { hosts, elements: Vec::new(), kinds: Vec::new(), chains: Vec::new(), nets: [0; 2] };
        for pair in 0..pairs {
            testbed.add_pair(pair, kinds_per_chain);
        }
        testbed
    }

    fn add_pair(&mut self, pair: usize, kinds_per_chain: usize) {
        let ends = [0, 1, 2].map(|end| {
            let net = self.free_net(0, [10, 0]);
            // Clients on one host, their servers on another.
            let host = (pair + end / 2) % self.hosts;
            self.add_element(Element { host, pair, role: Role::Endpoint(end), net: Some(net) })
        });
        let in_front = (kinds_per_chain - 1) / 2;
        let behind = kinds_per_chain - 1 - in_front;
        let name = |name: &str, place: usize| if place == 0 { name.to_owned() } else { format!("{name}{}", place + 1) };
        let mut shared: Vec<usize> =
            (0..in_front).map(|place| self.add_kind(pair, name("edge", place), false, Users::Both)).collect();
        shared.push(self.add_kind(pair, "nat".to_owned(), true, Users::Both));
        for (chain, kind) in ["ids", "dpi"].into_iter().enumerate() {
            let own = (0..behind).map(|place| self.add_kind(pair, name(kind, place), false, Users::One(chain)));
            let through = shared.iter().copied().chain(own).collect();
            self.chains.push(Chain { from: ends[chain], to: ends[2], through });
        }
    }

    fn add_kind(&mut self, pair: usize, name: String, mangles: bool, users: Users) -> usize {
        self.kinds.push(Kind { name, mangles, users, instances: Vec::new() });
        let kind = self.kinds.len() - 1;
        (0..INSTANCES).for_each(|_| self.add_instance(kind, pair));
        kind
    }

    fn free_net(&mut self, which: usize, base: [u8; 2]) -> [u8; 3] {
        let [high, low] = self.nets[which].to_be_bytes();
        self.nets[which] += 1;
        [base[0], base[1] + high, low]
    }

    fn add_element(&mut self, element: Element) -> ElementId {
        self.elements.push(element);
        ElementId(self.elements.len() - 1)
    }

    fn add_instance(&mut self, kind: usize, pair: usize) {
        let number = self.kinds[kind].instances.len();
        let host = (pair + kind + number) % self.hosts;
        let net = self.kinds[kind].mangles.then(|| self.free_net(1, [100, 64]));
        let element = self.add_element(Element { host, pair, role: Role::Instance(kind), net });
        self.kinds[kind].instances.push((element, 1));
    }

    /// Makes the change.
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::ScaleOut { kind } => {
                let pair = self.elements[self.kinds[kind].instances[0].0.0].pair;
                self.add_instance(kind, pair);
            }
            Change::ScaleIn { kind, instance } => self.kinds[kind].instances[instance].1 = 0,
            Change::Weight { kind, instance, weight } => self.kinds[kind].instances[instance].1 = weight,
        }
    }

    /// The changes of a run, one pair after the other: two scale-outs, a weight, a scale-in, the mangler's scale-out.
    pub(super) fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for chain in self.chains.iter().step_by(2) {
            let is_mangler = |kind: &&usize| self.kinds[**kind].mangles;
            let (Some(&edge), Some(&ids)) = (chain.through.first(), chain.through.last()) else { continue };
            let Some(&nat) = chain.through.iter().find(is_mangler) else { continue };
            changes.extend([
                Change::ScaleOut { kind: edge },
                Change::ScaleOut { kind: ids },
                Change::Weight { kind: edge, instance: 0, weight: 3 },
                Change::ScaleIn { kind: edge, instance: 1 },
                Change::ScaleOut { kind: nat },
            ]);
        }
        changes
    }

    pub(super) fn element(&self, id: ElementId) -> &Element {
        &self.elements[id.0]
    }

    pub(super) fn host(&self, id: ElementId) -> usize {
        self.elements[id.0].host
    }

    /// The kind that it is an instance of.
    pub(super) fn kind_of(&self, id: ElementId) -> Option<usize> {
        match self.elements[id.0].role {
            Role::Instance(kind) => Some(kind),
            Role::Endpoint(_) => None,
        }
    }

    pub(super) fn is_mangler(&self, id: ElementId) -> bool {
        self.kind_of(id).is_some_and(|kind| self.kinds[kind].mangles)
    }

    /// Whether the address is the endpoint's or the pool's.
    pub(super) fn has_address(&self, id: ElementId, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address else { return false };
        self.elements[id.0].net.is_some_and(|net| address.octets()[..3] == net)
    }

    /// The n-th address of an element's network.
    pub(super) fn address(&self, id: ElementId, number: u8) -> IpAddr {
        let [a, b, c] = self.elements[id.0].net.unwrap_or_default();
        IpAddr::V4(Ipv4Addr::new(a, b, c, number))
    }

    /// The chains through a kind.
    pub(super) fn chains_through(&self, kind: usize) -> impl Iterator<Item = usize> + '_ {
        self.chains.iter().enumerate().filter(move |(_, chain)| chain.through.contains(&kind)).map(|(index, _)| index)
    }

    /// The chains that a change of the kind concerns, as a run of them: kinds are a pair's own.
    pub(super) fn concerned(&self, change: Change) -> Vec<usize> {
        self.chains_through(change.kind()).collect()
    }
}

/// Endpoints of a pair; the first two are also the names of the chains that begin there.
const ENDPOINTS: [&str; 3] = ["offices", "homes", "servers"];

impl Testbed {
    /// The testbed as Towpath's configuration file: a tenant for each pair of chains.
    pub(super) fn yaml(&self) -> String {
        let mut yaml = "version: 1\nhosts:\n".to_owned();
        for host in 0..self.hosts {
            self.write_host(&mut yaml, host);
        }
        yaml.push_str("tenants:\n");
        for pair in 0..self.chains.len() / 2 {
            self.write_tenant(&mut yaml, pair);
        }
        yaml
    }

    fn write_host(&self, yaml: &mut String, host: usize) {
        let [high, low] = u16::try_from(host + 1).unwrap_or(u16::MAX).to_be_bytes();
        let _ = writeln!(yaml, "  h{host}:\n    cpus: {{io: 0}}\n    share_cores: true\n    spare_lcores: 100");
        let _ = writeln!(
            yaml,
            "    underlay: {{device: net_null0, address: 192.168.{high}.{low}/16, mtu: 1600}}\n    ports:"
        );
        let here = self.elements.iter().enumerate().filter(|(_, element)| element.host == host);
        let ends = here.filter(|(_, element)| matches!(element.role, Role::Endpoint(_)));
        for (number, (index, _)) in ends.enumerate() {
            let _ = writeln!(yaml, "      p{index}: {{device: net_null{}}}", number + 1);
        }
    }

    fn write_tenant(&self, yaml: &mut String, pair: usize) {
        let first = 1 + pair * VNIS;
        let _ = writeln!(yaml, "  t{pair}:\n    vni: [{first}-{}]\n    endpoints:", first + VNIS - 1);
        for (index, element) in self.elements.iter().enumerate().filter(|(_, element)| element.pair == pair) {
            let (Role::Endpoint(end), Some([a, b, c])) = (element.role, element.net) else { continue };
            let (name, host) = (ENDPOINTS[end], element.host);
            let _ = writeln!(
                yaml,
                "      {name}: {{host: h{host}, port: p{index}, prefixes: [{a}.{b}.{c}.0/24], gateways: [{a}.{b}.{c}.1]}}"
            );
        }
        let chains = &self.chains[2 * pair..2 * pair + 2];
        let kinds: BTreeSet<usize> = chains.iter().flat_map(|chain| &chain.through).copied().collect();
        yaml.push_str("    nfs:\n");
        for kind in kinds.iter().map(|kind| &self.kinds[*kind]) {
            let function = if kind.mangles { "mangler" } else { "passthrough" };
            let _ = writeln!(yaml, "      {}: {{function: {function}}}", kind.name);
        }
        yaml.push_str("    instances:\n");
        for (kind, place) in
            kinds.iter().flat_map(|kind| (0..self.kinds[*kind].instances.len()).map(move |place| (kind, place)))
        {
            let (name, host) = (&self.kinds[*kind].name, self.host(self.kinds[*kind].instances[place].0));
            let pool = self.pool(*kind, place).map_or(String::new(), |pool| format!(", config: {{pool: [{pool}]}}"));
            let serves = self.serves(*kind, place).map_or(String::new(), |chain| format!(", serves: {chain}"));
            let _ = writeln!(yaml, "      - {{nf: {name}, host: h{host}, cpu: 1{pool}{serves}}}");
        }
        yaml.push_str("    chains:\n");
        for (chain, name) in chains.iter().zip(ENDPOINTS) {
            let through: Vec<&str> = chain.through.iter().map(|kind| self.kinds[*kind].name.as_str()).collect();
            let through = through.join(", ");
            let _ = writeln!(yaml, "      {name}: {{from: {name}, to: servers, through: [{through}]}}");
        }
    }

    /// A mangler instance's pool.
    pub(super) fn pool(&self, kind: usize, place: usize) -> Option<String> {
        let [a, b, c] = self.element(self.kinds[kind].instances[place].0).net?;
        Some(format!("{a}.{b}.{c}.0/24"))
    }

    /// The chain that a mangler's instance has to itself.
    pub(super) fn serves(&self, kind: usize, place: usize) -> Option<&'static str> {
        self.kinds[kind].mangles.then_some(ENDPOINTS[place % 2])
    }

    /// What Towpath calls the element within its tenant.
    pub(super) fn name(&self, id: ElementId) -> String {
        match self.element(id).role {
            Role::Endpoint(end) => ENDPOINTS[end].to_owned(),
            Role::Instance(kind) => {
                let place = self.kinds[kind].instances.iter().position(|(instance, _)| *instance == id);
                format!("{}/{}", self.kinds[kind].name, place.map_or(0, |place| place + 1))
            }
        }
    }

    /// The names of the chains of a pair that go through a kind.
    pub(super) fn users(&self, kind: usize) -> &'static [&'static str] {
        match self.kinds[kind].users {
            Users::Both => &ENDPOINTS[..2],
            Users::One(chain) => &ENDPOINTS[chain..=chain],
        }
    }
}
