"""Programs that offer both no authentication and a login: nobody is asked for a password that no server needs."""

import subprocess

import pytest
from support.peers import peer, version_from
from support.programs import has_written, need, twistd
from support.targets import Target, echo, programs

HELLO = b"hello through the proxy\n"


@pytest.fixture(scope="module")
def server():
    """Lets everyone in."""
    with programs() as start:
        yield twistd(start)


def plink(server, port, home):
    """PuTTY's command, which takes a proxy from a saved session."""
    sessions = home / ".putty" / "sessions"
    sessions.mkdir(parents=True)
    (sessions / "proxied").write_text(
        f"ProxyMethod=2\nProxyHost=127.0.0.1\nProxyPort={server.port}\nProxyLocalhost=1\n"
    )
    return [need("plink", "putty-tools"), "-load", "proxied", "-raw", "-P", str(port), "127.0.0.1"]


def connect_proxy(server, port, home):
    return [need("connect-proxy"), "-S", f"127.0.0.1:{server.port}", "127.0.0.1", str(port)]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(plink, marks=peer("PuTTY's plink", version_from("plink", "-V"))),
        pytest.param(connect_proxy, marks=peer("connect-proxy", version_from("connect-proxy", "-V"))),
    ],
)
def test_nobody_is_asked_for_a_user_name(server, tmp_path, command):
    with Target(echo) as target:
        # A session of its own has no terminal to ask on.
        done = subprocess.run(
            command(server, target.port, tmp_path),
            input=HELLO,
            capture_output=True,
            timeout=30,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            start_new_session=True,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, HELLO, b"")
    assert has_written(server, f"method=NO_AUTHENTICATION route=direct relay=epoll code=00 up={len(HELLO)}")
