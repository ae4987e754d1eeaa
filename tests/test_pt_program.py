"""A program with transports of ours, as a child: its lines, its end, and parents that misbehave."""

import contextlib
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import warm_python
from support.programs import free_port, need

from txsocksx_ext.pt.extorport import COOKIE_HEADER
from txsocksx_ext.transports.environment import ClientEnvironment, ServerEnvironment
from txsocksx_ext.transports.upstream import UpstreamProxy

PROGRAM = Path(__file__).parent / "examples" / "odd_transports.py"
EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
PATIENCE = 40.0
"""Seconds for what takes a moment on a machine that does nothing else."""


class Child:
    """One such program; its stdin is in our hand."""

    def __init__(self, environ, program=PROGRAM, **more):
        self.process = warm_python.Popen(
            [sys.executable, str(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("TOR_PT_")} | environ | more,
            bufsize=0,
        )
        self.heard = b""

    def lines(self, last=b"METHODS DONE"):
        """All that it says, up to a line that ends like this."""
        deadline = time.monotonic() + PATIENCE
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not re.search(re.escape(last) + rb"$", self.heard, re.MULTILINE):
                assert selector.select(deadline - time.monotonic()), f"it said only {self.heard!r}"
                data = os.read(self.process.stdout.fileno(), 65536)
                assert data, f"it ended: {self.heard!r} {self.process.stderr.read()!r}"
                self.heard += data
        return self.heard.decode("ascii").splitlines()

    def method(self):
        """Where its one transport listens."""
        (line,) = (line for line in self.lines() if re.match("[CS]METHOD ", line))
        host, _, port = re.search(r"(\S+):(\d+)( ARGS|$)", line)[0].removesuffix(" ARGS").rpartition(":")
        return host, int(port)

    def ends(self):
        """How it ends: its status, and the rest that it said on stdout and on stderr."""
        said, errors = self.process.communicate(timeout=PATIENCE)
        self.heard += said
        return self.process.returncode, self.heard.decode("ascii").splitlines(), errors.decode()

    def close_stdin(self):
        self.process.stdin.close()
        # So that communicate() does not flush it.
        self.process.stdin = None


@pytest.fixture
def child():
    started = []

    def start(environ, *arguments, **more):
        each = Child(environ, *arguments, **more)
        started.append(each)
        return each

    yield start
    for each in started:
        with each.process as process:
            process.kill()


@pytest.fixture
def client(tmp_path):
    """The environment of a client's side."""

    def make(*transports, **settings):
        return ClientEnvironment(state_location=tmp_path / "state", transports=transports, **settings).variables()

    return make


@pytest.fixture
def server(tmp_path):
    """The environment of a bridge's side."""

    def make(*transports, **settings):
        settings.setdefault("or_port", ("127.0.0.1", free_port()))
        bound = dict.fromkeys(transports, ("127.0.0.1", 0)) | settings.pop("bind_addresses", {})
        return ServerEnvironment(
            state_location=tmp_path / "state", transports=transports, bind_addresses=bound, **settings
        ).variables()

    return make


def without_ports(lines):
    return [re.sub(r":\d+( |$)", r":PORT\1", line) for line in lines if not line.startswith("LOG")]


class TestLines:
    def test_a_client(self, child, client):
        environ = client("plain", "foreign", "server_only", "client_only", "broken", "faulty")
        assert without_ports(child(environ, SAYS_VERSION="1.2").lines()) == [
            "VERSION 1",
            "STATUS TYPE=version IMPLEMENTATION=odd_transports VERSION=1.2",
            "CMETHOD plain socks5 127.0.0.1:PORT",
            "CMETHOD-ERROR server_only it has no client",
            "CMETHOD client_only socks5 127.0.0.1:PORT",
            "CMETHOD-ERROR broken the moon is not full at [scrubbed]",
            "CMETHOD-ERROR faulty division by zero",
            "CMETHODS DONE",
        ]

    def test_a_name_that_no_transport_has_is_logged(self, child, client):
        status, said, errors = child(client("foreign", "plian")).ends()
        assert (status, errors) == (1, "")
        (log,) = (line for line in said if line.startswith("LOG"))
        assert log.startswith('LOG SEVERITY=warning MESSAGE="this program has no transport foreign, plian; it has ')
        assert [line for line in said if line != log] == ["VERSION 1", "CMETHODS DONE"]

    def test_a_version_that_is_no_text_is_refused_before_anything_is_said(self):
        script = "from txsocksx_ext.pt import run; run(version=1.2)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.endswith("TypeError: version must be str, not float\n")

    def test_a_client_with_a_proxy(self, child, client):
        environ = client("plain", proxy=UpstreamProxy("socks5", "192.0.2.1", 1080, "user", "word"))
        assert without_ports(child(environ).lines()) == [
            "VERSION 1",
            "PROXY DONE",
            "CMETHOD plain socks5 127.0.0.1:PORT",
            "CMETHODS DONE",
        ]

    def test_a_server(self, child, server):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            environ = server(
                *("plain", "foreign", "server_only", "client_only", "talkative", "unspeakable", "choosy"),
                *("unwilling", "broken"),
                bind_addresses={"plain": ("127.0.0.2", 0), "server_only": taken.getsockname()},
            )
            environ["TOR_PT_SERVER_TRANSPORT_OPTIONS"] = "choosy:number=many"
            assert without_ports(child(environ).lines()) == [
                "VERSION 1",
                "SMETHOD plain 127.0.0.2:PORT",
                "SMETHOD-ERROR server_only Couldn't listen on [scrubbed]: [Errno 98] Address already in use.",
                "SMETHOD-ERROR client_only it has no server",
                'STATUS TRANSPORT=talkative CONNECT=Success TEXT="with spaces"',
                r"SMETHOD talkative 127.0.0.1:PORT ARGS:a\=b=c\,d\\",
                "SMETHOD-ERROR unspeakable the arguments of a server transport are printable ASCII without spaces",
                "SMETHOD-ERROR choosy the transport does not take these arguments: invalid literal for int() with"
                " base 10: [scrubbed]",
                "SMETHOD-ERROR unwilling no device is free",
                "SMETHOD-ERROR broken the moon is not full at [scrubbed]",
                "SMETHODS DONE",
            ]

    @pytest.mark.parametrize("transports", [("foreign",), ("broken", "client_only")])
    def test_none_of_ours(self, child, server, transports):
        """It says so in full, and leaves."""
        status, lines, _ = child(server(*transports)).ends()
        assert status == 1
        assert lines[-1] == "SMETHODS DONE"

    def test_nothing_else_is_on_stdout(self, child, client):
        started = child(client("talkative"))
        started.lines()
        started.close_stdin()
        status, lines, errors = started.ends()
        assert status == 0
        printed = re.findall(r"^(?:printed|from).*", errors, re.MULTILINE)
        assert sorted(printed) == ["from a child", "printed, at 192.0.2.1"]
        assert {line.partition(" ")[0] for line in lines} == {"VERSION", "LOG", "STATUS", "CMETHOD", "CMETHODS"}

    @pytest.mark.parametrize("addresses", [False, True])
    def test_what_is_logged(self, child, client, addresses):
        started = child(client("talkative"), **({"LOGS_ADDRESSES": "1"} if addresses else {}))
        started.lines()
        started.close_stdin()
        _, lines, _ = started.ends()
        logged = [line for line in lines if line.startswith("LOG")]
        assert logged[0] == 'LOG SEVERITY=debug MESSAGE="debug"'
        hosts = ("IPv4Address(type='TCP', host='192.0.2.1', port=80)", "[2001:db8::1]:80")
        hidden = ("IPv4Address(type='TCP', host='[scrubbed]', port=80)", "[scrubbed]")
        one, other = hosts if addresses else hidden
        assert logged[1] == rf'LOG SEVERITY=notice MESSAGE="{one} and {other} said \"a\012b\""'
        assert logged[2] == 'LOG SEVERITY=warning MESSAGE="of a module"'
        assert logged[3] == 'LOG SEVERITY=warning MESSAGE="for tor"'
        assert re.match(r'LOG SEVERITY=error MESSAGE="it failed \| Traceback', logged[4])
        assert "ZeroDivisionError: at " + ("192.0.2.1" if addresses else "[scrubbed]") in logged[4]
        assert ("192.0.2" in "".join(logged)) is addresses

    def test_a_parent_that_does_not_read(self, child, client):
        """What is for its log is left out then, and the transport works on."""
        started = child(client("flooding"))
        address = started.method()
        with socket.create_server(("127.0.0.1", 0)) as bridge:
            for _ in range(2):
                with connected(address, bridge.getsockname()) as stream:
                    stream.sendall(b"payload")
                    accepted, _ = bridge.accept()
                    with accepted:
                        assert accepted.recv(7, socket.MSG_WAITALL) == b"payload"
        started.process.terminate()
        status, lines, _ = started.ends()
        assert status == 0
        assert 10 < len(lines) < 3000


@contextlib.contextmanager
def connected(listener, target):
    """A stream to `target` by the SOCKS5 of a client's side."""
    with socket.create_connection(listener, timeout=PATIENCE) as stream:
        stream.sendall(b"\x05\x01\x00")
        assert stream.recv(2, socket.MSG_WAITALL) == b"\x05\x00"
        host, port = target
        stream.sendall(b"\x05\x01\x00\x01" + socket.inet_aton(host) + port.to_bytes(2, "big"))
        assert stream.recv(10, socket.MSG_WAITALL) == b"\x05\x00\x00\x01" + bytes(6)
        yield stream


class TestTheEnd:
    @pytest.fixture
    def streaming(self, child, client, tmp_path):
        """A child that is a client's side, both ends of a stream through it, and where it listens."""
        with contextlib.ExitStack() as stack:

            def start(**more):
                environ = client("plain", exit_on_stdin_close=more.pop("exit_on_stdin_close", True))
                started = child(environ, NOTES_THE_END="1", **more)
                listener = started.method()
                server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                stream = stack.enter_context(connected(listener, server.getsockname()))
                accepted = stack.enter_context(server.accept()[0])
                accepted.settimeout(PATIENCE)
                return started, stream, accepted, listener

            yield start

    @pytest.fixture
    def noted(self, tmp_path):
        """Whether a connection was told its end."""
        return lambda: (tmp_path / "state" / "plain" / "lost").exists()

    def test_stdin_is_closed(self, streaming, noted):
        started, _, accepted, _ = streaming()
        started.close_stdin()
        assert started.ends()[0] == 0
        with contextlib.suppress(ConnectionError):
            assert accepted.recv(1) == b""
        assert noted()

    def test_stdin_that_does_not_count(self, streaming, noted):
        started, stream, accepted, _ = streaming(exit_on_stdin_close=False)
        started.close_stdin()
        stream.sendall(b"still here")
        assert accepted.recv(10, socket.MSG_WAITALL) == b"still here"
        started.process.terminate()
        assert started.ends()[0] == 0
        assert noted()

    def test_garbage_on_stdin(self, streaming):
        started, stream, accepted, _ = streaming()
        started.process.stdin.write(b"\xff\x00garbage\n" * 10_000)
        stream.sendall(b"still here")
        assert accepted.recv(10, socket.MSG_WAITALL) == b"still here"

    def test_sigterm(self, streaming, noted):
        started, *_ = streaming()
        started.process.terminate()
        assert started.ends()[0] == 0
        assert noted()

    def test_sigterm_and_the_end_of_stdin(self, child, client):
        """Tor does both to a transport that it ends. Several, since not every one sees both in one moment."""
        several = [child(client("plain")) for _ in range(4)]
        for started in several:
            said = started.lines()
            started.process.terminate()
            started.close_stdin()
            assert started.ends() == (0, said, "")

    def test_a_parent_that_closes_our_stdout(self, child, client):
        started = child(client("plain", exit_on_stdin_close=False))
        started.lines()
        started.process.stdout.close()
        assert started.process.wait(PATIENCE) == 0

    def test_a_parent_that_dies(self, client, tmp_path):
        """All that it leaves us open are a file and /dev/null."""
        script = (
            "import pathlib, subprocess, sys, time; out = pathlib.Path('out')\n"
            "command = [sys.executable, '-B', sys.argv[1]]\n"
            "child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out.open('wb'))\n"
            "print(child.pid, flush=True)\n"
            "while b'CMETHODS DONE' not in out.read_bytes(): time.sleep(0.02)\n"
            "time.sleep(0.5)"
        )
        environ = {**os.environ, **client("plain", exit_on_stdin_close=False)}
        parent = subprocess.run(
            [sys.executable, "-c", script, PROGRAM], env=environ, cwd=tmp_path, stdout=subprocess.PIPE, check=True
        )
        pid = int(parent.stdout)
        deadline = time.monotonic() + PATIENCE
        while is_running(pid):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                pytest.fail("it outlives its parent")
            time.sleep(0.1)

    def test_the_first_sigint_lets_streams_end(self, streaming, noted):
        started, stream, accepted, listener = streaming()
        started.process.send_signal(signal.SIGINT)
        wait_until_closed(listener)
        stream.sendall(b"still here")
        assert accepted.recv(10, socket.MSG_WAITALL) == b"still here"
        assert started.process.poll() is None
        stream.close()
        accepted.close()
        assert started.ends()[0] == 0
        assert noted()

    def test_the_second_sigint_does_not(self, streaming, noted):
        started, _, _, listener = streaming()
        started.process.send_signal(signal.SIGINT)
        wait_until_closed(listener)
        assert started.process.poll() is None
        started.process.send_signal(signal.SIGINT)
        assert started.ends()[0] == 0
        assert noted()


def is_running(pid):
    """Whether there is such a process, and it is no zombie that waits for whoever adopted it."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


def wait_until_closed(listener):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection(listener, timeout=PATIENCE).close()
        except ConnectionResetError:
            """It was closed while we connected."""
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    pytest.fail("it listens still")


class TestParentsThatMisbehave:
    @pytest.mark.parametrize(
        ("change", "lines"),
        [
            ({"TOR_PT_MANAGED_TRANSPORT_VER": "2"}, ["VERSION-ERROR no-version"]),
            ({"TOR_PT_MANAGED_TRANSPORT_VER": ""}, ["ENV-ERROR TOR_PT_MANAGED_TRANSPORT_VER is empty"]),
            ({"TOR_PT_STATE_LOCATION": ""}, ["VERSION 1", "ENV-ERROR TOR_PT_STATE_LOCATION is empty"]),
            (
                {"TOR_PT_CLIENT_TRANSPORTS": "plain"},
                [
                    "VERSION 1",
                    "ENV-ERROR TOR_PT_CLIENT_TRANSPORTS and TOR_PT_SERVER_TRANSPORTS are both set: a transport is one"
                    " of them",
                ],
            ),
            ({"TOR_PT_SERVER_TRANSPORTS": ""}, ["VERSION 1", "ENV-ERROR TOR_PT_SERVER_TRANSPORTS is empty"]),
            (
                {"TOR_PT_ORPORT": ""},
                ["VERSION 1", "ENV-ERROR neither TOR_PT_ORPORT nor TOR_PT_EXTENDED_SERVER_PORT is set"],
            ),
            (
                {"TOR_PT_EXTENDED_SERVER_PORT": "127.0.0.1:9"},
                ["VERSION 1", "ENV-ERROR TOR_PT_AUTH_COOKIE_FILE is not set, and TOR_PT_EXTENDED_SERVER_PORT is"],
            ),
            (
                {"TOR_PT_EXTENDED_SERVER_PORT": "127.0.0.1:9", "TOR_PT_AUTH_COOKIE_FILE": "/nowhere/at/all"},
                ["VERSION 1", "ENV-ERROR TOR_PT_AUTH_COOKIE_FILE cannot be read: No such file or directory"],
            ),
        ],
    )
    def test_a_server_is_told(self, child, server, change, lines):
        status, said, errors = child({**server("plain"), **change}).ends()
        assert (status, said, errors) == (1, lines, "")

    def test_a_proxy_that_cannot_be_used(self, child, client):
        status, said, errors = child({**client("plain"), "TOR_PT_PROXY": "ftp://secret@192.0.2.1:21"}).ends()
        assert status == 1
        assert said == ["VERSION 1", "PROXY-ERROR TOR_PT_PROXY is a proxy of another kind than socks5, socks4a, http"]
        assert errors == ""

    def test_a_cookie_that_is_none(self, child, server, tmp_path):
        (tmp_path / "cookie").write_bytes(COOKIE_HEADER)
        environ = server("plain", extended_or_port=("127.0.0.1", 9), cookie_file=tmp_path / "cookie")
        status, said, _ = child(environ).ends()
        assert (status, said) == (
            1,
            ["VERSION 1", "ENV-ERROR TOR_PT_AUTH_COOKIE_FILE is not the cookie of an extended ORPort"],
        )

    def test_a_state_that_cannot_be_kept(self, child, server, tmp_path):
        (tmp_path / "state").write_text("a file")
        status, said, _ = child(server("sealed"), EXAMPLES / "sealed.py").ends()
        assert status == 1
        assert said[-2] == f"SMETHOD-ERROR sealed {tmp_path}/state is not a folder"

    def test_nobody(self, child):
        """Started by hand: it says to a person what it is."""
        status, said, errors = child({}).ends()
        assert status == 1
        assert said == ["ENV-ERROR TOR_PT_MANAGED_TRANSPORT_VER is not set"]
        assert "tor starts it" in errors

    def test_stdin_was_closed_from_the_start(self, child, client):
        """Whoever starts us so wants nothing of us."""
        started = child(client("plain"))
        started.close_stdin()
        status, _, errors = started.ends()
        assert (status, errors) == (0, "")

    def test_garbage_on_the_wire(self, child, client, server):
        """To the SOCKS5 of a client's side, and to a bridge that knows its clients."""
        listener = child(client("plain")).method()
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00", bytes(1000)):
            with socket.create_connection(listener, timeout=PATIENCE) as stream:
                stream.sendall(garbage)
                with contextlib.suppress(ConnectionError):
                    assert stream.recv(100) == b""
        bridge = child(server("sealed"), EXAMPLES / "sealed.py")
        with (
            socket.create_connection(bridge.method(), timeout=PATIENCE) as stream,
            contextlib.suppress(ConnectionError),
        ):
            stream.sendall(b"GET / HTTP/1.0\r\n\r\n" * 1000)
            while stream.recv(100):
                pass
        assert bridge.process.poll() is None


class TestTheExamples:
    def test_their_own_tests_pass(self):
        done = subprocess.run(
            [sys.executable, "-B", "-m", "unittest", "sealed_tests.py"],
            cwd=EXAMPLES,
            env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent.parent)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "Ran 5 tests" in done.stderr

    @pytest.mark.parametrize(("name", "login"), [("flip", ""), ("sealed", "key=5f:" + 31 * "5f")])
    def test_with_curl_and_a_web_server_in_the_place_of_tor(
        self, child, program, client, server, name, login, tmp_path
    ):
        """As the how-to does it by hand."""
        curl = need("curl")
        web_port = free_port()
        web = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", tmp_path, web_port]
        program(web, port=web_port)
        (tmp_path / "page").write_text("the page")
        environ = server(name, or_port=("127.0.0.1", web_port))
        if login:
            environ["TOR_PT_SERVER_TRANSPORT_OPTIONS"] = f"{name}:{login.replace(':', '')}"
        host, port = child(environ, EXAMPLES / f"{name}.py").method()
        _, listener = child(client(name), EXAMPLES / f"{name}.py").method()
        arguments = [curl, "--silent", "--show-error", "--max-time", "30", "--socks5-hostname", f"127.0.0.1:{listener}"]
        if login:
            arguments += ["--proxy-user", login]
        done = subprocess.run([*arguments, f"http://{host}:{port}/page"], capture_output=True, text=True)
        assert done.stdout == "the page", done.stderr
        if login:
            wrong = subprocess.run(
                [*arguments[:-1], login[:-1] + "0", f"http://{host}:{port}/page"], capture_output=True
            )
            assert wrong.returncode == 97
