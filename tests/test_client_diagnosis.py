"""What applications read about a connection through a proxy: errors that name what failed, and their own log prefix."""

import pytest
from examples.raw_peers import Names, ReactorWith, until
from support.attempts import attempt
from support.programs import free_port
from support.ways import WAYS, failure_of, listening
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    clientFromString,
    quoteStringArgument,
    wrapClientTLS,
)
from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError, NotConnectingError
from twisted.internet.interfaces import IConnector
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface.verify import verifyObject

from txsocksx_ext import SOCKS5ClientEndpoint, errors, resolve
from txsocksx_ext.testing import FakeProxy, Recorder


def through(way, **options):
    endpoint = SOCKS5ClientEndpoint("target.example", 443, way, **options)
    return endpoint.connect(Factory.forProtocol(Recorder))


# No method.

NO_METHOD = {
    "anonymous": ({"anonymous": ()}, "(0x00): it may want a user name and password"),
    "anonymous, with 0x97": ({"extended": {}, "anonymous": ()}, "(0x97, 0x00): it may want a user name and password"),
    "login": ({"login": ("user", "word")}, '(0x02): it may have no authentication: offer "anonymous" too'),
    "isolated": ({"isolated": "token"}, '(0x02): it may have no authentication: offer "anonymous" too'),
    "pairs": ({"extended": {"tor.isolation": "a"}}, "(0x97): it may not know method 0x97"),
    "all": ({"extended": {}, "login": ("user", "word"), "anonymous": ()}, "(0x97, 0x02, 0x00): it may want"),
}


@pytest.mark.parametrize(("methods", "told"), NO_METHOD.values(), ids=NO_METHOD)
def test_what_a_proxy_may_want_depends_on_what_it_was_offered(methods, told):
    error = attempt(FakeProxy(method=0xFF), methods).outcome
    assert type(error) is errors.NoAcceptableMethod
    assert told in str(error)
    assert ("may want a user name" in str(error)) is ("login" not in methods and "anonymous" in methods)


# A proxy that is not there.

