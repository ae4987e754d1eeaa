"""What holds at a proxy of each protocol: half-close, TLS with the target and the proxy, cancellation."""

import pytest
from support.raw_proxies import RawAttempt, RawProxy
from support.targets import CONTENT, Talker, Target, answer_the_end, digest, end_first
from support.ways import failure_of, listening
from twisted.internet import reactor
from twisted.internet.defer import CancelledError
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory

from txsocksx_ext import HTTPConnectClientEndpoint, SOCKS4ClientEndpoint, SOCKS5ClientEndpoint, SOCKS5ExtFactory
from txsocksx_ext.errors import ProxyClosed
from txsocksx_ext.testing import Recorder

PROTOCOLS = {
    "socks5": (SOCKS5ClientEndpoint, b"\x05\x00"),
    "socks4a": (SOCKS4ClientEndpoint, b"\x00\x5a" + bytes(6)),
    "http": (HTTPConnectClientEndpoint, b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"),
}
each_protocol = pytest.mark.parametrize("scheme", PROTOCOLS)


@each_protocol
async def test_our_end_reaches_the_target_and_its_answer_comes_back(scheme):
    async with listening(SOCKS5ExtFactory(reactor)) as proxy:
        with Target(answer_the_end) as target:
            endpoint = PROTOCOLS[scheme][0]("127.0.0.1", target.port, f"{scheme}://127.0.0.1:{proxy.port}")
            talker = await endpoint.connect(Factory.forProtocol(Talker))
            talker.transport.write(CONTENT)
            talker.transport.loseWriteConnection()
            await talker.input_ended
            assert bytes(talker.received) == digest(CONTENT)
            talker.transport.loseConnection()
            await talker.lost


@each_protocol
async def test_the_targets_end_arrives_and_we_can_still_send(scheme):
    async with listening(SOCKS5ExtFactory(reactor)) as proxy:
        with Target(end_first) as target:
            endpoint = PROTOCOLS[scheme][0]("127.0.0.1", target.port, f"{scheme}://127.0.0.1:{proxy.port}")
            talker = await endpoint.connect(Factory.forProtocol(Talker))
            await talker.input_ended
            assert bytes(talker.received) == CONTENT
            talker.transport.write(CONTENT[::-1])
            talker.transport.loseConnection()
            assert await target.when_next_result() == CONTENT[::-1]
            await talker.lost


class Greeting(Recorder):
    def connectionMade(self):
        self.write(b"hello")


@each_protocol
async def test_tls_with_the_target(scheme, authority):
    server = Factory.forProtocol(Greeting)
    secured = TLSMemoryBIOFactory(authority.server_options("localhost"), False, server)
    async with listening(SOCKS5ExtFactory(reactor)) as proxy, listening(secured) as target:
        url = f"{scheme}://127.0.0.1:{proxy.port}"
        endpoint = PROTOCOLS[scheme][0]("localhost", target.port, url, tls=authority.client_for("localhost"))
        client = await endpoint.connect(Factory.forProtocol(Recorder))
        await client.until(lambda it: it.received == b"hello")
        client.close()
        await client.until(lambda it: it.lost)


async def test_an_https_url_is_tls_with_the_proxy_whose_certificate_is_checked(authority, monkeypatch):
    secured = TLSMemoryBIOFactory(authority.server_options("localhost"), False, SOCKS5ExtFactory(reactor))
    async with listening(secured) as proxy, listening(Factory.forProtocol(Recorder)) as target:
        url = f"https://alice:secret@localhost:{proxy.port}"
        untrusted = HTTPConnectClientEndpoint("127.0.0.1", target.port, url)
        error = await failure_of(untrusted.connect(Factory.forProtocol(Recorder)))
        assert type(error) is ProxyClosed
        assert "check that it speaks TLS, its certificate" in str(error)
        monkeypatch.setattr("txsocksx_ext.client.proxies.creator_for_host", authority.client_for)
        trusted = HTTPConnectClientEndpoint("127.0.0.1", target.port, url)
        client = await trusted.connect(Factory.forProtocol(Recorder))
        client.close()
        await client.until(lambda it: it.lost)
        other = HTTPConnectClientEndpoint("127.0.0.1", target.port, url.replace("localhost", "127.0.0.1"))
        assert type(await failure_of(other.connect(Factory.forProtocol(Recorder)))) is ProxyClosed


@each_protocol
def test_cancelling_at_any_byte_of_the_answer_leaves_nothing(scheme):
    endpoint, answer = PROTOCOLS[scheme]
    for length in range(len(answer)):
        tried = RawAttempt(endpoint, RawProxy(answer[:length]))
        assert tried.outcome is None
        tried.connecting.cancel()
        tried.run(100)
        assert isinstance(tried.outcome, CancelledError)
        assert tried.application.events == ["start", "stop"]
        assert tried.has_left_nothing
