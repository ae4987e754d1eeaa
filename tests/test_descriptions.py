"""Descriptions written like endpoint strings, and what stands in files beside them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.endpoints import quoteStringArgument

from txsocksx_ext.descriptions import (
    client_endpoint,
    endpoint_description,
    endpoint_string,
    parse_description,
    refuse_unknown,
    secret_from_file,
    shown_endpoint,
    without_function,
    yes_or_no,
)
from txsocksx_ext.server.listeners import ListenerString


@pytest.mark.parametrize(
    ("text", "arguments", "keywords"),
    [
        ("direct", ["direct"], {}),
        ("", [""], {}),
        ("socks:127.0.0.1:9050", ["socks", "127.0.0.1", "9050"], {}),
        ("socks:tcp\\:127.0.0.1\\:9050", ["socks", "tcp:127.0.0.1:9050"], {}),
        ("socks:a:dialect=tor", ["socks", "a"], {"dialect": "tor"}),
        ("socks:dialect=tor:a", ["socks", "a"], {"dialect": "tor"}),
        ("k:v=a=b", ["k"], {"v": "a=b"}),
        ("k:v=", ["k"], {"v": ""}),
        ("k:a\\=b", ["k", "a=b"], {}),
        ("k:a\\\\b", ["k", "a\\b"], {}),
        ("k::", ["k", "", ""], {}),
    ],
)
def test_a_description_is_split_as_an_endpoint_string_is(text, arguments, keywords):
    assert parse_description(text) == (arguments, keywords)


ANY_TEXT = st.text(st.characters(codec="utf-8"))
WITHOUT_EQUALS = st.text(st.characters(codec="utf-8", exclude_characters="="))
"""Twisted's quoting leaves an equals sign alone, as it stands in values."""


@given(st.lists(WITHOUT_EQUALS, min_size=1), ANY_TEXT)
def test_what_was_quoted_is_read_as_it_was(arguments, value):
    text = ":".join([*map(quoteStringArgument, arguments), f"key={quoteStringArgument(value)}"])
    assert parse_description(text) == (arguments, {"key": value})


@pytest.mark.parametrize(
    ("arguments", "description"),
    [
        (["tcp:127.0.0.1:9050"], "tcp:127.0.0.1:9050"),
        (["tcp", "127.0.0.1", "9050"], "tcp:127.0.0.1:9050"),
        (["127.0.0.1", "9050"], "tcp:127.0.0.1:9050"),
        (["::1", "9050"], "tcp:\\:\\:1:9050"),
        (["unix", "/run/socks"], "unix:/run/socks"),
        (["unix", "/run/so:cks"], "unix:/run/so\\:cks"),
    ],
)
def test_the_ways_to_write_an_endpoint_within_a_description(arguments, description):
    assert endpoint_description(arguments) == description


@pytest.mark.parametrize(
    "text",
    [
        r"socks5ext:target.example:443:?a\:b.c=x\:y:username=a\\=b:k\=ey.x=1",
        "unix:/run/a\\=b:timeout=7",
        "other:host=a:b",
    ],
)
def test_an_endpoint_string_means_what_it_meant(text):
    assert parse_description(endpoint_string(text)) == parse_description(text)


def test_an_endpoint_within_a_description_keeps_its_equals_signs():
    arguments, _ = parse_description("socks:unix:/run/a\\=b")
    assert parse_description(endpoint_description(arguments[1:])) == (["unix", "/run/a=b"], {})


@pytest.mark.parametrize("text", ["", "=tcp", "port=1080"])
def test_a_description_that_names_no_kind_has_an_empty_one(text):
    (kind, *rest), _ = parse_description(text)
    assert (kind, rest) == ("", [])
    listener = ListenerString(text)
    assert listener.is_exposed
    assert listener.port is None
    assert listener.with_backlog == text
    with pytest.raises(ValueError, match="begins with no kind"):
        client_endpoint(reactor, text)


def test_an_endpoint_whose_folder_is_missing_is_told_why(tmp_path):
    with pytest.raises(
        ValueError, match=r"valid client endpoint string \(\[Errno 2\] No such file or directory: .*missing"
    ):
        client_endpoint(reactor, f"tls:localhost:443:trustRoots={tmp_path}/missing")


