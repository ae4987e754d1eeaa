"""
The key/value pairs of proposal 229, section 2.1: limits, known keys, name spaces.

Upper case without a dot is the proposal's name space; ours and others' names
are ``space.name`` in lower case. A leading ``?`` on the key in a request marks
"ignore if unknown". Keys compare byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Container, ItemsView, Iterable, Iterator, KeysView, Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..checks import checked_pair

USERNAME = "USERNAME"
PASSWD = "PASSWD"
ERROR = "ERROR"
"""In a failing response: a short ASCII text that says what was wrong."""
TOR_ERRORS = "tor.errors"
"""Which table of reply codes the client wants: ``229``, ``304`` or ``none``."""
TOR_ISOLATION = "tor.isolation"
"""Streams with different values never share a circuit."""
IP_FAMILY = "ip.family"
"""``ipv4-preferred``, ``ipv6-preferred``, ``ipv4-only`` or ``ipv6-only``: the addresses of a name to connect to."""
TRANSPORT_ARGUMENT = "pt."
"""``pt.<argument>`` is one argument of a pluggable transport."""

SERVER_KEYS = frozenset({USERNAME, PASSWD, TOR_ERRORS})
"""The keys that any server knows, whatever its routes."""

OPTIONAL_MARK = "?"

MAX_FIELD_LENGTH = 0xFFFF
"""The longest key or value, and the most pairs, that the format can carry."""


def has_key_characters(text: str) -> bool:
    """
    Return whether `text` holds nothing but the characters of a key.

    The proposal says "an ASCII string, without a NUL terminator"; here those
    are the bytes 21 to 7E.
    """
    return text.isascii() and text.isprintable() and " " not in text


def is_among(key: str, keys: Container[str]) -> bool:
    """Return whether `key` is one of `keys`, in which a name that ends in a dot stands for all that begin with it."""
    if key in keys:
        return True
    space, dot, _ = key.partition(".")
    return bool(dot) and f"{space}." in keys


def check_key(key: str) -> str:
    """Return `key` if it may stand in a message, or raise `ValueError`."""
    if not key:
        raise ValueError("a key must have at least one character")
    if not has_key_characters(key):
        raise ValueError(f"the key {key!r} must be printable ASCII without spaces")
    if len(key) > MAX_FIELD_LENGTH:
        raise ValueError(f"a key of {len(key)} bytes is too long: at most {MAX_FIELD_LENGTH}")
    return key


class Pairs(Mapping[str, bytes]):
    """
    An immutable, ordered mapping of keys to values, as one message carries it.

    :param pairs: keys as str; values as bytes, or as str (sent as UTF-8, with
        ``surrogateescape``, so that any byte can be written).
    :raises ValueError: a key that may not stand in a message or stands twice,
        a value with a surrogate that stands for no byte, or a value or a number of pairs beyond what the
        format can carry.
    :raises TypeError: what is no pair, a key that is not str, or a value of another type.

    Its `repr` shows keys only: values are secrets until shown otherwise.
    """

    __slots__ = ("_values",)

    def __init__(self, pairs: Mapping[str, bytes | str] | Iterable[tuple[str, bytes | str]] = ()) -> None:
        values: dict[str, bytes] = {}
        for pair in pairs.items() if isinstance(pairs, Mapping) else pairs:
            key, value = checked_pair("pairs", pair)
            if not isinstance(key, str):
                raise TypeError(f"a key must be str, not {type(key).__name__}")
            if check_key(key) in values:
                raise ValueError(f"the key {key} stands twice")
            values[key] = _as_value(key, value)
        if len(values) > MAX_FIELD_LENGTH:
            raise ValueError(f"{len(values)} pairs are too many: at most {MAX_FIELD_LENGTH}")
        self._values = values

    @classmethod
    def checked(cls, values: dict[str, bytes]) -> Pairs:
        """Wrap a dict that was checked already, as a decoder's is, without copying it."""
        pairs = cls.__new__(cls)
        pairs._values = values
        return pairs

    def __getitem__(self, key: str) -> bytes:
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, or `default`."""
        return self._values.get(key, default)

    def keys(self) -> KeysView[str]:
        """Return the keys, in their order."""
        return self._values.keys()

    def items(self) -> ItemsView[str, bytes]:
        """Return the pairs, in their order."""
        return self._values.items()

    def renamed(self, names: Iterable[tuple[str, str]]) -> Pairs:
        """
        Return the values of some keys under other names.

        :param names: each new name, one that may stand in a message, and the key.
        """
        values = self._values
        return Pairs.checked({name: values[key] for name, key in names})

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"<Pairs {', '.join(self._values) or 'none'}>"

    def encode(self) -> bytes:
        """NR PAIRS, then KLEN KEY VLEN VALUE for each."""
        if not self._values:
            return b"\x00\x00"
        fields = [len(self._values).to_bytes(2, "big")]
        for key, value in self._values.items():
            fields += (
                len(key).to_bytes(2, "big"),
                key.encode("ascii"),
                len(value).to_bytes(2, "big"),
                value,
            )
        return b"".join(fields)


def as_bytes(what: str, value: object) -> bytes:
    """
    `value` as it is sent: bytes, or text as UTF-8 with ``surrogateescape``.

    :param what: what it is, for the message.
    :raises ValueError: it holds a surrogate that stands for no byte.
    :raises TypeError: it is neither.
    """
    if isinstance(value, str):
        try:
            return value.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            # Python's own error holds all of the value, which may be a secret, and does not say which it is.
            raise ValueError(
                f"{what}: there is a surrogate other than U+DC80 to U+DCFF, which stands for no byte"
            ) from None
    if not isinstance(value, bytes):
        raise TypeError(f"{what} must be bytes or str, not {type(value).__name__}")
    return value


def _as_value(key: str, given: object) -> bytes:
    value = as_bytes(f"the value of {key}", given)
    if len(value) > MAX_FIELD_LENGTH:
        raise ValueError(f"the value of {key} has {len(value)} bytes: at most {MAX_FIELD_LENGTH} fit")
    return value


NO_PAIRS = Pairs()


def check_limit(name: str, value: object, *, may_be_0: bool = False, is_time: bool = False) -> None:
    """
    Refuse what is no limit: anything but a number above 0, or from 0 on.

    :param is_time: whether it has to be finite; ``math.inf`` is no limit in any other.
    :raises ValueError: and names the limit.
    """
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (value > 0 or (may_be_0 and value == 0))
        and not (is_time and value == math.inf)
    ):
        return
    kind = "finite number" if is_time else "number"
    raise ValueError(f"{name} must be a {kind} {'from 0 on' if may_be_0 else 'above 0'}, not {value!r}")


@dataclass(frozen=True, slots=True)
class PairLimits:
    """
    How much a peer may send in one message of pairs before it is refused.

    The format itself allows 8 GiB; each count is checked before what it
    announces is buffered.

    :ivar pairs: the number of pairs in one message.
    :ivar key_bytes: the length of a key, in bytes.
    :ivar value_bytes: the length of a value, in bytes.
    :ivar total_bytes: the size of all pairs in one message, in bytes, including length fields.
    :raises ValueError: one of them is not above 0.
    """

    pairs: int = 64
    key_bytes: int = 255
    value_bytes: int = 16 * 1024
    total_bytes: int = 64 * 1024

    def __post_init__(self) -> None:
        """Refuse what would refuse every peer."""
        for each in fields(self):
            check_limit(each.name, getattr(self, each.name))


DEFAULT_PAIR_LIMITS = PairLimits()
