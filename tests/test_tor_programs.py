"""`txsocksx_ext.tor`, with a control connection and a SOCKS port in memory. ``real/test_tor_programs.py`` has a tor."""

import base64
import inspect
from collections import defaultdict
from contextlib import nullcontext

import pytest
import treq
import txtorcon
from support.certificates import Authority
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError, DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.error import SchemeNotSupported
from twisted.web.iweb import IPolicyForHTTPS
from txtorcon import socks as txtorcon_socks
from txtorcon.torcontrolprotocol import TorDisconnectError
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txsocksx_ext import errors
from txsocksx_ext.handshake import State
from txsocksx_ext.testing import Ending, FakeProxy, Recorder
from txsocksx_ext.testing.connections import CLIENT_ADDRESS
from txsocksx_ext.tor import (
    SHARED,
    add_client_authorization,
    remove_client_authorization,
    resolve,
    resolve_ptr,
    stream_via,
    teach_txtorcon,
    web_agent,
)
from txsocksx_ext.tor import streams as streams_module
from txsocksx_ext.tor.streams import StreamsOfTor
from txsocksx_ext.wire.codes import Method
from txsocksx_ext.wire.messages import Address

SERVICE = "oufiwc7giqrrjlb5zhg7vr3jtqxgbwns5ner577ncb6jxnhh2kvr7kqd"
ONION = f"{SERVICE}.onion"
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\na page"


class FakeControl:
    """
    What is used of a txtorcon control protocol. As there, a command after its end is never answered.

    :param listeners: what it says of the SOCKS ports, as tor writes it.
    :ivar commands: those that were queued, and not by its own methods.
    """

    def __init__(self, listeners=""):
        self.socks_listeners = listeners
        self.asked_for = []
        self.commands = []
        self.answer = "OK"
        self.refuses_events = False
        self._listeners = defaultdict(list)
        self._gone = []
        self._is_gone = False

    def get_info(self, key):
        self.asked_for.append(key)
        if self._is_gone:
            return Deferred()
        known = {
            "net/listeners/socks": self.socks_listeners,
            "status/bootstrap-phase": "NOTICE BOOTSTRAP PROGRESS=100 TAG=done",
        }
        return succeed({key: known[key]})

    def add_event_listener(self, name, act):
        if self.refuses_events:
            return fail(txtorcon.TorProtocolError(552, "Unrecognized event"))
        self._listeners[name].append(act)
        return succeed(None)

    def queue_command(self, command):
        self.commands.append(command)
        return Deferred() if self._is_gone else succeed(self.answer)

    def when_disconnected(self):
        gone = Deferred()
        self._gone.append(gone)
        if self._is_gone:
            self.disconnect()
        return gone

    def disconnect(self):
        self._is_gone = True
        gone, self._gone = self._gone, []
        for each in gone:
            each.errback(RuntimeError("Tor connection terminated"))

    @property
    def listening(self):
        return {name: len(acts) for name, acts in self._listeners.items()}

    def show(self, name, line):
        for act in self._listeners[name]:
            act(line)


class FakeTor:
    """What is used of a `txtorcon.Tor`; ``protocol`` is None where nobody controls it."""

    def __init__(self, protocol=None):
        self.protocol = protocol


@pytest.fixture
def controlled():
    tor = FakeTor(FakeControl())
    yield tor
    tor.protocol.disconnect()
    assert streams_module._events == {}


async def connected(endpoint):
    return await endpoint.connect(Factory.forProtocol(Recorder))


async def end(*clients):
    for each in clients:
        each.close()
        await each.until(lambda it: it.lost)


def named(parameters, *, skip):
    """The parameters after the first, as callers see them."""
    return [(each.name, each.default) for each in list(parameters.values())[skip:]]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (stream_via, txtorcon.Tor.stream_via),
        (web_agent, txtorcon.Tor.web_agent),
        (resolve, txtorcon.Tor.dns_resolve),
        (resolve_ptr, txtorcon.Tor.dns_resolve_ptr),
    ],
)
def test_the_signature_is_that_of_txtorcon(ours, theirs):
    """Any call of the method is one of the function, with the object as its first argument."""
    parameters = inspect.signature(ours).parameters
    positional = {name: each for name, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD}
    added = [each for name, each in parameters.items() if name not in positional]
    assert named(positional, skip=1) == named(inspect.signature(theirs).parameters, skip=1)
    # txtorcon's look-ups take no SOCKS port, and so need a control connection.
    assert {each.name for each in added} - {"socks_endpoint"} == {"isolation", "timeout", "allow_cleartext"}
    assert "socks_endpoint" in parameters
    assert all(each.kind is each.KEYWORD_ONLY and each.default is not each.empty for each in added)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), "5"])
