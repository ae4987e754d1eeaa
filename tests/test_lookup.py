"""Names to addresses: what is asked, what is not, and what comes back."""

import errno
import socket
import threading

import pytest
from examples.raw_peers import Names, ReactorWith, settles, until
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred

from txsocksx_ext.errors import HostUnreachable
from txsocksx_ext.policy.resolver import LOOKUPS_AT_ONCE, Lookups
from txsocksx_ext.protocol.messages import Address


def lookup_host(reactor, destination):
    return Deferred.fromCoroutine(Lookups(reactor).look_up(destination))


async def test_addresses_come_in_the_resolvers_order_with_the_port():
    names = Names(somewhere_example=["2001:db8::1", "192.0.2.2", "192.0.2.1"])
    found = await lookup_host(ReactorWith(names=names), Address.of("somewhere.example", 8080))
    assert found == [Address.of(host, 8080) for host in ("2001:db8::1", "192.0.2.2", "192.0.2.1")]


async def test_a_name_without_an_address():
    names = Names()
    with pytest.raises(HostUnreachable):
        await lookup_host(ReactorWith(names=names), Address.of("nobody.example", 80))
    assert names.asked == ["nobody.example"]


class HalfAnswer:
    """A resolver that answers only when the test says so."""

    def resolveHostName(self, receiver, name, portNumber=0, addressTypes=None, transportSemantics="TCP"):
        self.receiver = receiver
        receiver.resolutionBegan(None)


async def test_what_is_no_ip_address_is_left_out_and_scopes_are_cut_off():
    names = HalfAnswer()
    looking = lookup_host(ReactorWith(names=names), Address.of("somewhere.example", 80))
    names.receiver.addressResolved(UNIXAddress(b"/socket"))
    names.receiver.addressResolved(IPv6Address("TCP", "fe80::1%eth0", 80))
    assert not looking.called
    names.receiver.resolutionComplete()
    assert await looking == [Address.of("fe80::1", 80)]


async def test_an_answer_that_comes_after_the_question_was_cancelled_does_no_harm():
    names = HalfAnswer()
    looking = lookup_host(ReactorWith(names=names), Address.of("somewhere.example", 80))
    looking.addErrback(lambda _: None)
    looking.cancel()
    names.receiver.addressResolved(IPv4Address("TCP", "192.0.2.1", 80))
    names.receiver.resolutionComplete()
    assert looking.called


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("abc.onion", True),
        ("ABC.ONION", True),
        ("abc.onion.", True),
        ("www.abc.onion", True),
        ("onion", True),
        ("onion.", True),
        ("abconion", False),
        ("onion.example", False),
        ("abc.onion.example", False),
        ("abc.onions", False),
    ],
)
async def test_onion_names_are_not_asked_for(name, is_one):
    names = Names(**{name.replace(".", "_"): ["192.0.2.1"]})
    looking = lookup_host(ReactorWith(names=names), Address.of(name, 80))
    if is_one:
        with pytest.raises(HostUnreachable):
            await looking
        assert names.asked == []
    else:
        assert await looking == [Address.of("192.0.2.1", 80)]


@pytest.mark.parametrize("name", ["a..b", ".", "..", ".a", "a" * 64, "a" * 64 + ".example", "x" * 255])
async def test_a_name_that_no_host_can_have_fails_with_the_real_resolver(name):
    with pytest.raises(HostUnreachable):
        await lookup_host(reactor, Address.of(name, 80))


async def test_the_real_resolver_knows_this_machine():
    found = await lookup_host(reactor, Address.of("localhost", 80))
    assert set(found) & {Address.of("127.0.0.1", 80), Address.of("::1", 80)}
    assert all(address.port == 80 for address in found)


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), UnicodeEncodeError("idna", "x", 0, 1, "bad"), ValueError()]
)
async def test_a_failure_of_the_system_is_an_answer_too(monkeypatch, error):
    def fail(*_):
        raise error

    lookups = Lookups(reactor)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", fail)
        for _ in range(LOOKUPS_AT_ONCE + 1):
            with pytest.raises(HostUnreachable):
                await Deferred.fromCoroutine(lookups.look_up(Address.of("localhost", 80)))
    assert await Deferred.fromCoroutine(lookups.look_up(Address.of("localhost", 80)))


class SlowNames:
    """A resolver that never answers by itself."""

    def __init__(self):
        self.receivers = {}

    def resolveHostName(self, receiver, name, portNumber=0, addressTypes=None, transportSemantics="TCP"):
        self.receivers[name] = receiver


async def test_slow_names_wait_in_a_queue_that_those_who_leave_give_up():
    names = SlowNames()
    lookups = Lookups(ReactorWith(names=names))

    def begin(name):
        return Deferred.fromCoroutine(lookups.look_up(Address.of(name, 80)))

    running = [begin(f"slow{number}.example") for number in range(LOOKUPS_AT_ONCE)]
    left, waiting = begin("left.example"), begin("waiting.example")
    left.cancel()
    with pytest.raises(CancelledError):
        await left
    # Its resolver cannot be stopped, so a look-up that was cancelled keeps its turn.
    running[0].cancel()
    with pytest.raises(CancelledError):
        await running[0]
    assert "waiting.example" not in names.receivers
    names.receivers["slow0.example"].resolutionComplete()
    assert "left.example" not in names.receivers
    names.receivers["waiting.example"].addressResolved(IPv4Address("TCP", "192.0.2.1", 80))
    names.receivers["waiting.example"].resolutionComplete()
    assert await waiting == [Address.of("192.0.2.1", 80)]
    for each in running[1:]:
        each.cancel()
        with pytest.raises(CancelledError):
            await each


