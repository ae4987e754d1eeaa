"""Several workers: who serves what, and what happens when one of them, or their supervisor, dies."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from examples.raw_peers import (
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    GREET_LOGIN,
    login,
    pairs,
    request,
    request_by_name,
    tls_listener,
)
from support.programs import free_port
from support.targets import Target, echo, read_exactly, read_to_end
from support.workers import all_serve, is_alive, served_by, settles, workers_of
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from txsocksx_ext import SOCKS5ExtFactory
from txsocksx_ext.server.workers.process import Ports
from txsocksx_ext.server.workers.slots import LIVES_LONG, Slot
from txsocksx_ext.server.workers.sockets import kind_that_cannot_be_shared

SUCCEEDED = b"\x05\x00"


@pytest.fixture
def workers(socks5ext):
    """Start a server with two workers that both serve."""

    def start(*options, **kwargs):
        server = socks5ext("--workers", "2", *options, **kwargs)
        all_serve(server)
        return server

    return start


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=20).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # it was closing
        return False
    return False


@contextlib.contextmanager
def opened(port, target_port):
    """A stream, whose socket is closed also where the server does not serve it."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(GREET_ANONYMOUS + request("127.0.0.1", target_port))
        answer = read_exactly(client, 12)
        assert answer[:4] == b"\x05\x00\x05\x00", answer
        yield client


