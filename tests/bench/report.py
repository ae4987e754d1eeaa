"""Results as tables: for a terminal, and for the documentation."""

from dataclasses import dataclass

from bench import soak
from bench.cases import BURST, EXCHANGES, SLOW, TUNNELS
from bench.servers import DIRECT, OURS
from bench.summary import GOALS, failures, headroom, ratio, spread

UNITS = {
    "per_second": "connections a second",
    "cpu_us": "µs of CPU a connection",
    "gbit": "Gbit/s",
    "cpu_gb": "s of CPU a GB",
    "p50_ms": "ms, half of them",
    "p99_ms": "ms, 99 of 100",
    "kept": "of the rate without",
    "loads_us": "µs of generator and target",
    "loads_gb": "s of generator and target",
}

HEAD = """\
.. This is written by a command: WRITE_TABLES=1 make bench

"""


@dataclass(frozen=True)
class Table:
    """One table; the first column has the titles of the rows."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def rst(self):
        lines = [f".. list-table:: {self.title}", "   :header-rows: 1", ""]
        for cells in (self.header, *self.rows):
            lines += [f"   {' ' if number else '*'} - {cell}".rstrip() for number, cell in enumerate(cells)]
        return "\n".join(lines) + "\n"

    def text(self):
        """For a terminal."""
        all_rows = [self.header, *self.rows]
        widths = [max(map(len, column)) for column in zip(*all_rows, strict=True)]
        lines = [self.title, "=" * len(self.title)]
        for cells in all_rows:
            padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines) + "\n"


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def median(each):
    return number(each.median) if each else ""


def with_spread(each, form=number):
    """The median, the least and the most."""
    return f"{form(each.median)} ({form(each.least)} to {form(each.most)})" if each else ""


def as_ratio(each):
    return with_spread(each, "{:.2f}".format)


def of_row(results, case, row, keys, title, reference=OURS):
    """A table of one row: each figure, and beside it how many times that of `reference` is."""
    by_label = results["cases"].get(case, {}).get(row, {})
    if not by_label:
        return []
    compared = [key for key in keys if reference in by_label and not key.startswith("loads")]
    header = [""]
    for key in keys:
        header += [UNITS[key], *([f"{reference} / this"] if key in compared else [])]
    rows = []
    for label, samples in by_label.items():
        cells = [label]
        for key in keys:
            cells.append(with_spread(spread(samples, key)))
            if key in compared:
                same = label in (reference, DIRECT)
                cells.append("" if same else as_ratio(ratio(by_label[reference], samples, key)))
        rows.append([*cells, failures(samples)])
    return [_table(title, [*header, "failed"], rows)]


def _table(title, header, rows):
    """Without columns that say nothing."""
    told = [number == 0 or any(row[number] for row in rows) for number in range(len(header))]
    return Table(
        title, *([_only(told, row) for row in each] if each is rows else _only(told, each) for each in (header, rows))
    )


def _only(told, cells):
    return [cell for cell, is_told in zip(cells, told, strict=True) if is_told]


def of_many(title, labels, columns):
    """
    A table of medians.

    :param columns: by their titles, what has the samples of each label, and the key.
    """
    rows = [
        [label, *(median(spread(by_label.get(label, ()), key)) for by_label, key in columns.values())]
        for label in labels
    ]
    return [_table(title, ["", *columns], rows)] if rows else []


def _connections(results):
    keys = ("cpu_us", "per_second", "loads_us")
    titles = {
        "no authentication": "Connections without authentication",
        "RFC 1929": "Connections with user name and password (RFC 1929)",
        "a name": "Connections to a name, without authentication",
    }
    by_method = f"{OURS}, by method"
    return [
        *(table for row, title in titles.items() for table in of_row(results, "connections", row, keys, title)),
        *of_row(results, "connections", by_method, keys, f"Connections of {by_method}", "no authentication"),
        *(
            table
            for row in (f"{OURS}, by protocol, an address", f"{OURS}, by protocol, a name")
            for table in of_row(results, "connections", row, keys, f"Connections of {row}", "SOCKS5")
        ),
    ]


def _bulk(results):
    rows = results["cases"].get("bulk", {})
    labels = list(dict.fromkeys(label for row in rows.values() for label in row))

    def columns(key):
        return {row: (by_label, key) for row, by_label in rows.items()}

    return [
        *of_row(results, "bulk", "4 up", ("cpu_gb", "gbit", "loads_gb"), "Bytes, on 4 streams up"),
        *of_many("Seconds of CPU a GB, by streams and direction (medians)", labels, columns("cpu_gb")),
        *of_many("Gbit/s, by streams and direction (medians)", labels, columns("gbit")),
    ]


def _tunnels(results):
    by_label = results["cases"].get("tunnels", {}).get("1 to 5,000", {})

    def columns(key, counts):
        return {f"{count:,}": (by_label, f"{key}_{count}") for count in counts}

    titles = {
        "KB of memory an idle tunnel, by how many there are (medians)": ("tunnel_kb", TUNNELS),
        "µs of CPU for 1 KB there and back, by open streams (medians)": ("message_us", EXCHANGES),
        "Messages of 1 KB there and back a second, by open streams (medians)": ("messages", EXCHANGES),
    }
    return [table for title, which in titles.items() for table in of_many(title, by_label, columns(*which))]


def _latency(results):
    titles = {
        "a connection, beside 50 others": "A new connection, while 50 others are opened and closed at a time",
        "a byte, beside 4 full streams": "A byte there and back on an open stream, beside 4 full ones",
        f"{BURST} connections at once": f"{BURST:,} connections at once: until one has its first byte",
    }
    return [
        table for row, title in titles.items() for table in of_row(results, "latency", row, ("p50_ms", "p99_ms"), title)
    ]


def _slow(results):
    row = f"{SLOW} handshakes held"
    return of_row(results, "slow", row, ("kept", "per_second"), f"Connections beside {SLOW:,} slow handshakes")


def _client(results):
    return of_row(results, "client", "through microsocks", ("cpu_us", "per_second"), "Clients, through microsocks")


def _goals(results):
    rows = []
    for goal in GOALS:
        against, measured = goal.measured(results["cases"])
        if measured:
            sign = "at least" if goal.at_least else "at most"
            verdict = goal.failures(results["cases"]) or ("met" if goal.is_met(measured) else "falls short")
            rows.append([goal.title, against or "", as_ratio(measured), f"{sign} {goal.bound:.2f}", verdict])
    return [Table("What must be reached", ["figure", "against", "measured", "must be", ""], rows)] if rows else []


def _soak(results):
    """It is no part of the documentation's tables, as it is not measured with the others."""
    marks = ["at first", *(f"at {mark:.0%}" for mark in soak.MARKS)]
    header = ["", "connections", UNITS["per_second"], "process"]
    for what in ("MB resident", "blocks of Python's", "descriptors"):
        header += [f"{what} {marks[0]}", *marks[1:]]
    rows = []
    for label, samples in results["cases"].get("soak", {}).get("mixed load", {}).items():
        for sample in samples:
            for place, held in enumerate(sample.get("processes", ()), start=1):
                cells = [label, number(sample["connections"]), number(sample["per_second"]), str(place)]
                cells += [f"{each['memory'] / 1e6:.1f}" for each in held]
                cells += [f"{each[key]:,.0f}" for key in ("blocks", "descriptors") for each in held]
                rows.append([*cells, failures([sample])])
    return [_table("Mixed load, and what each process holds at rest", [*header, "failed"], rows)] if rows else []


