"""The relays, and what makes a server use the slow one."""

RELAYS = ["epoll", "producers"]
"""The relays by their names: for plain sockets either can be had."""

WITHOUT_FAST_RELAY = "from txsocksx_ext import SOCKS5ExtFactory; SOCKS5ExtFactory.fast_relay = False"
