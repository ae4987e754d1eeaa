"""What a program that contains the server can ask of it."""

import pytest
from examples.raw_peers import (
    GREET_ANONYMOUS,
    GREET_LOGIN,
    HeldRoute,
    Proxy,
    login,
    proxy,
    request,
    target,
    until,
)
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.logger import formatEvent

from txsocksx_ext import RouteTable, SOCKS5ExtFactory, route_from_string
from txsocksx_ext.server.service import SOCKS5ExtService


class Noting(SOCKS5ExtFactory):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.ends = []

    def closed(self, session):
        self.ends.append((session.user, session.end))


async def stream(server, far, user):
    """A client of some user with an open stream: its end, and the target's."""
    client = await server.connect()
    client.send(GREET_LOGIN + login(user, b"password") + request("127.0.0.1", far.port))
    assert await client.read(4) == b"\x05\x02\x01\x00"
    assert (await client.read_reply())[0] == 0
    return client, await far.accept()


async def test_all_sessions_of_a_user_end_and_no_others():
    factory = Noting(reactor)
    async with target() as far, proxy(factory) as server:
        ended = [await stream(server, far, b"alice"), await stream(server, far, b"alice")]
        client, end = await stream(server, far, b"bob")
        assert factory.end_sessions(lambda session: session.user == b"alice") == 2
        for ends in ended:
            for each in ends:
                await each.lost()
        await until(lambda: len(factory.ends) == 2)
        assert factory.ends == [(b"alice", "ended by the operator")] * 2
        client.send(b"still here")
        assert await end.read(10) == b"still here"


async def test_one_session_ends_before_its_target_was_reached():
    held = HeldRoute()
    factory = Noting(reactor, policy=RouteTable((), held))
    async with proxy(factory) as server:
        client = await server.connect()
        client.send(GREET_LOGIN + login(b"alice", b"password") + request("127.0.0.1", 9))
        await held.asked.get()
        (connection,) = factory.connections
        number = connection.session.number
        assert factory.end_sessions(lambda session: session.number == number, "removed") == 1
        await client.lost()
        await until(lambda: not factory.connections)
    assert factory.ends == [(b"alice", "removed")]
    assert held.cancelled == 1


async def test_the_policy_may_depend_on_the_client():
    refusing = RouteTable((), route_from_string(reactor, "refuse"))
    open_to_all = RouteTable((), route_from_string(reactor, "direct"))
    seen = []

    def policy(session):
        seen.append((session.user, session.request.destination.host))
        return open_to_all if session.user == b"alice" else refusing

    async with target() as far, proxy(policy=policy) as server:
        await stream(server, far, b"alice")
        for user in (b"bob", None):
            client = await server.connect()
            client.send(GREET_ANONYMOUS if user is None else GREET_LOGIN + login(user, b"password"))
            client.send(request("127.0.0.1", far.port))
            assert await client.read(2 if user is None else 4)
            assert (await client.read_reply())[0] == 2
    assert seen == [(user, "127.0.0.1") for user in (b"alice", b"bob", None)]


class Choosing(SOCKS5ExtFactory):
    """Returns a route of its own, which the policy has to check."""

    def route(self, session):
        return HeldRoute()


@pytest.mark.parametrize("factory", [SOCKS5ExtFactory, Choosing])
async def test_a_chosen_policy_protects_private_addresses(factory):
    table = RouteTable((), HeldRoute())
    async with proxy(factory(reactor, policy=lambda session: table), seen_from="192.0.2.1") as server:
        assert await server.code("10.1.1.1", 80) == 2


@pytest.mark.logs_errors
async def test_a_function_that_returns_no_table_is_a_bug_and_opens_nothing(logged_errors):
    async with target() as far, proxy(policy=lambda session: None, log_targets=True) as server:
        assert await server.code("127.0.0.1", far.port) == 1
        assert far.accepted == 0
    (event,) = logged_errors
    assert "the policy for a session must be RouteTable, not NoneType" in formatEvent(event)


async def test_a_service_listens_on_endpoint_objects_and_tells_its_addresses():
    factory = SOCKS5ExtFactory(reactor)
    listeners = [TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"), "tcp:0:interface=127.0.0.2"]
    service = SOCKS5ExtService(reactor, factory, listeners)
    assert service.addresses() == []
    service.startService()
    try:
        addresses = service.addresses()
        assert [each.host for each in addresses] == ["127.0.0.1", "127.0.0.2"]
        async with target() as far:
            client, code, _ = await Proxy(addresses[0].port, factory).ask("127.0.0.1", far.port)
            assert code == 0
            client.abort()
            await client.lost()
        taken = TCP4ServerEndpoint(reactor, addresses[0].port, interface="127.0.0.1")
        second = SOCKS5ExtService(reactor, SOCKS5ExtFactory(reactor), [taken])
        with pytest.raises(CannotListenError, match="cannot listen on TCP4ServerEndpoint: Address already in use"):
            second.startService()
    finally:
        await service.stopService()
    assert service.addresses() == []
