"""Who may come in: a file of hashed passwords, and Twisted's own checkers."""

import os
import threading
import time
from itertools import pairwise

import pytest
from argon2 import PasswordHasher
from examples.raw_peers import GREET_EXTENDED, GREET_LOGIN, login, pairs, proxy, settles, until
from twisted.cred.checkers import AllowAnonymousAccess, InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import IUsernamePassword, UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.strcred import makeChecker
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import LogLevel, formatEvent, globalLogPublisher

from txsocksx_ext import Limits
from txsocksx_ext.server import auth as module
from txsocksx_ext.server.auth import HashedPasswordFile, SOCKSRealm, SOCKSUser, portal_for
from txsocksx_ext.server.passwords import password_line

CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
"""A hash says itself what it costs, so those of tests cost little."""


def line(name, password):
    return name + b":" + CHEAP.hash(password).encode("ascii") + b"\n"


@pytest.fixture
def password_file(tmp_path):
    """A file of two users; ``rewrite`` replaces what it holds."""

    class File:
        path = tmp_path / "passwords"
        written = 0

        def rewrite(self, content):
            self.path.write_bytes(content)
            # Two changes within one tick of the file system's clock would look like none.
            self.written += 1
            os.utime(self.path, ns=(self.written * 10**9, self.written * 10**9))

    file = File()
    file.rewrite(b"# who may come in\n\n" + line(b"alice", b"secret") + line(b"b:o:b", b"\xff\x00"))
    return file


async def comes_in(checker, name, password):
    try:
        return await checker.requestAvatarId(UsernamePassword(name, password)) == name
    except UnauthorizedLogin:
        return False


@pytest.fixture
def verifications(monkeypatch):
    """The threads in which passwords were hashed."""
    threads = []
    original = PasswordHasher.verify

    def verify(self, hashed, password):
        threads.append(threading.current_thread())
        return original(self, hashed, password)

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    return threads


@pytest.fixture
def logged_warnings():
    """The texts of the warnings that are logged."""
    texts = []

    def observe(event):
        if event["log_level"] is LogLevel.warn:
            texts.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield texts
    globalLogPublisher.removeObserver(observe)


# The file.


@pytest.mark.parametrize(
    ("name", "password", "is_in"),
    [
        (b"alice", b"secret", True),
        (b"alice", b"Secret", False),
        (b"alice", b"", False),
        (b"alice", b"secret\x00", False),
        (b"Alice", b"secret", False),
        (b"b:o:b", b"\xff\x00", True),
        (b"b", b"\xff\x00", False),
        (b"carol", b"secret", False),
        (b"", b"", False),
        (b"# who may come in", b"", False),
    ],
)
async def test_who_may_come_in(password_file, name, password, is_in):
    checker = HashedPasswordFile(str(password_file.path))
    assert await comes_in(checker, name, password) is is_in


async def test_hashing_is_done_off_the_reactors_thread(password_file, verifications):
    checker = HashedPasswordFile(str(password_file.path))
    assert await comes_in(checker, b"alice", b"secret")
    assert not await comes_in(checker, b"alice", b"wrong")
    # A stranger costs as much as someone who is known.
    assert not await comes_in(checker, b"carol", b"secret")
    assert len(verifications) == 3
    assert threading.current_thread() not in verifications


async def test_a_login_is_hashed_once_and_a_wrong_one_each_time(password_file, verifications):
    checker = HashedPasswordFile(str(password_file.path))
    for _ in range(3):
        assert await comes_in(checker, b"alice", b"secret")
    assert len(verifications) == 1
    for _ in range(3):
        assert not await comes_in(checker, b"alice", b"wrong")
    assert len(verifications) == 4
    # A wrong password does not push the right one out.
    assert await comes_in(checker, b"alice", b"secret")
    assert len(verifications) == 4


async def test_logins_that_look_alike_are_not_mistaken_for_one_another(password_file):
    password_file.rewrite(line(b"ab", b"c") + line(b"a", b"bc-no"))
    checker = HashedPasswordFile(str(password_file.path))
    assert await comes_in(checker, b"ab", b"c")
    assert not await comes_in(checker, b"a", b"bc")


