from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.vectors import thorough

from txsocksx_ext.protocol.pairs import MAX_FIELD_LENGTH, PairLimits, Pairs, check_key, has_key_characters

keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
pair_dicts = st.dictionaries(keys, st.binary(max_size=40), max_size=8)


def test_no_pairs_are_two_zero_bytes():
    assert Pairs().encode() == b"\0\0"


def test_pairs_encode_in_their_order():
    pairs = Pairs({"USERNAME": b"bob", "a.b": b"", "PASSWD": "hunt"})
    assert pairs.encode() == b"\0\3\0\x08USERNAME\0\3bob\0\3a.b\0\0\0\6PASSWD\0\4hunt"


def test_pairs_are_a_mapping_of_bytes():
    pairs = Pairs([("a", "ü"), ("b", b"\0\xff")])
    assert dict(pairs) == {"a": b"\xc3\xbc", "b": b"\0\xff"}
    assert list(pairs) == ["a", "b"]
    assert len(pairs) == 2
    assert "a" in pairs
    assert pairs.get("c") is None
    with pytest.raises(KeyError):
        pairs["c"]


def test_any_byte_can_be_written_in_a_str():
    every_byte = bytes(range(256))
    assert Pairs({"a": every_byte.decode("utf-8", "surrogateescape")})["a"] == every_byte


def test_pairs_cannot_be_changed():
    pairs = Pairs({"a": b"1"})
    with pytest.raises(TypeError):
        pairs["a"] = b"2"
    with pytest.raises(AttributeError):
        pairs.other = 1


def test_pairs_are_not_changed_by_what_they_were_made_of():
    given_pairs = {"a": b"1"}
    pairs = Pairs(given_pairs)
    given_pairs["a"] = b"2"
    assert pairs["a"] == b"1"


@thorough
@given(pair_dicts)
def test_equal_pairs_have_equal_hashes(values):
    pairs, other = Pairs(values), Pairs(dict(reversed(values.items())))
    assert pairs == other
    assert hash(pairs) == hash(other)


def test_pairs_with_other_values_are_not_equal():
    assert Pairs({"a": b"1"}) != Pairs({"a": b"2"})
    assert Pairs({"a": b"1"}) != Pairs({"A": b"1"})


def test_only_printable_ascii_without_the_space_stands_in_keys():
    for code in range(0x180):
        character = chr(code)
        may_stand = 0x21 <= code <= 0x7E
        assert has_key_characters(character) == may_stand
        assert has_key_characters(f"a{character}b") == may_stand
        if may_stand:
            assert check_key(character) == character
        else:
            with pytest.raises(ValueError, match="printable ASCII"):
                Pairs({f"a{character}": b""})


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ({"": b""}, "at least one character"),
        ([("a", b"1"), ("a", b"1")], "stands twice"),
        ({"a" * (MAX_FIELD_LENGTH + 1): b""}, "too long"),
        ({"a": bytes(MAX_FIELD_LENGTH + 1)}, "65536 bytes"),
        (((str(number), b"") for number in range(MAX_FIELD_LENGTH + 1)), "65536 pairs"),
    ],
    ids=["empty key", "key twice", "long key", "long value", "many pairs"],
)
def test_what_the_format_cannot_carry_is_refused(pairs, problem):
    with pytest.raises(ValueError, match=problem):
        Pairs(pairs)


def test_the_most_that_the_format_can_carry_is_taken():
    longest = "k" * MAX_FIELD_LENGTH
    encoded = Pairs({longest: bytes(MAX_FIELD_LENGTH)}).encode()
    assert len(encoded) == 2 + 131_074
    many = Pairs((f"{number:x}", b"") for number in range(MAX_FIELD_LENGTH))
    assert many.encode().startswith(b"\xff\xff")


@pytest.mark.parametrize("pairs", [{b"a": b""}, {1: b""}, {"a": 1}, {"a": None}, {"a": ["b"]}])
def test_other_types_are_refused(pairs):
    with pytest.raises(TypeError):
        Pairs(pairs)


def test_a_refusal_does_not_show_the_value():
    with pytest.raises(ValueError, match="the value of a") as refused:
        Pairs({"a": b"hunter2" * 10_000})
    assert "hunter2" not in str(refused.value)


def test_repr_shows_keys_alone():
    assert repr(Pairs({"USERNAME": b"alice", "tor.isolation": b"hunter2"})) == "<Pairs USERNAME, tor.isolation>"
    assert repr(Pairs()) == "<Pairs none>"


@pytest.mark.parametrize("name", [each.name for each in fields(PairLimits)])
@pytest.mark.parametrize("value", [0, -1, float("nan"), None])
def test_limits_that_would_refuse_everyone_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a number above 0"):
        PairLimits(**{name: value})
