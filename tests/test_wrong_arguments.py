"""Arguments of wrong types and values are refused where they are passed, in one line that names the argument."""

import math

import pytest
from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from txsocksx_ext import (
    Limits,
    ReconnectingClientService,
    RetryingEndpoint,
    RouteTable,
    SOCKS5AgentEndpointFactory,
    SOCKS5ClientEndpoint,
    SOCKS5ExtClientFactory,
    SOCKS5ExtFactory,
    TransportRoute,
    open_transport,
    pt,
    resolve,
    resolve_ptr,
    route_from_string,
    tor,
    web_agent,
)
from txsocksx_ext.client.methods import ClientMethods
from txsocksx_ext.protocol.codes import Command
from txsocksx_ext.protocol.messages import Address, Request
from txsocksx_ext.protocol.pairs import PairLimits, Pairs
from txsocksx_ext.protocol.socks5 import State
from txsocksx_ext.server.auth import portal_for
from txsocksx_ext.server.service import SOCKS5ExtService
from txsocksx_ext.testing import (
    FakeProxy,
    FakeRoute,
    MemoryEndpoint,
    Recorder,
    connect_in_memory,
    connect_to,
    connect_transports,
)

PROXY = MemoryEndpoint(Factory())
ROUTE = FakeRoute()
REQUEST = Request(Command.CONNECT, Address.of("example.com", 80))
ANONYMOUS = ClientMethods.of({"anonymous": ()})
NO_ENDPOINT = "must be a client endpoint, not str: clientFromString() makes one of an endpoint string"
NO_PROXY = NO_ENDPOINT.replace("str", "bytes", 1)
NO_ROUTE = "must provide IRoute, not str: route_from_string() makes one of a description"


class Tor:
    """What a `txtorcon.Tor` is taken for."""

    protocol = None


class Plain(pt.TransportProtocol):
    """A transport's."""


class Slow(pt.TransportProtocol):
    """One whose time is no number."""

    handshake_timeout = "45"


def endpoint(host="example.com", port=80, proxy_endpoint=PROXY, **options):
    return SOCKS5ClientEndpoint(host, port, proxy_endpoint, **options)


def methods(**given):
    return lambda: endpoint(methods=given)


def client_factory(request=REQUEST, methods=ANONYMOUS, **options):
    return SOCKS5ExtClientFactory(request, methods, **options)


def server(**options):
    return SOCKS5ExtFactory(Clock(), **options)


def side(name="plain", is_client=True, state_location=None, **options):
    return pt.Side(Clock(), name, is_client, state_location=state_location, **options)


def in_memory(**options):
    return connect_in_memory(Recorder(), Recorder(), clock=Clock(), **options)


def transports(client=Plain, server=Plain, **options):
    return connect_transports(client, server, **{"clock": Clock(), **options})


def set_on(fake, name, value):
    return lambda: setattr(fake(), name, value)


