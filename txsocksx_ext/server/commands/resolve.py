"""
RESOLVE and RESOLVE_PTR: look a name or an address up (Tor's SOCKS extensions).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import AddressTypeNotSupported, CommandNotSupported
from ...protocol import codes
from ...protocol.codes import Command
from ...protocol.messages import Address, Request

if TYPE_CHECKING:
    from ..connection import SOCKS5ExtProtocol


async def resolve(connection: SOCKS5ExtProtocol, request: Request) -> None:
    """
    Serve a look-up.

    :raises AddressTypeNotSupported: RESOLVE_PTR of a name.
    :raises CommandNotSupported: the route cannot look anything up.
    :raises Exception: whatever the decision or the route fails with.
    """
    if request.command == Command.RESOLVE_PTR and request.destination.is_name:
        raise AddressTypeNotSupported()
    decision = await connection.decide(request)
    route_resolve = getattr(decision.route, "resolve", None)
    if route_resolve is None:  # a foreign route may have connect() only
        raise CommandNotSupported()
    found: Any = await route_resolve(*decision.request_for_route(request), connection.session)
    if not isinstance(found, Address):
        raise TypeError(f"resolve() must lead to an Address, not {type(found).__name__}")
    connection.reply_and_close(codes.SUCCEEDED, found, "resolved")
