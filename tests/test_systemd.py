"""What a server tells systemd: that it serves, reloads and stops, and that it still works."""

import os
import signal
import socket
import time

import pytest
from examples.raw_peers import GREET_ANONYMOUS
from support.logs import lines_logged
from support.programs import has_written
from support.targets import read_exactly
from twisted.internet.task import Clock

from txsocksx_ext.server.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """The socket at which systemd listens, with its name as ``$NOTIFY_SOCKET`` has it in ``notify_socket``."""
    name = f"socks5ext-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")

    class Manager(socket.socket):
        notify_socket = f"@{name}" if request.param == "abstract" else name

        def message(self):
            return dict(line.split("=", 1) for line in self.recv(4096).decode("ascii").splitlines())

        def next_but_pings(self):
            while True:
                message = self.message()
                if message != {"WATCHDOG": "1"}:
                    return message

    with Manager(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(30)
        listening.bind(f"\0{name}" if request.param == "abstract" else name)
        yield listening


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_tells_when_it_serves_and_when_it_stops(socks5ext, manager, workers):
    server = socks5ext(f"--workers={workers}", env={"NOTIFY_SOCKET": manager.notify_socket})
    assert manager.message() == {"READY": "1", "STATUS": "serving"}
    assert server.output.count("serves, as process") == (0 if workers == 1 else workers)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(GREET_ANONYMOUS)
        assert read_exactly(client, 2) == b"\x05\x00"
    server.stop()
    assert manager.message() == {"STOPPING": "1", "STATUS": "draining"}
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):  # workers told nothing
        manager.message()


@pytest.mark.parametrize(("text", "is_valid"), [("drain = 2", True), ("drane = 2", False)])
def test_a_server_tells_when_a_reload_begins_and_ends(socks5ext, manager, tmp_path, text, is_valid):
    path = tmp_path / "gateway.toml"
    path.write_text("drain = 1")
    server = socks5ext("--config", str(path), env={"NOTIFY_SOCKET": manager.notify_socket})
    assert manager.message() == {"READY": "1", "STATUS": "serving"}
    assert has_written(server, "serves socks5")
    path.write_text(text)
    os.kill(server.pid, signal.SIGHUP)
    assert manager.message()["RELOADING"] == "1"
    assert manager.message() == {"READY": "1", "STATUS": "serving"}
    assert has_written(server, "reloaded; now serves" if is_valid else "not reloaded")


def test_the_watchdog_is_told_until_the_end_of_draining(socks5ext, manager):
    server = socks5ext("--drain-delay=0.5", env={"NOTIFY_SOCKET": manager.notify_socket, "WATCHDOG_USEC": "200000"})
    pings = [manager.message() for _ in range(4)]
    assert pings.count({"WATCHDOG": "1"}) == 3
    assert pings.count({"READY": "1", "STATUS": "serving"}) == 1
    server.process.terminate()
    assert manager.next_but_pings()["STOPPING"] == "1"
    assert manager.message() == {"WATCHDOG": "1"}


def test_a_reload_begins_at_a_monotonic_time_and_ends_with_ready(manager):
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier = Notifier(manager.notify_socket)
    notifier.reloading()
    began = manager.message()
    assert began["RELOADING"] == "1"
    assert before <= int(began["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.ready("serving; the last reload failed")
    assert manager.message() == {"READY": "1", "STATUS": "serving; the last reload failed"}


def environment(**more):
    return {"NOTIFY_SOCKET": "/nowhere/at/all", "WATCHDOG_USEC": "2000000", **more}


# With names: processes that run tests side by side must agree on them.
@pytest.mark.parametrize(
    ("process", "is_watched"), [(str(os.getpid()), True), ("1", False)], ids=["this process", "another"]
)
def test_the_watchdog_of_another_process_is_not_told(process, is_watched):
    variables, clock = environment(WATCHDOG_PID=process), Clock()
    with lines_logged("txsocksx_ext.server") as lines:
        notifier = Notifier.from_environment(variables)
        notifier.start(clock)
        clock.advance(1)
        notifier.stop()
    # Children must not send messages of their own.
    assert variables == {}
    assert len(lines) == (2 if is_watched else 0)
    assert clock.getDelayedCalls() == []


def test_nothing_is_sent_without_systemd():
    with lines_logged("txsocksx_ext.server") as lines:
        notifier = Notifier.from_environment({"WATCHDOG_USEC": "1000"})
        notifier.start(Clock())
        notifier.ready()
        notifier.stopping()
        notifier.stop()
    assert lines == []


def test_a_server_serves_where_systemd_does_not_listen(socks5ext, tmp_path):
    server = socks5ext(env={"NOTIFY_SOCKET": str(tmp_path / "none")})
    assert has_written(server, "cannot notify systemd at $NOTIFY_SOCKET: No such file or directory")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(GREET_ANONYMOUS)
        assert read_exactly(client, 2) == b"\x05\x00"