async def test_those_who_ask_for_the_same_name_share_one_look_up():
    names = Counting()
    lookups = Lookups(ReactorWith(names=names))
    first, left, last = (
        Deferred.fromCoroutine(lookups.look_up(Address.of("somewhere.example", port))) for port in (80, 81, 82)
    )
    left.cancel()
    with pytest.raises(CancelledError):
        await left
    assert names.asked == 1
    names.receiver.addressResolved(IPv4Address("TCP", "192.0.2.1", 0))
    names.receiver.resolutionComplete()
    assert await first == [Address.of("192.0.2.1", 80)]
    assert await last == [Address.of("192.0.2.1", 82)]
    # The answer is not kept.
    later = Deferred.fromCoroutine(lookups.look_up(Address.of("somewhere.example", 80)))
    assert names.asked == 2
    names.receiver.resolutionComplete()
    with pytest.raises(HostUnreachable):
        await later


class Counting(HalfAnswer):
    asked = 0

    def resolveHostName(self, *args, **kwargs):
        self.asked += 1
        super().resolveHostName(*args, **kwargs)


class FaultyNames(SlowNames):
    """A resolver that raises, for names that say so."""

    def resolveHostName(self, receiver, name, *args, **kwargs):
        super().resolveHostName(receiver, name, *args, **kwargs)
        if name.startswith("faulty"):
            raise RuntimeError(name)


async def test_a_resolver_that_raises_keeps_no_turn():
    names = FaultyNames()
    lookups = Lookups(ReactorWith(names=names))
    for number in range(LOOKUPS_AT_ONCE + 1):
        looking = Deferred.fromCoroutine(lookups.look_up(Address.of(f"faulty{number}.example", 80)))
        assert looking.called
        with pytest.raises(HostUnreachable):
            await looking
        # What it says after that gives no turn twice.
        names.receivers[f"faulty{number}.example"].resolutionComplete()
    running = [
        Deferred.fromCoroutine(lookups.look_up(Address.of(f"slow{number}.example", 80)))
        for number in range(LOOKUPS_AT_ONCE + 1)
    ]
    assert len([name for name in names.receivers if name.startswith("slow")]) == LOOKUPS_AT_ONCE
    for each in running:
        each.cancel()
        with pytest.raises(CancelledError):
            await each


async def test_an_answer_may_have_others_who_asked_leave():
    names = HalfAnswer()
    lookups = Lookups(ReactorWith(names=names))
    first, other = (Deferred.fromCoroutine(lookups.look_up(Address.of("somewhere.example", port))) for port in (80, 81))
    first.addCallback(lambda found: (other.cancel(), found)[1])
    names.receiver.addressResolved(IPv4Address("TCP", "192.0.2.1", 0))
    names.receiver.resolutionComplete()
    assert await first == [Address.of("192.0.2.1", 80)]
    with pytest.raises(CancelledError):
        await other


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


async def test_names_of_addresses_wait_in_a_queue_that_those_who_leave_give_up(monkeypatch):
    names = SlowReverseNames()
    monkeypatch.setattr(socket, "getnameinfo", names)
    lookups = Lookups(reactor)

    def begin(number):
        return Deferred.fromCoroutine(lookups.name_of(Address.of(f"192.0.2.{number}", 0)))

    try:
        running = [begin(number) for number in range(LOOKUPS_AT_ONCE)]
        left, waiting, nameless = begin(97), begin(98), begin(99)
        await until(lambda: len(names.asked) == LOOKUPS_AT_ONCE)
        # A thread cannot be stopped, so a look-up that was cancelled keeps its turn.
        for each in (running.pop(), left):
            each.cancel()
            with pytest.raises(CancelledError):
                await each
        # Another thread would have begun by now.
        assert not settles(lambda: len(names.asked) > LOOKUPS_AT_ONCE, patience=0.2)
    finally:
        names.go_on.set()
    for each in (*running, waiting):
        assert await each == Address.of("somewhere.example", 0)
    with pytest.raises(HostUnreachable):
        await nameless
    assert "192.0.2.97" not in names.asked


async def test_names_and_addresses_wait_in_one_queue(monkeypatch):
    names, reverse_names = SlowNames(), SlowReverseNames()
    monkeypatch.setattr(socket, "getnameinfo", reverse_names)
    reverse_names.go_on.set()
    lookups = Lookups(ReactorWith(names=names))
    running = [
        Deferred.fromCoroutine(lookups.look_up(Address.of(f"slow{number}.example", 80)))
        for number in range(LOOKUPS_AT_ONCE)
    ]
    waiting = Deferred.fromCoroutine(lookups.name_of(Address.of("192.0.2.1", 0)))
    assert not settles(lambda: reverse_names.asked, patience=0.2)
    names.receivers["slow0.example"].resolutionComplete()
    assert await waiting == Address.of("somewhere.example", 0)
    with pytest.raises(HostUnreachable):
        await running.pop(0)
    for each in running:
        each.cancel()
        with pytest.raises(CancelledError):
            await each
