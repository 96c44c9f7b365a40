//! Changes over two hosts whose controllers talk: everywhere or nowhere, whoever dies meanwhile.

mod bed;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use bed::fake::{Order, Tables};
use bed::{Host, Pair, await_true, example_for_three, example_for_two, flow, kill};
use controller::api::{Audit, Client, FailureKind, InstanceState, Phase, Request, Response, VersionRow};
use controller::config::operations::Operation;
use packet::{PathId, VportId, protocol};
use rustix::process::{Pid, Signal, kill_process};

#[test]
#[ignore = "a process of the other tests"]
fn process_dataplane() {
    bed::be_dataplane();
}

#[test]
#[ignore = "a process of the other tests"]
fn process_controller() {
    bed::be_controller();
}

const DNS: &str = "      dns:\n        from: clients\n        to: servers\n        select: {protocol: udp}\n        through: [edge]\n";

fn with_dns(pair: &Pair) -> String {
    format!("{}{DNS}", pair.text)
}

/// The file without the limits that keep retired paths for minutes.
fn hasty(text: &str) -> String {
    let limit = |text: &str, key: &str, from: u32| text.replace(&format!("{key}: {from}"), &format!("{key}: 1"));
    let text = limit(&limit(text, "tcp_idle_s", 300), "udp_idle_s", 60);
    let text = limit(&limit(&text, "other_idle_s", 15), "tcp_closing_s", 15);
    text.replace(
        "  host2:\n",
        "  host2:\n    limits: {tcp_idle_s: 1, tcp_closing_s: 1, udp_idle_s: 1, other_idle_s: 1}\n",
    )
}

fn operate(host: &Host, operation: Operation) -> Result<controller::api::Applied, controller::api::Failure> {
    host.change(&Request::Operate { operations: vec![operation], dry_run: false, progress: false })
}

fn add_edge(host: &str, cpu: u16) -> Operation {
    Operation::AddInstance {
        tenant: "acme".into(),
        nf: "edge".into(),
        number: None,
        host: Some(host.into()),
        cpu: Some(cpu),
        config: None,
        serves: None,
        weight: None,
    }
}

fn has_instance(tables: &Tables, name: &str) -> bool {
    tables.instances.iter().any(|(_, instance)| instance.starts_with(name))
}

fn instance_state(host: &Host, name: &str) -> Option<InstanceState> {
    let Response::Instances(rows) = host.ask(&Request::Instances).unwrap() else { panic!() };
    rows.into_iter().find(|row| row.instance.starts_with(name)).map(|row| row.state)
}

#[test]
fn a_change_is_made_on_both_hosts_and_leaves_flows_alone() {
    let pair = Pair::start();
    let before = pair.one.make_flows(1..4);
    let far = pair.two.door.order(&Order::Tables);
    let text = with_dns(&pair);
    let planned = pair.one.apply(&text, false, true).unwrap();
    assert!(planned.dry_run && planned.flows_kept == 3 && planned.restart.is_none(), "{planned:?}");
    assert_eq!(pair.one.door.order(&Order::Tables).tags.len(), before.tags.len(), "a dry run changes nothing");
    let applied = pair.one.apply(&text, false, false).unwrap();
    assert_eq!((applied.version, &applied.changes, applied.flows_kept), (2, &planned.changes, 3));
    assert!(applied.changes.iter().any(|line| line.starts_with("chain acme/dns added")), "{:?}", applied.changes);
    pair.wait_for(2);
    let after = pair.one.door.order(&Order::Tables);
    assert!(before.tags.iter().all(|tag| after.tags.contains(tag)) && after.tags.len() > before.tags.len());
    assert!(pair.two.door.order(&Order::Tables).tags.len() > far.tags.len(), "the other host has its rules too");
    assert_eq!(after.exact.len(), 3);
    let mut udp = flow(7, 53);
    udp.five_tuple.protocol = protocol::UDP;
    pair.one.door.order(&Order::Miss(0, vec![udp]));
    pair.one.door.wait("the new chain's flow", |tables| tables.exact.len() == 4);
    // Back again, led by the other host: the path is retired, its rules stay for its flow.
    pair.two.apply(&pair.text, false, false).unwrap();
    pair.wait_for(3);
    assert_eq!(pair.one.door.order(&Order::Tables).tags.len(), after.tags.len());
    let Response::Chains(chains) = pair.one.ask(&Request::Chains).unwrap() else { panic!() };
    let flows: Vec<(&str, u64)> = chains.iter().map(|chain| (chain.chain.as_str(), chain.flows)).collect();
    assert_eq!(flows, [("acme/web", 3), ("acme/ping", 0)], "each chain has its own flows, though they share paths");
}

