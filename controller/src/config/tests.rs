//! Every mistake that the checker knows: a file with it, and the line that the operator reads.

use super::*;

/// A good file of two hosts, to be spoiled line by line.
const GOOD: &str = r#"version: 1
hosts:
  host1:
    cpus: {io: 0}
    underlay: {device: "net_af_packet0,iface=u1", address: 192.0.2.1/24, mtu: 1600}
    ports:
      left: {device: "net_af_packet1,iface=c1"}
  host2:
    cpus: {io: 0}
    underlay: {device: "net_af_packet0,iface=u2", address: 192.0.2.2/24, mtu: 1600}
    ports:
      right: {device: "net_af_packet1,iface=s1"}
tenants:
  acme:
    vni: 100
    endpoints:
      clients: {host: host1, port: left, prefixes: [10.1.0.0/24], gateways: [10.1.0.1]}
      servers: {host: host2, port: right, prefixes: [10.2.0.0/24], gateways: [10.2.0.1]}
    nfs:
      edge: {function: firewall, config: {default: allow}}
      nat: {function: mangler, config: {pool: [10.9.0.0/28]}}
      tap: {function: passthrough}
    instances:
      - {nf: edge, host: host1, cpu: 1}
      - {nf: nat, host: host1, cpu: 2}
      - {nf: tap, host: host2, cpu: 1}
    chains:
      web: {from: clients, to: servers, select: {protocol: tcp, destination_ports: [80]}, through: [edge, nat, tap]}
"#;

fn lines(text: &str) -> Vec<String> {
    match parse("f.yaml", text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.problems.iter().map(ToString::to_string).collect(),
    }
}

fn spoil(from: &str, to: &str) -> Vec<String> {
    assert!(GOOD.contains(from), "{from}");
    lines(&GOOD.replacen(from, to, 1))
}

#[test]
fn the_example_passes_without_a_warning() {
    let config = parse("example.yaml", EXAMPLE).map_err(|errors| errors.to_string()).unwrap();
    assert_eq!(config.warnings, []);
    assert_eq!(config.hosts.len(), 2);
    assert_eq!(config.tenants[0].chains.len(), 2);
    assert_eq!(config.hosts[0].limits, Limits::default(), "the example shows the defaults");
}

#[test]
fn the_good_file_is_good() {
    assert_eq!(lines(GOOD), [""; 0]);
}