CLIENT = [
    (lambda: endpoint(reactor), f"host must be str or bytes, not {type(reactor).__name__}"),
    (lambda: endpoint(None), "host must be str or bytes, not NoneType"),
    (lambda: endpoint(str), "host must be str or bytes, not the class str"),
    (lambda: resolve(PROXY, "example.com"), "host must be str or bytes, not MemoryEndpoint"),
    (lambda: resolve_ptr(7, PROXY), "address must be str or bytes, not int"),
    (lambda: endpoint(port="80"), "port must be an integer from 0 to 65535, not '80'"),
    (lambda: endpoint(port=True), "port must be an integer from 0 to 65535, not True"),
    (lambda: endpoint(port=65536), "port must be an integer from 0 to 65535, not 65536"),
    (lambda: endpoint(proxy_endpoint=b"tcp:127.0.0.1:1080"), f"proxy_endpoint {NO_PROXY}"),
    (
        lambda: endpoint(proxy_endpoint=MemoryEndpoint),
        "proxy_endpoint must be a client endpoint, not the class MemoryE",
    ),
    (lambda: resolve("example.com", b"tcp:127.0.0.1:1080"), f"proxy_endpoint {NO_PROXY}"),
    (lambda: resolve_ptr("192.0.2.1", b"tcp:127.0.0.1:1080"), f"proxy_endpoint {NO_PROXY}"),
    (lambda: web_agent(Clock(), b"tcp:127.0.0.1:1080"), f"proxy_endpoint {NO_PROXY}"),
    (lambda: web_agent(PROXY, Clock()), "proxy_endpoint must be a client endpoint, not Clock"),
    (lambda: endpoint(timeout="60"), "timeout must be seconds above 0, or None, not '60'"),
    (lambda: endpoint(timeout=True), "timeout must be seconds above 0, or None, not True"),
    (lambda: endpoint(timeout=0), "timeout must be seconds above 0, or None, not 0"),
    (lambda: endpoint(dialect="tot"), "dialect must be one of auto, plain, prop229, tor, not 'tot'"),
    (lambda: endpoint(dialect=None), "dialect must be one of auto, plain, prop229, tor, not None"),
    (
        lambda: endpoint(tls="yes"),
        "tls must be True, False or what optionsForClientTLS(host, trustRoot=...) makes, not s",
    ),
    (lambda: endpoint(allow_cleartext="no"), "allow_cleartext must be bool, not str"),
    (lambda: endpoint(allow_cleartext=None), "allow_cleartext must be bool, not NoneType"),
    (lambda: endpoint(reactor="epoll"), "reactor must be a reactor, not str"),
    (lambda: endpoint(methods="anonymous"), 'methods must be a mapping such as {"anonymous": ()}, not str'),
    (lambda: endpoint(methods=dict), 'methods must be a mapping such as {"anonymous": ()}, not the class dict'),
    (methods(login="hunter2"), "login must be (username, password), not str"),
    (methods(login=("someone", None)), "the password must be bytes or str, not NoneType"),
    (methods(extended=["a"]), "extended must hold (key, value), not str"),
    (methods(extended=["ab"]), "extended must hold (key, value), not str"),
    (methods(extended=[("a", "b", "c")]), "extended must hold (key, value), not 3 values"),
    (methods(extended=[7]), "extended must hold (key, value), not int"),
    (methods(extended=7), 'extended must be a mapping such as {"tor.isolation": "alice"}, not int'),
    (methods(extended={"a": 7}), "the value of a must be bytes or str, not int"),
    (methods(isolated=7), "the isolation token must be bytes or str, not int"),
    (lambda: Pairs(["ab"]), "pairs must hold (key, value), not str"),
    (lambda: web_agent("epoll", PROXY), "reactor must be a reactor, not str"),
    (lambda: web_agent(Clock(), PROXY, policy=object()), "policy must be an IPolicyForHTTPS, not object"),
    (lambda: web_agent(Clock(), PROXY, pool=object()), "pool must be an HTTPConnectionPool, not object"),
    (lambda: web_agent(Clock(), PROXY, allow_cleartext="no"), "allow_cleartext must be bool, not str"),
    (
        lambda: SOCKS5AgentEndpointFactory(Clock(), PROXY, timeout="60"),
        "timeout must be seconds above 0, or None, not '60",
    ),
    (lambda: SOCKS5AgentEndpointFactory(Clock(), PROXY, timeot=60), "unexpected keyword argument 'timeot'"),
    (lambda: SOCKS5AgentEndpointFactory(Clock(), PROXY, tls=True), "multiple values for keyword argument 'tls'"),
    (lambda: client_factory(request=("example.com", 80)), "request must be Request, not tuple"),
    (lambda: client_factory(methods="anonymous"), 'methods must be a mapping such as {"anonymous": ()}, not str'),
    (lambda: client_factory(application=Protocol()), "application must be a protocol factory, not Protocol"),
    (lambda: client_factory(dialect="tor"), "dialect must be Dialect or None, not str"),
    (lambda: client_factory(limits=Limits()), "limits must be PairLimits, not Limits"),
    (lambda: client_factory(allow_cleartext="no"), "allow_cleartext must be bool, not str"),
    (lambda: client_factory(reactor="epoll"), "reactor must be a reactor, not str"),
    (lambda: endpoint().connect(Protocol()), "application must be a protocol factory, not Protocol"),
    (lambda: open_transport("tcp:127.0.0.1:80"), f"endpoint {NO_ENDPOINT}"),
    (lambda: RetryingEndpoint("tcp:127.0.0.1:80"), f"endpoint {NO_ENDPOINT}"),
    (lambda: RetryingEndpoint(PROXY, "epoll"), "reactor must be a reactor, not str"),
    (lambda: RetryingEndpoint(PROXY, at_once="3"), "at_once must be an integer, 0 or more, not '3'"),
    (lambda: RetryingEndpoint(PROXY, at_once=True), "at_once must be an integer, 0 or more, not True"),
    (lambda: RetryingEndpoint(PROXY, after_pause=-1), "after_pause must be an integer, 0 or more, not -1"),
    (lambda: RetryingEndpoint(PROXY, pauses=3.0), "pauses must be callable, not float"),
    (lambda: ReconnectingClientService("tcp:127.0.0.1:80", Factory()), f"endpoint {NO_ENDPOINT}"),
    (lambda: ReconnectingClientService(PROXY, Factory), "factory must be a protocol factory, not the class Factory"),
    (lambda: ReconnectingClientService(PROXY, Factory(), 3), "retryPolicy must be callable, not int"),
    (lambda: ReconnectingClientService(PROXY, Factory(), clock=3), "clock must be a reactor, not int"),
    (lambda: ReconnectingClientService(PROXY, Factory(), at_once=-1), "at_once must be 0 or more, not -1"),
    (
        lambda: ReconnectingClientService(PROXY, Factory(), prepareConnection=3),
        "prepareConnection must be callable, not int",
    ),
]

