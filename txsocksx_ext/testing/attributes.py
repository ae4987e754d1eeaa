"""
Attributes of fakes that tests set: checked when they are set, so that a typing error fails there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from twisted.internet.interfaces import IAddress

from ..checks import check_reactor, kind_of

Check = Callable[[str, Any], object]
"""Given the attribute's name and its new value, raises `TypeError` or `ValueError`."""


class CheckedAttributes:
    """
    A fake whose attributes are checked when they are set.

    Subclasses of tests may have attributes of their own; the fakes themselves take no unknown ones.
    """

    checks: ClassVar[Mapping[str, Check]] = {}
    """The attributes, with their checks. A class that defines them takes no others."""

    def __setattr__(self, name: str, value: object) -> None:
        check = self.checks.get(name)
        if check is not None:
            check(name, value)
        elif "checks" in vars(type(self)) and not hasattr(self, name):
            text = f"{type(self).__name__} has no attribute {name!r}; it has {', '.join(sorted(self.checks))}"
            raise AttributeError(text, name=name, obj=self)
        super().__setattr__(name, value)


def anything(name: str, value: object) -> None:
    """Allow any value: the attribute is the fake's own."""


def optional(check: Check) -> Check:
    """Allow ``None`` as well."""
    return lambda name, value: None if value is None else check(name, value)


def check_clock(name: str, value: object) -> None:
    """Allow clocks, and ``None`` for the global reactor."""
    if value is not None:
        check_reactor(name, value)


def check_address(name: str, value: object) -> None:
    """Allow addresses of Twisted's, or of others that say so."""
    if not IAddress.providedBy(value):
        raise TypeError(f"{name} must provide IAddress, not {kind_of(value)}")


def check_failure(name: str, value: object) -> None:
    """Allow exceptions, and ``None``."""
    if value is not None and not isinstance(value, BaseException):
        raise TypeError(f"{name} must be an exception or None, not {kind_of(value)}")


def check_keys(name: str, value: object) -> None:
    """Allow sets of str."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name} must be a set of str, not {kind_of(value)}")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"{name} must be a set of str, not of {kind_of(key)}")
