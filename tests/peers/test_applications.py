"""Applications that know nothing of proxies, by ``socks5ext run``, through our server and another's."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.mail import MailServer
from support.peers import peer, version_of_package
from support.programs import free_port, need, twistd
from support.targets import SSHServer, microsocks, programs
from support.ways import listening_on_port
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.names import dns
from twisted.names.common import ResolverBase
from twisted.names.server import DNSServerFactory


class Proxy:
    """
    A proxy.

    :ivar url: with the login that it wants.
    """

    def __init__(self, program, port, login="", wrote=""):
        self._program = program
        self._wrote = wrote
        self.url = f"socks5://{login}127.0.0.1:{port}"

    def connections(self):
        """How many it has made."""
        return len(re.findall(self._wrote, self._program.output))


def ours(start, folder, options=(), login=""):
    server = twistd(start, *options)
    return Proxy(server, server.port, login, "route=direct .*code=00")


def ours_with_login(start, folder):
    users = folder / "users"
    users.write_text("alice:right\n")
    return ours(start, folder, ["--auth", f"file:{users}"], "alice:right@")


def of_microsocks(start, folder):
    started = []
    port = microsocks(lambda *args, **options: started.append(start(*args, **options)), folder)
    return Proxy(started[0], port, wrote="connected to")


@pytest.fixture(scope="module", params=[ours, ours_with_login, of_microsocks], ids=["ours", "login", "microsocks"])
def proxy(request, tmp_path_factory):
    with programs() as start:
        yield request.param(start, tmp_path_factory.mktemp("proxy"))


@pytest.fixture
def start():
    with programs() as starting:
        yield starting


@pytest.fixture
def run(proxy, tmp_path):
    """Run a program through the proxy; return what it prints."""

    async def running(*arguments, program=None):
        if program is not None:
            (tmp_path / "program.py").write_text(program)
            arguments = (tmp_path / "program.py", *arguments)
        before = proxy.connections()
        # Relative paths, and what applications leave in their folder.
        output, said, status = await getProcessOutputAndValue(
            sys.executable,
            ["-W", "ignore", "-m", "txsocksx_ext.cli", "run", *map(str, arguments)],
            {**os.environ, "ALL_PROXY": proxy.url, "NO_PROXY": ""},
            str(tmp_path),
        )
        assert status == 0, (output + said).decode()
        assert proxy.connections() > before
        return output.decode()

    return running


REDIS = """
import sys, txredisapi
from twisted.internet.task import react

async def main(reactor):
    connection = await txredisapi.Connection("localhost", int(sys.argv[1]), reconnect=False)
    await connection.set("key", "value" * 20000)
    print(len(await connection.get("key")), await connection.incr("counter"))
    await connection.disconnect()

react(main)
"""


@peer("txredisapi", version_of_package("txredisapi"))
async def test_txredisapi(run, start, tmp_path):
    port = free_port()
    start([need("redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path], port=port)
    assert await run(port, program=REDIS) == "100000 1\n"


MAIL = """
import sys
from email.message import EmailMessage
from twisted.internet.task import react
from twisted.mail.smtp import sendmail

async def main(reactor):
    message = EmailMessage()
    message.set_content("line\\n" * 10000)
    print(await sendmail("localhost", "a@localhost", ["b@localhost"], message, port=int(sys.argv[1])))

react(main)
"""


@peer("twisted.mail", version_of_package("Twisted"))
async def test_sendmail(run):
    mail = MailServer()
    async with listening_on_port(mail) as port:
        assert await run(port, program=MAIL) == "(1, [(b'b@localhost', 250, b'Recipient address accepted')])\n"
    assert mail.received[0].count(b"line") == 10000


NAMES = """
import sys
from twisted.internet.task import react
from twisted.names.client import Resolver
from twisted.names.dns import Query

async def main(reactor):
    answer = await Resolver(servers=[("192.0.2.1", 53)]).queryTCP([Query(b"name.example")])
    print(answer.answers[0].payload.dottedQuad())

react(main)
"""


class Zone(ResolverBase):
    def _lookup(self, name, cls, kind, timeout):
        payload = dns.Record_A("192.0.2.99", 60)
        return self._answer(dns.RRHeader(name, dns.A, dns.IN, 60, payload))

    def _answer(self, header):
        answered = Deferred()
        answered.callback(([header], [], []))
        return answered


@peer("twisted.names", version_of_package("Twisted"))
async def test_queries_by_tcp(run):
    async with listening_on_port(DNSServerFactory(clients=[Zone()])) as port:
        program = NAMES.replace('("192.0.2.1", 53)', f'("127.0.0.1", {port})')
        assert await run(program=program) == "192.0.2.99\n"


SSH = """
import sys
from twisted.conch.endpoints import SSHCommandClientEndpoint
from twisted.conch.ssh.keys import Key
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import react

class Trusting:
    def prompt(self, text):
        return succeed(True)
    def warn(self, text):
        pass

class Collecting(Protocol):
    def connectionMade(self):
        self.received, self.over = b"", Deferred()
    def dataReceived(self, data):
        self.received += data
    def connectionLost(self, reason):
        self.over.callback(None)