@contextlib.contextmanager
def streams(server, far, count):
    """So many streams to a target, each of which has carried something."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(opened(server.port, far.port)) for _ in range(count)]
        for client in clients:
            client.sendall(b"hello")
        for client in clients:
            assert read_exactly(client, 5) == b"hello"
        yield clients


# Load.


def test_load_is_spread_over_all(workers):
    server = workers()
    with Target(echo) as far, streams(server, far, 200) as clients:
        shares = served_by(server, clients)
        assert sum(map(len, shares.values())) == 200
        assert [pid for pid, share in shares.items() if len(share) < 50] == []
    assert settles(lambda: server.output.count("end=done") == 200)
    server.stop()
    assert "served 201 connections, of which 0 failed; 1000 bytes up, 1000 bytes down" in server.output


class Load:
    """Clients that connect, echo something, and connect again. Notes when each began, and how it ended."""

    def __init__(self, port, target_port, clients=8):
        self._address = port, target_port
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._connect_again) for _ in range(clients)]
        self.ends = []

    def __enter__(self):
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for each in self._threads:
            each.join()

    def _connect_again(self):
        port, target_port = self._address
        while not self._is_over.is_set():
            began = time.monotonic()
            try:
                with opened(port, target_port) as client:
                    client.sendall(b"question")
                    assert read_exactly(client, 8) == b"question"
                end = "served"
            except (OSError, AssertionError) as error:
                end = repr(error)
            self.ends.append((began, end))

    def served_since(self, moment):
        return sum(began > moment and end == "served" for began, end in self.ends)


class Transfer(threading.Thread):
    """Sends through a stream for as long as the test wants, and looks at all that comes back."""

    def __init__(self, client):
        super().__init__()
        self._client = client
        self._is_over = threading.Event()
        self.rounds = 0
        self.error = None

    def run(self):
        try:
            while not self._is_over.is_set():
                content = os.urandom(20_000)
                self._client.sendall(content)
                assert read_exactly(self._client, len(content)) == content
                self.rounds += 1
        except (OSError, AssertionError) as error:
            self.error = error

    def end(self):
        self._is_over.set()
        self.join()


def test_a_worker_killed_under_load_harms_nobody_else(workers):
    server = workers()
    killed, other = workers_of(server)
    with Target(echo) as far, streams(server, far, 16) as clients:
        shares = served_by(server, clients)
        assert shares[killed]
        assert shares[other]
        transfers = [Transfer(client) for client in shares[other]]
        for each in transfers:
            each.start()
        with Load(server.port, far.port) as load:
            assert settles(lambda: len(load.ends) > 20)
            os.kill(killed, signal.SIGKILL)
            assert settles(lambda: not is_alive(killed))
            dead = time.monotonic()
            # Its sockets are served before another process is there, and after that by both.
            assert settles(lambda: load.served_since(dead) > 20)
            all_serve(server, 3)
            again = time.monotonic()
            assert settles(lambda: load.served_since(again) > 100)
        done = [each.rounds for each in transfers]
        assert settles(lambda: all(each.rounds > before for each, before in zip(transfers, done, strict=True)))
        for each in transfers:
            each.end()
        assert [each.error for each in transfers if each.error] == []
        for client in shares[killed]:
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
    failures = [(began - dead, end) for began, end in load.ends if end != "served"]
    assert [end for _, end in failures if "refused" in end] == []
    # Only what the dead one served can have failed; that was begun before.
    assert [failure for failure in failures if failure[0] > 0] == []
    assert len(failures) <= 8
    now = workers_of(server)
    assert len(now) == 2
    assert other in now
    assert killed not in now
    with Target(echo) as far, streams(server, far, 60) as clients:
        assert all(served_by(server, clients).values())
    assert "another one starts in 0.0 s" in server.output


def test_a_worker_that_is_told_to_end_drains_and_another_takes_its_place(workers):
    server = workers()
    with Target(echo) as far, streams(server, far, 16) as clients:
        (leaving, its_own), _ = served_by(server, clients).items()
        os.kill(leaving, signal.SIGTERM)
        all_serve(server, 3)
        assert is_alive(leaving)
        with streams(server, far, 30):
            for client in clients:
                client.sendall(b"question")
                assert read_exactly(client, 8) == b"question"
        for client in its_own:
            client.close()
        assert settles(lambda: not is_alive(leaving))
    assert "Traceback" not in server.output


def test_a_worker_that_cannot_start_is_tried_again_after_growing_pauses(workers, tmp_path):
    users = tmp_path / "users"
    line = "alice:" + PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret") + "\n"
    users.write_text(line)
    server = workers("--auth", f"hashed:{users}")
    users.rename(tmp_path / "elsewhere")
    first, second = workers_of(server)
    os.kill(first, signal.SIGKILL)
    assert settles(lambda: "another one starts in 1.0 s" in server.output), server.output
    assert "another one starts in 0.5 s" in server.output
    assert "a worker failed" in server.output
    assert is_alive(second)
    users.write_text(line)
    all_serve(server, 3)
    with Target(echo) as far:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
                client.sendall(GREET_LOGIN)
                assert read_exactly(client, 2) == b"\x05\x02"
                client.sendall(login(b"alice", b"secret"))
                assert read_exactly(client, 2) == b"\x01\x00"
                client.sendall(request("127.0.0.1", far.port))
                assert read_exactly(client, 10)[:2] == SUCCEEDED


class Place:
    """A slot on a clock of the test's, whose processes are none: how often one was to start, and what each heard."""

    pid = 1

    def __init__(self):
        self.clock = Clock()
        self.has_room = True
        self.starts = []
        self.heard = []
        self.changes = 0
        self.slot = Slot(self.clock, 0, self._spawn, self._changed)
        self.slot.start()

    def _spawn(self, slot, process):
        self.starts.append(self.clock.seconds())
        if not self.has_room:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        process.transport = self

    def _changed(self, slot):
        self.changes += 1

    def writeToChild(self, descriptor, data):
        self.heard.append(data)


def test_a_worker_for_which_the_system_has_no_room_is_tried_again_after_growing_pauses():
    place = Place()
    place.slot.process.childDataReceived(1, b"ready null\n")
    assert place.slot.is_ready
    place.clock.advance(LIVES_LONG)
    place.has_room = False
    killed = place.slot.process
    killed.processExited(Failure(RuntimeError("killed")))
    killed.processEnded(Failure(RuntimeError("killed")))
    place.clock.pump([0, 0.5, 1.0])
    pauses = [after - before for before, after in zip(place.starts[1:], place.starts[2:], strict=False)]
    assert pauses == [0.5, 1.0]
    assert place.slot.process is None
    place.has_room = True
    place.clock.advance(2.0)
    place.slot.process.childDataReceived(1, b"ready null\n")
    assert place.slot.is_ready
    place.slot.stop()
    assert place.heard == [b"stop null\n"]
    assert place.clock.getDelayedCalls() == []


