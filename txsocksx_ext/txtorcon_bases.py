"""
txtorcon's exceptions as base classes of ours, in programs that import txtorcon.

Importing `txtorcon.socks` installs Twisted's default reactor, so our modules must not
import it for every program. Handlers of txtorcon's exceptions have to catch ours all
the same, and ``except`` considers only the real bases of a class: `__subclasshook__`
and `__instancecheck__` do not help. So the bases are added to the existing classes
when the program has imported `txtorcon.socks`, whether before or after us.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_MODULE = "txtorcon.socks"

_bases: dict[type[Exception], tuple[tuple[type, ...], str]] = {}
"""The classes, each with its bases of ours and the name of the one in `txtorcon.socks`."""
_linked: ModuleType | None = None
"""The module whose exceptions are bases now."""


class TxtorconRelated(Exception):
    """
    A base for exceptions: Python adds bases only to a class that does not derive from `Exception` directly.

    :param txtorcon: for a subclass, the name of its base in `txtorcon.socks`, if it has one.
    """

    def __init_subclass__(cls, txtorcon: str | None = None) -> None:
        super().__init_subclass__()
        if txtorcon is not None:
            _bases[cls] = cls.__bases__, txtorcon

    def __new__(cls, *arguments: object, **keywords: object) -> Any:
        # For programs whose import system does not ask the finder below.
        _link()
        # Without arguments, which `OSError`, a base of some subclasses, would read as an error number.
        made: Any = super().__new__(cls)
        made.args = arguments
        return made


def link_to_txtorcon() -> None:
    """Add exceptions of `txtorcon.socks` to the bases of ours, now or when it is imported."""
    _link()
    sys.meta_path.insert(0, _Finder())


def _link() -> None:
    module = sys.modules.get(_MODULE)
    if module is not None and module is not _linked:
        _add_bases(module)


def _add_bases(module: ModuleType) -> None:
    global _linked
    theirs: list[Any] = [getattr(module, name, None) for _, name in _bases.values()]
    # A module that is still being imported, or a stub for tests, does not have the classes.
    if all(isinstance(base, type) and issubclass(base, Exception) for base in theirs):
        _linked = module
        for (cls, (ours, _)), base in zip(_bases.items(), theirs, strict=True):
            cls.__bases__ = (*ours, base)


class _Finder(MetaPathFinder):
    """Finds `txtorcon.socks` as Python does, but with a loader that adds the bases."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads `txtorcon.socks` by Python's own loader."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        # The module looks as if it had been imported without us.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _add_bases(module)
