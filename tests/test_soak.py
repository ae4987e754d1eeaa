"""Many connections, some of them in trouble: all are served right, and nothing is kept. See `bench.soak`."""

import json
import subprocess
import sys

import pytest
from bench.soak import Soak
from bench.workers import environment
from support.reactors import BEFORE_TWISTD
from support.workers import settles

CONNECTIONS = 1500
BLOCKS_EACH = 0.4
"""Where each connection left one object behind, there would be one block more each; without, there are hardly any."""
BYTES_EACH = 4000
"""What is too large for Python's own allocator does not count as a block."""

OF_EVERY_CONNECTION_ONE_OBJECT_IS_KEPT = """
from txsocksx_ext.server.factory import SOCKS5ExtFactory

kept = []
def connection_closed(self, connection, original=SOCKS5ExtFactory.connection_closed):
    kept.append(object())
    original(self, connection)
SOCKS5ExtFactory.connection_closed = connection_closed
"""


def failed(*several):
    return [got["error"] for got in several if got["failed"]]


def descriptors(held):
    return [each.descriptors for each in held.values()]


def growth(before, after, what):
    """How much more each process holds."""
    return [getattr(after[process], what) - getattr(before[process], what) for process in before]


@pytest.mark.parametrize("workers", [1, 2])
def test_mixed_load_leaves_nothing_behind(workers):
    with Soak(workers=workers, before=BEFORE_TWISTD) as soak:
        assert failed(*soak.warm_up()) == []
        before = soak.held()
        assert failed(soak.send(CONNECTIONS)) == []
        assert settles(lambda: descriptors(soak.held()) == descriptors(before))
        after = soak.held()
        assert soak.surprises_in_log() == {}
    assert len(before) == (1 if workers == 1 else 1 + workers)
    assert max(growth(before, after, "blocks")) < CONNECTIONS * BLOCKS_EACH
    assert max(growth(before, after, "memory")) < CONNECTIONS * BYTES_EACH


def test_one_object_of_each_connection_would_be_seen():
    with Soak(before=BEFORE_TWISTD + OF_EVERY_CONNECTION_ONE_OBJECT_IS_KEPT) as soak:
        soak.warm_up()
        before = soak.held()
        soak.send(500)
        assert max(growth(before, soak.held(), "blocks")) > 500 * BLOCKS_EACH


def test_it_is_a_case_of_the_bench(tmp_path):
    command = [sys.executable, "-m", "bench", "soak", "--only=two workers", "--rounds=1", "--scale=0.002"]
    done = subprocess.run(
        [*command, f"--folder={tmp_path}"], env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (sample,) = json.loads((tmp_path / "speed.json").read_text())["cases"]["soak"]["mixed load"]["two workers"]
    assert (sample["failed"], sample["error"]) == (0, None)
    # A supervisor and two workers, when they were warm and at three times after that.
    assert [len(held) for held in sample["processes"]] == [4] * 3
    assert done.stdout.count("two workers") == 3
