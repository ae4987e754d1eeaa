"""Log files: moved away by others, rotated by the server, and files that must never be renamed."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import time

import pytest
from examples.raw_peers import GREET_ANONYMOUS, request, settles
from support.documentation import EXAMPLES
from support.logs import lines_logged
from support.programs import need
from support.workers import is_alive, workers_of

from txsocksx_ext.server.log_file import LogFile


def serving(socks5ext, path, *options):
    """A server whose log goes to `path`."""
    return socks5ext(*options, before=f"import sys; sys.argv[1:1] = ['--logfile={path}']")


def have_a_line(server, name):
    """Have a line for a connection in the log; with --log-targets it has this name."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(GREET_ANONYMOUS + request(f"{name}.invalid", 0))
        while client.recv(100):
            pass


def signal_usr1(server):
    os.kill(server.pid, signal.SIGUSR1)


def holds(path, name):
    return path.exists() and f"{name}.invalid" in path.read_text()


# As other programs rotate it.


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["one process", "workers"])
def test_after_the_file_was_moved_away_usr1_opens_a_new_one(socks5ext, tmp_path, options):
    path, old = tmp_path / "served.log", tmp_path / "moved.log"
    server = serving(socks5ext, path, "--log-targets", *options)
    have_a_line(server, "first")
    assert settles(lambda: holds(path, "first"))
    path.chmod(0o640)
    path.rename(old)
    have_a_line(server, "second")
    assert settles(lambda: holds(old, "second"))
    signal_usr1(server)
    assert settles(path.exists)
    have_a_line(server, "third")
    assert settles(lambda: holds(path, "third"))
    assert not holds(old, "third")
    assert not holds(path, "second")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == ["moved.log", "served.log"]
    assert "USR1" not in server.output
    server.stop()


def test_usr1_to_every_process_ends_none(socks5ext, tmp_path):
    path = tmp_path / "served.log"
    server = serving(socks5ext, path, "--workers", "2")
    assert settles(lambda: path.read_text().count("serves, as process") == 2)
    pids = workers_of(server)
    for pid in (*pids, server.pid):
        os.kill(pid, signal.SIGUSR1)
    assert settles(lambda: (tmp_path / "served.log.1").exists())
    have_a_line(server, "first")
    assert settles(lambda: "CONNECT" in path.read_text())
    assert workers_of(server) == pids
    assert all(map(is_alive, pids))
    assert "another one starts" not in path.read_text()
    server.stop()


@pytest.mark.parametrize("make", ["nocreate", "create 0640"])
def test_logrotate_with_the_example(socks5ext, tmp_path, make):
    path = tmp_path / "served.log"
    server = serving(socks5ext, path, "--log-targets")
    text = (EXAMPLES / "socks5ext.logrotate").read_text()
    for was, becomes in (
        ("/var/log/socks5ext", str(tmp_path)),
        ("nocreate", make),
        ("systemctl kill --kill-whom=main --signal=USR1 socks5ext.service", f"kill -USR1 {server.pid}"),
    ):
        assert was in text
        text = text.replace(was, becomes)
    (tmp_path / "config").write_text(text)
    (tmp_path / "config").chmod(0o600)

    def rotate():
        subprocess.run([need("logrotate"), "-f", "-s", tmp_path / "state", tmp_path / "config"], check=True, timeout=30)

    for name in ("first", "second", "third"):
        have_a_line(server, name)
        assert settles(lambda name=name: holds(path, name))
        rotate()
        assert settles(path.exists)
    have_a_line(server, "fourth")
    assert settles(lambda: holds(path, "fourth"))
    assert holds(tmp_path / "served.log.1", "third")
    assert not holds(path, "third")
    names = sorted(each.name for each in tmp_path.glob("served.log*"))
    assert names == ["served.log", "served.log.1", "served.log.2.gz", "served.log.3.gz"]
    server.stop()


def test_a_file_that_was_truncated_has_no_hole(tmp_path):
    path = tmp_path / "a.log"
    log = LogFile(str(path))
    log.write("before\n")
    os.truncate(path, 0)
    log.write("after\n")
    log.close()
    assert path.read_bytes() == b"after\n"


def test_a_file_that_others_rotate_is_not_rotated_by_its_size(tmp_path):
    path = tmp_path / "a.log"
    log = LogFile(str(path), rotate_at=100)
    log.write(100 * "x")
    path.rename(tmp_path / "moved")
    log.reopen_or_rotate()
    for _ in range(10):
        log.write(100 * "y")
    log.close()
    assert path.read_text() == 1000 * "y"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.log", "moved"]


