"""``socks5ext run``: programs that know nothing of proxies."""

import os
import sys

import pytest
from support.namespaces import own_network
from support.programs import free_port
from support.ways import listening, listening_on_port
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.utils import getProcessOutputAndValue

from txsocksx_ext import SOCKS5ExtFactory
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.testing import FakeProxy


class Greeter(Protocol):
    def connectionMade(self):
        self.transport.write(b"hello\n")


ASK = """
import sys
from twisted.internet.protocol import ClientFactory
from twisted.protocols.basic import LineOnlyReceiver

class Asking(LineOnlyReceiver):
    delimiter = b"\\n"
    def lineReceived(self, line):
        from twisted.internet import reactor
        print(type(reactor).__name__, line.decode())
        reactor.stop()

class Factory(ClientFactory):
    protocol = Asking
    def clientConnectionFailed(self, connector, reason):
        from twisted.internet import reactor
        print(reason.getErrorMessage())
        reactor.stop()

def ask(host, port):
    from twisted.internet import reactor
    reactor.connectTCP(host, int(port), Factory())
"""
PROGRAM = f"""{ASK}
from twisted.internet import reactor
ask(*sys.argv[1:3])
reactor.run()
"""


@pytest.fixture
def fake():
    return FakeProxy(Factory.forProtocol(Greeter))


async def run(*arguments, environment=(), folder=None):
    """Run a program; return what it prints, what it says on standard error, and its exit status."""
    inherited = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    output, said, status = await getProcessOutputAndValue(
        sys.executable,
        ["-W", "ignore", "-m", "txsocksx_ext.cli", "run", *map(str, arguments)],
        {**inherited, **dict(environment)},
        folder,
    )
    return output.decode().splitlines(), said.decode().splitlines(), status


