import socket
from functools import partial, wraps

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.vectors import byte_by_byte, decode_pieces, split_at, thorough, whole_reply

from txsocksx_ext.protocol import decoding
from txsocksx_ext.protocol.codes import AddressType, Command, Method, Status
from txsocksx_ext.protocol.decoding import Fault, MalformedMessage, MessageReader
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
)
from txsocksx_ext.protocol.pairs import DEFAULT_PAIR_LIMITS, PairLimits, Pairs

any_byte = st.integers(0, 255)
ports = st.integers(0, 65535)
ipv4 = st.binary(min_size=4, max_size=4).map(socket.inet_ntoa)
ipv6 = st.binary(min_size=16, max_size=16).map(partial(socket.inet_ntop, socket.AF_INET6))
names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)
any_names = st.binary(max_size=255).map(lambda name: name.decode("ascii", "surrogateescape"))
literals = st.builds(Address, st.just(AddressType.IPV4), ipv4, ports) | st.builds(
    Address, st.just(AddressType.IPV6), ipv6, ports
)
targets = literals | st.builds(Address, st.just(AddressType.DOMAINNAME), names, ports)
bound = literals | st.builds(Address, st.just(AddressType.DOMAINNAME), any_names, ports) | st.just(NO_ADDRESS)
keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)
pairs = st.dictionaries(keys, st.binary(max_size=300), max_size=6).map(Pairs)
methods = st.lists(any_byte.map(Method), min_size=1, max_size=255).map(tuple)
credential = st.binary(max_size=255)

ANY_MESSAGE = {
    decoding.greeting: st.builds(Greeting, methods),
    decoding.method_selection: st.builds(MethodSelection, any_byte.map(Method)),
    decoding.username_password: st.builds(UsernamePassword, credential, credential),
    decoding.username_password_response: st.builds(UsernamePasswordResponse, any_byte.map(Status)),
    decoding.extended_request: st.builds(ExtendedRequest, pairs),
    decoding.extended_response: st.builds(ExtendedResponse, any_byte.map(Status), pairs),
    decoding.request: st.builds(Request, any_byte.map(Command), targets),
    whole_reply: st.builds(Reply, any_byte, bound),
}
each_decoder = pytest.mark.parametrize("decoder", ANY_MESSAGE, ids=lambda decoder: decoder.__name__)


def cut(data, positions):
    return split_at(data, *sorted({position % len(data) for position in positions} - {0}))


# The properties of each decoder are functions in tests: pytest-twisted cannot run one that has parameters too.


@each_decoder
def test_decoding_is_the_inverse_of_encoding_in_any_split(decoder):
    @thorough
    @given(ANY_MESSAGE[decoder], st.binary(max_size=20), st.lists(st.integers(0, 5000), max_size=12))
    def check(message, rest, positions):
        pieces = cut(message.encode() + rest, positions)
        assert decode_pieces(pieces, decoder) == (message, rest)

    check()


@thorough
@given(ANY_MESSAGE[whole_reply], st.binary(max_size=20), st.lists(st.integers(0, 300), max_size=8))
def test_of_a_failing_reply_the_code_is_enough(reply, rest, positions):
    message, left = decode_pieces(cut(reply.encode() + rest, positions), decoding.reply_or_its_code)
    if reply.code:
        assert message == Reply(reply.code)
        assert left == reply.encode()[2:] + rest
    else:
        assert (message, left) == (reply, rest)


@thorough
@given(ANY_MESSAGE[whole_reply])
def test_the_rest_of_a_failing_reply_can_be_had_later(reply):
    messages = MessageReader()
    messages.feed(reply.encode() + b"data")
    messages.decode(decoding.reply_or_its_code)
    if reply.code:
        assert messages.decode(decoding.rest_of_failed_reply) == reply.bound
    assert messages.take_read_ahead() == b"data"


@thorough
@given(any_byte, targets, st.binary(max_size=50))
def test_datagrams_decode_whole(fragment, address, data):
    datagram = Datagram(fragment, address, data)
    assert decoding.decode_datagram(datagram.encode()) == datagram


@thorough
@given(any_byte, targets)
def test_a_datagram_that_is_too_short_is_malformed(fragment, address):
    header = Datagram(fragment, address, b"").encode()
    for length in range(len(header)):
        with pytest.raises(MalformedMessage) as refused:
            decoding.decode_datagram(header[:length])
        assert refused.value.fault is Fault.TRUNCATED


# Bytes that nobody has checked.

