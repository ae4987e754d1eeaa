"""``--status``: what a server tells of itself by HTTP, and to whom."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from examples.raw_peers import GREET_LOGIN, login, proxy, request, target, tls_listener
from prometheus_client.parser import text_string_to_metric_families
from support.programs import free_port, twistd
from support.targets import Target, echo, programs, read_exactly
from support.workers import is_refused, opened, settles, workers_of
from twisted.internet import reactor
from twisted.python.usage import UsageError

from txsocksx_ext import SOCKS5ExtFactory
from txsocksx_ext.server.status import status_of
from txsocksx_ext.tap import Options

HTML = "text/html; charset=utf-8"
ENDING = {"X-Socks5ext": "1"}


class Page:
    """The status page of a server."""

    def __init__(self, port):
        self.port = port
        self.option = f"--status=tcp:{port}:interface=127.0.0.1"

    def ask(self, path, method="GET", **headers):
        """The status code and the body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            self.headers = answer.headers
            return answer.status, answer.read().decode()

    def json(self, path):
        code, body = self.ask(path)
        assert code == 200
        return json.loads(body)

    def metrics(self):
        """All samples, by name and the values of the labels."""
        code, body = self.ask("/metrics")
        assert code == 200
        families = text_string_to_metric_families(body)
        return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}

    def end(self, path, **headers):
        return self.ask(path, "POST", **headers)


@pytest.fixture
def page():
    return Page(free_port())


@pytest.fixture
def server(socks5ext, page):
    return socks5ext(page.option)


