"""
What the server does for each command of a request. To add a command is to add a file, and its entry here.
"""

from __future__ import annotations

from ...protocol.codes import Command
from .connect import connect
from .resolve import resolve

COMMANDS = {Command.CONNECT: connect, Command.RESOLVE: resolve, Command.RESOLVE_PTR: resolve}
"""
By command, a coroutine function of the connection and the request. It ends the
conversation by a method of the connection; what it raises becomes the reply.
"""
