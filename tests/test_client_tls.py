"""Endpoints with TLS, to the proxy and to the target behind it."""

from contextlib import asynccontextmanager

import pytest
from examples.raw_peers import until
from support.ways import CONTENT, LOGIN, Counting, failure_of, listening, way_to
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import ConnectionDone, NoProtocol
from twisted.internet.interfaces import IProtocolNegotiationFactory
from twisted.internet.protocol import Factory
from twisted.internet.ssl import optionsForClientTLS
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from txsocksx_ext import SOCKS5Address, SOCKS5ClientEndpoint
from txsocksx_ext.errors import OnionServiceNotFound, ProxyClosed
from txsocksx_ext.testing import FakeProxy, Recorder


@pytest.mark.parametrize("tls", [False, True])
async def test_the_applications_factory_starts_and_stops_once(tls, authority):
    server = Factory.forProtocol(Recorder)
    if tls:
        server = TLSMemoryBIOFactory(authority.server_options("target.example"), False, server)
    async with listening(FakeProxy(server)) as address:
        factory = Counting()
        creator = authority.client_for("target.example") if tls else False
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), tls=creator)
        protocol = await endpoint.connect(factory)
        assert factory.events == ["start"]
        protocol.abort()
        await until(lambda: factory.events != ["start"])
        assert factory.events == ["start", "stop"]


async def test_tls_to_the_proxy(authority):
    proxy = FakeProxy(joined=b"220 welcome\r\n")
    secured = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, proxy)
    async with listening(secured) as address:
        way = wrapClientTLS(authority.client_for("proxy.example"), way_to(address))
        protocol = await SOCKS5ClientEndpoint("target.example", 443, way, LOGIN).connect(Factory.forProtocol(Recorder))
        await protocol.until(lambda each: each.received == b"220 welcome\r\n")
        protocol.write(b"hello")
        tunnel = proxy.conversations[0].tunnel
        await tunnel.until(lambda end: end.received == b"hello")
        tunnel.close()
        await protocol.until(lambda each: each.lost)
        assert protocol.lost.type is ConnectionDone


class PausingRecorder(Recorder):
    def connectionMade(self):
        self.transport.pauseProducing()
        reactor.callLater(0.05, self.transport.resumeProducing)


@pytest.mark.parametrize("protocol", [Recorder, PausingRecorder])
async def test_what_comes_with_the_reply_of_a_proxy_behind_tls_comes_in_its_order(authority, protocol):
    """It is more than one record of TLS holds, and all of it is deciphered at once."""
    secured = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, FakeProxy(joined=CONTENT[:40_000]))
    async with listening(secured) as address:
        way = wrapClientTLS(authority.client_for("proxy.example"), way_to(address))
        client = await SOCKS5ClientEndpoint("target.example", 443, way).connect(Factory.forProtocol(protocol))
        await client.until(lambda it: len(it.received) == 40_000)
        assert client.received == CONTENT[:40_000]
        client.abort()
        await client.until(lambda it: it.lost)


@pytest.mark.parametrize("name", ["other.example", None])
async def test_a_certificate_that_does_not_hold_is_told_as_such(authority, name):
    secured = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, FakeProxy())
    trust = optionsForClientTLS("proxy.example") if name is None else authority.client_for(name)
    async with listening(secured) as address:
        way = wrapClientTLS(trust, way_to(address))
        error = await failure_of(SOCKS5ClientEndpoint("target.example", 443, way, LOGIN).connect(Counting()))
        assert type(error) is ProxyClosed
        assert "certificate" in str(error)
        assert error.__cause__ is not None


async def test_tls_with_the_target_of_a_factory_that_builds_nothing(authority):
    class Nothing(Factory):
        def buildProtocol(self, addr):
            return None

    proxy = FakeProxy()
    async with listening(proxy) as address:
        creator = authority.client_for("target.example")
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), tls=creator)
        assert type(await failure_of(endpoint.connect(Nothing()))) is NoProtocol
        await proxy.conversations[0].tunnel.until(lambda each: each.lost)


INJECTED = b"what nobody signed"
BEHIND_TLS = pytest.mark.parametrize("behind_tls", [False, True], ids=["a proxy in the open", "a proxy behind TLS"])


@asynccontextmanager
async def injecting(authority, behind_tls):
    """A way to a proxy that puts bytes before those of its target, which speaks TLS."""
    site = TLSMemoryBIOFactory(authority.server_options("target.example"), False, Factory.forProtocol(Recorder))
    proxy = FakeProxy(site, joined=INJECTED)
    served = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, proxy) if behind_tls else proxy
    async with listening(served) as address:
        way = way_to(address)
        yield wrapClientTLS(authority.client_for("proxy.example"), way) if behind_tls else way


@BEHIND_TLS
@pytest.mark.parametrize("protocol", [Recorder, PausingRecorder])
async def test_what_comes_with_the_reply_goes_through_the_targets_tls_too(authority, behind_tls, protocol):
    """Whoever stands between proxy and target could put it there: the certificate says nothing of it."""
    async with injecting(authority, behind_tls) as way:
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way, tls=authority.client_for("target.example"))
        client = await endpoint.connect(Factory.forProtocol(protocol))
        client.write(b"secret")
        await client.until(lambda it: it.lost)
        assert client.received == b""
        assert not client.lost.check(ConnectionDone)


async def test_what_comes_with_the_reply_goes_through_tls_that_the_application_begins(authority):
    class Beginning(Recorder):
        def connectionMade(self):
            self.transport.startTLS(authority.client_for("target.example"))

    async with injecting(authority, False) as way:
        client = await SOCKS5ClientEndpoint("target.example", 443, way).connect(Factory.forProtocol(Beginning))
        await client.until(lambda it: it.lost)
        assert client.received == b""
        assert not client.lost.check(ConnectionDone)


