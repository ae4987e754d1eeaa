"""The raw vectors, and proxies as they were observed, against our client."""

from typing import Any, NamedTuple

import pytest
from support.vectors import TO_CLIENT, by_id, splits, vectors_of
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from txsocksx_ext import SOCKS5ClientEndpoint, errors, resolve
from txsocksx_ext.protocol.messages import Reply

GREETING = {
    "anonymous": "05 01 00",
    "login": "05 01 02",
    "extended": "05 01 97",
    "extended or anonymous": "05 02 97 00",
    "all": "05 03 97 02 00",
}
METHODS = {
    "anonymous": {"anonymous": ()},
    "login": {"login": ("u", "p")},
    "extended": {"extended": {"tor.isolation": "x"}},
    "extended or anonymous": {"extended": {}, "anonymous": ()},
    "all": {"extended": {}, "login": ("u", "p"), "anonymous": ()},
}
CREDENTIALS = bytes.fromhex("01 01 75 01 70")
PAIRS = bytes.fromhex("01 0001 000d 746f722e69736f6c6174696f6e 0001 78")
REQUEST = bytes.fromhex("05 01 00 03 0c 686f73742e6578616d706c65 0050")
RESOLVE = bytes.fromhex("05 f0 00 03 0c 686f73742e6578616d706c65 0000")
SUCCESS = bytes.fromhex("05 00 00 01 7f000001 1f90")
DATA = b"220 hello"


class PlayedProxy(Protocol):
    """
    A proxy that plays its part.

    :param script: what the client has to say, and the pieces of the answer, in turn.
    :param ends: whether the proxy closes the connection in the end.
    """

    def __init__(self, script, ends):
        self._script = script
        self._ends = ends
        self._heard = b""
        self._waiting = None
        self.lost = Deferred()
        self.played = Deferred()

    def connectionMade(self):
        # Or the system would join the pieces.
        self.transport.setTcpNoDelay(True)
        Deferred.fromCoroutine(self._play()).chainDeferred(self.played)

    def dataReceived(self, data):
        self._heard += data
        self._go_on()

    def connectionLost(self, reason):
        self.lost.callback(None)
        self._go_on()

    def _go_on(self):
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def _play(self):
        for expected, pieces in self._script:
            while len(self._heard) < len(expected):
                self._waiting = Deferred()
                await self._waiting
                if self.lost.called:
                    return
            said, self._heard = self._heard[: len(expected)], self._heard[len(expected) :]
            assert said == expected
            for piece in pieces:
                self.transport.write(piece)
                # In the first turn it is sent, in the second it is read: so each piece comes alone.
                for _ in range(3):
                    await turn()
        if self._ends:
            self.transport.loseConnection()


def turn():
    from twisted.internet import reactor

    turned = Deferred()
    reactor.callLater(0, turned.callback, None)
    return turned


class Application(Protocol):
    data = b""

    def dataReceived(self, data):
        self.data += data


@pytest.fixture
def play():
    """Let our client talk to a proxy that plays a script: what came of it, and the client's protocol."""
    import pytest_twisted
    from twisted.internet import reactor

    factory = Factory()
    factory.noisy = False
    factory.buildProtocol = lambda _: factory.proxy
    port = pytest_twisted.blockon(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory))

    async def played(methods, script, ends=False, falls_silent=False, data=b"", command="connect"):
        """The outcome: an application's protocol, a resolved host, or an exception."""
        clock = Clock()
        factory.proxy = proxy = PlayedProxy(script, ends)
        way = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        if command == "resolve":
            result = resolve("host.example", way, METHODS[methods], reactor=clock)
        else:
            endpoint = SOCKS5ClientEndpoint("host.example", 80, way, METHODS[methods], reactor=clock)
            application = Factory.forProtocol(Application)
            application.noisy = False
            result = endpoint.connect(application)
        await proxy.played
        if falls_silent:
            # Nothing but the deadline can end it.
            assert not result.called
            clock.advance(60)
        try:
            came = await result
        except Exception as error:
            came = error
        if isinstance(came, Protocol):
            while len(came.data) < len(data):
                await turn()
            assert came.data == data
            came.transport.abortConnection()
        await proxy.lost
        assert not clock.getDelayedCalls()
        return came

    yield played
    pytest_twisted.blockon(port.stopListening())


def script_before(kind, methods):
    """What is said before a vector of this kind comes, and what the client says to get it."""
    greeting = bytes.fromhex(GREETING[methods])
    if kind == "select":
        return [], greeting
    method = greeting[2:3]
    said = [(greeting, [b"\5" + method])]
    if kind != "reply":
        return said, PAIRS if kind == "ext_resp" else CREDENTIALS
    if method == b"\x97":
        said.append((PAIRS, [b"\1\0\0\0"]))
    return said, REQUEST


