"""
The client endpoint strings ``socks5ext:HOST:PORT:proxy=PROXY``, ``httpconnect:`` and ``socks4a:``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.endpoints import quoteStringArgument
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint

from ..addresses import host_and_port
from ..descriptions import (
    is_number,
    refuse_unknown,
    secret_from_file,
    with_joined_addresses,
    write_description,
    yes_or_no,
)
from ..protocol.messages import UsernamePassword
from ..protocol.pairs import OPTIONAL_MARK, Pairs, as_bytes
from .any_proxy import endpoint_through
from .endpoints import DEFAULT_TIMEOUT, checked_timeout
from .methods import ClientMethods
from .proxies import HTTP, SOCKS4, SOCKS5, proxy_of
from .tls import creator_for_host, trust_root_of

DEFAULT_PROXY = "tcp:127.0.0.1:1080"

KINDS = {"socks5ext": SOCKS5, "httpconnect": HTTP, "socks4a": SOCKS4}
"""What the proxies of each kind of endpoint string speak."""

KEYWORDS = frozenset(
    {
        "host",
        "port",
        "proxy",
        "proxyhost",
        "proxyport",
        "username",
        "password",
        "password-file",
        "timeout",
        "retries",
        "dialect",
        "tls",
        "trustRoots",
        "allow-cleartext",
    }
)


def endpoint_from_arguments(
    kind: str, reactor: Any, arguments: Sequence[str], keywords: Mapping[str, str]
) -> IStreamClientEndpoint:
    """
    Make an endpoint of what stands after ``socks5ext:``, say, in an endpoint string.

    A keyword with a dot, or with a leading ``?``, is a pair; its value is sent
    as UTF-8, and with ``surrogateescape``, so that every byte can be written.

    SOCKS5 proxies are offered method 0x97 in any case, for its reply codes, and 0x00 if there are neither a
    user name nor pairs.

    :param kind: one of `KINDS`.
    :param arguments: HOST and PORT, unless they come as keywords.
    :raises ValueError: something is missing, unknown or faulty: which, the message says.
    """
    refuse_unknown(keywords, _known_to(kind), f"the endpoint {kind}", _holds_secret)
    pairs = {name: value for name, value in keywords.items() if _is_pair(name)}
    settings = {name: value for name, value in keywords.items() if name not in pairs}
    host, port = _target(kind, arguments, settings, any(map(_holds_secret, keywords)))
    login = _login(kind, settings)
    anonymous = login is None and not pairs
    endpoint = endpoint_through(
        proxy_of(reactor, _proxy(kind, settings), KINDS[kind]),
        host,
        port,
        ClientMethods(anonymous, login, Pairs(pairs)),
        timeout=_timeout(kind, settings),
        dialect=settings.get("dialect", "auto"),
        tls=_tls(kind, host, settings),
        allow_cleartext=yes_or_no("allow-cleartext", settings.get("allow-cleartext", "no")),
        reactor=reactor,
    )
    return _retried(kind, reactor, endpoint, settings.get("retries", "0"))


def endpoint_string(host: str, port: int, *, kind: str = "socks5ext", **keywords: object) -> str:
    """
    Return an endpoint string, with backslashes where they belong.

    :param kind: ``socks5ext``, ``httpconnect`` or ``socks4a``.
    :param keywords: those of the string, with values that are str, bytes, numbers or bools. A name may have an
        underscore instead of its dash; pairs such as ``**{"tor.isolation": token}`` may stand among them.
    :raises ValueError: a keyword is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind {kind!r} of endpoint: there are {', '.join(KINDS)}")
    named = {name if _is_pair(name) else name.replace("_", "-"): _text(value) for name, value in keywords.items()}
    refuse_unknown(named, _known_to(kind) - {"host", "port"}, f"the endpoint {kind}", _holds_secret)
    return write_description([kind, host, str(port)], named)


def _known_to(kind: str) -> frozenset[str]:
    return KEYWORDS if KINDS[kind] == SOCKS5 else KEYWORDS - {"dialect"}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _is_pair(keyword: str) -> bool:
    return "." in keyword or keyword.startswith(OPTIONAL_MARK)


