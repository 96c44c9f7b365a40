//! The controller's answers as text for people.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use controller::api::*;
use packet::Direction;

/// The answer as a table; none if it is not one of `towpath get`'s.
pub fn text(answer: &Response) -> Option<String> {
    match answer {
        Response::Status(status) => Some(self::status(status)),
        Response::Hosts(rows) => Some(hosts(rows)),
        Response::Inventory(rows) => Some(crate::machines::inventory(rows)),
        Response::Lcores(rows) => Some(lcores(rows)),
        Response::Instances(rows) => Some(instances(rows)),
        Response::Chains(rows) => Some(chains(rows)),
        Response::Paths(rows) => Some(paths(rows)),
        Response::Flows(answer) => Some(flows(answer)),
        Response::Drops(rows) => Some(drops(rows)),
        Response::Config(config) => Some(self::config(config)),
        Response::Versions(rows) => Some(versions(rows)),
        Response::Audit(found) => Some(audit(found)),
        _ => None,
    }
}

/// A table with these headings; the columns named in `right` hold numbers.
pub fn table(headings: &[&str], right: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    let mut empty = true;
    for row in rows {
        empty = false;
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if empty {
        return "nothing to show\n".to_owned();
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

fn yes_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

pub fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

fn status(status: &Status) -> String {
    let dataplane = &status.dataplane;
    let state = match dataplane.state {
        DataplaneState::Attached => "attached",
        DataplaneState::Restarting => "restarting",
    };
    let line = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        line("host", status.host.clone()),
        line("controller", format!("{}, process {}, up {} s", status.version, status.pid, status.uptime_s)),
        line("configuration", format!("version {}, {}", status.config_version, status.config_file)),
        line("dataplane", format!("{state}, process {}, {} restarts", or_dash(dataplane.pid), dataplane.restarts)),
        line("cores", if dataplane.shares_cores { "shared: do not measure here" } else { "one lcore each" }.to_owned()),
        line("hugepages", yes_no(dataplane.hugepages)),
        line(
            "flows",
            format!(
                "{} now, {} set up, {} without a chain",
                status.sessions, status.flows_set_up, status.flows_rejected
            ),
        ),
        line("epoch", format!("{}, {} batches refused", status.epoch, status.batches_refused)),
    ];
    rows.extend(status.warnings.iter().map(|warning| line("warning", warning.clone())));
    table(&["what", "value"], &[], rows)
}

fn hosts(rows: &[HostRow]) -> String {
    let row = |host: &HostRow| {
        let cpus: Vec<String> = host.cpus.iter().map(u16::to_string).collect();
        vec![
            if host.here { format!("{} *", host.host) } else { host.host.clone() },
            or_dash(host.vtep),
            cpus.join(","),
            list(&host.ports),
            list(&host.endpoints),
            list(&host.instances),
        ]
    };
    table(&["host", "vtep", "cpus", "ports", "endpoints", "instances"], &[], rows.iter().map(row))
}

fn lcores(rows: &[LcoreRow]) -> String {
    let row = |lcore: &LcoreRow| {
        vec![
            lcore.lcore.to_string(),
            if lcore.shares_cpu { format!("{} (shared)", lcore.cpu) } else { lcore.cpu.to_string() },
            or_dash(lcore.socket),
            or_dash(lcore.memory_socket),
            lcore.runs.clone(),
            list(&lcore.ports),
            format!("{:.1} %", lcore.useful_percent),
            lcore.exact_rules.to_string(),
            lcore.tag_rules.to_string(),
            lcore.parked.to_string(),
        ]
    };
    let headings = ["lcore", "cpu", "socket", "memory", "runs", "ports", "useful", "exact", "tags", "parked"];
    table(&headings, &[0, 2, 3, 6, 7, 8, 9], rows.iter().map(row))
}

fn instances(rows: &[InstanceRow]) -> String {
    let row = |instance: &InstanceRow| {
        let mut state = match (instance.state, instance.draining_s) {
            (InstanceState::Running, _) => "running".to_owned(),
            (InstanceState::Draining, Some(seconds)) => format!("draining since {seconds} s"),
            (InstanceState::Draining, None) => "draining".to_owned(),
            (InstanceState::Starting, _) => "starting".to_owned(),
            (InstanceState::Failed, _) => "FAILED".to_owned(),
            (InstanceState::Elsewhere, _) => "elsewhere".to_owned(),
        };
        if let Some(example) = &instance.rewrites {
            state += &format!(", REWRITES flows: {example}");
        }
        vec![
            instance.instance.clone(),
            instance.function.clone(),
            yes_no(instance.mangles),
            instance.host.clone(),
            instance.lcore.to_string(),
            crate::machines::cpu(instance.cpu, instance.confirmed_cpu),
            or_dash(instance.node),
            or_dash(instance.capacity_pps),
            state,
        ]
    };
    let headings = ["instance", "function", "mangles", "host", "lcore", "cpu", "node", "carries/s", "state"];
    let mut text = table(&headings, &[4, 5, 6, 7], rows.iter().map(row));
    for instance in rows.iter().filter(|instance| !instance.counters.is_empty()) {
        text += &format!("\n{}\n", instance.instance);
        for count in &instance.counters {
            text += &format!("  {:>12}  {}\n", count.value, count.name);
        }
    }
    text
}

fn chains(rows: &[ChainRow]) -> String {
    let row = |chain: &ChainRow| {
        vec![
            chain.chain.clone(),
            chain.vni.to_string(),
            chain.from.clone(),
            chain.to.clone(),
            chain.selects.clone(),
            if chain.through.is_empty() { "-".to_owned() } else { chain.through.join(" > ") },
            chain.subchains.to_string(),
            chain.paths.to_string(),
            chain.flows.to_string(),
        ]
    };
    let headings = ["chain", "vni", "from", "to", "selects", "through", "subchains", "paths", "flows"];
    table(&headings, &[1, 6, 7, 8], rows.iter().map(row))
}

fn paths(rows: &[PathRow]) -> String {
    let row = |path: &PathRow| {
        let mut hops = Vec::new();
        for hop in &path.hops {
            hops.push(format!("{}@{}", hop.element, hop.host));
        }
        vec![
            path.path.to_string(),
            path.chains.join(", "),
            path.tag_forward.to_string(),
            path.tag_reverse.to_string(),
            path.weight.to_string(),
            path.path_mtu.to_string(),
            path.flows.to_string(),
            if path.usable { "in use" } else { "FAILED" }.to_owned(),
            hops.join(" > "),
        ]
    };
    let headings = ["path", "chains", "tag", "reverse", "weight", "mtu", "flows", "state", "hops"];
    table(&headings, &[0, 2, 3, 4, 5, 6], rows.iter().map(row))
}

fn flows(answer: &Flows) -> String {
    let row = |flow: &FlowRow| {
        let direction = match flow.direction {
            Direction::Forward => "forward",
            Direction::Reverse => "reverse",
        };
        vec![
            flow.flow.to_string(),
            flow.at.clone(),
            direction.to_owned(),
            or_dash(flow.chain.as_ref()),
            flow.path.to_string(),
            flow.tag.to_string(),
            flow.next.clone(),
            if flow.learned { "learned" } else { "controller" }.to_owned(),
            flow.packets.to_string(),
            flow.bytes.to_string(),
            format!("{:.1} s", f64::from(flow.idle_ms) / 1_000.0),
        ]
    };
    let headings = ["flow", "at", "way", "chain", "path", "tag", "next", "by", "packets", "bytes", "idle"];
    let mut text = table(&headings, &[4, 5, 8, 9, 10], answer.rows.iter().map(row));
    let left_out = answer.total.saturating_sub(answer.rows.len() as u64);
    if left_out > 0 {
        text += &format!("{left_out} more of {}; --limit shows more\n", answer.total);
    }
    text
}

fn drops(rows: &[DropRow]) -> String {
    let row = |drop: &DropRow| {
        let by: Vec<String> = drop.by_lcore.iter().map(|(lcore, packets)| format!("{lcore}: {packets}")).collect();
        vec![
            drop.reason.clone(),
            drop.class.clone(),
            drop.packets.to_string(),
            by.join(", "),
            drop.meaning.trim().to_owned(),
        ]
    };
    table(&["reason", "class", "packets", "where", "meaning"], &[2], rows.iter().map(row))
}

fn config(config: &ConfigInForce) -> String {
    let mut text = format!("# version {} of all hosts, {}, {}\n", config.version, config.file, config.digest);
    for operation in &config.operations {
        text += &format!("# then: {operation}\n");
    }
    text + &config.yaml
}

fn versions(rows: &[VersionRow]) -> String {
    let row = |host: &VersionRow| {
        vec![
            if host.here { format!("{} *", host.host) } else { host.host.clone() },
            if host.reachable { "yes" } else { "NO" }.to_owned(),
            or_dash(host.active),
            or_dash(host.installed),
            or_dash(host.digest.as_ref()),
        ]
    };
    let mut text = table(&["host", "reachable", "in force", "installed", "digest"], &[2, 3], rows.iter().map(row));
    for line in rows.iter().filter_map(|host| host.waits_for.as_ref()) {
        text += &format!("{line}\n");
    }
    text
}

fn audit(audit: &Audit) -> String {
    let row = |row: &AuditRow| {
        vec![
            row.host.clone(),
            row.lcore.clone(),
            row.audited_packets.to_string(),
            row.violations.to_string(),
            or_dash(row.last.as_ref()),
        ]
    };
    let headings = ["host", "lcore", "audited packets", "violations", "last violation"];
    table(&headings, &[2, 3], audit.rows.iter().map(row))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn drops_say_where_and_why() {
        let row = DropRow {
            reason: "no-chain".into(),
            class: "policy".into(),
            packets: 12,
            meaning: " No chain selects this flow.".into(),
            by_lcore: BTreeMap::from([("io".into(), 12)]),
        };
        let expected = "REASON    CLASS   PACKETS  WHERE   MEANING\nno-chain  policy       12  io: 12  No chain selects this flow.\n";
        assert_eq!(text(&Response::Drops(vec![row])).unwrap(), expected);
        assert_eq!(text(&Response::Drops(Vec::new())).unwrap(), "nothing to show\n");
    }

    #[test]
    fn what_is_not_decided_says_for_whom_it_waits() {
        let row = VersionRow {
            host: "host2".into(),
            here: true,
            reachable: true,
            active: Some(3),
            digest: Some("ab".into()),
            installed: Some(4),
            waits_for: Some("version 4, led by host1, waits for host3; start what does not run".into()),
        };
        let expected = "HOST     REACHABLE  IN FORCE  INSTALLED  DIGEST\nhost2 *  yes               3          4  ab\n\
                        version 4, led by host1, waits for host3; start what does not run\n";
        assert_eq!(text(&Response::Versions(vec![row])).unwrap(), expected);
    }

    #[test]
    fn a_failed_instance_stands_out_and_its_counters_follow() {
        let row = InstanceRow {
            instance: "acme/edge/1".into(),
            function: "firewall".into(),
            mangles: false,
            host: "host1".into(),
            lcore: 2,
            cpu: 3,
            confirmed_cpu: Some(3),
            node: Some(1),
            capacity_pps: Some(5_000_000),
            why: Vec::new(),
            state: InstanceState::Failed,
            draining_s: None,
            rewrites: Some("a > b became c > b".into()),
            counters: vec![NamedCount { name: "default: deny".into(), value: 7 }],
        };
        let shown = text(&Response::Instances(vec![row])).unwrap();
        assert!(shown.contains("FAILED, REWRITES flows: a > b became c > b"), "{shown}");
        assert!(shown.ends_with("\nacme/edge/1\n             7  default: deny\n"), "{shown}");
    }

    #[test]
    fn a_lcore_that_shares_its_cpu_says_so() {
        let row = LcoreRow {
            lcore: 1,
            cpu: 0,
            socket: None,
            memory_socket: Some(0),
            runs: "io".into(),
            ports: vec!["left".into()],
            shares_cpu: true,
            useful_percent: 12.34,
            exact_rules: 5,
            tag_rules: 2,
            parked: 0,
        };
        let shown = text(&Response::Lcores(vec![row])).unwrap();
        let cells: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells, ["1", "0", "(shared)", "-", "0", "io", "left", "12.3", "%", "5", "2", "0"]);
    }

    #[test]
    fn flows_that_are_left_out_are_counted() {
        let shown = text(&Response::Flows(Flows { total: 3, rows: Vec::new() })).unwrap();
        assert!(shown.contains("3 more of 3"), "{shown}");
    }

    #[test]
    fn what_is_no_table_is_none() {
        assert_eq!(text(&Response::ShuttingDown), None);
    }
}
