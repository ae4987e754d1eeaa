"""The raw vectors: through the decoders, against the running server, and against our client."""

import itertools
import socket
from typing import Any, NamedTuple

import pytest
from support.programs import twistd
from support.targets import Target, programs, read_exactly, read_to_end
from support.vectors import VECTORS, by_id, decode_pieces, splits, vectors_of
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from txsocksx_ext import SOCKS5ClientEndpoint, errors, resolve
from txsocksx_ext.wire import reader
from txsocksx_ext.wire.codes import AddressType, Command, Method, Status
from txsocksx_ext.wire.messages import (
    NO_ADDRESS,
    Address,
    ExtendedRequest,
    ExtendedResponse,
    Greeting,
    MethodSelection,
    Reply,
    Request,
    UsernamePassword,
    UsernamePasswordResponse,
)
from txsocksx_ext.wire.pairs import Pairs
from txsocksx_ext.wire.reader import Fault, MalformedMessage

# Through the decoders.

DECODERS = {
    "greeting": reader.greeting,
    "select": reader.method_selection,
    "request": reader.request,
    "reply": reader.reply,
    "userpass": reader.username_password,
    "userpass_resp": reader.username_password_response,
    "ext_req": reader.extended_request,
    "ext_resp": reader.extended_response,
}

FAULTS = {
    "NMETHODS_ZERO": Fault.NO_METHODS,
    "VERSION": Fault.VERSION,
    "DOMAIN_EMPTY": Fault.DOMAIN_NAME,
    "DOMAIN_NUL": Fault.DOMAIN_NAME,
    "RSV": Fault.RESERVED,
    "ATYP": Fault.ADDRESS_TYPE,
    "KEY_CHARSET": Fault.KEY_CHARACTERS,
    "KLEN_ZERO": Fault.KEY_EMPTY,
    "LIMIT_PAIRS": Fault.LIMIT,
}


def address_of(decoded):
    if decoded["addr"] is None:
        return NO_ADDRESS
    return Address(AddressType(decoded["atyp"]), decoded["addr"], decoded["port"])


MESSAGES = {
    "greeting": lambda decoded: Greeting(tuple(map(Method, decoded["methods"]))),
    "select": lambda decoded: MethodSelection(Method(decoded["method"])),
    "request": lambda decoded: Request(Command(decoded["cmd"]), address_of(decoded)),
    "reply": lambda decoded: Reply(decoded["rep"], address_of(decoded)),
    "userpass": lambda decoded: UsernamePassword(decoded["user"].encode(), decoded["passwd"].encode()),
    "userpass_resp": lambda decoded: UsernamePasswordResponse(Status(decoded["status"])),
    "ext_req": lambda decoded: ExtendedRequest(Pairs(decoded["pairs"])),
    "ext_resp": lambda decoded: ExtendedResponse(Status(decoded["status"]), Pairs(decoded["pairs"])),
}

# Where the package decides otherwise than the vector's strict reading.
DECIDED = {
    # Clients send empty user names and passwords, and tor takes them: so does a proxy.
    "up-empty-user": UsernamePassword(b"", b"p"),
    "up-empty-pass": UsernamePassword(b"u", b""),
    # An unknown command is a well-formed request, which the server answers with 07.
    "req-cmd4": Request(Command(0x04), Address.of("192.0.2.1", 80)),
}


@pytest.mark.parametrize("vector", **by_id(vectors_of(*MESSAGES)))
def test_a_vector_decodes_as_it_should_in_every_split(vector):
    decoder = DECODERS[vector.kind]
    outcome, _, reason = vector.expected.partition(":")
    for pieces in splits(vector.data):
        if vector.name in DECIDED:
            assert decode_pieces(pieces, decoder) == (DECIDED[vector.name], b"")
        elif outcome == "ok":
            message = MESSAGES[vector.kind](vector.row["decoded"])
            assert decode_pieces(pieces, decoder) == (message, vector.rest)
            assert message.encode() + vector.rest == vector.data
        elif outcome == "need-more":
            assert decode_pieces(pieces, decoder)[0] is None
        else:
            with pytest.raises(MalformedMessage) as refused:
                decode_pieces(pieces, decoder)
            assert refused.value.fault is FAULTS[reason]


def test_a_client_reads_the_code_of_a_failing_reply_in_every_split():
    for vector in vectors_of("reply"):
        for pieces in splits(vector.data):
            message, rest = decode_pieces(pieces, reader.reply_or_its_code)
            if vector.expected == "need-more":
                assert message is None, vector.id
            elif vector.row["decoded"]["rep"]:
                assert (message, rest) == (Reply(vector.data[1]), vector.data[2:]), vector.id
            else:
                assert (message, rest) == (MESSAGES["reply"](vector.row["decoded"]), b""), vector.id


def test_credentials_for_tor_and_transports_decode_in_every_split():
    for vector in vectors_of("toruser", "ptauth"):
        for pieces in splits(vector.data):
            message, rest = decode_pieces(pieces, reader.username_password)
            assert message.encode() == vector.data, vector.id
            assert rest == b""


