"""The resolver: look-ups, their cache, and how clients share them."""

import errno
import socket
import subprocess
import sys
import threading

import pytest
from examples.raw_peers import Names, ReactorWith, settles, until
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from txsocksx_ext.errors import HostUnreachable
from txsocksx_ext.net import resolver as module
from txsocksx_ext.net.resolver import (
    KEPT_ANSWER,
    KEPT_FAILURE,
    LOOKUPS_AT_ONCE,
    LOOKUPS_OF_ONE_SHARE,
    MOST_ADDRESSES,
    Resolver,
    resolver_of,
)

ME, OTHER = "192.0.2.100", "192.0.2.200"
"""Two who share the resolver."""


class SlowNames:
    """A resolver of the reactor's that answers only when the test says so."""

    def __init__(self):
        self.receivers = {}
        self.asked = []

    def resolveHostName(self, receiver, name, portNumber=0, addressTypes=None, transportSemantics="TCP"):
        self.asked.append(name)
        self.receivers[name] = receiver

    def answer(self, name, *hosts):
        for host in hosts:
            kind = IPv6Address if ":" in host else IPv4Address
            self.receivers[name].addressResolved(kind("TCP", host, 0))
        self.receivers[name].resolutionComplete()


async def cancelled(*lookups):
    for each in lookups:
        each.cancel()
        with pytest.raises(CancelledError):
            await each


async def test_addresses_come_in_the_resolvers_order():
    hosts = ["2001:db8::1", "192.0.2.2", "192.0.2.1"]
    resolver = Resolver(ReactorWith(names=Names(somewhere_example=hosts)))
    assert await resolver.addresses_of("somewhere.example", ME) == tuple(hosts)


async def test_a_name_without_an_address():
    names = Names()
    with pytest.raises(HostUnreachable):
        await Resolver(ReactorWith(names=names)).addresses_of("nobody.example", ME)
    assert names.asked == ["nobody.example"]


async def test_what_is_no_ip_address_is_left_out_and_scopes_stay():
    names = SlowNames()
    looking = Resolver(ReactorWith(names=names)).addresses_of("somewhere.example", ME)
    names.receivers["somewhere.example"].addressResolved(UNIXAddress(b"/socket"))
    names.receivers["somewhere.example"].addressResolved(IPv6Address("TCP", "fe80::1%eth0", 80))
    assert not looking.called
    names.receivers["somewhere.example"].resolutionComplete()
    assert await looking == ("fe80::1%eth0",)


async def test_the_system_tells_the_scope_by_number(monkeypatch):
    link_local = (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 0, 0, 2))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [link_local, link_local])
    assert await Resolver(reactor).addresses_of("printer.example", ME) == ("fe80::1%2",)


async def test_of_very_many_addresses_some_are_used(monkeypatch):
    hosts = [f"192.0.{net}.{host}" for net in range(10) for host in range(200)]
    resolver = Resolver(ReactorWith(names=Names(many_example=hosts)))
    assert await resolver.addresses_of("many.example", ME) == tuple(hosts[:MOST_ADDRESSES])
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in hosts]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert await Resolver(reactor).addresses_of("many.example", ME) == tuple(hosts[:MOST_ADDRESSES])


async def test_an_answer_that_comes_after_the_caller_left_does_no_harm():
    names = SlowNames()
    resolver = Resolver(ReactorWith(names=names))
    await cancelled(resolver.addresses_of("somewhere.example", ME))
    names.answer("somewhere.example", "192.0.2.1")
    next_one = resolver.addresses_of("somewhere.example", ME)
    names.answer("somewhere.example", "192.0.2.2")
    assert await next_one == ("192.0.2.2",)


@pytest.mark.parametrize("name", ["a..b", ".", "..", ".a", "a" * 64, "a" * 64 + ".example", "x" * 255])
async def test_a_name_that_no_host_can_have_fails_with_the_real_resolver(name):
    with pytest.raises(HostUnreachable):
        await Resolver(reactor).addresses_of(name, ME)


