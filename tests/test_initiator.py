import pytest

from txsocksx_ext.protocol.codes import Command, Dialect, Method, Status
from txsocksx_ext.protocol.decoding import Fault, MalformedMessage
from txsocksx_ext.protocol.messages import (
    NO_ADDRESS,
    Address,
    ExtendedRequest,
    ExtendedResponse,
    MethodSelection,
    Reply,
    Request,
    UsernamePassword,
    UsernamePasswordResponse,
)
from txsocksx_ext.protocol.pairs import Pairs
from txsocksx_ext.protocol.socks5 import Initiator, OutOfOrder, State

NONE, LOGIN, EXTENDED, NO_ACCEPTABLE = Method(0x00), Method(0x02), Method(0x97), Method(0xFF)
REQUEST = Request(Command.CONNECT, Address.of("host.example", 443))
CREDENTIALS = UsernamePassword(b"bob", b"hunt")


def selected(method, offer=(EXTENDED, LOGIN, NONE), **kwargs):
    """A client that has just heard the selection."""
    initiator = Initiator(**kwargs)
    initiator.offer(offer)
    initiator.feed(bytes([5, method]))
    initiator.next_message()
    return initiator


def requested(method=NONE, answer=b"\1\0\0\0", **kwargs):
    """A client that has just sent its request."""
    initiator = selected(method, **kwargs)
    if method == EXTENDED:
        initiator.authenticate(ExtendedRequest())
        initiator.feed(answer)
        initiator.next_message()
    elif method == LOGIN:
        initiator.authenticate(CREDENTIALS)
        initiator.feed(b"\1\0")
        initiator.next_message()
    initiator.request(REQUEST)
    return initiator


def test_a_client_says_byte_for_byte_what_the_proposal_shows():
    """The dialogue of the proposal's messages, as the specification's notes spell it out."""
    initiator = Initiator()
    assert initiator.offer((EXTENDED, LOGIN, NONE)) == bytes.fromhex("05 03 97 02 00")
    initiator.feed(bytes.fromhex("05 97"))
    assert initiator.next_message() == MethodSelection(EXTENDED)
    pairs = Pairs({"USERNAME": b"bob", "PASSWD": b"hunt"})
    assert initiator.authenticate(ExtendedRequest(pairs)) == bytes.fromhex(
        "01 00 02  00 08 55534552 4e414d45  00 03 626f62  00 06 504153535744  00 04 68756e74"
    )
    initiator.feed(bytes.fromhex("01 00 00 00"))
    assert initiator.next_message() == ExtendedResponse(Status.SUCCESS)
    assert initiator.request(Request(Command.CONNECT, Address.of("example.com", 80))) == bytes.fromhex(
        "05 01 00 03 0b 6578616d706c652e636f6d 00 50"
    )
    initiator.feed(bytes.fromhex("05 00 00 01 00000000 0000"))
    assert initiator.next_message() == Reply(0)
    assert initiator.state is State.OPEN


@pytest.mark.parametrize("offer", [(NONE,), (LOGIN,), (EXTENDED,), (EXTENDED, NONE), (EXTENDED, LOGIN, NONE)])
def test_only_a_method_that_was_offered_may_be_selected(offer):
    for number in range(256):
        initiator = Initiator()
        initiator.offer(offer)
        initiator.feed(bytes([5, number]))
        if number in offer or number == 0xFF:
            assert initiator.next_message() == MethodSelection(Method(number))
            assert (initiator.state is State.CLOSED) == (number == 0xFF)
        else:
            with pytest.raises(MalformedMessage) as refused:
                initiator.next_message()
            assert refused.value.fault is Fault.METHOD
            assert f"{number:02X}" in refused.value.detail
            assert initiator.state is State.CLOSED
        assert initiator.selected == number


def test_no_secret_leaves_for_a_method_that_was_not_selected():
    everything = (CREDENTIALS, ExtendedRequest(Pairs({"a": b"b"})), REQUEST)
    for method, due in ((LOGIN, CREDENTIALS), (EXTENDED, everything[1]), (NONE, REQUEST)):
        for message in everything:
            initiator = selected(method)
            if message is due:
                assert initiator.send(message) == message.encode()
            else:
                with pytest.raises(OutOfOrder):
                    initiator.send(message)


