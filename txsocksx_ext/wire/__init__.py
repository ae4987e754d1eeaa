"""
Bytes and messages: RFC 1928, RFC 1929 and Tor's proposal 229.

Nothing here knows of Twisted, of sockets or of a conversation: a message is
encoded by its own ``encode()``, and decoded by a `~txsocksx_ext.wire.reader.MessageReader`.
"""
