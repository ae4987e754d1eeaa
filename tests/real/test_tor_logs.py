"""What a tor that we started says in our log."""

import socket

import pytest
from examples.raw_peers import GREET_ANONYMOUS, request, settles
from support.programs import free_port, need, twistd
from support.targets import read_to_end

TARGETS = ["10.11.12.13", "secret-target.onion", "bad;name.secret-target.example"]
"""Hosts that tor refuses with a warning, and without asking anybody."""

REFUSALS = ["private address", "Invalid hostname", "malformed hostname"]


def ask(server, host):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(GREET_ANONYMOUS + request(host, 80))
        read_to_end(client)


@pytest.mark.parametrize("safe_logging", ["SafeLogging 0", "SafeLogging relay", ""])
def test_targets_are_not_in_the_log_whatever_the_torrc_says(program, tmp_path, safe_logging):
    torrc = tmp_path / "torrc"
    # It is to reach nobody.
    torrc.write_text(f"{safe_logging}\nSocks5Proxy 127.0.0.1:{free_port()}\nLog debug stderr\n")
    server = twistd(program, f"--route=*=tor:launch:exec={need('tor')}:torrc={torrc}")
    # It says so as soon as its control port is there, and the SOCKS port is by then.
    assert settles(lambda: "our own tor: bootstrapping" in server.output, 40), server.output
    for host in TARGETS:
        ask(server, host)
    assert settles(lambda: all(refusal in server.output for refusal in REFUSALS)), server.output
    server.stop()
    assert "10.11.12.13" not in server.output
    assert "secret-target" not in server.output
    assert server.output.count("[scrubbed]") >= len(TARGETS)
