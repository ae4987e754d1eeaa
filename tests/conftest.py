"""What all tests share: deadlines, a look for leaks, and a server to talk to."""

import contextlib
import gc
import inspect
import signal
from functools import wraps

import pytest
import pytest_twisted
from hypothesis import HealthCheck, settings
from support.programs import Program, twistd
from support.reactors import install
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, globalLogPublisher

from txsocksx_ext.net.poller import Poller
from txsocksx_ext.net.timers import MonotonicClock, clock_of

DEADLINE = 30.0
"""Seconds for one asynchronous test: pytest's own time-outs cannot stop a reactor that waits."""


def pytest_collection_modifyitems(items):
    for item in items:
        function = getattr(item, "obj", None)
        if inspect.iscoroutinefunction(function):
            marker = item.get_closest_marker("deadline")
            item.obj = _within(function, marker.args[0] if marker else DEADLINE)


def pytest_collection_finish(session):
    # What was loaded until now stays: looking for leaks need not look there each time.
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from support.dividing import Dividing

    return Dividing(config, log) if config.option.dist == "loadfile" else None


def pytest_configure(config):
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell has what it starts in the background ignore it, and so would the programs that tests start.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    install(config)
    # A busy machine fails no property.
    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("patient")
    config.addinivalue_line("markers", "deadline(seconds): the time an asynchronous test has")
    config.addinivalue_line("markers", "logs_errors: the test expects errors in the log")


def _within(function, seconds):
    @wraps(function)
    async def limited(*args, **kwargs):
        from twisted.internet import reactor

        await Deferred.fromCoroutine(function(*args, **kwargs)).addTimeout(seconds, reactor)

    return limited


@contextlib.contextmanager
def errors_of_the_log():
    """The error events that are logged meanwhile."""
    events = []

    def observe(event):
        if event.get("log_level") in (LogLevel.error, LogLevel.critical):
            events.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(observe)


@pytest.fixture
def logged_errors():
    """The error events that were logged during the test."""
    with errors_of_the_log() as events:
        yield events


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_by_the_module():
    """Fail where what the fixtures of a module leave has an unhandled error."""
    yield
    with errors_of_the_log() as events:
        gc.collect()
    # As after collection: else each test would look through all that those before it made Python load.
    gc.freeze()
    if events:
        pytest.fail(f"the module left errors: {_texts(events)}")


@pytest.fixture(autouse=True)
def nothing_is_left(request, logged_errors):
    """Fail a test that leaves a timer, a socket, an unhandled error or an error in the log."""
    from twisted.internet import reactor

    selectables_before = _selectables(reactor)
    timers_before = set(_timers(reactor))
    yield

    async def settle():
        """Closing a connection takes a few turns of the reactor."""
        for _ in range(100):
            if not _left(reactor, selectables_before, timers_before):
                return
            await turn_of_the_reactor(0.01)

    pytest_twisted.blockon(Deferred.fromCoroutine(settle()))
    left = _left(reactor, selectables_before, timers_before)
    # An unhandled error in a Deferred is logged when the Deferred is collected.
    gc.collect()
    if left:
        pytest.fail(f"the test left {left}")
    if logged_errors and not request.node.get_closest_marker("logs_errors"):
        pytest.fail(f"the test logged errors: {_texts(logged_errors)}")


def turn_of_the_reactor(seconds=0.0):
    from twisted.internet import reactor

    waited = Deferred()
    reactor.callLater(seconds, waited.callback, None)
    return waited


def _left(reactor, selectables_before, timers_before):
    selectables = _selectables(reactor) - selectables_before
    # The thread pool's waker appears with the first look-up, and stays.
    selectables = {each for each in selectables if "Waker" not in type(each).__name__}
    timers = [each for each in _timers(reactor) if each not in timers_before and each.active()]
    return [*selectables, *timers]


def _timers(reactor):
    return [*reactor.getDelayedCalls(), *clock_of(reactor).getDelayedCalls()]


def _selectables(reactor):
    """All that the reactor watches, and its poller for it; the poller itself and its clock stay with the reactor."""
    readers = reactor.getReaders()
    watchers = {watcher for each in readers if isinstance(each, Poller) for watcher in each.watchers}
    watchers = {watcher for watcher in watchers if not isinstance(watcher, MonotonicClock)}
    return {each for each in (*readers, *reactor.getWriters()) if not isinstance(each, Poller)} | watchers


def _texts(events):
    return [_text(event) for event in events]


def _text(event):
    failure = event.get("log_failure")
    return failure.getTraceback() if failure else str(event.get("log_format")) + str(event)


@pytest.fixture
def program():
    """Start a real program, and stop it after the test: ``program([...], ready=...)``."""
    started: list[Program] = []

    def start(*args, **kwargs):
        each = Program(*args, **kwargs)
        started.append(each)
        each.wait_until_ready()
        return each

    yield start
    # What the test aborted is closed in the reactor's next turn; a server that stops waits for it.
    pytest_twisted.blockon(turn_of_the_reactor())
    for each in reversed(started):
        each.stop()


@pytest.fixture
def socks5ext(program):
    """Start a ``twistd socks5ext`` of its own: ``server = socks5ext("--drain", "1")``; ``server.port``."""

    def start(*options, **kwargs):
        return twistd(program, *options, **kwargs)

    return start


@pytest.fixture
def workers(socks5ext):
    """Start a server with two workers that both serve."""
    from support.workers import all_serve

    def start(*options, **kwargs):
        server = socks5ext("--workers", "2", *options, **kwargs)
        all_serve(server)
        return server

    return start


@pytest.fixture(scope="module")
def authority():
    """A certificate authority of the module's own: ``authority.issue("localhost")``."""
    from support.certificates import Authority

    return Authority()


@pytest.fixture(scope="module")
def web_port():
    """The port of a web server: see `support.targets`."""
    from support.targets import web_server

    with web_server() as port:
        yield port
