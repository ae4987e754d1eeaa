"""The two ends, driven through each other."""

import traceback
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.vectors import thorough

from txsocksx_ext.protocol.codes import Command, Method, Status
from txsocksx_ext.protocol.decoding import Fault, MalformedMessage
from txsocksx_ext.protocol.messages import (
    Address,
    ExtendedRequest,
    ExtendedResponse,
    Greeting,
    MethodSelection,
    Reply,
    Request,
    UsernamePassword,
    UsernamePasswordResponse,
)
from txsocksx_ext.protocol.pairs import PairLimits, Pairs
from txsocksx_ext.protocol.socks5 import TRANSITIONS, Initiator, OutOfOrder, Responder, Role, State

NONE, LOGIN, EXTENDED, NO_ACCEPTABLE = Method(0x00), Method(0x02), Method(0x97), Method(0xFF)
REQUEST = Request(Command.CONNECT, Address.of("host.example", 443))
CREDENTIALS = UsernamePassword(b"bob", b"hunt")
PAIRS = ExtendedRequest(Pairs({"USERNAME": b"bob", "tor.isolation": b"\0" * 300}))
SUCCESS, FAILURE, INVALID = Status(0), Status(1), Status(2)


def is_to_send(end):
    """Whether the next message is the one of `end`."""
    return end.state in TRANSITIONS and TRANSITIONS[end.state].sender is end.role


# Each dialogue: who says what, in turn, and where it ends. The initiator begins.
GREETING = Greeting((EXTENDED, LOGIN, NONE))
DIALOGUES = {
    "nothing acceptable": ([GREETING, MethodSelection(NO_ACCEPTABLE)], State.CLOSED),
    "00": ([GREETING, MethodSelection(NONE), REQUEST, Reply(0)], State.OPEN),
    "00, refused": ([GREETING, MethodSelection(NONE), REQUEST, Reply(2)], State.CLOSED),
    "00, IPv6 bound": ([GREETING, MethodSelection(NONE), REQUEST, Reply(0, Address.of("::1", 1))], State.OPEN),
    "00, name bound": ([GREETING, MethodSelection(NONE), REQUEST, Reply(0, Address.of("b", 1))], State.OPEN),
    "02": (
        [GREETING, MethodSelection(LOGIN), CREDENTIALS, UsernamePasswordResponse(SUCCESS), REQUEST, Reply(0)],
        State.OPEN,
    ),
    "02, wrong password": (
        [GREETING, MethodSelection(LOGIN), CREDENTIALS, UsernamePasswordResponse(FAILURE)],
        State.CLOSED,
    ),
    "02, onion not found": (
        [GREETING, MethodSelection(LOGIN), CREDENTIALS, UsernamePasswordResponse(SUCCESS), REQUEST, Reply(0xE0)],
        State.CLOSED,
    ),
    "97": (
        [GREETING, MethodSelection(EXTENDED), PAIRS, ExtendedResponse(SUCCESS), REQUEST, Reply(0)],
        State.OPEN,
    ),
    "97, no pairs, pairs answered": (
        [
            GREETING,
            MethodSelection(EXTENDED),
            ExtendedRequest(),
            ExtendedResponse(SUCCESS, Pairs({"tor.errors": b"304", "other": b"\xff"})),
            REQUEST,
            Reply(0),
        ],
        State.OPEN,
    ),
    "97, wrong password": ([GREETING, MethodSelection(EXTENDED), PAIRS, ExtendedResponse(FAILURE)], State.CLOSED),
    "97, wrong arguments": (
        [GREETING, MethodSelection(EXTENDED), PAIRS, ExtendedResponse(INVALID, Pairs({"ERROR": b"why"}))],
        State.CLOSED,
    ),
    "97, unknown status": (
        [GREETING, MethodSelection(EXTENDED), PAIRS, ExtendedResponse(Status(0x7F))],
        State.CLOSED,
    ),
    "97, transport failed": (
        [GREETING, MethodSelection(EXTENDED), PAIRS, ExtendedResponse(SUCCESS), REQUEST, Reply(0xF2)],
        State.CLOSED,
    ),
    "97, resolve": (
        [
            GREETING,
            MethodSelection(EXTENDED),
            PAIRS,
            ExtendedResponse(SUCCESS),
            Request(Command.RESOLVE, Address.of("host.example", 0)),
            Reply(0, Address.of("192.0.2.1", 0)),
        ],
        State.OPEN,
    ),
}


