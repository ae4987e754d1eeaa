import copy
import dataclasses
import traceback

import pytest

from txsocksx_ext.context import PairCredentials
from txsocksx_ext.protocol.codes import AddressType, Command, Method, Status
from txsocksx_ext.protocol.messages import (
    NO_ADDRESS,
    UNSPECIFIED,
    Address,
    Datagram,
    ExtendedRequest,
    ExtendedResponse,
    Greeting,
    MethodSelection,
    Reply,
    Request,
    UsernamePassword,
    UsernamePasswordResponse,
    domain_name_problem,
)
from txsocksx_ext.protocol.pairs import Pairs

HOST = "secret-host.example"
USER = b"secret-user"
PASSWORD = b"secret-password"
VALUE = b"secret-value"
DATA = b"secret-data"

ADDRESS = Address.of(HOST, 443)
PAIRS = Pairs({"USERNAME": USER, "PASSWD": PASSWORD, "tor.isolation": VALUE})

# Each message beside its bytes, written by hand from the RFCs and the proposal.
MESSAGES = [
    (Greeting((Method(0x97), Method(0x02), Method(0x00))), "05 03 97 02 00"),
    (Greeting((Method(0x80),)), "05 01 80"),
    (MethodSelection(Method.EXTENDED), "05 97"),
    (MethodSelection(Method.NO_ACCEPTABLE), "05 ff"),
    (UsernamePassword(b"bob", b"hunt"), "01 03 626f62 04 68756e74"),
    (UsernamePassword(b"", b""), "01 00 00"),
    (UsernamePasswordResponse(Status(0)), "01 00"),
    (UsernamePasswordResponse(Status(0x7F)), "01 7f"),
    (ExtendedRequest(), "01 0000"),
    (ExtendedRequest(Pairs({"KEY": b"", "a.b": b"\0\xff"})), "01 0002 0003 4b4559 0000 0003 612e62 0002 00ff"),
    (ExtendedResponse(Status.SUCCESS), "01 00 0000"),
    (ExtendedResponse(Status.INVALID_ARGUMENTS, Pairs({"ERROR": "x"})), "01 02 0001 0005 4552524f52 0001 78"),
    (Request(Command.CONNECT, Address.of("192.0.2.1", 80)), "05 01 00 01 c0000201 0050"),
    (Request(Command.CONNECT, Address.of("example.com", 80)), "05 01 00 03 0b 6578616d706c652e636f6d 0050"),
    (
        Request(Command.CONNECT, Address.of("2001:db8::1", 0x1234)),
        "05 01 00 04 20010db8000000000000000000000001 1234",
    ),
    (Request(Command.RESOLVE, Address.of("a", 0)), "05 f0 00 03 01 61 0000"),
    (Request(Command.RESOLVE_PTR, Address.of("192.0.2.1", 0)), "05 f1 00 01 c0000201 0000"),
    (Request(Command(0x44), Address.of("192.0.2.1", 0)), "05 44 00 01 c0000201 0000"),
    (Reply(0), "05 00 00 01 00000000 0000"),
    (Reply(0xE0, UNSPECIFIED), "05 e0 00 01 00000000 0000"),
    (Reply(0, Address.of("::1", 8080)), "05 00 00 04 00000000000000000000000000000001 1f90"),
    (Reply(0, Address.of("b", 65535)), "05 00 00 03 01 62 ffff"),
    (Reply(4, NO_ADDRESS), "05 04 00 00 00000000 0000"),
    (Datagram(0, Address.of("192.0.2.1", 53), b"data"), "0000 00 01 c0000201 0035 64617461"),
    (Datagram(0x82, Address.of("a", 53), b""), "0000 82 03 01 61 0035"),
]


def test_messages_encode():
    for message, expected in MESSAGES:
        assert message.encode() == bytes.fromhex(expected)


def test_fragments_of_datagrams():
    alone, first, last = (Datagram(fragment, UNSPECIFIED, b"") for fragment in (0x00, 0x01, 0x82))
    assert (alone.stands_alone, alone.is_last) == (True, False)
    assert (first.stands_alone, first.position, first.is_last) == (False, 1, False)
    assert (last.stands_alone, last.position, last.is_last) == (False, 2, True)


HOSTS = {
    "127.0.0.1": AddressType.IPV4,
    "::": AddressType.IPV6,
    "::ffff:192.0.2.1": AddressType.IPV6,
    "example.com": AddressType.DOMAINNAME,
    "EXAMPLE.com.": AddressType.DOMAINNAME,
    "_service.example": AddressType.DOMAINNAME,
    # No IPv4 literals, whatever inet_aton makes of them.
    "127.1": AddressType.DOMAINNAME,
    "2130706433": AddressType.DOMAINNAME,
    "0x7f.0.0.1": AddressType.DOMAINNAME,
    "127.0.0.01": AddressType.DOMAINNAME,
    "a" * 255: AddressType.DOMAINNAME,
}


