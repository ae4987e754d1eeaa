"""
The control connection that comes back, and the tor of our own: their lives, by scripted tors and a `Clock`.
"""

import fcntl
import os
import re
import stat
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from examples.raw_peers import proxy, target, turn, until
from support.logs import lines_logged
from support.programs import free_port
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, quoteStringArgument
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from txsocksx_ext import RouteTable, route_from_string
from txsocksx_ext.failures import reply_error
from txsocksx_ext.protocol.codes import Dialect
from txsocksx_ext.route.tor import TorRoute
from txsocksx_ext.tor import launch
from txsocksx_ext.tor.attach import attach
from txsocksx_ext.tor.control import ATTACH_WITHIN, ControlConnection
from txsocksx_ext.tor.instance import TorInstance
from txsocksx_ext.tor.isolation import IsolationTokens

SERVICE = "oufiwc7giqrrjlb5zhg7vr3jtqxgbwns5ner577ncb6jxnhh2kvr7kqd"


@pytest.fixture
def logged_failures():
    """The failures that anybody logs."""
    failures = []

    def observe(event):
        if "log_failure" in event:
            failures.append(event["log_failure"])

    globalLogPublisher.addObserver(observe)
    yield failures
    globalLogPublisher.removeObserver(observe)


@pytest.fixture
def log():
    """What the package logs about tor, as lines."""
    with lines_logged("txsocksx_ext.tor") as lines:
        yield lines


class FakeTor:
    """What stands for a `txtorcon.Tor`, with a control connection in a test's hand."""

    def __init__(self, phase='NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"'):
        self.listeners = {}
        self.phase = succeed({"status/bootstrap-phase": phase})
        self.protocol = self
        self.transport = SimpleNamespace(loseConnection=self.lose, abortConnection=self.lose)
        self.is_lost = False
        self._watching = []

    def add_event_listener(self, name, callback):
        self.listeners[name] = callback
        return succeed(None)

    def get_info(self, key):
        assert key == "status/bootstrap-phase"
        return self.phase

    def when_disconnected(self):
        watching = Deferred()
        self._watching.append(watching)
        return watching

    def lose(self):
        self.is_lost = True
        watching, self._watching = self._watching, []
        for each in watching:
            each.errback(RuntimeError("the connection is lost"))


class Attempts:
    """
    Opens tors as a test wants.

    :ivar opened: one Deferred for each attempt; the test fires it.
    """

    def __init__(self):
        self.clock = Clock()
        self.opened = []
        self.closed = 0
        self.closing = None
        self.control = ControlConnection(self.clock, self._open, "the scripted tor", self._close)

    def _open(self):
        self.opened.append(Deferred())
        return self.opened[-1]

    def _close(self):
        self.closed += 1
        return self.closing or succeed(None)

    def begin(self):
        self.control.startService()
        return self

    def attached(self, **options):
        """Begin, and attach to a tor: that."""
        tor = FakeTor(**options)
        self.begin().opened[-1].callback(tor)
        return tor

    def stop(self):
        stopped = []
        self.control.stopService().addCallback(stopped.append)
        return stopped


# Attached.


def test_it_listens_to_what_a_tracker_has_to_see(log):
    attempts = Attempts()
    tor = attempts.attached()
    control = attempts.control
    assert control.is_live
    assert control.tor is tor
    assert control.tracker.bootstrapped
    assert set(tor.listeners) == {"STREAM", "HS_DESC", "STATUS_CLIENT"}
    assert log == ["the scripted tor: control connection established; bootstrapped"]
    attempts.stop()


def test_the_events_reach_the_tracker():
    attempts = Attempts()
    listeners = attempts.attached().listeners
    record = attempts.control.tracker.expect(("source", "127.0.0.1:4711", f"{SERVICE}.onion:80"))
    listeners["STREAM"](f"5 NEW 0 {SERVICE}.onion:80 SOURCE_ADDR=127.0.0.1:4711 PURPOSE=USER")
    listeners["HS_DESC"](f"FAILED {SERVICE} NO_AUTH $00~r key REASON=NOT_FOUND")
    listeners["STREAM"](f"5 CLOSED 0 {SERVICE}.onion:80 REASON=RESOLVEFAILED")
    assert record.fetch.is_not_found
    ended = record.end_for(reply_error(0x04, Dialect.TOR))
    assert ended.result.reason == "RESOLVEFAILED"
    attempts.stop()


