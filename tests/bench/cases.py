"""
What is measured.

Each case has rows, and each row something to measure for each server or client: a function of the `Machinery` and of
seconds, which returns a sample. A sample is a dictionary: the figures of `bench.report.UNITS`, how many connections
``failed``, and the first ``error``.
"""

import json
import subprocess
import sys
import time
from functools import partial

from bench import soak
from bench.clients import CLIENTS
from bench.running import WARM_UP
from bench.servers import OURS, SERVERS
from bench.workers import environment

AT_ONCE = 50
BURST = 1000
SLOW = 2000
TUNNELS = (100, 1000, 5000)
EXCHANGES = (1, *TUNNELS)
STREAMS = (1, 4, 64)
MAIN_BULK = (4, "up")
"""The streams and the direction that figures are demanded of: it gets more time."""
KINDS = {"up": "sink", "down": "source", "both": "both"}


def servers(dialect="none"):
    """Those that are here and speak a dialect; for one that speaks none it is all the same."""
    return [name for name, each in SERVERS.items() if each.is_here() and dialect in (each.dialects or ("none",))]


def proxies():
    return [name for name in servers() if SERVERS[name].is_proxy]


def _failures(*outcomes):
    """Of all of them together, as a sample has them."""
    errors = [each["error"] for each in outcomes if each["failed"]]
    return {"failed": sum(each["failed"] for each in outcomes), "error": errors[0] if errors else None}


def _load(machinery, running, steps, seconds):
    """Connections, 50 at a time; what the generator says of them."""
    return machinery.generator.call(
        "connections", port=running.ports["echo"], script=steps, seconds=seconds, at_once=AT_ONCE
    )


# Connections.


def connections(machinery, seconds, name, dialect="none", host="127.0.0.1"):
    """The handshake, one byte there and back, close."""
    running = machinery.server(name, dialect)
    steps = machinery.script(running, dialect, "echo", host)
    with machinery.used(running) as used:
        got = _load(machinery, running, steps, seconds)
    done = got["done"]
    if not done:
        return _failures(got)
    return {
        "per_second": done / got["seconds"],
        "cpu_us": used["cpu"] / done * 1e6,
        "loads_us": used["workers"] / done * 1e6,
        **_failures(got),
    }


BY_PROTOCOL = {"SOCKS5": "none", "SOCKS4": "socks4", "HTTP CONNECT": "http"}


def connection_rows():
    of_ours = {
        "no authentication": "none",
        "RFC 1929": "login",
        "0x97, 4 pairs": "pairs-4",
        "0x97, 20 pairs": "pairs-20",
    }
    return {
        "no authentication": {name: partial(connections, name=name) for name in servers()},
        "RFC 1929": {name: partial(connections, name=name, dialect="login") for name in servers("login")},
        "a name": {
            name: partial(connections, name=name, host="localhost") for name in servers() if SERVERS[name].dialects
        },
        f"{OURS}, by method": {
            label: partial(connections, name=OURS, dialect=dialect) for label, dialect in of_ours.items()
        },
        **{
            f"{OURS}, by protocol, {what}": {
                label: partial(connections, name=OURS, dialect=dialect, host=host)
                for label, dialect in BY_PROTOCOL.items()
            }
            for what, host in (("an address", "127.0.0.1"), ("a name", "localhost"))
        },
    }


# Bytes.


def bulk(machinery, seconds, name, streams, direction):
    """As many bytes as go through, from buffers of 256 KB."""
    if (streams, direction) != MAIN_BULK:
        seconds /= 2
    running = machinery.server(name)
    kind = KINDS[direction]
    machinery.target.call("begin", seconds=seconds)
    steps = machinery.script(running, "none", kind, and_byte=False)
    with machinery.used(running) as used:
        got = machinery.generator.call(
            "bulk", port=running.ports[kind], script=steps, streams=streams, direction=direction, seconds=seconds
        )
        counted = machinery.target.call("counted", patience=machinery.patience)
    gigabytes = (got["bytes"] + counted["bytes"]) / 1e9
    if not gigabytes:
        return _failures(got, counted)
    took = max(got["last"], counted["last"]) - got["began"]
    return {
        "gbit": gigabytes * 8 / took,
        "cpu_gb": used["cpu"] / gigabytes,
        "loads_gb": used["workers"] / gigabytes,
        **_failures(got, counted),
    }


def bulk_rows():
    return {
        f"{count} {direction}": {
            name: partial(bulk, name=name, streams=count, direction=direction) for name in servers()
        }
        for direction in KINDS
        for count in STREAMS
    }


# Many tunnels.


def tunnels(machinery, seconds, name):
    """The memory of idle tunnels, and what it costs to use them in turn, in a server of its own."""
    with machinery.fresh(name) as running:
        sample = Tunnels(machinery, running, seconds / 4)
        try:
            sample.measure()
        except Broken as broken:
            return {**sample.figures, **broken.args[0]}
        finally:
            machinery.generator.call("release")
    return {**sample.figures, "failed": 0, "error": None}


class Broken(Exception):
    """What comes next would not be what it says."""