SERVER = [
    (lambda: SOCKS5ExtFactory(None), "reactor must be a reactor, not NoneType"),
    (lambda: SOCKS5ExtFactory(Limits()), "reactor must be a reactor, not Limits"),
    (lambda: server(portal=object()), "portal must be a twisted.cred portal, not object"),
    (lambda: server(anonymous="no"), "anonymous must be bool or None, not str"),
    (lambda: server(policy=[("*", ROUTE)]), "policy must be RouteTable or None, not list"),
    (lambda: server(policy=ROUTE), "policy must be RouteTable or None, not FakeRoute"),
    (lambda: server(policy=RouteTable), "policy must be RouteTable or None, not the class RouteTable"),
    (lambda: server(limits={}), "limits must be Limits or None, not dict"),
    (lambda: server(limits=PairLimits()), "limits must be Limits or None, not PairLimits"),
    (lambda: server(log_targets="no"), "log_targets must be bool, not str"),
    (set_on(server, "policy", [("*", ROUTE)]), "policy must be RouteTable, not list"),
    (lambda: Limits(handshake_timeout="10"), "handshake_timeout must be a finite number above 0, not '10'"),
    (lambda: Limits(max_connections=True), "max_connections must be a number above 0, not True"),
    (lambda: Limits(linger=math.nan), "linger must be a finite number from 0 on, not nan"),
    (lambda: Limits(pairs={}), "pairs must be PairLimits, not dict"),
    (lambda: PairLimits("64"), "pairs must be a number above 0, not '64'"),
    (lambda: RouteTable([("*.onion", "tor")], ROUTE), f"the route for '*.onion' {NO_ROUTE}"),
    (lambda: RouteTable([(ROUTE, "*")], ROUTE), "a pattern must be str, not FakeRoute"),
    (lambda: RouteTable([(b"*", ROUTE)], ROUTE), "a pattern must be str, not bytes"),
    (lambda: RouteTable(["*=direct"], ROUTE), "rules must hold (pattern, route), not str"),
    (lambda: RouteTable([("*", ROUTE, 1)], ROUTE), "rules must hold (pattern, route), not 3 values"),
    (lambda: RouteTable("*=direct", ROUTE), "rules must be a sequence of (pattern, route), not str"),
    (lambda: RouteTable({"*": ROUTE}, ROUTE), "rules must be a sequence of (pattern, route), not dict"),
    (lambda: RouteTable(None, ROUTE), "rules must be a sequence of (pattern, route), not NoneType"),
    (lambda: RouteTable([], "direct"), f"default {NO_ROUTE}"),
    (lambda: RouteTable([], FakeRoute), "default must provide IRoute, not the class FakeRoute"),
    (lambda: RouteTable([], PROXY), "default must provide IRoute, not MemoryEndpoint"),
    (lambda: RouteTable(ROUTE, []), "default must provide IRoute, not list"),
    (lambda: route_from_string(Clock(), None), "description must be str, not NoneType"),
    (lambda: route_from_string("direct", Clock()), "description must be str, not Clock"),
    (
        lambda: TransportRoute(Clock(), "obfs4", "obfs4proxy"),
        "reactor must be a reactor that starts processes, not Clo",
    ),
    (lambda: TransportRoute(reactor, None, "obfs4proxy"), "the name of a transport must be str, not NoneType"),
    (lambda: TransportRoute(reactor, "obfs4", None), "program must be str or PathLike, not NoneType"),
    (lambda: TransportRoute(reactor, "obfs4", "obfs4proxy", "-a -b"), "arguments must be a sequence of str, not str"),
    (lambda: TransportRoute(reactor, "obfs4", "obfs4proxy", [1]), "an argument of the program must be str, not int"),
    (lambda: TransportRoute(reactor, "obfs4", "obfs4proxy", state=7), "state must be str or PathLike or None, not int"),
    (lambda: portal_for(["file:users"]), "a checker must be a twisted.cred checker, not str"),
    (lambda: SOCKS5ExtService(reactor, Factory(), []), "factory must be SOCKS5ExtFactory, not Factory"),
    (lambda: SOCKS5ExtService(reactor, server(), [], drain="10"), "drain must be a number from 0 on, not '10'"),
]

