"""
Tor: isolation, control events, and what programs with a `txtorcon.Tor` need.
"""

from .programs import (
    SHARED,
    add_client_authorization,
    remove_client_authorization,
    resolve,
    resolve_ptr,
    stream_via,
    teach_txtorcon,
    web_agent,
)

__all__ = [
    "SHARED",
    "add_client_authorization",
    "remove_client_authorization",
    "resolve",
    "resolve_ptr",
    "stream_via",
    "teach_txtorcon",
    "web_agent",
]