@pytest.mark.parametrize(
    "function",
    [
        lambda **options: stream_via(FakeTor(), "example.com", 80, **options),
        lambda **options: web_agent(FakeTor(), **options),
        lambda **options: resolve(FakeTor(), "example.com", **options),
        lambda **options: resolve_ptr(FakeTor(), "192.0.2.1", **options),
    ],
    ids=["stream_via", "web_agent", "resolve", "resolve_ptr"],
)
def test_a_timeout_that_is_none_is_refused(function, timeout):
    with pytest.raises(ValueError, match="timeout is seconds above 0"):
        function(timeout=timeout)


class TestSOCKSPort:
    async def connects(self, tor, socks_endpoint=None):
        client = await connected(stream_via(tor, "example.com", 80, socks_endpoint=socks_endpoint))
        await end(client)

    @pytest.fixture
    def proxy(self):
        return FakeProxy()

    @pytest.fixture
    def listen(self, proxy):
        """Have the proxy listen on tcp or unix, and say what tor would say of it."""
        import pytest_twisted
        from twisted.internet import reactor

        ports = []

        def listen(path=None):
            if path is not None:
                ports.append(reactor.listenUNIX(str(path), proxy))
                return f'"unix:{path}"'
            ports.append(reactor.listenTCP(0, proxy, interface="127.0.0.1"))
            return f'"127.0.0.1:{ports[-1].getHost().port}"'

        yield listen
        for each in ports:
            pytest_twisted.blockon(each.stopListening())

    @pytest.mark.parametrize("kind", ["tcp", "unix"])
    async def test_the_first_that_tor_listens_on(self, proxy, listen, tmp_path, kind):
        first = listen() if kind == "tcp" else listen(tmp_path / "socks")
        control = FakeControl(f'{first} "127.0.0.1:1"')
        endpoint = stream_via(FakeTor(control), "example.com", 80)
        await end(await connected(endpoint), await connected(endpoint))
        assert [each.destination for each in proxy.requests] == [Address.of("example.com", 80)] * 2
        assert control.asked_for == ["net/listeners/socks"]

    @pytest.mark.parametrize("everywhere", ["0.0.0.0", "[::]"])
    async def test_one_that_listens_everywhere_is_reached_on_this_machine(self, proxy, everywhere):
        from twisted.internet import reactor

        port = reactor.listenTCP(0, proxy, interface=everywhere.strip("[]").replace("0.0.0.0", "127.0.0.1"))
        control = FakeControl(f'"{everywhere}:{port.getHost().port}"')
        await self.connects(FakeTor(control))
        await port.stopListening()
        assert proxy.conversations[0].credentials is not None

    async def test_one_elsewhere_gets_a_token_where_that_is_allowed(self):
        proxy = FakeProxy(bound=Address.of("192.0.2.7", 0), address=IPv4Address("TCP", "192.0.2.1", 9050))
        for allow, refusal in ((False, pytest.raises(errors.CleartextRefused)), (True, nullcontext())):
            options = {"socks_endpoint": proxy.endpoint, "allow_cleartext": allow}
            with refusal:
                await end(await connected(stream_via(FakeTor(), "example.com", 80, **options)))
            with refusal:
                assert await resolve(FakeTor(), "example.com", **options) == "192.0.2.7"
            with refusal:
                assert await resolve_ptr(FakeTor(), "192.0.2.1", **options) == "192.0.2.7"

    async def test_none(self):
        with pytest.raises(errors.ProxyUnreachable, match="listens on no SOCKS port"):
            await self.connects(FakeTor(FakeControl("")))

    async def test_nobody_can_be_asked(self):
        for looking in (resolve(FakeTor(), "example.com"), resolve_ptr(FakeTor(), "192.0.2.1")):
            with pytest.raises(errors.ProxyUnreachable, match="give socks_endpoint"):
                await looking
        with pytest.raises(errors.ProxyUnreachable, match="give socks_endpoint"):
            await self.connects(FakeTor())

    async def test_a_control_connection_that_is_lost(self):
        control = FakeControl()
        control.get_info = lambda key: fail(TorDisconnectError("gone", ConnectionRefusedError()))
        with pytest.raises(errors.ProxyUnreachable, match="give socks_endpoint"):
            await resolve(FakeTor(control), "example.com")
        with pytest.raises(errors.ProxyUnreachable, match="give socks_endpoint"):
            await self.connects(FakeTor(control))

    async def test_a_control_connection_that_was_lost_before(self):
        control = FakeControl('"127.0.0.1:9050"')
        control.disconnect()
        for asking in (
            resolve(FakeTor(control), "example.com", timeout=5),
            connected(stream_via(FakeTor(control), "example.com", 80, timeout=5)),
            connected(stream_via(FakeTor(control), ONION, 80, timeout=5)),
        ):
            with pytest.raises(errors.ProxyUnreachable, match="give socks_endpoint"):
                await asking
        assert control.asked_for == []

    @pytest.mark.parametrize("is_late", [False, True])
    async def test_given_for_look_ups(self, proxy, is_late):
        proxy.bound = Address.of("192.0.2.7", 0)
        for function, argument in ((resolve, "example.com"), (resolve_ptr, "192.0.2.1")):
            given = succeed(proxy.endpoint) if is_late else proxy.endpoint
            assert await function(FakeTor(), argument, socks_endpoint=given) == "192.0.2.7"

    async def test_given_late_for_several(self, proxy):
        found = Deferred()
        endpoints = [stream_via(FakeTor(), "example.com", 80, socks_endpoint=found) for _ in range(2)]
        connecting = [Deferred.fromCoroutine(connected(each)) for each in (*endpoints, endpoints[0])]
        found.callback(proxy.endpoint)
        await end(*[await each for each in connecting])
        # Nor is it used up.
        await end(await connected(endpoints[0]))
        assert await found is proxy.endpoint

    async def test_given_late_and_failed(self):
        found = Deferred()
        endpoint = stream_via(FakeTor(), "example.com", 80, socks_endpoint=found)
        found.errback(LookupError("none"))
        # Whoever connects has the failure, and so the log has nothing.
        for _ in range(2):
            with pytest.raises(LookupError, match="none"):
                await connected(endpoint)

    async def test_not_reached(self):
        """As from any endpoint, it is Twisted's own error."""
        for error in (ConnectionRefusedError, DNSLookupError):
            proxy = FakeProxy(failure=error("no tor"))
            with pytest.raises(error, match="no tor"):
                await self.connects(FakeTor(), proxy.endpoint)

    async def test_what_an_endpoint_says_of_itself_is_told_whatever_it_tried_before(self):
        class Stubborn:
            def connect(self, factory):
                try:
                    raise ConnectionRefusedError("a first try")
                except ConnectionRefusedError:
                    return fail(self.own_words())

            def own_words(self):
                try:
                    raise errors.ProxyUnreachable("both failed")
                except errors.ProxyUnreachable as error:
                    return error

        with pytest.raises(errors.ProxyUnreachable, match="both failed"):
            await self.connects(FakeTor(), Stubborn())


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
        with pytest.raises(errors.HandshakeTimeout):
            await connected(stream_via(FakeTor(), "example.com", 80, socks_endpoint=silent.endpoint, timeout=0.1))
        with pytest.raises(errors.OnionServiceNotReachable) as raised:
            await connected(stream_via(FakeTor(), ONION, 80, socks_endpoint=silent.endpoint, timeout=0.1))
        assert raised.value.code is None
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


