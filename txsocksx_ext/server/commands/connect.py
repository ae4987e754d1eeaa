"""
CONNECT: reach the target, and relay between it and the client (RFC 1928, section 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import GeneralServerFailure
from ...protocol.messages import Request

if TYPE_CHECKING:
    from ..connection import SOCKS5ExtProtocol


async def connect(connection: SOCKS5ExtProtocol, request: Request) -> None:
    """
    Serve a CONNECT.

    :raises GeneralServerFailure: the port is 0.
    :raises Exception: whatever the decision or the route fails with.
    """
    if not request.destination.port:
        raise GeneralServerFailure("port 0 cannot be connected to")
    decision = await connection.decide(request)
    target: Any = await decision.route.connect(*decision.request_for_route(request), connection.session)
    connection.start_relay(target)
