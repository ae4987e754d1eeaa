"""The programs of the documentation run, and what its pages promise holds."""

import inspect
import re
import shlex
import socket
import subprocess
import sys
import threading
from socketserver import BaseRequestHandler, ThreadingTCPServer, ThreadingUnixStreamServer

import pytest
import treq
from examples.raw_peers import proxy, target
from support.certificates import Authority
from support.documentation import DOCS, EXAMPLES, PAGES, README, ROOT
from support.mail import MailServer
from support.programs import free_port, need
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet.defer import succeed
from twisted.internet.endpoints import clientFromString, connectProtocol, quoteStringArgument
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.utils import getProcessOutputAndValue
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from twisted.web.server import Site

import txsocksx_ext
from txsocksx_ext import Route, RouteTable, SOCKS5ExtFactory, errors, route_from_string
from txsocksx_ext.protocol.codes import Command, Method
from txsocksx_ext.protocol.messages import Address, ExtendedRequest, Greeting, Request
from txsocksx_ext.protocol.pairs import Pairs
from txsocksx_ext.protocol.socks5 import Initiator, Responder
from txsocksx_ext.server.auth import portal_for
from txsocksx_ext.testing import FakeProxy, FakeRoute, Recorder, connect_to


def code_blocks(text, language):
    blocks = re.findall(rf"^\.\. code-block:: {language}\n\n((?:(?:   .*)?\n)+)", text, re.M)
    return [inspect.cleandoc(block) for block in blocks]


def test_the_programs_of_the_readme_are_examples():
    (program,) = code_blocks(README.read_text(), "python")
    assert program in (EXAMPLES / "quickstart.py").read_text()


@pytest.mark.parametrize(("code", "printed"), [(0xF0, "There is no such service"), (0xF2, "The service is down")])
async def test_the_first_lines_of_the_readme(code, printed, capsys):
    """They print what tor's extended reply code means."""
    lines = README.read_text().partition("``::\n\n")[2].partition("\n\n*")[0]
    proxy = FakeProxy(code=code)
    names = {**vars(errors), "reactor": Clock(), "treq": treq, "txsocksx_ext": txsocksx_ext, "proxy": proxy.endpoint}
    exec("async def main():\n" + lines.replace('"socks5://127.0.0.1:9050"', "proxy"), names)
    await names["main"]()
    assert capsys.readouterr().out.startswith(printed)


def test_the_session_of_the_readme(program, tmp_path):
    curl = need("curl")
    proxy_port, web_port = free_port(), free_port()
    program(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", "--directory", tmp_path, web_port], port=web_port
    )
    server = program(twistd_command("socks5ext", "--listen", f"tcp:{proxy_port}:interface=127.0.0.1"), port=proxy_port)
    (session,) = code_blocks(README.read_text(), "console")
    (write, _, *calls) = session.split("$ ")[1:]
    subprocess.run(write, shell=True, check=True, cwd=tmp_path)
    for call in calls:
        command, _, shown = call.strip().partition("\n")
        command = command.replace(":1080", f":{proxy_port}").replace(":8000", f":{web_port}")
        arguments = [curl, "--silent", "--show-error", *shlex.split(command)[1:]]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30)
        assert classify_keys(done.stdout) == classify_keys(shown), command
    assert field_names(server.output) == field_names((EXAMPLES / "session.log").read_text())


def classify_keys(output):
    """Of what curl wrote: the page; or its error and the reply code, as its words change from version to version."""
    failure = re.match(r"curl: \((\d+)\).*\((\d+)\)", output.strip())
    return failure.groups() if failure else output.strip()


def field_names(log):
    """The names of the fields in the log's lines of connections."""
    found = {tuple(re.findall(r" (\w+)=", line)) for line in log.splitlines() if " end=" in line}
    assert found
    return found


