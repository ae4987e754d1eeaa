"""What a server says, and above all which reply codes may leave."""

import pytest

from txsocksx_ext import errors
from txsocksx_ext.failures import reply_error, row_of
from txsocksx_ext.protocol import codes, decoding
from txsocksx_ext.protocol.codes import Command, Dialect, Method, Status, permitted_code
from txsocksx_ext.protocol.decoding import Fault, MalformedMessage
from txsocksx_ext.protocol.messages import Address, ExtendedRequest, Greeting, Reply, Request, UsernamePassword
from txsocksx_ext.protocol.pairs import PairLimits, Pairs
from txsocksx_ext.protocol.socks5 import OutOfOrder, Responder, State

NONE, LOGIN, EXTENDED, NO_ACCEPTABLE = Method(0x00), Method(0x02), Method(0x97), Method(0xFF)
PLAIN, PROP229, TOR = Dialect.PLAIN, Dialect.PROP229, Dialect.TOR
REQUEST = Request(Command.CONNECT, Address.of("host.example", 443))

# The gate. All expectations are written from the specifications, none is taken from the code's tables.

EVERY_CLIENT = [
    (offered, selected, dialect)
    for offered in (False, True)
    for selected in (NONE, LOGIN, EXTENDED, NO_ACCEPTABLE)
    for dialect in Dialect
]
RFC_1928 = set(range(9))
ONION = {0xE0, 0xE1}
TRANSPORT = {0xF0, 0xF1, 0xF2}
TOR_OWN = set(range(0xF0, 0xF8))


def code_for(code, client):
    offered, selected, dialect = client
    return permitted_code(code, offered_extended=offered, selected=selected, dialect=dialect)


def may_get(client):
    """All codes that a client may get: proposal 229, section 2.2, and the decisions on it."""
    offered, selected, dialect = client
    if not offered or dialect is PLAIN:
        return RFC_1928
    if selected != EXTENDED:
        return RFC_1928 | ONION
    return RFC_1928 | ONION | (TRANSPORT if dialect is PROP229 else TOR_OWN)


EVERY_CODE = [*range(256), *codes.REPLY_CODES]


def test_no_code_leaves_to_a_client_that_does_not_understand_it():
    for client in EVERY_CLIENT:
        for code in EVERY_CODE:
            assert code_for(code, client) in may_get(client)


def test_nothing_above_08_leaves_to_a_client_that_did_not_offer_97():
    for _, selected, dialect in EVERY_CLIENT:
        for code in EVERY_CODE:
            assert code_for(code, (False, selected, dialect)) <= 0x08


def test_a_failure_stays_a_failure_and_success_success():
    for client in EVERY_CLIENT:
        for code in EVERY_CODE:
            is_success = code in (0, codes.SUCCEEDED)
            assert (code_for(code, client) == 0) == is_success


def test_a_number_that_a_client_understands_is_kept():
    for client in EVERY_CLIENT:
        for number in may_get(client):
            assert code_for(number, client) == number
        for number in set(range(9, 256)) - ONION - TOR_OWN:
            assert code_for(number, client) == 0x01


# A number's meaning where it may not leave itself: by the table that the client chose.
PLAIN_FOR = {
    PROP229: {0xE0: 0x04, 0xE1: 0x04, 0xF0: 0x01, 0xF1: 0x01, 0xF2: 0x01},
    TOR: {0xE0: 0x04, 0xE1: 0x04}
    | {0xF0: 0x04, 0xF1: 0x04, 0xF2: 0x04, 0xF3: 0x06, 0xF4: 0x01, 0xF5: 0x01, 0xF6: 0x01, 0xF7: 0x04},
    PLAIN: {0xE0: 0x04, 0xE1: 0x04},
}
ONION_FOR = {0xF0: 0xE0, 0xF1: 0xE1, 0xF2: 0xE1, 0xF3: 0xE1, 0xF4: 0xE1, 0xF5: 0xE1, 0xF6: 0xE0, 0xF7: 0xE1}