@pytest.mark.parametrize("name", ["STREAM", "HS_DESC", "STATUS_CLIENT"])
@pytest.mark.parametrize("line", ["", "x", '"', "1 NEW", "BOOTSTRAP PROGRESS=x"])
def test_lines_that_are_not_understood_do_no_harm(name, line):
    attempts = Attempts()
    attempts.attached().listeners[name](line)
    assert attempts.control.tracker.bootstrapped
    attempts.stop()


def test_the_progress_of_the_bootstrap_stands_in_the_log(log):
    attempts = Attempts()
    tor = attempts.attached(phase='NOTICE BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="Connecting to a relay"')
    tracker = attempts.control.tracker
    assert not tracker.bootstrapped
    say = tor.listeners["STATUS_CLIENT"]
    say(
        'WARN BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="Connecting to a relay" WARNING="No route to host"'
        ' REASON=NOROUTE COUNT=3 RECOMMENDATION=warn HOSTADDR="192.0.2.1:9001"'
    )
    assert not tracker.bootstrapped
    say('NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"')
    assert tracker.bootstrapped
    assert log == [
        "the scripted tor: control connection established; bootstrapping",
        "the scripted tor: bootstrapping (5 %): Connecting to a relay: No route to host",
        "the scripted tor: bootstrapping (100 %): Done",
    ]
    attempts.stop()


def test_a_step_of_the_bootstrap_that_tor_tells_again_is_said_once(log):
    attempts = Attempts()
    tor = attempts.attached(phase="NOTICE BOOTSTRAP PROGRESS=14 TAG=handshake")
    stuck = 'WARN BOOTSTRAP PROGRESS=14 TAG=handshake SUMMARY="Handshaking with a relay" WARNING="DONE" REASON=DONE'
    other = stuck.replace('"DONE"', '"No route to host"')
    for line in (f"{stuck} COUNT=1", f"{stuck} COUNT=2", f"{stuck} COUNT=3", other, other, stuck):
        tor.listeners["STATUS_CLIENT"](line)
    assert [line.rpartition(": ")[2] for line in log[1:]] == ["DONE", "No route to host", "DONE"]
    # A tor that comes back tells all anew.
    tor.lose()
    again = FakeTor(phase=tor.phase.result["status/bootstrap-phase"])
    attempts.opened[-1].callback(again)
    again.listeners["STATUS_CLIENT"](stuck)
    assert log[-1].endswith(": DONE")
    attempts.stop()


def test_targets_never_stand_in_the_log(log):
    attempts = Attempts()
    tor = attempts.attached()
    tor.listeners["STATUS_CLIENT"](f'WARN SOCKS_BAD_HOSTNAME HOSTNAME="{SERVICE}.onion"')
    tor.listeners["STREAM"](f"5 NEW 0 {SERVICE}.onion:80 SOURCE_ADDR=127.0.0.1:4711 PURPOSE=USER")
    assert SERVICE not in "".join(log)
    attempts.stop()


# Not attached, and again.


def test_it_is_tried_again_after_growing_pauses_and_said_once(log):
    attempts = Attempts().begin()
    moments = []
    while len(attempts.opened) < 12:
        moments.append(attempts.clock.seconds())
        attempts.opened[-1].errback(ConnectionRefusedError("nobody is there"))
        count = len(attempts.opened)
        while len(attempts.opened) == count:
            attempts.clock.advance(0.1)
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1
    assert 10 < pauses[-1] < 20
    assert len(log) == 1
    assert "the scripted tor cannot be controlled: ConnectionRefusedError" in log[0]
    assert not attempts.control.is_live
    # And when it is there, it is used.
    attempts.opened[-1].callback(FakeTor())
    assert attempts.control.is_live
    attempts.stop()


def test_each_new_reason_why_it_cannot_attach_is_said(log):
    attempts = Attempts().begin()
    wrong = RuntimeError("515 Authentication failed")
    for error in (ConnectionRefusedError(), ConnectionRefusedError(), wrong, wrong, ConnectionRefusedError()):
        attempts.opened[-1].errback(error)
        attempts.clock.advance(15)
    assert [line.partition(" cannot be controlled: ")[2].partition(":")[0] for line in log] == [
        "ConnectionRefusedError",
        "RuntimeError",
        "ConnectionRefusedError",
    ]
    attempts.stop()


