"""Tables that are generated from the code's own tables, so that they cannot go stale."""

from __future__ import annotations

import errno
import inspect
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from importlib import import_module

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from txsocksx_ext import errors, failures
from txsocksx_ext.addresses import PROTECTED_NETWORKS
from txsocksx_ext.options import BY_NAME
from txsocksx_ext.protocol import codes
from txsocksx_ext.protocol.codes import Dialect, Method, ReplyCode, permitted_code
from txsocksx_ext.protocol.pairs import PairLimits
from txsocksx_ext.route import route_kinds
from txsocksx_ext.server import http_frontend
from txsocksx_ext.server.limits import Limits
from txsocksx_ext.server.metrics import METRICS
from txsocksx_ext.tap import Options

OF_EVERY_PROGRAM = {"help", "version"}
"""Options that twistd gives to all of its commands."""

IN_FILE = {"flag": "true, false", "number": "number", "text": "string", "list": "list of strings"}
"""What a configuration file has for each kind of option."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], widths: str = "auto") -> str:
    """A table as reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", f"   :widths: {widths}", ""]
    for row in [header, *rows]:
        for number, cell in enumerate(row):
            lines.append(f"   {'*' if number == 0 else ' '} - {cell}")
    return "\n".join(lines)


def hexadecimal(number: int) -> str:
    """Return a byte as these pages write it."""
    return f"``0x{number:02X}``"


def exception(cls: type) -> str:
    """A reference to an exception of ours."""
    return f":py:exc:`~{cls.__module__}.{cls.__name__}`"


def sentence(text: str) -> str:
    """Words of the code, as a sentence."""
    words = " ".join(text.split()).strip().rstrip(".")
    words = re.sub(r"(?<![`\w])`([^`]+)`(?!`)", r"``\1``", words)
    # What is no literal must not be read as markup.
    parts = re.split(r"(``[^`]+``)", words)
    parts[::2] = [re.sub(r"([*`|_\\])", r"\\\1", part) for part in parts[::2]]
    words = "".join(parts)
    return f"{words[:1].upper()}{words[1:]}."


def option(text: str) -> str:
    """Words of an option's help: its values and names of options as literals."""
    text = sentence(text)
    return re.sub(r"(?<![\w`-])(--[a-z-]+[a-z]|tcp:[\w:=.]*\w|socks:ENDPOINT\S*\])", r"``\1``", text)


def own_exceptions() -> list[type[errors.SOCKS5Error]]:
    """Every exception of `txsocksx_ext.errors`, in its order."""
    return [cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, errors.SOCKS5Error)]


def retry_of(cls: type[errors.SOCKS5Error]) -> str:
    """Whether to retry after an exception, and from which of Twisted's it derives."""
    of_twisted = [each for each in cls.__mro__ if each.__module__ == "twisted.internet.error"]
    nearest = [each for each in of_twisted if not any(issubclass(other, each) for other in of_twisted if other != each)]
    names = " and ".join(f"``{each.__name__}``" for each in nearest)
    return f" Retry: *{cls.retry.value}*." + (f" Also {names}." if names else "")


def sent_for(row: ReplyCode, dialect: Dialect) -> str:
    """What a server of ours sends to a client of `dialect`."""
    is_extended = dialect is not Dialect.PLAIN
    number = permitted_code(row, offered_extended=is_extended, selected=Method.EXTENDED, dialect=dialect)
    return hexadecimal(number)


def failing_replies() -> str:
    """Each exception that stands for a reply code."""
    rows = []
    for cls in own_exceptions():
        if not issubclass(cls, errors.ReplyError) or "reply_code" not in vars(cls):
            continue
        is_family = failures.reply_class(cls.reply_code.number, cls.reply_code.dialect) is not cls
        name = exception(cls) + (", the family of those below" if is_family else "")
        codes_sent = [sent_for(cls.reply_code, dialect) for dialect in Dialect]
        rows.append([name, *codes_sent, sentence(cls.message) + ("" if is_family else retry_of(cls))])
    return table(["Exception", "plain", "prop229", "tor", "What happened, and what to do"], rows, "26 8 8 8 50")


def http_answers() -> str:
    """The server's answer to an HTTP client for each failure."""
    rows = []
    for row, (status, problem) in http_frontend.ANSWERS.items():
        tokens = http_frontend.tokens_of(row).partition(" ")[2]
        cls = failures.reply_class(row.number, row.dialect)
        answer = f"{status} {http_frontend.reason_of(status, row)}"
        rows.append([exception(cls), answer, f"``{tokens}``" if tokens else "", f"``{problem}``"])
    return table(
        ["``socks5ext/…``", "Status and reason", "Further tokens", "``Proxy-Status: socks5ext; error=…``"], rows
    )