@pytest.mark.parametrize("dialect", Dialect)
def test_a_number_that_may_not_leave_becomes_the_nearest_that_may(dialect):
    for number in range(9, 256):
        plain = PLAIN_FOR[dialect].get(number, 0x01)
        for selected in (NONE, LOGIN, EXTENDED):
            assert code_for(number, (False, selected, dialect)) == plain
        if dialect is TOR and number in TOR_OWN:
            assert code_for(number, (True, LOGIN, TOR)) == ONION_FOR[number]
        elif dialect is PROP229 and number in TRANSPORT:
            assert code_for(number, (True, LOGIN, PROP229)) == 0x01
            assert code_for(number, (True, NONE, PROP229)) == 0x01
        elif dialect is PLAIN:
            assert code_for(number, (True, EXTENDED, PLAIN)) == plain


# The mapping table of replies, row by row: what happened; what gets a client that offered and got 97, one that only
# offered it, one that did not, one that chose Tor's codes (tor.errors=304), and one that chose none.
MAPPING = {
    "connected": (None, 0x00, 0x00, 0x00, 0x00, 0x00),
    "onion: descriptor not on any directory": (errors.OnionDescriptorNotFound, 0xE0, 0xE0, 0x04, 0xF0, 0x04),
    "onion: no such service, as a 229 server says": (errors.OnionServiceNotFound, 0xE0, 0xE0, 0x04, 0xE0, 0x04),
    "onion: introduction failed": (errors.OnionIntroductionFailed, 0xE1, 0xE1, 0x04, 0xF2, 0x04),
    "onion: introduction timed out": (errors.OnionIntroductionTimedOut, 0xE1, 0xE1, 0x04, 0xF7, 0x04),
    "onion: rendezvous timed out": (errors.OnionRendezvousFailed, 0xE1, 0xE1, 0x06, 0xF3, 0x06),
    "onion: client authorization missing": (errors.OnionClientAuthRequired, 0xE1, 0xE1, 0x01, 0xF4, 0x01),
    "onion: client authorization wrong": (errors.OnionClientAuthWrong, 0xE1, 0xE1, 0x01, 0xF5, 0x01),
    "onion: descriptor invalid": (errors.OnionDescriptorInvalid, 0xE1, 0xE1, 0x04, 0xF1, 0x04),
    "onion: failed without evidence": (errors.OnionServiceNotReachable, 0xE1, 0xE1, 0x04, 0xE1, 0x04),
    "onion: malformed address": (errors.OnionAddressInvalid, 0xE0, 0xE0, 0x01, 0xF6, 0x01),
    "onion: port not mapped": (errors.ConnectionRefused, 0x05, 0x05, 0x05, 0x05, 0x05),
    "onion: backend refused": (errors.GeneralServerFailure, 0x01, 0x01, 0x01, 0x01, 0x01),
    "tor is not ready": (errors.TTLExpired, 0x06, 0x06, 0x06, 0x06, 0x06),
    "tor's port cannot be reached": (errors.ProxyUnreachable, 0x01, 0x01, 0x01, 0x01, 0x01),
    "a rule refuses": (errors.ConnectionNotAllowed, 0x02, 0x02, 0x02, 0x02, 0x02),
    "transport: likely to work at once": (errors.TransportTemporaryFailure, 0xF0, 0x01, 0x01, 0x01, 0x01),
    "transport: not a bridge of this kind": (errors.TransportProtocolFailure, 0xF1, 0x01, 0x01, 0x01, 0x01),
    "transport: its own fault": (errors.TransportInternalError, 0xF2, 0x01, 0x01, 0x01, 0x01),
    "transport: its way out refused": (errors.ConnectionRefused, 0x05, 0x05, 0x05, 0x05, 0x05),
    "transport: its way out timed out": (errors.TTLExpired, 0x06, 0x06, 0x06, 0x06, 0x06),
    "transport: no route to the host": (errors.HostUnreachable, 0x04, 0x04, 0x04, 0x04, 0x04),
    "transport: no route to the network": (errors.NetworkUnreachable, 0x03, 0x03, 0x03, 0x03, 0x03),
    "command not supported": (errors.CommandNotSupported, 0x07, 0x07, 0x07, 0x07, 0x07),
    "address type not supported": (errors.AddressTypeNotSupported, 0x08, 0x08, 0x08, 0x08, 0x08),
    "another proxy said what nobody knows": (errors.UnknownReply, 0x01, 0x01, 0x01, 0x01, 0x01),
}
CLIENTS = [
    (True, EXTENDED, PROP229),
    (True, LOGIN, PROP229),
    (False, LOGIN, PROP229),
    (True, EXTENDED, TOR),
    (True, EXTENDED, PLAIN),
]


