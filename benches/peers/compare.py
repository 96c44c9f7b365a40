"""Forwarders on the same devices, the same packets and the same CPU, in turns; prints one table with Towpath's figures beside theirs.

`scripts/compare` installs what this needs, reserves hugepages and cleans up behind it.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import signal
import shlex
import sys
import tempfile

from systems import ExactOverDpdk, Failed, ReactiveFlows, Setting, Testpmd, Towpath, run

# Ours, and theirs that do the same work.
JOBS = {
    "plain loop": ("towpath's loop", [("testpmd io", lambda setting: Testpmd(setting, "io"))]),
    "swap addresses": (None, [("testpmd macswap", lambda setting: Testpmd(setting, "macswap"))]),
    "exact + DSCP": ("towpath", [("Open vSwitch", lambda setting: ExactOverDpdk(setting, vxlan=False))]),
    "exact + DSCP + VXLAN": ("towpath", [("Open vSwitch", lambda setting: ExactOverDpdk(setting, vxlan=True))]),
}
WORKS = {"plain loop": "bare", "exact + DSCP": "deliver", "exact + DSCP + VXLAN": "encapsulate"}
# Of the project's design, for orientation only: other runs, and VPP on other devices.
EARLIER = (
    "Measured earlier on such a machine, not in this run (60 bytes, one core, 1k/10k/64k flows, Mpps): Open vSwitch exact + DSCP "
    "14.2/5.8/2.3, with VXLAN 10.7/2.7-5/2.0; FastClick exact + DSCP 27/23/14; VPP exact + VXLAN 21/21/14 on its own packet generator."
)


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/compare", description=__doc__.splitlines()[0])
    parser.add_argument("--towpath", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--python", required=True, type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--flows", default="1000,10000,64000", help="numbers of flows (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (default: %(default)s)")
    parser.add_argument("--duration", type=float, default=2, help="seconds of each measurement (default: %(default)s)")
    parser.add_argument("--warm-up", type=float, default=0.5, help="seconds before each (default: %(default)s)")
    parser.add_argument("--jobs", default=",".join(JOBS), help="of: %(default)s")
    parser.add_argument("--rates", default="100,1000", help="new flows per second (default: %(default)s); empty: none")
    parser.add_argument("--cpu", type=int, default=os.cpu_count() - 1, help="the forwarders' CPU (default: the last)")
    parser.add_argument("--control-cpu", type=int, default=0, help="the CPU of everything else (default: 0)")
    parser.add_argument("--memory-mib", type=int, default=1024, help="memory of each (default: %(default)s)")
    parser.add_argument("--no-hugepages", action="store_true", help="only to see that it works; never quote such figures")
    parser.add_argument("--json", type=pathlib.Path, help="write the whole report there")
    return parser.parse_args()


def main():
    options = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    flows = [int(count) for count in options.flows.split(",")]
    jobs = {name: JOBS[name] for name in options.jobs.split(",") if name}
    rates = [float(rate) for rate in options.rates.split(",") if rate]
    with tempfile.TemporaryDirectory(prefix="towpath-compare-") as directory:
        setting = Setting(options, directory)
        rows = in_turns(setting, cases(setting, jobs), flows, options.rounds)
        setup = flow_setup(setting, options.python, rates) if rates else None
    report = {
        "format": 1,
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command_line": ["scripts/compare", *sys.argv[5:]],  # behind what the script adds
        "machine": machine(),
        "versions": versions(options.towpath),
        "hugepages": not options.no_hugepages,
        "rows": summed_up(rows),
        "flow_setup": setup,
        "earlier": EARLIER,
    }
    print(text(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if any(row["failures"] for row in report["rows"]) else 0


def cases(setting, jobs):
    """(job, system, is ours, what measures it)"""
    for job, (ours, theirs) in jobs.items():
        if ours:
            yield job, ours, True, Towpath(setting, WORKS[job])
        for name, make in theirs:
            yield job, name, False, make(setting)


def in_turns(setting, cases, flows, rounds):
    """Every case once in each round, beginning one further each time; a failure is kept and the others go on."""
    rows = [
        {"job": job, "system": system, "ours": ours, "flows": count, "measure": measure, "rounds": [], "failures": []}
        for job, system, ours, measure in cases
        for count in flows
    ]
    for turn in range(rounds):
        for step in range(len(rows)):
            row = rows[(step + turn) % len(rows)]
            name = f"round {turn + 1}: {row['job']}, {row['system']}, {row['flows']} flows"
            try:
                row["rounds"].append(row["measure"].measure(row["flows"]))
                print(f"{name}: {row['rounds'][-1]['mpps']:.2f} Mpps", file=sys.stderr, flush=True)
            except (Failed, OSError) as failure:
                row["failures"].append(str(failure))
                print(f"{name}: {failure}", file=sys.stderr, flush=True)
    return rows


def middle(values):
    """The lower middle one."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def summed_up(rows):
    ours = {(row["job"], row["flows"]): middle([one["mpps"] for one in row["rounds"]]) for row in rows if row["ours"]}
    for row in rows:
        del row["measure"]
        mpps = [one["mpps"] for one in row["rounds"]]
        row["median_mpps"] = middle(mpps)
        row["low_mpps"], row["high_mpps"] = (min(mpps), max(mpps)) if mpps else (None, None)
        row["cycles"] = middle([one["cycles"] for one in row["rounds"] if one.get("cycles")])
        mine = ours.get((row["job"], row["flows"]))
        row["ours_over_this"] = mine / row["median_mpps"] if mine and row["median_mpps"] else None
    return sorted(rows, key=lambda row: (list(JOBS).index(row["job"]), row["flows"], not row["ours"]))


