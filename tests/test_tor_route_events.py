"""The route through tor with a control port: what clients hear of the events of a scripted tor."""

import pytest
from examples.raw_peers import GREET_ANONYMOUS, request, turn, until
from support.fake_tor import (
    FOUND,
    GREETINGS,
    ONION,
    SERVICE,
    SHORT,
    behind,
    codes,
    events,
    hear,
    heard_as,
    reply,
    same,
    saying,
    silent,
)
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionLost

from txsocksx_ext.tor import control as control_module
from txsocksx_ext.tor.events import parse_descriptor_event, parse_stream_event


class EventfulTor:
    """
    Answers as a plain port does, and tells what happens by a control connection.

    :param descriptors: ``RECEIVED``, or the reasons of directories that do not have it.
    :param events_first: whether the events come before the reply, or after it.
    """

    def __init__(self, control, code, *descriptors, ending="REASON=RESOLVEFAILED", circuit=0, events_first=True):
        self.control = control
        self._code = code
        self._descriptors = descriptors
        self._ending = ending
        self._circuit = circuit
        self._events_first = events_first
        self._streams = 0
        self._directories = 0

    async def __call__(self, peer, host):
        self._streams += 1
        number, target = self._streams, f"{host}:80"
        source = f"127.0.0.1:{peer.transport.getPeer().port}"
        self.say(f"{number} NEW 0 {target} SOURCE_ADDR={source} PURPOSE=USER")
        if not self._events_first:
            peer.send(reply(self._code))
            await turn(3)
        for action in self._descriptors:
            self.describe(host, action)
        for status in ("FAILED", "CLOSED"):
            self.say(f"{number} {status} {self._circuit} {target} {self._ending}")
        if self._events_first:
            await turn(3)
            peer.send(reply(self._code))
        peer.close()

    def say(self, line):
        self.control.tracker.saw_stream(parse_stream_event(line))

    def describe(self, host, action):
        word, reason = ("RECEIVED", "") if action == "RECEIVED" else ("FAILED", f" REASON={action}")
        self._directories += 1
        line = f"{word} {host.removesuffix('.onion')} NO_AUTH ${self._directories:040X}~r key{reason}"
        self.control.tracker.saw_descriptor(parse_descriptor_event(line))


EVENTS = {
    "not found": (4, ["NOT_FOUND"] * 6, {}, heard_as(4, 0xE0, 0xF0)),
    "introduction failed": (4, ["NOT_FOUND", "RECEIVED"], {}, heard_as(4, 0xE1, 0xF2)),
    "unusable descriptor": (4, ["NOT_FOUND", "BAD_DESC"], {}, heard_as(4, 0xE1, 0xE1)),
    "no event of a directory": (4, [], {}, same(4)),
    "a directory that fails": (4, ["NOT_FOUND", "UNEXPECTED"], {}, same(4)),
    "client authorization": (1, ["RECEIVED"], {"ending": "REASON=MISC"}, heard_as(1, 0xE1, 0xF4)),
    "time-out": (6, ["RECEIVED"], {"ending": "REASON=TIMEOUT"}, heard_as(6, 0xE1, 0xF3)),
    "cannot attach": (1, ["RECEIVED"], {"ending": "REASON=CANT_ATTACH"}, heard_as(1, 0xE1, 0xF3)),
    "malformed address": (1, [], {"ending": "REASON=TORPROTOCOL"}, heard_as(1, 0xE0, 0xF6)),
    "time-out, unknown": (6, ["NOT_FOUND"], {"ending": "REASON=TIMEOUT"}, same(6)),
    "port not offered": (5, ["RECEIVED"], {"ending": "REASON=END REMOTE_REASON=DONE", "circuit": 31}, same(5)),
    "backend closed": (1, ["RECEIVED"], {"ending": "REASON=END REMOTE_REASON=MISC", "circuit": 31}, same(1)),
    "no network": (3, [], {"ending": "REASON=NET_UNREACHABLE"}, same(3)),
    "policy": (2, [], {"ending": "REASON= UNKNOWN_264"}, same(2)),
}


@pytest.mark.parametrize("events_first", [True, False])
@pytest.mark.parametrize("case", EVENTS)
async def test_events_tell_more_than_tors_reply(case, events_first):
    code, descriptors, ending, expected = EVENTS[case]
    control = events()
    answer = EventfulTor(control, code, *descriptors, events_first=events_first, **ending)
    async with behind(answer, control=control) as (_, server):
        assert await codes(server) == expected


async def test_a_key_that_tor_has_and_the_service_does_not_take():
    control = events(client_key=True)
    answer = EventfulTor(control, 1, "RECEIVED", ending="REASON=MISC")
    async with behind(answer, control=control) as (_, server):
        assert await codes(server) == heard_as(1, 0xE1, 0xF5)


