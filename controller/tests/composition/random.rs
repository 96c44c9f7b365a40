//! Random specifications: a model of the file that can be written as YAML and changed step by step.

use std::fmt::Write as _;

/// SplitMix64 (Steele, Lea, Flood): the same numbers for the same seed, everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `0..count`.
    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count.max(1) as u64) as usize
    }

    pub fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.below(most - least + 1)
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for index in (1..list.len()).rev() {
            list.swap(index, self.below(index + 1));
        }
    }
}

/// What a kind says about itself; its name tells the model whether it rewrites: `m1` does, `p1` does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mangles {
    Yes,
    No,
    Detect,
}

#[derive(Debug, Clone)]
pub struct Instance {
    pub kind: usize,
    pub number: usize,
    pub host: Option<usize>,
    pub cpu: Option<usize>,
    pub drain: bool,
    pub weight: usize,
}

#[derive(Debug, Clone)]
pub struct Chain {
    pub name: usize,
    pub from: usize,
    pub to: usize,
    pub through: Vec<usize>,
}

#[derive(Debug, Clone)]
pub struct Tenant {
    pub vnis: usize,
    /// Their hosts.
    pub endpoints: Vec<usize>,
    pub kinds: Vec<Mangles>,
    pub instances: Vec<Instance>,
    pub chains: Vec<Chain>,
    pub next_chain: usize,
}

#[derive(Debug, Clone)]
pub struct Spec {
    pub hosts: usize,
    pub share_cores: bool,
    pub nsh: bool,
    pub next_cpu: usize,
    pub tenants: Vec<Tenant>,
}

impl Spec {
    pub fn new(random: &mut Random) -> Self {
        let hosts = random.between(1, 8);
        let mut spec =
            Self { hosts, share_cores: random.chance(50), nsh: random.chance(20), next_cpu: 200, tenants: Vec::new() };
        for _ in 0..random.between(1, 3) {
            let mut tenant = Tenant {
                vnis: random.between(1, 3),
                endpoints: (0..random.between(2, 4)).map(|_| random.below(hosts)).collect(),
                kinds: (0..random.between(1, 4)).map(|_| Self::mangles(random)).collect(),
                instances: Vec::new(),
                chains: Vec::new(),
                next_chain: 0,
            };
            for _ in 0..random.between(1, 6) {
                tenant.add_chain(random);
            }
            spec.tenants.push(tenant);
            let index = spec.tenants.len() - 1;
            for kind in 0..spec.tenants[index].kinds.len() {
                for _ in 0..random.between(1, 4) {
                    spec.add_instance(random, index, kind);
                }
            }
        }
        spec
    }

    fn mangles(random: &mut Random) -> Mangles {
        match random.below(10) {
            0..=1 => Mangles::Yes,
            2..=3 => Mangles::Detect,
            _ => Mangles::No,
        }
    }

    pub fn add_instance(&mut self, random: &mut Random, tenant: usize, kind: usize) {
        let (host, cpu) = self.spot(random);
        let tenant = &mut self.tenants[tenant];
        let numbers = tenant.instances.iter().filter(|found| found.kind == kind).map(|found| found.number);
        let number = numbers.max().unwrap_or(0) + 1;
        let weight = if random.chance(8) { 0 } else { random.between(1, 3) };
        tenant.instances.push(Instance { kind, number, host, cpu, drain: false, weight });
    }

    fn spot(&mut self, random: &mut Random) -> (Option<usize>, Option<usize>) {
        let host = random.below(self.hosts);
        match random.below(4) {
            0 => (None, None),
            1 => (Some(host), None),
            _ => {
                self.next_cpu += 1;
                (Some(host), Some(self.next_cpu))
            }
        }
    }

    /// The file with one thing done differently.
    pub fn change(&mut self, random: &mut Random) {
        let tenant = random.below(self.tenants.len());
        let kinds = self.tenants[tenant].kinds.len();
        let instances = self.tenants[tenant].instances.len();
        match random.below(10) {
            0 | 1 => {
                let kind = random.below(kinds);
                self.add_instance(random, tenant, kind);
            }
            2 if instances > 0 => {
                let gone = random.below(instances);
                self.tenants[tenant].instances.remove(gone);
            }
            3 if instances > 0 => {
                let index = random.below(instances);
                let drain = &mut self.tenants[tenant].instances[index].drain;
                *drain = !*drain;
            }
            4 if instances > 0 => {
                let spot = self.spot(random);
                let index = random.below(instances);
                let moved = &mut self.tenants[tenant].instances[index];
                (moved.host, moved.cpu) = spot;
            }
            5 => self.tenants[tenant].add_chain(random),
            6 if self.tenants[tenant].chains.len() > 1 => {
                let gone = random.below(self.tenants[tenant].chains.len());
                self.tenants[tenant].chains.remove(gone);
            }
            7 if !self.tenants[tenant].chains.is_empty() => {
                let index = random.below(self.tenants[tenant].chains.len());
                let through = self.tenants[tenant].ways(random);
                self.tenants[tenant].chains[index].through = through;
            }
            8 => {
                let kind = random.below(kinds);
                let mangles = &mut self.tenants[tenant].kinds[kind];
                *mangles = match mangles {
                    Mangles::Yes => Mangles::Detect,
                    Mangles::Detect => Mangles::Yes,
                    Mangles::No => Mangles::No,
                };
            }
            _ => {
                for instance in &mut self.tenants[tenant].instances {
                    instance.weight = random.between(1, 4);
                }
            }
        }
    }

