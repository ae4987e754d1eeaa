"""The heads of HTTP CONNECT: what each end accepts, refuses and writes, byte by byte."""

import h11
import pytest

from txsocksx_ext.protocol import http_connect
from txsocksx_ext.protocol.codes import AddressType
from txsocksx_ext.protocol.decoding import MalformedMessage
from txsocksx_ext.protocol.http_connect import (
    Initiator,
    MalformedHTTP,
    Responder,
    basic_credentials,
    connect_destination,
    connect_request,
    credentials_of,
    has_body,
    is_for_this_machine,
    pair_header,
    pairs_of,
    response,
)
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.protocol.pairs import PairLimits, Pairs


def head(*lines):
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def received(data):
    responder = Responder()
    responder.feed(data)
    return responder.next_message()


def connect(target="ex.test:443", *headers, version="1.1"):
    return received(head(f"CONNECT {target} HTTP/{version}", *headers))


def violation_of(data, check=lambda message: None):
    """The status that bytes are refused with."""
    responder = Responder()
    responder.feed(data)
    with pytest.raises(MalformedHTTP) as raised:
        check(responder.next_message())
    return raised.value.status


# As captured from the programs named.
OF_CLIENTS = {
    "curl": head(
        "CONNECT ex.test:81 HTTP/1.1", "Host: ex.test:81", "User-Agent: curl/7.88.1", "Proxy-Connection: Keep-Alive"
    ),
    "curl, credentials": head("CONNECT ex.test:81 HTTP/1.1", "Host: ex.test:81", "Proxy-Authorization: Basic dTpw"),
    "wget": head("CONNECT ex.test:81 HTTP/1.1", "User-Agent: Wget/1.21.3", "Host: ex.test:81"),
    "netcat": head("CONNECT ex.test:81 HTTP/1.0"),
    "socat": head("CONNECT ex.test:81 HTTP/1.0", "Proxy-authorization: Basic dTpw"),
}


@pytest.mark.parametrize("data", OF_CLIENTS.values(), ids=OF_CLIENTS)
def test_what_programs_send_is_read(data):
    message = received(data)
    assert connect_destination(message).destination == Address.of("ex.test", 81)
    given = message.header("proxy-authorization")
    assert given is None or credentials_of(given) == (b"u", b"p")


@pytest.mark.parametrize("data", OF_CLIENTS.values(), ids=OF_CLIENTS)
def test_what_is_accepted_h11_reads_alike(data):
    if b"Host" in data or b"HTTP/1.0" in data:
        message, theirs = received(data), h11.Connection(h11.SERVER)
        theirs.receive_data(data)
        event = theirs.next_event()
        assert (event.method.decode(), event.target.decode()) == (message.method, message.target)
        assert event.http_version == f"1.{message.minor}".encode()
        assert [(name.decode(), value.decode()) for name, value in event.headers] == [
            (name, value) for name, values in message.headers.items() for value in values
        ]


TARGETS = {
    "ex.test:1": Address.of("ex.test", 1),
    "EX.test.:65535": Address.of("EX.test.", 65535),
    "192.0.2.1:80": Address.of("192.0.2.1", 80),
    "[2001:DB8:0::1]:443": Address.of("2001:db8::1", 443),
    "127.1:80": Address(AddressType.DOMAINNAME, "127.1", 80),
    "x" * 255 + ":80": Address.of("x" * 255, 80),
}


@pytest.mark.parametrize(("target", "address"), TARGETS.items())
def test_targets_are_names_and_addresses_with_a_port(target, address):
    assert connect_destination(connect(target)).destination == address


@pytest.mark.parametrize(
    "target",
    [
        "*",
        "/",
        "http://ex.test:80/",
        "ex.test",
        "ex.test:",
        ":80",
        "ex.test:0",
        "ex.test:65536",
        "ex.test:+80",
        "ex.test:000080",
        "user@ex.test:80",
        "fe80::1:80",
        "[fe80::1%25lo]:80",
        "[192.0.2.1]:80",
        "[]:80",
        "[::1]",
        "x" * 256 + ":80",
        "ex%2etest:80",
    ],
)
def test_other_targets_are_400(target):
    assert violation_of(head(f"CONNECT {target} HTTP/1.1"), connect_destination) == 400


