"""The messages of SOCKS4 and 4a: what each end accepts, refuses and writes, byte by byte."""

import pytest

from txsocksx_ext.protocol.codes import AddressType, Command
from txsocksx_ext.protocol.decoding import Fault, MalformedMessage
from txsocksx_ext.protocol.messages import UNSPECIFIED, Address, Request
from txsocksx_ext.protocol.socks4 import Initiator, Responder, SOCKS4Reply, SOCKS4Request

# Written by hand, from the two documents of SOCKS4.
REQUESTS = {
    "04 01 0050 c0000201 00": SOCKS4Request(Command.CONNECT, Address.of("192.0.2.1", 80)),
    "04 01 0050 c0000201 626f62 00": SOCKS4Request(Command.CONNECT, Address.of("192.0.2.1", 80), b"bob"),
    "04 01 0050 00000001 626f62 00 6578616d706c652e636f6d 00": SOCKS4Request(
        Command.CONNECT, Address.of("example.com", 80), b"bob"
    ),
    "04 02 0000 c0000201 00": SOCKS4Request(Command.BIND, Address.of("192.0.2.1", 0)),
    "04 f0 0000 00000001 00 61 00": SOCKS4Request(Command.RESOLVE, Address.of("a", 0)),
    "04 01 0050 00000001 00 3a3a31 00": SOCKS4Request(Command.CONNECT, Address(AddressType.DOMAINNAME, "::1", 80)),
}


@pytest.mark.parametrize(("data", "message"), REQUESTS.items())
def test_requests(data, message):
    assert message.encode() == bytes.fromhex(data)
    responder = Responder()
    responder.feed(bytes.fromhex(data) + b"payload")
    assert responder.next_message() == Request(message.command, message.destination)
    assert responder.user_id == message.user_id
    assert responder.take_read_ahead() == b"payload"


@pytest.mark.parametrize("data", REQUESTS)
def test_requests_in_pieces(data):
    responder, *pieces = Responder(), *bytes.fromhex(data)
    for piece in pieces[:-1]:
        responder.feed(bytes((piece,)))
        assert responder.next_message() is None
    responder.feed(bytes(pieces[-1:]))
    assert responder.next_message() is not None


def test_another_address_in_0_0_0_means_a_name_too():
    responder = Responder()
    responder.feed(bytes.fromhex("04 01 0050 000000ff 00 61 00"))
    assert responder.next_message().destination == Address.of("a", 80)


BAD_REQUESTS = {
    "05 01 00": Fault.VERSION,
    "04 01 0050 00000000 00": Fault.ADDRESS_TYPE,
    "04 01 0050 00000001 00 00": Fault.DOMAIN_NAME,
    "04 01 0050 00000001 00 6120 00": Fault.DOMAIN_NAME,
    "04 01 0050 00000001 00 61ff 00": Fault.DOMAIN_NAME,
    "04 01 0050 c0000201" + "61" * 256: Fault.LIMIT,
    "04 01 0050 00000001 00" + "61" * 256: Fault.LIMIT,
}


@pytest.mark.parametrize(("data", "fault"), BAD_REQUESTS.items())
def test_malformed_requests_are_rejected(data, fault):
    responder = Responder()
    responder.feed(bytes.fromhex(data))
    with pytest.raises(MalformedMessage) as raised:
        responder.next_message()
    assert raised.value.fault is fault
    assert responder.final_reply == bytes.fromhex("005b 0000 00000000")


def test_fields_of_255_bytes_are_taken():
    message = SOCKS4Request(Command.CONNECT, Address.of("x" * 255, 80), b"y" * 255)
    responder = Responder()
    responder.feed(message.encode())
    assert responder.next_message().destination == message.destination


@pytest.mark.parametrize("user_id", [b"a\0b", b"a" * 256])
def test_a_user_id_that_cannot_be_sent_is_refused(user_id):
    with pytest.raises(ValueError, match="user id"):
        SOCKS4Request(Command.CONNECT, Address.of("a", 80), user_id).encode()


def test_an_address_that_would_mean_a_name_is_refused():
    with pytest.raises(ValueError, match=r"0\.0\.0\.0/24"):
        SOCKS4Request(Command.CONNECT, Address.of("0.0.0.7", 80)).encode()


REPLIES = {
    "00 5a 1f90 c0000201": SOCKS4Reply(0x5A, Address.of("192.0.2.1", 8080)),
    "00 5a 0000 00000000": SOCKS4Reply(0x5A, UNSPECIFIED),
}


@pytest.mark.parametrize(("data", "message"), REPLIES.items())
def test_replies(data, message):
    assert message.encode() == bytes.fromhex(data)
    initiator = Initiator()
    initiator.feed(bytes.fromhex(data) + b"payload")
    assert initiator.next_message() == message
    assert initiator.take_read_ahead() == b"payload"


@pytest.mark.parametrize("code", [0x5B, 0x5C, 0x5D, 0x00])
def test_two_bytes_of_a_failing_reply_suffice(code):
    initiator = Initiator()
    initiator.feed(b"\0")
    assert initiator.next_message() is None
    initiator.feed(bytes((code,)))
    assert initiator.next_message().code == code


def test_a_reply_with_another_version_is_refused():
    initiator = Initiator()
    initiator.feed(b"\x04\x5a")
    with pytest.raises(MalformedMessage):
        initiator.next_message()


def test_an_ipv6_address_is_shown_as_zeros():
    responder = Responder()
    assert responder.granted(Address.of("2001:db8::1", 80)) == bytes.fromhex("005a 0000 00000000")
    assert responder.granted(Address.of("192.0.2.1", 80)) == bytes.fromhex("005a 0050 c0000201")


def test_neither_name_nor_user_id_stands_in_a_repr():
    assert "secret" not in repr(SOCKS4Request(Command.CONNECT, Address.of("secret.test", 80), b"secret"))
