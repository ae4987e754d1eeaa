"""Results as pictures."""

import matplotlib
from matplotlib.ticker import StrMethodFormatter

from bench.cases import EXCHANGES
from bench.servers import DIRECT, OURS
from bench.summary import spread

BARS = (
    ("CPU a connection, µs", "connections", "no authentication", "cpu_us"),
    ("connections a second", "connections", "no authentication", "per_second"),
    ("CPU a GB, 4 streams up, s", "bulk", "4 up", "cpu_gb"),
    ("Gbit/s, 4 streams up", "bulk", "4 up", "gbit"),
    ("memory of an idle tunnel of 5,000, KB (logarithmic)", "tunnels", "1 to 5,000", "tunnel_kb_5000"),
    ("client: CPU a connection, µs", "client", "through microsocks", "cpu_us"),
)
"""The panels: title, case, row, key."""

GROWTH = (
    ("CPU for 1 KB there and back, µs", "message_us", EXCHANGES),
    ("messages of 1 KB there and back a second", "messages", EXCHANGES),
)
"""The panels over the number of streams: title, beginning of the keys, numbers of streams."""

PLAIN_NUMBERS = StrMethodFormatter("{x:,g}")

OURS_COLOR, OTHERS_COLOR = "#1f77b4", "#b0b0b0"

STYLE = {
    # The same results make the same file, whose texts are texts.
    "svg.hashsalt": "speed",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(results, path):
    """
    Write the pictures as one SVG file: a bar for each server, with a line from the least to the most.

    What was not measured is left out; there is no file where nothing is left.
    """
    matplotlib.use("svg")
    from matplotlib import pyplot

    cases = results["cases"]
    bars = [(title, cases[case][row], key) for title, case, row, key in BARS if row in cases.get(case, ())]
    growth = [(title, by_label, *rest) for by_label in cases.get("tunnels", {}).values() for title, *rest in GROWTH]
    if not bars:
        return
    with matplotlib.rc_context(STYLE):
        pyplot.rcParams["axes.prop_cycle"] = pyplot.cycler(color=pyplot.colormaps["tab10"].colors[1:])
        lines_of_panels = -(-(len(bars) + len(growth)) // 2)
        figure, panels = pyplot.subplots(lines_of_panels, 2, figsize=(10, 3 * lines_of_panels), layout="constrained")
        for panel, what in zip(panels.flat, bars, strict=False):
            _bars(panel, *what)
        for panel, what in zip(panels.flat[len(bars) :], growth, strict=False):
            _lines(panel, *what)
        for panel in panels.flat[len(bars) + len(growth) :]:
            panel.remove()
        if growth:
            handles, labels = panels.flat[len(bars)].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4)
        rounds = f"medians, least and most of {results['rounds']} rounds"
        figure.suptitle(f"{OURS} beside others, {results['date']}: {rounds}")
        figure.savefig(path, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _bars(panel, title, by_label, key):
    spreads = {label: spread(samples, key) for label, samples in by_label.items() if label != DIRECT}
    spreads = {label: each for label, each in reversed(spreads.items()) if each}
    panel.set_title(title, loc="left")
    medians = [each.median for each in spreads.values()]
    below = [each.median - each.least for each in spreads.values()]
    above = [each.most - each.median for each in spreads.values()]
    colors = [OURS_COLOR if label == OURS else OTHERS_COLOR for label in spreads]
    bars = panel.barh(list(spreads), medians, color=colors, xerr=[below, above], ecolor="#404040")
    panel.bar_label(bars, labels=[f"{each:,.3g}" if each < 1000 else f"{each:,.0f}" for each in medians], padding=6)
    panel.margins(x=0.18)
    if title.endswith("(logarithmic)"):
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(PLAIN_NUMBERS)


def _lines(panel, title, by_label, key, counts):
    panel.set_title(title, loc="left")
    for label, samples in by_label.items():
        spreads = {count: spread(samples, f"{key}_{count}") for count in counts}
        points = {count: each.median for count, each in spreads.items() if each}
        width, color = (2.5, OURS_COLOR) if label == OURS else (1, None)
        panel.plot(
            list(points), list(points.values()), marker="o", markersize=3, label=label, linewidth=width, color=color
        )
    panel.set_xscale("log")
    panel.set_xticks(counts, [f"{count:,}" for count in counts])
    panel.set_xticks([], minor=True)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("open streams")