class TestIsolation:
    @pytest.fixture
    def proxy(self):
        return FakeProxy()

    async def tokens(self, proxy, *made):
        """What tor was told for each connection."""
        await end(*[await connected(each) for each in made])
        return [each.credentials for each in proxy.conversations]

    async def test_each_endpoint_has_its_own(self, proxy):
        one, other = (stream_via(FakeTor(), "example.com", 80, socks_endpoint=proxy.endpoint) for _ in range(2))
        first, second, third = await self.tokens(proxy, one, other, one)
        assert first.username == second.username == b"<torS0X>0"
        assert first.password != second.password
        assert third == first

    @pytest.mark.parametrize(("given", "sent"), [("a token", b"a token"), (b"\x00\xff", b"\x00\xff")])
    async def test_given(self, proxy, given, sent):
        made = stream_via(FakeTor(), "example.com", 80, socks_endpoint=proxy.endpoint, isolation=given)
        (token,) = await self.tokens(proxy, made)
        assert token.password == sent

    async def test_shared(self, proxy):
        made = stream_via(FakeTor(), "example.com", 80, socks_endpoint=proxy.endpoint, isolation=SHARED)
        assert await self.tokens(proxy, made) == [None]
        assert proxy.conversations[0].greeting.methods == (Method.NO_AUTHENTICATION,)

    @pytest.mark.parametrize("look_up", [(resolve, "example.com"), (resolve_ptr, "192.0.2.1")])
    async def test_look_ups(self, proxy, look_up, monkeypatch):
        """Each has its own; none where it is shared."""
        function, argument = look_up
        proxy.bound = Address.of("192.0.2.7", 0)
        monkeypatch.setattr(streams_module, "clientFromString", lambda reactor, description: proxy.endpoint)
        tor = FakeTor(FakeControl('"127.0.0.1:9050"'))
        for options in ({}, {}, {"isolation": SHARED}):
            assert await function(tor, argument, **options) == "192.0.2.7"
        first, second, third = (each.credentials for each in proxy.conversations)
        assert first.password != second.password
        assert third is None


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
            (b"https://a_b.example/", "a_b"),
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
        assert controlled.protocol.commands == [f"ONION_CLIENT_AUTH_VIEW {SERVICE}"] * 2

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


