"""
The configuration of a server: the options of the command line and of a file, checked, and what they mean.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from twisted.cred.strcred import InvalidAuthType, makeChecker
from twisted.internet.endpoints import serverFromString

from .addresses import LOOPBACK_NETWORKS
from .descriptions import check_kind, without_function, write_description
from .options import BY_NAME, DEFAULT_LISTENER, OPTIONS, REMOVED_USERS, strings
from .policy.rules import RuleSpec
from .policy.table import table_from_specs
from .policy.unreachable import unreachable_rules
from .protocol.pairs import MAX_FIELD_LENGTH, PairLimits
from .server import Limits
from .server.auth import portal_for
from .server.frontends import PROTOCOLS
from .server.listeners import ListenerString
from .server.settings import ServerSettings
from .server.start_failures import reason_of
from .server.workers.sockets import SHAREABLE_KINDS, can_share_sockets

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_CONDITIONS = {"to": "to", "from": "sources", "user": "users", "protocol": "protocols"}
"""The keys of a ``[[rule]]`` besides ``route``, with the fields of `RuleSpec`."""

_RATES = ("user-rate-up", "user-rate-down", "connection-rate-up", "connection-rate-down")

_POSITIONAL = ("name", "proxy", "endpoint")
"""The keys of a route's table that are arguments without a name in the route's description."""


class ConfigurationError(ValueError):
    """
    A configuration is wrong.

    :ivar faults: one line for each fault.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = [" ".join(each.split()) for each in faults]
        more = f" (and {len(faults) - 1} more: --check shows all)" if len(faults) > 1 else ""
        super().__init__(self.faults[0] + more)


