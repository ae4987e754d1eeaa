"""
txtorcon's own SOCKS client beside ours, case by case, with a SOCKS port that says what the test wants.

What is measured here stands in the documentation as tables of ``docs/measured``: a test fails where a cell says
something else. To write them anew: ``WRITE_TABLES=1 make test TESTS=tests/real/test_txtorcon_connections.py``.
"""

import pytest
import pytest_twisted
import treq
from support.measured_tables import Table, each_of, write
from support.scripted_socks import SUCCESS, ScriptedPort, settle
from support.tornet import never_published
from support.txtorcon_clients import HERE, Attempt, Ours, Theirs, connected, words_for
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory
from txtorcon import socks as txtorcon_socks

from txsocksx_ext import tor as for_programs
from txsocksx_ext.testing import HalfCloseRecorder, Recorder

PROTOCOL = Table(__file__, "txtorcon-protocol", ["What happens", "txtorcon", HERE])
CODES = Table(__file__, "txtorcon-codes", ["Reply", "txtorcon", "txtorcon after ``teach_txtorcon()``", HERE])
TABLES = [PROTOCOL, CODES]


@pytest.fixture(scope="module", autouse=True)
def written_tables():
    yield
    write(TABLES)


@pytest.fixture
def port():
    scripted = ScriptedPort()
    yield scripted
    pytest_twisted.blockon(Deferred.fromCoroutine(scripted.close()))


# What happens: each is measured with both clients.

CASES = {}


def case(title, *, right, is_alike=False):
    """A row; ``right`` is what ours has to do. What txtorcon does is measured: another thing, unless both do alike."""

    def add(function):
        CASES[title] = (function, right, is_alike)
        PROTOCOL.titles.append(title)
        return function

    return add


@case("the reply and the first data come together", right="the data arrives at once")
async def _(client, port):
    port.reply = SUCCESS + b"hello"
    application, connection = await connected(client, port)
    application.write(b"ping")
    assert await settle(lambda: connection.received == b"ping")
    if application.received == b"hello":
        return "the data arrives at once"
    connection.transport.write(b" more")
    assert await settle(lambda: application.received == b"hello more")
    return "the data is held back until more comes"


@case("the target closes", right="``connectionLost`` gets ``ConnectionDone``")
async def _(client, port):
    application, connection = await connected(client, port)
    connection.transport.loseConnection()
    assert await settle(lambda: application.lost)
    return f"``connectionLost`` gets {words_for(application.lost.value)}"


@case("the target resets", right="``connectionLost`` gets ``ConnectionLost``")
async def _(client, port):
    application, connection = await connected(client, port)
    connection.transport.abortConnection()
    assert await settle(lambda: application.lost)
    return f"``connectionLost`` gets {words_for(application.lost.value)}"


@case("the target closes its sending side only", right="``readConnectionLost``, and we can still send")
async def _(client, port):
    application, connection = await connected(client, port, HalfCloseRecorder)
    connection.transport.loseWriteConnection()
    assert await settle(lambda: application.read_ended or application.lost)
    if application.lost:
        return "the whole connection is closed"
    application.write(b"still here")
    assert await settle(lambda: connection.received == b"still here")
    return "``readConnectionLost``, and we can still send"


@case("success, with a name as the bound address", right="fires with the protocol")
async def _(client, port):
    port.reply = b"\x05\x00\x00\x03\x04here\x00\x50"
    attempt = Attempt(lambda: client.endpoint("example.com", port).connect(Factory.forProtocol(Recorder)))
    return await attempt.words(
        "fires with the protocol"
        if isinstance(attempt.value, Recorder) or not await settle(lambda: isinstance(attempt.value, bytes))
        else f"fires with ``{attempt.value!r}``"
    )


async def address_told(client, port, reply):
    port.reply = reply
    addresses = []

    class Application(Factory):
        def buildProtocol(self, address):
            addresses.append(address)
            return Recorder()

    Attempt(lambda: client.endpoint("example.com", port).connect(Application()))
    assert await settle(lambda: addresses)
    return addresses[0]


@case("the bound port is 4660", right="``buildProtocol`` is told 4660")
async def _(client, port):
    address = await address_told(client, port, b"\x05\x00\x00\x01" + bytes(4) + (4660).to_bytes(2, "big"))
    return f"``buildProtocol`` is told {client.port_told(address)}"


@case("the bound address is IPv6", right="``buildProtocol`` is told the address")
async def _(client, port):
    address = await address_told(client, port, b"\x05\x00\x00\x04" + bytes(15) + b"\x01" + bytes(2))
    host = client.host_told(address)
    return f"``buildProtocol`` is told {'the address' if host == '::1' else f'16 raw {type(host).__name__}'}"


@case("a refusal cut after 4 bytes, then the end", right="``ConnectionRefused``")
async def _(client, port):
    port.reply, port.closes = b"\x05\x05\x00\x01", True
    return await Attempt(lambda: client.endpoint("example.com", port).connect(Factory.forProtocol(Recorder))).words()