SMALL = PairLimits(pairs=3, key_bytes=5, value_bytes=7, total_bytes=30)


def within_small_limits(decoder):
    """The decoder, whatever limits it is called with."""
    return wraps(decoder)(lambda data, limits: decoder(data, SMALL))


LONGEST_DEMAND = {
    # The longest field of each message, together with the length byte or bytes after it.
    decoding.greeting: 255,
    decoding.method_selection: 1,
    decoding.username_password: 256,
    decoding.username_password_response: 1,
    decoding.request: 257,
    decoding.reply_or_its_code: 257,
    decoding.rest_of_failed_reply: 257,
    within_small_limits(decoding.extended_request): 7,
    within_small_limits(decoding.extended_response): 7,
}
each_bounded_decoder = pytest.mark.parametrize("decoder", LONGEST_DEMAND, ids=lambda decoder: decoder.__name__)


@st.composite
def damaged_messages(draw):
    """The bytes of a message, of which a few were changed."""
    data = bytearray(draw(st.one_of(*ANY_MESSAGE.values())).encode())
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(any_byte)
    return bytes(data)


# Small numbers, of which messages that go on for a while are made.
plausible = st.lists(st.sampled_from(b"\0\0\0\1\1\2\3\4\5\7Aa?"), max_size=60).map(bytes)
suspect_bytes = st.binary(max_size=300) | plausible | plausible.map(b"\1\0".__add__) | damaged_messages()


def outcome(pieces, decoder, *limits):
    try:
        return decode_pieces(pieces, decoder, *limits)
    except MalformedMessage as malformed:
        return malformed.message, malformed.fault, malformed.detail


@each_bounded_decoder
def test_any_bytes_give_one_outcome_however_they_are_split(decoder):
    @thorough
    @given(suspect_bytes)
    def check(data):
        # decode_pieces lets everything but MalformedMessage through, which would fail the test.
        assert outcome([data], decoder) == outcome(byte_by_byte(data), decoder)

    check()


@st.composite
def suspect_pairs(draw):
    """A request of pairs, of which some have the same key, or the count is another."""
    keys = st.sampled_from([b"a", b"a", b"?a", b"USERNAME", b"", b"a b"])
    some = draw(st.lists(st.tuples(keys, st.binary(max_size=4)), max_size=5))
    count = len(some) + draw(st.sampled_from([-1, 0, 1]))
    fields = b"".join(len(part).to_bytes(2, "big") + part for pair in some for part in pair)
    return b"\1" + max(count, 0).to_bytes(2, "big") + fields + draw(st.sampled_from([b"", b"\0", b"data"]))


@pytest.mark.parametrize("limits", [DEFAULT_PAIR_LIMITS, SMALL], ids=["default", "small"])
def test_pairs_that_come_at_once_are_read_as_byte_by_byte(limits):
    @thorough
    @example(b"\1\0\1" + b"\0\1a\0\0" * 2)
    @example(b"\1\0\2" + b"\0\1a\0\0" * 2 + b"\0\1b\0\0")
    @example(b"\1\0\1" + b"\0\1a\0\1x" + b"\5\1\0")
    @given(suspect_pairs())
    def check(data):
        at_once = outcome([data], decoding.extended_request, limits)
        assert at_once == outcome(byte_by_byte(data), decoding.extended_request, limits)

    check()


@each_bounded_decoder
def test_no_decoder_asks_for_more_than_its_longest_field(decoder):
    longest = LONGEST_DEMAND[decoder]

    @thorough
    @given(suspect_bytes)
    def check(data):
        size = 0
        while size <= len(data):
            try:
                decoded = decoder(data[:size], DEFAULT_PAIR_LIMITS)
            except MalformedMessage:
                return
            if not isinstance(decoded, int):
                return
            assert size < decoded <= size + longest
            size = decoded

    check()


@thorough
@given(data=suspect_bytes)
def test_pairs_within_limits_are_never_more_than_the_limits(data):
    try:
        message, rest = decode_pieces([b"\1" + data], within_small_limits(decoding.extended_request))
    except MalformedMessage:
        return
    taken = len(data) - len(rest)
    assert taken <= 2 + SMALL.total_bytes
    if message is not None:
        assert len(message.pairs) <= SMALL.pairs
        assert all(len(key) <= SMALL.key_bytes for key in message.pairs)
        assert all(len(value) <= SMALL.value_bytes for value in message.pairs.values())


