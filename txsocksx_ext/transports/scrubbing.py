"""
Texts without the addresses in them: what a log may have.
"""

from __future__ import annotations

import ipaddress
import re

SCRUBBED = "[scrubbed]"
"""What stands where an address was, as in tor's own log."""

_IPV4 = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?::[0-9]{1,5})?(?!\w)")
_IPV6 = re.compile(
    r"\[(?P<bracketed>[0-9A-Fa-f:.]{2,})(?:%\w+)?\](?::[0-9]{1,5})?"
    r"|(?<![\w:.])(?P<bare>[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*[0-9A-Fa-f:])(?:%\w+)?"
)


def scrub(text: str) -> str:
    """`text` without the IP addresses in it, and without the ports that stand with them."""
    return _IPV4.sub(SCRUBBED, _IPV6.sub(_scrub_ipv6, text))


def _scrub_ipv6(match: re.Match[str]) -> str:
    """Replace what looks like an IPv6 address, unless it is something else, such as a time."""
    text = match["bracketed"] or match["bare"]
    # A colon of the sentence's may stand behind it.
    for host in (text, text[:-1]):
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            continue
        return SCRUBBED + text[len(host) :]
    return match[0]
