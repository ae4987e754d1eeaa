"""
The arguments of one connection through a pluggable transport (pt-spec, section 3.5).

They travel as ``key=value;key=value`` in RFC 1929's user name and password, 510
bytes at most, or as pairs ``pt.<key>`` of method 0x97.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..checks import check_type, checked_pair
from ..errors import MissingArgument
from ..protocol.messages import UsernamePassword
from ..protocol.pairs import TRANSPORT_ARGUMENT, as_bytes
from .notation import join_pairs, split_pairs

MAX_LENGTH = 510
"""The most bytes that user name and password carry."""

NO_PASSWORD = b"\0"
"""What stands in the password when the user name had room for all."""


class Arguments(Mapping[str, str]):
    """
    Keys and values in their order, as they were given.

    As a mapping it has the first value of each key. Bytes that are not UTF-8
    stand in it as surrogate escapes. Its `repr` shows keys only.

    :param arguments: a mapping, or pairs of key and value.
    :raises TypeError: what is no pair, or a key or a value that is not str.
    :ivar pairs: all of them (a tuple of tuples of str), where a key stands several times too.
    """

    __slots__ = ("_first", "pairs")

    def __init__(self, arguments: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self.pairs = _pairs_of(arguments)
        self._first = dict(reversed(self.pairs))

    def __getitem__(self, key: str) -> str:
        """Return the first value of `key`; without one, `MissingArgument`."""
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
    Write arguments as one text, with a backslash before what has a meaning there.

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

    :raises ValueError: it is longer than the two can carry, or holds what they cannot.
    """
    data = as_bytes("the arguments", text)
    if not data:
        return None
    if NO_PASSWORD in data:
        raise ValueError("the arguments hold a NUL, which RFC 1929 keeps for a password that is none")
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
    Return the arguments that a user name and a password hold.

    :raises ValueError: they hold none as they should be.
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
