"""
Which of a client's keys mean something to a server.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ..errors import InvalidArguments
from ..protocol.pairs import OPTIONAL_MARK, SERVER_KEYS
from ..route.base import is_among


class Meaning(NamedTuple):
    """
    What the keys of one message mean.

    :ivar kept: the keys that mean something, without the marks of optional ones,
        and as they stand in the message.
    :ivar required: those that the route must honour: all but the optional ones,
        and those that are the server's own business.
    """

    kept: tuple[tuple[str, str], ...]
    required: frozenset[str]


FEW = 8
"""Keys of a message whose meaning is kept, since clients say the same few again and again. Many would take memory."""


def meaning_of(keys: tuple[str, ...], known: frozenset[str], own: frozenset[str]) -> Meaning:
    """
    Hold the keys of a message against those that mean something.

    :param keys: those of the message, in its order.
    :param known: those of the server and its routes; a name that ends in a dot
        stands for all that begin with it.
    :param own: those that the server's `authenticate` understands, besides its
        own business.
    :raises InvalidArguments: another key is unknown, or a key stands twice.
    """
    return (_kept_meaning if len(keys) <= FEW else _meaning)(keys, known, own)


def _meaning(keys: tuple[str, ...], known: frozenset[str], own: frozenset[str]) -> Meaning:
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
    return Meaning(tuple(kept.items()), frozenset(required))


_kept_meaning = lru_cache(maxsize=256)(_meaning)
