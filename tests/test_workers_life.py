"""Several workers: how load is spread, and what happens when one of them dies, cannot start, or is told to end."""

import contextlib
import json
import os
import signal
import socket
import time
from types import SimpleNamespace

import pytest
from argon2 import PasswordHasher
from examples.raw_peers import GREET_LOGIN, ReactorWith, login, pause, request, until
from support.load import Load, Transfer
from support.programs import free_port
from support.targets import Target, echo, read_exactly, read_to_end
from support.workers import SUCCEEDED, all_serve, is_alive, is_refused, served_by, settles, streams, workers_of
from twisted.internet import reactor
from twisted.internet.error import ProcessTerminated
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from txsocksx_ext import Limits, SOCKS5ExtFactory
from txsocksx_ext.server.settings import ServerSettings
from txsocksx_ext.server.workers import process
from txsocksx_ext.server.workers.process import InheritedPorts
from txsocksx_ext.server.workers.slots import STABLE_AFTER, Slot, WorkerProcess
from txsocksx_ext.tor.isolation import TOKENS

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


def test_connections_that_wait_for_a_hung_worker_are_served_by_another(workers):
    server = workers()
    hung, other = workers_of(server)
    with Target(echo) as far:
        os.kill(hung, signal.SIGSTOP)
        try:
            with streams(server, far, 20) as clients:
                assert len(served_by(server, clients)[other]) == 20
        finally:
            os.kill(hung, signal.SIGCONT)


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
        self.closed = 0
        self.slot = Slot(self.clock, 0, self._spawn)
        self.slot.start()

    def _spawn(self, slot, process):
        self.starts.append(self.clock.seconds())
        if not self.has_room:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        process.transport = self

    def writeToChild(self, descriptor, data):
        self.heard.append(data)

    def loseConnection(self):
        self.closed += 1


def test_a_worker_for_which_the_system_has_no_room_is_tried_again_after_growing_pauses():
    place = Place()
    place.clock.advance(STABLE_AFTER)
    place.has_room = False
    killed = place.slot.process
    killed.processExited(Failure(ProcessTerminated(signal=9)))
    killed.processEnded(Failure(ProcessTerminated(signal=9)))
    place.clock.pump([0, 0.5, 1.0])
    pauses = [after - before for before, after in zip(place.starts[1:], place.starts[2:], strict=False)]
    assert pauses == [0.5, 1.0]
    assert place.slot.process is None
    place.has_room = True
    place.clock.advance(2.0)
    assert place.slot.process is not None
    place.slot.stop()
    assert place.heard == [b"stop null\n"]
    assert place.clock.getDelayedCalls() == []


def test_a_slot_stops_whose_worker_could_not_start():
    place = Place()
    place.has_room = False
    killed = place.slot.process
    killed.processExited(Failure(ProcessTerminated(signal=9)))
    killed.processEnded(Failure(ProcessTerminated(signal=9)))
    place.clock.advance(0)
    assert len(place.starts) == 2
    place.slot.stop()
    assert place.clock.getDelayedCalls() == []


def test_a_process_that_holds_the_output_of_a_dead_worker_does_not_keep_the_supervisor_waiting():
    place = Place()
    killed = place.slot.process
    killed.processExited(Failure(ProcessTerminated(signal=9)))
    place.clock.advance(WorkerProcess.output_ends_after - 1)
    assert not place.closed
    place.clock.advance(1)
    assert place.closed == 1
    killed.processEnded(Failure(ProcessTerminated(signal=9)))
    place.slot.stop()


def test_the_last_line_of_a_worker_on_stderr_is_logged_without_its_end():
    place, events = Place(), []
    globalLogPublisher.addObserver(events.append)
    try:
        place.slot.process.childDataReceived(2, b"Fatal Python error")
        place.slot.process.childDataReceived(1, b"counters [1")
        place.slot.process.processEnded(Failure(ProcessTerminated(signal=6)))
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert [event["line"] for event in events if "line" in event] == ["Fatal Python error"]


def test_what_a_library_prints_is_logged_and_harms_nothing():
    place, events = Place(), []
    globalLogPublisher.addObserver(events.append)
    try:
        place.slot.process.childDataReceived(1, b"\nlibrary: " + b"x" * 10_000 + b"\nready null\n")
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert [event["worker"] for event in events if "pid" in event] == [1]
    lines = [event["line"] for event in events if "line" in event]
    assert any(line.startswith("library: x") for line in lines)
    assert max(map(len, lines)) < 1000


def listener_on(*sockets):
    """What a supervisor says of a listener."""
    descriptors = [each.fileno() if isinstance(each, socket.socket) else each for each in sockets]
    return {"description": "tcp:0:interface=127.0.0.1", "family": socket.AF_INET, "descriptors": descriptors}


def listening_socket():
    opened = socket.create_server(("127.0.0.1", 0))
    opened.setblocking(False)
    return opened


