"""Peers that speak TLS and end each direction as a test wants it."""

import contextlib
import ssl
import time

from support.targets import CHUNK, read_exactly

VERSIONS = {"TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}

SUCCESS = b"\x05\x00\x00\x01" + bytes(6)
"""A reply of a proxy that connected."""


def client_context(version):
    """Of a client that speaks one version of TLS, and looks at no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def server_context(version, pem):
    """Of a server that speaks one version of TLS, with the key and the certificate in a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


class TLSPeer:
    """
    One end of a TLS connection over a blocking socket.

    :ivar ended_by: how the other end closed its direction: ``close_notify`` or ``FIN``; ``None`` before that.
    """

    def __init__(self, connected, context, is_server=False):
        self.socket = connected
        self.ended_by = None
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=is_server)
        self._do(self._tls.do_handshake)

    def sendall(self, data):
        for start in range(0, len(data), CHUNK):
            self._do(self._tls.write, data[start : start + CHUNK])

    def recv(self, size):
        """As of a socket: nothing at the end of input."""
        try:
            data = self._do(self._tls.read, size)
        except ssl.SSLZeroReturnError:
            data = b""
        except ssl.SSLEOFError:
            self.ended_by = "FIN"
            return b""
        if not data:
            self.ended_by = "close_notify"
        return data

    def send_close_notify(self):
        """Close our direction, and no more: TCP stays open."""
        with contextlib.suppress(ssl.SSLWantReadError):  # it would wait for the other end's
            self._tls.unwrap()
        self._flush()

    def _do(self, act, *arguments):
        while True:
            try:
                result = act(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                data = self.socket.recv(CHUNK)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush()
                return result

    def _flush(self):
        if self._outgoing.pending:
            self.socket.sendall(self._outgoing.read())


def serve_socks(connection):
    """Be a SOCKS5 proxy that connects everything at once; what follows is the stream."""
    count = read_exactly(connection, 2)[1]
    read_exactly(connection, count)
    connection.sendall(b"\x05\x00")
    kind = read_exactly(connection, 4)[3]
    read_exactly(connection, read_exactly(connection, 1)[0] + 2 if kind == 3 else {1: 6, 4: 18}[kind])
    connection.sendall(SUCCESS)


def tls_proxy(context, then):
    """What a `Target` does that is a proxy behind TLS: `then` has the `TLSPeer` of each stream."""

    def serve(connection):
        peer = TLSPeer(connection, context, is_server=True)
        serve_socks(peer)
        return then(peer)

    return serve


def read_slowly(connection):
    """All that comes until the peer's end, so slowly that much has to wait for it."""
    received = bytearray()
    while data := connection.recv(1 << 14):
        received += data
        time.sleep(0.002)
    return bytes(received)