    pub fn yaml(&self) -> String {
        let mut text = "version: 1\n".to_owned();
        if self.nsh {
            text += "encapsulation: nsh\n";
        }
        text += "hosts:\n";
        for host in 0..self.hosts {
            let share = self.share_cores;
            let _ = writeln!(
                text,
                "  h{host}:\n    cpus: {{io: 0, nf: 1-30}}\n    share_cores: {share}\n    spare_lcores: 40"
            );
            let address = host + 1;
            let _ = writeln!(
                text,
                "    underlay: {{device: net_null0, address: 192.0.2.{address}/24, mtu: 1600}}\n    ports:"
            );
            for (tenant, spec) in self.tenants.iter().enumerate() {
                for endpoint in 0..spec.endpoints.len() {
                    let _ = writeln!(text, "      p{tenant}-{endpoint}: {{device: net_null{tenant}{endpoint}9}}");
                }
            }
        }
        text += "tenants:\n";
        for (index, tenant) in self.tenants.iter().enumerate() {
            tenant.write(index, &mut text);
        }
        text
    }
}

impl Tenant {
    /// The kind's name.
    pub fn kind(&self, kind: usize) -> String {
        match self.kinds[kind] {
            Mangles::No => format!("p{kind}"),
            Mangles::Yes | Mangles::Detect => format!("m{kind}"),
        }
    }

    fn ways(&self, random: &mut Random) -> Vec<usize> {
        let mut through: Vec<usize> = (0..self.kinds.len()).collect();
        random.shuffle(&mut through);
        through.truncate(random.below(self.kinds.len() + 1));
        through
    }

    pub fn add_chain(&mut self, random: &mut Random) {
        let from = random.below(self.endpoints.len());
        let to = (from + random.between(1, self.endpoints.len() - 1)) % self.endpoints.len();
        // Half of the chains go a way that another one goes.
        let known = (!self.chains.is_empty() && random.chance(50)).then(|| random.below(self.chains.len()));
        let through = known.map_or_else(|| self.ways(random), |known| self.chains[known].through.clone());
        self.chains.push(Chain { name: self.next_chain, from, to, through });
        self.next_chain += 1;
    }

    fn write(&self, index: usize, text: &mut String) {
        let spill = if self.vnis == 1 {
            String::new()
        } else {
            format!(", {}-{}", 1_000 * (index + 1), 1_000 * (index + 1) + self.vnis)
        };
        let _ = writeln!(text, "  t{index}:\n    vni: [{}{spill}]\n    endpoints:", 100 + index);
        for (endpoint, host) in self.endpoints.iter().enumerate() {
            let _ = writeln!(
                text,
                "      e{endpoint}: {{host: h{host}, port: p{index}-{endpoint}, prefixes: [10.{endpoint}.0.0/16], gateways: [10.{endpoint}.0.1]}}"
            );
        }
        *text += "    nfs:\n";
        for (kind, mangles) in self.kinds.iter().enumerate() {
            let word = match mangles {
                Mangles::Yes => "true",
                Mangles::No => "false",
                Mangles::Detect => "detect",
            };
            let _ = writeln!(text, "      {}: {{function: passthrough, mangles: {word}}}", self.kind(kind));
        }
        *text += "    instances:\n";
        for instance in &self.instances {
            let mut keys = format!("nf: {}, number: {}", self.kind(instance.kind), instance.number);
            if let Some(host) = instance.host {
                let _ = write!(keys, ", host: h{host}");
            }
            if let Some(cpu) = instance.cpu {
                let _ = write!(keys, ", cpu: {cpu}");
            }
            if instance.drain {
                keys += ", drain: true";
            }
            let _ = writeln!(text, "      - {{{keys}}}");
        }
        *text += "    chains:\n";
        for chain in &self.chains {
            let through: Vec<String> = chain.through.iter().map(|kind| self.kind(*kind)).collect();
            let on = self.instances.iter().filter(|instance| chain.through.contains(&instance.kind));
            let weights: Vec<String> =
                on.map(|found| format!("{}/{}: {}", self.kind(found.kind), found.number, found.weight)).collect();
            let _ = writeln!(
                text,
                "      c{0}: {{from: e{1}, to: e{2}, select: {{protocol: {3}}}, through: [{4}], weights: {{{5}}}}}",
                chain.name,
                chain.from,
                chain.to,
                100 + chain.name,
                through.join(", "),
                weights.join(", ")
            );
        }
    }
}
