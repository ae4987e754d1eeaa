"""Checkers of others: those that fail, and those that hold str."""

import sqlite3

import pytest
from examples.raw_peers import GREET_LOGIN, login, proxy
from support.answers import talk
from support.logs import lines_logged
from twisted.cred.checkers import FilePasswordDB, ICredentialsChecker, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import Portal
from twisted.internet.defer import fail
from twisted.internet.error import ConnectError
from zope.interface import implementer

from txsocksx_ext import Limits
from txsocksx_ext.server.auth import SOCKSRealm, portal_for

CHECKERS = "txsocksx_ext.server.failed_logins"
SERVER = "txsocksx_ext.server"
NO_DELAY = Limits(login_delay=0.001)


@implementer(ICredentialsChecker)
class Directory:
    """Stands for a checker in the network: fails with ``error`` while that is set, and knows nobody."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, error=None):
        self.error = error

    def requestAvatarId(self, credentials):
        return fail(UnauthorizedLogin() if self.error is None else self.error)


@implementer(ICredentialsChecker)
class Users:
    """A checker with names and passwords in a dict. It notes what it is asked with."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self, users):
        self.users = users
        self.asked = []

    def requestAvatarId(self, credentials):
        self.asked.append((credentials.username, credentials.password))
        if self.users.get(credentials.username) != credentials.password:
            raise UnauthorizedLogin()
        return credentials.username


@implementer(ICredentialsChecker)
class Table:
    """A checker with a table of a database."""

    credentialInterfaces = (IUsernamePassword,)

    def __init__(self):
        self.database = sqlite3.connect(":memory:")
        self.database.execute("CREATE TABLE users (name TEXT, password TEXT)")
        self.database.execute("INSERT INTO users VALUES ('jürgen', 'geheim')")

    def requestAvatarId(self, credentials):
        row = self.database.execute("SELECT password FROM users WHERE name = ?", (credentials.username,)).fetchone()
        if row is None or not credentials.checkPassword(row[0]):
            raise UnauthorizedLogin()
        return credentials.username


def memory(**users):
    return InMemoryUsernamePasswordDatabaseDontUse(**users)


async def is_let_in(server, name, password):
    answer = await talk(server, GREET_LOGIN + login(name, password), 4)
    assert answer[:3] == b"\x05\x02\x01"
    return answer[3] == 0


# Failures.


@pytest.mark.logs_errors
@pytest.mark.parametrize(
    "error", [ConnectError(string="no route"), ConnectionRefusedError(111, "Connection refused"), LookupError("bob")]
)
async def test_where_a_checker_fails_the_next_one_is_asked(error):
    with lines_logged(CHECKERS) as lines:
        async with proxy(portal=portal_for([Directory(error), memory(alice="secret")]), limits=NO_DELAY) as server:
            assert await is_let_in(server, b"alice", b"secret")
            assert not await is_let_in(server, b"alice", b"wrong")
    # Once, however many tried to log in.
    (line,) = lines
    assert line.startswith(f"the checker Directory failed: {type(error).__name__}")
    assert "bob" not in line


@pytest.mark.logs_errors
async def test_a_failure_is_no_wrong_password_and_its_end_is_logged():
    directory = Directory(ConnectError())
    with lines_logged(CHECKERS) as failures, lines_logged(SERVER) as lines:
        async with proxy(portal=portal_for([memory(alice="secret"), directory])) as server:
            assert await is_let_in(server, b"alice", b"secret")
            for _ in range(5):
                assert not await is_let_in(server, b"bob", b"right, perhaps")
            directory.error = OSError(101, "Network is unreachable")
            assert not await is_let_in(server, b"bob", b"right, perhaps")
            directory.error = None
            assert not await is_let_in(server, b"bob", b"wrong")
    assert [line.split(":")[0] for line in failures] == [
        "the checker Directory failed",
        "the checker Directory failed",
        "the checker Directory works again",
    ]
    assert "[Errno 101] Network is unreachable" in failures[1]
    reasons = [line.split()[3] for line in lines if line.startswith("auth_failed ")]
    assert reasons == ["reason=checker_failed"] * 6 + ["reason=invalid_credentials"]


@pytest.mark.logs_errors
async def test_a_checker_that_fails_in_a_portal_of_ones_own_is_logged_too():
    with lines_logged(CHECKERS) as failures, lines_logged(SERVER) as lines:
        async with proxy(portal=Portal(SOCKSRealm(), [Directory(ConnectError())])) as server:
            assert not await is_let_in(server, b"alice", b"secret")
            assert not await is_let_in(server, b"alice", b"secret")
    (failure,) = failures
    assert failure.startswith("the portal failed: ConnectError")
    assert [line.split()[3] for line in lines if line.startswith("auth_failed ")] == ["reason=checker_failed"] * 2


# Bytes and str.


async def test_a_checker_that_holds_str_matches():
    users = Users({"jürgen": "geheim"})
    async with proxy(portal=portal_for([users]), limits=NO_DELAY) as server:
        assert not await is_let_in(server, "jürgen".encode(), b"falsch")
        assert await is_let_in(server, "jürgen".encode(), b"geheim")
        assert not await is_let_in(server, b"\xff", b"geheim")
        # From the first whom it let in on, it is asked with str alone.
        del users.asked[:]
        assert not await is_let_in(server, "jürgen".encode(), b"falsch")
        assert users.asked == [("jürgen", "falsch")]


async def test_a_database_that_holds_text_matches():
    table = Table()
    async with proxy(portal=portal_for([table]), limits=NO_DELAY) as server:
        assert await is_let_in(server, "jürgen".encode(), b"geheim")
        assert not await is_let_in(server, "jürgen".encode(), b"falsch")
        assert not await is_let_in(server, b"bob", b"geheim")
    table.database.close()


async def test_a_checker_that_holds_bytes_is_asked_with_bytes_alone_once_it_has_let_somebody_in():
    users = Users({b"alice": b"secret"})
    async with proxy(portal=portal_for([users]), limits=NO_DELAY) as server:
        assert await is_let_in(server, b"alice", b"secret")
        assert not await is_let_in(server, b"alice", b"wrong")
    assert users.asked == [(b"alice", b"secret"), (b"alice", b"wrong")]


@pytest.mark.parametrize(
    ("text", "asked"), [(True, [("alice", "wrong")]), (False, [(b"alice", b"wrong")])], ids=["text", "bytes"]
)
async def test_what_a_checker_holds_can_be_said(text, asked):
    users = Users({})
    async with proxy(portal=portal_for([users], text=text), limits=NO_DELAY) as server:
        assert not await is_let_in(server, b"alice", b"wrong")
        assert users.asked == asked
        assert not await is_let_in(server, b"alice", b"\xff")
        assert [password for _, password in users.asked[1:]] == ([] if text else [b"\xff"])


async def test_twisteds_checkers_with_str(tmp_path):
    async with proxy(portal=portal_for([memory(alice="secret")], text=True)) as server:
        assert await is_let_in(server, b"alice", b"secret")
    path = tmp_path / "passwords"
    path.write_text("bob:hunter2\n")
    async with proxy(portal=portal_for([FilePasswordDB(str(path))]), limits=NO_DELAY) as server:
        assert await is_let_in(server, b"bob", b"hunter2")