THEN_SUCCESS = [(REQUEST, [SUCCESS + DATA])]


class Ending(NamedTuple):
    """
    What becomes of our client when a vector comes.

    :ivar methods: what it offers.
    :ivar outcome: the class of its exception; or `Application`, or the host that it resolved.
    :ivar attributes: of the exception.
    :ivar then: what is said after the vector.
    :ivar data: what the application gets.
    :ivar missing: what the proxy says at last, if the vector was too short.
    """

    methods: str
    outcome: Any
    attributes: dict[str, Any] = {}
    then: Any = ()
    data: bytes = b""
    missing: str = ""
    command: str = "connect"


def success(methods, then=THEN_SUCCESS, data=DATA):
    return Ending(methods, Application, then=then, data=data)


CLIENT_ENDINGS = {
    "sel-noauth": success("extended or anonymous"),
    "sel-ext": success("extended or anonymous", [(b"\1\0\0", [b"\1\0\0\0"]), *THEN_SUCCESS]),
    "sel-none": Ending("extended or anonymous", errors.NoAcceptableMethod, {"code": None}),
    "sel-badver": Ending("extended or anonymous", errors.ProtocolViolation, {"code": None}),
    "up-ok-resp": success("login"),
    "up-resp-badver": success("login"),
    "xr-ok": success("extended"),
    "xr-fail": Ending("extended", errors.AuthenticationFailed, {"status": 1, "pairs": {}}),
    "xr-inval": Ending("extended", errors.InvalidArguments, {"status": 2, "pairs": {}}),
    "xr-inval-key": Ending("extended", errors.InvalidArguments, {"status": 2, "pairs": {"ERROR": b"unknown key:X"}}),
    "xr-unknown": Ending("extended", errors.UnknownStatus, {"status": 0x7F, "pairs": {}}),
    "xr-no-pairs-field": Ending("extended", Application, then=THEN_SUCCESS, data=DATA, missing="00 00"),
    "xr-klen0": Ending("extended", errors.ProtocolViolation),
    # The reply is there before the request: it is read when its turn comes.
    "xr-coalesced": success("extended", [(REQUEST, [])], b""),
    "rep-01": Ending("anonymous", errors.GeneralServerFailure, {"code": 0x01}),
    "rep-02": Ending("anonymous", errors.ConnectionNotAllowed, {"code": 0x02}),
    "rep-04": Ending("anonymous", errors.HostUnreachable, {"code": 0x04}),
    "rep-05": Ending("anonymous", errors.ConnectionRefused, {"code": 0x05}),
    "rep-short": Ending("anonymous", Application, missing="1f90" + DATA.hex(), data=DATA),
    "rep-229-e1": Ending("extended", errors.OnionServiceNotReachable, {"code": 0xE1}),
    "rep-304-f2": Ending("anonymous", errors.OnionIntroductionFailed, {"code": 0xF2}),
    "rep-304-f4": Ending("login", errors.OnionClientAuthRequired, {"code": 0xF4}),
    "tor-resolve-ok4": Ending("anonymous", "192.0.2.77", command="resolve"),
    "tor-resolve-fail": Ending("anonymous", errors.HostUnreachable, {"code": 0x04}, command="resolve"),
}


def check_outcome(came, ending):
    if isinstance(ending.outcome, str):
        assert came == ending.outcome
        return
    assert type(came) is ending.outcome
    for name, value in ending.attributes.items():
        assert getattr(came, name) == value


@pytest.mark.parametrize("vector", **by_id(TO_CLIENT))
async def test_the_client_takes_a_vector_in_every_split(play, vector):
    ending = CLIENT_ENDINGS[vector.name]
    before, said = script_before(vector.kind, ending.methods)
    if ending.methods == "login" and vector.kind == "reply":
        before.append((CREDENTIALS, [b"\1\0"]))
    if ending.command == "resolve":
        said = RESOLVE
    missing = bytes.fromhex(ending.missing)
    for pieces in splits(vector.data, exhaustive=5):
        script = [*before, (said, [*pieces, missing] if missing else pieces), *ending.then]
        came = await play(ending.methods, script, data=ending.data, command=ending.command)
        check_outcome(came, ending)
        if missing:
            # The same without the rest: the proxy leaves, or falls silent.
            script = [*before, (said, pieces)]
            assert type(await play(ending.methods, script, ends=True)) is errors.ProxyClosed
            assert type(await play(ending.methods, script, falls_silent=True)) is errors.HandshakeTimeout


