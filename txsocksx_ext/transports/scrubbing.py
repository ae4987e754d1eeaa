"""
Removal of IP addresses from text that is logged.
"""

from __future__ import annotations

import ipaddress
import re

SCRUBBED = "[scrubbed]"
"""The replacement of an address, as in tor's own log."""

_IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]{1,5})?(?!\w)")
_IPV6 = re.compile(
    r"\[(?P<bracketed>[0-9A-Fa-f:.]{2,})(?:%\w+)?\](?::[0-9]{1,5})?"
    r"|(?<![\w:.])(?P<bare>[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*[0-9A-Fa-f:])(?:%\w+)?"
)


def scrub(text: str) -> str:
    """Return `text` without IP addresses and their ports."""
    return _IPV4.sub(SCRUBBED, _IPV6.sub(_scrub_ipv6, text))


def _scrub_ipv6(match: re.Match[str]) -> str:
    """Replace a match if it is an IPv6 address, and not a time, say."""
    text = match["bracketed"] or match["bare"]
    # The last colon may belong to the sentence.
    for host in (text, text[:-1]):
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            continue
        return SCRUBBED + text[len(host) :]
    return match[0]