@each_bounded_decoder
def test_what_is_said_of_malformed_bytes_is_safe_to_show(decoder):
    @thorough
    @given(suspect_bytes)
    def check(data):
        try:
            decode_pieces([data], decoder)
        except MalformedMessage as malformed:
            said = str(malformed)
        else:
            return
        assert said.isascii()
        assert said.isprintable()

    check()


# Limits: each is noticed at the byte that announces too much, neither later nor earlier.


def pair(key, value):
    return len(key).to_bytes(2, "big") + key + len(value).to_bytes(2, "big") + value


BIG = [pair(b"abc"[number : number + 1], bytes(16384)) for number in range(3)]
"""Three pairs of 16389 bytes: with lengths 49167 of the 65536 allowed."""
TOO_MUCH = {
    "65535 pairs": (b"", b"\xff\xff"),
    "65 pairs": (b"", b"\0\x41"),
    "a key of 256 bytes": (b"\0\1", b"\1\0"),
    "a key of 65535 bytes": (b"\0\1", b"\xff\xff"),
    "a value of 16385 bytes": (b"\0\1\0\1a", b"\x40\1"),
    "a value of 65535 bytes": (b"\0\2" + pair(b"b", b"1") + b"\0\1a", b"\xff\xff"),
    # 65536 - 49167 - 5 is 16364, so one more is too much.
    "65537 bytes in all": (b"\0\4" + b"".join(BIG) + b"\0\1z", (16365).to_bytes(2, "big")),
    "65537 bytes in all, by a key": (
        b"\0\5" + b"".join(BIG) + pair(b"y", bytes(16364 - 7)),
        # Of 7 bytes that are left, 4 are lengths.
        b"\0\4",
    ),
}
BEFORE_PAIRS = {decoding.extended_request: b"\1", decoding.extended_response: b"\1\0"}
both_with_pairs = pytest.mark.parametrize("decoder", BEFORE_PAIRS, ids=lambda decoder: decoder.__name__)


@both_with_pairs
def test_too_much_is_refused_before_it_is_buffered(decoder):
    for name, (before, announcement) in TOO_MUCH.items():
        messages = MessageReader()
        messages.feed(BEFORE_PAIRS[decoder] + before)
        assert messages.decode(decoder) is None, name
        messages.feed(announcement[:1])
        assert messages.decode(decoder) is None, name
        messages.feed(announcement[1:])
        with pytest.raises(MalformedMessage) as refused:
            messages.decode(decoder)
        assert refused.value.fault is Fault.LIMIT, name


@both_with_pairs
def test_as_much_as_the_limits_allow_is_taken(decoder):
    last = pair(b"z", bytes(16364))
    allowed = {
        "64 pairs": [pair(b"%d" % number, b"") for number in range(64)],
        "a key of 255 bytes": [pair(b"k" * 255, b"")],
        "a value of 16384 bytes": [pair(b"k", bytes(16384))],
        "65536 bytes in all": [*BIG, last],
    }
    for name, fields in allowed.items():
        data = BEFORE_PAIRS[decoder] + len(fields).to_bytes(2, "big") + b"".join(fields)
        message, rest = decode_pieces([data], decoder)
        assert len(message.pairs) == len(fields), name
        assert message.encode() == data
        assert rest == b""


FAULTS = {
    "a key of no bytes": (b"\0\1\0\0\0\0", Fault.KEY_EMPTY),
    "a key of no bytes, before its value": (b"\0\1\0\0", Fault.KEY_EMPTY),
    "a key twice": (b"\0\2" + pair(b"a", b"1") + pair(b"a", b"2"), Fault.KEY_TWICE),
    "a key with a space": (b"\0\1" + pair(b"a b", b""), Fault.KEY_CHARACTERS),
    "a key with a NUL": (b"\0\1" + pair(b"a\0", b""), Fault.KEY_CHARACTERS),
    "a key with DEL": (b"\0\1" + pair(b"a\x7f", b""), Fault.KEY_CHARACTERS),
    "a key in latin-1": (b"\0\1" + pair(b"\xe9", b""), Fault.KEY_CHARACTERS),
}


@both_with_pairs
def test_faults_in_pairs(decoder):
    for name, (data, fault) in FAULTS.items():
        with pytest.raises(MalformedMessage) as refused:
            decode_pieces([BEFORE_PAIRS[decoder] + data], decoder)
        assert refused.value.fault is fault, name