BAD_HEADS = {
    "two spaces": b"CONNECT  a:1 HTTP/1.1\r\n\r\n",
    "no version": b"CONNECT a:1\r\n\r\n",
    "HTTP/2.0": b"CONNECT a:1 HTTP/2.0\r\n\r\n",
    "HTTP/1.2": b"CONNECT a:1 HTTP/1.2\r\n\r\n",
    "a target outside ASCII": b"CONNECT \xe4:1 HTTP/1.1\r\n\r\n",
    "LF alone": b"CONNECT a:1 HTTP/1.1\nHost: a\n\n",
    "LF alone at the end": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\n",
    "LF alone in the middle": b"CONNECT a:1 HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
    "CR alone": b"CONNECT a:1 HTTP/1.1\r\nA: b\rC: d\r\n\r\n",
    "NUL": b"CONNECT a:1 HTTP/1.1\r\nA: b\0\r\n\r\n",
    "a control character": b"CONNECT a:1 HTTP/1.1\r\nA: \x1b[2J\r\n\r\n",
    "a folded header": b"CONNECT a:1 HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
    "a folded first header": b"CONNECT a:1 HTTP/1.1\r\n A: b\r\n\r\n",
    "a space before the colon": b"CONNECT a:1 HTTP/1.1\r\nHost : a\r\n\r\n",
    "no colon": b"CONNECT a:1 HTTP/1.1\r\nHost\r\n\r\n",
    "no name": b"CONNECT a:1 HTTP/1.1\r\n: a\r\n\r\n",
    "a name of 256 bytes": b"CONNECT a:1 HTTP/1.1\r\n" + b"x" * 256 + b": a\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD_HEADS.values(), ids=BAD_HEADS)
def test_a_malformed_connect_is_400_and_anything_else_malformed_is_not_answered(data):
    assert violation_of(data) == 400
    assert violation_of(data.replace(b"CONNECT", b"OPTIONS", 1)) == 0


def test_line_feeds_alone_are_refused_without_waiting_for_more():
    assert violation_of(b"CONNECT a:1 HTTP/1.1\nHost: a\n\n") == 400


@pytest.mark.parametrize("start", [b"\r\nCONNECT ", b"CONNECT\t", b"CONNECTA:1 "])
def test_what_does_not_begin_as_a_connect_is_not_answered(start):
    assert violation_of(start + b"a:1 HTTP/1.1\r\nbad\r\n\r\n") == 0


HEADERS_OF_A_CONNECT = {
    "two Host": (("Host: a", "host: a"), 400),
    "two Proxy-Authorization": (("Proxy-Authorization: Basic dTpw",) * 2, 400),
    "two of Tor's": (("Tor-Stream-Isolation: a", "Tor-Stream-Isolation: b"), 400),
    "two X-Tor-Stream-Isolation": (("X-Tor-Stream-Isolation: a",) * 2, 400),
    "a body": (("Content-Length: 1",), 400),
    "two lengths": (("Content-Length: 0",) * 2, 400),
    "a strange length": (("Content-Length: +0",), 400),
    "chunks": (("Transfer-Encoding: chunked",), 400),
    "Origin": (("Origin: http://evil.example",), 0),
    "Cookie": (("cookie: a=b",), 0),
    "Referer": (("Referer: http://evil.example/",), 0),
    "Sec-Fetch-Mode": (("Sec-Fetch-Mode: cors",), 0),
}


@pytest.mark.parametrize(("headers", "status"), HEADERS_OF_A_CONNECT.values(), ids=HEADERS_OF_A_CONNECT)
def test_headers_that_a_connect_may_not_have(headers, status):
    assert violation_of(head("CONNECT a:1 HTTP/1.1", *headers), connect_destination) == status


def test_headers_that_a_connect_may_have():
    message = connect("a:1", "Content-Length: 0", "Via: 1.1 a", "Via: 1.1 b", "X-Latin: \xe4", "Empty:", "A:\t b \t")
    assert connect_destination(message).destination == Address.of("a", 1)
    assert message.headers["via"] == ["1.1 a", "1.1 b"]
    assert message.headers["a"] == ["b"]
    assert message.headers["empty"] == [""]


def test_a_head_without_end_is_431_at_16_kib_and_only_of_a_connect():
    assert violation_of(b"CONNECT a:1 HTTP/1.1\r\nA: " + b"x" * 16384) == 431
    assert violation_of(b"CONNECT " + b"x" * 16384) == 431
    assert violation_of(b"GET / HTTP/1.1\r\nA: " + b"x" * 16384) == 0
    responder = Responder()
    responder.feed(b"CONNECT a:1 HTTP/1.1\r\nA: ".ljust(16383, b"x"))
    assert responder.next_message() is None


def test_a_whole_head_is_measured_too():
    assert violation_of(head("CONNECT a:1 HTTP/1.1", "A: " + "x" * 16384)) == 431


def test_more_than_100_headers_are_431():
    assert len(connect("a:1", *(f"A{n}: b" for n in range(100))).headers) == 100
    assert violation_of(head("CONNECT a:1 HTTP/1.1", *["A: b"] * 101)) == 431
    assert violation_of(b"CONNECT a:1 HTTP/1.1\r\n" + b"A: b\r\n" * 101) == 431


def test_the_bytes_behind_a_head_are_kept():
    responder = Responder()
    responder.feed(head("CONNECT a:1 HTTP/1.1") + b"\r\n\r\nGET /")
    assert responder.next_message().method == "CONNECT"
    assert responder.take_read_ahead() == b"\r\n\r\nGET /"


def test_the_answer_to_a_violation_is_one_sentence_and_closes():
    responder = Responder()
    responder.feed(b"CONNECT a:1 HTTP/1.1\r\nbad\r\n\r\n")
    with pytest.raises(MalformedHTTP):
        responder.next_message()
    assert responder.final_reply == (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 22\r\nConnection: close\r\n\r\n"
        b"header 1 is malformed\n"
    )


# arti's own tests of Host have the first lines of both.
LOCAL_HOSTS = [
    "localhost",
    "LocalHost:9999",
    "127.0.0.1",
    "127.1.2.3:1234",
    "::1",
    "[::1]:9999",
    "[::1]",
]
FOREIGN_HOSTS = [
    "localhost:0",
    "localhost:999999",
    "[::0]:1234",
    "www.torproject.org",
    "8.8.8.8",
    "1.1.1.1:53",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1@evil.example",
    "127.1",
    "",
    "localhost, evil.example",
]


@pytest.mark.parametrize("host", LOCAL_HOSTS)
def test_hosts_of_this_machine(host):
    assert is_for_this_machine(received(head("OPTIONS * HTTP/1.1", f"Host: {host}")))


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_hosts_that_are_not_this_machine(host):
    assert not is_for_this_machine(received(head("OPTIONS * HTTP/1.1", f"Host: {host}")))


def test_no_host_or_two_are_not_this_machine():
    assert not is_for_this_machine(received(head("OPTIONS * HTTP/1.1")))
    assert not is_for_this_machine(received(head("OPTIONS * HTTP/1.1", "Host: localhost", "Host: localhost")))


def test_bodies_are_seen():
    for header in ("Content-Length: 3", "Transfer-Encoding: chunked", "Content-Length: x"):
        assert has_body(received(head("OPTIONS * HTTP/1.1", header)))
    assert not has_body(received(head("OPTIONS * HTTP/1.1", "Content-Length: 0")))


# The client's end.


def test_a_request_is_written():
    assert connect_request(Address.of("ex.test", 443), [("Proxy-Authorization", "Basic dTpw")]) == (
        b"CONNECT ex.test:443 HTTP/1.1\r\nHost: ex.test:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
    )
    assert connect_request(Address.of("2001:db8::1", 1)).startswith(b"CONNECT [2001:db8::1]:1 HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [("A", "secret\r\nB: c"), ("A", "secret\n"), ("A", "secret\0"), ("A", "secret\xe4"), ("A b", "c"), ("", "c")],
)
def test_a_header_that_cannot_be_written_is_refused_without_its_value(name, value):
    with pytest.raises(ValueError, match="header") as raised:
        connect_request(Address.of("ex.test", 443), [(name, value)])
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("host", ["a@b", "a/b", "a%b", "a?b"])
def test_a_host_that_http_cannot_carry_is_refused(host):
    with pytest.raises(ValueError, match="cannot carry"):
        connect_request(Address.of(host, 443))


def test_port_0_is_refused():
    with pytest.raises(ValueError, match="port"):
        connect_request(Address.of("ex.test", 0))


def answered(data):
    initiator = Initiator()
    initiator.feed(data)
    return initiator.next_message(), initiator.take_read_ahead()


def test_an_answer_is_read_with_what_follows_it():
    message, rest = answered(b"HTTP/1.0 200 OK\r\nVia: tor/1.0 x\r\nVIA: y\r\n\r\n\r\npayload")
    assert (message.status, message.reason, message.headers) == (200, "OK", {"via": ["tor/1.0 x", "y"]})
    assert rest == b"\r\npayload"


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 200\r\n\r\n", b"HTTP/1.1 200 \n\n", b"HTTP/1.1 200 \nA: b\n\r\n", b"HTTP/1.0 200 \xe4\r\n\r\n"]
)
def test_answers_that_some_proxies_send_are_read(data):
    assert answered(data)[0].status == 200