async def main(reactor):
    user, port, key = sys.argv[1:]
    endpoint = SSHCommandClientEndpoint.newConnection(
        reactor, b"seq 20000", user.encode(), "localhost", int(port),
        keys=[Key.fromFile(key)], agentEndpoint=None, knownHosts=b"known_hosts", ui=Trusting())
    collecting = await connectProtocol(endpoint, Collecting())
    await collecting.over
    print(collecting.received == b"".join(b"%d\\n" % n for n in range(1, 20001)))

react(main)
"""


@peer("twisted.conch", version_of_package("Twisted"))
async def test_a_command_by_ssh(run, start, tmp_path):
    server = SSHServer(start, tmp_path)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    assert await run(user, server.port, tmp_path / "client", program=SSH) == "True\n"


SPIDER = """
import scrapy

class Spider(scrapy.Spider):
    name = "spider"
    def __init__(self, url=None):
        self.start_urls = [url]
    def parse(self, response):
        yield {"size": len(response.body)}
        for link in response.css("a::attr(href)"):
            yield response.follow(link, self.parse)
"""


class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'<a href="/second">' + b"x" * 100_000 if self.path == "/" else b"y" * 50_000
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.mark.deadline(90)
@peer("scrapy", version_of_package("Scrapy"))
async def test_scrapy(run, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        serving = deferToThread(server.serve_forever)
        try:
            (tmp_path / "spider.py").write_text(SPIDER)
            url = f"url=http://localhost:{server.server_port}/"
            await run("scrapy", "runspider", "spider.py", "-a", url, "-O", "items.json", "--nolog")
            assert json.loads((tmp_path / "items.json").read_text()) == [{"size": 100_018}, {"size": 50_000}]
        finally:
            server.shutdown()
            await serving


SYNAPSE = """
import sys
from synapse.http.proxyagent import ProxyAgent
from twisted.internet.task import react
from twisted.web.client import readBody

async def main(reactor):
    response = await ProxyAgent(reactor=reactor).request(b"GET", sys.argv[1].encode())
    print(len(await readBody(response)))

react(main)
"""


@pytest.mark.deadline(90)
@peer("Synapse's ProxyAgent", version_of_package("matrix-synapse"))
async def test_the_agent_of_synapse(run):
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        serving = deferToThread(server.serve_forever)
        try:
            assert await run(f"http://localhost:{server.server_port}/", program=SYNAPSE) == "100018\n"
        finally:
            server.shutdown()
            await serving


@pytest.mark.deadline(90)
@peer("scrapy", version_of_package("Scrapy"))
async def test_scrapy_retries_what_may_succeed_and_not_a_wrong_password(start, tmp_path):
    server = ours_with_login(start, tmp_path)
    (tmp_path / "spider.py").write_text(SPIDER)

    async def retries(url):
        arguments = ["-m", "txsocksx_ext.cli", "run", "--proxy", url, "scrapy", "runspider", "spider.py"]
        options = ["-a", f"url=http://localhost:{free_port()}/", "-s", "RETRY_TIMES=2"]
        _, said, status = await getProcessOutputAndValue(
            sys.executable, [*arguments, *options], os.environ, str(tmp_path)
        )
        assert status == 0
        return re.findall(r"Retrying .*\(failed \d times\): (.*)\.?", said.decode())

    refused = await retries(server.url)
    assert len(refused) == 2
    assert "the target refused the connection" in refused[0]
    down = await retries(f"socks5://127.0.0.1:{free_port()}")
    assert len(down) == 2
    assert "the proxy at 127.0.0.1:" in down[0]
    assert await retries(server.url.replace("right", "wrong")) == []


@pytest.mark.deadline(120)
@peer("magic-wormhole", version_of_package("magic-wormhole"))
async def test_magic_wormhole(run, start, tmp_path):
    port = free_port()
    start(
        [sys.executable, "-m", "twisted", "wormhole-mailbox", "--port", f"tcp:{port}:interface=127.0.0.1"],
        port=port,
        cwd=tmp_path,
    )
    wormhole = partial(run, "wormhole", "--relay-url", f"ws://localhost:{port}/v1", "--transit-helper", "")
    sent = "a text " * 5000
    (tmp_path / "text").write_text(sent)
    sending = Deferred.fromCoroutine(wormhole("send", "--code", "7-test-word", "--text", sent))
    assert sent in await wormhole("receive", "7-test-word")
    await sending


TWISTD = """
from twisted.application.internet import ClientService
from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory, Protocol

class Asking(Protocol):
    received = b""
    def connectionMade(self):
        self.transport.write(b"GET /second HTTP/1.0\\r\\n\\r\\n")
    def dataReceived(self, data):
        self.received += data
    def connectionLost(self, reason):
        print("received", len(self.received.partition(b"\\r\\n\\r\\n")[2]))
        reactor.stop()

application = Application("asking")
endpoint = clientFromString(reactor, "tcp:localhost:PORT")
ClientService(endpoint, Factory.forProtocol(Asking)).setServiceParent(application)
"""


@peer("twistd", version_of_package("Twisted"))
async def test_an_application_of_twistd(run, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        serving = deferToThread(server.serve_forever)
        try:
            (tmp_path / "asking.tac").write_text(TWISTD.replace("PORT", str(server.server_port)))
            assert "received 50000" in await run("twistd", "-n", "--pidfile=", "-y", "asking.tac")
        finally:
            server.shutdown()
            await serving
