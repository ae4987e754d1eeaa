"""Failed logins: the line that each is in the log, delays, and logins of others meanwhile."""

import re
import struct
import time
from socket import SO_LINGER, SOL_SOCKET

import pytest
from argon2 import PasswordHasher
from examples.raw_peers import GREET_EXTENDED, GREET_LOGIN, login, pairs, proxy, request, until
from support.answers import portal, talk
from support.logs import lines_logged
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint

from txsocksx_ext import Limits, SOCKS5ExtFactory
from txsocksx_ext.errors import AuthenticationFailed
from txsocksx_ext.server.auth import HashedPasswordFile, portal_for
from txsocksx_ext.server.failed_logins import PEERS_COUNTED, FailedLogins

WRONG = GREET_LOGIN + login(b"alice", b"wrong")
RIGHT = GREET_LOGIN + login(b"alice", b"secret")
REFUSED, ACCEPTED = b"\x05\x02\x01\x01", b"\x05\x02\x01\x00"


def failures(lines):
    return [line for line in lines if line.startswith("auth_failed ")]


async def connect_from(server, host):
    """A client at another address of the loopback network: another peer."""
    return await server.connect(endpoint=TCP4ClientEndpoint(reactor, "127.0.0.1", server.port, bindAddress=(host, 0)))


async def answer_to(server, said, host="127.0.0.1"):
    """What a client hears, and after how many seconds."""
    began = time.monotonic()
    client = await connect_from(server, host)
    client.send(said)
    answer = await client.read(4)
    return answer, time.monotonic() - began


# The line.


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        (WRONG, "method=USERNAME_PASSWORD reason=invalid_credentials"),
        (
            GREET_EXTENDED + pairs((b"USERNAME", b"alice"), (b"PASSWD", b"wrong")),
            "method=EXTENDED reason=invalid_credentials",
        ),
        (GREET_EXTENDED + pairs((b"USERNAME", b"alice")), "method=EXTENDED reason=invalid_credentials"),
        (GREET_EXTENDED + pairs(), "method=EXTENDED reason=missing_credentials"),
    ],
)
async def test_a_failed_login_is_one_line(said, fields):
    with lines_logged("txsocksx_ext.server") as lines:
        async with proxy(portal=portal(), seen_from="203.0.113.7") as server:
            assert (await talk(server, said, None))[3] == 1
    assert failures(lines) == [f"auth_failed peer=203.0.113.7 {fields}"]


@pytest.mark.parametrize("said", [RIGHT, GREET_EXTENDED + pairs((b"USERNAME", b"alice"), (b"PASSWD", b"secret"))])
async def test_a_right_login_is_no_such_line(said):
    with lines_logged("txsocksx_ext.server") as lines:
        async with proxy(portal=portal()) as server:
            assert (await talk(server, said, 4))[3] == 0
    assert failures(lines) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"alice", "'alice'"),
        (b"\xff\nauth_failed peer 192.0.2.1", r"'\\xff\nauth_failed peer 192.0.2.1'"),
        ("jürgen {x}".encode(), "'jürgen {x}'"),
    ],
    ids=["plain", "hostile", "braces"],
)
async def test_the_name_is_shown_only_together_with_targets(name, shown):
    for log_targets, user in ((False, ""), (True, f" user={shown}")):
        with lines_logged("txsocksx_ext.server") as lines:
            async with proxy(portal=portal(), log_targets=log_targets) as server:
                assert await talk(server, GREET_LOGIN + login(name, b"wrong"), None) == REFUSED
        expected = f"auth_failed peer=127.0.0.1 method=USERNAME_PASSWORD reason=invalid_credentials{user}"
        assert failures(lines) == [expected]
        assert not any("wrong" in line for line in lines)


async def test_a_client_on_a_unix_socket_is_a_peer_too(tmp_path):
    with lines_logged("txsocksx_ext.server") as lines:
        async with proxy(portal=portal(), listen=f"unix:{tmp_path}/socket") as server:
            for _ in range(2):
                client = await server.connect(endpoint=UNIXClientEndpoint(reactor, f"{tmp_path}/socket"))
                client.send(WRONG)
                assert await client.read_to_end() == REFUSED
    assert failures(lines) == ["auth_failed peer=unix method=USERNAME_PASSWORD reason=invalid_credentials"] * 2


