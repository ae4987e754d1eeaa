"""
The route through tor: ``tor:ENDPOINT`` or ``tor:launch``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocolFactory, ITransport

from ..descriptions import (
    client_endpoint,
    endpoint_description,
    refuse_unknown,
    secret_from_file,
    shown_endpoint,
    yes_or_no,
)
from ..errors import ProxyUnreachable
from ..net.twisted_transports import PausedFactory
from ..protocol.messages import Address, Request
from ..protocol.pairs import TOR_ISOLATION
from ..tor.attach import attach
from ..tor.control import ControlConnection
from ..tor.instance import TorInstance, WatchedStream
from ..tor.isolation import TOKENS, IsolationTokens
from ..tor.launch import find_tor, launched_tor
from .base import Part, Route

if TYPE_CHECKING:
    from ..context import Session


class TorRoute(Route):
    """
    Reaches targets through one tor or several, and explains why an onion service failed.

    :param tors: one or more. A token stays with one tor while that can be reached.
    :param tokens: isolates the clients.
    :ivar service: while it runs, the route is attached to the control ports, and a
        tor that it launches runs.
    """

    name = "tor"
    keys = frozenset({TOR_ISOLATION})
    uses_credentials = True
    is_for_each_process = True
    is_over_tor = True

    def __init__(self, tors: Sequence[TorInstance], tokens: IsolationTokens) -> None:
        self.service = MultiService()
        self._tors = list(tors)
        self._tokens = tokens
        for tor in tors:
            if tor.control is not None:
                tor.control.setServiceParent(self.service)

    def parts(self) -> Sequence[Part]:
        """See `IRoute`."""
        return [_part_of(tor) for tor in self._tors]

    def connect(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[ITransport]:
        """See `IRoute`."""
        asking: Deferred[Any] = Deferred.fromCoroutine(self._ask(request, session, PausedFactory()))
        return asking.addCallback(lambda protocol: protocol.transport)

    def resolve(self, request: Request, addresses: Sequence[Address] | None, session: Session) -> Deferred[Address]:
        """See `IRoute`."""
        return Deferred.fromCoroutine(self._ask(request, session, None))

    async def _ask(self, request: Request, session: Session, application: IProtocolFactory | None) -> Any:
        token = self._tokens.token_for(session)
        stream = WatchedStream()
        unreachable = ProxyUnreachable()
        for tor in self._in_order_for(token):
            try:
                return await tor.ask(request, token, application, stream)
            except ProxyUnreachable as error:
                unreachable = error
            except CancelledError:
                # A timeout, whose reason the events may tell.
                reason = stream.error_of_timeout()
                if reason is None:
                    raise
                raise reason from None
        raise unreachable

    def _in_order_for(self, token: bytes | None) -> list[TorInstance]:
        """Return all tors in a token's order of preference, those that could not be reached last."""

        def place(tor: TorInstance) -> tuple[bool, bytes]:
            own = b"" if token is None else hashlib.sha256(token + tor.name.encode("utf-8")).digest()
            return tor.is_passed_over, own

        return sorted(self._tors, key=place)


def _part_of(tor: TorInstance) -> Part:
    progress = None if tor.control is None else tor.control.progress
    if tor.is_passed_over or (tor.socks is None and progress is None):
        state = "not reachable"
    elif progress is not None:
        state = "bootstrapped" if progress == 100 else f"bootstrapping ({progress} %)"
    else:
        state = "used without a control port" if tor.control is None else "no control connection"
    is_up = tor.socks is not None and not tor.is_passed_over and progress in (None, 100)
    return Part("tor", shown_endpoint(tor.name), is_up, state, None if progress is None else progress / 100)


class _LaunchedTorRoute(TorRoute):
    """The route through a launched tor, which runs once for all processes."""

    is_for_each_process = False


KEYWORDS = frozenset({"control", "control-password-file", "extended", "allow-cleartext"})
LAUNCH_KEYWORDS = frozenset({"exec", "torrc", "state"})


def from_description(reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]) -> TorRoute:
    """
    Return the route of ``tor:ENDPOINT[:ENDPOINT…][:control=ENDPOINT[,ENDPOINT…]][:extended=…][:allow-cleartext=…]``.

    Each ENDPOINT is a client endpoint string with its colons written ``\\:``, and
    control ports have the order of the SOCKS ports. Or return that of
    ``tor:launch[:exec=PROGRAM][:torrc=FILE][:state=DIR]``.
    """
    if list(arguments) == ["launch"]:
        refuse_unknown(keywords, LAUNCH_KEYWORDS, "the route tor:launch")
        _check_launch(keywords)
        launched = launched_tor(reactor, keywords.get("exec"), keywords.get("torrc"), keywords.get("state"))
        return _LaunchedTorRoute([launched], TOKENS)
    refuse_unknown(keywords, KEYWORDS, "the route tor")
    descriptions = _endpoint_descriptions(arguments)
    # The value is only checked: replies themselves show whether the port has ExtendedErrors.
    yes_or_no("extended", keywords.get("extended", "yes"))
    allow_cleartext = yes_or_no("allow-cleartext", keywords.get("allow-cleartext", "no"))
    controls = keywords["control"].split(",") if "control" in keywords else []
    if controls and len(controls) != len(descriptions):
        raise ValueError(
            f"the route tor has {len(descriptions)} SOCKS ports and {len(controls)} control ports: give one for each"
        )
    if "control-password-file" in keywords and not controls:
        raise ValueError("the route tor takes control-password-file only together with control=")
    password = secret_from_file(keywords["control-password-file"]) if "control-password-file" in keywords else None
    tors = []
    for number, description in enumerate(descriptions):
        endpoint, control = client_endpoint(reactor, description), None
        if controls:
            shown = f"tor {number + 1} at {shown_endpoint(description)}"
            control = _control(reactor, controls[number], password, number + 1, shown)
        tors.append(TorInstance(reactor, endpoint, control, description, allow_cleartext))
    return TorRoute(tors, TOKENS)


def _check_launch(keywords: Mapping[str, str]) -> None:
    """
    Check that tor can be launched.

    :raises ValueError: the program or the torrc is missing.
    """
    try:
        find_tor(keywords.get("exec"))
    except FileNotFoundError as error:
        raise ValueError(f"the route tor:launch: {error}") from None
    if "torrc" in keywords:
        try:
            open(keywords["torrc"], "rb").close()
        except OSError as error:
            raise ValueError(f"the torrc cannot be read from {keywords['torrc']}: {error.strerror}") from None


def _endpoint_descriptions(arguments: Sequence[str]) -> list[str]:
    """Return the endpoint strings in the arguments: escaped ones, or one with bare colons, or HOST and PORT."""
    if not arguments:
        raise ValueError("the route tor needs the endpoint of a SOCKS port, as in tor:tcp\\:127.0.0.1\\:9050")
    if all(":" in argument for argument in arguments):
        return list(arguments)
    return [endpoint_description(arguments)]


def _control(reactor: Any, description: str, password: bytes | None, number: int, tor: str) -> ControlConnection:
    try:
        endpoint = client_endpoint(reactor, description)
    except ValueError as error:
        # Do not quote the string, which may hold a password.
        raise ValueError(f"control=, endpoint {number} in it: {error}") from None
    shown = f"{tor} (control port {shown_endpoint(description)})"
    return ControlConnection(reactor, lambda: attach(reactor, endpoint, password), shown)