@pytest.fixture
def program(tmp_path):
    """Write a program, and return its path."""

    def write(text, name="program.py"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


async def through(fake, *arguments, **options):
    """Run a program through a `FakeProxy`."""
    async with listening_on_port(fake) as port:
        return await run("--proxy", f"tcp:127.0.0.1:{port}", *arguments, **options)


class TestPrograms:
    async def test_a_file(self, fake, program):
        done = await through(fake, program(PROGRAM), "name.example", 80)
        assert done == (["EPollReactor hello"], [], 0)
        assert [each.destination for each in fake.requests] == [Address.of("name.example", 80)]

    @pytest.mark.parametrize(
        ("install", "kind"),
        [
            ("from twisted.internet import asyncioreactor; asyncioreactor.install()", "AsyncioSelectorReactor"),
            ("from twisted.internet import selectreactor; selectreactor.install()", "SelectReactor"),
        ],
        ids=["asyncio", "select"],
    )
    async def test_one_that_installs_a_reactor(self, fake, program, install, kind):
        done = await through(fake, program(f"{install}\n{PROGRAM}"), "name.example", 80)
        assert done == ([f"{kind} hello"], [], 0)
        assert [each.destination.host for each in fake.requests] == ["name.example"]

    async def test_a_proxy_behind_another_by_an_endpoint_string_of_a_plugin(self, fake, program):
        async with listening_on_port(fake) as port:
            proxy = rf"socks5ext:second.example:1080:proxy=127.0.0.1\:{port}"
            _, said, _ = await run("--proxy", proxy, "--timeout", 1, program(PROGRAM), "name.example", 80)
        assert not any("Traceback" in line for line in said), said
        assert [each.destination for each in fake.requests] == [Address.of("second.example", 1080)]

    async def test_a_module_of_the_current_folder(self, fake, program):
        folder = program(PROGRAM, "a_module.py").parent
        done = await through(fake, "-m", "a_module", "name.example", 80, folder=folder)
        assert done == (["EPollReactor hello"], [], 0)

    async def test_twistd_with_an_application_that_connects(self, fake, program):
        tac = program(
            f"""{ASK}
from twisted.application.internet import TCPClient
from twisted.application.service import Application
application = Application("asking")
TCPClient("name.example", 80, Factory()).setServiceParent(application)
""",
            "asking.tac",
        )
        output, said, status = await through(fake, "twistd", "-n", "--pidfile=", "-y", tac)
        assert (said, status) == ([], 0)
        assert any("EPollReactor hello" in line for line in output)
        assert [each.destination.host for each in fake.requests] == ["name.example"]

    async def test_it_finds_its_arguments_its_folder_and_itself(self, program, fake):
        path = program(
            "import sys, beside\n"
            "print(__name__, __file__ == sys.argv[0], sys.argv[1:], sys.modules['__main__'].__dict__ is globals())"
        )
        program("", "beside.py")
        assert await through(fake, path, "-a", "--proxy", "x") == (["__main__ True ['-a', '--proxy', 'x'] True"], [], 0)

    async def test_a_command_that_python_does_not_run_by_its_name(self, program, fake):
        path = program(f"#!{sys.executable}\nprint('ran')", "command")
        path.chmod(0o755)
        environment = {"PATH": f"{path.parent}:{os.environ['PATH']}"}
        assert await through(fake, "command", environment=environment) == (["ran"], [], 0)

    @pytest.mark.parametrize(
        ("text", "status"),
        [("raise SystemExit(7)", 7), ("import os; os._exit(3)", 3), ("1 / 0", 1), ("import sys; sys.exit('why')", 1)],
    )
    async def test_the_exit_status_is_the_programs(self, fake, program, text, status):
        _, said, ended = await through(fake, program(text))
        assert ended == status
        assert ("ZeroDivisionError" in "".join(said)) is (text == "1 / 0")


class TestSettings:
    async def test_the_proxy_of_the_environment(self, fake, program):
        path = program(PROGRAM)
        async with listening_on_port(fake) as port:
            for name in ("ALL_PROXY", "all_proxy"):
                done = await run(path, "name.example", 80, environment={name: f"tcp:127.0.0.1:{port}"})
                assert done == (["EPollReactor hello"], [], 0)
        assert len(fake.requests) == 2

    @pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4a", "http"])
    async def test_a_url(self, program, scheme):
        async with (
            listening_on_port(Factory.forProtocol(Greeter)) as target,
            listening_on_port(SOCKS5ExtFactory(reactor)) as port,
        ):
            done = await run("--proxy", f"{scheme}://127.0.0.1:{port}", program(PROGRAM), "localhost", target)
        assert done == (["EPollReactor hello"], [], 0)

    async def test_a_url_with_a_password(self, fake, program):
        fake.method = Method.USERNAME_PASSWORD
        async with listening_on_port(fake) as port:
            environment = {"ALL_PROXY": f"socks5://alice:se%3Acret@127.0.0.1:{port}"}
            done = await run(program(PROGRAM), "name.example", 80, environment=environment)
        assert done == (["EPollReactor hello"], [], 0)
        (conversation,) = fake.conversations
        assert (conversation.credentials.username, conversation.credentials.password) == (b"alice", b"se:cret")

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    async def test_hosts_without_the_proxy(self, fake, program, host):
        async with listening_on_port(Factory.forProtocol(Greeter)) as port:
            environment = {"NO_PROXY": "example.com, localhost,127.0.0.0/8,"}
            done = await through(fake, program(PROGRAM), host, port, environment=environment)
        assert done == (["EPollReactor hello"], [], 0)
        assert fake.requests == []

    async def test_isolation(self, fake, program):
        path = program(PROGRAM)
        for _ in range(2):
            await through(fake, "--isolate", path, "name.example", 80)
        tokens = {each.pairs["tor.isolation"] for each in fake.conversations}
        assert len(tokens) == 2

    async def test_a_proxy_that_is_down(self, program):
        port = free_port()
        output, _, status = await run("--proxy", f"tcp:127.0.0.1:{port}", program(PROGRAM), "name.example", 80)
        assert output[0].startswith(f"the proxy at 127.0.0.1:{port} could not be reached")
        assert status == 0


RESOLVING = """
import sys
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, connectProtocol
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver

class Asking(LineOnlyReceiver):
    delimiter = b"\\n"
    def connectionMade(self):
        self.greeted = Deferred()
    def lineReceived(self, line):
        self.greeted.callback(line.decode())
        self.transport.loseConnection()

async def main(reactor):
    for host in sys.argv[1:]:
        for kind in (HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint):
            asking = await connectProtocol(kind(reactor, host, 80), Asking())
            print(await asking.greeted)
    try:
        reactor.listenUDP(0, None)
    except Exception as error:
        print(type(error).__name__)

react(main)
"""


async def test_only_the_proxy_is_reached_and_no_datagram_is_sent(fake, program, tmp_path):
    """In a network where there is nothing, and a proxy at a socket in a file."""
    counters = "grep -E '^(Ip|Udp|Tcp):' /proc/net/snmp"
    prefix = own_network()
    async with listening(fake, f"unix:{tmp_path}/proxy"):
        command = [*prefix, "sh", "-c", f'"$@"; {counters}', "sh", sys.executable, "-m", "txsocksx_ext.cli", "run"]
        arguments = ["--proxy", f"unix:{tmp_path}/proxy", str(program(RESOLVING)), "name.example", "localhost"]
        output, said, status = await getProcessOutputAndValue(command[0], [*command[1:], *arguments], os.environ)
    printed = output.decode().splitlines()
    assert (printed[:7], said, status) == (["hello"] * 6 + ["CommandNotSupported"], b"", 0)
    assert [each.destination.host for each in fake.requests] == ["name.example"] * 3 + ["localhost"] * 3
    lines = [line.split() for line in printed[7:]]
    counted = {
        f"{protocol}{name}": int(number)
        for (protocol, *names), (_, *numbers) in zip(lines[::2], lines[1::2], strict=True)
        for name, number in zip(names, numbers, strict=True)
    }
    # Sent, or tried without a route.
    assert [counted[name] for name in ("Ip:OutRequests", "Ip:OutNoRoutes", "Udp:OutDatagrams", "Tcp:ActiveOpens")] == [
        0
    ] * 4


ERRORS = {
    "no proxy": ([], "no proxy: give --proxy, or set the variable ALL_PROXY"),
    "a faulty proxy": (["--proxy", "tcp:"], "the proxy: "),
    "a kind of endpoint that nothing provides": (["--proxy", "nothing:x"], "Unknown endpoint type: 'nothing'"),
    "a faulty URL": (["--proxy", "ftp://user:hunter2@127.0.0.1"], "the proxy: unknown scheme 'ftp' of a proxy's URL"),
    "no such program": (["--proxy", "tcp:127.0.0.1:9", "no-such-program"], "there is no program 'no-such-program'"),
    "no such module": (["--proxy", "tcp:127.0.0.1:9", "-m", "no.such.module"], "there is no module 'no.such.module'"),
    "no Python program": (["--proxy", "tcp:127.0.0.1:9", "sh"], "sh is not a Python program"),
    "a faulty time": (["--proxy", "tcp:127.0.0.1:9", "--timeout", "-1"], "timeout must be seconds above 0"),
    "no number": (["--proxy", "tcp:127.0.0.1:9", "--timeout", "x"], "invalid float value: 'x'"),
}


@pytest.mark.parametrize(("arguments", "message"), ERRORS.values(), ids=ERRORS)
async def test_errors_are_one_line(program, arguments, message):
    output, said, status = await run(*arguments, program(PROGRAM), "name.example", 80)
    assert (output, len(said), status > 0) == ([], 1, True)
    assert said[0].startswith("socks5ext run: ")
    assert message in said[0]
    assert "hunter2" not in said[0]


async def test_a_missing_program():
    assert await run() == (
        [],
        ["socks5ext run: the following arguments are required: PROGRAM; see socks5ext run --help"],
        2,
    )


async def test_a_faulty_list_of_hosts_without_the_proxy(fake, program):
    environment = {"NO_PROXY": "http://x"}
    output, said, status = await through(fake, program(PROGRAM), environment=environment)
    assert (output, status) == ([], 1)
    assert said == ["socks5ext run: direct: 'http://x' is neither a name, an address nor a network"]


async def test_a_program_of_another_python(fake, program):
    path = program("#!/opt/other/bin/python3.11\n", "command")
    _, said, status = await through(fake, path)
    assert (len(said), status) == (1, 1)
    assert "runs with /opt/other/bin/python3.11: install this package there" in said[0]