@case("a refusal cut after 4 bytes, and no end", right="``ConnectionRefused``")
async def _(client, port):
    port.reply = b"\x05\x05\x00\x01"
    return await Attempt(lambda: client.endpoint("example.com", port).connect(Factory.forProtocol(Recorder))).words()


@case("the target is an IPv6 address", right="is sent whole")
async def _(client, port):
    host = "2606:4700:4700::1111"
    attempt = Attempt(lambda: client.endpoint(host, port).connect(Factory.forProtocol(Recorder)))
    await settle(lambda: attempt.is_over)
    sent = len(port.connection.asked) - len(b"\x05\x01\x00\x04") - len(b"\x00\x50")
    return "is sent whole" if sent == 16 else f"{sent} of its 16 bytes are sent, then it {await attempt.words()}"


@case("a name of 256 bytes", right="``ValueError`` at once")
async def _(client, port):
    name = "a" * 256
    return await Attempt(lambda: client.endpoint(name, port).connect(Factory.forProtocol(Recorder))).words()


@case("an international name, ``bücher.example``", right="is sent as ``xn--bcher-kva.example``")
async def _(client, port):
    attempt = Attempt(lambda: client.endpoint("bücher.example", port).connect(Factory.forProtocol(Recorder)))
    words = await attempt.words()
    return words if attempt.value is None else f"is sent as ``{port.connection.asked[5:-2].decode()}``"


@case("``buildProtocol`` returns ``None``", right="``NoProtocol``")
async def _(client, port):
    class Application(Factory):
        def buildProtocol(self, address):
            return None

    return await Attempt(lambda: client.endpoint("example.com", port).connect(Application())).words()


@case("``buildProtocol`` raises ``KeyError``", right="``KeyError``")
async def _(client, port):
    class Application(Factory):
        def buildProtocol(self, address):
            raise KeyError

    return await Attempt(lambda: client.endpoint("example.com", port).connect(Application())).words()


@case("``cancel()`` before the reply", right="the socket is closed, and nothing is built")
async def _(client, port):
    port.reply = None
    built = []

    class Application(Factory):
        def buildProtocol(self, address):
            built.append(Recorder())
            return built[-1]

    attempt = Attempt(lambda: client.endpoint("example.com", port).connect(Application()))
    assert await settle(lambda: port.connections and port.connection.asked)
    attempt.deferred.cancel()
    is_closed = await settle(lambda: port.connection.is_lost)
    port.reply = SUCCESS
    port.connection.reply()
    is_built = await settle(lambda: built)
    socket, thing = "is closed" if is_closed else "stays open", "a protocol" if is_built else "nothing"
    return f"the socket {socket}, and {thing} is built"


@case("the SOCKS port says nothing", right="``HandshakeTimeout`` at the deadline")
async def _(client, port):
    port.is_silent = True
    endpoint = client.endpoint("example.com", port, timeout=0.1)
    words = await Attempt(lambda: endpoint.connect(Factory.forProtocol(Recorder))).words()
    return f"{words} at the deadline" if "Timeout" in words else f"{words}: there is no deadline"


@case("isolation of streams", right="a token of its own for each endpoint")
async def _(client, port):
    for _ in range(2):
        await connected(client, port)
    methods = {each.offered for each in port.connections}
    if methods == {b"\x00"}:
        return "none: method 00 alone is offered"
    tokens = {each.login for each in port.connections}
    assert all(each.startswith(b"<torS0X>0") for each in tokens)
    return "a token of its own for each endpoint" if len(tokens) == 2 else "shared"


@case("a user name and a password", right="are sent")
async def _(client, port):
    attempt = Attempt(lambda: client.with_login(port).connect(Factory.forProtocol(Recorder)))
    return await attempt.words("are sent" if await settle(lambda: port.connections and port.connection.login) else "")


@case("a second ``connect()``, with ``socks_endpoint`` a Deferred", right="connects")
async def _(client, port):
    endpoint = client.endpoint("example.com", succeed(port))
    first = Attempt(lambda: endpoint.connect(Factory.forProtocol(Recorder)))
    assert await first.words() == "connects"
    return await Attempt(lambda: endpoint.connect(Factory.forProtocol(Recorder))).words()


@case("F0, and the connection stands nevertheless", right="connects")
async def _(client, port):
    port.reply = b"\x05\xf0\x00\x01" + bytes(6) + b"data"
    attempt = Attempt(lambda: client.endpoint(never_published(), port).connect(Factory.forProtocol(Recorder)))
    return await attempt.words()


@case("a name resolves to an IPv6 address", right="``'::1'``")
async def _(client, port):
    port.reply = b"\x05\x00\x00\x04" + bytes(15) + b"\x01" + bytes(2)
    attempt = Attempt(lambda: client.resolve(port, "example.com"))
    await settle(lambda: attempt.is_over)
    return await attempt.words(f"``{attempt.value!r}``")


