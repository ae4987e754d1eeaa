"""
Several processes that serve from the same listeners, and one that supervises them.
"""

from .supervisor import WorkersService

__all__ = ["WorkersService"]
