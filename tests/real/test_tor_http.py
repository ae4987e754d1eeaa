"""
Against real tor: what a server of ours says of a failure over HTTP CONNECT, beside what tor's own HTTPTunnelPort says.

What is measured here stands in the documentation as a table of ``docs/measured``: a test fails where a cell says
something else. To write it anew: ``WRITE_TABLES=1 make test TESTS=tests/real/test_tor_http.py``.
"""

import socket

import pytest
from support.measured_tables import Table, each_of, write
from support.targets import programs
from support.tor_clients import at_once, routes_to, start_server
from support.tor_targets import STOPPED, TARGETS, TRIES, prepared
from support.tornet import ECHO_PORT
from twisted.internet.threads import deferToThread

from txsocksx_ext import errors

OF_TOR, STATUS, OF_SERVER = "tor's HTTPTunnelPort", "server: status", "server: ``Tor-Request-Failed``"
TABLE = Table(__file__, "onion-http", ["Target", OF_TOR, STATUS, OF_SERVER])
TABLE.titles = list(TARGETS)
PATIENCE = 60


@pytest.fixture(scope="module", autouse=True)
def written_table():
    yield
    write([TABLE])


@pytest.fixture(scope="module")
def server(tor_network):
    """A server of ours before the plain port of the network's client, with its control port."""
    with programs() as start:
        yield start_server(start, routes_to(tor_network.client)["control"])


def answer_to(port, host, target_port):
    """The status and the headers of the answer to a CONNECT."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(f"CONNECT {host}:{target_port} HTTP/1.1\r\nHost: {host}:{target_port}\r\n\r\n".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = connection.recv(4096)
            assert data, f"closed after {answer!r}"
            answer += data
    line, *headers = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return line.split(" ")[1], dict(header.split(": ", 1) for header in headers)


def without_finer_reason(token):
    """How far tor had come when it gave up a silent service varies, and with it the finer reason."""
    name = token.partition(" ")[0].removeprefix("socks5ext/")
    finer = issubclass(getattr(errors, name, object), errors.OnionServiceNotReachable)
    return "socks5ext/OnionServiceNotReachable prop229/E1" if finer else token


@pytest.mark.deadline(240)
@pytest.mark.parametrize("title", TARGETS)
async def test_why_a_target_was_not_reached(title, tor_network, server):
    """Both are asked at once."""
    ports = (tor_network.client.tunnel_port, server.port)
    for tries_left in reversed(range(TRIES.get(title, 1))):
        async with prepared(tor_network, title):
            target = TARGETS[title](tor_network)
            calls = [(answer_to, port, *target) for port in ports]
            (of_tor, tors_headers), (status, headers) = await deferToThread(at_once, *calls)
        token = headers.get("Tor-Request-Failed", "")
        if title == STOPPED:
            status, token = "503 or 504", without_finer_reason(token)
        cells = {
            OF_TOR: f"``{of_tor} {tors_headers.get('Tor-Request-Failed', '')}".rstrip() + "``",
            STATUS: f"``{status}``",
            OF_SERVER: f"``{token}``" if token else "none",
        }
        if TABLE.agrees(title, cells) or not tries_left:
            TABLE.hold(title, cells)
            break


@each_of([TABLE])
def test_the_table_has_these_rows_and_no_others(table):
    table.hold_rows()


def test_only_our_server_says_which_headers_it_honours(tor_network, server):
    _, headers = answer_to(server.port, tor_network.onion, ECHO_PORT)
    assert headers["Via"] == "tor/1.0 tor-network (socks5ext)"
    # Not Tor-Family-Preference, which only direct routes honour: all targets go over tor here.
    assert headers["Tor-Capabilities"] == (
        "Proxy-Authorization Socks5Ext-Pair Tor-Stream-Isolation X-Tor-Stream-Isolation"
    )
    _, headers = answer_to(tor_network.client.tunnel_port, tor_network.onion, ECHO_PORT)
    assert headers["Via"].startswith("tor/1.0 tor-network (")
    assert headers["Tor-Capabilities"] == ""


def test_data_that_comes_with_the_request_arrives(tor_network, server):
    said = f"CONNECT {tor_network.onion}:{ECHO_PORT} HTTP/1.1\r\n\r\nhello".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(said)
        answer = b""
        while not answer.endswith(b"hello"):
            data = connection.recv(4096)
            assert data, f"closed after {answer!r}"
            answer += data
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
