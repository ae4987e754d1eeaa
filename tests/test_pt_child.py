"""A managed transport as a child of ours: what it may say, how it is started, started again and ended."""

import gc
import os
import re
import stat
import weakref
from pathlib import Path

import pytest
import pytest_twisted
from support.transports import children_of
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.task import deferLater
from twisted.logger import LogLevel, globalLogPublisher

from txsocksx_ext.errors import TransportInternalError, TransportTemporaryFailure
from txsocksx_ext.transports import managed as child
from txsocksx_ext.transports.lines import parse_line
from txsocksx_ext.transports.managed import ChildState, ManagedTransport
from txsocksx_ext.transports.parent import ClientConversation, ConversationFault, ProxyRefused, without_addresses
from txsocksx_ext.transports.process import TransportProcess

# The conversation alone.

CMETHOD = "CMETHOD obfs4 socks5 127.0.0.1:1"


def converse(*lines, has_proxy=False):
    conversation = ClientConversation(has_proxy)
    for line in lines:
        conversation.hear(parse_line(line.encode()))
    return conversation


def test_a_whole_conversation():
    conversation = converse(
        "LOG SEVERITY=info MESSAGE=early",
        "VERSION 1",
        "AMUSEMENT 7",
        "PROXY DONE",
        "CMETHOD-ERROR obfs2 too old",
        CMETHOD,
        "STATUS TRANSPORT=obfs4 A=B",
        "CMETHODS DONE",
        "LOG SEVERITY=info MESSAGE=late",
        "AMUSEMENT 8",
        has_proxy=True,
    )
    assert conversation.is_done
    assert conversation.methods["obfs4"].address == ("127.0.0.1", 1)
    assert conversation.refusals == {"obfs2": "too old"}


@pytest.mark.parametrize(
    "lines",
    [
        ["VERSION-ERROR no-version"],
        ["ENV-ERROR nothing fits"],
        ["VERSION 2"],
        ["VERSION 1", "VERSION 1"],
        [CMETHOD],
        ["CMETHODS DONE"],
        ["PROXY DONE"],
        ["VERSION 1", "PROXY DONE"],
        ["VERSION 1", "SMETHOD obfs4 127.0.0.1:1"],
        ["VERSION 1", "SMETHODS DONE"],
        ["VERSION 1", "CMETHODS DONE", CMETHOD],
        ["VERSION 1", "CMETHODS DONE", "CMETHODS DONE"],
        ["VERSION 1", "CMETHODS DONE", "CMETHOD-ERROR obfs4 late"],
    ],
    ids=" ".join,
)
def test_the_last_of_these_lines_breaks_it(lines):
    converse(*lines[:-1])
    with pytest.raises(ConversationFault, match=lines[-1].split()[0]) as caught:
        converse(*lines)
    assert not isinstance(caught.value, ProxyRefused)


@pytest.mark.parametrize(
    "lines", [["VERSION 1", "PROXY-ERROR http://user:secret@127.0.0.1"], ["VERSION 1", CMETHOD, "CMETHODS DONE"]]
)
def test_a_proxy_that_is_not_taken(lines):
    with pytest.raises(ProxyRefused) as caught:
        converse(*lines, has_proxy=True)
    assert "secret" not in str(caught.value)


def test_a_proxy_is_taken_once():
    with pytest.raises(ConversationFault, match="PROXY"):
        converse("VERSION 1", "PROXY DONE", "PROXY DONE", has_proxy=True)


@pytest.mark.parametrize(
    ("said", "logged"),
    [
        ("dial tcp 192.0.2.7:443: refused", "dial tcp [scrubbed]: refused"),
        ("dial tcp [2001:db8::1]:443 and ::1, at 10:05", "dial tcp [scrubbed] and [scrubbed], at 10:05"),
        ("a\nb\x1b", "a\\nb\\x1b"),
        ("x" * 1000, "x" * 200),
    ],
)
def test_what_of_its_words_is_logged(said, logged):
    assert without_addresses(said) == logged


# Real processes.

READY = "echo VERSION 1; echo PROXY DONE; echo CMETHOD obfs4 socks5 127.0.0.1:1; echo CMETHODS DONE;"
UNTIL_STDIN_ENDS = "exec cat >/dev/null"


@pytest.fixture
def transport():
    """Start a shell script as a transport: ``transport("echo VERSION 1; …")``."""
    started = []

    def start(script, **options):
        each = ManagedTransport(reactor, "obfs4", "sh", ["-c", script, "transport"], **options)
        started.append(each)
        each.startService()
        return each

    yield start
    for each in started:
        if each.running:
            pytest_twisted.blockon(each.stopService())