def flow_setup(setting, python, rates):
    """What a flow's first packet costs more than its later ones, µs, at each rate."""
    listed = ",".join(str(rate) for rate in rates)
    result = {}
    report = setting.directory / "flow-setup.json"
    try:
        run(setting.towpath, "bench", "flow-setup", "--no-search", "--rates", listed, "--json", report, timeout=300)
        result["towpath, in process"] = added(json.loads(report.read_text()))
    except Failed as failure:
        result["towpath, in process"] = {"failure": str(failure)}
    try:
        result["Open vSwitch and os-ken, veth"] = added(ReactiveFlows(setting, python).measure(rates))
    except (Failed, OSError) as failure:
        result["Open vSwitch and os-ken, veth"] = {"failure": str(failure)}
    return result


def added(report):
    return [
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


def machine():
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    return {"cpu": cpu, "cpus": os.cpu_count(), "kernel": platform.release()}


def versions(towpath):
    wanted = ("dpdk", "openvswitch-switch-dpdk")
    packages = {name: run("dpkg-query", "-W", "-f", "${Version}", name).strip() for name in wanted}
    return {"towpath": run(towpath, "--version").split()[-1], **packages}


def text(report):
    lines = [
        f"{report['machine']['cpu']}, {report['machine']['cpus']} CPUs, Linux {report['machine']['kernel']}; "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    ]
    if not report["hugepages"]:
        lines.append("warning: without hugepages; never quote these figures")
    form = "{:<22} {:>8} {:<16} {:>8} {:>8} {:>8} {:>8} {:>14}"
    lines += ["", form.format("job", "flows", "system", "Mpps", "low", "high", "cycles", "ours over this")]
    number = lambda value, digits: "-" if value is None else f"{value:.{digits}f}"
    for row in report["rows"]:
        figures = [number(row[key], 2) for key in ("median_mpps", "low_mpps", "high_mpps")]
        ratio = "" if row["ours"] else number(row["ours_over_this"], 2)
        lines.append(form.format(row["job"], row["flows"], row["system"], *figures, number(row["cycles"], 0), ratio))
        lines += [f"  failed: {failure.splitlines()[0]}" for failure in row["failures"][:1]]
    for system, rates in (report["flow_setup"] or {}).items():
        lines += ["", f"flow setup by {system}"]
        if isinstance(rates, dict):
            lines.append(f"  failed: {rates['failure'].splitlines()[0]}")
            continue
        lines += [
            "  {flows_per_s:.0f} flows/s: setup adds p50 {setup_adds_p50_us:.0f} µs, p99 {setup_adds_p99_us:.0f} µs "
            "(established p50 {established_p50_us:.0f} µs), {lost} lost".format(**rate)
            for rate in rates
        ]
    return "\n".join([*lines, "", report["earlier"], "", f"Repeat with: {shlex.join(report['command_line'])}"])


if __name__ == "__main__":
    sys.exit(main())