def responder_for(client):
    """A responder with such a client, before its reply."""
    offered, selected, dialect = client
    responder = Responder()
    responder.feed(Greeting(tuple(dict.fromkeys([*([EXTENDED] if offered else []), selected]))).encode())
    responder.next_message()
    responder.select(selected)
    if selected == EXTENDED:
        responder.feed(ExtendedRequest().encode())
    elif selected == LOGIN:
        responder.feed(UsernamePassword(b"u", b"p").encode())
    if selected != NONE:
        responder.next_message()
        responder.dialect = dialect
        responder.answer(Status.SUCCESS)
    responder.feed(REQUEST.encode())
    assert responder.next_message() == REQUEST
    return responder


def test_what_happened_is_told_in_the_codes_of_the_client():
    for what, (error, *expected) in MAPPING.items():
        row = codes.SUCCEEDED if error is None else row_of(error())
        replies = [responder_for(client).reply(row) for client in CLIENTS]
        assert replies == [bytes([5, code]) + bytes.fromhex("00 01 00000000 0000") for code in expected], what


def test_an_error_can_say_what_a_plain_client_is_told():
    # Tor's plain port says 06 where we ourselves waited for an onion service, and 01 where that is all it knows.
    for plain in (0x01, 0x04, 0x06):
        for error, offered_97, tor in (
            (errors.OnionServiceNotReachable(), 0xE1, 0xE1),
            (errors.OnionClientAuthRequired(), 0xE1, 0xF4),
            (errors.OnionServiceNotFound(), 0xE0, 0xE0),
        ):
            row = row_of(error.with_plain_code(plain))
            got = [code_for(row, client) for client in CLIENTS]
            assert got == [offered_97, offered_97, plain, tor, plain]
    # That was said of single errors, not of their classes.
    assert errors.OnionServiceNotReachable.reply_code is codes.ONION_SERVICE_NOT_REACHABLE


def test_every_row_of_the_tables_is_in_the_mapping():
    rows = {codes.SUCCEEDED if error is None else error.reply_code for error, *_ in MAPPING.values()}
    assert rows == set(codes.REPLY_CODES)


# What another proxy said, read in its dialect, for a client that did not offer 97 and for one that did.
TRANSLATED = {
    (TOR, 0xF0): (0x04, 0xE0),
    (TOR, 0xF1): (0x04, 0xE1),
    (TOR, 0xF2): (0x04, 0xE1),
    (TOR, 0xF3): (0x06, 0xE1),
    (TOR, 0xF4): (0x01, 0xE1),
    (TOR, 0xF5): (0x01, 0xE1),
    (TOR, 0xF6): (0x01, 0xE0),
    (TOR, 0xF7): (0x04, 0xE1),
    (PROP229, 0xF0): (0x01, 0xF0),
    (PROP229, 0xF1): (0x01, 0xF1),
    (PROP229, 0xF2): (0x01, 0xF2),
}


