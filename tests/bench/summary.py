"""What the samples come to: medians, their spread, and the figures that must be reached."""

import statistics
from dataclasses import dataclass

from bench.servers import DIRECT, OURS, PLAIN, SERVERS


@dataclass(frozen=True)
class Spread:
    """Of one figure over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values):
        """``None`` where there are no values."""
        values = [value for value in values if value is not None]
        return cls(statistics.median(values), min(values), max(values)) if values else None


def spread(samples, key):
    return Spread.of([sample.get(key) for sample in samples])


def ratio(samples, others, key):
    """Of the same round's figures, as the machine is not equally fast in all."""
    return Spread.of(
        [
            sample[key] / other[key]
            for sample, other in zip(samples, others, strict=True)
            if sample.get(key) is not None and other.get(key)
        ]
    )


def failures(samples):
    """How many connections failed, and what the first said; nothing where none did."""
    failed = sum(sample["failed"] for sample in samples)
    return f"{failed} failed: {next(sample['error'] for sample in samples if sample['failed'])}" if failed else ""


def best(row, key, most=False):
    """The label of the Python peer that is best in a row."""
    peers = {label: spread(row[label], key) for label in row if label in SERVERS and SERVERS[label].is_python}
    peers = {label: each.median for label, each in peers.items() if each}
    return (max if most else min)(peers, key=peers.get) if peers else None


BEST = "best Python peer"


@dataclass(frozen=True)
class Goal:
    """
    A figure that must be reached.

    :ivar title: what it is.
    :ivar where: its case, row and key.
    :ivar against: the label of what it is a ratio to, or `BEST`; ``None`` for a figure by itself.
    :ivar bound: the most that it may be, or with `at_least` the least.
    :ivar label: whose figure it is.
    """

    title: str
    where: tuple[str, str, str]
    against: str | None
    bound: float
    at_least: bool = False
    label: str = OURS

    def measured(self, cases):
        """The label that it is measured against, and the `Spread`; ``None`` where it was not measured."""
        case, row, key = self.where
        samples = cases.get(case, {}).get(row, {})
        if self.against is None:
            return None, spread(samples.get(self.label, ()), key)
        against = best(samples, key, self.at_least) if self.against == BEST else self.against
        if self.label not in samples or against not in samples:
            return against, None
        return against, ratio(samples[self.label], samples[against], key)

    def failures(self, cases):
        """What failed where it is from, as nothing is met with less work than the others did."""
        case, row, _ = self.where
        return failures(cases[case][row][self.label])

    def is_met(self, measured):
        return measured.median >= self.bound if self.at_least else measured.median <= self.bound


_CPU = ("connections", "no authentication", "cpu_us")
_GB = ("bulk", "4 up", "cpu_gb")
_BY_PROTOCOL = f"{OURS}, by protocol, a name"
_CLIENT = ("client", "through microsocks", "cpu_us")

GOALS = (
    Goal("CPU a connection, no authentication", _CPU, "microsocks", 1.1),
    Goal("CPU a connection, no authentication", _CPU, PLAIN, 0.65),
    Goal("CPU a connection, no authentication", _CPU, BEST, 0.55),
    Goal(
        "CPU a connection, 0x97 with 4 pairs",
        ("connections", f"{OURS}, by method", "cpu_us"),
        "no authentication",
        1.20,
        label="0x97, 4 pairs",
    ),
    *(
        Goal(f"CPU a connection, {label}", ("connections", _BY_PROTOCOL, "cpu_us"), "SOCKS5", bound, label=label)
        for label, bound in (("SOCKS4", 1.1), ("HTTP CONNECT", 1.5))
    ),
    Goal("connections a second", ("connections", "no authentication", "per_second"), BEST, 1.8, at_least=True),
    Goal("CPU a GB, 4 streams up", _GB, PLAIN, 0.40),
    Goal("CPU a GB, 4 streams up", _GB, "haproxy", 0.45),
    Goal("CPU a GB, 4 streams up", _GB, "dante", 0.55),
    Goal("Gbit/s, 4 streams up", ("bulk", "4 up", "gbit"), "dante", 1.4, at_least=True),
    Goal("KB of memory an idle tunnel, 5,000 of them", ("tunnels", "1 to 5,000", "tunnel_kb_5000"), None, 1.5),
    Goal("client: CPU a connection", _CLIENT, "txtorcon", 0.55),
    Goal("client: CPU a connection", _CLIENT, "python-socks", 0.80),
    Goal(
        "connections a second beside 2,000 slow handshakes, to those without",
        ("slow", "2000 handshakes held", "kept"),
        None,
        0.85,
        at_least=True,
    ),
)


def headroom(cases):
    """
    How far the generator and the target are from being the limit.

    :returns: for connections and for bytes, the rate without a proxy over that of the fastest proxy; ``None`` where
        it was not measured.
    """
    return {
        key: _headroom(cases.get(case, {}).get(row, {}), key)
        for case, row, key in (
            ("connections", "no authentication", "per_second"),
            ("bulk", "4 up", "gbit"),
        )
    }


def _headroom(row, key):
    rates = {label: each.median for label in row if (each := spread(row[label], key))}
    direct = rates.pop(DIRECT, None)
    return direct / max(rates.values()) if direct and rates else None