class Tunnels:
    """One sample of the case, as far as it gets."""

    def __init__(self, machinery, running, seconds):
        self.machinery = machinery
        self.running = running
        self.seconds = seconds
        self.steps = machinery.script(running, "none", "echo")
        self.figures = {}

    def measure(self):
        _load(self.machinery, self.running, self.steps, WARM_UP)
        time.sleep(0.2)
        before = self.running.memory_bytes()
        for count in TUNNELS:
            self._hold(count)
            time.sleep(0.1)
            self.figures[f"tunnel_kb_{count}"] = (self.running.memory_bytes() - before) / count / 1024
        self._exchange(TUNNELS[-1])
        self.machinery.generator.call("release")
        time.sleep(0.3)
        for count in EXCHANGES[:-1]:
            self._hold(count)
            self._exchange(count)

    def _hold(self, count):
        self._check(
            self.machinery.generator.call("hold", port=self.running.ports["echo"], script=self.steps, count=count)
        )

    def _exchange(self, count):
        with self.machinery.used(self.running) as used:
            got = self.machinery.generator.call("exchange", seconds=self.seconds, size=1024, at_once=AT_ONCE)
        self._check(got)
        self.figures[f"message_us_{count}"] = used["cpu"] / got["done"] * 1e6
        self.figures[f"messages_{count}"] = got["done"] / got["seconds"]

    def _check(self, got):
        if got["failed"]:
            raise Broken(_failures(got))


# Latency.


def latency(machinery, seconds, name):
    """New connections one after another, while others are opened and closed, 50 at a time."""
    running = machinery.server(name)
    steps = machinery.script(running, "none", "echo")
    port = running.ports["echo"]
    with machinery.loaded("connections", port=port, script=steps, seconds=seconds, at_once=AT_ONCE) as load:
        got = machinery.beside.call("connections", port=port, script=steps, seconds=seconds * 0.8, at_once=1)
    return _times(got, load)


def latency_of_bytes(machinery, seconds, name):
    """A byte there and back on an open stream, while four others are full."""
    running = machinery.server(name)
    steps = machinery.script(running, "none", "echo")
    machinery.beside.call("hold", port=running.ports["echo"], script=steps, count=1)
    full = machinery.script(running, "none", "sink", and_byte=False)
    machinery.target.call("begin", seconds=seconds)
    port = running.ports["sink"]
    with machinery.loaded("bulk", port=port, script=full, streams=4, direction="up", seconds=seconds) as load:
        time.sleep(seconds * 0.1)
        got = machinery.beside.call("exchange", seconds=seconds * 0.8, size=1, at_once=1)
    machinery.beside.call("release")
    return _times(got, load)


def _times(*outcomes):
    """Those of the first, and the failures of all."""
    times = {f"{share}_ms": outcomes[0][share] and outcomes[0][share] * 1000 for share in ("p50", "p99")}
    return {**times, **_failures(*outcomes)}


def burst(machinery, seconds, name):
    """Connections that all come at once; the time until each had its byte."""
    running = machinery.server(name)
    steps = machinery.script(running, "none", "echo")
    return _times(machinery.generator.call("burst", port=running.ports["echo"], script=steps, count=BURST))


def latency_rows():
    return {
        f"a connection, beside {AT_ONCE} others": {name: partial(latency, name=name) for name in proxies()},
        "a byte, beside 4 full streams": {name: partial(latency_of_bytes, name=name) for name in proxies()},
        f"{BURST} connections at once": {name: partial(burst, name=name) for name in proxies()},
    }


# Slow clients.


def slow(machinery, seconds, name):
    """The rate of connections beside clients that have sent one byte and no more, and without them."""
    running = machinery.server(name)
    steps = machinery.script(running, "none", "echo")
    alone = _load(machinery, running, steps, seconds)
    held = machinery.beside.call("hold", port=running.ports["echo"], script=[("05", "")], count=SLOW)
    beside = _load(machinery, running, steps, seconds)
    machinery.beside.call("release")
    time.sleep(0.5)
    rate_alone, rate = (got["done"] / got["seconds"] for got in (alone, beside))
    return {
        "per_second": rate,
        "kept": rate / rate_alone if rate_alone else None,
        **_failures(held, alone, beside),
    }


def slow_rows():
    return {f"{SLOW} handshakes held": {name: partial(slow, name=name) for name in proxies() if SERVERS[name].dialects}}


# Clients.


def client(machinery, seconds, name):
    """Connections through microsocks, 20 at a time, with a byte there and back."""
    running = machinery.server("microsocks")
    command = [sys.executable, "-m", "bench.clients", name, running.ports["echo"], machinery.targets["echo"], seconds]
    done = subprocess.run(
        [str(each) for each in command], env=environment(), stdout=subprocess.PIPE, check=True, timeout=seconds + 60
    )
    return json.loads(done.stdout)


def client_rows():
    here = CLIENTS if SERVERS["microsocks"].is_here() else ()
    return {"through microsocks": {name: partial(client, name=name) for name in here}}


CASES = {
    "connections": connection_rows,
    "bulk": bulk_rows,
    "tunnels": lambda: {"1 to 5,000": {name: partial(tunnels, name=name) for name in proxies()}},
    "latency": latency_rows,
    "slow": slow_rows,
    "client": client_rows,
}
"""The rows of each case, by its name."""

PARTS = {"connections": 4}
"""
Into how many parts a measurement of a case is divided, each in turn with those of the others: what a second on a shared
machine is like says little of the next one.
"""
PART = 0.5
"""Of the time of a whole measurement, that of each part."""

ON_REQUEST = {"soak": soak.rows}
"""The same of those that are measured only where they are named."""
