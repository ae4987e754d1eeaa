"""
``--workers``: several processes that serve the same listeners, and their supervisor.
"""

from .supervisor import WorkersService

__all__ = ["WorkersService"]