/// One change of the good file, and the one line that it must give.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("version: 1", "version: 2", "f.yaml:1: version: expected the file's version, a number in 1..=1, found `2`"),
    ("version: 1\n", "", "f.yaml:1: the key `version` is missing; write `version: 1`"),
    (
        "    cpus: {io: 0}\n",
        "",
        "f.yaml:3: hosts.host1: the key `cpus` is missing; write `cpus: {io: 0}` with the CPU that polls the ports",
    ),
    (
        "cpus: {io: 0}",
        "cpus: {io: 0-x}",
        "f.yaml:4: hosts.host1.cpus.io: `0-x` is not a CPU list; write CPU numbers up to 1023 as `0` or `0,2-3`",
    ),
    (
        "cpus: {io: 0}",
        "cpu: {io: 0}\n    cpus: {io: 0}",
        "f.yaml:4: hosts.host1.cpu: unknown key `cpu`; did you mean `cpus`?",
    ),
    (
        "cpus: {io: 0}",
        "cpus: {io: 0, control: 0}",
        "f.yaml:3: hosts.host1: CPU 0 has I/O already, and the control thread needs a CPU for itself; choose another CPU, or set `share_cores: true` on host `host1` for a test",
    ),
    (
        "cpus: {io: 0}",
        "cpus: {io: 0, control: 3, controller: 3}",
        "f.yaml:3: hosts.host1: CPU 3 has the control thread already, and the controller needs a CPU for itself; choose another CPU, or set `share_cores: true` on host `host1` for a test",
    ),
    (
        "cpus: {io: 0}",
        "cpus: {io: 0}\n    memory_mib: 32",
        "f.yaml:3: hosts.host1: memory_mib: 32 MiB can't hold 16383 packet buffers; set memory_mib to 55 or more, or lower limits.mbufs",
    ),
    (
        "cpus: {io: 0}",
        "cpus: {io: 0}\n    limits: {ring: 1000}",
        "f.yaml:5: hosts.host1.limits.ring: 1000 is not a power of two; use 1024",
    ),
    (
        "cpus: {io: 0}",
        "cpus: {io: 0}\n    hugepages: maybe",
        "f.yaml:5: hosts.host1.hugepages: expected `auto`, `true` or `false`, found `\"maybe\"`",
    ),
    (
        "iface=c1\"}",
        "iface=u1\"}",
        "f.yaml:3: hosts.host1: ports `underlay` and `left` both use interface u1; give each its own device",
    ),
    (
        "iface=c1\"}",
        "iface=c1\", mtu: 99}",
        "f.yaml:7: hosts.host1.ports.left.mtu: expected the largest IP packet in bytes, a number in 1280..=9600, found `99`",
    ),
    (
        "iface=c1\"}",
        "iface=c1\", cpu: 7}",
        "f.yaml:7: hosts.host1.ports.left.cpu: CPU 7 is not one of the host's I/O CPUs; add it to `cpus.io` or name one of [0]",
    ),
    (
        "address: 192.0.2.2/24",
        "address: 192.0.2.1/24",
        "f.yaml:8: hosts.host2.underlay: 192.0.2.1 is host `host1`'s address; give each its own",
    ),
    (
        "address: 192.0.2.2/24",
        "address: 192.0.2.0/24",
        "f.yaml:10: hosts.host2.underlay.address: 192.0.2.0/24 is not an address that a host can have; choose one inside the prefix",
    ),
    (
        "address: 192.0.2.2/24, mtu: 1600",
        "address: 192.0.2.2/24, mtu: 1300",
        "f.yaml:10: hosts.host2.underlay: mtu 1300 leaves less than 1280 bytes inside VXLAN; use 1350 or more",
    ),
    (
        "address: 192.0.2.2/24",
        "address: 192.0.2.2/24, udp_port: 8472",
        "f.yaml:8: hosts.host2.underlay: udp_port 8472 differs from host `host1`'s 4789; use one for all",
    ),
    (
        "address: 192.0.2.2/24",
        "address: \"2001:db8::2/64\", gateway: \"2001:db8::1\"",
        "f.yaml:3: hosts.host1.underlay: host `host2` is outside 192.0.2.0/24 and there is no way to it; add a `gateway`\nf.yaml:8: hosts.host2.underlay: the address is of another family than host `host1`'s; use one for all",
    ),
    (
        "vni: 100",
        "vni: 16777216",
        "f.yaml:15: tenants.acme.vni: expected a VXLAN network identifier, a number in 1..=16777215, or a range such as `1000-1009`, found `16777216`",
    ),
    (
        "host: host1, port: left",
        "host: hots1, port: left",
        "f.yaml:17: tenants.acme.endpoints.clients.host: there is no host `hots1`; did you mean `host1`?",
    ),
    (
        "port: left",
        "port: lefd",
        "f.yaml:17: tenants.acme.endpoints.clients.port: host `host1` has no port `lefd`; did you mean `left`?",
    ),
    (
        "port: left",
        "port: left, vtep: 192.0.2.9",
        "f.yaml:17: tenants.acme.endpoints.clients.port: both `port` and `vtep` are given; an endpoint has one of them, remove the other",
    ),
    (
        "port: left",
        "vtep: 192.0.2.2",
        "f.yaml:17: tenants.acme.endpoints.clients: VTEP 192.0.2.2 is host `host2` itself; name the `host` and a `port` of it instead",
    ),
    (
        "port: left",
        "port: left, vlan: 4095",
        "f.yaml:17: tenants.acme.endpoints.clients.vlan: expected an 802.1Q VLAN number, a number in 1..=4094, found `4095`",
    ),
    (
        "[10.1.0.0/24]",
        "[10.1.0.7/24]",
        "f.yaml:17: tenants.acme.endpoints.clients.prefixes[0]: 10.1.0.7/24 has bits behind its length; write 10.1.0.0/24",
    ),
    (
        "[10.1.0.0/24]",
        "[10.1.0.0/33]",
        "f.yaml:17: tenants.acme.endpoints.clients.prefixes[0]: expected a prefix such as `10.1.0.0/24` or `fd00:1::/64`, found `10.1.0.0/33`",
    ),
    (
        "[10.2.0.0/24], gateways: [10.2.0.1]",
        "[10.0.0.0/8], gateways: [10.2.0.1]",
        "f.yaml:18: tenants.acme.endpoints.servers: prefix 10.0.0.0/8 overlaps 10.1.0.0/24 of endpoint `clients`; an address has one place, so narrow one of them",
    ),
    (
        "gateways: [10.1.0.1]",
        "gateways: [10.7.0.1]",
        "f.yaml:17: tenants.acme.endpoints.clients.gateways[0]: gateway 10.7.0.1 is in none of the endpoint's prefixes; choose an address out of them",
    ),
    (
        "gateways: [10.1.0.1]",
        "gateways: [10.1.0.1, 10.1.0.2]",
        "f.yaml:17: tenants.acme.endpoints.clients.gateways[1]: 10.1.0.2 is a second one of its family, next to 10.1.0.1; one is enough",
    ),
    (
        ", gateways: [10.1.0.1]",
        "",
        "f.yaml:17: tenants.acme.endpoints.clients: the endpoint has IPv4 prefixes but no IPv4 gateway; add to `gateways` a free address of the link, it is the host's own there",
    ),
    (
        "gateways: [10.1.0.1]",
        "gateways: [10.1.0.1], next_hops: [10.1.0.1]",
        "f.yaml:17: tenants.acme.endpoints.clients.next_hops[0]: 10.1.0.1 is the host's own gateway address; name the router's",
    ),
    (
        "function: firewall",
        "function: firewal",
        "f.yaml:20: tenants.acme.nfs.edge.function: there is no function `firewal`; did you mean `firewall`?",
    ),
    (
        "function: mangler",
        "function: mangler, mangles: false",
        "f.yaml:21: tenants.acme.nfs.nat.mangles: this function rewrites addresses, it can't be declared otherwise; remove `mangles`",
    ),
    (
        "{nf: edge, host: host1, cpu: 1}",
        "{nf: edg, host: host1, cpu: 1}\n      - {nf: edge, host: host1, cpu: 3}",
        "f.yaml:24: tenants.acme.instances[0].nf: tenant `acme` has no function `edg`; did you mean `edge`?",
    ),
    (
        "nf: nat, host: host1, cpu: 2",
        "nf: nat, host: host1, cpu: 1",
        "f.yaml:25: hosts.host1: CPU 1 has acme/edge/1 already, and acme/nat/1 needs a CPU for itself; choose another CPU, or set `share_cores: true` on host `host1` for a test",
    ),
    (
        "nf: tap, host: host2, cpu: 1",
        "nf: tap, host: host2, cpu: 0",
        "f.yaml:26: hosts.host2: CPU 0 has I/O already, and acme/tap/1 needs a CPU for itself; choose another CPU, or set `share_cores: true` on host `host2` for a test",
    ),
    (
        "      - {nf: tap, host: host2, cpu: 1}\n",
        "",
        "f.yaml:22: tenants.acme.nfs.tap: chain `web` goes through `tap`, which has no instance; add `{nf: tap, host: ..., cpu: ...}` to `instances`",
    ),
    (
        "      - {nf: tap, host: host2, cpu: 1}\n",
        "      - {nf: tap, host: host2, cpu: 1}\n      - {nf: nat, host: host2, cpu: 2}\n",
        "f.yaml:27: tenants.acme.instances (nat/2): its pool (10.9.0.0/28) overlaps the pool of `nat/1` (10.9.0.0/28), so two flows could get the same address and port; give the instance a pool of its own: `config: {pool: [...]}`",
    ),
    (
        "from: clients",
        "from: client",
        "f.yaml:28: tenants.acme.chains.web.from: tenant `acme` has no endpoint `client`; did you mean `clients`?",
    ),
    (
        "to: servers",
        "to: clients",
        "f.yaml:28: tenants.acme.chains.web: `from` and `to` are the same endpoint; traffic inside an endpoint needs no chain",
    ),
    (
        "through: [edge, nat, tap]",
        "through: [edge, edge, nat, tap]",
        "f.yaml:28: tenants.acme.chains.web: function `edge` stands twice in the chain, which would go in a circle; declare a second one under `nfs` with its own instances, and use that",
    ),
    (
        "protocol: tcp, ",
        "",
        "f.yaml:28: tenants.acme.chains.web.select.destination_ports: only TCP and UDP have ports; add `protocol: tcp`, `udp` or both",
    ),
    (
        "protocol: tcp",
        "protocol: sctp",
        "f.yaml:28: tenants.acme.chains.web.select.protocol: unknown protocol `sctp`; use tcp, udp, icmp, icmp6 or a number 0..=255\nf.yaml:28: tenants.acme.chains.web.select.destination_ports: only TCP and UDP have ports; add `protocol: tcp`, `udp` or both",
    ),
    (
        "destination_ports: [80]",
        "destination_ports: [90-80]",
        "f.yaml:28: tenants.acme.chains.web.select.destination_ports[0]: expected a port 0..=65535 or a range such as `8000-8099`, found `90-80`",
    ),
    (
        "select: {protocol: tcp, destination_ports: [80]}",
        "select: {source: \"fd00::/64\"}",
        "f.yaml:28: tenants.acme.chains.web: source and destination have no address family in common, so no packet can match; correct `select` or the endpoints' prefixes",
    ),
    (
        "through: [edge, nat, tap]",
        "through: [edge, nat, tap], weights: {edge/2: 1}",
        "f.yaml:28: tenants.acme.chains.web.weights.edge/2: tenant `acme` has no instance `edge/2`; did you mean `edge/1`?",
    ),
    (
        "through: [edge, nat, tap]",
        "through: [edge, nat, tap], weights: {edge/1: 0}",
        "f.yaml:28: tenants.acme.chains.web: weights: every instance of `edge` has weight 0; give one of them more",
    ),
    (
        "      web: {",
        "      first: {from: clients, to: servers, select: {protocol: tcp, destination_ports: [80]}}\n      web: {",
        "f.yaml:29: tenants.acme.chains.web: it selects the same flows of `clients` as chain `first` on line 28; make the selectors differ, or remove one chain",
    ),
    (
        "vni: 100",
        "vni: [100, 1000-1299]",
        "f.yaml:15: tenants.acme.vni[1]: 300 networks are too many for one tenant; at most 256 are",
    ),
    (
        "vni: 100",
        "vni: [100, 99-101]",
        "f.yaml:15: tenants.acme.vni[1]: VNI 100 stands in the list twice; name each once",
    ),
    (
        "version: 1",
        "version: 1\nencapsulation: gre",
        "f.yaml:2: encapsulation: unknown encapsulation `gre`; use `vxlan` or `nsh`",
    ),
    (
        "cpus: {io: 0}",
        "cpus: {io: 0, nf: 0-3}",
        "f.yaml:3: hosts.host1: CPU 0 of `cpus.nf` has I/O already; leave it out of one of the lists",
    ),
    (
        "cpus: {io: 0}",
        "cpus: {io: 0}\n    controller: 198.51.100.1",
        "f.yaml:5: hosts.host1.controller: expected an address with a TCP port, such as `198.51.100.1:7475`, found `198.51.100.1`",
    ),
    (
        "cpus: {io: 0}",
        "cpus: {io: 0}\n    controller: 192.0.2.1:7475",
        "f.yaml:3: hosts.host1.controller: 192.0.2.1 is the VTEP of host `host1`, which the kernel does not have; name an address of the host's own",
    ),
    (
        "{nf: tap, host: host2, cpu: 1}",
        "{nf: tap, cpu: 1}",
        "f.yaml:26: tenants.acme.instances[2]: a `cpu` is one of a host; name the `host` too, or neither",
    ),
    (
        "{nf: tap, host: host2, cpu: 1}",
        "{nf: tap, host: host2, cpu: 1, count: 2}",
        "f.yaml:26: tenants.acme.instances[2]: several copies can't have one `cpu`; remove `cpu` or `count`",
    ),
    (
        "{nf: tap, host: host2, cpu: 1}",
        "{nf: tap, host: host2, cpu: 1, number: 2}\n      - {nf: tap, host: host2, cpu: 2, number: 2}",
        "f.yaml:27: tenants.acme.instances (tap/2): `tap/2` stands in the list twice; give each copy its own number",
    ),
    (
        "{nf: tap, host: host2, cpu: 1}",
        "{nf: tap, host: host2, cpu: 1, drain: true}",
        "f.yaml:22: tenants.acme.nfs.tap: chain `web` goes through `tap`, whose instances all drain; add an instance, or take it out of the chain",
    ),
    (
        "{nf: tap, host: host2, cpu: 1}",
        "{nf: tap, host: host2, cpu: 1, serves: web}",
        "f.yaml:26: tenants.acme.instances[2].serves: `tap` is no mangler, so its instances serve every chain; remove `serves`",
    ),
    (
        "{nf: nat, host: host1, cpu: 2}",
        "{nf: nat, host: host1, cpu: 2, serves: wep}",
        "f.yaml:25: tenants.acme.instances[1].serves: tenant `acme` has no chain `wep`; did you mean `web`?",
    ),
    (
        "from: clients, ",
        "",
        "f.yaml:28: tenants.acme.chains.web: the key `from` is missing; name one of the tenant's endpoints",
    ),
    (
        "  acme:",
        "  a/b:\n    vni: 7\n    endpoints: {}\n  acme:",
        "f.yaml:14: tenants.a/b: `a/b` can't be a name; use 1 to 32 letters, digits, `-` and `_`",
    ),
    (
        "  acme:",
        "  other:\n    vni: 100\n    endpoints: {}\n  acme:",
        "f.yaml:17: tenants.acme.vni: VNI 100 is tenant `other`'s already; give each tenant its own",
    ),
    (
        "      servers: {host: host2, port: right",
        "      servers: {host: host1, port: left",
        "f.yaml:18: tenants.acme.endpoints.servers: port `left` untagged is endpoint `acme/clients`'s already; choose another port or `vlan`",
    ),
];

