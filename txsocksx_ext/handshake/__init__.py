"""
The conversation of extended SOCKS5, for both ends: who may say what, next.

Nothing here knows of Twisted or does any input or output.
"""

from .conversation import OutOfTurn, State
from .initiator import Initiator
from .responder import Responder

__all__ = ["Initiator", "OutOfTurn", "Responder", "State"]
