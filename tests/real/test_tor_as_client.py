"""Our client to tor without a server between, the programs of the pages about it, and tor as a client of ours."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.programs import free_port
from support.streams import endpoint_at, error_of, watched
from support.tornet import (
    ECHO_PORT,
    NOT_OFFERED_PORT,
    VERSION_2_ADDRESS,
    WEB_PORT,
    bad_checksum,
    never_published,
    socks,
)
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.threads import deferToThread

from txsocksx_ext import SOCKS5ClientEndpoint, resolve, resolve_ptr
from txsocksx_ext.errors import (
    ConnectionRefused,
    GeneralServerFailure,
    HandshakeTimeout,
    HostUnreachable,
    OnionAddressInvalid,
    OnionClientAuthRequired,
    OnionClientAuthWrong,
    OnionDescriptorNotFound,
    OnionServiceNotFound,
    TTLExpired,
)
from txsocksx_ext.server.passwords import password_line

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"

TWISTD = [sys.executable, "-B", "-c", "from twisted.scripts.twistd import run; run()"]

ISOLATED = {"isolated": None}


async def ask(where, host, port=ECHO_PORT, methods=ISOLATED, **options):
    """Why a connection fails; ``None`` where it stands."""
    return await error_of(SOCKS5ClientEndpoint(host, port, endpoint_at(where), methods, **options))


async def ask_locked(where, address):
    """As `ask`; when tor has asked all directories about a service that it cannot decrypt, it says 04 once."""
    error = await ask(where, address)
    return await ask(where, address) if isinstance(error, HostUnreachable) else error


class TestDirectly:
    """A service that was killed is in ``test_txtorcon_network.py``."""

    @pytest.fixture(params=["plain_port", "extended_port", "plain_socket", "extended_socket"])
    def port(self, request, tor_network):
        return getattr(tor_network.client, request.param)

    @pytest.fixture
    def is_extended(self, port, tor_network):
        return port in (tor_network.client.extended_port, tor_network.client.extended_socket)

    async def test_found(self, port, tor_network):
        assert await ask(port, tor_network.onion) is None
        assert await ask(port, "echo.test", tor_network.servers.echo_port) is None

    async def test_not_found(self, port, is_extended):
        begun = time.monotonic()
        error = await ask(port, never_published())
        assert time.monotonic() - begun < 5
        if is_extended:
            assert type(error) is OnionDescriptorNotFound
            assert isinstance(error, OnionServiceNotFound)
        else:
            # It does not say which of the two it is, and neither do we.
            assert type(error) is HostUnreachable

    @pytest.mark.parametrize("address", [bad_checksum(), VERSION_2_ADDRESS], ids=["checksum", "version 2"])
    async def test_no_address_of_an_onion_service(self, port, is_extended, address):
        assert type(await ask(port, address)) is (OnionAddressInvalid if is_extended else GeneralServerFailure)

    async def test_port_not_offered(self, port, tor_network):
        assert type(await ask(port, tor_network.onion, NOT_OFFERED_PORT)) is ConnectionRefused

    async def test_client_authorization(self, tor_network):
        client, address = tor_network.client, tor_network.locked_onion

        async def kinds():
            errors = [await ask_locked(each, address) for each in (client.extended_port, client.plain_port)]
            return [type(each) for each in errors]

        assert await kinds() == [OnionClientAuthRequired, GeneralServerFailure]
        try:
            client.add_key(address, tor_network.wrong_key.private)
            assert await kinds() == [OnionClientAuthWrong, GeneralServerFailure]
            client.add_key(address, tor_network.right_key.private)
            assert await kinds() == [type(None)] * 2
        finally:
            client.remove_key(address)

    @pytest.mark.deadline(180)
    async def test_stopped_service(self, tor_network):
        """Tor's port does not tell a service that does not answer from one that does not exist, nor can we."""
        client = tor_network.client
        await deferToThread(tor_network.revive_service)
        address = tor_network.stop_service()
        client.control.set_conf(SocksTimeout=3)
        try:
            errors = await gatherResults(
                [
                    Deferred.fromCoroutine(ask(each, address, timeout=timeout))
                    for each in (client.extended_port, client.plain_port)
                    for timeout in (30.0, 1.0)
                ]
            )
        finally:
            tor_network.continue_service()
            client.control.command("RESETCONF SocksTimeout")
        # Tor gives up, or we do, whichever is first.
        assert [type(each) for each in errors] == [TTLExpired, HandshakeTimeout] * 2

    async def test_not_found_and_connected(self, tor_network):
        """One directory did not know the service, another did: tor says F0, and the connection stands."""
        client = tor_network.client
        for _ in range(15):
            address = await deferToThread(tor_network.half_published_onion)
            with client.events("HS_DESC") as events:
                assert await ask(client.extended_port, address) is None
                await deferToThread(events.wait_for, "RECEIVED", address.removesuffix(".onion"))
                if any("FAILED" in line and "NOT_FOUND" in line for line in events.seen):
                    return
        pytest.fail("every directory that was asked knew the service")

    async def test_look_ups(self, port):
        tor = endpoint_at(port)
        assert await resolve("echo.test", tor, ISOLATED) == "127.0.0.1"
        assert await resolve_ptr("192.0.2.1", tor, ISOLATED) == "echo.test"
        for look_up in (resolve("missing.test", tor), resolve(never_published(), tor), resolve_ptr("192.0.2.2", tor)):
            with pytest.raises(HostUnreachable):
                await look_up

    async def test_isolation(self, tor_network):
        """As tor's events show it."""
        target, tor = (tor_network.onion, ECHO_PORT), endpoint_at(tor_network.client.plain_port)
        one, other = (SOCKS5ClientEndpoint(*target, tor, ISOLATED) for _ in range(2))
        token, same_token = (SOCKS5ClientEndpoint(*target, tor, {"isolated": "a"}) for _ in range(2))
        anyone, anyone_else = (SOCKS5ClientEndpoint(*target, tor) for _ in range(2))
        with watched(tor_network.client) as circuits:
            endpoints = (one, other, token, same_token, anyone, anyone_else)
            taken = {each: await circuits.of(each) for each in endpoints}
            assert await circuits.of(one) == taken[one]
        assert taken[token] == taken[same_token]
        assert taken[anyone] == taken[anyone_else]
        assert len(set(taken.values())) == 4