def test_a_slot_stops_whose_worker_could_not_start():
    place = Place()
    place.has_room = False
    place.slot.process.processExited(Failure(RuntimeError("killed")))
    place.clock.advance(0)
    assert len(place.starts) == 2
    place.slot.stop()
    assert place.clock.getDelayedCalls() == []


def test_a_worker_that_gets_ready_as_it_stops_takes_nothing():
    place = Place()
    place.slot.stop()
    place.slot.process.childDataReceived(1, b"ready null\n")
    assert not place.slot.is_ready
    assert place.changes == 0


def test_what_a_library_prints_is_logged_and_harms_nothing():
    place, events = Place(), []
    globalLogPublisher.addObserver(events.append)
    try:
        place.slot.process.childDataReceived(1, b"\nlibrary: " + b"x" * 10_000 + b"\nready null\n")
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert place.slot.is_ready
    lines = [event["line"] for event in events if "line" in event]
    assert any(line.startswith("library: x") for line in lines)
    assert max(map(len, lines)) < 1000


async def test_a_worker_that_has_stopped_listening_takes_nothing():
    reactor = MemoryReactorClock()
    descriptors = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
    listener = {"description": "tcp:0:interface=127.0.0.1", "family": socket.AF_INET, "descriptors": descriptors}
    ports = Ports(reactor, SOCKS5ExtFactory(reactor), 0, [listener])
    ports.startService()
    await ports.stopService()
    # The number may be a stream's by now.
    ports.take(1)
    assert [descriptor for descriptor, *_ in reactor.adoptedPorts] == descriptors[:1]


# Ends.


def test_all_workers_drain(workers, tmp_path):
    path = tmp_path / "socks"
    port = free_port()
    server = workers("--drain", "60", listen=[f"tcp:{port}:interface=127.0.0.1", f"unix:{path}"])
    server.port = port
    pids = workers_of(server)
    with Target(echo) as far, streams(server, far, 20) as clients:
        assert all(served_by(server, clients).values())
        os.kill(server.pid, signal.SIGTERM)
        assert settles(lambda: is_refused(port))
        assert not path.exists()
        for client in clients:
            client.sendall(b"question")
            assert read_exactly(client, 8) == b"question"
        assert is_alive(server.pid)
        for client in clients[:-1]:
            client.shutdown(socket.SHUT_WR)
            assert read_to_end(client) == b""
        assert is_alive(server.pid)
        clients[-1].close()
        server.process.wait(60)
    assert [pid for pid in pids if is_alive(pid)] == []
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in server.output


def test_the_time_to_drain_holds_for_all(workers):
    server = workers("--drain", "0.5")
    with Target(echo) as far, streams(server, far, 10) as clients:
        os.kill(server.pid, signal.SIGTERM)
        for client in clients:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        server.process.wait(60)
    assert settles(lambda: server.output.count("end=drained") == 10)


def test_sigterm_to_the_whole_group_is_the_same(workers):
    """As service managers send it."""
    server = workers("--drain", "60")
    with Target(echo) as far, streams(server, far, 10) as clients:
        os.killpg(server.pid, signal.SIGTERM)
        assert settles(lambda: is_refused(server.port))
        for client in clients:
            client.sendall(b"question")
            assert read_exactly(client, 8) == b"question"
    server.process.wait(60)
    assert "Traceback" not in server.output


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


