"""Node with our TLS listeners and clients: it half-closes TLS streams, and expects answers after its end."""

import subprocess

import pytest
from examples.raw_peers import dial
from support.certificates import trusting
from support.node import node_client, node_proxy
from support.peers import peer, version_from
from support.programs import free_port, has_written
from support.targets import PATIENCE, Talker, Target, answer_the_end, content, digest, read_to_end
from support.tls_peers import VERSIONS
from twisted.internet.endpoints import clientFromString
from twisted.internet.protocol import Factory

pytestmark = peer("Node", version_from("node", "--version"))

SENT = content(2, 3_000_000)


@pytest.fixture(params=VERSIONS)
def version(request):
    return request.param


@pytest.fixture
def pem(authority, tmp_path):
    return authority.trusted_server(tmp_path)


@pytest.fixture
def tls_port(socks5ext, pem):
    """The port of a server that listens with TLS."""
    port = free_port()
    server = socks5ext(listen=[f"ssl:{port}:privateKey={pem}:interface=127.0.0.1"])
    assert has_written(server, f"starting on {port}")
    return port


def test_a_client_gets_the_answer_to_what_it_ended(tls_port, version, tmp_path):
    path = tmp_path / "content"
    path.write_bytes(SENT)
    with Target(answer_the_end) as target:
        command = node_client(version, tls_port, target.port, path)
        run = subprocess.run([str(part) for part in command], capture_output=True, timeout=PATIENCE)
        assert (run.returncode, run.stdout) == (0, digest(SENT)), run.stderr
        assert target.next_result() == SENT


def test_the_answer_of_to_an_ended_stream_comes_through_the_route(socks5ext, program, pem, version):
    port = free_port()
    node_proxy(program, version, port, pem)
    server = socks5ext(f"--route=*=socks:{trusting(port, pem)}")
    with dial(server.port, "192.0.2.1", 80) as client:
        client.sendall(SENT)
        client.shutdown(1)
        assert read_to_end(client) == digest(SENT)


async def test_the_answer_of_to_an_ended_stream_comes_to_the_client_endpoint(program, pem, version):
    from twisted.internet import reactor

    port = free_port()
    node_proxy(program, version, port, pem)
    endpoint = clientFromString(reactor, f"socks5ext:192.0.2.1:80:proxy={trusting(port, pem)}")
    talker = await endpoint.connect(Factory.forProtocol(Talker))
    talker.transport.write(SENT)
    talker.transport.loseWriteConnection()
    await talker.input_ended
    assert talker.received == digest(SENT)
    await talker.lost