def test_a_connection_that_is_lost_comes_back_and_knows_nothing_of_before(log):
    attempts = Attempts()
    tor = attempts.attached()
    control = attempts.control
    waiting = control.tracker.expect(("source", "127.0.0.1:4711", f"{SERVICE}.onion:80"))
    tor.lose()
    assert not control.is_live
    assert not control.tracker.bootstrapped
    # At once, and then after pauses that begin anew.
    assert len(attempts.opened) == 2
    attempts.opened[-1].errback(ConnectionRefusedError())
    attempts.clock.advance(1)
    assert len(attempts.opened) == 3
    again = FakeTor()
    attempts.opened[-1].callback(again)
    assert control.tor is again
    again.listeners["STREAM"](f"5 NEW 0 {SERVICE}.onion:80 SOURCE_ADDR=127.0.0.1:4711 PURPOSE=USER")
    assert not waiting.is_seen
    assert [re.sub("controlled: .*", "controlled", line) for line in log] == [
        "the scripted tor: control connection established; bootstrapped",
        "the scripted tor: control connection lost",
        "the scripted tor cannot be controlled",
        "the scripted tor: control connection established; bootstrapped",
    ]
    attempts.stop()


@pytest.mark.parametrize("fault", ["add_event_listener", "get_info"])
def test_a_tor_that_cannot_be_listened_to_is_not_kept(fault):
    attempts = Attempts().begin()
    tor = FakeTor()
    setattr(tor, fault, lambda *_: fail(RuntimeError("unrecognized event")))
    attempts.opened[-1].callback(tor)
    assert tor.is_lost
    assert not attempts.control.is_live
    attempts.clock.advance(1)
    assert len(attempts.opened) == 2
    attempts.stop()


def test_an_attempt_that_never_ends_is_given_up_and_made_again(log):
    attempts = Attempts().begin()
    attempts.clock.advance(ATTACH_WITHIN)
    attempts.clock.advance(1)
    assert len(attempts.opened) == 2
    assert log == ["the scripted tor cannot be controlled: TimeoutError: no answer within 30 seconds"]
    attempts.stop()


@pytest.mark.parametrize("outcome", [FakeTor(), Failure(ConnectionRefusedError())], ids=["attached", "refused"])
def test_streams_that_wait_for_an_attempt_go_on_at_its_end(outcome):
    attempts = Attempts().begin()
    waiting = Deferred.fromCoroutine(attempts.control.settled())
    assert not waiting.called
    attempts.opened[-1].callback(outcome)
    assert waiting.called
    attempts.stop()


def test_a_tor_that_says_nothing_once_it_has_let_us_in_is_given_up():
    attempts = Attempts().begin()
    tor = FakeTor()
    tor.phase = Deferred()
    attempts.opened[-1].callback(tor)
    attempts.clock.advance(ATTACH_WITHIN)
    assert tor.is_lost
    assert not attempts.control.is_live
    attempts.stop()


async def test_no_password_of_a_way_to_tor_is_logged(log):
    way = quoteStringArgument("socks5ext:far.example:9050:username=u:password=SECRET:proxy=unix\\:/nowhere")
    unix, tcp = quoteStringArgument("unix:/nowhere"), quoteStringArgument("tcp:127.0.0.1:2")
    # Only before the first keyword an equals sign has to be quoted too.
    first = way.replace("=", "\\=")
    route = route_from_string(reactor, f"tor:{first}:{tcp}:control={way},{unix}")
    route.service.startService()
    await until(lambda: len(log) == 2)
    await route.service.stopService()
    assert sorted(line.partition(" cannot be controlled")[0] for line in log) == [
        "tor 1 at socks5ext (control port socks5ext)",
        "tor 2 at tcp:127.0.0.1:2 (control port unix:/nowhere)",
    ]
    assert "SECRET" not in "".join(log)


# The end.


@pytest.mark.parametrize("moment", ["opening", "listening", "pausing", "attached"])
def test_it_stops_at_any_moment_and_leaves_nothing(moment, log):
    attempts = Attempts().begin()
    tor = FakeTor()
    if moment == "pausing":
        attempts.opened[-1].errback(ConnectionRefusedError())
    elif moment == "listening":
        tor.phase = Deferred()
    if moment in ("listening", "attached"):
        attempts.opened[-1].callback(tor)
    attempts.closing = Deferred()
    stopped = attempts.stop()
    assert tor.is_lost == (moment in ("listening", "attached"))
    assert not attempts.control.is_live
    # What was launched ends first.
    assert (attempts.closed, stopped) == (1, [])
    attempts.closing.callback(None)
    assert stopped == [None]
    assert attempts.clock.getDelayedCalls() == []
    attempts.clock.advance(1000)
    assert len(attempts.opened) == 1
    assert not any("control connection lost" in line for line in log)