PLUGGABLE_TRANSPORTS = [
    (lambda: pt.Side("epoll", "plain", True, state_location=None), "reactor must be a reactor, not str"),
    (lambda: side(name=7), "the name of a transport must be str, not int"),
    (lambda: side(name="not a name"), "the name of a transport is letters, digits and underscores"),
    (lambda: side(is_client="client"), "is_client must be bool, not str"),
    (lambda: side(state_location=7), "state_location must be PathLike or str or None, not int"),
    (lambda: side(options={"key": "value"}), "options must be Arguments, not dict"),
    (lambda: side(outgoing=PROXY), "outgoing must be Outgoing, not MemoryEndpoint"),
    (lambda: side().publish({"key": "value"}), "arguments must be Arguments, not dict"),
    (lambda: pt.Transport(7, Plain), "the name of a transport must be str, not int"),
    (lambda: pt.Transport("plain", Plain()), "client must be a subclass of TransportProtocol, not Plain"),
    (lambda: pt.Transport("plain", Protocol), "client must be a subclass of TransportProtocol, not the class Protocol"),
    (lambda: pt.Transport("plain", server="Plain"), "server must be a subclass of TransportProtocol, not str"),
    (lambda: pt.Transport("plain", Slow), "handshake_timeout of Slow must be a finite number above 0, not '45'"),
    (lambda: pt.run(Plain), "a transport must be Transport, not the class Plain"),
    (lambda: pt.run(version=1), "version must be str, not int"),
    (lambda: pt.run(log_addresses="no"), "log_addresses must be bool, not str"),
    (lambda: pt.Arguments("key=value"), "arguments must hold (key, value), not str"),
    (lambda: pt.Arguments(["kv"]), "arguments must hold (key, value), not str"),
    (lambda: pt.Arguments({"key": 7}), "the value of the argument key must be str, not int"),
    (lambda: pt.Arguments({7: "value"}), "the key of an argument must be str, not int"),
]

TOR = [
    (lambda: tor.stream_via(None, "example.com", 80), "tor must be a txtorcon.Tor, not NoneType"),
    (lambda: tor.stream_via(Tor(), reactor, 80), f"host must be str or bytes, not {type(reactor).__name__}"),
    (lambda: tor.stream_via(Tor(), "example.com", 80, socks_endpoint=b"tcp:1"), f"socks_endpoint {NO_PROXY}"),
    (lambda: tor.stream_via(Tor(), "example.com", 80, allow_cleartext="no"), "allow_cleartext must be bool, not str"),
    (
        lambda: tor.stream_via(Tor(), "example.com", 80, isolation=7),
        "the isolation token must be bytes or str, not int",
    ),
    (lambda: tor.web_agent(None), "tor must be a txtorcon.Tor, not NoneType"),
    (lambda: tor.web_agent(Tor(), pool=object()), "pool must be an HTTPConnectionPool, not object"),
    (lambda: tor.web_agent(Tor(), tls_context_factory=3), "tls_context_factory must be an IPolicyForHTTPS, not int"),
    (lambda: tor.resolve(None, "example.com"), "tor must be a txtorcon.Tor, not NoneType"),
    (lambda: tor.resolve(Tor(), "example.com", socks_endpoint=b"tcp:1"), f"socks_endpoint {NO_PROXY}"),
    (lambda: tor.resolve_ptr(None, "192.0.2.1"), "tor must be a txtorcon.Tor, not NoneType"),
]