async def test_only_so_many_logins_are_remembered(password_file, verifications, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED", 1)
    checker = HashedPasswordFile(str(password_file.path))
    for name, password in ((b"alice", b"secret"), (b"b:o:b", b"\xff\x00"), (b"alice", b"secret")):
        assert await comes_in(checker, name, password)
    assert len(verifications) == 3


async def test_a_change_of_the_file_counts_at_once(password_file, verifications):
    checker = HashedPasswordFile(str(password_file.path))
    assert await comes_in(checker, b"alice", b"secret")
    password_file.rewrite(line(b"alice", b"changed") + line(b"carol", b"new"))
    # What was remembered is forgotten.
    assert not await comes_in(checker, b"alice", b"secret")
    assert await comes_in(checker, b"alice", b"changed")
    assert await comes_in(checker, b"carol", b"new")
    assert not await comes_in(checker, b"b:o:b", b"\xff\x00")
    assert len(verifications) == 5


async def test_a_change_while_a_password_is_hashed_counts_too(password_file, monkeypatch):
    begun, go_on = [], threading.Event()
    original = PasswordHasher.verify

    def verify(self, hashed, password):
        begun.append(password)
        go_on.wait(20)
        return original(self, hashed, password)

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    checker = HashedPasswordFile(str(password_file.path))
    try:
        removed = Deferred.fromCoroutine(comes_in(checker, b"alice", b"secret"))
        await until(lambda: begun)
        password_file.rewrite(line(b"carol", b"new"))
        added = Deferred.fromCoroutine(comes_in(checker, b"carol", b"new"))
    finally:
        go_on.set()
    assert await added
    assert not await removed


@pytest.mark.logs_errors
@pytest.mark.parametrize("spoilt", [b"alice\n", b"alice:plain text\n", None])
async def test_a_file_that_was_spoilt_leaves_the_last_good_one_in_force(password_file, logged_errors, spoilt):
    checker = HashedPasswordFile(str(password_file.path))
    if spoilt is None:
        password_file.path.unlink()
    else:
        password_file.rewrite(spoilt)
    assert await comes_in(checker, b"alice", b"secret")
    assert str(password_file.path) in logged_errors[0]["error"]
    password_file.rewrite(line(b"carol", b"new"))
    assert await comes_in(checker, b"carol", b"new")
    assert not await comes_in(checker, b"alice", b"secret")


@pytest.mark.logs_errors
async def test_what_is_wrong_with_the_file_is_said_once_and_not_for_each_login(password_file, logged_errors):
    checker = HashedPasswordFile(str(password_file.path))

    async def complaints():
        for _ in range(3):
            assert await comes_in(checker, b"alice", b"secret")
            assert not await comes_in(checker, b"carol", b"new")
        return len(logged_errors)

    good = password_file.path.read_bytes()
    password_file.path.unlink()
    assert await complaints() == 1
    password_file.rewrite(b"alice\n")
    assert await complaints() == 2
    password_file.rewrite(good)
    assert await complaints() == 2
    password_file.path.unlink()
    assert await complaints() == 3


@pytest.mark.logs_errors
async def test_a_file_that_may_be_read_again_is_read_though_nothing_was_written(password_file, monkeypatch):
    checker = HashedPasswordFile(str(password_file.path))

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(module.Path, "read_bytes", refuse)
        password_file.path.write_bytes(b"")
        assert await comes_in(checker, b"alice", b"secret")
    assert not await comes_in(checker, b"alice", b"secret")


async def test_a_relative_path_means_the_same_file_after_the_process_has_changed_its_folder(
    password_file, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    checker = HashedPasswordFile(password_file.path.name)
    assert await comes_in(checker, b"alice", b"secret")
    monkeypatch.chdir("/")
    password_file.rewrite(b"")
    assert not await comes_in(checker, b"alice", b"secret")


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b"alice\n", 1),
        (b"# all right\n\nalice:secret\n", 3),
        (b":" + line(b"", b"x").lstrip(b":"), 1),
        (line(b"alice", b"1") + b"alice:\n", 2),
        (line(b"alice", b"1") + line(b"bob", b"2")[:-2] + b"\n", 2),
        (line(b"alice", b"1")[:-12] + b"\n", 1),
        (b"alice:$argon2id$not-really\n", 1),
        (b"alice:$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ\n", 1),
        (line(b"alice", b"1").replace(b",t=1,", b",t=0,"), 1),
        (line(b"alice", b"1").replace(b",p=1$", b",p=9$"), 1),
        (line(b"alice", b"1").replace(b"argon2id", b"argon2x"), 1),
    ],
    # What is in the lines is another with each salt.
    ids=[
        "no colon",
        "no hash",
        "no name",
        "an empty hash",
        "a hash without its last letter",
        "a hash without its last letters",
        "no parameters",
        "no digest",
        "a time cost of 0",
        "too little memory",
        "an unknown type",
    ],
)
def test_a_bad_line_is_named_and_not_quoted(password_file, content, number):
    password_file.rewrite(content)
    with pytest.raises(ValueError, match=f"line {number} of ") as caught:
        HashedPasswordFile(str(password_file.path))
    assert "argon2id" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        HashedPasswordFile(str(tmp_path / "nowhere"))