def test_it_can_be_started_again():
    attempts = Attempts()
    attempts.attached()
    assert attempts.stop() == [None]
    tor = attempts.attached()
    assert attempts.control.tor is tor
    assert attempts.stop() == [None]


# By txtorcon, over a socket.


async def peer_of(attaching, server):
    """The far end of a control connection, when txtorcon has begun to speak."""
    peer = await server.accept()
    assert await peer.read(len(b"PROTOCOLINFO 1\r\n")) == b"PROTOCOLINFO 1\r\n"
    return peer


@asynccontextmanager
async def attempt(password=None):
    """One attempt to attach to a scripted control port: a Deferred, and the far end."""
    async with target() as server:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", server.port)
        attaching = Deferred.fromCoroutine(attach(reactor, endpoint, password))
        yield attaching, await peer_of(attaching, server)


async def failure_of(attaching):
    try:
        await attaching
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


PROTOCOLINFO = b"250-PROTOCOLINFO 1\r\n250-AUTH METHODS=%s\r\n250 OK\r\n"
COOKIE = b'COOKIE,SAFECOOKIE COOKIEFILE="/nowhere/cookie"'


async def test_a_control_port_where_nobody_is():
    attaching = attach(reactor, TCP4ClientEndpoint(reactor, "127.0.0.1", free_port()))
    assert isinstance(await failure_of(attaching), ConnectionRefusedError)


@pytest.mark.parametrize("methods", [COOKIE, b"HASHEDPASSWORD"])
async def test_a_connection_that_cannot_be_used_is_closed(methods):
    """Tor itself would keep it, and we come back again and again."""
    async with attempt() as (attaching, peer):
        peer.send(PROTOCOLINFO % methods)
        assert isinstance(await failure_of(attaching), (RuntimeError, PermissionError))
        await peer.lost()


async def test_a_password_that_is_wrong():
    async with attempt(b"word") as (attaching, peer):
        peer.send(PROTOCOLINFO % b"HASHEDPASSWORD")
        assert await peer.read(len(b"AUTHENTICATE 776f7264\r\n")) == b"AUTHENTICATE 776f7264\r\n"
        peer.send(b"515 Authentication failed: Password did not match HashedControlPassword value\r\n")
        assert "Password did not match" in str(await failure_of(attaching))
        await peer.lost()


async def test_a_tor_that_wants_a_password_and_gets_none_is_told_in_our_options(log):
    async with target() as server:
        port = server.port
        route = route_from_string(reactor, f"tor:127.0.0.1:1:control=tcp\\:127.0.0.1\\:{port}")
        route.service.startService()
        peer = await server.accept()
        peer.send(PROTOCOLINFO % b"HASHEDPASSWORD")
        await until(lambda: log)
        await route.service.stopService()
    assert "asks for a password, and its cookie cannot be read: give control-password-file=" in log[0]


async def test_a_password_of_any_bytes_reaches_tor():
    async with attempt(b'\xff\x00 "\\') as (attaching, peer):
        peer.send(PROTOCOLINFO % b"HASHEDPASSWORD")
        assert await peer.read(len(b"AUTHENTICATE ff0020225c\r\n")) == b"AUTHENTICATE ff0020225c\r\n"
        attaching.addErrback(lambda _: None)
        attaching.cancel()
        await peer.lost()


@pytest.mark.parametrize("said", [b"", PROTOCOLINFO % b"NULL"])
async def test_an_attempt_that_is_given_up_leaves_no_connection(said):
    async with attempt() as (attaching, peer):
        peer.send(said)
        await turn(3)
        attaching.cancel()
        with pytest.raises(CancelledError):
            await attaching
        assert isinstance(await peer.lost(), (ConnectionDone, ConnectionLost))


@pytest.mark.parametrize("said", [b"", PROTOCOLINFO % b"NULL", PROTOCOLINFO[:20]])
async def test_a_tor_that_ends_while_we_attach(said):
    async with attempt() as (attaching, peer):
        peer.send(said)
        await turn(3)
        peer.abort()
        assert await failure_of(attaching)


