"""What a client offers, what it says by each method, and what it refuses to be given."""

import re

import pytest

from txsocksx_ext.client.methods import ClientMethods
from txsocksx_ext.protocol.codes import Method

EXTENDED, LOGIN, ANONYMOUS = Method.EXTENDED, Method.USERNAME_PASSWORD, Method.NO_AUTHENTICATION
USER = ("user", "word")
PAIRS = {"tor.isolation": "alice"}


@pytest.mark.parametrize(
    ("methods", "offered"),
    [
        ({"anonymous": ()}, (ANONYMOUS,)),
        ({"login": USER}, (LOGIN,)),
        ({"anonymous": (), "login": USER}, (LOGIN, ANONYMOUS)),
        ({"extended": {}}, (EXTENDED,)),
        ({"anonymous": (), "extended": {}}, (EXTENDED, ANONYMOUS)),
        ({"anonymous": (), "login": USER, "extended": {}}, (EXTENDED, LOGIN, ANONYMOUS)),
        # By method 00 pairs would be lost in silence.
        ({"anonymous": (), "extended": PAIRS}, (EXTENDED,)),
        ({"extended": PAIRS}, (EXTENDED,)),
        ({"login": USER, "extended": PAIRS}, (EXTENDED, LOGIN)),
        ({"isolated": "token"}, (LOGIN,)),
        ({"isolated": "token", "anonymous": ()}, (LOGIN,)),
        ({"isolated": "token", "anonymous": (), "extended": {}}, (EXTENDED, LOGIN)),
    ],
)
def test_the_offer_holds_what_was_given_and_the_preferred_first(methods, offered):
    assert ClientMethods.of(methods).offer() == offered


def test_methods_that_were_read_already_are_taken_as_they_are():
    methods = ClientMethods.of({"isolated": None})
    assert ClientMethods.of(methods) is methods


def test_the_order_in_which_methods_were_given_does_not_matter():
    assert ClientMethods.of({"anonymous": (), "extended": {}, "login": USER}).offer() == (EXTENDED, LOGIN, ANONYMOUS)


@pytest.mark.parametrize(
    ("methods", "has_secrets"),
    [
        ({"anonymous": ()}, False),
        ({"extended": {}}, False),
        ({"extended": PAIRS}, True),
        ({"login": USER}, True),
        ({"isolated": None}, True),
    ],
)
def test_a_login_and_pairs_are_secrets(methods, has_secrets):
    assert ClientMethods.of(methods).has_secrets is has_secrets


def test_method_97_carries_the_login_too():
    pairs = ClientMethods.of({"login": ("user", b"\xff"), "extended": PAIRS}).pairs_to_send()
    assert dict(pairs) == {"USERNAME": b"user", "PASSWD": b"\xff", "tor.isolation": b"alice"}


@pytest.mark.parametrize("own", [{"USERNAME": "other"}, {"PASSWD": "other"}, {"USERNAME": "a", "PASSWD": "b"}])
def test_credentials_among_the_pairs_stand_alone(own):
    pairs = ClientMethods.of({"login": USER, "extended": own}).pairs_to_send()
    assert dict(pairs) == {key: value.encode() for key, value in own.items()}


@pytest.mark.parametrize("user", [("üser", "wörd"), ("üser".encode(), "wörd".encode()), ["üser", "wörd"]])
def test_text_of_a_login_is_sent_as_utf_8(user):
    login = ClientMethods.of({"login": user}).login
    assert (login.username, login.password) == ("üser".encode(), "wörd".encode())


def test_text_carries_any_byte_by_surrogateescape():
    every_byte = bytes(range(1, 256))
    text = every_byte.decode("utf-8", "surrogateescape")
    login = ClientMethods.of({"login": (text, text)}).login
    assert login.username == login.password == every_byte
    assert ClientMethods.of({"isolated": text}).isolation == every_byte


def test_a_token_is_said_as_tor_reads_it_by_either_method():
    methods = ClientMethods.of({"isolated": "alice", "extended": {}})
    assert methods.credentials().encode() == b"\x01\x09<torS0X>0\x05alice"
    assert dict(methods.pairs_to_send()) == {"tor.isolation": b"alice"}


def test_a_token_among_the_pairs_stands():
    methods = ClientMethods.of({"isolated": "alice", "extended": {"tor.isolation": "bob"}})
    assert methods.pairs_to_send()["tor.isolation"] == b"bob"