@pytest.mark.parametrize("vector", **by_id(vectors_of("udp")))
def test_a_datagram_decodes_as_it_should(vector):
    if vector.expected == "error:RSV":
        with pytest.raises(MalformedMessage) as refused:
            reader.decode_datagram(vector.data)
        assert refused.value.fault is Fault.RESERVED
        return
    decoded = vector.row["decoded"]
    datagram = reader.decode_datagram(vector.data)
    assert (datagram.address, datagram.data) == (address_of(decoded), bytes.fromhex(decoded["data"]))
    assert (datagram.position, datagram.is_last) == (decoded["frag"], decoded["end"])
    assert datagram.stands_alone == decoded["standalone"]
    assert datagram.encode() == vector.data


# Against the running server.


class Answer(NamedTuple):
    """
    What the server answers to a vector.

    :ivar said: the bytes, in hex; or a text that its ERROR pair holds, where `is_refusal`.
    :ivar closes: whether it closes then.
    :ivar is_refusal: whether it is INVALID ARGUMENTS with a reason.
    :ivar after: what completes a vector that is too short, and the answer to that.
    """

    said: str
    closes: bool = True
    is_refusal: bool = False
    after: Any = None


def failing(code):
    return Answer(f"05 {code} 00 01 00000000 0000")


def goes_on(said):
    return Answer(said, closes=False)


def invalid(reason):
    return Answer(reason, is_refusal=True)


SILENT_CLOSE = Answer("")
REFUSED_BY_RULE = failing("02")
ACCEPTED = goes_on("01 00")
ACCEPTED_97 = goes_on("01 00 0000")


def waits_for(missing, answer):
    return Answer("", closes=False, after=(bytes.fromhex(missing), answer))


SERVER_ANSWERS = {
    "greet-noauth": goes_on("05 00"),
    "greet-ext-first": goes_on("05 97"),
    "greet-dup": goes_on("05 00"),
    "greet-nmethods-0": Answer("05 ff"),
    "greet-short": waits_for("00", goes_on("05 97")),
    "greet-v4": SILENT_CLOSE,
    "s4-connect": SILENT_CLOSE,
    "pt-none": goes_on("05 00"),
    "pt-greet": goes_on("05 02"),
    "req-connect-v4": REFUSED_BY_RULE,
    "req-connect-dom": REFUSED_BY_RULE,
    "req-udp-assoc": failing("07"),
    "req-optimistic": REFUSED_BY_RULE,
    "req-dom-empty": failing("01"),
    "req-dom-nul": failing("01"),
    "req-rsv": failing("01"),
    "req-atyp5": failing("08"),
    "req-cmd4": failing("07"),
    "req-badver": failing("01"),
    "req-short": waits_for("50", REFUSED_BY_RULE),
    "tor-resolve-ptr": REFUSED_BY_RULE,
    "up-ok": ACCEPTED,
    "up-nul-pass": ACCEPTED,
    "up-empty-user": ACCEPTED,
    "up-empty-pass": ACCEPTED,
    "up-ver5": SILENT_CLOSE,
    "x-empty": ACCEPTED_97,
    "x-userpass": ACCEPTED_97,
    "x-pipelined": Answer("01 00 0000" + REFUSED_BY_RULE.said),
    "x-ver5": SILENT_CLOSE,
    "x-plain-key": invalid("KEY"),
    "x-key-with-nul": invalid("printable ASCII"),
    "x-key-8bit": invalid("printable ASCII"),
    "x-rfc1929-by-mistake": invalid("1141 pairs"),
    "x-little-endian": invalid("256 pairs"),
    "x-limit-pairs": invalid("65535 pairs"),
    "x-short-header": waits_for("00", ACCEPTED_97),
    "x-short-pair": waits_for("0001 42 0000", invalid("unknown key: A")),
}
"""To a client on loopback, of a server without credentials whose rules refuse all but this machine."""

OPENINGS = {
    "greeting": None,
    "socks4": None,
    "request": Method.NO_AUTHENTICATION,
    "userpass": Method.USERNAME_PASSWORD,
    "toruser": Method.USERNAME_PASSWORD,
    "ptauth": Method.USERNAME_PASSWORD,
    "ext_req": Method.EXTENDED,
}
TO_SERVER = [vector for vector in vectors_of(*OPENINGS) if vector.row["direction"] in ("client->server", "tor->pt")]

AT_ONCE = 32
"""Connections that are open together: fewer than the 50 that may wait for the server to accept them."""


@pytest.fixture(scope="module")
def server():
    with programs() as start:
        yield twistd(start, "--route=127.0.0.1=direct", "--route=*=refuse")


