"""The documentation: it builds, its programs run, and it says of the code what the code says."""

import configparser
import doctest
import importlib
import inspect
import re
import shlex
import subprocess
import sys
import threading
from itertools import combinations
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer, ThreadingUnixStreamServer
from xml.etree import ElementTree

import pytest
from support.programs import IN_CI, free_port, need
from twisted.internet.defer import succeed
from twisted.internet.endpoints import clientFromString, connectProtocol, quoteStringArgument
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import KeyPair
from twisted.internet.utils import getProcessOutputAndValue
from twisted.web.resource import Resource
from twisted.web.server import Site

from txsocksx_ext import Route, RouteTable, SOCKS5ExtFactory, errors, route_from_string
from txsocksx_ext.handshake import Initiator, Responder
from txsocksx_ext.handshake.conversation import TURNS
from txsocksx_ext.server.passwords import password_line
from txsocksx_ext.tap import Options
from txsocksx_ext.testing import FakeProxy, FakeRoute, Recorder, connect_to
from txsocksx_ext.wire.codes import Command, Method
from txsocksx_ext.wire.messages import Address, ExtendedRequest, Greeting, Request
from txsocksx_ext.wire.pairs import Pairs

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
README = ROOT / "README.rst"
PAGES = sorted(DOCS.rglob("*.rst"))
TEXTS = [README, *(page for page in PAGES if page.parent.name != "newsfragments")]

OF_OTHER_PROGRAMS = {
    *("--socks5-hostname", "--proxy-user"),  # curl
    *("--bind",),  # http.server
    *("--pidfile", "--logfile", "--logger", "--syslog", "--log-format"),  # twistd, twist
    *("--config", "--dir", "--draft"),  # towncrier
}


def need_package(name):
    """In CI a missing package is a failure; elsewhere the test is skipped."""
    try:
        return importlib.import_module(name)
    except ImportError:
        if IN_CI:
            pytest.fail(f"the package {name} is missing")
        pytest.skip(f"the package {name} is missing")


def relative(path):
    return str(path.relative_to(ROOT))


# The pages.


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the built pages."""
    need_package("sphinx")
    need_package("furo")
    folder = tmp_path_factory.mktemp("docs")
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", "-b", "html"),
            *("-d", folder / "doctrees", DOCS, folder / "html"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert finished.returncode == 0, finished.stdout
    return folder / "html"


def test_every_page_is_built(built):
    expected = {page.relative_to(DOCS).with_suffix(".html") for page in TEXTS if page != README}
    assert {page for page in expected if not (built / page).exists()} == set()


SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def diagram(built):
    """The diagram of the conversation."""
    page = (built / "protocol.html").read_text()
    return ElementTree.fromstring(re.search(r"<svg [^>]*The states of the conversation.*?</svg>", page, re.S)[0])


def test_the_diagram_shows_every_state_and_outcome(diagram):
    words = [text.text for text in diagram.iter(f"{SVG}text")]
    reached = {to for turn in TURNS.values() for to in turn.outcomes.values()}
    assert {state.value for state in {*TURNS, *reached}} <= set(words)
    assert {f"{turn.speaker.value}: {turn.message.__name__}" for turn in TURNS.values()} <= set(words)
    outcomes = [name for turn in TURNS.values() for name in turn.outcomes]
    arrows = [path for path in diagram.iter(f"{SVG}path") if path.get("class") == "outcome"]
    assert len(arrows) == len(outcomes)
    assert sorted(word for word in words if word in outcomes) == sorted(name for name in outcomes if name != "sent")


def test_no_two_boxes_of_the_diagram_overlap(diagram):
    boxes = [[float(rect.get(name)) for name in ("x", "y", "width", "height")] for rect in diagram.iter(f"{SVG}rect")]
    overlapping = [
        (one, other)
        for one, other in combinations(boxes, 2)
        if all(one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2] for axis in (0, 1))
    ]
    assert len(boxes) > len(TURNS)
    assert overlapping == []


def test_the_errors_page_has_every_exception(built):
    page = (built / "errors.html").read_text()
    exceptions = [
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception) and value.__module__ == errors.__name__
    ]
    assert len(exceptions) > 30
    assert [name for name in exceptions if f">{name}<" not in page] == []


def test_the_options_page_has_every_option(built):
    page = re.sub(r"<[^>]+>", "", (built / "options.html").read_text())
    assert [name for name in Options().longOpt if name not in ("help", "version") and f"--{name}" not in page] == []


@pytest.mark.parametrize("module", ["txsocksx_ext", "txsocksx_ext.pt", "txsocksx_ext.testing", "txsocksx_ext.tor"])
def test_the_reference_has_every_public_name(built, module):
    page = (built / "api.html").read_text()
    names = importlib.import_module(module).__all__
    missing = [name for name in names if f'id="{module}.{name}"' not in page and name.upper() != name]
    assert missing == []


def test_only_options_that_exist_are_named():
    known = {f"--{name.rstrip('=')}" for name in Options().longOpt} | OF_OTHER_PROGRAMS
    for text in TEXTS:
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text.read_text()))
        assert named - known == set(), relative(text)


def test_the_dependencies_page_names_exactly_what_is_required():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    requirements = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    required = {re.match(r"[\w.-]+", line)[0] for lines in requirements for line in lines.split("\n") if line.strip()}
    page = (DOCS / "dependencies.rst").read_text()
    rows = re.findall(r"^   \* - (.*)", page, re.M)
    named = {re.match(r"[\w.-]+", name)[0] for row in rows for name in re.findall(r"``([^`]+)``", row)}
    assert named == required


def test_the_changelog_takes_every_news_fragment():
    need_package("towncrier")
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "towncrier", "build", "--draft", "--version", "0"),
            *("--config", DOCS / "towncrier.toml", "--dir", ROOT),
        ],
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    fragments = list((DOCS / "newsfragments").glob("*.rst"))
    words = finished.stdout.split()
    assert [each.name for each in fragments if not set(each.read_text().split()) <= set(words)] == []


# The README.


def test_the_readme_is_plain_restructuredtext():
    """As package indexes want it: no directive of Sphinx's, no warning."""
    core = need_package("docutils.core")
    said = []
    core.publish_doctree(
        README.read_text(),
        settings_overrides={
            "report_level": 1,
            "halt_level": 5,
            "file_insertion_enabled": False,
            "raw_enabled": False,
            "warning_stream": type("Warnings", (), {"write": lambda _, text: said.append(text)})(),
        },
    )
    assert said == []