#[test]
fn each_mistake_gives_its_line_with_key_and_remedy() {
    let mut wrong = Vec::new();
    for (from, to, expected) in MISTAKES {
        let found = spoil(from, to).join("\n");
        if found != *expected {
            wrong.push(format!("after writing {to:?}\nexpected {expected}\nfound    {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn an_nf_error_stands_at_the_line_of_the_nfs_own_key() {
    let config = "{function: firewall, config: {default: allow}}";
    let wrong = "\n        function: firewall\n        config:\n          default: allow\n          rules:\n            - {action: allow}\n            - {action: alow}";
    let found = spoil(config, wrong);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("f.yaml:26: tenants.acme.nfs.edge.config.rules[1]"), "{found:?}");
}

#[test]
fn all_mistakes_of_a_file_are_shown_in_the_order_of_its_lines() {
    let text =
        GOOD.replace("vni: 100", "vni: x").replace("io: 0}", "io: }").replace("function: firewall", "function: wall");
    let found = lines(&text);
    let numbers: Vec<&str> = found.iter().filter_map(|line| line.split(':').nth(1)).collect();
    assert_eq!(numbers, ["4", "9", "15", "20"], "{found:#?}");
}

#[test]
fn an_empty_file_and_text_that_is_no_yaml_say_so() {
    assert_eq!(lines(""), ["f.yaml:1: the file is empty; start from what `towpath init` writes"]);
    assert_eq!(
        lines("hosts: [\n"),
        ["f.yaml:1: not valid YAML: unclosed bracket '['; correct the syntax near this line"]
    );
    assert_eq!(
        lines("just words\n"),
        ["f.yaml:1: expected a table with `version`, `hosts` and `tenants`, found `just words`"]
    );
}

#[test]
fn shared_cores_are_allowed_when_asked_for_and_warned_of() {
    let text = GOOD.replace("cpus: {io: 0}", "cpus: {io: 0}\n    share_cores: true").replace("cpu: 1", "cpu: 0");
    let config = parse("f.yaml", &text).map_err(|errors| errors.to_string()).unwrap();
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings[0],
        "f.yaml:3: hosts.host1: cores are shared (CPU 0 by I/O and acme/edge/1): fit for tests, not for measurements"
    );
}

#[test]
fn a_chain_that_nothing_reaches_is_a_mistake() {
    let wide = "      all: {from: clients, to: servers, through: [edge, nat, tap]}\n      web: {";
    assert_eq!(
        spoil("      web: {", wide),
        [
            "f.yaml:29: tenants.acme.chains.web: no flow reaches it: chain `all` on line 28 takes them all before; put it first, or narrow `all`"
        ]
    );
}

#[test]
fn everything_else_may_stand_beside_a_prefix_that_it_contains() {
    assert_eq!(spoil("[10.2.0.0/24], gateways", "[0.0.0.0/0], gateways"), [""; 0]);
}

#[test]
fn an_instance_completes_its_functions_configuration() {
    let text = GOOD
        .replace("config: {pool: [10.9.0.0/28]}", "config: {}")
        .replace("{nf: nat, host: host1, cpu: 2}", "{nf: nat, host: host1, cpu: 2, config: {pool: 10.9.0.5}}");
    let config = parse("f.yaml", &text).map_err(|errors| errors.to_string()).unwrap();
    assert_eq!(config.tenants[0].instances[1].pool, ["10.9.0.5/32".parse::<IpNet>().unwrap()]);
}

#[test]
fn a_missing_file_is_one_line_with_the_remedy() {
    let error = load(Path::new("/nonexistent/t.yaml")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/t.yaml: can't be read: ") && error.contains("towpath init"), "{error}");
}

/// Breaks if the reader's own bound on nodes, 250,000 by default, refuses a file of 10,000 chains.
#[test]
fn a_file_of_very_many_entries_is_read() {
    let text = format!("[{}]", "0, ".repeat(260_000));
    assert!(tree::read(&mut Problems::new("f.yaml"), &text).is_some());
}

#[test]
fn copies_without_a_number_take_the_free_ones_and_detect_is_no_mangler_yet() {
    let text = GOOD
        .replace("{nf: edge, host: host1, cpu: 1}", "{nf: edge, count: 2}\n      - {nf: edge, number: 2}")
        .replace("tap: {function: passthrough}", "tap: {function: passthrough, mangles: detect}")
        .replace("function: mangler,", "function: mangler, mangles: detect,");
    let config = parse("f.yaml", &text).map_err(|errors| errors.to_string()).unwrap();
    let names: Vec<&str> = config.tenants[0].instances.iter().map(|instance| instance.name.as_str()).collect();
    assert_eq!(names, ["edge/1", "edge/3", "edge/2", "nat/1", "tap/1"]);
    assert!(config.tenants[0].nfs[1..].iter().all(|nf| nf.detect && !nf.mangles));
    assert_eq!(config.tenants[0].instances[3].pool.len(), 1, "its addresses are answered for either way");
}

#[test]
fn a_host_without_a_controllers_address_beside_one_that_has_one_is_warned_of() {
    let text = GOOD.replacen("cpus: {io: 0}", "cpus: {io: 0}\n    controller: 198.51.100.1:7475", 1);
    let config = parse("f.yaml", &text).map_err(|errors| errors.to_string()).unwrap();
    assert!(config.warnings[0].text.starts_with("`host2` without `controller`: changes are not agreed"));
}

/// Breaks if a demand that its instances are declared not to carry is taken, or if the message does not say how many would do.
#[test]
fn a_demand_beyond_the_declared_capacity_is_a_mistake() {
    let demand = |pps: u32| {
        let chain = format!("      web: {{demand: {{packets_pps: {pps}, bandwidth_mbps: 9, delay_max_us: 50}}, ");
        let text = GOOD.replace("tap: {function: passthrough}", "tap: {function: passthrough, capacity_pps: 1000}");
        parse("f.yaml", &text.replace("      web: {", &chain)).map_err(|errors| errors.to_string())
    };
    let config = demand(1_000).unwrap();
    let wanted = Demand { packets_pps: 1_000, bandwidth_mbps: 9, delay_max_us: Some(50) };
    assert_eq!(config.tenants[0].chains[0].demand, Some(wanted));
    assert_eq!(config.tenants[0].nfs[2].capacity_pps, Some(1_000));
    let error = demand(2_001).unwrap_err();
    assert!(error.contains("tenants.acme.chains.web: `tap/1` would get 2001 packets/s, but carries 1000"), "{error}");
    assert!(error.contains("takes 3 instances"), "{error}");
}