def say(speaker, message):
    """The bytes of a message, said by the method that is meant for it."""
    if isinstance(message, Greeting):
        return speaker.offer(message.methods)
    if isinstance(message, MethodSelection):
        return speaker.select(message.method)
    if isinstance(message, (UsernamePassword, ExtendedRequest)):
        return speaker.authenticate(message)
    if isinstance(message, UsernamePasswordResponse):
        return speaker.answer(message.status)
    if isinstance(message, ExtendedResponse):
        return speaker.answer(message.status, message.pairs)
    if isinstance(message, Request):
        return speaker.request(message)
    return speaker.reply(message.code, message.bound)


def is_failing_reply(message):
    return isinstance(message, Reply) and message.code != 0


def as_heard(message):
    """A failing reply is heard by its code alone."""
    return Reply(message.code) if is_failing_reply(message) else message


def drive(messages, pieces_of):
    """Let two ends say `messages` to each other, each cut into pieces."""
    initiator, responder = Initiator(), Responder()
    speaker, listener = initiator, responder
    for message in messages:
        assert is_to_send(speaker)
        assert not is_to_send(listener)
        *pieces, last = pieces_of(say(speaker, message))
        for piece in pieces:
            listener.feed(piece)
            heard = listener.next_message()
            if heard is not None:  # only where the code of a failure was enough
                assert is_failing_reply(message)
                break
        else:
            listener.feed(last)
            heard = listener.next_message()
        assert heard == as_heard(message)
        assert listener.state == speaker.state
        speaker, listener = listener, speaker
    return initiator, responder


def in_buffers_of(size):
    return lambda data: [data[begin : begin + size] for begin in range(0, len(data), size)]


def test_two_ends_understand_each_other_through_buffers_of_any_size():
    for messages, end in DIALOGUES.values():
        for size in range(1, max(len(message.encode()) for message in messages) + 1):
            initiator, responder = drive(messages, in_buffers_of(size))
            assert initiator.offered == responder.offered == messages[0].methods
            assert initiator.selected == responder.selected == messages[1].method
            for one in (initiator, responder):
                assert one.state is end
                assert not is_to_send(one)
                assert one.next_message() is None
        # With the last size, each message came whole: no byte is left, but the address of a failing reply.
        address = messages[-1].encode()[2:] if is_failing_reply(messages[-1]) else b""
        assert initiator.take_read_ahead() == address
        assert responder.take_read_ahead() == b""


BOTH_ENDS = pytest.mark.parametrize(("end_class", "first"), [(Initiator, 0), (Responder, 1)], ids=["client", "server"])


@BOTH_ENDS
def test_what_comes_early_waits_for_its_turn(end_class, first):
    for messages, end in DIALOGUES.values():
        one = end_class()
        one.feed(b"".join(message.encode() for message in messages[1 - first :: 2]) + b"data")
        for number, message in enumerate(messages):
            if number % 2 == first:
                assert one.next_message() is None
                say(one, message)
            else:
                assert one.next_message() == as_heard(message)
        assert one.state is end
        assert one.next_message() is None
        unread = one.take_read_ahead()
        is_cut_short = end_class is Initiator and is_failing_reply(messages[-1])
        assert unread == (messages[-1].encode()[2:] if is_cut_short else b"") + b"data"
        assert one.buffered == 0


@BOTH_ENDS
def test_no_order_of_hearing_and_speaking_loses_a_byte(end_class, first):
    @thorough
    @given(
        st.sampled_from([messages for messages, end in DIALOGUES.values() if end is State.OPEN]),
        st.binary(max_size=30),
        st.lists(st.integers(1, 40), min_size=1),
        st.lists(st.booleans(), min_size=1),
    )
    def check(messages, payload, sizes, hear_first):
        one = end_class()
        stream = b"".join(message.encode() for message in messages[1 - first :: 2]) + payload
        ours = iter(messages[first::2])
        heard = []
        step = 0
        while stream or one.state is not State.OPEN:
            # Whether we hear or speak first, if it is ours to speak, is a matter of chance.
            if is_to_send(one) and not (stream and hear_first[step % len(hear_first)]):
                say(one, next(ours))
            size = sizes[step % len(sizes)]
            one.feed(stream[:size])
            stream = stream[size:]
            while (message := one.next_message()) is not None:
                heard.append(message)
            step += 1
        assert heard == messages[1 - first :: 2]
        assert next(ours, None) is None
        assert one.take_read_ahead() == payload

    check()


ONE_OF_EACH = [
    GREETING,
    MethodSelection(EXTENDED),
    CREDENTIALS,
    UsernamePasswordResponse(SUCCESS),
    PAIRS,
    ExtendedResponse(SUCCESS),
    REQUEST,
    Reply(0),
]