def test_where_no_new_file_can_be_opened_the_old_one_is_kept(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    log = LogFile(str(folder / "a.log"), rotate_at=100)
    log.write("before\n")
    folder.rename(tmp_path / "moved")
    with lines_logged("txsocksx_ext.server") as lines:
        log.reopen_or_rotate()
    log.write("after\n")
    log.close()
    assert (tmp_path / "moved" / "a.log").read_text() == "before\nafter\n"
    (line,) = lines
    assert line == f"the log {folder}/a.log cannot be begun anew: No such file or directory"


# As the server rotates it.


def test_files_move_up_and_keep_their_permissions(tmp_path):
    path = tmp_path / "a.log"
    log = LogFile(str(path))
    path.chmod(0o604)
    log.close()
    log = LogFile(str(path))
    for number in range(12):
        log.write(f"{number}\n")
        log.reopen_or_rotate()
    log.close()
    for number in range(1, 13):
        assert (tmp_path / f"a.log.{number}").read_text() == f"{12 - number}\n"
    assert path.read_text() == ""
    assert stat.S_IMODE(path.stat().st_mode) == 0o604


# What must never be renamed.


def rotated(path, size=10_000):
    """Have a log written to `path` rotate by its size and on request, as far as it does."""
    log = LogFile(str(path), rotate_at=1000)
    for _ in range(size // 100):
        log.write(100 * "x")
    log.reopen_or_rotate()
    log.write("last\n")
    log.close()


def test_a_device(tmp_path):
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        path.write_bytes(b"x")
    except OSError:
        pytest.skip("this user may not make devices, or not use them here")
    rotated(path)
    assert stat.S_ISCHR(path.lstat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


def test_a_symlink(tmp_path):
    path, real = tmp_path / "a.log", tmp_path / "real"
    path.symlink_to(real)
    rotated(path)
    assert path.is_symlink()
    assert real.stat().st_size == 10_005
    assert len(list(tmp_path.iterdir())) == 2


def test_a_symlink_that_leads_elsewhere_is_followed(tmp_path):
    path = tmp_path / "a.log"
    path.symlink_to(tmp_path / "monday")
    log = LogFile(str(path))
    log.write("monday\n")
    path.unlink()
    path.symlink_to(tmp_path / "tuesday")
    log.reopen_or_rotate()
    log.write("tuesday\n")
    log.close()
    assert (tmp_path / "monday").read_text() == "monday\n"
    assert (tmp_path / "tuesday").read_text() == "tuesday\n"


@contextlib.contextmanager
def reading(path):
    """A reader of a FIFO: a function that reads until there is some text."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    seen = bytearray()

    def until(text):
        def is_there():
            with contextlib.suppress(BlockingIOError):
                seen.extend(os.read(descriptor, 1 << 16))
            return text in seen

        return settles(is_there)

    try:
        yield until
    finally:
        os.close(descriptor)


def test_a_fifo(socks5ext, tmp_path):
    path = tmp_path / "log"
    os.mkfifo(path)
    with reading(path) as until:
        server = serving(socks5ext, path, "--log-targets")
        assert until(b"starting up")
        have_a_line(server, "first")
        assert until(b"first.invalid")
        signal_usr1(server)
        have_a_line(server, "second")
        assert until(b"second.invalid")
    # Nobody reads for a while.
    have_a_line(server, "lost")
    signal_usr1(server)
    have_a_line(server, "lost")
    time.sleep(0.1)
    with reading(path) as until:
        have_a_line(server, "third")
        assert until(b"third.invalid")
        assert stat.S_ISFIFO(path.lstat().st_mode)
        assert list(tmp_path.iterdir()) == [path]
        server.stop()
    assert server.output == ""


def test_a_fifo_that_nobody_reads_does_not_hold_up_the_start(socks5ext, tmp_path):
    path = tmp_path / "log"
    os.mkfifo(path)
    server = serving(socks5ext, path)
    have_a_line(server, "first")
    server.stop()
    assert stat.S_ISFIFO(path.lstat().st_mode)


def test_a_fifo_by_its_size(tmp_path):
    path = tmp_path / "log"
    os.mkfifo(path)
    with reading(path) as until:
        rotated(path)
        assert until(b"last\n")
    assert stat.S_ISFIFO(path.lstat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_put_in_the_place_of_a_regular_file(tmp_path):
    path = tmp_path / "log"
    log = LogFile(str(path), rotate_at=100)
    log.write(100 * "x")
    path.rename(tmp_path / "moved")
    os.mkfifo(path)
    with reading(path) as until:
        # It is full, and the path leads to another file now.
        log.write("last\n")
        assert until(b"last\n")
    log.close()
    assert stat.S_ISFIFO(path.lstat().st_mode)
    assert (tmp_path / "moved").read_text() == 100 * "x"