SHARED_KIND = '''
"""A kind of route of which there is one: it answers with what it saw, or with what the target's name asks for."""
import json, os
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory
from txsocksx_ext import Route, errors
from txsocksx_ext.transports import open_transport, peer_name

class Kind(Route):
    name, keys = "shared", frozenset({"pt.", "tor.isolation"})
    def __init__(self, reactor, folder):
        self.reactor, self.folder, self.service = reactor, folder, Runs(folder)
    def connect(self, request, session):
        host = request.destination.host
        if host.startswith("fails."):
            error = getattr(errors, host.split(".")[1])()
            plain = host.split(".")[2]
            return fail(error.with_plain_code(int(plain)) if plain.isdigit() else error)
        if host == "silent.example":
            return Deferred()
        with open(self.folder + "/seen", "a") as seen:
            seen.write(json.dumps({
                "pid": os.getpid(), "peer": peer_name(session.peer), "user": repr(session.user),
                "password": repr(session.credentials and session.credentials.password),
                "known": session.avatar is not None, "host": host, "keys": sorted(session.required_keys),
                "pairs": {key: repr(session.pairs[key]) for key in session.pairs if "." in key and key != "tor.errors"},
            }) + "\\n")
        return open_transport(TCP4ClientEndpoint(self.reactor, "127.0.0.1", request.destination.port))
    def timed_out(self, request, session):
        return errors.TransportTemporaryFailure()

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


def test_nothing_is_left_when_the_supervisor_is_killed(with_shared_route, tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
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


# Listeners.


STARTED_BY_SYSTEMD = """
import os, socket, sys
opened = socket.create_server(("127.0.0.1", int(sys.argv.pop(1))))
os.dup2(opened.fileno(), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="socks", LISTEN_PID=str(os.getpid()))
from twisted.scripts.twistd import run
run()
"""


def test_every_kind_of_listener_that_can_be_shared(program, tmp_path):
    tcp, tcp6, haproxy, tls, of_systemd = (free_port() for _ in range(5))
    path = tmp_path / "socks"
    listeners = [
        f"tcp:{tcp}:interface=127.0.0.1",
        f"tcp6:{tcp6}:interface=\\:\\:1",
        f"haproxy:tcp:{haproxy}:interface=127.0.0.1",
        f"unix:{path}:mode=600",
        tls_listener(tmp_path).replace("ssl:0:", f"ssl:{tls}:"),
        "systemd:domain=INET:index=0",
    ]
    arguments = [sys.executable, "-c", STARTED_BY_SYSTEMD, of_systemd, "-n", "--pidfile=", "socks5ext"]
    arguments += ["--workers", "2", "--allow-remote", *[f"--listen={each}" for each in listeners]]
    server = program(arguments)
    all_serve(server)
    assert path.stat().st_mode & 0o777 == 0o600
    with Target(echo) as far:
        for connection in (
            socket.create_connection(("127.0.0.1", tcp), timeout=20),
            socket.create_connection(("::1", tcp6), timeout=20),
            through_balancer(haproxy),
            unix_connection(path),
            tls_connection(tls),
            socket.create_connection(("127.0.0.1", of_systemd), timeout=20),
        ):
            with connection as client:
                client.sendall(GREET_ANONYMOUS)
                assert read_exactly(client, 2) == b"\x05\x00"
                client.sendall(request("127.0.0.1", far.port))
                assert read_exactly(client, 10)[:2] == SUCCEEDED
                client.sendall(b"hello")
                assert read_exactly(client, 5) == b"hello"
    server.stop()
    assert "Traceback" not in server.output
    assert not path.exists()


def through_balancer(port):
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(b"PROXY TCP4 127.0.0.1 127.0.0.1 40000 1080\r\n")
    return client


def unix_connection(path):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(path))
    return client


def tls_connection(port):
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=20))


@pytest.mark.parametrize(
    ("description", "kind"),
    [
        ("tcp:1080", None),
        ("haproxy:tcp:1080", None),
        ("haproxy:haproxy:unix:x", None),
        ("onion:80", "onion"),
        ("haproxy:fd:3", "fd"),
        ("haproxy", "haproxy"),
    ],
)
def test_what_can_be_shared(description, kind):
    assert kind_that_cannot_be_shared(description) == kind


def test_a_port_that_another_server_uses_is_refused_even_if_that_one_would_share_it(workers):
    server = workers()
    for count in ("1", "2"):
        ended = subprocess.run(
            [
                *(sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="),
                *("socks5ext", "--workers", count, f"--listen=tcp:{server.port}:interface=127.0.0.1"),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert ended.returncode == 1
        assert "in use" in ended.stdout + ended.stderr


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
