"""Clients elsewhere do not reach this machine by its own addresses: in a network of the test's own."""

import os
import socket
import subprocess
import sys

import pytest
from examples.raw_peers import CONNECT, GREET_ANONYMOUS, RESOLVE, proxy_header, request
from support.programs import need, twistd
from support.targets import read_exactly

SUCCEEDED, NOT_ALLOWED = 0x00, 0x02
PORT = 8080
REMOTE, HERE = proxy_header("198.51.100.1"), b"PROXY UNKNOWN\r\n"
TARGET = f"""
import socket
with socket.create_server(("::", {PORT}), family=socket.AF_INET6, dualstack_ipv6=True) as listening:
    print("listens", flush=True)
    while True:
        listening.accept()[0].close()
"""


class Machine:
    """
    A server in a network namespace of its own, a target on port 8080 of all its addresses, and its interface ``lo``.

    There ``own.example`` is a name of 203.0.113.5 and 2001:db8::5.

    The server listens on a unix socket, which is reached from here, and believes the header of a balancer.
    """

    def __init__(self, program, folder, options):
        self._path = folder / "socks"
        hosts = folder / "hosts"
        hosts.write_text("203.0.113.5 own.example\n2001:db8::5 own.example\n")
        prepare = f'ip link set lo up && mount --bind {hosts} /etc/hosts && exec "$@"'
        unshare = [need("unshare", "util-linux"), "-nm", "sh", "-c", prepare, "sh"]
        server = twistd(
            lambda arguments, **keywords: program([*unshare, *arguments], **keywords),
            *options,
            listen=[f"haproxy:unix:{self._path}"],
        )
        # With workers, too, all are in the namespace of the one that was started.
        self._inside = [need("nsenter", "util-linux"), "-t", str(server.pid), "-n"]
        program([*self._inside, sys.executable, "-c", TARGET], ready=lambda each: "listens" in each.output)

    def address(self, change, *addresses):
        """Add or delete addresses."""
        for address in addresses:
            command = [*self._inside, need("ip", "iproute2"), "address", change, address, "dev", "lo"]
            # Without it, Linux does not use an IPv6 address before it knows that nobody else has it.
            flags = ["nodad"] if ":" in address and change == "add" else []
            subprocess.run([*command, *flags], check=True)

    def code(self, host, header=REMOTE, command=CONNECT, port=PORT):
        """What a client is answered."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(self._path))
            client.sendall(header + GREET_ANONYMOUS)
            assert read_exactly(client, 2) == b"\x05\x00"
            client.sendall(request(host, port, command))
            return read_exactly(client, 2)[1]


@pytest.fixture
def machine(program, tmp_path):
    """Start a `Machine` whose server has these options."""
    if os.geteuid() != 0:
        pytest.skip("only root makes network namespaces")
    tried = subprocess.run([need("unshare", "util-linux"), "-nm", "true"], check=False)
    if tried.returncode:
        pytest.skip("this system allows no namespaces")

    return lambda *options: Machine(program, tmp_path, options)


ADDRESSES = "203.0.113.5/32", "2001:db8::5/128"
DISGUISED = "::ffff:203.0.113.5", "::ffff:0:203.0.113.5", "64:ff9b::203.0.113.5"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_own_addresses_are_refused_to_clients_elsewhere_as_soon_as_the_machine_has_them(machine, workers):
    here = machine("--workers", workers)
    for _ in range(3):
        for host in ("203.0.113.5", "2001:db8::5", *DISGUISED):
            assert here.code(host) not in (SUCCEEDED, NOT_ALLOWED), host
        here.address("add", *ADDRESSES)
        for host in ("203.0.113.5", "2001:db8::5", *DISGUISED):
            assert here.code(host) == NOT_ALLOWED, host
        assert here.code("203.0.113.5", HERE) == SUCCEEDED
        assert here.code("2001:db8::5", HERE) == SUCCEEDED
        here.address("del", *ADDRESSES)


def test_a_name_that_leads_to_an_own_address_is_refused(machine):
    here = machine()
    here.address("add", *ADDRESSES)
    assert here.code("own.example") == NOT_ALLOWED
    assert here.code("own.example", HERE) == SUCCEEDED


def test_a_rule_that_names_an_own_address_opens_it_and_no_other(machine):
    here = machine("--route", f"203.0.113.5:{PORT}=direct", "--route", "2001:db8::5=direct")
    here.address("add", *ADDRESSES, "203.0.113.6/32", "2001:db8::6/128")
    assert here.code("203.0.113.5") == SUCCEEDED
    assert here.code("2001:db8::5") == SUCCEEDED
    assert here.code("203.0.113.5", port=PORT + 1) == NOT_ALLOWED
    assert here.code("203.0.113.6") == NOT_ALLOWED
    assert here.code("2001:db8::6") == NOT_ALLOWED


@pytest.mark.parametrize("pattern", ["*", "203.0.113.0/24", "0.0.0.0/0"])
def test_a_rule_about_more_than_this_machine_opens_none_of_its_addresses(machine, pattern):
    here = machine("--route", f"{pattern}=direct")
    here.address("add", *ADDRESSES)
    assert here.code("203.0.113.5") == NOT_ALLOWED


def test_look_ups_of_own_addresses_are_refused_too(machine):
    here = machine()
    here.address("add", *ADDRESSES)
    assert here.code("203.0.113.5", command=RESOLVE) == NOT_ALLOWED
    assert here.code("203.0.113.9", command=RESOLVE) == SUCCEEDED
