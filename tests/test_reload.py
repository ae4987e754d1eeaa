"""SIGHUP: what changes while a server runs, what stays, and what an invalid file does."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import termios
import textwrap

import pytest
from argon2 import PasswordHasher
from examples.raw_peers import GREET_ANONYMOUS, GREET_LOGIN, login, request, request_by_name
from support.load import Load, Transfer
from support.programs import free_port, twistd
from support.targets import Target, echo, read_exactly
from support.workers import PATIENCE, SUCCEEDED, is_refused, opened, settles, workers_of
from twisted.internet import reactor

from txsocksx_ext.server.service import SOCKS5ExtService
from txsocksx_ext.server.settings import ServerSettings

HASHER = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
RELOADED, NOT_RELOADED = "reloaded; now serves", "not reloaded, and nothing has changed: "


class Configured:
    """
    A server with a configuration file, which a test changes.

    :param count: of its workers.
    """

    def __init__(self, program, folder, count, options=(), **running):
        self.folder, self.path = folder, folder / "gateway.toml"
        self.port, self.count = free_port(), count
        self._program, self._options, self._running = program, options, running
        self.set_users("alice")

    def set_users(self, *names):
        path = self.folder / "users"
        path.write_text("".join(f"{name}:{HASHER.hash(name)}\n" for name in names))
        path.chmod(0o600)

    def write(self, text="", listen=(), rules=None):
        """Write the file: these lines, more listeners, and rules by their patterns."""
        listeners = [f"tcp:{self.port}:interface=127.0.0.1", *listen]
        tables = [
            f"[[rule]]\nto = {json.dumps(to)}\nroute = {json.dumps(route)}" for to, route in (rules or {}).items()
        ]
        self.path.write_text("\n".join([f"listen = {json.dumps(listeners)}", text, *tables]))

    def start(self):
        options = ("--config", str(self.path), "--workers", str(self.count), *self._options)
        self.server = twistd(self._program, *options, listen=[], **self._running)
        assert settles(lambda: " serves socks5" in self.output)
        if self.count > 1:
            assert settles(lambda: self.output.count("serves, as process") == self.count), self.output
        return self

    @property
    def output(self):
        return self.server.output

    def reload(self, expected=RELOADED):
        """Send SIGHUP and wait until the log says what came of it; the lines that were written meanwhile."""
        before = len(self.output)
        os.kill(self.server.pid, signal.SIGHUP)
        assert settles(lambda: expected in self.output[before:]), self.output[before:]
        return self.output[before:]


@pytest.fixture(params=[1, 2], ids=["one process", "two workers"])
def configured(request, program, tmp_path):
    """Make a server with a configuration file; it has to be started."""
    return lambda *options, **running: Configured(program, tmp_path, request.param, options, **running)


def reply(port, host, target_port=80):
    """The reply code to an anonymous request."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(GREET_ANONYMOUS + request(host, target_port))
        return read_exactly(client, 4)[3]


def logs_in(port, name):
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(GREET_LOGIN)
        assert read_exactly(client, 2) == b"\x05\x02"
        client.sendall(login(name.encode(), name.encode()))
        return read_exactly(client, 2) == b"\x01\x00"


def certificate_at(port):
    """The certificate that a TLS listener shows."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=PATIENCE)


@contextlib.contextmanager
def stream_of(port, name, target_port):
    """A stream of a user who has logged in."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(GREET_LOGIN)
        assert read_exactly(client, 2) == b"\x05\x02"
        client.sendall(login(name, name))
        assert read_exactly(client, 2) == b"\x01\x00"
        client.sendall(request("127.0.0.1", target_port))
        assert read_exactly(client, 10)[:2] == SUCCEEDED
        yield client


def carries(client):
    with contextlib.suppress(OSError, AssertionError):
        client.sendall(b"still")
        return read_exactly(client, 5) == b"still"
    return False


def written(certificate):
    """The certificate in the PEM of key and certificate, as `certificate_at` has it."""
    return certificate[certificate.index(b"-----BEGIN CERT") :].decode().strip()