@pytest.mark.parametrize("gone", [False, True])
async def test_a_tor_that_does_not_show_its_keys(gone):
    control = events()

    def queue_command(command):
        if gone and "CLIENT_AUTH" in command:
            control.tor = None
        return fail(RuntimeError("unrecognized command"))

    control.tor.protocol.queue_command = queue_command
    answer = EventfulTor(control, 1, "RECEIVED", ending="REASON=MISC")
    async with behind(answer, control=control) as (_, server):
        assert (await hear(server, "304"))[1] == 0xF4


async def test_nothing_is_claimed_where_a_reply_comes_without_any_event(monkeypatch):
    monkeypatch.setattr(control_module, "EVENTS_FOLLOW_WITHIN", 0.05)
    async with behind(saying(reply(4)), control=events()) as (_, server):
        assert await codes(server) == same(4)


async def test_nothing_is_claimed_while_there_is_no_control_connection():
    control = events()
    control.tor = None
    async with behind(saying(reply(4)), control=control) as (_, server):
        assert await codes(server) == same(4)


async def test_the_control_connection_is_lost_while_we_wait_for_its_events(monkeypatch):
    monkeypatch.setattr(control_module, "EVENTS_FOLLOW_WITHIN", 0.1)
    control = events()

    async def answer(peer, host):
        say = EventfulTor(control, 4)
        say.say(f"1 NEW 0 {host}:80 SOURCE_ADDR=127.0.0.1:{peer.transport.getPeer().port} PURPOSE=USER")
        say.describe(host, "NOT_FOUND")
        peer.send(reply(4))
        await turn(2)
        control.tor = None
        control.tracker.forget()
        say.say(f"1 CLOSED 0 {host}:80 REASON=RESOLVEFAILED")
        peer.close()

    async with behind(answer, control=control) as (_, server):
        assert (await hear(server, "97"))[1] == 4


async def test_other_targets_wait_for_no_events():
    async with behind(saying(reply(4)), control=events()) as (tor, server):
        assert await codes(server, "target.example") == same(4)
        assert tor.asked == ["target.example"] * len(GREETINGS)


async def test_many_clients_at_once_get_their_own_answers():
    control = events()
    answers = {
        "missing": EventfulTor(control, 4, "NOT_FOUND"),
        "dead": EventfulTor(control, 4, "RECEIVED", events_first=False),
        "locked": EventfulTor(control, 1, "RECEIVED", ending="REASON=MISC"),
        "open": None,
    }
    expected = {"missing": 0xF0, "dead": 0xF2, "locked": 0xF4, "open": 0}
    numbers = iter(range(1, 10_000))

    async def answer(peer, host):
        kind = host.partition("2")[0]
        number = next(numbers) * 10
        if answers[kind] is None:
            source = f"127.0.0.1:{peer.transport.getPeer().port}"
            answers["missing"].say(f"{number} NEW 0 {host}:80 SOURCE_ADDR={source} PURPOSE=USER")
            peer.send(FOUND)
            return
        answers[kind]._streams = number
        await answers[kind](peer, host)

    async with behind(answer, control=control) as (_, server):
        hosts = [f"{kind}2{number}.onion" for number in range(15) for kind in expected]
        hearings = [Deferred.fromCoroutine(hear(server, "304", host)) for host in hosts]
        heard = [(await each)[1] for each in hearings]
    assert heard == [expected[host.partition("2")[0]] for host in hosts]


async def test_a_client_that_leaves_takes_its_stream_along():
    control = events()
    async with behind(silent, control=control) as (tor, server):
        peer = await server.connect(GREET_ANONYMOUS)
        await peer.read(2)
        peer.send(request(ONION, 80))
        await until(lambda: tor.asked)
        peer.abort()
        assert isinstance(await tor.connections[0].lost(), ConnectionLost)


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize(
    ("cached", "descriptors", "expected"),
    [
        ([], [], same(6)),
        ([], ["RECEIVED"], heard_as(6, 0xE1, 0xF3)),
        ([], ["NOT_FOUND"], same(6)),
        ([SERVICE], [], heard_as(6, 0xE1, 0xF3)),
        ([SERVICE], ["NOT_FOUND"], heard_as(6, 0xE1, 0xE1)),
    ],
)
async def test_the_end_of_the_time_with_a_control_port(cached, descriptors, expected, others):
    """Streams of other programs that use this tor change nothing, though they go to the same service."""
    control = events(cached=cached)
    for number in range(100, 100 + others):
        EventfulTor(control, 0).say(f"{number} NEW 0 {ONION}:80 SOURCE_ADDR=127.0.0.1:1 PURPOSE=USER")
    streams = iter(range(1, 100))

    async def answer(peer, host):
        say = EventfulTor(control, 0)
        number = next(streams)
        say.say(f"{number} NEW 0 {host}:80 SOURCE_ADDR=127.0.0.1:{peer.transport.getPeer().port} PURPOSE=USER")
        for action in descriptors:
            say.describe(host, action)
        await peer.lost()
        say.say(f"{number} CLOSED 0 {host}:80 REASON=DONE")

    async with behind(answer, control=control, seconds=SHORT) as (_, server):
        assert await codes(server) == expected
