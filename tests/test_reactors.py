"""What stands beside the reactor's own way of serving sockets works in every kind of reactor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize("chosen", ["asyncio", "uvloop"])
def test_relays_and_sockets_in_another_reactor(chosen):
    """The same tests, in a process of their own, with servers on the same kind of reactor."""
    tests = sorted({*TESTS.glob("test_relay_*.py"), *TESTS.glob("test_net_*.py")})
    assert tests
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, tests)],
        env={**os.environ, "TESTS_REACTOR": chosen},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-5_000:]