def test_the_bytes_of_the_conversation():
    """The conversation in the protocol page is what our two ends say."""
    initiator, responder = Initiator(), Responder()
    said = []

    def says(who, data, other):
        said.append(f"{who}> {data.hex()}")
        other.feed(data)
        assert other.next_message() is not None

    says("C", initiator.offer((Method.EXTENDED, Method.USERNAME_PASSWORD, Method.NO_AUTHENTICATION)), responder)
    says("S", responder.select(Method.EXTENDED), initiator)
    pairs = Pairs({"USERNAME": "bob", "PASSWD": "hunt"})
    says("C", initiator.authenticate(ExtendedRequest(pairs)), responder)
    says("S", responder.answer(0), initiator)
    says("C", initiator.request(Request(Command.CONNECT, Address.of("example.com", 80))), responder)
    says("S", responder.reply(0), initiator)
    shown = (EXAMPLES / "conversation.txt").read_text().splitlines()
    assert [line[:3] + line[3:].replace(" ", "").lower() for line in shown] == said


async def test_an_endpoint_string_carries_any_byte(listening):
    """As the page on the client writes it."""
    from twisted.internet import reactor

    proxy = FakeProxy()
    way = quoteStringArgument(proxy_at(listening(proxy)))
    token = bytes(range(256))
    value = quoteStringArgument(token.decode("utf-8", "surrogateescape"))
    endpoint = clientFromString(reactor, f"socks5ext:example.com:80:proxy={way}:space.token={value}")
    client = await connectProtocol(endpoint, Recorder())
    assert proxy.conversations[0].pairs["space.token"] == token
    client.close()
    await client.until(lambda it: it.lost)


async def test_an_endpoint_string_goes_through_two_proxies(listening):
    """As the page on the client writes it: its colons quoted twice."""
    from twisted.internet import reactor

    second, first_port = FakeProxy(), listening(SOCKS5ExtFactory(reactor))
    description = f"socks5ext:127.0.0.1:{listening(second)}:proxy={quoteStringArgument(proxy_at(first_port))}"
    endpoint = clientFromString(reactor, f"socks5ext:example.com:80:proxy={quoteStringArgument(description)}")
    client = await connectProtocol(endpoint, Recorder())
    client.write(b"hello")
    target = second.conversations[0].tunnel
    await target.until(lambda it: it.received == b"hello")
    assert second.requests[0].destination == Address.of("example.com", 80)
    client.close()
    await client.until(lambda it: it.lost)
    await target.until(lambda it: it.lost)


# The examples.

TESTED_HERE = {
    *(
        "any_application.py",
        "extended_client.py",
        "extended_server.py",
        "fetch.py",
        "http_proxy.py",
        "inside.py",
        "onion_status.py",
    ),
    *("own_protocol.py", "own_route.py"),
    "route_kind_plugin.py",  # in tests/test_server_extension_points.py
    *("quickstart.py", "resolve.py", "stay_connected.py", "your_tests.py"),
}

TESTED_WITH_TOR = {"fetch_onion.py", "locked_onion.py", "team_gateway.tac"}

# In test_pt_program.py, and with tor in real/test_pt_tor.py.
TRANSPORTS = {"flip.py", "sealed.py", "sealed_tests.py"}


def test_every_example_is_shown_and_tested():
    programs = {path.name for pattern in ("*.py", "*.tac") for path in EXAMPLES.glob(pattern)}
    assert programs == TESTED_HERE | TESTED_WITH_TOR | TRANSPORTS
    tests_with_tor = (ROOT / "tests" / "real" / "test_tor_as_client.py").read_text()
    assert {name for name in TESTED_WITH_TOR if f'"{name}"' not in tests_with_tor} == set()
    shown = "".join(page.read_text() for page in PAGES)
    assert {name for name in programs if f"examples/{name}" not in shown} == set()


def test_every_measured_table_is_shown():
    tables = {path.name for path in (DOCS / "measured").iterdir()}
    shown = "".join(page.read_text() for page in PAGES)
    included = set(re.findall(r"^\.\. include:: (?:\.\./)?measured/(\S+)$", shown, re.M))
    assert tables - included == set()


# Twisted's own agent makes its readBody() warn.
QUIETLY = ("-B", "-W", "ignore:Using readBody:DeprecationWarning")


def twistd_command(*arguments):
    return [sys.executable, "-B", "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=", *arguments]


def proxy_at(port):
    return f"tcp:127.0.0.1:{port}"


