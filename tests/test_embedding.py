"""What a program that contains the server can ask of it."""

from examples.raw_peers import GREET_LOGIN, HeldRoute, login, proxy, request, target, until
from twisted.internet import reactor

from txsocksx_ext import RouteTable, SOCKS5ExtFactory


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
