"""Forwarders on the same devices, the same packets and the same CPU, in turns; one table with Towpath's figures beside theirs.

`scripts/compare` installs what this needs, reserves hugepages and cleans up behind it. It takes text, JSON and SVG from here.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import shlex
import signal
import sys
import tempfile

import drawing
import goals
from systems import ExactOverDpdk, Failed, ReactiveFlows, Setting, Testpmd, Towpath, run

IO, VXLAN = "plain loop", "exact + DSCP + VXLAN"
# Ours, and theirs that do the same work.
JOBS = {
    IO: ("towpath's loop", [("testpmd io", lambda setting: Testpmd(setting, "io"))]),
    "swap addresses": (None, [("testpmd macswap", lambda setting: Testpmd(setting, "macswap"))]),
    "exact + DSCP": ("towpath", [("Open vSwitch", lambda setting: ExactOverDpdk(setting, vxlan=False))]),
    VXLAN: ("towpath", [("Open vSwitch", lambda setting: ExactOverDpdk(setting, vxlan=True))]),
}
WORKS = {IO: "bare", "exact + DSCP": "deliver", VXLAN: "encapsulate"}
# Towpath's own benches, whose goals are judged without a peer.
OWN = ("chain", "tables", "updates", "flood")
# Their cases, for the estimate.
CASES, QUICK_CASES = ({"chain": 11, "tables": 14, "updates": 3, "flood": 8}, {"chain": 6, "tables": 8, "updates": 3, "flood": 8})
# Beyond this, Open vSwitch takes minutes to have its rules, and no goal asks for it.
PEERS_FLOWS_MAX = 64_000
# Of the project's design, for orientation only: other runs, and VPP on other devices.
EARLIER = (
    "Measured earlier on such a machine, not in this run (60 bytes, one core, 1k/10k/64k flows, Mpps): Open vSwitch exact + DSCP "
    "14.2/5.8/2.3, with VXLAN 10.7/2.7-5/2.0; FastClick exact + DSCP 27/23/14; VPP exact + VXLAN 21/21/14 on its own packet generator."
)
# Hugepages beside what is asked for: EAL takes some more as it goes.
SPARE_PAGES = 128
# Seconds that a measurement takes beside its own time, as a rule: start, rules, settling; and so many more for each 1,000 flows.
OVERHEAD_S = {"towpath": (1.5, 0.01), "testpmd": (1.5, 0.01), "Open vSwitch": (5, 0.2)}


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/compare", description=__doc__.splitlines()[0])
    parser.add_argument("--towpath", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--python", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--hugepages-needed", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="short rounds and few: does it work? Not for figures to quote")
    parser.add_argument("--flows", help="numbers of flows (default: 1000,10000,64000,1000000; with --quick 1000,64000)")
    parser.add_argument("--rounds", type=int, help="measurements of each (default: 5; with --quick 2)")
    parser.add_argument("--duration", type=float, help="seconds of each measurement (default: 2; with --quick 0.5)")
    parser.add_argument("--warm-up", type=float, help="seconds before each (default: 0.5; with --quick 0.2)")
    parser.add_argument("--jobs", default=",".join(JOBS), help="of: %(default)s")
    parser.add_argument("--own", default=",".join(OWN), help="Towpath's own benches, of: %(default)s; empty: none")
    parser.add_argument("--rates", default="100,1000,10000", help="new flows per second (default: %(default)s); empty: none")
    parser.add_argument("--cpu", type=int, default=os.cpu_count() - 1, help="the forwarders' CPU (default: the last)")
    parser.add_argument("--control-cpu", type=int, default=0, help="the CPU of everything else (default: 0)")
    parser.add_argument("--no-hugepages", action="store_true", help="only to see that it works; never quote such figures")
    parser.add_argument("--json", type=pathlib.Path, help="write the whole report there")
    parser.add_argument("--svg", type=pathlib.Path, help="draw the rates there")
    options = parser.parse_args()
    usual = {"flows": "1000,10000,64000,1000000", "rounds": 5, "duration": 2.0, "warm_up": 0.5}
    quick = {"flows": "1000,64000", "rounds": 2, "duration": 0.5, "warm_up": 0.2}
    for key, value in (quick if options.quick else usual).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    try:
        options.flows = [int(count) for count in options.flows.split(",")]
        options.rates = [float(rate) for rate in options.rates.split(",") if rate]
        options.jobs = {name: JOBS[name] for name in options.jobs.split(",") if name}
    except (ValueError, KeyError) as wrong:
        parser.error(f"{wrong} is no number, or no job; --help lists them")
    options.own = [name for name in options.own.split(",") if name]
    if options.control_cpu == options.cpu or max(options.cpu, options.control_cpu) >= os.cpu_count():
        parser.error("the forwarders and everything else need a CPU each, of those that there are")
    return options


def main():
    options = arguments()
    if options.hugepages_needed:
        print(Setting.memory_mib(max(options.flows)) // 2 + SPARE_PAGES)
        return 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    drop_what_does_not_fit(options)
    with tempfile.TemporaryDirectory(prefix="towpath-compare-") as directory:
        setting = Setting(options, directory)
        rows = list(lines(setting, options))
        say(f"{len(rows)} cases, {options.rounds} rounds: about {estimate_s(rows, options) / 60:.0f} minutes")
        in_turns(rows, options.rounds)
        setup = flow_setup(setting, options) if options.rates else {}
        own = {name: own_bench(setting, options, name) for name in options.own}
    report = {
        "format": 2,
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command_line": ["scripts/compare", *sys.argv[5:]],  # behind what the script adds
        "machine": machine(),
        "versions": versions(options.towpath),
        "hugepages": not options.no_hugepages,
        "quick": options.quick,
        "rows": summed_up(rows),
        "flow_setup": setup,
        "own": own,
        "earlier": EARLIER,
    }
    report["goals"] = goals.judged(report)
    print(text(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.svg:
        options.svg.write_text(drawing.svg(report))
    failed = [part for part in [*report["rows"], *setup.values(), *own.values()] if part.get("failures")]
    return 1 if failed else 0


def say(line):
    print(line, file=sys.stderr, flush=True)


def drop_what_does_not_fit(options):
    """Numbers of flows whose packets don't fit into the hugepages that are free are left out, and that is said."""
    if options.no_hugepages:
        return
    free = pathlib.Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    free_mib = int(free.read_text()) * 2 if free.exists() else 0
    fit = [flows for flows in options.flows if Setting.memory_mib(flows) <= free_mib]
    for flows in sorted(set(options.flows) - set(fit)):
        say(f"left out: {flows} flows need {Setting.memory_mib(flows)} MiB of hugepages, {free_mib} MiB are free")
    if not fit:
        raise SystemExit("error: no number of flows fits into the free hugepages; reserve more, or see with --no-hugepages that it works")
    options.flows = fit


