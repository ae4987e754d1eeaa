"""The whole: curl and a program with our client, through `twistd socks5ext` and through chains of proxies."""

import sys

import pytest
import python_socks
from python_socks.sync import Proxy
from support.programs import free_port, has_written, twistd
from support.targets import (
    ANY,
    CONTENT,
    CURL_PROXY_FAILED,
    NO_SUCH_HOST,
    PAGE,
    curl,
    dante,
    echoes,
    failure_of,
    local,
    microsocks,
    programs,
    run,
    talk_to,
)

from txsocksx_ext.errors import (
    ConnectionRefused,
    GeneralServerFailure,
    HostUnreachable,
    OnionServiceNotFound,
    OnionServiceNotReachable,
)

TWISTED_CLIENT = """
import sys
import treq.client
from twisted.internet.defer import ensureDeferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react
from twisted.web.client import Agent
from twisted.web.iweb import IAgentEndpointFactory
from txsocksx_ext.errors import SOCKS5Error
from zope.interface import implementer

@implementer(IAgentEndpointFactory)
class ThroughProxy:
    def __init__(self, reactor, settings):
        self.reactor, self.settings = reactor, settings

    def endpointForURI(self, uri):
        return clientFromString(self.reactor, f"socks5ext:{uri.host.decode()}:{uri.port}:{self.settings}")

async def main(reactor, url, settings):
    client = treq.client.HTTPClient(Agent.usingEndpointFactory(reactor, ThroughProxy(reactor, settings)))
    try:
        response = await client.post(url, data=sys.stdin.buffer.read())
        sys.stdout.buffer.write(await response.content())
    except SOCKS5Error as error:
        sys.exit(f"{type(error).__name__} {error.code:02X}")

react(lambda reactor: ensureDeferred(main(reactor, *sys.argv[1:])))
"""

ONION_SERVER = """
import sys
from twisted.internet import reactor
from twisted.internet.defer import fail
from twisted.internet.endpoints import serverFromString
from txsocksx_ext import Route, SOCKS5ExtFactory
from txsocksx_ext.errors import OnionServiceNotFound, OnionServiceNotReachable

class OnionRoute(Route):
    def __init__(self, error):
        self.error = error

    def connect(self, request, addresses, session):
        return fail(self.error())

class OnionServer(SOCKS5ExtFactory):
    ways = {"lost.onion": OnionRoute(OnionServiceNotFound), "down.onion": OnionRoute(OnionServiceNotReachable)}

    def route(self, session):
        return self.ways.get(session.request.destination.host) or super().route(session)

serverFromString(reactor, sys.argv[1]).listen(OnionServer(reactor))
reactor.run()
"""


def twisted_client(url, settings, given=b""):
    """Post to `url` by treq, over the endpoint string ``socks5ext:...`` with these settings."""
    return run(sys.executable, "-c", TWISTED_CLIENT, url, settings, given=given)


# The main job


@pytest.mark.parametrize("command", ["twistd", "twist"])
def test_curl_and_a_twisted_client_reach_a_page(socks5ext, web_port, command):
    server = socks5ext(command=command)
    page = f"http://localhost:{web_port}/"
    fetched = curl("--socks5-hostname", f"127.0.0.1:{server.port}", page)
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr
    posted = twisted_client(page, f"proxy=tcp\\:127.0.0.1\\:{server.port}", given=CONTENT)
    assert (posted.returncode, posted.stdout) == (0, CONTENT), posted.stderr
    if command == "twistd":
        assert has_written(server, "127.0.0.1 CONNECT protocol=socks5 method=NO_AUTHENTICATION route=direct")
        assert has_written(server, "127.0.0.1 CONNECT protocol=socks5 method=EXTENDED route=direct")
    assert "localhost" not in server.output


@pytest.fixture(scope="module")
def onion_server():
    """A server of our own making, some of whose targets fail as onion services do."""
    port = free_port()
    with programs() as start:
        yield start([sys.executable, "-c", ONION_SERVER, f"tcp:{port}:interface=127.0.0.1"], port=port)


@pytest.mark.parametrize(
    ("host", "expected", "code"),
    [("lost.onion", OnionServiceNotFound, 0xE0), ("down.onion", OnionServiceNotReachable, 0xE1)],
)
async def test_onion_failures_reach_those_who_offered_method_97(onion_server, host, expected, code):
    error = await failure_of(talk_to(host, 80, local(onion_server.port)))
    assert (type(error), error.code) == (expected, code)
    error = await failure_of(talk_to(host, 80, local(onion_server.port), {"anonymous": ()}))
    assert (type(error), error.code) == (HostUnreachable, 4)