async def test_tls_with_the_target_offers_what_the_applications_factory_speaks(authority):
    @implementer(IProtocolNegotiationFactory)
    class Speaking(Factory):
        protocol = Recorder

        def acceptableProtocols(self):
            return [b"h2"]

    server = Speaking()
    site = TLSMemoryBIOFactory(authority.server_options("target.example"), False, server)
    async with listening(FakeProxy(site)) as address:
        creator = authority.client_for("target.example")
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), tls=creator)
        client = await endpoint.connect(Speaking())
        client.write(b"hello")
        await until(lambda: client.transport.negotiatedProtocol)
        assert client.transport.negotiatedProtocol == b"h2"
        client.close()
        await client.until(lambda it: it.lost)


async def test_tls_makes_a_proxy_elsewhere_fit_for_secrets(authority):
    proxy = FakeProxy(address=IPv4Address("TCP", "192.0.2.1", 1080))
    proxy.endpoint.server = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, proxy)
    way = wrapClientTLS(authority.client_for("proxy.example"), proxy.endpoint)
    protocol = await SOCKS5ClientEndpoint("target.example", 443, way, LOGIN).connect(Factory.forProtocol(Recorder))
    assert proxy.conversations[0].credentials.password == b"word"
    protocol.abort()
    await protocol.until(lambda each: each.lost)


@pytest.mark.parametrize("host", ["target.example", "192.0.2.1", "2001:db8::1"])
async def test_tls_with_the_target(authority, host):
    site = TLSMemoryBIOFactory(authority.server_options(host), False, Factory.forProtocol(Recorder))
    proxy = FakeProxy(site)
    async with listening(proxy) as address:
        endpoint = SOCKS5ClientEndpoint(host, 443, way_to(address), tls=authority.client_for(host))
        addresses = []

        class Telling(Factory):
            protocol = Recorder

            def buildProtocol(self, addr):
                addresses.append(addr)
                return super().buildProtocol(addr)

        protocol = await endpoint.connect(Telling())
        assert isinstance(addresses[0], SOCKS5Address)
        protocol.write(b"hello")
        tunnel = proxy.conversations[0].tunnel.wrappedProtocol
        await tunnel.until(lambda end: end.received == b"hello")
        tunnel.write(b"answer")
        await protocol.until(lambda each: each.received == b"answer")
        assert protocol.transport.getPeerCertificate() is not None
        protocol.close()
        await protocol.until(lambda each: each.lost)
        assert protocol.lost.type is ConnectionDone


async def test_an_overridden_connect_is_called_once_with_tls_too(authority):
    connecting = []

    class Telling(SOCKS5ClientEndpoint):
        def connect(self, factory):
            connecting.append(factory)
            return super().connect(factory)

    site = TLSMemoryBIOFactory(authority.server_options("target.example"), False, Factory.forProtocol(Recorder))
    async with listening(FakeProxy(site)) as address:
        application = Factory.forProtocol(Recorder)
        tls = authority.client_for("target.example")
        protocol = await Telling("target.example", 443, way_to(address), tls=tls).connect(application)
        assert connecting == [application]
        protocol.close()
        await protocol.until(lambda each: each.lost)


async def test_tls_trusts_by_default_what_the_platform_trusts(authority):
    site = TLSMemoryBIOFactory(authority.server_options("target.example"), False, Factory.forProtocol(Recorder))
    async with listening(FakeProxy(site)) as address:
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), tls=True)
        protocol = await endpoint.connect(Factory.forProtocol(Recorder))
        protocol.write(b"secret")
        await protocol.until(lambda each: each.lost)
        assert "certificate" in str(protocol.lost.value)


async def test_tls_with_the_wrong_name_fails(authority):
    site = TLSMemoryBIOFactory(authority.server_options("other.example"), False, Factory.forProtocol(Recorder))
    proxy = FakeProxy(site)
    async with listening(proxy) as address:
        creator = authority.client_for("target.example")
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way_to(address), tls=creator)
        protocol = await endpoint.connect(Factory.forProtocol(Recorder))
        protocol.write(b"secret")
        await protocol.until(lambda each: each.lost)
        assert not protocol.lost.check(ConnectionDone)
        assert proxy.conversations[0].tunnel.wrappedProtocol.received == b""


async def test_tls_within_tls(authority):
    site = TLSMemoryBIOFactory(authority.server_options("target.example"), False, Factory.forProtocol(Recorder))
    proxy = FakeProxy(site)
    secured = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, proxy)
    async with listening(secured) as address:
        way = wrapClientTLS(authority.client_for("proxy.example"), way_to(address))
        creator = authority.client_for("target.example")
        endpoint = SOCKS5ClientEndpoint("target.example", 443, way, LOGIN, tls=creator)
        protocol = await endpoint.connect(Factory.forProtocol(Recorder))
        protocol.write(CONTENT)
        tunnel = proxy.conversations[0].tunnel.wrappedProtocol
        await tunnel.until(lambda end: end.received == CONTENT)
        tunnel.write(CONTENT[::-1])
        await protocol.until(lambda each: each.received == CONTENT[::-1])
        protocol.close()
        await protocol.until(lambda each: each.lost)
    assert protocol.lost.check(ConnectionDone)


async def test_a_failure_beneath_tls_is_told_as_without_it(authority):
    async with listening(FakeProxy(code=0xE0)) as address:
        endpoint = SOCKS5ClientEndpoint(
            "target.example", 443, way_to(address), tls=authority.client_for("target.example")
        )
        assert type(await failure_of(endpoint.connect(Counting()))) is OnionServiceNotFound