#[test]
fn a_change_that_needs_a_restart_is_refused_until_it_is_allowed() {
    let pair = Pair::start();
    let pid = pair.one.make_flows(1..4).pid;
    let text = pair.text.replace("        mtu: 1500\n", "        mtu: 1400\n");
    let failure = pair.two.apply(&text, false, false).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NeedsRestart);
    let line = "host1: ports[1].mtu: 1500 runs, 1400 is wanted";
    assert!(failure.lines.iter().any(|said| said == line), "the host that says no is named: {failure:?}");
    pair.wait_for(1);
    let applied = pair.two.apply(&text, true, false).unwrap();
    assert!(applied.restart.is_some());
    let right = |tables: &Tables| tables.exact.iter().all(|(_, rule, _)| rule.action.path_mtu == 1400);
    let after = pair.one.door.wait("rules of the new plan", |tables| tables.exact.len() == 3 && right(tables));
    assert_ne!(after.pid, pid);
    let failure = pair.one.apply("version: 1\nhosts: {}\ntenants: {}\n", true, false).unwrap_err();
    assert_eq!(failure.kind, FailureKind::BadConfiguration);
    assert!(failure.lines.iter().all(|line| line.starts_with("new.yaml:")), "{failure:?}");
}

/// Breaks if an instance does not start on its host, if paths through it are not used, or if it ends before its flows.
#[test]
fn an_instance_is_added_and_drained_while_flows_run() {
    let mut pair = Pair::start_with(&hasty(&example_for_two()));
    pair.one.make_flows(1..3);
    let applied = operate(&pair.two, add_edge("host1", 5)).unwrap();
    assert_eq!(applied.version, 2);
    let after = pair.one.door.order(&Order::Tables);
    assert!(has_instance(&after, "acme/edge/2") && after.reconfigured == 1, "{:?}", after.instances);
    assert_eq!(instance_state(&pair.one, "acme/edge/2"), Some(InstanceState::Running));
    let Response::Paths(paths) = pair.one.ask(&Request::Paths).unwrap() else { panic!() };
    pair.one.make_flows(10..20);
    let Response::Paths(after) = pair.one.ask(&Request::Paths).unwrap() else { panic!() };
    let through = |rows: &[controller::api::PathRow]| -> u64 {
        let via = |path: &&controller::api::PathRow| path.hops.iter().any(|hop| hop.element == "acme/edge/2");
        rows.iter().filter(via).map(|path| path.flows).sum()
    };
    assert!(through(&paths) == 0 && through(&after) > 0, "new flows take the new instance too");
    let drain = Operation::DrainInstance { tenant: "acme".into(), instance: "edge/2".into() };
    operate(&pair.one, drain).unwrap();
    pair.wait_for(3);
    assert_eq!(instance_state(&pair.one, "acme/edge/2"), Some(InstanceState::Draining));
    assert!(has_instance(&pair.one.door.order(&Order::Tables), "acme/edge/2"), "it has flows");
    // A restarted controller goes on with it, whatever its file says.
    pair.one.kill_controller();
    pair.one.start(&[]);
    pair.wait_for(3);
    assert!(has_instance(&pair.one.door.order(&Order::Tables), "acme/edge/2"), "a restart ends nothing");
    let tables = pair.one.door.order(&Order::Tables);
    tables.exact.iter().for_each(|(lcore, rule, _)| drop(pair.one.door.order(&Order::Expire(*lcore, rule.key))));
    pair.wait_for(4);
    let ended = pair.one.door.wait("its end", |tables| !has_instance(tables, "acme/edge/2"));
    assert!(ended.tags.len() < tables.tags.len(), "its paths' rules went before it");
    assert_eq!(instance_state(&pair.one, "acme/edge/2"), None);
    let Response::Config(config) = pair.two.ask(&Request::Config).unwrap() else { panic!() };
    assert_eq!(config.operations, [] as [String; 0], "nothing of it is left to be computed from");
    operate(&pair.two, add_edge("host1", 5)).unwrap();
    assert!(has_instance(&pair.one.door.order(&Order::Tables), "acme/edge/2"), "its name and its core are free");
    pair.wait_for(5);
}

