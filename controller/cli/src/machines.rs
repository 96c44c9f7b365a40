//! Machines and where instances are, as text for people.

use controller::api::{Applied, InventoryRow, PlacementChange, PlacementRow};
use controller::inventory::{Inventory, ranges};

use crate::tables::{or_dash, table};

/// A CPU by the version in force, and whether the kernel says the same.
pub fn cpu(wanted: u16, confirmed: Option<u16>) -> String {
    match confirmed {
        Some(cpu) if cpu == wanted => wanted.to_string(),
        Some(cpu) => format!("{wanted}, RUNS ON {cpu}"),
        None => format!("{wanted} (unconfirmed)"),
    }
}

/// What starts, drains and ends, where and why; what stays is counted.
pub fn placements(applied: &Applied) -> String {
    let mut text = String::new();
    let moves = applied.placements.iter().filter(|row| row.change != PlacementChange::Stays);
    for row in moves {
        text += &line(row, applied.dry_run);
        for why in &row.why {
            if row.change == PlacementChange::Starts {
                text += &format!("      {why}\n");
            }
        }
    }
    let staying = applied.placements.len() - text.lines().filter(|line| !line.starts_with("      ")).count();
    if !text.is_empty() && staying > 0 {
        let verb = if staying == 1 { "instance stays where it is" } else { "instances stay where they are" };
        text += &format!("  {staying} {verb}\n");
    }
    text
}

/// `  start acme/edge/2 on host1: NUMA node 0, CPU 3, lcore 2`
fn line(row: &PlacementRow, dry_run: bool) -> String {
    let verb = match row.change {
        PlacementChange::Starts => "start",
        PlacementChange::Stays => "stay",
        PlacementChange::Drains => "drain",
        PlacementChange::Ends => "end",
    };
    let node = row.node.map(|node| format!("NUMA node {node}, ")).unwrap_or_default();
    let place = format!("{node}CPU {}, lcore {}", row.cpu, row.lcore);
    let confirmed = match (dry_run, row.change, row.confirmed_cpu) {
        (false, PlacementChange::Starts, Some(cpu)) if cpu == row.cpu => "; confirmed by its dataplane".to_owned(),
        (false, PlacementChange::Starts, Some(cpu)) => format!("; BUT IT RUNS ON CPU {cpu}"),
        (false, PlacementChange::Starts, None) => "; not confirmed, see `towpath get instances`".to_owned(),
        _ => String::new(),
    };
    format!("  {verb} {} on {}: {place}{confirmed}\n", row.instance, row.host)
}

/// NUMA nodes of all hosts with their CPUs and ports, then who runs where.
pub fn inventory(rows: &[InventoryRow]) -> String {
    let mut lines = Vec::new();
    for row in rows {
        let name = if row.here { format!("{} *", row.host) } else { row.host.clone() };
        match &row.inventory {
            Some(inventory) => nodes(&name, inventory, &mut lines),
            None => lines.push([name, "not heard".to_owned()].into_iter().chain(vec!["-".to_owned(); 6]).collect()),
        }
    }
    let headings = ["host", "node", "cpus", "isolated", "offline", "memory", "hugepages", "ports"];
    let mut text = table(&headings, &[5, 6], lines);
    let occupied = rows.iter().flat_map(|row| row.lcores.iter().map(move |lcore| (row, lcore)));
    let occupied: Vec<Vec<String>> = occupied
        .map(|(row, lcore)| {
            let node = row.inventory.as_ref().and_then(|inventory| inventory.node_of_cpu(lcore.cpu?));
            vec![
                row.host.clone(),
                lcore.lcore.to_string(),
                or_dash(lcore.cpu),
                or_dash(node),
                lcore.instance.clone(),
                or_dash(lcore.capacity_pps),
            ]
        })
        .collect();
    if !occupied.is_empty() {
        text += "\n";
        text += &table(&["host", "lcore", "runs on cpu", "node", "instance", "carries/s"], &[1, 2, 3, 5], occupied);
    }
    text
}

/// A line for each node, and one for what is on none that is known.
fn nodes(host: &str, inventory: &Inventory, lines: &mut Vec<Vec<String>>) {
    let mut numbers: Vec<Option<u16>> = inventory.nodes.iter().map(|node| Some(node.node)).collect();
    let is_nowhere =
        inventory.cpus.iter().any(|cpu| cpu.node.is_none()) || inventory.ports.iter().any(|port| port.node.is_none());
    if is_nowhere {
        numbers.push(None);
    }
    for number in numbers {
        let cpus = || inventory.cpus.iter().filter(|cpu| cpu.node == number);
        let node = inventory.nodes.iter().find(|node| Some(node.node) == number);
        let ports = inventory.ports.iter().filter(|port| port.node == number);
        let port = |port: &controller::inventory::PortPlace| match port.speed_mbps {
            Some(speed_mbps) => format!("{} ({speed_mbps} Mbit/s)", port.port),
            None => port.port.clone(),
        };
        let ports: Vec<String> = ports.map(port).collect();
        lines.push(vec![
            host.to_owned(),
            number.map_or_else(|| "unknown".to_owned(), |number| number.to_string()),
            ranges(cpus().map(|cpu| cpu.cpu)),
            ranges(cpus().filter(|cpu| cpu.isolated).map(|cpu| cpu.cpu)),
            ranges(cpus().filter(|cpu| !cpu.online).map(|cpu| cpu.cpu)),
            node.map_or_else(|| "-".to_owned(), |node| format!("{} MiB", node.memory_mib)),
            node.map_or_else(|| "-".to_owned(), |node| format!("{} MiB", node.hugepages_mib)),
            if ports.is_empty() { "-".to_owned() } else { ports.join(", ") },
        ]);
    }
}