def test_keys_that_differ_in_case_are_two_keys():
    data = b"\1\0\2" + pair(b"A", b"1") + pair(b"a", b"2")
    message, _ = decode_pieces([data], decoding.extended_request)
    assert dict(message.pairs) == {"A": b"1", "a": b"2"}


def test_what_is_said_of_a_fault_names_no_value():
    data = b"\1\0\3" + pair(b"USERNAME", b"secret") + pair(b"PASSWD", b"secret")
    for fault in (pair(b"USERNAME", b"secret"), b"\0\1a\xff\xffsecret", pair(b"secret\0", b"secret")):
        with pytest.raises(MalformedMessage) as refused:
            decode_pieces([data + fault], decoding.extended_request)
        assert "secret" not in str(refused.value)


# Requests and replies.


@thorough
@example(b"a b")
@example(b"\0")
@example(b"")
@given(st.binary(max_size=255))
def test_a_request_takes_only_names_of_printable_ascii(name):
    data = b"\5\1\0\3" + bytes([len(name)]) + name + b"\0\x50"
    if name and all(0x21 <= byte <= 0x7E for byte in name):
        message, _ = decode_pieces([data], decoding.request)
        assert message.destination == Address(AddressType.DOMAINNAME, name.decode(), 80)
    else:
        with pytest.raises(MalformedMessage) as refused:
            decode_pieces([data], decoding.request)
        assert refused.value.fault is Fault.DOMAIN_NAME


def test_every_address_type_of_a_request_but_three_is_refused_at_once():
    for address_type in set(range(256)) - {1, 3, 4}:
        with pytest.raises(MalformedMessage) as refused:
            decode_pieces([b"\5\1\0" + bytes([address_type])], decoding.request)
        assert refused.value.fault is Fault.ADDRESS_TYPE


def test_a_reply_may_have_no_address():
    for address_type in set(range(256)) - {0, 1, 3, 4}:
        with pytest.raises(MalformedMessage) as refused:
            decode_pieces([b"\5\0\0" + bytes([address_type])], decoding.reply_or_its_code)
        assert refused.value.fault is Fault.ADDRESS_TYPE
    message, rest = decode_pieces([b"\5\0\0\0" + bytes(6) + b"data"], decoding.reply_or_its_code)
    assert (message, rest) == (Reply(0, NO_ADDRESS), b"data")


def test_the_reserved_byte_must_be_zero_in_requests_and_means_nothing_in_replies():
    for reserved in range(1, 256):
        address = bytes([reserved]) + UNSPECIFIED.encode()
        with pytest.raises(MalformedMessage) as refused:
            decode_pieces([b"\5\1" + address], decoding.request)
        assert refused.value.fault is Fault.RESERVED
        assert decode_pieces([b"\5\0" + address], decoding.reply_or_its_code) == (Reply(0), b"")


VERSIONS = {
    decoding.greeting: 5,
    decoding.method_selection: 5,
    decoding.request: 5,
    decoding.reply_or_its_code: 5,
    decoding.username_password: 1,
    decoding.username_password_response: 1,
    decoding.extended_request: 1,
    decoding.extended_response: 1,
}


@pytest.mark.parametrize("decoder", VERSIONS, ids=lambda decoder: decoder.__name__)
def test_a_wrong_version_is_refused_at_its_own_byte(decoder):
    for version in range(256):
        if version == VERSIONS[decoder]:
            assert decode_pieces([bytes([version])], decoder) == (None, b"")
        else:
            with pytest.raises(MalformedMessage) as refused:
                decode_pieces([bytes([version])], decoder)
            assert refused.value.fault is Fault.VERSION


# The reader.


def test_messages_come_one_after_another_from_one_buffer():
    messages = MessageReader()
    messages.feed(b"\5\1\0" + b"\5\1\0\1\x7f\0\0\1\0\x50" + b"data")
    assert messages.decode(decoding.greeting) == Greeting((Method.NO_AUTHENTICATION,))
    assert messages.decode(decoding.request) == Request(Command.CONNECT, Address.of("127.0.0.1", 80))
    assert messages.buffered == 4
    assert messages.take_read_ahead() == b"data"
    assert messages.buffered == 0
    assert messages.take_read_ahead() == b""


def test_a_reader_decodes_nothing_from_nothing():
    messages = MessageReader()
    assert messages.decode(decoding.greeting) is None
    messages.feed(b"")
    assert messages.decode(decoding.greeting) is None
    messages.feed(b"\5\1\0")
    assert messages.decode(decoding.greeting) == Greeting((Method.NO_AUTHENTICATION,))