# As tor 0.4.9.11 sends them.
OF_TOR = {
    200: head("HTTP/1.0 200 OK", "Tor-Capabilities: ", "Via: tor/1.0 tor-network (tor 0.4.9.11)"),
    503: head(
        "HTTP/1.0 503 Service Unavailable (resolve failed)",
        "Tor-Capabilities: ",
        "Via: tor/1.0 tor-network (tor 0.4.9.11)",
        "Tor-Request-Failed: end/RESOLVEFAILED",
    ),
    501: head("HTTP/1.0 501 Tor is not an HTTP Proxy", "Content-Type: text/html; charset=iso-8859-1")
    + b"<!DOCTYPE html>",
}


@pytest.mark.parametrize(("status", "data"), OF_TOR.items())
def test_the_answers_of_tor_are_read(status, data):
    message, _ = answered(data)
    assert message.status == status
    assert message.headers.get("tor-request-failed") == (["end/RESOLVEFAILED"] if status == 503 else None)


def test_interim_answers_are_skipped():
    data = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 2 + b"HTTP/1.1 407 No\r\nA: b\r\n\r\nbody"
    message, rest = answered(data)
    assert (message.status, message.headers, rest) == (407, {"a": ["b"]}, b"body")


def test_interim_answers_without_end_are_refused():
    interim = b"HTTP/1.1 102 Processing\r\n\r\n"
    assert answered(interim * 16 + b"HTTP/1.1 200 OK\r\n\r\n")[0].status == 200
    with pytest.raises(MalformedHTTP, match="more than 16 responses are 1xx"):
        answered(interim * 17)