async def end_of_example(name, *arguments):
    """Run an example beside the servers of this process; return its output, its errors and its exit status."""
    output, said, status = await getProcessOutputAndValue(
        sys.executable, [*QUIETLY, str(EXAMPLES / name), *map(str, arguments)], env=None
    )
    return output.decode().splitlines(), said.decode(), status


async def run_example(name, *arguments):
    """Run an example beside the servers of this process; return its output."""
    output, said, status = await end_of_example(name, *arguments)
    assert (status, said) == (0, "")
    return output


def run_example_blocking(name, *arguments):
    """Run an example whose servers are other processes, or threads. What it writes."""
    done = subprocess.run(
        [sys.executable, *QUIETLY, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture
def listening():
    """Have a factory listen on loopback: its port."""
    import pytest_twisted
    from twisted.internet import reactor

    ports = []

    def listen(factory):
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        ports.append(port)
        return port.getHost().port

    yield listen
    for port in ports:
        pytest_twisted.blockon(port.stopListening())


async def test_the_status_of_an_onion_service(listening):
    proxy = FakeProxy()
    port = listening(proxy)
    said = []
    for code in (0x00, 0xE0, 0xE1, 0x02):
        proxy.code = code
        said += await run_example("onion_status.py", "example.onion", 80, proxy_at(port))
    assert said[0] == "the service answers"
    assert said[1].startswith("not found: there is no such onion service")
    assert said[2].startswith("not reachable: the onion service could not be reached")
    assert said[3].startswith("failed with reply code 0x02: the proxy's rules do not allow")
    assert {request.destination.host for request in proxy.requests} == {"example.onion"}


class Hello(Resource):
    isLeaf = True

    def render_GET(self, request):
        return b"hello\n"


async def test_the_quick_start_fetches_its_page_and_others_through_the_proxy(listening):
    from twisted.internet import reactor

    web_port = listening(Site(Hello(), timeout=None))
    proxy = FakeProxy(code=0x04)
    proxy_port = listening(SOCKS5ExtFactory(reactor))
    program = (EXAMPLES / "quickstart.py").read_text().replace("socks5://127.0.0.1:1080", proxy_at(proxy_port))
    output, said, status = await getProcessOutputAndValue(sys.executable, [*QUIETLY, "-c", program], env=None)
    assert (output, said, status) == (b"hello through the proxy\n", b"", 0)
    url = f"http://localhost:{web_port}/"
    assert await run_example("quickstart.py", url, proxy_at(proxy_port)) == ["hello", ""]
    output, said, status = await end_of_example("quickstart.py", url, proxy_at(listening(proxy)))
    assert (output, status) == ([], 1)
    assert re.fullmatch("The proxy could not connect: the target was not found .*\n", said)
    assert proxy.requests[0].destination == Address.of("localhost", web_port)


@pytest.mark.parametrize("host", ["127.0.0.1", "nosuch.invalid"])
async def test_the_quick_start_says_in_one_line_that_no_proxy_runs(host):
    proxy = f"socks5://{host}:{free_port()}"
    output, said, status = await end_of_example("quickstart.py", "http://localhost/", proxy)
    assert (output, status) == ([], 1)
    assert said == f"No proxy answers at {proxy}. Start one with `make serve`, or name another one.\n"


async def test_fetching_through_a_proxy(listening):
    from twisted.internet import reactor

    web_port = listening(Site(Hello(), timeout=None))
    proxy_port = listening(SOCKS5ExtFactory(reactor))
    assert await run_example("fetch.py", f"http://localhost:{web_port}/", proxy_at(proxy_port)) == ["200 hello"] * 2


async def test_https_of_a_private_authority_through_an_http_proxy(listening, tmp_path):
    from twisted.internet import reactor

    authority = Authority()
    (tmp_path / "authority.pem").write_bytes(authority.pem)
    site = TLSMemoryBIOFactory(authority.server_options("localhost"), False, Site(Hello(), timeout=None))
    portal = portal_for([InMemoryUsernamePasswordDatabaseDontUse(alice="p@ss")])
    proxy = f"http://alice:p%40ss@127.0.0.1:{listening(SOCKS5ExtFactory(reactor, portal=portal))}"
    said = await run_example("http_proxy.py", "localhost", listening(site), proxy, tmp_path / "authority.pem")
    assert said == ["Agent: 200 hello", "treq: 200 hello", "ClientService: HTTP/1.0 200 OK"]


async def test_code_that_knows_nothing_of_proxies(listening):
    from twisted.internet import reactor

    mail = MailServer()
    server, proxy_port = f"localhost:{listening(mail)}", listening(SOCKS5ExtFactory(reactor))
    said = await run_example("any_application.py", "someone@example.com", server, proxy_at(proxy_port))
    assert said == ["delivered to 1 mailbox"]
    assert mail.received[0][-1] == b"Hello."


class KnownNames(Route):
    def resolve(self, request, addresses, session):
        is_name = request.command == Command.RESOLVE
        return succeed(Address.of("192.0.2.7" if is_name else "seven.example", 0))


async def test_resolving_through_a_proxy(listening):
    from twisted.internet import reactor

    table = RouteTable([("*.nowhere", route_from_string(reactor, "direct"))], default=KnownNames())
    port = listening(SOCKS5ExtFactory(reactor, policy=table))
    said = await run_example("resolve.py", "seven.example", "192.0.2.7", proxy_at(port))
    assert said == ["seven.example is 192.0.2.7", "192.0.2.7 is seven.example"]
    said = await run_example("resolve.py", "example.onion.nowhere", "192.0.2.7", proxy_at(listening(FakeProxy(code=7))))
    assert said == ["this proxy does not support lookups"] * 2


class SaysHello(Protocol):
    def connectionMade(self):
        self.transport.write(b"hello\n")


class ProxyThatComesUp(FakeProxy):
    """Times out once."""

    def buildProtocol(self, addr):
        self.code = 0 if self.conversations else 0x06
        return super().buildProtocol(addr)


async def test_staying_connected(listening):
    port = listening(ProxyThatComesUp(Factory.forProtocol(SaysHello)))
    said, logged, status = await end_of_example("stay_connected.py", "example.com", 80, proxy_at(port))
    assert (len(said), said[0].partition(":")[0], status) == (1, "first line", 0)
    assert logged.count("not connected: ") == 1
    port = listening(FakeProxy(method=Method.EXTENDED, status=2))
    said, logged, status = await end_of_example("stay_connected.py", "example.com", 80, proxy_at(port))
    assert (said, status) == ([], 1)
    why = "the proxy does not take these arguments: check the keys and values of the pairs"
    assert f"not connected: {why}; retry: never" in logged
    assert logged.splitlines()[-1] == f"gave up: {why}"


class Greet(BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"hello\n")
        self.request.recv(1)


@pytest.fixture
def serving():
    """Have a server serve in a thread."""
    servers = []

    def serve(server):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        servers.append(server)
        return server

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def test_both_ends_extended(program, serving):
    port = free_port()
    program(
        twistd_command("-y", EXAMPLES / "extended_server.py"),
        env={"LISTEN": f"tcp:{port}:interface=127.0.0.1"},
        port=port,
    )
    target = serving(ThreadingTCPServer(("127.0.0.1", 0), Greet)).server_address[1]

    def ask(ticket):
        return run_example_blocking("extended_client.py", "127.0.0.1", target, proxy_at(port), ticket)

    assert ask("summer") == ["welcome, member"]
    assert ask("spring") == [
        "NotFoundOrNotForGuests: the target does not exist or is not open to guests: become a member"
    ]
    (refused,) = ask("winter")
    assert refused.startswith("AuthenticationFailed: the proxy does not let us in: ")
    (said,) = run_example_blocking("onion_status.py", "127.0.0.1", target, proxy_at(port))
    assert said.startswith("the proxy does not let us in")


def test_a_route_of_ones_own(program, serving, tmp_path):
    port = free_port()
    serving(ThreadingUnixStreamServer(str(tmp_path / "greeter"), Greet))
    program(
        twistd_command("-y", EXAMPLES / "own_route.py"),
        env={"LISTEN": f"tcp:{port}:interface=127.0.0.1", "FOLDER": str(tmp_path)},
        port=port,
    )
    said = run_example_blocking("stay_connected.py", "greeter.internal", 80, proxy_at(port))
    assert said == ["first line: hello"]
    said = run_example_blocking("onion_status.py", "other.internal", 80, proxy_at(port))
    assert said[0].startswith("failed with reply code 0x04")
    said = run_example_blocking("onion_status.py", "localhost", 80, proxy_at(port))
    assert said[0].startswith("failed with reply code 0x02")


async def test_the_command_of_the_page_on_extending():
    from twisted.internet import reactor

    page = (DOCS / "howto" / "extend.rst").read_text()
    (code,) = [block for block in code_blocks(page, "python") if "COMMANDS" in block]
    names = {}
    async with target() as far:
        exec(code.replace("!= 80", f"!= {far.port}"), names)
        async with proxy(names["MyFactory"](reactor)) as server:
            assert await server.code("127.0.0.1", 80) == 0x02
            client, code, _ = await server.ask("127.0.0.1", far.port)
            assert code == 0x00
            client.abort()
            await (await far.accept()).lost()


def test_a_protocol_of_ones_own(program, serving):
    port = free_port()
    server = program(
        twistd_command("-y", EXAMPLES / "own_protocol.py"),
        env={"LISTEN": f"tcp:{port}:interface=127.0.0.1"},
        port=port,
    )
    target = serving(ThreadingTCPServer(("127.0.0.1", 0), Greet)).server_address[1]

    def answer_to(line):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(line)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(100), b""))

    assert answer_to(b"> 127.0.0.1 %d\ne" % target) == b"OK\nhello\n"
    assert answer_to(b"> 127.0.0.1 %d\n" % free_port()) == b"NO 5\n"
    for malformed in (b"> 127.0.0.1\n", b">> 127.0.0.1 80\n", b">" * 400):
        assert answer_to(malformed) == b"NO 1\n"
    assert run_example_blocking("onion_status.py", "127.0.0.1", target, proxy_at(port)) == ["the service answers"]
    assert "unexpectedly" not in server.output


