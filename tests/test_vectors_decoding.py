"""The raw vectors, through the decoders; and that no vector is left out."""

import pytest
from support.vectors import (
    MESSAGES,
    TO_CLIENT,
    TO_SERVER,
    VECTORS,
    address_of,
    by_id,
    decode_pieces,
    splits,
    vectors_of,
    whole_reply,
)

from txsocksx_ext.protocol import decoding
from txsocksx_ext.protocol.codes import Command
from txsocksx_ext.protocol.decoding import Fault, MalformedMessage
from txsocksx_ext.protocol.messages import Address, Reply, Request, UsernamePassword

DECODERS = {
    "greeting": decoding.greeting,
    "select": decoding.method_selection,
    "request": decoding.request,
    "reply": whole_reply,
    "userpass": decoding.username_password,
    "userpass_resp": decoding.username_password_response,
    "ext_req": decoding.extended_request,
    "ext_resp": decoding.extended_response,
}

FAULTS = {
    "NMETHODS_ZERO": Fault.NO_METHODS,
    "VERSION": Fault.VERSION,
    "DOMAIN_EMPTY": Fault.DOMAIN_NAME,
    "DOMAIN_NUL": Fault.DOMAIN_NAME,
    "RSV": Fault.RESERVED,
    "ATYP": Fault.ADDRESS_TYPE,
    "KEY_CHARSET": Fault.KEY_CHARACTERS,
    "KLEN_ZERO": Fault.KEY_EMPTY,
    "LIMIT_PAIRS": Fault.LIMIT,
}

# Where the package decides otherwise than the vector's strict reading.
DECIDED = {
    # Clients send empty user names and passwords, and tor takes them: so does a proxy.
    "up-empty-user": UsernamePassword(b"", b"p"),
    "up-empty-pass": UsernamePassword(b"u", b""),
    # An unknown command is a well-formed request, which the server answers with 07.
    "req-cmd4": Request(Command(0x04), Address.of("192.0.2.1", 80)),
}


@pytest.mark.parametrize("vector", **by_id(vectors_of(*MESSAGES)))
def test_a_vector_decodes_as_it_should_in_every_split(vector):
    decoder = DECODERS[vector.kind]
    outcome, _, reason = vector.expected.partition(":")
    for pieces in splits(vector.data):
        if vector.name in DECIDED:
            assert decode_pieces(pieces, decoder) == (DECIDED[vector.name], b"")
        elif outcome == "ok":
            message = MESSAGES[vector.kind](vector.row["decoded"])
            assert decode_pieces(pieces, decoder) == (message, vector.rest)
            assert message.encode() + vector.rest == vector.data
        elif outcome == "need-more":
            assert decode_pieces(pieces, decoder)[0] is None
        else:
            with pytest.raises(MalformedMessage) as refused:
                decode_pieces(pieces, decoder)
            assert refused.value.fault is FAULTS[reason]


def test_a_client_reads_the_code_of_a_failing_reply_in_every_split():
    for vector in vectors_of("reply"):
        for pieces in splits(vector.data):
            message, rest = decode_pieces(pieces, decoding.reply_or_its_code)
            if vector.expected == "need-more":
                assert message is None, vector.id
            elif vector.row["decoded"]["rep"]:
                assert (message, rest) == (Reply(vector.data[1]), vector.data[2:]), vector.id
            else:
                assert (message, rest) == (MESSAGES["reply"](vector.row["decoded"]), b""), vector.id


def test_credentials_for_tor_and_transports_decode_in_every_split():
    for vector in vectors_of("toruser", "ptauth"):
        for pieces in splits(vector.data):
            message, rest = decode_pieces(pieces, decoding.username_password)
            assert message.encode() == vector.data, vector.id
            assert rest == b""


@pytest.mark.parametrize("vector", **by_id(vectors_of("udp")))
def test_a_datagram_decodes_as_it_should(vector):
    if vector.expected == "error:RSV":
        with pytest.raises(MalformedMessage) as refused:
            decoding.decode_datagram(vector.data)
        assert refused.value.fault is Fault.RESERVED
        return
    decoded = vector.row["decoded"]
    datagram = decoding.decode_datagram(vector.data)
    assert (datagram.address, datagram.data) == (address_of(decoded), bytes.fromhex(decoded["data"]))
    assert (datagram.position, datagram.is_last) == (decoded["frag"], decoded["end"])
    assert datagram.stands_alone == decoded["standalone"]
    assert datagram.encode() == vector.data


def test_no_vector_of_these_messages_is_left_out():
    tested = {vector.id for vector in (*TO_SERVER, *TO_CLIENT, *vectors_of("udp", "observed"))}
    left_out = {vector.kind for vector in VECTORS if vector.id not in tested}
    # Other protocols than SOCKS5: pluggable transports' and tor's own.
    assert left_out == {"socks4_reply", "json09", "extor", "extor_hash"}
