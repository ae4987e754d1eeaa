"""A scripted tor on a loopback socket, servers whose way out it is, and what their clients hear."""

from contextlib import asynccontextmanager
from types import SimpleNamespace

from examples.raw_peers import GREET_ANONYMOUS, GREET_EXTENDED, Peer, pairs, proxy, request
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.endpoints import clientFromString, serverFromString
from twisted.internet.protocol import Factory

from support.answers import table
from txsocksx_ext import Limits
from txsocksx_ext.route.tor import TorRoute
from txsocksx_ext.tor.control import ControlConnection
from txsocksx_ext.tor.instance import TorInstance
from txsocksx_ext.tor.isolation import IsolationTokens

SERVICE = "oufiwc7giqrrjlb5zhg7vr3jtqxgbwns5ner577ncb6jxnhh2kvr7kqd"
ONION = f"{SERVICE}.onion"
ZEROS = b"\x00\x01\x00\x00\x00\x00\x00\x00"
ZEROS_IPV6 = b"\x00\x04" + b"\x00" * 18
DOUBT = 1.0
SHORT = 0.3
FOUND = b"\x05\x00" + ZEROS


def reply(code, rest=ZEROS):
    return bytes((5, code)) + rest


class FakeTor:
    """
    A tor that answers what a test wants.

    :param answer: called with each connection and the name that was asked for; a coroutine.
    :ivar asked: the names, in their order.
    :ivar said: what came before the request, connection by connection.
    :ivar is_stopped: whether it is a process that was stopped: the system still takes connections.
    """

    is_stopped = False

    def __init__(self, answer):
        self.answer = answer
        self.answer_to_login = b"\x01\x00"
        self.asked = []
        self.said = []
        self.connections = []
        self._served = []

    def buildProtocol(self, addr):
        peer = Peer()
        self.connections.append(peer)
        reactor.callLater(0, self._begin, peer)
        return peer

    def _begin(self, peer):
        if self.is_stopped:
            return
        self._served.append(Deferred.fromCoroutine(self._serve(peer)))

    async def _serve(self, peer):
        greeting = await peer.read(2)
        if len(greeting) < 2:
            return
        greeting += await peer.read(greeting[1])
        credentials = b""
        if 2 in greeting[2:]:
            peer.send(b"\x05\x02")
            credentials = await peer.read(2)
            credentials += await peer.read(credentials[1] + 1)
            credentials += await peer.read(credentials[-1])
            peer.send(self.answer_to_login)
        else:
            peer.send(b"\x05\x00")
        self.said.append((greeting, credentials))
        head = await peer.read(4)
        if len(head) < 4:
            return
        length = (await peer.read(1))[0] if head[3] == 3 else {1: 4, 4: 16}[head[3]]
        host = (await peer.read(length)).decode("latin-1")
        await peer.read(2)
        self.asked.append(host)
        await self.answer(peer, host)

    @property
    def tokens(self):
        """The password of each connection, or ``None`` where there was none."""
        return [credentials[12:] or None for _, credentials in self.said]

    async def stop(self):
        for peer in self.connections:
            if peer.reason is None:
                peer.abort()
                await peer.lost()


@asynccontextmanager
async def fake_tor(answer, listen="tcp:0:interface=127.0.0.1"):
    """A `FakeTor` that listens: with ``port``, and ``stop_listening()``."""
    tor = FakeTor(answer)
    factory = Factory()
    factory.noisy = False
    factory.buildProtocol = tor.buildProtocol
    listening = await serverFromString(reactor, listen).listen(factory)
    tor.port = getattr(listening.getHost(), "port", None)
    tor.stop_listening = listening.stopListening
    try:
        yield tor
    finally:
        await maybeDeferred(listening.stopListening)
        await tor.stop()


def saying(data, *, closes=True):
    """An answer: these bytes, and the end."""

    async def answer(peer, host):
        peer.send(data)
        if closes:
            peer.close()

    return answer


async def silent(peer, host):
    """No answer."""


def endless_echo(first=FOUND):
    """A stream: the reply, then all that comes sent back."""

    async def answer(peer, host):
        peer.send(first)
        while data := await peer.read(1):
            peer.send(data)
        peer.close()

    return answer


def through(*tors, control=None, time=reactor):
    """A route through these scripted tors."""
    return TorRoute(
        [
            TorInstance(time, clientFromString(reactor, f"tcp:127.0.0.1:{tor.port}"), control, name=str(number))
            for number, tor in enumerate(tors)
        ],
        IsolationTokens(),
    )


@asynccontextmanager
async def behind(answer, *, seconds=30.0, **options):
    """A scripted tor, and a server whose way out it is, and which gives it so many seconds."""
    async with (
        fake_tor(answer) as tor,
        proxy(policy=table(through(tor, **options)), limits=Limits(connect_timeout=seconds)) as server,
    ):
        yield tor, server


GREETINGS = {
    "plain": (GREET_ANONYMOUS, b""),
    "97": (GREET_EXTENDED, pairs()),
    "304": (GREET_EXTENDED, pairs((b"tor.errors", b"304"))),
    "none": (GREET_EXTENDED, pairs((b"tor.errors", b"none"))),
}
"""Clients, by what they ask for: what they say before their request."""


async def hear(server, client, host=ONION, port=80, command=1):
    """One client's end, and the code that it hears."""
    greeting, authentication = GREETINGS[client]
    peer = await server.connect()
    peer.send(greeting)
    await peer.read(2)
    if authentication:
        peer.send(authentication)
        answer = await peer.read(4)
        assert answer[:2] == b"\x01\x00"
        for _ in range(answer[3]):
            for _ in range(2):
                await peer.read(int.from_bytes(await peer.read(2), "big"))
    peer.send(request(host, port, command))
    code, _ = await peer.read_reply()
    return peer, code


async def codes(server, host=ONION):
    """What each kind of client hears."""
    hearings = {client: Deferred.fromCoroutine(hear(server, client, host)) for client in GREETINGS}
    heard = {}
    for client, hearing in hearings.items():
        peer, heard[client] = await hearing
        peer.close()
        await peer.lost()
    return heard


def same(code):
    return dict.fromkeys(GREETINGS, code)


def heard_as(plain, extended, finer):
    return {"plain": plain, "97": extended, "304": finer, "none": plain}


def events(*, client_key=False, cached=()):
    """
    A control connection that stands, whose events a test makes.

    :param cached: onion addresses of which tor has the descriptor.
    """
    control = ControlConnection(reactor, None, "the scripted tor")

    def queue_command(command):
        name, _, argument = command.partition(" ")
        if name == "GETINFO":
            address = argument.removeprefix("hs/client/desc/id/")
            found = address in cached
            return succeed(f"{argument}=\nhs-descriptor 3") if found else fail(RuntimeError("551 Not found in cache"))
        assert command == f"ONION_CLIENT_AUTH_VIEW {SERVICE}"
        keys = f"CLIENT {SERVICE} x25519:key\n" if client_key else ""
        return succeed(f"ONION_CLIENT_AUTH_VIEW {SERVICE}\n{keys}OK")

    def get_info(key):
        return succeed({key: '"127.0.0.1:0"'})

    control.tor = SimpleNamespace(protocol=SimpleNamespace(queue_command=queue_command, get_info=get_info))
    return control