def code_blocks(text, language):
    blocks = re.findall(rf"^\.\. code-block:: {language}\n\n((?:(?:   .*)?\n)+)", text, re.M)
    return [inspect.cleandoc(block) for block in blocks]


def test_the_programs_of_the_readme_are_examples():
    (program,) = code_blocks(README.read_text(), "python")
    assert program in (EXAMPLES / "onion_status.py").read_text()


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
        assert meaning_of(done.stdout) == meaning_of(shown), command
    assert field_names(server.output) == field_names((EXAMPLES / "session.log").read_text())


def meaning_of(output):
    """Of what curl wrote: the page; or its error and the reply code, as its words change from version to version."""
    failure = re.match(r"curl: \((\d+)\).*\((\d+)\)", output.strip())
    return failure.groups() if failure else output.strip()


def field_names(log):
    """The names of the fields in the log's lines of connections."""
    found = {tuple(re.findall(r" (\w+)=", line)) for line in log.splitlines() if " end=" in line}
    assert found
    return found


# Commands and texts.


def server_commands():
    """Every command line of our server in the texts: where it stands, and its options."""
    commands = []
    for text in [*TEXTS, EXAMPLES / "socks5ext.service"]:
        for line in text.read_text().splitlines():
            found = re.match(r"\s*(?:\$ |ExecStart=)\S*twistd? (?:-\S+ )*socks5ext(.*)", line)
            if found:
                commands.append((relative(text), found[1].partition(" #")[0]))
            found = re.match(r'\s+make serve OPTIONS="(.*)"$', line)
            if found:
                commands.append((relative(text), found[1]))
    return commands


