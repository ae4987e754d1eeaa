"""
Why a stream to an onion service failed, from tor's reply and its control events.

Tor replies 0x04 both for a service that does not exist and for one that cannot
be reached, and a port with ExtendedErrors keeps the 0xF0 of the first directory
whatever follows. The events tell the cases apart: which directories were asked
for the descriptor, what they answered, and how the stream ended.
"""

from __future__ import annotations

from ..errors import (
    OnionAddressInvalid,
    OnionClientAuthRequired,
    OnionDescriptorNotFound,
    OnionIntroductionFailed,
    OnionRendezvousFailed,
    OnionServiceNotReachable,
    ReplyError,
)
from ..failures import reply_error
from ..protocol.codes import DESCRIPTOR_NOT_FOUND, Dialect
from .tracker import Fetch, StreamEnd


def classify_failure(end: StreamEnd, said: ReplyError) -> ReplyError:
    """
    Return the exception for an onion service that was not reached.

    It says that the service does not exist only if every directory that was asked
    said so, and that it cannot be reached only if it was found. Events do not tell
    a wrong client key from a missing one.

    :param said: the exception for tor's reply.
    :returns: `said` if the events say no more. Any other exception keeps tor's
        plain code, for clients that understand no extended ones.
    """
    if end.is_remote:
        # A port with ExtendedErrors reports the first directory's answer, and not the service's.
        if said.reply_code.dialect is Dialect.TOR:
            said = reply_error(end.plain_code, Dialect.TOR)
        said.relay_reason = end.reason
        return said
    fetch = end.fetch
    error: ReplyError | None = None
    if end.reason == "TORPROTOCOL":
        error = OnionAddressInvalid()
    elif end.reason == "RESOLVEFAILED":
        error = _of_unresolved(fetch)
    elif end.reason == "MISC" and fetch.received:
        error = OnionClientAuthRequired()
    elif end.reason in ("TIMEOUT", "CANT_ATTACH"):
        error = of_timeout(fetch)
    if said.reply_code is DESCRIPTOR_NOT_FOUND:
        said = reply_error(end.plain_code, Dialect.TOR)
    if error is None or (type(error) is OnionServiceNotReachable and said.reply_code.dialect is Dialect.TOR):
        return said
    return error.with_plain_code(said.reply_code.plain)


def _of_unresolved(fetch: Fetch) -> ReplyError | None:
    """Return the exception for a name that was not resolved; ``None`` if there is no evidence."""
    if fetch.received:
        return OnionIntroductionFailed()
    if fetch.is_not_found:
        return OnionDescriptorNotFound()
    return OnionServiceNotReachable() if fetch.is_found else None


def of_timeout(fetch: Fetch | None) -> ReplyError | None:
    """Return the exception for a service that has not answered in time; ``None`` if it may not exist."""
    if fetch is None or not fetch.is_found:
        return None
    # Directories were asked and lack the descriptor: it was known before, and is not any more.
    return OnionServiceNotReachable() if fetch.answers and not fetch.received else OnionRendezvousFailed()