#[test]
fn weights_and_accepted_manglers_are_changes_like_any_other() {
    let pair = Pair::start();
    let weights = [("edge/1".to_owned(), 3)].into();
    let weights = Operation::SetWeights { tenant: "acme".into(), chain: "web".into(), weights };
    assert_eq!(operate(&pair.one, weights).unwrap().version, 2);
    let tap = flow(1, 80);
    pair.two.door.order(&Order::Rewrite(1, packet::FlowKey { vport: VportId(2), ..tap }, tap.five_tuple.reversed()));
    pair.two.wait_for_warning("rewrites flows though it is not declared to");
    pair.two.wait_for_warning("towpath accept acme/tap");
    let accept = Operation::AcceptMangler { tenant: "acme".into(), nf: "tap".into() };
    let accepted = operate(&pair.two, accept).unwrap();
    assert!(accepted.transformation.iter().any(|line| line.contains("acme/tap")), "{accepted:?}");
    pair.wait_for(3);
    let Response::Config(config) = pair.one.ask(&Request::Config).unwrap() else { panic!() };
    assert_eq!((config.version, config.operations.len()), (3, 2), "{:?}", config.operations);
    assert_eq!(config.yaml, pair.text);
    let unknown = Operation::DrainInstance { tenant: "acme".into(), instance: "edge/9".into() };
    let failure = operate(&pair.one, unknown).unwrap_err();
    assert!(failure.lines[0].contains("there is no instance `edge/9`"), "{failure:?}");
}

#[test]
fn a_host_that_is_down_is_named_and_nothing_changes() {
    let mut pair = Pair::start();
    pair.two.kill_controller();
    let text = with_dns(&pair);
    await_true("the loss to be seen", || match pair.one.apply(&text, false, false) {
        Err(failure) if failure.lines[0].starts_with("host2: ") => Ok(()),
        other => panic!("{other:?}"),
    });
    assert_eq!(pair.one.version(), 1);
    pair.two.start(&[]);
    pair.wait_for(1);
    pair.one.apply(&text, false, false).unwrap();
    pair.wait_for(2);
}

