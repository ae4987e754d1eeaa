"""Sockets that systemd opens: what they are counts, and not what the listener's description says."""

import os
import socket

import pytest
from examples.raw_peers import GREET_ANONYMOUS
from support.programs import free_port
from support.targets import read_exactly

SYSTEMD = """
import os, socket
made = {make}
os.dup2(made.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="socks", LISTEN_PID=str(os.getpid()))
"""


def opened_by_systemd(make):
    """Twisted looks for these sockets when it is imported, so this must be a new Python: ``env`` starts one."""
    return {"before": SYSTEMD.format(make=make), "prefix": ["env"]}


def tcp(host, port):
    return f"socket.create_server(({host!r}, {port}), family=socket.AF_INET{'6' if ':' in host else ''})"


def unix(path, kind="SOCK_STREAM", then="listen()"):
    return f"(lambda it: (it.bind({str(path)!r}), it.{then}, it)[2])(socket.socket(socket.AF_UNIX, socket.{kind}))"


def connect(address):
    if isinstance(address, tuple):
        return socket.create_connection(address, timeout=20)
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(address))
    return client


@pytest.mark.parametrize(
    ("kind", "wrapper", "options"),
    [
        ("UNIX", "", []),
        ("UNIX", "haproxy:", []),
        ("UNIX", "haproxy:", ["--workers", "2"]),
        ("INET", "", []),
        ("INET", "haproxy:", []),
        ("INET", "", ["--workers", "2"]),
        ("INET6", "", []),
    ],
)
def test_a_socket_on_this_machine_needs_no_leave(socks5ext, tmp_path, kind, wrapper, options):
    port, path = free_port(), tmp_path / "socks"
    make, address = {
        "UNIX": (unix(path), path),
        "INET": (tcp("127.0.0.1", port), ("127.0.0.1", port)),
        "INET6": (tcp("::1", port), ("::1", port)),
    }[kind]
    server = socks5ext(*options, listen=[f"{wrapper}systemd:domain={kind}:index=0"], **opened_by_systemd(make))
    header = b"PROXY UNKNOWN\r\n" if wrapper else b""
    with connect(address) as client:
        client.sendall(header + GREET_ANONYMOUS)
        assert read_exactly(client, 2) == b"\x05\x00"
    server.stop()
    assert "Traceback" not in server.output


def test_it_may_be_found_by_its_name(socks5ext, tmp_path):
    path = tmp_path / "socks"
    socks5ext(listen=["systemd:domain=UNIX:name=socks"], **opened_by_systemd(unix(path)))
    with connect(path) as client:
        client.sendall(GREET_ANONYMOUS)
        assert read_exactly(client, 2) == b"\x05\x00"


def refusal(socks5ext, make, domain, *options):
    with pytest.raises(AssertionError, match="ended with 1") as caught:
        socks5ext(*options, listen=[f"systemd:domain={domain}:index=0"], **opened_by_systemd(make))
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_socket_that_others_could_sniff_is_refused(socks5ext, host):
    domain = "INET6" if ":" in host else "INET"
    assert "--allow-remote" in refusal(socks5ext, tcp(host, free_port()), domain)
    socks5ext(
        "--allow-remote",
        listen=[f"systemd:domain={domain}:index=0"],
        **opened_by_systemd(tcp(host, free_port())),
    )


@pytest.mark.parametrize(
    ("host", "said", "right"), [("0.0.0.0", "UNIX", "INET"), ("127.0.0.1", "INET6", "INET"), ("::", "INET", "INET6")]
)
def test_a_socket_of_another_domain_is_refused(socks5ext, host, said, right):
    """Clients elsewhere would seem to be on a unix socket of this machine."""
    for options in ([], ["--allow-remote"]):
        assert f"write domain={right}" in refusal(socks5ext, tcp(host, free_port()), said, *options)


def test_a_socket_that_accepts_no_connections_is_refused(socks5ext, tmp_path):
    for make in (unix(tmp_path / "a", "SOCK_DGRAM", "fileno()"), unix(tmp_path / "b", then="fileno()")):
        assert "ListenStream= and Accept=no" in refusal(socks5ext, make, "UNIX")
    assert "systemd passed no socket" in refusal(socks5ext, f"open({os.devnull!r})", "UNIX")