@pytest.mark.parametrize(("text", "options"), server_commands())
def test_the_command_is_one(text, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("users").write_text(password_line("alice", "secret"))
    Path("password").write_text("secret\n")
    pair = KeyPair.generate(size=2048)
    Path("key.pem").write_bytes(pair.dump(1))
    Path("cert.pem").write_bytes(pair.selfSignedCert(1, commonName="localhost").dumpPEM())
    Options().parseOptions(shlex.split(options))


def test_commands_are_found():
    assert {relative(README), "docs/howto/server.rst", "docs/routes.rst"} <= {text for text, _ in server_commands()}


@pytest.mark.parametrize(
    "page", [page for page in TEXTS if re.search(r"^ +>>> ", page.read_text(), re.M)], ids=relative
)
def test_the_dialogues_of_the_page(page):
    failed, tried = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert tried
    assert not failed


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
    *("extended_client.py", "extended_server.py", "fetch.py", "inside.py", "onion_status.py", "own_route.py"),
    *("resolve.py", "stay_connected.py", "your_tests.py"),
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
    assert {name for name in tables if f".. include:: measured/{name}" not in shown} == set()


# Twisted's own agent makes its readBody() warn.
QUIETLY = ("-B", "-W", "ignore:Using readBody:DeprecationWarning")


def twistd_command(*arguments):
    return [sys.executable, "-B", "-c", "from twisted.scripts.twistd import run; run()", "-n", "--pidfile=", *arguments]


def proxy_at(port):
    return f"tcp:127.0.0.1:{port}"


async def run_example(name, *arguments):
    """Run an example beside the servers of this process. What it writes."""
    output, said, status = await getProcessOutputAndValue(
        sys.executable, [*QUIETLY, str(EXAMPLES / name), *map(str, arguments)], env=None
    )
    assert (status, said.decode()) == (0, "")
    return output.decode().splitlines()


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
    assert said[0] == "it answers"
    assert said[1].startswith("not found: there is no such onion service")
    assert said[2].startswith("not reachable: the onion service could not be reached")
    assert said[3].startswith("failed with reply code 2: the proxy's rules do not allow")
    assert {request.destination.host for request in proxy.requests} == {"example.onion"}


class Hello(Resource):
    isLeaf = True

    def render_GET(self, request):
        return b"hello\n"


async def test_fetching_through_a_proxy(listening):
    from twisted.internet import reactor

    web_port = listening(Site(Hello(), timeout=None))
    proxy_port = listening(SOCKS5ExtFactory(reactor))
    assert await run_example("fetch.py", f"http://localhost:{web_port}/", proxy_at(proxy_port)) == ["200 hello"] * 2


class KnownNames(Route):
    def resolve(self, request, session):
        is_name = request.command == Command.RESOLVE
        return succeed(Address.of("192.0.2.7" if is_name else "seven.example", 0))


async def test_resolving_through_a_proxy(listening):
    from twisted.internet import reactor

    table = RouteTable([("*.nowhere", route_from_string(reactor, "direct"))], default=KnownNames())
    port = listening(SOCKS5ExtFactory(reactor, routes=table))
    said = await run_example("resolve.py", "seven.example", "192.0.2.7", proxy_at(port))
    assert said == ["seven.example is 192.0.2.7", "192.0.2.7 is seven.example"]
    said = await run_example("resolve.py", "example.onion.nowhere", "192.0.2.7", proxy_at(listening(FakeProxy(code=7))))
    assert said == ["this proxy does not resolve"] * 2


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
    said = await run_example("stay_connected.py", "example.com", 80, proxy_at(port))
    assert [line.partition(":")[0] for line in said] == ["not yet", "it said"]
    port = listening(FakeProxy(method=Method.EXTENDED, status=2))
    said = await run_example("stay_connected.py", "example.com", 80, proxy_at(port))
    assert said == ["gave up: the proxy does not take these arguments: check the keys and values of the pairs"]


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
    assert ask("spring") == ["NotFoundOrNotForGuests: it is not there, or not for guests: become a member"]
    (refused,) = ask("winter")
    assert refused.startswith("AuthenticationFailed: the proxy does not let us in: ")
    (said,) = run_example_blocking("onion_status.py", "127.0.0.1", target, proxy_at(port))
    assert said.startswith("failed with reply code None: the proxy does not let us in")


def test_a_route_of_ones_own(program, serving, tmp_path):
    port = free_port()
    serving(ThreadingUnixStreamServer(str(tmp_path / "greeter"), Greet))
    program(
        twistd_command("-y", EXAMPLES / "own_route.py"),
        env={"LISTEN": f"tcp:{port}:interface=127.0.0.1", "FOLDER": str(tmp_path)},
        port=port,
    )
    said = run_example_blocking("stay_connected.py", "greeter.internal", 80, proxy_at(port))
    assert said == ["it said: hello"]
    said = run_example_blocking("onion_status.py", "other.internal", 80, proxy_at(port))
    assert said[0].startswith("failed with reply code 4")
    said = run_example_blocking("onion_status.py", "localhost", 80, proxy_at(port))
    assert said[0].startswith("failed with reply code 2")


def test_a_server_inside_a_program(program, serving):
    port = free_port()
    program(twistd_command("-y", EXAMPLES / "inside.py"), env={"LISTEN": f"tcp:{port}:interface=127.0.0.1"}, port=port)
    target = serving(ThreadingTCPServer(("127.0.0.1", 0), Greet)).server_address[1]
    assert run_example_blocking("onion_status.py", "127.0.0.1", target, proxy_at(port)) == ["it answers"]
    assert run_example_blocking("onion_status.py", "127.0.0.1", 25, proxy_at(port))[0].startswith(
        "failed with reply code 2"
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
    client = connect_to(SOCKS5ExtFactory(reactor, routes=table))
    client.write(Greeting((Method.EXTENDED,)).encode() + ExtendedRequest(Pairs({key: b"alice"})).encode())
    client.write(Request(Command.CONNECT, Address.of("example.com", 80)).encode())
    await client.until(lambda it: len(it.received) >= 16 or it.lost)
    assert client.received[:6] == b"\x05\x97" + b"\x01\x00\x00\x00"
    assert client.received[6:8] == reply
    client.close()
    await client.until(lambda it: it.lost)
