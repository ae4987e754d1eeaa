"""Several workers: what must be one for all of them, and what others see of them."""

import contextlib
import json
import os
import signal
import socket
import sys
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from examples.raw_peers import GREET_ANONYMOUS, GREET_EXTENDED, GREET_LOGIN, login, pairs, request, request_by_name
from support.programs import free_port
from support.targets import Target, echo, read_exactly, read_to_end
from support.workers import SUCCEEDED, all_serve, is_alive, is_refused, opened, served_by, settles, streams, workers_of

from txsocksx_ext import Limits
from txsocksx_ext.policy.rules import RuleSpec
from txsocksx_ext.protocol.pairs import PairLimits
from txsocksx_ext.server.settings import ServerSettings

# What must be one.


def fake_tor(seen):
    """A SOCKS port as tor's: notes the user name and password of each stream, and echoes."""

    def serve(connection):
        version, count = read_exactly(connection, 2)
        assert (version, b"\x02" in read_exactly(connection, count)) == (5, True)
        connection.sendall(b"\x05\x02")
        name = read_exactly(connection, read_exactly(connection, 2)[1])
        seen.append((name, read_exactly(connection, read_exactly(connection, 1)[0])))
        connection.sendall(b"\x01\x00")
        length = read_exactly(connection, 5)[4]
        read_exactly(connection, length + 2)
        connection.sendall(SUCCEEDED + b"\x00\x01" + bytes(6))
        echo(connection)

    return serve


def test_a_users_isolation_token_is_the_same_in_all_workers(workers):
    seen = []
    with Target(fake_tor(seen)) as tor, contextlib.ExitStack() as stack:
        server = workers("--route", f"*=tor:tcp\\:127.0.0.1\\:{tor.port}")
        tokens = {}
        for name in (b"alice", b"bob"):
            del seen[:]
            clients = []
            for _ in range(20):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
                client.sendall(GREET_LOGIN)
                assert read_exactly(client, 2) == b"\x05\x02"
                client.sendall(login(name, b"secret"))
                assert read_exactly(client, 2) == b"\x01\x00"
                client.sendall(request_by_name("www.example", 80))
                assert read_exactly(client, 10)[:2] == SUCCEEDED
                clients.append(client)
            assert all(served_by(server, clients).values())
            (tokens[name],) = set(seen)
        assert tokens[b"alice"] != tokens[b"bob"]


@dataclass(frozen=True)
class LaterSettings(ServerSettings):
    """The settings of a later release, which has one more."""

    added: tuple[str, ...] = ()


def test_all_settings_come_to_a_worker_and_those_of_later_releases_too():
    limits = Limits(linger=1.0, idle_timeout=None, pairs=PairLimits(key_bytes=7))
    settings = LaterSettings(("memory:a:b",), False, (RuleSpec.of("*=refuse"),), limits, True, ("more",))
    assert LaterSettings.from_message(json.loads(json.dumps(settings.as_message()))) == settings


SHARED_KIND = '''
"""A kind of route of which there is one: it answers with what it saw, or with what the target's name asks for."""
import json, os
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from txsocksx_ext import Route, errors
from txsocksx_ext.context import peer_name
from txsocksx_ext.net.twisted_transports import open_transport

class Kind(Route):
    name, keys = "shared", frozenset({"pt.", "tor.isolation"})
    def __init__(self, reactor, folder):
        self.reactor, self.folder, self.service = reactor, folder, Runs(folder)
    def connect(self, request, addresses, session):
        host = request.destination.host
        if host.startswith("fails."):
            error = getattr(errors, host.split(".")[1])()
            plain = host.split(".")[2]
            return fail(error.with_plain_code(int(plain)) if plain.isdigit() else error)
        if host == "silent.example":
            return Deferred(lambda cancelled: cancelled.errback(errors.TransportTemporaryFailure()))
        with open(self.folder + "/seen", "a") as seen:
            seen.write(json.dumps({
                "pid": os.getpid(), "peer": peer_name(session.peer), "user": repr(session.user),
                "password": repr(session.credentials and session.credentials.password),
                "known": session.avatar is not None, "host": host, "keys": sorted(session.required_keys),
                "pairs": {key: repr(session.pairs[key]) for key in session.pairs if "." in key and key != "tor.errors"},
            }) + "\\n")
        return open_transport(TCP4ClientEndpoint(self.reactor, "127.0.0.1", request.destination.port))

class Runs(Service):
    def __init__(self, folder):
        self.folder = folder
    def note(self, what):
        with open(self.folder + "/runs", "a") as runs:
            runs.write(f"{what} {os.getpid()}\\n")
    def startService(self):
        super().startService()
        self.note("started")
    def stopService(self):
        self.note("stopped")
        return super().stopService()

def from_description(reactor, arguments, keywords):
    return Kind(reactor, arguments[0])
'''

WITH_KIND = """
import sys, txsocksx_ext.route
txsocksx_ext.route.__path__.append(sys.argv.pop(1))
from twisted.scripts.twistd import run
run()
"""


