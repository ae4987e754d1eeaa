"""The tool that changes a file of hashed passwords."""

import io
import os
import pty
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2 import PasswordHasher
from support import warm_python
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin

from txsocksx_ext.server.auth import HashedPasswordFile
from txsocksx_ext.server.passwords import main, password_line

TOOL = [sys.executable, "-m", "txsocksx_ext.server.passwords"]


def run(*arguments, given=""):
    return warm_python.run([*TOOL, *arguments], input=given)


def change(*arguments, given=""):
    done = run(*arguments, given=given)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def names(path):
    return [each.rpartition(":")[0] for each in path.read_text().splitlines()]


async def comes_in(path, name, password):
    try:
        return await HashedPasswordFile(str(path)).requestAvatarId(UsernamePassword(name, password)) == name
    except UnauthorizedLogin:
        return False


# The file.


async def test_users_are_added_replaced_and_removed(tmp_path):
    path = tmp_path / "users"
    change("set", path, "alice", given="secret\n")
    change("set", path, "bob", given="hunter2\n")
    assert await comes_in(path, b"alice", b"secret")
    assert await comes_in(path, b"bob", b"hunter2")
    change("set", path, "alice", given="changed\n")
    assert names(path) == ["alice", "bob"]
    assert not await comes_in(path, b"alice", b"secret")
    assert await comes_in(path, b"alice", b"changed")
    change("remove", path, "alice")
    assert names(path) == ["bob"]
    assert await comes_in(path, b"bob", b"hunter2")


def test_a_new_file_is_its_owners_alone_and_an_old_one_keeps_its_mode(tmp_path):
    path = tmp_path / "users"
    change("set", path, "alice", given="secret\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o640)
    change("set", path, "bob", given="secret\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["users"]


def test_all_other_lines_stay_and_all_lines_of_the_user_go(tmp_path):
    path = tmp_path / "users"
    bob = password_line("bob", "x")
    path.write_text(f"\ufeff# alice:of the comment\n\nalice:1\n{bob}\nalice:2")
    change("set", path, "alice", given="secret\n")
    lines = path.read_text().splitlines()
    assert lines[:2] == ["# alice:of the comment", ""]
    assert lines[2].startswith("alice:$argon2id$")
    assert lines[3:] == [bob]


def test_a_link_stays_a_link(tmp_path):
    path, link = tmp_path / "users", tmp_path / "link"
    path.touch()
    link.symlink_to(path)
    change("set", link, "alice", given="secret\n")
    assert link.is_symlink()
    assert names(path) == ["alice"]


def test_changes_at_the_same_time_are_all_kept(tmp_path):
    path = tmp_path / "users"
    everyone = [f"user{number}" for number in range(8)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda name: change("set", path, name, given="secret\n"), everyone))
    assert sorted(names(path)) == everyone


@pytest.mark.parametrize(
    ("arguments", "given", "reason"),
    [
        (["remove", "users", "bob"], "", "users has no user 'bob'"),
        (["remove", "nowhere", "bob"], "", "nowhere"),
        (["set", "no/folder/here", "bob"], "secret\n", "no/folder"),
        (["set", "users", "bob"], "", "empty"),
        (["set", "users", "#bob"], "secret\n", "cannot be a user's name"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(tmp_path, monkeypatch, arguments, given, reason):
    monkeypatch.chdir(tmp_path)
    line = password_line("alice", "secret") + "\n"
    (tmp_path / "users").write_text(line)
    done = run(*arguments, given=given)
    assert done.returncode == 1
    assert reason in done.stderr
    assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert (tmp_path / "users").read_text() == line


# A line alone.


def test_a_line_is_printed():
    made = run("alice", given="secret\n").stdout
    name, _, hashed = made.partition(":")
    assert (name, made.count("\n")) == ("alice", 1)
    assert PasswordHasher().verify(hashed.strip(), "secret")
    assert "secret" not in made


async def test_a_line_that_was_made_lets_its_user_in(tmp_path):
    path = tmp_path / "users"
    path.write_text(password_line("jürgen:x", "geheim") + "\n")
    assert await comes_in(path, "jürgen:x".encode(), b"geheim")


@pytest.mark.parametrize(
    ("name", "password"), [("", "p"), ("#alice", "p"), ("a\nb", "p"), ("a\x00b", "p"), ("alice", "")]
)
def test_a_line_that_could_not_be_read_again_is_not_made(name, password):
    with pytest.raises(ValueError, match=r"empty|name"):
        password_line(name, password)


# The command.


@pytest.mark.parametrize("arguments", [[], ["--help"], ["set", "alice"], ["a", "b", "c"]])
def test_the_program_explains_itself(capsys, arguments):
    assert main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_an_empty_password_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["alice"]) == 1
    assert "empty" in capsys.readouterr().err


def ask(path, *passwords):
    """Run the tool on a terminal, where it asks; its exit status and what stood there."""
    terminal, its_end = pty.openpty()
    process = subprocess.Popen(
        [*TOOL, "set", str(path), "alice"], stdin=its_end, stdout=its_end, stderr=its_end, start_new_session=True
    )
    os.close(its_end)
    seen = b""
    for password in passwords:
        while not seen.endswith(b": "):
            seen += os.read(terminal, 1024)
        os.write(terminal, password + b"\n")
        seen += b"\n"
    status = process.wait(20)
    seen += os.read(terminal, 1024)
    os.close(terminal)
    return status, seen.decode()


async def test_on_a_terminal_it_asks_twice(tmp_path):
    path = tmp_path / "users"
    status, seen = ask(path, b"secret", b"secret")
    assert status == 0
    assert re.search("Password for alice: .*Again: ", seen, re.DOTALL)
    assert "secret" not in seen
    assert await comes_in(path, b"alice", b"secret")


def test_two_passwords_that_differ_change_nothing(tmp_path):
    path = tmp_path / "users"
    status, seen = ask(path, b"secret", b"secert")
    assert status == 1
    assert "the two passwords differ: nothing was changed" in seen
    assert not path.exists()