PLACES = {
    "TCP4ClientEndpoint": (lambda port: TCP4ClientEndpoint(reactor, "127.0.0.1", port), "127.0.0.1:PORT"),
    "TCP6ClientEndpoint": (lambda port: TCP6ClientEndpoint(reactor, "::1", port), "[::1]:PORT"),
    "HostnameEndpoint": (lambda port: HostnameEndpoint(reactor, "localhost", port), "localhost:PORT"),
    "tcp:": (lambda port: clientFromString(reactor, f"tcp:127.0.0.1:{port}"), "127.0.0.1:PORT"),
    "tls:": (lambda port: clientFromString(reactor, f"tls:localhost:{port}"), "localhost:PORT"),
    "ssl:": (lambda port: clientFromString(reactor, f"ssl:127.0.0.1:{port}"), "127.0.0.1:PORT"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("way_to", "place"), PLACES.values(), ids=PLACES)
async def test_an_error_names_the_proxy_that_is_down(way_to, place):
    port = free_port()
    place = place.replace("PORT", str(port))
    for connecting in (through(way_to(port)), resolve("target.example", way_to(port))):
        error = await failure_of(connecting)
        assert isinstance(error, ConnectError)
        assert f"the proxy at {place} could not be reached (" in str(error)


async def test_an_error_still_says_what_twisted_says():
    error = await failure_of(through(TCP4ClientEndpoint(reactor, "127.0.0.1", free_port())))
    assert type(error) is errors.ProxyRefused
    assert isinstance(error, ConnectionRefusedError)
    assert str(error).endswith(
        " could not be reached (Connection was refused by other side: 111: Connection refused):"
        " check that it runs, and its address"
    )


async def test_an_error_names_the_socket_of_the_proxy_that_is_down(tmp_path):
    error = await failure_of(through(UNIXClientEndpoint(reactor, str(tmp_path / "socks"))))
    assert isinstance(error, ConnectError)
    assert f"the proxy at {tmp_path}/socks could not be reached" in str(error)


async def test_an_error_names_the_proxy_that_is_not_found():
    knows_no_name = ReactorWith(names=Names())
    error = await failure_of(through(HostnameEndpoint(knows_no_name, "proxy.invalid", 1080)))
    assert isinstance(error, DNSLookupError)
    assert "the proxy at proxy.invalid:1080 could not be reached" in str(error)


async def test_an_error_names_the_first_proxy_of_a_chain_and_no_secret():
    port = free_port()
    inner = f"socks5ext:second.example:1081:username=someone:password=hunter2:proxy=127.0.0.1\\:{port}"
    outer = f"socks5ext:target.example:443:username=someone:password=hunter2:proxy={quoteStringArgument(inner)}"
    error = await failure_of(clientFromString(reactor, outer).connect(Factory.forProtocol(Recorder)))
    assert str(error).count("the proxy at") == 1
    assert f"the proxy at 127.0.0.1:{port} could not be reached" in str(error)
    for hidden in ("second.example", "target.example", "someone", "hunter2"):
        assert hidden not in str(error)


async def test_an_endpoint_of_another_package_is_not_named():
    error = await failure_of(through(FakeProxy(failure=ConnectionRefusedError()).endpoint))
    assert str(error).startswith("the proxy could not be reached (Connection was refused by other side)")


# The transport that an application gets.


class Named(Recorder):
    def logPrefix(self):
        return "of the application"


async def compared(way, application, server, options=None):
    """The log prefixes of a connection through a proxy, and of one without."""
    prefixes = []
    for factory, is_proxied in ((FakeProxy(server), True), (server, False)):
        async with listening(factory) as address:
            endpoint = way(reactor, "127.0.0.1", address.port)
            if is_proxied:
                endpoint = SOCKS5ClientEndpoint("target.example", 443, endpoint, tls=options or False)
            elif options:
                endpoint = wrapClientTLS(options, endpoint)
            client = await endpoint.connect(Factory.forProtocol(application))
            transport = client.transport
            while hasattr(transport, "transport"):
                transport = transport.transport
            prefixes.append(transport.logPrefix())
            assert transport.logstr == transport.logPrefix()
            client.abort()
            await client.until(lambda end: end.lost)
    return prefixes


@pytest.mark.parametrize("application", [Recorder, Named])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_the_log_prefix_is_that_of_the_application(way, application):
    proxied, direct = await compared(way, application, Factory.forProtocol(Recorder))
    assert proxied == direct
    assert proxied == ("Recorder,client" if application is Recorder else "of the application,client")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_the_log_prefix_with_tls_is_that_of_the_application(way, authority):
    server = TLSMemoryBIOFactory(authority.server_options("target.example"), False, Factory.forProtocol(Recorder))
    proxied, direct = await compared(way, Recorder, server, authority.client_for("target.example"))
    assert proxied == direct
    assert "Recorder" in proxied


async def test_the_log_prefix_behind_a_proxy_with_tls_is_that_of_the_application(authority):
    secured = TLSMemoryBIOFactory(authority.server_options("proxy.example"), False, FakeProxy())
    async with listening(secured) as address:
        way = wrapClientTLS(
            authority.client_for("proxy.example"), TCP4ClientEndpoint(reactor, "127.0.0.1", address.port)
        )
        client = await through(way)
        assert "SOCKS5" not in client.transport.transport.logPrefix()
        assert client.transport.transport.logPrefix().startswith("Recorder")
        client.close()
        await client.until(lambda end: end.lost)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_the_connector_of_a_connection(way):
    proxy = FakeProxy()
    async with listening(proxy) as address:
        client = await through(way(reactor, "127.0.0.1", address.port))
        connector = client.transport.connector
        assert verifyObject(IConnector, connector)
        assert connector.getDestination() == IPv4Address("TCP", "127.0.0.1", address.port)
        with pytest.raises(NotConnectingError):
            connector.stopConnecting()
        with pytest.raises(RuntimeError):
            connector.connect()
        connector.disconnect()
        await client.until(lambda end: end.lost)
        far = proxy.conversations[0].tunnel
        await until(lambda: far.lost)
