"""Streams and agents of `txsocksx_ext.tor`, and what tor's events say of them. All is in memory."""

import pytest
import treq
from support.certificates import Authority
from support.tor_programs import ONION, PAGE, SERVICE, FakeTor, connected, controlled_tor, end
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txsocksx_ext import errors
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.testing import Ending, FakeProxy, Recorder
from txsocksx_ext.testing.connections import CLIENT_ADDRESS
from txsocksx_ext.tor import (
    stream_via,
    web_agent,
)
from txsocksx_ext.tor import streams as streams_module
from txsocksx_ext.tor.streams import StreamsOfTor


@pytest.fixture
def controlled():
    with controlled_tor() as tor:
        yield tor


class TestStreams:
    @pytest.fixture
    def proxy(self):
        return FakeProxy()

    @pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "::1", "[fe80::1]", "0.0.0.0", "::ffff:127.0.0.1"])
    def test_private_addresses_are_refused(self, proxy, host):
        with pytest.raises(ValueError, match="private"):
            stream_via(FakeTor(), host, 80, socks_endpoint=proxy.endpoint)

    @pytest.mark.parametrize("host", ["a" * 256, "", "a b"])
    def test_what_cannot_be_sent_is_refused(self, proxy, host):
        with pytest.raises(ValueError, match="host name"):
            stream_via(FakeTor(), host, 80, socks_endpoint=proxy.endpoint)

    def test_it_is_an_endpoint_and_shows_no_name(self, proxy):
        endpoint = stream_via(FakeTor(), "secret.example", 80, socks_endpoint=proxy.endpoint)
        assert verifyObject(IStreamClientEndpoint, endpoint)
        assert "secret" not in repr(endpoint)

    def test_its_parts_show_no_token(self, proxy):
        assert "hunter2" not in repr(StreamsOfTor(FakeTor(), proxy.endpoint, b"hunter2", None))

    async def test_what_the_reply_says(self, proxy):
        for code, error in [
            (0xF2, errors.OnionIntroductionFailed),
            (0x05, errors.ConnectionRefused),
        ]:
            proxy.code = code
            with pytest.raises(error) as raised:
                await connected(stream_via(FakeTor(), ONION, 80, socks_endpoint=proxy.endpoint))
            assert raised.value.code == code

    async def test_deadline(self):
        silent = FakeProxy(stop_at=State.REPLY, ending=Ending.SILENCE)
        for host in ("example.com", ONION):
            with pytest.raises(errors.HandshakeTimeout):
                await connected(stream_via(FakeTor(), host, 80, socks_endpoint=silent.endpoint, timeout=0.1))
        assert silent.endpoint.connecting == []

    @pytest.mark.parametrize("options", [{"hangs": True}, {"stop_at": State.SELECTION, "ending": Ending.SILENCE}])
    async def test_nothing_is_said_of_a_service_that_tor_was_not_asked_for(self, controlled, options):
        """A tor that is stopped, say."""
        silent = FakeProxy(**options)
        for tor in (FakeTor(), controlled):
            with pytest.raises(errors.HandshakeTimeout):
                await connected(stream_via(tor, ONION, 80, socks_endpoint=silent.endpoint, timeout=0.1))
        assert silent.endpoint.connecting == []

    async def test_cancelled(self):
        from twisted.internet import reactor

        silent = FakeProxy(hangs=True)
        endpoint = stream_via(FakeTor(), "example.com", 80, socks_endpoint=silent.endpoint)
        connecting = Deferred.fromCoroutine(connected(endpoint))
        await deferLater(reactor, 0)
        assert silent.endpoint.connecting
        connecting.cancel()
        with pytest.raises(CancelledError):
            await connecting
        assert silent.endpoint.connecting == []

    async def test_tls(self):
        authority = Authority()
        proxy = FakeProxy(
            TLSMemoryBIOFactory(authority.server_options("example.com"), False, Factory.forProtocol(Recorder))
        )
        tls = authority.client_for("example.com")
        client = await connected(stream_via(FakeTor(), "example.com", 443, tls, proxy.endpoint))
        client.write(b"hello")
        server = proxy.conversations[0].tunnel.wrappedProtocol
        await server.until(lambda it: it.received == b"hello")
        await end(client)
        await server.until(lambda it: it.lost)


