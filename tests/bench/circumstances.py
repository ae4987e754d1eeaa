"""When, where and of what the samples are."""

import os
import platform
import re
import sys
import time
from pathlib import Path

from bench.servers import SERVERS, debian_version, package_version


def circumstances(rounds):
    """What the documentation says of a run: nothing that names the machine."""
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.M)
    servers = {name: each.version() for name, each in SERVERS.items() if each.is_here() and each.is_proxy}
    servers["Twisted"] = servers.pop("plain Twisted")
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": re.match(r"[\d.]*\d", platform.release())[0],
        "python": f"{platform.python_version()}, {_whose_python()}",
        "versions": {**servers, **{name: package_version(name) for name in ("uvloop", "txtorcon", "python-socks")}},
        "rounds": rounds,
    }


def _whose_python():
    """One that is compiled as it comes, as pyenv does, lacks the optimization by profile that distributions make."""
    return "of a Debian package" if debian_version(os.path.realpath(sys.executable)) else "of no Debian package"