async def until(condition):
    while not condition():
        await deferLater(reactor, 0.01)


def is_alive(pid):
    return Path(f"/proc/{pid}").exists()


async def test_it_starts_and_ends(transport):
    each = transport(READY + UNTIL_STDIN_ENDS)
    assert each.status is ChildState.STARTING
    life = await each.when_ready()
    assert each.status is ChildState.READY
    assert await each.when_ready() is life
    pid = each.pid
    assert is_alive(pid)
    await each.stopService()
    assert each.status is ChildState.STOPPED
    assert not is_alive(pid)
    with pytest.raises(TransportInternalError):
        await each.when_ready()


async def test_what_it_is_told(transport, tmp_path, monkeypatch):
    monkeypatch.setenv("TOR_PT_SERVER_TRANSPORTS", "ours")
    monkeypatch.setenv("LEFT", "alone")
    state, told = tmp_path / "deep" / "state", tmp_path / "told"
    each = transport(f"env >{told}; {READY} {UNTIL_STDIN_ENDS}", state=str(state))
    await each.when_ready()
    environment = dict(line.partition("=")[::2] for line in told.read_text().splitlines())
    proxy = environment.pop("TOR_PT_PROXY")
    assert proxy.startswith("socks5://")
    assert {name: value for name, value in environment.items() if name.startswith("TOR_PT_")} == {
        "TOR_PT_MANAGED_TRANSPORT_VER": "1",
        "TOR_PT_STATE_LOCATION": str(state),
        "TOR_PT_EXIT_ON_STDIN_CLOSE": "1",
        "TOR_PT_CLIENT_TRANSPORTS": "obfs4",
    }
    assert environment["LEFT"] == "alone"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    await each.stopService()
    assert state.exists()


async def test_a_state_folder_of_its_own_goes_with_it(transport, tmp_path):
    told = tmp_path / "told"
    each = transport(f'echo "$TOR_PT_STATE_LOCATION" >{told}; {READY} {UNTIL_STDIN_ENDS}')
    await each.when_ready()
    folder = Path(told.read_text().strip())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await each.stopService()
    assert not folder.exists()


NOT_STARTING = {
    "exit 3": "^it ended before it was ready: exit status 3$",
    "echo VERSION-ERROR no-version; exit 1": "VERSION-ERROR",
    "echo ENV-ERROR nothing at 192.0.2.1; exit 1": r"it says ENV-ERROR nothing at \[scrubbed\]",
    "echo VERSION 1; echo PROXY DONE; echo CMETHOD-ERROR obfs4 unknown; echo CMETHODS DONE; exec cat": "unknown",
    "echo VERSION 1; echo PROXY DONE; echo CMETHODS DONE; exec cat": "does not offer it",
    "echo VERSION 1; echo PROXY DONE; echo CMETHOD obfs4 socks4 127.0.0.1:1; echo CMETHODS DONE; exec cat": "SOCKS4",
    "echo VERSION 1; echo CMETHOD obfs4 socks5 localhost:1; exec cat": "a line CMETHOD is faulty",
    "exec cat /dev/zero": "a line of its output exceeds 1048576 bytes",
    "exec sleep 60": "not ready after",
}


@pytest.mark.parametrize(("script", "why"), NOT_STARTING.items())
@pytest.mark.usefixtures("impatience")
async def test_it_does_not_start(transport, monkeypatch, script, why):
    monkeypatch.setattr(child, "START_WITHIN", 60.0 if "sleep" not in script else 0.3)
    each = transport(script)
    with pytest.raises(TransportInternalError):
        await each.when_ready()
    assert each.status is ChildState.FAILED
    assert re.search(why, each.why), each.why
    await each.stopService()
    assert not {"sh", "cat", "sleep"}.intersection(children_of(os.getpid()))


async def test_there_is_no_such_program():
    each = ManagedTransport(reactor, "obfs4", "/no/such/program")
    each.startService()
    with pytest.raises(TransportInternalError):
        await each.when_ready()
    assert each.why == "there is no program /no/such/program, or it may not be run"
    await each.stopService()


async def test_the_outbound_proxy_cannot_listen(monkeypatch):
    def no_port_left(_):
        raise CannotListenError("127.0.0.1", 0, OSError(98, "in use"))

    monkeypatch.setattr(child, "OutboundProxy", no_port_left)
    monkeypatch.setattr(child, "_pause", lambda ends: 0.05)
    each = ManagedTransport(reactor, "obfs4", "sh", ["-c", READY + UNTIL_STDIN_ENDS])
    each.startService()
    with pytest.raises(TransportInternalError):
        await each.when_ready()
    assert each.status is ChildState.FAILED
    assert "in use" in each.why
    monkeypatch.undo()
    await until(lambda: each.status is ChildState.READY)
    await each.stopService()


