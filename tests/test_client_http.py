"""The client of HTTP CONNECT: what it sends, and what it makes of the answers."""

import re
from hashlib import sha256

import pytest
from support.raw_proxies import RawAttempt, RawProxy
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError

from txsocksx_ext import HTTPConnectClientEndpoint, errors
from txsocksx_ext.testing import MemoryEndpoint, Recorder

OK = b"HTTP/1.1 200 OK\r\n\r\n"
INTERIM = b"HTTP/1.1 102 Processing\r\n\r\n"
ELSEWHERE = IPv4Address("TCP", "192.0.2.1", 3128)
HEAD = b"CONNECT target.example:443 HTTP/1.1\r\nHost: target.example:443\r\n"
DIGEST = sha256(b"a" * 256).hexdigest().encode()
ONION = "duckduckgogg42xjoc72x3sjasowoarfbgcmvfimaftt6twagswzczad.onion"


def attempt(answer=OK, *, proxy=None, **options):
    return RawAttempt(HTTPConnectClientEndpoint, proxy or RawProxy(answer), **options)


def nowhere(**options):
    return HTTPConnectClientEndpoint("target.example", 443, MemoryEndpoint(RawProxy()), **options)


# What is sent.


@pytest.mark.parametrize(
    ("options", "head"),
    [
        ({}, HEAD),
        ({"host": "192.0.2.7", "port": 80}, b"CONNECT 192.0.2.7:80 HTTP/1.1\r\nHost: 192.0.2.7:80\r\n"),
        ({"host": "2001:db8::7", "port": 80}, b"CONNECT [2001:db8::7]:80 HTTP/1.1\r\nHost: [2001:db8::7]:80\r\n"),
        ({"host": "b\xfccher.example"}, HEAD.replace(b"target", b"xn--bcher-kva")),
        ({"host": "target.onion."}, HEAD.replace(b"example", b"onion")),
        ({"credentials": ("user", "p\xe4ss:word")}, HEAD + b"Proxy-Authorization: Basic dXNlcjpww6Rzczp3b3Jk\r\n"),
        (
            {"isolation": "tab 7%\r\n"},
            HEAD + b"Tor-Stream-Isolation: tab%207%25%0D%0A\r\nX-Tor-Stream-Isolation: tab%207%25%0D%0A\r\n",
        ),
        (
            {"pairs": {"pt.cert": b"A=\n", "a.b": ""}},
            HEAD + b"Socks5Ext-Pair: pt.cert=A%3D%0A\r\nSocks5Ext-Pair: a.b=\r\n",
        ),
        (
            {"pairs": {"tor.isolation": "tab"}},
            HEAD + b"Tor-Stream-Isolation: tab\r\nX-Tor-Stream-Isolation: tab\r\n",
        ),
        (
            {"isolation": "a" * 256},
            HEAD + b"".join(name + b"Tor-Stream-Isolation: " + DIGEST + b"\r\n" for name in (b"", b"X-")),
        ),
        ({"headers": [("User-Agent", "me/1")]}, HEAD + b"User-Agent: me/1\r\n"),
    ],
    ids=lambda value: str(next(iter(value), "")) if isinstance(value, dict) else "",
)
def test_the_request(options, head):
    assert attempt(None, **options).sent == head + b"\r\n"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"headers": [("X-Evil", "a\r\nHost: b")]}, "the header X-Evil has a character"),
        ({"headers": [("X-Evil", "a\nb")]}, "the header X-Evil has a character"),
        ({"headers": [("X-Evil: a\r\nX", "b")]}, "is not the name of a header"),
        ({"headers": [("Proxy-Authorization", "Basic hunter2")]}, "may not stand in headers: use credentials"),
        ({"headers": [("Content-Length", "7")]}, "Content-Length may not stand in headers"),
        ({"credentials": ("user\r\n", "hunter2")}, "control character"),
        ({"credentials": ("user", "hunter2\r\nX: y")}, "control character"),
        ({"credentials": ("us:er", "hunter2")}, "a user name with a colon"),
        ({"credentials": "hunter2"}, "credentials must hold a user name and a password, not str"),
        ({"pairs": {"a\r\nb": "hunter2"}}, "key"),
        ({"isolation": 7}, "the isolation token must be bytes or str, not int"),
        ({"isolation": ""}, "the isolation token is empty"),
    ],
)
def test_what_http_cannot_carry_is_refused_and_not_shown(options, told):
    with pytest.raises((ValueError, TypeError), match=told) as refused:
        nowhere(**options)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("host", ["a\r\nX: y", "a b", "user@target.example", "", "a" * 256])
