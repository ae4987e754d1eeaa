"""
The arguments of one connection through a pluggable transport (pt-spec, section 3.5).

They are sent as ``key=value;key=value`` in RFC 1929's user name and password, at
most 510 bytes, or as pairs ``pt.<key>`` of method 0x97.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..checks import check_type, checked_pair
from ..errors import MissingArgument
from ..protocol.messages import UsernamePassword
from ..protocol.pairs import TRANSPORT_ARGUMENT, as_bytes
from .notation import join_pairs, split_pairs

MAX_LENGTH = 510
"""The most bytes in a user name and a password together."""

NO_PASSWORD = b"\0"
"""The password if the user name holds all of the arguments."""


class Arguments(Mapping[str, str]):
    """
    Keys and values in the order in which they were given.

    The mapping has the first value of each key. Bytes that are not UTF-8 are
    surrogate escapes. The `repr` shows keys only.

    :param arguments: a mapping, or pairs of key and value.
    :raises TypeError: an item is not a pair, or a key or value is not str.
    :ivar pairs: all pairs (a tuple of tuples of str); a key may be repeated.
    """

    __slots__ = ("_first", "pairs")

    def __init__(self, arguments: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self.pairs = _pairs_of(arguments)
        self._first = dict(reversed(self.pairs))

    def __getitem__(self, key: str) -> str:
        """
        Return the first value of `key`.

        :raises MissingArgument: there is none.
        """
        if key not in self._first:
            raise MissingArgument(f"the transport needs the argument {key}=")
        return self._first[key]

    def __iter__(self) -> Iterator[str]:
        return iter(dict(self.pairs))

    def __len__(self) -> int:
        return len(self._first)

    def __eq__(self, other: object) -> bool:
        return self.pairs == other.pairs if isinstance(other, Arguments) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.pairs)

    def __repr__(self) -> str:
        return f"<Arguments {', '.join(self) or 'none'}>"


def _pairs_of(arguments: Mapping[str, str] | Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    if isinstance(arguments, Arguments):
        return arguments.pairs
    pairs = tuple(arguments.items() if isinstance(arguments, Mapping) else arguments)
    for pair in pairs:
        key, value = checked_pair("arguments", pair)
        check_type("the key of an argument", key, str)
        check_type(f"the value of the argument {key}", value, str)
    return pairs


def encode_arguments(arguments: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """
    Write arguments as one text, with a backslash before special characters.

    :raises ValueError: a key is empty.
    """
    return join_pairs(_pairs_of(arguments), ";")


def parse_arguments(text: str) -> Arguments:
    """
    Read arguments, with the escapes of tor and with those of the specification.

    The first ``=`` without a backslash ends the key.

    :raises ValueError: the text is not ``key=value;key=value``.
    """
    return Arguments(split_pairs(text, ";", escapable="\\;="))


def to_credentials(text: str) -> UsernamePassword | None:
    """
    Return the text as a user name and a password; ``None`` for an empty one, which needs no method 0x02.

    :raises ValueError: the text is too long, or holds a character that RFC 1929 cannot carry.
    """
    data = as_bytes("the arguments", text)
    if not data:
        return None
    if NO_PASSWORD in data:
        raise ValueError("the arguments hold a NUL, which stands for an empty password in RFC 1929")
    if len(data) > MAX_LENGTH:
        raise ValueError(
            f"the arguments have {len(data)} bytes, and RFC 1929 carries {MAX_LENGTH}:"
            " only method 0x97 has no such limit"
        )
    if len(data) <= 255:
        return UsernamePassword(data, NO_PASSWORD)
    return UsernamePassword(data[:255], data[255:])


def from_credentials(credentials: UsernamePassword) -> Arguments:
    """
    Return the arguments in a user name and a password.

    :raises ValueError: they are malformed.
    """
    if not credentials.username or not credentials.password:
        raise ValueError("the user name or the password is empty")
    data = credentials.username
    if credentials.password != NO_PASSWORD:
        data += credentials.password
    return parse_arguments(data.decode("utf-8", "surrogateescape"))


def from_pairs(pairs: Mapping[str, bytes]) -> Arguments:
    """
    Return the arguments among the pairs of method 0x97.

    :raises ValueError: one has no name.
    """
    arguments = [
        (key.removeprefix(TRANSPORT_ARGUMENT), value.decode("utf-8", "surrogateescape"))
        for key, value in pairs.items()
        if key.startswith(TRANSPORT_ARGUMENT)
    ]
    if not all(key for key, _ in arguments):
        raise ValueError(f"the key {TRANSPORT_ARGUMENT} names no argument")
    return Arguments(arguments)
