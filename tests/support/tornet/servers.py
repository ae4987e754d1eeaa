"""What onion services and exits lead to: an echo server, a web server, and the names that exits resolve."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESSES = {"echo.test": "127.0.0.1", "web.test": "127.0.0.1"}
"""The names that the exits' resolver knows; all others do not exist."""

SILENT_NAME = "silent.test"
"""A name about which the resolver never answers."""

POINTERS = {"192.0.2.1": "echo.test"}
"""The addresses that have a name. An exit refuses to ask about private ones, as 127.0.0.1 is."""

_A, _PTR = 1, 12


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                self.request.sendall(data)


class _Page(BaseHTTPRequestHandler):
    """``/bytes/1000`` has a body of 1000 bytes; any other path a line that tells path and host."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/bytes/"):
            body = b"x" * int(self.path.rpartition("/")[2])
        else:
            body = f"the page {self.path} of {self.headers.get('Host')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()


class _EchoServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128


class _WebServer(ThreadingHTTPServer):
    request_queue_size = 128


class _Resolver(socketserver.BaseRequestHandler):
    """Just enough of DNS for the exits of one network."""

    def handle(self) -> None:
        query, answering_socket = self.request
        labels, position = [], 12
        while (length := query[position]) != 0:
            labels.append(query[position + 1 : position + 1 + length].decode("ascii", "replace"))
            position += 1 + length
        question = query[12 : position + 5]
        kind = int.from_bytes(query[position + 1 : position + 3], "big")
        # Exits ask in a random mixture of upper and lower case.
        name = ".".join(labels).lower()
        if name == SILENT_NAME:
            return
        data = b""
        if kind == _A and name in ADDRESSES:
            data = socket.inet_aton(ADDRESSES[name])
        elif kind == _PTR:
            pointer = POINTERS.get(".".join(reversed(labels[:4])))
            data = _encoded_name(pointer) if pointer else b""
        exists = data or name in ADDRESSES
        flags = 0x8180 if exists else 0x8183
        answer = query[:2] + flags.to_bytes(2, "big") + bytes([0, 1, 0, 1 if data else 0, 0, 0, 0, 0]) + question
        if data:
            seconds = 60
            answer += b"\xc0\x0c" + question[-4:] + seconds.to_bytes(4, "big") + len(data).to_bytes(2, "big") + data
        answering_socket.sendto(answer, self.client_address)


def _encoded_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


class Servers:
    """All of them, each in threads of its own; ``echo_port``, ``web_port``, ``dns_port`` on 127.0.0.1."""

    def __init__(self) -> None:
        self._servers: list[socketserver.BaseServer] = []
        self.echo_port = self._start(_EchoServer(("127.0.0.1", 0), _Echo))
        self.web_port = self._start(_WebServer(("127.0.0.1", 0), _Page))
        self.dns_port = self._start(socketserver.UDPServer(("127.0.0.1", 0), _Resolver))

    def _start(self, server: socketserver.TCPServer) -> int:
        self._servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return int(server.server_address[1])

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()
