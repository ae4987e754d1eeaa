"""HTTP CONNECT at a server, byte by byte: requests, answers, what they say of a failure, and who may come in."""

import re
from base64 import b64encode

import pytest
from examples.raw_peers import HeldRoute, Names, ReactorWith, proxy, target, turn, until
from support.answers import portal, table, talk
from support.logs import lines_logged
from twisted.internet import reactor
from twisted.internet.defer import fail
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectingCancelledError

from txsocksx_ext import Limits, Route, RouteTable, SOCKS5ExtFactory, errors
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.route.direct import DirectRoute
from txsocksx_ext.testing import FakeRoute

SUCCESS = b"HTTP/1.1 200 OK\r\nTor-Capabilities: Socks5Ext-Pair Tor-Family-Preference\r\n\r\n"
BASIC_ALICE = f"Proxy-Authorization: Basic {b64encode(b'alice:secret').decode()}"
PAYLOAD = b"first words\r\n\r\n"


def connect(host_and_port="192.0.2.1:80", *headers, version="1.1"):
    lines = (f"CONNECT {host_and_port} HTTP/{version}", *headers, "", "")
    return "\r\n".join(lines).encode("latin-1")


def parsed(answer):
    """The status line, the headers by their names, and the text of an answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *headers = head.decode("latin-1").split("\r\n")
    return line, dict(header.split(": ", 1) for header in headers), body.decode()


async def refusal(server, *headers, target="192.0.2.1:80"):
    """How a server refuses a request: it says so, and closes."""
    return parsed(await talk(server, connect(target, *headers), None))


class Honouring(Route):
    """A route that isolates, takes the arguments of transports, and connects nowhere."""

    name = "honouring"
    keys = frozenset({"tor.isolation", "pt."})
    uses_credentials = True

    def __init__(self, error=None):
        self.sessions = []
        self._error = error or errors.ConnectionRefused()

    def connect(self, request, addresses, session):
        self.sessions.append(session)
        return fail(self._error)


class OverTor(Honouring):
    is_over_tor = True


# A tunnel.


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_request_in_any_pieces_opens_a_tunnel_and_its_early_data_arrives(size):
    async with target() as far, proxy() as server:
        client = await server.connect()
        client.transport.setTcpNoDelay(True)
        data = connect(f"127.0.0.1:{far.port}", "Host: x", "User-Agent: y") + PAYLOAD
        for at in range(0, len(data), size):
            client.send(data[at : at + size])
        end = await far.accept()
        assert await end.read(len(PAYLOAD)) == PAYLOAD
        end.send(b"the answer")
        end.close()
        assert await client.read_to_end() == SUCCESS + b"the answer"


async def test_an_http_1_0_client_is_answered_in_its_version():
    async with target() as far, proxy() as server:
        client = await server.connect()
        client.send(connect(f"127.0.0.1:{far.port}", version="1.0"))
        assert (await client.read(15)) == b"HTTP/1.0 200 OK"


async def test_a_name_goes_to_the_resolver():
    async with target() as far, proxy(reactor=ReactorWith(names=Names(host_example=["127.0.0.1"]))) as server:
        client = await server.connect()
        client.send(connect(f"host.example:{far.port}"))
        assert await client.read(len(SUCCESS)) == SUCCESS
        await far.accept()


async def test_nothing_is_answered_before_the_route_has_connected():
    route = HeldRoute()
    async with proxy(policy=table(route)) as server:
        client = await server.connect()
        client.send(connect())
        await route.asked.get()
        assert client.total == 0
        route.pending.errback(errors.ConnectionRefused())
        assert (await client.read_to_end()).startswith(b"HTTP/1.1 502 Bad Gateway (connection refused)\r\n")


async def test_a_client_that_half_closes_during_the_connect_is_served():
    async with target() as far, proxy() as server:
        client = await server.connect()
        client.send(connect(f"127.0.0.1:{far.port}") + PAYLOAD)
        client.half_close()
        end = await far.accept()
        assert await end.read_to_end() == PAYLOAD
        end.send(b"the answer")
        end.close()
        assert await client.read_to_end() == SUCCESS + b"the answer"


async def test_a_client_that_leaves_before_its_request_is_complete_is_let_go():
    async with proxy() as server:
        client = await server.connect()
        client.send(connect()[:-1])
        client.half_close()
        assert await client.read_to_end() == b""
        await until(lambda: not server.factory.connections)


async def test_the_access_log_names_the_protocol_and_shows_nothing_private():
    with lines_logged("txsocksx_ext.server") as lines:
        async with proxy(policy=table(Honouring())) as server:
            await refusal(server, BASIC_ALICE, "Tor-Stream-Isolation: secret", target="secret.example:80")
            await until(lambda: lines)
    (line,) = lines
    assert line.startswith("127.0.0.1 CONNECT protocol=http method=USERNAME_PASSWORD route=honouring relay=- code=05 ")
    assert line.endswith(" end=ConnectionRefused")
    assert "secret" not in line
    assert "alice" not in line


# What a failure is told as.


async def test_a_failure_is_told_in_full_and_the_connection_closed():
    async with proxy(policy=table(Honouring(errors.OnionDescriptorNotFound()))) as server:
        assert (await talk(server, connect() + b"GET / HTTP/1.1\r\n\r\n", None)).decode() == (
            "HTTP/1.1 503 Service Unavailable (onion service descriptor can not be found)\r\n"
            "Tor-Capabilities: Proxy-Authorization Socks5Ext-Pair Tor-Stream-Isolation X-Tor-Stream-Isolation\r\n"
            "Tor-Request-Failed: socks5ext/OnionDescriptorNotFound prop229/E0 prop304/F0\r\n"
            "Proxy-Status: socks5ext; error=destination_not_found\r\n"
            "Content-Type: text/plain\r\n"
            f"Content-Length: {len(errors.OnionDescriptorNotFound.message) + 1}\r\n"
            "Connection: close\r\n"
            "\r\n"
            f"{errors.OnionDescriptorNotFound.message}\n"
        )


# By the decisions on what each failure is told as, and Tor's specification.
FAILURES = {
    errors.GeneralServerFailure: (500, "", "proxy_internal_error"),
    errors.ConnectionNotAllowed: (403, "", "destination_ip_prohibited"),
    errors.NetworkUnreachable: (503, "", "destination_ip_unroutable"),
    errors.HostUnreachable: (503, "", "destination_unavailable"),
    errors.ConnectionRefused: (502, "", "connection_refused"),
    errors.TTLExpired: (504, "", "connection_timeout"),
    errors.CommandNotSupported: (501, "", "http_request_error"),
    errors.AddressTypeNotSupported: (503, "", "destination_ip_unroutable"),
    errors.OnionServiceNotFound: (503, " prop229/E0", "destination_not_found"),
    errors.OnionServiceNotReachable: (503, " prop229/E1", "destination_unavailable"),
    errors.OnionDescriptorNotFound: (503, " prop229/E0 prop304/F0", "destination_not_found"),
    errors.OnionDescriptorInvalid: (503, " prop229/E1 prop304/F1", "destination_unavailable"),
    errors.OnionIntroductionFailed: (503, " prop229/E1 prop304/F2", "destination_unavailable"),
    errors.OnionRendezvousFailed: (503, " prop229/E1 prop304/F3", "destination_unavailable"),
    errors.OnionClientAuthRequired: (503, " prop229/E1 prop304/F4", "http_request_denied"),
    errors.OnionClientAuthWrong: (403, " prop229/E1 prop304/F5", "http_request_denied"),
    errors.OnionAddressInvalid: (400, " prop229/E0 prop304/F6", "http_request_error"),
    errors.OnionIntroductionTimedOut: (504, " prop229/E1 prop304/F7", "connection_timeout"),
    errors.TransportTemporaryFailure: (503, " prop229/F0", "destination_unavailable"),
    errors.TransportProtocolFailure: (502, " prop229/F1", "connection_terminated"),
    errors.TransportInternalError: (500, " prop229/F2", "proxy_internal_error"),
}


@pytest.mark.parametrize(("kind", "told"), FAILURES.items(), ids=[kind.__name__ for kind in FAILURES])
async def test_each_failure_has_its_status_and_tokens(kind, told):
    status, codes, problem = told
    async with proxy(policy=table(Honouring(kind("secret")))) as server:
        line, headers, text = await refusal(server)
    assert line.startswith(f"HTTP/1.1 {status} ")
    assert headers["Tor-Request-Failed"] == f"socks5ext/{kind.__name__}{codes}"
    assert headers["Proxy-Status"] == f"socks5ext; error={problem}"
    assert ("Retry-After" in headers) == (kind is errors.TransportTemporaryFailure)
    assert text == f"{kind.message}\n"
    assert "secret" not in str(headers)


async def test_a_failure_keeps_its_tokens_although_its_plain_code_is_another():
    async with proxy(policy=table(Honouring(errors.OnionRendezvousFailed().with_plain_code(4)))) as server:
        _, headers, _ = await refusal(server)
    assert headers["Tor-Request-Failed"] == "socks5ext/OnionRendezvousFailed prop229/E1 prop304/F3"


@pytest.mark.parametrize(
    ("kind", "reason", "status"),
    [
        (errors.ConnectionRefused, "CONNECTREFUSED", 403),
        (errors.ConnectionRefused, "DONE", 502),
        (errors.GeneralServerFailure, "MISC", 500),
    ],
)
async def test_what_a_relay_said_is_told_too(kind, reason, status):
    error = kind()
    error.relay_reason = reason
    async with proxy(policy=table(Honouring(error))) as server:
        line, headers, _ = await refusal(server)
    assert line.startswith(f"HTTP/1.1 {status} ")
    assert headers["Tor-Request-Failed"] == f"socks5ext/{kind.__name__} end/{reason}"


async def test_a_name_that_does_not_exist_is_said_to_be_of_dns():
    async with proxy() as server:
        line, headers, _ = await refusal(server, target="no-such-host.invalid:80")
    assert line == "HTTP/1.1 503 Service Unavailable (host unreachable)"
    assert re.fullmatch(r"socks5ext; error=dns_error(; rcode=NXDOMAIN)?", headers["Proxy-Status"])


async def test_a_refused_name_is_no_refused_address():
    async with proxy(policy=table(Honouring(errors.ConnectionNotAllowed()))) as server:
        _, headers, _ = await refusal(server, target="host.example:80")
    assert headers["Proxy-Status"] == "socks5ext; error=http_request_denied"


async def test_private_addresses_are_protected_from_remote_clients():
    async with proxy(seen_from="203.0.113.7") as server:
        for address in ("10.0.0.1:22", "[::1]:22", "127.1:22", "[::ffff:10.0.0.1]:22"):
            line, headers, _ = await refusal(server, target=address)
            assert line == "HTTP/1.1 403 Forbidden (connection not allowed by ruleset)"
            assert headers["Tor-Request-Failed"] == "socks5ext/ConnectionNotAllowed"
            assert headers["Proxy-Status"] == "socks5ext; error=destination_ip_prohibited"


class Connecting(HeldRoute):
    """Fails as a TCP connection that is cancelled."""

    def _cancel(self, pending):
        pending.errback(ConnectingCancelledError(None))


@pytest.mark.parametrize("held", [HeldRoute, Connecting])
async def test_a_server_that_stops_says_to_try_again(held):
    route = held()
    async with proxy(policy=table(route)) as server:
        client = await server.connect()
        client.send(connect())
        await route.asked.get()
        # The connection awaits the route only when connect() has returned.
        await turn()
        stopped = server.factory.drain(20)
        line, headers, text = parsed(await client.read_to_end())
        assert line.startswith("HTTP/1.1 503 ")
        assert headers["Retry-After"] == "0"
        assert text == "the proxy gave the request up: try again\n"
        client.close()
        await stopped


async def test_a_target_that_does_not_answer_in_time_is_504():
    async with proxy(policy=table(HeldRoute()), limits=Limits(connect_timeout=0.05)) as server:
        line, headers, _ = await refusal(server)
    assert line == "HTTP/1.1 504 Gateway Timeout (TTL expired)"
    assert headers["Tor-Request-Failed"] == "socks5ext/TTLExpired"


async def test_an_override_chooses_the_answer():
    class Mine(SOCKS5ExtFactory):
        def reply_for(self, failure, session):
            return 0xE0

    async with proxy(Mine(reactor, policy=table(Honouring()))) as server:
        _, headers, text = await refusal(server)
    assert headers["Tor-Request-Failed"] == "socks5ext/OnionServiceNotFound prop229/E0"
    assert text == f"{errors.OnionServiceNotFound.message}\n"


async def test_a_number_that_means_nothing_is_told_as_a_general_failure():
    class Mine(SOCKS5ExtFactory):
        def reply_for(self, failure, session):
            return 0x42

    async with proxy(Mine(reactor, policy=table(Honouring()))) as server:
        line, headers, text = await refusal(server)
    assert line.startswith("HTTP/1.1 500 ")
    assert headers["Tor-Request-Failed"] == "socks5ext/GeneralServerFailure"
    assert text == f"{errors.GeneralServerFailure.message}\n"


async def test_remote_procedures_of_arti_are_not_implemented():
    async with proxy() as server:
        line, headers, text = await refusal(server, "Tor-RPC-Target: x")
    assert line.startswith("HTTP/1.1 501 ")
    assert text == "this proxy has no RPC: leave out Tor-RPC-Target\n"
    assert headers["Tor-Request-Failed"] == "socks5ext/CommandNotSupported"


# What goes over Tor.


async def test_only_what_goes_over_tor_says_so():
    over_tor, other = OverTor(), Honouring()
    async with proxy(policy=RouteTable([("*.onion", over_tor)], other)) as server:
        _, headers, _ = await refusal(server, target="x.onion:80")
        assert headers["Via"] == "tor/1.0 tor-network (socks5ext)"
        _, headers, _ = await refusal(server, target="host.example:80")
        assert "Via" not in headers


async def test_a_route_that_no_target_takes_promises_nothing():
    async with proxy(policy=RouteTable([("*", OverTor())], DirectRoute(reactor))) as server:
        answer = await talk(server, b"OPTIONS * HTTP/1.0\r\nHost: localhost\r\n\r\n", None)
    headers = parsed(answer)[1]
    assert headers["Server"] == "tor/1.0 (socks5ext)"
    assert "Tor-Family-Preference" not in headers["Tor-Capabilities"].split()


@pytest.mark.parametrize(("rest", "name"), [(OverTor(), "tor/1.0 (socks5ext)"), (Honouring(), "socks5ext")])
async def test_a_server_claims_tor_only_if_all_its_routes_are(rest, name):
    async with proxy(policy=RouteTable([("*.onion", OverTor())], rest)) as server:
        answer = await talk(server, b"OPTIONS * HTTP/1.0\r\nHost: localhost\r\n\r\n", None)
    assert parsed(answer)[1]["Server"] == name


# Isolation, and other headers of Tor's.


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        (["Tor-Stream-Isolation: a"], b"a"),
        (["X-Tor-Stream-Isolation: a"], b"\na"),
        (["Tor-Stream-Isolation: a", "X-Tor-Stream-Isolation: b"], b"a\nb"),
        (["Tor-Stream-Isolation: a", "Proxy-Authorization: Bearer b"], b"a\n\nBearer b"),
        (["Proxy-Authorization: Bearer b"], b"\n\nBearer b"),
        (["Socks5Ext-Pair: tor.isolation=a%00"], b"a\0"),
        (["Tor-Stream-Isolation: \xe4"], b"\xe4"),
    ],
)
async def test_isolation_is_one_value_of_all_that_was_said(headers, value):
    route = Honouring()
    async with proxy(policy=table(route)) as server:
        await refusal(server, *headers)
    assert route.sessions[0].pairs["tor.isolation"] == value
    assert route.sessions[0].credentials is None


async def test_without_a_word_nothing_is_isolated():
    route = Honouring()
    async with proxy(policy=table(route)) as server:
        await refusal(server, "Tor-Stream-Isolation:")
    assert not route.sessions[0].pairs


@pytest.mark.parametrize(
    ("header", "key"),
    [
        ("Tor-Stream-Isolation: a", "tor.isolation"),
        ("X-Tor-Stream-Isolation: a", "tor.isolation"),
        ("Tor-Family-Preference: ipv4-only", "ip.family"),
    ],
)
async def test_what_a_route_cannot_do_is_refused_and_not_ignored(header, key):
    async with proxy(policy=table(FakeRoute())) as server:
        line, headers, text = await refusal(server, header)
    assert text == f"the route to this target does not honour the key {key}\n"
    assert line == "HTTP/1.1 403 Forbidden (connection not allowed by ruleset)"
    assert headers["Tor-Request-Failed"] == "socks5ext/ConnectionNotAllowed"
    assert headers["Proxy-Status"] == "socks5ext; error=http_request_denied"


async def test_only_a_known_family_is_required():
    async with proxy(policy=table(FakeRoute(failure=errors.ConnectionRefused()))) as server:
        assert (await refusal(server, "Tor-Family-Preference: ipv5-only"))[0].startswith("HTTP/1.1 502 ")


async def test_a_user_name_alone_asks_for_no_isolation():
    async with target() as far, proxy() as server:
        client = await server.connect()
        client.send(connect(f"127.0.0.1:{far.port}", BASIC_ALICE, "Tor-Family-Preference: ipv4-preferred"))
        assert await client.read(len(SUCCESS)) == SUCCESS


@pytest.mark.parametrize(
    ("preference", "host", "is_reached"),
    [
        ("ipv4-only", "127.0.0.1", True),
        ("ipv6-only", "127.0.0.1", False),
        ("IPv4-preferred", "127.0.0.1", True),
        ("ipv6-preferred", "127.0.0.1", True),
        ("strange", "127.0.0.1", True),
    ],
)
async def test_the_family_that_a_client_wants(preference, host, is_reached):
    names = Names(host_example=[host])
    async with target(host) as far, proxy(reactor=ReactorWith(names=names)) as server:
        client = await server.connect()
        client.send(connect(f"host.example:{far.port}", f"Tor-Family-Preference: {preference}"))
        line = (await client.read(len("HTTP/1.1 200"))).decode()
        assert line == f"HTTP/1.1 {200 if is_reached else 503}"
        assert far.accepted == is_reached


async def test_the_preferred_family_is_tried_first():
    names = Names(host_example=["127.0.0.1", "::1"])
    async with target("127.0.0.1") as far, proxy(reactor=ReactorWith(names=names)) as server:
        # Nothing listens on ::1, so it is refused at once, and the other address is reached.
        client = await server.connect()
        client.send(connect(f"host.example:{far.port}", "Tor-Family-Preference: ipv6-preferred"))
        assert await client.read(len(SUCCESS)) == SUCCESS


# Pairs.


async def test_pairs_are_those_of_method_97():
    route = Honouring()
    async with proxy(policy=table(route)) as server:
        await refusal(
            server, "Socks5Ext-Pair: pt.cert=a%3Db", "Socks5Ext-Pair: ?strange.key=c", "Socks5Ext-Pair: USERNAME=alice"
        )
    (session,) = route.sessions
    assert dict(session.pairs) == {"pt.cert": b"a=b", "USERNAME": b"alice"}
    assert session.required_keys == {"pt.cert"}
    assert session.credentials.username == b"alice"
    assert session.method is Method.EXTENDED


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (["Socks5Ext-Pair: strange.key=a"], "unknown key: strange.key"),
        (["Socks5Ext-Pair: tor.errors=1"], "the value of tor.errors is 229, 304 or none"),
        (["Socks5Ext-Pair: a"], "pair 1 is not KEY=VALUE with the value percent-encoded"),
        (["Socks5Ext-Pair: tor.isolation=a", "Tor-Stream-Isolation: b"], "tor.isolation stands twice"),
        (["Socks5Ext-Pair: USERNAME=alice", BASIC_ALICE], "the user name stands twice"),
    ],
)
async def test_pairs_that_the_server_does_not_take_are_400(headers, said):
    async with proxy(policy=table(Honouring())) as server:
        line, answered, text = await refusal(server, *headers)
    assert line == "HTTP/1.1 400 Bad Request"
    assert answered["Tor-Capabilities"] == (
        "Proxy-Authorization Socks5Ext-Pair Tor-Stream-Isolation X-Tor-Stream-Isolation"
    )
    assert answered["Tor-Request-Failed"] == "socks5ext/InvalidArguments"
    assert answered["Proxy-Status"] == "socks5ext; error=http_request_error"
    assert text.startswith(said)


async def test_a_pair_that_the_route_does_not_honour_is_refused():
    rules = RouteTable([("*.onion", Honouring())], FakeRoute())
    async with proxy(policy=rules) as server:
        line, _, _ = await refusal(server, "Socks5Ext-Pair: pt.cert=a")
    assert line == "HTTP/1.1 403 Forbidden (connection not allowed by ruleset)"


async def test_limits_of_pairs_hold():
    async with proxy(policy=table(Honouring()), limits=Limits()) as server:
        line, _, _ = await refusal(server, *[f"Socks5Ext-Pair: pt.{number}=a" for number in range(65)])
    assert line == "HTTP/1.1 400 Bad Request"


async def test_an_authenticate_may_answer_with_pairs():
    class Mine(SOCKS5ExtFactory):
        keys = frozenset({"my.key"})

        def authenticate(self, session):
            if session.pairs.get("my.key") == b"bad":
                raise errors.InvalidArguments("my.key is bad", pairs=errors.Pairs({"my.hint": "ask"}))
            return {"my.ticket": b"4 2"}

    async with target() as far, proxy(Mine(reactor)) as server:
        client = await server.connect()
        client.send(connect(f"127.0.0.1:{far.port}", "Socks5Ext-Pair: my.key=a"))
        end = await far.accept()
        end.close()
        assert parsed(await client.read_to_end())[1]["Socks5Ext-Pair"] == "my.ticket=4%202"
        line, headers, text = await refusal(server, "Socks5Ext-Pair: my.key=bad")
        assert (line, headers["Socks5Ext-Pair"]) == ("HTTP/1.1 400 Bad Request", "my.hint=ask")
        assert text == "my.key is bad\n"


# Who may come in.


async def test_credentials_are_checked_by_the_portal():
    route = Honouring()
    async with proxy(portal=portal(), policy=table(route)) as server:
        assert (await refusal(server, BASIC_ALICE))[0].startswith("HTTP/1.1 502 ")
    (session,) = route.sessions
    assert session.user == b"alice"
    assert session.avatar is not None


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [f"Proxy-Authorization: Basic {b64encode(b'alice:wrong').decode()}"],
        ["Proxy-Authorization: Bearer x"],
        ["Authorization: Basic YWxpY2U6c2VjcmV0"],
        ["Tor-Stream-Isolation: a"],
        ["Socks5Ext-Pair: USERNAME=alice"],
    ],
)
async def test_others_are_407_and_the_connection_is_closed(headers):
    route = Honouring()
    async with proxy(portal=portal(), policy=table(route)) as server:
        line, answered, text = await refusal(server, *headers)
    assert line == "HTTP/1.1 407 Proxy Authentication Required"
    assert answered["Proxy-Authenticate"] == 'Basic realm="socks5ext", charset="UTF-8"'
    assert answered["Connection"] == "close"
    assert "user name and password" in text
    assert not route.sessions


async def test_a_wrong_password_is_logged_for_fail2ban_and_a_missing_one_is_no_guess():
    with lines_logged("txsocksx_ext.server") as lines:
        async with proxy(portal=portal(), seen_from="203.0.113.7") as server:
            await refusal(server, f"Proxy-Authorization: Basic {b64encode(b'alice:wrong').decode()}")
            await refusal(server)
    assert [line for line in lines if line.startswith("auth_failed")] == [
        "auth_failed peer=203.0.113.7 method=USERNAME_PASSWORD reason=invalid_credentials"
    ]
    assert not any("wrong" in line for line in lines)


async def test_anonymous_clients_may_come_in_beside_others():
    async with proxy(portal=portal(), anonymous=True, policy=table(Honouring())) as server:
        assert (await refusal(server))[0].startswith("HTTP/1.1 502 ")
        for wrong in (f"Basic {b64encode(b'alice:wrong').decode()}", "Basic YWxpY2U=", "Basic !", "Basic", "Bearer x"):
            assert (await refusal(server, f"Proxy-Authorization: {wrong}"))[0].startswith("HTTP/1.1 407 ")


async def test_the_overrides_see_the_client():
    seen = []

    class Mine(SOCKS5ExtFactory):
        def authenticate(self, session):
            seen.append((session.protocol, session.method, session.user))

        def route(self, session):
            seen.append(session.request.destination.host)
            return Honouring()

        def closed(self, session):
            seen.append((session.reply_code, session.end))

    async with proxy(Mine(reactor)) as server:
        await refusal(server, BASIC_ALICE, target="host.example:80")
        await until(lambda: len(seen) == 3)
    assert seen == [("http", Method.USERNAME_PASSWORD, b"alice"), "host.example", (0x05, "ConnectionRefused")]


@pytest.mark.logs_errors
async def test_a_fault_in_an_override_is_logged_and_answered():
    class Mine(SOCKS5ExtFactory):
        def authenticate(self, session):
            return False

    with lines_logged("txsocksx_ext.server") as lines:
        async with proxy(Mine(reactor)) as server:
            assert (await refusal(server))[0].startswith("HTTP/1.1 407 ")
    assert any("failed unexpectedly: TypeError" in line for line in lines)


# Other methods.

OPTIONS = b"OPTIONS * HTTP/1.1\r\nHost: localhost:1080\r\n\r\n"
ABOUT = (
    b"HTTP/1.1 200 OK\r\nAllow: OPTIONS, CONNECT\r\nTor-Capabilities: Socks5Ext-Pair Tor-Family-Preference\r\n"
    b"Server: socks5ext\r\nContent-Length: 0\r\n\r\n"
)


async def test_options_may_be_followed_by_a_connect():
    async with target() as far, proxy() as server:
        client = await server.connect()
        client.send(OPTIONS + OPTIONS + connect(f"127.0.0.1:{far.port}") + PAYLOAD)
        assert await (await far.accept()).read(len(PAYLOAD)) == PAYLOAD
        expected = ABOUT * 2 + SUCCESS
        assert await client.read(len(expected)) == expected


LAST = ABOUT[:-2] + b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    "change",
    [
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        (b"\r\n\r\n", b"\r\nConnection: TE\r\nConnection: Close\r\n\r\n"),
    ],
)
async def test_options_close_where_the_client_says_so(change):
    async with proxy() as server:
        said = OPTIONS.replace(*change)
        assert await talk(server, said + OPTIONS, None) == LAST.replace(b"HTTP/1.1", said[10:18])


async def test_a_connection_gets_few_answers_to_options():
    async with proxy() as server:
        assert await talk(server, OPTIONS * 100, None) == ABOUT * 15 + LAST


@pytest.mark.parametrize(
    "change",
    [(b"*", b"/"), (b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n"), (b"\r\n\r\n", b"\r\nTransfer-Encoding: x\r\n\r\n")],
)
async def test_options_of_something_or_with_a_body_are_400(change):
    async with proxy() as server:
        answer = await talk(server, OPTIONS.replace(*change) + OPTIONS, None)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("method", [b"GET", b"POST", b"connect", b"PROPFIND"])
async def test_other_methods_from_this_machine_are_told_what_this_is(method):
    async with proxy() as server:
        answer = await talk(server, method + b" / HTTP/1.1\r\nHost: 127.0.0.1:1080\r\n\r\n" + OPTIONS, None)
    line, headers, text = parsed(answer)
    assert line == "HTTP/1.1 405 Method Not Allowed"
    assert headers["Allow"] == "OPTIONS, CONNECT"
    assert text == "this is a proxy for CONNECT: configure it as the HTTPS or SOCKS proxy of your program\n"


async def test_a_unix_socket_serves_http_too(tmp_path):
    async with target() as far, proxy(listen=f"unix:{tmp_path}/socket") as server:
        client = await server.connect(endpoint=UNIXClientEndpoint(reactor, f"{tmp_path}/socket"))
        client.send(connect(f"127.0.0.1:{far.port}"))
        assert await client.read(len(SUCCESS)) == SUCCESS
