"""
Why a stream to an onion service failed, from tor's reply and its control events.

Tor's reply says 04 both of a service that does not exist and of one that cannot
be reached, and a port with ExtendedErrors keeps the F0 of the first directory
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

    That it does not exist is said only where every directory that was asked
    answered so, and that it cannot be reached only where it was found. That tor
    has a client key for it, so that the key is not missing but wrong, the
    events do not say.

    :param said: what tor's reply was read as.
    :returns: `said` where the events say no more. Another keeps the plain code
        that tor gave, for clients that understand no other.
    """
    if end.is_remote:
        # A port with ExtendedErrors says what the first directory said, and not what the service did.
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
    """Return the exception for a name that was not resolved; ``None`` if nothing is known."""
    if fetch.received:
        return OnionIntroductionFailed()
    if fetch.is_not_found:
        return OnionDescriptorNotFound()
    return OnionServiceNotReachable() if fetch.is_found else None


def of_timeout(fetch: Fetch | None) -> ReplyError | None:
    """Return the exception for a service that did not answer in time; ``None`` if it may not exist."""
    if fetch is None or not fetch.is_found:
        return None
    # Directories that were asked, and did not give the descriptor: it was known before, and no longer is.
    return OnionServiceNotReachable() if fetch.answers and not fetch.received else OnionRendezvousFailed()