@pytest.mark.parametrize("dialect", Dialect)
def test_what_another_proxy_said_is_translated_and_never_copied(dialect):
    for number in range(1, 256):
        row = row_of(reply_error(number, dialect))
        if number <= 8:
            expected = (number, number)
        elif number in ONION:
            expected = (0x04, number)
        else:
            expected = TRANSLATED.get((dialect, number), (0x01, 0x01))
        assert (code_for(row, (False, LOGIN, PROP229)), code_for(row, (True, EXTENDED, PROP229))) == expected


REAL_CLIENTS = [
    *((offered, NONE, PROP229) for offered in (False, True)),
    *((offered, LOGIN, PROP229) for offered in (False, True)),
    *((True, EXTENDED, dialect) for dialect in Dialect),
]
"""Without method 97 a client has no way to choose a dialect."""


def test_a_reply_that_goes_round_the_gate_is_not_sent():
    for client in REAL_CLIENTS:
        for number in range(256):
            responder = responder_for(client)
            if number in may_get(client):
                assert responder.send(Reply(number)) == Reply(number).encode()
            else:
                with pytest.raises(ValueError, match=f"{number:02X} may not be sent"):
                    responder.send(Reply(number))
                assert responder.state is State.REPLY


# Greetings and methods.


def test_the_client_offers_and_the_server_chooses_by_its_own_order():
    responder = Responder()
    responder.feed(bytes.fromhex("05 05 00 80 02 97 00"))
    assert responder.next_message() == Greeting(tuple(map(Method, (0x00, 0x80, 0x02, 0x97, 0x00))))
    assert responder.offered == (0x00, 0x80, 0x02, 0x97, 0x00)
    assert responder.offered_extended
    assert responder.preferred_method() == EXTENDED
    assert responder.preferred_method((LOGIN, NONE)) == LOGIN
    assert responder.preferred_method((Method.GSSAPI, NONE)) == NONE
    assert responder.preferred_method((Method.GSSAPI,)) == NO_ACCEPTABLE
    assert responder.preferred_method(()) == NO_ACCEPTABLE
    assert responder.preferred_method((0x02, 0x00)) is LOGIN


CHOICES = {"00": 0x00, "02": 0x02, "97": 0x97, "00 02": 0x02, "02 97": 0x97, "00 97": 0x97, "01 03 ff": 0xFF}


def test_97_is_preferred_to_02_and_02_to_00():
    for offer, choice in CHOICES.items():
        responder = Responder()
        methods = bytes.fromhex(offer)
        responder.feed(bytes([5, len(methods)]) + methods)
        responder.next_message()
        assert responder.offered_extended == (0x97 in methods)
        assert responder.preferred_method() == choice
        assert responder.select(Method(choice)) == bytes([5, choice])
        assert responder.selected == choice
        assert (responder.state is State.CLOSED) == (choice == 0xFF)


def test_before_anything_was_offered_no_extended_code_may_leave():
    responder = Responder()
    assert not responder.offered_extended
    assert responder.permitted_code(0xE0) == 0x04
    assert responder.selected == NO_ACCEPTABLE


def test_an_answer_to_credentials_has_no_place_for_pairs():
    responder = Responder()
    responder.feed(bytes.fromhex("05 01 02"))
    responder.next_message()
    responder.select(LOGIN)
    responder.feed(bytes.fromhex("01 01 75 01 70"))
    responder.next_message()
    assert responder.answer(Status.AUTHENTICATION_FAILED, Pairs({"ERROR": "why"})) == b"\1\1"


def test_an_answer_to_pairs_carries_pairs():
    responder = Responder()
    responder.feed(bytes.fromhex("05 01 97"))
    responder.next_message()
    responder.select(EXTENDED)
    responder.feed(bytes.fromhex("01 0000"))
    responder.next_message()
    assert responder.answer(Status.SUCCESS, Pairs({"a": "b"})) == bytes.fromhex("01 00 0001 0001 61 0001 62")


