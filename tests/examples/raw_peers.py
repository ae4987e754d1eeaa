"""
Hand-made ends of connections: a client that writes raw SOCKS5, targets, and a proxy between them.

The bytes are made here without the package, so that a fault in its encoding cannot hide itself.
"""

import socket
import time
from contextlib import asynccontextmanager
from ipaddress import ip_address

from support.certificates import Authority
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.endpoints import SSL4ClientEndpoint, TCP4ClientEndpoint, serverFromString
from twisted.internet.interfaces import IHalfCloseableProtocol, IReactorPluggableNameResolver, IReactorTCP
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from zope.interface import implementer

from txsocksx_ext import SOCKS5ExtFactory
from txsocksx_ext.server.proxy_protocol import ProxyProtocolFactory

CONNECT, BIND, UDP_ASSOCIATE, RESOLVE, RESOLVE_PTR = 0x01, 0x02, 0x03, 0xF0, 0xF1

GREET_ANONYMOUS = b"\x05\x01\x00"
GREET_LOGIN = b"\x05\x01\x02"
GREET_EXTENDED = b"\x05\x01\x97"


def request(host, port, command=CONNECT):
    """A request for an address, or for a name where `host` is none."""
    try:
        literal = ip_address(host)
    except ValueError:
        return request_by_name(host, port, command)
    address_type = b"\x01" if literal.version == 4 else b"\x04"
    return bytes((5, command, 0)) + address_type + literal.packed + port.to_bytes(2, "big")


def request_by_name(host, port, command=CONNECT):
    """A request with `host` as a name, whatever it looks like."""
    name = host.encode("ascii")
    return bytes((5, command, 0, 3, len(name))) + name + port.to_bytes(2, "big")


def login(username, password):
    """RFC 1929's credentials."""
    return bytes((1, len(username))) + username + bytes((len(password),)) + password


def pairs(*items):
    """Method 97's request, with the pairs in this order."""
    fields = (len(part).to_bytes(2, "big") + part for item in items for part in item)
    return b"\x01" + len(items).to_bytes(2, "big") + b"".join(fields)


@implementer(IHalfCloseableProtocol)
class Peer(Protocol):
    """One end of a connection, which a test reads and writes."""

    def __init__(self):
        self.unread = b""
        self.total = 0
        self.input_ended = False
        self.reason = None
        self._waiting = []

    def dataReceived(self, data):
        self.unread += data
        self.total += len(data)
        self._changed()

    def readConnectionLost(self):
        self.input_ended = True
        self._changed()

    def writeConnectionLost(self):
        pass

    def connectionLost(self, reason):
        self.input_ended = True
        self.reason = reason.value
        self._changed()

    def _changed(self):
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    async def until(self, condition):
        """Wait for something to be so."""
        while not condition():
            change = Deferred()
            self._waiting.append(change)
            await change

    def send(self, data):
        self.transport.write(data)

    async def read(self, count):
        """The next `count` bytes, or fewer if no more come."""
        await self.until(lambda: len(self.unread) >= count or self.input_ended)
        data, self.unread = self.unread[:count], self.unread[count:]
        return data

    async def read_to_end(self):
        """All that comes until the other side has closed its sending."""
        await self.until(lambda: self.input_ended)
        data, self.unread = self.unread, b""
        return data

    async def lost(self):
        """The exception with which the connection was lost."""
        await self.until(lambda: self.reason is not None)
        return self.reason

    def half_close(self):
        self.transport.loseWriteConnection()

    def close(self):
        self.transport.loseConnection()

    def abort(self):
        self.transport.abortConnection()

    async def read_reply(self):
        """A reply's code and its bound address."""
        head = await self.read(4)
        if len(head) < 4:
            raise AssertionError(f"no reply came, only {head!r}, and {self.reason!r}")
        assert (head[0], head[2]) == (5, 0)
        if head[3] == 3:
            (length,) = await self.read(1)
            host = (await self.read(length)).decode("ascii")
        else:
            family, length = {1: (socket.AF_INET, 4), 4: (socket.AF_INET6, 16)}[head[3]]
            host = socket.inet_ntop(family, await self.read(length))
        return head[1], (host, int.from_bytes(await self.read(2), "big"))

    async def ask(self, host, port, command=CONNECT):
        """Greet without credentials and ask; the reply's code and bound address."""
        self.send(GREET_ANONYMOUS)
        assert await self.read(2) == b"\x05\x00"
        self.send(request(host, port, command))
        return await self.read_reply()


class _Accepting(Factory):
    noisy = False

    def __init__(self):
        self.accepted = DeferredQueue()
        self.peers = []

    def buildProtocol(self, addr):
        peer = Peer()
        self.peers.append(peer)
        self.accepted.put(peer)
        return peer


class Target:
    """Something to connect to: ``port``, and each connection from `accept`."""

    def __init__(self, port, factory):
        self.port = port
        self._factory = factory

    @property
    def accepted(self):
        """How many connections came."""
        return len(self._factory.peers)

    async def accept(self):
        """The next connection's end; it is connected when it has been accepted."""
        peer = await self._factory.accepted.get()
        await turn()
        return peer


@asynccontextmanager
async def target(interface="127.0.0.1", tls=None):
    """
    A target on a free port.

    :param tls: the context factory of one that speaks TLS.
    """
    factory = _Accepting()
    if tls is None:
        port = reactor.listenTCP(0, factory, interface=interface)
    else:
        port = reactor.listenSSL(0, factory, tls, interface=interface)
    try:
        yield Target(port.getHost().port, factory)
    finally:
        await port.stopListening()
        await _end_all(factory.peers)