async def test_the_last_line_about_a_user_counts_and_a_warning_names_it(password_file, logged_warnings):
    password_file.rewrite(line(b"alice", b"old") + line(b"bob", b"secret") + line(b"alice", b"new"))
    checker = HashedPasswordFile(str(password_file.path))
    assert not await comes_in(checker, b"alice", b"old")
    assert await comes_in(checker, b"alice", b"new")
    assert await comes_in(checker, b"bob", b"secret")
    (warning,) = [each for each in logged_warnings if "lines 3" in each]
    assert str(password_file.path) in warning


async def test_a_byte_order_mark_is_no_part_of_the_first_name(password_file):
    password_file.rewrite(b"\xef\xbb\xbf" + line(b"alice", b"secret"))
    checker = HashedPasswordFile(str(password_file.path))
    assert await comes_in(checker, b"alice", b"secret")


def test_a_file_in_utf_16_is_refused_with_what_to_do(password_file):
    password_file.rewrite(b"\xff\xfe" + line(b"alice", b"secret").decode().encode("utf-16-le"))
    with pytest.raises(ValueError, match="is UTF-16: save it as UTF-8"):
        HashedPasswordFile(str(password_file.path))


@pytest.mark.parametrize(
    ("mode", "folder_mode", "warned_of"),
    [
        (0o600, 0o700, []),
        (0o640, 0o755, []),
        (0o644, 0o700, ["read"]),
        (0o602, 0o700, ["changed"]),
        (0o666, 0o700, ["read", "changed"]),
        (0o600, 0o777, ["replaced"]),
        (0o600, 0o1777, []),
    ],
    ids=lambda value: oct(value) if isinstance(value, int) else "",
)
async def test_a_file_that_others_could_read_or_change_draws_a_warning(
    tmp_path, logged_warnings, mode, folder_mode, warned_of
):
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "passwords"
    path.write_bytes(line(b"alice", b"secret"))
    path.chmod(mode)
    folder.chmod(folder_mode)
    assert await comes_in(HashedPasswordFile(str(path)), b"alice", b"secret")
    assert [
        word
        for word in ("read", "changed", "replaced")
        if any(f"{path} can be {word}" in each for each in logged_warnings)
    ] == warned_of


