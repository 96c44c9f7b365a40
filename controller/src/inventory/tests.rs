//! Machines that are not this one: trees of files as their kernels show them.

use std::fs;

use super::*;
use crate::config;

/// What a kernel shows, one file a line: `path = text`.
fn tree(files: &str) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for line in files.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (path, text) = line.split_once(" = ").unwrap_or((line.trim_end_matches(" ="), ""));
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }
    root
}

fn host(underlay: &str, left: &str) -> Host {
    let text = config::EXAMPLE.replace("net_af_packet0,iface=u1", underlay).replace("net_af_packet1,iface=c1", left);
    config::parse("f.yaml", &text).map_err(|errors| errors.to_string()).unwrap().hosts.remove(0)
}

const PCI: [&str; 2] = ["0000:41:00.0", "0000:c1:00.1"];

/// Two sockets of four cores of two threads; the threads of a core are n and n + 8. CPU 15 is offline.
const DUAL_SOCKET: &str = "
    devices/system/cpu/present = 0-15
    devices/system/cpu/online = 0-14
    devices/system/cpu/isolated = 2-3,6-7
    devices/system/node/online = 0-1
    devices/system/node/node0/cpulist = 0-3,8-11
    devices/system/node/node0/meminfo = Node 0 MemTotal:       65536000 kB
    devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages = 512
    devices/system/node/node0/hugepages/hugepages-1048576kB/nr_hugepages = 1
    devices/system/node/node1/cpulist = 4-7,12-15
    devices/system/node/node1/meminfo = Node 1 MemTotal:       32768000 kB
    devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages = 0
    devices/system/cpu/cpu2/topology/thread_siblings_list = 2,10
    devices/system/cpu/cpu10/topology/thread_siblings_list = 2,10
    bus/pci/devices/0000:41:00.0/numa_node = 0
    bus/pci/devices/0000:41:00.0/net/ens1/speed = 100000
    bus/pci/devices/0000:c1:00.1/numa_node = 1
";

/// Breaks if a port's or a CPU's node is lost, or if the threads of a core are not known as such.
#[test]
fn a_machine_of_two_sockets_with_hyperthreads() {
    let root = tree(DUAL_SOCKET);
    let found = Inventory::read(root.path(), &host(PCI[0], PCI[1]));
    assert_eq!(found.cpus.len(), 16);
    assert_eq!((found.node_of_cpu(3), found.node_of_cpu(12), found.node_of_cpu(99)), (Some(0), Some(1), None));
    assert_eq!(found.cpu(10).unwrap().siblings, [2, 10]);
    assert_eq!(
        found.cpu(15).unwrap(),
        &Cpu { cpu: 15, node: Some(1), siblings: vec![15], online: false, isolated: false }
    );
    let isolated: Vec<u16> = found.cpus.iter().filter(|cpu| cpu.isolated).map(|cpu| cpu.cpu).collect();
    assert_eq!(isolated, [2, 3, 6, 7]);
    let nodes = [
        Node { node: 0, memory_mib: 64_000, hugepages_mib: 2_048 },
        Node { node: 1, memory_mib: 32_000, hugepages_mib: 0 },
    ];
    assert_eq!(found.nodes, nodes);
    let ports: Vec<_> = found.ports.iter().map(|port| (port.port.as_str(), port.node, port.speed_mbps)).collect();
    assert_eq!(ports, [("underlay", Some(0), Some(100_000)), ("left", Some(1), None)]);
}

/// One socket: a NIC that the kernel drives, and a virtual device on another one's interface, whose link is down.
#[test]
fn a_machine_of_one_socket() {
    let files = "
        devices/system/cpu/present = 0-3
        devices/system/cpu/online = 0-3
        devices/system/cpu/isolated =
        devices/system/node/online = 0
        devices/system/node/node0/cpulist = 0-3
        class/net/c1/device/numa_node = 0
        class/net/c1/speed = -1
        bus/pci/devices/0000:41:00.0/numa_node = -1
    ";
    let root = tree(files);
    let found = Inventory::read(root.path(), &host(PCI[0], "net_af_packet1,iface=c1"));
    assert!(found.cpus.iter().all(|cpu| cpu.node == Some(0) && cpu.online && !cpu.isolated));
    let ports: Vec<_> = found.ports.iter().map(|port| (port.node, port.speed_mbps)).collect();
    assert_eq!(ports, [(None, None), (Some(0), None)], "-1 is unknown");
}

/// A kernel without NUMA, and devices that are nowhere.
#[test]
fn a_machine_without_numa() {
    let root = tree("devices/system/cpu/online = 0-1");
    let found = Inventory::read(root.path(), &host("net_null0", "net_tap0,iface=../../etc"));
    assert_eq!((found.cpus.len(), found.nodes.len()), (2, 0));
    assert!(found.cpus.iter().all(|cpu| cpu.node.is_none() && cpu.online));
    assert!(found.ports.iter().all(|port| port.node.is_none() && port.speed_mbps.is_none()));
    assert_eq!(Inventory::read(std::path::Path::new("/nonexistent"), &host("a", "b")).cpus, []);
}

/// Breaks if this machine's own tree can't be read.
#[test]
fn this_machine() {
    let found = Inventory::read(std::path::Path::new("/sys"), &host("net_null0", "net_null1"));
    assert!(found.cpus.iter().any(|cpu| cpu.online));
}

#[test]
fn the_kernels_lists_are_read() {
    assert_eq!(sysfs::numbers("0-2,8,10-11\n"), [0, 1, 2, 8, 10, 11]);
    assert_eq!(ranges([0, 1, 2, 8, 10, 11].into_iter()), "0-2,8,10-11");
    assert_eq!(ranges(std::iter::empty()), "-");
    assert_eq!(sysfs::numbers("\n"), [0_u16; 0]);
    assert_eq!(sysfs::numbers("x,3-"), [0_u16; 0]);
}