def test_onion_failures_reach_a_twisted_program(onion_server):
    for host, message in [("lost.onion", b"OnionServiceNotFound E0"), ("down.onion", b"OnionServiceNotReachable E1")]:
        failed = twisted_client(f"http://{host}/", f"proxy=tcp\\:127.0.0.1\\:{onion_server.port}")
        assert failed.returncode == 1
        assert failed.stderr.strip() == message


@pytest.mark.parametrize("host", ["lost.onion", "down.onion"])
def test_other_clients_get_plain_codes_for_onion_failures(onion_server, host):
    failed = curl("--socks5-hostname", f"127.0.0.1:{onion_server.port}", f"http://{host}/")
    assert failed.returncode == CURL_PROXY_FAILED
    assert b"(4)" in failed.stderr
    with pytest.raises(python_socks.ProxyError) as caught:
        Proxy.from_url(f"socks5://127.0.0.1:{onion_server.port}", rdns=True).connect(host, 80, timeout=20)
    assert caught.value.error_code == 4


# Through another proxy


def through(proxy_port, settings=""):
    """The option that sends all targets through a proxy."""
    return f"--route=*=socks:tcp\\:127.0.0.1\\:{proxy_port}{settings}"


def begin_ours(start, folder):
    return twistd(start).port


@pytest.fixture(scope="module", params=[microsocks, dante, begin_ours])
def chain(request, tmp_path_factory):
    """A server of ours that goes through another proxy, and how that one says that there is no such host."""
    with programs() as start:
        port = request.param(start, tmp_path_factory.mktemp("chain"))
        no_such_host = GeneralServerFailure if request.param is microsocks else HostUnreachable
        yield twistd(start, through(port)), no_such_host


def test_curl_fetches_through_a_chain(chain, web_port):
    server, _ = chain
    page = f"http://127.0.0.1:{web_port}/"
    fetched = curl("--socks5-hostname", f"127.0.0.1:{server.port}", page, "--data-binary", "@-", given=CONTENT)
    assert (fetched.returncode, fetched.stdout) == (0, CONTENT), fetched.stderr
    assert has_written(server, "route=socks")


@pytest.mark.parametrize("methods", [{"extended": {}}, {"anonymous": ()}], ids=["extended", "anonymous"])
async def test_failures_come_through_a_chain(chain, methods):
    server, no_such_host = chain
    error = await failure_of(talk_to("127.0.0.1", free_port(), local(server.port), methods))
    assert type(error) is ConnectionRefused
    error = await failure_of(talk_to(NO_SUCH_HOST, 80, local(server.port), methods))
    assert type(error) is no_such_host


async def test_onion_failures_come_through_a_chain_in_each_clients_codes(onion_server, socks5ext):
    proxy = local(socks5ext(through(onion_server.port)).port)
    for host, methods, expected, code in [
        ("lost.onion", ANY, OnionServiceNotFound, 0xE0),
        ("down.onion", ANY, OnionServiceNotReachable, 0xE1),
        ("lost.onion", {"anonymous": ()}, HostUnreachable, 4),
        ("down.onion", {"anonymous": ()}, HostUnreachable, 4),
    ]:
        error = await failure_of(talk_to(host, 80, proxy, methods))
        assert (type(error), error.code) == (expected, code)


async def test_a_proxy_that_refuses_is_not_taken_for_a_target_that_refuses(socks5ext):
    server = socks5ext(through(free_port()))
    error = await failure_of(talk_to("127.0.0.1", 80, local(server.port)))
    assert (type(error), error.code) == (GeneralServerFailure, 1)


async def test_a_chain_logs_in_at_the_next_proxy(socks5ext, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("right\n")
    guarded = socks5ext("--auth=memory:alice:right")
    server = socks5ext(through(guarded.port, f":username=alice:password-file={secret}"))
    assert await echoes(local(server.port))
    secret.write_text("wrong\n")
    server = socks5ext(through(guarded.port, f":username=alice:password-file={secret}"))
    error = await failure_of(talk_to("127.0.0.1", 80, local(server.port)))
    # Whose password is wrong there is not the client's business.
    assert (type(error), error.code) == (GeneralServerFailure, 1)