def connected(server, method=None):
    """A connection on which `method` was selected, if any."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    if method is not None:
        connection.sendall(bytes([5, 1, method]))
        assert read_exactly(connection, 2) == bytes([5, method])
    return connection


def wait_until_all_is_read(server):
    """
    Wait until the server has read what was sent to it so far.

    It handles its connections in the order in which they became readable, so
    what was sent before this conversation is read before its answer.
    """
    connected(server, Method.NO_AUTHENTICATION).close()


def say_nothing_more(connection):
    """Whether nothing can be read now, while the connection stands."""
    connection.setblocking(False)
    try:
        with pytest.raises(BlockingIOError):
            connection.recv(1)
    finally:
        connection.settimeout(20)


def check_answer(server, connection, answer):
    if answer.is_refusal:
        message, rest = decode_pieces([read_to_end(connection)], reader.extended_response)
        assert (message.status, list(message.pairs), rest) == (Status.INVALID_ARGUMENTS, ["ERROR"], b"")
        assert answer.said in message.pairs["ERROR"].decode("ascii")
    elif answer.closes:
        assert read_to_end(connection) == bytes.fromhex(answer.said)
    else:
        said = bytes.fromhex(answer.said)
        assert read_exactly(connection, len(said)) == said
        say_nothing_more(connection)


def check_server(server, method, data, answer, ways):
    """Say the same bytes on many connections, each split in its own way: all get the same answer."""
    ways = iter(ways)
    while chosen := list(itertools.islice(ways, AT_ONCE)):
        connections = [connected(server, method) for _ in chosen]
        for pieces in itertools.zip_longest(*chosen):
            for connection, piece in zip(connections, pieces, strict=True):
                if piece is not None:
                    connection.sendall(piece)
            wait_until_all_is_read(server)
        for connection in connections:
            check_answer(server, connection, answer)
            if answer.after is not None:
                missing, then = answer.after
                connection.sendall(missing)
                wait_until_all_is_read(server)
                check_answer(server, connection, then)
            connection.close()


@pytest.mark.parametrize("vector", **by_id(TO_SERVER))
def test_the_server_answers_a_vector_in_every_split(server, vector):
    answer = ACCEPTED if vector.kind in ("toruser", "ptauth") else SERVER_ANSWERS[vector.name]
    ways = splits(vector.data, exhaustive=8, samples=10)
    check_server(server, OPENINGS[vector.kind], vector.data, answer, ways)


def test_every_vector_for_a_server_has_an_answer():
    own = {vector.name for vector in TO_SERVER if vector.kind not in ("toruser", "ptauth")}
    assert own == set(SERVER_ANSWERS)


LONG = {
    "the longest greeting": (None, b"\5\xff" + bytes(range(255)), goes_on("05 97")),
    "the longest name": (
        Method.NO_AUTHENTICATION,
        b"\5\1\0\3\xff" + b"n" * 255 + b"\0\x50",
        REFUSED_BY_RULE,
    ),
    "the longest credentials": (
        Method.USERNAME_PASSWORD,
        UsernamePassword(b"\xff" * 255, b"\0" * 255).encode(),
        ACCEPTED,
    ),
    "the longest value": (
        Method.EXTENDED,
        ExtendedRequest(Pairs({"USERNAME": bytes(16384), "PASSWD": b"p"})).encode(),
        ACCEPTED_97,
    ),
    "64 pairs": (
        Method.EXTENDED,
        ExtendedRequest(Pairs({f"?x.{number}": b"value" for number in range(64)})).encode(),
        ACCEPTED_97,
    ),
    "a value that is too long": (Method.EXTENDED, b"\1\0\1\0\1a\x40\1" + b"a" * 293, invalid("16385 bytes")),
}


@pytest.mark.parametrize(("method", "data", "answer"), LONG.values(), ids=LONG)
def test_the_server_answers_long_messages_in_splits(server, method, data, answer):
    check_server(server, method, data, answer, splits(data, samples=10))


def test_data_sent_with_the_request_reaches_the_target_in_every_split(server):
    with Target(lambda connection: connection.sendall(read_exactly(connection, 3)[::-1])) as target:
        request = Request(Command.CONNECT, Address.of("127.0.0.1", target.port)).encode()
        for method, before, answered in (
            (Method.NO_AUTHENTICATION, b"", 0),
            (Method.EXTENDED, b"\1\0\0", 4),
        ):
            data = before + request + b"GET"
            for pieces in splits(data):
                connection = connected(server, method)
                for piece in pieces:
                    connection.sendall(piece)
                    wait_until_all_is_read(server)
                answer = read_to_end(connection)
                assert answer[:answered] == bytes.fromhex("01 00 0000")[:answered]
                assert answer[answered : answered + 3] == b"\5\0\0"
                assert answer[answered + 10 :] == b"TEG"
                connection.close()


# Against our client.

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
    "up-resp-badver": Ending("login", errors.AuthenticationFailed, {"status": None}),
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


TO_CLIENT = [vector for vector in vectors_of(*MESSAGES) if vector.row["direction"] == "server->client"]


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
    "obs-up-ver5": Ending("login", errors.AuthenticationFailed, {"status": None}),
    "obs-torS0X-1": Ending("login", errors.AuthenticationFailed, {"status": None}),
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


def test_no_vector_of_these_messages_is_left_out():
    tested = {vector.id for vector in (*TO_SERVER, *TO_CLIENT, *vectors_of("udp", "observed"))}
    left_out = {vector.kind for vector in VECTORS if vector.id not in tested}
    # Other protocols than SOCKS5: pluggable transports' and tor's own.
    assert left_out == {"socks4_reply", "json09", "extor", "extor_hash"}
