"""
``--status``: a page for people, metrics, checks for balancers, and the open sessions, by HTTP.
"""

from __future__ import annotations

import heapq
import json
import re
import socket
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.http import FORBIDDEN, INTERNAL_SERVER_ERROR, NOT_ALLOWED, NOT_FOUND, OK, SERVICE_UNAVAILABLE
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from .. import __version__
from .listeners import listener_endpoint
from .metrics import CONTENT_TYPE, metrics_text
from .stats import Kind
from .status import StatusSource

SESSIONS_ON_PAGE = 200
"""The page shows only so many sessions, those with the most bytes."""

WARNINGS_KEPT = 20

_PAGE = Path(__file__).with_name("status.html").read_bytes()


def _hash_of(element: bytes) -> str:
    """Return the source of an inline element for a Content-Security-Policy."""
    found = re.search(rb"<%b>(.*?)</%b>" % (element, element), _PAGE, re.DOTALL)
    assert found is not None
    return f"'sha256-{b64encode(sha256(found[1]).digest()).decode()}'"


_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; connect-src 'self'; script-src {_hash_of(b'script')};"
    f" style-src {_hash_of(b'style')}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_log = Logger(namespace="txsocksx_ext.server")


class StatusPage(MultiService):
    """
    The service of ``--status``.

    :param source: the server.
    :param description: a Twisted server endpoint string.
    """

    def __init__(self, reactor: Any, source: StatusSource, description: str) -> None:
        super().__init__()
        self._warnings = Warnings()
        site = _Site(StatusResource(source, self._warnings))
        listener_endpoint(reactor, description).service(site, reactor).setServiceParent(self)

    def startService(self) -> None:
        """Collect warnings, and listen."""
        globalLogPublisher.addObserver(self._warnings)
        super().startService()

    def stopService(self) -> Deferred[Any]:
        """Stop listening."""
        globalLogPublisher.removeObserver(self._warnings)
        stopped: Deferred[Any] = super().stopService()
        return stopped


class _Site(Site):
    noisy = displayTracebacks = False

    def log(self, request: Any) -> None:
        """Do not log the request: a balancer sends one each second."""


@implementer(ILogObserver)
class Warnings:
    """The last warnings and errors of this package in the log."""

    def __init__(self) -> None:
        # By text, the oldest first: programs that fail do so again and again.
        self._kept: dict[str, dict[str, Any]] = {}

    def __call__(self, event: LogEvent) -> None:
        """See `ILogObserver`."""
        is_ours = str(event.get("log_namespace")).startswith("txsocksx_ext.")
        if is_ours and event.get("log_level", LogLevel.info) >= LogLevel.warn:
            # A traceback is for the log.
            text = formatEvent(event).partition("\n")[0]
            count = self._kept.pop(text, {"count": 0})["count"]
            self._kept[text] = {"time": event["log_time"], "text": text, "count": count + 1}
            if len(self._kept) > WARNINGS_KEPT:
                del self._kept[next(iter(self._kept))]

    def newest_first(self) -> list[dict[str, Any]]:
        """Return each text once, with its last time and how often it came."""
        return list(reversed(self._kept.values()))