def test_nothing_is_answered_before_it_was_asked():
    responder = Responder()
    responder.feed(bytes.fromhex("05 01 00"))
    responder.next_message()
    responder.select(NONE)
    for say in (lambda: responder.answer(Status.SUCCESS), lambda: responder.reply(0)):
        with pytest.raises(OutOfOrder):
            say()


def test_a_reply_carries_the_bound_address():
    reply = responder_for((False, NONE, PROP229)).reply(0, Address.of("::1", 0x1234))
    assert reply == bytes.fromhex("05 00 00 04 00000000000000000000000000000001 1234")


# What is still said after a violation: the selected method, the bytes, the answer as hex.
AN_ANSWER_WITH_A_REASON = "01 02 0001 0005 4552524f52"
FINAL_REPLIES = {
    "no methods": (None, "05 00", "05 ff"),
    "SOCKS4": (None, "04 01 00", ""),
    "HTTP": (None, "47 45 54", ""),
    "02: version 5": (LOGIN, "05 01 75 01 70", ""),
    "97: version 5": (EXTENDED, "05 01 00 01", ""),
    "97: too many pairs": (EXTENDED, "01 ffff", AN_ANSWER_WITH_A_REASON),
    "97: empty key": (EXTENDED, "01 0001 0000", AN_ANSWER_WITH_A_REASON),
    "97: key with NUL": (EXTENDED, "01 0001 0004 4b455900 0000", AN_ANSWER_WITH_A_REASON),
    "97: key twice": (EXTENDED, "01 0002 0001 61 0000 0001 61 0000", AN_ANSWER_WITH_A_REASON),
    "request: version 4": (NONE, "04 01 00 01", "05 01 00 01 00000000 0000"),
    "request: reserved byte": (NONE, "05 01 01 01", "05 01 00 01 00000000 0000"),
    "request: address type": (NONE, "05 01 00 05", "05 08 00 01 00000000 0000"),
    "request: empty name": (NONE, "05 01 00 03 00 0050", "05 01 00 01 00000000 0000"),
    "request: NUL in the name": (NONE, "05 01 00 03 01 00 0050", "05 01 00 01 00000000 0000"),
}


@pytest.mark.parametrize(("selected", "data", "final_reply"), FINAL_REPLIES.values(), ids=FINAL_REPLIES)
def test_what_is_said_after_a_violation(selected, data, final_reply):
    responder = Responder()
    if selected is not None:
        responder.feed(bytes([5, 1, selected]))
        responder.next_message()
        responder.select(selected)
    assert responder.final_reply == b""
    responder.feed(bytes.fromhex(data))
    with pytest.raises(MalformedMessage):
        responder.next_message()
    assert responder.state is State.CLOSED
    if final_reply != AN_ANSWER_WITH_A_REASON:
        assert responder.final_reply == bytes.fromhex(final_reply)
        return
    assert responder.final_reply.startswith(bytes.fromhex(final_reply))
    messages = decoding.MessageReader()
    messages.feed(responder.final_reply)
    reason = messages.decode(decoding.extended_response).pairs["ERROR"].decode("ascii")
    assert reason.isprintable()
    assert messages.buffered == 0


def test_the_reason_of_a_refusal_can_be_sent_however_long_the_key_was():
    responder = Responder(PairLimits(key_bytes=65535, total_bytes=200_000))
    responder.feed(bytes.fromhex("05 01 97"))
    responder.next_message()
    responder.select(EXTENDED)
    pair = b"\xff\xff" + b"k" * 65535 + b"\0\0"
    responder.feed(b"\1\0\2" + pair + pair)
    with pytest.raises(MalformedMessage) as refused:
        responder.next_message()
    assert refused.value.fault is Fault.KEY_TWICE
    # A client with our own default limits can read it.
    messages = decoding.MessageReader()
    messages.feed(responder.final_reply)
    assert messages.decode(decoding.extended_response).status == Status.INVALID_ARGUMENTS
