"""
Rules that can never match, because rules before them match all that they would.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..addresses import lies_in
from ..route.base import Route
from .rules import Condition, Rule, RuleSpec

_ANY_CLIENT = Condition()
_NO_ROUTE = Route()


def unreachable_rules(specs: Sequence[RuleSpec]) -> Iterator[tuple[RuleSpec, RuleSpec]]:
    """
    Yield each rule that can never match, with the last one of those before it that match first.

    Some are not found: those of which several rules together leave nothing.
    """
    earlier: list[tuple[Rule, RuleSpec]] = []
    for spec in specs:
        rules = spec.rules(_NO_ROUTE)
        covering = [next((by for first, by in earlier if _covers(first, rule)), None) for rule in rules]
        if covering[-1] is not None and None not in covering:
            yield spec, covering[-1]
        earlier += [(rule, spec) for rule in rules]


def _covers(first: Rule, later: Rule) -> bool:
    """Return whether a rule matches all connections that a later one would match."""
    if not _covers_clients(first.condition or _ANY_CLIENT, later.condition or _ANY_CLIENT):
        return False
    if later.ports.start < first.ports.start or later.ports.stop > first.ports.stop:
        return False
    if first.is_any or later.is_any:
        return first.is_any
    if first.network is not None:
        return later.network is not None and lies_in(later.network, first.network)
    return first.name is not None and later.name is not None and all(map(first.name.match, _samples(later.text)))


def _samples(pattern: str) -> Iterator[str]:
    """Yield names that a pattern matches, so that every other pattern that matches them matches all its names."""
    for many in ("", "\0" * 300):
        yield pattern.replace("?", "\0").replace("*", many)


def _covers_clients(first: Condition, later: Condition) -> bool:
    return (
        (not first.users or (bool(later.users) and later.users <= first.users))
        and (not first.protocols or (bool(later.protocols) and later.protocols <= first.protocols))
        and (
            not first.sources
            or (
                bool(later.sources)
                and all(any(lies_in(source, each) for each in first.sources) for source in later.sources)
            )
        )
    )