@case("the name of an IPv4 address", right="``'example.com'``")
async def _(client, port):
    port.reply = b"\x05\x00\x00\x03\x0bexample.com" + bytes(2)
    attempt = Attempt(lambda: client.resolve_ptr(port, "192.0.2.1"))
    await settle(lambda: attempt.is_over)
    return await attempt.words(f"``{attempt.value!r}``")


@case("the name of an IPv6 address", right="``'example.com'``")
async def _(client, port):
    port.reply = b"\x05\x00\x00\x03\x0bexample.com" + bytes(2)
    attempt = Attempt(lambda: client.resolve_ptr(port, "2606:4700:4700::1111"))
    await settle(lambda: attempt.is_over)
    return await attempt.words(f"``{attempt.value!r}``")


def page(agent, host="example.com"):
    return Attempt(lambda: treq.get(f"http://{host}/", agent=agent).addCallback(treq.content))


@case("``web_agent``: a page", right="the page", is_alike=True)
async def _(client, port):
    attempt = page(client.agent(port))
    assert await settle(lambda: port.connections and port.connection.received.endswith(b"\r\n\r\n"))
    port.connection.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\na page")
    await settle(lambda: attempt.is_over)
    return await attempt.words("the page" if attempt.value == b"a page" else "")


@case("``web_agent``: F0", right="``OnionDescriptorNotFound``")
async def _(client, port):
    port.reply, port.closes = b"\x05\xf0\x00\x01" + bytes(6), True
    return await page(client.agent(port), never_published()).words()


@case("``web_agent``: the SOCKS port says nothing", right="``HandshakeTimeout`` at the deadline")
async def _(client, port):
    port.is_silent = True
    words = await page(client.agent(port, timeout=0.1)).words()
    return f"{words} at the deadline" if "Timeout" in words else f"{words}: there is no deadline"


@case("``web_agent``: isolation", right="a token of its own for each agent")
async def _(client, port):
    one, other = client.agent(port), client.agent(port)
    for number, agent in enumerate([one, one, other]):
        page(agent)
        assert await settle(lambda: [each.has_replied for each in port.connections] == [True] * (number + 1))  # noqa: B023
    first, second, third = (each.login for each in port.connections)
    if first is None:
        return "none: method 00 alone is offered"
    return "a token of its own for each agent" if first == second != third else "another"


# txtorcon raises in the reactor, which logs it.
BOTH = [pytest.param(Theirs(), marks=pytest.mark.logs_errors, id="txtorcon"), pytest.param(Ours(), id="here")]


@pytest.mark.parametrize("client", BOTH)
@pytest.mark.parametrize("title", CASES)
async def test_what_happens(title, client, port, logged_errors):
    measure, right, is_alike = CASES[title]
    words = await measure(client, port)
    # What the reactor logs: an exception of the protocol's, after which it closes the connection.
    raised = {each["failure"].type for each in logged_errors if each["log_namespace"] == "log_legacy"}
    raised = [f"{each.__module__}.{each.__name__}".removeprefix("builtins.") for each in raised]
    if isinstance(client, Ours):
        assert words == right
    else:
        # Where txtorcon is mended, its row has done its work.
        assert (words == right) is is_alike
        if raised:
            words += f"; the log has ``{' '.join(raised)}``"
    PROTOCOL.hold(title, {client.column: words})


# What a failing reply becomes.

REPLIES = {
    "``06``, of an onion service": (0x06, True),
    **{f"``{code:02X}``": (code, True) for code in (0xE0, 0xE1, *range(0xF0, 0xF8))},
    "``09``, which nobody has defined": (0x09, False),
}
CODES.titles = list(REPLIES)


@pytest.mark.parametrize("title", REPLIES)
async def test_what_a_failing_reply_becomes(title, port):
    code, is_onion = REPLIES[title]
    host = never_published() if is_onion else "example.com"
    port.reply, port.closes = b"\x05" + bytes([code]) + b"\x00\x01" + bytes(6), True

    def ask(client):
        return Attempt(lambda: client.endpoint(host, port).connect(Factory.forProtocol(Recorder)))

    theirs, ours = ask(Theirs()), ask(Ours())
    words = [await theirs.words()]
    undo = for_programs.teach_txtorcon()
    taught = ask(Theirs())
    words.append(await taught.words())
    undo()
    untaught = ask(Theirs())
    assert await untaught.words() == words[0]
    words.append(await ours.words())
    if code >= 0xE0:
        assert type(taught.error) is type(ours.error)
    assert isinstance(ours.error, txtorcon_socks.SocksError)
    CODES.hold(title, dict(zip(CODES.columns, words, strict=True)))


@each_of(TABLES)
def test_the_table_has_these_rows_and_no_others(table):
    table.hold_rows()