def test_an_error_without_words_is_told_by_its_type():
    assert without_function(AssertionError()) == "AssertionError"
    assert without_function(TypeError("_parse() got an unexpected keyword")) == "got an unexpected keyword"


def test_the_first_keyword_that_is_unknown_is_named_with_those_that_are_known():
    refuse_unknown({"a": 1}, frozenset({"a", "b"}), "the thing")
    with pytest.raises(ValueError, match="the thing does not know d; it knows a, b") as caught:
        refuse_unknown({"a": 1, "d": 2, "rest of d": 3}, frozenset({"a", "b"}), "the thing")
    assert "rest" not in str(caught.value)


@pytest.mark.parametrize(("between", "told"), [({}, "a"), ({"b": 2}, "b"), ({"other secret": 2}, "a pair")])
def test_a_keyword_after_a_secret_is_told_by_its_place(between, told):
    keywords = {"a": 1, **between, "rest": 3}
    known = frozenset({"a", "b"})
    with pytest.raises(ValueError, match=f"the thing does not know the keyword after {told}") as caught:
        refuse_unknown(keywords, known, "the thing", {"a", "other secret"}.__contains__)
    assert "rest" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"secret", b"secret"),
        (b"secret\n", b"secret"),
        (b"secret\r\n", b"secret"),
        (b"secret\nsecond line\n", b"secret"),
        (b"  spaces count ", b"  spaces count "),
        (b"\xff\x00:=\\", b"\xff\x00:=\\"),
    ],
)
def test_a_secret_is_the_first_line_of_its_file(tmp_path, content, secret):
    path = tmp_path / "secret"
    path.write_bytes(content)
    assert secret_from_file(str(path)) == secret


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\nsecret\n"])
def test_a_file_without_a_secret_is_named(tmp_path, content):
    path = tmp_path / "secret-file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="secret-file"):
        secret_from_file(str(path))


def test_a_folder_is_no_secret(tmp_path):
    with pytest.raises(ValueError, match=str(tmp_path)):
        secret_from_file(str(tmp_path))


def test_yes_and_no_and_nothing_else():
    assert yes_or_no("tls", "yes") is True
    assert yes_or_no("tls", "no") is False
    for value in ("Yes", "true", "1", ""):
        with pytest.raises(ValueError, match="tls is yes or no"):
            yes_or_no("tls", value)


@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_port_that_nobody_can_connect_to_is_none(port):
    with pytest.raises(ValueError, match=f"no port {port}"):
        endpoint_description(["127.0.0.1", port])


@pytest.mark.parametrize(
    ("description", "shown"),
    [
        ("tcp:127.0.0.1:9050", "tcp:127.0.0.1:9050"),
        ("tcp:127.0.0.1:9050:timeout=7", "tcp:127.0.0.1:9050"),
        ("127.0.0.1:9050", "tcp:127.0.0.1:9050"),
        ("[::1]:9050", "tcp:[::1]:9050"),
        ("tls:\\:\\:1:443:privateKey=SECRET", "tls:[::1]:443"),
        ("unix:/run/so\\:cks", "unix:/run/so:cks"),
        ("tls:proxy.example:443:privateKey=SECRET", "tls:proxy.example:443"),
        ("socks5ext:target.example:80:username=user:password=SECRET", "socks5ext"),
        # Of kinds that others make, nothing is known.
        ("other:SECRET", "other"),
    ],
)
def test_no_secret_of_an_endpoint_string_is_shown(description, shown):
    assert shown_endpoint(description) == shown


def test_a_secret_is_the_first_line_of_its_file_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"\xef\xbb\xbfcorrect horse\r\nsomething else\n")
    assert secret_from_file(str(path)) == b"correct horse"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "is empty"), (b"\xef\xbb\xbf\n", "is empty"), ("secret\n".encode("utf-16"), "is UTF-16: save it as UTF-8")],
)
def test_a_file_that_holds_no_secret_says_why(tmp_path, content, reason):
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        secret_from_file(str(path))