def test_without_a_token_of_its_own_each_gets_a_fresh_one():
    first, second = (ClientMethods.of({"isolated": None}).credentials().password for _ in range(2))
    assert len(first) >= 16
    assert first != second


def test_a_token_too_long_for_a_password_still_tells_apart():
    passwords = {ClientMethods.of({"isolated": b"t" * 300 + end}).credentials().password for end in (b"a", b"b", b"a")}
    assert len(passwords) == 2
    assert all(len(password) <= 255 for password in passwords)


def test_a_login_of_255_bytes_fits():
    login = ClientMethods.of({"login": (b"u" * 255, b"p" * 255)}).login
    assert len(login.encode()) == 513


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        ({}, "names no method"),
        ({"gssapi": ()}, "'gssapi'"),
        ({"login": ("user", "")}, "password is empty"),
        ({"login": ("", "word")}, "user name is empty"),
        ({"login": ("u" * 256, "word")}, "user name of 256 bytes"),
        ({"login": ("user", "ü" * 128)}, "password of 256 bytes"),
        ({"login": "user"}, "(username, password)"),
        ({"login": ("user",)}, "(username, password)"),
        ({"login": ("user", "word", "more")}, "(username, password)"),
        ({"login": ()}, "(username, password)"),
        ({"login": USER, "isolated": None}, "one of them"),
        ({"login": USER, "anonymous": False}, "leave it out"),
        ({"isolated": ""}, "token is empty"),
        ({"extended": {"": "x"}}, "at least one character"),
        ({"extended": {"a key": "x"}}, "'a key'"),
        ({"extended": {"schlüssel": "x"}}, "printable ASCII"),
        ({"extended": {"k": "x" * 65536}}, "65536 bytes"),
        ({"extended": {"k" * 65536: "x"}}, "65536 bytes"),
        ({"login": ("user\ud800", "word")}, "the user name: there is a surrogate"),
        ({"login": ("user", "word\udfff")}, "the password: there is a surrogate"),
        ({"isolated": "\udc00"}, "the isolation token: there is a surrogate"),
        ({"extended": {"k": "\ud800\udc00"}}, "the value of k: there is a surrogate"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_words(methods, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        ClientMethods.of(methods)


@pytest.mark.parametrize(
    "methods",
    [{"extended": {"port": 80}}, {"extended": {80: "port"}}, {"login": ("user", 80)}, {"isolated": 80}],
)
def test_a_number_is_no_text(methods):
    with pytest.raises(TypeError):
        ClientMethods.of(methods)


def test_no_error_and_no_repr_shows_a_secret():
    with pytest.raises(ValueError, match="password") as caught:
        ClientMethods.of({"login": ("someone", "hunter2" * 40)})
    assert "someone" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    shown = repr(ClientMethods.of({"login": ("someone", "hunter2"), "extended": {"tor.isolation": "alice"}}))
    shown += repr(ClientMethods.of({"isolated": "bob"}))
    assert not any(secret in shown for secret in ("someone", "hunter2", "alice", "bob"))


@pytest.mark.parametrize(
    ("methods", "told"),
    [
        ([("login", ("someone", "hunter2"))], "not list"),
        (("someone", "hunter2"), "not tuple"),
        ("hunter2", "not str"),
        ({("someone", "hunter2"): ()}, "not tuple"),
        ({b"hunter2": ()}, "not bytes"),
        ({"login": (), b"hunter2": ()}, "not bytes"),
        (None, "not NoneType"),
        ({"extended": "hunter2"}, "extended must be a mapping .* not str"),
        ({"extended": b"hunter2"}, "extended must be a mapping .* not bytes"),
        ({"extended": False}, "extended must be a mapping .* not bool"),
    ],
)
def test_what_is_no_mapping_is_told_by_its_type(methods, told):
    with pytest.raises(TypeError, match=told) as caught:
        ClientMethods.of(methods)
    assert not any(secret in str(caught.value) for secret in ("someone", "hunter2"))


@pytest.mark.parametrize("none", [{}, (), None])
def test_method_97_may_have_no_pairs(none):
    assert ClientMethods.of({"extended": none}).offer() == (EXTENDED,)


def test_text_that_stands_for_no_bytes_is_not_shown():
    with pytest.raises(ValueError, match="password") as caught:
        ClientMethods.of({"login": ("someone", "hunter2\ud800")})
    # Python's own error holds all of the text.
    assert type(caught.value) is ValueError
    assert caught.value.__suppress_context__
    assert "hunter2" not in repr(caught.value)