@pytest.mark.deadline(300)
def test_reloads_under_load_lose_nothing(configured, authority):
    gateway = configured()
    secure, other = free_port(), free_port()
    pem = gateway.folder / "server.pem"
    tls = f"ssl:{secure}:privateKey={pem}:interface=127.0.0.1"
    settings = f'auth = "hashed:{gateway.folder}/users"\nanonymous = true\n'
    pem.write_bytes(authority.issue("localhost"))
    gateway.write(settings, [tls])
    gateway.start()
    with Target(echo) as far, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(opened(gateway.port, far.port)) for _ in range(6)]
        transfers = [Transfer(client) for client in clients]
        for each in transfers:
            each.start()
        with Load(gateway.port, far.port, clients=3) as load:
            for number in range(4):
                certificate = authority.issue("localhost")
                pem.write_bytes(certificate)
                gateway.set_users("alice", f"user{number}")
                has_other = number % 2 == 0
                listen = [tls, f"tcp:{other}:interface=127.0.0.1"] if has_other else [tls]
                gateway.write(settings, listen, {f"no{number}.example": "refuse"})
                gateway.reload()
                assert settles(lambda has_other=has_other: is_refused(other) is not has_other)
                assert settles(lambda pem=certificate: certificate_at(secure).strip() == written(pem))
                assert settles(lambda name=f"no{number}.example": reply(gateway.port, name) == 2)
                assert settles(lambda name=f"user{number}": logs_in(gateway.port, name))
                assert settles(lambda name=f"user{number - 1}": not logs_in(gateway.port, name))
            good = gateway.path.read_text()
            for number, wrong in enumerate(
                [
                    "listen = [",
                    good.replace("anonymous", "anonymos"),
                    good.replace('"refuse"', '"nowhere"'),
                    good.replace("/users", "/no-users"),
                    good.replace(tls, tls.replace("server.pem", "no.pem")),
                    good.replace(tls, f'{tls}", "tcp:{far.port}:interface=127.0.0.1'),
                ],
                start=1,
            ):
                gateway.path.write_text(wrong)
                lines = [line for line in gateway.reload(NOT_RELOADED).splitlines() if "CONNECT" not in line]
                assert [line for line in lines if "#error]" in line or "#critical]" in line or "Traceback" in line] == [
                    line for line in lines if NOT_RELOADED in line
                ]
                assert gateway.output.count(NOT_RELOADED) == number
            assert reply(gateway.port, "no3.example") == 2
            assert certificate_at(secure).strip() == written(pem.read_bytes())
            served = len(load.ends)
            assert settles(lambda: len(load.ends) > served + 6)
        rounds = [each.rounds for each in transfers]
        assert settles(lambda: all(each.rounds > before for each, before in zip(transfers, rounds, strict=True)))
        for each in transfers:
            each.end()
        assert [each.error for each in transfers if each.error] == []
        assert {end for _, end in load.ends} == {"served"}
    assert gateway.output.count(RELOADED) == 4


def test_streams_live_on_under_the_policy_that_admitted_them(configured):
    gateway = configured()
    gateway.write()
    gateway.start()
    with Target(echo) as far, opened(gateway.port, far.port) as client:
        gateway.write(rules={"127.0.0.1": "refuse"})
        gateway.reload()
        assert settles(lambda: reply(gateway.port, "127.0.0.1", far.port) == 2)
        assert carries(client)
    if gateway.count > 1:
        # Workers without a stream are gone.
        assert settles(lambda: len(workers_of(gateway.server)) == gateway.count)


@pytest.mark.parametrize(("ends", "is_ended"), [("removed-users", True), ("none", False)])
def test_streams_of_removed_users(configured, ends, is_ended):
    gateway = configured()
    settings = f'auth = "hashed:{gateway.folder}/users"\nreload-ends = "{ends}"'
    gateway.set_users("alice", "bob")
    gateway.write(settings)
    gateway.start()
    with contextlib.ExitStack() as stack:
        far = stack.enter_context(Target(echo))
        alice, bob = (stack.enter_context(stream_of(gateway.port, name, far.port)) for name in (b"alice", b"bob"))
        gateway.set_users("alice")
        gateway.reload()
        if is_ended:
            assert settles(lambda: not carries(bob))
            assert settles(lambda: "end=user removed" in gateway.output)
        else:
            assert carries(bob)
        assert carries(alice)
        assert settles(lambda: not logs_in(gateway.port, "bob"))


def test_the_number_of_workers_cannot_change(program, tmp_path):
    gateway = Configured(program, tmp_path, 1)
    gateway.write("workers = 1")
    gateway.server = twistd(program, "--config", str(gateway.path), listen=[])
    assert settles(lambda: " serves socks5" in gateway.output)
    gateway.write("workers = 2")
    assert "workers cannot change while the server runs" in gateway.reload(NOT_RELOADED)


