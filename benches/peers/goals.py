"""What the project wants to reach beside its peers, judged by a report's figures; the goals of Towpath's own benches beside them.

A difference or a ratio of two systems is taken within each round, and the median over the rounds counts: what the machine does
meanwhile hits both.
"""

IO, DELIVER, VXLAN = "plain loop", "exact + DSCP", "exact + DSCP + VXLAN"
OURS, PEER = True, False
OVS_RATIOS = {1_000: 3, 10_000: 6, 64_000: 12}
VPP_MPPS = {1_000: 21.2, 10_000: 20.7, 64_000: 14.4}
# Where testpmd's io loop does LOOP_MPPS; elsewhere in proportion.
DELIVER_MPPS = {1_000: 36, 10_000: 33, 64_000: 27}
LOOP_MPPS = 80
ADDED_NS = {1_000: 15, 1_000_000: 25}
SETUP_US = {"p50": 5, "p99": 50}
SETUPS_PER_S = 500_000
SETUP_RATIO = 100
# A bare controller in C, measured earlier on such a machine: the quicker of two runs, µs.
BARE_CONTROLLER_US, BARE_RATIO = 100, 20


def middle(values):
    """The lower middle one."""
    return sorted(values)[(len(values) - 1) // 2] if values else None


def judged(report):
    found = [*rates(report["rows"]), *setups(report["flow_setup"])]
    for figures in report["own"].values():
        found += figures.get("goals", [])
    return found


def goal(what, kind, bound, value, unit):
    met = value <= bound if kind == "at_most" else value >= bound
    return {"what": what, "bound": {kind: bound}, "value": value, "unit": unit, "met": met}


def rates(rows):
    by_case = {(row["job"], row["flows"], row["ours"]): row for row in rows}

    def paired(one, other, of):
        """Of the rounds that both have; none if there is no such."""
        ours, theirs = by_case.get(one), by_case.get(other)
        if not ours or not theirs:
            return None
        theirs = {found["round"]: found["mpps"] for found in theirs["rounds"]}
        return middle([of(found["mpps"], theirs[found["round"]]) for found in ours["rounds"] if found["round"] in theirs])

    ratio = lambda ours, theirs: ours / theirs
    for flows, wanted in OVS_RATIOS.items():
        value = paired((VXLAN, flows, OURS), (VXLAN, flows, PEER), ratio)
        if value is not None:
            yield goal(f"{VXLAN} at {flows} flows, times Open vSwitch", "at_least", wanted, value, "×")
    for flows, wanted in VPP_MPPS.items():
        value = by_case.get((VXLAN, flows, OURS), {}).get("median_mpps")
        if value is not None:
            yield goal(f"{VXLAN} at {flows} flows, above VPP's", "at_least", wanted, value, "Mpps")
    loop = by_case.get((IO, 1_000, PEER), {}).get("median_mpps")
    for flows, wanted in DELIVER_MPPS.items():
        value = by_case.get((DELIVER, flows, OURS), {}).get("median_mpps")
        if value is not None and loop is not None:
            scaled = wanted * min(loop / LOOP_MPPS, 1)
            yield goal(f"{DELIVER} at {flows} flows, where testpmd io does {loop:.1f}", "at_least", scaled, value, "Mpps")
    for flows, wanted in ADDED_NS.items():
        for job in (DELIVER, VXLAN):
            value = paired((job, flows, OURS), (IO, flows, PEER), lambda ours, theirs: 1e3 / ours - 1e3 / theirs)
            if value is not None:
                yield goal(f"{job} at {flows} flows adds to testpmd io (net_pcap)", "at_most", wanted, value, "ns")


def setups(systems):
    ours = next((figures for name, figures in systems.items() if name.startswith("towpath")), {})
    theirs = next((figures for name, figures in systems.items() if not name.startswith("towpath")), {})
    of = lambda figures: {rate["flows_per_s"]: rate for rate in figures.get("rates", [])}
    mine, other = of(ours), of(theirs)
    if 10_000 in mine:
        for quantile, wanted in SETUP_US.items():
            value = mine[10_000][f"setup_adds_{quantile}_us"]
            yield goal(f"flow setup at 10000 flows/s adds, {quantile}", "at_most", wanted, value, "µs")
        yield goal("flow setup at 10000 flows/s loses", "at_most", 0, mine[10_000]["lost"], "packets")
        value = BARE_CONTROLLER_US / max(mine[10_000]["setup_adds_p50_us"], 1e-3)
        what = f"flow setup, times Open vSwitch with a bare controller ({BARE_CONTROLLER_US} µs, measured earlier)"
        yield goal(what, "at_least", BARE_RATIO, value, "×")
    if ours.get("most_per_s") is not None:
        yield goal("flow setups without loss", "at_least", SETUPS_PER_S, ours["most_per_s"], "flows/s")
    for rate in sorted(set(mine) & set(other)):
        value = other[rate]["setup_adds_p50_us"] / max(mine[rate]["setup_adds_p50_us"], 1e-3)
        what = f"flow setup at {rate:.0f} flows/s, times Open vSwitch with os-ken (p50)"
        yield goal(what, "at_least", SETUP_RATIO, value, "×")


def table(goals):
    """The goals as lines of text."""
    if not goals:
        return []
    short = lambda value: f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    cells = [("goal", "bound", "value", "unit", "verdict")]
    for one in goals:
        (kind, bound), = one["bound"].items()
        value = "-" if one["value"] is None else short(one["value"])
        sign = "≤" if kind == "at_most" else "≥"
        cells.append((one["what"], f"{sign} {short(bound)}", value, one["unit"], "met" if one["met"] else "missed"))
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    form = f"{{:<{widths[0]}}} {{:>{widths[1]}}} {{:>{widths[2]}}} {{:<{widths[3]}}} {{}}"
    met = sum(one["met"] for one in goals)
    return [form.format(*row) for row in cells] + [f"{met} of {len(goals)} goals met"]