async def test_the_real_resolver_knows_this_machine():
    assert set(await Resolver(reactor).addresses_of("localhost", ME)) & {"127.0.0.1", "::1"}


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), UnicodeEncodeError("idna", "x", 0, 1, "bad"), ValueError()]
)
async def test_a_failure_of_the_system_is_an_answer_and_its_cause_is_kept(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    resolver = Resolver(reactor)
    for number in range(LOOKUPS_AT_ONCE + 1):
        with pytest.raises(HostUnreachable) as failed:
            await resolver.addresses_of(f"name{number}.example", ME)
        assert failed.value.__cause__ is error


async def test_the_resolvers_own_error_says_which_it_was():
    with pytest.raises(HostUnreachable) as failed:
        await Resolver(reactor).addresses_of("nobody.invalid", ME)
    assert isinstance(failed.value.__cause__, socket.gaierror)


# Shares.


async def test_one_share_does_not_take_all_look_ups():
    names = SlowNames()
    resolver = Resolver(ReactorWith(names=names))
    mine = [resolver.addresses_of(f"slow{number}.example", ME) for number in range(200)]
    assert len(names.asked) == LOOKUPS_OF_ONE_SHARE
    other = resolver.addresses_of("other.example", OTHER)
    names.answer("other.example", "192.0.2.1")
    assert await other == ("192.0.2.1",)
    await cancelled(*mine)


async def test_all_shares_together_are_limited_and_take_turns():
    names = SlowNames()
    resolver = Resolver(ReactorWith(names=names))
    running = [resolver.addresses_of(f"slow{number}.example", f"share {number}") for number in range(LOOKUPS_AT_ONCE)]
    waiting = [resolver.addresses_of(f"mine{number}.example", ME) for number in range(3)]
    waiting.append(resolver.addresses_of("other.example", OTHER))
    assert len(names.asked) == LOOKUPS_AT_ONCE
    for number in range(3):
        names.answer(f"slow{number}.example", "192.0.2.1")
    # Of one share the newest is asked first: it has the most time left.
    assert names.asked[LOOKUPS_AT_ONCE:] == ["mine2.example", "other.example", "mine1.example"]
    for each in running[:3]:
        await each
    await cancelled(*running[3:], *waiting)


async def test_those_who_leave_give_up_their_place_in_the_queue():
    names = SlowNames()
    resolver = Resolver(ReactorWith(names=names))
    running = [resolver.addresses_of(f"slow{number}.example", ME) for number in range(LOOKUPS_OF_ONE_SHARE)]
    left, waiting = resolver.addresses_of("left.example", ME), resolver.addresses_of("waiting.example", ME)
    await cancelled(left)
    # A resolver cannot be stopped, so a look-up that was cancelled keeps its place.
    await cancelled(running.pop(0))
    assert "waiting.example" not in names.asked
    names.answer("slow0.example")
    assert "left.example" not in names.asked
    names.answer("waiting.example", "192.0.2.1")
    assert await waiting == ("192.0.2.1",)
    await cancelled(*running)


async def test_the_same_name_is_asked_once_at_a_time():
    names = SlowNames()
    resolver = Resolver(ReactorWith(names=names))
    first, left, other = (resolver.addresses_of("somewhere.example", share) for share in (ME, ME, OTHER))
    await cancelled(left)
    assert names.asked == ["somewhere.example"]
    names.answer("somewhere.example", "192.0.2.1")
    assert await first == await other == ("192.0.2.1",)


async def test_an_answer_may_have_others_who_asked_leave():
    names = SlowNames()
    resolver = Resolver(ReactorWith(names=names))
    first, other = (resolver.addresses_of("somewhere.example", ME) for _ in range(2))
    first.addCallback(lambda found: (other.cancel(), found)[1])
    names.answer("somewhere.example", "192.0.2.1")
    assert await first == ("192.0.2.1",)
    with pytest.raises(CancelledError):
        await other


class FaultyNames(SlowNames):
    """A resolver of the reactor's that raises."""

    def resolveHostName(self, receiver, name, *args, **kwargs):
        super().resolveHostName(receiver, name, *args, **kwargs)
        raise RuntimeError(name)


async def test_a_resolver_that_raises_keeps_no_place():
    names = FaultyNames()
    resolver = Resolver(ReactorWith(names=names))
    for number in range(LOOKUPS_AT_ONCE + 1):
        with pytest.raises(HostUnreachable):
            await resolver.addresses_of(f"faulty{number}.example", ME)
        # What it says after that harms nothing.
        names.answer(f"faulty{number}.example", "192.0.2.1")


# What is kept.


@pytest.mark.parametrize(("hosts", "seconds"), [(["192.0.2.1"], KEPT_ANSWER), ([], KEPT_FAILURE)])
async def test_answers_are_kept_for_a_while_and_for_who_asked(hosts, seconds):
    names, clock = Names(somewhere_example=hosts), Clock()
    resolver = Resolver(ReactorWith(names=names, clock=clock))

    async def ask(share):
        try:
            return await resolver.addresses_of("somewhere.example", share)
        except HostUnreachable:
            return ()

    for _ in range(3):
        assert await ask(ME) == tuple(hosts)
        clock.advance(seconds / 4)
    assert len(names.asked) == 1
    # Another share must not learn from the time of an answer that somebody asked.
    await ask(OTHER)
    assert len(names.asked) == 2
    clock.advance(seconds)
    await ask(ME)
    assert len(names.asked) == 3


async def test_few_answers_are_kept(monkeypatch):
    monkeypatch.setattr(module, "MOST_KEPT", 2)
    names = Names(a_example=["192.0.2.1"], b_example=["192.0.2.2"], c_example=["192.0.2.3"])
    resolver = Resolver(ReactorWith(names=names))
    for name in ("a.example", "b.example", "c.example", "b.example", "c.example", "a.example"):
        await resolver.addresses_of(name, ME)
    assert names.asked == ["a.example", "b.example", "c.example", "a.example"]


def test_a_reactor_has_one_resolver():
    assert resolver_of(reactor) is resolver_of(reactor)


# The hosts file.


@pytest.fixture
def hosts_file(tmp_path, monkeypatch):
    hosts, services = tmp_path / "hosts", tmp_path / "nsswitch.conf"
    hosts.write_text("127.0.0.1 localhost # here.example\n192.0.2.7\tHere.example  also\n\n# no.example\n")
    services.write_text("passwd: files\nhosts: files dns\n")
    monkeypatch.setattr(module._HostsFile, "PATH", str(hosts))
    monkeypatch.setattr(module._HostsFile, "SERVICES", str(services))
    monkeypatch.setattr(module, "HOSTS_CHECK_PERIOD", 0)
    return hosts, services


def is_blocking(resolver, name):
    """Whether a name is looked up at once, and not in a thread."""
    looking = resolver.addresses_of(name, object())
    is_fired = looking.called
    looking.addErrback(lambda failure: failure.trap(HostUnreachable, CancelledError))
    looking.cancel()
    return is_fired


def test_names_in_the_hosts_file_take_no_thread(hosts_file, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("192.0.2.7", 0))])
    hosts, _ = hosts_file
    resolver = Resolver(reactor)
    assert [is_blocking(resolver, name) for name in ("localhost", "LOCALHOST", "here.example", "also")] == [True] * 4
    assert not is_blocking(resolver, "no.example")
    hosts.write_text("192.0.2.7 no.example\n")
    assert is_blocking(resolver, "no.example")
    assert not is_blocking(resolver, "here.example")


