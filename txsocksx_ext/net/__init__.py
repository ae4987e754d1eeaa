"""
Plain sockets inside any Twisted reactor: an epoll poller, connecting, accepting, and the relays.
"""