def test_every_vector_for_a_client_has_an_ending():
    assert {vector.name for vector in TO_CLIENT} == set(CLIENT_ENDINGS)


async def test_the_client_reads_a_code_in_the_dialect_of_the_selected_method(play):
    cases = {
        (0xE0, "anonymous"): errors.OnionServiceNotFound,
        (0xE1, "anonymous"): errors.OnionServiceNotReachable,
        (0xF1, "anonymous"): errors.OnionDescriptorInvalid,
        (0xF6, "anonymous"): errors.OnionAddressInvalid,
        (0xE0, "extended"): errors.OnionServiceNotFound,
        (0xF0, "extended"): errors.TransportTemporaryFailure,
        (0xF1, "extended"): errors.TransportProtocolFailure,
        (0xF2, "extended"): errors.TransportInternalError,
        (0xF4, "extended"): errors.UnknownReply,
        (0x99, "anonymous"): errors.UnknownReply,
    }
    for (code, methods), expected in cases.items():
        before, said = script_before("reply", methods)
        reply = Reply(code).encode()
        # Some servers send no more than two, three or four bytes of a failure.
        for length in (2, 3, 4, len(reply)):
            came = await play(methods, [*before, (said, [reply[:length]])])
            assert type(came) is expected
            assert came.code == code


# The proxies that were observed, as peers of our client: what it offers to each, and how it ends.
OBSERVED = {
    "obs-97-only": Ending("extended", errors.NoAcceptableMethod),
    # 02 is selected, the client logs in, and the vector ends there.
    "obs-97-02-00": Ending("all", errors.HandshakeTimeout),
    "obs-nmethods-0": Ending("anonymous", errors.ProxyClosed),
    "obs-pipe-greet-auth": Ending("login", errors.ProtocolViolation),
    "obs-auth-after-00": Ending("anonymous", errors.ProtocolViolation),
    "obs-up-ver5": Ending("login", errors.AuthenticationFailed, {"status": 1}),
    "obs-torS0X-1": Ending("login", errors.AuthenticationFailed, {"status": 1}),
    "obs-cmd-bind": Ending("anonymous", errors.CommandNotSupported, {"code": 0x07}),
    "obs-cmd-4": Ending("anonymous", errors.GeneralServerFailure, {"code": 0x01}),
    "obs-rsv-1": Ending("anonymous", errors.GeneralServerFailure, {"code": 0x01}),
    "obs-onion-bad-v6": Ending("anonymous", errors.GeneralServerFailure, {"code": 0x01}),
    "obs-97-only-client->obfs4proxy-0.0.14": Ending("extended", errors.NoAcceptableMethod),
    "obs-pipe-greet-auth-client->obfs4proxy-0.0.14": Ending("login", errors.ProxyClosed),
    "obs-empty-user": Ending("login", errors.AuthenticationFailed, {"status": 1}),
    "obs-bind": Ending("anonymous", errors.CommandNotSupported, {"code": 0x07}),
    "obs-atyp5": Ending("anonymous", errors.AddressTypeNotSupported, {"code": 0x08}),
}
AFTER_SELECTION = {"anonymous": REQUEST, "login": CREDENTIALS, "all": CREDENTIALS}


@pytest.mark.parametrize("vector", **by_id(vectors_of("observed")))
async def test_the_client_ends_rightly_with_a_proxy_as_it_was_observed(play, vector):
    ending = OBSERVED[vector.id]
    greeting = bytes.fromhex(GREETING[ending.methods])
    answer = bytes.fromhex(vector.row["observed_reply"])
    falls_silent = ending.outcome is errors.HandshakeTimeout
    scripts = []
    for pieces in splits(answer, exhaustive=4) if answer else [[]]:
        # The whole answer as soon as the client has greeted.
        scripts.append([(greeting, pieces)])
        selection = next((count for count in (1, 2) if b"".join(pieces[:count]) == answer[:2]), 0)
        if selection and pieces[selection:]:
            # And in turn: the selection, and the rest when the client has said more.
            more = (AFTER_SELECTION[ending.methods], pieces[selection:])
            scripts.append([(greeting, pieces[:selection]), more])
    for script in scripts:
        came = await play(ending.methods, script, ends=vector.row["fin"], falls_silent=falls_silent)
        check_outcome(came, ending)


def test_every_observed_vector_has_an_ending():
    assert {vector.id for vector in vectors_of("observed")} == set(OBSERVED)