@pytest.fixture
def with_shared_route(program, tmp_path):
    """Start a server whose targets all go by the kind above."""
    kinds = tmp_path / "kinds"
    kinds.mkdir()
    (kinds / "shared.py").write_text(textwrap.dedent(SHARED_KIND))

    def start(count, *options, env=None):
        port = free_port()
        server = program(
            [
                *(sys.executable, "-c", WITH_KIND, kinds, "-n", "--pidfile=", "socks5ext", "--workers", str(count)),
                *(f"--listen=tcp:{port}:interface=127.0.0.1", *options, "--route", f"*=shared:{tmp_path}"),
            ],
            port=port,
            env=env,
        )
        if count > 1:
            all_serve(server, count)
        return server

    return start


def say(server, *steps):
    """All that the server answers to these bytes, each sent when the answer to the one before is there."""
    answers = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        for step in steps:
            client.sendall(step)
            answers += client.recv(4096)
        client.shutdown(socket.SHUT_WR)
        return answers + read_to_end(client)


WAYS_IN = {
    "anonymous": [GREET_ANONYMOUS],
    "login": [GREET_LOGIN, login(b"u", b"p")],
    "both offered": [b"\x05\x02\x97\x02", pairs((b"pt.a", b"1"))],
    "229": [GREET_EXTENDED, pairs((b"pt.a", b"1"))],
    "304": [GREET_EXTENDED, pairs((b"tor.errors", b"304"))],
    "none": [GREET_EXTENDED, pairs((b"tor.errors", b"none"))],
    "unknown key": [GREET_EXTENDED, pairs((b"nobodys.key", b"1"))],
}

FAILURES = [
    *("TransportTemporaryFailure", "TransportProtocolFailure", "TransportInternalError"),
    *("OnionServiceNotFound", "OnionServiceNotReachable", "OnionDescriptorNotFound", "OnionIntroductionFailed"),
    *("OnionClientAuthRequired", "OnionRendezvousFailed", "ConnectionRefused", "TTLExpired", "NetworkUnreachable"),
    *("ConnectionNotAllowed", "GeneralServerFailure", "CommandNotSupported", "InvalidArguments", "ProxyUnreachable"),
]


def test_a_failure_of_a_shared_route_is_told_as_by_a_single_process(with_shared_route):
    """To the byte, to every kind of client."""
    one, several = with_shared_route(1), with_shared_route(2)
    seen = {}
    for way, steps in WAYS_IN.items():
        for failure in FAILURES:
            plains = ("", "6") if failure.startswith("Onion") else ("",)
            for plain in plains:
                target = request_by_name(f"fails.{failure}.{plain}.example", 80)
                if way == "unknown key":
                    target = b""
                answers = [say(server, *steps, *([target] if target else [])) for server in (one, several)]
                assert answers[0] == answers[1], (way, failure, plain)
                seen[way, failure, plain] = answers[0]
    assert seen["229", "TransportProtocolFailure", ""][6:8] == b"\x05\xf1"
    assert seen["304", "OnionIntroductionFailed", ""][-10:-8] == b"\x05\xf2"
    assert seen["229", "OnionIntroductionFailed", ""][6:8] == b"\x05\xe1"
    assert seen["anonymous", "OnionIntroductionFailed", "6"][2:4] == b"\x05\x06"
    assert seen["unknown key", "TTLExpired", ""][:4] == b"\x05\x97\x01\x02"
    assert "Traceback" not in several.output
    assert "end=TransportProtocolFailure" in several.output


def test_what_a_shared_route_sees_of_a_client(with_shared_route, tmp_path):
    server = with_shared_route(2, "--auth", "memory:alice:very-secret", "--anonymous")
    bound = set()
    with Target(echo) as far, contextlib.ExitStack() as stack:
        target = request_by_name("www.example", far.port)
        ways = {
            "nothing": [GREET_ANONYMOUS],
            "login": [GREET_LOGIN, login(b"alice", b"very-secret")],
            "pairs": [
                GREET_EXTENDED,
                pairs((b"pt.long", b"\xff" * 16000), (b"?tor.isolation", b"x"), (b"?nobodys", b"1"), (b"pt.a", b"")),
            ],
        }
        for way, steps in ways.items():
            clients = []
            for _ in range(20):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
                for step in [*steps, target]:
                    client.sendall(step)
                    answer = client.recv(4096)
                assert answer[:2] == SUCCEEDED
                bound.add(int.from_bytes(answer[8:10], "big"))
                clients.append(client)
            content = os.urandom(500_000)
            sending = threading.Thread(target=client.sendall, args=(content,))
            sending.start()
            assert read_exactly(client, len(content)) == content
            sending.join()
            if way != "nothing":
                assert all(served_by(server, clients).values())
        # Where our connections to the target come from, not the ways between our processes.
        assert settles(lambda: bound == {port for _, port in far.peers})
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert {each["pid"] for each in seen} == {server.pid}
    assert {each["peer"] for each in seen} == {"127.0.0.1"}
    assert {each["host"] for each in seen} == {"www.example"}
    of_nothing, of_login, of_pairs = seen[0], seen[20], seen[40]
    assert (of_nothing["user"], of_nothing["known"], of_nothing["pairs"]) == ("None", False, {})
    # Who was checked has said the password to whom it concerns.
    assert (of_login["user"], of_login["known"], of_login["password"]) == ("b'alice'", True, "b''")
    assert of_pairs["pairs"] == {"pt.long": repr(b"\xff" * 16000), "tor.isolation": "b'x'", "pt.a": "b''"}
    assert of_pairs["keys"] == ["pt.a", "pt.long"]
    server.stop()
    assert (tmp_path / "runs").read_text() == f"started {server.pid}\nstopped {server.pid}\n"
    assert "very-secret" not in server.output
    assert "www.example" not in server.output


