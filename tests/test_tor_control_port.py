"""The route through tor with a control port, over sockets: what clients hear, and what operators read."""

import time
from contextlib import asynccontextmanager

import pytest
import txtorcon
from examples.raw_peers import GREET_ANONYMOUS, proxy, request, until
from support.answers import table
from support.control_port import scripted_tor
from support.fake_tor import FOUND, GREETINGS, ONION, SERVICE, codes, hear, heard_as, reply, same
from support.logs import lines_logged
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from txsocksx_ext import Limits, errors, route_from_string
from txsocksx_ext.tor import control as control_module
from txsocksx_ext.tor import stream_via

NOT_FOUND = ["NOT_FOUND"] * 6
OTHER = "djz2pvvqsmdpmjfz6lxxzpxyqwkdr5vifwnyhwyjr2pesvrlr7x7prid.onion"


@pytest.fixture
def log():
    """What the package logs about tor, as lines."""
    with lines_logged("txsocksx_ext.tor") as lines:
        yield lines


@pytest.fixture
def quick(monkeypatch):
    """Give up control connections that stall after a short time."""
    monkeypatch.setattr(control_module, "ANSWERS_WITHIN", 0.3)
    monkeypatch.setattr(control_module, "ATTACH_WITHIN", 1.0)
    monkeypatch.setattr(control_module, "EVENTS_FOLLOW_WITHIN", 0.2)


@asynccontextmanager
async def server_through(tor, *, attached=True, seconds=30.0):
    """A server whose way out this tor is."""
    route = route_from_string(reactor, tor.route)
    route.service.startService()
    try:
        if attached:
            await until(lambda: tor.control.attached and next(iter(route.service)).is_live)
        async with proxy(policy=table(route), limits=Limits(connect_timeout=seconds)) as server:
            yield server
    finally:
        await route.service.stopService()


async def missing(stream):
    """A service that does not exist, by a plain port."""
    stream.fail(0x04, *NOT_FOUND)


async def frozen(stream):
    """A service that does not answer."""
    stream.begin()
    stream.directories("RECEIVED")


# The first requests after a start.


async def test_a_request_waits_for_the_control_connection_that_is_being_made():
    async with scripted_tor(missing) as tor:
        tor.control.delay = 0.03
        async with server_through(tor, attached=False) as server:
            assert await codes(server) == heard_as(4, 0xE0, 0xF0)


async def test_a_request_waits_two_seconds_at_most_and_later_ones_do_not_wait():
    async with scripted_tor(missing) as tor:
        tor.control.is_stalled = True
        async with server_through(tor, attached=False) as server:
            begun = time.monotonic()
            assert (await hear(server, "97"))[1] == 4
            assert 1 < time.monotonic() - begun < 10
            begun = time.monotonic()
            assert (await hear(server, "97"))[1] == 4
            assert time.monotonic() - begun < 1


async def test_other_targets_do_not_wait():
    async def connected(stream):
        stream.peer.send(FOUND)

    async with scripted_tor(connected) as tor:
        tor.control.is_stalled = True
        async with server_through(tor, attached=False) as server:
            begun = time.monotonic()
            assert (await hear(server, "97", "target.example"))[1] == 0
            assert time.monotonic() - begun < 1


async def test_a_client_that_leaves_while_it_waits():
    async with scripted_tor(missing) as tor:
        tor.control.is_stalled = True
        async with server_through(tor, attached=False) as server:
            peer = await server.connect(GREET_ANONYMOUS)
            await peer.read(2)
            peer.send(request(ONION, 80))
            await until(lambda: tor.control.commands)
            peer.abort()
        assert tor.asked == []


# A slow network between us and the control port.


async def test_events_that_come_late_are_waited_for():
    async with scripted_tor(missing) as tor, server_through(tor) as server:
        tor.control.delay = 0.8
        assert await codes(server) == heard_as(4, 0xE0, 0xF0)


async def test_few_commands_are_needed_before_events_are_seen():
    """Each takes one round trip."""
    async with scripted_tor(missing) as tor, server_through(tor):
        assert len(tor.control.commands) < 15


# A port with ExtendedErrors keeps the F0 of the first directory.


@pytest.mark.parametrize(("reason", "code"), [("DONE", 0x05), ("MISC", 0x01), ("TIMEOUT", 0x06)])
async def test_what_a_service_answered_wins_over_f0(reason, code):
    async def refused(stream):
        stream.fail(0xF0, "NOT_FOUND", "RECEIVED", reason=f"REASON=END REMOTE_REASON={reason}", circuit=27)

    async with scripted_tor(refused) as tor, server_through(tor) as server:
        assert await codes(server) == same(code)
        assert tor.asked == [ONION] * len(GREETINGS)


