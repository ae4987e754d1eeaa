"""
Plain sockets, served by a poller of their own inside whatever reactor runs.
"""