def test_a_server_inside_a_program(program, serving):
    port = free_port()
    program(twistd_command("-y", EXAMPLES / "inside.py"), env={"LISTEN": f"tcp:{port}:interface=127.0.0.1"}, port=port)
    target = serving(ThreadingTCPServer(("127.0.0.1", 0), Greet)).server_address[1]
    assert run_example_blocking("onion_status.py", "127.0.0.1", target, proxy_at(port)) == ["the service answers"]
    assert run_example_blocking("onion_status.py", "127.0.0.1", 25, proxy_at(port))[0].startswith(
        "failed with reply code 0x02"
    )


def test_the_tests_of_the_example_pass():
    done = subprocess.run(
        [sys.executable, "-B", "-m", "unittest", "your_tests.py"], cwd=EXAMPLES, capture_output=True, text=True
    )
    assert re.search(r"Ran [1-9]\d* tests", done.stderr), done.stderr
    assert done.returncode == 0, done.stderr


# What the pages promise, where no other test's subject is the same.


@pytest.mark.parametrize(
    ("key", "reply"), [("tor.isolation", b"\x05\x02"), ("?tor.isolation", b"\x05\x00")], ids=["key", "optional key"]
)
async def test_a_key_that_the_route_cannot_honour_is_refused(key, reply):
    """Protocol page: some route knows the key, but not the one that the request takes."""
    from twisted.internet import reactor

    with_key, without = FakeRoute(keys=frozenset({"tor.isolation"})), FakeRoute()
    table = RouteTable([("*.onion", with_key)], default=without)
    client = connect_to(SOCKS5ExtFactory(reactor, policy=table))
    client.write(Greeting((Method.EXTENDED,)).encode() + ExtendedRequest(Pairs({key: b"alice"})).encode())
    client.write(Request(Command.CONNECT, Address.of("example.com", 80)).encode())
    await client.until(lambda it: len(it.received) >= 16 or it.lost)
    assert client.received[:6] == b"\x05\x97" + b"\x01\x00\x00\x00"
    assert client.received[6:8] == reply
    client.close()
    await client.until(lambda it: it.lost)
