"""twistd's log: what Twisted itself would have written, and all of it."""

import io
import os
import re
import signal
import socket
import time

import pytest
from examples.raw_peers import GREET_ANONYMOUS, request, settles
from twisted.application.service import Application, MultiService
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher, globalLogPublisher, textFileLogObserver
from twisted.python.failure import Failure

from txsocksx_ext.context import Session
from txsocksx_ext.policy.table import RouteTable
from txsocksx_ext.route.refuse import RefuseRoute
from txsocksx_ext.server.access_log import AccessLog
from txsocksx_ext.server.log_file import LogFile
from txsocksx_ext.server.text_log import LoggingService, TextLog, text_log


class StoppedClock(Clock):
    """A reactor's time, and whether it runs."""

    running = True


class Both:
    """A publisher whose events Twisted's observer and ours write, each to a file of its own."""

    def __init__(self):
        self.clock = StoppedClock()
        self.file, self.expected = io.StringIO(), io.StringIO()
        self.log = TextLog(self.file, self.clock)
        self.publisher = LogPublisher(self.log, textFileLogObserver(self.expected))
        self.logger = Logger(namespace="a.space", observer=self.publisher)

    @property
    def written(self):
        return self.file.getvalue()

    def is_right(self):
        return self.written == self.expected.getvalue()


def line(end, when=1_790_000_000.25):
    """The event of a connection's end."""
    events = []
    globalLogPublisher.addObserver(events.append)
    try:
        session = Session(IPv4Address("TCP", "192.0.2.1", 1), RouteTable((), RefuseRoute()))
        session.end = end
        AccessLog(with_targets=False).ended(session)
    finally:
        globalLogPublisher.removeObserver(events.append)
    (event,) = events
    return {**event, "log_time": when}


def failure():
    try:
        raise ValueError("why")
    except ValueError:
        return Failure()


EVENTS = {
    "plain": {"log_format": "a line"},
    "with fields": {"log_format": "{peer} did {what!r}", "peer": "192.0.2.1", "what": "x"},
    "with braces that are none": {"log_format": "{{not a field}}"},
    "with a brace too many": {"log_format": "no field}"},
    "without its field": {"log_format": "{missing}"},
    "of two lines": {"log_format": "one\ntwo"},
    "with a failure": {"log_format": "it failed", "log_failure": failure()},
    "of another system": {"log_format": "a line", "log_system": "HTTPChannel,1,127.0.0.1"},
    "as bytes": {"log_format": b"bytes"},
    "empty": {"log_format": ""},
    "without words": {"peer": "192.0.2.1"},
    "without a time": {"log_format": "a line", "log_time": None},
    "of before 1970": {"log_format": "a line", "log_time": -1.5},
    "of one second": {"log_format": "a line", "log_time": 1_790_000_000.0},
    "of its end": {"log_format": "a line", "log_time": 1_790_000_000.999},
    "of the next": {"log_format": "a line", "log_time": 1_790_000_001.0},
    "in another script": {"log_format": "ünïcode ☃"},
    "that looks like a connection's": {"log_format": "{end}\n{{}}", "end": "done"},
}


@pytest.mark.parametrize("level", [LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.critical])
@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_an_event_is_written_as_twisted_writes_it(event, level):
    both = Both()
    both.publisher({"log_level": level, "log_namespace": "a.space", "log_time": time.time(), **event})
    both.clock.advance(0)
    assert both.is_right()


def test_an_event_of_the_old_log_is_written_as_twisted_writes_it():
    both = Both()
    both.publisher({"log_format": "an old message", "log_time": 1.5})
    both.publisher({"log_format": "an old message", "log_time": 1.5, "log_namespace": "log_legacy"})
    both.clock.advance(0)
    assert both.is_right()
    assert both.written.count("an old message") == 2


def test_times_are_right_from_one_event_to_the_next():
    both = Both()
    for when in (1_790_000_000.2, 1_790_000_000.7, 1_790_000_001.1, 1_790_000_000.9, 1_790_003_601.0, -1.5):
        both.publisher(line("x", when))
    both.clock.advance(0)
    assert both.is_right()
    assert len(set(both.written.splitlines())) == 4