#[cfg(test)]
mod tests {
    use controller::api::OccupiedLcore;
    use controller::inventory::{Cpu, Node, PortPlace};

    use super::*;

    fn row(instance: &str, change: PlacementChange, confirmed_cpu: Option<u16>) -> PlacementRow {
        let why = vec!["NUMA node 0: port left there".to_owned()];
        let (instance, host) = (instance.to_owned(), "host1".to_owned());
        PlacementRow { instance, change, host, node: Some(0), cpu: 3, lcore: 2, why, confirmed_cpu }
    }

    fn applied(dry_run: bool, placements: Vec<PlacementRow>) -> Applied {
        Applied {
            dry_run,
            version: 2,
            transformation: Vec::new(),
            changes: Vec::new(),
            placements,
            hosts: Vec::new(),
            restart: None,
            flows_kept: 0,
            late: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Breaks if what starts is shown without its place or its reasons, or what ends looks like it starts.
    #[test]
    fn a_plan_shows_what_starts_where_and_why() {
        use PlacementChange::{Drains, Ends, Starts, Stays};
        let rows = || vec![row("a/x/1", Stays, Some(3)), row("a/x/2", Starts, None), row("a/y/1", Ends, None)];
        let expected = "  start a/x/2 on host1: NUMA node 0, CPU 3, lcore 2\n      NUMA node 0: port left there\n  end a/y/1 on \
                        host1: NUMA node 0, CPU 3, lcore 2\n  1 instance stays where it is\n";
        assert_eq!(placements(&applied(true, rows())), expected);
        assert_eq!(placements(&applied(true, vec![row("a/x/1", Stays, None)])), "");
        let said = |confirmed| placements(&applied(false, vec![row("a/x/2", Starts, confirmed)]));
        assert!(said(Some(3)).contains("lcore 2; confirmed by its dataplane\n"));
        assert!(said(Some(5)).contains("; BUT IT RUNS ON CPU 5\n"));
        assert!(said(None).contains("; not confirmed"));
        assert!(placements(&applied(false, vec![row("a/x/2", Drains, None)])).starts_with("  drain a/x/2 on host1"));
    }

    #[test]
    fn an_inventory_has_a_line_for_each_node_and_for_what_is_on_none() {
        let cpu =
            |cpu: u16| Cpu { cpu, node: Some(cpu / 4), siblings: vec![cpu], online: cpu != 7, isolated: cpu == 1 };
        let port = |port: &str, node, speed_mbps| PortPlace { port: port.into(), device: "d".into(), node, speed_mbps };
        let machine = Inventory {
            cpus: (0..8).map(cpu).collect(),
            nodes: [0, 1].map(|node| Node { node, memory_mib: 64, hugepages_mib: 32 }).into(),
            ports: vec![port("left", Some(1), Some(10_000)), port("right", None, None)],
        };
        let lcore = OccupiedLcore { instance: "a/x/1".into(), lcore: 1, cpu: Some(5), capacity_pps: Some(9) };
        let rows = [
            InventoryRow { host: "h1".into(), here: true, inventory: Some(machine), lcores: vec![lcore] },
            InventoryRow { host: "h2".into(), here: false, inventory: None, lcores: Vec::new() },
        ];
        let text = inventory(&rows);
        let line =
            |wanted: &str| text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") == wanted);
        assert!(line("h1 * 0 0-3 1 - 64 MiB 32 MiB -"), "{text}");
        assert!(line("h1 * 1 4-7 - 7 64 MiB 32 MiB left (10000 Mbit/s)"), "{text}");
        assert!(line("h1 * unknown - - - - - right"), "{text}");
        assert!(line("h2 not heard - - - - - -"), "{text}");
        assert!(line("h1 1 5 1 a/x/1 9"), "{text}");
    }

    #[test]
    fn a_cpu_that_nobody_confirms_says_so() {
        assert_eq!([cpu(3, Some(3)), cpu(3, Some(4)), cpu(3, None)], ["3", "3, RUNS ON 4", "3 (unconfirmed)"]);
    }
}