def test_nothing_leaves_before_the_method_is_selected():
    initiator = Initiator()
    initiator.offer((EXTENDED, LOGIN, NONE))
    for say, message in (
        (initiator.authenticate, CREDENTIALS),
        (initiator.authenticate, ExtendedRequest()),
        (initiator.request, REQUEST),
    ):
        with pytest.raises(OutOfOrder):
            say(message)
    assert initiator.selected is None


# The table in which codes are read.

CONFIRMED = ExtendedResponse(Status.SUCCESS, Pairs({"tor.errors": b"304"})).encode()
DECLINED = [ExtendedResponse(Status.SUCCESS, pairs).encode() for pairs in (Pairs({"tor.errors": "229"}), Pairs())]
DECLINED.append(ExtendedResponse(Status.SUCCESS, Pairs({"tor.errors": "none"})).encode())
DECLINED.append(ExtendedResponse(Status.SUCCESS, Pairs({"TOR.ERRORS": "304"})).encode())


def test_by_default_the_selected_method_and_the_answer_decide_the_dialect():
    assert requested(NONE).dialect is Dialect.TOR
    assert requested(LOGIN).dialect is Dialect.TOR
    assert requested(EXTENDED, CONFIRMED).dialect is Dialect.TOR
    for answer in DECLINED:
        assert requested(EXTENDED, answer).dialect is Dialect.PROP229


def test_a_confirmation_in_a_failing_answer_counts_for_nothing():
    initiator = selected(EXTENDED)
    initiator.authenticate(ExtendedRequest())
    initiator.feed(ExtendedResponse(Status.INVALID_ARGUMENTS, Pairs({"tor.errors": "304"})).encode())
    initiator.next_message()
    assert initiator.dialect is Dialect.PROP229


@pytest.mark.parametrize("dialect", Dialect)
def test_a_dialect_that_was_chosen_holds(dialect):
    for method in (NONE, LOGIN, EXTENDED):
        assert requested(method, CONFIRMED, dialect=dialect).dialect is dialect


# Answers.


def test_every_status_but_00_ends_the_conversation():
    for number in range(256):
        for method, message in ((LOGIN, UsernamePasswordResponse), (EXTENDED, ExtendedResponse)):
            initiator = selected(method)
            initiator.authenticate(CREDENTIALS if method == LOGIN else ExtendedRequest())
            answer = message(Status(number))
            initiator.feed(answer.encode())
            assert initiator.next_message() == answer
            assert initiator.state is (State.CLOSED if number else State.REQUEST)


def test_of_every_failing_reply_two_bytes_are_enough():
    for number in range(1, 256):
        initiator = requested()
        initiator.feed(b"\5")
        assert initiator.next_message() is None
        initiator.feed(bytes([number]))
        assert initiator.next_message() == Reply(number)
        assert initiator.state is State.CLOSED


def test_a_success_is_none_before_its_last_byte():
    reply = Reply(0, Address.of("2001:db8::1", 80))
    initiator = requested()
    for byte in reply.encode()[:-1]:
        initiator.feed(bytes([byte]))
        assert initiator.next_message() is None
    initiator.feed(reply.encode()[-1:] + b"first data")
    assert initiator.next_message() == reply
    assert initiator.take_read_ahead() == b"first data"


# A failing reply on a connection that stands: tor's F0.


@pytest.mark.parametrize("bound", [Address.of("0.0.0.0", 0), Address.of("::", 0), Address.of("b", 1), NO_ADDRESS])
def test_a_failing_reply_can_be_taken_for_a_success(bound):
    initiator = requested()
    initiator.feed(Reply(0xF0, bound).encode() + b"data")
    assert initiator.next_message() == Reply(0xF0)
    assert initiator.overrule() == Reply(0, bound)
    assert initiator.state is State.OPEN
    assert initiator.take_read_ahead() == b"data"


def test_a_failing_reply_without_its_address_stays_a_failure():
    whole = Reply(0xF0).encode()
    for length in range(2, len(whole)):
        initiator = requested()
        initiator.feed(whole[:length])
        assert initiator.next_message() == Reply(0xF0)
        assert initiator.overrule() is None
        assert initiator.state is State.CLOSED


def test_a_failing_reply_with_a_malformed_address_stays_a_failure():
    initiator = requested()
    initiator.feed(bytes.fromhex("05 f0 00 05 00000000 0000"))
    assert initiator.next_message() == Reply(0xF0)
    with pytest.raises(MalformedMessage):
        initiator.overrule()
    assert initiator.state is State.CLOSED