def lines(setting, options):
    """One for each case: who does what with how many flows, and what measures it."""
    for job, (ours, theirs) in options.jobs.items():
        systems = [(ours, True, Towpath(setting, WORKS[job]))] if ours else []
        systems += [(name, False, make(setting)) for name, make in theirs]
        for system, is_ours, measure in systems:
            for flows in options.flows:
                if flows <= PEERS_FLOWS_MAX or is_ours or job == IO:
                    yield {"job": job, "system": system, "ours": is_ours, "flows": flows, "measure": measure, "rounds": [], "failures": []}


def estimate_s(rows, options):
    each_s = options.duration + options.warm_up
    seconds = 0
    for row in rows:
        kind = "Open vSwitch" if row["system"] == "Open vSwitch" else "towpath" if row["ours"] else "testpmd"
        start_s, per_thousand_s = OVERHEAD_S[kind]
        seconds += options.rounds * (each_s + start_s + per_thousand_s * row["flows"] / 1_000)
    # Each rate has a warm-up and a drain; a search is some 25 trials of 3 s, three times, on either side.
    searches_s = 0 if options.quick else 2 * 3 * 25 * 3
    setup_s = len(options.rates) * 2 * (options.duration + 2) + searches_s if options.rates else 0
    cases = QUICK_CASES if options.quick else CASES
    own_s = sum(cases.get(name, 5) for name in options.own) * options.rounds * (each_s + 2)
    return seconds + setup_s + own_s


def in_turns(rows, rounds):
    """Every case once in each round, beginning one further each time; a failure is kept and the others go on."""
    for turn in range(rounds):
        for step in range(len(rows)):
            row = rows[(step + turn) % len(rows)]
            name = f"round {turn + 1}: {row['job']}, {row['system']}, {row['flows']} flows"
            try:
                row["rounds"].append({"round": turn, **row["measure"].measure(row["flows"])})
                say(f"{name}: {row['rounds'][-1]['mpps']:.2f} Mpps")
            except (Failed, OSError) as failure:
                row["failures"].append(str(failure))
                say(f"{name}: {failure}")


def summed_up(rows):
    ours = {(row["job"], row["flows"]): goals.middle([one["mpps"] for one in row["rounds"]]) for row in rows if row["ours"]}
    for row in rows:
        del row["measure"]
        mpps = [one["mpps"] for one in row["rounds"]]
        row["median_mpps"] = goals.middle(mpps)
        row["low_mpps"], row["high_mpps"] = (min(mpps), max(mpps)) if mpps else (None, None)
        row["ns"] = 1e3 / row["median_mpps"] if row["median_mpps"] else None
        row["cycles"] = goals.middle([one["cycles"] for one in row["rounds"] if one.get("cycles")])
        mine = ours.get((row["job"], row["flows"]))
        row["ours_over_this"] = mine / row["median_mpps"] if mine and row["median_mpps"] else None
    return sorted(rows, key=lambda row: (list(JOBS).index(row["job"]), row["flows"], not row["ours"]))