def reply_codes() -> str:
    """Each number that means something to someone, and what."""
    numbers = sorted({row.number for row in codes.REPLY_CODES})
    rows = [[hexadecimal(number), *(_meaning(number, dialect) for dialect in Dialect)] for number in numbers if number]
    return table(["REP", "plain", "prop229", "tor"], rows)


def _meaning(number: int, dialect: Dialect) -> str:
    row = codes.reply_row(number, dialect)
    if row is None:
        return exception(errors.UnknownReply)
    return f"{row.name}: {exception(failures.reply_class(number, dialect))}"


def other_failures() -> str:
    """Each exception that no reply code stands for."""
    rows = []
    for cls in own_exceptions():
        if issubclass(cls, errors.ReplyError) and "reply_code" in vars(cls):
            continue
        meaning = cls.message if "message" in vars(cls) and cls is not errors.SOCKS5Error else inspect.getdoc(cls)
        is_family = cls in (errors.SOCKS5Error, errors.ReplyError)
        text = sentence(meaning.partition("\n\n")[0]) + ("" if is_family else retry_of(cls))
        rows.append([exception(cls), text, sent_for(cls.reply_code, Dialect.PLAIN)])
    return table(["Exception", "What happened, and what to do", "Answered with"], rows, "28 56 16")


def failures_of_routes() -> str:
    """Return what a server answers to errors of Twisted and of the system."""
    rows = [[f"``{cls.__module__}.{cls.__name__}``", str(row)] for cls, row in failures._BY_CLASS.items()]
    rows += [
        [f"``{errno.errorcode[number]}`` ({os.strerror(number).lower()})", str(row)]
        for number, row in failures._BY_ERRNO.items()
    ]
    rows.append(["any other", str(codes.GENERAL_FAILURE)])
    return table(["Failure", "Answered with"], rows)


def server_options() -> str:
    """Each option of ``twistd socks5ext``, with what a configuration file has for it."""
    options = Options()
    rows = []
    for long in sorted(options.longOpt):
        name = long.rstrip("=")
        if name in OF_EVERY_PROGRAM:
            continue
        in_file, default = "", ""
        if name in BY_NAME:
            known = BY_NAME[name]
            in_file = IN_FILE[known.kind] if known.in_file else ""
            default = known.shown_default
        # The default has a column of its own.
        text = options.docs[name].partition(" [default: ")[0]
        rows.append([f"``--{long}``", in_file, default, option(text)])
    return table(["Option", "In a file", "Default", "What it does"], rows, "26 12 10 52")


def limits() -> str:
    """Each limit of a server, with its default."""
    rows = [*_limit_rows(Limits, "Limits"), *_limit_rows(PairLimits, "PairLimits")]
    return table(["Limit", "Default", "What it limits"], rows, "36 14 50")


def _limit_rows(cls: type, name: str) -> list[list[str]]:
    meanings = dict(re.findall(r"^:ivar (\w+): (.*?)(?=^:(?:ivar|raises)|\Z)", inspect.getdoc(cls), re.S | re.M))
    return [
        [f"``{name}.{each.name}``", _default(each), sentence(meanings[each.name])]
        for each in fields(cls)
        if each.name != "pairs" or cls is PairLimits
    ]


def _default(limit: Field) -> str:
    if limit.default is MISSING:
        return "by the limit of open files"
    return "none" if limit.default is None else f"{limit.default:g}"


def protected_networks() -> str:
    """The networks that only local clients reach by default."""
    return ", ".join(f"``{network}``" for network in PROTECTED_NETWORKS)


def kinds_of_route() -> str:
    """Each kind of route that ``--route`` knows."""
    rows = []
    for kind in route_kinds():
        text = inspect.getdoc(import_module(f"txsocksx_ext.route.{kind}"))
        rows.append([f"``{kind}``", " ".join(text.partition("\n\n")[0].split())])
    return table(["Kind", "What it is"], rows)


def status_metrics() -> str:
    """The metrics of the status page."""
    rows = [
        (f"``{name}``", metric.type, ", ".join(f"``{label}``" for label in metric.labels), sentence(metric.help))
        for name, metric in METRICS.items()
    ]
    return table(("Metric", "Type", "Labels", "Meaning"), rows)


def _directive(make) -> type[SphinxDirective]:
    class FromCode(SphinxDirective):
        """Puts in what `make` makes."""

        def run(self) -> list[nodes.Node]:
            return self.parse_text_to_nodes(make())

    return FromCode


def setup(app):
    """Register a directive for each table, by its function's name."""
    for make in (
        failing_replies,
        http_answers,
        reply_codes,
        other_failures,
        failures_of_routes,
        server_options,
        limits,
        status_metrics,
        protected_networks,
        kinds_of_route,
    ):
        app.add_directive(make.__name__.replace("_", "-"), _directive(make))
    return {"parallel_read_safe": True}