# The programs of the pages.


def begin(example, *arguments):
    return subprocess.Popen(
        [sys.executable, "-B", EXAMPLES / example, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def what_it_says(process):
    """What it wrote, by its exit status: 0 and a page, or 1 and a reason."""
    page, reason = process.communicate(timeout=60)
    assert process.returncode == (1 if reason else 0), reason
    return page + reason


def test_fetching_a_page_of_an_onion_service(tor_network, socks5ext):
    client = tor_network.client
    control = quoteStringArgument(f"unix:{client.control_socket}")
    route = f"*=tor:{quoteStringArgument(f'tcp:127.0.0.1:{client.plain_port}')}:control={control}"
    server = socks5ext("--route", route)
    wait_until_said(server, "control connection established")
    extended, through_server = (f"tcp:127.0.0.1:{each}" for each in (client.extended_port, server.port))
    nobody = f"tcp:127.0.0.1:{free_port()}"
    expected = {
        (f"http://{tor_network.onion}/there", through_server): f"the page /there of {tor_network.onion}\n",
        (f"http://{never_published()}/", extended): (
            "Not found: there is no such onion service: check the address, or ask its owner whether it moved.\n"
        ),
        (f"http://{tor_network.locked_onion}/", through_server): (
            "Key required: the onion service asks for a client authorization key: get one from its owner, "
            "give it to tor.\n"
        ),
        (f"http://{tor_network.onion}:{NOT_OFFERED_PORT}/", extended): (
            "Failed: the target refused the connection: check the port, and that the service runs.\n"
        ),
        (f"http://{tor_network.onion}/", nobody): (
            f"Failed: the proxy at {nobody.removeprefix('tcp:')} could not be reached (Connection was refused by other"
            " side: 111: Connection refused): check that it runs, and its address.\n"
        ),
    }
    running = {asked: begin("fetch_onion.py", *asked) for asked in expected}
    assert {asked: what_it_says(process) for asked, process in running.items()} == expected


def test_a_page_of_a_locked_onion_service(tor_network, tmp_path):
    client, url = tor_network.client, f"http://{tor_network.locked_onion}/there"
    said = {}
    for name, key in [("wrong", tor_network.wrong_key), ("right", tor_network.right_key)]:
        (tmp_path / name).write_text(key.private + "\n")
        try:
            said[name] = what_it_says(begin("locked_onion.py", url, tmp_path / name, f"unix:{client.control_socket}"))
        finally:
            client.remove_key(tor_network.locked_onion)
    first_line = "the service requires a key: adding it to tor\n"
    assert said["right"] == f"{first_line}the page /there of {tor_network.locked_onion}\n"
    assert said["wrong"].startswith(f"{first_line}Wrong key: the onion service does not accept")


def wait_until_said(program, words):
    deadline = time.monotonic() + 40
    while words not in program.output:
        assert time.monotonic() < deadline, program.output
        time.sleep(0.05)


def test_a_gateway_for_a_team(tor_network, program, tmp_path):
    client, port = tor_network.client, free_port()
    passwords = {"alice": "one", "bob": "two", "guest": "three"}
    (tmp_path / "users").write_text("".join(password_line(*each) + "\n" for each in passwords.items()))
    gateway = program(
        [*TWISTD, "-n", "--pidfile=", "-y", EXAMPLES / "team_gateway.tac"],
        env={
            "TEAM_USERS": str(tmp_path / "users"),
            "TEAM_TOR": quoteStringArgument(f"tcp:127.0.0.1:{client.plain_port}"),
            "TEAM_CONTROL": quoteStringArgument(f"unix:{client.control_socket}"),
            "TEAM_LISTENER": f"tcp:{port}:interface=127.0.0.1",
        },
        port=port,
    )
    wait_until_said(gateway, "control connection established")

    def circuit(user):
        with socks.request(port, tor_network.onion, WEB_PORT, user=user, password=passwords[user]) as answer:
            assert answer.code == 0x00
            return circuits.of_next_stream()

    def code(user, password, host, target_port):
        with socks.request(port, host, target_port, user=user, password=password) as answer:
            return answer.code

    with watched(client) as circuits:
        taken = {user: [circuit(user), circuit(user)] for user in passwords}
    assert all(first == second for first, second in taken.values())
    assert len({first for first, _ in taken.values()}) == 3
    # Tor is not told who asks.
    tokens = [line for line in circuits.events.seen if "SOCKS_PASSWORD" in line]
    assert tokens
    assert not any(user in line for user in passwords for line in tokens)
    assert code("guest", "three", tor_network.onion, ECHO_PORT) == 0x02
    assert code("alice", "one", tor_network.onion, ECHO_PORT) == 0x00
    assert code("alice", "one", "example.com", 25) == 0x02
    # A status of RFC 1929, and no reply.
    assert code("alice", "two", tor_network.onion, ECHO_PORT) == 0x01
    assert code("nobody", "one", tor_network.onion, ECHO_PORT) == 0x01
    assert code("alice", "one", never_published(), ECHO_PORT) == 0x04
    # The log has the finer reason, and nobody's name.
    wait_until_said(gateway, "end=OnionDescriptorNotFound")
    assert not any(user in gateway.output for user in passwords)


# Tor as a client of ours.


def through(server, user, password):
    return (
        f"Socks5Proxy 127.0.0.1:{server.port}",
        f"Socks5ProxyUsername {user}",
        f"Socks5ProxyPassword {password}",
    )


def test_tor_bootstraps_and_fetches_through_our_server(tor_network, socks5ext, tmp_path):
    (tmp_path / "users").write_text(password_line("relay user", "a password") + "\n")
    server = socks5ext("--auth", f"hashed:{tmp_path / 'users'}")
    tor = tor_network.add_client(*through(server, "relay user", "a password"))
    try:
        with socks.request(tor.plain_port, tor_network.onion, ECHO_PORT) as answer:
            assert answer.code == 0x00
            assert answer.echoes(bytes(range(256)) * 100)
        with socks.request(tor.plain_port, "web.test", tor_network.servers.web_port) as answer:
            answer.connection.sendall(b"GET /there HTTP/1.0\r\n\r\n")
            assert answer.connection.makefile("rb").read().endswith(b"the page /there of None\n")
    finally:
        tor.remove()
    # All of its connections to relays were ours.
    wait_until_said(server, "method=USERNAME_PASSWORD route=direct")
    assert "code=00" in server.output


def test_tor_does_not_bootstrap_with_a_wrong_password(tor_network, socks5ext):
    server = socks5ext("--auth", "memory:alice:secret")
    tor = tor_network.add_client(*through(server, "alice", "wrong"), wait=False)
    try:
        deadline = time.monotonic() + 40
        while tor.log.count("authentication failed") < 2:
            assert time.monotonic() < deadline, tor.log
            time.sleep(0.05)
        assert tor.control.bootstrap() < 10
    finally:
        tor.remove()
    assert "code=00" not in server.output