async def test_a_service_that_closed_at_once_is_asked_again():
    async def closes_first(stream):
        stream.begin()
        if stream.number > 1:
            stream.say("SUCCEEDED", circuit=27)
            stream.peer.send(FOUND)
            return
        stream.directories("NOT_FOUND", "RECEIVED")
        # As tor says it where it connects after F0.
        stream.say("FAILED", circuit=27)
        stream.say("CLOSED", "REASON=END REMOTE_REASON=DONE", circuit=27)
        stream.reply(0xF0)

    async with scripted_tor(closes_first) as tor, server_through(tor) as server:
        assert (await hear(server, "97"))[1] == 0


async def test_f0_is_no_claim_where_a_directory_did_not_answer():
    async def doubtful(stream):
        stream.fail(0xF0, "NOT_FOUND", "", "NOT_FOUND")

    async with scripted_tor(doubtful) as tor, server_through(tor) as server:
        assert await codes(server) == same(4)


# Nothing is said of a service that nobody was asked about.


@pytest.mark.parametrize("answers", [(), ("",), ("NOT_FOUND", "")])
async def test_a_service_of_which_no_directory_has_said_anything(answers):
    async def waits(stream):
        stream.begin()
        stream.directories(*answers)

    async with scripted_tor(waits) as tor:
        tor.control.progress = 5
        async with server_through(tor, seconds=0.3) as server:
            assert await codes(server) == same(6)


async def test_a_frozen_service_is_not_reachable():
    async with scripted_tor(frozen) as tor, server_through(tor, seconds=0.3) as server:
        assert await codes(server) == heard_as(6, 0xE1, 0xF3)


async def test_a_frozen_service_whose_descriptor_tor_had_before_we_came():
    async def waits(stream):
        stream.begin()

    async with scripted_tor(waits) as tor:
        tor.control.cached = {SERVICE}
        async with server_through(tor, seconds=0.3) as server:
            assert await codes(server) == heard_as(6, 0xE1, 0xF3)
            assert await codes(server, OTHER) == same(6)


# The control port of another tor.


async def unseen(stream):
    """A stream that the control port does not show."""
    stream.reply(0x04)


async def test_the_control_port_of_another_tor_is_noticed_and_no_claim_is_made_from_it(log):
    async with scripted_tor(unseen) as tor, server_through(tor) as server:
        tor.control.listeners = '"127.0.0.1:1" "unix:/run/tor/socks"'
        for _ in range(3):
            assert await codes(server) == same(4)
        # Events of that tor are not ours, though it has a stream to the same target.
        tor.control.say(f"STREAM 9 NEW 0 {ONION}:80 SOURCE_ADDR=127.0.0.1:9 PURPOSE=USER")
        assert await codes(server) == same(4)
    (warning,) = [line for line in log if "another tor" in line]
    assert '127.0.0.1:1" "unix:/run/tor/socks' in warning


async def test_it_is_noticed_where_streams_succeed_too(log):
    async def connected(stream):
        stream.peer.send(FOUND)

    async with scripted_tor(connected) as tor, server_through(tor) as server:
        tor.control.listeners = '"127.0.0.1:1"'
        assert (await hear(server, "97"))[1] == 0
        await until(lambda: any("another tor" in line for line in log))


@pytest.mark.parametrize("listener", ["127.0.0.1:{port}", "0.0.0.0:{port}", "[::]:{port}"])
async def test_a_tor_that_listens_where_we_ask_is_not_another(log, listener):
    async with scripted_tor(unseen) as tor, server_through(tor) as server:
        tor.control.listeners = f'"127.0.0.1:1" "{listener.format(port=tor.socks.port)}"'
        assert await codes(server) == same(4)
    assert not any("another tor" in line for line in log)


async def test_the_same_tor_is_believed_again_when_it_comes_back(log):
    async with scripted_tor(unseen) as tor, server_through(tor) as server:
        right, tor.control.listeners = tor.control.listeners, '"127.0.0.1:1"'
        assert await codes(server) == same(4)
        tor.control.listeners, tor.script = right, missing
        tor.control.connections[0].transport.loseConnection()
        await until(lambda: tor.control.attached == 2)
        await until(lambda: sum("control connection established" in line for line in log) == 2)
        assert await codes(server) == heard_as(4, 0xE0, 0xF0)