@contextlib.asynccontextmanager
async def inherited_ports(monkeypatch, limits=None):
    """The ports of worker 0, and the address of the socket of worker 1, from which nobody else accepts."""
    monkeypatch.setattr(process, "SPARE_PERIOD", 0.01)
    factory = SOCKS5ExtFactory(reactor, limits=limits)
    with listening_socket() as own, listening_socket() as other:
        ports = InheritedPorts(reactor, factory, 0, [listener_on(os.dup(own.fileno()), os.dup(other.fileno()))])
        ports.startService()
        try:
            yield factory, own.getsockname(), other.getsockname()
        finally:
            await ports.stopService()
            await factory.drain(0)


async def test_a_worker_accepts_what_waits_for_another(monkeypatch):
    async with inherited_ports(monkeypatch) as (factory, _, other):
        with socket.create_connection(other):
            await until(lambda: len(factory.connections) == 1)
        await until(lambda: not factory.connections)


async def test_a_worker_accepts_for_others_after_the_time_of_day_was_set_back(monkeypatch):
    async with inherited_ports(monkeypatch) as (factory, _, other):
        now = reactor.seconds
        monkeypatch.setattr(reactor, "seconds", lambda: now() - 3600)
        with socket.create_connection(other):
            await until(lambda: len(factory.connections) == 1)


async def test_a_worker_accepts_no_more_for_others_than_it_may_have(monkeypatch):
    async with inherited_ports(monkeypatch, Limits(max_connections=2)) as (factory, _, other):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.create_connection(other)) for _ in range(4)]
            await until(lambda: len(factory.connections) == 2)
            await pause(0.1)
            for client in clients:
                client.setblocking(False)
                with pytest.raises(BlockingIOError):  # it is open, whether it was accepted or waits for another worker
                    client.recv(1)


async def test_a_worker_that_is_full_leaves_connections_to_the_others(monkeypatch):
    async with inherited_ports(monkeypatch, Limits(max_connections=1)) as (factory, own, other):
        with socket.create_connection(own) as first:
            await until(lambda: len(factory.connections) == 1)
            with socket.create_connection(other) as second:
                first_connection = set(factory.connections)
                await pause(0.1)
                assert factory.connections == first_connection
                second.setblocking(False)
                with pytest.raises(BlockingIOError):  # it is still open, and waits
                    second.recv(1)
                first.close()
                await until(lambda: factory.connections and factory.connections != first_connection)


class Stoppable(ReactorWith):
    """The reactor, which goes on when a worker stops it; ``shut_down`` does what comes before that."""

    stops = 0

    def stop(self):
        self.stops += 1

    def addSystemEventTrigger(self, phase, event, trigger):
        self.shut_down = trigger


class Answers(StringTransport):
    """What a worker says to its supervisor, word by word."""

    protocol = None

    def loseConnection(self):
        self.protocol.connectionLost()

    @property
    def words(self):
        return [line.partition(b" ")[0] for line in self.value().splitlines()]


def of_a_socket():
    return socket.create_server(("127.0.0.1", 0)).detach()


def of_no_socket():
    return os.open(os.devnull, os.O_RDONLY)


@contextlib.asynccontextmanager
async def worker_with(monkeypatch, *descriptors_of_listeners):
    """A worker in this process, which was told to start."""
    # It would take the log of the tests.
    monkeypatch.setattr(process, "globalLogBeginner", SimpleNamespace(beginLoggingTo=lambda *_, **__: None))
    # It takes the secret of its supervisor.
    monkeypatch.setattr(TOKENS, "secret", TOKENS.secret)
    stoppable = Stoppable()
    worker, answers = process.Worker(stoppable), Answers()
    answers.protocol = worker
    worker.makeConnection(answers)
    listeners = [listener_on(*descriptors) for descriptors in descriptors_of_listeners]
    message = {"slot": 0, "settings": ServerSettings().as_message(), "secret": "00", "drain": 0}
    message |= {"listeners": listeners, "routes": {}, "files": [], "folder": ""}
    worker.lineReceived(b"start " + json.dumps(message).encode())
    yield worker, stoppable, answers
    await stoppable.shut_down()


async def test_a_worker_is_ready_when_it_listens(monkeypatch):
    async with worker_with(monkeypatch, [of_a_socket()]) as (worker, stoppable, answers):
        assert answers.words == [b"ready"]
        assert (worker.status, stoppable.stops) == (0, 0)


@pytest.mark.logs_errors
async def test_a_worker_that_cannot_listen_says_so_and_ends(monkeypatch, logged_errors):
    async with worker_with(monkeypatch, [of_a_socket()], [of_no_socket()]) as (worker, stoppable, answers):
        assert answers.words == []
        assert (worker.status, stoppable.stops) == (1, 1)
        (event,) = logged_errors
        assert "Socket operation on non-socket" in event["error"]
    assert answers.words == [b"leaving"]


@pytest.mark.logs_errors
async def test_a_worker_that_cannot_accept_for_another_says_so_and_serves_on(monkeypatch, logged_errors):
    descriptors = [of_a_socket(), of_no_socket()]
    async with worker_with(monkeypatch, descriptors) as (worker, stoppable, answers):
        assert answers.words == [b"ready"]
        assert (worker.status, stoppable.stops) == (0, 0)
        (event,) = logged_errors
        assert "Socket operation on non-socket" in event["error"]


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