@BOTH_ENDS
def test_only_the_message_that_is_due_can_be_sent(end_class, first):
    for messages, _ in DIALOGUES.values():
        for spoken in range(len(messages) + 1):
            one = end_class()
            for number, message in enumerate(messages[:spoken]):
                if number % 2 == first:
                    say(one, message)
                else:
                    one.feed(message.encode())
                    one.next_message()
            is_ours = spoken < len(messages) and spoken % 2 == first
            due = type(messages[spoken]) if is_ours else None
            assert is_to_send(one) == is_ours
            state = one.state
            for message in ONE_OF_EACH:
                if type(message) is not due:
                    with pytest.raises(OutOfOrder):
                        one.send(message)
                    assert one.state is state
            if is_ours:
                assert one.send(messages[spoken]) == messages[spoken].encode()


def test_nobody_speaks_twice_in_a_row():
    initiator, responder = Initiator(), Responder()
    with pytest.raises(OutOfOrder):
        responder.select(NONE)
    responder.feed(initiator.offer((NONE,)))
    with pytest.raises(OutOfOrder):
        initiator.request(REQUEST)
    responder.next_message()
    initiator.feed(responder.select(NONE))
    with pytest.raises(OutOfOrder):
        responder.reply(0)
    assert initiator.next_message() == MethodSelection(NONE)
    assert initiator.request(REQUEST) == REQUEST.encode()


def test_every_message_has_one_place_and_every_state_is_reached():
    assert sorted(turn.message.__name__ for turn in TRANSITIONS.values()) == sorted(
        type(message).__name__ for message in ONE_OF_EACH
    )
    reached = {State.GREETING}
    for _ in State:
        reached |= {after for state in reached & set(TRANSITIONS) for after in TRANSITIONS[state].outcomes.values()}
    assert reached == set(State)
    assert set(State) - set(TRANSITIONS) == {State.OPEN, State.CLOSED}
    for turn in TRANSITIONS.values():
        for after in set(turn.outcomes.values()) & set(TRANSITIONS):
            assert TRANSITIONS[after].sender is not turn.sender


def test_the_initiator_begins():
    assert TRANSITIONS[State.GREETING].sender is Role.INITIATOR


# Violations.


def after_selection(end_class, method, limits=None):
    """An end whose peer is about to send what the method asks for."""
    one = end_class() if limits is None else end_class(limits=limits)
    if end_class is Responder:
        one.feed(GREETING.encode())
        one.next_message()
        one.select(method)
    else:
        one.offer((method,))
        one.feed(MethodSelection(method).encode())
        one.next_message()
        one.authenticate(ExtendedRequest() if method == EXTENDED else CREDENTIALS)
    return one


def test_a_violation_ends_the_conversation():
    for one in (after_selection(Responder, EXTENDED), after_selection(Initiator, EXTENDED)):
        one.feed(b"\7 and more")
        with pytest.raises(MalformedMessage):
            one.next_message()
        assert one.state is State.CLOSED
        assert one.next_message() is None
        for message in ONE_OF_EACH:
            with pytest.raises(OutOfOrder):
                one.send(message)


def test_a_closed_conversation_hears_and_says_nothing():
    one = after_selection(Responder, NONE)
    one.close()
    one.feed(REQUEST.encode())
    assert one.next_message() is None
    with pytest.raises(OutOfOrder):
        one.reply(0)


def test_limits_hold_for_the_pairs_of_either_side():
    limits = PairLimits(pairs=1)
    for one, message in (
        (after_selection(Responder, EXTENDED, limits), ExtendedRequest),
        (after_selection(Initiator, EXTENDED, limits), partial(ExtendedResponse, SUCCESS)),
    ):
        one.feed(message(Pairs({"a": b"", "b": b""})).encode())
        with pytest.raises(MalformedMessage) as refused:
            one.next_message()
        assert refused.value.fault is Fault.LIMIT


VIOLATIONS_AFTER_SECRETS = {
    "a pair too many": (EXTENDED, b"\1\0\3\0\1a\0\6SECRET\0\6PASSWD\0\6SECRET\0\6PASSWD\0\6SECRET"),
    "a wrong key": (EXTENDED, b"\1\0\2\0\6PASSWD\0\6SECRET\0\7SECRET\0\0\0SECRET"),
    "a bad name": (NONE, b"\5\1\0\3\x08SECRET\0\0\0\x50"),
}


@pytest.mark.parametrize(("method", "data"), VIOLATIONS_AFTER_SECRETS.values(), ids=VIOLATIONS_AFTER_SECRETS)
def test_the_traceback_of_a_violation_shows_nothing_that_came_before(method, data):
    responder = after_selection(Responder, method)
    responder.feed(data)
    with pytest.raises(MalformedMessage) as refused:
        responder.next_message()
    # The first frame is this test's own, which knows the secret.
    trace = traceback.TracebackException(MalformedMessage, refused.value, refused.tb.tb_next, capture_locals=True)
    assert "SECRET" not in "".join(trace.format())