def refuse(server):
    """A connection that the server closes because it speaks no protocol that is served."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"\x80")
        assert client.recv(1) == b""


# Metrics.


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_the_metrics_of_all_processes_are_on_one_page(socks5ext, page, options):
    server = socks5ext(page.option, *options)
    asked = ("socks5", "CONNECT", "direct")
    with Target(echo) as far, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(opened(server.port, far.port)) for _ in range(10)]
        for client in clients:
            client.sendall(bytes(1000))
            read_exactly(client, 1000)
        metrics = page.metrics()
        assert metrics["socks5ext_connections", "socks5"] == 10
        assert metrics[("socks5ext_requests_total", *asked, "00")] == 10
        assert metrics["socks5ext_relayed_bytes_total", "up", "direct"] == 10_000
        assert metrics["socks5ext_relayed_bytes_total", "down", "direct"] == 10_000
        assert metrics["socks5ext_connect_duration_seconds_count", "direct"] == 10
        assert metrics["socks5ext_connect_duration_seconds_bucket", "direct", "+Inf"] == 10
        assert 0 < metrics["socks5ext_connect_duration_seconds_sum", "direct"] < 100
        assert metrics["socks5ext_authentications_total", "NO_AUTHENTICATION", "accepted"] == 10
        assert metrics["socks5ext_draining",] == 0
        assert metrics["process_start_time_seconds",] == pytest.approx(time.time(), abs=100)
        assert metrics["process_resident_memory_bytes",] > 10_000_000
    refuse(server)
    failed = "socks5ext_handshakes_failed_total", "", "violation"
    assert settles(lambda: page.metrics().get(failed) == 1)
    assert settles(lambda: "socks5ext_connections" not in {name for name, *_ in page.metrics()})
    after = page.metrics()
    assert after[("socks5ext_requests_total", *asked, "00")] == 10
    assert after["socks5ext_relayed_bytes_total", "up", "direct"] == 10_000


def test_the_metrics_of_a_worker_stay_when_it_dies(socks5ext, page):
    server = socks5ext(page.option, "--workers", "2")
    with Target(echo) as far, opened(server.port, far.port) as client:
        client.sendall(b"hello")
        read_exactly(client, 5)
        (session,) = page.json("/sessions")
        before = page.metrics()
        os.kill(int(session["id"].partition("-")[0]), signal.SIGKILL)
        assert settles(lambda: not page.json("/sessions"))
        after = page.metrics()
    requests = "socks5ext_requests_total", "socks5", "CONNECT", "direct", "00"
    assert (before[requests], after[requests]) == (1, 1)
    assert after["socks5ext_relayed_bytes_total", "up", "direct"] == 5
    assert ("socks5ext_connections", "socks5") not in after


def test_a_worker_that_hangs_does_not_keep_the_page(workers, page):
    server = workers(page.option)
    with Target(echo) as far, opened(server.port, far.port):
        assert page.json("/status")["unheard"] == 0
        for pid in workers_of(server):
            os.kill(pid, signal.SIGSTOP)
        # This client does not wait for its answer.
        with socket.create_connection(("127.0.0.1", page.port), timeout=20) as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert page.json("/status")["unheard"] == 2
        assert page.metrics()["socks5ext_connections", "socks5"] == 1
        for pid in workers_of(server):
            os.kill(pid, signal.SIGCONT)
        assert settles(lambda: page.json("/status")["unheard"] == 0)
        assert len(page.json("/sessions")) == 1
    server.stop()
    assert "Traceback" not in server.output


def test_logins_are_counted_by_outcome(socks5ext, page):
    server = socks5ext(page.option, "--auth=memory:alice:right")
    for password, answer in ((b"right", b"\x01\x00"), (b"wrong", b"\x01\x01")):
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            client.sendall(GREET_LOGIN + login(b"alice", password))
            assert read_exactly(client, 4) == b"\x05\x02" + answer
            if password == b"right":
                client.sendall(request("127.0.0.1", free_port()))
                assert read_exactly(client, 2) == b"\x05\x05"
    count = "socks5ext_authentications_total", "USERNAME_PASSWORD"
    assert settles(lambda: page.metrics().get((*count, "refused")) == 1)
    metrics = page.metrics()
    assert metrics[(*count, "accepted")] == 1
    assert metrics["socks5ext_requests_total", "socks5", "CONNECT", "direct", "05"] == 1


def test_connections_beyond_a_limit_are_counted(socks5ext, page):
    server = socks5ext(page.option, "--max-connections", "1")
    refused = "socks5ext_refused_connections_total", "max-connections"
    assert page.metrics()[refused] == 0
    with Target(echo) as far, opened(server.port, far.port):
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
                assert client.recv(1) == b""
        assert page.metrics()[refused] == 3


def test_tor_and_transports_are_shown(socks5ext, page):
    nobody = free_port()
    socks5ext(page.option, "--route", rf"*.onion=tor:tcp\:127.0.0.1\:{nobody}:control=tcp\:127.0.0.1\:{free_port()}")
    metrics = page.metrics()
    tor = f"tcp:127.0.0.1:{nobody}"
    assert metrics["socks5ext_tor_up", tor] == 1
    assert ("socks5ext_tor_bootstrap_ratio", tor) not in metrics
    (part,) = page.json("/status")["parts"]
    assert (part["name"], part["state"], part["bootstrap"]) == (tor, "no control connection", None)
    assert settles(lambda: page.json("/status")["warnings"])
    assert "cannot be controlled" in page.json("/status")["warnings"][0]["text"]


def test_a_warning_that_comes_again_stands_once(socks5ext, page):
    socks5ext(page.option, "--route", "192.0.2.1=transport:obfs4:exec=/bin/false")
    assert settles(lambda: page.json("/status")["warnings"][0:1] and page.json("/status")["warnings"][0]["count"] > 1)
    (warning,) = page.json("/status")["warnings"]
    assert warning["text"] == "the transport obfs4 does not start: it ended before it was ready: exit status 1"
    assert page.metrics()["socks5ext_transport_up", "obfs4"] == 0


# Sessions.


def names_of(sessions):
    return [(each.get("user"), each.get("target")) for each in sessions]


@contextlib.contextmanager
def stream_of(server, far, user):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(GREET_LOGIN + login(user.encode(), b"secret") + request("127.0.0.1", far.port))
        assert read_exactly(client, 14)[:6] == b"\x05\x02\x01\x00\x05\x00"
        yield client


def is_closed(client):
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_each_open_session_is_one_object(server, page):
    # The fixture has connected, to see whether the server listens.
    assert settles(lambda: page.json("/sessions") == [])
    with Target(echo) as far, stream_of(server, far, "alice") as client:
        client.sendall(bytes(700))
        read_exactly(client, 700)
        (session,) = page.json("/sessions")
        assert page.headers["Content-Type"] == "application/json"
        assert session.pop("seconds") < 100
        assert session.pop("id").partition("-")[0] == str(server.pid)
        assert session == {
            "peer": "127.0.0.1",
            "protocol": "socks5",
            "method": "USERNAME_PASSWORD",
            "route": "direct",
            "up": 700,
            "down": 700,
        }


def test_targets_and_users_are_shown_if_they_may_be_logged(socks5ext, page):
    server = socks5ext(page.option, "--log-targets")
    with Target(echo) as far, stream_of(server, far, "alice"):
        assert names_of(page.json("/sessions")) == [("alice", f"127.0.0.1:{far.port}")]
        assert page.json("/status")["targets"] is True


async def test_the_page_is_told_of_the_sessions_with_the_most_bytes():
    async with target() as far, proxy(SOCKS5ExtFactory(reactor)) as server:
        for count in (10, 3000, 0, 500):
            client, _, _ = await server.ask("127.0.0.1", far.port)
            client.send(bytes(count))
            await (await far.accept()).read(count)
        assert [each["up"] for each in status_of(server.factory, 2).sessions] == [3000, 500]
        assert sorted(each["up"] for each in status_of(server.factory, None).sessions) == [0, 10, 500, 3000]
        assert status_of(server.factory, 0).sessions == []


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_sessions_are_ended_by_number_and_by_user(socks5ext, page, options):
    server = socks5ext(page.option, "--log-targets", *options)
    with Target(echo) as far, contextlib.ExitStack() as stack:
        streams = {user: [stack.enter_context(stream_of(server, far, user)) for _ in range(4)] for user in ("ä/b", "c")}
        first = next(each for each in page.json("/sessions") if each["user"] == "c")
        assert page.end(f"/sessions/{first['id']}/end", **ENDING) == (200, '{"ended": 1}')
        assert settles(lambda: len(page.json("/sessions")) == 7)
        assert page.end("/users/%C3%A4%2Fb/end", **ENDING) == (200, '{"ended": 4}')
        assert all(map(is_closed, streams["ä/b"]))
        assert settles(lambda: {user for user, _ in names_of(page.json("/sessions"))} == {"c"})
        assert page.end(f"/sessions/{first['id']}/end", **ENDING)[0] == 404
        assert page.end("/users/nobody/end", **ENDING)[0] == 404
    assert settles(lambda: server.output.count("end=ended by the operator") == 5)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X_Socks5ext": "0"},
        {"X_Socks5ext": "1", "Origin": "http://example.com"},
        {"X_Socks5ext": "1", "Origin": "null"},
        {"X_Socks5ext": "1", "Origin": "http://127.0.0.1:1"},
        {"X_Socks5ext": "1", "Host": "example.com"},
    ],
)
def test_a_page_of_another_origin_ends_nothing(server, page, headers):
    with Target(echo) as far, stream_of(server, far, "alice") as client:
        (session,) = page.json("/sessions")
        for path in (f"/sessions/{session['id']}/end", "/users/alice/end"):
            assert page.end(path, **headers)[0] == 403
            assert "Access-Control-Allow-Origin" not in page.headers
        client.sendall(b"hello")
        assert read_exactly(client, 5) == b"hello"
        own = f"http://127.0.0.1:{page.port}"
        assert page.end("/users/alice/end", Origin=own, **ENDING)[0] == 200
        assert is_closed(client)


# Who may ask, and what.


@pytest.fixture(scope="module")
def shared():
    """The page of a server that these tests share."""
    page = Page(free_port())
    with programs() as start:
        twistd(start, page.option)
        yield page


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9180", "[::1]:9180", socket.gethostname()])
def test_names_of_this_machine_and_addresses_are_served(shared, host):
    assert shared.ask("/healthz", Host=host) == (200, "ok\n")


@pytest.mark.parametrize("host", ["example.com", "localhost.example.com", "127.0.0.1.example.com:9180", "[", "a b"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/sessions", "/status", "/healthz"])
def test_a_foreign_host_is_refused(shared, path, host):
    assert shared.ask(path, Host=host) == (403, "use an address, localhost or this machine's own name as the host\n")


def test_a_check_without_a_host_is_served(shared):
    with socket.create_connection(("127.0.0.1", shared.port), timeout=20) as client:
        client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert client.makefile().readline().split()[1] == "200"


def test_other_paths_and_methods_are_refused(shared):
    assert shared.ask("/nothing") == (404, "no such page\n")
    assert shared.ask("/metrics/more")[0] == 404
    assert shared.ask("/metrics", "POST") == (405, "only GET\n")
    assert shared.ask("/users/alice/end") == (405, "only POST\n")
    assert shared.ask("/metrics", "HEAD") == (200, "")


def test_the_page_loads_nothing_from_elsewhere(shared):
    code, body = shared.ask("/")
    assert (code, shared.headers["Content-Type"]) == (200, HTML)
    assert "http:" not in body
    assert "https:" not in body
    policy = dict(each.split(None, 1) for each in shared.headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"].startswith("'sha256-")


def test_a_unix_socket_is_served(socks5ext, tmp_path):
    socks5ext(f"--status=unix:{tmp_path}/status")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(f"{tmp_path}/status")
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert client.makefile().read().endswith("\nok\n")


# Stopping.


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_it_is_not_ready_but_accepts_while_the_drain_is_delayed(socks5ext, page, options):
    server = socks5ext(page.option, "--drain-delay", "3", *options)
    assert page.ask("/readyz") == (200, "ready\n")
    with Target(echo) as far, opened(server.port, far.port) as before:
        os.kill(server.pid, signal.SIGTERM)
        assert settles(lambda: page.ask("/readyz") == (503, "stopping\n"))
        assert page.ask("/healthz") == (200, "ok\n")
        assert page.metrics()["socks5ext_draining",] == 1
        with opened(server.port, far.port) as during:
            assert settles(lambda: is_refused(server.port))
            # It answers until the last stream has ended.
            assert page.ask("/readyz") == (503, "stopping\n")
            for client in (before, during):
                client.sendall(b"hello")
                assert read_exactly(client, 5) == b"hello"
    # twistd ends itself by the signal that it got.
    assert server.process.wait(60) == -signal.SIGTERM
    assert "Server Shut Down" in server.output
    assert is_refused(page.port)


def test_another_signal_ends_the_delay(socks5ext, page):
    server = socks5ext(page.option, "--drain-delay", "1000")
    with Target(echo) as far, opened(server.port, far.port) as client:
        os.kill(server.pid, signal.SIGTERM)
        assert settles(lambda: page.ask("/readyz")[0] == 503)
        os.kill(server.pid, signal.SIGTERM)
        assert is_closed(client)
    # twistd ends itself by the signal that it got.
    assert server.process.wait(60) == -signal.SIGTERM
    assert "Server Shut Down" in server.output


# The option.


@pytest.mark.parametrize("endpoint", ["tcp:9180", r"tcp6:9180:interface=2001\:db8\:\:1", "TLS"])
def test_a_listener_that_others_reach_is_refused(tmp_path, endpoint):
    if endpoint == "TLS":
        endpoint = tls_listener(tmp_path).replace("127.0.0.1", "192.0.2.1")
    with pytest.raises(UsageError, match="others could read it and end sessions"):
        Options().parseOptions(["--status", endpoint])


def test_a_malformed_endpoint_is_named():
    with pytest.raises(UsageError, match="--status tcp:x is no server endpoint string"):
        Options().parseOptions(["--status", "tcp:x"])


def test_the_web_server_is_loaded_only_if_it_is_used():
    loaded = "import sys, txsocksx_ext.tap; o = txsocksx_ext.tap.Options(); o.parseOptions([]); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout.split()
    assert "txsocksx_ext.server.service" in modules
    assert [name for name in modules if name.startswith("twisted.web.server")] == []
    assert "txsocksx_ext.server.status_page" not in modules


def test_reloads_are_counted(program, page, tmp_path):
    file = tmp_path / "gateway.toml"
    good = f'listen = "tcp:{free_port()}:interface=127.0.0.1"\n'
    file.write_text(good)
    server = twistd(program, page.option, "--config", str(file), listen=[])
    assert settles(lambda: " serves socks5" in server.output)
    total = "socks5ext_config_reloads_total"
    last = ("socks5ext_config_last_reload_success_timestamp_seconds",)
    before = page.metrics()
    assert (before[total, "succeeded"], before[total, "failed"]) == (0, 0)
    for text, outcome in (("nonsense", "failed"), (good + "connect-timeout = 7\n", "succeeded")):
        file.write_text(text)
        os.kill(server.pid, signal.SIGHUP)
        assert settles(lambda outcome=outcome: page.metrics()[total, outcome] == 1)
        after = page.metrics()
        assert (after[last] > before[last]) is (outcome == "succeeded")