# A control connection that stalls.


async def test_a_stalled_control_connection_is_given_up_and_made_again(quick, log):
    async with scripted_tor(missing) as tor, server_through(tor) as server:
        tor.control.is_stalled = True
        assert await codes(server) == same(4)
        await until(lambda: any("has not answered" in line for line in log))
        tor.control.go_on()
        await until(lambda: sum("control connection established" in line for line in log) == 2)
        assert await codes(server) == heard_as(4, 0xE0, 0xF0)


async def test_no_claim_is_made_of_a_frozen_service_while_the_control_connection_stalls(quick, log):
    async with scripted_tor(frozen) as tor, server_through(tor, seconds=0.3) as server:
        tor.control.is_stalled = True
        assert await codes(server) == same(6)
        await until(lambda: any("has not answered" in line for line in log))


async def test_f0_counts_twice_while_the_control_connection_stalls(quick):
    """As without a control port: tor is asked again."""

    async def refused(stream):
        stream.peer.send(reply(0xF0 if stream.number == 1 else 0x05))
        stream.peer.close()

    async with scripted_tor(refused) as tor, server_through(tor) as server:
        tor.control.is_stalled = True
        assert (await hear(server, "97"))[1] == 5


# The same by a program's own control connection, which is not ours to end.


@asynccontextmanager
async def program_with(tor):
    """A program that controls this tor: `stream_via` to an onion service, as what it raises."""
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", tor.control.number)
    protocol = await txtorcon.build_tor_connection(endpoint, build_state=False)
    socks = TCP4ClientEndpoint(reactor, "127.0.0.1", tor.socks.port)
    controlled = txtorcon.Tor(reactor, protocol)

    async def error_of_stream():
        streams = stream_via(controlled, ONION, 80, socks_endpoint=socks, timeout=30)
        with pytest.raises(errors.SOCKS5Error) as raised:
            await streams.connect(Factory.forProtocol(Protocol))
        return type(raised.value)

    try:
        yield error_of_stream
    finally:
        gone = protocol.when_disconnected()
        protocol.transport.loseConnection()
        await gone.addErrback(lambda _: None)


async def test_a_program_whose_control_connection_stalls_goes_on_without_it():
    async with scripted_tor(missing) as tor, program_with(tor) as error_of_stream:
        tor.control.is_stalled = True
        begun = time.monotonic()
        assert await error_of_stream() is errors.HostUnreachable
        assert time.monotonic() - begun < 15
        begun = time.monotonic()
        assert await error_of_stream() is errors.HostUnreachable
        assert time.monotonic() - begun < 1


async def test_a_program_whose_control_connection_goes_on_is_told_reasons_again(quick, log):
    async with scripted_tor(missing) as tor, program_with(tor) as error_of_stream:
        assert await error_of_stream() is errors.OnionDescriptorNotFound
        tor.control.is_stalled = True
        assert await error_of_stream() is errors.HostUnreachable
        assert await error_of_stream() is errors.HostUnreachable
        assert len([line for line in log if "does not answer" in line]) == 1
        tor.control.go_on()
        while await error_of_stream() is not errors.OnionDescriptorNotFound:
            await deferLater(reactor, 0.1)
        assert len(tor.control.connections) == 1


# Unix sockets, whose ends have no names.


async def test_clients_that_leave_do_not_take_the_reasons_of_those_who_stay(tmp_path):
    begun = []

    async def waits(stream):
        begun.append(stream)

    async with scripted_tor(waits, path=tmp_path / "socks") as tor, server_through(tor) as server:
        leaving = [await server.connect(GREET_ANONYMOUS) for _ in range(10)]
        for peer in leaving:
            await peer.read(2)
            peer.send(request(ONION, 80))
        await until(lambda: len(begun) == 10)
        staying = [Deferred.fromCoroutine(hear(server, "97")) for _ in range(10)]
        await until(lambda: len(begun) == 20)
        for peer in leaving:
            peer.abort()
        for stream in begun[:10]:
            await stream.peer.read_to_end()
        # The events of those who left come when they have left.
        for stream in begun:
            stream.begin()
        for stream in begun[:10]:
            stream.say("CLOSED", "REASON=DONE")
        begun[-1].directories(*NOT_FOUND)
        for stream in begun[10:]:
            stream.end("REASON=RESOLVEFAILED")
            stream.reply(0x04)
        assert [code for _, code in await gatherResults(staying)] == [0xE0] * 10