async def test_a_file_of_equal_size_and_time_is_noticed(tmp_path):
    path, other = tmp_path / "passwords", tmp_path / "other"
    path.write_bytes(line(b"alice", b"old"))
    os.utime(path, ns=(10**18, 10**18))
    checker = HashedPasswordFile(str(path))
    assert await comes_in(checker, b"alice", b"old")
    # Another file in its place.
    other.write_bytes(line(b"alice", b"new"))
    os.utime(other, ns=(10**18, 10**18))
    assert (other.stat().st_size, other.stat().st_mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    other.replace(path)
    assert not await comes_in(checker, b"alice", b"old")
    assert await comes_in(checker, b"alice", b"new")
    # The same file, written in place.
    path.write_bytes(line(b"alice", b"two"))
    os.utime(path, ns=(10**18, 10**18))
    assert not await comes_in(checker, b"alice", b"new")
    assert await comes_in(checker, b"alice", b"two")


async def test_a_change_makes_only_those_hash_again_whom_it_is_about(password_file, verifications):
    alice = line(b"alice", b"secret")
    password_file.rewrite(alice + line(b"bob", b"hunter2"))
    checker = HashedPasswordFile(str(password_file.path))
    assert await comes_in(checker, b"alice", b"secret")
    assert await comes_in(checker, b"bob", b"hunter2")
    password_file.rewrite(alice + line(b"bob", b"hunter2"))
    del verifications[:]
    assert await comes_in(checker, b"alice", b"secret")
    assert verifications == []
    assert await comes_in(checker, b"bob", b"hunter2")
    assert len(verifications) == 1


async def test_a_hash_of_other_parameters_takes_the_time_that_a_stranger_takes(password_file):
    password_file.rewrite(line(b"cheap", b"secret") + password_line("dear", "secret").encode() + b"\n")
    checker = HashedPasswordFile(str(password_file.path))

    async def cost(name):
        """The least processor time of several wrong logins, in seconds."""
        costs = []
        for _ in range(3):
            began = time.process_time()
            assert not await comes_in(checker, name, b"wrong")
            costs.append(time.process_time() - began)
        return min(costs)

    stranger, cheap, dear = await cost(b"stranger"), await cost(b"cheap"), await cost(b"dear")
    # Without care one costs a thousand times what the other does.
    assert max(stranger, cheap, dear) < 2 * min(stranger, cheap, dear)
    assert await comes_in(checker, b"cheap", b"secret")
    assert await comes_in(checker, b"dear", b"secret")


@pytest.mark.deadline(120)
async def test_a_large_file_is_read_while_the_reactor_goes_on(password_file):
    hashed = CHEAP.hash(b"secret").encode()
    many = b"".join(b"user%06d:%s\n" % (number, hashed) for number in range(300_000))
    checker = HashedPasswordFile(str(password_file.path))
    password_file.rewrite(many)
    turns = [time.monotonic()]
    ticking = LoopingCall(lambda: turns.append(time.monotonic()))
    ticking.clock = reactor
    ticking.start(0.01)
    try:
        assert await comes_in(checker, b"user299999", b"secret")
    finally:
        ticking.stop()
    pauses = [later - earlier for earlier, later in pairwise(turns)]
    # To read it in the reactor takes all of the time at once.
    assert len(pauses) > 10
    assert max(pauses) < 0.5 * sum(pauses)


async def test_so_many_are_hashed_at_a_time_and_clients_that_leave_change_nothing_of_it(password_file, monkeypatch):
    running, most, go_on, count = [], [], threading.Event(), threading.Lock()

    def verify(self, hashed, password):
        with count:
            running.append(password)
            most.append(len(running))
        go_on.wait(20)
        with count:
            running.remove(password)
        return False

    monkeypatch.setattr(PasswordHasher, "verify", verify)
    checker = HashedPasswordFile(str(password_file.path))
    try:
        left = [checker.requestAvatarId(UsernamePassword(b"alice", b"%d" % number)) for number in range(10)]
        await until(lambda: len(running) == 2)
        for login_of_one_who_left in left:
            login_of_one_who_left.addErrback(lambda failure: failure.trap(CancelledError))
            login_of_one_who_left.cancel()
        waiting = [checker.requestAvatarId(UsernamePassword(b"alice", b"w%d" % number)) for number in range(3)]
        for each in waiting:
            each.addErrback(lambda failure: failure.trap(UnauthorizedLogin))
        # Another thread would have begun by now.
        assert not settles(lambda: len(most) > 2, patience=0.2)
    finally:
        go_on.set()
    await gatherResults(waiting)
    assert max(most) == 2
    # Of those who left while they waited, none was hashed.
    assert len(most) == 5


# All checkers through the server.


@pytest.mark.parametrize("kind", ["memory", "file", "hashed"])
async def test_each_kind_of_checker_by_either_method(tmp_path, kind):
    path = tmp_path / "passwords"
    if kind == "file":
        path.write_bytes(b"alice:secret\nbob:hunter2\n")
    elif kind == "hashed":
        path.write_bytes(line(b"alice", b"secret") + line(b"bob", b"hunter2"))
    checker = makeChecker("memory:alice:secret:bob:hunter2" if kind == "memory" else f"{kind}:{path}")
    async with proxy(portal=portal_for([checker]), limits=Limits(login_delay=0.001)) as server:
        for name, password, status in (
            (b"alice", b"secret", 0),
            (b"bob", b"hunter2", 0),
            (b"alice", b"hunter2", 1),
            (b"carol", b"secret", 1),
            (b"\xff", b"\xff", 1),
        ):
            client = await server.connect()
            client.send(GREET_LOGIN + login(name, password))
            assert await client.read(4) == b"\x05\x02\x01" + bytes((status,))
            client = await server.connect()
            client.send(GREET_EXTENDED + pairs((b"USERNAME", name), (b"PASSWD", password)))
            assert await client.read(4) == b"\x05\x97\x01" + bytes((status,))


async def test_who_is_known_to_one_of_several_checkers_may_come_in(tmp_path):
    path = tmp_path / "passwords"
    path.write_bytes(line(b"alice", b"secret") + line(b"bob", b"of the file"))
    memory = InMemoryUsernamePasswordDatabaseDontUse(bob="hunter2")
    for checkers in ([HashedPasswordFile(str(path)), memory], [memory, HashedPasswordFile(str(path))]):
        async with proxy(portal=portal_for(checkers), limits=Limits(login_delay=0.001)) as server:
            for name, password, status in (
                (b"alice", b"secret", 0),
                (b"bob", b"hunter2", 0),
                (b"bob", b"of the file", 0),
                (b"bob", b"secret", 1),
                (b"carol", b"secret", 1),
            ):
                client = await server.connect()
                client.send(GREET_LOGIN + login(name, password))
                assert await client.read(4) == b"\x05\x02\x01" + bytes((status,))


@pytest.mark.parametrize("others", [[], [InMemoryUsernamePasswordDatabaseDontUse(alice="secret")]])
def test_a_checker_of_other_credentials_is_refused(others):
    with pytest.raises(ValueError, match="AllowAnonymousAccess checks no user names and passwords"):
        portal_for([*others, AllowAnonymousAccess()])


def test_a_user_is_not_named_by_a_repr():
    assert "alice" not in repr(SOCKSUser(b"alice"))


def test_a_realm_knows_users_of_this_server_alone():
    with pytest.raises(NotImplementedError):
        SOCKSRealm().requestAvatar(b"alice", None, IUsernamePassword)