def test_what_comes_in_one_turn_is_written_at_its_end_in_its_order():
    both = Both()
    for number in range(100):
        both.publisher(line(f"line {number}"))
    assert both.written == ""
    assert len(both.clock.getDelayedCalls()) == 1
    both.clock.advance(0)
    assert both.is_right()
    both.publisher(line("a later line"))
    both.clock.advance(0)
    assert both.is_right()
    assert both.written.count("\n") == 101


@pytest.mark.parametrize("level", ["debug", "info", "warn"])
def test_what_is_no_line_of_a_connection_is_written_at_once_with_what_came_before_it(level):
    both = Both()
    both.publisher(line("first"))
    getattr(both.logger, level)("second")
    assert both.is_right()
    assert both.written.count("\n") == 2
    both.clock.advance(0)
    assert both.is_right()


def test_while_no_reactor_runs_nothing_waits():
    both = Both()
    both.clock.running = False
    both.publisher(line("a line"))
    assert both.is_right()
    assert both.clock.getDelayedCalls() == []


class FullDisk(io.StringIO):
    is_full = True

    def write(self, text):
        if self.is_full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_disk_that_was_full_gets_what_comes_later():
    clock = StoppedClock()
    disk = FullDisk()
    log = TextLog(disk, clock)
    log(line("lost"))
    with pytest.raises(OSError, match="No space"):
        clock.advance(0)
    disk.is_full = False
    log(line("written"))
    clock.advance(0)
    assert "written" in disk.getvalue()
    assert "lost" not in disk.getvalue()


def test_a_character_that_the_file_has_not_costs_no_line():
    clock = StoppedClock()
    raw = io.BytesIO()
    log = TextLog(io.TextIOWrapper(raw, "ascii"), clock)
    for words in ("before", "é☃", "after"):
        log(line(words))
    clock.advance(0)
    text = raw.getvalue().decode("ascii")
    assert [written.rpartition("end=")[2] for written in text.splitlines()] == ["before", r"\xe9\u2603", "after"]


def test_what_comes_while_it_is_written_is_written_later():
    clock = StoppedClock()

    class Busy(io.StringIO):
        def write(self, text):
            super().write(text)
            if "first" in text:
                log(line("second"))

    file = Busy()
    log = TextLog(file, clock)
    log(line("first"))
    clock.advance(0)
    clock.advance(0)
    assert [written.rpartition("end=")[2] for written in file.getvalue().splitlines()] == ["first", "second"]


def test_an_event_without_a_namespace_is_written_as_twisted_writes_it():
    both = Both()
    both.publisher({"log_format": "x", "log_time": 1.5, "log_level": LogLevel.info})
    assert both.is_right()


# Where twistd's log goes.


def options(**given):
    return {"logfile": None, "nodaemon": 1, "logger": None, "syslog": False, "prefix": "twisted", **given}


@pytest.mark.parametrize(
    "given",
    [
        options(logger=lambda: None),
        options(syslog=True),
        options(logfile="-", nodaemon=0),
        options(debug=True),
        {"logfile": None},  # twist's, which has begun to log already
    ],
    ids=["--logger", "--syslog", "a daemon to stdout", "--debug", "twist"],
)
def test_another_log_is_left_to_twisted(given):
    assert text_log(given, StoppedClock()) is None


@pytest.mark.parametrize("given", [options(), options(logfile="-")])
def test_in_the_foreground_it_goes_to_standard_output(given, capsys):
    log = text_log(given, StoppedClock())
    Logger(namespace="a", observer=log).warn("a line")
    assert capsys.readouterr().out.endswith("[a#warn] a line\n")


