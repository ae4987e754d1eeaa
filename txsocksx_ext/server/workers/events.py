"""
Log events on their way from a worker to the one log.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.logger import LogEvent, LogLevel, eventAsJSON, eventFromJSON

_PLAIN = (str, int, float, type(None))
_IN_EVERY_EVENT = frozenset({"log_level", "log_logger", "log_source"})


def is_about_ports(event: LogEvent) -> bool:
    """Return whether an event is Twisted's line about a port: the supervising process logs that once for all."""
    return event.get("log_namespace") == "log_legacy" and not event.get("isError")


def event_to_text(event: LogEvent) -> str:
    """
    Return one line for an event.

    Twisted's own JSON takes as long as the rest of a connection's work, so it is
    kept for events that hold more than strings and numbers.
    """
    plain = {key: value for key, value in event.items() if isinstance(value, _PLAIN)}
    if event.keys() - plain.keys() - _IN_EVERY_EVENT:
        return eventAsJSON(event)
    level = event.get("log_level", LogLevel.info)
    return json.dumps({**plain, "log_level": level.name, "log_source": None})


def event_from_text(text: str) -> dict[str, Any]:
    """Return the event of a line."""
    event: dict[str, Any] = eventFromJSON(text)
    level = event.get("log_level")
    if isinstance(level, str):
        event["log_level"] = LogLevel.levelWithName(level)
    return event