NO_CONTROL_PORTS = {
    "a web server": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no ASCII": b"\xff\xfe\x00\r\n",
    "a long line": b"x" * 20_000 + b"\r\n",
    "a reply to nothing": b"250 OK\r\n" * 3,
    "what we say": b"PROTOCOLINFO 1\r\n",
}


@pytest.mark.parametrize("said", NO_CONTROL_PORTS)
async def test_what_is_no_control_port_is_said_on_one_line_and_no_traceback_is_logged(said, log, logged_failures):
    async with target() as server:
        route = route_from_string(reactor, f"tor:127.0.0.1:1:control=tcp\\:127.0.0.1\\:{server.port}")
        route.service.startService()
        for _ in range(2):
            peer = await server.accept()
            peer.send(NO_CONTROL_PORTS[said])
            await peer.lost()
        await route.service.stopService()
    assert logged_failures == []
    (line,) = log
    assert "cannot be controlled: " in line
    assert "\n" not in line
    assert len(line) < 300


def test_a_control_port_that_ends_each_connection_is_tried_after_growing_pauses():
    attempts = Attempts().begin()
    moments = []
    while len(attempts.opened) < 10:
        moments.append(attempts.clock.seconds())
        tor = FakeTor()
        attempts.opened[-1].callback(tor)
        count = len(attempts.opened)
        tor.lose()
        while len(attempts.opened) == count:
            attempts.clock.advance(0.1)
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses == sorted(pauses)
    assert pauses[-1] > 10
    attempts.stop()


# A tor of our own: its process.


class Launched:
    """
    The route ``tor:launch``, while it runs, with a script instead of tor.

    :param script: what it does after it has written down with what words it was started.
    """

    def __init__(self, folder, script="exec sleep 60", settings=""):
        self._started = folder / "started"
        self.program = folder / "tor"
        self.program.write_text(f'#!/bin/sh\necho "$@" >> {self._started}\n{script}\n')
        self.program.chmod(0o700)
        self.route = route_from_string(reactor, f"tor:launch:exec={self.program}{settings}")

    async def __aenter__(self):
        self.route.service.startService()
        return self

    async def __aexit__(self, *_):
        await self.route.service.stopService()

    async def starts(self, count=1):
        """The words with which it was started, each time, when it was started so often."""

        def lines():
            return self._started.read_text().splitlines() if self._started.exists() else []

        await until(lambda: len(lines()) >= count)
        return [line.split() for line in lines()]


def following(words, name):
    return words[words.index(name) + 1]


async def test_what_tor_is_told(tmp_path):
    async with Launched(tmp_path, settings=f":state={tmp_path}/not/yet/there") as launched:
        (words,) = await launched.starts()
        options = dict(pairwise(words))
        assert options["DataDirectory"] == f"{tmp_path}/not/yet/there"
        assert options["__OwningControllerProcess"] == str(os.getpid())
        assert (options["--defaults-torrc"], options["-f"]) == ("/dev/null", "/dev/null")
        assert "--ignore-missing-torrc" in words
        assert (options["SocksPort"], options["ControlPort"], options["CookieAuthentication"]) == ("auto", "auto", "1")
        assert stat.S_IMODE((tmp_path / "not/yet/there").stat().st_mode) == 0o700


async def test_files_are_found_from_where_they_were_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").touch()
    launched = Launched(tmp_path, settings=":torrc=mine:state=kept")
    # As a daemon does.
    monkeypatch.chdir("/")
    async with launched:
        (words,) = await launched.starts()
        assert following(words, "-f") == f"{tmp_path}/mine"
        assert "--ignore-missing-torrc" not in words
        assert following(words, "DataDirectory") == f"{tmp_path}/kept"


async def test_without_a_folder_for_its_state_nothing_is_left(tmp_path):
    async with Launched(tmp_path) as launched:
        (words,) = await launched.starts()
        folder = Path(following(words, "DataDirectory"))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


async def test_a_tor_that_ends_at_once_says_why_and_is_started_again(tmp_path, log):
    script = "echo 'Nov 23 07:56:41.323 [err] Reading config failed'; echo 'cannot load' >&2; exit 3"
    async with Launched(tmp_path, script) as launched:
        await launched.starts(2)
    text = "\n".join(log)
    assert "our own tor: Nov 23 07:56:41.323 [err] Reading config failed" in text
    assert "our own tor: cannot load" in text
    assert "our own tor cannot be controlled: ChildProcessError: tor ended: exit status 3" in text