def test_a_host_that_is_no_host_is_refused(host):
    with pytest.raises(ValueError, match="host"):
        HTTPConnectClientEndpoint(host, 443, MemoryEndpoint(RawProxy()))


def test_port_0_is_refused():
    with pytest.raises(ValueError, match="port from 1"):
        HTTPConnectClientEndpoint("target.example", 0, MemoryEndpoint(RawProxy()))


def test_no_repr_shows_a_secret():
    endpoint = nowhere(credentials=("user", "hunter2"), isolation="hunter2", pairs={"a.b": "hunter2"})
    assert repr(endpoint) == "<HTTPConnectClientEndpoint>"


@pytest.mark.parametrize(
    "secret", [{"credentials": ("user", "word")}, {"isolation": "tab"}, {"pairs": {"a.b": "c"}}], ids=str
)
def test_no_secret_goes_where_others_can_read_it(secret):
    tried = attempt(proxy=RawProxy(OK, address=ELSEWHERE), **secret)
    assert type(tried.outcome) is errors.CleartextRefused
    assert tried.sent == b""
    assert isinstance(attempt(proxy=RawProxy(OK, address=ELSEWHERE), allow_cleartext=True, **secret).outcome, Recorder)
    assert isinstance(attempt(proxy=RawProxy(OK, address=ELSEWHERE)).outcome, Recorder)


# Success.


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.0 200 Connection established\r\n\r\n",
        b"HTTP/1.1 299\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\nVia: tor/1.0 tor-network (tor 0.4.9.11)\nTor-Capabilities: \n\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
    ],
)
@pytest.mark.parametrize("most_at_once", [1, 65536])
def test_success_and_what_is_joined_to_it(answer, most_at_once):
    tried = attempt(proxy=RawProxy(answer + b"joined", most_at_once=most_at_once))
    assert tried.outcome.received == b"joined"
    (address,) = tried.application.addresses
    assert (address.host, address.port, address.bound.host) == ("target.example", 443, "0.0.0.0")
    tried.outcome.write(b"payload")
    tried.run()
    assert tried.sent == HEAD + b"\r\npayload"
    tried.outcome.close()


def test_the_pairs_of_the_answer():
    tried = attempt(b"HTTP/1.1 200 OK\r\nSocks5Ext-Pair: club.seat=A%3D1\r\n\r\n", pairs={"club.card": "7"})
    (address,) = tried.application.addresses
    assert address.pairs == {"club.seat": b"A=1"}
    tried.outcome.close()