/// Breaks if what one dataplane refuses stays half done anywhere.
#[test]
fn what_one_dataplane_refuses_no_host_gets() {
    let pair = Pair::start();
    let before = [pair.one.door.order(&Order::Tables), pair.two.door.order(&Order::Tables)];
    pair.two.door.order(&Order::RefuseLaunch(Some("no memory for another instance".into())));
    let failure = operate(&pair.one, add_edge("host2", 5)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(failure.lines[0].starts_with("host2: ") && failure.lines[0].contains("no memory"), "{failure:?}");
    pair.wait_for(1);
    for (host, before) in [&pair.one, &pair.two].into_iter().zip(&before) {
        host.door.wait("the rules of before", |tables| tables.tags.len() == before.tags.len());
    }
    pair.two.door.order(&Order::RefuseLaunch(None));
    operate(&pair.one, add_edge("host2", 5)).unwrap();
    pair.wait_for(2);
}

/// Breaks if a host says that it has installed a change that it would not know of after its end.
#[test]
fn a_host_that_can_not_write_it_down_refuses_a_change() {
    let pair = Pair::start();
    let before = pair.two.door.order(&Order::Tables);
    let obstacle = pair.two.path("run/document.new");
    std::fs::create_dir(&obstacle).unwrap();
    let failure = pair.one.apply(&with_dns(&pair), false, false).unwrap_err();
    assert!(failure.lines[0].contains("host2: ") && failure.lines[0].contains("make room"), "{failure:?}");
    pair.two.door.wait("its rules to go", |tables| tables.tags.len() == before.tags.len());
    std::fs::remove_dir(&obstacle).unwrap();
    pair.one.apply(&with_dns(&pair), false, false).unwrap();
    pair.wait_for(2);
}

/// Asks a host for a change from another thread, which ends with the phases that were told.
fn ask_aside(host: &Host, yaml: String) -> std::thread::JoinHandle<Vec<Phase>> {
    let socket = host.path("run/api.sock");
    std::thread::spawn(move || {
        let file = "new.yaml".to_owned();
        let request =
            Request::Apply { file, yaml, allow_restart: false, may_move: false, dry_run: false, progress: true };
        let mut phases = Vec::new();
        let _ = Client::connect(&socket).unwrap().call_with_progress(&request, &mut |line| phases.push(line.phase));
        phases
    })
}

fn own_row(host: &Host) -> VersionRow {
    host.versions().into_iter().find(|row| row.here).unwrap()
}

/// Breaks if a follower that has not installed a change is held up by a leader that is dead.
#[test]
fn a_leader_that_dies_while_others_install_takes_its_change_with_it() {
    let mut pair = Pair::start();
    let before = pair.two.door.order(&Order::Tables);
    pair.two.door.order(&Order::Hold(true));
    let asking = ask_aside(&pair.one, with_dns(&pair));
    pair.one.door.wait("installed rules here", |tables| tables.story.iter().filter(|what| *what == "tag").count() > 3);
    pair.one.kill_controller();
    asking.join().unwrap();
    pair.two.door.order(&Order::Hold(false));
    pair.one.start(&[]);
    pair.wait_for(1);
    pair.two.door.wait("its rules to go", |tables| tables.tags.len() == before.tags.len());
    pair.two.apply(&with_dns(&pair), false, false).unwrap();
    pair.wait_for(2);
}

/// Breaks if a host forgets that it has installed a change, or waits for ever for a leader that is dead.
#[test]
fn a_leader_that_dies_after_others_have_installed_is_waited_for_and_then_given_up() {
    let mut pair = Pair::start();
    let before = pair.two.door.order(&Order::Tables);
    pair.one.door.order(&Order::Hold(true));
    let asking = ask_aside(&pair.one, with_dns(&pair));
    let has_installed = || match own_row(&pair.two) {
        VersionRow { installed: Some(2), active: Some(1), .. } => Ok(()),
        row => Err(format!("{row:?}")),
    };
    await_true("host2 to have installed it", has_installed);
    pair.one.kill_controller();
    asking.join().unwrap();
    let failure = pair.two.apply(&with_dns(&pair), false, false).unwrap_err();
    assert!(failure.lines[0].contains("installed here and not decided"), "{failure:?}");
    // Also a restarted controller keeps its promise.
    pair.two.kill_controller();
    pair.two.start(&[]);
    let row = own_row(&pair.two);
    assert!(row.installed == Some(2) && row.waits_for.unwrap().contains("waits for host1"));
    assert!(pair.two.door.order(&Order::Tables).tags.len() > before.tags.len());
    // Of two hosts one can tell that nobody goes by it.
    await_true("host2 to give it up", || match own_row(&pair.two).installed {
        None => Ok(()),
        Some(version) => Err(format!("version {version} is installed")),
    });
    pair.two.door.wait("its rules to go", |tables| tables.tags.len() == before.tags.len());
    pair.one.door.order(&Order::Hold(false));
    pair.one.start(&[]);
    pair.wait_for(1);
    pair.one.apply(&with_dns(&pair), false, false).unwrap();
    pair.wait_for(2);
}

/// Breaks if a host that had installed a change, but died before it heard that all had, stays behind, or if its leader goes by
/// the change before it knows that another host does.
#[test]
fn a_host_that_misses_the_last_word_follows_when_it_is_back() {
    let mut pair = Pair::start();
    pair.one.door.order(&Order::Hold(true));
    let asking = ask_aside(&pair.one, with_dns(&pair));
    await_true("host2 to have installed it", || match own_row(&pair.two).installed {
        Some(2) => Ok(()),
        _ => Err("not yet".into()),
    });
    // It hears nothing from now on, and its connection stays.
    let pid = Pid::from_raw(i32::try_from(pair.two.controller.as_ref().unwrap().id()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    pair.one.door.order(&Order::Hold(false));
    await_true("the change at host1", || match own_row(&pair.one) {
        VersionRow { active: Some(1), installed: Some(2), .. } => Ok(()),
        row => Err(format!("{row:?}")),
    });
    pair.two.kill_controller();
    assert!(asking.join().unwrap().contains(&Phase::Activating));
    await_true("host1 to say for whom it waits", || match own_row(&pair.one).waits_for {
        Some(line) if line.contains("waits for host2") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    pair.two.start(&[]);
    pair.wait_for(2);
}

/// Breaks if a host that waits for a dead leader's word does not take a third host's, or if any host is left out.
#[test]
fn with_three_hosts_a_peer_that_is_active_is_as_good_as_the_leader() {
    let text = example_for_three();
    let mut hosts = ["host1", "host2", "host3"].map(|name| Host::named(name, &text));
    hosts.iter_mut().for_each(|host| host.spawn(&[]));
    hosts.iter_mut().for_each(Host::wait_until_it_serves);
    let all_at = |hosts: &[Host], version| {
        for host in hosts {
            await_true(&format!("version {version} seen by {}", host.name), || {
                let rows = host.versions();
                let right = |row: &VersionRow| row.reachable && row.active == Some(version) && row.installed.is_none();
                if rows.len() == 3 && rows.iter().all(right) { Ok(()) } else { Err(format!("{rows:#?}")) }
            });
        }
    };
    all_at(&hosts, 1);
    hosts[0].door.order(&Order::Hold(true));
    let asking = ask_aside(&hosts[0], format!("{text}{DNS}"));
    await_true("host2 to have installed it", || match own_row(&hosts[1]).installed {
        Some(2) => Ok(()),
        _ => Err("not yet".into()),
    });
    let pid = Pid::from_raw(i32::try_from(hosts[1].controller.as_ref().unwrap().id()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    hosts[0].door.order(&Order::Hold(false));
    await_true("the change at host3", || match own_row(&hosts[2]).active {
        Some(2) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    hosts[0].kill_controller();
    hosts[1].kill_controller();
    asking.join().unwrap();
    hosts[1].start(&[]);
    await_true("host2 to follow host3", || match own_row(&hosts[1]) {
        VersionRow { active: Some(2), installed: None, .. } => Ok(()),
        row => Err(format!("{row:?}")),
    });
    hosts[0].start(&[]);
    all_at(&hosts, 2);
    hosts[2].apply(&text, false, false).unwrap();
    all_at(&hosts, 3);
}

#[test]
fn a_follower_that_dies_before_all_have_installed_stops_the_change() {
    let mut pair = Pair::start();
    pair.two.door.order(&Order::Hold(true));
    let (text, socket) = (with_dns(&pair), pair.one.path("run/api.sock"));
    let asking = std::thread::spawn(move || {
        let request = Request::Apply {
            file: "n".into(),
            yaml: text,
            allow_restart: false,
            may_move: false,
            dry_run: false,
            progress: false,
        };
        controller::api::Client::connect(&socket).unwrap().call(&request).unwrap_err().to_string()
    });
    pair.one.door.wait("installed rules here", |tables| tables.story.iter().filter(|what| *what == "tag").count() > 3);
    pair.two.kill_controller();
    let said = asking.join().unwrap();
    assert!(said.starts_with("host2: "), "{said}");
    pair.two.door.order(&Order::Hold(false));
    pair.two.start(&[]);
    pair.wait_for(1);
}

/// Breaks if a host that begins anew does not take what the others go by, before it serves.
#[test]
fn a_host_that_begins_anew_takes_what_its_peers_go_by() {
    let mut pair = Pair::start();
    pair.one.apply(&with_dns(&pair), false, false).unwrap();
    pair.wait_for(2);
    pair.two.ask(&Request::Shutdown { keep_dataplane: false }).unwrap();
    assert!(pair.two.controller.take().unwrap().wait().unwrap().success());
    pair.two.start(&[]);
    assert_eq!(pair.two.version(), 2, "before it serves");
    pair.wait_for(2);
    // Killed with its dataplane: what was written down is enough.
    let tables = pair.two.door.order(&Order::Tables);
    pair.two.kill_controller();
    kill(tables.pid);
    await_true("the dataplane's end", || if pair.two.door_is_open() { Err("it runs".into()) } else { Ok(()) });
    pair.two.start(&[]);
    pair.wait_for(2);
    assert_eq!(pair.two.door.order(&Order::Tables).tags.len(), tables.tags.len());
}

/// Breaks if two files under one version go unnoticed, or if applying one does not end it.
#[test]
fn different_files_at_the_start_are_told_on_both_hosts_and_one_file_ends_it() {
    let text = example_for_two();
    let other = format!("{text}{DNS}");
    let (mut one, mut two) = (Host::named("host1", &text), Host::named("host2", &other));
    one.spawn(&[]);
    two.spawn(&[]);
    one.wait_until_it_serves();
    two.wait_until_it_serves();
    one.wait_for_warning("host2 goes by another version 1");
    two.wait_for_warning("host1 goes by another version 1");
    let failure = operate(&one, add_edge("host1", 5)).unwrap_err();
    assert!(failure.lines[0].contains("apply a whole file"), "{failure:?}");
    one.apply(&other, true, false).unwrap();
    let pair = Pair { one, two, text: other };
    pair.wait_for(2);
}

#[test]
fn a_panic_on_one_host_keeps_the_other_hosts_flows_off_the_instance() {
    let pair = Pair::start();
    pair.two.door.order(&Order::Fail(1, VportId(2)));
    let failed = || instance_state(&pair.one, "acme/tap/1");
    await_true("the failure to be known", || match failed() {
        Some(InstanceState::Failed) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let nat = packet::FlowKey { vport: VportId(3), ..flow(1, 80) };
    pair.one.door.order(&Order::Miss(2, vec![nat]));
    pair.one.door.wait("a rejection", |tables| tables.rejected == [nat]);
}

#[test]
fn the_audit_of_all_hosts_is_gathered() {
    let mut pair = Pair::start();
    pair.two.door.order(&Order::Violate(0, flow(1, 80), PathId(0), PathId(1)));
    let audit = || -> Audit {
        match pair.one.ask(&Request::Audit { everywhere: true }).unwrap() {
            Response::Audit(audit) => audit,
            other => panic!("{other:?}"),
        }
    };
    await_true("the violation and its flow", || {
        let audit = audit();
        let bad = audit.rows.iter().find(|row| row.violations == 1);
        match bad {
            Some(row) if row.host == "host2" && row.last.as_ref().is_some_and(|last| last.contains("10.1.0.5")) => {
                Ok(())
            }
            _ => Err(format!("{audit:#?}")),
        }
    });
    assert!(audit().rows.iter().any(|row| row.host == "host1"));
    pair.two.kill_controller();
    await_true("its silence", || if audit().silent == ["host2"] { Ok(()) } else { Err(format!("{:?}", audit())) });
}

/// Breaks if a controller with another key, or none, takes part in anything.
#[test]
fn controllers_with_different_keys_do_not_talk() {
    use std::os::unix::fs::PermissionsExt;
    let text = example_for_two();
    let (mut one, mut two) = (Host::named("host1", &text), Host::named("host2", &text));
    let key = |host: &Host, secret: &str| {
        let path = host.path("key");
        std::fs::write(&path, secret).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    };
    let (right, wrong) = ("0123456789abcdef0123456789abcdef", "another key another key another key");
    let ours = key(&one, right);
    one.spawn(&["--key-file", &ours]);
    let theirs = key(&two, wrong);
    two.spawn(&["--key-file", &theirs]);
    one.wait_until_it_serves();
    two.wait_until_it_serves();
    two.wait_for_warning("it has another key");
    assert!(one.versions().iter().all(|row| row.here || !row.reachable));
    two.kill_controller();
    let theirs = key(&two, right);
    two.start(&["--key-file", &theirs]);
    let pair = Pair { one, two, text };
    pair.wait_for(1);
    pair.one.apply(&with_dns(&pair), false, false).unwrap();
    pair.wait_for(2);
}

/// Breaks if bytes from anywhere stop a controller, or are believed.
#[test]
fn hostile_bytes_do_no_harm() {
    let pair = Pair::start();
    let line = pair.text.lines().filter(|line| line.contains("controller: 127")).nth(1).unwrap();
    let address: SocketAddr = line.trim().trim_start_matches("controller: ").parse().unwrap();
    let preamble = b"TOWPATH\x01\x00";
    let frame = |text: &str| [&preamble[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let hostile = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        [&preamble[..], &[0xff; 64]].concat(),
        frame("{}"),
        frame(r#"{"towpath":2,"from":"host9","to":"host2"}"#),
        frame(r#"{"towpath":2,"from":"host2","to":"host2"}"#),
        frame(r#"{"towpath":9,"from":"host1","to":"host2"}"#),
    ];
    for bytes in hostile {
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(&bytes);
        let mut end = Vec::new();
        // Closed by the other side, in order or not.
        let _ = std::io::Read::read_to_end(&mut stream, &mut end);
    }
    let _silent: Vec<TcpStream> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    pair.wait_for(1);
    pair.one.apply(&with_dns(&pair), false, false).unwrap();
    pair.wait_for(2);
}