@pytest.mark.parametrize(
    "data",
    [
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"\x05\xff",
        b"\0\x5b\0\0",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * 65536,
    ],
)
def test_what_is_no_answer_is_refused(data):
    with pytest.raises(MalformedMessage):
        answered(data)


def test_a_response_is_written():
    assert response(200, "OK", [("Via", "x")], minor=0) == b"HTTP/1.0 200 OK\r\nVia: x\r\n\r\n"
    assert response(403, "No", (), "it is\xe4").endswith(b"Content-Length: 7\r\nConnection: close\r\n\r\nit is?\n")


# Credentials and pairs.


@pytest.mark.parametrize(
    ("value", "credentials"),
    [
        ("Basic dTpw", (b"u", b"p")),
        ("basic  dTpwOnE=", (b"u", b"p:q")),
        ("Basic Og==", (b"", b"")),
        ("Basic dQ==", None),
        ("Basic dTpw=", None),
        ("Basic dTp", None),
        ("Basic", None),
        ("Bearer dTpw", None),
        ("Basic d\xe4", None),
    ],
)
def test_basic_credentials_are_read(value, credentials):
    assert credentials_of(value) == credentials


def test_basic_credentials_are_written():
    assert credentials_of(basic_credentials(b"u", b"p:\xff")) == (b"u", b"p:\xff")
    for username, password in ((b"a:b", b"c"), (b"a\n", b"c"), (b"a", b"c\0")):
        with pytest.raises(ValueError, match="does not fit"):
            basic_credentials(username, password)


def pairs_in(*values, **limits):
    return pairs_of(connect("a:1", *(f"Socks5Ext-Pair: {value}" for value in values)).headers, PairLimits(**limits))


def test_pairs_are_read_and_written():
    pairs = Pairs({"pt.key": b"a=b%\0\xff ", "?tor.isolation": b""})
    assert pairs_in(*(pair_header(key, value)[1] for key, value in pairs.items())) == pairs
    assert pairs_in("a=b=c") == Pairs({"a": b"b=c"})
    assert pairs_of({}, PairLimits()) == Pairs()


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        (["a"], {}),
        (["=b"], {}),
        (["a b=c"], {}),
        (["a=%"], {}),
        (["a=%4"], {}),
        (["a=%zz"], {}),
        (["a=\xe4"], {}),
        (["a=b", "a=c"], {}),
        (["a=b", "c=d"], {"pairs": 1}),
        (["abc=b"], {"key_bytes": 2}),
        (["a=bcd"], {"value_bytes": 2}),
        (["a=bcd"], {"total_bytes": 9}),
    ],
)
def test_pairs_that_may_not_stand_there_are_400(values, limits):
    with pytest.raises(MalformedHTTP) as raised:
        pairs_in(*values, **limits)
    assert raised.value.status == 400


def test_a_key_with_an_equals_sign_does_not_fit():
    with pytest.raises(ValueError, match="cannot be sent over HTTP"):
        pair_header("a=b", b"")


def test_nothing_secret_stands_in_a_repr():
    message = connect("secret.test:1", "Proxy-Authorization: secret")
    assert "secret" not in repr(message) + repr(answered(b"HTTP/1.1 200 OK\r\nA: secret\r\n\r\n")[0])


def test_a_malformed_head_of_16_kib_is_refused_in_time():
    # A pattern that backtracks would take years.
    data = head("CONNECT a:1 HTTP/1.1", *["A:" + "\t " * 70] * 99, "A: \0")
    assert len(data) < http_connect.MAX_REQUEST_HEAD
    assert violation_of(data) == 400