def flow_setup(setting, options):
    """What a flow's first packet costs more than its later ones, and how many flows a second are set up without loss."""
    result = {}
    listed = ",".join(str(rate) for rate in options.rates)
    search = ["--no-search"] if options.quick else []
    report = setting.directory / "flow-setup.json"
    say("flow setup, towpath")
    try:
        words = ["bench", "flow-setup", *search, "--rates", listed, "--duration", options.duration, "--json", report]
        run(setting.towpath, *words, timeout=900)
        result["towpath, in process"] = setup_figures(json.loads(report.read_text()))
    except Failed as failure:
        result["towpath, in process"] = {"failures": [str(failure)]}
    # It loses packets from some 2,000 flows/s on, and then its queues are full for the rates that follow.
    slow = [rate for rate in options.rates if rate <= 1_000]
    name = "Open vSwitch and os-ken, veth"
    say("flow setup, Open vSwitch and os-ken")
    try:
        figures = ReactiveFlows(setting, options.python).measure(slow, options.duration, not options.quick) if slow else None
        result[name] = setup_figures(figures) if figures else {"failures": ["no rate up to 1000 flows/s was asked for"]}
    except (Failed, OSError) as failure:
        result[name] = {"failures": [str(failure)]}
    return result


def setup_figures(report):
    rates = [
        {
            "flows_per_s": rate["offered_per_s"],
            "setup_adds_p50_us": rate["added"]["p50_ns"] / 1e3,
            "setup_adds_p99_us": rate["added"]["p99_ns"] / 1e3,
            "first_p50_us": rate["first"]["latency"]["p50_ns"] / 1e3,
            "established_p50_us": rate["established"]["latency"]["p50_ns"] / 1e3,
            "lost": rate["first"]["lost"] + rate["established"]["lost"],
        }
        for rate in report["rates"]
    ]
    search = report.get("search")
    return {"path": report["path"]["description"], "rates": rates, "most_per_s": search["median_per_s"] if search else None}


def own_bench(setting, options, name):
    """A bench of Towpath's own, with the same CPU and times."""
    report = setting.directory / f"{name}.json"
    words = ["--rounds", options.rounds, "--duration", options.duration, "--warm-up", options.warm_up, "--cpu", options.cpu]
    if options.quick and name == "chain":
        words += ["--lengths", "1,2,8"]
    if options.quick and name == "tables":
        words += ["--flows", "1k,1M"]
    say(f"towpath bench {name}")
    try:
        said = run(setting.towpath, "bench", name, *words, "--json", report, timeout=3600)
    except Failed as failure:
        return {"failures": [str(failure)]}
    return {"goals": json.loads(report.read_text())["goals"], "text": said}


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return {"cpu": cpu, "cpus": os.cpu_count(), "kernel": platform.release()}


def versions(towpath):
    wanted = ("dpdk", "openvswitch-switch-dpdk")
    packages = {name: run("dpkg-query", "-W", "-f", "${Version}", name).strip() for name in wanted}
    return {"towpath": run(towpath, "--version").split()[-1], **packages}


def number(value, digits):
    return "-" if value is None else f"{value:.{digits}f}"


def text(report):
    found = [
        f"{report['machine']['cpu']}, {report['machine']['cpus']} CPUs, Linux {report['machine']['kernel']}; "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        "Packets of 60 bytes from net_pcap (infinite_rx) to net_pcap, one core; medians of rounds that took turns.",
    ]
    if not report["hugepages"]:
        found.append("warning: without hugepages; never quote these figures")
    if report["quick"]:
        found.append("warning: a quick run, which shows that it works; never quote these figures")
    form = "{:<22} {:>8} {:<16} {:>8} {:>8} {:>8} {:>8} {:>8} {:>14}"
    found += ["", form.format("job", "flows", "system", "Mpps", "low", "high", "ns", "cycles", "ours over this")]
    for row in report["rows"]:
        figures = [number(row[key], 2) for key in ("median_mpps", "low_mpps", "high_mpps")]
        figures += [number(row["ns"], 1), number(row["cycles"], 0)]
        ratio = "" if row["ours"] else number(row["ours_over_this"], 2)
        found.append(form.format(row["job"], row["flows"], row["system"], *figures, ratio))
        found += [f"  failed: {failure.splitlines()[0]}" for failure in row["failures"][:1]]
    for system, figures in report["flow_setup"].items():
        found += ["", f"flow setup by {system}"]
        found += [f"  failed: {failure.splitlines()[0]}" for failure in figures.get("failures", [])]
        found += [
            "  {flows_per_s:.0f} flows/s: setup adds p50 {setup_adds_p50_us:.1f} µs, p99 {setup_adds_p99_us:.1f} µs "
            "(established p50 {established_p50_us:.1f} µs), {lost} lost".format(**rate)
            for rate in figures.get("rates", [])
        ]
        if figures.get("most_per_s"):
            found.append(f"  at most {figures['most_per_s']:.0f} flows/s without loss")
    for name, figures in report["own"].items():
        found += [f"towpath bench {name} failed: {failure.splitlines()[0]}" for failure in figures.get("failures", [])]
    found += ["", *goals.table(report["goals"])]
    return "\n".join([*found, "", report["earlier"], "", f"Repeat with: {shlex.join(report['command_line'])}"])


if __name__ == "__main__":
    sys.exit(main())
