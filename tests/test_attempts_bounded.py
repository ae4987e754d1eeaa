"""Names with many addresses: a client has few connection attempts at once, whatever it asks for."""

import contextlib
import os
import socket

import pytest
from examples.raw_peers import GREET_ANONYMOUS, descriptors_at_rest, dial, request, settles
from support.silence import silent_port, system_resolver
from support.targets import Target, echo, read_exactly, reset

CLIENTS = 16
ATTEMPTS = 2
"""Connection attempts that one client may have in flight."""

SILENT = [f"127.0.1.{number}" for number in range(1, 65)]
NAMES = system_resolver(silent_example=SILENT)

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="only Linux drops SYNs of a full queue")


def limited_to(descriptors):
    return f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({descriptors}, {descriptors}))\n"


@contextlib.contextmanager
def asking(server, port, count=CLIENTS):
    """So many clients that have asked for the name with silent addresses."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            clients.append(client)
            with contextlib.suppress(ConnectionError):  # one beyond the limit of connections
                client.sendall(GREET_ANONYMOUS + request("silent.example", port))
        yield clients


def shut_down(client):
    client.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("leave", [None, shut_down, socket.socket.close], ids=["stays", "half-closes", "closes"])
def test_a_client_has_two_attempts_in_flight_whether_it_stays_or_not(socks5ext, leave):
    # A server cannot tell a half-close from a close, so the bound holds for both.
    server = socks5ext(before=NAMES)
    allowed = descriptors_at_rest(server) + CLIENTS * (1 + ATTEMPTS)
    with silent_port() as port, asking(server, port) as clients:
        assert settles(lambda: server.descriptors() >= allowed - CLIENTS)
        for client in clients:
            # A close with something unread would be a reset.
            assert read_exactly(client, 2) == b"\x05\x00"
            if leave is not None:
                leave(client)
        # Four more delays of happy eyeballs, each of which would begin another attempt.
        assert not settles(lambda: server.descriptors() > allowed, patience=1)


def test_a_reset_ends_every_attempt_at_once(socks5ext):
    server = socks5ext(before=NAMES)
    at_rest = descriptors_at_rest(server)
    with silent_port() as port, asking(server, port) as clients:
        assert settles(lambda: server.descriptors() >= at_rest + 2 * CLIENTS)
        for client in clients:
            reset(client)
        assert settles(lambda: server.descriptors() <= at_rest)


def test_others_are_served_while_a_few_clients_ask_for_silent_names(socks5ext):
    server = socks5ext(before=limited_to(256) + NAMES)
    with silent_port() as port, asking(server, port), Target(echo) as far:
        # With 64 attempts for each client, 256 descriptors last for 4 s.
        settles(lambda: server.descriptors() >= 254, patience=5)
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as other:
            other.sendall(GREET_ANONYMOUS + request("127.0.0.1", far.port))
            assert read_exactly(other, 12)[:4] == b"\x05\x00\x05\x00"


def test_attempts_are_counted_in_the_limit_that_follows_from_the_descriptors(socks5ext):
    server = socks5ext(before=limited_to(256) + NAMES)
    with silent_port() as port, asking(server, port, 100):
        assert not settles(lambda: server.descriptors() > 240, patience=2)


def test_an_address_that_answers_is_reached_behind_silent_ones(socks5ext):
    server = socks5ext(before=system_resolver(late_example=[*SILENT[:3], "127.0.0.1"]))
    with (
        Target(echo) as far,
        silent_port(*SILENT[:3], port=far.port),
        dial(server.port, "late.example", far.port, patience=40) as client,
    ):
        client.sendall(b"question")
        assert read_exactly(client, 8) == b"question"
