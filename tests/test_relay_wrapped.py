"""Two transports as one stream, where the peer of one speaks Twisted's TLS, or is behind a balancer."""

from examples.raw_peers import proxy, target, through_tls, tls_listener, until
from support.certificates import Authority
from support.reactors import connections_read_from
from support.targets import CONTENT, MEGABYTE, content
from twisted.internet.error import ConnectionDone

from txsocksx_ext import RouteTable, open_transport

# Peers whose TLS cannot half-close.


async def test_a_client_on_tls_gets_all_that_the_target_sent_before_its_end(tmp_path):
    async with target() as far, proxy(listen=tls_listener(tmp_path)) as server:
        client = await server.connect(endpoint=through_tls(server.port))
        await client.ask("127.0.0.1", far.port)
        end = await far.accept()
        end.send(CONTENT)
        end.half_close()
        assert await client.read_to_end() == CONTENT
        # The client's TLS is Twisted's: it answers the end with its own.
        assert isinstance(await client.lost(), ConnectionDone)
        await end.read_to_end()


async def test_the_end_of_a_client_on_tls_reaches_the_target(tmp_path):
    async with target() as far, proxy(listen=tls_listener(tmp_path)) as server:
        client = await server.connect(endpoint=through_tls(server.port))
        await client.ask("127.0.0.1", far.port)
        end = await far.accept()
        client.send(CONTENT)
        client.close()
        assert await end.read_to_end() == CONTENT
        end.close()
        await until(lambda: not server.factory.connections)


def is_read_from(port):
    """Whether anyone here reads from a connection to this port."""
    return any(each.getPeer().port == port for each in connections_read_from())


async def test_a_slow_client_on_tls_stops_the_target(tmp_path):
    sent = content(3, 8 * MEGABYTE)
    async with target() as far, proxy(listen=tls_listener(tmp_path)) as server:
        client = await server.connect(endpoint=through_tls(server.port))
        await client.ask("127.0.0.1", far.port)
        end = await far.accept()
        client.transport.pauseProducing()
        end.send(sent)
        end.close()
        await until(lambda: not is_read_from(far.port))
        client.transport.resumeProducing()
        assert await client.read_to_end() == sent


class ThroughTLS:
    """A way out that speaks TLS with the target."""

    def __init__(self, port):
        self._endpoint = through_tls(port)

    def connect(self, request, addresses, session):
        return open_transport(self._endpoint)


async def test_a_target_on_tls_gets_all_before_the_clients_end_and_its_own_end_reaches_the_client():
    async with (
        target(tls=Authority().server_options("localhost")) as far,
        proxy(policy=RouteTable((), ThroughTLS(far.port))) as server,
    ):
        client, _, _ = await server.ask("192.0.2.1", 80)
        end = await far.accept()
        client.send(CONTENT)
        assert await end.read(len(CONTENT)) == CONTENT
        end.send(CONTENT)
        end.close()
        assert await client.read_to_end() == CONTENT
        client.close()
        client, _, _ = await server.ask("192.0.2.1", 80)
        end = await far.accept()
        client.send(CONTENT)
        client.half_close()
        assert await end.read_to_end() == CONTENT
        await client.read_to_end()
        await until(lambda: not server.factory.connections)


async def test_an_abort_of_a_client_is_an_abort_for_a_target_on_tls():
    async with (
        target(tls=Authority().server_options("localhost")) as far,
        proxy(policy=RouteTable((), ThroughTLS(far.port))) as server,
    ):
        client, _, _ = await server.ask("192.0.2.1", 80)
        end = await far.accept()
        client.send(b"question")
        assert await end.read(8) == b"question"
        client.abort()
        assert not isinstance(await end.lost(), ConnectionDone)


# A listener behind a balancer.


async def test_a_half_close_of_a_client_behind_a_balancer_is_no_close():
    async with target() as far, proxy(seen_from="127.0.0.9") as server:
        client, _, _ = await server.ask("127.0.0.1", far.port)
        end = await far.accept()
        client.send(b"question")
        client.half_close()
        assert await end.read_to_end() == b"question"
        end.send(b"answer")
        end.close()
        assert await client.read_to_end() == b"answer"


async def test_a_half_close_of_a_target_reaches_a_client_behind_a_balancer():
    async with target() as far, proxy(seen_from="127.0.0.9") as server:
        client, _, _ = await server.ask("127.0.0.1", far.port)
        end = await far.accept()
        end.send(b"words")
        end.half_close()
        assert await client.read_to_end() == b"words"
        client.send(b"more words")
        client.close()
        assert await end.read_to_end() == b"more words"
