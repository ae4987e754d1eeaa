"""
Tor: isolation, control events, and functions for programs that have a `txtorcon.Tor`.
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
