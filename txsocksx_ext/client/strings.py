"""
The client endpoint string ``socks5ext:HOST:PORT:proxy=ENDPOINT``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.interfaces import IStreamClientEndpoint

from ..descriptions import (
    client_endpoint,
    is_number,
    refuse_unknown,
    secret_from_file,
    with_joined_addresses,
    yes_or_no,
)
from ..protocol.pairs import OPTIONAL_MARK
from .endpoints import DEFAULT_TIMEOUT, SOCKS5ClientEndpoint, checked_timeout

DEFAULT_PROXY = "tcp:127.0.0.1:1080"

KEYWORDS = frozenset(
    {
        "host",
        "port",
        "proxy",
        "username",
        "password",
        "password-file",
        "timeout",
        "retries",
        "dialect",
        "tls",
        "allow-cleartext",
    }
)


def endpoint_from_arguments(
    reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]
) -> IStreamClientEndpoint:
    """
    Make an endpoint of what stands after ``socks5ext:`` in an endpoint string.

    A keyword with a dot, or with a leading ``?``, is a pair; its value is sent
    as UTF-8, and with ``surrogateescape``, so that every byte can be written.

    Method 97 is offered in any case, for its reply codes; without a user name
    and pairs so is 00.

    :param arguments: HOST and PORT, unless they come as keywords.
    :raises ValueError: something is missing, unknown or faulty: which, the message says.
    """
    refuse_unknown(keywords, KEYWORDS, "the endpoint socks5ext", _holds_secret)
    pairs = {name: value for name, value in keywords.items() if _is_pair(name)}
    settings = {name: value for name, value in keywords.items() if name not in pairs}
    host, port = _target(arguments, settings, any(map(_holds_secret, keywords)))
    methods: dict[str, Any] = {"extended": pairs}
    if "username" in settings:
        methods["login"] = (settings["username"], _password(settings))
    elif {"password", "password-file"} & set(settings):
        raise ValueError("the endpoint socks5ext takes a password only together with username=")
    elif not pairs:
        methods["anonymous"] = ()
    endpoint = SOCKS5ClientEndpoint(
        host,
        port,
        client_endpoint(reactor, settings.get("proxy", DEFAULT_PROXY)),
        methods,
        timeout=_timeout(settings),
        dialect=settings.get("dialect", "auto"),
        tls=yes_or_no("tls", settings.get("tls", "no")),
        allow_cleartext=yes_or_no("allow-cleartext", settings.get("allow-cleartext", "no")),
        reactor=reactor,
    )
    return _retried(reactor, endpoint, settings.get("retries", "0"))


def _is_pair(keyword: str) -> bool:
    return "." in keyword or keyword.startswith(OPTIONAL_MARK)


def _holds_secret(keyword: str) -> bool:
    return keyword in ("username", "password") or _is_pair(keyword)


def _target(arguments: Sequence[str], settings: Mapping[str, str], has_secrets: bool) -> tuple[str, int]:
    given = with_joined_addresses(arguments)
    host = settings["host"] if "host" in settings else given.pop(0) if given else None
    port = settings["port"] if "port" in settings else given.pop(0) if given else None
    if host is None or port is None:
        raise ValueError("the endpoint socks5ext is written socks5ext:HOST:PORT")
    if given:
        raise ValueError(
            f"the endpoint socks5ext has {len(given)} arguments after HOST:PORT: a colon inside a value is written \\:"
        )
    if not is_number(port):
        # Where the port was left out, this may be the rest of a secret, behind a colon without a backslash.
        shown = "" if has_secrets else f", not {port!r}"
        raise ValueError(f"the port of the endpoint socks5ext is a number{shown}")
    return host, int(port)


def _password(settings: Mapping[str, str]) -> str | bytes:
    if ("password" in settings) == ("password-file" in settings):
        raise ValueError("the endpoint socks5ext takes username with either password or password-file")
    if "password" in settings:
        return settings["password"]
    return secret_from_file(settings["password-file"])


def _timeout(settings: Mapping[str, str]) -> float | None:
    text = settings.get("timeout", str(DEFAULT_TIMEOUT))
    try:
        return checked_timeout(float(text))
    except ValueError:
        raise ValueError(f"the timeout of the endpoint socks5ext is seconds above 0, not {text!r}") from None


def _retried(reactor: Any, endpoint: IStreamClientEndpoint, text: str) -> IStreamClientEndpoint:
    """As often at once, where the transport says so, as after a pause."""
    if not is_number(text):
        raise ValueError(f"the retries of the endpoint socks5ext are a number, 0 or more, not {text!r}")
    retries = int(text)
    if not retries:
        return endpoint
    from .retrying import RetryingEndpoint  # loads ClientService, which most do not need

    return RetryingEndpoint(endpoint, reactor, at_once=retries, after_pause=retries)