@pytest.mark.logs_errors
async def test_an_unforeseen_failure_is_told(transport, monkeypatch):
    def broken(_):
        raise LookupError("a bug")

    monkeypatch.setattr(child, "OutboundProxy", broken)
    events = []
    globalLogPublisher.addObserver(events.append)
    try:
        each = transport(READY + UNTIL_STDIN_ENDS)
        with pytest.raises(TransportInternalError):
            await each.when_ready()
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert (each.status, each.why) == (ChildState.FAILED, "LookupError")
    assert any("is not restarted any more" in event["log_format"] for event in events)


def test_a_name_that_no_transport_has():
    with pytest.raises(ValueError, match="the name of a transport"):
        ManagedTransport(reactor, "obfs-4", "sh")


@pytest.mark.parametrize(
    "refusal",
    ["echo VERSION 1; echo PROXY-ERROR no; exit 1", f"{READY.replace('echo PROXY DONE;', '')} exec cat"],
    ids=["PROXY-ERROR", "no word of it"],
)
async def test_it_takes_no_proxy(transport, tmp_path, refusal):
    """It is started again at once, without; and so later."""
    starts = tmp_path / "starts"
    without = f"{READY.replace('echo PROXY DONE;', '')} {UNTIL_STDIN_ENDS}"
    each = transport(f'echo "$TOR_PT_PROXY" >>{starts}; if [ "$TOR_PT_PROXY" ]; then {refusal}; fi; {without}')
    life = await each.when_ready()
    assert life.outbound_proxy is None
    os.kill(each.pid, 9)
    await until(lambda: each.status is not ChildState.READY)
    await until(lambda: each.status is ChildState.READY)
    first, *later = starts.read_text().splitlines()
    assert first.startswith("socks5://")
    assert later == ["", ""]


async def test_it_is_started_again_after_growing_pauses(transport, monkeypatch):
    pauses = []

    def pause(ends):
        pauses.append(ends)
        return 0.05

    monkeypatch.setattr(child, "_pause", pause)
    each = transport(READY + UNTIL_STDIN_ENDS)
    secrets = set()
    for _ in range(3):
        life = await each.when_ready()
        secrets.add(life.outbound_proxy.proxy.url())
        os.kill(each.pid, 9)
        await until(lambda: each.status is ChildState.RESTARTING)
        assert each.why == "signal 9"
        with pytest.raises(TransportTemporaryFailure):
            await each.when_ready()
        await until(lambda: each.status is ChildState.READY)
    assert pauses == [0, 1, 2]
    assert len(secrets) == 3
    monkeypatch.setattr(child, "HEALTHY_AFTER", 0.0)
    await each.when_ready()
    os.kill(each.pid, 9)
    await until(lambda: len(pauses) == 4)
    assert pauses[3] == 0


def test_the_pauses_grow_to_a_minute():
    pauses = [child._pause(ends) for ends in range(12)]
    assert pauses == sorted(pauses)
    assert pauses[0] < 1 <= pauses[2]
    assert pauses[-1] == 60


async def test_a_line_that_has_no_place_ends_it(transport):
    each = transport(f"{READY} sleep 0.2; echo CMETHODS DONE; {UNTIL_STDIN_ENDS}")
    await each.when_ready()
    await until(lambda: each.status is ChildState.RESTARTING)
    assert "CMETHODS" in each.why


@pytest.fixture
def impatience(monkeypatch):
    monkeypatch.setattr(TransportProcess, "term_after", 0.1)
    monkeypatch.setattr(TransportProcess, "kill_after", 0.3)


WITHOUT_END = "while :; do sleep 0.05; done"


@pytest.mark.parametrize("deaf", [f"trap '' TERM; {WITHOUT_END}", WITHOUT_END], ids=["to SIGTERM", "to stdin"])
@pytest.mark.usefixtures("impatience")
async def test_it_ends_in_any_case(transport, deaf):
    each = transport(READY + deaf)
    await each.when_ready()
    pid = each.pid
    await each.stopService()
    assert not is_alive(pid)


@pytest.mark.usefixtures("impatience")
async def test_one_that_breaks_the_conversation_ends_in_any_case(transport, monkeypatch):
    monkeypatch.setattr(child, "_pause", lambda ends: 60.0)
    each = transport(f"trap '' TERM; {READY} echo CMETHODS DONE; {WITHOUT_END}")
    await each.when_ready()
    pid = each.pid
    await until(lambda: each.status is ChildState.RESTARTING)
    assert not is_alive(pid)