async def test_verified_logins_are_remembered_over_a_reload(tmp_path):
    path = tmp_path / "users"
    path.write_text(f"alice:{HASHER.hash('alice')}\n")
    path.chmod(0o600)
    settings = ServerSettings(auth=(f"hashed:{path}", "memory:bob:secret"), anonymous=False)
    service = SOCKS5ExtService(reactor, settings.make_factory(reactor), [])
    hashed, memory = service.factory.checkers.values()
    await service.reload(settings, [], 1.0, False)
    assert service.factory.checkers[f"hashed:{path}"] is hashed
    assert service.factory.checkers["memory:bob:secret"] is not memory


KIND = '''
"""A kind of route with a service that notes its starts and stops, and that no worker can make while a file is there."""
import os, sys
from twisted.application.service import Service
from txsocksx_ext.route.direct import DirectRoute

class Noted(Service):
    def __init__(self, folder, name):
        self.folder, self.what = folder, name
    def note(self, what):
        with open(self.folder + "/runs", "a") as runs:
            runs.write(f"{self.what} {what}\\n")
    def startService(self):
        super().startService()
        self.note("started")
    def stopService(self):
        self.note("stopped")
        return super().stopService()

def from_description(reactor, arguments, keywords):
    if "txsocksx_ext.server.workers.process" in sys.modules and os.path.exists(arguments[0] + "/no-worker"):
        raise RuntimeError("no worker can be started")
    route = DirectRoute(reactor)
    route.service = Noted(*arguments)
    route.is_for_each_process = arguments[1] == "each"
    return route
'''


@pytest.fixture
def with_kind(configured, tmp_path):
    """A server that knows the route ``noted:FOLDER:NAME``, also in its workers; and what the route has noted."""
    kinds = tmp_path / "kinds"
    kinds.mkdir()
    (kinds / "noted.py").write_text(textwrap.dedent(KIND))
    (kinds / "sitecustomize.py").write_text(
        f"import txsocksx_ext.route\ntxsocksx_ext.route.__path__.append({str(kinds)!r})\n"
    )
    gateway = configured(env={"PYTHONPATH": str(kinds)})
    runs = tmp_path / "runs"
    return gateway, lambda: runs.read_text().splitlines() if runs.exists() else []


def test_a_route_that_stays_keeps_running_and_one_that_is_removed_stops_after_its_last_stream(with_kind):
    gateway, runs = with_kind
    route, second = f"noted:{gateway.folder}:first", f"noted:{gateway.folder}:second"
    gateway.write(rules={"localhost": route})
    gateway.start()
    assert settles(lambda: runs() == ["first started"])
    with Target(echo) as far:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE) as client:
            client.sendall(GREET_ANONYMOUS + request_by_name("localhost", far.port))
            assert read_exactly(client, 12)[2:4] == SUCCEEDED
            gateway.write(rules={"localhost": route, "other": second})
            gateway.reload()
            assert runs() == ["first started", "second started"]
            gateway.write(rules={"other": second})
            gateway.reload()
            assert carries(client)
            assert runs() == ["first started", "second started"]
        assert settles(lambda: "first stopped" in runs())
    assert "second stopped" not in runs()


@pytest.mark.parametrize("configured", [2], indirect=True)
def test_where_one_worker_cannot_start_none_changes(with_kind):
    gateway, _ = with_kind
    gateway.write()
    gateway.start()
    before = workers_of(gateway.server)
    (gateway.folder / "no-worker").touch()
    more = f"tcp:{free_port()}:interface=127.0.0.1"
    gateway.write(listen=[more], rules={"localhost": f"noted:{gateway.folder}:each", "no.example": "refuse"})
    assert "worker" in gateway.reload(NOT_RELOADED)
    assert settles(lambda: workers_of(gateway.server) == before)
    assert reply(gateway.port, "no.example") != 2
    (gateway.folder / "no-worker").unlink()
    gateway.reload()
    assert settles(lambda: reply(gateway.port, "no.example") == 2)


def test_a_terminal_that_is_closed_ends_the_server_and_no_other_hangup_does(tmp_path):
    path = tmp_path / "gateway.toml"
    path.write_text(f'listen = "tcp:{free_port()}:interface=127.0.0.1"')
    log = tmp_path / "log"
    master, slave = os.openpty()
    runner = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile="]
    process = subprocess.Popen(
        [*runner, f"--logfile={log}", "socks5ext", "--config", str(path)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),
    )
    os.close(slave)

    def has_logged(text):
        return log.exists() and text in log.read_text()

    try:
        assert settles(lambda: has_logged("serves socks5"))
        os.kill(process.pid, signal.SIGHUP)
        assert settles(lambda: has_logged(RELOADED))
        assert process.poll() is None
        os.close(master)
        assert process.wait(PATIENCE) == 0
        assert has_logged("Server Shut Down")
    finally:
        process.kill()
        process.wait()