def test_addresses_and_names_are_told_apart():
    for host, kind in HOSTS.items():
        address = Address.of(host, 80)
        assert (address.type, address.host, address.port) == (kind, host, 80)
        assert address.is_name == (kind == AddressType.DOMAINNAME)


ONIONS = {
    "onion": True,
    "abc.onion": True,
    "www.ABC.Onion.": True,
    "notonion": False,
    "onion.example": False,
    "192.0.2.1": False,
}


def test_onion_names_are_known_however_they_are_written():
    for host, is_onion in ONIONS.items():
        assert Address.of(host, 80).is_onion == is_onion, host


HOSTS_REFUSED = [
    "",
    "x" * 256,
    "xx yy",
    "xx\0yy",
    "xx\nyy",
    "xx\x7f",
    "bücher.example",
    "xx\udc80",
    "xx\ud800",
    "::1\0",
]


def test_a_name_that_cannot_be_sent_is_refused_and_not_shown():
    for host in HOSTS_REFUSED:
        with pytest.raises(ValueError, match="a host name") as refused:
            Address.of(host, 80)
        assert not host or host not in str(refused.value)


def test_a_bad_port_is_refused():
    for port in (-1, 65536, "80", None, 80.0):
        with pytest.raises(ValueError, match="port"):
            Address.of("example.com", port)


def test_only_printable_ascii_stands_in_names():
    for byte in range(256):
        problem = domain_name_problem(b"a" + bytes([byte]) + b"b")
        assert (problem is None) == (0x21 <= byte <= 0x7E)


@pytest.mark.parametrize("count", [0, 256])
def test_a_greeting_offers_1_to_255_methods(count):
    with pytest.raises(ValueError, match="1 to 255"):
        Greeting((Method.NO_AUTHENTICATION,) * count)


def test_the_longest_greeting():
    assert Greeting(tuple(map(Method, range(255)))).encode() == b"\x05\xff" + bytes(range(255))


def test_credentials_of_255_bytes_fit():
    longest = bytes(255)
    assert UsernamePassword(longest, longest).encode() == b"\1\xff" + longest + b"\xff" + longest


@pytest.mark.parametrize(("username", "password"), [(b"xx" * 128, b""), (b"", b"xx" * 128)])
def test_longer_credentials_are_refused_and_not_shown(username, password):
    with pytest.raises(ValueError, match="256 bytes") as refused:
        UsernamePassword(username, password)
    assert "xx" not in str(refused.value)


SECRET_MESSAGES = [
    ADDRESS,
    Request(Command.CONNECT, ADDRESS),
    Request(Command.RESOLVE, ADDRESS),
    Reply(0, ADDRESS),
    UsernamePassword(USER, PASSWORD),
    PairCredentials(USER * 100, PASSWORD * 100),
    PAIRS,
    ExtendedRequest(PAIRS),
    ExtendedResponse(Status.INVALID_ARGUMENTS, PAIRS),
    Datagram(0, ADDRESS, DATA),
    Request(Command.CONNECT, Address.of("192.0.2.66", 80)),
    Request(Command.CONNECT, Address.of("2001:db8::66", 80)),
]
SECRETS = ["secret", "192.0.2.66", "2001:db8", ":66"]


def shows_a_secret(text):
    return [secret for secret in SECRETS if secret in text]


def test_repr_shows_no_name_no_password_and_no_value():
    for message in SECRET_MESSAGES:
        for text in (repr(message), str(message), f"{message}", repr([message]), repr({"message": message})):
            assert not shows_a_secret(text)


def test_a_repr_still_tells_what_is_no_secret():
    assert "CONNECT" in repr(Request(Command.CONNECT, ADDRESS))
    assert "443" in repr(ADDRESS)
    assert "EXTENDED" in repr(Greeting((Method.EXTENDED,)))
    assert "tor.isolation" in repr(ExtendedRequest(PAIRS))


def test_a_traceback_with_locals_shows_no_secret():
    def fail_with(message):
        (_, *parts) = message, copy.copy(message), [message]
        raise RuntimeError(f"a fault in a program, at {len(parts)} parts")

    for each in SECRET_MESSAGES:
        with pytest.raises(RuntimeError) as failed:
            fail_with(each)
        # The first frame is this test's own, which knows the secrets.
        trace = traceback.TracebackException(RuntimeError, failed.value, failed.tb.tb_next, capture_locals=True)
        shown = "".join(trace.format())
        assert "message = " in shown
        assert "parts = " in shown
        assert not shows_a_secret(shown)


def test_messages_cannot_be_changed():
    for message, _ in MESSAGES:
        name = dataclasses.fields(message)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(message, name, None)
        # No place for anything else either: a slot for each field, and no dict.
        assert not hasattr(message, "__dict__")
