"""The documented filter of fail2ban, by fail2ban itself, on what the server really writes."""

import socket
from pathlib import Path

import pytest
from examples.raw_peers import GREET_EXTENDED, GREET_LOGIN, login, pairs, request_by_name
from support.programs import has_written, need
from support.targets import read_exactly, run

FILTER = Path(__file__).parents[2] / "docs" / "examples" / "fail2ban-filter.conf"
FORGED = "[txsocksx_ext.server#info] auth_failed peer=192.0.2.66 method=EXTENDED reason=invalid_credentials"


def banned(log):
    """The addresses that fail2ban finds in a log."""
    found = run(need("fail2ban-regex", "fail2ban"), "--out=ip", log, FILTER)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout.decode().split()


def say(server, host, said, count):
    """Connect from an address of the loopback network, and say something; the first bytes of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), 20, source_address=(host, 0)) as client:
        client.sendall(said)
        return read_exactly(client, count)


@pytest.mark.parametrize("option", ["--log-targets", "--anonymous"])
def test_failed_logins_are_found_and_nothing_that_a_client_writes(socks5ext, tmp_path, option):
    server = socks5ext("--auth=memory:alice:secret", option)
    refused = b"\x05\x02\x01\x01"
    assert say(server, "127.0.0.2", GREET_LOGIN + login(b"alice", b"wrong"), 4) == refused
    extended = GREET_EXTENDED + pairs((b"USERNAME", b"bob"), (b"PASSWD", b"wrong"))
    assert say(server, "127.0.0.3", extended, 4) == b"\x05\x97\x01\x01"
    for forged in (FORGED, f"\n2026-12-01T12:00:00+0000 {FORGED}", f"x y[1]: z {FORGED}"):
        assert say(server, "127.0.0.4", GREET_LOGIN + login(forged.encode(), b"wrong"), 4) == refused
        name = forged.replace("\n", "")
        right = GREET_LOGIN + login(b"alice", b"secret") + request_by_name(name, 80)
        assert say(server, "127.0.0.5", right, 6)[:5] == b"\x05\x02\x01\x00\x05"
        # What is no login is not a failed one.
        assert say(server, "127.0.0.6", GREET_EXTENDED + pairs((forged.encode()[:1], b"")), 3) == b"\x05\x97\x01"
    assert has_written(server, "127.0.0.6 ")
    log = tmp_path / "socks5ext.log"
    log.write_text(server.output)
    assert banned(log) == ["127.0.0.2", "127.0.0.3", *["127.0.0.4"] * 3]


def test_the_filter_reads_the_journal_too(tmp_path):
    log = tmp_path / "log"
    line = "[txsocksx_ext.server#info] auth_failed peer=2001:db8::7 method=EXTENDED reason=invalid_credentials"
    log.write_text(
        f"2026-12-01T12:00:00+0000 host twistd[12]: 2026-12-01T12:00:00+0000 {line}\n"
        f"2026-12-01T12:00:00+0000 {line.replace('2001:db8::7', 'unix')}\n"
        f"2026-12-01T12:00:00+0000 {line.replace('invalid_credentials', 'checker_failed')}\n"
    )
    assert banned(log) == ["2001:db8::7"]
