"""Folders for what transports and a launched tor keep: refused where other users could change what is in them."""

import os
import stat

import pytest
from support.logs import lines_logged
from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater

from txsocksx_ext import TransportRoute, route_from_string
from txsocksx_ext.pt import Side, TransportProtocol
from txsocksx_ext.testing import connect_transports

OTHER_USER = 65534


def _writable(folder, bits):
    folder.mkdir()
    folder.chmod(0o700 | bits)


def _symbolic_link(folder):
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


def _replaceable(folder):
    folder.mkdir(mode=0o700)
    folder.parent.chmod(0o777)


def _another_users(folder):
    folder.mkdir(mode=0o700)
    os.chown(folder, OTHER_USER, -1)


UNSAFE = {
    "writable by all": (lambda folder: _writable(folder, 0o002), "can be written to by other users"),
    "writable by a group": (lambda folder: _writable(folder, 0o020), "can be written to by other users"),
    "sticky and writable by all": (lambda folder: _writable(folder, 0o1007), "can be written to by other users"),
    "a symbolic link": (_symbolic_link, "is a symbolic link"),
    "a symbolic link that leads nowhere": (lambda folder: folder.symlink_to("nowhere"), "is a symbolic link"),
    "in a folder that all can write to": (_replaceable, "can be replaced by other users"),
    "another user's": (_another_users, "belongs to another user"),
    "a file": (lambda folder: folder.touch(), "is not a folder"),
}


ABOUT_THE_PARENT_OR_ROOT = ("in a folder that all can write to", "another user's")


@pytest.fixture(params=UNSAFE)
def unsafe(request, tmp_path):
    """A path at which a state folder is to be refused, and the words that say why."""
    make, words = UNSAFE[request.param]
    if make is _another_users and os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder = tmp_path / "parent" / "state"
    folder.parent.mkdir()
    make(folder)
    return folder, words


def state_in(location):
    """The folder that one transport gets in the folder for all."""
    return Side(Clock(), "tested", True, state_location=location).state


def assert_refuses(folder, words):
    with pytest.raises(OSError, match=words) as refused:
        state_in(folder)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_transport_of_ones_own(unsafe):
    folder, words = unsafe
    assert_refuses(folder, words)
    if folder.is_dir():
        assert not list(folder.iterdir())


@pytest.mark.parametrize("kind", [kind for kind in UNSAFE if kind not in ABOUT_THE_PARENT_OR_ROOT])
def test_the_folder_of_one_transport_in_a_safe_one(kind, tmp_path):
    make, words = UNSAFE[kind]
    location = tmp_path / "state"
    location.mkdir(mode=0o700)
    make(location / "tested")
    with pytest.raises(OSError, match=words):
        state_in(location)


def test_a_transport_that_keeps_a_state_does_not_start_with_such_a_folder(tmp_path):
    class Keeps(TransportProtocol):
        @classmethod
        def set_up(cls, side):
            (side.state / "key").write_text("secret")

    (tmp_path / "bridge").mkdir()
    (tmp_path / "bridge").chmod(0o777)
    pair = connect_transports(Keeps, Keeps, state=tmp_path, clock=Clock())
    assert isinstance(pair.failure, PermissionError)
    assert not list((tmp_path / "bridge").iterdir())


async def assert_does_not_start(route, namespace, folder, words):
    with lines_logged(namespace) as lines:
        route.service.startService()
        while not lines:
            await deferLater(reactor, 0.01)
        await route.service.stopService()
    assert words in lines[0]
    assert str(folder) in lines[0]


async def test_a_managed_transport(unsafe, tmp_path):
    folder, words = unsafe
    started = tmp_path / "started"
    route = TransportRoute(reactor, "obfs4", "touch", [str(started)], state=str(folder))
    await assert_does_not_start(route, "txsocksx_ext.pt", folder, words)
    assert not started.exists()


async def test_a_launched_tor(unsafe, tmp_path):
    folder, words = unsafe
    started = tmp_path / "started"
    program = tmp_path / "tor"
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    route = route_from_string(reactor, f"tor:launch:exec={program}:state={folder}")
    await assert_does_not_start(route, "txsocksx_ext.tor", folder, words)
    assert not started.exists()


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755])
def test_a_folder_that_only_this_user_can_write_to_is_used(mode, tmp_path):
    location = tmp_path / "state"
    location.mkdir()
    location.chmod(mode)
    assert state_in(location) == location / "tested"


def test_folders_are_created_for_this_user_alone(tmp_path):
    location = tmp_path / "one" / "two"
    mask = os.umask(0)
    try:
        folder = state_in(location)
    finally:
        os.umask(mask)
    for each in (folder, location, location.parent):
        assert stat.S_IMODE(each.stat().st_mode) == 0o700


def test_a_folder_above_may_be_a_symbolic_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    location = tmp_path / "link" / "state"
    assert state_in(location) == location / "tested"
    assert (tmp_path / "disk" / "state" / "tested").is_dir()
