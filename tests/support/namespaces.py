"""Programs in a network namespace of their own."""

import subprocess

import pytest

from support.programs import IN_CI, need

LINK_LOCAL = "fe80::1"
"""An address of lo in `own_network`. Without its scope, ``%lo``, nothing can connect to it."""

_SET_UP = f'ip link set lo up && ip address add {LINK_LOCAL}/64 dev lo nodad && exec "$@"'


def own_network():
    """
    What to put before a command, so that it runs in a network with nothing but lo; sockets in files are shared.

    Where the system allows no namespaces, the test is skipped; in CI that is a failure.
    """
    need("ip", "iproute2")
    prefix = [need("unshare", "util-linux"), "--map-root-user", "--net", "sh", "-c", _SET_UP, "sh"]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, timeout=30)
    if tried.returncode:
        message = f"no network namespace: {tried.stderr.strip()}"
        if IN_CI:
            pytest.fail(message)
        pytest.skip(message)
    return prefix
