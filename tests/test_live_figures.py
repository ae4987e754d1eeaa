"""How much a stream has carried, while it is still open."""

import json

import pytest
from examples.raw_peers import GREET_ANONYMOUS, proxy, request, target, through_tls, tls_listener, until
from support.programs import free_port
from twisted.internet import reactor

from txsocksx_ext import SOCKS5ExtFactory
from txsocksx_ext.server.stats import Counters

UP, DOWN = 100_000, 300_000


class Noting(SOCKS5ExtFactory):
    """A server that keeps the session of its last client."""

    def authenticate(self, session):
        self.last = session
        return super().authenticate(session)


@pytest.mark.parametrize("is_tls", [False, True], ids=["TCP", "TLS"])
async def test_a_session_and_the_counters_tell_of_an_open_stream(is_tls, tmp_path):
    listen = tls_listener(tmp_path) if is_tls else "tcp:0:interface=127.0.0.1"
    async with target() as far, proxy(Noting(reactor), listen=listen) as server:
        client = await server.connect(endpoint=through_tls(server.port) if is_tls else None)
        client.send(GREET_ANONYMOUS + request("127.0.0.1", far.port) + bytes(UP))
        end = await far.accept()
        assert len(await end.read(UP)) == UP
        end.send(bytes(DOWN))
        assert len(await client.read(12 + DOWN)) == 12 + DOWN
        session, counters = server.factory.last, server.factory.counters
        assert (session.up, session.down) == (UP, DOWN)
        assert (counters.now, counters.up, counters.down) == (1, UP, DOWN)
        end.close()
        await client.read_to_end()
        client.close()
        await client.lost()
    # What is counted meanwhile is not counted once more at the end.
    counters = server.factory.counters
    assert (session.up, session.down) == (UP, DOWN)
    assert (counters.now, counters.up, counters.down) == (0, UP, DOWN)


async def test_connections_are_counted_by_kind():
    async with target() as far, proxy(SOCKS5ExtFactory(reactor)) as server:
        for port, replied in ((far.port, 0), (free_port(), 5)):
            client, code, _ = await server.ask("127.0.0.1", port)
            assert code == replied
            client.close()
        (await far.accept()).close()
        await until(lambda: not server.factory.connections)
        counters = server.factory.counters
    asked = ("socks5", "NO_AUTHENTICATION", "CONNECT", "direct")
    assert {kind: (each.connections, sum(each.connect_times)) for kind, each in counters.kinds.items()} == {
        (*asked, 0, "done"): (1, 1),
        (*asked, 5, "ConnectionRefusedError(ECONNREFUSED)"): (1, 0),
    }
    assert 0 < counters.kinds[(*asked, 0, "done")].connect_seconds < 30
    assert (counters.connections, counters.failed) == (2, 1)
    assert Counters.from_message(json.loads(json.dumps(counters.as_message()))) == counters