async def test_where_there_is_no_portal_nothing_is_logged():
    class Closed(SOCKS5ExtFactory):
        def authenticate(self, session):
            raise AuthenticationFailed()

    with lines_logged("txsocksx_ext.server") as lines:
        async with proxy(Closed(reactor)) as server:
            assert await talk(server, WRONG, None) == REFUSED
        async with proxy(anonymous=False) as server:
            assert (await talk(server, GREET_EXTENDED + pairs(), None))[3] == 1
    assert failures(lines) == []
    assert any("end=authentication failed" in line for line in lines)


# Delays.


async def test_each_failure_of_a_peer_waits_longer_and_others_do_not():
    async with proxy(portal=portal()) as server:
        waits = []
        for _ in range(5):
            answer, seconds = await answer_to(server, WRONG)
            assert answer == REFUSED
            waits.append(seconds)
        # A quarter, a half, one and two seconds.
        assert waits[1] >= 0.25
        assert waits[2] >= 0.5
        assert waits[3] >= 1
        assert waits[4] >= 2
        answer, seconds = await answer_to(server, RIGHT)
        assert answer == ACCEPTED
        assert seconds < waits[4]
        answer, seconds = await answer_to(server, WRONG, "127.0.0.2")
        assert answer == REFUSED
        assert seconds < waits[4]


async def test_both_methods_count_and_so_do_clients_that_are_many_at_once():
    async with proxy(portal=portal()) as server:
        extended = GREET_EXTENDED + pairs((b"USERNAME", b"alice"), (b"PASSWD", b"wrong"))
        together = [Deferred.fromCoroutine(answer_to(server, said)) for said in [WRONG, extended] * 3]
        answers = await gatherResults(together)
    assert [answer[3] for answer, _ in answers] == [1] * 6
    # 0, 0.25, 0.5, 1, 2 and 4 seconds, whoever came first.
    assert max(seconds for _, seconds in answers) >= 4


async def test_a_failure_is_answered_within_the_time_for_the_handshake():
    async with proxy(portal=portal(), limits=Limits(handshake_timeout=2)) as server:
        answers = await gatherResults(
            [Deferred.fromCoroutine(answer_to(server, WRONG + request("127.0.0.1", 9))) for _ in range(8)]
        )
    # None is reset, though the last one would have to wait for ten seconds.
    assert [answer for answer, _ in answers] == [REFUSED] * 8


async def test_delays_have_a_limit_that_can_be_chosen():
    async with proxy(portal=portal(), limits=Limits(login_delay=0.001)) as server:
        began = time.monotonic()
        for _ in range(8):
            assert await talk(server, WRONG, None) == REFUSED
        assert time.monotonic() - began < 8  # with delays it takes sixteen


async def test_a_client_that_leaves_waits_no_more():
    async with proxy(portal=portal()) as server:
        for _ in range(6):
            client = await server.connect()
            client.send(WRONG)
            await until(lambda: server.factory.connections)
            client.abort()
            await until(lambda: not server.factory.connections)
            assert client.unread == b""


def test_failures_are_forgotten_in_time():
    now = 1000.0
    logins = FailedLogins(lambda: now)
    assert [logins.add("peer") for _ in range(5)] == [0, 0.25, 0.5, 1, 2]
    assert logins.add("other") == 0
    now += 120
    assert logins.add("peer") == 1
    now += 3600
    assert [logins.add("peer") for _ in range(2)] == [0, 0.25]
    for _ in range(1000):
        longest = logins.add("peer")
    assert longest >= 10
    now += 600
    assert logins.add("peer") == 0


def test_so_many_peers_are_remembered():
    logins = FailedLogins(lambda: 0.0)
    for number in range(PEERS_COUNTED):
        assert logins.add(number) == 0
    assert logins.add(0) == 0.25
    logins.add("one more")
    # The one that failed first is forgotten: number 0 failed again since.
    assert logins.add(0) == 0.5
    assert logins.add(1) == 0