async def test_a_program_that_is_not_there(tmp_path, log):
    launched = Launched(tmp_path)
    launched.program.unlink()
    async with launched:
        await until(lambda: log)
    assert f"there is no program {tmp_path}/tor" in log[0]


async def test_a_tor_that_does_not_want_to_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(launch._TorProcess, "kill_after", 0.3)
    ready = tmp_path / "pid"
    script = f"trap '' TERM; echo $$ > {ready}.new; mv {ready}.new {ready}; while true; do sleep 0.05; done"
    async with Launched(tmp_path, script):
        await until(ready.exists)
        pid = ready.read_text().strip()
        assert os.path.exists(f"/proc/{pid}")
    assert not os.path.exists(f"/proc/{pid}")


async def test_streams_wait_a_little_for_a_tor_that_starts(tmp_path):
    async with Launched(tmp_path) as launched:
        await launched.starts()
        async with proxy(policy=RouteTable((), launched.route)) as server:
            assert await server.code("target.example", 80) == 1


# Its folder.


async def test_a_folder_that_another_server_uses_is_left_alone(tmp_path, log):
    folder = tmp_path / "state"
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    first = Launched(tmp_path / "first", settings=f":state={folder}")
    second = Launched(tmp_path / "second", settings=f":state={folder}")
    async with first:
        await first.starts()
        (folder / "control-port").write_text("PORT=127.0.0.1:1\n")
        async with second:
            await until(lambda: any("in use" in line for line in log))
            (line,) = [line for line in log if "in use" in line]
            assert f"state={folder} is in use by another server (process {os.getpid()})" in line
            assert (folder / "control-port").exists()
            assert not (tmp_path / "second" / "started").exists()
    # When the first has ended, the folder is free.
    async with second:
        await second.starts()


def hold(folder):
    """A program that runs a tor in a temporary folder, as a server does, until it is killed."""
    code = (
        "import sys, time\n"
        "from txsocksx_ext.tor.folder import StateFolder\n"
        "print(StateFolder(None).path, flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(folder)}
    )
    return process, Path(process.stdout.readline().strip())


async def test_the_temporary_folder_of_a_server_that_was_killed_is_removed_at_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, stale = hold(tmp_path)
    killed.kill()
    killed.wait()
    killed.stdout.close()
    runs, held = hold(tmp_path)
    # Not provably ours, or not dead.
    (tmp_path / "socks5ext-tor-without-lock").mkdir()
    target_of_link = tmp_path / "elsewhere"
    target_of_link.mkdir()
    (target_of_link / "socks5ext.lock").touch()
    (tmp_path / "socks5ext-tor-link").symlink_to(target_of_link)
    with_tor = tmp_path / "socks5ext-tor-tor-runs"
    with_tor.mkdir()
    (with_tor / "socks5ext.lock").touch()
    with (with_tor / "lock").open("w") as lock_of_tor:
        fcntl.flock(lock_of_tor, fcntl.LOCK_EX)
        try:
            async with Launched(tmp_path) as launched:
                await launched.starts()
                assert not stale.exists()
        finally:
            runs.kill()
            runs.wait()
            runs.stdout.close()
    left = {each.name for each in tmp_path.iterdir() if each.name.startswith("socks5ext-tor-")}
    assert left == {held.name, "socks5ext-tor-without-lock", "socks5ext-tor-link", "socks5ext-tor-tor-runs"}
    assert list(target_of_link.iterdir())


def test_the_route_tells_how_far_tor_is():
    attempts = Attempts()
    instance = TorInstance(attempts.clock, object(), attempts.control, name="tcp:127.0.0.1:9050")
    route = TorRoute([instance], IsolationTokens())

    def state():
        (part,) = route.parts()
        assert (part.kind, part.name) == ("tor", "tcp:127.0.0.1:9050")
        return part.is_up, part.state, part.bootstrap

    assert state() == (True, "no control connection", None)
    tor = attempts.attached(phase='NOTICE BOOTSTRAP PROGRESS=45 TAG=x SUMMARY="x"')
    assert state() == (False, "bootstrapping (45 %)", 0.45)
    tor.listeners["STATUS_CLIENT"]('NOTICE BOOTSTRAP PROGRESS=100 TAG=done SUMMARY="Done"')
    assert state() == (True, "bootstrapped", 1.0)
    tor.lose()
    assert state() == (True, "no control connection", None)
    instance.socks = None
    assert state() == (False, "not reachable", None)
    attempts.stop()
