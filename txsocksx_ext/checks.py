"""
Checks of arguments where they are passed, and not where they are used for the first time.

The errors are of one line, name the argument, say what it must be, and show the
type of what was passed: never its value, which may be a secret.
"""

from __future__ import annotations

from types import NoneType
from typing import Any


def kind_of(value: object) -> str:
    """Return how errors name a value: by its type, or as the class that it is."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def check_type(name: str, value: object, *types: type) -> None:
    """
    Check that an argument is an instance of one of some types. A bool is not an int here.

    :raises TypeError: it is not: "limits must be Limits, not dict".
    """
    if not isinstance(value, types) or (value.__class__ is bool and bool not in types):
        names = ["None" if each is NoneType else each.__name__ for each in types]
        raise TypeError(f"{name} must be {' or '.join(names)}, not {kind_of(value)}")


def check_method(name: str, value: object, method: str, expected: str, hint: str = "") -> None:
    """
    Check that an argument has a method, as objects of other packages need not name the interface that they provide.

    :param expected: what it must be, for the message.
    :param hint: what to do, for the end of the message.
    :raises TypeError: it has not: "portal must be a twisted.cred portal, not object".
    """
    # A class has the methods too, but it is not meant.
    if isinstance(value, type) or not callable(getattr(value, method, None)):
        raise TypeError(f"{name} must be {expected}, not {kind_of(value)}{hint}")


def check_reactor(name: str, value: object) -> None:
    """
    Check that an argument is a reactor, or a clock of tests.

    :raises TypeError: it is neither.
    """
    check_method(name, value, "callLater", "a reactor")


def check_endpoint(name: str, value: object) -> None:
    """
    Check that an argument is a client endpoint.

    :raises TypeError: the argument is not a client endpoint; the message helps if it is an endpoint string.
    """
    hint = ": clientFromString() makes one of an endpoint string" if isinstance(value, (str, bytes)) else ""
    check_method(name, value, "connect", "a client endpoint", hint)


def check_protocol_factory(name: str, value: object) -> None:
    """
    Check that an argument builds protocols.

    :raises TypeError: it does not, but is a protocol, say.
    """
    check_method(name, value, "buildProtocol", "a protocol factory")


def check_callable(name: str, value: object) -> None:
    """
    Check that an argument can be called.

    :raises TypeError: it cannot.
    """
    if not callable(value):
        raise TypeError(f"{name} must be callable, not {kind_of(value)}")


def check_subclass(name: str, value: object, base: type) -> None:
    """
    Check that an argument is a class.

    :raises TypeError: the argument is not a class that derives from `base`.
    """
    if not isinstance(value, type) or not issubclass(value, base):
        raise TypeError(f"{name} must be a subclass of {base.__name__}, not {kind_of(value)}")


def check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    """
    Check that an argument is an integer in a range.

    :raises TypeError: it is no integer.
    :raises ValueError: it is too small or too great: "code must be from 0 to 255, not 300".
    """
    check_type(name, value, int)
    assert isinstance(value, int)
    if value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {allowed}, not {int(value)}")


def checked_pair(name: str, value: object, parts: str = "(key, value)") -> tuple[Any, Any]:
    """
    Return an item of an argument that holds pairs. Reject text of two characters, which could be unpacked too.

    :raises TypeError: the item is not a pair: "rules must hold (pattern, route), not str".
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        found = f"{len(value)} values" if isinstance(value, (tuple, list)) else kind_of(value)
        raise TypeError(f"{name} must hold {parts}, not {found}")
    first, second = value
    return first, second
