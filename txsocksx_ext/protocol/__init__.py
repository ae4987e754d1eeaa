"""
SOCKS5 as bytes, messages and states: RFC 1928, RFC 1929 and Tor's proposal 229.

Nothing here imports Twisted or does I/O. `~txsocksx_ext.protocol.messages` has
the messages and their encoding, `~txsocksx_ext.protocol.decoding` a decoder for
each, and `~txsocksx_ext.protocol.socks5` both ends of the conversation.
"""