# Logins of others.


@pytest.fixture
def hashed(tmp_path):
    """A portal with a file of users, each hash of the cost that the password tool gives it."""
    path = tmp_path / "passwords"
    path.write_bytes(
        b"".join(b"%s:%s\n" % (name, PasswordHasher().hash(b"secret").encode()) for name in (b"alice", b"bob"))
    )
    path.chmod(0o600)
    return portal_for([HashedPasswordFile(str(path))])


async def test_guesses_of_one_peer_hold_up_another_by_a_few_hashes(hashed):
    async with proxy(portal=hashed) as server:
        alone, first = await answer_to(server, RIGHT, "127.0.0.3")
        guesses = [Deferred.fromCoroutine(answer_to(server, WRONG, "127.0.0.2")) for _ in range(40)]
        await until(lambda: len(server.factory.connections) >= 40)
        answer, second = await answer_to(server, GREET_LOGIN + login(b"bob", b"secret"), "127.0.0.3")
        assert (alone, answer) == (ACCEPTED, ACCEPTED)
        # Two are hashed at a time: behind all of them it would take twenty times as long.
        assert second < max(1, 8 * first)
        for peer in server.peers:
            peer.abort()
        await gatherResults(guesses)


async def test_a_right_login_of_the_same_peer_is_not_behind_all_guesses(hashed):
    async with proxy(portal=hashed) as server:
        _, first = await answer_to(server, RIGHT)
        guesses = [Deferred.fromCoroutine(answer_to(server, WRONG)) for _ in range(40)]
        await until(lambda: len(server.factory.connections) >= 40)
        answer, second = await answer_to(server, GREET_LOGIN + login(b"bob", b"secret"))
        assert answer == ACCEPTED
        assert second < max(1, 8 * first)
        for peer in server.peers:
            peer.abort()
        await gatherResults(guesses)


async def test_logins_of_connections_that_were_reset_are_not_checked(hashed, monkeypatch):
    verified = []
    original = PasswordHasher.verify

    def verify(self, hashed, password):
        verified.append(password)
        return original(self, hashed, password)

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    async with proxy(portal=hashed) as server:
        clients = [await connect_from(server, "127.0.0.2") for _ in range(40)]
        for client in clients:
            client.send(GREET_LOGIN)
            assert await client.read(2) == b"\x05\x02"
        for client in clients:
            client.send(login(b"alice", b"wrong") + request("127.0.0.1", 9))
        await until(lambda: verified)
        for client in clients:
            client.transport.getHandle().setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            client.abort()
        await until(lambda: not server.factory.connections)
        assert (await answer_to(server, RIGHT, "127.0.0.3"))[0] == ACCEPTED
    assert len(verified) < 20


async def test_peers_take_turns(tmp_path, monkeypatch):
    path = tmp_path / "passwords"
    path.write_text(f"alice:{PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash('secret')}\n")
    path.chmod(0o600)
    order = []

    def verify(self, hashed, password):
        order.append(password)
        time.sleep(0.05)
        return False

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    async with proxy(portal=portal_for([HashedPasswordFile(str(path))])) as server:
        asking = []
        for host, count in (("127.0.0.2", 10), ("127.0.0.3", 3), ("127.0.0.4", 1)):
            for number in range(count):
                said = GREET_LOGIN + login(b"alice", f"{host} {number}".encode())
                asking.append(Deferred.fromCoroutine(answer_to(server, said, host)))
            await until(lambda: len(server.factory.connections) >= len(asking))
        await until(lambda: len(order) == 14)
        for peer in server.peers:
            peer.abort()
        await gatherResults(asking)
    places = {
        host: [n for n, each in enumerate(order) if each.decode().startswith(host)]
        for host in ("127.0.0.3", "127.0.0.4")
    }
    # The peer with most logins came first, and has most of the last turns.
    assert max(places["127.0.0.4"]) < 10
    assert max(places["127.0.0.3"]) < 13
    assert re.match(rb"127\.0\.0\.2 ", order[-1])