FAKES = [
    (lambda: FakeProxy(Protocol()), "server must be a protocol factory, not Protocol"),
    (lambda: FakeProxy(method="extended"), "method must be int, not str"),
    (lambda: FakeProxy(method=300), "method must be from 0 to 255, not 300"),
    (lambda: FakeProxy(status=400), "status must be from 0 to 255, not 400"),
    (lambda: FakeProxy(status=True), "status must be int, not bool"),
    (lambda: FakeProxy(code=300), "code must be from 0 to 255, not 300"),
    (lambda: FakeProxy(code=-1), "code must be from 0 to 255, not -1"),
    (lambda: FakeProxy(code=None), "code must be int, not NoneType"),
    (lambda: FakeProxy(pairs=["a"]), "pairs must be a mapping, not list"),
    (lambda: FakeProxy(pairs={"a": 7}), "the value of a must be bytes or str, not int"),
    (lambda: FakeProxy(bound=("192.0.2.1", 80)), "bound must be Address, not tuple"),
    (lambda: FakeProxy(joined="data"), "joined must be bytes, not str"),
    (lambda: FakeProxy(instead={"REPLY": b""}), "a key of instead must be State, not str"),
    (lambda: FakeProxy(instead={State.REPLY: ""}), "instead[State.REPLY] must be bytes, not str"),
    (lambda: FakeProxy(instead=[State.REPLY]), "instead must be a mapping of State to bytes, not list"),
    (lambda: FakeProxy(stop_at="REPLY"), "stop_at must be State, not str"),
    (
        lambda: FakeProxy(stop_at=State.REQUEST),
        "stop_at must be one of State.SELECTION, State.CREDENTIALS_ANSWER, Stat",
    ),
    (lambda: FakeProxy(stop_after=-1), "stop_after must be 0 or more, not -1"),
    (lambda: FakeProxy(ending="close"), "ending must be Ending, not str"),
    (lambda: FakeProxy(hang=True), "unexpected keyword argument 'hang'"),
    (set_on(FakeProxy, "method", "extended"), "method must be int, not str"),
    (set_on(FakeProxy, "stop_at", "REPLY"), "stop_at must be State, not str"),
    (set_on(FakeProxy, "code", 300), "code must be from 0 to 255, not 300"),
    (set_on(FakeProxy, "cod", 5), "FakeProxy has no attribute 'cod'; it has bound, code, "),
    (lambda: FakeRoute(Protocol()), "server must be a protocol factory, not Protocol"),
    (lambda: FakeRoute(keys="tor.isolation"), "keys must be a set of str, not str"),
    (lambda: FakeRoute(keys=[b"tor.isolation"]), "keys must be a set of str, not of bytes"),
    (lambda: FakeRoute(found="192.0.2.1"), "found must be Address or None, not str"),
    (lambda: FakeRoute(failure="refused"), "failure must be an exception or None, not str"),
    (set_on(FakeRoute, "key", {"a"}), "FakeRoute has no attribute 'key'; it has endpoint, found, keys, "),
    (lambda: MemoryEndpoint(Protocol()), "server must be a protocol factory, not Protocol"),
    (lambda: MemoryEndpoint(Factory(), clock=3), "clock must be a reactor, not int"),
    (lambda: MemoryEndpoint(Factory(), address="192.0.2.1"), "address must provide IAddress, not str"),
    (lambda: MemoryEndpoint(Factory(), client_address=None), "client_address must provide IAddress, not NoneType"),
    (lambda: MemoryEndpoint(Factory(), most_at_once=0), "most_at_once must be 1 or more, not 0"),
    (lambda: MemoryEndpoint(Factory(), failure=OSError), "failure must be an exception or None, not the class OSError"),
    (lambda: MemoryEndpoint(Factory(), hangs="no"), "hangs must be bool, not str"),
    (
        set_on(lambda: MemoryEndpoint(Factory()), "hang", True),
        "MemoryEndpoint has no attribute 'hang'; it has address, ",
    ),
    (lambda: connect_to(Protocol()), "factory must be a protocol factory, not Protocol"),
    (
        lambda: connect_to(Factory.forProtocol(Recorder), client=Protocol()),
        "client must be Recorder or None, not Protocol",
    ),
    (lambda: in_memory(client_address="192.0.2.1"), "client_address must provide IAddress, not str"),
    (lambda: in_memory(most_at_once=0), "most_at_once must be 1 or more, not 0"),
    (lambda: connect_in_memory(Factory(), Recorder()), "client must be a protocol, not Factory"),
    (lambda: transports(client=Plain()), "client must be a subclass of TransportProtocol, not Plain"),
    (lambda: transports(server=Protocol), "server must be a subclass of TransportProtocol, not the class Protocol"),
    (lambda: transports(arguments="key=value"), "arguments must hold (key, value), not str"),
    (lambda: transports(options={"key": 7}), "the value of the argument key must be str, not int"),
    (lambda: transports(state=7), "state must be PathLike or str or None, not int"),
    (lambda: transports(clock=3), "clock must be a reactor, not int"),
]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        pytest.param(call, words, id=f"{number} {words[:40]}")
        for number, (call, words) in enumerate(CLIENT + SERVER + PLUGGABLE_TRANSPORTS + TOR + FAKES)
    ],
)
def test_a_wrong_argument_is_refused_in_one_line_that_names_it(call, words):
    with pytest.raises((TypeError, ValueError, AttributeError)) as refused:
        call()
    text = str(refused.value)
    assert words in text
    assert text.isprintable()