def test_a_shared_route_says_what_the_end_of_the_time_means(with_shared_route):
    server = with_shared_route(2, "--connect-timeout", "1")
    answer = say(server, GREET_EXTENDED, pairs(), request_by_name("silent.example", 80))
    assert answer[6:8] == b"\x05\xf0"


def test_nothing_is_left_when_the_supervisor_is_killed(with_shared_route, tmp_path, tmp_path_factory):
    # Short, since unix sockets lie in it.
    folder = tmp_path_factory.mktemp("t")
    path = tmp_path / "socks"
    options = (f"--listen=unix:{path}", "--route=127.0.0.1=direct", "--drain=60")
    server = with_shared_route(2, *options, env={"TMPDIR": str(folder)})
    (private,) = folder.iterdir()
    assert private.stat().st_mode & 0o777 == 0o700
    assert [each.stat().st_mode & 0o777 for each in private.iterdir()] == [0o600]
    assert path.exists()
    pids = workers_of(server)
    with Target(echo) as far, streams(server, far, 10) as clients:
        os.kill(server.pid, signal.SIGKILL)
        assert settles(lambda: is_refused(server.port))
        # What was open may end by itself.
        for client in clients:
            client.sendall(b"question")
            assert read_exactly(client, 8) == b"question"
    assert settles(lambda: not any(map(is_alive, pids)))
    assert [*folder.iterdir()] == []
    assert not os.path.lexists(path)
    assert not os.path.lexists(f"{path}.lock")


# What others see.


def test_no_secret_stands_where_others_can_see_it(workers):
    server = workers("--auth", "memory:alice:very-secret", "--log-targets")
    for pid in workers_of(server):
        for name in ("cmdline", "environ"):
            assert b"very-secret" not in Path(f"/proc/{pid}/{name}").read_bytes()
    assert "very-secret" not in server.output


def test_events_of_workers_keep_their_fields(program):
    port = free_port()
    server = program(
        [
            *(sys.executable, "-m", "twisted", "--log-format=json", "socks5ext", "--workers", "2"),
            *(f"--listen=tcp:{port}:interface=127.0.0.1", "--route", "*=refuse"),
        ],
        port=port,
    )
    all_serve(server)
    for _ in range(30):
        say(server, GREET_ANONYMOUS, request_by_name("www.example", 80))
    assert settles(lambda: server.output.count('"code": "02"') == 30), server.output
    events = [json.loads(line) for line in server.output.replace("\x1e", "").splitlines() if '"code": "02"' in line]
    assert {event["worker"] for event in events} == {1, 2}
    assert {(event["peer"], event["route"], event["log_level"]["name"]) for event in events} == {
        ("127.0.0.1", "refuse", "info")
    }
    assert "www.example" not in server.output


def test_a_limit_of_connections_is_shared_out(workers):
    server = workers("--max-connections", "8")
    with Target(echo) as far, contextlib.ExitStack() as stack:
        served = 0
        for _ in range(30):
            with contextlib.suppress(OSError, AssertionError):
                stack.enter_context(opened(server.port, far.port))
                served += 1
        assert served == 8
    assert server.output.count("there are max-connections already") >= 2


def test_a_worker_asks_for_the_arguments_of_a_transport_and_they_are_in_no_log(workers):
    # The transport never gets ready: its arguments have come by then.
    server = workers("--route", "*=transport:obfs4:exec=/bin/cat", "--log-targets", "--connect-timeout", "1")
    argument = b"cert=of-the-bridge;iat-mode=0"
    for _ in range(8):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            # As tor offers them where a bridge line has arguments.
            client.sendall(b"\x05\x02\x00\x02")
            assert read_exactly(client, 2) == b"\x05\x02"
            client.sendall(login(argument, b"\0") + request("192.0.2.1", 443))
            assert read_exactly(client, 2) == b"\x01\x00"
            assert read_exactly(client, 2) == b"\x05\x01"
    assert settles(lambda: server.output.count("192.0.2.1:443 protocol=socks5 method=USERNAME_PASSWORD") >= 8)
    assert "of-the-bridge" not in server.output


def test_a_worker_selects_no_authentication_where_nobody_needs_a_user(workers):
    server = workers("--route", "*=socks:127.0.0.1:9")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"\x05\x02\x00\x02")
        assert read_exactly(client, 2) == b"\x05\x00"
