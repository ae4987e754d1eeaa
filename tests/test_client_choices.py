"""Choices of a client factory of one's own: methods, credentials, pairs and errors."""

import asyncio

import pytest
from support.attempts import ANONYMOUS, EXTENDED, LOGIN, Fault, attempt, choosing

from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.protocol.messages import UsernamePassword
from txsocksx_ext.protocol.pairs import Pairs
from txsocksx_ext.testing import FakeProxy, Recorder

UNEXPECTED = (Fault, asyncio.CancelledError)
"""The second as of a future of asyncio that was cancelled: it is no `Exception`."""


def raising(error):
    def choice(*_):
        raise error

    return choice


def test_an_offer_of_ones_own():
    mine = choosing(offer=lambda self: (Method.USERNAME_PASSWORD, Method(0x42), Method.NO_AUTHENTICATION))
    tried = attempt(FakeProxy(method=0x00), LOGIN, factory=mine)
    assert tried.said.greeting.methods == (0x02, 0x42, 0x00)
    assert isinstance(tried.outcome, Recorder)


def test_credentials_of_ones_own():
    mine = choosing(credentials=lambda self: UsernamePassword(b"", b"fresh"))
    assert attempt(FakeProxy(), LOGIN, factory=mine).said.credentials == UsernamePassword(b"", b"fresh")


def test_pairs_of_ones_own():
    mine = choosing(pairs=lambda self: Pairs({"tor.isolation": self.request.destination.host}))
    assert attempt(FakeProxy(), EXTENDED, factory=mine).said.pairs == {"tor.isolation": b"target.example"}


@pytest.mark.parametrize(
    ("methods", "options"), [(ANONYMOUS, {"code": 5}), (LOGIN, {"status": 1}), (EXTENDED, {"status": 2})]
)
def test_an_error_of_ones_own(methods, options):
    class Mine(Exception):
        """Says what was answered."""

    mine = choosing(error_for=lambda self, answer, initiator: Mine(type(answer).__name__))
    tried = attempt(FakeProxy(**options), methods, factory=mine)
    assert type(tried.outcome) is Mine
    assert tried.has_left_nothing


@pytest.mark.parametrize(
    ("override", "methods", "options"),
    [
        ("offer", ANONYMOUS, {}),
        ("credentials", LOGIN, {}),
        ("pairs", EXTENDED, {}),
        ("error_for", ANONYMOUS, {"code": 5}),
        ("error_for", LOGIN, {"status": 1}),
        ("error_for", ANONYMOUS, {"code": 0xF0}),
        ("address", ANONYMOUS, {"joined": b"data"}),
    ],
)
@pytest.mark.parametrize("error", UNEXPECTED)
def test_a_choice_that_raises_ends_with_that_exception_and_nothing_hangs(override, methods, options, error):
    tried = attempt(FakeProxy(**options), methods, factory=choosing(**{override: raising(error)}))
    assert type(tried.outcome) is error
    assert tried.has_left_nothing


@pytest.mark.parametrize(
    ("override", "value", "methods", "told"),
    [
        ("offer", (), ANONYMOUS, "1 to 255 methods"),
        ("offer", None, ANONYMOUS, "NoneType"),
        ("credentials", None, LOGIN, "NoneType"),
        ("pairs", {"k": b"hunter2"}, EXTENDED, "must be Pairs, not dict"),
        ("pairs", "hunter2", EXTENDED, "must be Pairs, not str"),
        ("pairs", None, EXTENDED, "must be Pairs, not NoneType"),
        ("error_for", None, ANONYMOUS, "return an exception, not NoneType"),
        ("error_for", "refused", ANONYMOUS, "return an exception, not str"),
        ("error_for", ValueError, ANONYMOUS, "return an exception, not type"),
    ],
)
def test_a_choice_that_is_no_choice_fails_and_nothing_hangs(override, value, methods, told):
    proxy = FakeProxy(code=5 if override == "error_for" else 0)
    tried = attempt(proxy, methods, factory=choosing(**{override: lambda *arguments: value}))
    assert isinstance(tried.outcome, Exception)
    assert told in str(tried.outcome)
    assert "hunter2" not in str(tried.outcome)
    assert tried.has_left_nothing


@pytest.mark.parametrize(
    ("choice", "error"), [(lambda self: None, TypeError), *((raising(error), error) for error in UNEXPECTED)]
)
def test_an_error_of_a_timeout_that_is_none_fails_and_nothing_hangs(choice, error):
    tried = attempt(FakeProxy(hangs=True), factory=choosing(error_of_timeout=choice), timeout=5).run(5)
    assert type(tried.outcome) is error
    assert tried.has_left_nothing