def test_what_a_wrong_argument_holds_is_not_shown():
    for call in (
        methods(login="hunter2"),
        methods(login=("someone", ["hunter2"])),
        methods(extended=["hunter2"]),
        methods(extended={"key": ["hunter2"]}),
        lambda: endpoint(methods=[("login", ("someone", "hunter2"))]),
        lambda: endpoint(proxy_endpoint=b"socks5ext:example.com:1080:username=someone:password=hunter2"),
        lambda: pt.Arguments(["hunter2"]),
        lambda: pt.Arguments({"key": ["hunter2"]}),
        lambda: FakeProxy(joined="hunter2"),
    ):
        with pytest.raises((TypeError, ValueError)) as refused:
            call()
        assert "hunter2" not in str(refused.value)


# What stays allowed.


def test_an_endpoint_portal_and_route_of_ones_own_need_not_name_their_interfaces():
    class Endpoint:
        def connect(self, factory):
            """As `IStreamClientEndpoint` has it."""

    class Portal:
        def login(self, credentials, mind, *interfaces):
            """As `twisted.cred.portal.Portal` has it."""

    class Way:
        def connect(self, request, addresses, session):
            """As `IRoute` has it."""

    assert endpoint(proxy_endpoint=Endpoint())
    assert server(portal=Portal(), policy=RouteTable([], Way()))


def test_methods_may_be_given_to_a_client_factory_as_to_an_endpoint():
    factory = client_factory(methods={"login": ("someone", "hunter2")})
    assert factory.offer() == client_factory(methods=ClientMethods.of({"login": ("someone", "hunter2")})).offer()


def test_pairs_may_be_given_one_by_one():
    assert ClientMethods.of({"extended": iter([("a", "b"), ["c", b"d"]])}).pairs == {"a": b"b", "c": b"d"}


def test_a_program_and_its_state_may_be_paths(tmp_path):
    route = TransportRoute(reactor, "obfs4", tmp_path / "program", state=tmp_path / "state")
    assert isinstance(route.service, Service)


def test_subclasses_of_fakes_may_have_attributes_of_their_own():
    class Mine(FakeProxy):
        def __init__(self):
            super().__init__(code=5)
            self.mine = 1

    class MyRoute(FakeRoute):
        name = "mine"

        def __init__(self):
            super().__init__()
            self.mine = 2

    proxy, route = Mine(), MyRoute()
    proxy.mine, route.mine = 3, 4
    assert (proxy.mine, proxy.code, route.mine) == (3, 5, 4)
    with pytest.raises(ValueError, match=r"^code must be from 0 to 255, not 300$"):
        proxy.code = 300


def test_fakes_take_every_attribute_that_they_have():
    proxy = FakeProxy()
    for name, value in (
        ("method", 0x80),
        ("status", 255),
        ("pairs", {"a": "b"}),
        ("code", 0xF7),
        ("bound", Address.of("192.0.2.1", 80)),
        ("joined", b"data"),
        ("instead", {State.REPLY: b"wrong"}),
        ("stop_at", State.PAIRS_ANSWER),
        ("stop_at", None),
        ("method", None),
        ("noisy", True),  # of Twisted's factories
    ):
        setattr(proxy, name, value)
        assert getattr(proxy, name) == value