class Configuration:
    """
    What a server shall run.

    :param given: the values of the options on the command line, by name.
    :raises ConfigurationError: something is wrong with them or with the file.
    :ivar settings: the settings of each process.
    :ivar listeners: Twisted server endpoint strings.
    :ivar workers: the number of processes.
    :ivar drain: seconds.
    :ivar drain_delay: seconds.
    :ivar status: the endpoint string of the status page, or ``None``.
    :ivar ends_removed_users: whether a reload ends the streams of users who cannot log in any more.
    :ivar warnings: what is probably not meant, one line each.
    """

    def __init__(self, reactor: Any, given: Mapping[str, Any]) -> None:
        self._reactor = reactor
        self._given = given
        self._faults: list[str] = []
        self._path: str = given.get("config", "")
        self._in_file = dict(self._read_file()) if self._path else {}
        values = {**{each.name: each.default for each in OPTIONS}, **self._in_file, **given}
        self._values = values
        self.workers: int = values["workers"]
        self.drain: float = values["drain"]
        self.drain_delay: float = values["drain-delay"]
        self.status: str | None = values["status"]
        self.ends_removed_users: bool = values["reload-ends"] == REMOVED_USERS
        self.listeners: list[str] = values["listen"] or [DEFAULT_LISTENER]
        auth = tuple(values["auth"] or ())
        self.settings = ServerSettings(
            auth=auth,
            anonymous=values["anonymous"] or not auth,
            rules=tuple(values["route"] or ()),
            limits=self._limits(),
            log_targets=values["log-targets"],
            protocols=tuple(values["protocol"] or PROTOCOLS),
            balancers=tuple(values["proxy-protocol-from"] or map(str, LOOPBACK_NETWORKS)),
        )
        self.warnings: list[str] = []
        self._check_numbers()
        for check, items in ((self._check_listener, self.listeners), (self._check_auth, auth)):
            for each in items:
                self._collect(check, each)
        if self.status is not None:
            self._collect(self._check_listener, self.status, "status")
        for rule in self.settings.rules:
            self._collect(self._check_rule, rule)
        if self._faults:
            raise ConfigurationError(self._faults)
        self._add_warnings()

    def _collect(self, check: Callable[..., None], *arguments: Any) -> None:
        try:
            check(*arguments)
        except ValueError as error:
            self._faults.append(str(error))

    def _label(self, name: str) -> str:
        """Return how errors name an option: as it was written."""
        return f"{self._path}: {name}" if name in self._in_file and name not in self._given else f"--{name}"

    # The file.

    def _read_file(self) -> Iterator[tuple[str, Any]]:
        """Yield the options of the file with their values, and note the faults."""
        try:
            content = tomllib.loads(Path(self._path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError([f"--config: {reason_of(error)}"]) from None
        except ValueError as error:  # of TOML or of UTF-8
            raise ConfigurationError([f"{self._path}: this is not TOML: {error}"]) from None
        rules = content.pop("rule", None)
        if rules is not None and "route" in content:
            self._faults.append(f"{self._path}: route and [[rule]] have no order: write all as [[rule]]")
        for key, value in content.items():
            option = BY_NAME.get(key)
            if option is None or not option.in_file:
                known = ["rule", *(each.name for each in OPTIONS if each.in_file)]
                self._faults.append(f"{self._path}: {_unknown_key(key, known)}")
                continue
            try:
                yield key, option.from_file(f"{self._path}: {key}", value)
            except ValueError as error:
                self._faults.append(str(error))
        if rules is not None:
            yield "route", list(self._read_rules(rules))

    def _read_rules(self, rules: object) -> Iterator[RuleSpec]:
        if not isinstance(rules, list):
            self._faults.append(f"{self._path}: rule is written [[rule]], with two brackets")
            return
        for number, table in enumerate(rules, start=1):
            try:
                yield _rule_of(f"{self._path}: rule {number}", table)
            except ValueError as error:
                self._faults.append(str(error))

    # Checks.

    def _check_numbers(self) -> None:
        if self._values["max-pairs"] > MAX_FIELD_LENGTH:
            self._faults.append(
                f"{self._label('max-pairs')} is at most {MAX_FIELD_LENGTH}: the format has no place for more"
            )
        if self._values["anonymous"] and not self.settings.auth:
            self._faults.append(
                f"{self._label('anonymous')} has no meaning without auth, because everybody is let in; add --auth"
            )
        if self.workers > 1 and not can_share_sockets():
            self._faults.append(
                f"{self._label('workers')}: this system does not spread connections over processes; Linux does"
            )

    def _check_listener(self, description: str, option: str = "listen") -> None:
        label = f"{self._label(option)} {description}"
        try:
            check_kind(description)
            serverFromString(self._reactor, description)
            listener = ListenerString(description)
            is_exposed = listener.is_exposed
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            reason = "systemd passed no such socket" if isinstance(error, LookupError) else without_function(error)
            raise ValueError(
                f"{label} is no server endpoint string: {reason}; an example is tcp:1080:interface=127.0.0.1"
            ) from None
        except Exception as error:  # of a file that the string names, or of a plugin
            raise ValueError(f"{label} cannot be opened: {reason_of(error)}") from None
        try:
            listener.check()
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None
        port = listener.port
        if port is not None and not 0 <= port <= 0xFFFF:
            raise ValueError(f"{label}: there is no port {port}, but 0 to 65535")
        if option == "status":
            if listener.is_reachable and not self._values["allow-remote"]:
                raise ValueError(
                    f"{label}: others could read it and end sessions. Listen on loopback or a unix socket,"
                    " or say --allow-remote if you must"
                )
            return
        if is_exposed and not self._values["allow-remote"]:
            raise ValueError(
                f"{label}: others could read what clients send there. Listen on loopback, a unix socket or TLS,"
                " or say --allow-remote if you must"
            )
        if self.workers > 1 and listener.kind not in SHAREABLE_KINDS:
            raise ValueError(
                f"{label}: several workers cannot share a listener of the kind {listener.kind}, only"
                f" {', '.join(SHAREABLE_KINDS)}, and these behind haproxy; take that one or --workers 1"
            )

    def _check_auth(self, description: str) -> None:
        # What follows the kind may be a password.
        kind, _, path = description.partition(":")
        try:
            lines = Path(path).read_bytes().splitlines() if kind in ("file", "hashed") and path else None
            portal_for([makeChecker(description)])
        except InvalidAuthType:
            raise ValueError(f"{self._label('auth')} {kind}: unknown kind; --help-auth shows all") from None
        except Exception as error:  # checkers raise what they like
            raise ValueError(f"{self._label('auth')} {kind}: {reason_of(error)}") from None
        if lines is not None and not any(line.strip() and not line.startswith(b"#") for line in lines):
            self.warnings.append(f"{path} has no user: nobody can log in with it")

    def _check_rule(self, rule: RuleSpec) -> None:
        try:
            table_from_specs(self._reactor, [rule])
        except ValueError as error:
            raise ValueError(f"{self._label('route')}: {error}") from None

    # What is probably not meant.

    def _add_warnings(self) -> None:
        settings = self.settings
        reachable = [_shown_listener(each) for each in self.listeners if ListenerString(each).is_reachable]
        if reachable and not settings.auth:
            self.warnings.append(
                f"everybody who reaches {', '.join(reachable)} can use this server: add --auth, or listen on loopback"
            )
        if self._values["proxy-protocol-from"] and not any(ListenerString(each).is_wrapped for each in self.listeners):
            self.warnings.append(f"{self._label('proxy-protocol-from')} is for haproxy: listeners, and there is none")
        for name in ("max-per-user", *(each for each in _RATES if each.startswith("user"))):
            if self._values[name] and not settings.auth:
                self.warnings.append(
                    f"{self._label(name)} believes every client's user name, because there is no --auth"
                )
        for rule, earlier in unreachable_rules(settings.rules):
            self.warnings.append(f"the rule for {rule} can never match: the one for {earlier} stands before it")
        for rule in settings.rules:
            if rule.users and not settings.auth:
                self.warnings.append(f"the rule for {rule} believes every client, because there is no --auth")
            if rule.protocols and not set(rule.protocols) & set(settings.protocols):
                self.warnings.append(f"the rule for {rule} can never match: the protocol is not served")

    def summary(self) -> dict[str, list[str]]:
        """Return what would run, for a log or a terminal: by topic, without a password."""
        settings, limits = self.settings, self.settings.limits
        users = [each.partition(":")[0] for each in settings.auth]
        if settings.anonymous:
            users.append("everybody")
        rules = [f"{rule} -> {rule.route.partition(':')[0]}" for rule in settings.rules]
        idle = "no idle timeout" if limits.idle_timeout is None else f"{limits.idle_timeout:g} s idle"
        each = " in each worker" if self.workers > 1 else ""
        return {
            "listen": [_shown_listener(each) for each in self.listeners],
            **({} if self.status is None else {"status": [_shown_listener(self.status)]}),
            "protocols": list(settings.protocols),
            "users": users,
            "rules": [*rules, "* -> direct"],
            "limits": [
                f"{limits.handshake_timeout:g} s to handshake",
                f"{limits.connect_timeout:g} s to connect",
                idle,
                f"{limits.max_connections} connections{each}",
                f"{limits.max_per_peer} from one peer{each}",
                *([] if limits.max_per_user is None else [f"{limits.max_per_user} from one user{each}"]),
                *(f"{name} {self._values[name]} bytes a second{each}" for name in _RATES if self._values[name]),
                f"{self.workers} worker{'s' if self.workers > 1 else ''}",
            ],
        }

    def _limits(self) -> Limits:
        values = self._values
        # Without the option, each process derives its limit from its own limit of open files.
        given = {} if values["max-connections"] is None else {"max_connections": self._part_of("max-connections")}
        return Limits(
            handshake_timeout=values["handshake-timeout"],
            connect_timeout=values["connect-timeout"],
            idle_timeout=values["idle-timeout"] or None,
            keepalive=values["keepalive"] or None,
            max_per_peer=self._part_of("max-per-peer"),
            max_per_user=None if values["max-per-user"] is None else self._part_of("max-per-user"),
            **{name.replace("-", "_"): values[name] for name in _RATES},
            pairs=PairLimits(pairs=values["max-pairs"], total_bytes=values["max-auth-bytes"]),
            **given,
        )

    def _part_of(self, option: str) -> int:
        """Return each worker's part of an option, rounded up."""
        return -(-int(self._values[option]) // self.workers)


def _shown_listener(description: str) -> str:
    """Return a listener without what may be a secret."""
    kind = ListenerString(description).kind
    return description if kind in SHAREABLE_KINDS else kind


def _unknown_key(key: str, known: Sequence[str]) -> str:
    nearest = get_close_matches(key, known, 1, 0.0)
    return f"unknown key {key!r}; the nearest known one is {nearest[0]!r}"


def _rule_of(label: str, table: object) -> RuleSpec:
    """
    Read one ``[[rule]]``.

    :raises ValueError: it is malformed; the message begins with `label` and names the key.
    """
    if not isinstance(table, dict):
        raise ValueError(f"{label} is a table, written [[rule]]")
    for key in table:
        if key not in (*_CONDITIONS, "route"):
            raise ValueError(f"{label}: {_unknown_key(key, [*_CONDITIONS, 'route'])}")
    if "route" not in table:
        raise ValueError(f'{label} says no route: add route = "direct", for example')
    conditions = {
        field: tuple(strings(f"{label}: {key}", table[key])) for key, field in _CONDITIONS.items() if key in table
    }
    for key, field in _CONDITIONS.items():
        if conditions.get(field) == ():
            raise ValueError(f"{label}: {key} is an empty list: leave it out to match everything")
    for each in conditions.get("protocols", ()):
        BY_NAME["protocol"].read(f"{label}: protocol", each)
    return RuleSpec(conditions.pop("to", ()), _route_of(f"{label}: route", table["route"]), **conditions)


def _route_of(label: str, route: object) -> str:
    """Return the description of a route: a string, or a table without backslashes."""
    if not isinstance(route, dict):
        return strings(label, route, is_list=False)[0]
    keywords = dict(route)
    arguments = strings(f"{label}: kind", keywords.pop("kind", None), is_list=False)
    for key in _POSITIONAL:
        if key in keywords:
            arguments = arguments + strings(f"{label}: {key}", keywords.pop(key))
    if keywords.pop("launch", False):
        arguments = [*arguments, "launch"]
    return write_description(arguments, {key: _keyword(f"{label}: {key}", each) for key, each in keywords.items()})


def _keyword(label: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, (int, float)) else ",".join(strings(label, value))
