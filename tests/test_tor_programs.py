"""`txsocksx_ext.tor`, with a control connection and a SOCKS port in memory. ``real/test_tor_programs.py`` has a tor."""

import inspect
from contextlib import nullcontext

import pytest
import txtorcon
from support.programs import free_port
from support.tor_programs import ONION, FakeControl, FakeTor, connected, end
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError
from txtorcon import socks as txtorcon_socks
from txtorcon.torcontrolprotocol import TorDisconnectError

from txsocksx_ext import errors
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.testing import FakeProxy
from txsocksx_ext.tor import (
    SHARED,
    resolve,
    resolve_ptr,
    stream_via,
    teach_txtorcon,
    web_agent,
)
from txsocksx_ext.tor import streams as streams_module


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
    with pytest.raises(ValueError, match="timeout must be seconds above 0"):
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

    async def test_the_next_where_the_first_cannot_be_reached(self, proxy, listen, tmp_path):
        gone = f'"unix:{tmp_path}/gone" "127.0.0.1:{free_port()}"'
        control = FakeControl(f"{gone} {listen()} {listen(tmp_path / 'socks')}")
        endpoint = stream_via(FakeTor(control), "example.com", 80)
        await end(await connected(endpoint), await connected(endpoint))
        assert [each.destination for each in proxy.requests] == [Address.of("example.com", 80)] * 2
        assert control.asked_for == ["net/listeners/socks"]

    async def test_none_that_can_be_reached(self, tmp_path):
        control = FakeControl(f'"unix:{tmp_path}/gone" "127.0.0.1:{free_port()}"')
        with pytest.raises(ConnectError):
            await connected(stream_via(FakeTor(control), "example.com", 80))

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
        """As from any endpoint, it is Twisted's error too."""
        for error in (ConnectionRefusedError, DNSLookupError):
            proxy = FakeProxy(failure=error("no tor"))
            with pytest.raises(error, match=r"the proxy could not be reached \(.*no tor"):
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