class RefusingControl:
    def queue_command(self, command):
        raise AssertionError(f"tor was told {command}")


class TestClientAuthorization:
    KEY = bytes(range(32))
    AS_BASE64 = base64.b64encode(KEY).decode()

    @pytest.mark.parametrize(
        "given",
        [
            KEY,
            AS_BASE64,
            AS_BASE64.encode(),
            AS_BASE64.rstrip("="),
            base64.b32encode(KEY).decode(),
            base64.b32encode(KEY).decode().rstrip("=").lower(),
            f" {AS_BASE64}\n",
        ],
        ids=["bytes", "base64", "base64 bytes", "unpadded", "base32", "lower base32", "with space"],
    )
    @pytest.mark.parametrize("address", [ONION, SERVICE, ONION.upper()])
    async def test_key_and_address(self, controlled, given, address):
        await add_client_authorization(controlled, address, given)
        assert controlled.protocol.commands == [f"ONION_CLIENT_AUTH_ADD {SERVICE} x25519:{self.AS_BASE64}"]

    async def test_name_and_permanent(self, controlled):
        await add_client_authorization(controlled, ONION, self.KEY, name="me", permanent=True)
        (command,) = controlled.protocol.commands
        assert command.endswith(" ClientName=me Flags=Permanent")

    @pytest.mark.parametrize("key", [b"", b"short", "x" * 42, KEY + b"\x00", "ключ", AS_BASE64 + "AAAA"])
    async def test_no_key(self, key):
        with pytest.raises(ValueError, match="private key") as raised:
            await add_client_authorization(FakeTor(RefusingControl()), ONION, key)
        assert not key or str(key) not in str(raised.value)

    @pytest.mark.parametrize("name", ["", "two words", "x" * 17, "line\r\nQUIT"])
    async def test_no_name(self, name):
        with pytest.raises(ValueError, match="name of a key"):
            await add_client_authorization(FakeTor(RefusingControl()), ONION, self.KEY, name=name)

    @pytest.mark.parametrize("address", ["", "example.com", SERVICE[1:], f"www.{ONION}", f"{SERVICE}\r\nQUIT"])
    async def test_no_address(self, address):
        for change in (
            add_client_authorization(FakeTor(RefusingControl()), address, self.KEY),
            remove_client_authorization(FakeTor(RefusingControl()), address),
        ):
            with pytest.raises(ValueError, match="onion service"):
                await change

    async def test_the_control_connection_was_lost(self):
        control = FakeControl()
        control.disconnect()
        for change in (
            add_client_authorization(FakeTor(control), ONION, self.KEY),
            remove_client_authorization(FakeTor(control), ONION),
        ):
            with pytest.raises(TorDisconnectError, match="lost"):
                await change
        assert control.commands == []

    async def test_remove(self, controlled):
        await remove_client_authorization(controlled, ONION)
        assert controlled.protocol.commands == [f"ONION_CLIENT_AUTH_REMOVE {SERVICE}"]


class TestTeachingTxtorcon:
    def kind(self, code):
        return type(txtorcon_socks._create_socks_error(code))

    def test_taught_and_undone(self):
        before = self.kind(0x05), self.kind(0xF0)
        undo = teach_txtorcon()
        try:
            assert self.kind(0x05) is errors.ConnectionRefused
            assert self.kind(0xF0) is errors.OnionDescriptorNotFound
            assert self.kind(0xE1) is errors.OnionServiceNotReachable
            unknown = txtorcon_socks._create_socks_error(0x42)
            assert (type(unknown), unknown.code) == (errors.UnknownReply, 0x42)
        finally:
            undo()
        assert (self.kind(0x05), self.kind(0xF0)) == before

    def test_undone_twice_and_taught_twice(self):
        before = txtorcon_socks._create_socks_error
        first, second = teach_txtorcon(), teach_txtorcon()
        first()
        # Who taught it second still wants it.
        assert self.kind(0xF0) is errors.OnionDescriptorNotFound
        second()
        second()
        assert txtorcon_socks._create_socks_error is before
