"""Streams of which one side speaks TLS: its ends, by close_notify and without, in both directions."""

import socket
import threading

import pytest
from examples.raw_peers import GREET_ANONYMOUS, dial, request, settles
from support.programs import free_port, has_written
from support.targets import (
    PATIENCE,
    Target,
    answer_the_end,
    content,
    digest,
    end_first,
    read_exactly,
    read_to_end,
    reset,
    unacknowledged,
)
from support.tls_peers import SUCCESS, VERSIONS, TLSPeer, client_context, read_slowly, server_context, tls_proxy

SENT = content(1, 5_000_000)
"""More than the system's buffers on the way hold, so that much of it waits in the server."""


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def tls_server(socks5ext, tmp_path, authority):
    """A server that listens with TLS; its ``tls_port``."""
    pem = tmp_path / "server.pem"
    pem.write_bytes(authority.issue("localhost"))
    port = free_port()
    server = socks5ext(listen=[f"ssl:{port}:privateKey={pem}:interface=127.0.0.1"])
    assert has_written(server, f"starting on {port}")
    server.tls_port = port
    return server


def tls_stream(server, version, target):
    """A TLS client's stream to a target."""
    connected = socket.create_connection(("127.0.0.1", server.tls_port), timeout=PATIENCE)
    client = TLSPeer(connected, client_context(version))
    client.sendall(GREET_ANONYMOUS + request("127.0.0.1", target.port))
    assert read_exactly(client, 12)[:4] == b"\x05\x00" + SUCCESS[:2]
    return client


def close(client):
    client.socket.close()


def send_fin(client):
    client.socket.shutdown(socket.SHUT_WR)


# A client behind TLS.


@pytest.mark.parametrize("end", [close, send_fin])
def test_all_that_a_client_sent_before_a_bare_end_reaches_a_slow_target(tls_server, version, end):
    with Target(read_slowly) as target:
        client = tls_stream(tls_server, version, target)
        client.sendall(SENT)
        end(client)
        assert target.next_result() == SENT
        client.socket.close()
    assert "Traceback" not in tls_server.output


@pytest.mark.parametrize("end", [TLSPeer.send_close_notify, send_fin])
def test_a_client_that_has_ended_its_direction_gets_the_answer(tls_server, version, end):
    with Target(answer_the_end) as target:
        client = tls_stream(tls_server, version, target)
        client.sendall(SENT)
        end(client)
        assert read_to_end(client) == digest(SENT)
        assert client.ended_by == "close_notify"
        assert target.next_result() == SENT
        client.socket.close()


def test_a_client_may_answer_the_end_of_its_target(tls_server, version):
    with Target(end_first) as target:
        client = tls_stream(tls_server, version, target)
        first = read_to_end(client)
        assert client.ended_by == "close_notify"
        client.sendall(digest(first))
        client.send_close_notify()
        assert target.next_result() == digest(first)
        # Both directions are through: the server closes.
        assert client.socket.recv(1) == b""
        client.socket.close()


def test_what_a_client_sent_before_a_reset_reaches_a_slow_target_before_the_reset(tls_server, version):
    may_read = threading.Event()

    def read_late(connection):
        may_read.wait(PATIENCE)
        received = bytearray()
        try:
            while data := connection.recv(1 << 16):
                received += data
        except ConnectionResetError:
            return bytes(received), "reset"
        return bytes(received), "end"

    with Target(read_late) as target:
        client = tls_stream(tls_server, version, target)
        client.sendall(SENT[:100_000])
        # A reset would throw away what has not come yet.
        assert settles(lambda: not unacknowledged(client.socket))
        reset(client.socket)
        may_read.set()
        assert target.next_result() == (SENT[:100_000], "reset")


# A proxy behind TLS as the way out.


@pytest.fixture
def upstream(socks5ext, tmp_path, authority, version):
    """Start a server that reaches everything through a proxy behind TLS, of which `then` has the streams."""
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "authority.pem").write_bytes(authority.pem)
    pem = tmp_path / "proxy.pem"
    pem.write_bytes(authority.issue("localhost", "127.0.0.1"))

    def start(then):
        proxy = Target(tls_proxy(server_context(version, pem), then))
        way = rf"socks:tls\:127.0.0.1\:{proxy.port}\:trustRoots\={tmp_path}/trusted"
        return proxy, socks5ext(f"--route=*={way}")

    return start


def test_a_client_without_tls_that_has_ended_its_direction_gets_the_answer(upstream):
    proxy, server = upstream(answer_the_end)
    with proxy, dial(server.port, "192.0.2.1", 80) as client:
        client.sendall(SENT)
        client.shutdown(socket.SHUT_WR)
        assert read_to_end(client) == digest(SENT)
        assert proxy.next_result() == SENT


def test_a_target_behind_tls_gets_an_end_by_close_notify(upstream):
    proxy, server = upstream(lambda peer: (read_to_end(peer), peer.ended_by))
    with proxy, dial(server.port, "192.0.2.1", 80) as client:
        client.sendall(b"request")
        client.shutdown(socket.SHUT_WR)
        assert proxy.next_result() == (b"request", "close_notify")


def test_a_target_behind_tls_may_end_first(upstream):
    def end_before_the_client(peer):
        peer.sendall(SENT)
        peer.send_close_notify()
        return read_to_end(peer)

    proxy, server = upstream(end_before_the_client)
    with proxy, dial(server.port, "192.0.2.1", 80) as client:
        assert read_to_end(client) == SENT
        client.sendall(b"thanks")
        client.shutdown(socket.SHUT_WR)
        assert proxy.next_result() == b"thanks"
        assert client.recv(1) == b""


@pytest.mark.parametrize("end", [close, send_fin])
def test_all_that_came_of_a_target_before_a_bare_end_reaches_a_slow_client(upstream, end):
    def send_and_end(peer):
        peer.sendall(SENT)
        end(peer)

    proxy, server = upstream(send_and_end)
    with proxy, dial(server.port, "192.0.2.1", 80) as client:
        assert read_slowly(client) == SENT
    assert "Traceback" not in server.output


# Both behind TLS.


def test_half_closes_pass_where_both_sides_speak_tls(socks5ext, tmp_path, authority, version):
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "authority.pem").write_bytes(authority.pem)
    pem = tmp_path / "proxy.pem"
    pem.write_bytes(authority.issue("localhost", "127.0.0.1"))
    port = free_port()
    with Target(tls_proxy(server_context(version, pem), answer_the_end)) as target:
        way = rf"socks:tls\:127.0.0.1\:{target.port}\:trustRoots\={tmp_path}/trusted"
        server = socks5ext(f"--route=*={way}", listen=[f"ssl:{port}:privateKey={pem}:interface=127.0.0.1"])
        assert has_written(server, f"starting on {port}")
        server.tls_port = port
        client = tls_stream(server, version, target)
        client.sendall(SENT)
        client.send_close_notify()
        assert read_to_end(client) == digest(SENT)
        assert client.ended_by == "close_notify"
        client.socket.close()