def _holds_secret(keyword: str) -> bool:
    return keyword in ("username", "password") or _is_pair(keyword)


def _target(kind: str, arguments: Sequence[str], settings: Mapping[str, str], has_secrets: bool) -> tuple[str, int]:
    given = with_joined_addresses(arguments)
    host = settings["host"] if "host" in settings else given.pop(0) if given else None
    port = settings["port"] if "port" in settings else given.pop(0) if given else None
    if host is None or port is None:
        raise ValueError(f"the endpoint {kind} is written {kind}:HOST:PORT")
    if given:
        hint = "a colon inside a value is written \\:"
        cut = ":".join([settings.get("proxy", ""), *given])
        # Only the proxy is likely to have colons, but what follows it may also belong to a secret.
        if "proxy" in settings and not has_secrets and "@" not in cut:
            hint += f", as in proxy={quoteStringArgument(cut)}"
        raise ValueError(f"the endpoint {kind} has {len(given)} arguments after HOST:PORT: {hint}")
    if not is_number(port):
        # Where the port was left out, this may be the rest of a secret, behind a colon without a backslash.
        shown = "" if has_secrets else f", not {port!r}"
        raise ValueError(f"the port of the endpoint {kind} is a number{shown}")
    return host, int(port)


def _proxy(kind: str, settings: Mapping[str, str]) -> str:
    """Return where the proxy is, as `proxy_of` takes it."""
    if "proxyhost" not in settings:
        if "proxyport" in settings:
            raise ValueError(f"the endpoint {kind} takes proxyport only together with proxyhost=")
        return settings.get("proxy", DEFAULT_PROXY)
    if "proxy" in settings:
        raise ValueError(f"the endpoint {kind} takes either proxy= or proxyhost=")
    port = settings.get("proxyport", "1080")
    if not is_number(port):
        raise ValueError(f"the proxyport of the endpoint {kind} is a number, not {port!r}")
    return host_and_port(settings["proxyhost"], int(port))


def _tls(kind: str, host: str, settings: Mapping[str, str]) -> bool | IOpenSSLClientConnectionCreator:
    is_tls = yes_or_no("tls", settings.get("tls", "no"))
    if "trustRoots" not in settings:
        return is_tls
    if not is_tls:
        raise ValueError(f"the endpoint {kind} takes trustRoots only together with tls=yes")
    return creator_for_host(host, trust_root_of(settings["trustRoots"]))


def _login(kind: str, settings: Mapping[str, str]) -> UsernamePassword | None:
    passwords = {"password", "password-file"} & set(settings)
    if "username" not in settings:
        if passwords:
            raise ValueError(f"the endpoint {kind} takes a password only together with username=")
        return None
    username = as_bytes("the user name", settings["username"])
    if kind == "socks4a":
        if passwords:
            raise ValueError(f"the endpoint {kind} takes no password: SOCKS4 has none")
        return UsernamePassword(username, b"")
    if len(passwords) != 1:
        raise ValueError(f"the endpoint {kind} takes username with either password or password-file")
    password = settings.get("password") if "password" in settings else secret_from_file(settings["password-file"])
    login = UsernamePassword(username, as_bytes("the password", password))
    return login if kind != "socks5ext" else ClientMethods.of({"login": (login.username, login.password)}).login


def _timeout(kind: str, settings: Mapping[str, str]) -> float | None:
    text = settings.get("timeout", str(DEFAULT_TIMEOUT))
    try:
        return checked_timeout(float(text))
    except ValueError:
        raise ValueError(f"the timeout of the endpoint {kind} is seconds above 0, not {text!r}") from None


def _retried(kind: str, reactor: Any, endpoint: IStreamClientEndpoint, text: str) -> IStreamClientEndpoint:
    """As often at once, where the transport says so, as after a pause."""
    if not is_number(text):
        raise ValueError(f"the retries of the endpoint {kind} are a number, 0 or more, not {text!r}")
    retries = int(text)
    if not retries:
        return endpoint
    from .retrying import RetryingEndpoint  # loads ClientService, which most do not need

    return RetryingEndpoint(endpoint, reactor, at_once=retries, after_pause=retries)