def _circumstances(results):
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items() if version)
    rows = [
        ["date", results["date"]],
        ["machine", f"{results['cores']} cores of {results['cpu']}, Linux {results['kernel']}"],
        ["Python", results["python"]],
        ["releases", versions],
        ["rounds", str(results["rounds"])],
    ]
    for key, each in headroom(results["cases"]).items():
        if each:
            rows.append(["generator", f"without a proxy {each:.1f} times the fastest proxy's {UNITS[key]}"])
    return [Table("Circumstances", ["", "of this run"], rows)]


TABLES = {
    "circumstances": _circumstances,
    "goals": _goals,
    "connections": _connections,
    "bulk": _bulk,
    "tunnels": _tunnels,
    "latency": _latency,
    "slow": _slow,
    "client": _client,
}
"""What makes the tables of each file, by its name."""


def text(results):
    """All tables, for a terminal."""
    order = [*(name for name in TABLES if name != "goals"), "soak", "goals"]
    every = {**TABLES, "soak": _soak}
    return "\n".join(table.text() for name in order for table in every[name](results))


def files(results):
    """The tables for the documentation: the text of each file, by its name."""
    return {
        f"speed-{name}.txt": HEAD + "\n".join(table.rst() for table in tables(results))
        for name, tables in TABLES.items()
    }
