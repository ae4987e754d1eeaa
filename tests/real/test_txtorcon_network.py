"""
Against real tor: txtorcon's own SOCKS client, ours for programs that have a `txtorcon.Tor`, and a server of ours.

What is measured here stands in the documentation as tables of ``docs/measured``: a test fails where a cell says
something else. To write them anew: ``WRITE_TABLES=1 make test TESTS=tests/real/test_txtorcon_network.py``.
"""

import time
from secrets import token_hex

import pytest
import pytest_twisted
from support.measured_tables import Table, each_of, write
from support.programs import twistd
from support.streams import COOKIE_IS_LEFT_OPEN, attached, endpoint_at, error_of
from support.targets import programs
from support.tor_targets import STOPPED, TARGETS, TRIES, prepared
from support.txtorcon_clients import HERE, shown_code, words_for
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import quoteStringArgument

from txsocksx_ext import HTTPConnectClientEndpoint, SOCKS5ClientEndpoint
from txsocksx_ext import tor as for_programs
from txsocksx_ext.errors import OnionServiceNotReachable

pytestmark = pytest.mark.filterwarnings(COOKIE_IS_LEFT_OPEN)

NETWORK = Table(__file__, "txtorcon-network", ["Target", "txtorcon, plain port", "txtorcon, ExtendedErrors port", HERE])
FAILURES = Table(
    __file__,
    "onion-failures",
    [
        "Target",
        "tor, plain port",
        "tor, ExtendedErrors port",
        "server, to any client",
        "server, 97 offered",
        "server, ``tor.errors`` = ``304``",
        "exception",
    ],
)
OVER_HTTP = Table(
    __file__,
    "http-onions",
    ["Target", "tor's HTTPTunnelPort", "the same, with the control port", "server, over HTTP"],
)
TABLES = [NETWORK, FAILURES, OVER_HTTP]


@pytest.fixture(scope="module", autouse=True)
def written_tables():
    yield
    write(TABLES)


for each in TABLES:
    each.titles = list(TARGETS)


@pytest.fixture(scope="module")
def server(tor_network):
    """The port of a ``twistd socks5ext`` whose way out is the plain port of the network's client, with control."""
    client = tor_network.client
    socks = quoteStringArgument(f"tcp:127.0.0.1:{client.plain_port}")
    control = quoteStringArgument(f"unix:{client.control_socket}")
    with programs() as start:
        process = twistd(start, "--route", f"*=tor:{socks}:control={control}")
        deadline = time.monotonic() + 20
        while "control connection established" not in process.output:
            assert time.monotonic() < deadline, process.output
            time.sleep(0.05)
        yield process.port


@pytest.fixture(scope="module")
def tor(tor_network):
    context = attached(tor_network.client)
    yield pytest_twisted.blockon(Deferred.fromCoroutine(context.__aenter__()))
    pytest_twisted.blockon(Deferred.fromCoroutine(context.__aexit__(None, None, None)))


def ways(network, server, tor):
    """How each column asks for a target."""
    plain, extended, through_server = (
        endpoint_at(each) for each in (network.client.plain_port, network.client.extended_port, server)
    )

    tunnels = f"http://127.0.0.1:{network.client.tunnel_port}"

    def endpoint(socks, methods):
        return lambda *target: SOCKS5ClientEndpoint(*target, socks, methods)

    return {
        "tor, plain port": endpoint(plain, {"isolated": None}),
        "tor, ExtendedErrors port": endpoint(extended, {"isolated": None}),
        "server, to any client": endpoint(through_server, {"anonymous": ()}),
        "server, 97 offered": endpoint(through_server, {"extended": {}, "anonymous": ()}),
        "server, ``tor.errors`` = ``304``": endpoint(through_server, {"extended": {"tor.errors": "304"}}),
        "txtorcon, plain port": lambda *target: tor.stream_via(*target, socks_endpoint=plain),
        "txtorcon, ExtendedErrors port": lambda *target: tor.stream_via(*target, socks_endpoint=extended),
        # Its port is the first that this tor listens on: the plain one.
        HERE: lambda *target: for_programs.stream_via(tor, *target),
        "tor's HTTPTunnelPort": lambda *target: HTTPConnectClientEndpoint(*target, tunnels, isolation=token_hex()),
        "the same, with the control port": lambda *target: for_programs.stream_via(
            tor, *target, socks_endpoint=tunnels
        ),
        "server, over HTTP": lambda *target: HTTPConnectClientEndpoint(*target, f"http://127.0.0.1:{server}"),
    }


@pytest.mark.deadline(180)
@pytest.mark.parametrize("title", TARGETS)
async def test_why_a_target_was_not_reached(title, tor_network, server, tor):
    """All ask at once: each gets an answer of its own."""
    for tries_left in reversed(range(TRIES.get(title, 1))):
        async with prepared(tor_network, title):
            asked = ways(tor_network, server, tor)
            target = TARGETS[title]
            asking = [Deferred.fromCoroutine(error_of(way(*target(tor_network)))) for way in asked.values()]
            errors = dict(zip(asked, await gatherResults(asking, consumeErrors=True), strict=True))
        if title == STOPPED:
            errors = {way: without_finer_reason(error) for way, error in errors.items()}
        names = {way: "connects" if error is None else words_for(error) for way, error in errors.items()}
        codes = {way: shown_code(error) for way, error in errors.items()}
        network = {column: names[column] for column in NETWORK.columns}
        failures = {**{column: codes[column] for column in FAILURES.columns[:-1]}, "exception": names[HERE]}
        over_http = {column: names[column] for column in OVER_HTTP.columns}
        if all(
            table.agrees(title, cells)
            for table, cells in ((NETWORK, network), (FAILURES, failures), (OVER_HTTP, over_http))
        ):
            break
        if not tries_left:
            NETWORK.hold(title, network)
            FAILURES.hold(title, failures)
            OVER_HTTP.hold(title, over_http)


def without_finer_reason(error):
    """How far tor had come when it gave up a silent service varies, and with it the finer reason."""
    finer = isinstance(error, OnionServiceNotReachable) and type(error) is not OnionServiceNotReachable
    return OnionServiceNotReachable() if finer else error


@each_of(TABLES)
def test_the_table_has_these_rows_and_no_others(table):
    table.hold_rows()
