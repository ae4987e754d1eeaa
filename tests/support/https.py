"""A web server with TLS."""

import contextlib
import ssl
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from support.targets import PATIENCE


@contextlib.contextmanager
def https_files(folder, pem):
    """A web server with TLS for the files of a folder. Yields its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Tests read what they need from the client."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as web:
        web.socket = context.wrap_socket(web.socket, server_side=True)
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield web.server_port
        finally:
            web.shutdown()
            thread.join(PATIENCE)
