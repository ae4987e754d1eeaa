"""The arguments of a transport: as text, in a user name and a password, in pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.vectors import by_id, decode_pieces, thorough, vectors_of

from txsocksx_ext.errors import MissingArgument, TransportProtocolFailure
from txsocksx_ext.protocol import decoding
from txsocksx_ext.protocol.messages import UsernamePassword
from txsocksx_ext.protocol.pairs import Pairs
from txsocksx_ext.transports.arguments import (
    Arguments,
    encode_arguments,
    from_credentials,
    from_pairs,
    parse_arguments,
    to_credentials,
)

WORDS = {
    "PTARGS_NO_VALUE": "is not key=value",
    "PTARGS_SEMI": "argument 2 is not key=value",
    "PTARGS_ESCAPE": "backslash before an ordinary character",
}


def credentials_of(vector):
    message, rest = decode_pieces([vector.data], decoding.username_password)
    assert not rest
    return message


@pytest.mark.parametrize("vector", **by_id(vectors_of("ptauth")))
def test_the_vectors(vector):
    credentials = credentials_of(vector)
    if vector.expected.startswith("error:"):
        with pytest.raises(ValueError, match=WORDS[vector.expected.removeprefix("error:")]):
            from_credentials(credentials)
        return
    assert from_credentials(credentials).pairs == tuple(map(tuple, vector.row["decoded"]["args"]))


@pytest.mark.parametrize("vector", **by_id([v for v in vectors_of("ptauth") if v.name.startswith("pt-args")]))
def test_what_we_write_is_what_tor_writes(vector):
    # The one with the cut inside an escape is cut where no writer would cut.
    if vector.expected == "ok" and vector.name != "pt-args-spec-escape":
        assert to_credentials(encode_arguments(vector.row["decoded"]["args"])).encode() == vector.data


def test_the_vectors_are_there():
    assert len(vectors_of("ptauth")) >= 8


texts = st.text(st.one_of(st.sampled_from("=;\\,:é\udc80 "), st.characters(exclude_categories=["Cs"])), max_size=40)
fields = st.lists(st.tuples(texts.filter(bool), texts), max_size=8)


@thorough
@given(fields)
def test_every_text_comes_back(pairs):
    assert parse_arguments(encode_arguments(pairs)).pairs == tuple(pairs)


@thorough
@given(st.lists(st.tuples(texts.filter(bool), texts), min_size=1, max_size=8), st.data())
def test_user_name_and_password_may_be_cut_anywhere(pairs, data):
    text = encode_arguments(pairs).encode("utf-8", "surrogateescape")
    if b"\0" in text or not 2 <= len(text) <= 510:
        return
    cut = data.draw(st.integers(max(1, len(text) - 255), min(255, len(text) - 1)))
    assert from_credentials(UsernamePassword(text[:cut], text[cut:])).pairs == tuple(pairs)
    assert from_credentials(to_credentials(encode_arguments(pairs))).pairs == tuple(pairs)


@pytest.mark.parametrize("text", ["k\\=1=v", "k\\=1=v\\=", "k\\=1=v="])
def test_both_ways_to_escape(text):
    """Tor leaves an = of the value as it is, the specification escapes it."""
    ((key, value),) = parse_arguments(text).pairs
    assert key == "k=1"
    assert value in ("v", "v=")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("=v", "argument 1 has no name"),
        ("k=v;=v", "argument 2 has no name"),
        ("k=v\\", "argument 1 ends in a lone backslash"),
        ("a=1;k=v\\", "argument 2 ends in a lone backslash"),
        (";k=v", "argument 1 is not"),
        ("k=v;;k=v", "argument 2 is not"),
    ],
)
def test_what_is_none_is_named(text, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        parse_arguments(text)
    assert "k=v" not in str(caught.value)


def test_no_arguments():
    assert parse_arguments("") == Arguments()
    assert encode_arguments({}) == ""
    assert to_credentials("") is None
    with pytest.raises(ValueError, match="has no name"):
        encode_arguments({"": "value"})


@pytest.mark.parametrize(("user", "password"), [(b"", b"k=v"), (b"k=v", b""), (b"", b"")])
def test_empty_credentials_hold_none(user, password):
    with pytest.raises(ValueError, match="empty"):
        from_credentials(UsernamePassword(user, password))


def test_510_bytes_and_no_more():
    assert to_credentials("k=" + 508 * "a") == UsernamePassword(b"k=" + 253 * b"a", 255 * b"a")
    with pytest.raises(ValueError, match=r"511 bytes, and RFC 1929 carries 510.*method 0x97"):
        to_credentials("k=" + 509 * "a")


def test_a_nul_cannot_be_told_from_an_absent_password():
    with pytest.raises(ValueError, match="NUL"):
        to_credentials("k=" + 253 * "a" + "\0")


def test_text_that_stands_for_no_bytes_is_refused_and_not_shown():
    with pytest.raises(ValueError, match="the arguments: there is a surrogate") as refused:
        to_credentials("k=secret\ud800")
    assert "secret" not in repr(refused.value)


def test_pairs():
    pairs = Pairs({"pt.key": b"one", "tor.errors": b"304", "pt.a.b": b"\xff", "USERNAME": b"bob"})
    assert from_pairs(pairs).pairs == (("key", "one"), ("a.b", "\udcff"))
    with pytest.raises(ValueError, match="names no argument"):
        from_pairs(Pairs({"pt.": b"one"}))


class TestArguments:
    def test_the_first_of_a_key_counts(self):
        arguments = Arguments([("a", "1"), ("b", "2"), ("a", "3")])
        assert dict(arguments) == {"a": "1", "b": "2"}
        assert len(arguments) == 2
        assert arguments.pairs == (("a", "1"), ("b", "2"), ("a", "3"))
        assert Arguments(arguments) == arguments == Arguments(list(arguments.pairs))
        assert arguments != Arguments({"a": "1", "b": "2"})
        assert len({arguments, Arguments(arguments)}) == 1

    def test_one_that_is_missing(self):
        arguments = Arguments({"key": "secret"})
        assert arguments.get("other") is None
        assert "other" not in arguments
        with pytest.raises(MissingArgument, match="needs the argument other=") as caught:
            arguments["other"]
        assert isinstance(caught.value, (TransportProtocolFailure, KeyError))
        assert caught.value.code == 0xF1

    def test_values_are_not_shown(self):
        assert repr(Arguments({"key": "secret"})) == "<Arguments key>"
        assert repr(Arguments()) == "<Arguments none>"
