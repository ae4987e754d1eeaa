"""
The metrics of a server in the text format of Prometheus, version 0.0.4.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import NamedTuple

from .. import __version__
from .stats import CONNECT_BOUNDS, Kind, Totals
from .status import Status, StatusSource
from .users import TooManyConnectionsOfUser

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

REFUSED_LOGINS = frozenset({"authentication failed", "no acceptable method", "invalid arguments"})
"""The ends of connections whose client was not let in."""


class Metric(NamedTuple):
    """The type of a metric, its labels, and what it is."""

    type: str
    labels: tuple[str, ...]
    help: str


METRICS = {
    name: Metric(kind, tuple(labels.split()), help)
    for name, kind, labels, help in (
        ("socks5ext_connections", "gauge", "protocol", "Open connections of clients."),
        ("socks5ext_connections_total", "counter", "protocol", "Connections that were accepted."),
        ("socks5ext_handshakes_failed_total", "counter", "protocol reason", "Connections without a request."),
        ("socks5ext_authentications_total", "counter", "method outcome", "Logins: accepted, refused."),
        ("socks5ext_requests_total", "counter", "protocol command route reply", "Requests with a reply, or with none."),
        ("socks5ext_connect_duration_seconds", "histogram", "route", "Time to the reply of a request that succeeded."),
        ("socks5ext_relayed_bytes_total", "counter", "direction route", "Bytes to targets (up) and to clients (down)."),
        ("socks5ext_refused_connections_total", "counter", "limit", "Connections that were closed by a limit."),
        ("socks5ext_tor_bootstrap_ratio", "gauge", "tor", "How far tor has bootstrapped, by its control port."),
        ("socks5ext_tor_up", "gauge", "tor", "Whether tor can be used."),
        ("socks5ext_transport_up", "gauge", "name", "Whether a pluggable transport is ready."),
        ("socks5ext_config_reloads_total", "counter", "outcome", "Reloads of the configuration: succeeded, failed."),
        ("socks5ext_config_last_reload_success_timestamp_seconds", "gauge", "", "When the configuration was read."),
        ("socks5ext_draining", "gauge", "", "Whether the server was told to stop."),
        ("socks5ext_build_info", "gauge", "version", "1, for the version."),
        ("process_cpu_seconds_total", "counter", "", "CPU time of all processes."),
        ("process_resident_memory_bytes", "gauge", "", "Resident memory of all processes."),
        ("process_open_fds", "gauge", "", "Open file descriptors of all processes."),
        ("process_start_time_seconds", "gauge", "", "When the server started, in seconds since 1970."),
    )
}
"""All metrics, by name."""

_Samples = defaultdict[str, Counter[tuple[str, ...]]]


def metrics_text(status: Status, source: StatusSource, started: float) -> str:
    """
    Return the page of metrics.

    :param status: that of `source`.
    :param started: when the server started, in seconds since 1970.
    """
    samples: _Samples = defaultdict(Counter)
    durations: dict[str, Totals] = defaultdict(Totals)
    samples["socks5ext_refused_connections_total"]["max-connections",] = status.counters.refused
    for kind, totals in status.counters.kinds.items():
        _add_kind(Kind(*kind), totals, samples)
        if totals.connect_seconds:
            durations[kind[3]].add(totals)
    for part in status.parts:
        up = "socks5ext_transport_up" if part.kind == "transport" else "socks5ext_tor_up"
        samples[up][part.name,] = int(part.is_up)
        if part.bootstrap is not None:
            samples["socks5ext_tor_bootstrap_ratio"][part.name,] = part.bootstrap  # type: ignore[assignment]
    process, reloads = status.process, source.reloads
    samples["socks5ext_config_reloads_total"].update({("succeeded",): reloads.succeeded, ("failed",): reloads.failed})
    single = {
        "socks5ext_config_last_reload_success_timestamp_seconds": reloads.last_success,
        "socks5ext_draining": source.is_stopping,
        "process_cpu_seconds_total": process["cpu"],
        "process_resident_memory_bytes": process["memory"],
        "process_open_fds": process["descriptors"],
        "process_start_time_seconds": started,
    }
    for name, value in single.items():
        samples[name][()] = value  # type: ignore[assignment]
    samples["socks5ext_build_info"][__version__,] = 1
    return "".join(_lines(samples, durations))


def _add_kind(kind: Kind, totals: Totals, samples: _Samples) -> None:
    """
    Add the connections of one kind to what they count for.

    An open connection (its end is empty) counts only for what is final: a counter never decreases.
    """
    count, is_final = totals.connections, bool(kind.end)
    if not is_final:
        samples["socks5ext_connections"][kind.protocol,] += count
    if kind.protocol or is_final:
        samples["socks5ext_connections_total"][kind.protocol,] += count
    if kind.end == TooManyConnectionsOfUser.__name__:
        samples["socks5ext_refused_connections_total"]["max-per-user",] += count
    if kind.command:
        samples["socks5ext_authentications_total"][kind.method, "accepted"] += count
        if kind.code is not None or is_final:
            reply = "none" if kind.code is None else f"{kind.code:02X}"
            samples["socks5ext_requests_total"][kind.protocol, kind.command, kind.route, reply] += count
    elif is_final:
        reason = kind.end.partition(":")[0]
        samples["socks5ext_handshakes_failed_total"][kind.protocol, reason] += count
        if reason in REFUSED_LOGINS:
            samples["socks5ext_authentications_total"][kind.method or "none", "refused"] += count
        if reason == "too many connections of this peer":
            samples["socks5ext_refused_connections_total"]["max-per-peer",] += count
    if kind.route:
        samples["socks5ext_relayed_bytes_total"]["up", kind.route] += totals.up
        samples["socks5ext_relayed_bytes_total"]["down", kind.route] += totals.down


def _lines(samples: _Samples, durations: Mapping[str, Totals]) -> Iterator[str]:
    for name, metric in METRICS.items():
        yield f"# HELP {name} {metric.help}\n# TYPE {name} {metric.type}\n"
        if metric.type == "histogram":
            for route, totals in durations.items():
                yield from _histogram(name, route, totals)
        for labels, value in samples[name].items():
            yield _line(name, dict(zip(metric.labels, labels, strict=True)), value)


def _histogram(name: str, route: str, totals: Totals) -> Iterator[str]:
    counts = list(accumulate(totals.connect_times))
    for bound, count in zip((*map(str, CONNECT_BOUNDS), "+Inf"), counts, strict=True):
        yield _line(f"{name}_bucket", {"route": route, "le": bound}, count)
    yield _line(f"{name}_sum", {"route": route}, totals.connect_seconds)
    yield _line(f"{name}_count", {"route": route}, counts[-1])


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{shown}}} {value:.17g}\n" if shown else f"{name} {value:.17g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