@pytest.mark.parametrize("text", ["hosts: dns files\n", "hosts:\n", "passwd: files\n", None])
def test_the_hosts_file_counts_only_if_it_is_asked_first(hosts_file, monkeypatch, text):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, 1, 6, "", ("192.0.2.7", 0))])
    _, services = hosts_file
    if text is None:
        services.unlink()
    else:
        services.write_text(text)
    assert not is_blocking(Resolver(reactor), "localhost")


# Names of addresses.


class SlowReverseNames:
    """Takes the place of `socket.getnameinfo`: it answers when ``go_on`` is set."""

    def __init__(self):
        self.asked = []
        self.go_on = threading.Event()

    def __call__(self, where, flags):
        self.asked.append(where[0])
        self.go_on.wait(20)
        if where[0] == "192.0.2.99":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return "somewhere.example", "0"


async def test_names_of_addresses_share_the_look_ups(monkeypatch):
    names = SlowReverseNames()
    monkeypatch.setattr(socket, "getnameinfo", names)
    resolver = Resolver(reactor)
    try:
        running = [resolver.name_of(f"192.0.2.{number}", ME) for number in range(LOOKUPS_OF_ONE_SHARE)]
        left, waiting, nameless = (resolver.name_of(f"192.0.2.{number}", ME) for number in (97, 98, 99))
        await until(lambda: len(names.asked) == LOOKUPS_OF_ONE_SHARE)
        await cancelled(left)
        # Another thread would have begun by now.
        assert not settles(lambda: len(names.asked) > LOOKUPS_OF_ONE_SHARE, patience=0.2)
    finally:
        names.go_on.set()
    for each in (*running, waiting):
        assert await each == "somewhere.example"
    with pytest.raises(HostUnreachable):
        await nameless
    assert "192.0.2.97" not in names.asked


def test_a_slow_name_server_does_not_keep_the_process():
    """Threads that wait for a name server must not outlive the reactor."""
    script = (
        "import socket, time\n"
        "socket.getaddrinfo = lambda *_, **__: time.sleep(3600)\n"
        "from twisted.internet import reactor\n"
        "from txsocksx_ext.net.resolver import Resolver\n"
        "looking = Resolver(reactor).addresses_of('slow.example', None)\n"
        "looking.addErrback(lambda _: None)\n"
        "reactor.callLater(0.2, reactor.stop)\n"
        "print('ready', flush=True)\n"
        "reactor.run()\n"
        "print('stopped', flush=True)\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert finished.stdout.split() == ["ready", "stopped"], finished.stderr


async def test_a_name_in_the_queue_of_another_share_is_asked_at_once():
    names = SlowNames()
    resolver = Resolver(ReactorWith(names=names))
    slow = [resolver.addresses_of(f"slow{number}.example", ME) for number in range(LOOKUPS_OF_ONE_SHARE)]
    queued = resolver.addresses_of("somewhere.example", ME)
    assert "somewhere.example" not in names.asked
    other = resolver.addresses_of("somewhere.example", OTHER)
    assert names.asked.count("somewhere.example") == 1
    names.answer("somewhere.example", "192.0.2.1")
    assert await other == ("192.0.2.1",)
    await cancelled(queued, *slow)


async def test_a_look_up_whose_callers_have_left_is_joined_by_a_share_without_room():
    names = SlowNames()
    resolver = Resolver(ReactorWith(names=names))
    await cancelled(resolver.addresses_of("somewhere.example", ME))
    slow = [resolver.addresses_of(f"slow{number}.example", OTHER) for number in range(LOOKUPS_OF_ONE_SHARE)]
    other = resolver.addresses_of("somewhere.example", OTHER)
    names.answer("somewhere.example", "192.0.2.1")
    assert other.called
    assert await other == ("192.0.2.1",)
    await cancelled(*slow)