class Proxy:
    """A server under test: its ``port`` and its ``factory``."""

    def __init__(self, port, factory, header=b""):
        self.port = port
        self.factory = factory
        self.peers = []
        self._header = header

    async def connect(self, header=None, endpoint=None):
        """A new client's end."""
        endpoint = endpoint or TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        peer = await endpoint.connect(Factory.forProtocol(Peer))
        self.peers.append(peer)
        peer.send(self._header if header is None else header)
        return peer

    async def ask(self, host, port, command=CONNECT):
        """A client that asked without credentials: its end, the code and the bound address."""
        client = await self.connect()
        return client, *(await client.ask(host, port, command))

    async def code(self, host, port, command=CONNECT):
        """The code of the reply to a request; the client is gone then."""
        client, code, _ = await self.ask(host, port, command)
        client.close()
        await client.lost()
        return code


def proxy_header(host):
    """What a balancer says of a client that comes from `host`."""
    family, here = (b"TCP4", b"127.0.0.1") if ip_address(host).version == 4 else (b"TCP6", b"::1")
    return b" ".join((b"PROXY", family, host.encode("ascii"), here, b"5000", b"1080")) + b"\r\n"


@asynccontextmanager
async def proxy(factory=None, *, listen="tcp:0:interface=127.0.0.1", seen_from=None, **options):
    """
    A proxy on a free port.

    :param factory: serves it; otherwise one is made of `options`.
    :param seen_from: the address from which its clients seem to come, by way of a balancer.
    """
    if factory is None:
        factory = SOCKS5ExtFactory(options.pop("reactor", reactor), **options)
    listening = factory if seen_from is None else ProxyProtocolFactory(factory)
    port = await serverFromString(reactor, listen).listen(listening)
    under_test = Proxy(
        getattr(port.getHost(), "port", None), factory, b"" if seen_from is None else proxy_header(seen_from)
    )
    try:
        yield under_test
    finally:
        await port.stopListening()
        await _end_all(under_test.peers)
        for session in list(factory.connections):
            session.abort("the test is over")


async def _end_all(peers):
    for peer in peers:
        if peer.transport is not None and peer.reason is None:
            peer.abort()
            await peer.lost()


async def turn(count=1):
    """Let the reactor go round."""
    for _ in range(count):
        waited = Deferred()
        reactor.callLater(0, waited.callback, None)
        await waited


async def until(condition):
    """Let the reactor go round until something is so. The test's own deadline ends a vain wait."""
    while not condition():
        await pause(0.005)


async def pause(seconds):
    waited = Deferred()
    reactor.callLater(seconds, waited.callback, None)
    await waited


@implementer(IReactorPluggableNameResolver, IReactorTCP)
class ReactorWith:
    """
    The real reactor, but for the time or the names of a test.

    :param clock: a `twisted.internet.task.Clock` that says what time it is.
    :param names: a `Names`.
    """

    def __init__(self, *, clock=None, names=None):
        if clock is not None:
            self.callLater, self.seconds = clock.callLater, clock.seconds
        if names is not None:
            self.nameResolver = names

    def __getattr__(self, name):
        return getattr(reactor, name)


class Names:
    """
    A name resolver.

    :param answers: addresses by name; a list of lists is one answer after another.
    :ivar asked: the names that were asked for.
    """

    def __init__(self, **answers):
        self._answers = {name.replace("_", "."): list(answer) for name, answer in answers.items()}
        self.asked = []

    def resolveHostName(self, receiver, name, portNumber=0, addressTypes=None, transportSemantics="TCP"):
        self.asked.append(name)
        answer = self._answers.get(name, [])
        if answer and isinstance(answer[0], list):
            answer = answer.pop(0)
        receiver.resolutionBegan(self)
        for host in answer:
            kind = IPv4Address if ip_address(host).version == 4 else IPv6Address
            receiver.addressResolved(kind("TCP", host, portNumber))
        receiver.resolutionComplete()
        return self


class HeldRoute:
    """A route that answers when the test says so: ``asked`` fires, then ``pending`` is the test's to fire."""

    name = "held"

    def __init__(self):
        self.asked = DeferredQueue()
        self.requests = []
        self.cancelled = 0

    def connect(self, request, addresses, session):
        self.pending = Deferred(self._cancel)
        self.requests.append(request)
        self.asked.put(request)
        return self.pending

    def _cancel(self, pending):
        self.cancelled += 1


def tls_listener(directory):
    """The description of a TLS listener on a free port, with a certificate of its own."""
    path = directory / "server.pem"
    path.write_bytes(Authority().issue("localhost"))
    return f"ssl:0:privateKey={path}:interface=127.0.0.1"


def through_tls(port):
    """The way to a port that speaks TLS; whose certificate it has is not looked at."""
    return SSL4ClientEndpoint(reactor, "127.0.0.1", port, CertificateOptions())


def dial(port, host, target_port, patience=20.0):
    """A blocking socket whose stream to the target stands, for tests against a server in another process."""
    client = socket.create_connection(("127.0.0.1", port), timeout=patience)
    client.sendall(GREET_ANONYMOUS + request(host, target_port))
    answer = b""
    while len(answer) < 12:
        data = client.recv(12 - len(answer))
        if not data:
            raise AssertionError(f"the server closed after {answer!r}")
        answer += data
    assert answer[:4] == b"\x05\x00\x05\x00", answer
    return client


def settles(condition, patience=20.0):
    """Whether something becomes so in time."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def descriptors_at_rest(server):
    """How many descriptors the server has when the connection that tried whether it listens is gone."""
    seen = [server.descriptors()]

    def is_steady():
        time.sleep(0.02)
        seen.append(server.descriptors())
        return len(seen) > 5 and len(set(seen[-5:])) == 1

    assert settles(is_steady)
    return seen[-1]