@pytest.mark.parametrize("answer", [None, OK[:-1], b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_nothing_is_built_before_the_whole_success(answer):
    tried = attempt(answer)
    assert tried.outcome is None
    assert tried.application.addresses == []
    tried.connecting.cancel()
    tried.run()
    assert isinstance(tried.outcome, CancelledError)
    assert tried.has_left_nothing


# Failure.

TABLE = [
    # answer, target, exception
    ("407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x", "", "AuthenticationFailed"),
    ("401 Unauthorized", "", "AuthenticationFailed"),
    ("400 Bad Request", "", "InvalidArguments"),
    ("403 Access violation", "", "ConnectionNotAllowed"),
    ("404 No such domain", "", "HostUnreachable"),
    ("405 Method Not Allowed", "", "CommandNotSupported"),
    ("501 Tor is not an HTTP Proxy", "", "CommandNotSupported"),
    ("408 Request Timeout", "", "TTLExpired"),
    ("504 Gateway Timeout", "", "TTLExpired"),
    ("414 URI Too Long", "", "InvalidArguments"),
    ("431 Request Header Fields Too Large", "", "InvalidArguments"),
    ("429 Too Many Requests\r\nRetry-After: 7", "", "GeneralServerFailure"),
    ("500 Unable to connect", "", "GeneralServerFailure"),
    ("502 Bad Gateway", "", "GeneralServerFailure"),
    ("503 Connect failed", "", "GeneralServerFailure"),
    ("590 Non Successful", "", "GeneralServerFailure"),
    ("302 Found\r\nLocation: /", "", "ProtocolViolation"),
    ("304 Not Modified", "", "ProtocolViolation"),
    # Tor before it had a header for the reason, and what its SOCKS port would answer.
    ("404 Not Found (resolve failed)", "", "HostUnreachable"),
    ("404 Not Found (no route)", "", "HostUnreachable"),
    ("404 Not Found (resolve failed)", ONION, "OnionServiceError"),
    ("403 Forbidden (connection refused)", "", "ConnectionRefused"),
    ("403 Forbidden (connection reset)", "", "ConnectionRefused"),
    ("403 Forbidden (exit policy)", "", "ConnectionNotAllowed"),
    ("403 Forbidden (entry policy violation)", "", "ConnectionNotAllowed"),
    # Tor from 0.4.9.4 on.
    ("503 Service Unavailable (resolve failed)\r\nTor-Request-Failed: end/RESOLVEFAILED", "", "HostUnreachable"),
    ("503 Service Unavailable (resolve failed)\r\nTor-Request-Failed: end/RESOLVEFAILED", ONION, "OnionServiceError"),
    ("500 Internal Server Error\r\nTor-Request-Failed: end/MISC", ONION, "GeneralServerFailure"),
    ("502 Bad Gateway (tor protocol violation)\r\nTor-Request-Failed: end/TORPROTOCOL", ONION, "GeneralServerFailure"),
    (
        "502 Bad Gateway (tor protocol violation)\r\nTor-Request-Failed: end/TORPROTOCOL",
        "a" + ONION[1:],
        "OnionAddressInvalid",
    ),
    (
        "502 Bad Gateway (tor protocol violation)\r\nTor-Request-Failed: end/TORPROTOCOL",
        "facebookcorewwwi.onion",
        "OnionAddressInvalid",
    ),
    ("502 Bad Gateway (unexpected close)\r\nTor-Request-Failed: end/DONE", ONION, "ConnectionRefused"),
    ("504 Gateway Timeout\r\nTor-Request-Failed: end/TIMEOUT", "", "TTLExpired"),
    ("500 x (weird end reason)\r\nTor-Request-Failed: c-tor/CANT_ATTACH", "", "GeneralServerFailure"),
    ("500 x (weird end reason)\r\nTor-Request-Failed: c-tor/NET_UNREACHABLE", "", "NetworkUnreachable"),
    ("500 x (weird end reason)\r\nTor-Request-Failed: c-tor/PRIVATE_ADDR", "", "ConnectionNotAllowed"),
    # Arti.
    ("503 Service Unavailable\r\nTor-Request-Failed: arti/OnionServiceNotFound", ONION, "OnionDescriptorNotFound"),
    (
        "503 Service Unavailable\r\nTor-Request-Failed: arti/RemoteStreamClosed end/CONNECTREFUSED",
        "",
        "ConnectionRefused",
    ),
    ("500 Internal Server Error\r\nTor-Request-Failed: arti/BootstrapRequired", "", "GeneralServerFailure"),
    # This package's server.
    (
        "503 x\r\nTor-Request-Failed: socks5ext/OnionDescriptorNotFound prop229/E0 prop304/F0 end/RESOLVEFAILED",
        ONION,
        "OnionDescriptorNotFound",
    ),
    ("503 x\r\nTor-Request-Failed: prop229/E1 prop304/F2", ONION, "OnionIntroductionFailed"),
    ("503 x\r\nTor-Request-Failed: prop229/E0", ONION, "OnionServiceNotFound"),
    ("503 x\r\nTor-Request-Failed: socks5ext/TransportTemporaryFailure", "", "TransportTemporaryFailure"),
    ("403 x\r\nTor-Request-Failed: socks5ext/SOCKS5Error socks5ext/os socks5ext/", "", "ConnectionNotAllowed"),
    ("503 x\r\nTor-Request-Failed: made/UP prop229/XX prop304", "", "GeneralServerFailure"),
    # Proxy-Status (RFC 9209): the last member is the proxy that we asked.
    ("502 Bad Gateway\r\nProxy-Status: h2o; error=dns_error; rcode=NXDOMAIN", "", "HostUnreachable"),
    ("502 Bad Gateway\r\nProxy-Status: far;error=connection_refused", "", "ConnectionRefused"),
    (
        "502 x\r\nProxy-Status: far; error=dns_error\r\n"
        'Proxy-Status: near; details="a,; error=x"; error=connection_timeout',
        "",
        "TTLExpired",
    ),
    ("403 x\r\nProxy-Status: near; error=made_up", "", "ConnectionNotAllowed"),
    # Squid.
    ("503 x\r\nX-Squid-Error: ERR_DNS_FAIL 0", "", "HostUnreachable"),
    ("503 x\r\nX-Squid-Error: ERR_CONNECT_FAIL 111", "", "ConnectionRefused"),
    ("503 x\r\nX-Squid-Error: ERR_CONNECT_FAIL 101", "", "NetworkUnreachable"),
    ("503 x\r\nX-Squid-Error: ERR_CONNECT_FAIL 110", "", "TTLExpired"),
    ("403 x\r\nX-Squid-Error: ERR_ACCESS_DENIED 0", "", "ConnectionNotAllowed"),
]


@pytest.mark.parametrize(("answer", "target", "exception"), TABLE)
def test_what_a_failure_means(answer, target, exception):
    tried = attempt(f"HTTP/1.1 {answer}\r\n\r\n".encode(), host=target or "target.example")
    assert type(tried.outcome).__name__ == exception
    assert tried.outcome.status == int(answer[:3])
    assert answer[:3] in str(tried.outcome)
    tokens = answer.partition("Tor-Request-Failed: ")[2].split()
    assert tried.outcome.reasons == tuple(tokens)
    assert tried.has_left_nothing
    assert tried.application.addresses == []


def test_a_407_tells_the_schemes_and_a_429_when_to_come_again():
    assert "Basic realm=x" in str(attempt(f"HTTP/1.1 {TABLE[0][0]}\r\n\r\n".encode()).outcome)
    assert "retry-after: 7" in str(attempt(b"HTTP/1.1 429 Slowly\r\nRetry-After: 7\r\n\r\n").outcome)


def test_what_the_proxy_says_is_told_short_and_harmless():
    words = b"a\xe9" + b"\x80" * 1000
    error = attempt(b"HTTP/1.1 500 " + words + b"\r\nTor-Request-Failed: \xff[31m" + b"y" * 5000 + b"\r\n\r\n").outcome
    assert str(error).isprintable()
    assert str(error).isascii()
    assert len(str(error)) < 1000


def test_a_body_is_not_waited_for():
    tried = attempt(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 1000\r\n\r\n")
    assert type(tried.outcome) is errors.GeneralServerFailure
    assert tried.has_left_nothing


# What is no answer.


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 65536, "more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101, "more than 100 headers"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", "malformed"),
        (b"HTTP/1.1 200 OK\r\nSocks5Ext-Pair: \x01\r\n\r\n", "does not speak HTTP as it should"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "another protocol"),
        (b"\x05\xff", "SOCKS5"),
        (b"\x00\x5b\x00\x00\x00\x00\x00\x00", "SOCKS4"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "speaks TLS, not HTTP: .* connect to it by TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "speaks SSH, not HTTP"),
        (b"220 mail.example ESMTP\r\n", "SMTP"),
        (b"ICY 200 OK\r\n\r\n", "does not speak HTTP as it should"),
        (b"HTTP/2 200\r\n\r\n", "speaks HTTP/2, not HTTP"),
        (b"<html>", "does not speak HTTP as it should"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_an_answer_that_is_none_is_told(answer, told):
    tried = attempt(answer)
    assert type(tried.outcome) is errors.ProtocolViolation
    assert re.search(told, str(tried.outcome))
    assert tried.has_left_nothing


@pytest.mark.parametrize("end", [b"", b"\\"])
def test_a_quoted_string_without_end_is_read_once(end):
    # Some milliseconds; a minute where each quotation mark is tried.
    tried = attempt(
        b'HTTP/1.1 502 x\r\nProxy-Status: p; error=dns_error; details="' + b'\\"' * 32000 + end + b"\r\n\r\n"
    )
    assert type(tried.outcome) is errors.HostUnreachable


def test_an_echo_is_told():
    tried = attempt(proxy=RawProxy(echoes=True))
    assert type(tried.outcome) is errors.ProtocolViolation
    assert "sends back what it gets, so it is no HTTP proxy" in str(tried.outcome)


def test_a_proxy_that_closes_without_an_answer():
    tried = attempt(proxy=RawProxy(b"", closes=True))
    assert type(tried.outcome) is errors.ProxyClosed
    assert "is this an HTTP proxy?" in str(tried.outcome)


@pytest.mark.parametrize("answer", [OK[:-2], INTERIM])
def test_a_proxy_that_closes_in_the_middle_of_its_answer(answer):
    tried = attempt(proxy=RawProxy(answer, closes=True))
    assert type(tried.outcome) is errors.ProxyClosed
    assert "before it answered: see its log" in str(tried.outcome)


@pytest.mark.parametrize(
    ("answer", "told"),
    [(None, "did not answer at all"), (OK[:5], "did not answer in time"), (INTERIM, "did not answer in time")],
)
def test_a_deadline(answer, told):
    tried = attempt(answer, timeout=5).run(4.9)
    assert tried.outcome is None
    tried.run(0.2)
    assert type(tried.outcome) is errors.HandshakeTimeout
    assert told in str(tried.outcome)
    assert tried.has_left_nothing
