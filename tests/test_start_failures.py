"""A server that cannot start says why, in one line."""

import socket
import sys

import pytest
from examples.raw_peers import settles
from support import warm_python
from support.certificates import Authority
from support.namespaces import own_network
from support.programs import free_port, need

TWISTD = "from twisted.scripts.twistd import run; run()"
TWIST = "from twisted.application.twist._twist import Twist; Twist.main()"


def run(*arguments, before="", of_twistd=("-n", "--pidfile="), command=TWISTD, prefix=()):
    """Run a server that ends by itself."""
    command = [*prefix, sys.executable, "-c", before + command, *of_twistd, "socks5ext", *arguments]
    return warm_python.run(command, cwd="/")


def why(*arguments, **kwargs):
    """The one line in which a server says why it does not start."""
    ended = run(*arguments, **kwargs)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    # What is logged before it cannot be taken back.
    begun = ("starting up", "reactor class", "starting on")
    assert [each for each in ended.stdout.splitlines() if not any(word in each for word in begun)] == []
    (line,) = ended.stderr.splitlines()
    assert line.startswith("socks5ext: ")
    return line


@pytest.fixture
def taken():
    """A port in use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


WORKERS = pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one process", "workers"])


# Listeners.


@WORKERS
def test_a_port_in_use(taken, workers):
    listener = f"tcp:{taken}:interface=127.0.0.1"
    assert why("--listen", listener, *workers) == f"socks5ext: cannot listen on {listener}: Address already in use"


@WORKERS
def test_a_port_in_use_among_others(taken, workers):
    free = f"tcp:{free_port()}:interface=127.0.0.1"
    listener = f"tcp:{taken}:interface=127.0.0.1"
    assert listener in why("--listen", free, "--listen", listener, *workers)


@WORKERS
@pytest.mark.parametrize(
    ("listener", "reason"),
    [
        ("unix:{folder}/missing/socks", "No such file or directory"),
        ("unix:{folder}/" + 120 * "x", "AF_UNIX path too long"),
        ("unix:{folder}", "in use"),
        ("haproxy:unix:{folder}/missing/socks", "No such file or directory"),
        ("tcp:0:interface=198.51.100.1", "Cannot assign requested address"),
        ("tcp:0:interface=no-such-host.invalid", "not known"),
    ],
)
def test_a_listener_that_the_system_refuses(listener, reason, workers, tmp_path):
    listener = listener.format(folder=tmp_path)
    line = why("--allow-remote", "--listen", listener, *workers)
    assert line.startswith(f"socks5ext: cannot listen on {listener}: ")
    assert reason in line


@pytest.mark.parametrize("listener", ["tcp:1:interface=127.0.0.1", "unix:{folder}/socks"])
@WORKERS
def test_a_listener_that_this_user_may_not_open(listener, workers, tmp_path):
    # In a network of its own, since a container may let every user open every port.
    unprivileged = [*own_network(), need("setpriv", "util-linux"), "--bounding-set=-net_bind_service,-dac_override"]
    tmp_path.chmod(0o500)
    line = why("--listen", listener.format(folder=tmp_path), *workers, prefix=unprivileged)
    assert line.endswith(": Permission denied")


def test_keys_and_certificates_that_are_none(tmp_path):
    begin = b"-----BEGIN CERTIFICATE"
    for name in ("first", "second"):
        key, certificate = Authority().issue("localhost").split(begin)
        (tmp_path / f"{name}.key").write_bytes(key)
        (tmp_path / f"{name}.crt").write_bytes(begin + certificate)
    (tmp_path / "junk").write_text("no key")
    for key, certificate, reason in (
        ("none", "first.crt", f"{tmp_path}/none: No such file or directory"),
        ("first.key", "none", f"{tmp_path}/none: No such file or directory"),
        ("junk", "first.crt", "OpenSSL: "),
        ("first.key", "junk", "OpenSSL: "),
        ("first.key", "second.crt", "do not match"),
    ):
        listener = f"ssl:0:privateKey={tmp_path}/{key}:certKey={tmp_path}/{certificate}"
        line = why("--listen", listener)
        assert line.startswith(f"socks5ext: --listen {listener} cannot be opened: ")
        assert reason in line


# Options.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--handshake-timeout", "soon"], "--handshake-timeout is a number of seconds above 0, not 'soon'"),
        (["--nonsense"], "--nonsense"),
        (["nonsense"], "unexpected argument 'nonsense'"),
        (["--auth"], "--auth"),
        (["--auth", "nothing"], "--auth nothing"),
        (["--auth", "memory:alice"], "--auth memory"),
        (["--auth", "hashed:/nowhere/at/all"], "/nowhere/at/all"),
        (["--help-auth-type", "nothing"], "nothing"),
        (["--route", "nonsense"], "PATTERN=ROUTE"),
        (["--route", "*=nowhere"], "nowhere"),
        (["--route", "*=socks:127.0.0.1:1:username=u:password-file=/nowhere/at/all"], "/nowhere/at/all"),
        (["--route", "*=transport:obfs4:exec=/nowhere/at/all"], "there is no program /nowhere/at/all"),
        (["--route", "*=transport:obfs4:exec=/etc/passwd"], "there is no program /etc/passwd, or it may not be run"),
        (["--route", "*=tor:launch:exec=/nowhere/at/all"], "there is no program /nowhere/at/all"),
        (["--route", f"*=tor:launch:exec={sys.executable}:torrc=/nowhere/at/all"], "/nowhere/at/all: No such file"),
        (["--listen", "tcp:1080"], "--allow-remote"),
        (["--listen", "nothing:1080"], "nothing"),
        (["--listen", "tcp:1:\n"], "--listen"),
        (["--workers", "none"], "--workers"),
    ],
)
def test_an_option(arguments, said):
    assert said in why(*arguments)


@WORKERS
def test_an_option_under_twist(workers):
    assert "--route: " in why(*workers, "--route", "nonsense", of_twistd=(), command=TWIST)


def test_help_is_no_failure():
    for arguments in (["--help"], ["--help-auth"], ["--version"]):
        assert run(*arguments).returncode == 0


# What twistd itself opens.


@pytest.mark.parametrize("option", ["--logfile=/nowhere/at/all", "--rundir=/nowhere/at/all"])
def test_a_path_of_twistds_own_options(option):
    assert why(of_twistd=["-n", "--pidfile=", option]) == "socks5ext: /nowhere/at/all: No such file or directory"


# Where it is said.


def test_under_twist_too(taken):
    listener = f"tcp:{taken}:interface=127.0.0.1"
    line = why("--listen", listener, of_twistd=(), command=TWIST)
    assert line == f"socks5ext: cannot listen on {listener}: Address already in use"


def test_in_the_log_too_where_that_is_a_file(taken, tmp_path):
    log = tmp_path / "served.log"
    line = why("--listen", f"tcp:{taken}:interface=127.0.0.1", of_twistd=["-n", "--pidfile=", f"--logfile={log}"])
    (logged,) = (each for each in log.read_text().splitlines() if "does not start" in each)
    assert logged.endswith(line.removeprefix("socks5ext: "))
    assert "Traceback" not in log.read_text()


def test_of_a_daemon_in_its_log_and_by_its_starter(taken, tmp_path):
    log, pid = tmp_path / "served.log", tmp_path / "pid"
    listener = f"tcp:{taken}:interface=127.0.0.1"
    ended = run("--listen", listener, of_twistd=[f"--logfile={log}", f"--pidfile={pid}", f"--rundir={tmp_path}"])
    assert ended.returncode == 1
    assert f"cannot listen on {listener}" in ended.stderr
    # Its starter ends first.
    assert settles(lambda: "does not start" in log.read_text())
    assert f"does not start: cannot listen on {listener}: Address already in use" in log.read_text()
    assert "Traceback" not in ended.stderr + log.read_text()
    assert not pid.exists()


def test_a_fault_of_the_program_keeps_its_traceback():
    raising = """
from txsocksx_ext.server.service import SOCKS5ExtService
def startService(self): raise RuntimeError("a fault")
SOCKS5ExtService.startService = startService
"""
    ended = run("--listen", "tcp:0:interface=127.0.0.1", before=raising)
    assert ended.returncode == 1
    assert "Traceback" in ended.stdout + ended.stderr
    assert "a fault" in ended.stdout + ended.stderr


def test_a_server_that_starts_says_nothing_of_it(socks5ext, tmp_path):
    server = socks5ext(before=f"import sys; sys.argv[1:1] = ['--logfile={tmp_path}/served.log']")
    server.stop()
    assert server.output == ""
