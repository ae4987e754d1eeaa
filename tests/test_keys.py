"""
Which keys of a client mean something, and which of them the route must honour.
"""

import pytest
from twisted.internet.task import Clock

from txsocksx_ext import Session
from txsocksx_ext.errors import InvalidArguments
from txsocksx_ext.policy.keys import classify_keys
from txsocksx_ext.protocol.pairs import SERVER_KEYS, Pairs
from txsocksx_ext.server.factory import SOCKS5ExtFactory

KNOWN = SERVER_KEYS | {"tor.isolation", "pt."}
OWN = frozenset({"own.token"})

MEANINGS = {
    "nothing": ((), {}, set()),
    "the server's own business": (
        ("USERNAME", "tor.errors"),
        {"USERNAME": "USERNAME", "tor.errors": "tor.errors"},
        set(),
    ),
    "a route's": (("tor.isolation",), {"tor.isolation": "tor.isolation"}, {"tor.isolation"}),
    "a route's, optional": (("?tor.isolation",), {"tor.isolation": "?tor.isolation"}, set()),
    "of a name space": (("pt.shared-secret",), {"pt.shared-secret": "pt.shared-secret"}, {"pt.shared-secret"}),
    "of a name space, optional": (("?pt.secret",), {"pt.secret": "?pt.secret"}, set()),
    "authenticate's": (("own.token",), {"own.token": "own.token"}, set()),
    "authenticate's, optional": (("?own.token",), {"own.token": "?own.token"}, set()),
    "optional and unknown": (("?nobodys.key", "PASSWD"), {"PASSWD": "PASSWD"}, set()),
    "the order of the message": (("pt.b", "?pt.a"), {"pt.b": "pt.b", "pt.a": "?pt.a"}, {"pt.b"}),
}


@pytest.mark.parametrize("case", MEANINGS)
def test_what_keys_mean(case):
    keys, kept, required = MEANINGS[case]
    meaning = classify_keys(keys, KNOWN, OWN)
    assert list(meaning.kept) == list(kept.items())
    assert meaning.required == required


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("nobodys.key",), "unknown key: nobodys.key"),
        (("USERNAME", "OTHER"), "unknown key: OTHER"),
        (("own.",), r"unknown key: own\."),
        (("pt.a", "?pt.a"), r"the key pt\.a stands twice"),
        (("?USERNAME", "USERNAME"), "the key USERNAME stands twice"),
    ],
)
def test_keys_that_are_refused(keys, message):
    with pytest.raises(InvalidArguments, match=message):
        classify_keys(keys, KNOWN, OWN)


def filtered(factory, pairs):
    return factory.filter_pairs(pairs, Session(None, factory.policy))


def test_factories_that_know_other_keys_do_not_mix():
    class Knowing(SOCKS5ExtFactory):
        keys = {"own.token"}  # not frozen, as a hasty author writes it

    pairs = Pairs({"own.token": b"1", "?nobodys.key": b"2"})
    kept, required = filtered(Knowing(Clock()), pairs)
    assert dict(kept) == {"own.token": b"1"}
    assert required == frozenset()
    with pytest.raises(InvalidArguments, match=r"unknown key: own\.token"):
        filtered(SOCKS5ExtFactory(Clock()), pairs)


def test_keys_can_be_added_while_the_server_runs():
    factory = SOCKS5ExtFactory(Clock())
    with pytest.raises(InvalidArguments):
        filtered(factory, Pairs({"own.token": b"1"}))
    factory.keys = frozenset({"own.token"})
    assert dict(filtered(factory, Pairs({"own.token": b"1"}))[0]) == {"own.token": b"1"}