async def test_stopping_begins_at_once(transport):
    """A system event trigger does not await what it gets."""
    each = transport(READY + UNTIL_STDIN_ENDS)
    await each.when_ready()
    pid, stopped = each.pid, each.stopService()
    assert each.status is ChildState.STOPPED
    await until(lambda: not is_alive(pid))
    assert isinstance(stopped, Deferred)
    await stopped


async def test_starting_again_before_it_has_stopped(transport, tmp_path):
    told = tmp_path / "told"
    each = transport(f'echo "$TOR_PT_STATE_LOCATION" >>{told}; {READY} {UNTIL_STDIN_ENDS}')
    await each.when_ready()
    stopped = each.stopService()
    each.startService()
    await stopped
    await each.when_ready()
    first, second = map(Path, told.read_text().splitlines())
    assert not first.exists()
    assert second.exists()
    await each.stopService()
    assert not second.exists()


@pytest.mark.usefixtures("impatience")
async def test_what_it_started_does_not_keep_it(transport, monkeypatch, tmp_path):
    """A process of its own that holds its stdout."""
    monkeypatch.setattr(TransportProcess, "output_ends_after", 0.1)
    told = tmp_path / "told"
    each = transport(f"sleep 60 & echo $! >{told}; {READY} {UNTIL_STDIN_ENDS}")
    await each.when_ready()
    pid, other = each.pid, int(told.read_text())
    try:
        await each.stopService()
        assert not is_alive(pid)
        assert is_alive(other)
    finally:
        os.kill(other, 9)


@pytest.mark.usefixtures("impatience")
async def test_stopping_while_it_starts(transport):
    each = transport("exec sleep 60")
    await until(lambda: each.pid)
    pid, waiting = each.pid, each.when_ready()
    await each.stopService()
    assert not is_alive(pid)
    with pytest.raises(TransportInternalError):
        await waiting


@pytest.mark.usefixtures("impatience")
async def test_who_waits_may_leave(transport):
    each = transport("exec sleep 60")
    leaving, staying = each.when_ready(), each.when_ready()
    leaving.addErrback(lambda failure: failure.trap(CancelledError))
    leaving.cancel()
    assert leaving.result is CancelledError
    left = weakref.ref(leaving)
    del leaving
    gc.collect()
    # A transport may take long to start, and clients come and go.
    assert left() is None
    await each.stopService()
    with pytest.raises(TransportInternalError):
        await staying


@pytest.mark.usefixtures("impatience")
async def test_who_waits_may_leave_when_it_was_started_again(transport):
    each = transport("exec sleep 60")
    waiting = each.when_ready()
    stopping = each.stopService()
    each.startService()
    await deferLater(reactor, 0)
    waiting.cancel()
    with pytest.raises(CancelledError):
        await waiting
    await stopping
    await each.stopService()


async def test_what_it_says_on_stderr_is_logged_by_lines(transport):
    """What comes in two pieces too, since half of an address would stay in the log."""
    events = []
    globalLogPublisher.addObserver(events.append)
    try:
        each = transport(
            READY + "printf 'dialling 203.0.113' >&2; sleep 0.2; echo .77:443 >&2; printf 'the end' >&2; sleep 0.1"
        )
        await (await each.when_ready()).when_ended()
    finally:
        globalLogPublisher.removeObserver(events.append)
    said = [event["text"] for event in events if "stderr" in event["log_format"]]
    assert said == ["dialling [scrubbed]", "the end"]


async def test_what_it_says_is_logged_without_addresses(transport):
    traceback = f"{'frame' * 300}the-end"
    events = []
    globalLogPublisher.addObserver(events.append)
    try:
        each = transport(
            "echo 'LOG SEVERITY=error MESSAGE=\"lost 192.0.2.1\"'; echo LOG SEVERITY=debug MESSAGE=fine;"
            f"echo LOG SEVERITY=error MESSAGE={traceback};"
            "echo STATUS TRANSPORT=obfs4 ADDRESS=192.0.2.1:1; echo dialling 192.0.2.1 >&2;" + READY + UNTIL_STDIN_ENDS
        )
        await each.when_ready()
        await until(lambda: any("stderr" in event["log_format"] for event in events))
    finally:
        globalLogPublisher.removeObserver(events.append)
    said = [(event["log_level"], event["text"]) for event in events if "text" in event]
    assert sorted(said, key=str) == sorted(
        [
            (LogLevel.warn, "lost [scrubbed]"),
            (LogLevel.debug, "fine"),
            (LogLevel.warn, traceback),
            (LogLevel.debug, "TRANSPORT=obfs4 ADDRESS=[scrubbed]"),
            (LogLevel.debug, "dialling [scrubbed]"),
        ],
        key=str,
    )