@pytest.fixture
def no_handler():
    """Nobody has asked for SIGUSR1."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("no_handler")
@pytest.mark.parametrize("name", ["a.log", None], ids=["named", "a daemon's own"])
def test_a_file_is_written_and_rotated_on_a_signal(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clock = StoppedClock()
    clock.callFromThread = lambda function: clock.callLater(0, function)
    log = text_log(options(logfile=name, nodaemon=0), clock)
    logger = Logger(namespace="a", observer=log)
    logger.info("before ü")
    clock.advance(0)
    os.kill(os.getpid(), signal.SIGUSR1)
    clock.advance(0)
    logger.info("after")
    clock.advance(0)
    path = tmp_path / (name or "twistd.log")
    assert path.with_name(path.name + ".1").read_text("utf-8").endswith("[a#info] before ü\n")
    assert path.read_text("utf-8").endswith("[a#info] after\n")
    log._file.close()


def test_a_handler_that_is_there_is_kept(tmp_path):
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    try:
        log = text_log(options(logfile=str(tmp_path / "a.log")), StoppedClock())
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [1]
    log._file.close()


def test_a_long_log_is_rotated(tmp_path):
    file = LogFile(str(tmp_path / "a.log"), rotate_at=2000)
    clock = StoppedClock()
    logger = Logger(namespace="a", observer=TextLog(file, clock))
    for number in range(100):
        logger.info(f"line {number}", end="done")
        clock.advance(0)
    file.close()
    kept = "".join(each.read_text() for each in sorted(tmp_path.iterdir(), key=lambda each: each.name, reverse=True))
    assert len(list(tmp_path.iterdir())) > 2
    assert sorted(line.rpartition(" ")[2] for line in kept.splitlines()) == sorted(map(str, range(100)))


# How twistd comes to use it.


def test_an_application_gets_the_log():
    application = Application("test")
    service = LoggingService()
    service.twistd_options = options()
    service.setServiceParent(application)
    assert isinstance(application.getComponent(ILogObserver), TextLog)
    assert service.running == 0


def test_an_application_with_a_log_of_its_own_keeps_it():
    application = Application("test")
    seen = []
    application.setComponent(ILogObserver, seen.append)
    service = LoggingService()
    service.twistd_options = options()
    service.setServiceParent(application)
    assert application.getComponent(ILogObserver) == seen.append


def test_a_part_of_a_larger_application_leaves_its_log_alone():
    application = Application("test")
    LoggingService().setServiceParent(application)
    other = LoggingService()
    other.twistd_options = options()
    other.setServiceParent(MultiService())
    assert application.getComponent(ILogObserver, None) is None


# Real ones.


def told(*arguments):
    """Python code that gives twistd itself these arguments."""
    return f"import sys; sys.argv[1:1] = {list(arguments)!r}"


def refused_by(server):
    """Have one connection in the log."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(GREET_ANONYMOUS + request("127.0.0.1", 0))
        while client.recv(100):
            pass


LINE = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[txsocksx_ext\.server#info\] 127\.0\.0\.1 CONNECT .* code=01 .*\n"


def test_twistd_writes_lines_as_it_always_did(socks5ext):
    server = socks5ext()
    refused_by(server)
    assert settles(lambda: re.search(LINE, server.output))
    server.stop()
    assert "twistd" in server.output.splitlines()[0]
    assert re.search(r"#info\] Server Shut Down\.\n", server.output)


def test_twistd_writes_a_file_and_rotates_it_on_a_signal(socks5ext, tmp_path):
    path = tmp_path / "served.log"
    server = socks5ext(before=told(f"--logfile={path}"))
    refused_by(server)
    assert settles(lambda: re.search(LINE, path.read_text()))
    os.kill(server.pid, signal.SIGUSR1)
    old = tmp_path / "served.log.1"
    assert settles(old.exists)
    refused_by(server)
    assert settles(lambda: re.search(LINE, path.read_text()))
    server.stop()
    assert "starting up" in old.read_text()
    assert path.read_text().endswith("Server Shut Down.\n")
    assert server.output == ""


def test_lines_of_workers_come_there_too(socks5ext, tmp_path):
    path = tmp_path / "served.log"
    server = socks5ext("--workers=2", before=told(f"--logfile={path}"))
    for _ in range(20):
        refused_by(server)
    assert settles(lambda: len(re.findall(LINE, path.read_text())) >= 20)
    server.stop()


def test_twistd_keeps_a_logger_that_it_was_told(socks5ext, tmp_path):
    (tmp_path / "own_logger.py").write_text(OWN_LOGGER)
    server = socks5ext(before=told("--logger=own_logger.make"), env={"PYTHONPATH": str(tmp_path)})
    refused_by(server)
    assert settles(lambda: '"code": "01"' in server.output)
    assert "[txsocksx_ext.server#info]" not in server.output
    server.stop()


OWN_LOGGER = """
import sys
from twisted.logger import jsonFileLogObserver

def make():
    return jsonFileLogObserver(sys.stdout, "")
"""