class Refused(Exception):
    """
    A request is refused.

    :param code: the status code.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StatusResource(Resource):
    """All pages."""

    isLeaf = True

    def __init__(self, source: StatusSource, warnings: Warnings) -> None:
        super().__init__()
        self._source = source
        self._warnings = warnings
        self._started = time.time()

    def render(self, request: Any) -> int:
        """Answer a request. See `twisted.web.resource.IResource`."""
        for name, value in _HEADERS.items():
            request.setHeader(name.encode(), value.encode())
        Deferred.fromCoroutine(self._answer(request)).addErrback(self._failed, request)
        return NOT_DONE_YET

    def _failed(self, failure: Failure, request: Any) -> None:
        _log.failure("the status page failed", failure)
        self._send(request, b"text/plain", b"it failed: see the log\n", INTERNAL_SERVER_ERROR)

    async def _answer(self, request: Any) -> None:
        try:
            _check_host(request)
            answer: tuple[Any, ...]
            path = tuple(each.decode("utf-8", "surrogateescape") for each in request.postpath)
            if len(path) == 3 and (path[0], path[2]) in self._ENDS:
                answer = await self._end(request, self._ENDS[path[0], path[2]], path[1])
            elif len(path) == 1 and path[0] in self._PAGES:
                if request.method not in (b"GET", b"HEAD"):
                    raise Refused(NOT_ALLOWED, "only GET")
                answer = await self._PAGES[path[0]](self)
            else:
                raise Refused(NOT_FOUND, "no such page")
        except Refused as refused:
            answer = b"text/plain", f"{refused}\n".encode(), refused.code
        self._send(request, *answer)

    def _send(self, request: Any, content_type: bytes, body: bytes, code: int = OK) -> None:
        if request.channel is None:  # the client has left
            return
        request.setResponseCode(code)
        request.setHeader(b"content-type", content_type)
        request.setHeader(b"content-length", b"%d" % len(body))
        request.write(body)
        request.finish()

    async def _page(self) -> tuple[bytes, bytes]:
        return b"text/html; charset=utf-8", _PAGE

    async def _metrics(self) -> tuple[bytes, bytes]:
        status = await self._source.status(0)
        return CONTENT_TYPE, metrics_text(status, self._source, self._started).encode()

    async def _health(self) -> tuple[bytes, bytes]:
        return b"text/plain", b"ok\n"

    async def _readiness(self) -> tuple[bytes, bytes, int]:
        if self._source.is_stopping:
            return b"text/plain", b"stopping\n", SERVICE_UNAVAILABLE
        return b"text/plain", b"ready\n", OK

    async def _sessions(self) -> tuple[bytes, bytes]:
        return _json((await self._source.status(None)).sessions)

    async def _status(self) -> tuple[bytes, bytes]:
        source = self._source
        status = await source.status(SESSIONS_ON_PAGE)
        counters = status.counters
        most = heapq.nlargest(SESSIONS_ON_PAGE, status.sessions, key=lambda each: each["up"] + each["down"])
        return _json(
            {
                "version": __version__,
                "seconds": time.time() - self._started,
                "stopping": source.is_stopping,
                "targets": source.shows_targets,
                "reloads": vars(source.reloads),
                "unheard": status.unheard,
                "process": status.process,
                "now": counters.now,
                "refused": counters.refused,
                "kinds": [{**Kind(*kind)._asdict(), **asdict(totals)} for kind, totals in counters.kinds.items()],
                "parts": [part._asdict() for part in status.parts],
                "warnings": self._warnings.newest_first(),
                "sessions": most,
            }
        )

    async def _end(self, request: Any, key: str, value: str) -> tuple[bytes, bytes]:
        if request.method != b"POST":
            raise Refused(NOT_ALLOWED, "only POST")
        origin, host = request.getHeader(b"origin"), request.getHeader(b"host") or b""
        if request.getHeader(b"x-socks5ext") != b"1" or origin not in (None, b"http://" + host, b"https://" + host):
            # A page of another origin cannot set the header without asking first, and is not told that it may.
            raise Refused(FORBIDDEN, "send X-Socks5ext: 1, and no Origin but this page's")
        ended = await self._source.end_sessions(key, value)
        if not ended:
            raise Refused(NOT_FOUND, "no such session")
        return _json({"ended": ended})

    _PAGES: Mapping[str, Callable[[Any], Awaitable[Any]]] = {
        "": _page,
        "metrics": _metrics,
        "healthz": _health,
        "readyz": _readiness,
        "sessions": _sessions,
        "status": _status,
    }
    _ENDS: Mapping[tuple[str, str], str] = {("sessions", "end"): "id", ("users", "end"): "user"}


def _check_host(request: Any) -> None:
    """
    Refuse a web page that reaches this server under a name of its own (DNS rebinding).

    :raises Refused: ``Host`` is neither an address nor a name of this machine.
    """
    given = (request.getHeader(b"host") or b"localhost").decode("latin-1")
    try:
        name = urlsplit(f"//{given}").hostname or ""
        if name not in ("localhost", socket.gethostname().lower()):
            ip_address(name)
    except ValueError:
        raise Refused(FORBIDDEN, "use an address, localhost or this machine's own name as the host") from None


def _json(content: object) -> tuple[bytes, bytes]:
    return b"application/json", json.dumps(content).encode()
