"""Which clients' streams may share tor's circuits: who gets the same token."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, UNIXAddress

from txsocksx_ext import RouteTable
from txsocksx_ext.context import Session
from txsocksx_ext.protocol.messages import UsernamePassword
from txsocksx_ext.protocol.pairs import Pairs
from txsocksx_ext.testing import FakeRoute
from txsocksx_ext.tor.isolation import IsolationTokens

SECRET = b"s" * 32


def client(username=None, password=b"word", *, isolation=None, avatar=None, pairs=None, peer=None):
    """A client that has said this of itself."""
    session = Session(peer or IPv4Address("TCP", "127.0.0.1", 5000), RouteTable((), FakeRoute()))
    session.avatar = avatar
    if pairs is not None:
        session.take_pairs(Pairs(pairs))
    elif isolation is not None:
        session.take_pairs(Pairs({"tor.isolation": isolation}))
    if username is not None:
        session.credentials = UsernamePassword(username, password)
    return session


def token(*args, secret=SECRET, **kwargs):
    return IsolationTokens(secret).token_for(client(*args, **kwargs))


def test_a_client_that_says_nothing_of_itself_has_none():
    assert token() is None
    assert token(pairs={}) is None
    assert token(pairs={"tor.errors": "304"}) is None


def test_who_says_the_same_of_itself_has_the_same():
    assert token(b"alice") == token(b"alice")
    assert token(isolation=b"a") == token(isolation=b"a")
    assert token(b"alice", isolation=b"a") == token(b"alice", isolation=b"a")


def test_it_does_not_matter_by_which_method_it_was_said_or_from_where():
    by_pairs = token(pairs={"USERNAME": "alice", "PASSWD": "word"})
    assert by_pairs == token(b"alice", b"word")
    assert token(b"alice", peer=UNIXAddress(None)) == token(b"alice")


def test_other_users_and_other_values_have_others():
    tokens = [
        token(b"alice"),
        token(b"bob"),
        token(isolation=b"alice"),
        token(isolation=b""),
        token(b"alice", isolation=b""),
        token(b"alice", isolation=b"a"),
        token(b"bob", isolation=b"a"),
        token(b"alice", isolation=b"b"),
        token(pairs={"USERNAME": "alice"}),
        token(pairs={"PASSWD": "alice"}),
    ]
    assert len(set(tokens)) == len(tokens)


def test_without_a_portal_the_password_separates_too():
    assert token(b"alice", b"1") != token(b"alice", b"2")


def test_with_a_portal_a_user_is_the_same_with_any_password_that_is_let_in():
    avatar = object()
    assert token(b"alice", b"1", avatar=avatar) == token(b"alice", b"2", avatar=avatar)
    assert token(b"alice", b"1", avatar=avatar) != token(b"bob", b"1", avatar=avatar)
    # Nobody can get there by a login that was not checked.
    assert token(b"alice", b"1", avatar=avatar) != token(b"alice", b"1")
    assert token(b"alice", b"", avatar=avatar) != token(b"alice", b"")


fields = st.tuples(st.none() | st.binary(max_size=12), st.binary(max_size=12), st.none() | st.binary(max_size=12))


@given(fields, fields)
def test_tokens_are_equal_if_and_only_if_what_was_said_is(first, second):
    def token_of(username, password, isolation):
        pairs = {} if username is None else {"USERNAME": username, "PASSWD": password}
        if isolation is not None:
            pairs["tor.isolation"] = isolation
        return token(pairs=pairs)

    def meaning(username, password, isolation):
        return (None if username is None else (username, password), isolation)

    assert (token_of(*first) == token_of(*second)) == (meaning(*first) == meaning(*second))


def test_what_tor_sees_gives_nothing_away():
    shown = token(b"alice", b"hunter2", isolation=b"diary")
    assert len(shown) == 64
    assert set(shown) <= set(b"0123456789abcdef")
    long = token(pairs={"USERNAME": b"\xff" * 300, "PASSWD": b"\0" * 5000, "tor.isolation": b"x" * 9000})
    assert len(long) == 64
    # Who knows all the user names that there may be cannot make the token of one.
    assert shown != token(b"alice", b"hunter2", isolation=b"diary", secret=b"t" * 32)


def test_with_the_same_secret_another_process_makes_the_same():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_tor_isolation import token; print(token(b'alice', isolation=b'a').decode())"
    )
    folder = __file__.rpartition("/")[0]
    made = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    assert made.stdout.strip().encode() == token(b"alice", isolation=b"a")


def test_after_a_restart_they_are_others():
    before, after = IsolationTokens(), IsolationTokens()
    alice = client(b"alice")
    assert before.token_for(alice) == before.token_for(client(b"alice"))
    assert before.token_for(alice) != after.token_for(alice)
