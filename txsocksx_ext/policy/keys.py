"""
Which of a client's keys mean something to a server.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ..errors import InvalidArguments
from ..protocol.pairs import OPTIONAL_MARK, SERVER_KEYS, is_among


class KeySet(NamedTuple):
    """
    The keys of one message that mean something.

    :ivar kept: those keys, without the marks of optional ones, and as they stand in the message.
    :ivar required: those that the route must honour: all but the optional ones
        and those for the server itself.
    """

    kept: tuple[tuple[str, str], ...]
    required: frozenset[str]


CACHED_KEYS = 8
"""Messages with so many keys at most are cached, because clients repeat the same few. Many would take memory."""


def classify_keys(keys: tuple[str, ...], known: frozenset[str], own: frozenset[str]) -> KeySet:
    """
    Match the keys of a message against the known keys.

    :param keys: those of the message, in its order.
    :param known: those of the server and its routes; a name that ends in a dot
        stands for all that begin with it.
    :param own: those that the server's `authenticate` understands, besides the
        server's own.
    :raises InvalidArguments: another key is unknown, or a key stands twice.
    """
    return (_cached if len(keys) <= CACHED_KEYS else _classify)(keys, known, own)


def _classify(keys: tuple[str, ...], known: frozenset[str], own: frozenset[str]) -> KeySet:
    kept: dict[str, str] = {}
    required: list[str] = []
    for key in keys:
        is_servers = key in SERVER_KEYS
        name = key if is_servers else key.removeprefix(OPTIONAL_MARK)
        if name in own or is_among(name, known):
            if name in kept:
                raise InvalidArguments(f"the key {name} stands twice")
            kept[name] = key
            if not is_servers and name == key and name not in own:
                required.append(name)
        elif name == key:
            raise InvalidArguments(f"unknown key: {key}")
    return KeySet(tuple(kept.items()), frozenset(required))


_cached = lru_cache(maxsize=256)(_classify)
