"""
SOCKS5 as bytes, messages and events: RFC 1928, RFC 1929 and Tor's proposal 229.

Nothing here imports Twisted or does I/O. A message encodes itself with
``encode()`` and is decoded by `~txsocksx_ext.protocol.reader.MessageReader`;
an `~txsocksx_ext.protocol.initiator.Initiator` (client) or a
`~txsocksx_ext.protocol.responder.Responder` (server) enforces the order of
messages.
"""
