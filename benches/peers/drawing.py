"""A report's rates as an SVG: a group of bars for each job and number of flows, the spread of the rounds as a line."""

from xml.sax.saxutils import escape

COLOURS = {True: "#0f766e", False: "#b45309"}
WIDTH, LEFT, TOP, BAR, GAP = 1000, 330, 96, 16, 12
INK, FAINT = "#1f2937", "#d1d5db"


def svg(report):
    rows = [row for row in report["rows"] if row["median_mpps"]]
    most = max((row["high_mpps"] for row in rows), default=1)
    scale = (WIDTH - LEFT - 90) / most
    parts, y, group = [], TOP, None
    for row in rows:
        here = (row["job"], row["flows"])
        y += GAP if group not in (None, here) else 0
        group = here
        parts.append(bar(row, y, scale))
        y += BAR + 3
    height = y + 40
    machine = report["machine"]
    subtitle = f"{machine['cpu']}, {machine['cpus']} CPUs, Linux {machine['kernel']}; 60-byte packets, one core; medians, line: all rounds"
    if report["quick"] or not report["hugepages"]:
        subtitle += " - not for quoting: " + ("a quick run" if report["quick"] else "without hugepages")
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        write(24, 36, "Towpath beside its peers, Mpps", size=21),
        write(24, 60, subtitle, size=13),
        f'<line x1="{LEFT}" y1="{TOP - 6}" x2="{LEFT}" y2="{height - 30}" stroke="{FAINT}"/>',
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def bar(row, y, scale):
    middle = y + BAR / 2
    low, high = (LEFT + row[key] * scale for key in ("low_mpps", "high_mpps"))
    label = f"{row['job']}, {row['flows']} flows: {row['system']}"
    return "".join(
        [
            write(LEFT - 8, y + BAR - 3, label, size=12, anchor="end"),
            f'<rect x="{LEFT}" y="{y}" width="{row["median_mpps"] * scale:.1f}" height="{BAR}" fill="{COLOURS[row["ours"]]}"/>',
            f'<line x1="{low:.1f}" y1="{middle}" x2="{high:.1f}" y2="{middle}" stroke="{INK}" stroke-width="2"/>',
            write(high + 6, y + BAR - 3, f"{row['median_mpps']:.1f}", size=12),
        ]
    )


def write(x, y, words, size, anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{INK}" text-anchor="{anchor}">{escape(words)}</text>'
