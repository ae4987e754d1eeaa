"""
A dictionary that forgets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class RecentDict(OrderedDict[Key, Value]):
    """
    A dictionary of bounded size, in the order in which its keys were set last: beyond `limit`, drop the oldest.

    :param limit: the largest number of keys.
    """

    def __init__(self, limit: int, items: Iterable[tuple[Key, Value]] = ()) -> None:
        self._limit = limit
        super().__init__(items)

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._limit:
            self.popitem(last=False)