class TestEvents:
    """What tor's port does not say, the control connection shows."""

    @pytest.fixture
    def proxy(self):
        return FakeProxy(code=0x04)

    def show_missing(self, control, number=1, port=CLIENT_ADDRESS.port):
        control.show("STREAM", f"{number} NEW 0 {ONION}:80 SOURCE_ADDR=127.0.0.1:{port} PURPOSE=USER")
        control.show("HS_DESC", f"FAILED {SERVICE} NO_AUTH $F key REASON=NOT_FOUND")
        control.show("STREAM", f"{number} FAILED 0 {ONION}:80 REASON=RESOLVEFAILED")
        control.show("STREAM", f"{number} CLOSED 0 {ONION}:80 REASON=RESOLVEFAILED")

    async def error_of(self, tor, proxy, host=ONION, show=None):
        from twisted.internet import reactor

        asked = len(proxy.requests)
        connecting = Deferred.fromCoroutine(connected(stream_via(tor, host, 80, socks_endpoint=proxy.endpoint)))
        while len(proxy.requests) == asked:
            await deferLater(reactor, 0)
        if show is not None:
            show(tor.protocol)
        with pytest.raises(errors.SOCKS5Error) as raised:
            await connecting
        return type(raised.value)

    async def test_they_decide(self, controlled, proxy):
        for _ in range(2):
            assert await self.error_of(controlled, proxy, show=self.show_missing) is errors.OnionDescriptorNotFound
        assert controlled.protocol.listening == {"STREAM": 1, "HS_DESC": 1, "STATUS_CLIENT": 1}

    async def test_they_are_not_asked_for_where_they_tell_nothing(self, controlled, proxy):
        assert await self.error_of(controlled, proxy, "example.com") is errors.HostUnreachable
        assert controlled.protocol.listening == {}

    async def test_a_wrong_key(self, controlled, proxy):
        def show(control):
            control.show("STREAM", f"1 NEW 0 {ONION}:80 SOURCE_ADDR=127.0.0.1:{CLIENT_ADDRESS.port} PURPOSE=USER")
            control.show("HS_DESC", f"RECEIVED {SERVICE} NO_AUTH $F key")
            control.show("STREAM", f"1 FAILED 0 {ONION}:80 REASON=MISC")
            control.show("STREAM", f"1 CLOSED 0 {ONION}:80 REASON=MISC")

        proxy.code = 0x01
        assert await self.error_of(controlled, proxy, show=show) is errors.OnionClientAuthRequired
        controlled.protocol.answer = f"ONION_CLIENT_AUTH_VIEW\nCLIENT {SERVICE} x25519:key"
        assert await self.error_of(controlled, proxy, show=show) is errors.OnionClientAuthWrong
        assert controlled.protocol.commands[-2:] == [f"ONION_CLIENT_AUTH_VIEW {SERVICE}"] * 2

    async def test_tor_refuses_to_show_them(self, controlled, proxy):
        controlled.protocol.refuses_events = True
        assert await self.error_of(controlled, proxy) is errors.HostUnreachable

    async def test_the_control_connection_is_lost(self, controlled, proxy):
        assert await self.error_of(controlled, proxy, show=self.show_missing) is errors.OnionDescriptorNotFound
        controlled.protocol.disconnect()
        assert await self.error_of(controlled, proxy) is errors.HostUnreachable
        assert controlled not in streams_module._events

    async def test_the_control_connection_is_lost_while_we_wait_for_it(self, controlled, proxy):
        begun = Deferred()
        controlled.protocol.add_event_listener = lambda name, act: begun
        connecting = Deferred.fromCoroutine(connected(stream_via(controlled, ONION, 80, socks_endpoint=proxy.endpoint)))
        controlled.protocol.disconnect()
        with pytest.raises(errors.HostUnreachable):
            await connecting


class TestWebAgent:
    @pytest.fixture
    def proxy(self):
        return FakeProxy()

    async def page(self, agent, url, proxy, server_of=lambda tunnel: tunnel):
        from twisted.internet import reactor

        asked = len(proxy.requests)
        fetching = treq.get(url, agent=agent, persistent=False).addCallback(treq.content)
        while len(proxy.requests) == asked:
            await deferLater(reactor, 0)
        server = server_of(proxy.conversations[-1].tunnel)
        await server.until(lambda it: it.received.endswith(b"\r\n\r\n"))
        server.write(PAGE)
        page = await fetching
        server.close()
        await server.until(lambda it: it.lost)
        return page

    async def test_http(self, proxy):
        agent = web_agent(FakeTor(), socks_endpoint=proxy.endpoint)
        for _ in range(2):
            assert await self.page(agent, f"http://{ONION}/", proxy) == b"a page"
        assert await self.page(web_agent(FakeTor(), None, proxy.endpoint), f"http://{ONION}/", proxy) == b"a page"
        assert {each.destination for each in proxy.requests} == {Address.of(ONION, 80)}
        first, second, third = (each.credentials.password for each in proxy.conversations)
        assert first == second != third

    async def test_https(self):
        authority = Authority()

        @implementer(IPolicyForHTTPS)
        class Policy:
            def creatorForNetloc(self, hostname, port):
                assert (hostname, port) == (b"example.com", 443)
                return authority.client_for("example.com")

        proxy = FakeProxy(
            TLSMemoryBIOFactory(authority.server_options("example.com"), False, Factory.forProtocol(Recorder))
        )
        agent = web_agent(FakeTor(), None, proxy.endpoint, Policy())
        page = await self.page(agent, "https://example.com/", proxy, lambda tunnel: tunnel.wrappedProtocol)
        assert page == b"a page"

    async def test_another_scheme(self, proxy):
        agent = web_agent(FakeTor(), socks_endpoint=proxy.endpoint)
        with pytest.raises(SchemeNotSupported):
            await agent.request(b"GET", b"ftp://example.com/")

    @pytest.mark.parametrize(
        ("url", "told"),
        [
            (b"http://a@example.com/", "holds no @"),
            (b"https://a@example.com/", "holds no @"),
            (b"https://a!b.example/", "a!b"),
        ],
    )
    async def test_a_host_that_socks5_or_tls_cannot_carry(self, proxy, url, told):
        requesting = web_agent(FakeTor(), socks_endpoint=proxy.endpoint).request(b"GET", url)
        with pytest.raises(ValueError, match=told):
            await requesting

    async def test_why_a_page_was_not_reached(self, proxy):
        proxy.code = 0xF0
        with pytest.raises(errors.OnionDescriptorNotFound):
            await treq.get(f"http://{ONION}/", agent=web_agent(FakeTor(), socks_endpoint=proxy.endpoint))
